"""``clipaffect rule ...``: the commands called by the workflow's rules, one for each stage.

A rule, its command, function and module share a name: rule ``embed_faces`` runs ``clipaffect rule
embed-faces``, which calls ``embed_faces`` in ``features/embed_faces.py``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipaffect.cli.options import Assets, Out, Settings, StorePath, stage_settings
from clipaffect.core.store import Store

if TYPE_CHECKING:
    from clipaffect.prediction.pipeline import Wanted

HeadWeights = Annotated[
    list[Path], typer.Option("--heads", help="The heads.safetensors file of each part of the grid.")
]

OtherTables = Annotated[
    list[Path] | None,
    typer.Option("--other", help="The rows.parquet file of an encoder to average with."),
]

rule_app = typer.Typer(no_args_is_help=True, help="Commands called by the workflow's rules.")


@rule_app.command()
def fetch_asset(name: str, out: Annotated[Path, typer.Argument()]) -> None:
    """Fetch a pinned asset into a folder."""
    from clipaffect.core.fetch_asset import fetch_asset

    fetch_asset(name, out)


@rule_app.command()
def fetch_weights(model: str, tag: str, assets: Assets) -> None:
    """Fetch the weights behind an open_clip tag and record their sha256."""
    from clipaffect.encoders.fetch_weights import fetch_weights

    fetch_weights(model, tag, assets)


@rule_app.command()
def index_dataset(settings: Settings, out: Out) -> None:
    """Find images, videos and labels, and write manifests, labels and a summary."""
    from clipaffect.config.data import Data
    from clipaffect.core.tasks import Task
    from clipaffect.dataset.index_dataset import index_dataset

    own = stage_settings(settings)
    tasks = [Task.from_json(values) for values in own.values["tasks"].values()]
    needs_images = bool(own.values["needs_images"])
    index_dataset(own.section("data", Data), tasks, out, needs_images)


@rule_app.command()
def first_page(settings: Settings, results: Path, out: Out) -> None:
    """Write the first page, on data and coverage, to read while the long jobs run."""
    from clipaffect.report.first_page import first_page

    first_page(stage_settings(settings).config, results, out)


@rule_app.command()
def extract_frames(manifest: Path, store: StorePath, out: Out) -> None:
    """Write the frame index of a shard."""
    from clipaffect.dataset.extract_frames import extract_frames

    extract_frames(manifest, Store(store), out)


@rule_app.command()
def align_faces(
    settings: Settings, manifest: Path, frames: Path, assets: Assets, store: StorePath, out: Out
) -> None:
    """Detect, track, align and crop the faces of a shard."""
    from clipaffect.config.faces import Faces
    from clipaffect.faces.align_faces import align_faces

    align_faces(
        manifest,
        frames,
        stage_settings(settings).section("faces", Faces),
        assets,
        Store(store),
        out,
    )


@rule_app.command()
def embed_faces(
    settings: Settings, manifest: Path, faces: Path, assets: Assets, store: StorePath, out: Out
) -> None:
    """Embed the crops of a shard with one encoder."""
    from clipaffect.core.cpu import take_one_core
    from clipaffect.features.embed_faces import embed_faces

    take_one_core()
    embed_faces(manifest, faces, stage_settings(settings).encoder, assets, Store(store), out)


@rule_app.command()
def embed_on_gpu(
    settings: Settings,
    faces: Annotated[list[Path], typer.Argument(help="The faces of every shard.")],
    manifest: Annotated[list[Path], typer.Option("--manifest", help="In the same order.")],
    gpus: Annotated[int, typer.Option("--gpus", help="How many processes, each with a GPU.")],
    assets: Assets,
    store: StorePath,
    out: Out,
) -> None:
    """Embed the crops of all shards with one encoder, on the GPUs of this machine."""
    from clipaffect.core.cpu import take_one_core
    from clipaffect.features.embed_on_gpu import embed_on_gpu

    take_one_core()
    encoder = stage_settings(settings).encoder
    embed_on_gpu(manifest, faces, encoder, assets, Store(store), out, gpus)


@rule_app.command()
def import_features(
    settings: Settings,
    out: Out,
    shards: Annotated[int, typer.Option(min=1)],
    labels: Annotated[list[Path], typer.Option("--labels")],
    test: Annotated[list[Path] | None, typer.Option("--test")] = None,
) -> None:
    """Convert externally computed features to the format of embeddings."""
    from clipaffect.config.features import FeatureFile
    from clipaffect.features.import_features import import_features

    files = [
        FeatureFile.model_validate(file) for file in stage_settings(settings).values["feature"]
    ]
    import_features(tuple(files), labels, test or [], shards, out)


@rule_app.command()
def join_features(parts: list[Path], out: Out) -> None:
    """Concatenate the features of several encoders for a shard."""
    from clipaffect.features.join_features import join_features

    join_features(parts, out)


@rule_app.command()
def build_table(labels: Path, embeddings: list[Path], out: Out) -> None:
    """Join labels and embeddings into a training table."""
    from clipaffect.features.build_table import build_table

    build_table(labels, embeddings, out)


@rule_app.command()
def find_copies(
    settings: Settings,
    tables: list[Path],
    out: Annotated[list[Path], typer.Option(help="A file for each table.")],
    faces: Annotated[list[Path] | None, typer.Option(help="The shards with the crops.")] = None,
) -> None:
    """Find recordings that are in two splits, by their features or crops."""
    from clipaffect.features.find_copies import find_copies

    find_copies(tables, faces or [], stage_settings(settings).values["near_copies"], out)


@rule_app.command()
def train_heads(
    settings: Settings,
    table: Path,
    part: int,
    store: StorePath,
    out: Out,
    timings: Annotated[
        Path | None, typer.Option(help="The file to write the training rate to.")
    ] = None,
) -> None:
    """Train one part of a task's head grid."""
    from clipaffect.training.train_heads import train_heads

    given = stage_settings(settings)
    training = given.training
    train_heads(table, given.task, training, part, Store(store), out, timings)


