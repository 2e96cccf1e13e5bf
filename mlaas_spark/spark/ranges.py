"""Formats with a reader of their own: headers opened on executors, and entry ranges that these read by themselves.

Where damage is to be skipped, a header or a range that is damaged becomes a record of that. What Spark hands to
executors are numbers of ranges alone; events never cross to the JVM.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import pyarrow as pa

from mlaas_spark.errors import DamagedInputError, UnreadableInputError
from mlaas_spark.formats import Format
from mlaas_spark.plan import PlannedFile, coarse, copy_numbers
from mlaas_spark.readers import UTC, How, reader_of
from mlaas_spark.schema import EventSchema
from mlaas_spark.skipping import Skipped
from mlaas_spark.spark.headers import refuse_planted, refuse_xrootd
from mlaas_spark.spark.session import numbers, spread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from pyspark.sql import DataFrame, SparkSession

    from mlaas_spark.filesets import InputFile
    from mlaas_spark.plan import EntryRange, Header, Plan
    from mlaas_spark.spark.session import R
    from mlaas_spark.xrootd import Patience

    Batches: TypeAlias = Iterator[tuple[EntryRange, pa.RecordBatch]]
    ReadFile: TypeAlias = Callable[[PlannedFile, int, EventSchema, Sequence[EntryRange]], Batches]
    ReadHeader: TypeAlias = Callable[[InputFile, set[str]], list[Header]]
    Opened: TypeAlias = "tuple[Ranges, list[PlannedFile], list[tuple[str, EventSchema]], list[Skipped]]"
    Unread: TypeAlias = tuple[EntryRange, str]


@dataclass(frozen=True)
class Ranges:
    """Entry ranges that executors read by their numbers.

    Attributes:
        read_file: Batches of some ranges of a file, given as (file, its index, branches that it has, ranges); it runs
            on executors and must be picklable. The batches of a range follow each other.
    """

    read_file: ReadFile

    def rows(self, spark: SparkSession, plan: Plan) -> DataFrame:
        """The numbers of the plan's ranges."""
        return numbers(spark, len(plan.ranges))

    def reader(self, plan: Plan) -> Callable[[Iterator[pa.RecordBatch]], Batches]:
        """Reader of numbers of ranges."""
        read = _reader(self.read_file, plan)
        return lambda batches: read(number for batch in batches for number in batch.column("id").to_pylist())

    def run(self, spark: SparkSession, plan: Plan, work: Callable[[Batches], Iterable[R]]) -> list[R]:
        """What ``work`` makes of the events."""
        read = _reader(self.read_file, plan)
        return spread(spark, range(len(plan.ranges)), lambda numbers: work(read(numbers)))

    def reordered(self, places: Mapping[int, int]) -> Ranges:
        """Itself: a range says which file of the plan it is of."""
        del places
        return self

    def attempt(
        self, spark: SparkSession, plan: Plan, work: Callable[[Batches], Iterable[R]]
    ) -> tuple[list[R], list[Unread]]:
        """What ``work`` makes of the ranges that are whole, and the damaged ones with what is wrong."""
        read_file = self.read_file

        def attempted(numbers: Iterator[int]) -> Iterator[tuple[list[Unread], list[R]]]:
            damaged: list[Unread] = []
            yield [], list(work(_reader(partial(_whole_ranges, read_file, damaged), plan)(numbers)))
            yield damaged, []

        parts = spread(spark, range(len(plan.ranges)), attempted)
        return [item for _, made in parts for item in made], [item for damaged, _ in parts for item in damaged]


def _reader(read_file: ReadFile, plan: Plan) -> Callable[[Iterator[int]], Batches]:
    """Reader of ranges by their numbers; a file whose ranges follow each other is opened once."""

    def read(numbers: Iterator[int]) -> Batches:
        ranges = (plan.ranges[number] for number in numbers)
        for index, of_file in itertools.groupby(ranges, key=lambda entries: entries.file):
            file = plan.files[index]
            has = plan.schema.keep(set(plan.schema.names) - set(file.lacks))
            for entries, batch in read_file(file, index, has, list(of_file)):
                yield entries, _filled(batch, plan.schema)

    return read


def _whole_ranges(  # a ReadFile, when it is given the first two
    read_file: ReadFile,
    damaged: list[Unread],
    file: PlannedFile,
    index: int,
    schema: EventSchema,
    ranges: Sequence[EntryRange],
) -> Batches:
    """The ranges that can be read from end to end; the others are added to ``damaged``.

    A range is held until its last batch is there: of one that is not whole nobody sees a part.
    """
    left = list(ranges)
    while left:
        held: list[pa.RecordBatch] = []
        try:
            for entries, batch in read_file(file, index, schema, left):
                held.append(batch)
                if sum(part.num_rows for part in held) == entries.entries:
                    left = left[1:]
                    yield from ((entries, part) for part in held)
                    held = []
        except DamagedInputError as error:
            damaged.append((left[0], error.why))
            left = left[1:]
        else:
            break


