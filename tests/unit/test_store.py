"""The work store: made once, never torn, resumable, and cleaned by reason."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from forked import forked

from clipaffect.core.errors import UserError
from clipaffect.core.parquet import read_table, write_table
from clipaffect.core.store import Store
from clipaffect.core.tensors import read_tensors, write_tensors

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
from clipaffect.core.parquet import read_table, write_table
from clipaffect.core.store import Store
from clipaffect.core.tensors import read_tensors, write_tensors
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


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def zeros(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


DAMAGES = (flip, truncate, empty, zeros, Path.unlink)


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("name", ["data", "key.json"])
def test_a_damaged_entry_is_named_set_aside_and_made_again(
    tmp_path: Path, damage: Callable, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store(tmp_path)
    entry = store.get_or_make("kind", KEY, fill)
    damage(entry / name)
    again = Store(tmp_path).get_or_make("kind", KEY, fill)
    assert again == entry
    assert (entry / "data").read_text() == "whole"
    if (name, damage) == ("key.json", Path.unlink):
        return  # as an entry that was never finished
    assert str(entry) in caplog.text
    assert name in caplog.text or "another sha256" in caplog.text
    (aside,) = (tmp_path / "damaged").iterdir()
    assert [item.path for item in store.unused({}, days=30)] == [aside]
    store.delete(aside)
    assert not store.unused({}, days=30)


def test_verify_finds_what_use_would_find(tmp_path: Path) -> None:
    store = Store(tmp_path)
    entries = [store.get_or_make("kind", {"n": n}, fill) for n in range(5)]
    flip(entries[1] / "data")
    truncate(entries[3] / "data")
    for name in (".DS_Store", ".nfs0001", "more"):  # of no account
        (entries[2] / name).write_text("not its own")
    found = {entry: store.verify(entry) for entry in store.entries()}
    assert {entry for entry, problem in found.items() if problem} == {entries[1], entries[3]}
    assert sorted(store.entries()) == sorted({entries[0], entries[2], entries[4]})


def test_a_record_names_no_file_outside_its_entry(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    entry = store.get_or_make("kind", KEY, fill)
    shutil.copy(entry / "data", tmp_path / "outside")
    record = json.loads((entry / "key.json").read_text())
    record["files"]["../../../../outside"] = record["files"]["data"]
    (entry / "key.json").write_text(json.dumps(record))
    assert store.verify(entry) == "../../../../outside is missing"


def test_damage_is_noticed_though_size_and_time_stay(tmp_path: Path) -> None:
    store = Store(tmp_path)
    entry = store.get_or_make("kind", KEY, fill)
    state = (entry / "data").stat()
    flip(entry / "data")
    os.utime(entry / "data", ns=(state.st_atime_ns, state.st_mtime_ns))
    assert not store.has("kind", KEY)


def use_all(root: Path, begin: Path, count: int) -> None:
    while not begin.exists():
        time.sleep(0.0005)
    store = Store(root)
    for n in range(count):
        entry = store.get_or_make("kind", {"n": n}, fill)
        assert (entry / "data").read_text() == "whole"
        with store.attempt("stacks", {"n": n}) as folder:
            (folder / "checkpoint").touch()


def test_jobs_that_meet_one_damaged_entry_make_it_once(tmp_path: Path) -> None:
    root, begin, count = tmp_path / "store", tmp_path / "begin", 40
    store = Store(root)
    for n in range(count):
        flip(store.get_or_make("kind", {"n": n}, fill) / "data")
    store.close()
    with ExitStack() as stack:
        jobs = [stack.enter_context(forked(use_all, root, begin, count)) for _ in range(4)]
        begin.touch()
        for job in jobs:
            job.process.join()
            assert job.process.exitcode == 0, job.stderr.read()
    assert len(list((root / "damaged").glob("*/"))) == count
    assert not list(root.rglob("*.lock"))


def earlier_version(entry: Path) -> None:
    """The record as it was before it had digests: the key alone."""
    record = json.loads((entry / "key.json").read_text())
    (entry / "key.json").write_text(json.dumps(record["key"]))


def test_an_entry_of_an_earlier_version_is_valid_and_gets_digests(tmp_path: Path) -> None:
    store = Store(tmp_path)
    entry = store.get_or_make("kind", KEY, fill)
    record = (entry / "key.json").read_text()
    earlier_version(entry)
    assert store.get_or_make("kind", KEY, lambda folder: pytest.fail("made again")) == entry
    assert (entry / "key.json").read_text() == record
    earlier_version(entry)
    empty(entry / "data")
    assert not store.has("kind", KEY)


def test_what_old_entries_were_used_last_stays_known(tmp_path: Path) -> None:
    store = Store(tmp_path)
    entry = store.get_or_make("kind", KEY, fill)
    earlier_version(entry)
    (entry / "data").chmod(0o600)  # as files of heads had, whatever the umask said
    old = time.time() - 40 * 86400
    os.utime(entry / "key.json", (old, old))
    assert store.verify(entry) is None
    assert (entry / "data").stat().st_mode & 0o777 == 0o666 & ~current_umask()
    assert [item.path for item in store.unused({}, days=30)] == [entry]


def current_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.fixture
def shared_folder() -> Iterator[Path]:
    """A folder of a group, as a lab shares it; tests must be run as root to be other users."""
    if os.geteuid():
        pytest.skip("only root can be two other users")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        shared = Path(folder) / "store"
        shared.mkdir()
        os.chown(shared, FIRST, GROUP)
        shared.chmod(0o2775)
        yield shared


FIRST, SECOND, STRANGER, GROUP = 61001, 61002, 61003, 61000


def as_user(user: int, group: int, function: Callable, *arguments: object) -> None:
    os.setgroups([])
    os.setgid(group)
    os.setuid(user)
    os.umask(0o002)
    function(*arguments)


def make_many(root: Path, begin: Path) -> None:
    def make(folder: Path) -> None:
        write_tensors(folder / "head.safetensors", {"a": torch.ones(3)})
        write_table(folder / "history.parquet", pd.DataFrame({"a": [1]}))
        np.save(folder / "features.npy", np.ones(3))

    while not begin.exists():
        time.sleep(0.001)
    for n in range(30):
        entry = Store(root).get_or_make("heads", {"version": 1, "n": n}, make)
        read_tensors(entry / "head.safetensors")
        read_table(entry / "history.parquet")


def test_two_users_of_one_group_share_a_store(shared_folder: Path) -> None:
    begin = shared_folder.parent / "begin"
    with (
        forked(as_user, FIRST, GROUP, make_many, shared_folder, begin) as first,
        forked(as_user, SECOND, GROUP, make_many, shared_folder, begin) as second,
    ):
        begin.touch()
        for user in (first, second):
            user.process.join()
            assert user.process.exitcode == 0, user.stderr.read()
    entries = list(Store(shared_folder).entries())
    assert len(entries) == 30
    files = [path for path in shared_folder.rglob("*") if path.is_file()]
    assert {path.stat().st_mode & 0o777 for path in files} == {0o664}
    assert {path.stat().st_gid for path in files} == {GROUP}


def use_read_only(root: Path) -> None:
    store = Store(root)
    assert store.get_or_make("kind", KEY, fill)
    for problem in ({"n": 9}, {"n": 4}):
        try:
            store.get_or_make("kind", KEY | problem, fill)
        except UserError as error:
            print(error.what, error.where, flush=True)
        else:
            raise AssertionError("an entry was made")


def test_a_read_only_store_serves_what_it_has(shared_folder: Path) -> None:
    store = Store(shared_folder)
    entry = store.get_or_make("kind", KEY, fill)
    damaged = store.get_or_make("kind", KEY | {"n": 4}, fill)
    flip(damaged / "data")
    old = time.time() - 86400
    os.utime(entry / "key.json", (old, old))
    with forked(as_user, STRANGER, STRANGER, use_read_only, shared_folder) as reader:
        missing, broken = reader.stdout.readline(), reader.stdout.readline()
        reader.process.join()
        assert reader.process.exitcode == 0, reader.stderr.read()
    assert "may not write" in missing
    assert "missing" in missing
    assert "data has another sha256" in broken
    assert str(damaged) in broken
    assert (entry / "key.json").stat().st_mtime == pytest.approx(old)


def use_private(root: Path) -> None:
    try:
        Store(root).get_or_make("kind", KEY, fill)
    except UserError as error:
        print(error.what, error.fix, flush=True)


def test_a_file_that_a_colleague_cannot_read_is_named(shared_folder: Path) -> None:
    entry = Store(shared_folder).get_or_make("kind", KEY, fill)
    (entry / "data").chmod(0o600)
    with forked(as_user, SECOND, GROUP, use_private, shared_folder) as colleague:
        said = colleague.stdout.readline()
    assert f"no permission to read {entry / 'data'} of root" in said
    assert "chmod -R g+rwX" in said


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[Path], Path]]:
    """Mounts the image of a disk in a file; needs root and loop devices."""
    mounted: list[Path] = []
    make = shutil.which("mkfs.ext4", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if make is None:
        pytest.skip("no mkfs.ext4 on this machine")

    def mount(image: Path) -> Path:
        if not image.exists():
            with image.open("wb") as file:
                file.truncate(16 << 20)
            subprocess.run([make, "-q", str(image)], check=True)
        point = tmp_path / f"mounted-{len(mounted)}"
        point.mkdir()
        command = ["mount", "-o", "loop", str(image), str(point)]
        if os.geteuid() or subprocess.run(command, check=False, capture_output=True).returncode:
            pytest.skip("mounting an image of a disk is not allowed here")
        mounted.append(point)
        return point

    yield mount
    for point in reversed(mounted):
        subprocess.run(["umount", "-l", str(point)], check=False)


def after_a_power_cut(disk: Callable[[Path], Path], tmp_path: Path, image: Path) -> Path:
    """A store on what an unplugged disk holds: all that was written to the device until now."""
    copy = tmp_path / "copy.img"
    shutil.copyfile(image, copy)
    return disk(copy) / "store"


def test_a_finished_job_survives_a_power_cut(tmp_path: Path, disk: Callable[[Path], Path]) -> None:
    image = tmp_path / "disk.img"
    place = disk(image) / "store"
    with forked(make_entries, place) as job:
        job.process.join()
        assert job.process.exitcode == 0
    store = Store(after_a_power_cut(disk, tmp_path, image))
    assert len(list(store.entries())) == 20
    assert not any(store.verify(entry) for entry in store.entries())


def make_entries(root: Path) -> None:
    store = Store(root)
    for n in range(20):
        store.get_or_make("kind", {"n": n}, lambda folder: (folder / "data").write_bytes(FEATURES))
    store.close()


FEATURES = b"features " * 1000


def test_entries_torn_by_a_power_cut_are_made_again(
    tmp_path: Path, disk: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Renamed and not yet synced: such a file may be empty under its final name."""
    monkeypatch.setattr("clipaffect.core.store._sync_entry", lambda entry: None)
    image = tmp_path / "disk.img"
    mounted = disk(image)
    make_entries(mounted / "store")
    # The journal is written, as it is every five seconds; the content of files is not.
    descriptor = os.open(mounted, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
    root = after_a_power_cut(disk, tmp_path, image)
    torn = [path for path in root.rglob("data") if path.read_bytes() != FEATURES]
    if not torn:
        pytest.skip("the system has written everything to the disk by itself")
    make_entries(root)
    files = [path for path in root.glob("kind/*/*/data")]
    assert len(files) == 20
    assert all(path.read_bytes() == FEATURES for path in files)
