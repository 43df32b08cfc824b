"""The demo: its data set, and the one run of it in the suite."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import av
import cv2
import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import ASSETS, ROOT, asset, snakemake, workplace

import clipaffect
from clipaffect.bundle.export_model import export_model
from clipaffect.config.data import Data
from clipaffect.config.models import Probe
from clipaffect.core.metrics import f1_per_target
from clipaffect.core.parquet import read_table
from clipaffect.core.tasks import AU, CHALLENGE, EXPR
from clipaffect.dataset.readers.aff_wild2 import FOLDERS, scan_tree
from clipaffect.dataset.readers.annotation_files import read_annotation
from clipaffect.evaluation.references import probe_scores
from clipaffect.synthetic.actions import EXPRESSIONS
from clipaffect.synthetic.make_data import SPLIT_FOLDERS, make_clip, plan
from clipaffect.synthetic.script import HAND, deal
from clipaffect.training.data import Split

DEMO = ROOT / "resources/demo"
RIG = DEMO / "head_rig.npz"
CLIPS = plan(train_people=40, validation_people=24, seconds=7.0, seed=2024)


def test_nobody_is_in_both_splits() -> None:
    people = [(person, clip.split) for clip in CLIPS for person in clip.people]
    assert len({person for person, _ in people}) == len(people) == 64
    assert Counter(split for _, split in people) == {"train": 40, "validation": 24}


def test_the_committed_data_is_the_plans() -> None:
    tree = scan_tree(Data(), (EXPR, AU))
    by_video = {a.video: a.split for a in tree.annotations}
    assert [by_video[v] for v in sorted(by_video, key=lambda v: int(v.split("-")[0]))] == [
        clip.split for clip in CLIPS
    ]
    people = {(a.video, a.person) for a in tree.annotations}
    assert len(people) == 64
    assert {person for _, person in people} == {"", "left", "right"}
    size = sum(p.stat().st_size for p in (DEMO / "videos").iterdir())
    assert size < 12e6
    shapes = {tuple(v.split("-")[1:]) for v in by_video}
    assert len({rate for rate, _ in shapes}) >= 4
    assert len({size for _, size in shapes}) >= 5


@pytest.mark.parametrize("split", ["train", "validation"])
def test_labels_are_imbalanced_as_in_aff_wild2_and_whole(split: str) -> None:
    tree = scan_tree(Data(), (EXPR, AU))
    rows = {
        task: np.concatenate(
            [
                read_annotation(a.path, CHALLENGE[task])
                for a in tree.annotations
                if (a.task, a.split) == (task, split)
            ]
        )
        for task in ("EXPR", "AU")
    }
    share = np.bincount(rows["EXPR"][rows["EXPR"] >= 0], minlength=8)
    share = share / share.sum()
    neutral, anger, disgust, fear, happiness, sadness, _, other = share
    assert neutral == share.max()
    assert max(anger, disgust, fear) < 0.08 < min(happiness, sadness, other)
    assert min(share) > 0.01
    assert (rows["EXPR"] == -1).mean() > 0.02
    present = (rows["AU"] == 1).sum(0) / (rows["AU"] >= 0).sum(0)
    assert present[AU.targets.index("AU25")] == present.max()
    assert present[AU.targets.index("AU23")] < 0.06
    assert present.min() > 0.005


def test_a_hand_holds_every_class() -> None:
    dealt = deal(5 * sum(HAND.values()), np.random.default_rng(0))
    for start in range(0, len(dealt), sum(HAND.values())):
        hand = dealt[start : start + sum(HAND.values())]
        assert Counter(showing.expression for showing in hand) == HAND
    shown = {(showing.expression, showing.variant) for showing in dealt}
    assert shown == {(name, k) for name, v in EXPRESSIONS.items() for k in range(len(v))}


def frames(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])


def test_a_clip_can_be_made_again(tmp_path: Path) -> None:
    number = next((DEMO / "videos").glob("*-10-320x240.mp4")).name  # the fewest and smallest frames
    clip = CLIPS[int(number.split("-")[0]) - 1]
    name = make_clip(clip, RIG, tmp_path)
    for task in (EXPR, AU):
        relative = Path(
            "annotations", FOLDERS[task.name][0], SPLIT_FOLDERS[clip.split], f"{name}.txt"
        )
        assert (tmp_path / relative).read_text() == (DEMO / relative).read_text()
    video = Path("videos") / f"{name}.mp4"
    made, committed = frames(tmp_path / video), frames(DEMO / video)
    assert made.shape == committed.shape
    # Another processor may round a pixel otherwise before the video coder sees it.
    assert np.abs(made.astype(int) - committed).mean() < 1.5


def test_a_clip_is_the_same_bytes_every_time(tmp_path: Path) -> None:
    clip = replace(CLIPS[0], seconds=1.0, showings=tuple(s[:1] for s in CLIPS[0].showings))
    rng = np.random.default_rng(0)
    made = set()
    for attempt in range(3):
        # Leave other rubbish in freed memory: x264's mbtree reads it.
        [bytearray(rng.bytes(int(size))) for size in rng.integers(1000, 400_000, 300)]
        name = make_clip(clip, RIG, tmp_path / str(attempt))
        made.add((tmp_path / str(attempt) / "videos" / f"{name}.mp4").read_bytes())
    assert len(made) == 1


@pytest.fixture(scope="session")
def demo_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    asset("face-networks")
    folder = workplace(tmp_path_factory.mktemp("demo") / "run")
    snakemake(folder)
    return folder / "results/demo"


@pytest.mark.slow
def test_the_demo_reads_unseen_people(demo_run: Path) -> None:
    tasks = json.loads((demo_run / "report/metrics.json").read_text())["tasks"]
    constant = {"EXPR": "constant (largest class)", "AU": "every label always present"}
    for task, numbers in tasks.items():
        score, references = numbers["headline"]["mean"], numbers["references"]
        assert score > references[constant[task]] + 0.3
        assert score > references["linear probe on pixels"] + 0.05
        assert len(numbers["alphas"]) == 6
        assert numbers["headline"]["seeds"] == 3
        assert numbers["failed_heads"] == 0


@pytest.mark.slow
def test_the_demo_loses_frames_only_where_nobody_is_seen(demo_run: Path) -> None:
    coverage = pd.read_csv(demo_run / "report/tables/coverage.csv")
    found = coverage[coverage["status"] == "ok"]
    assert found["frames"].groupby(found["task"]).sum().min() > 5000
    assert found["share"].min() > 0.98
    assert set(coverage["status"]) >= {"ok", "no_face", "beyond_video"}


def masked_split(run: Path, split: str) -> Split:
    """Raw pixels of a split's crops with the face painted over by a fixed ellipse."""
    import torch

    rows = read_table(run / "tables/tiny-clip/EXPR/rows.parquet")
    rows = rows[(rows["split"] == split) & (rows["status"] == "ok")]
    keys = ["video", "person", "frame"]
    shards = [read_table(p, [*keys, "crop"]) for p in sorted((run / "faces").glob("*.parquet"))]
    rows = rows.merge(pd.concat(shards), on=keys)
    pictures = []
    for jpeg in rows["crop"]:
        grey = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_GRAYSCALE)
        # Large enough for a dropped jaw; hair and background show in the corners.
        cv2.ellipse(grey, (112, 130), (100, 150), 0, 0, 360, 128, -1)
        pictures.append(cv2.resize(grey, (28, 28), interpolation=cv2.INTER_AREA).ravel())
    features = torch.from_numpy(np.array(pictures, np.float32))
    return Split(rows, features, torch.from_numpy(np.array(rows[["label"]], np.int64)))


