"""One picture of a head: project, rasterise, shade."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from clipaffect.synthetic.person import Person, sample_texture
from clipaffect.synthetic.raster import interpolate, rasterise, vertex_normals
from clipaffect.synthetic.rig import PART_NAMES, Rig

WRAP = np.array([0.45, 0.25, 0.18])  # red light scatters furthest in skin


@dataclass(frozen=True)
class Lens:
    """Where the camera stands, in interocular distances, and its tone curve's exponent.

    The demo's curve is softer than 2.2, as a phone camera's is.
    """

    distance: float = 16.0
    gamma: float = 1.35


@dataclass(frozen=True)
class Light:
    """Directions point from the face to the lamp."""

    key: tuple[float, float, float] = (-0.5, 0.5, 0.75)
    key_colour: tuple[float, float, float] = (1.0, 0.97, 0.92)
    key_power: float = 0.95
    fill: tuple[float, float, float] = (0.8, 0.1, 0.5)
    fill_power: float = 0.30
    ambient: float = 0.33


@dataclass(frozen=True)
class Pose:
    """Head turn in radians, eye distance in pixels, midpoint of the eyes in the frame (0..1)."""

    yaw: float = 0.0
    pitch: float = 0.0
    roll: float = 0.0
    eye_distance: float = 60.0
    centre: tuple[float, float] = (0.5, 0.42)


def express(rig: Rig, person: Person, units: dict[str, float]) -> np.ndarray:
    """Vertices (V, 3) of a person with blendshape weights ``units`` (name -> 0..1)."""
    vertices = person.vertices.copy()
    for name, weight in units.items():
        if weight > 1e-4:
            rig.add(vertices, f"unit/{name}", weight)
    return vertices


def _rotation(pose: Pose) -> np.ndarray:
    cy, sy, cp, sp, cr, sr = (
        f(a) for a in (pose.yaw, pose.pitch, pose.roll) for f in (np.cos, np.sin)
    )
    yaw = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    pitch = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    roll = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    return roll @ pitch @ yaw


def _unit(direction: tuple[float, float, float] | np.ndarray) -> np.ndarray:
    vector = np.asarray(direction, float)
    return vector / np.linalg.norm(vector)


def _occlusion(depth: np.ndarray, covered: np.ndarray, scale: float) -> np.ndarray:
    """Screen-space ambient occlusion: how far a pixel lies behind its surroundings."""
    field = np.where(covered, depth, depth[covered].min()).astype(np.float32)
    hidden = np.zeros_like(field)
    for radius in (3, 8, 20):
        around = cv2.GaussianBlur(field, (0, 0), max(radius * scale, 0.5))
        hidden += np.clip((around - field) / (0.05 * radius**0.6), 0, 1)
    return 1 - 0.42 * np.clip(hidden, 0, 1.6)


def furrows(rest: np.ndarray, intensity: dict[int, float]) -> np.ndarray:
    """Depth (P,) in [0, 1] of the skin folds that action units make at rest positions (P, 3)."""
    x, y = np.abs(rest[:, 0]), rest[:, 1]

    def line(distance: np.ndarray, width: float) -> np.ndarray:
        return np.exp(-((distance / width) ** 2))

    brow_pinch = line(x - 0.065, 0.020) * line(y - 7.50, 0.10)
    forehead = sum(line(y - level - 0.03 * x, 0.016) for level in (7.68, 7.79, 7.90))
    forehead = forehead * line(x, 0.40)
    nose = (line(y - 7.24 + 0.4 * x, 0.016) + line(y - 7.31 + 0.4 * x, 0.016)) * line(
        x - 0.05, 0.07
    )
    down = np.clip((7.00 - y) / 0.34, 0, 1)
    cheek = line(x - 0.21 - 0.16 * down, 0.022) * line(y - 6.84, 0.14)
    crow = line(y - 7.24 - 0.25 * (x - 0.52), 0.018) + line(y - 7.30 + 0.1 * (x - 0.52), 0.018)
    crow = crow * line(x - 0.56, 0.06)
    depth = (
        brow_pinch * intensity.get(4, 0.0)
        + forehead * 0.7 * max(intensity.get(1, 0.0), intensity.get(2, 0.0))
        + nose * intensity.get(9, 0.0)
        + cheek * 0.8 * max(intensity.get(12, 0.0), intensity.get(10, 0.0), intensity.get(9, 0.0))
        + crow * 0.6 * intensity.get(6, 0.0)
    )
    return np.clip(depth, 0, 1) * (rest[:, 2] > 0.75)


def _shade(
    albedo: np.ndarray, surface: np.ndarray, normal: np.ndarray, light: Light, open_sky: np.ndarray
) -> np.ndarray:
    specular, skin, deep = surface.T
    wrap = skin[:, None] * WRAP

    def lambert(direction: np.ndarray) -> np.ndarray:
        return np.clip(((normal @ direction)[:, None] + wrap) / (1 + wrap), 0, 1)

    key = _unit(light.key)
    lit = lambert(key) * light.key_power * np.array(light.key_colour)
    lit = lit + lambert(_unit(light.fill)) * light.fill_power
    lit = lit + light.ambient * (0.75 + 0.25 * normal[:, 1:2])
    half = np.clip(normal @ _unit(key + np.array([0, 0, 1.0])), 0, 1)
    wet = specular > 0.6
    glint = specular * half ** np.where(wet, 90, 22) * light.key_power * np.where(wet, 1.2, 0.5)
    rim = 0.12 * skin * (0.04 + 0.96 * (1 - np.clip(normal[:, 2], 0, 1)) ** 5)
    shade = open_sky * (1 - 0.22 * deep)
    return albedo * lit * shade[:, None] + ((glint + rim) * open_sky)[:, None]


def render(
    rig: Rig,
    person: Person,
    vertices: np.ndarray,
    pose: Pose,
    light: Light,
    background: np.ndarray,
    folds: dict[int, float] | None = None,
    supersample: int = 2,
    lens: Lens = Lens(),
) -> np.ndarray:
    """Draw a head over a background.

    Args:
        vertices: (V, 3) from ``express``.
        background: (H, W, 3) RGB in [0, 1], display space.
        folds: action-unit intensities whose skin folds are drawn.
        supersample: samples per pixel and axis.
        lens: distance and tone curve.

    Returns:
        The picture (H, W, 3) RGB in [0, 1].
    """
    height, width = background.shape[0] * supersample, background.shape[1] * supersample
    eyes = np.stack([person.vertices[numbers].mean(0) for numbers in rig.eye_vertices])
    middle, distance = eyes.mean(0), np.linalg.norm(eyes[0] - eyes[1])
    pivot = middle - np.array([0, 0.5, 1.0])  # about where the neck carries the head
    rotation = _rotation(pose)
    turned = (vertices - pivot) @ rotation.T
    far = lens.distance * distance
    zoom = pose.eye_distance * supersample / distance * far / (far - turned[:, 2])
    xy = np.column_stack(
        [
            pose.centre[0] * width + zoom * turned[:, 0],
            pose.centre[1] * height - zoom * (turned[:, 1] - (middle - pivot)[1]),
        ]
    )
    shown = (rig.part != PART_NAMES.index("hair")) | person.long_hair
    triangles = rig.triangles[shown]
    pixels, triangle, inside = rasterise(xy, turned[:, 2], triangles, (width, height))
    picture = cv2.resize(background, (width, height), interpolation=cv2.INTER_LINEAR)
    if len(pixels):
        rows, columns = pixels.T
        corner = triangles[triangle]
        normal = interpolate(vertex_normals(vertices, triangles), corner, inside) @ rotation.T
        normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-9)
        normal[:, 2] = np.abs(normal[:, 2])
        uv = interpolate(rig.uv, rig.uv_triangles[shown][triangle], inside)
        depth = np.zeros((height, width))
        depth[rows, columns] = interpolate(turned[:, 2:3], corner, inside)[:, 0]
        scale = supersample * pose.eye_distance / 128
        covered = np.zeros((height, width), bool)
        covered[rows, columns] = True
        open_sky = _occlusion(depth, covered, scale)[rows, columns]
        surface = sample_texture(person.surface, uv)
        rest = interpolate(rig.vertices, corner, inside)
        open_sky *= 1 - 0.45 * surface[:, 1] * furrows(rest, folds or {})
        colour = _shade(sample_texture(person.albedo, uv), surface, normal, light, open_sky)
        picture[rows, columns] = np.clip(colour / 1.08, 0, 1) ** (1 / lens.gamma)
    size = (background.shape[1], background.shape[0])
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
