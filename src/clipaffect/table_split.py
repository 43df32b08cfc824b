"""One split of a table as training and scoring read it: features memory-mapped, labels in memory.

Apart from ``table`` because torch takes a second to import, which the writing stage does without.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.compute as pc
import torch

from clipaffect.table import KEYS, label_array, rows_of
from clipaffect.tasks import Task


@dataclass(frozen=True)
class Split:
    """One split of a table.

    Attributes:
        rows: its frames with a face: group, video, person, frame.
        features: (n, d) float16; a view of the memory-mapped file, read as it is used.
        labels: (n, 1) or (n, 12) int8; -1 is not annotated.
    """

    rows: pd.DataFrame
    features: torch.Tensor
    labels: torch.Tensor


def read_split(table: Path, task: Task, split: str, fold: int = 0) -> Split:
    """The usable rows of the training or validation split of a table (or of one of its folds).

    Rows are sorted by split, so a split's features are one slice of the file: 1.36 million of them
    cost no memory but the pages that are read. The training rows of a fold lie on both sides of
    its validation rows; their features are copied (1.5 kB a row of 768).
    """
    found = rows_of(table, ["feature_row", "group", *KEYS, *task.columns], split, fold)
    found = found.filter(pc.greater_equal(found["feature_row"], 0))
    at = found["feature_row"].to_numpy()
    # Copy on write: torch warns of memory that it may not write to.
    features = np.load(table / "features.npy", mmap_mode="c", allow_pickle=False)
    start = int(at[0]) if len(at) else 0
    in_one_piece = not len(at) or int(at[-1]) - start + 1 == len(at)
    own = features[start : start + len(at)] if in_one_piece else features[at]
    return Split(
        found.select(["group", *KEYS]).to_pandas(),
        torch.from_numpy(own),
        torch.from_numpy(label_array(found, task)),
    )
