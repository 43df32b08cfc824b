"""The form of labels, whatever file they come from: ``dataset/labels/<task>.parquet``."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa

from clipaffect.dataset.files import natural_order
from clipaffect.tasks import NOT_ANNOTATED, Task


def label_schema(task: Task) -> pa.Schema:
    """Columns of the file. ``group`` is who or what a split must not cut."""
    keys = [(name, pa.string()) for name in ("split", "group", "video", "person")]
    labels = [(column, pa.int8()) for column in task.columns]
    return pa.schema([*keys, ("frame", pa.int32()), *labels, ("annotated", pa.bool_())])


def label_rows(
    rows: pd.DataFrame,
    task: Task,
    keys: dict[str, list[str]],
    sizes: list[int] | None = None,
) -> pd.DataFrame:
    """Put names in front of ``rows`` (frame and label columns), and whether a row has any label.

    Names become categories, in natural order: three million rows take 100 MB.

    Args:
        rows: (n,) frame, label columns.
        task: whose label columns they are.
        keys: split, group, video and person of each run of rows.
        sizes: rows of each run; 1 where left out.
    """
    rows = rows.copy(deep=False)
    for column in reversed(keys):
        names, codes = np.unique(np.array(keys[column], object).astype(str), return_inverse=True)
        order = sorted(range(len(names)), key=lambda k: natural_order(str(names[k])))
        place = np.empty(len(names), np.int64)
        place[order] = np.arange(len(names))
        codes = place[codes] if sizes is None else np.repeat(place[codes], sizes)
        rows.insert(0, column, pd.Categorical.from_codes(codes, names[order].tolist()))
    # A frame counts as annotated if any of its labels is: the losses mask the others.
    rows["annotated"] = (rows[list(task.columns)] != NOT_ANNOTATED).any(axis=1)
    return rows
