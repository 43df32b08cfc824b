"""The manifest: which videos and images a shard holds, and nothing of their labels."""

from __future__ import annotations

import pyarrow as pa

VIDEO, IMAGE = "video", "image"
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
