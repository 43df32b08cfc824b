"""Files that are complete or absent, also after a kill or a power cut."""

from __future__ import annotations

import errno
import fcntl
import glob
import json
import os
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from clipaffect.core.errors import UserError, first_line

_SYNCED = ContextVar("_SYNCED", default=True)
ABANDONED = 3600.0  # seconds without a write
HOST = socket.gethostname()
NO_SYNC = (errno.EINVAL, errno.ENOTSUP)  # some network file systems cannot sync a folder


class Damaged(UserError):
    """The content of a file is not what was written to it."""

    def __init__(self, path: Path, reason: object) -> None:
        super().__init__(
            f"the file is damaged: {reason}",
            where=path,
            fix="delete the file and run 'clipaffect run' again: it is rebuilt from the store",
        )


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Raise ``Damaged``, which names the file, if its content cannot be read in this block."""
    try:
        yield
    except (FileNotFoundError, PermissionError):
        raise
    except (OSError, EOFError, ValueError, NotImplementedError) as error:  # Arrow's among them
        raise Damaged(path, first_line(error)) from None


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary path next to ``path`` to write to; it replaces ``path`` on success.

    Two jobs may write the same file at once: each has its own temporary file, and the last one to
    finish replaces the file. The content is on the disk before the file gets its name. Leftovers
    of killed jobs are removed; a lock, which the system releases, tells them from those of live
    jobs. On some network file systems another machine's lock is not seen: its leftovers are
    removed an hour after the last write.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(path)
    beside = path.with_name(f".{path.name}.{HOST}.{secrets.token_hex(4)}.part")
    descriptor = _open_locked(beside)
    try:
        yield beside
        if _SYNCED.get():
            sync(beside)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
        os.close(descriptor)


def _open_locked(path: Path) -> int:
    """Create a file and lock it, where the file system has locks."""
    while True:
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o666)
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        with suppress(FileNotFoundError):
            if os.path.samestat(path.stat(), os.fstat(descriptor)):
                return descriptor
        os.close(descriptor)  # taken for a leftover before it was locked


def _remove_abandoned(path: Path) -> None:
    """Remove the leftovers of jobs that were killed while they wrote a file."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        with suppress(OSError):  # of another user, or just finished
            descriptor = os.open(left, os.O_RDWR)
            try:
                if f".{HOST}." in left.name or time.time() - left.stat().st_mtime > ABANDONED:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    left.unlink()
            finally:
                os.close(descriptor)


@contextmanager
def synced_later() -> Iterator[None]:
    """Files written in this block are not synced one by one: their folder will be."""
    token = _SYNCED.set(False)
    try:
        yield
    finally:
        _SYNCED.reset(token)


def sync(path: Path) -> None:
    """Wait until the content of a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NO_SYNC:
            raise
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with whole_file(path) as beside:
        beside.write_text(text, encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        Damaged: the file is not JSON.
    """
    with reading(path):
        return json.loads(path.read_text(encoding="utf-8"))
