"""Compare a run with another system's predictions, on the same frames and by the same metric."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from clipaffect.config import parse_config
from clipaffect.config.models import Config
from clipaffect.core.errors import UserError
from clipaffect.core.files import write_text
from clipaffect.core.frame_status import KEYS
from clipaffect.core.layout import Layout
from clipaffect.core.metrics import decide
from clipaffect.core.parquet import read_table
from clipaffect.core.tasks import NOT_ANNOTATED, Task
from clipaffect.evaluation.fold_data import read_scores
from clipaffect.evaluation.intervals import FEWEST
from clipaffect.evaluation.person_counts import cluster_counts, count_array
from clipaffect.report.pages import page_environment
from clipaffect.report.paired import adjust, paired
from clipaffect.report.peer_table import (
    FEW,
    NOTHING,
    PeerColumns,
    PeerPredictions,
    plain_name,
    read_peer,
    read_peer_columns,
)
from clipaffect.report.results import read_summary, unit_of
from clipaffect.report.run_record import RECORD, read_record


@dataclass(frozen=True)
class Matched:
    """The run's scored frames, with the other system's decisions.

    Attributes:
        rows: the scored frames: group, and the keys.
        labels: (n, 1) or (n, targets).
        peer: (n, 1) or (n, targets); ``NOTHING`` where the other system has no prediction.
        notes: sentences for the reader.
    """

    rows: pd.DataFrame
    labels: np.ndarray
    peer: np.ndarray
    notes: list[str]


def compare_peer(results: Path, table: Path, mapping: Path, out: Path | None = None) -> list[str]:
    """Compare the headline heads, and their post-processed scores, with a table of predictions.

    Args:
        results: ``results/<run>`` of a finished run.
        table: of the other system's predictions, or a folder of tables.
        mapping: names its columns; see ``PeerColumns``.
        out: the page to write; by default in ``results``.

    Returns:
        The lines of the answer, and the page's path.

    Raises:
        UserError: no finished run, or a table that does not fit it.
    """
    columns = read_peer_columns(mapping)
    config = parse_config(read_record(results)["config"], str(results / RECORD))
    task = config.tasks().get(columns.task)
    if task is None:
        raise UserError(
            f"the run has no task '{columns.task}'",
            where=mapping,
            fix=f"use one of {', '.join(config.tasks())}",
        )
    try:
        targets = columns.targets(task)
    except ValueError as error:
        raise UserError(str(error), where=mapping, fix="correct the file") from None
    scored = Layout(results).evaluation(task.name)
    found = read_peer(table, columns, task)
    if columns.label:  # the classes that it names at least once
        said = set(np.unique(found.decisions).tolist())
        named = set(columns.names.values())
        targets = [t for k, t in enumerate(task.targets) if k in said or t in named]
    matched = match(read_table(scored.rows), found, columns, task)
    ours = dict(_own_decisions(config, results, matched.rows, task))
    rows = list(_rows(ours, matched, targets, task, config.evaluation.resamples))
    adjust(rows)
    unit = unit_of(read_summary(results))
    page = out or results / f"compared-with-{_plain(columns.name)}.html"
    text = (
        page_environment()
        .get_template("compare_peer.html")
        .render(
            run=config.run,
            peer=columns.name,
            task=task,
            rows=rows,
            notes=matched.notes,
            targets=targets,
            unit=unit,
            fewest=FEWEST,
            resamples=config.evaluation.resamples,
        )
    )
    write_text(page, text)
    return [*(_line(row, columns.name) for row in rows), *matched.notes, str(page)]


def match(rows: pd.DataFrame, found: PeerPredictions, columns: PeerColumns, task: Task) -> Matched:
    """Find the other system's prediction of every scored frame.

    Raises:
        UserError: no video of the table is one of the run's.
    """
    notes = list(found.notes)
    videos = rows["video"].astype(str).map(plain_name)
    theirs = found.rows
    if not set(videos) & set(theirs["video"]):  # the folders are others
        videos = _without_folders(videos, "the run")
        theirs = theirs.assign(video=_without_folders(theirs["video"], "the table"))
    keys = pd.DataFrame(
        {"video": videos, "side": rows["person"].astype(str), "frame": rows["frame"]}
    )
    if not columns.sides and (sided := (keys["side"] != "").to_numpy()).any():
        # Which of two people a face is would be a guess.
        notes.append(
            f"{int(sided.sum()):,} frames of people who are annotated as left or right are left "
            "out, because the file of the columns does not name the 'sides'."
        )
        keys, rows = (own[~sided].reset_index(drop=True) for own in (keys, rows))
    theirs = theirs[~theirs.duplicated(["video", "side", "frame"])]
    decisions = found.decisions[theirs.index]
    known = set(keys["video"])
    named = dict.fromkeys(theirs["video"])
    unknown = [name for name in named if name not in known]
    if len(unknown) == len(named):
        raise UserError(
            f"none of the table's {len(named):,} videos is scored by the run, such as "
            f"{', '.join(unknown[:FEW])}",
            where="the table",
            fix=f"name them as in the run: {', '.join(sorted(known)[:FEW])}",
        )
    if unknown:
        notes.append(
            f"{len(unknown):,} videos of the table are not scored by the run and are ignored, such "
            f"as {', '.join(unknown[:FEW])}."
        )
    wanted = pd.MultiIndex.from_frame(keys)
    places = {
        shift: pd.MultiIndex.from_frame(theirs.assign(frame=theirs["frame"] + shift)).get_indexer(
            wanted
        )
        for shift in (0, 1)
    }
    fit = [int((places[shift] >= 0).sum()) for shift in (0, 1)]
    shift = int(fit[1] > fit[0] or bool((theirs["frame"] == 0).any()))
    if columns.first_frame is not None:
        shift = 1 - columns.first_frame
    notes.append(
        f"The first frame of a video is taken to have the number {1 - shift} in the table"
        + (", as stated." if columns.first_frame is not None else "; 'first_frame' states it.")
    )
    at = places[shift]
    peer = np.full((len(rows), decisions.shape[1]), NOTHING)
    peer[at >= 0] = decisions[at[at >= 0]]
    if (peer[:, 0] == NOTHING).all():
        raise UserError(
            "the table has no prediction for any scored frame",
            where="the table",
            fix="check the columns of the frame and the person, and first_frame",
        )
    labels = rows[list(task.columns)].to_numpy()
    return Matched(rows[["group", *KEYS]], labels, peer, notes)


def _last(name: str) -> str:
    return name.rpartition("/")[2]


def _without_folders(videos: pd.Series, whose: str) -> pd.Series:
    """Videos by name alone.

    Raises:
        UserError: two have one name.
    """
    alone = pd.Series({name: _last(name) for name in videos.unique()})
    if alone.duplicated().any():
        raise UserError(
            f"two videos of {whose} are called '{alone[alone.duplicated()].iloc[0]}'",
            where="the table",
            fix="give the paths of the videos as in the run",
        )
    return videos.map(alone)


def _own_decisions(
    config: Config, results: Path, rows: pd.DataFrame, task: Task
) -> Iterator[tuple[str, list[np.ndarray]]]:
    """The run's decisions of the scored frames: of each seed, and after post-processing."""
    alpha = config.training.headline_alpha
    evaluated = Layout(results).evaluation(task.name).scores
    files = {f"heads, alpha = {alpha:g}": (evaluated, "head")}
    if config.postprocess.steps:
        stepped = Layout(results).postprocessing(task.name).scores
        files["after post-processing"] = (stepped, "postprocessed")
    wanted = pd.MultiIndex.from_frame(rows[KEYS].astype({"video": str, "person": str}))
    for name, (path, method) in files.items():
        frame, scores = read_scores(path, method=method, variant="", alpha=alpha)
        found = []
        for _, own in frame.groupby("seed", sort=True):
            keys = own[KEYS].astype({"video": str, "person": str})
            at = pd.MultiIndex.from_frame(keys).get_indexer(wanted)
            if (at >= 0).all():
                found.append(decide(scores[own.index.to_numpy()[at]], task))
        if found:
            yield name, found


