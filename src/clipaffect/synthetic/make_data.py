"""Write a tree of rendered videos and annotations, laid out on disk as Aff-Wild2 is."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import av
import cv2
import numpy as np
import pandas as pd

from clipaffect.core.files import write_text
from clipaffect.core.progress import Progress
from clipaffect.core.tasks import AU, EXPR, NOT_ANNOTATED, Task
from clipaffect.dataset.readers.aff_wild2 import FOLDERS
from clipaffect.synthetic import scene
from clipaffect.synthetic.actions import UNITS, blendshapes, gaze_shapes
from clipaffect.synthetic.annotators import Fault, annotate, written
from clipaffect.synthetic.casting import Clip, Episode, cast
from clipaffect.synthetic.person import Person, make_person
from clipaffect.synthetic.render import Lens, express, render
from clipaffect.synthetic.rig import Rig, load_rig
from clipaffect.synthetic.script import Script, draw_temper, write_script

SPLIT_FOLDERS = {"train": "Train_Set", "validation": "Validation_Set"}
TRAIN_PEOPLE, VALIDATION_PEOPLE = 110, 130
SECONDS = 10.0  # of a clip, on average
SEED = 2024
# Measured: with mbtree, x264 reads memory it has not set, and the same pictures give other bytes.
X264 = {"preset": "slow", "threads": "1", "x264-params": "mbtree=0"}
# Streams of randomness, so that changing one does not redraw the others.
PERSON, SCRIPT, SCENE, SENSOR, CASTING, TEMPER, ANNOTATORS, BYSTANDER = range(8)
INJECTED, PEOPLE = "injected.csv", "people.csv"
SIDES = {1: ("",), 2: ("left", "right")}  # of the people in a clip


@dataclass(frozen=True)
class Actor:
    """A person in a clip, with their script and their path."""

    person: Person
    script: Script
    take: scene.Take


def plan(train_people: int, validation_people: int, seconds: float, seed: int) -> list[Clip]:
    """Cast every person in exactly one clip, so nobody appears in both splits."""
    clips: list[Clip] = []
    people = 0
    for index, (split, count) in enumerate(
        (("train", train_people), ("validation", validation_people))
    ):
        rng = np.random.default_rng((seed, CASTING, index))
        everybody = range(people, people + count)
        clips += cast(split, everybody, len(clips) + 1, seconds, seed, rng)
        people += count
    return clips


@lru_cache(maxsize=1)
def _rig(path: Path) -> Rig:
    cv2.setNumThreads(1)
    return load_rig(path)


def _draw(picture: np.ndarray, rig: Rig, actor: Actor, lens: Lens, t: int) -> np.ndarray:
    person, script, take = actor.person, actor.script, actor.take
    intensity = dict(zip(UNITS, script.intensity[t].tolist(), strict=True))
    weights = blendshapes(intensity, person.asymmetry)
    weights["mouthFunnel"] = float(script.mouth[t, 0])
    weights["mouthLeft"] = float(script.mouth[t, 1])
    weights |= gaze_shapes(*script.gaze[t].tolist())
    vertices = express(rig, person, weights)
    pose = take.poses[t]
    picture = render(rig, person, vertices, pose, take.light, picture, intensity, lens=lens)
    if take.occluder is not None:
        picture = scene.draw_occluder(picture, take.occluder, t)
    return picture


def _frames(
    clip: Clip, rig: Rig, camera: scene.Camera, lens: Lens, actors: list[Actor]
) -> Iterator[np.ndarray]:
    rng = clip.rng(SENSOR)
    background = scene.draw_background(camera.size, rng)
    frames = len(actors[0].take.poses)
    shake = np.cumsum(rng.normal(0, 0.4, (frames, 2)), axis=0)
    for t in range(frames):
        move = np.array([[1, 0, shake[t, 0]], [0, 1, shake[t, 1]]], np.float32)
        picture = cv2.warpAffine(background, move, camera.size, borderMode=cv2.BORDER_REFLECT)
        for actor in actors:
            picture = _draw(picture, rig, actor, lens, t)
        yield scene.expose(picture, camera, rng, t / camera.fps)


def _annotate(path: Path, task: Task, rows: np.ndarray, extra: int) -> None:
    """Write an annotation file; ``extra`` repeats (or drops) rows at its end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = np.vstack([rows, np.repeat(rows[-1:], extra, axis=0)]) if extra > 0 else rows
    rows = rows[:extra] if extra < 0 else rows
    lines = [task.header, *(",".join(map(str, row)) for row in rows.tolist())]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _bystander(clip: Clip, rig: Rig, camera: scene.Camera, frames: int) -> Actor:
    """A person in the background, at the edge of the image, who is not annotated."""
    rng = clip.rng(BYSTANDER)
    place = float(rng.choice([0.12, 0.88]) + rng.uniform(-0.05, 0.05))
    return Actor(
        make_person(rig, rng),
        write_script((Episode("Neutral"),), draw_temper(rng), frames, camera.fps, rng),
        scene.draw_take(frames, camera, place, 1, rng, share=float(rng.uniform(0.03, 0.06))),
    )


