"""Parquet files through pyarrow: one footer -> schema and row groups, one entry range -> Arrow batches. No Spark.

What its columns are as branches, ``arrow_columns`` says. Whatever pyarrow raises leaves here as an error that names
file, entries and row group.
"""

from __future__ import annotations

import bisect
import itertools
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from mlaas_spark import storage
from mlaas_spark.arrow_columns import Column, events, leaves, located, named, schema_of
from mlaas_spark.errors import DamagedInputError, UnreadableInputError
from mlaas_spark.formats import Format
from mlaas_spark.plan import Header
from mlaas_spark.readers import UTC, Contents, How, Reader

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mlaas_spark.plan import PlannedFile
    from mlaas_spark.schema import EventSchema

_BATCH_BYTES = 1 << 26
_BATCH_EVENTS = 1 << 16
_LARGE = 1 << 28  # bytes of a row group whose columns are read a piece at a time, not each at once
_PIECE = 1 << 20
_INT96 = "INT96"  # Impala's and old Spark's time: an instant, whatever the time zone of the session


def read_header(path: str) -> Header:
    """Identity, schema, entries and row groups of a file; reads no events.

    Raises:
        UnreadableInputError: The file is missing, empty or no Parquet file.
    """
    uuid = storage.fingerprint(path)
    with _opened(path) as file:
        schema, footer = file.schema_arrow, file.metadata
    boundaries = tuple(sorted({0, *_ends(footer)}))
    return Header(path, "", uuid, footer.num_rows, boundaries, schema_of(path, schema))


def read_compressed(path: str) -> dict[str, int]:
    """Bytes of the column chunks of each branch, by its name in the file, summed over the row groups.

    Raises:
        UnreadableInputError: The file cannot be opened.
    """
    with _opened(path) as file:
        footer, found = file.metadata, list(leaves(file.schema_arrow))
    sizes = dict.fromkeys((leaf.source for leaf in found), 0)
    for number in range(footer.num_row_groups):
        group = footer.row_group(number)
        for leaf in found:
            sizes[leaf.source] += sum(group.column(column).total_compressed_size for column in range(*leaf.columns))
    return sizes


def read_ranges(
    path: str,
    schema: EventSchema,
    ranges: Sequence[tuple[int, int]],
    file_index: int,
    entries: int | None = None,
    zone: str = UTC,
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
        if uuid is not None:
            storage.refuse_replaced(path, uuid)
        ends = _ends(file.metadata)
        if entries is not None and file.metadata.num_rows != entries:
            why = f"it was replaced since it was planned ({file.metadata.num_rows} entries, not {entries})"
            raise UnreadableInputError(path, why)
        columns = _columns(path, file, schema, zone)
        numbers = sorted({number for column in columns for number in range(*column.leaf.columns)})
        rows_of = _Rows(path, file, tuple(numbers), ends)
        for number, (start, stop) in enumerate(ranges):
            for first, rows in rows_of.between(start, stop):
                yield number, events(path, rows, columns, first, file_index)


def _columns(path: str, file: pq.ParquetFile, schema: EventSchema, zone: str) -> list[Column]:
    of_file = file.metadata.schema
    return [
        Column(branch, leaf, UTC if of_file.column(leaf.columns[0]).physical_type == _INT96 else zone)
        for branch, leaf in located(path, file.schema_arrow, schema)
    ]


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
                with named(self.path, "it is damaged", (start, stop)):
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
                with named(self.path, f"row group {number} is damaged", entries):
                    for _ in self._batches(range(number, number + 1)):
                        pass
            except DamagedInputError as of_group:
                return of_group
        return error


@contextmanager
def _opened(path: str) -> Iterator[pq.ParquetFile]:
    with ExitStack() as stack:
        with named(path, f"it is no {Format.PARQUET} file"):
            fs, place = storage.filesystem(path)
            # a memory map is no quicker, and dies of SIGBUS when a file server fails
            opened = pa.OSFile(place) if isinstance(fs, LocalFileSystem) else fs.open(place, "rb")
            source = stack.enter_context(opened)
            file = pq.ParquetFile(source)
            groups = map(file.metadata.row_group, range(file.metadata.num_row_groups))
            if max((group.total_byte_size for group in groups), default=0) > _LARGE:
                file = pq.ParquetFile(source, metadata=file.metadata, buffer_size=_PIECE)
        yield file


# --- as a format ------------------------------------------------------------------------------------------------------


def _headers(path: str, _: str | None, __: How) -> list[Header]:
    return [read_header(path)]


def _batches(
    file: PlannedFile, index: int, schema: EventSchema, ranges: Sequence[tuple[int, int]], how: How
) -> Iterator[tuple[int, pa.RecordBatch]]:
    return read_ranges(file.path, schema, ranges, index, file.entries, how.zone, file.uuid)


def _inside(path: str, _: str, __: How) -> Contents:
    return Contents({}, {**read_compressed(path)})


READER = Reader(_headers, _batches, _inside)
