"""Statistics over people, against frames counted by sklearn, scipy, R's values, and simulations."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import f1_score

from clipaffect.core.metrics import f1_per_target
from clipaffect.core.tasks import AU, EXPR
from clipaffect.evaluation.bootstrap import (
    FEWEST,
    holm,
    influences,
    intervals,
    macro_f1,
    swap_test,
)
from clipaffect.evaluation.person_counts import cluster_counts, count_array

RARE = np.array([1, 0.3, 0.3, 0.25, 0.6, 0.5, 0.4, 0.7])  # share of people who show a class


def people_counts(rng: np.random.Generator, people: int, skill: float = 0.3) -> np.ndarray:
    """(people, 8, 3): people differ in what they show, for how long, and how well it is seen."""
    shown = rng.random((people, 8)) < RARE
    shown[:, 0] = True
    frames = rng.poisson(rng.lognormal(4, 0.8, (people, 8)) * shown)
    logit = skill + rng.normal(0, 0.8, (people, 1)) + rng.normal(0, 0.8, (people, 8))
    hits = rng.binomial(frames, 1 / (1 + np.exp(-logit)))
    misses = frames - hits
    alarms = np.zeros_like(misses)
    for person in range(people):
        said = rng.dirichlet(np.ones(8))
        for k in range(8):
            others = np.delete(said, k) / np.delete(said, k).sum()
            alarms[person, np.arange(8) != k] += rng.multinomial(misses[person, k], others)
    return np.stack([hits, alarms, misses], axis=-1).astype(float)


def frames_of(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return (
        rng.integers(0, 8, (count, 1)),
        rng.integers(0, 8, (count, 1)),
        rng.choice([f"p{k}" for k in range(25)], count),
    )


def test_counts_of_people_add_up_to_the_frames_f1() -> None:
    rng = np.random.default_rng(0)
    labels, decisions, groups = frames_of(rng, 600)
    names = sorted(set(groups))
    found = count_array(cluster_counts(labels, decisions, groups, EXPR), names, EXPR.targets)
    assert macro_f1(found.sum(axis=0)) == pytest.approx(
        f1_score(labels[:, 0], decisions[:, 0], average="macro", labels=range(8))
    )
    units, said = rng.integers(-1, 2, (300, 12)), rng.integers(0, 2, (300, 12))
    counts = count_array(cluster_counts(units, said, groups[:300], AU), names, AU.targets)
    assert macro_f1(counts.sum(axis=0)) == pytest.approx(f1_per_target(units, said, AU).mean())


def test_an_influence_is_the_slope_when_one_person_weighs_more() -> None:
    counts = people_counts(np.random.default_rng(1), 30)
    weights = np.random.default_rng(2).multinomial(30, np.full(30, 1 / 30)).astype(float)
    sums = np.einsum("c,ctk->tk", weights, counts)
    found = influences(sums[None], counts)[0]
    for person in range(30):
        moved = macro_f1(sums + 1e-6 * counts[person]) - macro_f1(sums - 1e-6 * counts[person])
        assert found[person] == pytest.approx(moved / 2e-6, abs=1e-6)
    assert weights @ found == pytest.approx(0, abs=1e-9)


def test_the_interval_is_that_of_a_loop_over_frames() -> None:
    rng = np.random.default_rng(3)
    labels, decisions, groups = frames_of(rng, 900)
    decisions = np.where(rng.random((900, 1)) < 0.5, labels, decisions)
    names = sorted(set(groups))
    counts = count_array(cluster_counts(labels, decisions, groups, EXPR), names, EXPR.targets)
    (found,) = intervals({"a": counts}, [{"a": 1.0}], 1000, seed=5)

    def score(weight: np.ndarray) -> float:
        """scikit-learn's sums of weighted frames; its f1_score checks its arguments for 5 ms."""
        each = weight[np.searchsorted(names, groups)]
        table = np.zeros((8, 8))
        np.add.at(table, (labels[:, 0], decisions[:, 0]), each)
        both = table.sum(axis=0) + table.sum(axis=1)
        return float(np.mean(2 * np.diag(table) / np.where(both > 0, both, 1)))

    drawn = rng.integers(0, 3, len(names)).astype(float)
    weights = drawn[np.searchsorted(names, groups)]
    assert score(drawn) == pytest.approx(
        f1_score(
            labels[:, 0],
            decisions[:, 0],
            average="macro",
            sample_weight=weights,
            labels=range(8),
            zero_division=0,
        )
    )

    def error(weight: np.ndarray) -> float:
        """Standard error by numerical derivatives, one for each person drawn."""
        slopes = []
        for person, drawn in enumerate(weight):
            step = np.zeros(len(names))
            step[person] = 1e-4
            slope = (score(weight + step) - score(weight)) / 1e-4
            slopes += [slope] * int(drawn)
        return float(np.sqrt(np.sum(np.square(slopes)) * len(names) / (len(names) - 1)))

    whole = np.ones(len(names))
    assert found.estimate == pytest.approx(score(whole))
    assert found.standard_error == pytest.approx(error(whole), rel=1e-3)
    draws = np.random.default_rng(5).multinomial(len(names), whole / len(names), size=1000)
    # A hundred of them are enough to see the same resamples and the same t.
    (few,) = intervals({"a": counts}, [{"a": 1.0}], 100, seed=5)
    t = [(score(w) - score(whole)) / error(w) for w in draws[:100].astype(float)]
    assert (few.low_t, few.high_t) == pytest.approx(np.quantile(t, [0.025, 0.975]), rel=2e-3)


