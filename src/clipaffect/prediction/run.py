"""``clipaffect predict``: many files, side by side, each with its outcome; it goes on where it was.

A finished file has a record in its folder and is not worked on again. The pieces of an unfinished
one are kept beside the output until it is whole (or in a store that is named, for good).
"""

from __future__ import annotations

import errno
import multiprocessing
import multiprocessing.connection
import os
import queue
import shutil
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import pandas as pd
import torch
from filelock import FileLock, Timeout

from clipaffect.assets import MANIFEST, ensure_asset, known_assets
from clipaffect.bundle.load import OpenBundle
from clipaffect.config.encoders import weights_folder
from clipaffect.config.faces import Faces
from clipaffect.dataset.manifest import PICTURE, VIDEO
from clipaffect.digest import digest, file_digest
from clipaffect.encoders.hub import fetch_weights
from clipaffect.errors import UserError, first_line
from clipaffect.faces.finder import ASSET
from clipaffect.outcomes import Outcome
from clipaffect.prediction.outputs import (
    WRITTEN,
    read_record,
    remove_outputs,
    summary_row,
    write_outputs,
    write_record,
    write_summary,
)
from clipaffect.prediction.rows import People
from clipaffect.prediction.shards import IMAGES
from clipaffect.prediction.sources import Source, find_sources, manifest
from clipaffect.prediction.work import Wanted, predicted, state_of
from clipaffect.progress import Progress, reported_to
from clipaffect.store import Store
from clipaffect.tables import write_text
from clipaffect.video import stated_frames

WORK, LOGS = ".work", "_logs"
# What part of a frame's work each stage is; measured with the tiny CLIP on 640x360.
SHARES = {"videos": (0.0, 0.1), "frames": (0.1, 0.6), "crops": (0.7, 0.3)}
Row = dict[str, Any]
Tell = Callable[[float], None]


@dataclass(frozen=True)
class Unit:
    """What one process works on at a time: a video, or all single images.

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
    """Where outputs go, and where finished pieces are kept; None: beside the outputs, for now."""

    out: Path
    store: Path | None

    def work(self, unit: Unit) -> Path:
        """A folder for what is not finished of a unit."""
        return self.out / WORK / digest(unit.folder)[:16]

    def store_of(self, unit: Unit) -> Store:
        """The store of a unit's pieces."""
        return Store(self.store or self.work(unit) / "store")