@rule_app.command()
def fit_references(
    settings: Settings, encoder: str, table: Path, assets: Assets, store: StorePath, out: Out
) -> None:
    """Fit the linear probe on an encoder's features; score CLIP zero-shot with prompts."""
    from clipaffect.config.models import Probe, ZeroShot
    from clipaffect.config.training import Recipe
    from clipaffect.evaluation.fit_references import fit_references

    given = stage_settings(settings)
    prompts, task = None, given.task
    if "encoder" in given.values:
        from clipaffect.encoders.prompts import has_text_tower, prompt_features

        entry = given.encoder
        if has_text_tower(entry):
            stated = given.section("zero_shot", ZeroShot)
            prompts = prompt_features(entry, task, stated, assets, Store(store))
    recipe = given.section("training_rows", Recipe)
    fit_references(table, task, encoder, given.section("probe", Probe), recipe, prompts, out)


@rule_app.command()
def evaluate_heads(
    settings: Settings,
    encoder: str,
    table: Path,
    out: Out,
    heads: HeadWeights,
    copies: Annotated[Path, typer.Option(help="Recordings that are in two splits.")],
    reference: Annotated[list[Path] | None, typer.Option("--reference")] = None,
) -> None:
    """Score all heads and references of a task."""
    from clipaffect.core.layout import Evaluation as Scores
    from clipaffect.core.layout import Table
    from clipaffect.evaluation.evaluate_heads import evaluate_heads
    from clipaffect.evaluation.score_provenance import write_provenance

    given = stage_settings(settings)
    training = given.training
    missing = given.evaluation.missing
    task = given.task
    folders, references = _folders(heads), reference or []
    evaluate_heads(training, missing, encoder, task, table, folders, references, copies, out)
    write_provenance(given.values, Table(table), Scores(out))


@rule_app.command()
def compare_heads(settings: Settings, encoder: str, counts: Path, out: Out) -> None:
    """Compute intervals over people, and paired tests between settings."""
    from clipaffect.evaluation.compare_heads import compare_heads

    given = stage_settings(settings)
    training = given.training
    evaluation = given.evaluation
    compare_heads(training, evaluation, encoder, given.task, counts, out)


