"""Disturbed crops, a tuned block, costs: what is changed is what is said to be."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from torch import nn

from clipaffect.config.encoders import Encoder
from clipaffect.config.training import Recipe
from clipaffect.core.errors import UserError
from clipaffect.core.parquet import write_table
from clipaffect.core.setting import Setting
from clipaffect.core.tasks import EXPR
from clipaffect.encoders.kinds.open_clip import build_model
from clipaffect.encoders.untrained import create_untrained
from clipaffect.evaluation.person_counts import Counted
from clipaffect.faces.crops import encode_crop
from clipaffect.studies.corruptions import COVERED, DISTURBANCES, GAINS, GREY, disturb
from clipaffect.studies.costs import cost_answer, published_costs
from clipaffect.studies.disturb_crops import FRAMES, find_crops, sample_frames
from clipaffect.studies.fine_tune import tune
from clipaffect.studies.fine_tuning import arms_table, tuning_answer
from clipaffect.studies.last_block import KeptInputs, last_block, run_from, run_keeping
from clipaffect.studies.robustness import disturbance_table, limits_answer
from clipaffect.training.data import Split
from clipaffect.training.mlp_head import Head

MICRO = Encoder(
    model="clipaffect-micro",
    random=0,
    activation="gelu",
    normalise="clip",
    precision="fp32",
    batch=8,
)


def picture(size: int = 112) -> np.ndarray:
    rng = np.random.default_rng(0)
    small = rng.integers(40, 216, (size // 4, size // 4, 3)).astype(np.uint8)
    return cv2.resize(small, (size, size), interpolation=cv2.INTER_NEAREST)


def detail(crop: np.ndarray) -> float:
    return float(cv2.Laplacian(crop, cv2.CV_64F).var())


def error(crop: np.ndarray) -> float:
    return float(np.abs(crop.astype(float) - picture()).mean())


@pytest.mark.parametrize(
    ("kind", "measure", "rises"),
    [
        ("blur", detail, False),
        ("noise", error, True),
        ("compression", error, True),
        ("darkness", np.mean, False),
    ],
)
def test_each_degree_is_worse(
    kind: str, measure: Callable[[np.ndarray], float], rises: bool
) -> None:
    names = [name for name in DISTURBANCES if name.startswith(kind)]
    assert len(names) == 3
    crop = picture()
    found = [float(measure(disturb(crop, name))) for name in names]
    assert found == sorted(found, reverse=not rises)
    assert (found[0] > measure(crop)) == rises
    assert (crop == picture()).all()
    assert all(disturb(crop, name).dtype == np.uint8 for name in names)


def test_darkness_keeps_its_share_and_noise_its_deviation() -> None:
    crop = np.full((64, 64, 3), 128, np.uint8)
    for gain in GAINS:
        assert disturb(crop, f"darkness, {gain:g}").mean() == pytest.approx(128 * gain, abs=1)
    assert disturb(crop, "noise, 25").std() == pytest.approx(25, rel=0.05)


def test_blur_is_in_proportion_to_the_crop() -> None:
    small, large = picture(112), cv2.resize(picture(112), (224, 224), interpolation=cv2.INTER_CUBIC)
    blurred = cv2.resize(disturb(large, "blur, 4"), (112, 112), interpolation=cv2.INTER_AREA)
    assert np.abs(blurred.astype(float) - disturb(small, "blur, 4")).mean() < 3


def test_a_box_covers_what_it_says() -> None:
    crop = np.zeros((100, 100, 3), np.uint8)
    for name, (top, bottom, left, right) in COVERED.items():
        covered = (disturb(crop, f"occlusion, {name}") == GREY).all(axis=2)
        assert covered.sum() == round(100 * (bottom - top)) * round(100 * (right - left))
        rows, columns = np.nonzero(covered)
        assert rows.min() == 100 * top
        assert columns.min() == 100 * left


def test_frames_are_spread_over_every_person() -> None:
    rows = pd.DataFrame(
        {"group": ["a"] * 500 + ["b"] * 7, "video": "v", "person": "", "frame": np.arange(507)}
    )
    split = Split(rows, torch.zeros(507, 2), torch.zeros(507, 1, dtype=torch.int8))
    own = sample_frames(split, EXPR, 0).rows
    assert own.groupby("group").size().to_dict() == {"a": FRAMES, "b": 7}
    frames = own.loc[own["group"] == "a", "frame"]
    assert (frames.min(), frames.max()) == (0, 499)


def test_crops_are_found_in_any_shard(tmp_path: Path) -> None:
    shards = []
    for shard in range(2):
        rows = [
            {
                "video": f"v{shard}",
                "person": "left",
                "frame": k,
                "crop": encode_crop(np.full((32, 32, 3), 40 * shard + 10 * k, np.uint8)),
                "image": None,
            }
            for k in range(3)
        ]
        path = tmp_path / f"{shard}.parquet"
        write_table(path, pa.Table.from_pylist(rows).to_pandas())
        shards.append(path)
    keys = pd.DataFrame({"video": ["v1", "v0", "v2"], "person": "left", "frame": [2, 1, 0]})
    found = find_crops(keys, shards)
    means = [cv2.imdecode(np.frombuffer(c, np.uint8), 1).mean() for c in found[:2]]
    assert means == pytest.approx([60, 10], abs=1)
    assert found[2] == b""


def counted(values: dict[str, float], people: int = 24) -> Counted:
    """Settings that are right with the given chances."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 8, (people, 60))
    dice = rng.random(truth.shape)
    seeds = {}
    for variant, chance in values.items():
        said = np.where(dice < chance, truth, (truth + 1) % 8)
        cells = [
            [
                [
                    ((t == c) & (s == c)).sum(),
                    ((t != c) & (s == c)).sum(),
                    ((t == c) & (s != c)).sum(),
                ]
                for c in range(8)
            ]
            for t, s in zip(truth, said, strict=True)
        ]
        seeds[Setting("head", "x", variant, 0.5)] = {0: np.array(cells, float)}
    names = [f"p{k}" for k in range(people)]
    return Counted(names, EXPR.targets, seeds, {s: np.zeros((people, 8)) for s in seeds})


