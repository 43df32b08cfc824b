"""The numbers of ``metrics.json``, and the sentences that answer what a run asked."""

from __future__ import annotations

from typing import Any

from clipaffect.evaluation.compare_heads import PLANNED, TESTED
from clipaffect.evaluation.intervals import FEWEST
from clipaffect.report.results import (
    Results,
    TaskResults,
    setting_name,
    spread_of,
    without_nan,
)

LEVEL = 0.05  # of the adjusted p below which a difference is called shown


def headline(results: Results) -> dict[str, Any]:
    """The numbers of ``metrics.json``."""
    found: dict[str, Any] = {"run": results.config.run, "split": "validation", "tasks": {}}
    for name, task in results.tasks.items():
        by_alpha = task.values("macro_f1", "head").groupby("alpha")["value"]
        alphas = {f"{alpha:g}": spread_of(values) for alpha, values in by_alpha}
        alpha = results.config.training.headline_alpha
        interval = task.interval(alpha) or {}
        found["tasks"][name] = {
            "metric": "macro_f1",
            "headline_alpha": alpha,
            "headline": alphas.get(f"{alpha:g}"),
            "interval": [interval.get("low"), interval.get("high")],
            "interval_with_seeds": [
                interval.get("low_with_seeds"),
                interval.get("high_with_seeds"),
            ],
            "people": task.resolution["people"],
            "smallest_gain": task.resolution["smallest_gain"],
            "erm": alphas.get("1"),
            "alphas": alphas,
            "references": dict(task.references()),
            "planned": planned(task),
            "postprocessed": postprocessed(task),
            **{
                metric: task.mean_of(metric, alpha)
                for metric in (
                    "accuracy",
                    "macro_auc",
                    "macro_average_precision",
                    "calibration_error",
                )
            },
            "absent_in_validation": [k for k, count in task.support().items() if not count],
            "variants": task.variants(),
            "best_validation_epoch": task.best_validation_epoch(alpha),
            "complete_rows": task.complete_rows(alpha),
            "last_epochs": task.last_epochs(alpha)
            if results.config.training.select_on == "last"
            else None,
            "chosen_alpha": task.chosen_alpha(),
            "over_folds": task.over_folds(alpha),
            "collapsed_heads": int(task.heads["collapsed"].sum()),
            "frames": {k: v for k, v in task.frames.items() if k != "support"},
            "agreement": task.agreement,
            "failed_heads": int((task.heads["status"] != "ok").sum()),
        }
    return found


def planned(task: TaskResults) -> list[dict[str, Any]]:
    """The planned comparisons of the headline, each with its verdict."""
    found = []
    own = task.comparisons[task.comparisons["family"] == PLANNED]
    for _, row in own.iterrows():
        values = without_nan(row.to_dict())
        kept = (
            "seeds",
            "difference",
            "low",
            "high",
            *TESTED,
        )
        found.append(
            {"beside": setting_name(row, "second_")}
            | {key: values[key] for key in kept}
            | {"verdict": verdict(values["difference"], values["p_adjusted"])}
        )
    return found


def postprocessed(task: TaskResults) -> dict[str, Any] | None:
    """Macro F1 behind the last step after the head; None without steps."""
    if task.steps.empty:
        return None
    last = without_nan(task.steps.iloc[-1].to_dict())
    # A shift that only moves decisions makes probabilities that are not meant to be calibrated.
    meant = task.steps[task.steps["step"] != "adjust"].iloc[-1]
    return {
        "steps": list(task.steps["step"])[1:],
        "macro_f1": last["macro_f1"],
        "interval": [last["low"], last["high"]],
        "calibration_error": float(meant["calibration_error"]),
    }


def verdict(difference: float, p: float | None) -> str:
    """What a paired test says: better, worse, no difference shown, or too few people."""
    if p is None:
        return f"not tested: fewer than {FEWEST} people or source videos"
    if p >= LEVEL:
        return "no difference shown"
    return "better" if difference > 0 else "worse"


