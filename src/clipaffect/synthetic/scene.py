"""Everything in a picture but the expression: place, light, camera, and what goes wrong.

All of it is drawn from a generator of its own that never sees the labels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from clipaffect.synthetic.render import Light, Pose
from clipaffect.synthetic.script import wander
from clipaffect.synthetic.skin import smoothstep

# (width, height)
SIZES = ((320, 240), (352, 288), (426, 240), (480, 270), (240, 320), (640, 360))
RATES = (4, 5, 6)
# Probabilities; docs/demo.md has the reasons.
HIDDEN, AWAY, DIM, STRIPED, SMEARED = 0.25, 0.25, 0.15, 0.10, 0.25
YAW, PITCH, ROLL = 0.31, 0.16, 0.12  # standard deviations of a head's turn, in radians
FURTHEST_TURN = 1.0
# Eye distance as a share of the picture's shorter side: of people alone, and of two side by side.
NEAR, FAR, BESIDE = 0.20, 0.065, 0.14


@dataclass(frozen=True)
class Camera:
    """Per video: size in pixels, frames per second, x264's rate factor, sensor and lens.

    Attributes:
        noise: noise level; the standard deviation is ``noise * sqrt(0.1 + value)``.
        blur, smear: defocus and motion blur, in pixels.
        exposure, drift: mean exposure, and amplitude of its drift.
        cast: (3,) gain of each channel; a ``saturation`` of 0 is greyscale.
        vignette: loss of light in the corners.
        bands: depth, number and speed of the rolling shutter's flicker bands.
        shrink: the sensor's pixels are this many times larger than the picture's.
    """

    size: tuple[int, int]
    fps: int
    crf: int
    noise: float
    blur: float
    smear: float
    exposure: float
    drift: float
    cast: np.ndarray
    saturation: float
    vignette: float
    bands: tuple[float, float, float]
    shrink: float


@dataclass(frozen=True)
class Occluder:
    """A hand-like blob that crosses the face: (T, 2) centre, radii, colour."""

    path: np.ndarray
    radii: tuple[float, float]
    angle: float
    colour: np.ndarray


@dataclass(frozen=True)
class Take:
    """Per person and video: (T,) poses, light, who is away when, what passes in front."""

    poses: list[Pose]
    away: np.ndarray
    light: Light
    occluder: Occluder | None


def draw_sensor(rng: np.random.Generator) -> dict[str, Any]:
    """Sample a camera's properties, except size, frame rate and compression."""
    banded = rng.random() < 0.15
    return {
        "noise": float(rng.gamma(1.2, 0.010)),
        "blur": float(rng.choice([0.0, rng.uniform(0.4, 1.6)], p=[0.55, 0.45])),
        "smear": float(rng.uniform(2, 6)) if rng.random() < SMEARED else 0.0,
        "exposure": float(rng.uniform(0.62, 1.25)),
        "drift": float(rng.uniform(0.0, 0.15)),
        "cast": 1 + rng.uniform(-0.12, 0.12, 3),
        "saturation": float(0.0 if rng.random() < 0.05 else rng.uniform(0.5, 1.25)),
        "vignette": float(rng.uniform(0, 0.4)),
        "bands": (0.12 if banded else 0.0, float(rng.uniform(1, 4)), float(rng.uniform(-2, 2))),
        "shrink": float(rng.choice([1.0, rng.uniform(1.2, 2.0)], p=[0.7, 0.3])),
    }


def draw_camera(people: int, rng: np.random.Generator) -> Camera:
    """A camera for a scene of one or two people (two need the wider frames)."""
    sizes = SIZES if people == 1 else tuple(size for size in SIZES if size[0] >= 426)
    return Camera(
        size=sizes[rng.integers(len(sizes))],
        fps=int(RATES[rng.integers(len(RATES))]),
        crf=int(rng.integers(22, 37)),
        **draw_sensor(rng),
    )


