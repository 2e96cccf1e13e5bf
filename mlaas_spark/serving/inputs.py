"""Events to send to a served model, from a file. No Spark: of a ROOT or Parquet file the first events are read here.

JSON lines, CSV and npz hold what the model takes, by column: they are sent as they are. ROOT, Parquet and what else has
a reader hold events, of which the model's own transform makes that.
"""

from __future__ import annotations

import csv
import io
import json
import zipfile
import zlib
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from mlaas_spark import storage
from mlaas_spark.errors import BranchNotFoundError, ServingError, SpecsMismatchError, UnreadableInputError, hint, reason
from mlaas_spark.filesets import format_of, split_tree
from mlaas_spark.formats import Format
from mlaas_spark.plan import PlannedFile
from mlaas_spark.readers import How, reader_of
from mlaas_spark.schema import joined

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    import numpy.typing as npt
    import pyarrow as pa

    from mlaas_spark.plan import Header
    from mlaas_spark.serving.served import Served

_ARRAY = "x"  # of an npz, as in check.npz of a bundle
_LINES = (".json", ".jsonl", ".ndjson")


def read(path: str, model: Served, events: int | None = None, tree: str | None = None) -> npt.NDArray[np.float32]:
    """The first events of a file as the model takes them, float32 (n, W); NaN where a value is missing.

    Args:
        path: Path or URL: .jsonl, .json, .csv, .npz, .parquet, .root or .root:Tree.
        model: What the server tells of it.
        events: How many; None for all.
        tree: Of a ROOT file that has several.

    Raises:
        ServingError: Rows that are not as the model's columns, named.
        MlaasSparkError: One of its kinds for a file that cannot be read, or lacks a branch of the model.
    """
    plain, named = split_tree(path)
    lower = plain.lower()
    if lower.endswith(".npz"):
        return _npz(plain, _content(plain))[:events]
    if lower.endswith(_LINES):
        return _matrix(list(islice(_json_rows(plain, _text(plain), model), events)), plain)
    if lower.endswith(".csv"):
        return _matrix(list(islice(_csv_rows(plain, _text(plain), model), events)), plain)
    kind = format_of(plain)
    if not kind.module:
        named_so = ", ".join(other for other in Format if other.module)
        raise UnreadableInputError(plain, f"predict-remote takes JSON lines, CSV, npz, {named_so}, not compressed")
    if model.transform is None:
        raise model.not_ours()
    headers = reader_of(kind).headers(plain, tree or named, How())
    if len(headers) > 1:
        found = [header.tree for header in headers]
        raise UnreadableInputError(plain, f"several trees are meant: name one of {', '.join(found)}", tree or named)
    batch = _events(headers[0], kind, model.transform.layout.branches, events)
    return model.vectors(batch)


def _events(header: Header, kind: Format, branches: Sequence[str], events: int | None) -> pa.RecordBatch:
    """The first entries of the model's branches."""
    stop = min(events or header.entries, header.entries)
    where = f"tree {header.tree} of {header.path}" if header.tree else header.path
    schema = header.schema.features()
    if lacking := [name for name in branches if name not in schema]:
        raise BranchNotFoundError(lacking[0], schema.names, where)
    if not stop:
        raise UnreadableInputError(header.path, "it has no events", header.tree or None)
    edges = header.boundaries
    file = PlannedFile(header.path, kind, header.tree, header.uuid, header.entries, None, 1.0, "", edges)
    return joined([batch for _, batch in reader_of(kind).batches(file, 0, schema.keep(branches), [(0, stop)], How())])


def _content(path: str) -> bytes:
    try:
        return storage.read_bytes(storage.absolute(path))
    except FileNotFoundError as error:
        raise UnreadableInputError(path, "no such file") from error


def _text(path: str) -> str:
    try:
        return _content(path).decode()
    except UnicodeDecodeError as error:
        raise UnreadableInputError(path, "it is not UTF-8 text") from error