def verdicts(numbers: dict[str, Any], loss: str) -> list[str]:
    """How the headline compares with ERM and the references, in a few words.

    Args:
        numbers: a task's part of ``headline``.
        loss: of the heads.
    """
    heads = "CVaR" if loss == "cvar" else "The head"
    by_verdict: dict[str, list[str]] = {}
    found = []
    for row in numbers["planned"]:
        if not row["beside"].startswith("alpha"):
            by_verdict.setdefault(row["verdict"], []).append(row["beside"])
            continue
        size = f"{abs(row['difference']):.3f}"
        text = {
            "better": f"{heads} is better than ERM by {size}.",
            "worse": f"{heads} is worse than ERM by {size}.",
            "no difference shown": f"{heads} is not distinguishable from ERM.",
        }.get(row["verdict"], f"{heads} was not compared with ERM: too few people.")
        if row["verdict"] == "no difference shown" and row["resolvable"] is not None:
            text += (
                f" A difference below {row['resolvable']:.3f} would probably not have been "
                "detected."
            )
        found.append(text)
    words = {
        "better": "Better than {}.",
        "worse": "Worse than {}.",
        "no difference shown": "Not distinguishable from {}.",
    }
    for said, names in by_verdict.items():
        listed = _listed(names, " and ")
        found.append(words.get(said, "Not compared with {}: too few people.").format(listed))
    return found


def _listed(names: list[str], last: str) -> str:
    """Names with commas, and ``last`` before the last one."""
    return last.join(part for part in (", ".join(names[:-1]), names[-1]) if part)


def answer(name: str, numbers: dict[str, Any], unit: str) -> str:
    """One paragraph: the score, how sure it is, and how it stands to ERM and the references.

    Args:
        name: of the task.
        numbers: the task's part of ``headline``.
        unit: what the clusters are, such as ``people``.
    """
    if numbers["headline"] is None:
        return f"{name}: no head at alpha = {numbers['headline_alpha']:g} was finished."
    low, high = numbers["interval"]
    count = f"{numbers['people']} {unit}"
    if low is None:
        sure = f"no interval: {count}, fewer than {FEWEST}"
        if numbers["people"] >= FEWEST:
            sure = f"no interval: too few of the {count} determine the score"
    else:
        sure = f"95 % interval {low:.3f} to {high:.3f} over {count}"
    score = numbers["headline"]
    text = f"{name}: macro F1 {score['mean']:.3f} ({sure}) at alpha = {numbers['headline_alpha']:g}"
    seeds = f", mean of {score['seeds']} seeds." if score["seeds"] > 1 else ", from one seed."
    return " ".join([text + seeds, *_beside(numbers, unit)])


def _beside(numbers: dict[str, Any], unit: str) -> list[str]:
    """The planned comparisons as sentences."""
    found = []
    by_verdict: dict[str, list[str]] = {}
    for row in numbers["planned"]:
        sign = "+" if row["difference"] >= 0 else "−"
        p = "" if row["p_adjusted"] is None else f", p = {row['p_adjusted']:.2g}"
        shown = f"{row['beside']} ({sign}{abs(row['difference']):.3f}{p})"
        by_verdict.setdefault(row["verdict"], []).append(shown)
    words = {
        "better": "Better than {}.",
        "worse": "Worse than {}.",
        "no difference shown": "No significant difference from {}.",
    }
    for said, names in by_verdict.items():
        listed = _listed(names, " or " if said.startswith("no ") else " and ")
        found.append(words.get(said, "Not tested against {}.").format(listed))
    for row in numbers["planned"]:
        if row["beside"].startswith("alpha") and row["resolvable"] is not None:
            found.append(
                f"With these {unit}, a difference from ERM of {row['resolvable']:.3f} would be "
                "detected in 4 of 5 cases."
            )
    return found
