"""The two challenge tasks: their classes, their order, and how a label is written.

Source: the ABAW challenges' annotation format (Aff-Wild2); -1 means not annotated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:  # the command line reads this module before it knows whether it needs tables
    import pandas as pd

TaskName = Literal["EXPR", "AU"]
NOT_ANNOTATED = -1


@dataclass(frozen=True)
class Task:
    """A labelling task.

    Attributes:
        name: ``EXPR`` or ``AU``.
        targets: class names (EXPR, single label) or unit names (AU, one bit each).
        multilabel: whether each target is its own yes/no question.
        folders: names of the annotation folder, by edition of the challenge.
    """

    name: TaskName
    targets: tuple[str, ...]
    multilabel: bool
    folders: tuple[str, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """Label columns in tables: one class number, or one bit for each unit."""
        return self.targets if self.multilabel else ("label",)

    def frames_showing(self, rows: pd.DataFrame) -> dict[str, int]:
        """How many label rows show each class or unit; ``rows`` has this task's columns."""
        if self.multilabel:
            return {name: int((rows[name] == 1).sum()) for name in self.targets}
        return {name: int((rows["label"] == k).sum()) for k, name in enumerate(self.targets)}

    @property
    def header(self) -> str:
        """First line of an annotation file."""
        return ",".join(self.targets)


EXPR = Task(
    name="EXPR",
    targets=(
        "Neutral", "Anger", "Disgust", "Fear", "Happiness", "Sadness", "Surprise", "Other",
    ),
    multilabel=False,
    folders=("EXPR_Recognition_Challenge", "EXPR_Classification_Challenge"),
)  # fmt: skip
AU = Task(
    name="AU",
    targets=(
        "AU1", "AU2", "AU4", "AU6", "AU7", "AU10", "AU12", "AU15", "AU23", "AU24", "AU25", "AU26",
    ),
    multilabel=True,
    folders=("AU_Detection_Challenge",),
)  # fmt: skip
TASKS: dict[TaskName, Task] = {"EXPR": EXPR, "AU": AU}
