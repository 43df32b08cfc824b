"""Write a tree of rendered videos and annotations, laid out on disk as Aff-Wild2 is."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import av
import cv2
import numpy as np

from clipaffect.core.progress import Progress
from clipaffect.core.tasks import AU, EXPR, NOT_ANNOTATED, Task
from clipaffect.dataset.readers.aff_wild2 import FOLDERS
from clipaffect.synthetic import scene
from clipaffect.synthetic.actions import UNITS, blendshapes, gaze_shapes
from clipaffect.synthetic.person import Person, make_person
from clipaffect.synthetic.render import express, render
from clipaffect.synthetic.rig import Rig, load_rig
from clipaffect.synthetic.script import Script, Showing, deal, write_script

SPLIT_FOLDERS = {"train": "Train_Set", "validation": "Validation_Set"}
SHOWINGS = 4  # expressions of one person in one clip of SECONDS
SECONDS = 7.0
# Measured: with mbtree, x264 reads memory it has not set, and the same pictures give other bytes.
X264 = {"preset": "slow", "threads": "1", "x264-params": "mbtree=0"}
# Streams of randomness, so that changing one does not redraw the others.
PERSON, SCRIPT, SCENE, SENSOR, CASTING = range(5)


@dataclass(frozen=True)
class Clip:
    """One video to make: its number and name, its split, and who shows what in it."""

    number: int
    split: str
    people: tuple[int, ...]
    showings: tuple[tuple[Showing, ...], ...]
    seconds: float
    seed: int

    def rng(self, stream: int, person: int = 0) -> np.random.Generator:
        """The clip's generator for one stream (and one person in it)."""
        return np.random.default_rng((self.seed, self.number, stream, person))


def plan(
    train_people: int, validation_people: int, seconds: float, seed: int, pairs: float = 0.2
) -> list[Clip]:
    """Cast every person in exactly one clip; ``pairs`` of the clips show two people.

    Nobody appears in both splits, because nobody appears in two clips.
    """
    clips: list[Clip] = []
    person = 0
    per_person = max(1, round(SHOWINGS * seconds / SECONDS))
    for index, (split, count) in enumerate(
        (("train", train_people), ("validation", validation_people))
    ):
        rng = np.random.default_rng((seed, CASTING, index))
        together = round(count * pairs / 2)
        casts = [2] * together + [1] * (count - 2 * together)
        cards = iter(deal(count * per_person, rng))
        for size in rng.permutation(casts):
            showings = tuple(tuple(next(cards) for _ in range(per_person)) for _ in range(size))
            people = tuple(range(person, person + int(size)))
            clips.append(Clip(len(clips) + 1, split, people, showings, seconds, seed))
            person += int(size)
    return clips


@lru_cache(maxsize=1)
def _rig(path: Path) -> Rig:
    cv2.setNumThreads(1)
    return load_rig(path)


def _frames(
    clip: Clip, rig: Rig, camera: scene.Camera, cast: list[tuple[Person, Script, scene.Take]]
) -> Iterator[np.ndarray]:
    rng = clip.rng(SENSOR)
    background = scene.draw_background(camera.size, rng)
    shake = np.cumsum(rng.normal(0, 0.25, (len(cast[0][2].poses), 2)), axis=0)
    for t in range(len(cast[0][2].poses)):
        move = np.array([[1, 0, shake[t, 0]], [0, 1, shake[t, 1]]], np.float32)
        picture = cv2.warpAffine(background, move, camera.size, borderMode=cv2.BORDER_REFLECT)
        for person, script, take in cast:
            intensity = dict(zip(UNITS, script.intensity[t].tolist(), strict=True))
            weights = blendshapes(intensity, person.asymmetry)
            weights["mouthFunnel"] = float(script.mouth[t, 0])
            weights["mouthLeft"] = float(script.mouth[t, 1])
            weights |= gaze_shapes(*script.gaze[t].tolist())
            vertices = express(rig, person, weights)
            pose = take.poses[t]
            picture = render(rig, person, vertices, pose, take.light, picture, intensity)
            if take.occluder is not None:
                picture = scene.draw_occluder(picture, take.occluder, t)
        yield scene.expose(picture, camera, rng)


def _annotate(path: Path, task: Task, rows: np.ndarray, extra: int) -> None:
    """Write an annotation file; ``extra`` repeats (or drops) rows at its end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = np.vstack([rows, np.repeat(rows[-1:], extra, axis=0)]) if extra > 0 else rows
    rows = rows[:extra] if extra < 0 else rows
    lines = [task.header, *(",".join(map(str, row)) for row in rows.tolist())]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def make_clip(clip: Clip, rig_path: Path, root: Path) -> str:
    """Render one clip and write its video and annotation files; returns its name."""
    rig = _rig(rig_path)
    rng = clip.rng(SCENE)
    camera = scene.draw_camera(len(clip.people), rng)
    frames = round(clip.seconds * min(camera.fps, 15))  # at most 15 * seconds frames
    name = f"{clip.number}-{camera.fps}-{camera.size[0]}x{camera.size[1]}"
    places = (0.5,) if len(clip.people) == 1 else (0.27, 0.73)
    cast = []
    for place, number, showings in zip(places, clip.people, clip.showings, strict=True):
        person = make_person(rig, np.random.default_rng((clip.seed, PERSON, number)))
        script = write_script(showings, frames, camera.fps, clip.rng(SCRIPT, number))
        take = scene.draw_take(frames, camera, place, len(clip.people), rng)
        cast.append((person, script, take))
    video = root / "videos" / f"{name}.mp4"
    video.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(video), "w") as container:
        stream = container.add_stream("libx264", rate=camera.fps)
        stream.width, stream.height = camera.size
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": str(camera.crf), **X264}
        for picture in _frames(clip, rig, camera, cast):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode())
    # As in Aff-Wild2, some files have one row more than the video has frames.
    extra = {0: 1, 1: -2}.get(int(rng.integers(12)), 0)
    sides = ("",) if len(cast) == 1 else ("_left", "_right")
    for side, (_, script, take) in zip(sides, cast, strict=True):
        for task, labels in ((EXPR, script.expression[:, None]), (AU, script.units)):
            rows = np.where(take.away[:, None], NOT_ANNOTATED, labels)
            folder = root / "annotations" / FOLDERS[task.name][0] / SPLIT_FOLDERS[clip.split]
            _annotate(folder / f"{name}{side}.txt", task, rows, extra)
    return name


def generate(
    root: Path,
    rig_path: Path,
    train_people: int = 40,
    validation_people: int = 24,
    seconds: float = SECONDS,
    seed: int = 2024,
    processes: int = 1,
) -> list[str]:
    """Make a data set of any size under ``root``; the same arguments give the same bytes."""
    clips = plan(train_people, validation_people, seconds, seed)
    names = []
    cv2.setNumThreads(1)  # threads of OpenCV that were started before do not survive the fork
    with ProcessPoolExecutor(processes) as pool, Progress("clips", len(clips)) as progress:
        for name in pool.map(make_clip, clips, [rig_path] * len(clips), [root] * len(clips)):
            names.append(name)
            progress.advance()
    return names
