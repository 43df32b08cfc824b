"""Edited videos of two people, and who is where in each frame: a test of tracks across cuts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from clipaffect.synthetic import scene
from clipaffect.synthetic.person import Person, make_person
from clipaffect.synthetic.render import Light, Pose, express, render
from clipaffect.synthetic.rig import Rig, load_rig

SIZE = (426, 240)
KINDS = ("cut", "jump", "reverse", "swap", "return", "alike")


@dataclass(frozen=True)
class Shot:
    """What a camera shows: ``length`` frames of people at places.

    Attributes:
        length: in frames.
        people: for each person in the picture, the number, the horizontal place and the distance
            between the eyes in pixels.
        place: number of the background; one for each half of the picture where there are two.
    """

    length: int
    people: tuple[tuple[int, float, float], ...]
    place: tuple[int, ...]


def shots_of(kind: str) -> list[Shot]:
    """The shots of an edited video.

    ``cut``: from one person to another; ``jump``: one person, framed anew twice; ``reverse``: shot,
    reverse shot and back; ``swap``: the two tiles of a call change places; ``return``: somebody
    leaves and comes back elsewhere; ``alike``: a cut between two who look alike.
    """
    left, right = Shot(15, ((0, 0.4, 34.0),), (0,)), Shot(15, ((1, 0.62, 34.0),), (1,))
    alone = Shot(12, ((0, 0.35, 30.0),), (0,))
    call = Shot(15, ((0, 0.25, 26.0), (1, 0.75, 26.0)), (0, 1))
    return {
        "cut": [left, right],
        "alike": [left, right],
        "jump": [
            alone,
            replace(alone, people=((0, 0.5, 40.0),)),
            replace(alone, people=((0, 0.7, 26.0),)),
        ],
        "reverse": [left, right, left],
        "swap": [call, replace(call, people=((1, 0.25, 26.0), (0, 0.75, 26.0)), place=(1, 0))],
        "return": [
            replace(call, place=(0,)),
            replace(alone, length=40),
            Shot(15, ((0, 0.35, 30.0), (1, 0.7, 28.0)), (0,)),
        ],
    }[kind]


def edited(
    rig_path: Path, kind: str, seed: int
) -> Iterator[tuple[np.ndarray, dict[int, np.ndarray]]]:
    """Yield pictures (H, W, 3) uint8 RGB and by person the middle (2,) of the eyes in pixels."""
    rig = load_rig(rig_path)
    people = _cast(rig, kind, seed)
    rng = np.random.default_rng((seed, 2))
    places = [scene.draw_background(SIZE, rng) for _ in range(2)]
    camera = scene.draw_camera(2, rng)
    t = 0
    for shot in shots_of(kind):
        half = SIZE[0] // 2
        background = places[shot.place[0]].copy()
        if len(shot.place) > 1:
            background[:, :half], background[:, half:] = (
                places[place][:, half // 2 : half // 2 + half] for place in shot.place
            )
        for _ in range(shot.length):
            picture, truth = background, {}
            for number, x, eyes in shot.people:
                pose = Pose(
                    yaw=0.2 * np.sin(t / 7 + number),
                    roll=0.06 * np.sin(t / 9 + 2 * number),
                    eye_distance=eyes,
                    centre=(x, 0.42 + 0.01 * np.sin(t / 5)),
                )
                person = people[number]
                picture = render(rig, person, express(rig, person, {}), pose, Light(), picture)
                truth[number] = np.array(pose.centre) * SIZE
            t += 1
            yield scene.expose(picture, camera, rng), truth


def _cast(rig: Rig, kind: str, seed: int) -> list[Person]:
    """Two people; if they are to look alike, with one skin."""
    first, second = (make_person(rig, np.random.default_rng((seed, k))) for k in range(2))
    return [first, replace(second, albedo=first.albedo) if kind == "alike" else second]
