"""Stage ``faces``: one row with a crop for each frame and annotated person of a shard.

The detections of a video are a cache entry that does not depend on labels. Which face is the
annotated person is decided when the shard's table is assembled.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from clipaffect.config.faces import Faces
from clipaffect.core.frame_status import FrameStatus
from clipaffect.core.names import path_of, path_text
from clipaffect.core.parquet import ROW_GROUP, RowReader, read_arrow, read_table, write_batches
from clipaffect.core.progress import Progress
from clipaffect.core.store import Store
from clipaffect.dataset.extract_frames import video_key
from clipaffect.dataset.files import list_frames
from clipaffect.dataset.manifest import IMAGE, PICTURE, VIDEO
from clipaffect.faces.face_rows import (
    DETECTIONS,
    OF_VIDEOS,
    SCHEMA,
    detector_key,
    with_quality_status,
)
from clipaffect.faces.finder import FaceFinder
from clipaffect.faces.images import of_pictures
from clipaffect.faces.person_tracks import EVERYBODY, assign_persons, person_of
from clipaffect.faces.video_checkpoint import VideoCheckpoint
from clipaffect.faces.videos import detect_video

LISTED_AT_ONCE = 4096


def detection_key(video: dict[str, Any], settings: Faces) -> dict[str, Any]:
    """The cache key of a video's detections."""
    own = settings.model_dump(mode="json", include=OF_VIDEOS)
    return video_key(video) | detector_key(settings) | {"of_videos": own}


def _plan(detections: pd.DataFrame, persons: list[str], width: float) -> pd.DataFrame:
    """The rows of a video's table: person, frame, status and the detection to copy from.

    Args:
        detections: columns frame, track, status and box.
        persons: the annotated ones of '', 'left', 'right', sorted.
        width: of the image.
    """
    detections = detections.assign(source=np.arange(len(detections)))
    faces = detections[detections["track"] >= 0]
    boxes = np.array(faces["box"].tolist(), float).reshape(-1, 4)
    owned = assign_persons(
        faces["frame"].to_numpy(), faces["track"].to_numpy(), boxes, persons, width
    )
    first = detections.drop_duplicates("frame")
    parts = []
    for person in persons:
        own = faces[owned[person]].assign(own=True)
        absent = first[~first["frame"].isin(own["frame"])]
        status = absent["status"].where(
            absent["status"] != FrameStatus.OK, FrameStatus.PERSON_ABSENT
        )
        absent = absent.assign(status=status.astype(str), own=False)
        parts.append(pd.concat([own, absent]).assign(person=person))
    return pd.concat(parts).sort_values(["frame", "person"], ignore_index=True)


def _plan_of_everybody(detections: pd.DataFrame) -> pd.DataFrame:
    """Like ``_plan``, with a row for each face, and one for each frame without a face."""
    found = detections["track"] >= 0
    return detections.assign(
        source=np.arange(len(detections)),
        person=detections["track"].map(person_of).where(found, ""),
        own=found,
    ).sort_values(["frame", "track"], ignore_index=True)


def _assemble(
    video: dict[str, Any], persons: list[str], entry: Path, width: float
) -> Iterator[pa.Table]:
    """Rows of the people without given crops, with a few row groups in memory at a time."""
    detections = RowReader(entry / "detections.parquet")
    light = read_arrow(detections.path, ["frame", "track", "status", "box"])
    if persons == [EVERYBODY]:
        plan = _plan_of_everybody(light.to_pandas())
    else:
        # Who is left and who is right is told among all people, also those who have crops.
        plan = _plan(light.to_pandas(), sorted(video["persons"]), width)
        plan = plan[plan["person"].isin(persons)]
    for start in range(0, len(plan), ROW_GROUP):
        part = plan.iloc[start : start + ROW_GROUP]
        rows = detections.take(part["source"].to_numpy()).to_pylist()
        keep = ("frame", "time", "faces_in_frame")
        yield pa.Table.from_pylist(
            [
                (row if own else {name: row[name] for name in keep})
                | {"video": video["video"], "person": person, "status": status}
                for row, person, status, own in zip(
                    rows, part["person"], part["status"], part["own"], strict=True
                )
            ],
            SCHEMA,
        )


