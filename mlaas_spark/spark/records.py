"""JSON and CSV through Spark's own readers: their schema, their entries, and their rows as event batches.

Entries are numbered as they lie in the file: a block that Spark reads in one task (a split of the file) is an entry
range, blocks are counted once, and rows of a block come in order. Blocks are a function of the files alone.

Of records in records, and of lists of records, each value is a branch with a dotted name. Times are seconds, nulls stay
nulls. Text of CSV whose every value is a number is a number, as CSV has no types; text of JSON that looks like one is
meant as text. A file lacks a branch that neither its header (of JSON its first records) names nor any of
its events has a value of.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass, replace
from functools import partial, reduce
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F  # noqa: N812 - the name Spark's own documentation uses
from pyspark.sql import types as T  # noqa: N812

from mlaas_spark import storage
from mlaas_spark.errors import DamagedInputError, reason
from mlaas_spark.formats import Format
from mlaas_spark.plan import EntryRange, Plan, PlannedFile, copy_numbers
from mlaas_spark.schema import ENTRY, FILE, NESTED, NO_VALUE, STRING, Branch, EventSchema, Omitted, column_name
from mlaas_spark.skipping import Skipped
from mlaas_spark.spark.damage import first_faults, located, refuse_lost_records
from mlaas_spark.spark.headers import Columns, Header, read_headers
from mlaas_spark.spark.preproc import BLOCK, PATH, preprocessed, runs
from mlaas_spark.spark.session import gathered, literal, local, quoted, received, spread, unschemed

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

    from pyspark.sql import Column, DataFrameReader, Row, SparkSession

    from mlaas_spark.filesets import InputFile
    from mlaas_spark.spark.ranges import Batches, Unread
    from mlaas_spark.spark.session import R
    from mlaas_spark.usercode import UserFile

    Opened: TypeAlias = "tuple[Records, list[PlannedFile], list[tuple[str, EventSchema]]]"

_WIDER = (T.IntegerType, T.LongType, T.DoubleType)

_CSV: dict[str, Any] = {
    "inferSchema": True,
    # a reader that needs but some columns takes a line with too few or too many for a good one
    "columnPruning": False,
    # without a format 12:30 would be a time of the day on which it is read
    "timestampFormat": "yyyy-MM-dd[ ]['T']HH:mm[:ss][.SSSSSSSSS][XXX]",
}

_KEPT = (
    "spark.sql.files.maxPartitionBytes",
    "spark.sql.files.openCostInBytes",
    "spark.sql.session.timeZone",
    "spark.sql.execution.arrow.maxRecordsPerBatch",
)
"""Settings that hold for reading where the user's session has them."""

_BLOCK_BYTES = 1 << 25  # some 10,000 events, a second or two of work
_TASKS_OF_SMALL_FILES = 256

_ENTRIES = "__entries"
_LIST_OF = "list<"
_LIST = r"^\s*\[([-+0-9.eE,\s]|NaN|Infinity)*\]\s*$"
_NOT_FINITE_TOO = r"(?i)^\s*[-+]?(\d+\.?\d*(e[-+]?\d+)?|\.\d+(e[-+]?\d+)?|nan|inf|infinity)\s*$"


_TYPES: dict[type[T.DataType], str] = {
    T.BooleanType: "bool",
    T.ByteType: "int8",
    T.ShortType: "int16",
    T.IntegerType: "int32",
    T.LongType: "int64",
    T.FloatType: "float32",
    T.DoubleType: "float64",
    T.StringType: STRING,
}


