"""Glasses: rims, bridge and arms in front of the eyes, and the lenses in them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

WEARERS = 0.22  # share of people
SUN = 0.12  # share of glasses that are sunglasses
AHEAD = 0.32  # distance in front of the eyeball's centre; all lengths are in decimetres
HIDDEN = 0.06  # a point this far behind the surface is not seen
CORNERS = 40

Project = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Glasses:
    """Shape, rim and optical properties of a pair of glasses.

    Attributes:
        tint: 0 (clear) to 1 (black); ``glare`` the brightness of a reflection.
    """

    half: tuple[float, float]
    squareness: float
    rim: float
    colour: np.ndarray
    tint: float
    glare: float


def draw_glasses(rng: np.random.Generator) -> Glasses | None:
    """Glasses for somebody, or none."""
    if rng.random() >= WEARERS:
        return None
    sun = rng.random() < SUN
    return Glasses(
        half=(float(rng.uniform(0.20, 0.27)), float(rng.uniform(0.13, 0.23))),
        squareness=float(rng.uniform(2.0, 5.0)),
        rim=float(rng.uniform(0.008, 0.035)),
        colour=rng.uniform(0.01, 0.5, 3) * (1.0 if rng.random() < 0.3 else 0.15),
        tint=float(rng.uniform(0.7, 0.93) if sun else rng.uniform(0.0, 0.15)),
        glare=float(rng.uniform(0, 0.5) if rng.random() < 0.5 else 0.0),
    )


def wear(
    picture: np.ndarray,
    depth: np.ndarray,
    glasses: Glasses,
    eyes: np.ndarray,
    ears: np.ndarray,
    project: Project,
) -> np.ndarray:
    """The picture (H, W, 3) in [0, 1] with glasses on the face.

    Args:
        depth: (H, W) of the head; larger is nearer.
        eyes, ears: (2, 3) centres of the eyeballs, and where the arms rest; the left one first.
        project: from head space (n, 3) to pixels (n, 2) and depth (n,).
    """
    left, right = project(eyes)[0]
    apart = np.linalg.norm(left - right)
    scale = float(apart / np.linalg.norm(eyes[0] - eyes[1]))
    thickness = max(1, round(glasses.rim * scale))
    around = np.linspace(0, 2 * np.pi, CORNERS, endpoint=False)
    power = 2 / glasses.squareness
    outline = np.column_stack(
        [
            glasses.half[0] * np.sign(np.cos(around)) * np.abs(np.cos(around)) ** power,
            glasses.half[1] * np.sign(np.sin(around)) * np.abs(np.sin(around)) ** power - 0.03,
            -0.10 * np.cos(around) ** 2,
        ]
    )
    lenses = np.zeros(picture.shape[:2], np.float32)
    rims = np.zeros(picture.shape[:2], np.float32)

    def line(points: np.ndarray) -> None:
        xy, z = project(points)
        for a, b, near in zip(xy[:-1], xy[1:], np.minimum(z[:-1], z[1:]), strict=True):
            column, row = ((a + b) / 2).astype(int)
            inside = 0 <= row < depth.shape[0] and 0 <= column < depth.shape[1]
            if inside and near > depth[row, column] - HIDDEN:
                start, end = (np.round(16 * point).astype(int).tolist() for point in (a, b))
                cv2.line(rims, start, end, 1.0, thickness, cv2.LINE_AA, shift=4)

    inner = []
    for eye, ear, side in zip(eyes, ears, (1, -1), strict=True):
        loop = eye + outline + [0, 0, AHEAD]
        xy = project(loop)[0]
        cv2.fillPoly(lenses, [np.round(xy * 16).astype(np.int32)], 1.0, cv2.LINE_AA, shift=4)
        line(np.vstack([loop, loop[:1]]))
        edge = eye + np.array([side * glasses.half[0], 0.02, AHEAD - 0.10])
        line(np.linspace(edge, ear, 12))
        inner.append(eye + np.array([-side * glasses.half[0], 0.03, AHEAD - 0.08]))
    line(np.linspace(inner[0], inner[1], 4))
    veil = glasses.tint * lenses[..., None]
    picture = picture * (1 - veil) + 0.04 * veil
    if glasses.glare:
        rows, columns = np.mgrid[: depth.shape[0], : depth.shape[1]]
        streak = np.clip(np.sin((columns + rows) / (0.16 * scale)) - 0.5, 0, 1) * lenses
        picture = picture + glasses.glare * streak[..., None]
    rims = rims[..., None]
    return np.clip(picture * (1 - rims) + glasses.colour * rims, 0, 1)