@rule_app.command()
def measure_agreement(settings: Settings, ratings: Path, scored: Path, out: Out) -> None:
    """Measure how well raters agree with each other about the scored people."""
    from clipaffect.evaluation.measure_agreement import measure_agreement

    measure_agreement(ratings, scored, stage_settings(settings).task, out)


@rule_app.command()
def postprocess_scores(
    settings: Settings,
    encoder: str,
    table: Path,
    scored: Path,
    store: StorePath,
    out: Out,
    other: OtherTables = None,
) -> None:
    """Choose the post-processing steps on training people; score each on validation people."""
    from clipaffect.config.models import Postprocess
    from clipaffect.postprocess.postprocess_scores import postprocess_scores

    given = stage_settings(settings)
    training = given.training
    how = given.section("postprocess", Postprocess)
    evaluation = given.evaluation
    task, others = given.task, _folders(other or [])
    postprocess_scores(
        training, how, evaluation, encoder, task, table, others, scored, Store(store), out
    )


@rule_app.command()
def train_final_heads(
    settings: Settings,
    encoder: str,
    table: Path,
    store: StorePath,
    out: Out,
    other: OtherTables = None,
    choices: Annotated[
        Path | None, typer.Option(help="The chosen post-processing steps; without any: none.")
    ] = None,
) -> None:
    """Train the headline heads once more, on all people."""
    from clipaffect.training.train_final_heads import train_final_heads

    given = stage_settings(settings)
    tables = {encoder: table} | {path.parent.parent.name: path.parent for path in other or []}
    train_final_heads(tables, given.task, given.training, choices, Store(store), out)


@rule_app.command()
def write_submission(
    settings: Settings,
    encoder: str,
    test: Path,
    table: Path,
    out: Out,
    heads: HeadWeights,
    embeddings: Annotated[
        list[Path], typer.Option("--embeddings", help="Every shard of every encoder.")
    ],
    variant: Annotated[
        str, typer.Option(help="The variant to predict with; the default is the grid's own.")
    ] = "",
    alpha: Annotated[
        float | None, typer.Option(help="Of its heads; the default is the headline's.")
    ] = None,
    postprocessing: Annotated[
        Path | None, typer.Option(help="The folder of the steps to apply; without it: none.")
    ] = None,
    final: Annotated[
        Path | None, typer.Option(help="The folder of heads trained on everybody, if they predict.")
    ] = None,
) -> None:
    """Write predictions for the frames of a test list in the organisers' format."""
    from clipaffect.config.models import SubmissionEntry
    from clipaffect.features.build_table import embedding_dimension
    from clipaffect.submission.submitted_heads import submitted_heads
    from clipaffect.submission.write_submission import write_submission

    given = stage_settings(settings)
    shards: dict[str, list[Path]] = {}
    for path in embeddings:
        shards.setdefault(path.parent.name, []).append(path)
    chosen = submitted_heads(
        SubmissionEntry(variant=variant, alpha=alpha),
        encoder,
        {name: embedding_dimension(own[0]) for name, own in shards.items()},
        given.task,
        given.training,
        _folders(heads),
        postprocessing,
        final,
    )
    write_submission(given.task, chosen, given.evaluation.missing, test, shards, table, out)


@rule_app.command()
def build_report(settings: Settings, results: Path, out: Out) -> None:
    """Build the report's pages, figures and tables from a results folder."""
    from clipaffect.report.build_report import build_report

    build_report(stage_settings(settings).config, results, out)


@rule_app.command()
def show_timings(run: str, timings: Path) -> None:
    """Write a page with the time and memory that each rule's jobs took."""
    from clipaffect.report.show_timings import show_timings

    show_timings(run, timings)


@rule_app.command()
def find_videos(settings: Settings, out: Out) -> None:
    """Find the files named in the section 'prediction' and write their manifests."""
    from clipaffect.config.prediction import Prediction
    from clipaffect.prediction.find_videos import find_videos

    find_videos(stage_settings(settings).section("prediction", Prediction), out)


