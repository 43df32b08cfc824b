"""Track the faces of successive frames: each person keeps the same number."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from scipy.optimize import linear_sum_assignment

from clipaffect.faces.alignment import TEMPLATE, similarity, warp
from clipaffect.faces.detector import overlaps
from clipaffect.faces.landmarks import Face, Region

LOOK_SIDE = 12  # of the thumbnail of a face
PORTRAIT_SIDE = 16  # of that of the head with hair and clothes
PORTRAIT = (TEMPLATE - 0.5) * 0.42 + 0.5  # where the points of a face lie in it
REMEMBERED = 6  # appearances of each track: those of the last changes of head or light
NEW_APPEARANCE = 0.5  # unlikeness of all others from which an appearance is remembered
NEAR = 1.2  # longest step from the expected place between two frames, in box sides
MEMORY = 30  # frames after which a place says nothing any more, and only looks count
# Thresholds of looks and portraits: below one of them, somebody is recognized after a cut or an
# absence. In 35 rendered videos, 1 % of the comparisons between different people match, and 9 % of
# those of the same person do not.
SAME_LOOK, SAME_PORTRAIT = 0.14, 0.21
DARKEST = 0.02  # added to the brightness by which differences are scaled
WHOLE = 0.95  # share of the landmarks inside the picture from which looks can be compared
CHANGED = 0.2  # distance of looks from one frame to the next from which the memory must agree
LOOK_WEIGHT = 6.0  # of a look's distance against one of a box side
APART = 0.05  # overlap of boxes up to which a face's look is surely its own
LOOKED_EVERY = 5  # frames between two looks at whether a portrait is new
NEWER = 0.1  # share of the newest frame in a track's look
LEAP = 0.5  # step in box sides from which it is no motion that goes on
STEADY = 0.5  # share of the newest step in a track's velocity
IMPOSSIBLE = 1e6


@dataclass(frozen=True)
class Appearance:
    """What a person looked like at a time: see ``look_of`` and ``portrait_of``."""

    look: np.ndarray
    portrait: np.ndarray

    def unlike(self, other: Appearance) -> float:
        """How far two appearances are apart; up to 1 they may be the same person's."""
        return min(
            _difference(self.look, other.look) / SAME_LOOK,
            _difference(self.portrait, other.portrait) / SAME_PORTRAIT,
        )


def _difference(a: np.ndarray, b: np.ndarray) -> float:
    """The distance of two thumbnails, over the root of their brightness.

    Dark thumbnails differ little. Without this scaling, twice as many returning people are missed
    at the same rate of false matches.
    """
    return look_distance(a, b) / float(np.sqrt((a.mean() + b.mean()) / 2 + DARKEST))


@dataclass
class Track:
    """A track so far.

    Attributes:
        face: the last one.
        look: the mean appearance, see ``look_of``.
        last_look: that of the last frame.
        memory: earlier appearances.
        seen: the frame of the last face.
        velocity: in pixels per frame.
    """

    face: Face
    look: np.ndarray
    last_look: np.ndarray
    memory: list[Appearance]
    seen: int
    velocity: np.ndarray


def look_of(frame: np.ndarray, face: Face) -> np.ndarray:
    """A thumbnail (LOOK_SIDE, LOOK_SIDE, 3) in [0, 1] of the aligned face.

    It only needs to distinguish two people in the same video under the same light, not people in
    general.
    """
    return _thumbnail(frame, face, TEMPLATE, LOOK_SIDE)


def portrait_of(frame: np.ndarray, face: Face) -> np.ndarray:
    """A thumbnail (PORTRAIT_SIDE, PORTRAIT_SIDE, 3) in [0, 1] of the head with hair and clothes."""
    return _thumbnail(frame, face, PORTRAIT, PORTRAIT_SIDE)


def _thumbnail(frame: np.ndarray, face: Face, template: np.ndarray, side: int) -> np.ndarray:
    """A face with its five points on a template (5, 2), whose side is 1."""
    # Cut at about the picture's own scale, so that only the resizing has to average.
    apart = float(np.hypot(*(template[1] - template[0])))
    size = side * max(round(face.eye_distance / apart / side), 2)
    crop = warp(frame, similarity(face.points, template * size), size)
    small = cv2.resize(crop, (side, side), interpolation=cv2.INTER_AREA)
    return small.astype(np.float32) / 255


