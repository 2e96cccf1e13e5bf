"""Whatever the branches are: what uproot wrote as TTree or RNTuple stands in the converted Parquet files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import awkward as ak
import numpy as np
import pyarrow.parquet as pq
import uproot
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlaas_spark.config import InputConfig
from mlaas_spark.filesets import fileset
from mlaas_spark.spark.convert import convert
from mlaas_spark.spark.ingest import open_events

if TYPE_CHECKING:
    import pytest
    from pyspark.sql import SparkSession

TYPES = ["bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64"]


def numbers(dtype: str) -> st.SearchStrategy[Any]:
    """Values of a type, its limits and what is no number among them."""
    if dtype == "bool":
        return st.booleans()
    if dtype.startswith("float"):
        return st.floats(width=32 if dtype == "float32" else 64)
    limits = np.iinfo(dtype)
    return st.integers(int(limits.min), int(limits.max))


@st.composite
def trees(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """A kind of tree and some branches for it: flat, fixed-size, jagged; for an RNTuple nested and text too."""
    kind = draw(st.sampled_from(["TTree", "RNTuple"]))
    n = draw(st.integers(1, 12))
    branches: dict[str, Any] = {}
    for index in range(draw(st.integers(1, 5))):
        dtype = draw(st.sampled_from(TYPES))
        shapes = ["flat", "fixed", "jagged"] if kind == "TTree" else ["flat", "jagged", "nested", "text"]
        shape = draw(st.sampled_from(shapes))
        value = numbers(dtype)
        if shape == "flat":
            branches[f"b{index}"] = np.array(draw(st.lists(value, min_size=n, max_size=n)), dtype)
        elif shape == "fixed":
            rows = st.lists(st.tuples(value, value, value), min_size=n, max_size=n)
            branches[f"b{index}"] = np.array(draw(rows), dtype)
        elif shape == "text":
            words = st.lists(st.text(max_size=5), min_size=n, max_size=n)
            branches[f"b{index}"] = ak.Array(draw(words))
        else:
            lists = (
                st.lists(value, max_size=4) if shape == "jagged" else st.lists(st.lists(value, max_size=3), max_size=3)
            )
            drawn = draw(st.lists(lists, min_size=n, max_size=n))
            branches[f"b{index}"] = _array(drawn, dtype, 1 if shape == "jagged" else 2)
    return kind, branches


def _array(values: list[Any], dtype: str, depth: int) -> ak.Array:
    """Lists of lists of a type, whether or not there is a value to tell it by."""
    if not depth:
        return np.array(values, dtype)
    content = _array([inner for outer in values for inner in outer], dtype, depth - 1)
    return ak.unflatten(content, np.array([len(outer) for outer in values], np.int64))


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(trees())
def test_values_and_types_come_through(
    spark: SparkSession,
    tmp_path_factory: pytest.TempPathFactory,
    written: tuple[str, dict[str, Any]],
) -> None:
    kind, branches = written
    folder = tmp_path_factory.mktemp("schema")
    with uproot.recreate(folder / "f.root") as file:
        if kind == "TTree":
            types = {
                name: values.type.content
                if isinstance(values, ak.Array)
                else np.dtype((values.dtype, values.shape[1:]))
                for name, values in branches.items()
            }
            file.mktree("T", types, counter_name=lambda name: f"n_{name}")
            file["T"].extend(branches)
        else:
            file.mkrntuple("T", branches)
    config = InputConfig(files=(str(folder / "f.root"),))
    made = convert(open_events(spark, fileset(config), config, 5, text=True), str(folder / "out"))
    parts = [pq.read_table(folder / "out" / item.path) for item in sorted(made.files, key=lambda item: item.ranges)]
    for name, values in branches.items():
        found = [row for part in parts for row in part[name].to_pylist()]
        assert repr(found) == repr(values.tolist()), name  # as text: NaN is itself, -0.0 is not 0.0
        value_type = parts[0][name].type
        while hasattr(value_type, "value_type"):
            value_type = value_type.value_type
        if not isinstance(values, ak.Array):
            assert value_type.to_pandas_dtype() == values.dtype.type
