"""What JSON and CSV files say of themselves before Spark reads them: identity and columns.

Looked up on executors. Files that Spark would misread, pass over or count twice are refused here.
"""

from __future__ import annotations

import csv
import itertools
import json
import zlib
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import fsspec

from mlaas_spark import manifest, storage, xrootd
from mlaas_spark.errors import ChunkError, DamagedInputError, UnreadableInputError, reason
from mlaas_spark.formats import Format
from mlaas_spark.spark.session import spread

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from pyspark.sql import SparkSession

    from mlaas_spark.filesets import InputFile

Columns: TypeAlias = tuple[tuple[str, str], ...]
"""Name and type of each column: in the file's order in CSV, which has no types, else sorted; of JSON those of its first
records, named as in :class:`mlaas_spark.schema.Branch`."""

_FIRST_LINES = 32  # of JSON that are looked at
_PLANTED = "_common_metadata"


class Header(NamedTuple):
    """What a file says of itself.

    Attributes:
        uuid: 32 hexadecimal digits over size, first and last mebibyte.
        columns: Its columns, those of records in records with dotted names.
    """

    uuid: str
    columns: Columns


def read_headers(spark: SparkSession, files: Sequence[InputFile], named: tuple[str, ...] = ()) -> list[Header]:
    """The header of each file; of CSV files without header lines the columns are ``named``.

    Raises:
        UnreadableInputError: A file is missing, empty, not of its format, or where Spark cannot read it.
    """
    for file in files:
        if file.path.rpartition("/")[2].startswith(("_", ".")):
            raise UnreadableInputError(file.path, "Spark passes over files whose names begin with _ or .: rename it")
    refuse_xrootd(files)

    def read(some: Iterable[InputFile]) -> Iterator[tuple[str, str, Columns | int]]:
        known: dict[Columns, int] = {}  # columns cross to the driver once a partition, not once a file
        for file in some:
            uuid = storage.fingerprint(file.path)
            columns = _columns(file, named)
            yield file.path, uuid, known.get(columns, columns)
            known.setdefault(columns, len(known))

    def whole(some: Iterable[InputFile]) -> Iterator[list[tuple[str, str, Columns | int]]]:
        yield list(read(some))

    parts = spread(spark, files, whole)
    found = [header for part in parts for header in _resolved(part)]
    return [header for _, header in found]


def _resolved(part: list[tuple[str, str, Columns | int]]) -> Iterator[tuple[str, Header]]:
    known: list[Columns] = []
    for path, uuid, columns in part:
        if isinstance(columns, int):
            yield path, Header(uuid, known[columns])
        else:
            known.append(columns)
            yield path, Header(uuid, columns)


def _columns(file: InputFile, named: tuple[str, ...]) -> Columns:
    try:
        if file.format is Format.JSON:
            with fsspec.open(file.path, "rb", compression="infer") as stream:
                return tuple(sorted(_first_values(itertools.islice(stream, _FIRST_LINES)).items()))
        text = {"encoding": "utf-8-sig", "errors": "replace", "newline": ""}
        with fsspec.open(file.path, "rt", compression="infer", **text) as stream:
            first = next(csv.reader(stream), [])
        return tuple((name, "") for name in _csv_names(file.path, first, named))
    except (OSError, EOFError, zlib.error, csv.Error) as error:
        if storage.is_trouble(error):
            raise UnreadableInputError(file.path, storage.why(error)) from error
        raise DamagedInputError(file.path, f"it is no {file.format} file ({reason(error)})") from error


def _csv_names(path: str, first: list[str], named: tuple[str, ...]) -> Sequence[str]:
    """Names of the columns of CSV: the fields of the first line, unless that is no header."""
    if not named:
        given = [cell for cell in first if cell.strip()]
        # pandas calls columns 0, 1, 2 ... where it knows no names
        if given and all(map(_is_number, given)) and given != [str(place) for place in range(len(given))]:
            raise UnreadableInputError(path, f"line 1 has numbers, not names ({given[0]}, ...): give --columns a,b,...")
        return first
    if len(first) != len(named):
        why = f"line 1 has {len(first)} field{'s' * (len(first) != 1)}, and {len(named)} columns are named"
        raise UnreadableInputError(path, why)
    if tuple(first) == named:
        raise UnreadableInputError(path, "line 1 has the names of the columns: leave out --columns")
    return named


def _is_number(cell: str) -> bool:
    with suppress(ValueError):
        float(cell)
        return True
    return cell.startswith("[")


def _first_values(lines: Iterable[bytes]) -> dict[str, str]:
    """Names of the values in lines of JSON, and the type of each, "" while it is null; broken lines are told later."""
    found: dict[str, str] = {}
    for line in lines:
        with suppress(ValueError):
            record = json.loads(line)
            for one in record if isinstance(record, list) else [record]:
                if isinstance(one, dict):
                    for name, kind in _values(one):
                        found[name] = found.get(name) or kind
    return found


def _values(record: dict[str, Any], prefix: str = "", form: str = "{}") -> Iterator[tuple[str, str]]:
    for name, given in record.items():
        value, own = given, form
        while isinstance(value, list):
            value, own = next((item for item in value if item not in (None, [])), None), own.format("list<{}>")
        if isinstance(value, dict):
            yield from _values(value, f"{prefix}{name}.", own)
        else:
            kind = "string" if isinstance(value, str) else "float64"
            yield prefix + name, "" if value is None else own.format(kind)


def refuse_xrootd(files: Iterable[InputFile]) -> None:
    """Refuse files on XRootD servers.

    Raises:
        UnreadableInputError: One is.
    """
    for file in files:
        if xrootd.is_url(file.path):
            why = f"our readers of {file.format} know no XRootD, only ROOT files are read from there: copy it to HDFS"
            raise UnreadableInputError(file.path, f"{why} or a disk that all executors see")


def refuse_planted(path: str, safe: set[str]) -> None:
    """Refuse a Parquet file beside a ``_common_metadata``, unless a manifest of ours lists it.

    Folders that have none become ``safe``. petastorm's Reader unpickles what it finds there, and an unpickled object
    can run any code (petastorm issue 741).
    """
    folder = path.rpartition("/")[0]
    for place in _with_partitions(folder):
        if place in safe:
            continue
        planted = storage.join(place, _PLANTED)
        if not storage.exists(planted):
            safe.add(place)
        elif not _is_ours(path):
            why = f"petastorm would unpickle {planted}, which can run code: remove that file, Spark does not need it"
            raise UnreadableInputError(path, why)


def _with_partitions(folder: str) -> Iterator[str]:
    """The folder, and while it is one like ``run=7`` the one above it."""
    yield folder
    while "=" in folder.rpartition("/")[2]:
        folder = folder.rpartition("/")[0]
        yield folder


def _is_ours(path: str) -> bool:
    """Whether the manifest of a data set of ours lists the file: it lies in the data set's folder or in one below."""
    folder = path.rpartition("/")[0]
    for place in (folder, folder.rpartition("/")[0]):
        try:
            listed = manifest.read(place).files
        except ChunkError:
            continue
        if path in {storage.join(place, file.path) for file in listed}:
            return True
    return False
