"""The columns of a feature table."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa

from clipaffect.core.errors import UserError


def schema(dimension: int, encoder: str) -> pa.Schema:
    """Columns of ``embeddings/<encoder>/<shard>.parquet``; no face, no feature (null).

    ``encoder`` is the digest of the encoder's record: features of two encoders are never joined,
    even if they have one length.
    """
    return pa.schema(
        [
            ("video", pa.string()),
            ("person", pa.string()),
            ("frame", pa.int32()),
            ("status", pa.string()),
            ("feature", pa.list_(pa.float16(), dimension)),
        ],
        metadata={"encoder": encoder},
    )


def first_not_finite(values: np.ndarray) -> int | None:
    """The first row of features (n, d) that holds a NaN or an infinity; None if there is none."""
    damaged = np.flatnonzero(~np.isfinite(values).all(axis=1))
    return int(damaged[0]) if len(damaged) else None


def not_finite(row: pd.Series, where: object, fix: str) -> UserError:
    """The error for a row (video, person, frame) whose feature is not finite."""
    person = f", person {row['person']}" if row["person"] else ""
    return UserError(
        f"the feature of video '{row['video']}'{person}, frame {row['frame']} is not finite",
        where=str(where),
        fix=fix,
    )
