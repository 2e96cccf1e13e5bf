"""Arrow's IPC files, which are Feather of version 2, through pyarrow: record batches as ranges are. No Spark.

What its columns are as branches, ``arrow_columns`` says. The format has no checksums: a file that is cut, or whose
lengths and places lie, is refused; a flipped bit in a number is another number. Format:
https://arrow.apache.org/docs/format/Columnar.html#ipc-file-format
"""

from __future__ import annotations

import bisect
import itertools
import struct
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import pyarrow as pa
from fsspec.implementations.local import LocalFileSystem

from mlaas_spark import storage
from mlaas_spark.arrow_columns import Column, events, located, named, schema_of
from mlaas_spark.errors import DamagedInputError, UnreadableInputError, reason
from mlaas_spark.formats import Format
from mlaas_spark.plan import Header
from mlaas_spark.readers import Contents, How, Reader

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mlaas_spark.plan import PlannedFile
    from mlaas_spark.schema import EventSchema

_MAGIC = b"ARROW1"
_FEATHER_1 = b"FEA1"
_STREAM = b"\xff\xff\xff\xff"  # a message without a file around it
_TAIL = struct.Struct("<i6s")  # length of the footer, magic
_PREFIX = 8  # of a message: continuation, length
_BLOCK = struct.Struct("<qi4xq")  # Block of File.fbs: where a message begins, bytes of it, bytes of its values
_RECORD_BATCHES = 3  # fields of tables in File.fbs and Message.fbs, by their numbers
_HEADER_TYPE, _HEADER = 1, 2
_RECORD_BATCH = 3  # of the union MessageHeader
_LENGTH = 0
_BATCH_EVENTS = 1 << 16


def read_header(path: str) -> Header:
    """Identity, schema, entries and record batches of a file; reads no events.

    Raises:
        UnreadableInputError: The file is missing, empty, an Arrow stream, Feather of version 1, or no Arrow file.
    """
    uuid = storage.fingerprint(path)
    with _opened(path) as file:
        edges = (0, *file.ends)
        return Header(path, "", uuid, edges[-1], tuple(sorted({*edges})), schema_of(path, file.reader.schema))


def _headers(path: str, _: str | None, __: How) -> list[Header]:
    return [read_header(path)]


