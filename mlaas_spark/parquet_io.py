"""Parquet files through pyarrow: one footer -> schema and row groups, one entry range -> Arrow batches. No Spark.

Of records in records, and of lists of records, each value is a branch with a dotted name. Times are seconds since the
epoch, dates their midnight; nulls stay nulls. Whatever pyarrow raises leaves here as an error that names file, entries
and row group.
"""

from __future__ import annotations

import bisect
import itertools
import re
from collections import Counter
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from mlaas_spark import storage
from mlaas_spark.config import Format
from mlaas_spark.errors import BranchNotFoundError, DamagedInputError, UnreadableInputError, reason
from mlaas_spark.plan import Header
from mlaas_spark.schema import ENTRY, FILE, NESTED, NO_VALUE, STRING, Branch, EventSchema, Omitted, column_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_FAILURES = (OSError, ValueError, pa.ArrowException)
_BATCH_BYTES = 1 << 26
_BATCH_EVENTS = 1 << 16
_LARGE = 1 << 28  # bytes of a row group whose columns are read a piece at a time, not each at once
_PIECE = 1 << 20
_UTC = "UTC"
_FROM_UTC = re.compile(r"(?:UTC|GMT|UT|Z|(?=[+-]))(?:(?P<sign>[+-])(?P<hours>\d{1,2})(?::?(?P<minutes>\d{2}))?)?")
"""Zones as Spark may name them that Arrow has no rules for: an offset, or none."""
_TICKS = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
_INT96 = "INT96"  # Impala's and old Spark's time: an instant, whatever the time zone of the session

_NUMBERS = {
    pa.bool_(): "bool",
    **{kind: str(kind) for kind in (pa.int8(), pa.int16(), pa.int32(), pa.int64())},
    **{kind: str(kind) for kind in (pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64())},
    pa.float32(): "float32",
    pa.float64(): "float64",
    pa.string(): STRING,
}


class _Leaf(NamedTuple):
    """What can be a branch: a value of a record is one.

    Attributes:
        source: Its name, that of a value of a record with dots.
        kind: Its type: lists, however the file has them, as ``list``, what is in a dictionary as what it stands for.
        path: The field of the file it is in, and the members of records on the way to it.
        columns: Its columns in the file, [start, stop).
    """

    source: str
    kind: pa.DataType
    path: tuple[str, ...]
    columns: tuple[int, int]


def read_header(path: str) -> Header:
    """Identity, schema, entries and row groups of a file; reads no events.

    Raises:
        UnreadableInputError: The file is missing, empty or no Parquet file.
    """
    uuid = storage.fingerprint(path)
    with _opened(path) as file:
        schema, footer = file.schema_arrow, file.metadata
    if double := [name for name, count in Counter(schema.names).items() if count > 1]:
        raise UnreadableInputError(path, f"it has {double[0]!r} twice: give each column a name of its own")
    found = [_branch(leaf) for leaf in _leaves(schema)]
    branches = [item for item in found if isinstance(item, Branch)]
    omitted = [item for item in found if isinstance(item, Omitted)]
    boundaries = tuple(sorted({0, *_ends(footer)}))
    return Header(path, "", uuid, footer.num_rows, boundaries, EventSchema.of(branches, omitted))


def read_compressed(path: str) -> dict[str, int]:
    """Bytes of the column chunks of each branch, by its name in the file, summed over the row groups.

    Raises:
        UnreadableInputError: The file cannot be opened.
    """
    with _opened(path) as file:
        footer, leaves = file.metadata, list(_leaves(file.schema_arrow))
    sizes = dict.fromkeys((leaf.source for leaf in leaves), 0)
    for number in range(footer.num_row_groups):
        group = footer.row_group(number)
        for leaf in leaves:
            sizes[leaf.source] += sum(group.column(column).total_compressed_size for column in range(*leaf.columns))
    return sizes


