"""Names of splits: training and validation, or the parts of a k-fold evaluation.

Under k-fold evaluation a row's split is ``fold 1``, ``fold 2``, ...: it is a validation row of that
fold and a training row of every other. Fold 0 stands for "no folds" and for all of them together.
"""

from __future__ import annotations

from collections.abc import Iterable

TRAIN, VALIDATION = "train", "validation"
EVERYBODY = "everybody"  # all rows, whatever their split: what final heads are trained on
_FOLD = "fold "


def fold_split(fold: int) -> str:
    """The split of a fold's validation rows."""
    return f"{_FOLD}{fold}" if fold else VALIDATION


def folds_among(splits: Iterable[str]) -> list[int]:
    """The folds that rows belong to; ``[0]`` where they have plain splits."""
    numbers = {int(s.removeprefix(_FOLD)) for s in set(splits) if s.startswith(_FOLD)}
    return sorted(numbers) or [0]


def in_split(row_split: str, split: str, fold: int) -> bool:
    """Whether rows of ``row_split`` belong to the training or validation rows of a fold."""
    if split == EVERYBODY:
        return True
    if split == VALIDATION:
        return row_split == fold_split(fold)
    return row_split != fold_split(fold) if fold else row_split == TRAIN
