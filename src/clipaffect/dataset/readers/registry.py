"""Read a data set of any format: what lies on disk, every label, and who is in which split."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pandas as pd

from clipaffect.config.data import Data, Splitting
from clipaffect.core.split_names import TRAIN, VALIDATION, folds_among
from clipaffect.core.tasks import Task
from clipaffect.dataset.label_rows import Listing, arrange
from clipaffect.dataset.make_splits import check_labels, check_leaks, make_splits
from clipaffect.dataset.readers import aff_wild2
from clipaffect.dataset.readers.affectnet import read_affectnet
from clipaffect.dataset.readers.image_folders import read_folders
from clipaffect.dataset.readers.raf_db import read_raf_db
from clipaffect.dataset.readers.table import read_label_table
from clipaffect.dataset.subset import take_subset
from clipaffect.dataset.tree import Tree


def read_dataset(data: Data, tasks: Sequence[Task]) -> tuple[Tree, dict[str, pd.DataFrame]]:
    """The tree and every task's labels, of the subset if one is asked for.

    Rows of labels have the columns of ``labels.label_schema``, names as categories.

    Raises:
        UserError: anything wrong with the tree or a label, or people in two splits.
    """
    listing: Listing | None = None
    if data.format == "aff_wild2":
        tree = aff_wild2.scan_tree(data, tasks)
        labels = {task.name: aff_wild2.read_labels(tree, task, data) for task in tasks}
    else:
        listing = READERS[data.format](data)
        tree, labels = arrange(listing, data, tasks)
    where = f"the labels in {listing.path}" if listing else "the annotations"
    # Folds that the data itself has are not made anew, but for a subset of it.
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
        tree = replace(tree, notes=(*tree.notes, f"{len(folds)} folds, as the data gives them."))
    check_leaks(labels)
    for task in tasks:
        check_labels(labels[task.name], task, bool(data.frame_limit), where)
    return tree, labels


def _made(how: Splitting) -> str:
    """What a reader of the report is told of splits that were made."""
    dealt = f"{how.folds} parts of whole people, alike in their classes (seed {how.seed})"
    if how.by == "folds":
        return f"Folds were made: {dealt}; each is scored by heads trained on the others."
    return f"The validation split was made: the first of {dealt}."


READERS: dict[str, Callable[[Data], Listing]] = {
    "table": read_label_table,
    "folders": read_folders,
    "raf_db": read_raf_db,
    "affectnet": read_affectnet,
}
