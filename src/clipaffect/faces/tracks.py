"""Track the faces of successive frames: each person keeps the same number."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from scipy.optimize import linear_sum_assignment

from clipaffect.faces.alignment import TEMPLATE, align
from clipaffect.faces.detector import overlaps
from clipaffect.faces.landmarks import Face, Region

LOOK_SIDE = 12  # of the thumbnail by which a face is known again
EYES_APART = float(np.hypot(*(TEMPLATE[1] - TEMPLATE[0])))  # in sides of an aligned crop
NEAR = 1.2  # longest step from the expected place between two frames, in box sides
MEMORY = 30  # frames after which a place says nothing any more, and only looks count
SAME_LOOK = 0.16  # distance of looks up to which somebody who was away is known again
LOOK_WEIGHT = 6.0  # of a look's distance against one of a box side
APART = 0.05  # overlap of boxes up to which a face's look is surely its own
NEWER = 0.1  # share of the newest frame in a track's look
STEADY = 0.5  # share of the newest step in a track's velocity
IMPOSSIBLE = 1e6


@dataclass
class Track:
    """A track so far: the last face, its velocity in pixels per frame, and the mean appearance."""

    face: Face
    look: np.ndarray
    seen: int
    velocity: np.ndarray


def look_of(frame: np.ndarray, face: Face) -> np.ndarray:
    """A thumbnail (LOOK_SIDE, LOOK_SIDE, 3) in [0, 1] of the aligned face.

    It only needs to distinguish two people in the same video under the same light, not people in
    general.
    """
    # Cut at about the picture's own scale, so that only the resizing has to average.
    scale = max(round(face.eye_distance / EYES_APART / LOOK_SIDE), 2)
    crop = align(frame, face.points, scale * LOOK_SIDE)
    small = cv2.resize(crop, (LOOK_SIDE, LOOK_SIDE), interpolation=cv2.INTER_AREA)
    return small.astype(np.float32) / 255


def look_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Root mean square difference of two thumbnails."""
    return float(np.sqrt(((a - b) ** 2).mean()))


class Tracker:
    """Assigns the faces of each frame to tracks, all at once.

    The cost of a pair is the distance of the face from the expected position of the track, in box
    sides, plus the difference in appearance. If people are apart, the position decides. If they
    cross, or return after an absence, their appearance does.
    """

    def __init__(self) -> None:
        self.tracks: list[Track] = []
        self.frame = 0

    def expected(self) -> list[Region]:
        """Where the faces of the last frame should be in the next."""
        return [
            track.face.region.moved(track.velocity)
            for track in self.tracks
            if track.seen == self.frame
        ]

    def update(self, frame: np.ndarray, faces: list[Face]) -> list[int]:
        """Track numbers of the faces found in the next frame, an RGB image (H, W, 3)."""
        self.frame += 1
        looks = [look_of(frame, face) for face in faces]
        numbers = [-1] * len(faces)
        if faces and self.tracks:
            cost = np.array(
                [
                    [self._cost(t, f, k) for f, k in zip(faces, looks, strict=True)]
                    for t in self.tracks
                ]
            )
            for number, index in zip(*linear_sum_assignment(cost), strict=True):
                if cost[number, index] < IMPOSSIBLE:
                    numbers[index] = int(number)
        boxes = np.array([face.corners for face in faces])
        for index, (face, look) in enumerate(zip(faces, looks, strict=True)):
            others = np.delete(boxes, index, 0)
            alone = not len(others) or overlaps(others, face.corners)[0].max() <= APART
            if numbers[index] < 0:
                numbers[index] = len(self.tracks)
                self.tracks.append(Track(face, look, self.frame, np.zeros(2)))
            else:
                self._move(self.tracks[numbers[index]], face, look, alone)
        return numbers

    def _move(self, track: Track, face: Face, look: np.ndarray, alone: bool) -> None:
        gap = self.frame - track.seen
        step = (face.region.centre - track.face.region.centre) / gap
        kept = track.velocity if gap == 1 else step
        track.velocity = (1 - STEADY) * kept + STEADY * step
        if alone:
            track.look = (1 - NEWER) * track.look + NEWER * look
        track.face, track.seen = face, self.frame

    def _cost(self, track: Track, face: Face, look: np.ndarray) -> float:
        gap = self.frame - track.seen
        unlike = look_distance(track.look, look)
        if gap > MEMORY:
            return NEAR + LOOK_WEIGHT * unlike if unlike <= SAME_LOOK else IMPOSSIBLE
        place = track.face.region.centre + track.velocity * min(gap, 5)
        side = (track.face.region.side + face.region.side) / 2
        away = float(np.hypot(*(face.region.centre - place))) / side
        if away <= NEAR * min(1 + 0.1 * (gap - 1), 2):
            return min(away, NEAR) + LOOK_WEIGHT * unlike
        return IMPOSSIBLE
