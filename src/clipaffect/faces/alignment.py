"""Crop a face from a frame, by mapping five points to a template, or by its box and a margin."""

from __future__ import annotations

import cv2
import numpy as np

# Where the five points land in a crop of side 1: the widely used ArcFace template (112 x 112:
# Deng et al. 2019, published code), whose crops resemble Aff-Wild2's `cropped_aligned` images.
TEMPLATE = (
    np.array(
        [
            [38.2946, 51.6963],
            [73.5318, 51.5014],
            [56.0252, 71.7366],
            [41.5493, 92.3655],
            [70.7299, 92.2041],
        ]
    )
    / 112
)


def similarity(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Least-squares similarity (2, 3): rotation, one scale, shift; never a reflection.

    Source: Umeyama 1991, eqs. 40 to 43, in the plane.

    Args:
        source: (n, 2) points, n >= 2, not all equal.
        target: (n, 2) points.
    """
    source_mean, target_mean = source.mean(0), target.mean(0)
    a, b = source - source_mean, target - target_mean
    u, singular, vt = np.linalg.svd(b.T @ a)
    sign = np.array([1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    rotation = (u * sign) @ vt
    scale = (singular * sign).sum() / (a**2).sum()
    shift = target_mean - scale * rotation @ source_mean
    return np.column_stack([scale * rotation, shift])


def warp(frame: np.ndarray, transform: np.ndarray, size: int) -> np.ndarray:
    """The crop (size, size, 3) to which a similarity (2, 3) maps a frame, without aliasing."""
    # Shrinking by sampling single pixels aliases: blur first by what the shrinking leaves out.
    shrink = 1 / max(np.hypot(*transform[:, 0]), 1e-9)
    if shrink > 1.5:
        sigma = 0.4 * shrink
        frame, corner = _part(frame, transform, size, margin=4 * sigma + 2)
        frame = cv2.GaussianBlur(frame, (0, 0), sigma)
        transform = transform + np.outer(transform[:, :2] @ corner, [0, 0, 1])
    return cv2.warpAffine(frame, transform, (size, size), flags=cv2.INTER_LINEAR)


def _part(
    frame: np.ndarray, transform: np.ndarray, size: int, margin: float
) -> tuple[np.ndarray, np.ndarray]:
    """The part of the frame that a crop shows, with a margin, and its corner (2,)."""
    inverse = cv2.invertAffineTransform(transform)
    corners = np.array([[0, 0, 1], [size, 0, 1], [0, size, 1], [size, size, 1]]) @ inverse.T
    limit = np.array(frame.shape[1::-1])
    low = np.clip(np.floor(corners.min(0) - margin), 0, limit - 1).astype(int)
    high = np.clip(np.ceil(corners.max(0) + margin), low + 1, limit).astype(int)
    return frame[low[1] : high[1], low[0] : high[0]], low


def align(frame: np.ndarray, points: np.ndarray, size: int) -> np.ndarray:
    """Crop (size, size, 3) with the five points (5, 2) on the template."""
    return warp(frame, similarity(points, TEMPLATE * size), size)


def crop_box(frame: np.ndarray, box: np.ndarray, margin: float, size: int) -> np.ndarray:
    """Square crop (size, size, 3) around a box (left, top, width, height), black outside."""
    side = max(float(box[2]), float(box[3])) * (1 + 2 * margin)
    left, top = box[:2] + box[2:] / 2 - side / 2
    corners = np.array([[left, top], [left + side, top], [left, top + side]])
    goal = np.array([[0, 0], [size, 0], [0, size]], float)
    return warp(frame, similarity(corners, goal), size)