def open_files(
    spark: SparkSession,
    files: Sequence[InputFile],
    events_per_task: int,
    patience: Patience,
    *,
    allow_copies: bool,
    skip: bool = False,
) -> Opened:
    """Open files of a format that executors read by themselves; of ROOT each tree that a glob matches.

    Returns:
        What reads their ranges; the files; each schema that a file has, with the first such file; with ``skip``, the
        files that are damaged, which else are an error.

    Raises:
        FilesetError, UnreadableInputError: Files that are missing, unreadable, or copies.
    """
    reader = reader_of(files[0].format)
    if not reader.xrootd:
        refuse_xrootd(files)
    zone = spark.conf.get("spark.sql.session.timeZone") if reader.zoned else None
    how = How(patience, zone or UTC)
    opened = _open(spark, files, events_per_task, partial(_headers, how=how), allow_copies=allow_copies, skip=skip)
    return Ranges(partial(_read, how=how)), *opened


def _headers(file: InputFile, safe: set[str], how: How) -> list[Header]:
    reader = reader_of(file.format)
    headers = reader.headers(file.path, file.tree, how)
    for header in headers:
        if reader.uuids and file.uuid and file.uuid != header.uuid:
            why = f"it is not the file that the fileset describes (uuid {header.uuid}, not {file.uuid})"
            raise UnreadableInputError(file.path, why, header.tree)
    if file.format is Format.PARQUET:
        refuse_planted(file.path, safe)
    return headers


def _read(file: PlannedFile, index: int, schema: EventSchema, ranges: Sequence[EntryRange], how: How) -> Batches:
    spans = [(entries.start, entries.stop) for entries in ranges]
    for number, batch in reader_of(file.format).batches(file, index, schema, spans, how):
        yield ranges[number], batch


def _filled(batch: pa.RecordBatch, schema: EventSchema) -> pa.RecordBatch:
    """The batch with a column without values for each branch that it lacks."""
    target = schema.arrow()
    if batch.schema.names == target.names:
        return batch
    present = set(batch.schema.names)
    columns = [batch.column(f.name) if f.name in present else pa.nulls(batch.num_rows, f.type) for f in target]
    return pa.RecordBatch.from_arrays(columns, names=target.names)


def _open(
    spark: SparkSession,
    files: Sequence[InputFile],
    events_per_task: int,
    read_header: ReadHeader,
    *,
    allow_copies: bool,
    skip: bool,
) -> tuple[list[PlannedFile], list[tuple[str, EventSchema]], list[Skipped]]:
    """Open headers on executors; a schema crosses to the driver once a partition, not once a file."""

    def read(numbered: Iterable[tuple[int, InputFile]]) -> Iterator[tuple[str, Any]]:
        known: set[str] = set()
        safe: set[str] = set()
        for index, file in numbered:
            try:
                headers = read_header(file, safe)
            except DamagedInputError as error:
                if not skip:
                    raise
                yield "damaged", (index, Skipped(file.path, error.why, error.tree or file.tree or ""), error)
                continue
            for header in headers:
                digest = EventSchema(header.schema.branches, header.schema.omitted).digest()
                if digest not in known:
                    known.add(digest)
                    yield "schema", (digest, header.schema)
                edges = coarse(header.boundaries, events_per_task)
                clusters = len(header.boundaries) - 1
                yield "file", (index, header.tree, digest, header.uuid, header.entries, edges, clusters)

    found = spread(spark, list(enumerate(files)), read)
    damaged = _only(found, "damaged")
    if damaged and len(damaged) == len(files):
        raise damaged[0][-1]
    schemas: dict[str, EventSchema] = dict(_only(found, "schema"))
    names = {name for schema in schemas.values() for name in schema.names}
    first: dict[str, str] = {}
    planned: list[PlannedFile] = []
    opened = sorted(_only(found, "file"))
    copies = copy_numbers(
        [(files[index].path, uuid, tree) for index, tree, _, uuid, *_ in opened], allowed=allow_copies
    )
    for copy, (index, tree, digest, uuid, entries, boundaries, clusters) in zip(copies, opened, strict=True):
        file = files[index]
        first.setdefault(digest, f"{file.path}:{tree}" if tree else file.path)
        lacks = tuple(sorted(names - set(schemas[digest].names)))
        planned.append(
            PlannedFile(
                file.path,
                file.format,
                tree,
                uuid,
                entries,
                file.label,
                file.weight,
                file.group,
                boundaries,
                file.steps,
                lacks,
                clusters,
                copy,
            )
        )
    return planned, [(path, schemas[digest]) for digest, path in first.items()], [item for _, item, _ in damaged]


def _only(found: Sequence[tuple[str, Any]], kind: str) -> list[Any]:
    return [item for kind_of_item, item in found if kind_of_item == kind]
