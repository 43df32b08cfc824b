"""Choose the device of a job: the CPU, or one GPU that no other job is using.

Snakemake counts GPUs and never says which one a job has. Every job takes the lock of a GPU that
it sees, known by its UUID: under a scheduler's cgroup every job sees only its own, as number 0.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from clipaffect.core.errors import UserError

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
def one_device(may_be_gpu: bool) -> Iterator[str]:
    """Reserve a GPU for the duration of the block: yields ``cuda:N``, or ``cpu`` without a GPU.

    Waits while every GPU it sees is taken by another job of this project. The operating system
    frees the lock of a killed process. See ``full_float32`` for what the block computes in.
    """
    gpus = visible_gpus() if may_be_gpu and torch.cuda.is_available() else []
    if not gpus:
        yield "cpu"
        return
    number, lock = _take(gpus)
    try:
        torch.cuda.set_device(number)  # CUDA graphs are captured on the current one
        with full_float32():
            yield f"cuda:{number}"
    finally:
        lock.release()


@contextmanager
def full_float32() -> Iterator[None]:
    """Compute true float32 on a GPU, reproducible to the byte.

    torch leaves cuDNN's convolutions at TF32, which keeps 10 bits of the mantissa, and at
    algorithms whose sums may have another order each time. NVIDIA's containers put matrix products
    at TF32.
    """
    products = torch.backends.cuda.matmul
    before, products.allow_tf32 = products.allow_tf32, False
    try:
        with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            yield
    finally:
        products.allow_tf32 = before


def _take(gpus: list[str]) -> tuple[int, FileLock]:
    with suppress(FileExistsError):
        LOCKS.mkdir(parents=True)
        LOCKS.chmod(0o1777)  # for everybody on this machine; only of a folder just made here
    if LOCKS.is_symlink() or not LOCKS.is_dir():
        raise UserError(
            "the path of the GPU locks is not a folder", where=LOCKS, fix="remove it if it is yours"
        )
    said = False
    while True:
        for number, uuid in enumerate(gpus):
            lock = FileLock(LOCKS / f"{uuid}.lock", mode=0o666)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                continue
            return number, lock
        if not said:
            logger.warning("waiting: %d of %d GPUs are taken", len(gpus), len(gpus))
            said = True
        time.sleep(AGAIN)