@dataclass(frozen=True)
class Records:
    """Rows of the input as Spark reads them.

    Attributes:
        frame: The rows: a column for each branch, and each row's file and block.
        paths: Index of the file of each path, as Spark spells it.
        blocks: First entry of each (path, block).
    """

    frame: DataFrame
    paths: dict[str, int]
    blocks: dict[tuple[str, int], int]

    def rows(self, spark: SparkSession, plan: Plan) -> DataFrame:
        """The plan's branches of all rows, as :func:`_rows` gives them; of the session that has the fixed blocks."""
        del spark
        return _rows(self.frame, plan.schema.names)

    def reader(self, plan: Plan) -> Callable[[Iterator[pa.RecordBatch]], Batches]:
        """Reader of the DataFrame's batches: cut where the range changes, with file index and entry number."""
        return _ranges_of(self.paths, self.blocks, plan)

    def run(self, spark: SparkSession, plan: Plan, work: Callable[[Batches], Iterable[R]]) -> list[R]:
        """What ``work`` makes of the events."""
        read = self.reader(plan)
        made = gathered(self.rows(spark, plan), lambda batches: work(read(batches)))
        # a file that has become shorter gives no row where it had a block, and no task that would see it
        spread(spark, sorted({(plan.files[r.file].path, plan.files[r.file].uuid) for r in plan.ranges}), _same)
        return made

    def reordered(self, places: Mapping[int, int]) -> Records:
        """The same for plans that have each file at another place."""
        return replace(self, paths={path: places[file] for path, file in self.paths.items()})

    def attempt(
        self, spark: SparkSession, plan: Plan, work: Callable[[Batches], Iterable[R]]
    ) -> tuple[list[R], list[Unread]]:
        """What ``work`` makes of the events: damaged files were found, and left out, when all were opened."""
        return self.run(spark, plan, work), []

    def of(self, files: Collection[int]) -> Records:
        """The rows of some files; Spark reads no other."""
        paths = [path for path, file in self.paths.items() if file in files]
        return replace(self, frame=self.frame.where(F.col(PATH).isin(paths)))


def open_whole(
    spark: SparkSession, files: Sequence[InputFile], open_all: Callable[..., Opened], named: tuple[str, ...] = ()
) -> tuple[Records, list[PlannedFile], list[tuple[str, EventSchema]], list[Skipped]]:
    """What ``open_all``, an :func:`open_records`, gives of the files that are whole; and the damaged ones.

    Lines are looked at by Python first, all files at once; what Spark alone stumbles on is told by its error, one file
    a try.

    Raises:
        DamagedInputError: All files are damaged.
        MlaasSparkError: As :func:`open_records`, of what is no damage.
    """
    found = first_faults(spark, files, len(named))
    skipped = [Skipped(fault.path, fault.why) for fault in found]
    left = list(files)
    while True:
        bad = {item.path for item in skipped}
        if not (left := [file for file in left if file.path not in bad]):
            raise DamagedInputError(skipped[-1].path, skipped[-1].reason)
        try:
            return (*open_all(left), skipped)
        except DamagedInputError as error:
            culprits = [file.path for file in left if unschemed(file.path) == unschemed(error.path)]
            if not culprits:
                raise
            skipped.append(Skipped(culprits[0], error.why))


