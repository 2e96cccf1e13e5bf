"""Where a JSON or CSV file is broken: file, line and entry, which Spark's readers do not tell, or pass over.

A line is one record. Files are read on executors, by Python's own ``json`` and ``csv``, and only those in question.
"""

from __future__ import annotations

import csv
import json
import zlib
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import fsspec
import pyarrow as pa
from py4j.protocol import Py4JError
from pyspark.errors import PySparkException
from pyspark.sql import functions as F  # noqa: N812 - the name Spark's own documentation uses

from mlaas_spark import storage
from mlaas_spark.errors import DamagedInputError, UnreadableInputError, reason
from mlaas_spark.formats import Format
from mlaas_spark.spark.session import file_of, literal, local, on_executor, spread, unreadable, unschemed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from pyspark.sql import SparkSession

    from mlaas_spark.filesets import InputFile

_SHOWN = 60  # characters of a broken line in a message

_MORE = r"\}\s*(?:,\s*\{|[^\s,\]}])"
"""A closing brace and what may be no more of the record; lists of records and text in quotes look so too."""


class Fault(NamedTuple):
    """A line that is no record.

    Attributes:
        path: The file.
        why: The line's number, from 1, and what is wrong.
        entry: Number of the entry that the line would be.
    """

    path: str
    why: str
    entry: int

    def error(self) -> DamagedInputError:
        """As an error."""
        return DamagedInputError(self.path, self.why, None, (self.entry, self.entry + 1))


@contextmanager
def located(spark: SparkSession, files: Sequence[InputFile], named: tuple[str, ...] = ()) -> Iterator[None]:
    """Turn a failure of Spark's JSON and CSV readers on ``files`` into one that says where.

    CSV has a header line unless its columns are ``named``.

    If no broken line is found Spark's error goes on as it is.

    Raises:
        UnreadableInputError: With file, entry, number and beginning of the line.
    """
    try:
        yield
    except (PySparkException, Py4JError) as error:
        if unreadable(error) is None:
            raise
        culprit = file_of(error)
        found = _first(spark, [file for file in files if unschemed(file.path) == culprit] or files, len(named))
        if found is None:
            raise
        raise found.error() from error


def refuse_lost_records(spark: SparkSession, files: Sequence[InputFile]) -> None:
    """Refuse JSON lines that go on after their record: Spark would read the first record and drop the rest.

    Raises:
        UnreadableInputError: With file, entry, number and beginning of the line.
    """

    def broken(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        with on_executor():
            for batch in batches:
                paths = zip(*(batch.column(name).to_pylist() for name in ("path", "value")), strict=True)
                found = {path for path, line in paths if line.strip() and _no_record(line)}
                yield pa.RecordBatch.from_arrays([pa.array(sorted(found), pa.string())], names=["path"])

    lines = spark.read.text([literal(file.path) for file in files])
    line, end = F.col("value"), F.rtrim("value")
    is_one = F.json_array_length(F.concat(F.lit("["), line, F.lit("]"))) == 1  # null where Jackson stumbles, as at NaN
    doubtful = lines.filter(
        ~(end.endswith("}") | end.endswith("]")) | (line.rlike(_MORE) & ~(is_one.isNotNull() & is_one))
    )
    rows = doubtful.select("value", F.col("_metadata.file_path").alias("path")).mapInArrow(broken, "path string")
    paths = {local(row.path) for row in rows.distinct().collect()}
    if paths and (found := _first(spark, [file for file in files if unschemed(file.path) in paths])):
        raise found.error()


def _first(spark: SparkSession, files: Sequence[InputFile], fields: int = 0) -> Fault | None:
    """The first broken line of the first file that has one."""
    return next(iter(first_faults(spark, files, fields)), None)


def first_faults(spark: SparkSession, files: Sequence[InputFile], fields: int = 0) -> list[Fault]:
    """The first broken line of each file that has one."""

    def search(some: Iterable[InputFile]) -> Iterator[Fault]:
        yield from filter(None, (first_fault(file, fields) for file in some))

    return spread(spark, files, search)


def first_fault(file: InputFile, fields: int = 0) -> Fault | None:
    """The first line of a JSON or CSV file that is no record, or after which the file cannot be read; None if none.

    CSV lines have ``fields`` fields, or as many as the header, which is there if it is 0.
    """
    number, entry = 0, 0
    wrong: Callable[[str], str | None] | None = _row_of(fields) if fields else None
    if file.format is Format.JSON:
        wrong = _no_record
    try:
        with fsspec.open(file.path, "rb", compression="infer") as stream:
            for number, line in enumerate(stream, 1):
                text = line.decode("utf-8", "surrogateescape").strip("\r\n\ufeff")
                if not text.strip():
                    continue
                if wrong is None:
                    wrong = _row_of(_cells(text))
                elif why := wrong(text):
                    return Fault(file.path, f"line {number} {why}: {_shown(text)}", entry)
                else:
                    entry += 1
    except (OSError, EOFError, zlib.error) as error:
        if storage.is_trouble(error):  # the file may be whole
            raise UnreadableInputError(file.path, storage.why(error)) from error
        return Fault(file.path, f"it cannot be read after line {number} ({reason(error)})", entry)
    return None


def _no_record(line: str) -> str | None:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        return f"is no JSON record ({error.msg}, column {error.colno})"
    if not _is_utf8(line):
        return "is no UTF-8 text"
    records = record if isinstance(record, list) else [record]
    odd = [_JSON_NAMES[type(one)] for one in records if not isinstance(one, dict)]
    return f"is {odd[0]}, not a JSON record" if odd else None


_JSON_NAMES: dict[type[Any], str] = {
    list: "a list",
    str: "a text",
    bool: "a truth value",
    int: "a number",
    float: "a number",
    type(None): "null",
}


def _row_of(columns: int) -> Callable[[str], str | None]:
    def wrong(line: str) -> str | None:
        if (cells := _cells(line)) == columns:
            return None
        return f"has {cells} field{'s' * (cells != 1)} for {columns} column{'s' * (columns != 1)}"

    return wrong


def _cells(line: str) -> int:
    """Fields of a line of CSV, quoted as Spark reads them."""
    return len(next(csv.reader([line], escapechar="\\")))


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _shown(line: str) -> str:
    text = line.encode("utf-8", "surrogateescape").decode("utf-8", "replace").strip()
    return repr(text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…")
