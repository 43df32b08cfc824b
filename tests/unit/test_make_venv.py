"""tools/make-venv: it makes an environment, also behind a link, and deletes nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

SCRIPT = ROOT / "tools/make-venv"
# Stands in for `python -m venv`, which takes seconds: like it, it refuses a link.
QUICK = """#!/bin/sh
case "$*" in
*"-m venv --clear"*)
  test -L "$4" && exit 9
  rm -rf "$4"/* ; mkdir -p "$4/bin" ; touch "$4/pyvenv.cfg" ; ln -sf {python} "$4/bin/python" ;;
*) exec {python} "$@" ;;
esac
"""


@pytest.fixture
def quick(tmp_path: Path) -> Path:
    path = tmp_path / "bin/python3.11"
    path.parent.mkdir()
    path.write_text(QUICK.format(python=sys.executable))
    path.chmod(0o755)
    return path


def make(venv: Path, python: Path | str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [str(SCRIPT), str(venv)],
        env=os.environ | {"PYTHON": str(python)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_real_environment_behind_a_link(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    venv = tmp_path / ".venv"
    (tmp_path / "link").symlink_to("elsewhere")
    venv.symlink_to("link")
    done = make(venv, sys.executable)
    assert done.returncode == 0, done.stderr
    assert venv.is_symlink()
    command = [str(venv / "bin/python"), "-m", "pip", "--version"]
    assert subprocess.run(command, check=False, capture_output=True).returncode == 0


@pytest.mark.parametrize("link", [False, True])
def test_files_of_others_are_kept(tmp_path: Path, quick: Path, link: bool) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "thesis.tex").write_text("years of work")
    venv = folder
    if link:
        venv = tmp_path / ".venv"
        venv.symlink_to(folder)
    done = make(venv, quick)
    assert done.returncode == 1
    assert str(folder) in done.stderr
    assert (folder / "thesis.tex").read_text() == "years of work"


def test_an_environment_of_its_own_is_made_anew_and_anothers_is_used(
    tmp_path: Path, quick: Path
) -> None:
    venv = tmp_path / "venv"
    assert make(venv, quick).returncode == 0
    (venv / "old").touch()
    assert make(venv, quick).returncode == 0
    assert not (venv / "old").exists()
    (venv / ".made-by-clipaffect").unlink()
    (venv / "package").touch()
    for _ in range(2):
        done = make(venv, quick)
        assert done.returncode == 0
        (venv / ".complete").touch()  # by the Makefile, once all packages are there
    assert "using the virtual environment in" in done.stdout
    assert (venv / "package").exists()
    (venv / "pyvenv.cfg").unlink()
    assert make(venv, quick).returncode == 1
    assert (venv / "package").exists()


def test_a_link_to_nothing_yet(tmp_path: Path, quick: Path) -> None:
    venv = tmp_path / ".venv"
    venv.symlink_to(tmp_path / "to come")
    assert make(venv, quick).returncode == 0
    assert (tmp_path / "to come/pyvenv.cfg").exists()
