"""Columns of Arrow, of whatever file they come from, as branches and their values.

Of records in records, and of lists of records, each value is a branch with a dotted name. Times are seconds since the
epoch, dates their midnight; nulls stay nulls. Whatever pyarrow raises leaves here as an error that names file and
entries.
"""

from __future__ import annotations

import re
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mlaas_spark import storage
from mlaas_spark.errors import BranchNotFoundError, DamagedInputError, UnreadableInputError, reason
from mlaas_spark.schema import ENTRY, FILE, NESTED, NO_VALUE, STRING, Branch, EventSchema, Omitted, column_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_FAILURES = (OSError, ValueError, pa.ArrowException)
_FROM_UTC = re.compile(r"(?:UTC|GMT|UT|Z|(?=[+-]))(?:(?P<sign>[+-])(?P<hours>\d{1,2})(?::?(?P<minutes>\d{2}))?)?")
"""Zones as Spark may name them that Arrow has no rules for: an offset, or none."""
_TICKS = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}

_NUMBERS = {
    pa.bool_(): "bool",
    **{kind: str(kind) for kind in (pa.int8(), pa.int16(), pa.int32(), pa.int64())},
    **{kind: str(kind) for kind in (pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64())},
    pa.float32(): "float32",
    pa.float64(): "float64",
    pa.string(): STRING,
}


class Leaf(NamedTuple):
    """What can be a branch: a value of a record is one.

    Attributes:
        source: Its name, that of a value of a record with dots.
        kind: Its type: lists, however the file has them, as ``list``, what is in a dictionary as what it stands for.
        path: The field of the file it is in, and the members of records on the way to it.
        columns: Its columns in a Parquet file, [start, stop).
    """

    source: str
    kind: pa.DataType
    path: tuple[str, ...]
    columns: tuple[int, int]


# --- the types of branches --------------------------------------------------------------------------------------------


def schema_of(path: str, of_file: pa.Schema) -> EventSchema:
    """The branches of a file, and what of its columns can be none.

    Raises:
        UnreadableInputError: Two columns have one name, or one a name that is no text.
    """
    with named(path, "the names of its columns are damaged"):  # pyarrow decodes them where they are asked for
        names, every = of_file.names, list(leaves(of_file))
    if double := [name for name, count in Counter(names).items() if count > 1]:
        raise UnreadableInputError(path, f"it has {double[0]!r} twice: give each column a name of its own")
    found = [_branch(leaf) for leaf in every]
    branches = [item for item in found if isinstance(item, Branch)]
    return EventSchema.of(branches, [item for item in found if isinstance(item, Omitted)])


def leaves(schema: pa.Schema) -> Iterator[Leaf]:
    """All that can be a branch, in the order of the file's columns."""
    column = 0

    def walk(name: str, kind: pa.DataType, path: tuple[str, ...]) -> Iterator[Leaf]:
        nonlocal column
        record = kind.value_type if pa.types.is_list(kind) else kind
        if not pa.types.is_struct(record):
            start, column = column, column + _width(kind)
            yield Leaf(name, kind, path, (start, column))
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


def _branch(leaf: Leaf) -> Branch | Omitted:
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


class Column(NamedTuple):
    """Where a branch lies in the file, and the time zone of its times if they have none."""

    branch: Branch
    leaf: Leaf
    zone: str


def located(path: str, of_file: pa.Schema, schema: EventSchema) -> list[tuple[Branch, Leaf]]:
    """Where the branches of ``schema`` lie in a file.

    Raises:
        BranchNotFoundError: One is not in the file.
    """
    found: dict[str, Leaf] = {}
    with named(path, "the names of its columns are damaged"):
        for leaf in leaves(of_file):
            found.setdefault(leaf.source, leaf)
    if missing := [branch.source for branch in schema.branches if branch.source not in found]:
        raise BranchNotFoundError(missing[0], found, path)
    return [(branch, found[branch.source]) for branch in schema.branches]


def events(path: str, rows: pa.RecordBatch, columns: Sequence[Column], first: int, file_index: int) -> pa.RecordBatch:
    """The branches of some rows of a file, of which the first is entry ``first``, with file index and entry.

    Raises:
        DamagedInputError: A value is none of its branch's type.
    """
    entries = (first, first + rows.num_rows)
    arrays = []
    for column in columns:
        branch = column.branch
        with named(path, f"branch {branch.name!r} has a value that is no {branch.describes}", entries):
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


@contextmanager
def named(path: str, what: str, entries: tuple[int, int] | None = None) -> Iterator[None]:
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
