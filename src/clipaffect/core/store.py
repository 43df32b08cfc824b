"""The store: a cache of finished work, keyed by everything the work depends on.

An entry lives in ``store/<kind>/<first two digits>/<digest>/``, next to its key in ``key.json``.
Jobs assemble their declared outputs from entries and compute only what is missing. Snakemake
deletes the outputs of an interrupted job, and DVC deletes a stage's outputs before it runs. The
store lies outside both, so that after a killed job, an added seed or a corrected label only the
affected work is repeated.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from clipaffect.core.errors import UserError
from clipaffect.core.hashing import canonical_json, digest

KEY_FILE = "key.json"
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@dataclass(frozen=True)
class Unused:
    """An entry that garbage collection would delete, and why."""

    path: Path
    bytes: int
    reason: str


@contextmanager
def locked(entry: Path) -> Iterator[None]:
    """Hold the lock of an entry.

    Raises:
        UserError: the file system does not support locks.
    """
    lock = FileLock(entry.with_suffix(".lock"))
    try:
        with warnings.catch_warnings():
            # It would fall back to a file, which stays behind a killed job and stops all others.
            warnings.filterwarnings("error", message="flock not supported")
            lock.acquire()
    except (OSError, NotImplementedError, UserWarning) as error:
        if isinstance(error, OSError) and error.errno not in NO_LOCKS:
            raise
        raise UserError(
            f"the file system has no support for locks ({error}): two jobs could write one entry",
            where=entry.parents[2],
            fix="set paths.store to a folder on a file system with locks: a local disk, NFS "
            "version 4, or Lustre mounted with flock; existing entries may be copied there",
        ) from None
    try:
        yield
    finally:
        lock.release()


class Store:
    """Cached entries of finished work in one folder, shared by runs and users.

    Args:
        root: the folder (``store.path`` in the configuration).
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, kind: str, key: dict[str, Any]) -> Path:
        """The path of the entry with this key, whether or not it exists."""
        name = digest({"kind": kind, **key})
        return self.root / kind / name[:2] / name

    def has(self, kind: str, key: dict[str, Any]) -> bool:
        """Whether the entry is finished."""
        return (self.path(kind, key) / KEY_FILE).is_file()

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
        killed process.

        Args:
            kind: the entry's stage, a folder name.
            key: JSON values that determine the entry's bytes, including the stage version.
            make: writes the entry's files into the folder it is given.
            keep_partial: hand an interrupted attempt's folder to ``make`` again (checkpoints)
                instead of an empty one.
        """
        entry = self.path(kind, key)
        if self.has(kind, key):
            os.utime(entry / KEY_FILE)  # garbage collection goes by the last use
            return entry
        entry.parent.mkdir(parents=True, exist_ok=True)
        with locked(entry):
            if self.has(kind, key):
                return entry
            partial = entry.with_suffix(".part")
            if partial.exists() and not keep_partial:
                shutil.rmtree(partial)
            partial.mkdir(exist_ok=True)
            make(partial)
            (partial / KEY_FILE).write_text(canonical_json({"kind": kind, **key}) + "\n")
            if entry.exists():  # left by a file system that tore a rename: not whole, no key
                shutil.rmtree(entry)
            partial.rename(entry)
        entry.with_suffix(".lock").unlink(missing_ok=True)
        return entry

    @contextmanager
    def attempt(self, kind: str, key: dict[str, Any]) -> Iterator[Path]:
        """A locked folder for checkpoints of work whose results are entries of other kinds.

        It survives a killed process, and is removed when the block succeeds.
        """
        place = self.path(kind, key)
        place.parent.mkdir(parents=True, exist_ok=True)
        with locked(place):
            partial = place.with_suffix(".part")
            partial.mkdir(exist_ok=True)
            yield partial
            shutil.rmtree(partial)
        place.with_suffix(".lock").unlink(missing_ok=True)

    def delete(self, entry: Path) -> None:
        """Remove an entry; if this is interrupted, the entry no longer counts as finished.

        A job that is reading it fails and can be restarted.
        """
        with locked(entry):
            (entry / KEY_FILE).unlink(missing_ok=True)
            shutil.rmtree(entry)
        entry.with_suffix(".lock").unlink(missing_ok=True)

    def entries(self) -> Iterator[tuple[Path, dict[str, Any]]]:
        """Every finished entry and its key."""
        for path in sorted(self.root.glob(f"*/*/*/{KEY_FILE}")):
            if path.parent.suffix != ".part":
                yield path.parent, json.loads(path.read_text())

    def unused(self, versions: dict[str, int], days: float) -> list[Unused]:
        """Entries of another stage version or unused for ``days``, and abandoned attempts."""
        found = []
        for partial in sorted(self.root.glob("*/*/*.part")):
            if _age_days(partial) > days:
                reason = f"attempt abandoned {_age_days(partial):.0f} days ago"
                found.append(Unused(partial, _size(partial), reason))
        for entry, key in self.entries():
            age = _age_days(entry / KEY_FILE)
            current = versions.get(key["kind"])
            if current is not None and key.get("version") != current:
                reason = f"stage version {key.get('version')}, current version {current}"
            elif age > days:
                reason = f"not used for {age:.0f} days"
            else:
                continue
            found.append(Unused(entry, _size(entry), reason))
        return found


def _age_days(path: Path) -> float:
    return (time.time() - path.stat().st_mtime) / 86400


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
