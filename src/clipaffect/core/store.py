"""The store: a cache of finished work, keyed by everything the work depends on.

An entry lives in ``store/<kind>/<first two digits>/<digest>/``. Its record, ``key.json``, holds the
key, and size and sha256 of every file. Jobs assemble their declared outputs from entries and
compute only what is missing. Snakemake deletes the outputs of an interrupted job, and DVC deletes a
stage's outputs before it runs. The store lies outside both, so that after a killed job, an added
seed or a corrected label only the affected work is repeated.

Digests decide whether an entry is whole: each use compares every file with its own. An entry that
was torn by a power cut, or damaged since, is set aside and made again.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import secrets
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from clipaffect.core.errors import UserError
from clipaffect.core.files import sync, synced_later, write_text
from clipaffect.core.hashing import canonical_json, digest, digest_now

logger = logging.getLogger(__name__)

RECORD = "key.json"
DAMAGED = "damaged"  # folder of the entries that were set aside
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
NOT_WRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM)


@dataclass(frozen=True)
class Unused:
    """An entry that garbage collection would delete, and why."""

    path: Path
    bytes: int
    reason: str


class Store:
    """Cached entries of finished work in one folder, shared by runs and users.

    A folder that cannot be written to serves the entries that it has.

    Args:
        root: the folder (``paths.store`` in the configuration).
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._threads: dict[int, ThreadPoolExecutor] = {}  # by process: a fork has none

    def path(self, kind: str, key: dict[str, Any]) -> Path:
        """The path of the entry with this key, whether or not it exists."""
        name = digest({"kind": kind, **key})
        return self.root / kind / name[:2] / name

    def has(self, kind: str, key: dict[str, Any]) -> bool:
        """Whether the entry is finished and whole; a damaged one is set aside."""
        entry = self.path(kind, key)
        if not (entry / RECORD).is_file():
            return False
        with suppress(FileNotFoundError):  # another job may be setting it aside
            if damage_of(entry) is None:
                return True
        with self._locked(entry):
            return self._is_whole(entry)

    def get_or_make(
        self,
        kind: str,
        key: dict[str, Any],
        make: Callable[[Path], None],
        *,
        keep_partial: bool = False,
    ) -> Path:
        """Return the folder of the finished entry; ``make(folder)`` fills it if it is missing.

        An entry is built in a temporary folder and renamed when it is complete, under a lock: two
        jobs that want the same entry build it once. The operating system releases the lock of a
        killed process. A thread then syncs the entry: a power cut costs the entries of the last
        moments, whose digests are wrong.

        Args:
            kind: the entry's stage, a folder name.
            key: JSON values that determine the entry's bytes, including the stage version.
            make: writes the entry's files into the folder it is given.
            keep_partial: hand an interrupted attempt's folder to ``make`` again (checkpoints)
                instead of an empty one.

        Raises:
            UserError: the entry is missing and the folder is not writable or has no locks.
        """
        entry = self.path(kind, key)
        if self.has(kind, key):
            with suppress(OSError):  # the folder may be read-only
                os.utime(entry / RECORD)  # garbage collection goes by the last use
            return entry
        with self._locked(entry):
            if self._is_whole(entry):
                return entry
            partial = entry.with_suffix(".part")
            if partial.exists() and not keep_partial:
                shutil.rmtree(partial)
            partial.mkdir(exist_ok=True)
            with synced_later():
                make(partial)
            for left in partial.rglob(".*.part"):  # of a killed attempt
                left.unlink()
            (partial / RECORD).write_text(_record({"kind": kind, **key}, partial))
            if entry.exists():  # without a record: left by a file system that tore a rename
                shutil.rmtree(entry)
            partial.rename(entry)
        self._sync_later(entry)
        return entry

    def close(self) -> None:
        """Wait until all entries are on the disk; a process does so when it ends."""
        for threads in self._threads.values():
            threads.shutdown()
        self._threads.clear()

    def _sync_later(self, entry: Path) -> None:
        """Sync an entry on a thread: it took 2 to 19 ms on a virtual disk, and hardly any CPU."""
        number = os.getpid()
        if number not in self._threads:
            self._threads[number] = ThreadPoolExecutor(1, "store-sync")
        self._threads[number].submit(_sync_entry, entry)

    @contextmanager
    def attempt(self, kind: str, key: dict[str, Any]) -> Iterator[Path]:
        """A locked folder for checkpoints of work whose results are entries of other kinds.

        It survives a killed process, and is removed when the block succeeds.
        """
        place = self.path(kind, key)
        with self._locked(place):
            partial = place.with_suffix(".part")
            partial.mkdir(exist_ok=True)
            with synced_later():
                yield partial
            shutil.rmtree(partial)

    def delete(self, entry: Path) -> None:
        """Remove an entry; if this is interrupted, the entry no longer counts as finished.

        A job that is reading it fails and can be restarted.
        """
        with self._locked(entry):
            (entry / RECORD).unlink(missing_ok=True)
            shutil.rmtree(entry)

    def entries(self) -> Iterator[Path]:
        """The folder of every finished entry, whole or not."""
        for path in sorted(self.root.glob(f"*/*/*/{RECORD}")):
            if path.parent.suffix != ".part":
                yield path.parent

    def verify(self, entry: Path) -> str | None:
        """What is wrong with an entry, which is then set aside; None if it is whole."""
        with suppress(FileNotFoundError):  # a job may be setting it aside
            problem = damage_of(entry)
            if problem is not None:
                with self._locked(entry):
                    self._is_whole(entry)
            return problem
        return None

    def unused(self, versions: dict[str, int], days: float) -> list[Unused]:
        """Entries of another stage version or unused for ``days``, and what is left of others."""
        found = []
        for aside in sorted((self.root / DAMAGED).glob("*/")):
            found.append(Unused(aside, _size(aside), "damaged and set aside"))
        for partial in sorted(self.root.glob("*/*/*.part")):
            if _age_days(partial) > days:
                reason = f"attempt abandoned {_age_days(partial):.0f} days ago"
                found.append(Unused(partial, _size(partial), reason))
        for entry in self.entries():
            try:
                key, _ = _read_record(entry)
            except (FileNotFoundError, ValueError):
                continue  # the next use, or verify, sets it aside
            age = _age_days(entry / RECORD)
            current = versions.get(key["kind"])
            if current is not None and key.get("version") != current:
                reason = f"stage version {key.get('version')}, current version {current}"
            elif age > days:
                reason = f"not used for {age:.0f} days"
            else:
                continue
            found.append(Unused(entry, _size(entry), reason))
        return found

    @contextmanager
    def _locked(self, entry: Path) -> Iterator[None]:
        """Hold the lock of an entry.

        Raises:
            UserError: the folder is not writable, or its file system does not support locks.
        """
        try:
            entry.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(entry.with_suffix(".lock"))
            with warnings.catch_warnings():
                # It would fall back to a file, which stays behind a killed job and stops others.
                warnings.filterwarnings("error", message="flock not supported")
                lock.acquire()
        except (OSError, NotImplementedError, UserWarning) as error:
            if isinstance(error, OSError) and error.errno in NOT_WRITABLE:
                raise self._not_writable(entry, error) from None
            if isinstance(error, OSError) and error.errno not in NO_LOCKS:
                raise
            raise UserError(
                f"the file system has no support for locks ({error}): two jobs could write one "
                "entry",
                where=self.root,
                fix="set paths.store to a folder on a file system with locks: a local disk, NFS "
                "version 4, or Lustre mounted with flock; existing entries may be copied there",
            ) from None
        try:
            yield
        finally:
            # Before the release: who has waited for it then sees that the file is gone.
            with suppress(OSError):
                entry.with_suffix(".lock").unlink(missing_ok=True)
            lock.release()

    def _not_writable(self, entry: Path, error: OSError) -> UserError:
        state = "missing" if not (entry / RECORD).is_file() else f"damaged: {damage_of(entry)}"
        path = Path(error.filename or entry.parent)
        return UserError(
            f"an entry of the store is {state}, and this user may not write to {_of_owner(path)}",
            where=entry,
            fix="set paths.store to a folder that you can write to (entries of this one may be "
            "copied there); or let the owner open it to your group: docs/cluster.md",
        )

    def _is_whole(self, entry: Path) -> bool:
        """Whether a locked entry is finished and whole; a damaged one is set aside."""
        if not (entry / RECORD).is_file():
            return False
        problem = damage_of(entry)
        if problem is None:
            return True
        aside = self.root / DAMAGED / f"{entry.name}-{secrets.token_hex(4)}"
        aside.parent.mkdir(exist_ok=True)
        entry.rename(aside)
        logger.warning(
            "a damaged entry of the store will be made again: %s: %s; it was moved to %s",
            entry,
            problem,
            aside,
        )
        return False