def test_the_limits_answer_follows_its_table() -> None:
    people = pd.DataFrame({"person": ["a", "b", "c"], "f1": [0.2, 0.5, 0.9]})
    table = disturbance_table(counted({"": 0.9, "blur, 4": 0.3, "noise, 10": 0.895}), 1000)
    said = limits_answer("EXPR", table, people, "people")
    assert "most is lost to blur, 4 (-0.5" in said
    assert "Not shown to cost anything: noise, 10." in said
    assert "Of 3 people the worst read scores 0.200, the best 0.900, the middle one 0.500." in said
    table = disturbance_table(counted({"": 0.9, "blur, 4": 0.899, "noise, 10": 0.2}), 1000)
    said = limits_answer("EXPR", table, people, "people")
    assert "most is lost to noise, 10" in said
    few = disturbance_table(counted({"": 0.9, "blur, 4": 0.3}, people=5), 1000)
    assert "too few people to test" in limits_answer("EXPR", few, people, "people")


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("clipaffect-micro", "transformer.resblocks.1"),
        ("ViT-L-14-quickgelu", "transformer.resblocks.23"),
        ("clipaffect-dinov2-s14", "trunk.blocks.11"),
        # A stage is not a block: MobileNetV2's last has one of them, ConvNeXt's three.
        ("clipaffect-tiny", "trunk.blocks.6.0"),
        ("convnext_base", "trunk.stages.3.blocks.2"),
        ("RN50", "layer4.2"),
    ],
)
def test_the_last_block_is_the_last(model: str, name: str) -> None:
    visual = create_untrained(model, "meta").visual
    assert last_block(visual) is visual.get_submodule(name)


def test_a_tower_without_blocks_is_named() -> None:
    with pytest.raises(UserError, match="has none of"):
        last_block(nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("model", "side"),
    [
        ("clipaffect-micro", 64),
        ("clipaffect-tiny", 112),
        ("ViT-B-32", 224),
        ("RN50", 224),
        ("clipaffect-mobilenet-v2", 224),
    ],
)
def test_a_tower_entered_at_its_last_block_is_the_whole_tower(model: str, side: int) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    visual = create_untrained(model).visual.float().eval().requires_grad_(False)
    pictures = torch.randn(3, 3, side, side)
    with torch.inference_mode():
        features, inputs = run_keeping(visual, pictures)
        assert torch.equal(features, visual(pictures))
    block = last_block(visual).requires_grad_(True)
    with torch.no_grad():
        for weight in block.parameters():
            weight.add_(0.01 * torch.randn_like(weight))
    moved = visual(pictures)
    assert not torch.allclose(moved, features, rtol=1e-3)
    moved.square().sum().backward()
    whole = [weight.grad for weight in block.parameters()]
    visual.zero_grad()
    entered = run_from(visual, pictures[1:2], inputs.clone())
    torch.testing.assert_close(entered, moved)
    entered.square().sum().backward()
    torch.testing.assert_close(
        [weight.grad for weight in block.parameters()], whole, rtol=1e-4, atol=1e-4
    )
    assert all(weight.grad is None for weight in set(visual.parameters()) - set(block.parameters()))


