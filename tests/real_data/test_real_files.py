"""Real files of the LHC, every branch, against numpy and awkward over plain uproot written without our code."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import awkward as ak
import numpy as np
import pytest
import uproot

from mlaas_spark import root_io
from mlaas_spark.branch_specs import Specs, SpecsFile
from mlaas_spark.cli import main
from mlaas_spark.config import FeatureConfig
from mlaas_spark.transform import FeatureTransform

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

pytestmark = [
    pytest.mark.real_data,
    pytest.mark.spark,
    pytest.mark.tensorflow,
    pytest.mark.usefixtures("spark"),  # the commands find it as the active session
]

FILES = {
    "uproot-HZZ.root": "events",
    "uproot-Zmumu.root": "events",
    "nanoAOD_2015_CMS_Open_Data_ttbar.root": "Events",
}
KEYS = {"run", "luminosityBlock", "event"}

MODEL = """
from keras import Sequential, layers

def model(idim):
    network = Sequential([layers.Input((idim,)), layers.Dense(32, activation="relu"),
                          layers.Dense(1, activation="sigmoid")])
    network.compile("adam", "binary_crossentropy", metrics=["accuracy"])
    return network
"""


@dataclass
class Plain:
    """A branch as plain uproot gives it: the list of each event's values, as float64."""

    events: list[list[float]]
    jagged: bool

    @property
    def finite(self) -> list[float]:
        return [x for event in self.events for x in event if math.isfinite(x)]

    @property
    def dim(self) -> int:
        return max(map(len, self.events)) if self.jagged else 1


def plain(path: Path, tree: str) -> dict[str, Plain]:
    """Every numeric branch that is no identifier."""
    found = {}
    with uproot.open(path) as file:
        for name, branch in file[tree].items():
            array = branch.array(library="ak")
            if "string" in str(array.type) or name in KEYS:
                continue
            jagged = array.ndim > 1
            numbers = ak.values_astype(array, np.float64).to_list()
            found[name] = Plain(numbers if jagged else [[x] for x in numbers], jagged)
    return found


@pytest.fixture(scope="module", params=FILES)
def real(request: pytest.FixtureRequest, data_folder: Path) -> tuple[Path, str]:
    return data_folder / request.param, FILES[request.param]


