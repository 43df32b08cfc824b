"""The manifest: which videos and images a shard holds, and nothing of their labels."""

from __future__ import annotations

import hashlib

import pandas as pd
import pyarrow as pa

from clipaffect.core.parquet import ROW_GROUP

# A video; an image that is a face already; a picture in which a face is searched for.
VIDEO, IMAGE, PICTURE = "video", "image", "picture"
MANIFEST = pa.schema(
    [
        ("video", pa.string()),
        ("kind", pa.string()),
        ("path", pa.string()),
        ("sha256", pa.string()),
        ("persons", pa.list_(pa.string())),
        ("folders", pa.list_(pa.string())),
        ("folder_states", pa.list_(pa.string())),
        ("frame_limit", pa.int32()),
    ]
)


def runs_of_images(names: pd.Series) -> pd.Series:
    """The run that each of some single images is worked on in, about ``ROW_GROUP`` long.

    A run ends behind a name whose hash says so: one more image moves its own run alone, and what
    was made of all others stays in the work store.
    """
    ends = [
        int.from_bytes(hashlib.sha256(name.encode()).digest()[:4]) % ROW_GROUP == 0
        for name in names
    ]
    run = pd.Series(ends, index=names.index).shift(fill_value=False).cumsum()
    return "images " + run.astype(str)
