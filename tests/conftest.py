"""Shared by the tests: folders, fetched assets, small videos, and one finished run."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# One thread a process, as in the workflow's jobs: on small arrays threads wait for each other, and
# the suite takes three times the CPU time. Read when numpy and torch are imported.
os.environ |= {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL")}
# Hypothesis writes what it learns into the folder where it is called: here, the checkout.
os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = f"{tempfile.gettempdir()}/clipaffect-hypothesis"

import av
import cv2
import numpy as np
import pytest
import yaml
from browsing import Browser
from filelock import FileLock
from preloaded import python
from slurm import DEBIAN, Cluster, missing_programs

from clipaffect.core.fetch_asset import ensure_asset
from clipaffect.core.tasks import AU, EXPR, Task
from clipaffect.dataset.readers.aff_wild2 import FOLDERS

# OpenCV reads no such variable. Its threads do not survive the forks that tests make.
cv2.setNumThreads(1)

pytest_plugins = ["cpu_time"]

ROOT = Path(__file__).parents[1]
ASSETS = ROOT / "assets"
CLIPS = ROOT / "tests/data/clips"  # rendered, in the layout of Aff-Wild2: tests/data/README.md
TREE = ("Snakefile", "workflow", "config", "src", "resources", "tests", "profiles", "assets")


# Files of half a minute and more, the longest first: what begins last should be short, or one
# process waits. The others, and the tests within a file, come in the order of pytest-randomly.
LONG = (
    "test_reuse",
    "test_study_pages",
    "test_micro",
    "test_prediction_files",
    "test_prediction",
    "test_report_page",
    "test_compare",
    "test_other_data",
    "test_crops",
    "test_finder",
    "test_demo",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long files to the front."""
    rank = {name: number for number, name in enumerate(LONG)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(LONG)))


def asset(name: str) -> Path:
    """The folder of fetched assets, with ``name`` in it; fetched by one of several processes."""
    ASSETS.mkdir(exist_ok=True)
    with FileLock(ASSETS / f".{name}.lock"):
        return ensure_asset(name, ASSETS)


@pytest.fixture(scope="session")
def face_networks() -> Path:
    return asset("face-networks")


@pytest.fixture(scope="session")
def real_clips() -> Path:
    return asset("real-clips") / "real-clips"


@pytest.fixture(scope="session")
def dinov2() -> Path:
    return asset("dinov2-s14")


def write_video(
    path: Path, frames: int = 12, size: tuple[int, int] = (64, 48), rate: int = 10
) -> Path:
    """An H.264 video whose frame i has brightness 10 * i."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        for number in range(frames):
            picture = np.full((size[1], size[0], 3), 10 * number % 256, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode())
    return path


def write_annotation(path: Path, header: str, rows: list[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


EVERY_CLASS = [str(k % 8) for k in range(12)]
EVERY_UNIT = [",".join(["1"] * 12), ",".join(["0"] * 12)] * 6


def annotation(root: Path, task: Task, split: str, name: str) -> Path:
    return root / "annotations" / FOLDERS[task.name][0] / split / f"{name}.txt"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Two training videos (one with two people) and one for validation."""
    for name, split, sides in (
        ("a 1", "Train_Set", ("",)),
        ("b'2\"", "Train_Set", ("_left", "_right")),
        ("c10", "Validation_Set", ("",)),
    ):
        write_video(tmp_path / "videos" / "batch1" / f"{name}.mp4")
        for side in sides:
            write_annotation(
                annotation(tmp_path, EXPR, split, name + side), EXPR.header, EVERY_CLASS
            )
            write_annotation(annotation(tmp_path, AU, split, name + side), AU.header, EVERY_UNIT)
    return tmp_path


def add_validation_video(root: Path) -> None:
    """One more video for validation: with a broken one alone, a run is refused."""
    write_video(root / "videos/d11.mp4")
    for task, rows in ((EXPR, EVERY_CLASS), (AU, EVERY_UNIT)):
        write_annotation(annotation(root, task, "Validation_Set", "d11"), task.header, rows)


def workplace(folder: Path) -> Path:
    """A folder in which the workflow can run: the project's files by link, results its own."""
    folder.mkdir(parents=True, exist_ok=True)
    ASSETS.mkdir(exist_ok=True)
    for name in TREE:
        (folder / name).symlink_to(ROOT / name)
    return folder


def environment() -> dict[str, str]:
    """The environment of child processes: no colours, narrow terminals do not cut messages."""
    return os.environ | {"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}


def clipaffect(*arguments: object, folder: Path = ROOT) -> subprocess.CompletedProcess:
    """Call the command line in a folder."""
    command = [python(), "-m", "clipaffect", *map(str, arguments)]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, env=environment(), check=False
    )


