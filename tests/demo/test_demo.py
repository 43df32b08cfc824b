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
from clipaffect.config.data import Data
from clipaffect.config.models import Probe
from clipaffect.core.metrics import f1_per_target
from clipaffect.core.parquet import read_table
from clipaffect.core.tasks import AU, CHALLENGE, EXPR
from clipaffect.dataset.readers.aff_wild2 import FOLDERS, scan_tree
from clipaffect.dataset.readers.annotation_files import read_annotation
from clipaffect.evaluation.references import fit_probe
from clipaffect.synthetic.actions import EXPRESSIONS
from clipaffect.synthetic.annotators import UNIT_MISSED, Fault, annotate, stretches, written
from clipaffect.synthetic.casting import CLASS_FRAMES, LENGTH_DEVIATION, cast, class_counts, deal
from clipaffect.synthetic.make_data import (
    INJECTED,
    SECONDS,
    SEED,
    SPLIT_FOLDERS,
    TRAIN_PEOPLE,
    VALIDATION_PEOPLE,
    make_clip,
    plan,
)
from clipaffect.synthetic.script import Script, draw_temper, write_script
from clipaffect.training.data import Split

DEMO = ROOT / "resources/demo"
RIG = DEMO / "head_rig.npz"
CLIPS = plan(TRAIN_PEOPLE, VALIDATION_PEOPLE, SECONDS, SEED)
# Positives in Aff-Wild2's training set, in per cent (docs/demo.md).
UNITS_OF_AFF_WILD2 = (11.8, 5.0, 15.4, 26.6, 39.7, 34.4, 24.5, 2.8, 3.1, 2.6, 62.7, 7.4)


def test_nobody_is_in_both_splits() -> None:
    people = [(person, clip.split) for clip in CLIPS for person in clip.people]
    assert len({person for person, _ in people}) == len(people)
    counted = Counter(split for _, split in people)
    assert counted == {"train": TRAIN_PEOPLE, "validation": VALIDATION_PEOPLE}
    assert sum(clip.bystander for clip in CLIPS) > 5


def test_the_committed_data_is_the_plans() -> None:
    tree = scan_tree(Data(), (EXPR, AU))
    by_video = {a.video: a.split for a in tree.annotations}
    assert [by_video[v] for v in sorted(by_video, key=lambda v: int(v.split("-")[0]))] == [
        clip.split for clip in CLIPS
    ]
    people = {(a.video, a.person) for a in tree.annotations}
    assert len(people) == TRAIN_PEOPLE + VALIDATION_PEOPLE
    assert {person for _, person in people} == {"", "left", "right"}
    size = sum(p.stat().st_size for p in (DEMO / "videos").iterdir())
    assert size < 40e6
    assert len({tuple(v.split("-")[2:]) for v in by_video}) >= 5


def test_lengths_are_as_uneven_as_in_aff_wild() -> None:
    seconds = np.log([clip.seconds for clip in CLIPS])
    # Clipped at both ends: a little less than the deviation that they are drawn with.
    assert seconds.std() == pytest.approx(LENGTH_DEVIATION, rel=0.15)
    assert np.exp(seconds).mean() == pytest.approx(SECONDS, rel=0.1)


def labels_of(split: str, task: str) -> np.ndarray:
    found = [
        read_annotation(a.path, CHALLENGE[task])
        for a in scan_tree(Data(), (EXPR, AU)).annotations
        if (a.task, a.split) == (task, split)
    ]
    return np.concatenate(found)


@pytest.mark.parametrize("split", ["train", "validation"])
def test_classes_and_units_are_as_frequent_as_in_aff_wild2(split: str) -> None:
    classes = labels_of(split, "EXPR")
    share = np.bincount(classes[classes >= 0], minlength=8) / (classes >= 0).sum()
    wanted = np.array(list(CLASS_FRAMES.values())) / sum(CLASS_FRAMES.values())
    assert share == pytest.approx(wanted, abs=0.06)
    assert share[1:4] == pytest.approx(wanted[1:4], abs=0.025)
    units = labels_of(split, "AU")
    present = (units == 1).sum(0) / (units >= 0).sum(0)
    assert present == pytest.approx(np.array(UNITS_OF_AFF_WILD2) / 100, abs=0.10)


