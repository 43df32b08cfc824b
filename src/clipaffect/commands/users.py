"""Commands for people: before a run, beside it and after it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from clipaffect.config import load_config
from clipaffect.errors import UserError
from clipaffect.store import Store
from clipaffect.tasks import CHALLENGE, Task


def check(
    config: Path,
    measure: Annotated[bool, typer.Option(help="Estimate hours and disk (some seconds).")] = True,
) -> None:
    """Read a configuration and the data it names: what was found, will run, and will cost."""
    from clipaffect.dataset.facts import collect, first_searched, refuse_hopeless
    from clipaffect.dataset.notes import import_note
    from clipaffect.dataset.read import read_dataset
    from clipaffect.encoders.check import check_encoder
    from clipaffect.imported import check_import
    from clipaffect.launch import planned_jobs
    from clipaffect.preflight.estimate import estimate
    from clipaffect.preflight.show import show
    from clipaffect.training.learner import check_user_code

    loaded = load_config(config)
    for name, encoder in loaded.encoders.items():
        check_encoder(encoder, name)
    for recipe in loaded.training.recipes().values():
        for task in loaded.tasks().values():
            check_user_code(recipe, task, 768)  # CLIP ViT-L/14's dimension
    tasks = list(loaded.tasks().values())
    tree, labels = read_dataset(loaded.data, tasks)
    facts = collect(loaded.data, tasks, tree, labels, bool(loaded.encoders))
    test = [listed.rows for listed in tree.test.values()]
    for name, files in loaded.features.imported.items():
        found = check_import(files, list(labels.values()), test)
        facts["notes"].append(import_note(name, found))
    costs = estimate(loaded, facts, first_searched(tree), Path(loaded.paths.assets))
    show(Console(), loaded, facts, planned_jobs(config), costs if measure else [])
    refuse_hopeless(facts)


def compare(
    first: Annotated[Path, typer.Argument(help="A results folder, such as results/demo.")],
    second: Annotated[Path, typer.Argument(help="Another.")],
    out: Annotated[
        Path | None, typer.Option(help="The page; by default beside the second.")
    ] = None,
) -> None:
    """Two runs side by side: what differed, and which scores moved by more than noise."""
    from clipaffect.report.compare import read_run, write_comparison

    page = out or second / f"beside-{first.name}.html"
    Console().print(write_comparison(read_run(first), read_run(second), page))
    print(page)


def crate(results: Path) -> None:
    """Write a finished run's provenance as an RO-Crate: ro-crate-metadata.json in its folder."""
    from clipaffect.provenance import write_crate

    print(write_crate(results))


def verify(results: Path) -> None:
    """Hash a results folder again; name every file that is not as its RO-Crate says."""
    from clipaffect.provenance import verify

    found = verify(results)
    for word in ("changed", "missing", "added"):
        for name in getattr(found, word):
            print(f"{word}: {name}")
    print(f"{found.same} files are as they were")
    if not found.is_clean:
        raise typer.Exit(1)


def check_submission(
    file: Path,
    task: Annotated[str, typer.Option(help="EXPR or AU.")],
    sample: Annotated[
        Path | None, typer.Option(help="The organisers' sample file: its rows and no others.")
    ] = None,
) -> None:
    """Check a submission, anybody's, line by line; names the first wrong line."""
    from clipaffect.submission.validate import validate_submission

    found = validate_submission(file, _challenge(task), sample)
    print(f"{file}: right; {found.rows:,} rows of {found.people:,} people or videos")


def make_data(
    out: Annotated[Path, typer.Argument(help="Folder for videos/ and annotations/.")],
    rig: Annotated[Path, typer.Option(help="The head rig.")] = Path("resources/demo/head_rig.npz"),
    train_people: Annotated[int, typer.Option(min=1)] = 40,
    validation_people: Annotated[int, typer.Option(min=1)] = 24,
    seconds: Annotated[
        float, typer.Option(min=1.0, help="Length of a clip, four expressions in 7 s.")
    ] = 7.0,
    seed: int = 2024,
    processes: Annotated[int, typer.Option(min=1)] = 1,
) -> None:
    """Render a labelled data set of any size, laid out on disk as Aff-Wild2 is.

    From about 14 people in training and 8 in validation every class and unit occurs.
    """
    from clipaffect.demo.generate import generate

    generate(out, rig, train_people, validation_people, seconds, seed, processes)


def docs(root: Annotated[Path, typer.Option(help="The repository's root.")] = Path()) -> None:
    """Write the pages and the schema that are generated from the code."""
    from clipaffect.config.reference import write_generated

    for path in write_generated(root):
        print(path)


def gc(
    path: Annotated[Path, typer.Option(help="The store's folder.")] = Path("store"),
    days: Annotated[float, typer.Option(min=0, help="Keep what was used since.")] = 30.0,
    delete: Annotated[
        bool, typer.Option("--delete", help="Delete; without it, only list.")
    ] = False,
) -> None:
    """List (or delete) finished pieces that no present stage would use, and say why."""
    from clipaffect.stages import VERSIONS

    total = 0
    store = Store(path)
    for piece in store.unused(VERSIONS, days):
        print(f"{piece.path}  {piece.bytes / 1e6:.1f} MB  {piece.reason}")
        total += piece.bytes
        if delete:
            store.delete(piece.path)
    print(f"{'deleted' if delete else 'would delete'} {total / 1e6:.1f} MB")


def _challenge(name: str) -> Task:
    task = CHALLENGE.get(name.upper())
    if task is None:
        mend = " or ".join(CHALLENGE)
        raise UserError(f"the challenge has no task '{name}'", where="--task", mend=mend)
    return task
