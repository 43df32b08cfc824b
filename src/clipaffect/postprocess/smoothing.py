"""Smooth probabilities over neighbouring frames of a person."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.ndimage import gaussian_filter1d, uniform_filter1d

PERSON = ["video", "person"]


@dataclass(frozen=True)
class Window:
    """The smoothing window around a frame.

    Attributes:
        kind: ``none``, ``mean`` (a box of ``width`` frames) or ``gaussian`` (deviation ``width``).
        width: in frames.
    """

    kind: str
    width: float

    def filter(self, values: np.ndarray) -> np.ndarray:
        """Smooth (L, k) along its first axis, with zeros beyond the ends."""
        if self.kind == "mean":
            found = uniform_filter1d(values, int(self.width), axis=0, mode="constant")
        else:
            found = gaussian_filter1d(values, self.width, axis=0, mode="constant")
        return np.asarray(found)


NONE = Window("none", 0)
WINDOWS = (
    NONE,
    *(Window("mean", width) for width in (3, 5, 9, 15, 31, 61)),
    *(Window("gaussian", deviation) for deviation in (1, 2, 4, 8, 16)),
)


def sequences(rows: pd.DataFrame) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each person in each video: row numbers in frame order, and the frame numbers."""
    frames = rows["frame"].to_numpy()
    found = []
    for at in rows.groupby(PERSON, sort=True, observed=True).indices.values():
        order = at[np.argsort(frames[at], kind="stable")]
        found.append((order, frames[order]))
    return found


def smooth(
    scores: np.ndarray, runs: list[tuple[np.ndarray, np.ndarray]], window: Window
) -> np.ndarray:
    """Smooth probabilities (..., n, k) by frame number; missing frames have no weight.

    A normalised convolution: the filter of the scores over the filter of their presence. So a gap
    is not filled, and the ends are not pulled to zero.
    """
    if window.kind == "none":
        return scores
    found = scores.copy()
    for rows, frames in runs:
        if len(rows) < 2:
            continue
        at = frames - frames[0]
        there = np.zeros((int(at[-1]) + 1, 1))
        there[at] = 1
        weight = window.filter(there)[at]
        own = np.moveaxis(scores[..., rows, :], -2, 0)  # (frames, ..., k)
        dense = np.zeros((len(there), *own.shape[1:]))
        dense[at] = own
        weight = weight.reshape(-1, *[1] * (own.ndim - 1))
        found[..., rows, :] = np.moveaxis(window.filter(dense)[at] / weight, 0, -2)
    return found
