"""Pickles where programs of the field unpickle them: in the footers of Parquet files, and in files beside these.

Each writes a marker where it is unpickled. What a reader does with it, refuse it or read past it, is up to the tests.
"""

from __future__ import annotations

import base64
import json
import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

if TYPE_CHECKING:
    from collections.abc import Callable


class Planted:
    """Writes the marker where it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


def payload(marker: Path, protocol: int | None = None) -> bytes:
    """A pickle that writes the marker."""
    return pickle.dumps(Planted(marker), protocol)


def _in_footer(file: Path, metadata: dict[bytes, bytes]) -> None:
    table = pq.read_table(file)
    if (ours := metadata.get(b"ARROW:schema")) is not None:  # which pyarrow writes itself, or nothing
        pl.DataFrame(table).write_parquet(file, metadata={"ARROW:schema": ours.decode()})
    else:
        pq.write_table(table.replace_schema_metadata(metadata), file)


def _key(name: str, encode: Callable[[bytes], bytes] = bytes) -> Callable[[Path, Path], None]:
    return lambda file, marker: _in_footer(file, {name.encode(): encode(payload(marker))})


def _extension(name: str) -> Callable[[Path, Path], None]:
    """The first column as of an extension type, as pyarrow keeps one: CVE-2023-47248."""

    def plant(file: Path, marker: Path) -> None:
        schema = pq.read_schema(file)
        about = {b"ARROW:extension:name": name.encode(), b"ARROW:extension:metadata": payload(marker)}
        evil = schema.set(0, schema.field(0).with_metadata(about))
        _in_footer(file, {b"ARROW:schema": base64.b64encode(evil.serialize().to_pybytes())})

    return plant


def _pandas(file: Path, marker: Path) -> None:
    column = {"name": "x", "field_name": "x", "pandas_type": "object", "numpy_type": "object"}
    about = {"index_columns": [column], "columns": [column | {"metadata": payload(marker, 0).decode()}]}
    _in_footer(file, {b"pandas": json.dumps(about).encode()})


def _spark_udt(file: Path, marker: Path) -> None:
    """A user-defined type of Spark's, whose Python class is pickled."""
    kind = {
        "type": "udt",
        "class": None,
        "pyClass": "os.system",
        "serializedClass": base64.b64encode(payload(marker)).decode(),
        "sqlType": "double",
    }
    fields = [{"name": name, "type": kind, "nullable": True, "metadata": {}} for name in pq.read_schema(file).names]
    about = {"type": "struct", "fields": fields}
    _in_footer(file, {b"org.apache.spark.sql.parquet.row.metadata": json.dumps(about).encode()})


def _field(file: Path, marker: Path) -> None:
    table = pq.read_table(file)
    schema = table.schema.set(0, table.schema.field(0).with_metadata({b"pickle": payload(marker)}))
    pq.write_table(table.cast(schema), file)


IN_FILE: dict[str, Callable[[Path, Path], None]] = {
    "petastorm's schema": _key("dataset-toolkit.unischema.v1"),
    "petastorm's row groups": _key("dataset-toolkit.num_row_groups_per_file.v1"),
    "petastorm's index": _key("dataset-toolkit.rowgroups_index.v1"),
    "petastorm's key of another version": _key("dataset-toolkit.unischema.v9"),
    "the old name of petastorm's key": _key("dataset_toolkit.unischema.v1"),
    "pandas' metadata, a pickle": _key("pandas"),
    "pandas' metadata with a pickle": _pandas,
    "Arrow's schema, a pickle": _key("ARROW:schema", base64.b64encode),
    "Arrow's extension type": _extension("arrow.py_extension_type"),
    "Arrow's extension type of pandas": _extension("pandas.interval"),
    "Spark's user-defined type": _spark_udt,
    "Spark's schema, a pickle": _key("org.apache.spark.sql.parquet.row.metadata"),
    "metadata of a field": _field,
    "GeoParquet's metadata": _key("geo"),
    "awkward's metadata": _key("awkward_array_metadata", base64.b64encode),
}
"""Planted into a Parquet file that is there: (file, marker)."""

PETASTORMS = {name for name in IN_FILE if name.startswith("petastorm's")}


def _beside(name: str, content: Callable[[Path], bytes]) -> Callable[[Path, Path], None]:
    def plant(folder: Path, marker: Path) -> None:
        (folder / name).write_bytes(content(marker))

    return plant


def _metadata(name: str) -> Callable[[Path, Path], None]:
    def plant(folder: Path, marker: Path) -> None:
        keys = (b"dataset-toolkit.unischema.v1", b"dataset-toolkit.num_row_groups_per_file.v1")
        schema = pa.schema([("x", pa.int64())]).with_metadata(dict.fromkeys(keys, payload(marker)))
        pq.write_metadata(schema, folder / name)

    return plant


def _objects(folder: Path, marker: Path) -> None:
    np.save(folder / "events.npy", np.array([Planted(marker)], dtype=object), allow_pickle=True)


def _code(name: str) -> Callable[[Path, Path], None]:
    return _beside(name, lambda marker: f"open({str(marker)!r}, 'w').close()\n".encode())


BESIDE: dict[str, Callable[[Path, Path], None]] = {
    "_common_metadata": _metadata("_common_metadata"),
    "_metadata": _metadata("_metadata"),
    "_common_metadata, a pickle": _beside("_common_metadata", payload),
    "_metadata, a pickle": _beside("_metadata", payload),
    "a pickle": _beside("events.pkl", payload),
    "_SUCCESS, a pickle": _beside("_SUCCESS", payload),
    "an array of objects": _objects,
    "model.py": _code("model.py"),
    "preproc.py": _code("preproc.py"),
    "__init__.py": _code("__init__.py"),
    "conftest.py": _code("conftest.py"),
    "a .pth file": _code("evil.pth"),
}
"""Planted into a folder with data: (folder, marker)."""
