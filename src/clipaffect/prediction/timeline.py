"""The page of a video: it plays the video next to its people's curves, and opens from disk."""

from __future__ import annotations

import base64
import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

import cv2
import numpy as np
import pandas as pd

from clipaffect.bundle.trained_on import trained_on
from clipaffect.core.files import write_text
from clipaffect.core.frame_status import MEANING, FrameStatus
from clipaffect.encoders.captions import UNIT_NAMES
from clipaffect.faces.crops import JPEG, decode_image
from clipaffect.prediction.prediction_table import Predicted, stretches
from clipaffect.report.pages import page_environment, records

BINS = 4000  # points of a curve on the page; the tables have every frame
PEOPLE = 12  # on the page, those with the most frames
THUMBNAILS, SIDE = 24, 72  # of each person, and their pixels
EPISODES = 200  # on the page, the longest
MANY = 0.1  # a page warns above this share of faces far from the training data
SCALE = 1000  # probabilities are whole numbers on the page
COLOURS = (
    "#7f8c9b",
    "#d1495b",
    "#7a9e3f",
    "#8e5ea2",
    "#e8a33d",
    "#2e7eb8",
    "#d977a8",
    "#4fb0a5",
    "#9c6b43",
    "#5b6abf",
    "#b7b83b",
    "#c46a2f",
)


def write_timeline(
    predicted: Predicted,
    start: int,
    stop: int,
    episodes: pd.DataFrame,
    out: Path,
    video: Path,
    pictures: bool,
) -> None:
    """Write ``timeline.html`` of one video, whose rows are a stretch, into the folder ``out``.

    Args:
        predicted: predictions for a table of faces.
        start: the video's first row.
        stop: the row behind its last.
        episodes: of ``summaries``.
        out: the video's folder.
        video: the file to play.
        pictures: whether the video and its faces may be shown; else the page has curves alone.
    """
    rows = predicted.rows.iloc[start:stop]
    axis = _Axis(rows["frame"].to_numpy(), rows["time"].to_numpy(float))
    person = predicted.person[start:stop]
    frames = pd.Series(person[person > 0]).value_counts().sort_index()
    shown = sorted(frames.sort_values(ascending=False, kind="stable").index[:PEOPLE].tolist())
    status = rows["status"].to_numpy()
    kinds = sorted(set(status) - {str(FrameStatus.OK)})
    people = [
        {
            "person": number,
            "frames": int(frames[number]),
            "tasks": _curves(predicted, start, np.flatnonzero(person == number), axis),
            "thumbnails": _thumbnails(predicted, start, person == number, axis) if pictures else [],
        }
        for number in shown
    ]
    data = {
        "video": _relative(video, out) if pictures else None,
        "times": axis.times.round(4).tolist(),
        "frames": axis.first_frames.tolist(),
        "unit": axis.unit,
        "step": axis.step,
        "scale": SCALE,
        "status": axis.commonest(status, kinds),
        "statuses": [{"name": name, "meaning": MEANING[FrameStatus(name)]} for name in kinds],
        "tasks": [
            {
                "name": name,
                "targets": model.targets,
                "multilabel": model.multilabel,
                "meanings": [unit_name(target) for target in model.targets],
                "colours": [colour_of(k) for k in range(len(model.targets))],
            }
            for name, model in predicted.bundle.tasks.items()
        ],
        "people": people,
        "first": max(range(len(shown)), key=lambda k: frames[shown[k]], default=0),
    }
    longest = episodes.sort_values(["seconds", "frames"], ascending=False, kind="stable")
    listed = longest.head(EPISODES).sort_values(["start_frame", "person", "task", "target"])
    page = (
        page_environment()
        .get_template("timeline.html")
        .render(
            name=rows["video"].iloc[0],
            data=data,
            tasks=data["tasks"],
            bundle=predicted.bundle,
            fingerprint=predicted.opened.fingerprint,
            trained_on=trained_on(predicted.bundle),
            far=_far(predicted, start, stop),
            people=[(number, int(frames[number])) for number in shown],
            more_people=len(frames) - len(shown),
            episodes=records(listed),
            more_episodes=len(episodes) - len(listed),
            statuses=[
                (name, int((status == name).sum()), MEANING[FrameStatus(name)])
                for name in [*kinds, str(FrameStatus.OK)]
                if (status == name).any()
            ],
            frames=int((np.unique(rows["frame"]) > 0).sum()),
            unit=axis.unit,
            pictures=pictures,
        )
    )
    write_text(out / "timeline.html", page)


def _far(predicted: Predicted, start: int, stop: int) -> str:
    """A sentence on how many of the faces are far from the training data; '' if it is not known."""
    if predicted.distance is None:
        return ""
    at = predicted.at[start:stop]
    far = predicted.distance[at[at >= 0]] > 1
    if not len(far):
        return ""
    said = f"{far.mean():.0%} of the faces in this video are far from the training data."
    if far.mean() <= MANY:
        return said
    return f"{said} The model's evaluation scores do not apply to this video."


