"""The command line: messages instead of tracebacks, and its helpers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from conftest import ROOT, environment

from clipaffect.launch import is_dead


def clipaffect(*arguments: str, folder: Path = ROOT) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "clipaffect", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
    )


def test_check_reads_the_demo() -> None:
    done = clipaffect("check", "config/config.yaml")
    assert done.returncode == 0
    assert "videos" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("check", "nowhere.yaml"), ["no such configuration file", "nowhere.yaml"]),
        (("fetch-asset", "nothing", "x"), ["no asset is called 'nothing'", "face-networks"]),
        (("make-data", "/proc/nowhere"), ["cannot go on"]),
    ],
)
def test_a_mistake_is_a_message(arguments: tuple[str, ...], words: list[str]) -> None:
    done = clipaffect(*arguments)
    assert done.returncode == 2
    for word in words:
        assert word in done.stderr
    assert "Traceback" not in done.stderr


def test_check_names_file_and_line(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("run: x\ntraining: [1\n")
    done = clipaffect("check", str(tmp_path / "c.yaml"))
    assert done.returncode == 2
    assert "not YAML" in done.stderr


def test_garbage_collection_lists_and_deletes(tmp_path: Path) -> None:
    from clipaffect.store import Store

    piece = Store(tmp_path).get_or_make(
        "heads", {"version": 0}, lambda f: (f / "x").write_text("y")
    )
    listed = clipaffect("store", "gc", "--path", str(tmp_path))
    assert str(piece) in listed.stdout
    assert "stage version 0" in listed.stdout
    assert piece.exists()
    clipaffect("store", "gc", "--path", str(tmp_path), "--delete")
    assert not piece.exists()


def test_a_lock_is_dead_only_when_its_process_is_gone() -> None:
    import socket

    me = psutil.Process()
    owner = {"host": socket.gethostname(), "pid": me.pid, "started": me.create_time()}
    assert not is_dead(owner)
    assert is_dead(owner | {"started": me.create_time() - 100}), "the number was reused"
    assert not is_dead(owner | {"host": "elsewhere", "pid": 1, "started": 0})
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    assert is_dead(owner | {"pid": child.pid})
