"""clock: work is timed by parts, where it waits apart from what it computes."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from mlaas_spark.clock import Clock

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


class Kept(Clock):
    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()  # adds up floats too

    def spent(self, seconds: Mapping[str, float]) -> None:
        self.seconds.update(seconds)


def busy(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def test_seconds_are_those_within_also_where_it_fails() -> None:
    clock = Kept()
    with clock.timed("read"):
        time.sleep(0.02)

    def fail() -> None:
        with clock.timed("read"):
            time.sleep(0.02)
            msg = "no"
            raise ValueError(msg)

    with pytest.raises(ValueError, match="no"):
        fail()
    assert 0.04 <= clock.seconds["read"] < 5
    assert set(clock.seconds) == {"read"}


def test_waiting_is_told_from_computing() -> None:
    clock = Kept()
    with clock.timed_apart("waits", "computes"):
        time.sleep(0.1)
        busy(0.05)
    assert 0.1 <= clock.seconds["waits"] < 5
    assert 0.05 <= clock.seconds["computes"] < 0.1


def test_of_a_source_the_time_counts_until_it_gives_not_what_is_done_with_it() -> None:
    def source() -> Iterator[int]:
        for number in range(3):
            time.sleep(0.02)
            busy(0.01)
            yield number

    clock, apart = Kept(), Kept()
    for _ in clock.waiting("all", source()):
        time.sleep(0.3)
    assert 0.09 <= clock.seconds["all"] < 0.9
    assert list(apart.waiting_apart("waits", "computes", source())) == [0, 1, 2]
    assert 0.06 <= apart.seconds["waits"] < 0.9
    assert 0.03 <= apart.seconds["computes"] < 0.06