def _read(
    file: PlannedFile, index: int, schema: EventSchema, ranges: Sequence[tuple[int, int]], how: How
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Batches of each entry range; only the asked-for columns are read, of a record batch always all rows."""
    path = file.path
    with _opened(path) as opened:
        storage.refuse_replaced(path, file.uuid)  # after it was opened: what takes its place later is not read here
        columns = [Column(*found, how.zone) for found in located(path, opened.reader.schema, schema)]
        rows_of = _Rows(path, opened, sorted({opened.reader.schema.get_field_index(c.leaf.path[0]) for c in columns}))
        for number, (start, stop) in enumerate(ranges):
            for first, rows in rows_of.between(start, stop):
                made = events(path, rows, columns, first, index)
                for place in range(0, made.num_rows, _BATCH_EVENTS):
                    yield number, made.slice(place, _BATCH_EVENTS)


def _inside(_: str, __: str, ___: How) -> Contents:
    return Contents({}, {})  # what a column takes on disk the format does not tell


READER = Reader(_headers, _read, _inside)


class _File(NamedTuple):
    """An open file, and the entries where its record batches end."""

    source: Any
    reader: pa.RecordBatchFileReader
    ends: list[int]


class _Rows:
    """Some fields of a file, by their numbers; the record batch that was read last is kept for the range after it."""

    def __init__(self, path: str, file: _File, fields: Sequence[int]) -> None:
        self._path, self._ends = path, file.ends
        # no field would be all of them; entries without branches are of the schema's first field
        options = pa.ipc.IpcReadOptions(included_fields=list(fields) or [0], use_threads=False)
        self._reader = pa.ipc.open_file(file.source, options=options) if len(file.reader.schema) else file.reader
        self._last: tuple[int, pa.RecordBatch] | None = None

    def between(self, start: int, stop: int) -> Iterator[tuple[int, pa.RecordBatch]]:
        """The rows of an entry range, with the first entry of each batch."""
        for number in range(bisect.bisect_right(self._ends, start), len(self._ends)):
            end = self._ends[number]
            first = self._ends[number - 1] if number else 0
            if first >= stop:
                break
            low, high = max(start, first), min(stop, end)
            if low < high:
                yield low, self._batch(number, (first, end)).slice(low - first, high - low)

    def _batch(self, number: int, entries: tuple[int, int]) -> pa.RecordBatch:
        if self._last is None or self._last[0] != number:
            with named(self._path, f"record batch {number} is damaged", entries):
                rows = self._reader.get_batch(number)
                rows.validate(full=True)  # offsets that lead out of the values would be followed by whoever reads them
            self._last = (number, rows)
        return self._last[1]


@contextmanager
def _opened(path: str) -> Iterator[_File]:
    with named(path, f"it is no {Format.ARROW} file"):
        fs, place = storage.filesystem(path)
        # a memory map is no quicker, and dies of SIGBUS when a file server fails
        source = pa.OSFile(place) if isinstance(fs, LocalFileSystem) else pa.PythonFile(fs.open(place, "rb"), "r")
    with source:
        with named(path, f"it is no {Format.ARROW} file"):
            size = source.size()
            head = source.read_at(min(size, len(_MAGIC)), 0)
            _refuse_others(path, head)
            if head != _MAGIC:
                raise DamagedInputError(path, f"it is no {Format.ARROW} file")
            tail = source.read_at(_TAIL.size, max(size - _TAIL.size, 0))
            footer, magic = _TAIL.unpack(tail) if size > _TAIL.size else (0, b"")
            if magic != _MAGIC or not 0 < footer < size - _TAIL.size:
                raise DamagedInputError(path, "it is cut short: it does not end with a footer")
            reader = pa.ipc.open_file(source)
            ends = _ends(source, source.read_at(footer, size - _TAIL.size - footer), reader.num_record_batches)
        yield _File(source, reader, ends)


def _refuse_others(path: str, head: bytes) -> None:
    if head.startswith(_FEATHER_1):
        raise UnreadableInputError(
            path, "it is Feather of version 1: write it anew, as version 2, with pyarrow.feather"
        )
    if head.startswith(_STREAM):
        why = "it is an Arrow stream, which has no footer that tells its batches: write it with pyarrow.ipc.new_file"
        raise UnreadableInputError(path, why)


# --- what pyarrow does not tell: how many rows a record batch has, unread ---------------------------------------------


def _ends(source: pa.NativeFile, footer: bytes, batches: int) -> list[int]:
    """Entries where record batches end, from the messages before their values."""
    size = source.size()
    try:
        blocks = _blocks(footer)
        if len(blocks) != batches or any(not 0 <= place < place + length <= size for place, length, _ in blocks):
            msg = "its footer does not say where its record batches are"
            raise ValueError(msg)
        return list(itertools.accumulate(_rows(source.read_at(length, place)) for place, length, _ in blocks))
    except struct.error as error:  # a place that leads out of the message
        raise ValueError(reason(error)) from error


def _rows(message: bytes) -> int:
    """Rows of a record batch, of its message."""
    about = _Table.root(message[_PREFIX:] if message.startswith(_STREAM) else message[_PREFIX // 2 :])
    batch = about.table(_HEADER)
    if batch is None or about.number(_HEADER_TYPE, "<B") != _RECORD_BATCH:
        msg = "its footer names a message that is no record batch"
        raise ValueError(msg)
    if (rows := batch.number(_LENGTH, "<q")) < 0:
        msg = f"a record batch says it has {rows} rows"
        raise ValueError(msg)
    return rows


def _blocks(footer: bytes) -> list[tuple[int, ...]]:
    """Where the messages of the record batches are."""
    place = (root := _Table.root(footer)).offset(_RECORD_BATCHES)
    if place is None:
        return []
    (start,), content = struct.unpack_from("<I", footer, place), root.content
    (length,) = struct.unpack_from("<I", content, place + start)
    start += place + 4
    return list(_BLOCK.iter_unpack(content[start : start + _BLOCK.size * length]))


class _Table(NamedTuple):
    """A table of FlatBuffers (https://flatbuffers.dev/internals): its fields lie where its vtable says."""

    content: bytes
    place: int

    @classmethod
    def root(cls, content: bytes) -> Self:
        return cls(content, *struct.unpack_from("<I", content))

    def offset(self, field: int) -> int | None:
        """Where a field lies; None if it is not there, and has its default."""
        vtable = self.place - struct.unpack_from("<i", self.content, self.place)[0]
        if 4 + 2 * field >= struct.unpack_from("<H", self.content, vtable)[0]:
            return None
        (offset,) = struct.unpack_from("<H", self.content, vtable + 4 + 2 * field)
        return self.place + offset if offset else None

    def number(self, field: int, form: str) -> int:
        place = self.offset(field)
        return 0 if place is None else int(struct.unpack_from(form, self.content, place)[0])

    def table(self, field: int) -> Self | None:
        place = self.offset(field)
        return None if place is None else self._replace(place=place + self.number(field, "<I"))
