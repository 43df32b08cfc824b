"""The two face networks, run by LiteRT on one thread.

MediaPipe's short-range detector (BlazeFace, Bazarevsky et al. 2019) and its landmark model
(FaceMesh, Kartynnik et al. 2019), both Apache-2.0. Measured on one core: 0.7 ms a call each,
where OpenCV's engine takes 1.5 and 2.0 ms; calls with eight images cost as much per image.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter

DETECTOR_SIDE = 128
LANDMARK_SIDE = 192
LANDMARKS = 468


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(x, -80, 80)))


def _anchors() -> np.ndarray:
    """Anchor centres (896, 2) in [0, 1]: two on a 16 x 16 grid, six on an 8 x 8 grid."""
    centres = []
    for cells, repeats in ((16, 2), (8, 6)):
        steps = (np.arange(cells) + 0.5) / cells
        grid = np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2)
        centres.append(np.repeat(grid, repeats, axis=0))
    return np.concatenate(centres).astype(np.float32)


@contextmanager
def _silenced() -> Iterator[None]:
    """Drop what is written to the standard error by code that Python's logging does not reach."""
    kept = os.dup(2)
    try:
        with Path(os.devnull).open("wb") as nothing:
            os.dup2(nothing.fileno(), 2)
            yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


class _Network:
    def __init__(self, path: Path) -> None:
        self.interpreter = Interpreter(str(path), num_threads=1)
        with _silenced():  # LiteRT announces its CPU delegate
            self.interpreter.allocate_tensors()
        self.input = self.interpreter.get_input_details()[0]["index"]
        self.outputs = {
            int(np.prod(tensor["shape"])): tensor["index"]
            for tensor in self.interpreter.get_output_details()
        }

    def __call__(self, picture: np.ndarray) -> dict[int, np.ndarray]:
        """Flat outputs by their number of values."""
        self.interpreter.set_tensor(self.input, picture[None])
        self.interpreter.invoke()
        return {
            size: self.interpreter.get_tensor(index).ravel() for size, index in self.outputs.items()
        }


class BoxNetwork:
    """Candidate faces in a square image; ``path`` is ``detector.tflite``."""

    def __init__(self, path: Path) -> None:
        self.network = _Network(path)
        self.anchors = _anchors()

    def __call__(self, square: np.ndarray, least: float) -> tuple[np.ndarray, np.ndarray]:
        """Scores (n,) of at least ``least`` and shapes (n, 4, 2), as shares of the side.

        Args:
            square: (128, 128, 3) uint8 RGB.
            least: score in (0, 1).

        Returns:
            The four points of a shape are the box's upper left and lower right corner and the
            person's right and left eye.
        """
        out = self.network(square.astype(np.float32) * np.float32(1 / 127.5) - 1)
        scores = _sigmoid(out[len(self.anchors)])
        kept = scores >= least
        offset = out[len(self.anchors) * 16].reshape(-1, 8, 2)[kept] / DETECTOR_SIDE
        centre, half = offset[:, 0] + self.anchors[kept], offset[:, 1] / 2
        eyes = offset[:, 2:4] + self.anchors[kept][:, None]
        return scores[kept], np.stack([centre - half, centre + half, eyes[:, 0], eyes[:, 1]], 1)


class MeshNetwork:
    """Landmarks of the face that fills a square image; ``path`` is ``landmarks.tflite``."""

    def __init__(self, path: Path) -> None:
        self.network = _Network(path)

    def __call__(self, square: np.ndarray) -> tuple[np.ndarray, float]:
        """Landmarks (468, 3) in pixels of the square, and how sure it is that there is a face.

        Args:
            square: (192, 192, 3) uint8 RGB. The third coordinate is depth, in the same unit,
                smaller is nearer.
        """
        out = self.network(square.astype(np.float32) * np.float32(1 / 255))
        return out[LANDMARKS * 3].reshape(LANDMARKS, 3), float(_sigmoid(out[1])[0])
