"""Measure how well the columns yaw, pitch and roll follow the true turn of a head.

Heads of the renderer are turned by known angles, in its usual variety of people, expressions,
lights, backgrounds and cameras, and the faces are found as in a run.

    python tools/measure_pose.py [heads]
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from clipaffect.config.faces import Faces
from clipaffect.core.fetch_asset import ensure_asset
from clipaffect.faces.finder import ASSET, FaceFinder
from clipaffect.synthetic import scene
from clipaffect.synthetic.person import make_person
from clipaffect.synthetic.render import Lens, Pose, express, render
from clipaffect.synthetic.rig import load_rig

ROOT = Path(__file__).resolve().parents[1]
SIDE = 256
LIMITS = (60, 30, 30)  # degrees of yaw, pitch and roll, drawn evenly


def main() -> None:
    """Print the errors of each angle."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 400
    ensure_asset(ASSET, ROOT / "assets")
    rig = load_rig(ROOT / "resources/demo/head_rig.npz")
    finder = FaceFinder(ROOT / "assets", Faces())
    true, found = [], []
    for number in range(count):
        rng = np.random.default_rng((7, number))
        turns = rng.uniform(-1, 1, 3) * LIMITS
        yaw, pitch, roll = np.radians(turns).tolist()
        pose = Pose(yaw, pitch, roll, eye_distance=45.0, centre=(0.5, 0.43))
        camera = scene.Camera(size=(SIDE, SIDE), fps=0, crf=0, **scene.draw_sensor(rng))
        background, light = scene.draw_background(camera.size, rng), scene.draw_light(rng)
        person = make_person(rig, rng)
        vertices = express(rig, person, {})
        picture = render(rig, person, vertices, pose, light, background, {}, 1, Lens())
        faces = finder(scene.expose(picture, camera, rng))
        if faces:
            true.append(turns * (1, 1, -1))  # the renderer rolls the other way round
            found.append(faces[0].pose)
    truth, said = np.array(true), np.array(found)
    print(f"{len(truth)} of {count} heads were found")
    for k, name in enumerate(("yaw", "pitch", "roll")):
        slope, offset = np.polyfit(truth[:, k], said[:, k], 1)
        error = np.abs(said[:, k] - truth[:, k])
        half = np.abs(truth[:, k]) < LIMITS[k] / 2
        print(
            f"{name}: mean error {error.mean():.1f} degrees, median {np.median(error):.1f}, 95 % "
            f"below {np.quantile(error, 0.95):.1f}; mean within {LIMITS[k] / 2:.0f} degrees "
            f"{error[half].mean():.1f}; slope {slope:.2f}, offset {offset:+.1f}, correlation "
            f"{np.corrcoef(truth[:, k], said[:, k])[0, 1]:.3f}"
        )


if __name__ == "__main__":
    main()
