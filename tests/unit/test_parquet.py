"""Parquet files as they are written, read back by pyarrow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlaas_spark import parquet
from mlaas_spark.errors import UnwritableOutputError

if TYPE_CHECKING:
    from pathlib import Path

_N = 1000


def column(kind: pa.DataType) -> pa.Array:
    """Values of all that a type can hold, nulls too."""
    values: dict[str, list[Any]] = {
        "bool": [True, False, None],
        "uint64": [2**64 - 1, 0, None],
        "int8": [-128, 127, None],
        "float": [1.5, float("inf"), None],
        "double": [5e-324, -0.0, None],
        "string": ["a'b\n", "", None],
        "list<item: float>": [[1.0, None], [], None],
        "list<item: list<item: int16>>": [[[1], []], [], None],
        "fixed_size_binary[2]": [b"\x00\x01", b"\xff\xfe", None],
    }
    return pa.array(values[str(kind)], kind)


KINDS = [
    pa.bool_(),
    pa.uint64(),
    pa.int8(),
    pa.float32(),
    pa.float64(),
    pa.string(),
    pa.list_(pa.float32()),
    pa.list_(pa.list_(pa.int16())),
    pa.binary(2),
]


@pytest.mark.parametrize("compression", ["lz4", "zstd", "snappy", "gzip", "none"])
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_every_type_comes_back_as_it_was(kind: pa.DataType, compression: str, tmp_path: Path) -> None:
    table = pa.table({"x": column(kind)})
    size = parquet.write(table, str(tmp_path / "f.parquet"), 2, compression)
    found = pq.read_table(tmp_path / "f.parquet")
    assert found.column("x").type.equals(kind) or found.schema.equals(pq.read_schema(tmp_path / "f.parquet"))
    assert found.column("x").cast(kind).combine_chunks().equals(table.column("x").combine_chunks())
    assert size == (tmp_path / "f.parquet").stat().st_size == parquet.size(table, 2, compression)
    assert pq.ParquetFile(tmp_path / "f.parquet").metadata.num_row_groups == 2


def test_lists_have_the_offsets_that_they_were_written_with(tmp_path: Path) -> None:
    parquet.write(pa.table({"x": pa.array([[1.0]], pa.list_(pa.float32()))}), str(tmp_path / "f.parquet"), 1)
    assert pa.types.is_list(pq.read_schema(tmp_path / "f.parquet").field("x").type)


@pytest.mark.parametrize("row_group", [1, 7, 300, _N, 2 * _N])
def test_row_groups_are_whole_but_the_last(row_group: int, tmp_path: Path) -> None:
    parquet.write(pa.table({"x": np.arange(_N), "y": np.ones(_N)}), str(tmp_path / "f.parquet"), row_group)
    found = pq.ParquetFile(tmp_path / "f.parquet").metadata
    rows = [found.row_group(group).num_rows for group in range(found.num_row_groups)]
    assert rows == [min(row_group, _N - start) for start in range(0, _N, row_group)]


def test_values_that_differ_have_no_dictionary(tmp_path: Path) -> None:
    values = np.random.default_rng(1).normal(size=_N).astype(np.float32)
    lists = pa.ListArray.from_arrays(pa.array(np.arange(0, _N + 1, 10, dtype=np.int32)), pa.array(values))
    parquet.write(pa.table({"x": values[: len(lists)], "y": lists}), str(tmp_path / "f.parquet"), _N)
    found = pq.ParquetFile(tmp_path / "f.parquet").metadata.row_group(0)
    assert [found.column(place).has_dictionary_page for place in (0, 1)] == [False, False]
    assert found.column(1).compression == "LZ4"


def test_columns_that_begin_within_their_buffers(tmp_path: Path) -> None:
    table = pa.table({"x": pa.array([[1.0], [2.0, 3.0], [], [4.0]], pa.list_(pa.float32()))}).slice(1, 2)
    parquet.write(table, str(tmp_path / "f.parquet"), 10)
    assert pq.read_table(tmp_path / "f.parquet").column("x").to_pylist() == [[2.0, 3.0], []]


def test_a_full_disk_is_named() -> None:
    with pytest.raises(UnwritableOutputError, match=r"/dev/full.*[Nn]o space"):
        parquet.write(pa.table({"x": np.arange(_N)}), "/dev/full", _N)


def test_a_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnwritableOutputError, match=r"missing/f\.parquet"):
        parquet.write(pa.table({"x": [1]}), str(tmp_path / "missing" / "f.parquet"), 1)
