"""Work ahead on other threads: the same items, in order, whatever happens."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from clipaffect.core.prefetch import DEPTH, map_in_order, prefetch


@pytest.mark.parametrize("threads", [1, 2])
def test_the_items_are_the_same_and_in_order(threads: int) -> None:
    with prefetch(iter(range(100)), threads) as stream:
        assert list(stream) == list(range(100))


def test_an_error_of_the_producer_reaches_the_taker() -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise ValueError("behind the first")

    with pytest.raises(ValueError, match="behind the first"), prefetch(broken(), 2) as stream:
        assert next(stream) == 1
        next(stream)


def test_nobody_works_far_ahead_and_a_taker_may_leave() -> None:
    made: list[int] = []

    def watched() -> Iterator[int]:
        for number in range(10**6):
            made.append(number)
            yield number

    before = threading.active_count()
    with prefetch(watched(), 2) as stream:
        assert next(stream) == 0
        time.sleep(0.3)
        assert len(made) <= DEPTH + 3
    assert threading.active_count() == before


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_a_map_keeps_its_order(threads: int) -> None:
    def slow(number: int) -> int:
        time.sleep(0.02 if number % 3 == 0 else 0)
        return number * number

    begun: list[int] = []
    with map_in_order(threads, lambda: begun.append(1)) as each:
        assert list(each(slow, iter(range(20)))) == [k * k for k in range(20)]
    assert len(begun) <= threads


def test_an_error_in_a_map_is_raised_where_its_result_is_taken() -> None:
    def fails(number: int) -> int:
        return 1 // (number - 3)

    with map_in_order(2) as each, pytest.raises(ZeroDivisionError):
        list(each(fails, iter(range(10))))