def test_specs_of_every_branch(real: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, tree = real
    target = tmp_path / "specs.json"
    assert main(["specs", str(path), "--tree", tree, "--out", str(target)]) == 0
    content = json.loads(target.read_text())
    specs = SpecsFile.from_json(content).specs
    expected = plain(path, tree)
    assert set(specs.branches) == set(expected)
    for name, branch in expected.items():
        stats, finite = specs[name], branch.finite
        assert stats.jagged == branch.jagged, name
        assert stats.count == sum(map(len, branch.events)), name
        assert stats.dim == branch.dim, name
        assert stats.count - stats.nan - stats.inf == len(finite), name
        assert (stats.minimum, stats.maximum) == (min(finite, default=None), max(finite, default=None)), name
        assert stats.zero == finite.count(0.0), name
        if finite:
            assert stats.mean == pytest.approx(math.fsum(finite) / len(finite), rel=1e-14, abs=1e-300), name
            assert stats.std == pytest.approx(np.std(finite), rel=1e-6, abs=1e-9 * max(map(abs, finite))), name
    assert content["jkeys"] == sorted(name for name, branch in expected.items() if branch.jagged)
    width = sum(branch.dim for branch in expected.values())
    assert f"W = {width} columns" in capsys.readouterr().out


def test_matrix_and_mask_of_every_branch(real: tuple[Path, str]) -> None:
    path, tree = real
    header = root_io.read_header(str(path), tree)
    schema = header.schema.features()
    schema = schema.keep([name for name in schema.names if name not in KEYS])
    edges = [0, header.entries // 3, header.entries]
    ranges = list(itertools.pairwise(edges))
    batches = list(root_io.read_ranges(str(path), tree, schema, ranges, 0, header.uuid))
    expected = plain(path, tree)
    whole = Specs()
    for batch in batches:
        whole = whole.merge(Specs.of(batch, schema.names))
    transform = FeatureTransform.of(whole, FeatureConfig())
    assert transform.layout.branches == tuple(
        sorted(expected, key=lambda name: (expected[name].jagged, name))
    )  # flat by name, then jagged by name
    made = [transform.matrix(batch) for batch in batches]
    matrix = np.concatenate([part.matrix for part in made])
    mask = np.concatenate([part.mask for part in made])
    for name, branch in expected.items():
        columns = transform.layout.span(name)
        wanted, marks = by_hand(branch)
        np.testing.assert_array_equal(mask[:, columns], marks, err_msg=name)
        # ours multiplies by the inverse of the range: one unit in the last place of float32
        np.testing.assert_allclose(matrix[:, columns], wanted, rtol=2e-7, atol=1e-7, err_msg=name)


def by_hand(branch: Plain) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
    """Min-max normalised, padded with 0 and masked, value by value."""
    low, high = min(branch.finite, default=0.0), max(branch.finite, default=0.0)
    matrix = np.zeros((len(branch.events), branch.dim), np.float32)
    mask = np.zeros((len(branch.events), branch.dim), np.uint8)
    for row, event in enumerate(branch.events):
        for column, x in enumerate(event):
            if math.isfinite(x):
                matrix[row, column] = (x - low) / (high - low) if high > low else 0.0
                mask[row, column] = 1
    return matrix, mask


def test_hzz_is_trained_on_an_expression_exported_and_served(
    data_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "model.py").write_text(MODEL)
    path = data_folder / "uproot-HZZ.root"
    given = ["--tree", "events", "--label", "NMuon >= 2", "--model", str(tmp_path / "model.py")]
    assert main(["train", str(path), *given, "--fout", str(tmp_path / "out")]) == 0
    (run,) = (tmp_path / "out").rglob("run.json")
    content: dict[str, Any] = json.loads(run.read_text())
    with uproot.open(path) as file:
        muons = file["events"]["NMuon"].array(library="np")
    counted = {label: sum(of.get(label, 0) for of in content["labels"].values()) for label in ("0", "1")}
    assert counted == {"0": int((muons < 2).sum()), "1": int((muons >= 2).sum())}
    specs = json.loads((run.parent / "specs.json").read_text())
    assert "NMuon" not in specs["fkeys"]
    assert json.loads((run.parent / "metrics.json").read_text())["auc"] > 0.9
    archive = run.parent / "bundle" / f"{content['bundle']}.tar.gz"
    capsys.readouterr()
    assert main(["serve-check", str(archive), "--json"]) == 0
    checked = json.loads(capsys.readouterr().out)
    assert checked["width"] == content["width"]
    assert checked["difference"] <= 1e-6
    assert_served_events_score_like_keras(path, run.parent, specs, content["bundle"])


def assert_served_events_score_like_keras(path: Path, run: Path, specs: Any, name: str) -> None:
    """All events as uproot and awkward give them, sent to the raw bundle, against Keras on minmax by numpy."""
    import keras

    from mlaas_spark.ml.savedmodel import run_savedmodel

    params = json.loads((run / "bundle" / name / "params.json").read_text())["mlaas_spark"]
    sent, features = [], []
    with uproot.open(path) as file:
        for branch, dim in params["branches"]:
            values = file["events"][branch].array()
            padded = ak.pad_none(values, dim, clip=True) if values.ndim > 1 else values[:, np.newaxis]
            x = np.asarray(ak.to_numpy(ak.fill_none(padded, np.nan)), np.float64)
            low, high = specs["minv"][branch], specs["maxv"][branch]
            scaled = (x - low) * (1 / (high - low)) if high > low else 0 * x
            sent.append(np.where(np.isfinite(x), x, params["missing"]).astype(np.float32))
            features.append(np.where(np.isfinite(x), scaled, 0.0).astype(np.float32))
    model = keras.saving.load_model(run / "model.keras", compile=False)
    expected = model.predict(np.concatenate(features, axis=1), verbose=0)
    found = run_savedmodel(run / "bundle" / name, np.concatenate(sent, axis=1))
    assert len(found) == 2421
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_string_branch_of_zmumu_is_left_out_by_name(data_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(data_folder / "uproot-Zmumu.root"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(item["name"], item["reason"]) for item in found["omitted"]] == [("Type", "strings are not numbers")]
    assert len(found["branches"]) == 19


def test_all_947_branches_of_nanoaod_are_accounted_for(data_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = data_folder / "nanoAOD_2015_CMS_Open_Data_ttbar.root"
    assert main(["inspect", str(path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    with uproot.open(path) as file:
        names = set(file["Events"].keys())
    assert {branch["source"] for branch in found["branches"]} | {item["name"] for item in found["omitted"]} == names
    assert len(names) == 947
    assert found["identifiers"] == ["run", "luminosityBlock", "event"]
    # the baskets of this file lie in the header of its tree
    assert {branch["compressed"] for branch in found["branches"]} == {None}


def test_inspect_of_hzz_shows_what_numpy_finds(data_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = data_folder / "uproot-HZZ.root"
    assert main(["inspect", str(path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    with uproot.open(path) as file:
        tree = file["events"]
        arrays = tree.arrays()
        sizes = {name: sum(b.basket_key(i).fNbytes for i in range(b.num_baskets)) for name, b in tree.items()}
    assert {branch["source"]: branch["compressed"] for branch in found["branches"]} == sizes
    assert found["compressed"] == sum(sizes.values())
    assert found["files"][0]["trees"] == {"events": 2421}
    width = 0
    for branch in found["branches"]:
        values = ak.to_numpy(ak.flatten(arrays[branch["source"]], axis=None))
        dim = int(ak.max(ak.num(arrays[branch["source"]]))) if branch["jagged"] else 1
        assert (branch["min"], branch["max"], branch["dim"]) == (values.min(), values.max(), dim)
        assert branch["zero_share"] == np.count_nonzero(values == 0) / len(values)
        width += dim
    assert found["attributes"] == width
