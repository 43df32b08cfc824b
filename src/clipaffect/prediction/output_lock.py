"""Checks and locks for the output of a prediction: the folder is free, writable and exclusive."""

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
    """Check that the output is writable, and not inside the input.

    Raises:
        UserError: it is not writable, or is inside the input.
    """
    for path in inputs:
        if path.is_dir() and out.resolve().is_relative_to(path.resolve()):
            raise UserError(
                "the output folder is inside an input folder, and would be predicted next time",
                where=out,
                fix="choose a folder outside the input folders",
            )
    try:
        (out / WORK).mkdir(parents=True, exist_ok=True)
        (out / WORK / "probe").touch()
        (out / WORK / "probe").unlink()
    except OSError as error:
        raise UserError(
            f"the output folder is not writable: {error.strerror}",
            where=out,
            fix="choose a folder that you can write to, on a disk with free space",
        ) from None


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """Lock the output folder, so that two calls do not write to it at the same time.

    Raises:
        UserError: another call has locked it.
    """
    lock = FileLock(out / WORK / "lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(
            "another process is writing to this folder",
            where=out,
            fix="wait for it, or choose another folder",
        ) from None
    try:
        yield
    finally:
        (out / WORK / "lock").unlink(missing_ok=True)
        lock.release()
        _clear(out / WORK)


@contextmanager
def named_errors(out: Path) -> Iterator[None]:
    """Turn a full disk, missing permissions or a killed process into a UserError."""
    try:
        yield
    except (OSError, BrokenProcessPool) as error:
        if isinstance(error, BrokenProcessPool):
            what = "the system killed a process, most likely because it ran out of memory"
            fix = "run the same command again with --jobs 1"
        elif is_full(error):
            what = f"the disk is full: {error.filename or ''}".rstrip(": ")
            fix = "free some space and run the same command again"
        elif isinstance(error, PermissionError):
            what = f"no permission to read or write {error.filename}"
            fix = "correct the permissions and run the same command again"
        else:
            raise
        raise UserError(what, where=out, fix=f"{fix} (finished files are kept)") from None


def is_full(error: Exception) -> bool:
    """Whether an error means that the disk or the user's quota is full."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def check_apart(folders: Iterable[Path], files: Iterable[Path]) -> None:
    """Check that no output folder would overwrite a file.

    Raises:
        UserError: one would.
    """
    taken = {path.resolve() for path in files}
    for folder in folders:
        if folder.resolve() in taken or (folder.exists() and not folder.is_dir()):
            raise UserError(
                "the output folder of a video would overwrite a file",
                where=folder,
                fix="choose another output folder",
            )


def _clear(work: Path) -> None:
    """Remove the folder of unfinished work if it is empty."""
    for folder in sorted(work.rglob("*"), reverse=True):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
    if work.is_dir() and not any(work.iterdir()):
        work.rmdir()