def damage_of(entry: Path) -> str | None:
    """What is wrong with a finished entry: its record or a file; None if it is whole.

    The record must be that of the entry's name. An entry of an earlier version has no digests: it
    counts as whole unless a file is empty, and gets them now if its folder is writable.
    """
    try:
        key, stated = _read_record(entry)
        if digest(key) != entry.name:
            return f"{RECORD} is that of another entry"
        if stated is not None:
            return _difference(_files(entry), stated)
        empty = [name for name, path in _files(entry).items() if not path.stat().st_size]
        if empty:
            return f"{empty[0]} is empty"
        _upgrade(entry, key)
    except ValueError:
        return f"{RECORD} is not a record"
    except PermissionError as error:
        path = Path(error.filename or entry)
        raise UserError(
            f"no permission to read {_of_owner(path)}",
            where=path,
            fix="ask the owner to run 'chmod -R g+rwX' on the store, or set paths.store to a "
            "folder of your own",
        ) from None
    return None


def _difference(files: dict[str, Path], stated: dict[str, Any]) -> str | None:
    """How an entry differs from its record; None if it does not. Other files are of no account."""
    for name, expected in stated.items():
        path = files.get(name)  # never a path out of the entry, whatever a record names
        if path is None:
            return f"{name} is missing"
        size = path.stat().st_size
        if size != expected["bytes"]:
            return f"{name} has {size} bytes, not {expected['bytes']}"
        if digest_now(path) != expected["sha256"]:
            return f"{name} has another sha256"
    return None