def predict_files(
    inputs: list[Path], wanted: Wanted, out: Path, store: Path | None, jobs: int
) -> pd.DataFrame:
    """Predict every file that is named, or lies below a folder; write everything into ``out``.

    Args:
        inputs: videos, images and folders.
        wanted: what is asked.
        out: a folder. ``summary.csv`` in it has every file's outcome, ``index.html`` leads to the
            pages of the videos, each of which has a folder of its file's name.
        store: a work store for the finished pieces; None: one beside the outputs, of which
            nothing stays.
        jobs: processes at a time.

    Returns:
        The summary: file, outcome, frames, frames with a face, people, message.

    Raises:
        UserError: nothing to predict, no place to write, a full disk, no weights.
    """
    sources = find_sources(inputs)
    _check_writable(out, inputs)
    with _named_errors(out), _alone(out):
        ensure_weights(wanted.opened, wanted.assets)
        place, mark = Place(out, store), wanted.fingerprint()
        units = _units([source for source in sources if source.outcome == Outcome.OK])
        rows = [
            summary_row(source.name, source.outcome)
            for source in sources if source.outcome != Outcome.OK
        ]  # fmt: skip
        for source in sources:
            if source.outcome != Outcome.OK:
                remove_outputs(out / source.name)
        todo = []
        _check_apart(units, sources, out)
        for unit in units:
            done = _finished(unit, out, mark)
            if done is None:
                todo.append(unit)
            else:
                rows += done
        jobs = min(jobs, max(len(todo), 1))
        threads = max(cores() // jobs, 1)
        rows += _run(todo, replace(wanted, threads=threads), place, mark, jobs)
        by_name = {row["file"]: row for row in rows}
        folders = {source.name: unit.folder for unit in units for source in unit.sources}
        in_order = [by_name[source.name] for source in sources]
        summary = write_summary(in_order, folders, wanted, out)
    return summary


def ensure_weights(opened: OpenBundle, assets: Path) -> None:
    """Fetch what is missing of the networks that a bundle needs."""
    wanted = {ASSET} | {own.asset for own in opened.encoders.values() if own.asset is not None}
    known = known_assets()
    for name in sorted(wanted):
        if not known[name].ships:
            ensure_asset(name, assets)
    for own in opened.encoders.values():
        if own.tag is None:
            continue
        if not (assets / weights_folder(own.model, own.tag) / MANIFEST).is_file():
            fetch_weights(own.model, own.tag, assets)


def _check_writable(out: Path, inputs: list[Path]) -> None:
    for path in inputs:
        if path.is_dir() and out.resolve().is_relative_to(path.resolve()):
            raise UserError(
                "the output lies in a folder of the input, and would be predicted next time",
                where=out, mend="name a folder beside it",
            )  # fmt: skip
    try:
        (out / WORK).mkdir(parents=True, exist_ok=True)
        (out / WORK / "probe").touch()
        (out / WORK / "probe").unlink()
    except OSError as error:
        raise UserError(
            f"nothing can be written there: {error.strerror}", where=out,
            mend="name a folder of your own, on a disk with room",
        ) from None  # fmt: skip


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Hold the folder of the output, so that two calls do not write into one."""
    lock = FileLock(out / WORK / "lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(
            "another call is writing there", where=out, mend="wait for it, or name another folder"
        ) from None
    try:
        yield
    finally:
        lock.release()
        (out / WORK / "lock").unlink(missing_ok=True)
        _clear(out / WORK)


class _named_errors:
    """A full disk, or a process that the system killed, said in the user's words."""

    def __init__(self, out: Path) -> None:
        self.out = out

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(
                f"the disk is full: {error.filename or ''}".rstrip(": "), where=self.out,
                mend="free some of it and give the same command again: finished files stay",
            ) from None  # fmt: skip
        if isinstance(error, PermissionError):
            raise UserError(
                f"this may not be read or written: {error.filename}", where=self.out,
                mend="get leave to, and give the same command again: finished files stay",
            ) from None  # fmt: skip
        if isinstance(error, BrokenProcessPool):
            raise UserError(
                "the system killed a process, for its memory most likely", where=self.out,
                mend="give the same command again with --jobs 1: finished files stay",
            ) from None  # fmt: skip


def _check_apart(units: list[Unit], sources: list[Source], out: Path) -> None:
    """See that no output would take the place of a file."""
    taken = {source.path.resolve() for source in sources}
    for unit in units:
        folder = out / unit.folder
        if folder.resolve() in taken or (folder.exists() and not folder.is_dir()):
            raise UserError(
                "the tables of a video would take the place of a file", where=folder,
                mend="name another folder for the output",
            )  # fmt: skip


def _units(sources: list[Source]) -> list[Unit]:
    units = [
        Unit([source], source.name, max(stated_frames(source.path), 1))
        for source in sources if source.kind == VIDEO
    ]  # fmt: skip
    images = [source for source in sources if source.kind == PICTURE]
    if images:
        units.append(Unit(images, IMAGES, len(images)))
    return units


def _state(unit: Unit, out: Path) -> dict[str, list[str]]:
    """By name, where a unit's files lie as their page says it, and their sha256."""
    return {
        source.name: [os.path.relpath(source.path.resolve(), out.resolve()),
                      file_digest(source.path)]
        for source in unit.sources
    }  # fmt: skip


def _finished(unit: Unit, out: Path, mark: str) -> list[Row] | None:
    """Summary rows of a unit that was finished before, of the same files; None if it was not."""
    record = read_record(out / unit.folder)
    if record is None or record.get("made_by") != mark:
        return None
    try:
        same = record["files"] == _state(unit, out)
    except OSError:
        return None
    there = all((out / unit.folder / name).is_file() for name in record["written"])
    return list(record["rows"]) if same and there else None


def _run(units: list[Unit], wanted: Wanted, place: Place, mark: str, jobs: int) -> list[Row]:
    total = sum(unit.frames for unit in units)
    if not units:
        return []
    with Progress("frames", total) as bar:
        if jobs <= 1:
            rows: list[Row] = []
            for unit in units:
                before = bar.done

                def tell(share: float, unit: Unit = unit, before: int = before) -> None:
                    bar.advance(before + round(share * unit.frames) - bar.done)

                rows += work_on(unit, wanted, place, mark, tell)
                tell(1.0)
            return rows
        return _side_by_side(units, wanted, place, mark, jobs, bar)


def _side_by_side(
    units: list[Unit], wanted: Wanted, place: Place, mark: str, jobs: int, bar: Progress
) -> list[Row]:
    context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    told: Any = context.Queue()
    shares = dict.fromkeys(range(len(units)), 0.0)
    rows: list[Row] = []
    with ProcessPoolExecutor(jobs, context, _begin, (told,)) as pool:
        # The longest first: what begins last should be short.
        order = sorted(range(len(units)), key=lambda k: -units[k].frames)
        running: dict[Future[list[Row]], int] = {
            pool.submit(_in_process, k, units[k], wanted, place, mark): k for k in order
        }
        try:
            while running:
                done, _ = wait(running, timeout=0.5, return_when=FIRST_COMPLETED)
                for future in done:
                    shares[running.pop(future)] = 1.0
                    rows += future.result()
                for k, share in _drained(told):
                    shares[k] = max(shares[k], share)
                reached = sum(round(share * units[k].frames) for k, share in shares.items())
                bar.advance(max(reached - bar.done, 0))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                process.terminate()  # what it was at is taken up again next time
            raise
    return rows


_told: list[Any] = []


def _begin(told: Any) -> None:
    _told.append(told)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: Any) -> None:
    """A killed call leaves nobody behind who works on in its folder."""
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)


