"""What is seen to before and around a prediction: its place is free, writable and nobody else's."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from clipaffect.core.errors import UserError

WORK = ".work"  # below the output: what is not finished


def check_writable(out: Path, inputs: list[Path]) -> None:
    """See that the output can be written, and is no part of the input.

    Raises:
        UserError: it cannot, or is.
    """
    for path in inputs:
        if path.is_dir() and out.resolve().is_relative_to(path.resolve()):
            raise UserError(
                "the output lies in a folder of the input, and would be predicted next time",
                where=out,
                fix="name a folder beside it",
            )
    try:
        (out / WORK).mkdir(parents=True, exist_ok=True)
        (out / WORK / "probe").touch()
        (out / WORK / "probe").unlink()
    except OSError as error:
        raise UserError(
            f"nothing can be written there: {error.strerror}",
            where=out,
            fix="name a folder of your own, on a disk with room",
        ) from None


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """Hold the folder of the output, so that two calls do not write into one.

    Raises:
        UserError: another call holds it.
    """
    lock = FileLock(out / WORK / "lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(
            "another call is writing there", where=out, fix="wait for it, or name another folder"
        ) from None
    try:
        yield
    finally:
        (out / WORK / "lock").unlink(missing_ok=True)
        lock.release()
        _clear(out / WORK)


@contextmanager
def named_errors(out: Path) -> Iterator[None]:
    """A full disk, or a process that the system killed, said in the user's words."""
    try:
        yield
    except (OSError, BrokenProcessPool) as error:
        if isinstance(error, BrokenProcessPool):
            what = "the system killed a process, for its memory most likely"
            fix = "give the same command again with --jobs 1"
        elif is_full(error):
            what = f"the disk is full: {error.filename or ''}".rstrip(": ")
            fix = "free some of it and give the same command again"
        elif isinstance(error, PermissionError):
            what = f"this may not be read or written: {error.filename}"
            fix = "get leave to, and give the same command again"
        else:
            raise
        raise UserError(what, where=out, fix=f"{fix}: finished files stay") from None


def is_full(error: Exception) -> bool:
    """Whether an error says that a disk, or one's share of it, is full."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def check_apart(folders: Iterable[Path], files: Iterable[Path]) -> None:
    """See that no folder of the output would take the place of a file.

    Raises:
        UserError: one would.
    """
    taken = {path.resolve() for path in files}
    for folder in folders:
        if folder.resolve() in taken or (folder.exists() and not folder.is_dir()):
            raise UserError(
                "the tables of a video would take the place of a file",
                where=folder,
                fix="name another folder for the output",
            )


def _clear(work: Path) -> None:
    """Remove the folder of unfinished work if nothing is left in it."""
    for folder in sorted(work.rglob("*"), reverse=True):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
    if work.is_dir() and not any(work.iterdir()):
        work.rmdir()