def look_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Root mean square difference of two thumbnails."""
    return float(np.sqrt(((a - b) ** 2).mean()))


class Tracker:
    """Assigns the faces of each frame to tracks, all at once.

    The cost of a pair is the distance of the face from the expected position of the track, in box
    sides, plus the difference in appearance. If people are apart, the position decides. If they
    cross, their appearance does. After a cut or an absence only the appearance counts, and somebody
    too different starts a new track.
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

    def stop(self) -> None:
        """Forget all motion: after a cut, faces are not where they were going."""
        for track in self.tracks:
            track.velocity = np.zeros(2)

    def knows(self, frame: np.ndarray, face: Face) -> bool:
        """Whether a face is that of somebody who was seen before."""
        appearance = _Seen(frame, face).appearance
        return any(_unlike(track, appearance) <= 1 for track in self.tracks)

    def update(self, frame: np.ndarray, faces: list[Face], is_cut: bool = False) -> list[int]:
        """Track numbers of the faces found in the next frame, an RGB image (H, W, 3)."""
        self.frame += 1
        seen = [_Seen(frame, face, _is_alone(face, faces)) for face in faces]
        numbers = [-1] * len(faces)
        if faces and self.tracks:
            cost = np.array([[self._cost(t, one, is_cut) for one in seen] for t in self.tracks])
            for number, index in zip(*linear_sum_assignment(cost), strict=True):
                if cost[number, index] < IMPOSSIBLE:
                    numbers[index] = int(number)
        for index, one in enumerate(seen):
            if numbers[index] < 0:
                numbers[index] = len(self.tracks)
                track = Track(
                    one.face, one.look, one.look, [one.appearance], self.frame, np.zeros(2)
                )
                self.tracks.append(track)
            else:
                self._move(self.tracks[numbers[index]], one, is_cut)
        return numbers

    def _move(self, track: Track, one: _Seen, is_cut: bool) -> None:
        gap = self.frame - track.seen
        step = (one.face.region.centre - track.face.region.centre) / gap
        kept = track.velocity if gap == 1 else step
        track.velocity = (1 - STEADY) * kept + STEADY * step
        if is_cut or np.hypot(*step) > LEAP * one.face.region.side:
            track.velocity = np.zeros(2)
        if one.alone:
            newer = 1.0 if is_cut else NEWER
            track.look = (1 - newer) * track.look + newer * one.look
            if is_cut or self.frame % LOOKED_EVERY == 0:
                _remember(track, one.appearance)
        track.face, track.last_look, track.seen = one.face, one.look, self.frame

    def _cost(self, track: Track, one: _Seen, is_cut: bool) -> float:
        gap = self.frame - track.seen
        # What lies outside the picture is black in thumbnails: there, the place has to do.
        if gap > MEMORY or (is_cut and one.face.visible >= WHOLE):
            unlike = _unlike(track, one.appearance)
            return NEAR + unlike if unlike <= 1 else IMPOSSIBLE
        face, look = track.face, look_distance(track.look, one.look)
        place = face.region.centre + track.velocity * min(gap, 5)
        side = (face.region.side + one.face.region.side) / 2
        away = float(np.hypot(*(one.face.region.centre - place))) / side
        if away > NEAR * min(1 + 0.1 * (gap - 1), 2):
            return IMPOSSIBLE
        comparable = one.alone and gap == 1 and one.face.visible >= WHOLE
        changed = comparable and look_distance(track.last_look, one.look) > CHANGED
        if changed and _unlike(track, one.appearance) > 1:
            return IMPOSSIBLE
        return min(away, NEAR) + LOOK_WEIGHT * look


class _Seen:
    """A face of the present frame, whether it is clear of others, and what it looks like."""

    def __init__(self, frame: np.ndarray, face: Face, alone: bool = True) -> None:
        self.frame, self.face, self.alone = frame, face, alone
        self.look = look_of(frame, face)

    @cached_property
    def appearance(self) -> Appearance:
        """Made when asked for: mostly the look is enough."""
        return Appearance(self.look, portrait_of(self.frame, self.face))


def _is_alone(face: Face, faces: list[Face]) -> bool:
    """Whether a face's look is surely its own: no other face overlaps it."""
    others = [other.corners for other in faces if other is not face]
    return not others or float(overlaps(np.stack(others), face.corners)[0].max()) <= APART


def _unlike(track: Track, appearance: Appearance) -> float:
    """How far an appearance is from the last one of a track, or the nearest that it remembers."""
    last = _difference(track.last_look, appearance.look) / SAME_LOOK
    return min(last, *(own.unlike(appearance) for own in track.memory))


def _remember(track: Track, appearance: Appearance) -> None:
    if min(own.unlike(appearance) for own in track.memory) > NEW_APPEARANCE:
        track.memory = [*track.memory[-(REMEMBERED - 1) :], appearance]
