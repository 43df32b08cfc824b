"""BlazeFace finds faces, FaceMesh places 468 landmarks; both run in OpenCV.

Networks: MediaPipe's short-range face detector and face landmark model (Apache-2.0);
Bazarevsky et al. 2019 (BlazeFace), Kartynnik et al. 2019 (FaceMesh). What happens around them
(letterbox, anchors, weighted suppression, rotated region of interest) follows those papers.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

DETECTOR_SIDE = 128
LANDMARK_SIDE = 192
SUPPRESSION_IOU = 0.3
REGION_SCALE = 1.5  # side of the landmark network's region, in longer sides of the face box
# Outer and inner eye corners, nose tip, mouth corners in FaceMesh's numbering.
RIGHT_EYE, LEFT_EYE, NOSE, MOUTH = (33, 133), (362, 263), 1, (61, 291)
POINTS = ("right_eye", "left_eye", "nose", "mouth_right", "mouth_left")


@dataclass(frozen=True)
class Face:
    """A face in a frame; pixels of that frame.

    Attributes:
        box: (4,) left, top, width, height of the landmarks' extent.
        score: the smaller of the detector's and the landmark network's confidence.
        points: (5, 2) in the order of ``POINTS``; right and left are the person's own.
    """

    box: np.ndarray
    score: float
    points: np.ndarray


def _anchors() -> np.ndarray:
    """Anchor centres (896, 2) in [0, 1]: two on a 16 x 16 grid, six on an 8 x 8 grid."""
    centres = []
    for cells, repeats in ((16, 2), (8, 6)):
        steps = (np.arange(cells) + 0.5) / cells
        grid = np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2)
        centres.append(np.repeat(grid, repeats, axis=0))
    return np.concatenate(centres).astype(np.float32)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(x, -80, 80)))


def _overlap(boxes: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Intersection over union (n,) of corner boxes (n, 4) with one box (4,)."""
    low = np.maximum(boxes[:, :2], box[:2])
    high = np.minimum(boxes[:, 2:], box[2:])
    shared = np.clip(high - low, 0, None).prod(1)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    return shared / np.maximum(area + (box[2:] - box[:2]).prod() - shared, 1e-9)


class FaceDetector:
    """Finds the faces of single frames.

    Args:
        detector: ``detector.tflite``.
        landmarks: ``landmarks.tflite``.
        min_score: detector score a face must reach.
        min_presence: landmark network's face score a face must reach.
    """

    def __init__(
        self, detector: Path, landmarks: Path, min_score: float, min_presence: float
    ) -> None:
        # OpenCV 5's new engine returns one output of a .tflite network; the classic one all.
        self.detector = cv2.dnn.readNetFromTFLite(str(detector), cv2.dnn.ENGINE_CLASSIC)
        self.landmarks = cv2.dnn.readNetFromTFLite(str(landmarks), cv2.dnn.ENGINE_CLASSIC)
        self.min_score, self.min_presence = min_score, min_presence
        self.anchors = _anchors()
        cv2.setNumThreads(1)

    def __call__(self, frame: np.ndarray) -> list[Face]:
        """Faces of an RGB frame (H, W, 3) uint8, largest first."""
        found = []
        for score, box, eyes in self._detect(frame):
            turn = eyes[1] - eyes[0]
            points, presence = self._mesh(
                frame,
                (box[:2] + box[2:]) / 2,
                REGION_SCALE * float(max(box[2:] - box[:2])),
                float(np.arctan2(turn[1], turn[0])),
            )
            # A second look with the region set by the landmarks themselves, as MediaPipe does
            # when it tracks: it halves the landmarks' jitter.
            low, high = points.min(0), points.max(0)
            turn = points[LEFT_EYE[1]] - points[RIGHT_EYE[0]]
            points, presence = self._mesh(
                frame,
                (low + high) / 2,
                REGION_SCALE * float(max(high - low)),
                float(np.arctan2(turn[1], turn[0])),
            )
            if presence < self.min_presence:
                continue
            low, high = points.min(0), points.max(0)
            five = np.stack(
                [
                    points[list(RIGHT_EYE)].mean(0),
                    points[list(LEFT_EYE)].mean(0),
                    points[NOSE],
                    points[MOUTH[0]],
                    points[MOUTH[1]],
                ]
            )
            found.append(Face(np.concatenate([low, high - low]), min(score, presence), five))
        return sorted(found, key=lambda face: -float(face.box[2] * face.box[3]))

    def _detect(self, frame: np.ndarray) -> list[tuple[float, np.ndarray, np.ndarray]]:
        """(score, corner box (4,), eye points (2, 2)) of each face, in pixels."""
        height, width = frame.shape[:2]
        scale = DETECTOR_SIDE / max(height, width)
        size = (max(round(width * scale), 1), max(round(height * scale), 1))
        offset = np.array([(DETECTOR_SIDE - size[0]) // 2, (DETECTOR_SIDE - size[1]) // 2])
        square = np.zeros((DETECTOR_SIDE, DETECTOR_SIDE, 3), np.uint8)
        square[offset[1] : offset[1] + size[1], offset[0] : offset[0] + size[0]] = cv2.resize(
            frame, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        )
        blob = (square.astype(np.float32) / 127.5 - 1).transpose(2, 0, 1)[None]
        self.detector.setInput(np.ascontiguousarray(blob))
        logits, offsets = self.detector.forward(["classificators", "regressors"])
        scores = _sigmoid(logits[0, :, 0])
        kept = scores >= self.min_score
        scores, anchors = scores[kept], self.anchors[kept]
        shape = offsets[0][kept].reshape(-1, 8, 2) / DETECTOR_SIDE
        centre, extent = shape[:, 0] + anchors, shape[:, 1]
        corners = np.concatenate([centre - extent / 2, centre + extent / 2], axis=1)
        eyes = shape[:, 2:4] + anchors[:, None]
        found = []
        order = np.argsort(-scores, kind="stable")
        while len(order):
            group = order[_overlap(corners[order], corners[order[0]]) > SUPPRESSION_IOU]
            weight = scores[group] / scores[group].sum()
            box = (corners[group] * weight[:, None]).sum(0).reshape(2, 2)
            pair = (eyes[group] * weight[:, None, None]).sum(0)
            box, pair = ((value * DETECTOR_SIDE - offset) / scale for value in (box, pair))
            found.append((float(scores[order[0]]), box.ravel(), pair))
            order = order[~np.isin(order, group)]
        return found

    def _mesh(
        self, frame: np.ndarray, centre: np.ndarray, side: float, angle: float
    ) -> tuple[np.ndarray, float]:
        """Landmarks (468, 2) in pixels and the face score, from a rotated square region."""
        zoom = LANDMARK_SIDE / max(side, 1.0)
        c, s = np.cos(angle) * zoom, np.sin(angle) * zoom
        to_region = np.array([[c, s, 0.0], [-s, c, 0.0]])
        to_region[:, 2] = LANDMARK_SIDE / 2 - to_region[:, :2] @ centre
        region = cv2.warpAffine(frame, to_region, (LANDMARK_SIDE, LANDMARK_SIDE))
        blob = (region.astype(np.float32) / 255).transpose(2, 0, 1)[None]
        self.landmarks.setInput(np.ascontiguousarray(blob))
        presence, mesh = self.landmarks.forward(["conv2d_31", "conv2d_21"])
        back = cv2.invertAffineTransform(to_region)
        points = mesh.reshape(468, 3)[:, :2] @ back[:, :2].T + back[:, 2]
        return points, float(_sigmoid(presence.ravel()[:1])[0])