def _rows(
    ours: dict[str, list[np.ndarray]],
    matched: Matched,
    targets: list[str],
    task: Task,
    resamples: int,
) -> Iterator[dict[str, Any]]:
    """One row for each of the run's scores and each set of frames."""
    has = matched.peer[:, 0] != NOTHING
    missed = matched.peer.copy()
    if task.multilabel:  # a missed label is one that is said to be absent
        missed[~has] = 0
    sets = {
        "frames that both predict": (has, matched.peer, list(task.targets)),
        "all scored frames, lost ones counted as misses": (
            np.ones(len(has), bool),
            missed,
            list(task.targets),
        ),
    }
    if len(targets) < len(task.targets):
        among = has.copy()
        if not task.multilabel:
            among &= np.isin(matched.labels[:, 0], [task.targets.index(t) for t in targets])
        what = "labels" if task.multilabel else "classes"
        sets[f"the {len(targets)} {what} that the other system knows"] = (
            among,
            matched.peer,
            targets,
        )
    for frames, (at, peer, of) in sets.items():
        people = sorted(matched.rows["group"][at].astype(str).unique())
        for name, decisions in ours.items():
            own = [_counts(matched, d, at, people, of, task) for d in decisions]
            theirs = _counts(matched, peer, at, people, of, task)
            yield {
                "setting": name,
                "frames": frames,
                "count": int(at.sum()),
                "people": len(people),
                **paired([theirs], own, resamples),
            }


def _counts(
    matched: Matched,
    decisions: np.ndarray,
    at: np.ndarray,
    people: list[str],
    targets: list[str],
    task: Task,
) -> np.ndarray:
    """(people, targets, 3) counts of some frames; a row without any label asks nothing."""
    known = at & (matched.labels != NOT_ANNOTATED).any(axis=1)
    groups = matched.rows["group"].to_numpy()[known]
    table = cluster_counts(matched.labels[known], decisions[known], groups, task)
    table = table[table["target"].isin(targets)]
    return count_array(table, people, tuple(targets))


def _line(row: dict[str, Any], peer: str) -> str:
    """One comparison, for the terminal."""
    text = (
        f"{row['frames']} ({row['count']:,}): {row['setting']} {row['second']:.3f}, "
        f"{peer} {row['first']:.3f}, difference {row['difference']:+.3f}"
    )
    if row["low"] is not None:
        text += f" (95 % interval {row['low']:+.3f} to {row['high']:+.3f})"
    return f"{text}: {row['verdict']}"


def _plain(name: str) -> str:
    """A name for a file."""
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in name)