def open_records(
    spark: SparkSession,
    files: Sequence[InputFile],
    preproc: UserFile | None,
    texts: frozenset[str] = frozenset(),
    named: tuple[str, ...] = (),
    *,
    allow_copies: bool = False,
) -> tuple[Records, list[PlannedFile], list[tuple[str, EventSchema]]]:
    """Infer the schemas, count the entries of each block, identify the files.

    Args:
        spark: The session.
        files: Input files, all of JSON or all of CSV.
        preproc: User's function for records of JSON and CSV.
        texts: Column names of branches that stay text, whatever it looks like.
        named: Columns of CSV files that have no header line; () where they have one.
        allow_copies: Whether two files may have the same content.

    Returns:
        The rows; the files; each schema that a file has, with the first such file.

    Raises:
        UnreadableInputError: A file is empty or not of its format.
        ConfigError: ``preproc`` cannot be used.
        FilesetError: Two files have the same content, and copies are not allowed.
    """
    kind = files[0].format
    headers = read_headers(spark, files, named)
    contents = [(file.path, header.uuid, "") for file, header in zip(files, headers, strict=True)]
    copies = copy_numbers(contents, allowed=allow_copies)
    spark = _with_fixed_blocks(spark, len(files))
    names = ", ".join(file.path for file in files[:3])
    with received(names), located(spark, files, named):
        if kind is Format.JSON:
            refuse_lost_records(spark, files)
        raw = _read(spark, files, headers, texts, named)
        if preproc is not None:
            raw = preprocessed(spark, raw, preproc)
        frame, schema = _flattened(raw, kind, texts)
        columns = [header.columns if preproc is None else _untyped(header.columns) for header in headers]
        unsaid = _unsaid(schema, columns)
        values = [F.count(str(place)).alias(str(place)) for place in range(len(unsaid))]
        counts = _rows(frame, unsaid).groupBy(PATH, BLOCK).agg(F.count(F.lit(1)).alias(_ENTRIES), *values).collect()
    index_of = {unschemed(file.path): index for index, file in enumerate(files)}
    paths = {row[PATH]: index_of[local(row[PATH])] for row in counts}
    of_files: list[list[Row]] = [[] for _ in files]
    for row in sorted(counts, key=lambda row: row[BLOCK]):
        of_files[paths[row[PATH]]].append(row)
    empty = [
        frozenset(name for place, name in enumerate(unsaid) if blocks and not any(row[str(place)] for row in blocks))
        for blocks in of_files
    ]
    schemas = _schemas(schema, columns, empty)
    every = {name for of_file in schemas for name in of_file.names}
    planned = []
    starts: dict[tuple[str, int], int] = {}
    for file, header, of_file, blocks, copy in zip(files, headers, schemas, of_files, copies, strict=True):
        edges = [0]
        for row in blocks:
            starts[row[PATH], row[BLOCK]] = edges[-1]
            edges.append(edges[-1] + row[_ENTRIES])
        lacks = tuple(sorted(every - {*of_file.names}))
        rest = (file.label, file.weight, file.group, tuple(edges))
        planned.append(PlannedFile(file.path, kind, "", header.uuid, edges[-1], *rest, (), lacks, len(blocks), copy))
    first: dict[EventSchema, str] = {}
    for file, of_file in zip(files, schemas, strict=True):
        first.setdefault(of_file, file.path)
    return Records(frame, paths, starts), planned, [(path, of_file) for of_file, path in first.items()]


def _rows(frame: DataFrame, names: Sequence[str]) -> DataFrame:
    """The named branches of all rows, and each row's file and block.

    Columns are named by their place: a branch may have a name that is none for Spark.
    """
    return frame.select(*(F.col(quoted(name)).alias(str(place)) for place, name in enumerate(names)), PATH, BLOCK)


# --- which file has which branch --------------------------------------------------------------------------------------


def _untyped(columns: Columns) -> Columns:
    """The names alone: the user's function may give the values another type."""
    return tuple((name, "") for name, _ in columns)


def _unsaid(schema: EventSchema, columns: Sequence[Columns]) -> list[str]:
    """Branches that are not among the columns of some file: whether it has them, its values tell.

    JSON has no header, and the user's function may add columns.
    """
    if len(columns) == 1:
        return []
    said = [{name for name, _ in of_file} for of_file in {*columns}]
    return sorted(branch.name for branch in schema.branches if not all(branch.source in names for names in said))


def _schemas(schema: EventSchema, columns: Sequence[Columns], empty: Sequence[frozenset[str]]) -> list[EventSchema]:
    """The schema of each file: without the branches that it neither names nor has a value of.

    Of JSON that is a number in one file and a text in another Spark makes text; each file gets its own type back.
    """
    said = {of_file: dict(of_file) for of_file in {*columns}}
    texts = [branch.source for branch in schema.branches if STRING in branch.dtype]
    disputed = {source for source in texts if len({kinds.get(source) for kinds in said.values()} - {None, ""}) > 1}

    def made(of_file: Columns, lacking: frozenset[str]) -> EventSchema:
        kinds = said[of_file]
        branches = (
            _retyped(branch, kinds[branch.source]) if branch.source in disputed & kinds.keys() else branch
            for branch in schema.branches
            if branch.source in kinds or branch.name not in lacking
        )
        return EventSchema(tuple(branches), schema.omitted)

    schemas = {key: made(*key) for key in {*zip(columns, empty, strict=True)}}
    return [schemas[key] for key in zip(columns, empty, strict=True)]


