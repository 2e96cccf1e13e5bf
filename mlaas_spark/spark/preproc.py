"""The user's preprocessing of records, on executors: ``preprocessing_batch(DataFrame)``, else ``preprocessing(rec)``.

What comes out is a DataFrame again, with the file and block of each row as before; its schema is found by running the
function over all records once.
"""

from __future__ import annotations

import datetime as dt
import decimal
import json
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import functions as F  # noqa: N812 - the name Spark's own documentation uses
from pyspark.sql.pandas.types import from_arrow_schema

from mlaas_spark.errors import ConfigError, SpecsError, UnreadableInputError, reason
from mlaas_spark.spark.session import local, on_executor, quoted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from pyspark.sql import DataFrame, SparkSession

    from mlaas_spark.usercode import UserFile

PATH = "__path"
BLOCK = "__block"
"""Columns of a row beside its values: the file as Spark spells it, the first byte of the block it was read in."""

_RECORD = "preprocessing"
_BATCH = "preprocessing_batch"

_SPARK_TYPES = {
    pa.uint8(): pa.int16(),
    pa.uint16(): pa.int32(),
    pa.uint32(): pa.int64(),
    pa.uint64(): pa.decimal128(20, 0),  # which Spark has not
    pa.float16(): pa.float32(),
    pa.null(): pa.string(),  # as Spark infers it from JSON
}


def preprocessed(spark: SparkSession, raw: DataFrame, preproc: UserFile) -> DataFrame:
    """Records after the user's function: ``preprocessing_batch`` if the file has it, else ``preprocessing``.

    ``preprocessing_batch(batch: pandas.DataFrame) -> pandas.DataFrame`` gets consecutive records of one file and gives
    as many rows; columns may be added, changed and dropped, the index does not count.
    ``preprocessing(rec: dict) -> dict`` gets one record.

    Raises:
        ConfigError: The file cannot be run, or has neither function.
        UnreadableInputError: The function failed, or gave what is no record; function, file and records are named.
        SpecsError: ``preprocessing_batch`` gave a column types that do not fit together.
    """
    name, _ = preproc.first_of((_BATCH, _RECORD), ConfigError)  # a file that cannot run is refused before a job starts
    # by their places: a column may have a name that is none for Spark
    names = [column for column in raw.columns if column not in {PATH, BLOCK}]
    placed = raw.select(*(F.col(quoted(name)).alias(str(place)) for place, name in enumerate(names)), PATH, BLOCK)
    return _by_batch(placed, names, preproc) if name == _BATCH else _by_record(spark, placed, names, preproc)


def runs(batch: pa.RecordBatch) -> Iterator[tuple[str, int, pa.RecordBatch]]:
    """Slices of a batch in which file and block stay the same, as (path, block, slice)."""
    if not batch.num_rows:
        return
    path = batch.column(PATH).dictionary_encode()
    codes = path.indices.to_numpy().astype(np.int64)
    block = batch.column(BLOCK).to_numpy()
    edges = np.flatnonzero((np.diff(codes) != 0) | (np.diff(block) != 0)) + 1
    for start, stop in zip([0, *edges], [*edges, batch.num_rows], strict=True):
        yield path.dictionary[codes[start]].as_py(), int(block[start]), batch.slice(start, stop - start)


@dataclass(frozen=True)
class _Part:
    """Consecutive records of a block, ``first`` being the number of the first one in it."""

    path: str
    block: int
    first: int
    rows: pa.RecordBatch

    @property
    def records(self) -> pa.RecordBatch:
        """The records alone."""
        return self.rows.select([name for name in self.rows.schema.names if name not in {PATH, BLOCK}])

    def made(self, columns: list[pa.Array], names: list[str]) -> pa.RecordBatch:
        """Other columns for the same records."""
        return pa.RecordBatch.from_arrays(
            [*columns, self.rows.column(PATH), self.rows.column(BLOCK)], names=[*names, PATH, BLOCK]
        )

    def error(self, function: str, why: str, record: int | None = None) -> UnreadableInputError:
        """The error of a call for all the records, or for one of them; messages count records from 1."""
        first, last = self.first + 1, self.first + self.rows.num_rows
        which = f"record {first + record}" if record is not None else f"records {first} to {last}"
        block = f" of the block at byte {self.block}" if self.block else ""
        return UnreadableInputError(local(self.path), f"{function}({which}{block}) {why}")


def _parts(batches: Iterable[pa.RecordBatch], names: list[str]) -> Iterator[_Part]:
    seen: Counter[tuple[str, int]] = Counter()
    for batch in batches:
        named = pa.RecordBatch.from_arrays(batch.columns, names=[*names, PATH, BLOCK])
        for path, block, rows in runs(named):
            yield _Part(path, block, seen[path, block], rows)
            seen[path, block] += rows.num_rows


# --- by batch ---------------------------------------------------------------------------------------------------------


