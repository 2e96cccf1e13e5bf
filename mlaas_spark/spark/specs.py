"""Specs on executors: partials, one a file and task, merged on the driver.

A shuffle would merge little: a partial is of one file, and most files are of one task.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from typing import TYPE_CHECKING, TypeAlias

import pyarrow as pa

from mlaas_spark.branch_specs import Specs, SpecsFile, from_rows, merged, to_rows
from mlaas_spark.errors import BranchNotFoundError, SpecsMismatchError
from mlaas_spark.spark.ingest import spans_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

    from mlaas_spark.skipping import Skipped
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
Partial: TypeAlias = tuple[int, str, str, int, int, float | None, float | None]
"""A row of ``_PARTIAL``: rows of equal (file, branch, stat, index) add up in number and widen low and high."""

RANGE_EVENTS, RANGE_BYTES, RANGE_NANOSECONDS = "range events", "range bytes", "range nanoseconds"
"""Stats of a range, ``index`` being its first entry, see :func:`of_ranges`; all others are stats of a branch."""

_OF_RANGES = {RANGE_EVENTS, RANGE_BYTES, RANGE_NANOSECONDS}


def compute(
    events: Events,
    branches: Collection[str],
    quantiles: Collection[str] = (),
    known: SpecsFile | None = None,
    *,
    also: Collection[str] = (),
) -> tuple[SpecsFile, Events]:
    """Specs of the named branches over all selected events, and the events with each range counted.

    Args:
        events: The events; only the branches needed are read.
        branches: Names of the branches.
        quantiles: Branches that also get quantile bins.
        known: Specs made before: a file that is in them, of the same request, is not read again, unless what is
            skipped of it was another part.
        also: Further branches to read where damage may be skipped: a range in which one of them is damaged is skipped.

    Returns:
        The specs; the events without what is damaged, where such may be skipped.

    Raises:
        BranchNotFoundError: A branch that the events do not have.
        FilesetError: No event passes the selection.
        SpecsMismatchError: ``known`` counts other events in a file than the plan.
        SkipLimitError: More is damaged than may be skipped.
    """
    for name in branches:
        if name not in events.plan.schema:
            raise BranchNotFoundError(name, events.plan.schema.names, "the events")
    request = _request(events, branches, quantiles)
    reusable = known.by_file if known is not None and known.request == request else {}
    files = events.plan.files
    if known is not None:
        before, now = spans_of(events.plan, known.skipped), spans_of(events.plan, events.skipped)
        others = {files[index].key for index in {*before, *now} if before.get(index) != now.get(index)}
        reusable = {key: part for key, part in reusable.items() if key not in others}
    fresh = tuple(r for r in events.plan.ranges if files[r.file].key not in reusable)
    by_file: dict[str, Specs] = {}
    counts: dict[tuple[int, int], int] = {}
    all_read = len(fresh) == len(events.plan.ranges)
    if fresh:
        names = {*branches, *(also if events.spare is not None else ())}
        by_file, counts, skipped = _run(events.reading(names).with_ranges(fresh), branches, quantiles)
        events = events.without(skipped)
    for file in files:
        if file.key in reusable:
            by_file[file.key] = reusable[file.key]
    whole = merged(by_file[key] for key in sorted(by_file))
    trees = Counter(file.path for file in files)
    paths = {file.key: f"{file.path}:{file.tree}" if trees[file.path] > 1 else file.path for file in files}
    counted = events.with_counts(counts) if all_read else events.counted()
    if (total := sum(counted.plan.events_by_file())) != whole.events:
        msg = f"the specs count {whole.events} events, the plan {total}: they belong to other files, make them again"
        raise SpecsMismatchError(msg)
    return SpecsFile(whole, by_file, paths, request, counted.skipped), counted


def _run(
    events: Events, branches: Collection[str], quantiles: Collection[str]
) -> tuple[dict[str, Specs], dict[tuple[int, int], int], tuple[Skipped, ...]]:
    names, with_bins = tuple(branches), frozenset(quantiles)
    packed, left = events.attempt(_packing(lambda batches: partials(batches, names, with_bins)))
    rows = _merged(packed)
    keys = [file.key for file in events.plan.files]
    found = {keys[file]: specs for file, specs in by_file(rows).items()}
    return found, by_range(rows, RANGE_EVENTS), left.skipped


def merged_rows(events: Events, partial: Callable[[Iterator[RangeBatch]], Iterable[Partial]]) -> list[Partial]:
    """The rows that ``partial`` makes of the events on executors; those of equal (file, branch, stat, index) as one."""
    return _merged(events.run(_packing(partial)))


def _packing(partial: Callable[[Iterator[RangeBatch]], Iterable[Partial]]) -> Callable[..., Iterator[bytes]]:
    def run(batches: Iterator[RangeBatch]) -> Iterator[bytes]:
        columns = list(zip(*partial(batches), strict=True)) or [()] * len(_PARTIAL)
        table = pa.table([pa.array(c, field.type) for c, field in zip(columns, _PARTIAL, strict=True)], _PARTIAL)
        yield _packed(table)

    return run


def _merged(packed: Iterable[bytes]) -> list[Partial]:
    rows = pa.concat_tables(map(_unpacked, packed))
    together = rows.group_by(["file", "branch", "stat", "index"], use_threads=False).aggregate(
        [("number", "sum"), ("low", "min"), ("high", "max")]
    )
    ordered = together.select([*_PARTIAL.names[:4], "number_sum", "low_min", "high_max"])
    return list(zip(*(column.to_pylist() for column in ordered.columns), strict=True))


def _packed(rows: pa.Table) -> bytes:
    """A table as one value: a pickled tuple for each of its thousands of rows costs more than making them."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as writer:
        writer.write_table(rows)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def _unpacked(content: bytes) -> pa.Table:
    with pa.ipc.open_stream(content) as reader:
        return reader.read_all()


