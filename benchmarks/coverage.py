"""How often 95 % intervals of macro F1 cover the truth: the project's beside the usual ones.

Simulated people differ in which classes they show, for how long, and how well they are read; the
truth is that of 100,000 of them. Prints a Markdown table: the share of trials whose interval covers
the truth, and the mean width.

    python benchmarks/coverage.py [trials]
"""

from __future__ import annotations

import sys
from collections import defaultdict

import numpy as np
from scipy.stats import norm

from clipaffect.evaluation.bootstrap import influences, intervals, macro_f1

RARE = np.array([1, 0.3, 0.3, 0.25, 0.6, 0.5, 0.4, 0.7])  # share of people who show a class
COMMON = np.full(8, 0.8)
SKILL = np.array([1, -0.5, -0.5, -1, 0.8, 0, 0.2, -0.3])
RESAMPLES = 1000


def people_counts(rng: np.random.Generator, people: int, shows: np.ndarray) -> np.ndarray:
    """(people, 8, 3): TP, FP and FN of each class."""
    shown = rng.random((people, 8)) < shows
    shown[:, 0] = True
    frames = rng.poisson(rng.lognormal(4, 0.8, (people, 8)) * shown)
    logit = 0.3 + SKILL + rng.normal(0, 0.8, (people, 1)) + rng.normal(0, 0.8, (people, 8))
    hits = rng.binomial(frames, 1 / (1 + np.exp(-logit)))
    misses = frames - hits
    said = rng.dirichlet(np.full(8, 0.7), people)
    alarms = np.zeros_like(misses)
    for k in range(8):
        others = said * (np.arange(8) != k)
        alarms += rng.multinomial(misses[:, k], others / others.sum(axis=1, keepdims=True))
    return np.stack([hits, alarms, misses], axis=-1).astype(float)


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
    """Print the table."""
    trials = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    print(f"{trials} trials of {RESAMPLES} resamples\n")
    print("| classes | people | interval | covers | too low | too high | width |")
    print("|---|---|---|---|---|---|---|")
    for name, shows in (("some rare", RARE), ("all common", COMMON)):
        rng = np.random.default_rng(0)
        truth = float(macro_f1(people_counts(rng, 100_000, shows).sum(axis=0)))
        for people in (20, 24, 40, 70, 150):
            found = defaultdict(list)
            for _ in range(trials):
                counts = people_counts(rng, people, shows)
                (own,) = intervals({"a": counts}, [{"a": 1.0}], RESAMPLES)
                for kind, bounds in usual(counts, rng).items():
                    found[kind].append(bounds)
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


if __name__ == "__main__":
    main()