def read_ranges(
    path: str,
    schema: EventSchema,
    ranges: Sequence[tuple[int, int]],
    file_index: int,
    entries: int | None = None,
    zone: str = _UTC,
    uuid: str | None = None,
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Batches of each entry range [start, stop), in order: number of the range, and branches, file index and entry.

    The file is opened once. A range comes in several batches where it is large.

    Args:
        path: Local path or URL.
        schema: The branches; no other column is decoded.
        ranges: Entry ranges; what of a row group lies outside of them is decoded and dropped.
        file_index: Index of the file in the plan.
        entries: How many entries the file had when it was planned.
        zone: Time zone of times that have none of their own.
        uuid: Which file it was when it was planned, see :func:`read_header`.

    Raises:
        BranchNotFoundError: A branch of the schema is not in the file.
        UnreadableInputError: The entries cannot be read, the file has not as many as planned, or is another one.
    """
    with _opened(path) as file:
        # of the name, after the file was opened: one that takes its place later is not what is read here
        if uuid is not None and (now := storage.fingerprint(path)) != uuid:
            raise UnreadableInputError(path, f"it was replaced since it was planned (uuid {now}, not {uuid})")
        ends = _ends(file.metadata)
        if entries is not None and file.metadata.num_rows != entries:
            why = f"it was replaced since it was planned ({file.metadata.num_rows} entries, not {entries})"
            raise UnreadableInputError(path, why)
        columns = _columns(path, file, schema, zone)
        numbers = sorted({number for column in columns for number in range(*column.leaf.columns)})
        rows_of = _Rows(path, file, tuple(numbers), ends)
        for number, (start, stop) in enumerate(ranges):
            for first, rows in rows_of.between(start, stop):
                yield number, _events(path, rows, columns, first, file_index)


# --- the types of branches --------------------------------------------------------------------------------------------


def _leaves(schema: pa.Schema) -> Iterator[_Leaf]:
    """All that can be a branch, in the order of the file's columns."""
    column = 0

    def walk(name: str, kind: pa.DataType, path: tuple[str, ...]) -> Iterator[_Leaf]:
        nonlocal column
        record = kind.value_type if pa.types.is_list(kind) else kind
        if not pa.types.is_struct(record):
            start, column = column, column + _width(kind)
            yield _Leaf(name, kind, path, (start, column))
            return
        for field in record:
            inner = pa.list_(field.type) if pa.types.is_list(kind) else field.type
            yield from walk(f"{name}.{field.name}", inner, (*path, field.name))

    for field in schema:
        yield from walk(field.name, _plain(field.type), (field.name,))


def _plain(kind: pa.DataType) -> pa.DataType:
    """The type without what only says how its values are kept: whoever wrote them, equal values have equal types."""
    if isinstance(kind, pa.BaseExtensionType):
        return _plain(kind.storage_type)
    if pa.types.is_dictionary(kind):
        return _plain(kind.value_type)
    if _is_list(kind):
        return pa.list_(_plain(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(field.name, _plain(field.type)) for field in kind])
    return pa.string() if pa.types.is_large_string(kind) else kind


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _width(kind: pa.DataType) -> int:
    """How many columns a Parquet file has for a field of the type."""
    return sum(_width(kind.field(number).type) for number in range(kind.num_fields)) if kind.num_fields else 1


def _branch(leaf: _Leaf) -> Branch | Omitted:
    """The branch, or why it is none."""
    depth, kind = 0, leaf.kind
    while pa.types.is_list(kind):
        depth, kind = depth + 1, kind.value_type
    if pa.types.is_null(kind):
        return Omitted(leaf.source, NO_VALUE)
    dtype = _dtype(kind)
    if dtype is None:
        why = NESTED if depth > 1 else f"{'lists of ' * depth}values of type {kind}"
        return Omitted(leaf.source, why)
    inner = max(depth - 1, 0)
    return Branch(column_name(leaf.source), leaf.source, "list<" * inner + dtype + ">" * inner, depth > 0)


def _dtype(kind: pa.DataType) -> str | None:
    """Type of a value as numpy names it, or text; None for what is neither."""
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return "float64"
    if pa.types.is_decimal(kind):
        # what Spark makes of a uint64, which it has not
        return "uint64" if (kind.precision, kind.scale) == (20, 0) else "float64"
    return _NUMBERS.get(kind)


# --- the values of branches -------------------------------------------------------------------------------------------


class _Column(NamedTuple):
    """Where a branch lies in the file, and the time zone of its times if they have none."""

    branch: Branch
    leaf: _Leaf
    zone: str


def _columns(path: str, file: pq.ParquetFile, schema: EventSchema, zone: str) -> list[_Column]:
    leaves: dict[str, _Leaf] = {}
    for leaf in _leaves(file.schema_arrow):
        leaves.setdefault(leaf.source, leaf)
    if missing := [branch.source for branch in schema.branches if branch.source not in leaves]:
        raise BranchNotFoundError(missing[0], leaves, path)
    of_file = file.metadata.schema
    return [
        _Column(branch, leaf, _UTC if of_file.column(leaf.columns[0]).physical_type == _INT96 else zone)
        for branch, leaf in ((branch, leaves[branch.source]) for branch in schema.branches)
    ]


def _events(path: str, rows: pa.RecordBatch, columns: Sequence[_Column], first: int, file_index: int) -> pa.RecordBatch:
    entries = (first, first + rows.num_rows)
    arrays = []
    for column in columns:
        branch = column.branch
        with _named(path, f"branch {branch.name!r} has a value that is no {branch.describes}", entries):
            values = _converted(_member(rows.column(column.leaf.path[0]), column.leaf.path[1:]), column.zone)
            arrays.append(values if values.type == branch.arrow_type else values.cast(branch.arrow_type))
            if branch.why_no_feature:
                values.validate(full=True)  # text that is not UTF-8 is refused here, not by who reads what we write
    arrays.append(pa.array(np.full(rows.num_rows, file_index, np.int32)))
    arrays.append(pa.array(np.arange(*entries, dtype=np.int64)))
    return pa.RecordBatch.from_arrays(arrays, names=[*(column.branch.name for column in columns), FILE, ENTRY])


def _member(array: pa.Array, path: Sequence[str]) -> pa.Array:
    """The values of a member of records, or of the records in lists; missing where the record is."""
    if not path:
        return array
    if _is_list(array.type):
        return _with_values(array, lambda values: _member(values, path))
    return _member(pc.struct_field(array, [array.type.get_field_index(path[0])]), path[1:])


def _converted(array: pa.Array, zone: str) -> pa.Array:
    """The array as of the type that :func:`_plain` gives, times as seconds, decimals as numbers."""
    kind = array.type
    if isinstance(kind, pa.BaseExtensionType):
        return _converted(array.storage, zone)
    if pa.types.is_dictionary(kind):
        return _converted(array.dictionary_decode(), zone)
    if _is_list(kind):
        return _with_values(array, lambda values: _converted(values, zone))
    return _numbers(array, zone)


def _numbers(array: pa.Array, zone: str) -> pa.Array:
    kind = array.type
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return _seconds(array, zone)
    if pa.types.is_decimal(kind) and kind.scale:
        return array.cast(pa.string()).cast(pa.float64())  # by its digits: the nearest number, as Java takes it
    if array.null_count or array.buffers()[0] is None:
        return array
    # Parquet's columns may all have nulls, and pyarrow makes a bitmap whether they have or not
    return pa.Array.from_buffers(kind, len(array), [None, *array.buffers()[1:]], 0, array.offset)


def _with_values(lists: pa.Array, convert: Callable[[pa.Array], pa.Array]) -> pa.ListArray:
    """The same lists of other values, named and nullable as everywhere; nothing is copied of lists with 32 bits."""
    if not pa.types.is_list(lists.type):
        lists = lists.cast(pa.list_(lists.type.value_type))
    values = convert(lists.values)
    bitmap, offsets = lists.buffers()[:2]
    kept = [bitmap if lists.null_count else None, offsets]
    return pa.Array.from_buffers(pa.list_(values.type), len(lists), kept, lists.null_count, lists.offset, [values])


def _seconds(times: pa.Array, zone: str) -> pa.Array:
    """Times or dates as seconds since the epoch, to the microsecond."""
    if pa.types.is_date(times.type):
        times = times.cast(pa.timestamp("ms"))
    west = 0.0
    if times.type.tz is None and (found := _FROM_UTC.fullmatch(zone)):
        hours, minutes = int(found["hours"] or 0), int(found["minutes"] or 0)
        west = (-1 if found["sign"] == "+" else 1) * (3600.0 * hours + 60.0 * minutes)
    elif times.type.tz is None:
        times = pc.assume_timezone(times, zone, ambiguous="earliest", nonexistent="latest")
    ticks, second = times.cast(pa.int64()), _TICKS[times.type.unit]
    if second > _TICKS["us"]:
        ticks, second = pc.divide(ticks, second // _TICKS["us"]), _TICKS["us"]
    return pc.add(pc.divide(ticks.cast(pa.float64(), safe=False), float(second)), west)


# --- row groups -------------------------------------------------------------------------------------------------------


def _ends(footer: pq.FileMetaData) -> list[int]:
    """Entries where row groups end."""
    return list(itertools.accumulate(footer.row_group(number).num_rows for number in range(footer.num_row_groups)))


class _Rows(NamedTuple):
    """Some columns of a file, by their numbers."""

    path: str
    file: pq.ParquetFile
    columns: tuple[int, ...]
    ends: list[int]

    def between(self, start: int, stop: int) -> Iterator[tuple[int, pa.RecordBatch]]:
        """The rows of an entry range as they come, with the first entry of each batch."""
        groups = range(bisect.bisect_right(self.ends, start), bisect.bisect_left(self.ends, stop) + 1)
        first = self.ends[groups.start - 1] if groups.start else 0
        batches = self._batches(groups)
        while first < stop:
            try:
                with _named(self.path, "it is damaged", (start, stop)):
                    rows = next(batches, None)
            except DamagedInputError as error:
                raise self._of_row_group(error, groups) from error
            if rows is None:
                why = f"it has {first} entries where its footer says {self.ends[-1]}"
                raise DamagedInputError(self.path, why, None, (start, stop))
            low, high = max(start - first, 0), min(stop - first, rows.num_rows)
            if low < high:
                yield first + low, rows.slice(low, high - low)
            first += rows.num_rows

    def _batches(self, groups: range) -> Iterator[pa.RecordBatch]:
        names = [self.file.metadata.schema.column(number).path for number in self.columns]
        batches: Iterator[pa.RecordBatch] = self.file.iter_batches(
            self._events(groups), list(groups), names, use_threads=False
        )
        return batches

    def _events(self, groups: range) -> int:
        """How many make a batch of a bounded size, by the largest of the row groups."""
        group = max(map(self.file.metadata.row_group, groups), key=lambda group: group.num_rows)
        size: int = sum(group.column(number).total_uncompressed_size for number in self.columns)
        events: int = group.num_rows
        return min(max(_BATCH_BYTES * events // max(size, 1), 1), _BATCH_EVENTS)

    def _of_row_group(self, error: DamagedInputError, groups: range) -> DamagedInputError:
        """The error with the row group that it is of, found by reading each alone."""
        for number in groups:
            end = self.ends[number]
            entries = (end - self.file.metadata.row_group(number).num_rows, end)
            try:
                with _named(self.path, f"row group {number} is damaged", entries):
                    for _ in self._batches(range(number, number + 1)):
                        pass
            except DamagedInputError as of_group:
                return of_group
        return error


@contextmanager
def _opened(path: str) -> Iterator[pq.ParquetFile]:
    with ExitStack() as stack:
        with _named(path, f"it is no {Format.PARQUET} file"):
            fs, place = storage.filesystem(path)
            # a memory map is no quicker, and dies of SIGBUS when a file server fails
            opened = pa.OSFile(place) if isinstance(fs, LocalFileSystem) else fs.open(place, "rb")
            source = stack.enter_context(opened)
            file = pq.ParquetFile(source)
            groups = map(file.metadata.row_group, range(file.metadata.num_row_groups))
            if max((group.total_byte_size for group in groups), default=0) > _LARGE:
                file = pq.ParquetFile(source, metadata=file.metadata, buffer_size=_PIECE)
        yield file


@contextmanager
def _named(path: str, what: str, entries: tuple[int, int] | None = None) -> Iterator[None]:
    """Attach the place to whatever the layer below raises."""
    try:
        yield
    except FileNotFoundError as error:
        raise UnreadableInputError(path, "no such file", None, entries) from error
    except _FAILURES as error:
        if storage.is_trouble(error):
            raise UnreadableInputError(path, storage.why(error), None, entries) from error
        if isinstance(error, MemoryError):
            why = f"its values do not fit into memory ({reason(error)}): make spark.events_per_task smaller"
            raise UnreadableInputError(path, why, None, entries) from error
        raise DamagedInputError(path, f"{what} ({reason(error)})", None, entries) from error