def _by_batch(raw: DataFrame, names: list[str], preproc: UserFile) -> DataFrame:
    def made(batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[_Part, pa.RecordBatch]]:
        with on_executor(), preproc.neighbours():
            function = preproc.function(_BATCH, ConfigError)
            for part in _parts(batches, names):
                yield part, _one_batch(function, preproc, part)

    def schemas(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        found = {of_part.schema.remove_metadata().serialize().to_pybytes() for _, of_part in made(batches)}
        yield pa.RecordBatch.from_arrays([pa.array(sorted(found), pa.binary())], names=["schema"])

    found = raw.mapInArrow(schemas, "schema binary").distinct().collect()
    target = _common([pa.ipc.read_schema(pa.py_buffer(row[0])) for row in sorted(found)], preproc)

    def run(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        with on_executor():
            for part, of_part in made(batches):
                yield part.made([_cast(of_part, field, part) for field in target], target.names)

    whole = from_arrow_schema(target, prefer_timestamp_ntz=True).add(PATH, "string").add(BLOCK, "long")
    return raw.mapInArrow(run, whole)


def _one_batch(function: Callable[[Any], Any], preproc: UserFile, part: _Part) -> pa.RecordBatch:
    try:
        made = function(part.records.to_pandas())
    except Exception as error:
        raise part.error(_BATCH, f"failed: {preproc.explain(error)}") from error
    if not isinstance(made, pd.DataFrame):
        raise part.error(_BATCH, f"of {preproc.path} returned {type(made).__name__}, not a pandas.DataFrame")
    if len(made) != part.rows.num_rows:
        raise part.error(_BATCH, f"of {preproc.path} returned {len(made)} rows for {part.rows.num_rows} records")
    if (odd := _odd_name(list(made.columns))) is not None:
        raise part.error(_BATCH, f"of {preproc.path} returned a column named {odd!r}: give each a name of its own")
    try:
        return pa.RecordBatch.from_pandas(made, preserve_index=False)
    except pa.ArrowException as error:
        raise part.error(_BATCH, f"of {preproc.path} returned values of mixed types ({reason(error)})") from error


def _odd_name(names: list[Any]) -> Any:
    """A name that no column can have: no text, one of ours, or there before; None if all are good."""
    seen = {PATH, BLOCK}
    for name in names:
        if not isinstance(name, str) or name in seen:
            return name
        seen.add(name)
    return None


def _common(schemas: list[pa.Schema], preproc: UserFile) -> pa.Schema:
    """The columns of all batches, of types that Spark has; a column that a batch lacks is missing there."""
    try:
        found = pa.unify_schemas(schemas, promote_options="permissive") if schemas else pa.schema([])
    except pa.ArrowException as error:
        msg = f"{_BATCH} of {preproc.path} gave batches of unlike types ({reason(error)}): set the type with astype"
        raise SpecsError(msg) from error
    return pa.schema([pa.field(field.name, _spark_type(field.type)) for field in found])


def _spark_type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return pa.list_(_spark_type(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(field.name, _spark_type(field.type)) for field in kind])
    if pa.types.is_dictionary(kind):
        return _spark_type(kind.value_type)
    if pa.types.is_timestamp(kind):
        return pa.timestamp("us", kind.tz)
    return _SPARK_TYPES.get(kind, kind)


def _cast(made: pa.RecordBatch, field: pa.Field, part: _Part) -> pa.Array:
    if field.name not in made.schema.names:
        return pa.nulls(made.num_rows, field.type)
    try:
        return pc.cast(made.column(field.name), options=pc.CastOptions(field.type, allow_time_truncate=True))
    except pa.ArrowException as error:
        why = f"returned a value of {field.name!r} that is no {field.type} as in other batches ({reason(error)})"
        raise part.error(_BATCH, why) from error


# --- by record --------------------------------------------------------------------------------------------------------


def _by_record(spark: SparkSession, raw: DataFrame, names: list[str], preproc: UserFile) -> DataFrame:
    def run(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        with on_executor(), preproc.neighbours():
            function = preproc.function(_RECORD, ConfigError)
            for part in _parts(batches, names):
                records = enumerate(part.records.to_pylist())
                done = [_one_record(function, preproc, record, part, number) for number, record in records]
                yield part.made([pa.array(done, pa.string())], ["record"])

    texts = raw.mapInArrow(run, f"record string, {PATH} string, {BLOCK} long")
    inferred = spark.read.json(texts.select("record").rdd.map(lambda row: row[0])).schema
    parsed = texts.select(F.from_json("record", inferred, {"mode": "FAILFAST"}).alias("record"), PATH, BLOCK)
    return parsed.select("record.*", PATH, BLOCK)


def _one_record(
    function: Callable[[Any], Any], preproc: UserFile, rec: dict[str, Any], part: _Part, number: int
) -> str:
    try:
        record = function(rec)
    except Exception as error:
        raise part.error(_RECORD, f"failed: {preproc.explain(error)}", number) from error
    if not isinstance(record, dict):
        why = f"of {preproc.path} returned {type(record).__name__}, not a dict"
        raise part.error(_RECORD, why, number)
    try:
        return json.dumps(record, default=_plain)
    except (TypeError, ValueError) as error:
        why = f"of {preproc.path} returned a value that is no JSON: {reason(error)}"
        raise part.error(_RECORD, why, number) from error


def _plain(value: Any) -> Any:
    """Numpy values of a user's record as plain ones; what Spark made of times and large numbers as numbers."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, decimal.Decimal):
        return int(value) if value == int(value) else float(value)
    if isinstance(value, dt.date):
        time = value if isinstance(value, dt.datetime) else dt.datetime.combine(value, dt.time())
        return (time if time.tzinfo else time.replace(tzinfo=dt.UTC)).timestamp()
    msg = f"{type(value).__name__} is no JSON value"
    raise TypeError(msg)
