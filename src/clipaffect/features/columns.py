"""Columns of a table of features."""

from __future__ import annotations

import pyarrow as pa

KEYS = ("video", "person", "frame", "status")


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
