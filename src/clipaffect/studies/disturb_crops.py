"""Stage ``limits``: score the headline heads on corrupted crops of the validation people."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch

from clipaffect.config.models import Config
from clipaffect.config.training import Training
from clipaffect.core.frame_status import KEYS
from clipaffect.core.gpu import one_device
from clipaffect.core.layout import Layout
from clipaffect.core.parquet import RowReader, read_table, write_table
from clipaffect.core.progress import Progress
from clipaffect.core.setting import Setting
from clipaffect.core.split_names import VALIDATION
from clipaffect.core.tasks import Task
from clipaffect.encoders.registry import kind_of, load_encoder
from clipaffect.evaluation.fold_data import named_counts
from clipaffect.evaluation.person_counts import NOTHING
from clipaffect.faces.crops import decode_image, read_crops
from clipaffect.features.batches import embed_crops
from clipaffect.features.build_table import folds_of
from clipaffect.studies.corruptions import DISTURBANCES, disturb
from clipaffect.studies.headline_heads import head_counts, headline_heads, spread_over_people
from clipaffect.training.data import Split, read_split

FRAMES = 24  # of each person and task, evenly spread


@dataclass(frozen=True)
class Sample:
    """Some validation frames of one fold of a task; features are in the order of ``rows``."""

    task: Task
    fold: int
    rows: pd.DataFrame
    labels: np.ndarray


def sample_frames(split: Split, task: Task, fold: int) -> Sample:
    """At most ``FRAMES`` frames of every person, evenly spread."""
    at = spread_over_people(split.rows, FRAMES)
    rows = split.rows.iloc[at].reset_index(drop=True)
    return Sample(task, fold, rows, split.labels.numpy()[at])


def find_crops(keys: pd.DataFrame, faces: list[Path]) -> list[bytes]:
    """Find the crops (n,) of some frames (video, person, frame)."""
    place = pd.Series(np.arange(len(keys)), index=pd.MultiIndex.from_frame(keys.astype(str)))
    found: list[bytes] = [b""] * len(keys)
    for shard in faces:
        known = pd.MultiIndex.from_frame(read_table(shard, KEYS).astype(str))
        at = place.reindex(known).to_numpy(float)
        own = np.flatnonzero(~np.isnan(at))
        if len(own):
            crops = read_crops(RowReader(shard).take(own, ["crop", "image"]))
            for position, crop in zip(at[own].astype(int), crops, strict=True):
                found[position] = crop
    return found


def _disturbed(crops: list[bytes], name: str) -> Iterator[bytes]:
    """Apply a corruption to crops, or return them unchanged, without compression loss."""
    for crop in crops:
        pixels = decode_image(crop)
        if pixels is None:
            yield b""
            continue
        changed = disturb(pixels, name) if name else pixels
        yield cv2.imencode(".bmp", changed[..., ::-1])[1].tobytes()


def disturb_crops(config: Config, folder: Path, faces: list[Path], assets: Path, out: Path) -> None:
    """Write ``<task>.parquet`` to ``out``: each person's counts, as ``clusters.parquet`` has them.

    ``variant`` is the disturbance, "" the crops as they are.

    Args:
        config: of the run.
        folder: ``results/<run>``, with tables and heads.
        faces: every shard.
        assets: folder of fetched assets.
        out: a folder.
    """
    torch.set_num_threads(1)
    name, tasks = config.encoder, list(config.tasks().values())
    encoder = config.encoders[name]
    samples = [
        sample_frames(read_split(table, task, VALIDATION, fold), task, fold)
        for task in tasks
        for table in [Layout(folder).table(name, task.name).folder]
        for fold in folds_of(table)
    ]
    keys = pd.concat([own.rows[KEYS].astype({"video": str, "person": str}) for own in samples])
    keys = keys.drop_duplicates(ignore_index=True)
    crops = find_crops(keys, faces)
    place = pd.Series(np.arange(len(keys)), index=pd.MultiIndex.from_frame(keys.astype(str)))
    counts: dict[str, list[pd.DataFrame]] = {task.name: [] for task in tasks}
    with (
        one_device(kind_of(encoder).IS_NETWORK) as device,
        Progress("disturbed crops", len(crops) * (1 + len(DISTURBANCES))) as bar,
    ):
        loaded = load_encoder(encoder, assets, device)
        for disturbance in ("", *DISTURBANCES):
            pictures = list(_disturbed(crops, disturbance))
            features = torch.from_numpy(embed_crops(pictures, loaded))
            bar.advance(len(crops))
            for own in samples:
                asked = pd.MultiIndex.from_frame(own.rows[KEYS].astype(str))
                at = place.reindex(asked).to_numpy(copy=True)  # torch wants to write
                counts[own.task.name] += _counts(
                    own, features[torch.from_numpy(at)], config.training, name, disturbance, folder
                )
    for task in tasks:
        if not counts[task.name]:  # no head of the headline was finished
            write_table(out / f"{task.name}.parquet", named_counts(Setting(""), NOTHING))
            continue
        parts = pd.concat(counts[task.name], ignore_index=True)
        sums = ["hits", "false_alarms", "misses", "annotated"]
        kept = [c for c in parts if c not in sums]
        # The folds of one person's frames are added up.
        whole = parts.groupby(kept, sort=False, dropna=False)[sums].sum().reset_index()
        write_table(out / f"{task.name}.parquet", whole)


def _counts(
    sample: Sample,
    features: torch.Tensor,
    settings: Training,
    encoder: str,
    disturbance: str,
    folder: Path,
) -> Iterator[pd.DataFrame]:
    groups, inputs = sample.rows["group"].to_numpy(), features.shape[1]
    for seed, head in headline_heads(folder, settings, sample.task, sample.fold, inputs):
        counted = head_counts(head, features, sample.labels, groups, sample.task)
        alpha = settings.headline_alpha
        yield named_counts(Setting("head", encoder, disturbance, alpha, seed), counted)
