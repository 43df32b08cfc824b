"""The command line: one command for each stage, called by the workflow's rules.

A user's mistake prints three lines (what, where, mend) and exits with 2; nothing else does.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.panel import Panel
from rich.text import Text
from typer.core import TyperCommand

from clipaffect.config import load_config, parse_config
from clipaffect.config.data import Data
from clipaffect.config.encoders import Encoder
from clipaffect.config.faces import Faces
from clipaffect.config.features import FeatureFile
from clipaffect.config.models import Evaluation, Postprocess, Probe, ZeroShot
from clipaffect.config.training import Training
from clipaffect.dvc.commands import dvc_app
from clipaffect.errors import UserError
from clipaffect.options import Assets, Out, Settings, StorePath, section
from clipaffect.prediction.commands import (
    answer_shard,
    export,
    find_videos,
    list_answers,
    predict,
)
from clipaffect.store import Store
from clipaffect.studies.commands import study_app
from clipaffect.tasks import CHALLENGE, Task

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__
)
store_app = typer.Typer(no_args_is_help=True, help="The work store.")
app.add_typer(store_app, name="store")
app.add_typer(study_app, name="study")
app.add_typer(dvc_app, name="dvc")
for command in (export, predict, find_videos, answer_shard, list_answers):
    app.command()(command)


@app.command()
def fetch_asset(name: str, out: Annotated[Path, typer.Argument()]) -> None:
    """Fetch one pinned asset into a folder."""
    from clipaffect import assets

    assets.fetch_asset(name, out)


@app.command()
def fetch_weights(model: str, tag: str, assets: Assets) -> None:
    """Fetch the weights that open_clip has a tag for, and record their sha256."""
    from clipaffect.encoders import hub

    hub.fetch_weights(model, tag, assets)


@app.command()
def index_dataset(settings: Settings, out: Out) -> None:
    """Find images, videos and labels; write manifests, labels and a summary."""
    from clipaffect.dataset.index import index_dataset

    tasks = [Task.from_json(values) for values in json.loads(settings)["tasks"].values()]
    needs_images = bool(json.loads(settings)["needs_images"])
    index_dataset(section(settings, "data", Data), tasks, out, needs_images)


@app.command()
def extract_frames(manifest: Path, store: StorePath, out: Out) -> None:
    """Write the frame index of a shard."""
    from clipaffect.frames import extract_frames

    extract_frames(manifest, Store(store), out)


@app.command()
def align_faces(
    settings: Settings, manifest: Path, frames: Path, assets: Assets, store: StorePath, out: Out
) -> None:
    """Detect, track, align and crop the faces of a shard."""
    from clipaffect.faces.stage import align_faces

    align_faces(manifest, frames, section(settings, "faces", Faces), assets, Store(store), out)


@app.command()
def embed_faces(
    settings: Settings, manifest: Path, faces: Path, assets: Assets, store: StorePath, out: Out
) -> None:
    """Embed the crops of a shard with one encoder."""
    from clipaffect.embeddings.stage import embed_faces

    embed_faces(manifest, faces, section(settings, "encoder", Encoder), assets, Store(store), out)


@app.command()
def import_features(
    settings: Settings,
    out: Out,
    shards: Annotated[int, typer.Option(min=1)],
    labels: Annotated[list[Path], typer.Option("--labels")],
    test: Annotated[list[Path] | None, typer.Option("--test")] = None,
) -> None:
    """Bring features from elsewhere into the form of embeddings."""
    from clipaffect.imported import import_features

    files = [FeatureFile.model_validate(file) for file in json.loads(settings)["feature"]]
    import_features(tuple(files), labels, test or [], shards, out)


@app.command()
def join_features(parts: list[Path], out: Out) -> None:
    """Put the features of several encoders for one shard side by side."""
    from clipaffect.joined import join_features

    join_features(parts, out)


@app.command()
def build_table(labels: Path, embeddings: list[Path], out: Out) -> None:
    """Join labels and embeddings into a training table."""
    from clipaffect.table import build_table

    build_table(labels, embeddings, out)


@app.command()
def train_heads(
    settings: Settings,
    table: Path,
    part: int,
    store: StorePath,
    out: Out,
    timings: Annotated[Path | None, typer.Option(help="Where the reached rate goes.")] = None,
) -> None:
    """Train one part of a task's grid of heads."""
    from clipaffect.training.stage import train_heads

    training = section(settings, "training", Training)
    train_heads(table, _task(settings), training, part, Store(store), out, timings)


@app.command()
def fit_references(
    settings: Settings, encoder: str, table: Path, assets: Assets, store: StorePath, out: Out
) -> None:
    """Fit the linear probe on one encoder's features; ask CLIP by prompts."""
    from clipaffect.evaluation.stage import fit_references

    prompts, task = None, _task(settings)
    if "encoder" in json.loads(settings):
        from clipaffect.zero_shot import has_text_tower, prompt_features

        entry = section(settings, "encoder", Encoder)
        if has_text_tower(entry):
            stated = section(settings, "zero_shot", ZeroShot)
            prompts = prompt_features(entry, task, stated, assets, Store(store))
    fit_references(table, task, encoder, section(settings, "probe", Probe), prompts, out)


