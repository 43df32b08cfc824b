"""Labelling tasks: their classes or labels, and the encoding of labels.

EXPR and AU are the ABAW challenges' (Aff-Wild2), in the order of their annotation files; other
data defines its own tasks (``data.tasks``). -1 means not annotated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the command line reads this module before it knows whether it needs tables
    import pandas as pd

NOT_ANNOTATED = -1


@dataclass(frozen=True)
class Task:
    """A labelling task.

    Attributes:
        name: such as ``EXPR`` or ``AU``.
        targets: class names (single label), or names of labels such as action units (one bit each).
        multilabel: whether each target is its own yes/no question.
    """

    name: str
    targets: tuple[str, ...]
    multilabel: bool

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Task:
        """Restore a task from ``values``, as written by ``dataclasses.asdict`` and JSON."""
        return cls(values["name"], tuple(values["targets"]), values["multilabel"])

    @property
    def columns(self) -> tuple[str, ...]:
        """Label columns in tables: one class number, or one bit for each label."""
        return self.targets if self.multilabel else ("label",)

    def frames_showing(self, rows: pd.DataFrame) -> dict[str, int]:
        """How many label rows show each class or label; ``rows`` has this task's columns."""
        if self.multilabel:
            return {name: int((rows[name] == 1).sum()) for name in self.targets}
        return {name: int((rows["label"] == k).sum()) for k, name in enumerate(self.targets)}

    @property
    def header(self) -> str:
        """First line of a challenge's annotation file."""
        return ",".join(self.targets)


EXPR = Task(
    name="EXPR",
    targets=(
        "Neutral",
        "Anger",
        "Disgust",
        "Fear",
        "Happiness",
        "Sadness",
        "Surprise",
        "Other",
    ),
    multilabel=False,
)
AU = Task(
    name="AU",
    targets=(
        "AU1",
        "AU2",
        "AU4",
        "AU6",
        "AU7",
        "AU10",
        "AU12",
        "AU15",
        "AU23",
        "AU24",
        "AU25",
        "AU26",
    ),
    multilabel=True,
)
# Their data sets' own order: RAF-DB counts from 1, AffectNet's 8 to 10 are no expression.
RAF_DB = {
    "EXPR": Task(
        "EXPR", ("Surprise", "Fear", "Disgust", "Happiness", "Sadness", "Anger", "Neutral"), False
    )
}
AFFECTNET = {
    "EXPR": Task(
        "EXPR",
        ("Neutral", "Happiness", "Sadness", "Surprise", "Fear", "Disgust", "Anger", "Contempt"),
        False,
    )
}
CHALLENGE = {task.name: task for task in (EXPR, AU)}
