"""A process of one's own to kill: a fork of the test's process, which needs no imports again."""

from __future__ import annotations

import logging
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TextIO


@dataclass
class Forked:
    """A running function with the streams that it writes to."""

    process: multiprocessing.process.BaseProcess
    stdout: TextIO
    stderr: TextIO

    def kill(self) -> None:
        """SIGKILL; returns when it has ended."""
        self.process.kill()
        self.process.join()


def _run(function: Callable, arguments: tuple, streams: tuple[int, int]) -> None:
    for number, stream in enumerate(streams, 1):
        os.dup2(stream, number)
    sys.stdout, sys.stderr = (os.fdopen(n, "w", buffering=1, closefd=False) for n in (1, 2))
    logging.basicConfig(format="%(message)s", force=True)  # to this stderr, not to pytest
    function(*arguments)


@contextmanager
def forked(function: Callable, *arguments: object) -> Iterator[Forked]:
    """Run a function in a fork; whatever still runs behind the block is killed."""
    (out, to_out), (err, to_err) = os.pipe(), os.pipe()
    process = multiprocessing.get_context("fork").Process(
        target=_run, args=(function, arguments, (to_out, to_err))
    )
    process.start()
    os.close(to_out)
    os.close(to_err)
    with os.fdopen(out) as stdout, os.fdopen(err) as stderr:
        found = Forked(process, stdout, stderr)
        try:
            yield found
        finally:
            found.kill()
