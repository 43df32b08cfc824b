"""Studies of factors: every combination, what each factor brings, and what luck brings."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT

from clipaffect.config import load_config, parse_config
from clipaffect.config.factors import Combination, Level, combine
from clipaffect.config.models import Config
from clipaffect.config.studies import Planned, Study, plan_study, read_study
from clipaffect.core.errors import UserError
from clipaffect.core.setting import Setting
from clipaffect.core.tasks import AU, EXPR, Task
from clipaffect.evaluation.person_counts import macro_f1
from clipaffect.postprocess.steps import Rows, adjust
from clipaffect.studies.factor_grid import Scores, decide_beside_prior, label_shares
from clipaffect.studies.factor_levels import level_table
from clipaffect.studies.shapley import (
    Points,
    contributions,
    ends_of,
    find_points,
    points_answer,
    shapley_pairs,
    winners_curse,
)

POINTS = read_study(ROOT / "config/studies/points.yaml")


def factors(**levels: dict[str, Level]) -> dict[str, dict[str, Level]]:
    return dict(levels)


TWO = factors(
    head={"linear": Level(recipe={"hidden_layers": 0}), "own": Level()},
    precision={"fp32": Level(encoder={"precision": "fp32"}), "own": Level()},
)


def test_every_combination_names_its_encoder_and_its_recipe() -> None:
    found = combine(Config(), "s", TWO)
    assert [(u.setting.encoder, u.setting.variant) for u in found.every] == [
        ("s-precision.fp32", "head.linear"),
        ("tiny-clip", "head.linear"),
        ("s-precision.fp32", ""),
        ("tiny-clip", ""),
    ]
    assert found.encoders["s-precision.fp32"].precision == "fp32"
    assert found.encoders["s-precision.fp32"].asset == "tiny-clip"
    assert found.variants == {"head.linear": {"hidden_layers": 0}}
    assert {u.setting.alpha for u in found.every} == {0.5}


def test_what_changes_nothing_is_the_runs_own() -> None:
    crops = {"box": "cropped", "aligned": "aligned"}
    same = factors(
        crop={name: Level(encoder={"crop": crop}) for name, crop in crops.items()},
        precision={name: Level(encoder={"precision": name}) for name in ("fp32", "bf16")},
    )
    found = combine(Config(), "s", same)
    assert found.every[-1].setting.encoder == "tiny-clip"
    assert set(found.encoders) == {
        "s-crop.box-precision.fp32",
        "s-crop.box-precision.bf16",
        "s-crop.aligned-precision.fp32",
    }
    assert found.encoders["s-crop.aligned-precision.fp32"].crop is None


def test_an_encoder_of_its_own_takes_nothing_from_the_runs() -> None:
    level = {
        "own": Level(),
        "pixels": Level(encoder={"kind": "pixels"}),
        "random": Level(encoder={"random": 3}),
    }
    found = combine(Config(), "s", {"encoder": level})
    assert [u.setting.encoder for u in found.every] == ["tiny-clip", "pixels", "s-encoder.random"]
    entry = found.encoders["s-encoder.random"]
    assert (entry.asset, entry.random, entry.model) == (None, 3, "clipaffect-tiny")


def test_a_factor_that_cannot_vary_is_left_out_and_named() -> None:
    cut = parse_config(
        {"data": {"images": ["somewhere"], "annotations": "a", "videos": None}}, "test"
    )
    planned = plan_study(cut, "points", POINTS)
    assert planned.combinations.left_out == {
        "crop": "the images are already cropped",
        "activation": "'tiny-clip' uses relu, which cannot be swapped",
    }
    assert len(planned.combinations.every) == 2**6
    features = {"import": {"theirs": {"file": "x.parquet"}}}
    imported = parse_config({"features": features, "data": {"annotations": "a"}}, "test")
    planned = plan_study(imported, "points", POINTS)
    assert set(planned.combinations.left_out) == {"crop", "activation", "precision"}
    assert planned.encoders() == ["theirs"]


def test_clips_activation_is_one_of_the_choices() -> None:
    config = load_config(ROOT / "config/aff-wild2.yaml")
    planned = plan_study(config, "points", POINTS)
    assert set(planned.combinations.left_out) == {"crop"}
    assert len(planned.combinations.every) == 2**7
    swapped = {
        planned.config.encoders[own.setting.encoder].swap_activation
        for own in planned.combinations.every
        if own.levels["activation"] == "swapped"
    }
    assert swapped == {True}
    assert not config.encoders[planned.combinations.every[-1].setting.encoder].swap_activation
    assert planned.config.training.seeds == config.training.seeds[:2]


@pytest.mark.parametrize(
    ("levels", "words"),
    [
        (
            {
                "a": {"x": Level(recipe={"rho": 0}), "y": Level()},
                "b": {"x": Level(recipe={"rho": 1}), "y": Level()},
            },
            "two factors change 'rho'",
        ),
        ({"a": {"x": Level(alpha=0.3), "y": Level()}}, "'alpha' must be 1"),
        (
            {
                "a": {
                    "b-c.d": Level(recipe={"rho": 0}),
                    "y": Level(),
                    "b": Level(recipe={"rho": 1}),
                },
                "c": {"d": Level(recipe={"dropout": 0}), "y": Level()},
            },
            "would have the name 'a.b-c.d'",
        ),
        ({"a": {"x": Level(encoder={"crop": "round"}), "y": Level()}}, "the encoder of 'a.x'"),
    ],
)
def test_levels_that_make_no_sense_are_named(
    levels: dict[str, dict[str, Level]], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        combine(Config(), "s", levels)
    study = Study(question="q", answer="points", factors=levels)
    with pytest.raises(UserError, match=words) as error:
        plan_study(Config(), "mine", study)
    assert "mine.yaml" in str(error.value.where)


def test_levels_of_one_name_are_told_apart() -> None:
    levels = {
        "dropout": {"none": Level(recipe={"dropout": 0}), "own": Level()},
        "decay": {"none": Level(recipe={"weight_decay": 0}), "own": Level()},
    }
    found = combine(Config(), "s", levels)
    assert found.variants == {
        "dropout.none-decay.none": {"dropout": 0, "weight_decay": 0},
        "dropout.none": {"dropout": 0},
        "decay.none": {"weight_decay": 0},
    }
    assert len({(u.setting.encoder, u.setting.variant) for u in found.every}) == 4


@pytest.mark.parametrize(
    ("level", "words"),
    [
        ({"smooth": 4}, "is even"),
        ({"recipe": {"loss": "focal"}}, "cannot change 'loss'"),
        ({"recipe": {"alphas": [0.1]}}, "cannot change 'loss' or 'alphas'"),
    ],
)
def test_a_level_that_nothing_answers_is_refused(level: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Level.model_validate(level)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"answer": "points"}, "must be used with"),
        (
            {"factors": {"a": {"x": {}, "y": {}}}, "variants": {"v": {"rho": 0}}},
            "must be used with",
        ),
        ({"answer": "levels", "factors": {k: {"x": {}, "y": {}} for k in "ab"}}, "one factor"),
        ({"answer": "levels", "factors": {"a": {"x": {}}}}, "two levels"),
        ({"answer": "beat"}, "'own' must be used with answer: beat"),
        ({"answer": "transfer"}, "'runs' must be used with answer: transfer"),
        ({"answer": "levels", "factors": {"a b": {"x": {}, "y": {}}}}, "plain name"),
    ],
)
def test_a_study_that_says_nonsense_is_refused(values: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Study.model_validate({"question": "q"} | values)


def test_your_own_head_stands_beside_the_published_recipe() -> None:
    config = load_config(ROOT / "config/config.yaml")
    planned = plan_study(config, "beat-it", Study(question="q", answer="beat", own={"width": 99}))
    recipes = planned.config.training.recipes()
    published = load_config_training("published_code")
    for key in ("hidden_layers", "width", "dropout", "rho", "epochs", "batch", "cosine_share"):
        assert getattr(recipes[""], key) == published[key]
    own = config.training.recipes()[""].model_copy(update={"width": 99})
    assert recipes["own"] == own
    heads = planned.config.training.heads()
    assert {a for v, a, _ in heads if v == "own"} == set(config.training.alphas)
    assert {a for v, a, _ in heads if not v} == {0.5}
    loss = plan_study(config, "b", Study(question="q", answer="beat", own={"loss": "focal"}))
    assert all(np.isnan(a) for v, a, _ in loss.config.training.heads() if v == "own")


def load_config_training(preset: str) -> dict:
    return parse_config(
        {"preset": preset, "data": {"annotations": "a", "images": ["b"]}}, "test"
    ).training.model_dump()


def test_a_variants_alphas_are_its_own() -> None:
    config = parse_config({"training": {"variants": {"v": {"rho": 0, "alphas": [0.2, 0.9]}}}}, "t")
    assert {a for v, a, _ in config.training.heads() if v} == {0.2, 0.9}
    assert config.training.recipes()["v"].rho == 0
    with pytest.raises(UserError, match=r"variants\.v\.alphas"):
        parse_config({"training": {"variants": {"v": {"alphas": [2]}}}}, "t")


def test_a_study_trains_what_its_answer_looks_at() -> None:
    variants = {"flat": {"rho": 0}, "focal": {"loss": "focal"}, "low": {"alphas": [0.1]}}
    planned = plan_study(Config(), "s", Study(question="q", variants=variants))
    alphas = {
        name: [a for v, a, seed in planned.config.training.heads() if v == name and seed == 0]
        for name in ("", "flat", "low")
    }
    assert alphas == {"": [0.5, 1.0], "flat": [0.5], "low": [0.1]}
    levels = {"head": TWO["head"], "loss": {"mean": Level(alpha=1), "own": Level()}}
    for factors, expected in ((levels, {0.5, 1.0}), ({"head": TWO["head"]}, {0.5})):
        planned = plan_study(Config(), "s", Study(question="q", answer="points", factors=factors))
        needed = {(own.setting.variant, own.setting.alpha) for own in planned.combinations.every}
        trained = {(v, a) for v, a, _ in planned.config.training.heads()}
        assert needed == trained
        assert {a for _, a in trained} == expected


def corners(values: int) -> list[Combination]:
    levels = {name: {"low": Level(smooth=1), "high": Level(smooth=3)} for name in "abcd"[:values]}
    return combine(Config(), "s", levels).every


def test_contributions_are_the_mean_over_every_order() -> None:
    every = corners(3)
    rng = np.random.default_rng(0)
    value = {tuple(u.levels.values()): rng.random() for u in every}
    number = {tuple(u.levels.values()): k for k, u in enumerate(every)}
    for at, (factor, pairs) in enumerate(shapley_pairs(every).items()):
        steps = []
        for order in permutations(range(3)):
            now = ["low"] * 3
            for which in order:
                before = value[tuple(now)]
                now[which] = "high"
                if which == at:
                    steps.append(value[tuple(now)] - before)
        flat = {k: value[key] for key, k in number.items()}
        by_pairs = sum(share * (flat[one] - flat[other]) for one, other, share in pairs)
        assert by_pairs == pytest.approx(np.mean(steps)), factor
    assert ends_of(every)["a"] == ("low", "high")


def counts_of(skill: Any, people: int = 24, frames: int = 60, seed: int = 0) -> list:
    """Counts of universes that are right with the given probabilities, on 8 classes."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 8, (people, frames))
    found = []
    for chance in skill:
        by_seed = {}
        for number in (0, 1):
            right = rng.random(truth.shape) < chance
            said = np.where(right, truth, (truth + rng.integers(1, 8, truth.shape)) % 8)
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
            by_seed[number] = np.array(cells, float)
        found.append(by_seed)
    return found