def _of_crops(video: dict[str, Any], person: str, folder: Path, stride: int) -> Iterator[pa.Table]:
    """Rows of a person with crops: every number up to the last image's, with the image's path."""
    files = list_frames(folder, int(video["frame_limit"]))
    keys = {"video": video["video"], "person": person}
    if not files.last:
        yield pa.Table.from_pylist([keys | {"frame": 0, "status": FrameStatus.VIDEO_EMPTY}], SCHEMA)
    images = dict(zip(files.numbers.tolist(), files.names, strict=True))
    for start in range(1, files.last + 1, LISTED_AT_ONCE):
        rows: list[dict[str, Any]] = []
        for number in range(start, min(start + LISTED_AT_ONCE, files.last + 1)):
            row = keys | {"frame": number, "status": FrameStatus.NO_IMAGE}
            if (number - 1) % stride:
                row["status"] = FrameStatus.NOT_SAMPLED
            elif number in images:
                row |= {"status": FrameStatus.OK, "image": path_text(folder / images[number])}
            rows.append(row)
        yield pa.Table.from_pylist(rows, SCHEMA)


def _of_images(images: pd.DataFrame) -> pa.Table:
    """A row for each image, with its path."""
    own = {"frame": 1, "status": FrameStatus.OK, "person": ""}
    rows = [
        own | {"video": video, "image": path}
        for video, path in zip(images["video"], images["path"], strict=True)
    ]
    return pa.Table.from_pylist(rows, SCHEMA)


def align_faces(
    manifest: Path,
    frames: Path,
    settings: Faces,
    assets: Path,
    store: Store,
    out: Path,
    threads: int = 1,
) -> None:
    """Write ``out``: the faces of every video in ``manifest``.

    Args:
        manifest: the shard's videos.
        frames: the shard's frame index; every row of it comes back, for each person that is
            looked for in the video. A person with crops has a row for each number up to the last.
        settings: the ``faces`` section.
        assets: folder of fetched assets; not needed if everyone has crops.
        store: the store.
        out: Parquet file with columns ``SCHEMA``.
        threads: that work on a video; no row depends on it.
    """
    listed = read_table(manifest)
    images, pictures = (listed[listed["kind"] == kind] for kind in (IMAGE, PICTURE))
    videos = listed[listed["kind"] == VIDEO].to_dict("records")
    index = read_table(frames, ["video", "frame", "width"])
    counts = index["video"].value_counts()
    widths = index.groupby("video")["width"].max()

    @cache
    def finder() -> FaceFinder:
        return FaceFinder(assets, settings, threads)

    def tables() -> Iterator[pa.Table]:
        with Progress("frames", len(index)) as progress:
            for video in videos:
                name, before = video["video"], progress.done
                folders = dict(zip(video["persons"], video["folders"], strict=True))

                def make(folder: Path, video: dict[str, Any] = video) -> None:
                    parts = VideoCheckpoint(folder)
                    found = detect_video(video, finder, settings, progress, parts, threads)
                    write_batches(folder / "detections.parquet", DETECTIONS, found)
                    parts.clear()

                searched = [person for person, folder in folders.items() if not folder]
                if searched:
                    entry = store.get_or_make(
                        "detections", detection_key(video, settings), make, keep_partial=True
                    )
                    for rows in _assemble(video, searched, entry, float(widths[name])):
                        yield with_quality_status(rows, settings)
                for person, folder in folders.items():
                    if folder:
                        yield from _of_crops(video, person, path_of(folder), settings.stride)
                progress.advance(before + int(counts[name]) - progress.done)
            for start in range(0, len(images), LISTED_AT_ONCE):
                part = images.iloc[start : start + LISTED_AT_ONCE]
                yield _of_images(part)
                progress.advance(len(part))
            if len(pictures):
                yield from of_pictures(pictures, finder, settings, store, progress)

    write_batches(out, SCHEMA, tables())
