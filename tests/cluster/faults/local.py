"""Data sets made without Spark, by the code that makes them with it: the events come from a source of this process."""

from __future__ import annotations

import hashlib
import random
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from mlaas_spark import parquet
from mlaas_spark.errors import ConflictError, MlaasSparkError
from mlaas_spark.formats import Format
from mlaas_spark.lease import held
from mlaas_spark.manifest import DataFile, Input, Manifest, commit, present, request_digest, stage, value_digest
from mlaas_spark.plan import EntryRange, Plan, PlannedFile
from mlaas_spark.schema import ENTRY, FILE, Branch, EventSchema
from mlaas_spark.selection import Expression
from mlaas_spark.spark.convert import convert
from mlaas_spark.spark.ingest import Events

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence


SCHEMA = EventSchema.of([Branch("x", "x", "int64", jagged=False)])
ENTRIES, RANGE = 90, 40

CONFLICT, FAILED = 4, 5


class Made:
    """A source whose events are made of the uuids of the files."""

    def run(self, spark: Any, plan: Plan, work: Callable[[Any], Iterable[Any]]) -> list[Any]:
        del spark
        return list(work(self._batches(plan)))

    def _batches(self, plan: Plan) -> Iterator[tuple[EntryRange, pa.RecordBatch]]:
        for r in plan.ranges:
            entries = np.arange(r.start, r.stop)
            values = (entries * 7 + int(plan.files[r.file].uuid[:6], 16)) % 1000
            columns = {"x": values, FILE: np.full(len(entries), r.file, np.int32), ENTRY: entries}
            yield r, pa.RecordBatch.from_pydict(columns)

    def rows(self, spark: Any, plan: Plan) -> Any:
        raise NotImplementedError

    def reader(self, plan: Plan) -> Any:
        raise NotImplementedError

    def reordered(self, places: Any) -> Any:
        raise NotImplementedError


def events_of(names: Sequence[str], entries: int = ENTRIES) -> Events:
    """The events of files of these names, a third of which fail the selection."""
    files = tuple(
        PlannedFile(f"/data/{name}.root", Format.ROOT, "T", uuid(name), entries, 1.0, 1.0, "g", (0, entries))
        for name in names
    )
    ranges = tuple(
        EntryRange(index, start, min(start + RANGE, entries))
        for index in range(len(files))
        for start in range(0, entries, RANGE)
    )
    return Events(None, Plan(files, SCHEMA, ranges), Made(), Expression.parse("x < 667"))  # type: ignore[arg-type]


def uuid(name: str) -> str:
    """What identifies a file of this name."""
    return hashlib.sha256(name.encode()).hexdigest()[:32]


def make(folder: str, names: Sequence[str]) -> int:
    """Bring a data set up to date to the files of these names; a named error is a code."""
    try:
        convert(events_of(names), folder)
    except ConflictError as error:
        print(f"conflict: {error}")  # noqa: T201 - for the test
        return CONFLICT
    except MlaasSparkError as error:
        print(f"{type(error).__name__}: {error}")  # noqa: T201 - for the test
        return FAILED
    return 0


def add(folder: str, writer: int, commits: int, seed: int) -> int:
    """Add so many files to a data set that others add to, a commit each; again after each conflict."""
    chance, conflicts = random.Random(seed * 100 + writer), 0  # noqa: S311 - a shuffle, no secret
    for number in range(commits):
        while True:
            try:
                _add(folder, f"{writer}-{number}")
                break
            except ConflictError:
                conflicts += 1
                time.sleep(chance.random() * 0.2)
    print(f"conflicts {conflicts}")  # noqa: T201 - for the test
    return 0


def _add(folder: str, name: str) -> None:
    """Commit what a data set has and a file more, unless it has that, of a life before this process was killed."""
    before = present(folder)
    inputs, files = (before.inputs, before.files) if before else ((), ())
    if name in {item.path for item in inputs}:
        return
    version = before.version + 1 if before else 1
    staging = stage(folder, request_digest([name, str(version)]))
    with held(staging.url):
        table = pa.table({"x": np.arange(len(inputs), len(inputs) + 5)})
        url = staging.new_file()
        size = parquet.write(table, url, 5)
        made = DataFile(url.rsplit("/", 1)[-1], 5, size, ((len(inputs), 0, 5),), value_digest(table))
        (made,) = staging.finish(name, [made])
        mine = Input(name, uuid(name), "T", 5, 5, 1.0, 1.0)
        manifest = Manifest("events", request_digest(["added"]), SCHEMA, (*inputs, mine), files, version=version)
        commit(staging, manifest, [(made, f"events/{name}.parquet")])