def partials(
    batches: Iterable[RangeBatch], names: Collection[str], with_bins: Collection[str] = ()
) -> Iterator[Partial]:
    """Rows of the specs of the named branches in each file, quantile bins for some, and of the events of each range."""
    parts: dict[int, Specs] = {}
    counts: dict[tuple[int, int], int] = {}
    for entries, batch, _ in batches:
        part = Specs.of(batch, names, with_bins)
        parts[entries.file] = parts[entries.file].merge(part) if entries.file in parts else part
        counts[entries.file, entries.start] = counts.get((entries.file, entries.start), 0) + batch.num_rows
    yield from ((file, *row) for file, part in parts.items() for row in to_rows(part))
    yield from of_ranges(RANGE_EVENTS, counts)


def of_ranges(stat: str, values: Mapping[tuple[int, int], int]) -> Iterator[Partial]:
    """Rows of a number for each range (file, start), which add up where a range comes in parts."""
    return ((file, "", stat, start, number, None, None) for (file, start), number in values.items())


def by_range(rows: Iterable[Partial], stat: str) -> dict[tuple[int, int], int]:
    """The numbers that :func:`of_ranges` made rows of."""
    return {(file, index): number for file, _, of_row, index, number, _, _ in rows if of_row == stat}


def by_file(rows: Iterable[Partial]) -> dict[int, Specs]:
    """The specs of each file, by its index in the plan."""
    found: dict[int, list[tuple[str, str, int, int, float | None, float | None]]] = {}
    for file, branch, stat, index, number, low, high in rows:
        if stat not in _OF_RANGES:
            found.setdefault(file, []).append((branch, stat, index, number, low, high))
    return {file: from_rows(of_file) for file, of_file in sorted(found.items())}


def _request(events: Events, branches: Collection[str], quantiles: Collection[str]) -> str:
    """Digest of all that the specs of a file depend on beside its content."""
    schema = events.plan.schema.keep(branches)
    content = [
        schema.digest(),
        events.selection.text if events.selection else "",
        sorted(quantiles),
        events.limits,
    ]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
