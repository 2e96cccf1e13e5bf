"""Batch conversion: any format to a Parquet data set with a manifest, one file an entry range, written by executors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa
from pyspark.sql.pandas.types import from_arrow_schema

from mlaas_spark.manifest import (
    DataFile,
    Manifest,
    Staging,
    begin,
    commit,
    discarded_if_empty,
    inputs_of,
    request_digest,
    value_digest,
    write_parquet,
)
from mlaas_spark.spark.session import received

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mlaas_spark.plan import Plan
    from mlaas_spark.spark.ingest import Events, RangeBatch

_ROW_GROUP_EVENTS = 25_000
_DONE = pa.schema([("file", pa.int32()), ("start", pa.int64()), ("events", pa.int64())])


def convert(events: Events, folder: str) -> Manifest:
    """Write the selected events to ``folder``; a finished conversion of the same request is kept, a begun one goes on.

    Raises:
        ChunkError: The folder holds another data set or something else.
        FilesetError: No event passes the selection.
    """
    plan = events.plan
    selection = events.selection.text if events.selection else ""
    cuts = str([(r.file, r.start, r.stop) for r in plan.ranges])
    staging = begin(folder, request_digest([plan.digest(), selection, cuts]))
    if isinstance(staging, Manifest):
        return staging
    missing = tuple(r for r in plan.ranges if staging.finished(_task(plan, r.file, r.start)) is None)
    with discarded_if_empty(staging):
        if missing:
            with received():
                events.with_ranges(missing).map_ranges(_writer(plan, staging), from_arrow_schema(_DONE)).collect()
        done = {(r.file, r.start): staging.finished(_task(plan, r.file, r.start)) or [] for r in plan.ranges}
        counted = events.with_counts({key: sum(file.rows for file in files) for key, files in done.items()})
    manifest = Manifest(
        layout="events",
        request=staging.request,
        schema=plan.schema,
        inputs=inputs_of(counted.plan),
        files=(),
        digests={"plan": plan.digest()},
    )
    staged = [
        (file, f"{_task(plan, index, start)}-{file.digest[:16]}.parquet")
        for (index, start), files in done.items()
        for file in files
    ]
    return commit(staging, manifest, staged)


def _task(plan: Plan, file: int, start: int) -> str:
    return f"{plan.files[file].uuid}-{start:012d}"


def _writer(plan: Plan, staging: Staging) -> Callable[[Iterator[RangeBatch]], Iterator[pa.RecordBatch]]:
    stops = {(r.file, r.start): r.stop for r in plan.ranges}

    def run(batches: Iterator[RangeBatch]) -> Iterator[pa.RecordBatch]:
        parts: dict[tuple[int, int], list[pa.RecordBatch]] = {}
        for entries, batch, _ in batches:
            key = (entries.file, entries.start)
            if parts and key not in parts:  # all batches of a range come together
                yield from finish(parts)
                parts = {}
            parts.setdefault(key, []).append(batch)
        yield from finish(parts)

    def finish(parts: dict[tuple[int, int], list[pa.RecordBatch]]) -> Iterator[pa.RecordBatch]:
        for (file, start), of_range in parts.items():
            table = storable(pa.Table.from_batches(of_range))
            files = []
            if table.num_rows:
                url = staging.new_file()
                size = write_parquet(table, url, _ROW_GROUP_EVENTS)
                ranges = ((file, start, stops[file, start]),)
                digest = value_digest(table.combine_chunks())
                files.append(DataFile(url.rsplit("/", 1)[-1], table.num_rows, size, ranges, digest))
            staging.finish(_task(plan, file, start), files)
            row = [[file], [start], [table.num_rows]]
            yield pa.RecordBatch.from_arrays(
                [pa.array(value, field.type) for value, field in zip(row, _DONE, strict=True)], schema=_DONE
            )

    return run


def storable(events: pa.Table) -> pa.Table:
    """The events in types that Parquet has: float16 becomes float32, all else stays."""
    fields = [pa.field(field.name, _storable(field.type)) for field in events.schema]
    return events.cast(pa.schema(fields))


def _storable(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_list(kind):
        return pa.list_(_storable(kind.value_type))
    return pa.float32() if pa.types.is_float16(kind) else kind
