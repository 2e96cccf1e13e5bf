"""Specs on executors: partials from mapInArrow, merged by Spark's groupBy; one partial a file and task."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from typing import TYPE_CHECKING

import pyarrow as pa
from pyspark.sql import functions as F  # noqa: N812 - the name Spark's own documentation uses
from pyspark.sql.pandas.types import from_arrow_schema

from mlaas_spark.errors import BranchNotFoundError, SpecsMismatchError
from mlaas_spark.spark.session import received
from mlaas_spark.specs import Specs, SpecsFile, from_rows, merged, to_rows

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from pyspark.sql import Row

    from mlaas_spark.spark.ingest import Events, RangeBatch

_PARTIAL = pa.schema(
    [
        ("file", pa.int32()),
        ("branch", pa.string()),
        ("stat", pa.string()),
        ("index", pa.int64()),
        ("number", pa.int64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
    ]
)
_RANGE = "range events"  # rows that count the selected events of a range, index = its first entry


def compute(
    events: Events, branches: Collection[str], quantiles: Collection[str] = (), known: SpecsFile | None = None
) -> tuple[SpecsFile, Events]:
    """Specs of the named branches over all selected events, and the events with each range counted.

    Args:
        events: The events; only the branches needed are read.
        branches: Names of the branches.
        quantiles: Branches that also get quantile bins.
        known: Specs made before: a file that is in them, of the same request, is not read again.

    Raises:
        BranchNotFoundError: A branch that the events do not have.
        FilesetError: No event passes the selection.
        SpecsMismatchError: ``known`` counts other events in a file than the plan.
    """
    for name in branches:
        if name not in events.plan.schema:
            raise BranchNotFoundError(name, events.plan.schema.names, "the events")
    request = _request(events, branches, quantiles)
    reusable = known.by_file if known is not None and known.request == request else {}
    files = events.plan.files
    fresh = tuple(r for r in events.plan.ranges if files[r.file].key not in reusable)
    by_file: dict[str, Specs] = {}
    counts: dict[tuple[int, int], int] = {}
    if fresh:
        by_file, counts = _run(events.reading(branches).with_ranges(fresh), branches, quantiles)
    for file in files:
        if file.key in reusable:
            by_file[file.key] = reusable[file.key]
    whole = merged(by_file[key] for key in sorted(by_file))
    trees = Counter(file.path for file in files)
    paths = {file.key: f"{file.path}:{file.tree}" if trees[file.path] > 1 else file.path for file in files}
    counted = events.with_counts(counts) if len(fresh) == len(events.plan.ranges) else events.counted()
    if (total := sum(counted.plan.events_by_file())) != whole.events:
        msg = f"the specs count {whole.events} events, the plan {total}: they belong to other files, make them again"
        raise SpecsMismatchError(msg)
    return SpecsFile(whole, by_file, paths, request), counted


def _run(
    events: Events, branches: Collection[str], quantiles: Collection[str]
) -> tuple[dict[str, Specs], dict[tuple[int, int], int]]:
    names, with_bins = tuple(branches), frozenset(quantiles)

    def partials(batches: Iterator[RangeBatch]) -> Iterator[pa.RecordBatch]:
        parts: dict[int, Specs] = {}
        counts: dict[tuple[int, int], int] = {}
        for entries, batch, _ in batches:
            part = Specs.of(batch, names, with_bins)
            parts[entries.file] = parts[entries.file].merge(part) if entries.file in parts else part
            counts[entries.file, entries.start] = counts.get((entries.file, entries.start), 0) + batch.num_rows
        rows = [(file, *row) for file, part in parts.items() for row in to_rows(part)]
        rows += [(file, "", _RANGE, start, number, None, None) for (file, start), number in counts.items()]
        columns = list(zip(*rows, strict=True)) or [()] * len(_PARTIAL)
        yield pa.RecordBatch.from_arrays(
            [pa.array(column, field.type) for column, field in zip(columns, _PARTIAL, strict=True)], schema=_PARTIAL
        )

    frame = events.map_ranges(partials, from_arrow_schema(_PARTIAL))
    merging = frame.groupBy("file", "branch", "stat", "index").agg(
        F.sum("number").alias("number"), F.min("low").alias("low"), F.max("high").alias("high")
    )
    with received():
        rows = merging.collect()
    counts = {(row.file, row["index"]): row.number for row in rows if row.stat == _RANGE}
    by_file: dict[int, list[Row]] = {}
    for row in rows:
        if row.stat != _RANGE:
            by_file.setdefault(row.file, []).append(row)
    keys = [file.key for file in events.plan.files]
    return {
        keys[file]: from_rows((r.branch, r.stat, r["index"], r.number, r.low, r.high) for r in of_file)
        for file, of_file in sorted(by_file.items())
    }, counts


def _request(events: Events, branches: Collection[str], quantiles: Collection[str]) -> str:
    """Digest of all that the specs of a file depend on beside its content."""
    schema = events.plan.schema.keep(branches)
    content = [
        schema.digest(),
        events.selection.text if events.selection else "",
        sorted(quantiles),
        events.plan.limits,
    ]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
