"""How templates become pages: escaping, and the words for numbers."""

from __future__ import annotations

import json
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup

from clipaffect.core.progress import duration
from clipaffect.dataset.summary_text import class_counts, data_notes

TASK_NAMES = {"EXPR": "Expressions (EXPR)", "AU": "Action units (AU)"}
# In the names of columns; other words stay as they are.
WORDS = {"f1": "F1", "erm": "ERM", "gflop": "GFLOP", "auc": "AUC", "au": "AU", "cvar": "CVaR"}


def page_environment() -> jinja2.Environment:
    """Templates of this folder; everything that is put into them is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("clipaffect.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["score"] = lambda value: "–" if value is None else f"{value:.3f}"
    environment.filters["embed"] = _embedded
    environment.filters["chosen"] = _chosen
    environment.filters["gain"] = lambda value: "–" if value is None else _gain(value)
    environment.filters["minus"] = _minus
    environment.filters["task"] = lambda name: TASK_NAMES.get(name, name)
    environment.filters["heading"] = _heading
    environment.filters["count"] = lambda value: f"{int(value):,}"
    environment.filters["duration"] = duration
    environment.filters["data_notes"] = data_notes
    environment.filters["class_counts"] = class_counts
    environment.filters["percent"] = lambda value: f"{100 * value:.1f} %"
    return environment


def _minus(text: str) -> str:
    """Text whose negative numbers have a minus sign, not a hyphen."""
    return text.replace("-", "−")


def _gain(value: float) -> str:
    """A difference with its sign; none if it is rounded to zero."""
    text = f"{value:+.3f}"
    return text[1:] if float(text) == 0 else _minus(text)


def _heading(column: str) -> str:
    """The name of a column of a table file, as the head of a column on a page."""
    return " ".join(WORDS.get(word, word) for word in column.split("_"))


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """A table's rows for a template; what is missing is None."""
    return table.astype(object).where(table.notna(), None).to_dict("records")


def _chosen(choice: str) -> str:
    """A step's choice, as JSON, in words; under k-fold evaluation each fold's."""
    found = json.loads(choice)
    said = [_in_words(own) for own in (found if isinstance(found, list) else [found])]
    return "; ".join(said) if any(said) else ""


def _in_words(choice: dict[str, Any]) -> str:
    if "with" in choice:
        return " and ".join(["the run's own", *choice["with"]]) if choice["with"] else "none"
    if "kind" in choice:
        widths = {"none": "no smoothing", "mean": "mean, {:g} frames"}
        return widths.get(choice["kind"], "gaussian, {:g} frames of deviation").format(
            choice["width"]
        )
    if "temperature" in choice:
        return f"{choice['temperature']:.2f}"
    if "tau" in choice:
        return f"tau = {choice['tau']:g}"
    if "thresholds" in choice:
        low, high = min(choice["thresholds"]), max(choice["thresholds"])
        wide = f"thresholds from {low:.2f} to {high:.2f}"
        return wide if low < high else f"threshold {low:.2f}"
    return ""


def _embedded(value: Any) -> Markup:
    """JSON for a script element: nothing in it can end the element."""
    return Markup(json.dumps(value).replace("<", "\\u003c"))  # noqa: S704 - that is the point