def test_contributions_add_up_and_find_what_was_put_in() -> None:
    every = corners(2)  # a low b low, a low b high, ...
    counts = counts_of(np.array([0.5, 0.5, 0.7, 0.7]))
    table = contributions(every, counts, 1000).set_index("factor")
    mean = [np.mean([macro_f1(c.sum(axis=0)) for c in own.values()]) for own in counts]
    assert table["difference"].sum() == pytest.approx(mean[-1] - mean[0])
    assert table.loc["a", "difference"] == pytest.approx(0.2, abs=0.04)
    assert table.loc["a", "p_adjusted"] < 0.005
    assert 0.1 < table.loc["a", "low"] < table.loc["a", "high"] < 0.3
    assert table.loc["b", "p_adjusted"] > 0.05


def test_p_of_a_factor_that_does_nothing_is_uniform() -> None:
    every, found = corners(1), []
    for seed in range(150):
        rng = np.random.default_rng(1000 + seed)
        # People differ in how well they are read; the two levels do not.
        skill = rng.uniform(0.3, 0.9, (24, 1))
        counts = counts_of([skill, skill], frames=20, seed=seed)
        found.append(contributions(every, counts, 1000)["p"].iloc[0])
    rate = np.mean(np.array(found) < 0.05)
    assert 0.005 < rate < 0.1  # 0.05 +- 2.8 standard errors


