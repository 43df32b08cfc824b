"""Run work ahead on other threads, and return the results in order.

Decoding, resizing and networks release Python's lock while they compute, so threads use all cores.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
DEPTH = 8  # items that wait to be taken: full frames are large
_END = object()


@contextmanager
def prefetch(items: Iterator[Item], threads: int) -> Iterator[Iterator[Item]]:
    """The same items, with the next few prepared on another thread; unchanged with one thread."""
    if threads < 2:
        yield items
        return
    ready: queue.Queue[object] = queue.Queue(DEPTH)
    stopped = threading.Event()

    def put(item: object) -> bool:
        while not stopped.is_set():
            try:
                ready.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def produce() -> None:
        try:
            for item in items:
                if not put(item):
                    return
        except BaseException as error:
            put(_Raised(error))
        put(_END)

    def taken() -> Generator[Item, None, None]:
        while (item := ready.get()) is not _END:
            if isinstance(item, _Raised):
                raise item.error
            yield item  # type: ignore[misc] # only items are put

    thread = threading.Thread(target=produce, daemon=True)
    thread.start()
    try:
        with closing(taken()) as stream:
            yield stream
    finally:
        stopped.set()
        thread.join()


class _Raised:
    def __init__(self, error: BaseException) -> None:
        self.error = error


@contextmanager
def map_in_order(
    threads: int, begin: Callable[[], None] = lambda: None
) -> Iterator[Callable[[Callable[[Item], Result], Iterator[Item]], Iterator[Result]]]:
    """A ``map`` that runs a few calls at a time on other threads, with results in order.

    Without threads it is ``map``. ``begin`` is called once in every thread.
    """
    if threads < 1:
        yield map
        return
    with ThreadPoolExecutor(threads, initializer=begin) as pool:

        def mapped(call: Callable[[Item], Result], items: Iterator[Item]) -> Iterator[Result]:
            waiting: deque[Future[Result]] = deque()
            for item in items:
                waiting.append(pool.submit(call, item))
                if len(waiting) > threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

        yield mapped
