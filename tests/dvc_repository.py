"""A repository with DVC in which the micro configuration runs as stages."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import yaml
from conftest import MICRO, ROOT, environment, workplace
from preloaded import python

RESULTS, STAGES, CONFIG = Path("results/micro"), "runs/micro/dvc.yaml", "runs/micro/config.yaml"


def surroundings() -> dict[str, str]:
    """What an activated environment gives, by the preloaded Python, and somebody who commits."""
    tools = f"{Path(python()).parent}{os.pathsep}{os.environ['PATH']}"
    person = {
        f"GIT_{who}_{what}": "tester@localhost"
        for who in ("AUTHOR", "COMMITTER")
        for what in ("NAME", "EMAIL")
    }
    return environment() | person | {"PATH": tools}


def run(folder: Path, *command: str, fails: bool = False) -> str:
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, env=surroundings(), check=False
    )
    assert bool(done.returncode) == fails, f"{command}:\n{done.stdout}\n{done.stderr}"
    return done.stdout + (done.stderr if fails else "")


def commit(folder: Path, message: str) -> None:
    run(folder, "git", "add", "-A")
    run(folder, "git", "commit", "-q", "-m", message)


def make_repository(folder: Path) -> Path:
    """A repository with the project's files, and the micro run as DVC stages."""
    workplace(folder)
    shutil.copyfile(ROOT / ".gitignore", folder / ".gitignore")
    shutil.copyfile(ROOT / ".dvcignore", folder / ".dvcignore")
    shutil.copyfile(ROOT / "dvc.yaml", folder / "dvc.yaml")
    run(folder, "git", "init", "-q")
    run(folder, "dvc", "init", "-q")
    run(folder, "dvc", "config", "core.analytics", "false")
    run(folder, "clipaffect", "dvc", "stages", MICRO[1])
    commit(folder, "The micro run as DVC stages")
    return folder


def set_epochs(folder: Path) -> None:
    path = folder / CONFIG
    config = yaml.safe_load(path.read_text())
    config["training"]["epochs"] = 4
    path.write_text(yaml.safe_dump(config))