def test_luck_is_all_of_a_gain_where_nothing_differs() -> None:
    nothing = winners_curse(counts_of(np.full(16, 0.6)), 0)
    assert nothing is not None
    assert nothing["picked_on"] > 0.005
    assert nothing["elsewhere"] < nothing["picked_on"] / 3
    real = winners_curse(counts_of(np.array([0.5, *[0.5] * 14, 0.8])), 0)
    assert real is not None
    assert real["share"] < 0.1
    assert real["elsewhere"] == pytest.approx(0.3, abs=0.03)
    assert winners_curse(counts_of(np.full(3, 0.5), people=10), 0) is None


def points_of(sign: float, luck: dict[str, float] | None) -> Points:
    table = pd.DataFrame(
        {
            "factor": ["crop", "head", "SAM"],
            "difference": [0.1 * sign, -0.05 * sign, 0.001],
            "low": 0.0,
            "high": 0.0,
            "p_adjusted": [0.001, 0.01, 0.8],
        }
    )
    combinations = pd.DataFrame({"crop": ["x"] * 4, "macro_f1": [0.9, 0.8, 0.7, 0.6]})
    return Points(combinations, table, 0.7, 0.8, luck)


def test_the_points_answer_follows_its_table() -> None:
    luck = {"picked_on": 0.02, "elsewhere": 0.015, "share": 0.25}
    said = points_answer("EXPR", points_of(1, luck))
    assert (
        "Raises the score: crop (+0.100). Lowers it: head (-0.050). No significant change: SAM."
        in said
    )
    assert "25 % of the gain comes from choosing the best one" in said
    said = points_answer("EXPR", points_of(-1, luck | {"elsewhere": -0.01, "share": 1.5}))
    assert "Raises the score: head (+0.050). Lowers it: crop (-0.100)." in said
    assert "all of the gain comes from choosing the best one" in said
    said = points_answer("EXPR", points_of(1, None))
    assert said.endswith("The best of 4 combinations scores 0.900.")


