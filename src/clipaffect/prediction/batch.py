"""``clipaffect predict``: process many files in parallel, each with an outcome; can be resumed.

A finished file has a record in its folder and is not processed again. The cache entries of an
unfinished file are kept next to the output until it is complete, or permanently in a given store.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pandas as pd
import torch

from clipaffect.bundle.load import OpenBundle
from clipaffect.bundle.prediction_columns import taken_columns
from clipaffect.config.encoders import weights_folder
from clipaffect.core.assets import MANIFEST, known_assets
from clipaffect.core.container import stated_frames
from clipaffect.core.errors import UserError
from clipaffect.core.fetch_asset import ensure_asset
from clipaffect.core.frame_status import FrameStatus
from clipaffect.core.processes import end_with_parent
from clipaffect.core.progress import Progress
from clipaffect.dataset.manifest import PICTURE, VIDEO
from clipaffect.encoders.fetch_weights import fetch_weights
from clipaffect.faces.finder import ASSET
from clipaffect.prediction.groups import read_groups
from clipaffect.prediction.output_lock import alone, check_apart, check_writable, named_errors
from clipaffect.prediction.outputs import (
    is_strange,
    read_output_record,
    remove_outputs,
    summary_row,
    write_summary,
)
from clipaffect.prediction.pipeline import Wanted
from clipaffect.prediction.prediction_table import People
from clipaffect.prediction.sources import (
    IMAGES,
    Source,
    find_sources,
    folders_of_gone_files,
    noted_files,
    output_folders,
    remember_files,
)
from clipaffect.prediction.video_job import Place, Row, Unit, finished, work_on


def predict_files(
    inputs: list[Path], wanted: Wanted, out: Path, store: Path | None, jobs: int
) -> pd.DataFrame:
    """Predict all given files, and all files below given folders; write everything to ``out``.

    Args:
        inputs: videos, images and folders.
        wanted: what is requested.
        out: a folder. Its ``summary.csv`` has the outcome of each file, and its ``index.html``
            links to the pages of the videos, each in a folder named after its file, without
            the suffix where that is unambiguous.
        store: a store for cached work; None: a temporary one next to the outputs.
        jobs: number of parallel processes.

    Returns:
        The summary: file, outcome, frames, frames with a face, people, message.

    Raises:
        UserError: there is nothing to predict, nowhere to write, a full disk, or no weights.
    """
    sources = find_sources(inputs, out)
    if all(source.outcome == FrameStatus.NOT_MEDIA for source in sources):
        raise UserError(
            f"there is no video or image among {len(sources):,} file{'s' * (len(sources) != 1)}",
            where=", ".join(map(str, inputs)),
            fix="give a video, an image, or a folder that contains some",
        )
    if wanted.groups is not None:  # its mistakes are told before any work
        taken = taken_columns(wanted.opened.bundle, wanted.heads)
        read_groups(wanted.groups, [source.name for source in sources], taken)
    check_writable(out, inputs)
    with named_errors(out), alone(out):
        ensure_weights(wanted.opened, wanted.assets)
        place, mark = Place(out, store), wanted.fingerprint()
        media = [source for source in sources if source.outcome != FrameStatus.NOT_MEDIA]
        named = output_folders(
            [source.name for source in media if source.kind == VIDEO],
            noted_files(out).values(),
            lambda folder, name: is_strange(out / folder, name),
        )
        units = _units([s for s in sources if s.outcome == FrameStatus.OK], named)
        rows = [
            summary_row(source.name, source.outcome)
            for source in sources
            if source.outcome != FrameStatus.OK
        ]
        gone = folders_of_gone_files(out)
        remember_files(media, named, out)
        for source in media:
            if source.outcome != FrameStatus.OK and source.kind == VIDEO:
                remove_outputs(out / named[source.name])
        todo = []
        folders = {source.name: unit.folder for unit in units for source in unit.sources}
        check_apart((out / unit.folder for unit in units), (source.path for source in sources))
        for unit in units:
            done = finished(unit, out, mark)
            if done is None:
                todo.append(unit)
            else:
                rows += done
        jobs = min(jobs, max(len(todo), 1))
        threads = max(cores() // jobs, 1)
        rows += _run(todo, replace(wanted, threads=threads), place, mark, jobs)
        _forget_renamed(gone, units, out)
        by_name = {row["file"]: row for row in rows}
        in_order = [by_name[source.name] for source in sources]
        summary = write_summary(in_order, folders, wanted, out)
    return summary


def _forget_renamed(gone: list[str], units: list[Unit], out: Path) -> None:
    """Remove the outputs of files that are gone and have now been predicted by another name."""
    used = {unit.folder for unit in units}
    left = {folder: _contents(out / folder) for folder in set(gone) - used}
    if not any(left.values()):
        return
    present = {sha256 for folder in used for sha256 in _contents(out / folder)}
    for folder, contents in left.items():
        if contents and contents <= present:
            remove_outputs(out / folder)


def _contents(folder: Path) -> set[str]:
    """The sha256 of the files that a folder's outputs are of."""
    record = read_output_record(folder) or {}
    return {sha256 for _, sha256 in record.get("files", {}).values()}


def ensure_weights(opened: OpenBundle, assets: Path) -> None:
    """Fetch the missing networks that a bundle needs."""
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


def _units(sources: list[Source], folders: dict[str, str]) -> list[Unit]:
    units = [
        Unit([source], folders[source.name], max(stated_frames(source.path), 1))
        for source in sources
        if source.kind == VIDEO
    ]
    images = [source for source in sources if source.kind == PICTURE]
    if images:
        units.append(Unit(images, IMAGES, len(images)))
    return units


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
        # The longest first, so that the last ones to start are short.
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
                process.terminate()  # its work is resumed next time
            raise
    return rows


_told: list[Any] = []


def _begin(told: Any) -> None:
    _told.append(told)
    end_with_parent()


def _in_process(k: int, unit: Unit, wanted: Wanted, place: Place, mark: str) -> list[Row]:
    return work_on(unit, wanted, place, mark, lambda share: _told[0].put((k, share)))


def _drained(told: Any) -> Iterator[tuple[int, float]]:
    while True:
        try:
            yield told.get_nowait()
        except queue.Empty:
            return


def is_failure(summary: pd.DataFrame) -> bool:
    """Whether a video or image could not be processed; files of other kinds are not failures."""
    return bool((~summary["outcome"].isin([FrameStatus.OK, FrameStatus.NOT_MEDIA])).any())


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
    landmarks: bool = False,
    overlay: bool = False,
    groups: Path | None = None,
) -> Wanted:
    """The requested settings, with those of the bundle for the rest."""
    if people not in get_args(People):
        raise UserError(
            f"people cannot be {people!r}",
            where="people",
            fix=f"use one of {', '.join(get_args(People))}",
        )
    if rate is not None and not 0 < rate < float("inf"):
        raise UserError(f"the rate is {rate}", where="rate", fix="use a finite rate above 0")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    faces = opened.bundle.faces.at_rate(rate)
    if overlay and not pictures:
        raise UserError(
            "a copy of the video shows the people, and pictures are switched off",
            where="overlay",
            fix="leave out --overlay or --no-pictures",
        )
    return Wanted(
        opened,
        faces,
        people,
        heads,
        pictures,
        assets,
        device,
        landmarks=landmarks,
        overlay=overlay,
        groups=groups,
    )
