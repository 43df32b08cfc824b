"""Progress of long tasks, with rate and remaining time: a bar on a terminal, lines in a log."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

logger = logging.getLogger(__name__)

LINE_EVERY = 10.0  # seconds between lines when the output is a file
Listener = Callable[[str, int, int], None]  # told of unit, done and total
_listener: list[Listener] = []


@contextmanager
def reported_to(listener: Listener) -> Iterator[None]:
    """Report progress to ``listener`` instead of showing it, for the duration of the block."""
    _listener.append(listener)
    try:
        yield
    finally:
        _listener.pop()


@contextmanager
def step(what: str) -> Iterator[None]:
    """Say what is being done, for work that cannot be counted."""
    if sys.stderr.isatty():
        with Console(stderr=True).status(what):
            yield
    else:
        logger.info("%s ...", what)
        yield


def duration(seconds: float) -> str:
    """A time in words: ``12 s``, ``3 min 20 s``, ``2 h 5 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


class Progress:
    """Counts ``unit`` up to ``total``.

    Use as a context manager and call ``advance`` as work finishes.
    """

    def __init__(self, unit: str, total: int) -> None:
        self.unit, self.total, self.done = unit, total, 0
        self.started = self.printed = time.monotonic()
        self.bar: Bar | None = None
        self.listener = _listener[-1] if _listener else None
        if self.listener is None and sys.stderr.isatty():
            self.bar = Bar(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )

    def __enter__(self) -> Self:
        if self.bar:
            self.bar.start()
            self.task = self.bar.add_task(self.unit, total=self.total, rate="")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.bar:
            self.bar.stop()
        elif self.listener is None and kind is None:
            self._line()

    def advance(self, count: int = 1) -> None:
        """Record that ``count`` more units are done."""
        self.done += count
        if self.listener is not None:
            self.listener(self.unit, self.done, self.total)
        elif self.bar:
            self.bar.update(self.task, completed=self.done, rate=f"{self._rate():.1f}/s")
        elif time.monotonic() - self.printed > LINE_EVERY:
            self._line()

    def _rate(self) -> float:
        return self.done / max(time.monotonic() - self.started, 1e-6)

    def _line(self) -> None:
        self.printed = time.monotonic()
        rate = self._rate()
        left = f"{(self.total - self.done) / rate:.0f} s left" if rate > 0 else "unknown time left"
        logger.info("%s: %d/%d, %.1f/s, %s", self.unit, self.done, self.total, rate, left)
