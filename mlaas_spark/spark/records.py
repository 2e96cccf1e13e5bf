"""Parquet, JSON and CSV through Spark's own readers: their schema, their entries, and their rows as event batches.

Entries are numbered as they lie in the file: a block that Spark reads in one task (a split of the file) is an entry
range, blocks are counted once, and rows of a block come in order.
"""

from __future__ import annotations

import bisect
import csv
import hashlib
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import functions as F  # noqa: N812 - the name Spark's own documentation uses
from pyspark.sql import types as T  # noqa: N812

from mlaas_spark import storage
from mlaas_spark.config import Format
from mlaas_spark.errors import ConfigError, FilesetError, SpecsError, UnreadableInputError, reason
from mlaas_spark.plan import EntryRange, Plan, PlannedFile
from mlaas_spark.schema import ENTRY, FILE, Branch, EventSchema, Omitted, column_name
from mlaas_spark.spark.damage import located, refuse_lost_records
from mlaas_spark.spark.preproc import BLOCK, PATH, preprocessed, runs
from mlaas_spark.spark.session import local, on_executor, partitions, received

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from pyspark.sql import DataFrame, SparkSession

    from mlaas_spark.fileset import InputFile
    from mlaas_spark.usercode import UserFile

_Columns: TypeAlias = tuple[tuple[str, str], ...]

_KEPT = (
    "spark.sql.files.maxPartitionBytes",
    "spark.sql.files.openCostInBytes",
    "spark.sql.session.timeZone",
    "spark.sql.execution.arrow.maxRecordsPerBatch",
)
"""Settings of the user's session that hold for reading."""

_SAMPLE = 1 << 20  # bytes of head and tail that identify a file

_LIST = r"^\s*\[([-+0-9.eE,\s]|NaN|Infinity)*\]\s*$"
_NOT_FINITE_TOO = r"(?i)^\s*[-+]?(\d+\.?\d*(e[-+]?\d+)?|\.\d+(e[-+]?\d+)?|nan|inf|infinity)\s*$"

_NUMBERS: dict[type[T.DataType], str] = {
    T.BooleanType: "bool",
    T.ByteType: "int8",
    T.ShortType: "int16",
    T.IntegerType: "int32",
    T.LongType: "int64",
    T.FloatType: "float32",
    T.DoubleType: "float64",
}


@dataclass(frozen=True)
class Records:
    """Rows of the input as Spark reads them: a column for each branch, and each row's file and block.

    Attributes:
        frame: The DataFrame.
        paths: Index of the file of each path, as Spark spells it.
        blocks: First entry of each (path, block).
    """

    frame: DataFrame
    paths: dict[str, int]
    blocks: dict[tuple[str, int], int]


def open_records(
    spark: SparkSession, files: Sequence[InputFile], preproc: UserFile | None
) -> tuple[Records, list[PlannedFile], EventSchema]:
    """Infer the schema, count the entries of each block, identify the files.

    Raises:
        UnreadableInputError: A file is empty or not of its format.
        SpecsError: The files have not the same columns.
        ConfigError: ``preproc`` for a format without records.
    """
    kind = files[0].format
    if preproc is not None and kind is Format.PARQUET:
        msg = "preproc runs for records of JSON and CSV; Parquet has columns: use selection and derive instead"
        raise ConfigError(msg)
    uuids = _fingerprints(spark, files)
    spark = _with_fixed_blocks(spark)
    names = ", ".join(file.path for file in files[:3])
    with received(names), located(spark, files):
        if kind is Format.JSON:
            refuse_lost_records(spark, files)
        raw = _read(spark, kind, [file.path for file in files])
        if preproc is not None:
            raw = preprocessed(spark, raw, preproc)
        frame, schema = _flattened(raw, kind)
        counts = frame.groupBy(PATH, BLOCK).agg(F.count(F.lit(1)).alias("entries")).collect()
    index_of = {local(file.path): index for index, file in enumerate(files)}
    paths = {row[PATH]: index_of[local(row[PATH])] for row in counts}
    per_file: dict[int, list[tuple[int, str, int]]] = {index: [] for index in range(len(files))}
    for row in counts:
        per_file[paths[row[PATH]]].append((row[BLOCK], row[PATH], row["entries"]))
    blocks: dict[tuple[str, int], int] = {}
    planned = []
    for index, file in enumerate(files):
        edges = [0]
        for block, path, entries in sorted(per_file[index]):
            blocks[path, block] = edges[-1]
            edges.append(edges[-1] + entries)
        planned.append(
            PlannedFile(file.path, kind, "", uuids[index], edges[-1], file.label, file.weight, file.group, tuple(edges))
        )
    return Records(frame, paths, blocks), planned, schema


def _with_fixed_blocks(spark: SparkSession) -> SparkSession:
    """A session of its own, in which every job cuts the files into the blocks that were counted.

    Spark sizes them by the cores it has at the moment, which change while executors come and go.
    """
    fixed = spark.newSession()
    for key in _KEPT:
        if (value := spark.conf.get(key)) is not None:
            fixed.conf.set(key, value)
    fixed.conf.set("spark.sql.files.minPartitionNum", str(spark.sparkContext.defaultParallelism))
    return fixed


