"""ml.meter: events and seconds of several threads add up."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from mlaas_spark.ml.meter import Meter


def test_events_of_threads_add_up_by_split() -> None:
    meter = Meter()
    with ThreadPoolExecutor(4) as pool:
        for split, count in [("train", 3), ("train", 4), ("test", 5)] * 100:
            pool.submit(meter.add, split, count)
    assert (meter.events("train"), meter.events("test"), meter.events("validation")) == (700, 500, 0)


def test_seconds_of_threads_add_up_by_part() -> None:
    meter = Meter()
    with ThreadPoolExecutor(4) as pool:
        for part, seconds in [("read", 0.25), ("read", 0.5), ("kernel", 2.0)] * 100:
            pool.submit(meter.spent, {part: seconds})
    assert meter.parts() == {"read": 75.0, "kernel": 200.0}
    assert (meter.seconds("read"), meter.seconds("fit")) == (75.0, 0.0)
