"""How many frames a second the videos of a table have."""

from __future__ import annotations

import numpy as np
import pandas as pd


def frame_rate(rows: pd.DataFrame) -> float | None:
    """Median over videos of the mean number of frames per second.

    Args:
        rows: columns video, frame and time (in seconds; NaN for images).

    Returns:
        None if no video has two frames at different times.
    """
    own = rows.dropna(subset="time").groupby("video", observed=True)[["frame", "time"]]
    length = own.max() - own.min()
    length = length[length["time"] > 0]
    return float(np.median(length["frame"] / length["time"])) if len(length) else None
