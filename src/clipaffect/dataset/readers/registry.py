"""Read a data set of any format: the files on disk, all labels, and the splits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

import pandas as pd

from clipaffect.config.data import Data, Splitting
from clipaffect.core.split_names import TRAIN, VALIDATION, folds_among
from clipaffect.core.tasks import Task
from clipaffect.dataset.label_rows import FoundData
from clipaffect.dataset.make_splits import check_labels, check_leaks, make_splits
from clipaffect.dataset.people import name_people
from clipaffect.dataset.subset import take_subset
from clipaffect.dataset.tree import Tree


class Reader(Protocol):
    """A format's module, ``dataset/readers/<format>.py``; ``config.data.FORMATS`` lists them."""

    @staticmethod
    def read(data: Data, tasks: Sequence[Task]) -> FoundData:
        """The tree and every task's labels, of a data set of this format.

        Raises:
            UserError: anything wrong with a file, with the file and the line.
        """
        ...


def read_dataset(data: Data, tasks: Sequence[Task]) -> tuple[Tree, dict[str, pd.DataFrame]]:
    """The tree and the labels of each task, restricted to the subset if one is set.

    Rows of labels have the columns of ``label_rows.label_schema``, names as categories.

    Raises:
        UserError: there is a problem with the tree or a label, or people are in two splits.
    """
    reader = cast(Reader, import_module(f"clipaffect.dataset.readers.{data.format}"))
    found = reader.read(data, tasks)
    tree, labels, where = name_people(found, Path(data.people)) if data.people else found
    # Folds given by the data are not rebuilt, except for a subset of it.
    folds = folds_among(
        {str(split) for rows in labels.values() for split in rows["split"].unique()}
    )
    how, made = data.split, data.split.by != "given" and folds == [0]
    if data.subset:
        counts = {TRAIN: data.subset.train, VALIDATION: data.subset.validation}
        if made or folds != [0]:
            labels = {name: rows.assign(split=TRAIN) for name, rows in labels.items()}
            counts = {TRAIN: sum(counts.values())}
            how = how if made else how.model_copy(update={"folds": len(folds)})
            made = True
        tree, labels = take_subset(tree, labels, tasks, counts, data.subset)
    if made:
        labels = make_splits(labels, tasks, how)
        tree = replace(tree, notes=(*tree.notes, _made(how)))
    elif folds != [0]:
        tree = replace(tree, notes=(*tree.notes, f"{len(folds)} folds, as given by the data."))
    check_leaks(labels)
    for task in tasks:
        check_labels(labels[task.name], task, bool(data.frame_limit), where)
    return tree, labels


def _made(how: Splitting) -> str:
    """A note for the report on splits that were made."""
    dealt = f"{how.folds} parts, grouped by person and stratified by class (seed {how.seed})"
    if how.by == "folds":
        return f"Folds were made ({dealt}). Each is scored by heads trained on the others."
    return f"The validation split was made: the first of {dealt}."
