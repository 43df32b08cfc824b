"""Whether a face is good enough: what was measured on it against the configured bounds."""

from __future__ import annotations

import pandas as pd

from clipaffect.config.faces import Quality
from clipaffect.outcomes import Outcome


def judge(faces: pd.DataFrame, bounds: Quality) -> pd.Series:
    """The status of every row; a face that falls short loses its ``ok``.

    Where several bounds are missed the first counts: cut off, small, turned, blurred.

    Args:
        faces: columns status, eye_distance, sharpness, yaw, pitch, visible.
        bounds: the ``faces.quality`` section.
    """
    turned = (faces["yaw"].abs() > bounds.yaw) | (faces["pitch"].abs() > bounds.pitch)
    short = {
        Outcome.FACE_CUT_OFF: faces["visible"] < bounds.visible,
        Outcome.FACE_SMALL: faces["eye_distance"] < bounds.eye_distance,
        Outcome.FACE_TURNED: turned,
        Outcome.FACE_BLURRED: faces["sharpness"] < bounds.sharpness,
    }
    status = faces["status"].copy()
    for outcome, missed in short.items():
        status = status.mask(missed & (status == Outcome.OK), str(outcome))
    return status