def test_what_was_injected_is_what_the_training_annotations_differ_in() -> None:
    """Every wrong segment that is listed is so in the files, and validation has none."""
    injected = pd.read_csv(DEMO / INJECTED, keep_default_na=False)
    wrong = injected[injected["kind"] != "misleading_resting_face"]
    assert set(wrong["split"]) == {"train"}
    assert set(wrong["kind"]) == {"wrong_expression", "missed_unit", "spurious_unit", "lag"}
    for row in wrong[wrong["kind"] != "lag"].itertuples():
        task = CHALLENGE[row.task]
        folder = DEMO / "annotations" / FOLDERS[row.task][0] / SPLIT_FOLDERS["train"]
        name = f"{row.video}_{row.person}" if row.person else row.video
        column = task.targets.index(row.target) if row.target else 0
        rows = read_annotation(folder / f"{name}.txt", task)[row.first - 1 : row.last, column]
        assert row.annotated in rows
        assert set(rows.tolist()) <= {row.annotated, -1}
        assert row.annotated != row.shown


def script_of(seed: int) -> Script:
    (clip,) = cast("train", range(1), 1, 40.0, seed, np.random.default_rng(seed))
    temper = draw_temper(np.random.default_rng(seed))
    return write_script(clip.episodes[0], temper, 200, 5, np.random.default_rng(seed))


def test_units_are_as_frequent_as_in_aff_wild2_when_everybody_is_counted() -> None:
    """Over many scripts, so without the sampling error of 240 people."""
    clips = cast("train", range(1500), 1, SECONDS, 7, np.random.default_rng(7))
    units = []
    for clip in clips:
        for person, episodes in zip(clip.people, clip.episodes, strict=True):
            rng = np.random.default_rng((7, person))
            frames = round(clip.seconds * 5)
            units.append(write_script(episodes, draw_temper(rng), frames, 5, rng).units)
    present = np.concatenate(units).mean(axis=0)
    assert present == pytest.approx(np.array(UNITS_OF_AFF_WILD2) / 100, abs=0.025)


def test_faults_explain_every_difference_of_the_annotations() -> None:
    """The annotations, with the listed faults undone, are what was shown."""
    missed = spurious = shown_stretches = 0
    for seed in range(20):
        script = script_of(seed)
        expression, units, faults = annotate(script, 5, np.random.default_rng(seed))
        (lag,) = [fault.annotated for fault in faults if fault.kind == "lag"]
        late = np.concatenate([np.repeat(script.expression[:1], lag), script.expression])[:200]
        undone = expression[:, 0].copy()
        for fault in faults:
            if fault.kind == "wrong_expression":
                undone[fault.first - 1 : fault.last] = fault.shown
        assert (undone == late).all()
        for k, name in enumerate(AU.targets):
            kinds = {
                kind: [(f.first - 1, f.last) for f in faults if (f.target, f.kind) == (name, kind)]
                for kind in ("missed_unit", "spurious_unit")
            }
            shown = [(a, b + 1) for a, b in stretches(script.units[:, k]) if script.units[a, k]]
            shown_stretches += len(shown)
            missed += len(kinds["missed_unit"])
            spurious += len(kinds["spurious_unit"])
            for first, end in kinds["missed_unit"]:
                assert (first, end) in shown
                assert not units[first + 2 : max(end - 2, 0), k].any()
            for first, end in kinds["spurious_unit"]:
                assert units[first:end, k].all()
                assert not script.units[first:end, k].any()
            for first, end in set(shown) - set(kinds["missed_unit"]):
                assert units[first:end, k].any()  # nothing is lost unlisted
    assert missed / shown_stretches == pytest.approx(UNIT_MISSED, abs=0.03)
    assert spurious / shown_stretches == pytest.approx(UNIT_MISSED, abs=0.04)


def test_faults_that_no_row_shows_are_not_listed() -> None:
    faults = [Fault("missed_unit", "AU", "AU1", first, first + 2, 1, 0) for first in (1, 5, 9)]
    annotated = np.ones(9, bool)
    annotated[4:7] = False
    found = [(fault.first, fault.last) for fault in written(faults, annotated)]
    assert found == [(1, 3), (9, 9)]


def test_a_face_at_rest_is_not_coded() -> None:
    """The same person with a misleading face at rest has the same labels and other pictures."""
    (clip,) = cast("train", range(1), 1, 20.0, 0, np.random.default_rng(0))
    plain = draw_temper(np.random.default_rng(1))
    one, other = (
        write_script(
            clip.episodes[0],
            replace(plain, resting={4: level, 7: level}),
            100,
            5,
            np.random.default_rng(2),
        )
        for level in (0.0, 0.5)
    )
    assert (one.units == other.units).all()
    assert (one.expression == other.expression).all()
    assert (other.intensity - one.intensity).max() == pytest.approx(0.5)


def test_classes_are_dealt_in_their_shares() -> None:
    hands = deal([10] * 100, np.random.default_rng(0))
    dealt = Counter(episode.expression for hand in hands for episode in hand)
    assert dealt == class_counts(1000)
    assert [len(hand) for hand in hands] == [10] * 100
    variants = {(e.expression, e.variant) for hand in hands for e in hand}
    assert {v for name, v in variants if name == "Other"} == set(
        range(len(EXPRESSIONS["Other"]) + 1)
    )
    # Uneven: most people show few of the rare classes, some show several.
    fear = [sum(e.expression == "Fear" for e in hand) for hand in hands]
    assert np.var(fear) > np.mean(fear)


def frames(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])


def test_a_clip_can_be_made_again(tmp_path: Path) -> None:
    alone = [clip for clip in CLIPS if len(clip.people) == 1 and clip.split == "train"]
    clip = min(alone, key=lambda clip: clip.seconds)
    name, _ = make_clip(clip, RIG, tmp_path)
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
    clip = replace(CLIPS[0], seconds=1.0, episodes=tuple(s[:1] for s in CLIPS[0].episodes))
    rng = np.random.default_rng(0)
    made = set()
    for attempt in range(3):
        # Leave other rubbish in freed memory: x264's mbtree reads it.
        [bytearray(rng.bytes(int(size))) for size in rng.integers(1000, 400_000, 300)]
        name, _ = make_clip(clip, RIG, tmp_path / str(attempt))
        made.add((tmp_path / str(attempt) / "videos" / f"{name}.mp4").read_bytes())
    assert len(made) == 1


@pytest.fixture(scope="session")
def demo_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    asset("face-networks")
    folder = workplace(tmp_path_factory.mktemp("demo") / "run")
    snakemake(folder, "all", "model")
    return folder / "results/demo"


@pytest.mark.slow
def test_the_demo_reads_unseen_people(demo_run: Path) -> None:
    tasks = json.loads((demo_run / "report/metrics.json").read_text())["tasks"]
    constant = {"EXPR": "constant (largest class)", "AU": "every label always present"}
    for task, numbers in tasks.items():
        score, references = numbers["headline"]["mean"], numbers["references"]
        assert score > references[constant[task]]
        assert score > references["linear probe on pixels"] + 0.05
        assert len(numbers["alphas"]) == 6
        assert numbers["headline"]["seeds"] == 3
        assert numbers["failed_heads"] == 0


@pytest.mark.slow
def test_the_demo_loses_frames_only_where_nobody_is_seen(demo_run: Path) -> None:
    coverage = pd.read_csv(demo_run / "report/tables/coverage.csv")
    found = coverage[coverage["status"] == "ok"]
    assert found["frames"].groupby(found["task"]).sum().min() > 5000
    assert found["share"].min() > 0.97
    assert set(coverage["status"]) >= {"ok", "no_face", "beyond_video", "person_absent"}


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
        rows = np.arange(len(train.rows))
        scores = fit_probe(train, rows, validation, EXPR, Probe(strengths=(0.1,))).scores
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
def test_its_model_says_that_it_is_not_for_people(demo_run: Path, real_clips: Path) -> None:
    model = clipaffect.load_model(demo_run / "model", assets=ASSETS)
    assert "not for use on real people" in model.trained_on
    found = model.predict(real_clips / "laughing.mp4", people="main")
    assert len(found) == 472


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