@app.command()
def evaluate_heads(
    settings: Settings,
    encoder: str,
    table: Path,
    out: Out,
    bundle: Annotated[list[Path], typer.Option("--bundle")],
    reference: Annotated[list[Path] | None, typer.Option("--reference")] = None,
) -> None:
    """Score every head and reference of a task."""
    from clipaffect.evaluation.source import record_source
    from clipaffect.evaluation.stage import evaluate_heads

    training = section(settings, "training", Training)
    missing = section(settings, "evaluation", Evaluation).missing
    task = _task(settings)
    evaluate_heads(training, missing, encoder, task, table, bundle, reference or [], out)
    record_source(json.loads(settings), table, out)


@app.command()
def compare_heads(settings: Settings, encoder: str, counts: Path, out: Out) -> None:
    """Intervals over people, and paired tests between settings."""
    from clipaffect.evaluation.comparisons import compare_heads

    training = section(settings, "training", Training)
    evaluation = section(settings, "evaluation", Evaluation)
    compare_heads(training, evaluation, encoder, _task(settings), counts, out)


@app.command()
def postprocess_scores(
    settings: Settings,
    encoder: str,
    table: Path,
    scored: Path,
    store: StorePath,
    out: Out,
    other: Annotated[
        list[Path] | None, typer.Option("--other", help="Table of an encoder to average with.")
    ] = None,
) -> None:
    """Choose the steps after the head on training people; score each on validation."""
    from clipaffect.postprocess.stage import postprocess_scores

    training = section(settings, "training", Training)
    how = section(settings, "postprocess", Postprocess)
    evaluation = section(settings, "evaluation", Evaluation)
    task, others = _task(settings), other or []
    postprocess_scores(
        training, how, evaluation, encoder, task, table, others, scored, Store(store), out
    )


@app.command()
def write_submission(
    settings: Settings,
    test: Path,
    table: Path,
    out: Out,
    bundle: Annotated[list[Path], typer.Option("--bundle")],
    embeddings: Annotated[list[Path], typer.Option("--embeddings")],
    variant: Annotated[str, typer.Option(help="Whose heads answer; the grid's own.")] = "",
) -> None:
    """Predict the frames of a test list in the organisers' format."""
    from clipaffect.submission.write import write_submission

    training = section(settings, "training", Training)
    missing = section(settings, "evaluation", Evaluation).missing
    write_submission(
        _task(settings), training, missing, test, embeddings, bundle, table, out, variant
    )


@app.command()
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


@app.command()
def build_report(settings: Settings, results: Path, out: Out) -> None:
    """Build the report's pages, figures and tables from a results folder."""
    from clipaffect.report.build import build_report

    build_report(parse_config(json.loads(settings)["config"], "--settings"), results, out)


@app.command()
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


@app.command()
def show_timings(run: str, timings: Path) -> None:
    """Write a page of what each rule's jobs took."""
    from clipaffect.report.timings import write_timings

    write_timings(run, timings)


@app.command()
def crate(results: Path) -> None:
    """Write a finished run's provenance as an RO-Crate: ro-crate-metadata.json in its folder."""
    from clipaffect.provenance import write_crate

    print(write_crate(results))


@app.command()
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


@app.command()
def first_page(settings: Settings, results: Path, out: Out) -> None:
    """Write the page that stands while the long work runs: data and coverage."""
    from clipaffect.report.start import first_page

    first_page(parse_config(json.loads(settings)["config"], "--settings"), results, out)


@app.command()
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


@app.command()
def docs(root: Annotated[Path, typer.Option(help="The repository's root.")] = Path()) -> None:
    """Write the pages and the schema that are generated from the code."""
    from clipaffect.config.reference import write_generated

    for path in write_generated(root):
        print(path)


@app.command()
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


@store_app.command()
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


class _Verbatim(TyperCommand):
    """A command whose words go on as they are: Snakemake wants its own ``--`` before targets."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args == ["--help"]:
            return super().parse_args(ctx, args)
        ctx.args = list(args)
        return ctx.args


@app.command(cls=_Verbatim)
def run(context: typer.Context) -> None:
    """Check the configuration and call Snakemake; free the lock of a run that was killed."""
    from clipaffect.launch import launch

    raise typer.Exit(launch(context.args))


def _task(settings: str) -> Task:
    """The task in the settings that a rule passed."""
    return Task.from_json(json.loads(settings)["task"])


def _challenge(name: str) -> Task:
    task = CHALLENGE.get(name.upper())
    if task is None:
        mend = " or ".join(CHALLENGE)
        raise UserError(f"the challenge has no task '{name}'", where="--task", mend=mend)
    return task


def main() -> None:
    """Run a command; show a user's mistake as a message."""
    try:
        try:
            app()
        except OSError as error:  # no permission, no space, a folder that is a file, ...
            raise UserError(
                error.strerror or str(error),
                where=str(error.filename or "this machine"),
                mend="check that it exists, may be read and written, and that the disk has room",
            ) from None
    except UserError as error:
        text = Text(f"{error.what}\n\nwhere: {error.where}\nmend:  {error.mend}")
        Console(stderr=True).print(Panel(text, title="cannot go on", border_style="red"))
        sys.exit(2)


if __name__ == "__main__":
    main()
