"""Estimate the cost of a run on this machine, from the data sizes and a few seconds of measurement.

Embedding is measured on a few crops through a network of the encoder's shape, training on a second
of real steps, and detection on a few frames of a real video, if the networks are available. An
estimate is accurate only to within a factor of two.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from math import ceil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch

from clipaffect.config.models import Config
from clipaffect.config.training import Recipe
from clipaffect.core.assets import MANIFEST
from clipaffect.core.cpu import take_one_core
from clipaffect.core.gpu_faults import full_float32, is_out_of_memory
from clipaffect.core.split_names import TRAIN, folds_among, in_split
from clipaffect.core.tasks import Task
from clipaffect.core.video import read_frames
from clipaffect.encoders.registry import LoadedEncoder, encoder_cost, kind_of, stand_in
from clipaffect.faces.crops import encode_crop
from clipaffect.faces.finder import FaceFinder, FaceFollower
from clipaffect.features.batches import prepare_batch
from clipaffect.features.external_files import open_features
from clipaffect.training.backends.one_head import make_learner
from clipaffect.training.backends.stacked import Stack
from clipaffect.training.build_head import build_head
from clipaffect.training.data import Split, TrainingData

CROP_BYTES = 76  # of a JPEG, for each pixel of its side: 8.5 kB at 112
ASSUMED_DETECTION = 0.01  # seconds a frame and core, where it cannot be measured
FEW_FRAMES, STEPS = 12, 12
ENOUGH = 1.0  # seconds of a network's work
BLANK = np.zeros((112, 112, 3), np.uint8)


@dataclass(frozen=True)
class Cost:
    """One line of the estimate.

    Attributes:
        work: what is done, and how often.
        hours: on one core, or on the GPU; None if it was not estimated.
        on: ``core`` or the name of the GPU.
        disk: bytes, in the results and the store together.
        note: the basis of the estimate.
    """

    work: str
    hours: float | None
    on: str
    disk: float
    note: str


def estimate(
    config: Config, facts: dict[str, Any], video: Path | None, assets: Path
) -> Iterator[Cost]:
    """Estimate the expensive stages of a run, in order.

    Args:
        config: the run.
        facts: see ``dataset.facts.collect``.
        video: one that will be decoded, if any.
        assets: folder of fetched assets.
    """
    take_one_core()
    face_seconds = None
    if facts["frames_to_decode"] and config.encoders:
        detection = _detection(config, facts, video, assets)
        face_seconds = (detection.hours or 0) * 3600 / max(1, facts["frames_to_search"])
        yield detection
    # An upper bound: how many frames a rate skips is known only from the videos' timestamps.
    crops = ceil((facts["images_used"] + facts["frames_to_search"]) / config.faces.stride)
    for name in config.encoders:
        yield _embedding(config, name, crops, facts, face_seconds)
    dimension = _dimension(config)
    for name, task in config.tasks().items():
        yield from _training(config, task, facts["tasks"][name], dimension)


def _dimension(config: Config) -> int:
    """The dimension of the features that heads are trained on."""
    parts = config.features.join.get(config.encoder, (config.encoder,))
    if parts[0] in config.encoders:
        return sum(encoder_cost(config.encoders[part]).dimension for part in parts)
    with open_features(config.features.imported[config.encoder][0]) as source:
        return source.dimension


def _detection(config: Config, facts: dict[str, Any], video: Path | None, assets: Path) -> Cost:
    frames = facts["frames_to_decode"]
    searched = ceil(frames / config.faces.stride)
    seconds, note = ASSUMED_DETECTION, "assumed: no video or no network to measure yet"
    if video is not None and (assets / "face-networks" / MANIFEST).is_file():
        found = _detection_seconds(video, config, assets)
        if found is not None:
            seconds, note = found, f"measured on {FEW_FRAMES} frames of {video.name}"
    if config.faces.rate is not None:
        note += "; ignores `faces.rate`, which skips some frames"
    crops = ceil(facts["frames_to_search"] / config.faces.stride)
    disk = 2.0 * crops * CROP_BYTES * config.faces.size
    return Cost(f"faces in {searched:,} frames", searched * seconds / 3600, "core", disk, note)


def _detection_seconds(video: Path, config: Config, assets: Path) -> float | None:
    follower = FaceFollower(FaceFinder(assets, config.faces))
    frames = read_frames(video)
    first = next(frames)
    if first.pixels is None:
        return None
    follower(first.pixels)
    started, count = time.process_time(), 0
    for frame in islice(frames, FEW_FRAMES):
        pixels = frame.pixels
        if pixels is not None:
            follower(pixels)
            count += 1
    return (time.process_time() - started) / count if count else None


def _embedding(
    config: Config, name: str, crops: int, facts: dict[str, Any], face_seconds: float | None
) -> Cost:
    encoder = config.encoders[name]
    annotated = sum(s["annotated"] for splits in facts["tasks"].values() for s in splits.values())
    disk = 2.0 * encoder_cost(encoder).dimension * (2 * crops + annotated)
    work = f"{crops:,} crops by {name}"
    on_gpu = kind_of(encoder).IS_NETWORK and torch.cuda.is_available()
    on = torch.cuda.get_device_name() if on_gpu else "core"
    try:
        # A job may be using the GPU; a check does not wait for it.
        with full_float32():
            network = stand_in(encoder, "cuda" if on_gpu else "cpu")
            prepared = _crop_seconds(network, config)
            computed = network_seconds(network, on_gpu)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return Cost(work, None, on, disk, "not measured: out of memory at the moment")
    if on_gpu:
        note = f"measured; {feeding(computed, encoder.workers, prepared, face_seconds)}"
        return Cost(work, crops * computed / 3600, on, disk, note)
    seconds = prepared + computed
    note = f"measured: {1 / seconds:,.{1 if seconds > 0.1 else 0}f} crops per second and core"
    return Cost(work, crops * seconds / 3600, on, disk, note)


def network_seconds(network: LoadedEncoder, on_gpu: bool) -> float:
    """Seconds per crop of a network, in a full batch or in as many crops as take a second."""
    clock = time.perf_counter if on_gpu else time.process_time

    def seconds(count: int) -> float:
        crops = network.gather([BLANK] * count, count)
        started = clock()
        network.embed(crops).cpu()  # a GPU has finished when its result is here
        return clock() - started

    alone = min(seconds(1) for _ in range(2))
    enough = max(1, min(network.batch, round(ENOUGH / max(alone, 1e-6))))
    count = network.batch if on_gpu else enough
    return min(seconds(count) for _ in range(2)) / count


def feeding(gpu: float, workers: int, crop: float, face: float | None) -> str:
    """What keeps one GPU busy: the decoding threads of its job, and parallel detection jobs.

    Args:
        gpu: seconds that the GPU needs for a crop.
        workers: the current number of threads (``encoders.<name>.workers``).
        crop: seconds of a core to decode and preprocess a crop.
        face: seconds of a core to detect the faces for one crop; None if crops are given.
    """
    threads = ceil(crop / gpu)
    found = f"{1 / gpu:,.0f} crops per second need {threads} decoding threads (workers: {workers})"
    if face is None:
        return found
    return f"{found} and {ceil(face / gpu)} parallel align_faces jobs"


def _crop_seconds(network: LoadedEncoder, config: Config) -> float:
    """Seconds of a core to decode and preprocess one crop."""
    side = config.faces.size
    noise = np.random.default_rng(0).integers(0, 255, (side // 8, side // 8, 3), np.uint8)
    jpeg = encode_crop(cv2.resize(noise, (side, side)))
    count = min(STEPS, network.batch)
    prepare_batch([jpeg] * count, 0, network)  # a GPU's first memory on the host takes longer
    started = time.process_time()
    prepare_batch([jpeg] * count, 0, network)
    return (time.process_time() - started) / count


def _training(config: Config, task: Task, splits: dict[str, Any], dimension: int) -> Iterator[Cost]:
    training = config.training
    folds = folds_among(splits)
    # Training rows of all folds, and the rows that are scored.
    rows = sum(
        found["annotated"] - found["without_image"] - found["beyond"]
        for fold in folds
        for name, found in splits.items()
        if in_split(name, TRAIN, fold)
    )
    validation = sum(s["annotated"] for name, s in splits.items() if folds != [0] or name != TRAIN)
    grid = training.heads()
    for variant, recipe in training.recipes().items():
        heads = sum(name == variant for name, _, _ in grid)
        scored = 4.0 * len(task.targets) * heads * validation
        work = f"{heads * len(folds)} heads for {task.name}" + (
            f", variant {variant}" if variant else ""
        )
        if recipe.has_user_code:
            yield Cost(work, None, "core", scored, "not measured: user code")
            continue
        on_gpu = training.device == "cuda"
        if on_gpu and not torch.cuda.is_available():
            yield Cost(work, None, "GPU", scored, "not measured: this machine has no GPU")
            continue
        on = torch.cuda.get_device_name() if on_gpu else "core"
        try:
            rate = (
                _stack_rate(task, recipe, dimension, heads)
                if on_gpu
                else _rate(task, recipe, dimension)
            )
        except (MemoryError, RuntimeError) as error:  # a job may be using the GPU
            if not is_out_of_memory(error):
                raise
            yield Cost(work, None, on, scored, "not measured: out of memory at the moment")
            continue
        weights = sum(p.numel() for p in _head(recipe, dimension, task).parameters())
        hours = heads * recipe.epochs * rows / rate / 3600
        unit = f"of {heads} heads together" if on_gpu else "and core"
        note = f"measured: {rate:,.0f} frames per second {unit}, {recipe.epochs} epochs"
        yield Cost(work, hours, on, scored + 8.0 * heads * len(folds) * weights, note)
        if variant:
            continue
        if config.trains_final_heads:
            count = len(training.seeds)
            frames = sum(s["annotated"] - s["without_image"] - s["beyond"] for s in splits.values())
            yield Cost(
                f"{count} final heads for {task.name}",
                count * recipe.epochs * frames / rate / 3600,
                on,
                8.0 * count * weights,
                "at the same rate, on all people (final_heads)",
            )
        if not config.postprocess.steps:
            continue
        parts = config.postprocess.folds
        others = len(config.postprocess.encoders)
        heads, whole = parts * len(training.seeds) * (1 + others), len(training.seeds) * others
        share = 1 - 1 / parts
        work = f"{heads * len(folds)} cross-fitted heads for {task.name}"
        if whole:
            work += f", {whole * len(folds)} on other encoders"
        disk = 4.0 * (heads + whole) * len(folds) * weights
        note = f"at the same rate, each on {share:.0%} of the frames (postprocess)"
        samples = (heads * share + whole) * recipe.epochs * rows
        yield Cost(work, samples / rate / 3600, on, disk, note)


def _head(recipe: Recipe, dimension: int, task: Task) -> torch.nn.Module:
    with torch.device("meta"):
        return build_head(recipe, dimension, len(task.targets), 0)


def _random_data(task: Task, dimension: int, count: int) -> TrainingData:
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.normal(size=(count, dimension)).astype(np.float16))
    high = 2 if task.multilabel else len(task.targets)
    labels = rng.integers(0, high, (count, len(task.columns))).astype(np.int8)
    if not task.multilabel:
        labels[:high, 0] = np.arange(high)
    y = torch.from_numpy(labels)
    rows = np.arange(count)
    return TrainingData(x, y, rows, rows[:0], Split(pd.DataFrame(), x[:0], y[:0]))


def _stack_rate(task: Task, recipe: Recipe, dimension: int, heads: int) -> float:
    """Frames times heads per second of a stack on the GPU, from an epoch on random features."""
    data = _random_data(task, dimension, STEPS * max(64, recipe.batch))
    levels = [(recipe, 0.5, number % 5) for number in range(heads)]
    with full_float32():
        stack = Stack(data, task, levels, "cuda")
        stack.epoch(0)  # captures the graphs
        started = time.perf_counter()
        stack.epoch(1)  # the records are on the host at its end
    return heads * len(data.rows) / (time.perf_counter() - started)


def _rate(task: Task, recipe: Recipe, dimension: int) -> float:
    """Frames per second, from real steps on random features."""
    data = _random_data(task, dimension, max(64, recipe.batch))
    x, y = data.features, data.labels
    learner = make_learner(data, task, recipe, 0.5, 0)
    at = torch.arange(recipe.batch)
    started = 0.0
    for step in range(STEPS + 3):
        if step == 3:
            started = time.process_time()
        learner.step(x[at].float(), y[at], step, recipe.learning_rate, False)
    return STEPS * recipe.batch / (time.process_time() - started)
