"""The process that trains on one core."""

from __future__ import annotations

import ctypes

import torch

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # glibc's malloc.h


def take_one_core() -> None:
    """Use one thread, and have glibc keep what is freed.

    Two threads lose to two heads, and their sums depend on how they share the work. A weight
    gradient of 2 MB that is freed and made anew at every step would go back to the system page by
    page each time: measured, a fifth of a step at batch 32. Other C libraries are left as they are.
    """
    torch.set_num_threads(1)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_TRIM_THRESHOLD, 1 << 30)
        mallopt(_MMAP_THRESHOLD, 1 << 25)  # the largest that glibc takes
