"""Detect the faces of an image with BlazeFace, on the whole image and on overlapping tiles.

The network sees 128 x 128 pixels. Measured on two real clips, it finds faces from 0.15 of the
image's side upwards (0.125: 92 to 100 %; 0.1: 0 to 5 %), so smaller ones are searched for in tiles.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from queue import SimpleQueue

import cv2
import numpy as np

from clipaffect.faces.networks import DETECTOR_SIDE, BoxNetwork

FOUND_SHARE = 0.15  # of a tile's side, from which a face is found
SAME_FACE = 0.3  # overlap (intersection over union) of two boxes of one face
INSIDE = 0.6  # share of a box inside another from which it is a part of that face


@dataclass(frozen=True)
class Candidate:
    """A face as seen by the detector, in pixels of the image.

    Attributes:
        score: of the detector, in (0, 1).
        box: (4,) left, top, right, bottom.
        eyes: (2, 2) the person's right and left eye.
    """

    score: float
    box: np.ndarray
    eyes: np.ndarray


def overlaps(boxes: np.ndarray, box: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of corner boxes (n, 4) with one (4,): intersection over union, and over the smaller box."""
    low = np.maximum(boxes[:, :2], box[:2])
    high = np.minimum(boxes[:, 2:], box[2:])
    shared = np.clip(high - low, 0, None).prod(1)
    area = np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(1)
    own = float(np.clip(box[2:] - box[:2], 0, None).prod())
    union = np.maximum(area + own - shared, 1e-9)
    return shared / union, shared / np.maximum(np.minimum(area, own), 1e-9)


def tiles(height: int, width: int, smallest: float) -> Iterator[tuple[int, int, int]]:
    """Squares (left, top, side) in which faces of at least ``smallest`` pixels are found.

    The whole image comes first, then tiles of half the side, and so on, as long as ``smallest``
    requires it. Neighbours overlap by the size of the largest face that only they can find.
    """
    whole = max(height, width)
    yield 0, 0, whole
    side = max(smallest / FOUND_SHARE, DETECTOR_SIDE)
    sides = []
    while side < whole * 0.8:
        sides.append(round(side))
        side *= 2
    for side, larger in reversed(list(pairwise([*sides, whole]))):
        step = side - FOUND_SHARE * larger
        for top in _starts(height, side, step):
            for left in _starts(width, side, step):
                yield left, top, side


def _starts(length: int, side: int, step: float) -> list[int]:
    if length <= side:
        return [0]
    count = int(np.ceil((length - side) / step)) + 1
    return np.linspace(0, length - side, count).round().astype(int).tolist()


class FaceDetector:
    """Finds the faces of an image.

    Args:
        networks: BlazeFace; with several, each runs in its own thread on some of the tiles.
        min_score: score that a face must reach.
    """

    def __init__(self, networks: list[BoxNetwork], min_score: float) -> None:
        self.min_score = min_score
        self.free: SimpleQueue[BoxNetwork] = SimpleQueue()
        for network in networks:
            self.free.put(network)
        self.pool = ThreadPoolExecutor(len(networks)) if len(networks) > 1 else None

    def __call__(self, frame: np.ndarray, smallest: int) -> list[Candidate]:
        """Candidates in an image, best first, with each face once.

        Args:
            frame: (H, W, 3) uint8 RGB.
            smallest: side in pixels from which faces are to be found; 0 for what is found in the
                whole image.
        """
        height, width = frame.shape[:2]

        def look(tile: tuple[int, int, int]) -> list[Candidate]:
            left, top, side = tile
            part = frame[top : top + side, left : left + side]
            return self._in_square(part, side, np.array([left, top], float))

        squares = list(tiles(height, width, smallest or max(height, width)))
        each = map if self.pool is None or len(squares) == 1 else self.pool.map
        return _each_once([candidate for found in each(look, squares) for candidate in found])

    def _in_square(self, part: np.ndarray, side: int, corner: np.ndarray) -> list[Candidate]:
        """Candidates in a part of an image that is scaled to a square of ``side``."""
        scale = DETECTOR_SIDE / side
        height, width = (max(round(n * scale), 1) for n in part.shape[:2])
        square = np.zeros((DETECTOR_SIDE, DETECTOR_SIDE, 3), np.uint8)
        top, left = (DETECTOR_SIDE - height) // 2, (DETECTOR_SIDE - width) // 2
        square[top : top + height, left : left + width] = cv2.resize(
            part, (width, height), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        )
        network = self.free.get()
        try:
            scores, shapes = network(square, self.min_score)
        finally:
            self.free.put(network)
        shapes = (shapes * DETECTOR_SIDE - [left, top]) / scale + corner
        boxes = shapes[:, :2].reshape(-1, 4)
        found = []
        order = np.argsort(-scores, kind="stable")
        # BlazeFace's blending: a face is the mean of the anchors that see it, by their scores.
        while len(order):
            group = order[overlaps(boxes[order], boxes[order[0]])[0] > SAME_FACE]
            weight = (scores[group] / scores[group].sum())[:, None, None]
            shape = (shapes[group] * weight).sum(0)
            found.append(Candidate(float(scores[order[0]]), shape[:2].ravel(), shape[2:]))
            order = order[~np.isin(order, [*group, order[0]])]
        return found


def _each_once(found: list[Candidate]) -> list[Candidate]:
    """Drop candidates that another tile shows better or more completely."""
    kept: list[Candidate] = []
    for candidate in sorted(found, key=lambda c: -c.score):
        if kept:
            union, smaller = overlaps(np.stack([k.box for k in kept]), candidate.box)
            if union.max() > SAME_FACE or smaller.max() > INSIDE:
                continue
        kept.append(candidate)
    return kept
