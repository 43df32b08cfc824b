"""Summarise a video's predictions: shares by person, and episodes with start, end and peak."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from clipaffect.core.frame_status import FrameStatus
from clipaffect.prediction.prediction_table import Predicted

GAP = 0.5  # seconds without an answer that end an episode, or one and a half frames looked at
PERSONS = (
    "video",
    "person",
    "frames",
    "frames_with_face",
    "first_time",
    "last_time",
    "task",
    "target",
    "share",
    "mean_probability",
    "episodes",
    "longest_seconds",
)
EPISODES = (
    "video",
    "person",
    "task",
    "target",
    "start_frame",
    "end_frame",
    "start_time",
    "end_time",
    "seconds",
    "frames",
    "peak_frame",
    "peak_time",
    "peak_probability",
)


def summarise(predicted: Predicted, start: int, stop: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Tables of people and of episodes of one video, whose rows are a stretch.

    An episode is a run of frames of one person with the same decision (a class), or that show a
    label; more than ``GAP`` seconds without an answer end it. It lasts until the next frame.

    Returns:
        One row for each person and target: share of the answered frames that show it, mean
        probability, number of episodes and the longest; and one row for each episode.
    """
    persons: list[dict[str, Any]] = []
    episodes: list[dict[str, Any]] = []
    rows = predicted.rows.iloc[start:stop]
    number = predicted.person[start:stop]
    video = rows["video"].iloc[0]
    frame, time = rows["frame"].to_numpy(), rows["time"].to_numpy(float)
    status = rows["status"].to_numpy()
    looked = status != FrameStatus.NOT_SAMPLED
    step = _step(frame[looked], time[looked])
    for person in np.unique(number[number > 0]).tolist():
        mine = np.flatnonzero(number == person)
        known = mine[status[mine] == FrameStatus.OK]
        at = predicted.at[start + known]
        base = {
            "video": video,
            "person": person,
            "frames": len(mine),
            "frames_with_face": len(known),
            "first_time": _edge(time[mine], 0),
            "last_time": _edge(time[mine], -1),
        }
        for name, target, shown, probability in _shown(predicted, at):
            found = [
                {"video": video, "person": person, "task": name, "target": target} | episode
                for episode in _episodes(frame[known], time[known], shown, probability, step)
            ]
            episodes += found
            persons.append(
                base
                | {
                    "task": name,
                    "target": target,
                    "share": float(shown.mean()) if len(shown) else np.nan,
                    "mean_probability": float(probability.mean()) if len(shown) else np.nan,
                    "episodes": len(found),
                    "longest_seconds": max((e["seconds"] for e in found), default=np.nan),
                }
            )
    return pd.DataFrame(persons, columns=PERSONS), pd.DataFrame(episodes, columns=EPISODES)


def _shown(
    predicted: Predicted, at: np.ndarray
) -> Iterator[tuple[str, str, np.ndarray, np.ndarray]]:
    """(task, target, (n,) whether it is decided, (n,) its probability) of some answers."""
    for name, model in predicted.bundle.tasks.items():
        own = predicted.answers[name]
        for k, target in enumerate(model.targets):
            decision = own.decision[at]
            shown = decision[:, k] == 1 if model.multilabel else decision[:, 0] == k
            yield name, target, shown, own.probability[at, k]


def _step(frame: np.ndarray, time: np.ndarray) -> float:
    """Typical seconds between successive frames; NaN without timestamps."""
    known = ~np.isnan(time)
    numbers, first = np.unique(frame[known], return_index=True)
    return float(np.median(np.diff(time[known][first]))) if len(numbers) > 1 else float("nan")


def _edge(times: np.ndarray, which: int) -> float:
    known = times[~np.isnan(times)]
    return float(known[which]) if len(known) else float("nan")


def _episodes(
    frame: np.ndarray, time: np.ndarray, shown: np.ndarray, probability: np.ndarray, step: float
) -> Iterator[dict[str, Any]]:
    at = np.flatnonzero(shown)
    if not len(at):
        return
    gap = max(GAP, 1.5 * step) if step > 0 else GAP
    with np.errstate(invalid="ignore"):
        apart = (np.diff(at) > 1) | (np.diff(time[at]) > gap)
    for run in np.split(at, np.flatnonzero(apart) + 1):
        peak = run[np.argmax(probability[run])]
        first, last = run[0], run[-1]
        end = time[last] + step
        yield {
            "start_frame": int(frame[first]),
            "end_frame": int(frame[last]),
            "start_time": time[first],
            "end_time": end,
            "seconds": end - time[first],
            "frames": len(run),
            "peak_frame": int(frame[peak]),
            "peak_time": time[peak],
            "peak_probability": float(probability[peak]),
        }