def snakemake(
    folder: Path, *arguments: str, check: bool = True, program: str | None = None
) -> subprocess.CompletedProcess:
    """Call Snakemake in a workplace, by the preloaded Python where no other is given."""
    command = [program or python(), "-m", "snakemake", "--cores", "2", *arguments]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, env=environment(), check=False
    )
    if check and done.returncode:
        raise AssertionError(
            f"{' '.join(arguments)}:\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
        )
    return done


def result_files(folder: Path) -> dict[str, bytes]:
    """Every file of a results folder but its timings, by path."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "timings" not in path.parts
    }


def only_commands(folder: Path, monkeypatch: pytest.MonkeyPatch, scripts: dict[str, str]) -> None:
    """Go to a folder; of commands there are these scripts and the system's own."""
    for name, text in scripts.items():
        path = folder / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}/bin:/usr/bin:/bin")
    monkeypatch.chdir(folder)


MICRO = ("--configfile", "tests/config/micro.yaml")


@pytest.fixture(scope="session")
def micro_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workplace in which the micro configuration has run. Not to be changed: copy it.

    Processes that test side by side share it.
    """
    asset("face-networks")
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "micro"
    with FileLock(f"{shared}.lock"):
        if not (shared / "finished").exists():
            shutil.rmtree(shared, ignore_errors=True)
            snakemake(workplace(shared / "run"), *MICRO)
            (shared / "finished").touch()
    return shared / "run"


def micro_anywhere() -> dict[str, Any]:
    """The micro configuration, for a folder without its data."""
    config: dict[str, Any] = yaml.safe_load((ROOT / MICRO[1]).read_text())
    config["data"] |= {"videos": str(CLIPS / "videos"), "annotations": str(CLIPS / "annotations")}
    return config


def copy_of(run: Path, parent: Path) -> Path:
    """A workplace with everything that a finished one has made."""
    folder = workplace(parent / "copy")
    for name in ("results", "store", "logs", ".snakemake"):
        shutil.copytree(run / name, folder / name)
    return folder


@pytest.fixture
def micro_copy(micro_run: Path, tmp_path: Path) -> Path:
    """A copy of the finished micro run, Snakemake's records and the work store included."""
    return copy_of(micro_run, tmp_path)


@pytest.fixture(scope="session")
def micro_bundle(micro_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The micro run's heads, exported."""
    from clipaffect.bundle.export_model import export_model

    out = tmp_path_factory.mktemp("exported") / "model"
    export_model(micro_run / "results/micro", ASSETS, out)
    return out


@pytest.fixture
def mixed(tmp_path: Path, real_clips: Path) -> Path:
    """A folder of everything that people have."""
    folder = tmp_path / "mixed"
    (folder / "deep").mkdir(parents=True)
    shutil.copy(real_clips / "face_noface.mov", folder / "deep/Face & <b>.mov")
    shutil.copy(real_clips / "group.jpg", folder)
    shutil.copy(ROOT / "tests/data/clips/videos/2-25-426x240.mp4", folder / "a.mp4")
    write_video(folder / "nobody.mp4", frames=30)
    write_video(folder / "one.mp4", frames=1)
    (folder / "empty.mp4").touch()
    (folder / "truncated.mp4").write_bytes((folder / "a.mp4").read_bytes()[:3000])
    (folder / "text.mp4").write_text("not a video")
    (folder / "notes.txt").write_text("x")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    (folder / "new\nline.mp4").write_bytes((folder / "one.mp4").read_bytes())
    (folder / ".hidden.mp4").touch()
    os.mkfifo(folder / "pipe.mp4")
    return folder


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A real Chromium; without one these tests are skipped, but never in CI."""
    if not Browser.there():
        if os.environ.get("CI"):
            pytest.fail("no chromium and chromedriver: install Debian's chromium, chromium-driver")
        pytest.skip("no chromium and chromedriver on this machine")
    started = Browser()
    yield started
    started.close()


@contextmanager
def running_cluster(folder: Path, accounting: bool) -> Iterator[Cluster]:
    """A running SLURM; without its programs these tests are skipped, but never in CI."""
    if missing := missing_programs(accounting):
        if os.environ.get("CI"):
            pytest.fail(f"no {', '.join(missing)}: install {DEBIAN}")
        pytest.skip(f"no {', '.join(missing)} on this machine")
    started = Cluster(folder, accounting)
    try:
        started.start()
        yield started
    finally:
        started.stop()
    assert not started.left()


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A SLURM with accounting."""
    with running_cluster(tmp_path_factory.mktemp("slurm"), accounting=True) as started:
        yield started


@pytest.fixture(scope="session")
def cluster_without_accounting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A SLURM whose squeue is asked."""
    with running_cluster(tmp_path_factory.mktemp("slurm"), accounting=False) as started:
        yield started
