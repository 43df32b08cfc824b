"""Landmarks of a face: FaceMesh on a turned square around it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from clipaffect.faces.detector import Candidate
from clipaffect.faces.networks import LANDMARK_SIDE, MeshNetwork

REGION_SCALE = 1.5  # side of the network's square, in longer sides of the face box
LOOKS = 4  # at a face that the detector has found
# Outer and inner eye corners, nose tip, mouth corners, forehead, chin in FaceMesh's numbering.
RIGHT_EYE, LEFT_EYE, NOSE, MOUTH, FOREHEAD, CHIN = (33, 133), (362, 263), 1, (61, 291), 10, 152
POINTS = ("right_eye", "left_eye", "nose", "mouth_right", "mouth_left")


@dataclass(frozen=True)
class Region:
    """The square that the landmark network sees: centre (2,), side, turn in radians."""

    centre: np.ndarray
    side: float
    angle: float

    def moved(self, shift: np.ndarray) -> Region:
        """The same square, moved."""
        return Region(self.centre + shift, self.side, self.angle)


@dataclass(frozen=True)
class Face:
    """A face in an image, in pixels of that image.

    Attributes:
        box: (4,) left, top, width, height of the landmarks' extent.
        score: the smaller of the detector's and the landmark network's confidence; while a face
            is followed, the landmark network's.
        points: (5, 2) in the order of ``POINTS``; right and left are the person's own.
        pose: (3,) degrees: yaw (positive: turned to the image's right), pitch (positive: looking
            down), roll (positive: clockwise in the picture). From the landmarks' depth, which the
            network estimates.
        visible: share of the landmarks inside the image.
        region: where the face is searched for in the next frame.
    """

    box: np.ndarray
    score: float
    points: np.ndarray
    pose: np.ndarray
    visible: float
    region: Region

    @property
    def corners(self) -> np.ndarray:
        """The box (4,) as left, top, right, bottom."""
        return np.concatenate([self.box[:2], self.box[:2] + self.box[2:]])

    @property
    def eye_distance(self) -> float:
        """Between the middles of the eyes, in pixels."""
        return float(np.hypot(*(self.points[1] - self.points[0])))


def region_of(candidate: Candidate) -> Region:
    """The square of a detected face."""
    turn = candidate.eyes[1] - candidate.eyes[0]
    low, high = candidate.box[:2], candidate.box[2:]
    side = REGION_SCALE * float(max(high - low))
    return Region((low + high) / 2, side, float(np.arctan2(turn[1], turn[0])))


class Landmarker:
    """Places landmarks; ``network`` is FaceMesh."""

    def __init__(self, network: MeshNetwork) -> None:
        self.network = network

    def find(self, frame: np.ndarray, candidate: Candidate) -> Face:
        """The face of a detection.

        In each look after the first the square is set by the landmarks of the one before, as it is
        while a face is followed: that halves the jitter. All must be sure of the face; where there
        is none they seldom agree (95 frames of a real scene without people, 27 tiles each: two
        or three looks saw two faces, four none).

        The detector gives a face that is upside down the eyes of an upright one, so the square is
        also looked at upside down, and the surer way wins (56 frames of real and rendered people at
        four sizes, upright and upside down: no mistake).
        """
        region = region_of(candidate)
        face = self._looked_at(frame, region, 0.0)
        turned = self._looked_at(frame, replace(region, angle=region.angle + np.pi), face.score)
        face = turned if turned.score > face.score else face
        return replace(face, score=min(candidate.score, face.score))

    def _looked_at(self, frame: np.ndarray, region: Region, least: float) -> Face:
        """The last of several looks, with the least score; no more looks below ``least``."""
        face = self.follow(frame, region)
        score = face.score
        for _ in range(LOOKS - 1):
            if score < least:
                break
            face = self.follow(frame, face.region)
            score = min(score, face.score)
        return replace(face, score=score)

    def mesh(self, frame: np.ndarray, region: Region) -> tuple[np.ndarray, np.ndarray, float]:
        """The mesh of the face in a square of an RGB image (H, W, 3).

        Returns:
            Points (468, 2) in pixels of the image; the points (468, 3) in the square, with depth;
            and how sure the network is that there is a face.
        """
        zoom = LANDMARK_SIDE / max(region.side, 1.0)
        c, s = np.cos(region.angle) * zoom, np.sin(region.angle) * zoom
        to_square = np.array([[c, s, 0.0], [-s, c, 0.0]])
        to_square[:, 2] = LANDMARK_SIDE / 2 - to_square[:, :2] @ region.centre
        square = cv2.warpAffine(frame, to_square, (LANDMARK_SIDE, LANDMARK_SIDE))
        mesh, presence = self.network(square)
        back = cv2.invertAffineTransform(to_square)
        return mesh[:, :2] @ back[:, :2].T + back[:, 2], mesh, presence

    def follow(self, frame: np.ndarray, region: Region) -> Face:
        """The face in a square of an RGB image (H, W, 3)."""
        points, mesh, presence = self.mesh(frame, region)
        low, high = points.min(0), points.max(0)
        eyes = points[list(RIGHT_EYE)].mean(0), points[list(LEFT_EYE)].mean(0)
        five = np.stack([*eyes, points[NOSE], points[MOUTH[0]], points[MOUTH[1]]])
        turn = points[LEFT_EYE[1]] - points[RIGHT_EYE[0]]
        angle = float(np.arctan2(turn[1], turn[0]))
        inside = ((points >= 0) & (points < frame.shape[1::-1])).all(1).mean()
        across, down = mesh[LEFT_EYE[1]] - mesh[RIGHT_EYE[0]], mesh[CHIN] - mesh[FOREHEAD]
        pose = np.degrees(
            [
                np.arctan2(across[2], np.hypot(*across[:2])),
                np.arctan2(down[2], np.hypot(*down[:2])),
                angle,
            ]
        )
        side = REGION_SCALE * float(max(high - low))
        region = Region((low + high) / 2, side, angle)
        return Face(np.concatenate([low, high - low]), presence, five, pose, float(inside), region)
