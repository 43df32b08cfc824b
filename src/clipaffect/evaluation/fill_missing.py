"""Scores for frames without a crop, from the frames of the same person that have one.

``evaluation.missing``: ``leave_out`` gives none, ``nearest`` that of the nearest frame (the
earlier of two), ``interpolate`` the straight line between the neighbours on both sides. Before the
first and after the last frame with a crop, both give that frame's score. Labels are never used.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from clipaffect.config.models import Missing

PERSON = ["video", "person"]


@dataclass(frozen=True)
class ScorePlan:
    """The known rows from which each wanted row gets its score.

    Attributes:
        kept: (m,) the wanted rows that get a score.
        left, right: (m,) known rows.
        share: (m,) of ``right``; 0 where ``left`` alone counts.
        own: (m,) bool, whether the row has its own crop.
    """

    kept: np.ndarray
    left: np.ndarray
    right: np.ndarray
    share: np.ndarray
    own: np.ndarray

    def apply(self, scores: np.ndarray) -> np.ndarray:
        """Scores (m, k) of the kept rows from those (n, k) of the known ones."""
        found = scores[self.left]
        between = np.flatnonzero(self.share)
        share = self.share[between, None].astype(scores.dtype)
        found[between] = (1 - share) * found[between] + share * scores[self.right[between]]
        return found


def plan_scores(wanted: pd.DataFrame, known: pd.DataFrame, policy: Missing) -> ScorePlan:
    """Plan the scores of ``wanted`` from ``known``, both with columns video, person, frame."""
    left = np.full(len(wanted), -1)
    right, share = left.copy(), np.zeros(len(wanted))
    own = np.zeros(len(wanted), bool)
    frames, have = wanted["frame"].to_numpy(), known["frame"].to_numpy()
    sources = known.groupby(PERSON, sort=False, observed=True).indices
    for person, at in wanted.groupby(PERSON, sort=False, observed=True).indices.items():
        if person not in sources:
            continue
        source = sources[person][np.argsort(have[sources[person]], kind="stable")]
        there, asked = have[source], frames[at]
        after = np.minimum(np.searchsorted(there, asked), len(there) - 1)
        exact = there[after] == asked
        before = np.where(exact | (there[after] < asked), after, np.maximum(after - 1, 0))
        own[at] = exact
        if policy == "nearest":
            pick = np.where(asked - there[before] <= there[after] - asked, before, after)
            # outside the known frames both are the same one
            before = after = np.where(there[after] < asked, after, pick)
        elif policy == "interpolate":
            span = there[after] - there[before]
            inside = (span > 0) & (there[before] < asked)
            share[at] = np.where(inside, (asked - there[before]) / np.maximum(span, 1), 0)
        left[at], right[at] = source[before], source[after]
    kept = np.flatnonzero(own if policy == "leave_out" else left >= 0)
    return ScorePlan(kept, left[kept], right[kept], share[kept], own[kept])
