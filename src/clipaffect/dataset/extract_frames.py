"""Stage ``frames``: the frame index of a shard: number, presentation time, size, status."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np
import pandas as pd
import pyarrow as pa

from clipaffect.config.faces import Faces
from clipaffect.config.stage_keys import VERSIONS
from clipaffect.core.errors import UserError
from clipaffect.core.frame_status import FrameStatus
from clipaffect.core.hashing import file_digest
from clipaffect.core.names import path_of
from clipaffect.core.parquet import read_arrow, read_table, write_batches, write_table
from clipaffect.core.progress import Progress
from clipaffect.core.store import Store
from clipaffect.core.video import Frame, read_frames
from clipaffect.dataset.files import list_frames
from clipaffect.dataset.manifest import VIDEO

SCHEMA = pa.schema(
    [
        ("video", pa.string()),
        ("frame", pa.int32()),
        ("time", pa.float64()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("status", pa.string()),
    ]
)
ROW_GROUP = 65536


def manifest_frames(video: dict[str, Any]) -> Iterator[Frame]:
    """The frames of a manifest row: all, or the first ``frame_limit``.

    Raises:
        UserError: the file is not the one that was indexed. Its frames would enter the store
            under the key of another file.
    """
    path = path_of(video["path"]) if video["path"] else None
    if path is not None and not (path.is_file() and file_digest(path) == video["sha256"]):
        raise UserError(
            "the video was changed or removed after it was indexed",
            where=path,
            fix="run the same command again: the index will be rebuilt",
        )
    return islice(read_frames(path), int(video["frame_limit"]) or None)


class Sampler:
    """Decide which frames of a video to process, in order.

    Every ``stride``-th from the first on; or, at a ``rate``, the first frame at or after each
    tick. A frame without a time is always looked at.
    """

    def __init__(self, settings: Faces) -> None:
        self.stride, self.rate = settings.stride, settings.rate
        self.first: float | None = None
        self.ticks = 0

    def __call__(self, frame: Frame) -> bool:
        """Whether this frame, the next one, is wanted; each is asked once.

        The one row of a file that cannot be read always is: it says what became of the file.
        """
        if frame.number == 0:
            return True
        if self.rate is None or not np.isfinite(frame.time):
            return (frame.number - 1) % self.stride == 0
        if self.first is None:
            self.first = frame.time
        # Times are ratios of whole numbers: a frame that is meant to be on a tick may lie a
        # rounding error before it.
        reached = int(np.floor((frame.time - self.first) * self.rate + 1e-6)) + 1
        wanted = reached > self.ticks
        self.ticks = max(reached, self.ticks)
        return wanted


def video_key(video: dict[str, Any]) -> dict[str, Any]:
    """What a video's decoded frames depend on: its bytes, the limit, the decoder's version."""
    return {
        "video_sha256": video["sha256"],
        "frame_limit": int(video["frame_limit"]),
        "decoder": av.__version__,
    }


def extract_frames(manifest: Path, store: Store, out: Path) -> None:
    """Write the frame index of every video in ``manifest`` to ``out`` (Parquet).

    Where all of a video's people have crops, their images are its frames. A single image is one.
    """
    listed = read_table(manifest)
    images = listed[listed["kind"] != VIDEO]
    videos = listed[listed["kind"] == VIDEO].to_dict("records")

    def index(video: dict[str, Any], folder: Path) -> None:
        rows = [
            (frame.number, frame.time, frame.width, frame.height, str(frame.outcome))
            for frame in manifest_frames(video)
        ]
        columns = [name for name in SCHEMA.names if name != "video"]
        write_table(folder / "frames.parquet", pd.DataFrame(rows, columns=columns))

    def tables() -> Iterator[pa.Table]:
        with Progress("videos", len(videos)) as progress:
            for video in videos:
                if all(video["folders"]):
                    table = _of_crops(video)
                else:
                    key = {"version": VERSIONS["frames"], **video_key(video)}
                    entry = store.get_or_make("frames", key, partial(index, video))
                    table = read_arrow(entry / "frames.parquet")
                name = pa.array([video["video"]] * table.num_rows, pa.string())
                yield table.add_column(0, "video", name)
                progress.advance()
        if len(images):
            yield _of_images(images)

    write_batches(out, SCHEMA, tables(), ROW_GROUP)


def _of_images(images: pd.DataFrame) -> pa.Table:
    zeros = np.zeros(len(images), np.int32)
    return pa.table(
        [
            pa.array(images["video"], pa.string()),
            zeros + 1,
            pa.nulls(len(images), pa.float64()),
            zeros,
            zeros,
            pa.array([str(FrameStatus.OK)] * len(images)),
        ],
        schema=SCHEMA,
    )


def _of_crops(video: dict[str, Any]) -> pa.Table:
    """Frame index of folders of crops: every number up to the last image's; no times or sizes."""
    found = [list_frames(path_of(f), int(video["frame_limit"])) for f in video["folders"]]
    last = max(files.last for files in found)
    if not last:
        empty = {
            "frame": 0,
            "time": None,
            "width": 0,
            "height": 0,
            "status": FrameStatus.VIDEO_EMPTY,
        }
        return pa.Table.from_pylist([empty], SCHEMA.remove(0))
    numbers = np.concatenate([files.numbers for files in found])
    every = np.arange(1, last + 1, dtype=np.int32)
    status = np.where(np.isin(every, numbers), FrameStatus.OK, FrameStatus.NO_IMAGE)
    zeros = np.zeros(len(every), np.int32)
    return pa.table(
        [every, pa.nulls(len(every), pa.float64()), zeros, zeros, status.astype(str)],
        schema=SCHEMA.remove(0),
    )