def ranges_of(
    records: Records, plan: Plan
) -> Callable[[Iterator[pa.RecordBatch]], Iterator[tuple[EntryRange, pa.RecordBatch]]]:
    """Reader of the DataFrame's batches: cut where the range changes, with file index and entry number."""
    paths, blocks, schema = records.paths, records.blocks, plan.schema
    ranges: dict[int, list[EntryRange]] = {}
    for r in plan.ranges:
        ranges.setdefault(r.file, []).append(r)
    starts = {file: [r.start for r in of_file] for file, of_file in ranges.items()}

    def cut(batches: Iterator[pa.RecordBatch]) -> Iterator[tuple[EntryRange, pa.RecordBatch]]:
        done: dict[tuple[str, int], int] = {}
        for batch in batches:
            for path, block, rows in runs(batch):
                file = paths[path]
                first = blocks[path, block] + done.get((path, block), 0)
                done[path, block] = done.get((path, block), 0) + rows.num_rows
                place = bisect.bisect_right(starts.get(file, []), first) - 1
                if place < 0 or first >= ranges[file][place].stop:
                    continue  # beyond the number of events that were asked for
                entries = ranges[file][place]
                yield entries, _events(rows.slice(0, entries.stop - first), schema, file, first, path)

    return cut


def _events(rows: pa.RecordBatch, schema: EventSchema, file: int, first: int, path: str) -> pa.RecordBatch:
    columns = []
    for branch in schema.branches:
        try:
            columns.append(rows.column(branch.name).cast(branch.arrow_type))
        except pa.ArrowInvalid as error:
            why = f"branch {branch.name!r} has a value that is no {branch.describes} ({reason(error)})"
            raise UnreadableInputError(local(path), why, None, (first, first + rows.num_rows)) from error
    columns.append(pa.array(np.full(rows.num_rows, file, np.int32)))
    columns.append(pa.array(np.arange(first, first + rows.num_rows)))
    return pa.RecordBatch.from_arrays(columns, names=[*schema.names, FILE, ENTRY])


def _read(spark: SparkSession, kind: Format, paths: list[str]) -> DataFrame:
    reader = spark.read.option("mode", "FAILFAST")
    if kind is Format.PARQUET:
        frame = reader.parquet(*paths)
    elif kind is Format.JSON:
        frame = reader.json(paths)
    else:
        # without pruning: a reader that needs but some columns takes a line with too few or too many for a good one
        reader = reader.options(header="true", inferSchema="true", columnPruning="false")
        frame = reader.csv(paths)
    return _placed(frame, [F.col(f"`{name}`") for name in frame.columns])


def _placed(frame: DataFrame, columns: list[Any]) -> DataFrame:
    return frame.select(
        *columns,
        F.col("_metadata.file_path").alias(PATH),
        F.col("_metadata.file_block_start").alias(BLOCK),
    )


def _flattened(frame: DataFrame, kind_of_file: Format) -> tuple[DataFrame, EventSchema]:
    """Columns that can be branches, nested records flattened to dotted names; what cannot is listed with its reason."""
    branches: list[Branch] = []
    omitted: list[Omitted] = []
    expressions: dict[str, Any] = {}
    texts: list[tuple[str, Any]] = []
    for source, kind, column in _leaves(frame):
        if isinstance(kind, T.StringType):
            texts.append((source, column))
            continue
        value = kind.elementType if isinstance(kind, T.ArrayType) else kind
        dtype = _decimal_type(value) if isinstance(value, T.DecimalType) else _NUMBERS.get(type(value))
        if dtype is None:
            omitted.append(Omitted(source, _why_not(kind)))
            continue
        jagged = isinstance(kind, T.ArrayType)
        branches.append(Branch(column_name(source), source, dtype, jagged))
        fractional = isinstance(value, T.DecimalType) and dtype == "float64"
        expressions[source] = column.cast("array<double>" if jagged else "double") if fractional else column
    for source, column, jagged in _numbers_in_text(frame, kind_of_file, texts, omitted):
        branches.append(Branch(column_name(source), source, "float64", jagged))
        expressions[source] = column
    schema = EventSchema.of(branches, omitted)
    columns = [expressions[branch.source].alias(branch.name) for branch in schema.branches]
    return frame.select(*columns, PATH, BLOCK), schema


def _decimal_type(kind: T.DecimalType) -> str:
    """Spark has no unsigned integers: a uint64 of Parquet, and an integer of JSON beyond int64, is a decimal(20, 0)."""
    return "uint64" if (kind.precision, kind.scale) == (20, 0) else "float64"


def _leaves(frame: DataFrame) -> Iterator[tuple[str, T.DataType, Any]]:
    def walk(name: str, kind: T.DataType, column: Any) -> Iterator[tuple[str, T.DataType, Any]]:
        if isinstance(kind, T.StructType):
            for field in kind.fields:
                yield from walk(f"{name}.{field.name}", field.dataType, column.getField(field.name))
        else:
            yield name, kind, column

    for field in frame.schema.fields:
        if field.name not in {PATH, BLOCK}:
            yield from walk(field.name, field.dataType, F.col(f"`{field.name}`"))


