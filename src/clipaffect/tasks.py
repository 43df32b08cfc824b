"""The two challenge tasks: their classes, their order, and how a label is written.

Source: the ABAW challenges' annotation format (Aff-Wild2); -1 means not annotated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

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
