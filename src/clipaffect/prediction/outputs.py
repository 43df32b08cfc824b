"""Write the outputs of a video: tables, summaries, the page, and a record of completeness."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from clipaffect.bundle.format import Bundle
from clipaffect.bundle.prediction_columns import (
    Column,
    columns,
    person_columns,
    table_schema,
    taken_columns,
)
from clipaffect.bundle.trained_on import rate_remark, trained_on
from clipaffect.core.files import whole_file, write_text
from clipaffect.core.frame_status import MEANING, VIDEO_STATUSES, FrameStatus
from clipaffect.core.layout import Predictions
from clipaffect.core.parquet import read_arrow, read_table
from clipaffect.core.video import remarks
from clipaffect.dataset.frame_rate import frame_rate
from clipaffect.prediction.analysis_tables import (
    ROWS,
    group_columns,
    plain,
    write_all_frames,
    write_people,
)
from clipaffect.prediction.face_landmarks import write_landmarks
from clipaffect.prediction.groups import Groups, read_groups
from clipaffect.prediction.overlay import write_overlay
from clipaffect.prediction.pipeline import Wanted
from clipaffect.prediction.prediction_table import Predicted
from clipaffect.prediction.summaries import summarise
from clipaffect.prediction.timeline import colour_of, face_of, write_timeline
from clipaffect.report.pages import page_environment

RECORD, FACE = "record.json", "face.jpg"
LANDMARKS, OVERLAY = "landmarks.parquet", "overlay.mp4"
WRITTEN = (
    "frames.parquet",
    "frames.csv",
    "persons.csv",
    "episodes.csv",
    "timeline.html",
    FACE,
    LANDMARKS,
    OVERLAY,
    RECORD,
)
SUMMARY = (
    "file",
    "outcome",
    "frames",
    "frames_with_face",
    "faces_far_from_training",
    "people",
    "trained_on",
    "message",
)


def write_outputs(
    predicted: Predicted, start: int, stop: int, out: Path, wanted: Wanted, video: Path | None
) -> list[dict[str, Any]]:
    """Write all outputs for one video, or for single images, to the folder ``out``.

    Args:
        predicted: predictions for a table of faces.
        start: the video's first row in it.
        stop: the row behind its last.
        out: a folder.
        wanted: whether every head's scores are written, and whether pages may show people.
        video: the file, which the page plays; None: images, which share their tables and have no
            page.

    Returns:
        The files' rows of ``summary.csv``.
    """
    out.mkdir(parents=True, exist_ok=True)
    for name in WRITTEN:  # what an earlier call wrote may not be wanted now
        if name != RECORD:
            (out / name).unlink(missing_ok=True)
    schema = table_schema(columns(predicted.bundle, wanted.heads))
    with (
        whole_file(out / "frames.parquet") as parquet,
        whole_file(out / "frames.csv") as text,
        pq.ParquetWriter(parquet, schema, compression="zstd", write_page_checksum=True) as table,
        pa.csv.CSVWriter(text, plain(schema)) as lines,
    ):
        for part in predicted.tables(start, stop, wanted.heads):
            table.write_table(part, row_group_size=ROWS)
            lines.write_table(part.cast(plain(schema)))
    if video is not None:
        persons, episodes = summarise(predicted, start, stop)
        for name, frame in (("persons", persons), ("episodes", episodes)):
            with whole_file(out / f"{name}.csv") as beside:
                frame.round(6).to_csv(beside, index=False)
        write_timeline(predicted, start, stop, episodes, out, video, wanted.pictures)
        if wanted.landmarks or wanted.overlay:
            rows = read_table(out / "frames.parquet")
            if wanted.landmarks:
                write_landmarks(rows, video, wanted.assets, out / LANDMARKS)
            if wanted.overlay:
                write_overlay(rows, video, predicted.bundle, out / OVERLAY)
        face = face_of(predicted, start, stop) if wanted.pictures else None
        if face is not None:
            (out / FACE).write_bytes(face)
    said = "; ".join(_remarks(predicted, start, stop, video)) if video is not None else ""
    return _summary_rows(predicted, start, stop, said)


def _remarks(predicted: Predicted, start: int, stop: int, video: Path) -> list[str]:
    """What a user should know about a video that was predicted."""
    smoothing = rate_remark(predicted.bundle, frame_rate(predicted.rows.iloc[start:stop]))
    return [*remarks(video), *([smoothing] if smoothing else [])]


def _summary_rows(predicted: Predicted, start: int, stop: int, said: str) -> list[dict[str, Any]]:
    part = predicted.rows.iloc[start:stop].assign(number=predicted.person[start:stop])
    measured = predicted.distance is not None
    if predicted.distance is not None:
        distance = predicted.of_rows(predicted.distance, np.arange(start, stop))
        part["far"] = (distance > 1).astype(int)
    rows = []
    for name, own in part.groupby("video", sort=False):
        frames, first = own["frame"], own["status"].iloc[0]
        outcome = FrameStatus.OK
        if first in VIDEO_STATUSES or first == FrameStatus.IMAGE_UNREADABLE:
            outcome = FrameStatus(first)
        elif (own["status"] == FrameStatus.FRAME_UNREADABLE).all():
            outcome = FrameStatus.VIDEO_UNREADABLE
        rows.append(
            summary_row(
                str(name),
                outcome,
                said if outcome == FrameStatus.OK else "",
                frames=int(frames[frames > 0].nunique()),
                frames_with_face=int(frames[own["status"] == FrameStatus.OK].nunique()),
                faces_far_from_training=int(own["far"].sum()) if measured else None,
                people=int(own["number"].max()),
            )
        )
    return rows


def summary_row(
    name: str, outcome: FrameStatus, message: str = "", **counts: int | None
) -> dict[str, Any]:
    """A file's row of ``summary.csv``."""
    said = message or ("" if outcome == FrameStatus.OK else MEANING[outcome])
    empty = {"frames": 0, "frames_with_face": 0, "people": 0}
    return {"file": name, "outcome": str(outcome)} | empty | counts | {"message": said}