def _upgrade(entry: Path, key: dict[str, Any]) -> None:
    """Give an entry of an earlier version its digests, and its files the modes of today's.

    Files of heads had mode 0600. Somebody else who may only read the entry changes nothing.
    """
    with suppress(OSError):
        record = entry / RECORD
        used = record.stat().st_mtime
        for path in _files(entry).values():
            if path.stat().st_uid == os.geteuid():
                path.chmod(0o666 & ~_umask())
        write_text(record, _record(key, entry))
        os.utime(record, (used, used))


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _of_owner(path: Path) -> str:
    """A path with the name of its owner."""
    try:
        return f"{path} of {path.owner()}"
    except (OSError, KeyError):  # hidden, or a user whom this machine does not know
        return str(path)


def _files(entry: Path) -> dict[str, Path]:
    """The files of an entry besides its record and hidden ones, by their paths in it."""
    return {
        path.relative_to(entry).as_posix(): path
        for path in sorted(entry.rglob("*"))
        if path.is_file() and path.name != RECORD and not path.name.startswith(".")
    }


def _record(key: dict[str, Any], entry: Path) -> str:
    files = {
        name: {"bytes": path.stat().st_size, "sha256": digest_now(path)}
        for name, path in _files(entry).items()
    }
    return canonical_json({"key": key, "files": files}) + "\n"


def _read_record(entry: Path) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The key of an entry, and its files; None in a record of an earlier version.

    Raises:
        ValueError: it is not a record.
    """
    values = json.loads((entry / RECORD).read_text(encoding="utf-8"))
    if not isinstance(values, dict):
        raise ValueError("not an object")
    if "kind" in values:
        return values, None
    try:
        key, files = values["key"], values["files"]
        _ = [(own["bytes"], own["sha256"]) for own in files.values()]
        return dict(key), dict(files)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(str(error)) from None


def _sync_entry(entry: Path) -> None:
    try:
        for path in (*entry.rglob("*"), entry, entry.parent):
            sync(path)
    except FileNotFoundError:
        pass  # deleted, or set aside, since
    except OSError as error:
        logger.error("%s is perhaps not on the disk: %s", entry, error)


def _age_days(path: Path) -> float:
    return (time.time() - path.stat().st_mtime) / 86400


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