def test_kept_inputs_leave_no_file(tmp_path: Path) -> None:
    kept, given = KeptInputs(5, tmp_path), torch.randn(5, 2, 3)
    kept.put(np.array([3, 4]), given[3:])
    kept.put(np.array([0, 1, 2]), given[:3])
    assert torch.equal(kept[np.array([4, 0, 4])], given[[4, 0, 4]])
    assert not list(tmp_path.iterdir())


def test_a_disk_without_room_for_the_inputs_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no space for 40000000\.0 GB") as caught:
        KeptInputs(10**16, tmp_path).put(np.zeros(1, int), torch.zeros(1, 1))
    assert str(tmp_path) in str(caught.value)


def test_only_the_block_and_the_head_move() -> None:
    torch.set_num_threads(1)
    visual = build_model(MICRO, Path()).visual.float().eval().requires_grad_(False)
    before = {name: w.clone() for name, w in visual.state_dict().items()}
    pictures = torch.randn(40, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    labels = (torch.arange(40) % 8)[:, None]
    recipe = Recipe(hidden_layers=1, width=16, batch=16, dropout=0.2)
    inputs = visual(pictures[:1]).shape[1]
    head = Head(inputs, 8, 1, 16, seed=0).eval()
    alone, again = deepcopy(head), deepcopy(head)
    frozen = visual(pictures).detach()
    done: list[int] = []
    tune(None, alone, lambda rows: frozen[rows], labels, EXPR, recipe, 0.5, 0, done.append)
    assert all(torch.equal(w, before[name]) for name, w in visual.state_dict().items())
    assert sum(done) == 80
    tune(None, again, lambda rows: frozen[rows], labels, EXPR, recipe, 0.5, 0, done.append)
    assert all(
        torch.equal(a, b) for a, b in zip(alone.parameters(), again.parameters(), strict=True)
    )
    tuned = deepcopy(head)
    tune(
        visual,
        tuned,
        lambda rows: visual(pictures[rows]),
        labels,
        EXPR,
        recipe,
        0.5,
        0,
        done.append,
    )
    moved = {name for name, w in visual.state_dict().items() if not torch.equal(w, before[name])}
    assert moved
    assert all(name.startswith("transformer.resblocks.1.") for name in moved)
    assert not torch.equal(tuned.output.weight, head.output.weight)


def test_the_tuning_answer_follows_its_table() -> None:
    arms = {"": 0.6, "frozen, goes on": 0.6, "last block tuned": 0.75}
    said = tuning_answer("EXPR", arms_table(counted(arms), 1000), 0.19)
    assert "tuning the block helps" in said
    assert "19% of the tower's weights" in said
    arms |= {"last block tuned": 0.45}
    assert "tuning the block harms" in tuning_answer("X", arms_table(counted(arms), 1000), 0.2)
    arms |= {"last block tuned": 0.6}
    assert "it is not shown" in tuning_answer("X", arms_table(counted(arms), 1000), 0.2)
    few = arms_table(counted(arms, people=6), 1000)
    assert "too small for a test" in tuning_answer("X", few, 0.2)


def test_published_costs_name_their_sources() -> None:
    table = published_costs().set_index("system")
    assert table["source"].str.len().min() > 5
    assert table["said"].str.len().min() > 5
    # A ViT-L/14's products by hand: 24 blocks of width 1,024 on 257 tokens, and the patches.
    tokens, width = 257, 1024
    block = 24 * tokens * width**2 + 4 * tokens**2 * width
    flop = 24 * block + 2 * 256 * 3 * 14 * 14 * width
    paper = table.loc[next(name for name in table.index if "the paper's" in name)]
    assert paper["gflop"] == pytest.approx(flop / 1e9, rel=0.005)


def test_the_cost_answer_follows_its_table() -> None:
    rows = pd.DataFrame(
        {
            "what": ["encoder e", "head, EXPR"],
            "million_parameters": [2.0, 0.2],
            "gflop": [0.16203, 0.002],
            "times": "",
        }
    )
    said = cost_answer("EXPR", rows, "e", published_costs())
    assert said.endswith("the paper's ViT-L/14 takes 1,000 times as much.")
    large = rows.assign(gflop=[324.06, 0.002])
    said = cost_answer("EXPR", large, "e", published_costs())
    assert said.endswith("2 times as much as the paper's ViT-L/14.")
    assert cost_answer("EXPR", rows[1:], "e", published_costs()).endswith(
        "its features were imported."
    )
