"""Find the faces of an image, or of the successive frames of a video."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from clipaffect.config.faces import Faces
from clipaffect.core.assets import asset_file
from clipaffect.faces.cuts import CutDetector
from clipaffect.faces.detector import INSIDE, SAME_FACE, Candidate, FaceDetector, overlaps
from clipaffect.faces.landmarks import Face, Landmarker
from clipaffect.faces.networks import BoxNetwork, MeshNetwork
from clipaffect.faces.tracks import Tracker

ASSET = "face-networks"
TOUCHING = 0.1  # overlap from which a new face contradicts one that is only followed


class FaceFinder:
    """Finds the faces of single images.

    Args:
        assets: folder of fetched assets.
        settings: the ``faces`` section.
        threads: number of threads for the tiles of a large image.
    """

    def __init__(self, assets: Path, settings: Faces, threads: int = 1) -> None:
        cv2.setNumThreads(1)
        boxes = asset_file(assets, ASSET, "detector.tflite")
        networks = [BoxNetwork(boxes) for _ in range(threads)]
        self.detector = FaceDetector(networks, settings.min_score)
        self.landmarker = Landmarker(MeshNetwork(asset_file(assets, ASSET, "landmarks.tflite")))
        self.settings = settings

    def __call__(self, picture: np.ndarray) -> list[Face]:
        """Faces of an RGB image (H, W, 3) uint8, largest first."""
        return _by_size(self.beside(picture, [], self.seen(picture)))

    def seen(self, picture: np.ndarray) -> list[Candidate]:
        """The detector's candidates in an image, including small faces."""
        return self.detector(picture, self.settings.smallest)

    def beside(
        self, picture: np.ndarray, known: list[Face], candidates: list[Candidate]
    ) -> list[Face]:
        """The ``known`` faces of an image, and the new ones among the detector's candidates.

        A known face that the detector does not see is replaced by a new one that overlaps it: when
        someone moves fast, the landmarks can stay behind and still report high confidence.
        """
        new: list[Face] = []
        for candidate in candidates:
            if _is_new(candidate.box, [*known, *new]):
                face = self.landmarker.find(picture, candidate)
                sure = face.score >= self.settings.min_presence
                if sure and _is_new(face.corners, [*known, *new]):
                    new.append(face)
        kept = [
            face
            for face in known
            if any(not _is_new(candidate.box, [face]) for candidate in candidates)
            or not any(overlaps(one.corners[None], face.corners)[0][0] > TOUCHING for one in new)
        ]
        return kept + new


class FaceFollower:
    """Finds and numbers the faces of a video's frames.

    A face is tracked from frame to frame by its landmarks, as in MediaPipe. The detector runs on
    every ``detect_every``-th frame, and immediately if a face was lost or none is known. Tiles for
    small faces are searched only on every ``detect_every``-th frame. After a cut, the whole picture
    is searched, and a followed face is kept only if it matches a person seen before.
    """

    def __init__(self, finder: FaceFinder) -> None:
        self.finder, self.tracker, self.count = finder, Tracker(), 0
        self.cuts = CutDetector()

    def is_due(self, count: int) -> bool:
        """Whether the detector runs on a frame, given how many were processed before it."""
        return count % self.finder.settings.detect_every == 0

    def __call__(
        self, frame: np.ndarray, seen: list[Candidate] | None = None
    ) -> list[tuple[int, Face]]:
        """Track number and face of everyone in the next frame (H, W, 3), largest first.

        ``seen`` is the result of ``FaceFinder.seen`` for it, if already computed.
        """
        settings = self.finder.settings
        is_cut = self.cuts(frame)
        if is_cut:
            self.tracker.stop()
        before = self.tracker.expected()
        faces: list[Face] = []
        for region in before:
            followed = self.finder.landmarker.follow(frame, region)
            sure = followed.score >= settings.min_presence and _is_new(followed.corners, faces)
            if sure and not (is_cut and not self.tracker.knows(frame, followed)):
                faces.append(followed)
        if is_cut or self.is_due(self.count):
            candidates = self.finder.seen(frame) if seen is None else seen
            faces = self.finder.beside(frame, faces, candidates)
        elif not faces or len(faces) < len(before):
            faces = self.finder.beside(frame, faces, self.finder.detector(frame, 0))
        self.count += 1
        faces = _by_size(faces)
        return list(zip(self.tracker.update(frame, faces, is_cut), faces, strict=True))


def _by_size(faces: list[Face]) -> list[Face]:
    return sorted(faces, key=lambda face: -float(face.box[2] * face.box[3]))


def _is_new(box: np.ndarray, faces: list[Face]) -> bool:
    """Whether a box (4,) of corners is not one of the known faces."""
    if not faces:
        return True
    union, smaller = overlaps(np.stack([face.corners for face in faces]), box)
    return bool(union.max() <= SAME_FACE and smaller.max() <= INSIDE)
