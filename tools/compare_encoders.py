"""Compare encoders for the demo: the table in docs/encoders.md.

    python tools/compare_encoders.py        # after `make demo`; about 12 minutes on one core

Fits linear probes on each encoder's features. Demo: fitted on the training people and scored on the
validation people, for both tasks. Transfer: the same probes on two real clips, unseen by
probes and encoders, whose unambiguous segments were labelled by eye (below).
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from sklearn.metrics import roc_auc_score

from clipaffect.config.encoders import Encoder
from clipaffect.config.faces import Faces
from clipaffect.config.models import Probe
from clipaffect.core.assets import known_assets
from clipaffect.core.fetch_asset import ensure_asset
from clipaffect.core.metrics import decide, f1_per_target
from clipaffect.core.progress import Progress
from clipaffect.core.store import Store
from clipaffect.core.tasks import AU, EXPR, Task
from clipaffect.core.video import read_frames
from clipaffect.encoders.registry import LoadedEncoder, encoder_cost, load_encoder
from clipaffect.evaluation.references import fit_probe
from clipaffect.faces.face_rows import cut_face
from clipaffect.faces.finder import FaceFinder, FaceFollower
from clipaffect.features.batches import embed_crops
from clipaffect.features.build_table import build_table
from clipaffect.features.embed_faces import embed_faces
from clipaffect.training.data import Split, read_split

RUN, ASSETS = Path("results/demo"), Path("assets")
ENCODERS = {
    "tiny CLIP": Encoder(model="clipaffect-tiny", asset="tiny-clip", activation="relu", batch=32),
    "DINOv2-S/14": Encoder(
        model="clipaffect-dinov2-s14",
        asset="dinov2-s14",
        activation="gelu",
        normalise="imagenet",
    ),
    "MobileNetV2 (ImageNet)": Encoder(
        model="clipaffect-mobilenet-v2",
        asset="mobilenet-v2",
        activation="relu",
        normalise="imagenet",
        batch=32,
    ),
    "tiny CLIP, random weights": Encoder(
        model="clipaffect-tiny", random=0, activation="relu", batch=32
    ),
    "raw pixels": Encoder(kind="pixels"),
}
# Clear stretches of the real clips (first and last frame), by eye, on a contact sheet of every
# eighth frame; what is between shows a hand before the face or a change.
EXPRESSIONS = (
    ("single_face.mp4", 1, 17, "Neutral"),
    ("single_face.mp4", 24, 72, "Happiness"),
    ("laughing.mp4", 17, 60, "Sadness"),
    ("laughing.mp4", 297, 448, "Happiness"),
)
UNITS = {  # unit: stretches where it is seen, and where it is not
    "AU4": ([("laughing.mp4", 33, 136)], [("laughing.mp4", 233, 448), ("single_face.mp4", 1, 72)]),
    "AU12": (
        [("laughing.mp4", 297, 448), ("single_face.mp4", 24, 72)],
        [("laughing.mp4", 145, 224), ("single_face.mp4", 1, 17)],
    ),
    "AU25": (
        [("laughing.mp4", 297, 440), ("single_face.mp4", 24, 72)],
        [("laughing.mp4", 1, 60), ("single_face.mp4", 1, 17)],
    ),
}
CLIPS = ("single_face.mp4", "laughing.mp4")


def real_crops() -> dict[tuple[str, int], bytes]:
    """The crop of every frame of the real clips."""
    finder, crops = FaceFinder(ASSETS, Faces()), {}
    for clip in CLIPS:
        follower = FaceFollower(finder)
        for frame in read_frames(ASSETS / "real-clips" / clip):
            pixels = np.asarray(frame.pixels)
            found = follower(pixels)
            if found:
                crops[clip, frame.number] = cut_face(pixels, found[0][1], Faces())[0]
    return crops


def macro_f1(labels: torch.Tensor, scores: np.ndarray, task: Task) -> float:
    """Of a probe's scores."""
    return float(f1_per_target(labels.numpy(), decide(scores, task), task).mean())


