"""Commands that the workflow's rules call, in the order of the chain: one for each stage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from clipaffect.config.data import Data
from clipaffect.config.encoders import Encoder
from clipaffect.config.faces import Faces
from clipaffect.config.features import FeatureFile
from clipaffect.config.models import Evaluation, Postprocess, Probe, ZeroShot
from clipaffect.config.training import Training
from clipaffect.options import Assets, Out, Settings, StorePath, section, whole_config
from clipaffect.store import Store
from clipaffect.tasks import Task


def fetch_asset(name: str, out: Annotated[Path, typer.Argument()]) -> None:
    """Fetch one pinned asset into a folder."""
    from clipaffect import assets

    assets.fetch_asset(name, out)


def fetch_weights(model: str, tag: str, assets: Assets) -> None:
    """Fetch the weights that open_clip has a tag for, and record their sha256."""
    from clipaffect.encoders import hub

    hub.fetch_weights(model, tag, assets)


def index_dataset(settings: Settings, out: Out) -> None:
    """Find images, videos and labels; write manifests, labels and a summary."""
    from clipaffect.dataset.index import index_dataset

    tasks = [Task.from_json(values) for values in json.loads(settings)["tasks"].values()]
    needs_images = bool(json.loads(settings)["needs_images"])
    index_dataset(section(settings, "data", Data), tasks, out, needs_images)


def first_page(settings: Settings, results: Path, out: Out) -> None:
    """Write the page that stands while the long work runs: data and coverage."""
    from clipaffect.report.start import first_page

    first_page(whole_config(settings), results, out)


def extract_frames(manifest: Path, store: StorePath, out: Out) -> None:
    """Write the frame index of a shard."""
    from clipaffect.frames import extract_frames

    extract_frames(manifest, Store(store), out)


def align_faces(
    settings: Settings, manifest: Path, frames: Path, assets: Assets, store: StorePath, out: Out
) -> None:
    """Detect, track, align and crop the faces of a shard."""
    from clipaffect.faces.stage import align_faces

    align_faces(manifest, frames, section(settings, "faces", Faces), assets, Store(store), out)


def embed_faces(
    settings: Settings, manifest: Path, faces: Path, assets: Assets, store: StorePath, out: Out
) -> None:
    """Embed the crops of a shard with one encoder."""
    from clipaffect.embeddings.stage import embed_faces
    from clipaffect.one_core import take_one_core

    take_one_core()
    embed_faces(manifest, faces, section(settings, "encoder", Encoder), assets, Store(store), out)


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


def join_features(parts: list[Path], out: Out) -> None:
    """Put the features of several encoders for one shard side by side."""
    from clipaffect.joined import join_features

    join_features(parts, out)


def build_table(labels: Path, embeddings: list[Path], out: Out) -> None:
    """Join labels and embeddings into a training table."""
    from clipaffect.table import build_table

    build_table(labels, embeddings, out)


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


def compare_heads(settings: Settings, encoder: str, counts: Path, out: Out) -> None:
    """Intervals over people, and paired tests between settings."""
    from clipaffect.evaluation.comparisons import compare_heads

    training = section(settings, "training", Training)
    evaluation = section(settings, "evaluation", Evaluation)
    compare_heads(training, evaluation, encoder, _task(settings), counts, out)


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


def build_report(settings: Settings, results: Path, out: Out) -> None:
    """Build the report's pages, figures and tables from a results folder."""
    from clipaffect.report.build import build_report

    build_report(whole_config(settings), results, out)


def show_timings(run: str, timings: Path) -> None:
    """Write a page of what each rule's jobs took."""
    from clipaffect.report.timings import write_timings

    write_timings(run, timings)


def _task(settings: str) -> Task:
    """The task in the settings that a rule passed."""
    return Task.from_json(json.loads(settings)["task"])