def draw_background(size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """What is behind people (H, W, 3), out of focus: a room, a window, a shelf, lamps or trees."""
    width, height = size
    top, bottom = rng.uniform(0.05, 0.8, (2, 3)) * 0.3 + rng.uniform(0.05, 0.8, (2, 1)) * 0.7
    ramp = np.linspace(0, 1, height)[:, None, None]
    picture = np.broadcast_to(top * (1 - ramp) + bottom * ramp, (height, width, 3)).copy()
    coarse = rng.integers(3, 9)
    blobs = cv2.resize(rng.normal(size=(coarse, coarse, 3)), size, interpolation=cv2.INTER_CUBIC)
    picture += blobs * rng.uniform(0.02, 0.10)
    kind = rng.choice(["room", "window", "shelf", "lamps", "trees"], p=[0.4, 0.2, 0.2, 0.1, 0.1])

    def box(x: float, y: float, w: float, h: float, colour: np.ndarray) -> None:
        ends = ((int(x), int(y)), (int(x + w), int(y + h)))
        cv2.rectangle(picture, *ends, colour.tolist(), -1)

    if kind == "room":
        for _ in range(rng.integers(0, 6)):
            place = rng.uniform([0, 0], [width, height])
            span = rng.uniform([width / 12, height / 6], [width / 4, height])
            colour = 0.4 * rng.random(3) + 0.5 * rng.random()
            box(float(place[0]), float(place[1]), float(span[0]), float(span[1]), colour)
    elif kind == "window":
        pane = rng.uniform(width / 8, width / 3)
        start, level = rng.uniform(0, width), rng.uniform(0, height / 3)
        for k in range(3):
            box(start + 1.08 * k * pane, level, pane, height * 0.6, rng.uniform(0.8, 1.0, 3))
    elif kind == "shelf":
        x = 0.0
        while x < width:
            w = rng.uniform(width / 60, width / 20)
            box(x, rng.uniform(0, height / 4), w, height, 0.7 * rng.random(3))
            x += w
    elif kind == "lamps":
        for _ in range(rng.integers(4, 20)):
            centre = rng.integers([0, 0], [width, height]).tolist()
            cv2.circle(
                picture, centre, int(rng.integers(3, 14)), rng.uniform(0.6, 1, 3).tolist(), -1
            )
    else:
        leaves = rng.normal(size=(height // 6, width // 6))
        leaves = cv2.resize(leaves, size, interpolation=cv2.INTER_CUBIC)[..., None]
        picture = 0.35 * picture + np.array([0.18, 0.30, 0.12]) * (1 + 0.6 * leaves)
    focus = width / rng.uniform(60, 250)
    return np.clip(cv2.GaussianBlur(picture, (0, 0), focus), 0.02, 0.98)


def draw_light(rng: np.random.Generator) -> Light:
    """Sample key, fill and ambient light; some scenes are dim or lit through a blind."""
    dim = float(rng.uniform(0.35, 0.7)) if rng.random() < DIM else 1.0
    striped = rng.random() < STRIPED
    stripes = (float(rng.uniform(-0.6, 0.6) + np.pi / 2), float(rng.uniform(1, 3)), 0.6)
    return Light(
        key=(
            float(rng.uniform(-1, 1)),
            float(rng.uniform(-0.2, 0.9)),
            float(rng.uniform(0.3, 1)),
        ),
        key_colour=(1.0, float(rng.uniform(0.85, 1)), float(rng.uniform(0.7, 1.1))),
        key_power=dim * float(rng.uniform(0.5, 1.05)),
        fill=(float(rng.uniform(-1, 1)), float(rng.uniform(-0.3, 0.5)), 0.5),
        fill_power=dim * float(rng.uniform(0.05, 0.4)),
        ambient=dim * float(rng.uniform(0.15, 0.45)),
        shadow=float(rng.uniform(0.2, 0.9)),
        stripes=stripes if striped else None,
    )


def draw_turns(frames: int, fps: float, rng: np.random.Generator) -> np.ndarray:
    """Yaw, pitch and roll (T, 3) in radians: the person's mean pose plus movement around it."""
    spread = np.array([YAW, PITCH, ROLL])
    habit = rng.normal(0, 0.6 * spread)
    # A path of uniform knots has a deviation of about 0.5.
    moves = np.column_stack([wander(frames, fps, rng) for _ in range(3)])
    turns = habit + 1.6 * spread * moves * rng.uniform(0.4, 1.4)
    return np.clip(turns, -FURTHEST_TURN, FURTHEST_TURN)


def draw_take(
    frames: int,
    camera: Camera,
    place: float,
    people: int,
    rng: np.random.Generator,
    share: float | None = None,
) -> Take:
    """A person's path through a video.

    Args:
        place: where they stand (0 left, 1 right).
        people: one or two stand side by side.
        share: eye distance as a share of the picture's shorter side; drawn where it is None.
    """
    width, height = camera.size
    if share is None:
        share = np.exp(rng.uniform(np.log(FAR), np.log(NEAR if people == 1 else BESIDE)))
    distance = float(share * min(width, height))
    turns = draw_turns(frames, camera.fps, rng)
    x, y, near = (wander(frames, camera.fps, rng) for _ in range(3))
    away = np.zeros(frames)
    if rng.random() < AWAY and frames >= 12:
        gone = int(rng.integers(frames // 10, frames // 6 + 1))
        start = int(rng.integers(0, frames - gone))
        distance_to = np.abs(np.arange(frames) - (start + gone / 2)) - gone / 2
        away = 1 - smoothstep(distance_to, 0.0, 2.0)
    side = -1.0 if place < 0.5 or (place == 0.5 and rng.random() < 0.5) else 1.0
    room = 0.10 if people == 1 else 0.03
    poses = [
        Pose(
            yaw=float(turns[t, 0]),
            pitch=float(turns[t, 1]),
            roll=float(turns[t, 2]),
            eye_distance=distance * (1 + 0.10 * near[t]),
            centre=(place + room * x[t] + side * 1.2 * away[t], 0.43 + 0.05 * y[t]),
        )
        for t in range(frames)
    ]
    occluder = _draw_occluder(frames, poses, camera, rng) if rng.random() < HIDDEN else None
    return Take(poses, away > 0.5, draw_light(rng), occluder)


def _draw_occluder(
    frames: int, poses: list[Pose], camera: Camera, rng: np.random.Generator
) -> Occluder:
    width, height = camera.size
    eyes = poses[0].eye_distance
    middle = rng.uniform(0.2, 0.8) * frames
    length = rng.uniform(0.15, 0.3) * frames
    t = (np.arange(frames) - middle) / length  # inside [-0.5, 0.5] it is near the face
    sweep = np.clip(t * 2, -1, 1) ** 3 * 6 + 0.5 * np.clip(t * 2, -1, 1)
    drop = rng.uniform(-0.2, 1.6) * eyes
    path = np.column_stack(
        [
            np.array([pose.centre[0] for pose in poses]) * width + sweep * eyes,
            np.array([pose.centre[1] for pose in poses]) * height
            + drop
            + np.abs(sweep) * 0.2 * eyes,
        ]
    )
    return _hand(path, eyes, rng)


def _hand(path: np.ndarray, eyes: float, rng: np.random.Generator) -> Occluder:
    radii = (float(rng.uniform(0.35, 0.6) * eyes), float(rng.uniform(0.6, 1.1) * eyes))
    colour = np.array([0.62, 0.45, 0.36]) * rng.uniform(0.4, 1.2)
    return Occluder(path, radii, float(rng.uniform(-40, 40)), np.clip(colour, 0, 1))


def still_occluder(pose: Pose, camera: Camera, rng: np.random.Generator) -> Occluder:
    """A hand somewhere beside or before the face of a single picture."""
    eyes = np.array(pose.centre) * camera.size
    away = rng.uniform([-1.6, -0.4], [1.6, 2.2]) * pose.eye_distance
    return _hand((eyes + away)[None], pose.eye_distance, rng)


def draw_occluder(picture: np.ndarray, occluder: Occluder, t: int) -> np.ndarray:
    """The picture with the occluder in front at frame ``t``."""
    mask = np.zeros(picture.shape[:2], np.float32)
    centre, (a, b) = occluder.path[t], occluder.radii
    if np.abs(centre).max() > 1e4:
        return picture
    for shift in (-0.55, 0.0, 0.55):  # three fingers and the palm behind them
        at = (centre + np.array([shift * a, 0.2 * abs(shift) * b])).round().astype(int)
        cv2.ellipse(
            mask, at.tolist(), (max(int(a * 0.5), 1), int(b)), occluder.angle, 0, 360, 1, -1
        )
    soft = cv2.GaussianBlur(mask, (0, 0), 1.0)[..., None]
    return picture * (1 - soft) + occluder.colour * soft


def expose(
    picture: np.ndarray, camera: Camera, rng: np.random.Generator, t: float = 0.0
) -> np.ndarray:
    """The camera's picture (H, W, 3) uint8 RGB of a scene in [0, 1], at ``t`` seconds."""
    height, width = picture.shape[:2]
    if camera.smear:
        length = max(1, round(camera.smear))
        kernel = np.eye(length) if rng.random() < 0.3 else np.ones((1, length))
        picture = cv2.filter2D(picture, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REPLICATE)
    if camera.blur:
        picture = cv2.GaussianBlur(picture, (0, 0), camera.blur)
    row, column = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)
    depth, number, speed = camera.bands
    light = 1 + camera.drift * np.sin(1.1 * t) + depth * np.sin(np.pi * number * row + speed * t)
    light = light * (1 - camera.vignette * (row**2 + column**2) / 2)
    picture = picture * (camera.exposure * light)[..., None] * camera.cast
    grey = picture.mean(2, keepdims=True)
    picture = grey + (picture - grey) * camera.saturation
    small = (round(width / camera.shrink), round(height / camera.shrink))
    if camera.shrink > 1:
        picture = cv2.resize(picture, small, interpolation=cv2.INTER_AREA)
    picture = np.clip(picture, 0, 1)
    picture = picture + rng.normal(size=picture.shape) * camera.noise * np.sqrt(0.1 + picture)
    if camera.shrink > 1:
        picture = cv2.resize(picture, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.clip(np.round(picture * 255), 0, 255).astype(np.uint8)
