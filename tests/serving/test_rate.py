"""rate: never more than the server allows in a second, whoever asks and whenever."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlaas_spark.serving.rate import TokenBucket


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def sent(bucket: TokenBucket, clock: Clock, pauses: list[float]) -> list[float]:
    """When tokens are given to somebody who does other things for a while before each."""
    times = []
    for pause in pauses:
        clock.now += pause
        bucket.take()
        times.append(clock.now)
    return times


@given(
    rate=st.integers(20, 120),
    runs=st.lists(
        st.tuples(st.sampled_from([0.0, 0.0005, 0.004, 0.3, 5.0]), st.integers(100, 260)), min_size=1, max_size=4
    ),
)
def test_no_second_has_more_than_the_rate(rate: int, runs: list[tuple[float, int]]) -> None:
    """Runs of requests without a pause, with one before each run."""
    clock = Clock()
    pauses = [pause for wait, length in runs for pause in (wait, *[0.0] * (length - 1))]
    times = sent(TokenBucket(rate, clock=lambda: clock.now, sleep=clock.sleep), clock, pauses)
    last = 0
    for first, begin in enumerate(times):
        while last < len(times) and times[last] < begin + 1 - 1e-9:
            last += 1
        assert last - first <= rate


@pytest.mark.parametrize("rate", [0.5, 1, 3, 100, 1000])
def test_in_the_long_run_nearly_the_rate_is_used(rate: float) -> None:
    clock = Clock()
    times = sent(TokenBucket(rate, clock=lambda: clock.now, sleep=clock.sleep), clock, [0.0] * int(20 * rate + 2))
    assert 0.94 * rate <= (len(times) - 1) / times[-1] <= 1.06 * rate


def test_without_a_rate_nobody_waits() -> None:
    clock = Clock()
    assert sent(TokenBucket(None, clock=lambda: clock.now, sleep=clock.sleep), clock, [0.0] * 1000)[-1] == 0.0


def test_a_pause_holds_for_who_comes_next_and_for_who_waits() -> None:
    clock = Clock()
    bucket = TokenBucket(1, clock=lambda: clock.now, sleep=clock.sleep)
    bucket.take()
    bucket.pause(7)
    times = sent(bucket, clock, [0.0, 0.0])
    assert times[0] == 7
    assert all(b >= a for a, b in itertools.pairwise(times))
