"""The work store: made once, never torn, resumable, and cleaned by reason."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from clipaffect.core.errors import UserError
from clipaffect.core.store import Store

KEY = {"version": 1, "n": 3}


def fill(folder: Path) -> None:
    (folder / "data").write_text("whole")


def test_an_entry_is_made_once(tmp_path: Path) -> None:
    store, calls = Store(tmp_path), []

    def make(folder: Path) -> None:
        calls.append(folder)
        fill(folder)

    first = store.get_or_make("kind", KEY, make)
    assert store.get_or_make("kind", dict(reversed(KEY.items())), make) == first
    assert len(calls) == 1
    assert (first / "data").read_text() == "whole"
    assert store.get_or_make("kind", KEY | {"n": 4}, make) != first
    assert store.get_or_make("other", KEY, make) != first
    assert not list(tmp_path.rglob("*.lock"))


def test_a_failed_attempt_leaves_no_entry(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def fail(folder: Path) -> None:
        fill(folder)
        raise RuntimeError("half way")

    with pytest.raises(RuntimeError):
        store.get_or_make("kind", KEY, fail)
    assert not store.has("kind", KEY)
    entry = store.get_or_make("kind", KEY, lambda folder: None)
    assert not (entry / "data").exists(), "the failed attempt's files must not come back"


MAKER = """
import sys, time
from pathlib import Path
from clipaffect.core.store import Store
def make(folder):
    with (folder / "steps").open("a") as steps: steps.write("step\\n")
    Path(sys.argv[2]).touch()
    time.sleep(float(sys.argv[3]))
    (folder / "data").write_text("whole")
entry = Store(Path(sys.argv[1])).get_or_make("kind", {"version": 1}, make, keep_partial=True)
print((entry / "steps").read_text().count("step"))
"""


def run_maker(root: Path, started: Path, seconds: float) -> subprocess.Popen:
    command = [sys.executable, "-c", MAKER, str(root), str(started), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def wait_for(path: Path) -> None:
    while not path.exists():
        time.sleep(0.01)


def test_kill_9_frees_the_lock_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    started = tmp_path / "started"
    victim = run_maker(tmp_path / "store", started, 60)
    wait_for(started)
    os.kill(victim.pid, signal.SIGKILL)
    victim.communicate()
    assert not Store(tmp_path / "store").has("kind", {"version": 1})
    heir = run_maker(tmp_path / "store", started, 0)
    assert heir.communicate(timeout=300)[0].strip() == "2", (
        "the second attempt sees the first's files"
    )


def test_two_processes_make_an_entry_once(tmp_path: Path) -> None:
    started = tmp_path / "started"
    first = run_maker(tmp_path / "store", started, 1.0)
    wait_for(started)
    second = run_maker(tmp_path / "store", started, 1.0)
    assert [p.communicate(timeout=300)[0].strip() for p in (first, second)] == ["1", "1"]


def test_garbage_collection_gives_its_reason(tmp_path: Path) -> None:
    store = Store(tmp_path)
    kept = store.get_or_make("heads", {"version": 2}, fill)
    outdated = store.get_or_make("heads", {"version": 1}, fill)
    forgotten = store.get_or_make("heads", {"version": 2, "n": 1}, fill)
    abandoned = outdated.with_name("0" * 64).with_suffix(".part")
    abandoned.mkdir()
    old = time.time() - 40 * 86400
    os.utime(forgotten / "key.json", (old, old))
    os.utime(abandoned, (old, old))
    reasons = {item.path: item.reason for item in store.unused({"heads": 2}, days=30)}
    assert reasons == {
        outdated: "stage version 1, current version 2",
        forgotten: "not used for 40 days",
        abandoned: "attempt abandoned 40 days ago",
    }
    for entry in reasons:
        store.delete(entry)
        assert not entry.exists()
    assert kept.exists()
    assert not list(tmp_path.rglob("*.lock"))


def test_a_file_system_without_locks_is_said_to_have_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No such file system can be had here: the system's call answers as one would."""

    def refuses(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuses)
    with pytest.raises(UserError, match="no support for locks") as raised:
        Store(tmp_path).get_or_make("kind", KEY, fill)
    assert "paths.store" in raised.value.fix
    assert not Store(tmp_path).has("kind", KEY)


def test_an_entry_that_is_read_is_in_use(tmp_path: Path) -> None:
    store = Store(tmp_path)
    entry = store.get_or_make("heads", {"version": 2}, fill)
    old = time.time() - 40 * 86400
    os.utime(entry / "key.json", (old, old))
    assert [item.path for item in store.unused({"heads": 2}, days=30)] == [entry]
    store.get_or_make("heads", {"version": 2}, fill)
    assert not list(store.unused({"heads": 2}, days=30))
