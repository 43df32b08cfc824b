"""The manifest: the videos and images of a shard, without their labels."""

from __future__ import annotations

import hashlib

import pandas as pd
import pyarrow as pa

from clipaffect.core.parquet import ROW_GROUP

# A video; an image that is already a face crop; an image in which a face is searched for.
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

    The hash of a name decides whether a run ends after it. So an added image changes only its own
    run, and the cached work of all others stays valid.
    """
    ends = [
        int.from_bytes(hashlib.sha256(name.encode()).digest()[:4]) % ROW_GROUP == 0
        for name in names
    ]
    run = pd.Series(ends, index=names.index).shift(fill_value=False).cumsum()
    return "images " + run.astype(str)
