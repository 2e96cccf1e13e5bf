"""spark.spent: what executors spend their time on comes to the driver, and is dealt to the time of a stage."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from mlaas_spark.bottleneck import DECOMPRESSING, KERNEL, READING, REST, WORKED, WRITING
from mlaas_spark.pipeline import opening
from mlaas_spark.runs import Journal
from mlaas_spark.spark.convert import convert
from mlaas_spark.spark.spent import Spent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from mlaas_spark.spark.ingest import Events, RangeBatch
    from tests.spark.conftest import Sample


def test_work_of_all_tasks_is_added_up_by_part(opened: Callable[..., Events], sample: Sample) -> None:
    events = opened(sample.paths())
    ranges, spent = len(events.plan.ranges), events.spent

    def work(batches: Iterator[RangeBatch]) -> Iterator[int]:
        for batch in batches:
            time.sleep(0.02)
            with spent.timed(WRITING):
                time.sleep(0.01)
            yield batch.batch.num_rows

    assert sum(events.run(work)) == events.plan.entries
    parts = events.spent.parts()
    assert set(parts) == {WORKED, READING, DECOMPRESSING, WRITING}
    assert parts[WRITING] >= 0.01 * ranges
    assert parts[WORKED] >= 0.02 * ranges + parts[WRITING] + parts[READING] + parts[DECOMPRESSING]
    assert parts[DECOMPRESSING] > 0


def test_parts_of_a_stage_are_of_that_stage_and_add_up_to_its_time(
    opened: Callable[..., Events], sample: Sample, tmp_path: Path
) -> None:
    def slow(batches: Iterator[RangeBatch]) -> Iterator[int]:
        for number, _ in enumerate(batches):
            time.sleep(0.5)
            yield number

    events, journal = opened(sample.paths()), Journal()
    events.run(slow)
    with journal.stage("convert") as stage:
        opening.measure(stage, events)
        convert(events, str(tmp_path))
    assert set(stage.parts) == {READING, DECOMPRESSING, KERNEL, WRITING, REST}
    assert sum(stage.parts.values()) == pytest.approx(stage.seconds)
    assert all(seconds >= 0 for seconds in stage.parts.values())
    assert stage.parts[WRITING] > 0
    assert journal.to_json()[0]["parts"].keys() == stage.parts.keys()


def test_without_a_session_nothing_is_counted() -> None:
    spent = Spent()
    assert list(spent.working(spent.reading([1, 2]))) == [1, 2]
    assert spent.parts() == {}
