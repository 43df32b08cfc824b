"""Two people who pass in front of each other, and where they are: a test of tracks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from clipaffect.synthetic import scene
from clipaffect.synthetic.person import make_person
from clipaffect.synthetic.render import Light, Pose, express, render
from clipaffect.synthetic.rig import load_rig

SIZE = (426, 240)
EYES = (23.0, 30.0)  # eye distance of the one behind, and of the one in front


def crossing(
    rig_path: Path, frames: int, seed: int, passes: int, *, back: bool = False
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield pictures (H, W, 3) uint8 RGB and the two people's eye middles (2, 2) in pixels.

    They start on either side and meet ``passes`` times, the first always behind, while both turn
    their heads. They pass each other, or go ``back`` to where they came from: one after the other,
    no rule of motion can tell.
    """
    rig = load_rig(rig_path)
    people = [make_person(rig, np.random.default_rng((seed, number))) for number in range(2)]
    rng = np.random.default_rng((seed, 2))
    background = scene.draw_background(SIZE, rng)
    camera = scene.draw_camera(2, rng)
    light = Light()
    for t in range(frames):
        sweep = 0.28 * np.cos(np.pi * passes * t / (frames - 1))
        sweep = abs(sweep) if back else sweep
        picture = background
        places = []
        for k, (person, eyes) in enumerate(zip(people, EYES, strict=True)):
            x = 0.5 - sweep if k == 0 else 0.5 + sweep
            pose = Pose(
                yaw=0.3 * np.sin(t / 7 + k),
                roll=0.1 * np.sin(t / 9 + 2 * k),
                eye_distance=eyes,
                centre=(x, 0.42 + 0.02 * np.sin(t / 5 + k)),
            )
            picture = render(rig, person, express(rig, person, {}), pose, light, picture)
            places.append([pose.centre[0] * SIZE[0], pose.centre[1] * SIZE[1]])
        yield scene.expose(picture, camera, rng), np.array(places)