def _in_process(k: int, unit: Unit, wanted: Wanted, place: Place, mark: str) -> list[Row]:
    return work_on(unit, wanted, place, mark, lambda share: _told[0].put((k, share)))


def _drained(told: Any) -> Iterator[tuple[int, float]]:
    while True:
        try:
            yield told.get_nowait()
        except queue.Empty:
            return


def work_on(unit: Unit, wanted: Wanted, place: Place, mark: str, tell: Tell) -> list[Row]:
    """Predict a unit; returns its files' summary rows. An error of the program is an outcome."""
    torch.set_num_threads(1)
    work, out = place.work(unit), place.out / unit.folder
    encoders = len(wanted.opened.encoders)
    reached = [0.0, 0]  # the share that was told of last, encoders that are through

    def listen(kind: str, done: int, total: int) -> None:
        start, length = SHARES.get(kind, (0.0, 0.0))
        part = done / max(total, 1)
        if kind == "crops":
            part = (reached[1] + part) / encoders
            reached[1] += done >= total
        share = start + length * min(part, 1)
        if share - reached[0] > 0.005:
            reached[0] = share
            tell(share)

    before = {source.name: _state_of(source.path) for source in unit.sources}
    trouble: Exception | None = None
    outcome = Outcome.VIDEO_CHANGED
    try:
        files = _state(unit, place.out)
        with reported_to(listen):
            rows = _answered(unit, wanted, place, out)
        left_out = _changed(unit, before)
    except PermissionError as error:
        trouble, outcome = error, Outcome.NO_PERMISSION
        left_out = {s.name for s in unit.sources if not os.access(s.path, os.R_OK)}
    except FileNotFoundError as error:
        trouble, left_out = error, {s.name for s in unit.sources if not s.path.exists()}
    except UserError as error:
        trouble, left_out = error, _changed(unit, before)
    except Exception as error:  # one file's trouble is not that of a thousand others
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        return _crashed(unit, place, error)
    if trouble is not None and not left_out:
        if not isinstance(trouble, UserError):
            return _crashed(unit, place, trouble)
        remove_outputs(out)
        said = f"{trouble.what}: {trouble.mend}"
        return [summary_row(source.name, Outcome.FAILED, said) for source in unit.sources]
    if left_out:
        # Of many images the others are answered.
        remove_outputs(out)
        if place.store is None:
            shutil.rmtree(work, ignore_errors=True)
        rows = [summary_row(s.name, outcome) for s in unit.sources if s.name in left_out]
        rest = [source for source in unit.sources if source.name not in left_out]
        again = replace(unit, sources=rest)
        return rows + (work_on(again, wanted, place, mark, tell) if rest else [])
    written = sorted(path.name for path in out.iterdir() if path.name in WRITTEN)
    write_record(out, {"made_by": mark, "files": files, "rows": rows, "written": written})
    if place.store is None:
        shutil.rmtree(work, ignore_errors=True)
    return rows