def test_a_failed_corner_gives_no_sum() -> None:
    every, counts = corners(2), counts_of(np.full(4, 0.5))
    counts[1] = {}
    assert find_points(every, counts, 1000) is None


@pytest.mark.parametrize("task", [EXPR, AU])
def test_deciding_beside_the_prior_is_logit_adjustment(task: Task) -> None:
    rng = np.random.default_rng(0)
    scores = rng.dirichlet(np.ones(8), 200) if task is EXPR else rng.random((200, 12))
    prior = rng.dirichlet(np.ones(8) * 5) if task is EXPR else rng.uniform(0.05, 0.6, 12)
    choice = {"tau": 1.0, "prior": prior} if task is EXPR else {"thresholds": prior}
    rows = Rows(np.zeros((200, 1)), [], task)
    adjusted = adjust(scores[None], choice, rows)[0]
    expected = adjusted.argmax(axis=1)[:, None] if task is EXPR else adjusted >= 0.5
    assert (decide_beside_prior(scores, prior, task) == expected).all()


def test_shares_of_labels() -> None:
    assert label_shares(np.array([[0], [0], [3], [7]]), EXPR)[[0, 3, 7]].tolist() == [
        0.5,
        0.25,
        0.25,
    ]
    labels = np.full((4, 12), -1)
    labels[:3, 0] = [1, 0, 0]
    found = label_shares(labels, AU)
    assert found[0] == pytest.approx(1 / 3)
    assert found[1] == 0


class Known(Scores):
    """Scores that are given instead of read."""

    def of(self, setting: Setting) -> dict[int, np.ndarray]:
        rng = np.random.default_rng(len(setting.encoder))
        right = np.eye(8)[self.labels[:, 0]]
        noise = rng.dirichlet(np.ones(8), len(self.labels))
        return {0: 0.3 * right + noise, 1: 0.3 * right + noise[::-1]}


def test_two_encoders_are_averaged_and_compared() -> None:
    rng = np.random.default_rng(1)
    rows = pd.DataFrame({"group": np.repeat([f"p{k:02d}" for k in range(24)], 40), "frame": 1})
    labels = rng.integers(0, 8, (len(rows), 1))
    levels = {"own": Level(), "other": Level(encoder={"kind": "pixels", "side": 9})}
    study = Study(question="q", answer="levels", factors={"encoder": levels})
    planned = plan_study(Config(), "s", study)
    assert isinstance(planned, Planned)
    scores = Known(
        rows,
        labels,
        [],
        np.full((len(rows), 8), 1 / 8),
        sorted(rows["group"].unique()),
        {"x": Path("x")},
        EXPR,
    )
    table = level_table(planned, scores, EXPR).set_index("encoder")
    assert list(table.index) == ["own", "other", "own and other, averaged"]
    # Independent noise: the mean of two is better than either.
    assert table.loc["own and other, averaged", "difference"] > 0.03
    assert table.loc["own and other, averaged", "p_adjusted"] < 0.05
    assert np.isnan(table.loc["own", "difference"])
    assert table.loc["other", "dimension"] == 81