class _Axis:
    """The frames of a video in at most ``BINS`` bins of equal numbers of frames.

    Args:
        frame: (rows,) frame numbers.
        time: (rows,) seconds, NaN where unknown; where all are, frames are counted instead.
    """

    def __init__(self, frame: np.ndarray, time: np.ndarray) -> None:
        frames, first = np.unique(frame, return_index=True)
        self.bins = min(len(frames), BINS)
        place = np.arange(len(frames)) * self.bins // len(frames)
        self.of_row = place[np.searchsorted(frames, frame)]
        begins = np.flatnonzero(np.diff(place, prepend=-1))
        self.first_frames = frames[begins]
        known = ~np.isnan(time[first])
        self.unit = "s" if known.sum() > 1 else "frames"
        if self.unit == "s":
            times = np.interp(frames, frames[known], time[first][known])
            self.step = float(np.median(np.diff(times)))
        else:
            times, self.step = frames.astype(float), 1.0
        self.times = times[begins]
        self.row_times = times[np.searchsorted(frames, frame)]

    def mean(self, values: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """(bins, k) means of (rows, k); NaN of a bin without a value."""
        known = ~np.isnan(values[:, 0])
        at = self.of_row[rows[known]]
        count = np.bincount(at, minlength=self.bins)[:, None]
        sums = [np.bincount(at, column, self.bins) for column in values[known].T]
        with np.errstate(invalid="ignore"):
            return np.asarray(np.stack(sums, axis=1) / count)

    def commonest(self, status: np.ndarray, kinds: list[str]) -> list[int]:
        """The most common kind in each bin, by number; -1 if a face was found."""
        counts = np.zeros((self.bins, len(kinds) + 1), int)
        for number, kind in enumerate(kinds):
            np.add.at(counts[:, number], self.of_row[status == kind], 1)
        np.add.at(counts[:, -1], self.of_row[status == FrameStatus.OK], 10**6)
        best = counts.argmax(axis=1)
        return np.where(best == len(kinds), -1, best).tolist()


def _curves(
    predicted: Predicted, start: int, rows: np.ndarray, axis: _Axis
) -> dict[str, dict[str, Any]]:
    """For each task, the curves of one person as whole numbers; None for unknown values."""
    found = {}
    for name, model in predicted.bundle.tasks.items():
        own = predicted.answers[name]
        mean = axis.mean(predicted.of_rows(own.probability, start + rows), rows)
        spread = axis.mean(predicted.of_rows(own.spread, start + rows), rows)
        bits = own.decision
        if not model.multilabel:
            bits = np.eye(len(model.targets))[own.decision[:, 0]]
        shown = axis.mean(predicted.of_rows(bits.astype(np.float32), start + rows), rows)
        known = ~np.isnan(mean[:, 0])
        if model.multilabel:
            decided = [
                [k for k in np.flatnonzero(row >= 0.5).tolist()] if ok else None
                for row, ok in zip(shown, known, strict=True)
            ]
        else:
            decided = [
                [int(row.argmax())] if ok else None for row, ok in zip(shown, known, strict=True)
            ]
        sure = np.maximum(mean, 1 - mean).mean(1) if model.multilabel else mean.max(1, initial=0)
        found[name] = {
            "probability": [_whole(column) for column in mean.T],
            "spread": _whole(spread.mean(axis=1)),
            "confidence": _whole(np.where(known, sure, np.nan)),
            "decided": decided,
        }
    return found


def _whole(values: np.ndarray) -> list[int | None]:
    return [None if np.isnan(v) else round(float(v) * SCALE) for v in values]


def _thumbnails(
    predicted: Predicted, start: int, mine: np.ndarray, axis: _Axis
) -> list[dict[str, Any]]:
    """Some faces of a person, evenly spread, as data URIs."""
    rows = np.flatnonzero(mine & (predicted.at[start : start + len(mine)] >= 0))
    if not len(rows):
        return []
    wanted = rows[np.unique(np.linspace(0, len(rows) - 1, THUMBNAILS).astype(int))]
    found = []
    for row in wanted.tolist():
        jpeg = _small_face(predicted, start + row)
        if jpeg is not None:
            uri = "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()
            found.append({"time": round(float(axis.row_times[row]), 4), "src": uri})
    return found


def face_of(predicted: Predicted, start: int, stop: int) -> bytes | None:
    """A JPEG of a face from the middle of a video, of the person who is in it longest."""
    person = predicted.person[start:stop]
    known = np.flatnonzero((predicted.at[start:stop] >= 0) & (person > 0))
    if not len(known):
        return None
    longest = np.bincount(person[known]).argmax()
    rows = known[person[known] == longest]
    return _small_face(predicted, start + int(rows[len(rows) // 2]))


def _small_face(predicted: Predicted, row: int) -> bytes | None:
    """A row's crop as a small JPEG; None if it cannot be decoded."""
    for _, part in stretches(predicted.faces, row, row + 1, ["crop"]):
        pixels = decode_image(part["crop"][0].as_py() or b"")
        if pixels is not None:
            small = cv2.resize(pixels, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
            return cv2.imencode(".jpg", small[:, :, ::-1], [JPEG[0], 80])[1].tobytes()
    return None


def _relative(video: Path, out: Path) -> str:
    """The video's path relative to the page, which stays valid if both are moved together."""
    path = os.path.relpath(video.resolve(), out.resolve())
    return quote(Path(path).as_posix().encode("utf-8", "surrogateescape"))


def unit_name(target: str) -> str:
    """What FACS calls an action unit such as ``AU12``; empty for other labels."""
    found = re.fullmatch(r"AU0*(\d+)", target)
    return UNIT_NAMES.get(int(found[1]), "") if found else ""


def colour_of(number: int) -> str:
    """The colour of a class or label, by its position."""
    if number < len(COLOURS):
        return COLOURS[number]
    return f"hsl({number * 137.5 % 360:.0f} 45% 55%)"
