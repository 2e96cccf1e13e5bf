"""inputs: events from files of each kind, in the model's order; what does not fit is named before it is sent."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import uproot

from mlaas_spark.errors import (
    BranchNotFoundError,
    FilesetError,
    MlaasSparkError,
    ServingError,
    SpecsMismatchError,
    TreeNotFoundError,
    UnreadableInputError,
)
from mlaas_spark.serving import inputs
from mlaas_spark.serving.served import Served
from tests.serving.conftest import COLUMNS, TRANSFORM

if TYPE_CHECKING:
    from pathlib import Path

NAN = float("nan")
MODEL = Served("m", tuple(COLUMNS), ("a", "b"), TRANSFORM)
RAW = Served("m", tuple(COLUMNS), ("a", "b"), TRANSFORM, missing=-1e30, raw=True)
THEIRS = Served("m")
ROW = {"nJet": 2, "Jet_pt_1": 4, "MET": 1, "Jet_pt_0": 3.5}


def written(folder: Path, text: str, name: str = "events.jsonl") -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def same(x: Any, expected: Any) -> bool:
    return np.array_equal(x, np.array(expected, np.float32), equal_nan=True)


@pytest.mark.parametrize(
    "row",
    [
        [1, 2, 3.5, 4],
        ROW,
        {"keys": list(ROW), "values": list(ROW.values())},
        {"keys": list(ROW), "values": list(ROW.values()), "model": "another"},
    ],
)
def test_a_line_is_a_list_or_names_its_values(row: Any, tmp_path: Path) -> None:
    path = written(tmp_path, json.dumps(row) + "\n\n" + json.dumps(row) + "\n")
    assert same(inputs.read(path, MODEL), [[1, 2, 3.5, 4]] * 2)


def test_null_is_missing(tmp_path: Path) -> None:
    assert same(inputs.read(written(tmp_path, "[1, null, 3, 4]\n"), MODEL), [[1, NAN, 3, 4]])


def test_csv_has_its_columns_in_any_order_and_empty_cells_are_missing(tmp_path: Path) -> None:
    path = written(tmp_path, "nJet, Jet_pt_1,MET,Jet_pt_0\n2,4,1,3.5\n\n0,,1e3,-1\n", "events.csv")
    assert same(inputs.read(path, MODEL), [[1, 2, 3.5, 4], [1e3, 0, -1, NAN]])


def test_an_array_is_sent_as_it_is(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.arange(8.0).reshape(2, 4))
    assert same(inputs.read(str(tmp_path / "x.npz"), MODEL, events=1), [[0, 1, 2, 3]])


def test_only_so_many_events_are_read(tmp_path: Path) -> None:
    path = written(tmp_path, "[1, 2, 3, 4]\n[2, 2, 3, 4]\nno JSON any more")
    assert same(inputs.read(path, MODEL, events=2), [[1, 2, 3, 4], [2, 2, 3, 4]])


def test_lists_of_a_raw_models_branches_are_padded_with_missing_and_cut(tmp_path: Path) -> None:
    lines = ['{"MET": 1, "nJet": 1, "Jet_pt": [7]}', '{"MET": 1, "nJet": 3, "Jet_pt": [7, 8, 9]}']
    assert same(inputs.read(written(tmp_path, "\n".join(lines)), RAW), [[1, 1, 7, NAN], [1, 3, 7, 8]])


def test_a_model_of_others_takes_values_as_they_come(tmp_path: Path) -> None:
    assert same(inputs.read(written(tmp_path, '{"b": 1, "a": 2}\n'), THEIRS), [[1, 2]])


# events of ROOT and Parquet

MET, JETS = [20.0, NAN, 10.0], [[15.0], [5.0, 10.0, 99.0], []]
FEATURES = [[1, 0.5, 2, 0], [0, 1.5, 0, 1], [0, 0, 0, 0]]


def parquet(folder: Path) -> str:
    table = pa.table(
        {
            "MET": pa.array(MET, pa.float32(), from_pandas=False),
            "nJet": pa.array([1, 3, 0], pa.int32()),
            "Jet_pt": pa.array(JETS, pa.list_(pa.float32())),
            "name": ["x", "y", "z"],
        }
    )
    pq.write_table(table, folder / "events.parquet")
    return str(folder / "events.parquet")


def root(folder: Path, *trees: str) -> str:
    import awkward as ak

    with uproot.recreate(folder / "events.root") as file:
        for tree in trees:
            jets = ak.values_astype(ak.Array(JETS), np.float32)
            file[tree] = {"MET": np.array(MET, np.float32), "nJet": np.array([1, 3, 0], np.int32), "Jet_pt": jets}
    return str(folder / "events.root")


def test_of_parquet_the_models_own_features_are_made(tmp_path: Path) -> None:
    assert same(inputs.read(parquet(tmp_path), MODEL), FEATURES)
    assert same(inputs.read(parquet(tmp_path), MODEL, events=2), FEATURES[:2])


def test_of_root_too(tmp_path: Path) -> None:
    path = root(tmp_path, "Events", "Runs")
    assert same(inputs.read(f"{path}:Events", MODEL, events=99), FEATURES)
    assert same(inputs.read(path, MODEL, events=1, tree="Runs"), FEATURES[:1])
    with pytest.raises(TreeNotFoundError, match="several trees"):
        inputs.read(path, MODEL)


def test_of_a_raw_model_the_values_are_read(tmp_path: Path) -> None:
    assert same(inputs.read(parquet(tmp_path), RAW), [[20, 1, 15, NAN], [NAN, 3, 5, 10], [10, 0, NAN, NAN]])


def test_a_branch_that_the_file_lacks_is_named_with_the_nearest(tmp_path: Path) -> None:
    pq.write_table(pa.table({"MET_pt": [1.0], "nJet": [1], "Jet_pt": [[1.0]]}), tmp_path / "events.parquet")
    with pytest.raises(BranchNotFoundError, match=r"'MET' not found.*nearest: MET_pt"):
        inputs.read(str(tmp_path / "events.parquet"), MODEL)


def test_events_for_a_model_of_others_need_numbers(tmp_path: Path) -> None:
    with pytest.raises(ServingError, match=r"no layout\.json"):
        inputs.read(parquet(tmp_path), THEIRS)


# what does not fit


def line(**jets: Any) -> str:
    return json.dumps({"MET": 1, "nJet": 2, **jets})


@pytest.mark.parametrize(
    ("name", "text", "kind", "says"),
    [
        ("e.jsonl", line(Jet_pt_0=3), ServingError, r"line 1: no value for 'Jet_pt_1'.*nearest: Jet_pt_0"),
        ("e.jsonl", line(Jet_pt_0=3, jet_pt_1=3), ServingError, r"no column 'jet_pt_1'; nearest: Jet_pt_1"),
        ("e.jsonl", line(Jet_pt=[3]), SpecsMismatchError, r"'Jet_pt' is a list.*takes normalised"),
        ("e.jsonl", '[1, 2, 3, "x"]', ServingError, r"line 1: 'value 3' is 'x', not a number"),
        ("e.jsonl", "[1, 2, 3, true]", ServingError, r"'value 3' is True, not a number"),
        ("e.jsonl", "[1, 2, 3, 4]\n[1, 2]", ServingError, r"event 1 has 2 values, event 0 has 4"),
        ("e.jsonl", "[1, 2,\n3, 4]", UnreadableInputError, r"line 1 is not JSON"),
        ("e.jsonl", "3", UnreadableInputError, r"line 1 is a int"),
        ("e.jsonl", '{"keys": ["MET"], "values": [1, 2]}', UnreadableInputError, r"1 keys and 2 values"),
        ("e.jsonl", "\n", UnreadableInputError, r"no events"),
        ("e.csv", "MET,nJet\n1\n", UnreadableInputError, r"line 2 has 1 cells, the header 2"),
        ("e.csv", "MET,nJet,Jet_pt_0,Jet_pt_1\n1,2,3,four\n", ServingError, r"line 2: 'Jet_pt_1' is 'four'"),
        ("e.csv", "", UnreadableInputError, r"no events"),
        ("e.npz", "no zip", UnreadableInputError, r"no npz"),
        ("e.parquet", "no parquet", UnreadableInputError, r"e\.parquet"),
        ("e.json.gz", "x", UnreadableInputError, r"not compressed"),
        ("e.txt", "x", FilesetError, r"format"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(
    name: str, text: str, kind: type[MlaasSparkError], says: str, tmp_path: Path
) -> None:
    with pytest.raises(kind, match=says):
        inputs.read(written(tmp_path, text, name), MODEL)


def test_an_array_of_another_name_is_told(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", X=np.zeros((1, 4)))
    with pytest.raises(UnreadableInputError, match=r"no array 'x'.*nearest: X"):
        inputs.read(str(tmp_path / "x.npz"), MODEL)


@pytest.mark.parametrize("name", ["none.jsonl", "none.csv", "none.npz", "none.root", "none.parquet"])
def test_a_file_that_is_not_there_is_told(name: str, tmp_path: Path) -> None:
    with pytest.raises(MlaasSparkError, match=r"no such file|does not exist|No such file") as told:
        inputs.read(str(tmp_path / name), MODEL)
    assert told.value.exit_code == 3


def test_scores_are_written_with_the_digits_of_float32() -> None:
    assert list(inputs.lines([[float(np.float32(0.1)), 1.0]])) == ["[0.1, 1.0]"]