def _numbers_in_text(
    frame: DataFrame, kind_of_file: Format, texts: list[tuple[str, Any]], omitted: list[Omitted]
) -> Iterator[tuple[str, Any, bool]]:
    """Text columns whose every value is a number, or a JSON list of numbers, and whether it is the list.

    It is how CSV holds a jagged branch, and a flat one that has NaN or infinity in numpy's spelling; in the other
    formats a text that looks like a number is meant as a text.
    """
    if not texts:
        return
    tests = [
        F.min(column.rlike(pattern).cast("int")).alias(f"{kind}{number}")
        for number, (_, column) in enumerate(texts)
        for kind, pattern in (("list", _LIST), ("flat", _NOT_FINITE_TOO))
    ]
    answers = frame.agg(*tests).first()
    for number, (source, column) in enumerate(texts):
        if answers is not None and answers[f"list{number}"] == 1:
            yield source, F.from_json(column, "array<double>", {"mode": "FAILFAST"}), True
        elif answers is not None and kind_of_file is Format.CSV and answers[f"flat{number}"] == 1:
            yield source, column.cast("double"), False
        else:
            omitted.append(Omitted(source, "strings are not numbers"))


def _why_not(kind: T.DataType) -> str:
    if isinstance(kind, T.ArrayType):
        inner = kind.elementType
        if isinstance(inner, T.ArrayType):
            return "nested lists (more than one jagged dimension)"
        return "strings are not numbers" if isinstance(inner, T.StringType) else f"lists of {inner.simpleString()}"
    return f"values of type {kind.simpleString()}"


def _fingerprints(spark: SparkSession, files: Sequence[InputFile]) -> list[str]:
    """What identifies each file: 32 hexadecimal digits over size, first and last mebibyte; taken on executors.

    Spark reads all files with the columns of one: files whose columns differ are refused.
    """

    def read(some: Iterable[InputFile]) -> Iterator[tuple[str, str, _Columns | None]]:
        known: set[_Columns] = set()
        with on_executor():
            for file in some:
                uuid = _fingerprint(file.path)
                columns = _columns(file)
                yield file.path, uuid, None if columns in known else columns
                known.add(columns)

    spread = spark.sparkContext.parallelize(list(files), partitions(spark, len(files)))
    with received():
        found = spread.mapPartitions(read).collect()
    first: dict[str, str] = {}
    for path, uuid, columns in found:
        if (other := first.setdefault(uuid, path)) != path:
            msg = f"{path} is a copy of {other}: its events would count twice; name one"
            raise FilesetError(msg)
        if columns is not None:
            _refuse_other_columns(found[0][0], found[0][2] or (), path, columns)
    return [uuid for _, uuid, _ in found]


def _fingerprint(path: str) -> str:
    try:
        size, head, tail = storage.head_and_tail(path, _SAMPLE)
    except FileNotFoundError as error:
        raise UnreadableInputError(path, "no such file") from error
    except OSError as error:
        raise UnreadableInputError(path, reason(error)) from error
    if not size:
        raise UnreadableInputError(path, "the file is empty (0 bytes)")
    return hashlib.sha256(b"%d;" % size + head + tail).hexdigest()[:32]


def _columns(file: InputFile) -> _Columns:
    """Name and type of each column, where the file says them itself: Parquet's schema, the first line of CSV."""
    if file.format is Format.JSON:
        return ()
    try:
        if file.format is Format.CSV:
            text = {"encoding": "utf-8-sig", "errors": "replace", "newline": ""}
            with fsspec.open(file.path, "rt", compression="infer", **text) as stream:
                return tuple((name, "") for name in next(csv.reader(stream), []))
        fs, path = storage.filesystem(file.path)
        with fs.open(path, "rb") as stream:
            return tuple(sorted((field.name, _kind(field.type)) for field in pq.read_schema(stream)))
    except (OSError, EOFError, zlib.error, csv.Error, pa.ArrowException) as error:
        raise UnreadableInputError(file.path, f"it is no {file.format} file ({reason(error)})") from error


def _kind(kind: pa.DataType) -> str:
    """A type by name; who wrote a list, and how it names its elements, makes no difference."""
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    return f"list<{_kind(kind.value_type)}>" if is_list else str(kind)


def _refuse_other_columns(first_path: str, first: _Columns, path: str, columns: _Columns) -> None:
    one, other = dict(first), dict(columns)
    for name in sorted(one.keys() ^ other.keys()):
        has, lacks = (first_path, path) if name in one else (path, first_path)
        msg = f"branch {name!r} is in {has} but not in {lacks}: files that are read together have the same branches"
        raise SpecsError(msg)
    for name, kind in first:
        if kind != other[name]:
            msg = f"branch {name!r} is {kind} in {first_path} but {other[name]} in {path}"
            raise SpecsError(msg)
    if first != columns:
        msg = f"the columns of {first_path} and {path} are in another order: CSV files are read by position"
        raise SpecsError(msg)