def _npz(path: str, content: bytes) -> npt.NDArray[np.float32]:
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            if _ARRAY not in arrays:
                why = f"it has no array {_ARRAY!r} (n, W){hint(_ARRAY, arrays.files)}"
                raise UnreadableInputError(path, why)
            x: npt.NDArray[np.float32] = np.asarray(arrays[_ARRAY], np.float32)
            return x
    except (ValueError, TypeError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UnreadableInputError(path, f"no npz of numbers: {reason(error)}") from error


def _json_rows(path: str, text: str, model: Served) -> Iterator[list[float]]:
    """Lines of [values], {column: value} or TFaaS' {"keys": [...], "values": [...]}; null is a missing value."""
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UnreadableInputError(path, f"line {number} is not JSON: {error}; an event a line") from error
        if isinstance(row, list):
            yield [_number(value, f"value {place}", where) for place, value in enumerate(row)]
            continue
        if not isinstance(row, dict):
            raise UnreadableInputError(path, f"line {number} is a {type(row).__name__}, not a list or a mapping")
        if isinstance(row.get("keys"), list) and isinstance(row.get("values"), list):
            keys, values = row["keys"], row["values"]
            if len(keys) != len(values):
                raise UnreadableInputError(path, f"line {number} has {len(keys)} keys and {len(values)} values")
            row = dict(zip(map(str, keys), values, strict=True))
        yield _in_order(row, model, where)


def _csv_rows(path: str, text: str, model: Served) -> Iterator[list[float]]:
    """Lines below a header of column names, in any order; an empty cell is a missing value."""
    lines = csv.reader(io.StringIO(text))
    header = [name.strip() for name in next(lines, [])]
    for cells in lines:
        if not cells:
            continue
        where = f"{path}, line {lines.line_num}"
        if len(cells) != len(header):
            raise UnreadableInputError(path, f"line {lines.line_num} has {len(cells)} cells, the header {len(header)}")
        yield _in_order(dict(zip(header, cells, strict=True)), model, where)


def _in_order(row: Mapping[str, Any], model: Served, where: str) -> list[float]:
    """Values by the model's columns; of a model that takes raw values, lists of jagged branches over their columns."""
    if not model.columns:
        return [_number(value, key, where) for key, value in row.items()]
    spread = {key: value for key, value in row.items() if not isinstance(value, list)}
    for key, values in row.items():
        if isinstance(values, list):
            spread |= _spread(key, values, model, where)
    if unknown := sorted(set(spread) - set(model.columns)):
        msg = f"{where}: model {model.name} has no column {unknown[0]!r}{hint(unknown[0], model.columns)}"
        raise ServingError(msg)
    if lacking := [column for column in model.columns if column not in spread]:
        msg = (
            f"{where}: no value for {lacking[0]!r}{hint(lacking[0], spread)}; the model {model.name} takes "
            f"{len(model.columns)} values, {len(lacking)} are not there: not sent"
        )
        raise ServingError(msg)
    return [_number(spread[column], column, where) for column in model.columns]


def _spread(branch: str, values: Sequence[Any], model: Served, where: str) -> dict[str, Any]:
    """The columns of a jagged branch: what is short is missing, what is long is cut, as in training."""
    transform = model.transform
    jagged = dict(zip(transform.layout.branches, transform.jagged, strict=True)) if transform else {}
    if transform is None or not model.raw or not jagged.get(branch):
        why = "takes normalised features, one by one" if not model.raw else "has no jagged branch of this name"
        msg = f"{where}: {branch!r} is a list, and model {model.name} {why}{hint(branch, jagged or model.columns)}"
        raise SpecsMismatchError(msg)
    columns = model.columns[transform.layout.span(branch)]
    return {column: values[place] if place < len(values) else None for place, column in enumerate(columns)}


def _number(value: Any, key: str, where: str) -> float:
    """A value of a row; None and empty text are missing: NaN."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return float("nan")
    if isinstance(value, bool | list | dict):
        msg = f"{where}: {key!r} is {value!r}, not a number"
        raise ServingError(msg)
    try:
        return float(value)
    except (ValueError, OverflowError) as error:
        msg = f"{where}: {key!r} is {str(value)[:80]!r}, not a number of float64"
        raise ServingError(msg) from error


def _matrix(rows: Sequence[Sequence[float]], path: str) -> npt.NDArray[np.float32]:
    if not rows:
        raise UnreadableInputError(path, "it has no events")
    if odd := next((place for place, row in enumerate(rows) if len(row) != len(rows[0])), 0):
        msg = f"{path}: event {odd} has {len(rows[odd])} values, event 0 has {len(rows[0])}: not sent"
        raise ServingError(msg)
    with np.errstate(over="ignore"):  # beyond float32: infinite, and refused before it is sent
        return np.array(rows, np.float32)


def lines(scores: Iterable[Sequence[float]]) -> Iterator[str]:
    """A line of JSON for each event: its scores, with the digits of float32."""
    for row in scores:
        yield json.dumps([float(str(np.float32(score))) for score in row])