@pytest.mark.slow
def test_with_the_face_painted_over_the_crops_say_nothing(demo_run: Path) -> None:
    import torch

    train, validation = (masked_split(demo_run, split) for split in ("train", "validation"))

    def score(train: Split, validation: Split) -> float:
        scores = probe_scores(train, validation, EXPR, Probe())
        decided = scores.argmax(1)[:, None]
        return float(f1_per_target(validation.labels.numpy(), decided, EXPR).mean())

    # Chance for labels that hold still for many frames: each person's labels shifted in time.
    rng = np.random.default_rng(0)

    def shifted(split: Split) -> Split:
        labels = split.labels.clone()
        for at in split.rows.groupby(["video", "person"]).indices.values():
            labels[at] = torch.roll(labels[at], int(rng.integers(5, max(6, len(at) - 5))), 0)
        return Split(split.rows, split.features, labels)

    chance = [score(shifted(train), shifted(validation)) for _ in range(6)]
    assert score(train, validation) < max(chance) + 0.03


@pytest.mark.slow
def test_its_heads_read_a_real_clip_as_one_does_by_eye(
    demo_run: Path, real_clips: Path, tmp_path: Path
) -> None:
    """She cries for five seconds, with her brows down, and laughs for the last three."""
    export_model(demo_run, ASSETS, tmp_path / "model")
    model = clipaffect.load_model(tmp_path / "model", assets=ASSETS)
    found = model.predict(real_clips / "laughing.mp4", people="main").set_index("time")
    assert len(found) == 472
    crying, laughing = found.loc[:5.0], found.loc[16.5:]
    for column, more, less in (
        ("EXPR_Happiness", laughing, crying),
        ("AU_AU12", laughing, crying),
        ("AU_AU6", laughing, crying),
        ("AU_AU4", crying, laughing),
    ):
        assert more[column].mean() > less[column].mean() + 0.3, column
    assert (laughing["EXPR"] == "Happiness").mean() > 0.7


@pytest.mark.slow
def test_dvc_stages_cover_the_run(demo_run: Path) -> None:
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    folder = demo_run.parents[1]
    covered: set[Path] = set()
    for stage in stages.values():
        arguments = stage["cmd"].removeprefix("clipaffect run --cores all ").split()
        assert "Nothing to be done" in snakemake(folder, "--dry-run", *arguments).stdout
        covered |= {folder / path for path in [*stage["outs"], *stage.get("metrics", [])]}
    for path in demo_run.rglob("*"):
        if path.is_file() and "timings" not in path.parts and path.suffix != ".snakemake_timestamp":
            assert covered & {path, *path.parents}, f"{path} is in no stage of dvc.yaml"
