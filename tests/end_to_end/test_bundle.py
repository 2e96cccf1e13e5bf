"""Bundles and ``.keras`` files on whole command lines: export, predict with each, and what is wrong with them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.end_to_end.conftest import MODEL
from tests.end_to_end.test_predict import rows_of, trained

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from tests.end_to_end.conftest import Command

OWN_CLASS = """
import keras

class Doubled(keras.layers.Layer):
    def call(self, x):
        return 2 * x

def model(idim):
    layers = [keras.Input((idim,)), Doubled(), keras.layers.Dense(1, activation="sigmoid")]
    network = keras.Sequential(layers)
    network.compile(optimizer="adam", loss="binary_crossentropy")
    return network
"""
FEATURES = ["--set", "features.caps={Jet_pt: 2}", "--set", "features.overrides={MET_pt: standard}"]
DERIVED = ["--derive", "HT=sum(Jet_pt)"]
GROUPS = {"signal_*.root": 1, "background_*.root": 0}


@pytest.fixture(scope="module")
def own_class(spark: SparkSession, sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose model has a class of the user's file, and the scores of one file beside it."""
    assert spark.version
    return Path(trained(sample, tmp_path_factory.mktemp("own_class"), OWN_CLASS, GROUPS))


def scores(folder: str) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    found: np.ndarray[tuple[int, ...], np.dtype[np.float32]] = rows_of(folder)["score"].to_numpy()
    return found


def test_run_both_bundles_and_the_keras_file_score_alike(run: Command, own_class: Path, sample: Path) -> None:
    path, told = str(sample / "signal_0.root"), json.loads((own_class / "run.json").read_text())
    assert run("predict", path, "--run", str(own_class), "--out", "run").code == 0
    for inputs in ("raw", "features"):
        bundle = own_class / "bundle" / f"{told['bundles'][inputs]}.tar.gz"
        done = run("predict", path, *DERIVED, "--bundle", str(bundle), "--out", inputs)
        assert done.code == 0, done.err
        assert "Not as in training" in done.out
    model = ["--model", str(own_class / "model.keras"), "--set", f"train.model={own_class.parents[2] / 'model.py'}"]
    done = run("predict", path, *DERIVED, *model, *FEATURES, "--out", "keras")
    assert done.code == 0, done.err
    for other in ("raw", "features", "keras"):
        np.testing.assert_allclose(scores(other), scores("run"), rtol=0, atol=1e-6)
    again = run("predict", path, *DERIVED, *model, *FEATURES, "--out", "keras")
    assert "1 kept" in again.err  # the file has one name for one model


def test_a_keras_file_of_an_own_class_says_which_setting_names_it(run: Command, own_class: Path, sample: Path) -> None:
    done = run("predict", str(sample / "signal_0.root"), "--model", str(own_class / "model.keras"), "--out", "out")
    assert done.code == 5
    assert "--set train.model=FILE names them" in done.err
    assert not Path("out").exists()


def test_a_keras_file_needs_specs(run: Command, own_class: Path, sample: Path) -> None:
    shutil.copy(own_class / "model.keras", "alone.keras")
    given = ["predict", str(sample / "signal_0.root"), "--model", "alone.keras", "--out", "out"]
    done = run(*given)
    assert done.code == 4
    assert "name the specs of its training with --specs specs.json" in done.err
    missing = run(*given, "--specs", "nowhere.json")
    assert missing.code == 4
    assert "no such specs file: nowhere.json" in missing.err


def test_a_keras_file_of_another_width_is_told_with_both(run: Command, own_class: Path, sample: Path) -> None:
    given = ["--model", str(own_class / "model.keras"), "--set", f"train.model={own_class.parents[2] / 'model.py'}"]
    done = run("predict", str(sample / "signal_0.root"), *given, "--out", "out", "--set", "features.caps={Jet_pt: 1}")
    assert done.code == 5
    assert "specs.json of W = " in done.err
    assert "cannot take events of shape (n, " in done.err


def test_a_file_that_is_no_keras_model_is_refused(run: Command, own_class: Path, sample: Path) -> None:
    Path("broken.keras").write_bytes(b"PK")
    given = ["--model", "broken.keras", "--specs", str(own_class / "specs.json"), "--out", "out"]
    done = run("predict", str(sample / "signal_0.root"), *given)
    assert done.code == 5
    assert "cannot load the model" in done.err
    nowhere = run("predict", "f.root", "--model", "nowhere.keras", "--out", "out")
    assert nowhere.code == 6
    assert "no such model: nowhere.keras" in nowhere.err


@pytest.mark.parametrize(
    "given", [["--model", "model.h5"], ["--run", "r", "--specs", "s.json"], ["--model", "m.keras", "--bundle", "b"]]
)
def test_options_that_do_not_go_together_are_told(run: Command, given: list[str]) -> None:
    done = run("predict", "f.root", *given, "--out", "out")
    assert done.code == 2
    assert "--model" in done.err


def test_a_sentinel_that_is_no_number_is_told_before_anything_starts(run: Command, sample: Path) -> None:
    Path("model.py").write_text(MODEL)
    groups = [{"files": str(sample / f"{name}_0.root"), "label": name == "signal"} for name in ("signal", "background")]
    Path("c.yaml").write_text(json.dumps({"input": {"groups": groups}, "train": {"model": "model.py"}}))
    done = run("train", "--config", "c.yaml", "--set", "export.missing=.nan")
    assert done.code == 2
    assert "export.missing" in done.err
