"""One picture of a head: project, rasterise, shade."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from clipaffect.synthetic.glasses import wear
from clipaffect.synthetic.person import Person
from clipaffect.synthetic.raster import interpolate, rasterise, vertex_normals
from clipaffect.synthetic.rig import PART_NAMES, Rig
from clipaffect.synthetic.skin import furrows, sample_texture

WRAP = np.array([0.45, 0.25, 0.18])  # red light scatters furthest in skin
STEPS = (0.04, 0.08, 0.13, 0.19, 0.27, 0.36, 0.47, 0.6)  # towards the lamp, for shadows
BIAS, THICK = 0.02, 0.5  # a surface casts a shadow if its height above the ray is between
MARGIN = 4  # pixels around the head that are drawn with it


@dataclass(frozen=True)
class Lens:
    """Where the camera stands, in interocular distances, and its tone curve's exponent.

    The demo's curve is softer than 2.2, as a phone camera's is.
    """

    distance: float = 16.0
    gamma: float = 1.35


@dataclass(frozen=True)
class Light:
    """Directions point from the face to the lamp.

    Attributes:
        shadow: share of the key light that self-shadowing removes.
        stripes: shadow of a window blind (angle, stripes per unit, depth), or None.
    """

    key: tuple[float, float, float] = (-0.5, 0.5, 0.75)
    key_colour: tuple[float, float, float] = (1.0, 0.97, 0.92)
    key_power: float = 0.95
    fill: tuple[float, float, float] = (0.8, 0.1, 0.5)
    fill_power: float = 0.30
    ambient: float = 0.33
    shadow: float = 0.7
    stripes: tuple[float, float, float] | None = None


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


def _shadow(depth: np.ndarray, covered: np.ndarray, key: np.ndarray, zoom: float) -> np.ndarray:
    """Self-shadowing: share (H, W) of the key light that the head blocks.

    A ray is marched from each pixel towards the lamp in ``STEPS``. The pixel is in shadow if the
    surface is above the ray at any step. ``zoom`` is pixels per unit of depth.
    """
    field = np.where(covered, depth, -np.inf)
    dark = np.zeros(depth.shape, np.float32)
    for length in STEPS:
        column, row = round(key[0] * length * zoom), round(-key[1] * length * zoom)
        if not (column or row) or max(abs(column), abs(row)) >= min(depth.shape):
            continue
        there = np.full_like(field, -np.inf)
        height, width = field.shape
        to = (
            slice(max(0, -row), height - max(0, row)),
            slice(max(0, -column), width - max(0, column)),
        )
        at = (
            slice(max(0, row), height - max(0, -row)),
            slice(max(0, column), width - max(0, -column)),
        )
        there[to] = field[at]
        ray = depth + length * key[2]
        above = there - ray
        dark = np.maximum(dark, np.clip((above - BIAS) / 0.03, 0, 1) * (above < THICK))
    return cv2.GaussianBlur(dark, (0, 0), max(0.03 * zoom, 0.5))


def _stripes(stripes: tuple[float, float, float], place: np.ndarray) -> np.ndarray:
    """Share (P,) of the key light that a blind lets through to places (P, 3)."""
    angle, frequency, depth = stripes
    along = place[:, 0] * np.cos(angle) + place[:, 1] * np.sin(angle)
    return 1 - depth * np.clip(0.5 + 2 * np.sin(2 * np.pi * frequency * along), 0, 1)


def _shade(
    albedo: np.ndarray,
    surface: np.ndarray,
    normal: np.ndarray,
    light: Light,
    open_sky: np.ndarray,
    key_share: np.ndarray,
) -> np.ndarray:
    specular, skin, deep = surface.T
    wrap = skin[:, None] * WRAP

    def lambert(direction: np.ndarray) -> np.ndarray:
        return np.clip(((normal @ direction)[:, None] + wrap) / (1 + wrap), 0, 1)

    key = _unit(light.key)
    lit = lambert(key) * light.key_power * np.array(light.key_colour) * key_share[:, None]
    lit = lit + lambert(_unit(light.fill)) * light.fill_power
    lit = lit + light.ambient * (0.75 + 0.25 * normal[:, 1:2])
    half = np.clip(normal @ _unit(key + np.array([0, 0, 1.0])), 0, 1)
    wet = specular > 0.6
    glint = specular * half ** np.where(wet, 90, 22) * light.key_power * np.where(wet, 1.2, 0.5)
    glint = glint * key_share
    rim = 0.12 * skin * (0.04 + 0.96 * (1 - np.clip(normal[:, 2], 0, 1)) ** 5)
    shade = open_sky * (1 - 0.22 * deep)
    return albedo * lit * shade[:, None] + ((glint + rim) * open_sky)[:, None]


def _torso(
    background: np.ndarray, person: Person, pose: Pose, light: Light, lens: Lens
) -> np.ndarray:
    """The background with shoulders and a chest: the mesh ends below the neck."""
    picture = background.copy()
    unit = pose.eye_distance
    x = pose.centre[0] * picture.shape[1]
    y = pose.centre[1] * picture.shape[0]
    level = light.ambient + 0.6 * light.key_power
    colour = (np.clip(person.cloth * level, 0, 1) ** (1 / lens.gamma)).tolist()
    at = (round(x), round(y + 4.2 * unit))
    axes = (max(1, round(3.4 * unit)), max(1, round(1.6 * unit)))
    cv2.ellipse(picture, at, axes, 0, 180, 360, colour, -1, cv2.LINE_AA)
    corners = (at[0] - axes[0], at[1]), (at[0] + axes[0], picture.shape[0])
    if corners[1][1] > corners[0][1]:
        cv2.rectangle(picture, *corners, colour, -1)
    return picture


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
    far = lens.distance * distance

    def project(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        turned = (points - pivot) @ rotation.T
        zoom = pose.eye_distance * supersample / distance * far / (far - turned[:, 2])
        x = pose.centre[0] * width + zoom * turned[:, 0]
        y = pose.centre[1] * height - zoom * (turned[:, 1] - (middle - pivot)[1])
        return np.column_stack([x, y]), turned[:, 2]

    background = _torso(background, person, pose, light, lens)
    shown = (rig.part != PART_NAMES.index("hair")) | person.long_hair
    triangles = rig.triangles[shown]
    xy, z = project(vertices)
    # Only the head's part of the picture is drawn.
    corner = (xy[triangles].reshape(-1, 2).min(0) // supersample).astype(int) - MARGIN
    end = -(-xy[triangles].reshape(-1, 2).max(0) // supersample).astype(int) + MARGIN
    size = np.array([background.shape[1], background.shape[0]])
    corner, end = np.clip(corner, 0, size), np.clip(end, 0, size)
    if (end <= corner).any():
        return background
    part = background[corner[1] : end[1], corner[0] : end[0]]
    picture = cv2.resize(part, None, fx=supersample, fy=supersample)
    offset = corner * supersample

    def in_part(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        at, near = project(points)
        return at - offset, near

    shape = (picture.shape[1], picture.shape[0])
    pixels, triangle, inside = rasterise(xy - offset, z, triangles, shape)
    if len(pixels):
        rows, columns = pixels.T
        corners = triangles[triangle]
        normal = interpolate(vertex_normals(vertices, triangles), corners, inside) @ rotation.T
        normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-9)
        normal[:, 2] = np.abs(normal[:, 2])
        uv = interpolate(rig.uv, rig.uv_triangles[shown][triangle], inside)
        place = interpolate((vertices - pivot) @ rotation.T, corners, inside)
        depth = np.zeros(picture.shape[:2])
        depth[rows, columns] = place[:, 2]
        covered = np.zeros(picture.shape[:2], bool)
        covered[rows, columns] = True
        scale = supersample * pose.eye_distance
        open_sky = _occlusion(depth, covered, scale / 128)[rows, columns]
        shadow = _shadow(depth, covered, _unit(light.key), float(scale / distance))[rows, columns]
        key_share = 1 - light.shadow * shadow
        if light.stripes is not None:
            key_share *= _stripes(light.stripes, place)
        surface = sample_texture(person.surface, uv)
        rest = interpolate(rig.vertices, corners, inside)
        open_sky *= 1 - 0.45 * surface[:, 1] * furrows(rest, folds or {})
        albedo = sample_texture(person.albedo, uv)
        colour = _shade(albedo, surface, normal, light, open_sky, key_share)
        picture[rows, columns] = np.clip(colour / 1.08, 0, 1) ** (1 / lens.gamma)
        if person.glasses is not None:
            depth[~covered] = -np.inf
            picture = wear(picture, depth, person.glasses, eyes, person.ears, in_part)
    background[corner[1] : end[1], corner[0] : end[0]] = cv2.resize(
        picture, (part.shape[1], part.shape[0]), interpolation=cv2.INTER_AREA
    )
    return background