def _retyped(branch: Branch, kind: str) -> Branch:
    """The branch with a type as a JSON file's first records have it; as it is if they say nothing."""
    jagged = kind.startswith(_LIST_OF)
    dtype = kind.removeprefix(_LIST_OF).removesuffix(">") if jagged else kind
    return replace(branch, dtype=dtype, jagged=jagged) if kind else branch


# --- Spark's readers --------------------------------------------------------------------------------------------------


def _with_fixed_blocks(spark: SparkSession, files: int) -> SparkSession:
    """A session of its own, in which a file is cut into blocks, and blocks shared out to tasks, by the files alone.

    Spark sizes blocks by the cores it has at the moment, which change while executors come and go; entry ranges, and
    with them what a converted data set is, would be others on another cluster.
    """
    settings = {
        "spark.sql.files.maxPartitionBytes": str(_BLOCK_BYTES),
        # of what a task may read; small files go together where there are very many
        "spark.sql.files.openCostInBytes": str(_BLOCK_BYTES // -(-files // _TASKS_OF_SMALL_FILES)),
    }
    settings |= {key: value for key in _KEPT if (value := spark.conf.get(key, None)) is not None}
    fixed = spark.newSession()
    for key, value in settings.items():
        fixed.conf.set(key, value)
    fixed.conf.set("spark.sql.files.minPartitionNum", "1")
    fixed.conf.set("spark.sql.caseSensitive", "true")  # as names are in the files
    return fixed


def _ranges_of(
    paths: dict[str, int], blocks: dict[tuple[str, int], int], plan: Plan
) -> Callable[[Iterator[pa.RecordBatch]], Iterator[tuple[EntryRange, pa.RecordBatch]]]:
    schema = plan.schema
    ranges: dict[int, list[EntryRange]] = {}
    for r in plan.ranges:
        ranges.setdefault(r.file, []).append(r)
    starts = {file: [r.start for r in of_file] for file, of_file in ranges.items()}
    planned = [(file.path, file.uuid) for file in plan.files]

    def cut(batches: Iterator[pa.RecordBatch]) -> Iterator[tuple[EntryRange, pa.RecordBatch]]:
        done: dict[tuple[str, int], int] = {}
        seen: set[str] = set()
        for batch in batches:
            for path, block, rows in runs(batch):
                file = paths[path]
                if path not in seen:
                    seen.add(path)
                    storage.refuse_replaced(*planned[file])  # Spark reads whatever has the name
                first = blocks[path, block] + done.get((path, block), 0)
                done[path, block] = done.get((path, block), 0) + rows.num_rows
                place = bisect.bisect_right(starts.get(file, []), first) - 1
                if place < 0 or first >= ranges[file][place].stop:
                    continue  # beyond the number of events that were asked for
                entries = ranges[file][place]
                yield entries, _events(rows.slice(0, entries.stop - first), schema, file, first, path)

    return cut


def _same(planned: Iterator[tuple[str, str]]) -> Iterator[bool]:
    for path, uuid in planned:
        storage.refuse_replaced(path, uuid)
        yield True


def _events(rows: pa.RecordBatch, schema: EventSchema, file: int, first: int, path: str) -> pa.RecordBatch:
    columns = []
    for place, branch in enumerate(schema.branches):
        try:
            columns.append(rows.column(place).cast(branch.arrow_type))
        except pa.ArrowInvalid as error:
            why = f"branch {branch.name!r} has a value that is no {branch.describes} ({reason(error)})"
            raise DamagedInputError(local(path), why, None, (first, first + rows.num_rows)) from error
    columns.append(pa.array(np.full(rows.num_rows, file, np.int32)))
    columns.append(pa.array(np.arange(first, first + rows.num_rows)))
    return pa.RecordBatch.from_arrays(columns, names=[*schema.names, FILE, ENTRY])


def _read(
    spark: SparkSession,
    files: Sequence[InputFile],
    headers: Sequence[Header],
    texts: frozenset[str],
    named: tuple[str, ...],
) -> DataFrame:
    """The rows of all files, whose types are of all their values."""
    reader = spark.read.option("mode", "FAILFAST")
    paths = [literal(file.path) for file in files]
    if files[0].format is Format.JSON:
        return _placed(reader.json(paths))
    groups: dict[Columns, list[str]] = {}
    for path, header in zip(paths, headers, strict=True):
        groups.setdefault(header.columns, []).append(path)
    return _read_csv(reader.options(**_CSV, header=not named), list(groups.values()), texts, named)


def _read_csv(
    reader: DataFrameReader, groups: list[list[str]], texts: frozenset[str], named: tuple[str, ...]
) -> DataFrame:
    """CSV files, which Spark reads by position: each group has columns, in an order, of its own."""
    frames = [reader.csv(paths) for paths in groups]
    names = [named or frame.columns for frame in frames]
    kinds: dict[str, list[T.DataType]] = {}
    for of_frame, frame in zip(names, frames, strict=True):
        for name, field in zip(of_frame, frame.schema.fields, strict=True):
            kinds.setdefault(name, []).append(field.dataType)
    if len(frames) > 1 or texts or named:
        types = {
            name: T.StringType() if column_name(name) in texts else _wider(of_name) for name, of_name in kinds.items()
        }
        schemas = [T.StructType([T.StructField(name, types[name]) for name in of_frame]) for of_frame in names]
        frames = [reader.schema(schema).csv(paths) for schema, paths in zip(schemas, groups, strict=True)]
    return reduce(partial(DataFrame.unionByName, allowMissingColumns=True), map(_placed, frames))


def _wider(kinds: Sequence[T.DataType]) -> T.DataType:
    """A type that holds the values of all; text if there is no other, which may be found to be numbers later."""
    if all(kind == kinds[0] for kind in kinds):
        return kinds[0]
    if all(isinstance(kind, T.DecimalType) or type(kind) in _WIDER for kind in kinds):
        return T.DoubleType() if any(type(kind) not in _WIDER[:2] for kind in kinds) else T.LongType()
    return T.StringType()


def _placed(frame: DataFrame) -> DataFrame:
    return frame.select(
        *[F.col(quoted(name)) for name in frame.columns],
        F.col("_metadata.file_path").alias(PATH),
        F.col("_metadata.file_block_start").alias(BLOCK),
    )


def _flattened(frame: DataFrame, kind_of_file: Format, texts: frozenset[str]) -> tuple[DataFrame, EventSchema]:
    """Columns that can be branches, nested records flattened to dotted names; what cannot is listed with its reason."""
    branches: list[Branch] = []
    omitted: list[Omitted] = []
    expressions: dict[str, Column] = {}
    leaves = list(_leaves(frame))
    in_text = _numbers_in_text(frame, kind_of_file, leaves, texts)
    for source, kind, column in leaves:
        found = in_text.get(source) or _value(kind)
        if isinstance(found, str):
            omitted.append(Omitted(source, found))
        else:
            branches.append(Branch(column_name(source), source, found.dtype, found.jagged))
            expressions[source] = found.convert(column)
    schema = EventSchema.of(branches, omitted)
    columns = [expressions[branch.source].alias(branch.name) for branch in schema.branches]
    return frame.select(*columns, PATH, BLOCK), schema


class _Value(NamedTuple):
    """What a branch has in an event, as :class:`Branch` says it, and how Spark's value becomes that."""

    dtype: str
    convert: Callable[[Column], Column]
    jagged: bool = False


def _value(kind: T.DataType) -> _Value | str:
    """The value that a branch has for Spark's of this type, or the reason why it has none.

    Times are seconds since the epoch, dates their midnight, in the time zone of the session (ours has UTC).
    """
    if isinstance(kind, T.ArrayType):
        return _list_of(kind.elementType)
    if isinstance(kind, T.NullType):
        return NO_VALUE
    if isinstance(kind, T.DateType | T.TimestampType | T.TimestampNTZType):
        return _Value("float64", lambda value: value.cast("timestamp").cast("double"))
    if isinstance(kind, T.DecimalType) and _decimal_type(kind) == "float64":
        return _Value("float64", lambda value: value.cast("double"))
    scalar = _decimal_type(kind) if isinstance(kind, T.DecimalType) else _TYPES.get(type(kind))
    return f"values of type {kind.simpleString()}" if scalar is None else _Value(scalar, _as_it_is)


def _list_of(kind: T.DataType) -> _Value | str:
    inner = _value(kind)
    if isinstance(inner, str):
        nested = isinstance(kind, T.ArrayType)
        return NESTED if nested else f"lists of {inner}"
    dtype, convert = f"list<{inner.dtype}>" if inner.jagged else inner.dtype, inner.convert
    each = convert if convert is _as_it_is else lambda values: F.transform(values, convert)
    return _Value(dtype, each, jagged=True)


def _as_it_is(value: Column) -> Column:
    return value


def _decimal_type(kind: T.DecimalType) -> str:
    """Spark has no unsigned integers: an integer of JSON beyond int64 is a decimal(20, 0)."""
    return "uint64" if (kind.precision, kind.scale) == (20, 0) else "float64"


def _leaves(frame: DataFrame) -> Iterator[tuple[str, T.DataType, Column]]:
    """Name, type and expression of each value: of records in records, and of lists of records, the values in them."""

    def walk(name: str, kind: T.DataType, column: Column) -> Iterator[tuple[str, T.DataType, Column]]:
        record = kind.elementType if isinstance(kind, T.ArrayType) else kind
        if not isinstance(record, T.StructType):
            yield name, kind, column
            return
        for field in record.fields:
            inner = T.ArrayType(field.dataType) if isinstance(kind, T.ArrayType) else field.dataType
            yield from walk(f"{name}.{field.name}", inner, column.getField(field.name))

    for field in frame.schema.fields:
        if field.name not in {PATH, BLOCK}:
            yield from walk(field.name, field.dataType, F.col(quoted(field.name)))


def _numbers_in_text(
    frame: DataFrame, kind_of_file: Format, leaves: Sequence[tuple[str, T.DataType, Column]], texts: frozenset[str]
) -> dict[str, _Value | str]:
    """Of text columns those whose every value is a number, or a JSON list of numbers, and those that have no value.

    It is how CSV holds a jagged branch, and a flat one that has NaN or infinity in numpy's spelling; in JSON a text
    that looks like a number is meant as a text, as one of ``texts`` is everywhere. A JSON column of nulls, or of empty
    lists, has no type and comes as text too.
    """
    tests: list[Column] = []
    for number, (_, kind, column) in enumerate(leaves):
        if isinstance(kind, T.StringType):
            tests.append(F.min(column.rlike(_LIST).cast("int")).alias(f"list{number}"))
            tests.append(F.min(column.rlike(_NOT_FINITE_TOO).cast("int")).alias(f"flat{number}"))
            tests.append(F.count(column).alias(f"values{number}"))
        elif _is_text(kind):
            tests.append(F.count(F.when(F.size(column) > 0, 1)).alias(f"values{number}"))
    answers = frame.agg(*tests).first() if tests else None
    if answers is None:
        return {}
    told = answers.asDict()
    found: dict[str, _Value | str] = {}
    for number, (source, *_) in enumerate(leaves):
        if told.get(f"values{number}") == 0:
            found[source] = NO_VALUE
        elif column_name(source) in texts:
            continue
        elif told.get(f"list{number}") == 1:
            found[source] = _Value("float64", _list_in_text, jagged=True)
        elif told.get(f"flat{number}") == 1 and kind_of_file is Format.CSV:
            found[source] = _Value("float64", lambda text: text.cast("double"))
    return found


def _list_in_text(text: Column) -> Column:
    return F.from_json(text, "array<double>", {"mode": "FAILFAST"})


def _is_text(kind: T.DataType) -> bool:
    return _is_text(kind.elementType) if isinstance(kind, T.ArrayType) else isinstance(kind, T.StringType)
