"""Commands for users: before, during and after a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from clipaffect.core.errors import UserError
from clipaffect.core.tasks import CHALLENGE, Task


def check(
    config: Path,
    measure: Annotated[bool, typer.Option(help="Estimate hours and disk (a few seconds).")] = True,
) -> None:
    """Check a configuration and its data: what was found, what will run, and what it will cost."""
    from clipaffect.core.progress import step

    with step("reading the configuration"):
        from clipaffect.config import load_config
        from clipaffect.dataset.lost_frames import lost_frames
        from clipaffect.dataset.readers.registry import read_dataset
        from clipaffect.dataset.summary import collect, first_searched, refuse_hopeless
        from clipaffect.dataset.summary_text import import_note
        from clipaffect.encoders.registry import check_encoder
        from clipaffect.features.import_features import check_import
        from clipaffect.ops.check import show
        from clipaffect.ops.estimate import estimate
        from clipaffect.ops.preview import planned_jobs
        from clipaffect.training.backends.autograd import check_user_code

        loaded = load_config(config)
        for name, encoder in loaded.encoders.items():
            check_encoder(encoder, name)
        for recipe in loaded.training.recipes().values():
            for task in loaded.tasks().values():
                check_user_code(recipe, task, 768)  # CLIP ViT-L/14's dimension
    tasks = list(loaded.tasks().values())
    with step("reading the labels"):
        tree, labels = read_dataset(loaded.data, tasks)
    facts = collect(loaded.data, tasks, tree, labels, bool(loaded.encoders))
    test = [listed.rows for listed in tree.test.values()]
    for name, files in loaded.features.imported.items():
        found = check_import(files, list(labels.values()), test)
        facts["notes"].append(import_note(name, found))
    if measure:
        facts["notes"] += [lost.note() for lost in lost_frames(tree, labels.values())]
    costs = estimate(loaded, facts, first_searched(tree), Path(loaded.paths.assets))
    with step("listing the jobs with Snakemake"):
        jobs = planned_jobs(config)
    show(Console(), loaded, facts, jobs, costs if measure else [])
    refuse_hopeless(facts)


def compare(
    first: Annotated[Path, typer.Argument(help="The first results folder, such as results/demo.")],
    second: Annotated[
        Path,
        typer.Argument(
            help="The second results folder; or, with --columns, a table of another system's "
            "predictions, or a folder of tables."
        ),
    ],
    columns: Annotated[
        Path | None,
        typer.Option(help="The file that names the table's columns: see docs/comparison.md."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The page to write; by default in the second folder.")
    ] = None,
) -> None:
    """Compare two runs, or a run with the predictions of another system.

    For two runs: which settings differ, and which scores differ by more than noise.
    """
    if columns is not None:
        from clipaffect.report.compare_peer import compare_peer

        for line in compare_peer(first, second, columns, out):
            print(line)
        return
    from clipaffect.report.compare_runs import read_run, write_comparison

    if second.is_file():
        raise UserError(
            "the table's columns are not named",
            where=second,
            fix="add --columns FILE, such as config/peers/py-feat.yaml (docs/comparison.md)",
        )
    page = out or second / f"beside-{first.name}.html"
    for line in write_comparison(read_run(first), read_run(second), page):
        print(line)
    print(page)


def crate(results: Path) -> None:
    """Write the provenance of a finished run as an RO-Crate (ro-crate-metadata.json)."""
    from clipaffect.ops.ro_crate import write_crate

    print(write_crate(results))


def verify(results: Path) -> None:
    """Check a results folder against its RO-Crate; list changed, missing and added files."""
    from clipaffect.ops.ro_crate import verify

    found = verify(results)
    for word in ("changed", "missing", "added"):
        for name in getattr(found, word):
            print(f"{word}: {name}")
    print(f"{found.same} files are unchanged")
    if not found.is_clean:
        raise typer.Exit(1)


def check_submission(
    file: Path,
    task: Annotated[str, typer.Option(help="The task: EXPR or AU.")],
    sample: Annotated[
        Path | None,
        typer.Option(help="The organisers' sample file, whose rows must match exactly."),
    ] = None,
) -> None:
    """Check any submission file line by line; report the first wrong line."""
    from clipaffect.submission.check_submission import check_submission

    found = check_submission(file, _challenge(task), sample)
    print(f"OK: {file}: {found.rows:,} rows of {found.people:,} people or videos")


def gpu_check(
    checks: Annotated[list[str] | None, typer.Argument(help="Which; by default all.")] = None,
) -> None:
    """Check and measure the GPU of this machine, in some minutes; needs no network."""
    from clipaffect.ops.gpu_check import gpu_check

    raise typer.Exit(gpu_check(checks or []))


def docs(root: Annotated[Path, typer.Option(help="The root of the repository.")] = Path()) -> None:
    """Write the pages and the schema generated from the code."""
    from clipaffect.ops.generated_docs import write_generated

    for path in write_generated(root):
        print(path)


def _challenge(name: str) -> Task:
    task = CHALLENGE.get(name.upper())
    if task is None:
        fix = " or ".join(CHALLENGE)
        raise UserError(f"unknown challenge task '{name}'", where="--task", fix=f"use {fix}")
    return task
