"""A painter's-algorithm rasteriser: which triangle covers a pixel, and where in it."""

from __future__ import annotations

import cv2
import numpy as np

SUBPIXEL_BITS = 4  # vertex positions reach OpenCV in sixteenths of a pixel
LARGEST = 1 << 20  # far-away vertices are clamped: OpenCV's fixed point is 32 bits


def rasterise(
    xy: np.ndarray, depth: np.ndarray, triangles: np.ndarray, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Paint triangles from far to near.

    The mesh's triangles are small against its depth differences, so sorting them by mean
    depth is enough; it costs a third of a z-buffer in numpy.

    Args:
        xy: (V, 2) positions in pixels.
        depth: (V,) larger is nearer.
        triangles: (F, 3) vertex numbers.
        size: (width, height).

    Returns:
        (rows, columns) packed as (P, 2) covered pixels, (P,) triangle numbers and
        (P, 3) barycentric coordinates at the pixel centres.
    """
    order = np.argsort(depth[triangles].mean(1), kind="stable")
    corners = np.clip((xy - 0.5) * (1 << SUBPIXEL_BITS), -LARGEST, LARGEST)
    polygons = np.round(corners).astype(np.int32)[triangles]
    number = np.zeros((size[1], size[0]), np.int32)
    for triangle in order.tolist():
        cv2.fillConvexPoly(number, polygons[triangle], triangle + 1, shift=SUBPIXEL_BITS)
    pixels = np.argwhere(number > 0)
    covering = number[pixels[:, 0], pixels[:, 1]] - 1
    a, b, c = (xy[triangles[covering, k]] for k in range(3))
    point = pixels[:, ::-1] + 0.5
    ab, ac, ap = b - a, c - a, point - a
    area = ab[:, 0] * ac[:, 1] - ab[:, 1] * ac[:, 0]
    area = np.where(np.abs(area) < 1e-9, 1e-9, area)
    v = (ap[:, 0] * ac[:, 1] - ap[:, 1] * ac[:, 0]) / area
    w = (ab[:, 0] * ap[:, 1] - ab[:, 1] * ap[:, 0]) / area
    # OpenCV also paints the outline, so a centre may lie half a pixel outside: clamp.
    inside = np.clip(np.stack([1 - v - w, v, w], 1), 0, 1)
    return pixels, covering, inside / inside.sum(1, keepdims=True)


def interpolate(values: np.ndarray, triangles: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Vertex values (V, k) at (P,) triangle rows (P, 3) with barycentrics (P, 3): (P, k)."""
    return np.einsum("pck,pc->pk", values[triangles], inside)


def vertex_normals(vertices: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Area-weighted unit normals (V, 3)."""
    a, b, c = (vertices[triangles[:, k]] for k in range(3))
    face = np.cross(b - a, c - a)
    normals = np.stack(
        [
            np.bincount(triangles.ravel(), np.repeat(face[:, k], 3), minlength=len(vertices))
            for k in range(3)
        ],
        axis=1,
    )
    return normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