def make_clip(clip: Clip, rig_path: Path, root: Path) -> tuple[str, list[dict[str, object]]]:
    """Render one clip; write its video and annotation files.

    Returns:
        The clip's name, and one row for each injected annotation error.
    """
    rig = _rig(rig_path)
    rng = clip.rng(SCENE)
    camera = scene.draw_camera(len(clip.people), rng)
    lens = Lens(distance=float(rng.uniform(9, 18)), gamma=float(rng.uniform(1.2, 1.9)))
    frames = round(clip.seconds * camera.fps)
    name = f"{clip.number}-{camera.fps}-{camera.size[0]}x{camera.size[1]}"
    places = (0.5,) if len(clip.people) == 1 else (0.27, 0.73)
    actors, tempers = [], []
    for place, number, episodes in zip(places, clip.people, clip.episodes, strict=True):
        person = make_person(rig, np.random.default_rng((clip.seed, PERSON, number)))
        temper = draw_temper(clip.rng(TEMPER, number))
        script = write_script(episodes, temper, frames, camera.fps, clip.rng(SCRIPT, number))
        take = scene.draw_take(frames, camera, place, len(clip.people), rng)
        actors.append(Actor(person, script, take))
        tempers.append(temper)
    behind = [_bystander(clip, rig, camera, frames)] if clip.bystander else []
    video = root / "videos" / f"{name}.mp4"
    video.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(video), "w") as container:
        stream = container.add_stream("libx264", rate=camera.fps)
        stream.width, stream.height = camera.size
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": str(camera.crf), **X264}
        for picture in _frames(clip, rig, camera, lens, [*behind, *actors]):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode())
    # As in Aff-Wild2, some files have one row more than the video has frames.
    extra = {0: 1, 1: -2}.get(int(rng.integers(12)), 0)
    sides = SIDES[len(actors)]
    injected: list[dict[str, object]] = []
    for side, number, temper, actor in zip(sides, clip.people, tempers, actors, strict=True):
        script, away = actor.script, actor.take.away
        expression, units = script.expression[:, None], script.units
        faults: list[Fault] = []
        if clip.split == "train":
            expression, units, faults = annotate(script, camera.fps, clip.rng(ANNOTATORS, number))
            faults = written(faults, ~away[: frames + min(extra, 0)])
        if temper.hard:
            faults = [*faults, Fault("misleading_resting_face", "", "", 1, frames, 0, 0)]
        whose = {"video": name, "person": side, "split": clip.split}
        injected += [whose | asdict(fault) for fault in faults]
        for task, labels in ((EXPR, expression), (AU, units)):
            rows = np.where(away[:, None], NOT_ANNOTATED, labels)
            folder = root / "annotations" / FOLDERS[task.name][0] / SPLIT_FOLDERS[clip.split]
            _annotate(folder / f"{name}{side and '_'}{side}.txt", task, rows, extra)
    return name, injected


def generate(
    root: Path,
    rig_path: Path,
    train_people: int = TRAIN_PEOPLE,
    validation_people: int = VALIDATION_PEOPLE,
    seconds: float = SECONDS,
    seed: int = SEED,
    processes: int = 1,
) -> list[str]:
    """Make a data set of any size under ``root``; the same arguments give the same bytes.

    ``videos/`` and ``annotations/`` are laid out as Aff-Wild2 is. ``people.csv`` says who is in
    which video; ``injected.csv`` lists the errors injected into the training annotations, and the
    people with a misleading resting face.
    """
    clips = plan(train_people, validation_people, seconds, seed)
    names, injected = [], []
    cv2.setNumThreads(1)  # threads of OpenCV that were started before do not survive the fork
    with ProcessPoolExecutor(processes) as pool, Progress("clips", len(clips)) as progress:
        for name, rows in pool.map(make_clip, clips, [rig_path] * len(clips), [root] * len(clips)):
            names.append(name)
            injected += rows
            progress.advance()
    write_text(root / INJECTED, pd.DataFrame(injected).to_csv(index=False))
    write_text(root / PEOPLE, _people(names, clips))
    return names


def _people(names: list[str], clips: list[Clip]) -> str:
    """The table for ``data.people``."""
    lines = [
        f"{name},{side},person {number}\n"
        for name, clip in zip(names, clips, strict=True)
        for side, number in zip(SIDES[len(clip.people)], clip.people, strict=True)
    ]
    return "video,side,person\n" + "".join(lines)
