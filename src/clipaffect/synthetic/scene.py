"""Everything in a picture but the expression: place, light, camera, and what goes wrong.

All of it is drawn from a generator of its own that never sees the labels.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from clipaffect.synthetic.person import smoothstep
from clipaffect.synthetic.render import Light, Pose
from clipaffect.synthetic.script import wander

# (width, height) and the eye distance that fills them with one person.
SIZES = ((320, 240), (352, 288), (426, 240), (480, 270), (240, 320), (640, 360))
RATES = (10, 12, 15, 25)


@dataclass(frozen=True)
class Camera:
    """Per video: size in pixels, frames per second, x264's rate factor, sensor and lens."""

    size: tuple[int, int]
    fps: int
    crf: int
    noise: float
    blur: float
    exposure: float
    cast: np.ndarray
    grey: bool


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


def draw_camera(people: int, rng: np.random.Generator) -> Camera:
    """A camera for a scene of one or two people (two need the wider frames)."""
    sizes = SIZES if people == 1 else tuple(size for size in SIZES if size[0] >= 426)
    return Camera(
        size=sizes[rng.integers(len(sizes))],
        fps=int(RATES[rng.integers(len(RATES))]),
        crf=int(rng.integers(20, 31)),
        noise=float(rng.uniform(0.0, 0.012)),
        blur=float(rng.choice([0.0, 0.6, 1.2], p=[0.6, 0.25, 0.15])),
        exposure=float(rng.uniform(0.72, 1.12)),
        cast=1 + rng.uniform(-0.08, 0.08, 3),
        grey=bool(rng.random() < 0.06),
    )


def draw_background(size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """An out-of-focus room (H, W, 3): a gradient, soft blobs and a few upright shapes."""
    width, height = size
    top, bottom = rng.uniform(0.1, 0.75, (2, 3)) * 0.3 + rng.uniform(0.1, 0.75, (2, 1)) * 0.7
    ramp = np.linspace(0, 1, height)[:, None, None]
    picture = np.broadcast_to(top * (1 - ramp) + bottom * ramp, (height, width, 3)).copy()
    blobs = cv2.resize(rng.normal(size=(5, 7, 3)), size, interpolation=cv2.INTER_CUBIC)
    picture += blobs * rng.uniform(0.02, 0.08)
    for _ in range(rng.integers(0, 5)):
        x, y = rng.integers(0, width), rng.integers(0, height)
        w, h = rng.integers(width // 12, width // 4), rng.integers(height // 6, height)
        cv2.rectangle(
            picture,
            (int(x), int(y)),
            (int(x + w), int(y + h)),
            (0.4 * rng.random(3) + 0.5 * rng.random()).tolist(),
            -1,
        )
    return np.clip(cv2.GaussianBlur(picture, (0, 0), width / 100), 0.02, 0.95)


def draw_take(
    frames: int, camera: Camera, place: float, people: int, rng: np.random.Generator
) -> Take:
    """A person's path through a video; ``place`` is where they stand (0 left, 1 right)."""
    width, height = camera.size
    distance = min(height * 0.235, width * 0.17 if people == 1 else width * 0.105)
    distance *= rng.uniform(0.72, 1.0)
    swing = rng.uniform(0.05, 0.42)
    yaw, pitch, roll, x, y, near = (wander(frames, camera.fps, rng) for _ in range(6))
    tilt = rng.normal(0, 0.07, 3)
    away = np.zeros(frames)
    if rng.random() < 0.25:
        gone = int(rng.integers(frames // 10, frames // 6))
        start = int(rng.integers(0, frames - gone))
        distance_to = np.abs(np.arange(frames) - (start + gone / 2)) - gone / 2
        away = 1 - smoothstep(distance_to, 0.0, 4.0)
    side = -1.0 if place < 0.5 or (place == 0.5 and rng.random() < 0.5) else 1.0
    room = 0.06 if people == 1 else 0.03
    poses = [
        Pose(
            yaw=tilt[0] + swing * yaw[t],
            pitch=tilt[1] + 0.45 * swing * pitch[t],
            roll=tilt[2] + 0.35 * swing * roll[t],
            eye_distance=distance * (1 + 0.08 * near[t]),
            centre=(place + room * x[t] + side * 1.2 * away[t], 0.43 + 0.04 * y[t]),
        )
        for t in range(frames)
    ]
    light = Light(
        key=(
            float(rng.uniform(-0.9, 0.9)),
            float(rng.uniform(0.1, 0.8)),
            float(rng.uniform(0.5, 1)),
        ),
        key_colour=(1.0, float(rng.uniform(0.9, 1)), float(rng.uniform(0.78, 1))),
        key_power=float(rng.uniform(0.6, 0.95)),
        fill=(float(rng.uniform(-1, 1)), float(rng.uniform(-0.2, 0.4)), 0.5),
        fill_power=float(rng.uniform(0.15, 0.35)),
        ambient=float(rng.uniform(0.22, 0.42)),
    )
    occluder = _draw_occluder(frames, poses, camera, rng) if rng.random() < 0.25 else None
    return Take(poses, away > 0.5, light, occluder)


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


def expose(picture: np.ndarray, camera: Camera, rng: np.random.Generator) -> np.ndarray:
    """The camera's picture (H, W, 3) uint8 RGB of a scene in [0, 1]."""
    if camera.blur:
        picture = cv2.GaussianBlur(picture, (0, 0), camera.blur)
    picture = picture * camera.exposure * camera.cast
    if camera.grey:
        picture = np.repeat(picture.mean(2, keepdims=True), 3, axis=2)
    picture = picture + rng.normal(size=picture.shape) * camera.noise
    return np.clip(np.round(picture * 255), 0, 255).astype(np.uint8)