def write_summary(
    rows: list[dict[str, Any]], folders: dict[str, str], wanted: Wanted, out: Path
) -> pd.DataFrame:
    """Write the tables of all files, the data dictionary and ``index.html`` into ``out``.

    Args:
        rows: one for each file, in order.
        folders: by file, where its outputs lie below ``out``.
        wanted: what was asked.
        out: a folder.
    """
    opened = wanted.opened
    summary = pd.DataFrame(rows, columns=SUMMARY).assign(trained_on=trained_on(opened.bundle))
    # Empty where the model cannot tell.
    summary["faces_far_from_training"] = summary["faces_far_from_training"].astype("Int64")
    with whole_file(Predictions(out).summary) as beside:
        summary.to_csv(beside, index=False)
    listed = columns(opened.bundle, wanted.heads)
    groups = None
    if wanted.groups is not None:
        taken = taken_columns(opened.bundle, wanted.heads)
        groups = read_groups(wanted.groups, [row["file"] for row in rows], taken)
    _write_dictionary(listed, opened.bundle, groups, out)
    in_order = dict.fromkeys(folders[row["file"]] for row in rows if row["file"] in folders)
    tables = [path for folder in in_order if (path := out / folder / "frames.parquet").is_file()]
    files = Predictions(out)
    schema = table_schema(listed)
    write_all_frames(tables, schema, groups, files.all_frames, files.all_frames_text)
    write_people(tables, opened.bundle, groups, files.people)
    shown = [
        row
        | {"folder": folders.get(row["file"], "")}
        | {
            name: (out / folders.get(row["file"], "") / file).is_file()
            for name, file in (
                ("timeline", "timeline.html"),
                ("tables", "frames.csv"),
                ("face", FACE),
            )
        }
        | {"far": row.get("faces_far_from_training")}
        | {"shares": _shares(out / folders.get(row["file"], "") / "persons.csv", opened.bundle)}
        for row in rows
    ]
    page = (
        page_environment()
        .get_template("predictions.html")
        .render(
            files=shown,
            bundle=opened.bundle,
            fingerprint=opened.fingerprint,
            trained_on=trained_on(opened.bundle),
            counts=summary["outcome"].value_counts().to_dict(),
            people=wanted.people,
        )
    )
    write_text(Predictions(out).page, page)
    return summary


def _shares(persons: Path, bundle: Bundle) -> list[dict[str, Any]]:
    """How often each class is decided in a video, over all its people; of the first such task."""
    task = next((name for name, model in bundle.tasks.items() if not model.multilabel), None)
    if task is None or not persons.is_file():
        return []
    # A class may be called None or NA.
    table = pd.read_csv(persons, keep_default_na=False, na_values={"share": [""]})
    table = table[table["task"].astype(str) == task]
    places = {target: k for k, target in enumerate(bundle.tasks[task].targets)}
    frames = (table["share"] * table["frames_with_face"]).groupby(table["target"], sort=False).sum()
    total = float(frames.sum())
    return [
        {"target": target, "share": count / total, "colour": colour_of(places[str(target)])}
        for target, count in frames.items()
        if total
    ]


def join_outputs(out: Path, later: Path, names: list[str]) -> None:
    """Put the tables of images that were predicted later into those in ``out``.

    Args:
        out: a folder with the tables of some images.
        later: one with those of others; it need not exist.
        names: of the images that are kept, in their order.
    """
    folders = [folder for folder in (out, later) if (folder / "frames.parquet").is_file()]
    table = pa.concat_tables([read_arrow(folder / "frames.parquet") for folder in folders])
    place = pc.index_in(table["video"].cast(pa.string()), pa.array(names, pa.string()))
    order = np.argsort(place.fill_null(-1).to_numpy(), kind="stable")
    table = table.take(order[place.null_count :]).unify_dictionaries()
    with whole_file(out / "frames.parquet") as parquet:
        pq.write_table(
            table, parquet, compression="zstd", write_page_checksum=True, row_group_size=ROWS
        )
    with whole_file(out / "frames.csv") as text:
        pa.csv.write_csv(table.cast(plain(table.schema)), text)


def _write_dictionary(
    listed: list[Column], bundle: Bundle, groups: Groups | None, out: Path
) -> None:
    """``columns.csv``: the data dictionary of the tables of frames and of people."""
    own = group_columns(groups)
    tables = {"frames": listed, "all_frames": own, "people": [*person_columns(bundle), *own]}
    rows = [(table, column) for table, columns in tables.items() for column in columns]
    with whole_file(Predictions(out).columns) as beside:
        table = pa.table(
            {
                "table": [table for table, _ in rows],
                "column": [c.name for _, c in rows],
                "type": [str(c.kind) for _, c in rows],
                "unit": [c.unit for _, c in rows],
                "meaning": [c.meaning for _, c in rows],
            }
        )
        pa.csv.write_csv(table, beside)


def remove_outputs(out: Path) -> None:
    """Remove the outputs of a file; folders of other files may be in the same folder.

    A folder without a record is not ours and is left alone.
    """
    if read_output_record(out) is None:
        return
    for name in WRITTEN:
        (out / name).unlink(missing_ok=True)
    if out.is_dir() and not any(out.iterdir()):
        out.rmdir()


def is_strange(out: Path, name: str) -> bool:
    """Whether something is there that is not the outputs of the file of a name."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    record = read_output_record(out) or {}
    return "made_by" not in record or name not in record.get("files", [name])


def write_output_record(out: Path, record: dict[str, Any]) -> None:
    """Mark a folder as that of a video and, once complete, record what its outputs depend on."""
    write_text(out / RECORD, json.dumps(record, indent=1) + "\n")


def read_output_record(out: Path) -> dict[str, Any] | None:
    """Read what ``write_record`` wrote; None if there is no record."""
    try:
        found: dict[str, Any] = json.loads((out / RECORD).read_text(encoding="utf-8"))
        return found
    except (OSError, ValueError):
        return None
