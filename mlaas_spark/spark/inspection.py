"""What inspect needs of executors: trees and sizes out of the headers; statistics and speed of the ranges it reads."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from mlaas_spark import storage
from mlaas_spark.branch_specs import merged
from mlaas_spark.errors import UnreadableInputError, reason
from mlaas_spark.inspection import OnDisk, Reading, added
from mlaas_spark.readers import How, reader_of
from mlaas_spark.spark.session import spread
from mlaas_spark.spark.specs import (
    RANGE_BYTES,
    RANGE_EVENTS,
    RANGE_NANOSECONDS,
    by_file,
    by_range,
    merged_rows,
    of_ranges,
    partials,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from mlaas_spark.branch_specs import Specs
    from mlaas_spark.formats import Format
    from mlaas_spark.spark.ingest import Events, RangeBatch
    from mlaas_spark.spark.specs import Partial
    from mlaas_spark.xrootd import Patience


class _File(NamedTuple):
    number: int
    path: str
    format: Format
    tree: str


def on_disk(events: Events) -> tuple[tuple[OnDisk, ...], dict[str, int | None]]:
    """Bytes and trees of each file; bytes of each branch, by its name in the file, in all of them: None is not known.

    Raises:
        UnreadableInputError: A file that could be opened before cannot be now.
    """
    files = [_File(i, file.path, file.format, file.tree) for i, file in enumerate(events.plan.files)]
    patience = events.patience

    def look(some: Iterable[_File]) -> Iterator[tuple[list[tuple[int, OnDisk]], dict[str, int | None]]]:
        contents = [(file, *_contents(file, patience)) for file in some]
        found = [(file.number, OnDisk(_size(file.path, patience), trees)) for file, trees, _ in contents]
        # sizes of branches cross to the driver once a partition, not once a file
        yield found, added(sizes for _, _, sizes in contents)

    parts = spread(events.spark, files, look)
    of_files = dict(item for found, _ in parts for item in found)
    return tuple(of_files[file.number] for file in files), added(sizes for _, sizes in parts)


def _size(path: str, patience: Patience) -> int:
    try:
        return storage.size(path, patience)
    except OSError as error:
        raise UnreadableInputError(path, reason(error)) from error


def _contents(file: _File, patience: Patience) -> tuple[dict[str, int], Mapping[str, int | None]]:
    """Trees of a file, and bytes of each of its branches; nothing of what its format does not tell."""
    if not file.format.module:
        return {}, {}
    contents = reader_of(file.format).inside(file.path, file.tree, How(patience))
    return contents.trees, contents.compressed


def read(events: Events) -> tuple[Specs, tuple[Reading, ...]]:
    """Read all ranges of the plan once: statistics of every branch, and how fast each range came.

    What Spark's readers of JSON and CSV read and drop, beyond the entries that were asked for, takes its time
    in the next range of the task.
    """
    names, kind = events.plan.schema.names, events.plan.files[0].format

    def rows(batches: Iterator[RangeBatch]) -> Iterator[Partial]:
        if kind.module:
            reader_of(kind)  # imports its library: a second or more once a worker, which is no reading
        meter = _Meter(names)
        yield from partials(meter.through(batches), names)
        yield from of_ranges(RANGE_BYTES, meter.bytes)
        yield from of_ranges(RANGE_NANOSECONDS, meter.nanoseconds)

    found = merged_rows(events, rows)
    counts, sizes, times = (by_range(found, stat) for stat in (RANGE_EVENTS, RANGE_BYTES, RANGE_NANOSECONDS))
    readings = (
        Reading(dataclasses.replace(r, events=counts[key]), sizes[key], times[key] / 1e9)
        for r in events.plan.ranges
        if (key := (r.file, r.start)) in counts
    )
    return merged(by_file(found).values()), tuple(readings)


class _Meter:
    """Bytes of the named branches, and nanoseconds of waiting for them, of each range (file, start)."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = tuple(names)
        self.bytes: Counter[tuple[int, int]] = Counter()
        self.nanoseconds: Counter[tuple[int, int]] = Counter()

    def through(self, batches: Iterable[RangeBatch]) -> Iterator[RangeBatch]:
        """The same batches; what is done with them between is not counted."""
        began = time.perf_counter_ns()
        for found in batches:
            key = (found.entries.file, found.entries.start)
            self.nanoseconds[key] += time.perf_counter_ns() - began
            self.bytes[key] += sum(found.batch.column(name).nbytes for name in self._names)
            yield found
            began = time.perf_counter_ns()