def expression_recall(crops: list[tuple[str, int]], scores: np.ndarray) -> float:
    """Mean recall of the three expressions that the clips show, of eight (chance 0.125)."""
    recall: dict[str, list[bool]] = {}
    decided = dict(zip(crops, scores.argmax(1).tolist(), strict=True))
    for clip, first, last, name in EXPRESSIONS:
        answers = [decided[clip, k] for k in range(first, last + 1) if (clip, k) in decided]
        recall.setdefault(name, []).extend(EXPR.targets[a] == name for a in answers)
    return float(np.mean([np.mean(hits) for hits in recall.values()]))


def unit_auc(crops: list[tuple[str, int]], scores: np.ndarray) -> float:
    """Mean area under the ROC curve of three units (chance 0.5)."""
    areas = []
    for unit, stretches in UNITS.items():
        score = dict(zip(crops, scores[:, AU.targets.index(unit)].tolist(), strict=True))
        truth, found = [], []
        for seen, places in zip((1, 0), stretches, strict=True):
            for clip, first, last in places:
                own = [score[clip, k] for k in range(first, last + 1) if (clip, k) in score]
                found += own
                truth += [seen] * len(own)
        areas.append(roc_auc_score(truth, found))
    return float(np.mean(areas))


def rate(encoder: LoadedEncoder, crops: list[bytes], batch: int) -> float:
    """Crops per CPU-second."""
    some = crops[: 4 * batch]
    embed_crops(some[:batch], encoder)
    started = time.process_time()
    embed_crops(some, encoder)
    return len(some) / (time.process_time() - started)


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    for name in ("real-clips", "face-networks", "dinov2-s14", "mobilenet-v2"):
        ensure_asset(name, ASSETS)
    crops = real_crops()
    places, pictures = list(crops), list(crops.values())
    shards = sorted((RUN / "faces").glob("*.parquet"))
    table = Table(title="Linear probes on encoders, the demo and two real clips")
    for column in (
        "encoder",
        "EXPR",
        "AU",
        "real EXPR",
        "real AU AUC",
        "crops/CPU-s",
        "GFLOP",
        "million",
        "length",
        "download MB",
    ):
        table.add_column(column, justify="left" if column == "encoder" else "right")
    with Progress("encoders", len(ENCODERS)) as progress, tempfile.TemporaryDirectory() as name:
        for encoder_name, settings in ENCODERS.items():
            folder = Path(name) / encoder_name.replace("/", "-")
            embedded = []
            for shard in shards:
                manifest = RUN / "dataset/manifests" / shard.name
                embedded.append(folder / shard.name)
                embed_faces(manifest, shard, settings, ASSETS, Store(Path("store")), embedded[-1])
            encoder = load_encoder(settings, ASSETS, "cpu")
            features = torch.from_numpy(embed_crops(pictures, encoder))
            real = Split(None, features, torch.zeros(len(features), 1, dtype=torch.int8))
            row = []
            transfer = {}
            for task in (EXPR, AU):
                build_table(RUN / f"dataset/labels/{task.name}.parquet", embedded, folder / "table")
                train = read_split(folder / "table", task, "train")
                validation = read_split(folder / "table", task, "validation")
                rows, probe = np.arange(len(train.rows)), Probe(strengths=(0.1,))
                scores = fit_probe(train, rows, validation, task, probe).scores
                row.append(macro_f1(validation.labels, scores, task))
                transfer[task.name] = fit_probe(train, rows, real, task, probe).scores
            row.append(expression_recall(places, transfer["EXPR"]))
            row.append(unit_auc(places, transfer["AU"]))
            cost = encoder_cost(settings)
            asset = known_assets().get(settings.asset or "")
            table.add_row(
                encoder_name,
                *(f"{value:.3f}" for value in row),
                f"{rate(encoder, pictures, settings.batch):.0f}",
                f"{cost.flop / 1e9:.2f}",
                f"{cost.parameters / 1e6:.1f}",
                str(cost.dimension),
                str(asset.megabytes if asset else 0),
            )
            progress.advance()
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
