"""Coverage of 95 % intervals of macro F1: this project's intervals compared with the usual ones.

Simulated people differ in which classes they show, for how long, and how well they are predicted.
The true value is that of 100,000 of them. Prints a Markdown table with the share of trials whose
interval covers the true value, and the mean width. Then does the same for a true difference of
zero: a second method predicts some of the people again with the same skill, and the table shows how
often the paired test calls the difference significant.

    python benchmarks/coverage.py [trials]
    python benchmarks/coverage.py --smoke       # a few trials: does it run?
"""

from __future__ import annotations

import sys
from collections import defaultdict

import numpy as np
from scipy.stats import norm

from clipaffect.evaluation.bootstrap import influences, intervals, macro_f1, swap_test

RARE = np.array([1, 0.3, 0.3, 0.25, 0.6, 0.5, 0.4, 0.7])  # share of people who show a class
COMMON = np.full(8, 0.8)
SKILL = np.array([1, -0.5, -0.5, -1, 0.8, 0, 0.2, -0.3])
SMOKE = "--smoke" in sys.argv
RESAMPLES = 40 if SMOKE else 1000
TRIALS = 2 if SMOKE else int(sys.argv[1]) if len(sys.argv) > 1 else 2000
EVERYBODY = 1_000 if SMOKE else 100_000  # whose score is the true value
PEOPLE = (20,) if SMOKE else (20, 24, 40, 70, 150)


def answers(
    rng: np.random.Generator, frames: np.ndarray, logit: np.ndarray, said: np.ndarray
) -> np.ndarray:
    """(people, 8, 3): TP, FP and FN of each class, when everybody is read once."""
    hits = rng.binomial(frames, 1 / (1 + np.exp(-logit)))
    misses = frames - hits
    alarms = np.zeros_like(misses)
    for k in range(8):
        others = said * (np.arange(8) != k)
        alarms += rng.multinomial(misses[:, k], others / others.sum(axis=1, keepdims=True))
    return np.stack([hits, alarms, misses], axis=-1).astype(float)


def drawn_people(
    rng: np.random.Generator, people: int, shows: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What people show, how well they are read, and what is said where they are not."""
    shown = rng.random((people, 8)) < shows
    shown[:, 0] = True
    frames = rng.poisson(rng.lognormal(4, 0.8, (people, 8)) * shown)
    logit = 0.3 + SKILL + rng.normal(0, 0.8, (people, 1)) + rng.normal(0, 0.8, (people, 8))
    return frames, logit, rng.dirichlet(np.full(8, 0.7), people)


def people_counts(rng: np.random.Generator, people: int, shows: np.ndarray) -> np.ndarray:
    """The counts of people who are read once."""
    return answers(rng, *drawn_people(rng, people, shows))


def usual(counts: np.ndarray, rng: np.random.Generator) -> dict[str, tuple[float, float]]:
    """The percentile and the BCa interval (Efron 1987), and the normal one."""
    people = len(counts)
    weights = rng.multinomial(people, np.full(people, 1 / people), size=RESAMPLES)
    drawn = macro_f1(np.einsum("rc,ctk->rtk", weights, counts))
    sums = counts.sum(axis=0)
    point = float(macro_f1(sums))
    moved = influences(sums[None], counts)[0]
    skew = (moved**3).sum() / (6 * (moved**2).sum() ** 1.5)
    bias = norm.ppf(np.clip((drawn < point).mean(), 1e-3, 1 - 1e-3))

    def corrected(level: float) -> float:
        z = bias + norm.ppf(level)
        return float(np.quantile(drawn, norm.cdf(bias + z / (1 - skew * z))))

    error = np.sqrt((moved**2).sum() * people / (people - 1))
    return {
        "percentile": (float(np.quantile(drawn, 0.025)), float(np.quantile(drawn, 0.975))),
        "BCa": (corrected(0.025), corrected(0.975)),
        "normal, jackknife error": (point - 1.96 * error, point + 1.96 * error),
    }


def main() -> None:
    """Print the table of intervals."""
    print(f"{TRIALS} trials of {RESAMPLES} resamples\n")
    print("| classes | people | interval | covers | too low | too high | width |")
    print("|---|---|---|---|---|---|---|")
    for name, shows in (("some rare", RARE), ("all common", COMMON)):
        rng = np.random.default_rng(0)
        truth = float(macro_f1(people_counts(rng, EVERYBODY, shows).sum(axis=0)))
        for people in PEOPLE:
            found = defaultdict(list)
            for _ in range(TRIALS):
                counts = people_counts(rng, people, shows)
                (own,) = intervals({"a": counts}, [{"a": 1.0}], RESAMPLES)
                for kind, interval in usual(counts, rng).items():
                    found[kind].append(interval)
                found["bootstrap-t (used)"].append((own.low, own.high))
            for kind, bounds in found.items():
                low, high = np.array(bounds).T
                below, above = (high < truth).mean(), (low > truth).mean()
                covers = ((low <= truth) & (truth <= high)).mean()
                print(
                    f"| {name} | {people} | {kind} | {covers:.3f} | {below:.3f} | {above:.3f} "
                    f"| {np.nanmean(high - low):.3f} |",
                    flush=True,
                )


def differences() -> None:
    """Print the table of two methods that do not differ."""
    print("\n| people | answered anew | interval covers 0 | p < 0.05 | 0 outside and p >= 0.05 |")
    print("|---|---|---|---|---|")
    rng = np.random.default_rng(1)
    for people in (22, 70):
        for share in (0.45, 1.0):
            covers, small = np.zeros(TRIALS, bool), np.zeros(TRIALS, bool)
            for trial in range(TRIALS):
                drawn = drawn_people(rng, people, RARE)
                first = answers(rng, *drawn)
                anew = rng.random(people) < share
                second = np.where(anew[:, None, None], answers(rng, *drawn), first)
                members = {"a": first, "b": second}
                (found,) = intervals(members, [{"a": 1.0, "b": -1.0}], RESAMPLES)
                covers[trial] = not (found.low > 0 or found.high < 0)
                small[trial] = swap_test([first], [second], RESAMPLES) < 0.05
            print(
                f"| {people} | {share:.0%} | {covers.mean():.3f} | {small.mean():.3f} "
                f"| {(~covers & ~small).mean():.3f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
    differences()
