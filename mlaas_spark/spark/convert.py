"""Batch conversion: any format to a Parquet data set with a manifest, one file an entry range, written by executors."""

from __future__ import annotations

import itertools
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

    from mlaas_spark.plan import EntryRange, Plan
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
    staging = begin(folder, request_digest([plan.digest(), selection]))
    if isinstance(staging, Manifest):
        return staging
    missing = tuple(r for r in plan.ranges if staging.finished(_task(plan, r)) is None)
    with discarded_if_empty(staging):
        if missing:
            with received():
                events.with_ranges(missing).map_ranges(_writer(plan, staging), from_arrow_schema(_DONE)).collect()
        done = {r: staging.finished(_task(plan, r)) or [] for r in plan.ranges}
        counted = events.with_counts({(r.file, r.start): sum(f.rows for f in files) for r, files in done.items()})
    manifest = Manifest(
        layout="events",
        request=staging.request,
        schema=plan.schema,
        inputs=inputs_of(counted.plan),
        files=(),
        digests={"plan": plan.digest()},
    )
    staged = [
        (file, f"{_task(plan, entries)}-{file.digest[:16]}.parquet")
        for entries, files in done.items()
        for file in files
    ]
    return commit(staging, manifest, staged)


def _task(plan: Plan, entries: EntryRange) -> str:
    # an earlier attempt may have cut the file elsewhere: a range is named by both of its ends
    return f"{plan.files[entries.file].uuid}-{entries.start:012d}-{entries.stop:012d}"


def _writer(plan: Plan, staging: Staging) -> Callable[[Iterator[RangeBatch]], Iterator[pa.RecordBatch]]:
    def run(batches: Iterator[RangeBatch]) -> Iterator[pa.RecordBatch]:
        for entries, group in itertools.groupby(batches, key=lambda item: item.entries):
            table = storable(pa.Table.from_batches([item.batch for item in group]))
            files = []
            if table.num_rows:
                url = staging.new_file()
                size = write_parquet(table, url, _ROW_GROUP_EVENTS)
                ranges = ((entries.file, entries.start, entries.stop),)
                digest = value_digest(table.combine_chunks())
                files.append(DataFile(url.rsplit("/", 1)[-1], table.num_rows, size, ranges, digest))
            staging.finish(_task(plan, entries), files)
            row = [[entries.file], [entries.start], [table.num_rows]]
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
