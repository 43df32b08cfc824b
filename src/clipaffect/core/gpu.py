"""Choose the device of a job: the CPU, or one GPU that no other job is using.

Snakemake counts GPUs and never says which one a job has. Every job takes the lock of a GPU that
it sees, known by its UUID: under a scheduler's cgroup every job sees only its own, as number 0.
A job that was granted a GPU, or asks for one, never computes on the CPU instead.
"""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from clipaffect.core.errors import UserError
from clipaffect.core.gpu_faults import (
    BUSY,
    GIVEN,
    explained,
    full_float32,
    granted_by,
    is_supported,
    why_not,
)

logger = logging.getLogger(__name__)

LOCKS = Path(tempfile.gettempdir()) / "clipaffect-gpus"  # a GPU is a thing of one machine
AGAIN = 2.0  # seconds between rounds while every GPU is taken


def visible_gpus() -> list[str]:
    """UUIDs of the GPUs that this process may use, in torch's order."""
    return [
        str(torch.cuda.get_device_properties(number).uuid)
        for number in range(torch.cuda.device_count())
    ]


@contextmanager
def one_device(may_be_gpu: bool, asked_by: str | None = None) -> Iterator[str]:
    """Yield the device for the work in the block: ``cuda:N``, or ``cpu``; the log names it.

    A GPU is this process's own in the block. (Not until the process ends: the processes of
    ``clipaffect predict`` take turns, and each goes on to its next video.) Waits while every GPU it
    sees is taken by another job of this project. The operating system frees the lock of a killed
    process. See ``full_float32`` for what the block computes in.

    Args:
        may_be_gpu: whether the work can use one.
        asked_by: the setting that demands a GPU; by default one is used where there is one.

    Raises:
        UserError: a GPU was granted or demanded, and torch cannot use it; or its memory is too
            small, or it fails, in the block.
    """
    if not may_be_gpu:
        logger.info("device: cpu")
        yield "cpu"
        return
    if os.environ.get(GIVEN) == "0" and asked_by is None:
        logger.info("device: cpu (this job was given no GPU)")
        yield "cpu"
        return
    gpus = visible_gpus() if torch.cuda.is_available() else []
    if not gpus:
        if granted := asked_by or granted_by():
            cause, fix = why_not()
            raise UserError(f"torch cannot use a GPU: {cause}", where=granted, fix=fix)
        logger.info("device: cpu (torch %s sees no GPU)", torch.__version__)
        yield "cpu"
        return
    number, lock = _own(gpus)
    logger.info("device: cuda:%d, %s, torch %s", number, _name(number), torch.__version__)
    try:
        with full_float32(), explained(f"cuda:{number}, {_name(number)}"):
            yield f"cuda:{number}"
    finally:
        lock.release()


def _name(number: int) -> str:
    return torch.cuda.get_device_properties(number).name


def _own(gpus: list[str]) -> tuple[int, FileLock]:
    """The number of a free GPU that torch has code for, and its lock."""
    usable = {uuid: number for number, uuid in enumerate(gpus) if is_supported(number)}
    if not usable:
        major, minor = torch.cuda.get_device_capability(0)
        raise UserError(
            f"torch {torch.__version__} has no code for {_name(0)} (compute capability "
            f"{major}.{minor}); it has {', '.join(torch.cuda.get_arch_list())}",
            where="the GPU",
            fix="install a torch that was built for this generation "
            "(https://pytorch.org/get-started/previous-versions), or use another GPU",
        )
    with suppress(FileExistsError):
        LOCKS.mkdir(parents=True)
        LOCKS.chmod(0o1777)  # for everybody on this machine; only of a folder just made here
    if LOCKS.is_symlink() or not LOCKS.is_dir():
        raise UserError(
            "the path of the GPU locks is not a folder", where=LOCKS, fix="remove it if it is yours"
        )
    said = False
    while True:
        for uuid, number in usable.items():
            lock = FileLock(LOCKS / f"{uuid}.lock", mode=0o666)
            if _take(lock, number):
                return number, lock
        if not said:
            logger.warning("waiting: %d of %d GPUs are taken", len(usable), len(usable))
            said = True
        time.sleep(AGAIN)


def open_gpu(number: int) -> None:
    """Make a GPU the current one, on which CUDA graphs are captured, and create its context."""
    torch.cuda.set_device(number)
    torch.empty(1, device=f"cuda:{number}")


def _take(lock: FileLock, number: int) -> bool:
    """Take a GPU unless another job, or a program in exclusive mode, has it."""
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    try:
        open_gpu(number)
    except RuntimeError as error:
        lock.release()
        if BUSY.search(str(error)):
            return False
        raise
    return True
