"""ml.meter: events and seconds of several threads add up."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from mlaas_spark.ml.meter import Meter


def test_events_of_threads_add_up_by_split() -> None:
    meter = Meter()
    with ThreadPoolExecutor(4) as pool:
        for split, count in [("train", 3), ("train", 4), ("test", 5)] * 100:
            pool.submit(meter.add, split, count)
    assert (meter.events("train"), meter.events("test"), meter.events("validation")) == (700, 500, 0)


def test_seconds_are_those_within_also_where_it_fails() -> None:
    meter = Meter()
    with meter.timed("read"):
        time.sleep(0.02)

    def fail() -> None:
        with meter.timed("read"):
            time.sleep(0.02)
            msg = "no"
            raise ValueError(msg)

    with pytest.raises(ValueError, match="no"):
        fail()
    assert 0.04 <= meter.seconds("read") < 5
    assert meter.seconds("kernel") == 0
