"""Process one video, or all single images, from the files to their outputs."""

from __future__ import annotations

import os
import shutil
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from clipaffect.core.errors import UserError, first_line
from clipaffect.core.files import write_text
from clipaffect.core.frame_status import FrameStatus
from clipaffect.core.hashing import digest, file_digest, file_state
from clipaffect.core.progress import Listener, reported_to
from clipaffect.core.store import Store
from clipaffect.dataset.manifest import VIDEO
from clipaffect.prediction.output_lock import WORK, is_full
from clipaffect.prediction.outputs import (
    WRITTEN,
    join_outputs,
    read_output_record,
    remove_outputs,
    summary_row,
    write_output_record,
    write_outputs,
)
from clipaffect.prediction.pipeline import Wanted, predicted
from clipaffect.prediction.sources import Source, manifest

LOGS = "_logs"  # below the output: of errors of the program
# What part of a frame's work each stage is; measured with the tiny CLIP on 640x360.
SHARES = {"videos": (0.0, 0.1), "frames": (0.1, 0.6), "crops": (0.7, 0.3)}
Row = dict[str, Any]
State = dict[str, list[str]]  # see ``_state``
Tell = Callable[[float], None]


@dataclass(frozen=True)
class Unit:
    """The unit of work of a process: a video, or all single images.

    Attributes:
        sources: the files.
        folder: where its outputs go, below the output's folder.
        frames: about how many.
    """

    sources: list[Source]
    folder: str
    frames: int


@dataclass(frozen=True)
class Place:
    """Where outputs and cache entries are kept; None: next to the outputs, temporarily."""

    out: Path
    store: Path | None

    def work(self, unit: Unit) -> Path:
        """A folder for the unfinished work of a unit."""
        return self.out / WORK / digest(unit.folder)[:16]

    def store_of(self, unit: Unit) -> Store:
        """The store of a unit's cache entries."""
        return Store(self.store or self.work(unit) / "store")

    def forget(self, unit: Unit) -> None:
        """Remove a unit's cache entries, unless they are kept permanently."""
        if self.store is None:
            shutil.rmtree(self.work(unit), ignore_errors=True)


def _state(unit: Unit, out: Path) -> State:
    """For each file of a unit, its path as used by the page, and its sha256."""
    return {
        source.name: [
            os.path.relpath(source.path.resolve(), out.resolve()),
            file_digest(source.path),
        ]
        for source in unit.sources
    }


def finished(unit: Unit, out: Path, mark: str) -> list[Row] | None:
    """The summary rows of a unit that is already finished for the same files, or None."""
    record = _whole_record(out / unit.folder, mark)
    try:
        same = record is not None and record["files"] == _state(unit, out)
    except OSError:
        return None
    return list(record["rows"]) if record is not None and same else None


def _whole_record(folder: Path, mark: str) -> dict[str, Any] | None:
    """The record of a folder's outputs, if they are ``mark``'s and all there."""
    record = read_output_record(folder)
    if record is None or record.get("made_by") != mark:
        return None
    return record if all((folder / name).is_file() for name in record["written"]) else None


def _listener(tell: Tell, encoders: int) -> Listener:
    """Report the finished share of a unit's work, from the progress of its stages."""
    reached, through = 0.0, 0

    def listen(kind: str, done: int, total: int) -> None:
        nonlocal reached, through
        start, length = SHARES.get(kind, (0.0, 0.0))
        part = done / max(total, 1)
        if kind == "crops":
            part = (through + part) / encoders
            through += done >= total
        share = start + length * min(part, 1)
        if share - reached > 0.005:
            reached = share
            tell(share)

    return listen


def work_on(unit: Unit, wanted: Wanted, place: Place, mark: str, tell: Tell) -> list[Row]:
    """Predict a unit; returns the summary rows of its files. Internal errors become outcomes."""
    torch.set_num_threads(1)
    out = place.out / unit.folder
    before = {source.name: _state_of(source.path) for source in unit.sources}
    try:
        files = _state(unit, place.out)
        with reported_to(_listener(tell, len(wanted.opened.encoders))):
            rows = _answered(unit, wanted, place, out, mark, files)
        trouble = None
    except Exception as error:  # one file's trouble is not that of a thousand others
        if is_full(error):
            raise
        trouble = error
    outcome, left_out = _left_out(unit, before, trouble)
    if left_out:
        # The other images are still predicted.
        remove_outputs(out)
        place.forget(unit)
        failed = [summary_row(s.name, outcome) for s in unit.sources if s.name in left_out]
        rest = [source for source in unit.sources if source.name not in left_out]
        again = replace(unit, sources=rest)
        return failed + (work_on(again, wanted, place, mark, tell) if rest else [])
    if isinstance(trouble, UserError):
        remove_outputs(out)
        said = f"{trouble.what}: {trouble.fix}"
        return [summary_row(source.name, FrameStatus.FAILED, said) for source in unit.sources]
    if trouble is not None:
        return _crashed(unit, place, trouble)
    written = sorted(path.name for path in out.iterdir() if path.name in WRITTEN)
    write_output_record(out, {"made_by": mark, "files": files, "rows": rows, "written": written})
    place.forget(unit)
    return rows


def _left_out(
    unit: Unit, before: dict[str, tuple[int, int] | None], trouble: Exception | None
) -> tuple[FrameStatus, set[str]]:
    """The files that cannot be predicted for a reason of their own, and that reason."""
    if isinstance(trouble, PermissionError):
        unreadable = {s.name for s in unit.sources if not os.access(s.path, os.R_OK)}
        return FrameStatus.NO_PERMISSION, unreadable
    if isinstance(trouble, FileNotFoundError):
        gone = {s.name for s in unit.sources if not s.path.exists()}
        return FrameStatus.VIDEO_CHANGED, gone
    if trouble is None or isinstance(trouble, UserError):
        return FrameStatus.VIDEO_CHANGED, _changed(unit, before)
    return FrameStatus.FAILED, set()


def _answered(
    unit: Unit, wanted: Wanted, place: Place, out: Path, mark: str, files: State
) -> list[Row]:
    if earlier := _images_before(unit, place.out, mark, files):
        return _more_images(unit, wanted, place, earlier)
    write_output_record(out, {"made_by": "nobody yet"})
    listed = manifest(unit.sources, wanted.people)
    video = unit.sources[0].path if unit.sources[0].kind == VIDEO else None
    with predicted(listed, wanted, place.store_of(unit), place.work(unit)) as found:
        return write_outputs(found, 0, len(found.rows), out, wanted, video)


def _images_before(unit: Unit, out: Path, mark: str, files: State) -> dict[str, Row]:
    """The summary rows of those images of a unit that have been predicted before, by name."""
    record = _whole_record(out / unit.folder, mark)
    if unit.sources[0].kind == VIDEO or record is None:
        return {}
    rows = {row["file"]: row for row in record["rows"]}
    return {name: rows[name] for name, state in record["files"].items() if files.get(name) == state}


def _more_images(unit: Unit, wanted: Wanted, place: Place, earlier: dict[str, Row]) -> list[Row]:
    """Predict the images that are new, and put them between those from ``earlier`` calls."""
    new = [source for source in unit.sources if source.name not in earlier]
    beside = place.work(unit) / "new"
    if new:
        listed = manifest(new, wanted.people)
        with predicted(listed, wanted, place.store_of(unit), place.work(unit)) as found:
            rows = write_outputs(found, 0, len(found.rows), beside, wanted, None)
        earlier = earlier | {row["file"]: row for row in rows}
    join_outputs(place.out / unit.folder, beside, [source.name for source in unit.sources])
    shutil.rmtree(beside, ignore_errors=True)
    return [earlier[source.name] for source in unit.sources]


def _state_of(path: Path) -> tuple[int, int] | None:
    try:
        return file_state(path)
    except OSError:
        return None


def _changed(unit: Unit, before: dict[str, tuple[int, int] | None]) -> set[str]:
    """Files that have changed since work on them began."""
    return {source.name for source in unit.sources if _state_of(source.path) != before[source.name]}


def _crashed(unit: Unit, place: Place, error: BaseException) -> list[Row]:
    remove_outputs(place.out / unit.folder)
    log = place.out / LOGS / f"{digest(unit.folder)[:16]}.log"
    write_text(log, "".join(traceback.format_exception(error)))
    said = f"{first_line(error)} ({log})"
    return [summary_row(source.name, FrameStatus.FAILED, said) for source in unit.sources]