@rule_app.command()
def predict_shard(
    settings: Settings,
    model: Path,
    manifest: Path,
    faces: Path,
    assets: Assets,
    out: Out,
    embeddings: Annotated[list[Path], typer.Option("--embeddings", help="One file per encoder.")],
) -> None:
    """Write the prediction tables and pages of a shard's videos."""
    from clipaffect.prediction.predict_shard import predict_shard

    by_encoder = {path.parent.name: path for path in embeddings}
    predict_shard(_asked(settings, model, assets), manifest, faces, by_encoder, out)


@rule_app.command()
def list_predictions(
    settings: Settings, model: Path, files: Path, shards: list[Path], assets: Assets, out: Out
) -> None:
    """Write the summary of all shards' predictions, and the page that links to them."""
    from clipaffect.prediction.list_predictions import list_predictions

    list_predictions(_asked(settings, model, assets), files, shards, out)


@rule_app.command()
def write_study(settings: Settings, name: str, study: str, results: Path, out: Out) -> None:
    """Write a study's page: its question and answer, charts and tables."""
    from clipaffect.config.studies import Study, plan_study
    from clipaffect.studies.registry import STUDIES, page_writer

    config = stage_settings(settings).config
    planned = plan_study(config, name, Study.model_validate_json(study))
    write = page_writer(STUDIES[planned.study.answer])
    write(planned, config.run, results, out)


@rule_app.command()
def write_card(settings: Settings, name: str, results: Path, out: Out) -> None:
    """Write the page of a card."""
    from clipaffect.studies.write_card import write_card

    write_card(name, stage_settings(settings).config, results, out)


@rule_app.command()
def slice_heads(settings: Settings, study: str, results: Path, out: Out) -> None:
    """Write the card on loss slices around the heads of the sharpness study."""
    from clipaffect.config.studies import Study
    from clipaffect.studies.slice_heads import slice_heads

    slice_heads(stage_settings(settings).config, Study.model_validate_json(study), results, out)


@rule_app.command()
def disturb_crops(
    settings: Settings, results: Path, faces: list[Path], assets: Assets, out: Out
) -> None:
    """Score the headline heads on corrupted crops."""
    from clipaffect.studies.disturb_crops import disturb_crops

    disturb_crops(stage_settings(settings).config, results, faces, assets, out)


@rule_app.command()
def permute_labels(settings: Settings, table: Path, store: StorePath, out: Out) -> None:
    """Train the headline heads on labels that were permuted between people."""
    from clipaffect.studies.permute_labels import permute_labels

    given = stage_settings(settings)
    permute_labels(given.training, given.task, table, Store(store), out)


@rule_app.command()
def fine_tune(
    settings: Settings, task: str, results: Path, faces: list[Path], assets: Assets, out: Out
) -> None:
    """Fine-tune the encoder's last block with the headline heads; compare with a frozen encoder."""
    from clipaffect.studies.fine_tune import fine_tune

    config = stage_settings(settings).config
    fine_tune(config, config.tasks()[task], results, faces, assets, out)


@rule_app.command()
def list_studies(
    run: str,
    out: Out,
    answers: Annotated[list[Path] | None, typer.Argument()] = None,
    wrong: Annotated[str, typer.Option(help="Studies that cannot be run, and why (JSON).")] = "{}",
) -> None:
    """Write the page that lists the studies of a run."""
    from clipaffect.studies.list_studies import list_studies

    list_studies(run, answers or [], json.loads(wrong), out)


def _folders(files: list[Path]) -> list[Path]:
    """The parent folder of each file."""
    return [file.parent for file in files]


def _asked(settings: str, model: Path, assets: Path) -> Wanted:
    """What the section 'prediction' requests of a bundle whose features already exist."""
    from clipaffect.bundle.load import open_bundle
    from clipaffect.config.prediction import Prediction
    from clipaffect.prediction.batch import wanted_of

    asked = stage_settings(settings).section("prediction", Prediction)
    opened = open_bundle(model, with_weights=False)
    return wanted_of(
        opened,
        assets,
        people=asked.people,
        rate=asked.rate,
        heads=asked.heads,
        pictures=asked.pictures,
        landmarks=asked.landmarks,
        overlay=asked.overlay,
        groups=None if asked.groups is None else Path(asked.groups),
    )