def _answered(unit: Unit, wanted: Wanted, place: Place, out: Path) -> list[Row]:
    write_record(out, {"made_by": "nobody yet"})
    listed = manifest(unit.sources, wanted.people)
    video = unit.sources[0].path if unit.sources[0].kind == VIDEO else None
    with predicted(listed, wanted, place.store_of(unit), place.work(unit)) as found:
        return write_outputs(found, 0, len(found.rows), out, wanted, video)


def _state_of(path: Path) -> tuple[int, int] | None:
    try:
        return state_of(path)
    except OSError:
        return None


def _changed(unit: Unit, before: dict[str, tuple[int, int] | None]) -> set[str]:
    """Files that are no longer as they were when the work on them began."""
    return {source.name for source in unit.sources if _state_of(source.path) != before[source.name]}


def _crashed(unit: Unit, place: Place, error: BaseException) -> list[Row]:
    remove_outputs(place.out / unit.folder)
    log = place.out / LOGS / f"{digest(unit.folder)[:16]}.log"
    write_text(log, "".join(traceback.format_exception(error)))
    said = f"{first_line(error)} ({log})"
    return [summary_row(source.name, Outcome.FAILED, said) for source in unit.sources]


def _clear(work: Path) -> None:
    """Remove the folder of unfinished work if nothing is left in it."""
    for folder in sorted(work.rglob("*"), reverse=True):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
    if work.is_dir() and not any(work.iterdir()):
        work.rmdir()


def sampled(faces: Faces, rate: float | None) -> Faces:
    """The bundle's faces, or looked at ``rate`` times a second instead."""
    if rate is None:
        return faces
    return Faces.model_validate(faces.model_dump() | {"stride": 1, "rate": rate})


def is_failure(summary: pd.DataFrame) -> bool:
    """Whether a video or image could not be answered; files of other kinds are no failure."""
    return bool((~summary["outcome"].isin([Outcome.OK, Outcome.NOT_MEDIA])).any())


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def wanted_of(
    opened: OpenBundle,
    assets: Path,
    *,
    people: People = "all",
    rate: float | None = None,
    heads: bool = False,
    pictures: bool = True,
) -> Wanted:
    """What is asked, with the bundle's own settings for the rest."""
    if people not in get_args(People):
        raise UserError(
            f"people is {people!r}", where="people", mend=f"one of {', '.join(get_args(People))}"
        )
    if rate is not None and not 0 < rate < float("inf"):
        raise UserError(f"a rate of {rate} frames a second", where="rate", mend="give one above 0")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    faces = sampled(opened.bundle.faces, rate)
    return Wanted(opened, faces, people, heads, pictures, assets, device)