@pytest.mark.parametrize("people", [24, pytest.param(60, marks=pytest.mark.slow)])
def test_intervals_cover_the_truth_as_often_as_they_say(people: int) -> None:
    rng = np.random.default_rng(people)
    truth = float(macro_f1(people_counts(rng, 20_000).sum(axis=0)))
    covered, percentile = [], []
    for _ in range(250):
        counts = people_counts(rng, people)
        (found,) = intervals({"a": counts}, [{"a": 1.0}], 1000)
        covered.append(found.low <= truth <= found.high)
        weights = rng.multinomial(people, np.full(people, 1 / people), size=400)
        drawn = macro_f1(np.einsum("rc,ctk->rtk", weights, counts))
        low, high = np.quantile(drawn, [0.025, 0.975])
        percentile.append(low <= truth <= high)
    # 2,000 trials give 0.94; of 250 the share has a deviation of 0.015.
    assert np.mean(covered) > 0.89
    assert np.mean(covered) >= np.mean(percentile)


def test_a_difference_is_more_certain_than_its_parts() -> None:
    rng = np.random.default_rng(6)
    first = people_counts(rng, 40)
    second = first.copy()
    moved = np.minimum(first[..., 0], rng.poisson(2, first[..., 0].shape))
    second[..., 0] -= moved
    second[..., 2] += moved
    members = {"a": first, "b": second}
    one, difference = intervals(members, [{"a": 1.0}, {"a": 1.0, "b": -1.0}], 2000)
    assert 0 < difference.low < difference.estimate < difference.high
    assert difference.high - difference.low < (one.high - one.low) / 3


def test_few_people_have_no_interval() -> None:
    counts = people_counts(np.random.default_rng(7), FEWEST)
    (enough,) = intervals({"a": counts}, [{"a": 1.0}], 1000)
    (few,) = intervals({"a": counts[:-1]}, [{"a": 1.0}], 1000)
    assert enough.low < enough.estimate < enough.high
    assert few.estimate == pytest.approx(macro_f1(counts[:-1].sum(axis=0)))
    assert np.isnan([few.low, few.high, few.standard_error]).all()
    (alone,) = intervals({"a": counts[:1]}, [{"a": 1.0}], 1000)
    assert alone.estimate == pytest.approx(macro_f1(counts[0]))


def test_a_difference_that_hangs_on_one_person_has_no_interval() -> None:
    first = people_counts(np.random.default_rng(8), 40)
    second = first.copy()
    second[3, 0] += [-5, 0, 5]
    (found,) = intervals({"a": first, "b": second}, [{"a": 1.0, "b": -1.0}], 1000)
    assert found.estimate > 0
    assert np.isnan([found.low, found.high]).all()
    assert found.standard_error > 0


def test_p_is_scipys_over_every_exchange() -> None:
    rng = np.random.default_rng(9)
    first, second = people_counts(rng, 9, 1.5), people_counts(rng, 9, -0.5)
    both, people = np.stack([first, second]), np.arange(9)

    def statistic(one: np.ndarray, other: np.ndarray) -> float:
        a, b = (both[method.astype(int), people].sum(axis=0) for method in (one, other))
        return float(macro_f1(a) - macro_f1(b))

    # scipy exchanges, person by person, the number of the method whose answers are counted.
    exact = stats.permutation_test(
        (np.zeros(9), np.ones(9)),
        statistic,
        permutation_type="samples",
        vectorized=False,
        n_resamples=np.inf,
        alternative="two-sided",
    )
    found = swap_test([first], [second], 20_000)
    assert 0.005 < exact.pvalue < 0.9
    assert found == pytest.approx(exact.pvalue, abs=0.01)


def test_p_is_small_where_methods_differ_and_large_where_they_are_one() -> None:
    rng = np.random.default_rng(10)
    first, second = people_counts(rng, 60, 1.5), people_counts(rng, 60, -0.5)
    assert swap_test([first], [second], 999) == 1 / 1000
    assert swap_test([first, second], [first, second], 999) == 1.0
    # A reference without seeds stands beside each seed.
    assert swap_test([first, first], [second], 999) == swap_test([first], [second], 999)


def test_holm_is_as_in_r() -> None:
    # p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm") in R
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []
