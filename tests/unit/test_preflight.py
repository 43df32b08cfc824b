"""The preflight: facts counted by hand, verdicts at the published sizes, an estimate that holds."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import numpy as np
import pytest
import torch
from conftest import ROOT, annotation, write_annotation
from pretended_gpu import DEVICE, PretendedGpu
from rich.console import Console
from test_aff_wild2_shapes import crop_tree, crops, data

from clipaffect.config.data import Data
from clipaffect.config.encoders import Encoder
from clipaffect.config.load import load_config
from clipaffect.core.container import stated_frames
from clipaffect.core.errors import UserError
from clipaffect.core.tasks import AU, EXPR
from clipaffect.core.video import read_frames
from clipaffect.dataset.frame_lists import compare_list
from clipaffect.dataset.index_dataset import index_dataset
from clipaffect.dataset.published import PUBLISHED, verdict
from clipaffect.dataset.readers.registry import read_dataset
from clipaffect.dataset.summary import collect, first_searched, refuse_hopeless
from clipaffect.dataset.summary_text import data_notes
from clipaffect.encoders.registry import (
    EncoderCost,
    LoadedEncoder,
    encoder_cost,
    load_encoder,
    stand_in,
)
from clipaffect.faces.crops import encode_crop
from clipaffect.ops.check import show
from clipaffect.ops.estimate import (
    _crop_seconds,
    _stack_rate,
    estimate,
    feeding,
    network_seconds,
)
from clipaffect.ops.preview import planned_jobs
from clipaffect.training.backends.stacked import Stack

__all__ = ["crop_tree"]  # a fixture


def facts_of(settings: Data, tasks: tuple = (EXPR, AU)) -> dict:
    return collect(settings, tasks, *read_dataset(settings, tasks))


def test_frames_with_and_without_an_image(crop_tree: Path) -> None:
    # 12 rows each; images 1, 2, 4 to 8, 11 | left 1 | right 2
    found = facts_of(data(crop_tree))["tasks"]["EXPR"]["train"]
    assert (found["rows"], found["annotated"], found["with_image"]) == (36, 36, 10)
    # 3, 9 and 10 (and right's 1) lie before the last image; the rows behind it are beyond
    assert found["without_image"] == 3 + 1
    assert found["beyond"] == 1 + 11 + 10
    assert found["counts"] == {
        "Neutral": 2,
        "Anger": 2,
        "Disgust": 1,
        "Fear": 1,
        "Happiness": 1,
        "Sadness": 1,
        "Surprise": 1,
        "Other": 1,
    }


def test_a_run_without_hope_is_refused(crop_tree: Path) -> None:
    facts = facts_of(data(crop_tree))
    refuse_hopeless(facts)
    (crop_tree / "cropped_aligned/1-30-1280x720/00007.jpg").unlink()
    with pytest.raises(UserError, match="no training frame of EXPR with an image shows Surprise"):
        index_dataset(data(crop_tree), (EXPR, AU), crop_tree / "out")
    empty = crop_tree / "other/nobody"
    empty.mkdir(parents=True)
    settings = data(crop_tree, images=[str(crop_tree / "other")])
    with pytest.raises(UserError, match="no annotated frame of EXPR has an image"):
        refuse_hopeless(facts_of(settings))


def test_videos_in_place_of_crops(tree: Path) -> None:
    settings = Data(videos=str(tree / "videos"), annotations=str(tree / "annotations"))
    facts = facts_of(settings)
    found = facts["tasks"]["EXPR"]["train"]
    assert found["with_image"] is None
    assert (found["annotated"], found["beyond"]) == (36, 0)
    assert facts["frames_to_decode"] == 36
    assert facts["frames_to_search"] == 48  # one video shows two people
    write_annotation(annotation(tree, EXPR, "Train_Set", "a 1"), EXPR.header, ["1"] * 15)
    assert facts_of(settings)["tasks"]["EXPR"]["train"]["beyond"] == 3


def test_stated_frames_are_those_that_are_decoded(real_clips: Path, tmp_path: Path) -> None:
    for clip in sorted(real_clips.rglob("*.mp4")):
        assert stated_frames(clip) == sum(1 for _ in read_frames(clip)), clip
    (tmp_path / "text.mp4").write_text("no video")
    assert stated_frames(tmp_path / "text.mp4") == 0
    assert stated_frames(tmp_path / "none.mp4") == 0


def test_what_looks_wrong_is_said(crop_tree: Path) -> None:
    crops(crop_tree / "cropped_aligned/empty")
    (crop_tree / "cropped_aligned/1-30-1280x720/Thumbs.db").write_text("")
    for name, side in (("twin", 112), ("twin2", 112), ("big", 200)):
        picture = np.full((side, side, 3), 7, np.uint8)
        for frame in (1, 2):
            path = crops(crop_tree / "cropped_aligned" / name) / f"{frame:05d}.jpg"
            path.write_bytes(encode_crop(picture))
    names = [
        ("empty", "Train_Set"),
        ("twin", "Train_Set"),
        ("twin2", "Validation_Set"),
        ("big", "Train_Set"),
        ("nowhere", "Train_Set"),
        ("BIG", "Train_Set"),
    ]
    for name, split in names:
        write_annotation(annotation(crop_tree, EXPR, split, name), EXPR.header, ["0", "1"])
    (crop_tree / "test.txt").write_text("twin\n")
    settings = data(crop_tree, test={"EXPR": str(crop_tree / "test.txt")})
    notes = "\n".join(data_notes(facts_of(settings, (EXPR,))))
    for words in (
        "2 people have labels or rows to be predicted, but no crops and no video",
        "BIG, nowhere",
        "'BIG' exists as 'big'",
        "1 file or folder of crops is empty",
        "the first (by root, then by path) is used",
        "Thumbs.db",
        "in two splits: remove one, or the score counts people",
        "trained on: twin, twin2",
        "To be predicted, but also used in training: twin (EXPR)",
        "sizes vary from 112 x 112 to 200 x 200",
    ):
        assert words in notes


@pytest.mark.parametrize(("task", "split"), PUBLISHED)
def test_the_published_sizes_are_recognised(task, split) -> None:
    published = PUBLISHED[task, split]
    labelled = published.with_image + published.without_image
    names = (AU if task == "AU" else EXPR).targets
    shares = [round(s * published.with_image / 100) for s in published.percent or [1] * 12]
    counts = dict(zip(names, published.counts or shares, strict=True))
    assert verdict(task, split, labelled, published.with_image, counts)[0] == "as_published"
    assert verdict(task, split, labelled, None, counts)[0] == "as_published"
    kind, text = verdict(task, split, labelled - 7, published.with_image - 7, counts)
    assert kind == "differs"
    assert "(-7)" in text
    assert verdict(task, split, 50, 50, counts)[0] == "other"
    if published.percent:
        kind, text = verdict(task, split, labelled, published.with_image, dict.fromkeys(names, 0))
        assert kind == "differs"
        assert "AU25 0.0 % for 62.7 %" in text
    if published.counts:
        assert sum(published.counts) == published.with_image
        moved = counts | {"Anger": counts["Anger"] + 1, "Fear": counts["Fear"] - 1}
        kind, text = verdict(task, split, labelled, published.with_image, moved)
        assert kind == "differs"
        assert "Anger +1, Fear -1" in text


def test_right_annotations_with_a_root_missing_are_told_so() -> None:
    published = PUBLISHED["EXPR", "train"]
    labelled = published.with_image + published.without_image
    counts = dict(zip(EXPR.targets, published.counts, strict=True))
    kind, text = verdict("EXPR", "train", labelled, published.with_image - 1000, counts)
    assert kind == "differs"
    assert "the annotations are those of the ABAW6 EXPR training set" in text
    assert "1,000 more frames than published have no image" in text


def test_only_what_is_said_to_be_a_challenge_is_compared(crop_tree: Path) -> None:
    assert facts_of(data(crop_tree))["tasks"]["EXPR"]["train"]["sentence"] == ""
    found = facts_of(data(crop_tree, edition=6))["tasks"]["EXPR"]["train"]
    assert "not the ABAW6 EXPR training set" in found["sentence"]
    assert facts_of(data(crop_tree, edition=10))["tasks"]["EXPR"]["train"]["sentence"] == ""


def test_rows_of_a_sample_file_without_an_image_are_counted(crop_tree: Path) -> None:
    rows = ["1-30-1280x720/00001.jpg", "1-30-1280x720/00003.jpg", "nobody/00001.jpg"]
    (crop_tree / "s.txt").write_text("\n".join(["image_location," + EXPR.header, *rows]))
    facts = facts_of(data(crop_tree, test={"EXPR": str(crop_tree / "s.txt")}))
    assert facts["test"]["EXPR"] == {"people": 2, "rows": 3, "without_image": 2}
    assert "3 rows, of which 2 have no image" in "\n".join(data_notes(facts))


def test_published_lists_row_by_row(crop_tree: Path) -> None:
    lines = [
        "cropped_aligned/1-30-1280x720/00001.jpg 0",
        "1-30-1280x720/00002.jpg,1",
        "/home/x/4-30_left/00001.jpg  5",
        "gone/00001.jpg 2",
    ]
    (crop_tree / "expr_train.txt").write_text("\n".join(lines) + "\n")
    (crop_tree / "expr_val.txt").write_text("video99/00001.jpg 0\nvideo99/00002.jpg 1\n")
    lists = {
        "EXPR": {
            "train": str(crop_tree / "expr_train.txt"),
            "validation": str(crop_tree / "expr_val.txt"),
        }
    }
    facts = facts_of(data(crop_tree, frame_lists=lists))
    found = facts["frame_lists"]["EXPR train"]
    counts = [
        found[k] for k in ("listed", "found", "same", "other_label", "only_listed", "only_found")
    ]
    assert counts == [4, 10, 2, 1, 1, 7]
    assert found["examples"]["other label"] == ["4-30_left/00001.jpg"]
    assert found["examples"]["only listed"] == ["gone/00001.jpg"]
    notes = "\n".join(data_notes(facts))
    assert "EXPR validation: all 2 frames match the published list, label by label" in notes
    assert "2 the same, 1 with another label, 1 only in the list, 7 found alone" in notes


def test_lists_of_units_and_wrong_lines(crop_tree: Path) -> None:
    _, labels = read_dataset(data(crop_tree), (AU,))
    path = crop_tree / "au.txt"
    path.write_text(f"video99/00001.jpg {','.join(['1'] * 12)}\n")
    rows = labels["AU"][labels["AU"]["split"] == "validation"]
    assert compare_list(path, rows, AU)["same"] == 1
    path.write_text(f"video99/00001.jpg {','.join(['1'] * 12)}\n\nvideo99/00002.jpg 1\n")
    with pytest.raises(UserError, match="12 labels") as caught:
        compare_list(path, rows, AU)
    assert "line 3" in caught.value.where


def test_operations_are_those_of_the_transformers_formula() -> None:
    tokens, width, blocks = 257, 1024, 24
    products = 2 * tokens * 12 * width**2 * blocks  # attention's four and the MLP's eight d x d
    attention = 2 * 2 * tokens**2 * width * blocks
    ends = 2 * 256 * 14 * 14 * 3 * width + 2 * width * 768
    clip = Encoder(model="ViT-L-14-quickgelu", tag="openai", activation="quickgelu")
    cost = encoder_cost(clip)
    flop, dimension = cost.flop, cost.dimension
    assert dimension == 768
    assert flop == pytest.approx(products + attention + ends, rel=1e-3)
    assert encoder_cost(Encoder(kind="pixels", side=10)) == EncoderCost(0.0, 0, 100)


@pytest.mark.parametrize(
    ("model", "tag", "activation", "millions", "dimension"),
    [  # open_clip's own table, docs/model_profile.csv: image_mparams and embed_dim
        ("ViT-B-32-quickgelu", "openai", "quickgelu", 87.85, 512),
        ("ViT-L-14-336-quickgelu", "openai", "quickgelu", 304.29, 768),
        ("ViT-B-16-SigLIP", "webli", "gelu", 92.88, 768),
    ],
)
def test_parameters_are_those_of_open_clips_table(
    model: str, tag: str, activation: str, millions: float, dimension: int
) -> None:
    cost = encoder_cost(Encoder(model=model, tag=tag, activation=activation))
    assert cost.parameters / 1e6 == pytest.approx(millions, abs=0.06)
    assert cost.dimension == dimension


def test_every_costly_stage_is_estimated(micro_config: Path, face_networks: Path) -> None:
    settings = Encoder(
        model="clipaffect-micro", random=0, activation="gelu", normalise="clip", precision="fp32"
    )
    config = load_config(micro_config)
    settings_, tasks = config.data, list(config.tasks().values())
    tree, labels = read_dataset(settings_, tasks)
    facts = collect(settings_, tasks, tree, labels)
    costs = {c.work: c for c in estimate(config, facts, first_searched(tree), face_networks)}
    assert len(costs) == 7  # faces, two encoders, two tasks and their cross-fitted heads
    assert all(cost.hours is not None and cost.hours > 0 for cost in costs.values())
    assert all(cost.disk > 0 for cost in costs.values())
    # Two seeds on each of two parts of half the rows, for two encoders, and two seeds on all rows
    # for the other one; beside a grid of two alphas and two seeds.
    grid = costs["4 heads for AU"].hours
    crossed = costs["8 cross-fitted heads for AU, 2 on other encoders"].hours
    assert grid is not None
    assert crossed == pytest.approx((8 / 2 + 2) / 4 * grid)
    cost = encoder_cost(settings)
    assert cost.dimension == load_encoder(settings, Path(), "cpu").dimension
    assert cost.flop > 0
    text = io.StringIO()
    show(Console(file=text, width=160), config, facts, {"train_heads": 4}, costs.values())
    page = text.getvalue()
    for words in ("4 jobs to run: 4 train_heads", "faces in", "total", "EXPR"):
        assert words in page


def test_what_keeps_a_gpu_busy_is_a_matter_of_rates() -> None:
    # 2,000 crops a second: 4 ms to decode one and 10 ms to find its face are 8 and 20 cores.
    text = feeding(gpu=0.0005, workers=2, crop=0.004, face=0.010)
    assert "2,000 crops per second need 8 decoding threads (workers: 2)" in text
    assert text.endswith("and 20 parallel align_faces jobs")
    assert "align_faces" not in feeding(0.0005, 2, 0.004, None)  # crops that are there already


def test_training_on_a_gpu_is_estimated_on_it_or_not_at_all(
    micro_config: Path, face_networks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config(micro_config)
    training = config.training.model_copy(update={"device": "cuda"})
    config = config.model_copy(update={"training": training})
    tree, labels = read_dataset(config.data, list(config.tasks().values()))
    facts = collect(config.data, list(config.tasks().values()), tree, labels)
    heads = [c for c in estimate(config, facts, None, face_networks) if "heads for" in c.work]
    assert heads
    assert {(cost.hours, cost.on) for cost in heads} == {(None, "GPU")}
    assert {cost.note for cost in heads} == {"not measured: this machine has no GPU"}
    with PretendedGpu(monkeypatch):
        monkeypatch.setattr("clipaffect.ops.estimate.Stack", lambda *a: Stack(*a[:3], DEVICE))
        rate = _stack_rate(EXPR, config.training.recipes()[""], 8, 3)
    assert 0 < rate < 1e9


def test_a_network_that_does_not_fit_is_not_measured(
    micro_config: Path, face_networks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(settings: Encoder, device: str) -> LoadedEncoder:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")

    monkeypatch.setattr("clipaffect.ops.estimate.stand_in", full)
    config = load_config(micro_config)
    tree, labels = read_dataset(config.data, list(config.tasks().values()))
    facts = collect(config.data, list(config.tasks().values()), tree, labels)
    costs = list(estimate(config, facts, None, face_networks))
    notes = [cost.note for cost in costs if cost.hours is None]
    assert notes == ["not measured: out of memory at the moment"] * len(config.encoders)
    assert len(costs) == 7


def test_a_model_without_memory_never_had_any(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    monkeypatch.setattr(
        torch.nn.Linear, "reset_parameters", lambda layer: made.append(layer.weight.device.type)
    )
    encoder_cost(Encoder(model="clipaffect-micro", random=0, activation="gelu"))
    assert set(made) == {"meta"}


def test_preparing_a_crop_is_measured_on_the_encoders_own_preprocessing() -> None:
    config = load_config(ROOT / "tests/config/micro.yaml")
    assert 0 < _crop_seconds(stand_in(config.encoders["micro"], "cpu"), config) < 0.1


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_a_stand_in_has_the_encoders_shape_and_arithmetic(
    precision: Literal["bf16", "fp32"],
) -> None:
    settings = Encoder(model="clipaffect-micro", random=0, activation="gelu", precision=precision)
    real, measured = load_encoder(settings, Path(), "cpu"), stand_in(settings, "cpu")
    assert measured.dimension == real.dimension
    crop = np.random.default_rng(0).integers(0, 255, (80, 70, 3), np.uint8)
    own, theirs = (encoder.gather([crop], 3) for encoder in (measured, real))
    assert own.dtype == theirs.dtype
    assert torch.equal(own, theirs)


def test_a_networks_time_is_that_of_a_crop_in_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, now = [], [0.0]

    def embed(batch: torch.Tensor) -> torch.Tensor:
        seen.append(len(batch))
        now[0] += 0.02 + 0.03 * len(batch)
        return batch

    clock = SimpleNamespace(perf_counter=lambda: now[0], process_time=lambda: 0.0)
    monkeypatch.setattr("clipaffect.ops.estimate.time", clock)

    slow = LoadedEncoder(
        prepare=lambda crop: torch.zeros(1),
        gather=lambda crops, batch: torch.zeros(len(crops), 1),
        embed=embed,
        dimension=1,
        batch=4,
    )
    # 50 ms for one: twenty take about a second, if the batch is not smaller. In a batch of four a
    # crop takes (20 + 4 * 30) / 4 = 35 ms.
    assert network_seconds(slow, on_gpu=True) == pytest.approx(0.035)
    assert seen == [1, 1, 4, 4]


@pytest.fixture
def micro_config() -> Path:
    return ROOT / "tests/config/micro.yaml"


def test_jobs_are_snakemakes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert planned_jobs(Path("x.yaml")) is None
