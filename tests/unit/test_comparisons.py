"""Which settings are compared, in which family, and what is said where nothing can be."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm
from test_intervals import people_counts

from clipaffect.config.models import Evaluation
from clipaffect.config.training import Training
from clipaffect.core.parquet import read_table, write_table
from clipaffect.core.setting import Setting
from clipaffect.core.tasks import EXPR
from clipaffect.evaluation.compare_heads import compare_heads, interval_rows, people_f1, resolution
from clipaffect.evaluation.intervals import intervals
from clipaffect.evaluation.paired_test import swap_test
from clipaffect.evaluation.person_counts import Counted, macro_f1

SETTINGS = Training(
    alphas=(0.5, 0.9, 1.0),
    seeds=(0, 1),
    parts=1,
    variants={"no-sam": {"rho": 0}, "focal": {"loss": "focal"}},
)
EVALUATION = Evaluation(resamples=1000)
NAN = float("nan")


def rows(counts: np.ndarray, **keys: object) -> pd.DataFrame:
    people = [f"p{k:02d}" for k in range(len(counts))]
    parts = [
        pd.DataFrame(
            {
                "group": person,
                "target": list(EXPR.targets),
                "hits": own[:, 0],
                "false_alarms": own[:, 1],
                "misses": own[:, 2],
                "annotated": (own[:, 0] + own[:, 2]).sum(),
            }
        )
        for person, own in zip(people, counts.astype(int), strict=True)
    ]
    return pd.concat(parts).assign(**keys)


def answers(base: np.ndarray, worse: float, seed: int) -> np.ndarray:
    """The same frames with some hits lost."""
    rng = np.random.default_rng(seed)
    lost = rng.binomial(base[..., 0].astype(int), worse)
    found = base.copy()
    found[..., 0] -= lost
    found[..., 2] += lost
    return found


@pytest.fixture
def compared(tmp_path: Path) -> Path:
    base = people_counts(np.random.default_rng(0), 30)
    head = {"method": "head", "encoder": "clip"}
    parts = []
    for number, (variant, alpha) in enumerate(
        [("", 0.5), ("", 0.9), ("", 1.0), ("no-sam", 0.5), ("no-sam", 1.0), ("focal", NAN)]
    ):
        for seed in (0, 1):
            if (variant, alpha, seed) == ("", 0.9, 1):
                continue  # this head failed
            own = answers(base, 0.02 + 0.03 * number, 10 * number + seed)
            parts.append(rows(own, **head, variant=variant, alpha=alpha, seed=seed))
    reference = {"variant": "", "alpha": NAN, "seed": -1}
    probe = answers(base, 0.3, 99)
    parts.append(rows(probe, method="linear_probe", encoder="clip", **reference))
    # Imported features that are there for fewer frames.
    parts.append(rows(probe // 2, method="linear_probe", encoder="other", **reference))
    write_table(tmp_path / "clusters.parquet", pd.concat(parts, ignore_index=True))
    compare_heads(SETTINGS, EVALUATION, "clip", EXPR, tmp_path / "clusters.parquet", tmp_path)
    return tmp_path


def test_the_planned_family_is_erm_and_the_references_on_the_same_frames(compared: Path) -> None:
    table = read_table(compared / "comparisons.parquet")
    planned = table[table["family"] == "planned"]
    beside = list(zip(planned["second_method"], planned["second_encoder"], strict=True))
    assert sorted(beside) == [("head", "clip"), ("linear_probe", "clip")]
    assert (planned["alpha"] == 0.5).all()
    assert (planned["difference"] > 0).all()
    # 2.80 standard errors: what each of them could show.
    spread = (planned["difference"] / planned["effect"]) / np.sqrt(30)
    assert planned["resolvable"].to_numpy() == pytest.approx(2.8016 * spread, rel=1e-3)
    # Holm over two: the smaller p doubles, and no adjusted p is below its own.
    assert planned["p_adjusted"].min() == pytest.approx(2 * planned["p"].min())


def test_other_alphas_stand_beside_erm_and_variants_beside_their_alpha(compared: Path) -> None:
    table = read_table(compared / "comparisons.parquet")
    own = table[table["family"] == "exploratory"].set_index(["variant", "alpha"])
    assert own.loc[("", 0.9), "second_alpha"] == 1.0
    assert own.loc[("", 0.9), "seeds"] == 1  # the other seed's head failed
    assert own.loc[("no-sam", 0.5), "second_alpha"] == 0.5
    assert own.loc[("no-sam", 1.0), "second_alpha"] == 1.0
    focal = own.reset_index().set_index("variant").loc["focal"]
    assert focal["second_alpha"] == 0.5
    assert len(own) == 4
    targets = table[table["family"] == "targets"]
    assert list(targets["target"]) == list(EXPR.targets)


def test_intervals_are_of_every_setting_and_widen_with_the_seeds(compared: Path) -> None:
    table = read_table(compared / "intervals.parquet")
    macro = table[table["target"] == ""]
    assert len(macro) == 8
    seeded = macro[macro["seeds"] > 1]
    assert (seeded["low_with_seeds"] < seeded["low"]).all()
    assert (seeded["high_with_seeds"] > seeded["high"]).all()
    assert macro.loc[macro["seeds"] == 1, "low_with_seeds"].isna().all()
    # Classes of the headline and of ERM.
    assert len(table[table["target"] != ""]) == 2 * 8


def test_few_people_leave_no_interval_and_no_p(tmp_path: Path) -> None:
    base = people_counts(np.random.default_rng(1), 5)
    keys = {"method": "head", "encoder": "clip", "variant": "", "seed": 0}
    parts = [rows(answers(base, a / 3, 1), alpha=a, **keys) for a in (0.5, 1.0)]
    write_table(tmp_path / "clusters.parquet", pd.concat(parts, ignore_index=True))
    compare_heads(SETTINGS, EVALUATION, "clip", EXPR, tmp_path / "clusters.parquet", tmp_path)
    table = read_table(tmp_path / "comparisons.parquet")
    assert table[["low", "high", "p", "p_adjusted", "effect"]].isna().all().all()
    assert (table.loc[table["target"] == "", "difference"] > 0).all()
    found = json.loads((tmp_path / "resolution.json").read_text())
    assert found["smallest_gain"] is None
    assert found["people"] == 5


def test_no_finished_head_is_no_crash(tmp_path: Path) -> None:
    counts = people_counts(np.random.default_rng(2), 30)
    alone = rows(counts, method="constant", encoder="", variant="", alpha=NAN, seed=-1)
    write_table(tmp_path / "clusters.parquet", alone)
    compare_heads(SETTINGS, EVALUATION, "clip", EXPR, tmp_path / "clusters.parquet", tmp_path)
    assert len(read_table(tmp_path / "comparisons.parquet")) == 0
    assert len(read_table(tmp_path / "intervals.parquet")) == 1


def expected(base: np.ndarray, lost: float) -> np.ndarray:
    """What ``answers`` gives on average."""
    hits, alarms, misses = np.moveaxis(base, -1, 0)
    return np.stack([(1 - lost) * hits, alarms, misses + lost * hits], axis=-1)


def test_the_smallest_gain_is_found_about_as_often_as_it_says() -> None:
    """Two methods with the gain that the ERM seeds alone foretell: found in about 4 of 5 trials."""
    erm = Setting("head", "clip", "", 1.0)
    found = []
    for trial in range(60):
        base = people_counts(np.random.default_rng(trial), 40, skill=1.0)
        seeds = {s: answers(base, 0.15, 1000 * trial + s) for s in range(2)}
        people = [f"p{k}" for k in range(40)]
        gain = resolution(Counted(people, EXPR.targets, {erm: seeds}, {}), erm)["smallest_gain"]
        level = np.mean([macro_f1(c.sum(axis=0)) for c in seeds.values()])
        # Fewer hits lost: by how much, so that the expected macro F1 rises by the gain.
        grid = np.linspace(0, 0.15, 61)
        lost = [macro_f1(expected(base, share).sum(axis=0)) for share in grid]
        share = grid[np.argmin(np.abs(np.array(lost) - (level + gain)))]
        better = [answers(base, share, 5000 + 1000 * trial + s) for s in range(2)]
        found.append(swap_test(better, list(seeds.values()), 500) < 0.05)
    assert 0.6 <= np.mean(found) <= 0.98
    assert norm.ppf(0.975) + norm.ppf(0.8) == pytest.approx(2.80, abs=0.01)


def test_bounds_with_seeds_add_the_variance_of_their_mean() -> None:
    base = people_counts(np.random.default_rng(3), 30)
    seeds = {seed: answers(base, 0.05 + 0.1 * seed, seed) for seed in range(3)}
    setting = Setting("head", "clip", "", 0.5)
    counted = Counted([f"p{k}" for k in range(30)], EXPR.targets, {setting: seeds}, {})
    (row,) = interval_rows(counted, [setting], "")
    each = {str(seed): counts for seed, counts in seeds.items()}
    (own,) = intervals(each, [dict.fromkeys(each, 1 / 3)])
    scores = [macro_f1(counts.sum(axis=0)) for counts in seeds.values()]
    half = own.bound * np.sqrt(own.standard_error**2 + np.var(scores, ddof=1) / 3)
    assert row["low_with_seeds"] == pytest.approx(own.estimate - half)
    assert row["high_with_seeds"] == pytest.approx(own.estimate + half)
    assert row["low_with_seeds"] < row["low"] < row["high"] < row["high_with_seeds"]


def test_a_persons_f1_is_the_mean_over_seeds() -> None:
    base = people_counts(np.random.default_rng(4), 6)
    one, other = answers(base, 0.0, 0), answers(base, 0.4, 1)
    found = people_f1([one, other])
    for person in range(6):
        f1 = []
        for counts in (one, other):
            hits, alarms, misses = counts[person].sum(axis=0)
            f1.append(2 * hits / (2 * hits + alarms + misses))
        assert f1[0] > f1[1]
        assert found[person] == pytest.approx(np.mean(f1))


def test_a_targets_people_are_all_who_were_asked_by_any_setting() -> None:
    counts = np.ones((3, 2, 3))
    first, second = Setting("head", "a", "", 0.5), Setting("head", "b", "", 0.5)
    cells = {first: np.array([[1, 0], [1, 0], [1, 1]]), second: np.array([[1, 1], [1, 0], [1, 1]])}
    seeds = {setting: {0: counts} for setting in cells}
    own = Counted(["p", "q", "r"], ("x", "y"), seeds, cells).target(1)
    assert own.people == ["p", "r"]
    assert own.targets == ("y",)
    assert own.cells[first].ravel().tolist() == [0, 1]
