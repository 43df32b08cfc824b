"""Stills of rendered heads with known action units, cut as the workflow cuts faces.

Nobody here is in the demo: people come from another seed. The renderer's own settings (lens,
tone curve, samples a pixel) and the ranges of pose, light and blur are not the demo's either; the
head's rig and its shading are the same.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from clipaffect.config.faces import Faces
from clipaffect.core.parquet import write_table
from clipaffect.core.progress import Progress
from clipaffect.faces.alignment import align
from clipaffect.faces.finder import FaceFinder
from clipaffect.synthetic import scene
from clipaffect.synthetic.actions import (
    EXPRESSIONS,
    UNITS,
    blendshapes,
    draw_blend,
    draw_peaks,
    gaze_shapes,
    units_shown,
)
from clipaffect.synthetic.person import Person, make_person
from clipaffect.synthetic.render import Lens, Pose, express, render
from clipaffect.synthetic.rig import Rig, load_rig

SIDE = 192  # of a rendered picture, in pixels
CROP = 128  # of a stored crop: a margin around the network's 112 for random crops
SEED = 515  # the demo's people are of 2024
PERSON, STILL = range(2)
# Shares of stills; in the remaining stills, units are drawn independently.
PROTOTYPES, BLENDED, NEUTRAL = 0.45, 0.05, 0.08
UNIT_SHARE = 0.18
TURNS = (0.33, 0.18, 0.13)  # standard deviations of yaw, pitch and roll, in radians
FAINTEST = 0.35  # of an expression's peak


@dataclass(frozen=True)
class Show:
    """What a still shows: an expression of EXPR or '', and the units that were set."""

    expression: str
    units: dict[int, float]


def draw_show(rng: np.random.Generator) -> Show:
    """An expression at some strength, a neutral face, or units drawn one by one."""
    kind = rng.random()
    if kind < NEUTRAL:
        return Show("Neutral", {})
    if kind < NEUTRAL + PROTOTYPES:
        name = str(rng.choice(list(EXPRESSIONS)))
        peaks = draw_peaks(name, int(rng.integers(len(EXPRESSIONS[name]))), rng)
        strength = rng.uniform(FAINTEST, 1.0)
        units = {unit: strength * peak for unit, peak in peaks.items()}
        return Show("" if name == "Other" else name, units)
    if kind < NEUTRAL + PROTOTYPES + BLENDED:
        return Show("", draw_blend(rng))
    chosen = [unit for unit in UNITS if rng.random() < UNIT_SHARE]
    return Show("", {unit: float(rng.uniform(0.15, 1.0)) for unit in chosen})


def _weights(show: Show, asymmetry: float, rng: np.random.Generator) -> dict[str, float]:
    """Blendshapes of the units, and of gaze and speech, which no caption names."""
    weights = blendshapes(show.units, asymmetry)
    weights |= gaze_shapes(*np.clip(rng.normal(0, 0.4, 2), -1, 1).tolist())
    if rng.random() < 0.03:
        weights["tongueOut"] = float(rng.uniform(0.3, 1.0))
    if rng.random() < 0.3:
        weights["mouthFunnel"] = float(rng.uniform(0, 0.5))
        weights["mouthLeft" if rng.random() < 0.5 else "mouthRight"] = float(rng.uniform(0, 0.3))
    return weights


def portrait(rig: Rig, person: Person, show: Show, rng: np.random.Generator) -> np.ndarray:
    """A still (SIDE, SIDE, 3) uint8 RGB of somebody who shows something."""
    camera = scene.Camera(size=(SIDE, SIDE), fps=0, crf=0, **scene.draw_sensor(rng))
    turns = np.clip(rng.normal(0, TURNS), -0.8, 0.8)
    pose = Pose(
        yaw=float(turns[0]),
        pitch=float(turns[1]),
        roll=float(turns[2]),
        eye_distance=float(rng.uniform(22, 52)),
        centre=(0.5 + float(rng.normal(0, 0.03)), 0.43 + float(rng.normal(0, 0.03))),
    )
    lens = Lens(distance=float(rng.uniform(7, 16)), gamma=float(rng.choice([1.0, 1.35, 1.7, 2.2])))
    vertices = express(rig, person, _weights(show, person.asymmetry, rng))
    background = scene.draw_background(camera.size, rng)
    light = scene.draw_light(rng)
    picture = render(rig, person, vertices, pose, light, background, show.units, 1, lens)
    if rng.random() < 0.15:
        picture = scene.draw_occluder(picture, scene.still_occluder(pose, camera, rng), 0)
    shot = scene.expose(picture, camera, rng)
    quality = int(rng.integers(40, 96))
    jpeg = cv2.imencode(".jpg", shot, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return np.asarray(cv2.imdecode(jpeg, cv2.IMREAD_COLOR))


@lru_cache(maxsize=1)
def _tools(rig: Path, assets: Path) -> tuple[Rig, FaceFinder]:
    return load_rig(rig), FaceFinder(assets, Faces())


def _stills(
    number: int, count: int, rig_path: Path, assets: Path
) -> tuple[np.ndarray, list[dict[str, object]]]:
    """Crops (n, CROP, CROP, 3) of one person, and what each shows; n <= count have a face found."""
    rig, finder = _tools(rig_path, assets)
    person = make_person(rig, np.random.default_rng((SEED, PERSON, number)))
    rng = np.random.default_rng((SEED, STILL, number))
    crops, rows = [], []
    for _ in range(count):
        show = draw_show(rng)
        picture = portrait(rig, person, show, rng)
        faces = finder(picture)
        if not faces:
            continue
        crops.append(align(picture, faces[0].points, CROP))
        seen = units_shown({unit: show.units.get(unit, 0.0) for unit in UNITS})
        named = {f"AU{unit}": intensity for unit, intensity in seen.items()}
        rows.append({"person": number, "expression": show.expression, **named})
    return np.array(crops, np.uint8).reshape(-1, CROP, CROP, 3), rows


def make_portraits(
    out: Path, rig: Path, assets: Path, people: int, stills: int, processes: int
) -> None:
    """Write ``crops.npy`` (n, CROP, CROP, 3) and ``shows.parquet`` under ``out``.

    ``stills`` pictures of each of ``people`` are rendered; those in which no face is found are
    left out and counted.
    """
    out.mkdir(parents=True, exist_ok=True)
    crops, rows = [], []
    cv2.setNumThreads(1)  # threads of OpenCV that were started before do not survive the fork
    arguments = ([stills] * people, [rig] * people, [assets] * people)
    with ProcessPoolExecutor(processes) as pool, Progress("people", people) as progress:
        for pictures, shows in pool.map(_stills, range(people), *arguments):
            crops.append(pictures)
            rows.extend(shows)
            progress.advance()
    np.save(out / "crops.npy", np.concatenate(crops))
    write_table(out / "shows.parquet", pd.DataFrame(rows))
    print(f"{len(rows)} crops; no face found in {people * stills - len(rows)} stills")
