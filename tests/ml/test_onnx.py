"""ml.onnx: the file against Keras' predict, run by onnxruntime; skipped where the extra is not installed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from mlaas_spark.config import ExportConfig
from mlaas_spark.errors import ExportError
from mlaas_spark.ml import onnx
from mlaas_spark.ml.bundle import write_bundles
from mlaas_spark.ml.savedmodel import of_matrix, takes_matrix
from tests.ml.conftest import W

if TYPE_CHECKING:
    from pathlib import Path

    from tests.ml.conftest import Chunks

pytestmark = pytest.mark.tensorflow


def network() -> Any:
    import keras

    keras.utils.set_random_seed(1)
    layers = [keras.layers.Dense(8, activation="relu"), keras.layers.BatchNormalization(), keras.layers.Dropout(0.5)]
    model = keras.Sequential([keras.Input((W,)), *layers, keras.layers.Dense(1, activation="sigmoid")])
    model.compile(loss="binary_crossentropy", optimizer="sgd")
    return model


@pytest.fixture
def extra() -> None:
    """The packages, or the test is skipped."""
    for name in ("onnx", "onnxruntime", "tf2onnx"):
        pytest.importorskip(name)


@pytest.mark.usefixtures("extra")
def test_it_scores_like_keras_and_names_input_and_output(tmp_path: Path) -> None:
    import onnxruntime

    model, path = network(), tmp_path / "model.onnx"
    onnx.write_onnx(takes_matrix(of_matrix(model)), W, path)
    x = np.random.default_rng(1).normal(size=(100, W)).astype(np.float32)
    np.testing.assert_allclose(onnx.run_onnx(path, x), model.predict(x, verbose=0), rtol=0, atol=1e-6)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert [entry.name for entry in session.get_inputs()] == ["inputs_input"]
    assert [entry.name for entry in session.get_outputs()] == ["scores"]
    assert session.get_inputs()[0].shape[1] == W


@pytest.mark.usefixtures("extra")
def test_it_is_written_beside_the_bundles(chunks: Chunks, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    made = write_bundles(network(), chunks.stream(), ExportConfig(onnx=True), "ab", tmp_path)
    names = {name for bundle in made.values() for name in (bundle.name, bundle.archive.name)}
    assert {path.name for path in tmp_path.iterdir()} == {*names, "model.onnx"}
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("extra")
def test_one_that_scores_otherwise_is_not_kept_and_neither_are_the_bundles(
    chunks: Chunks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx, "run_onnx", lambda _, x: np.zeros((len(x), 1), np.float32))
    with pytest.raises(ExportError, match="gives other scores than the model"):
        write_bundles(network(), chunks.stream(), ExportConfig(onnx=True), "ab", tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("extra")
def test_what_the_converter_does_not_know_is_told(tmp_path: Path) -> None:
    import tensorflow as tf

    with pytest.raises(ExportError, match="cannot be written as ONNX"):
        onnx.write_onnx(lambda x: tf.math.igamma(x, x), W, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_without_the_extra_the_error_says_how_to_get_it(
    chunks: Chunks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx, "find_spec", lambda name: None if name == "tf2onnx" else object())
    with pytest.raises(ExportError, match=r"needs tf2onnx: pip install 'mlaas-spark\[onnx\]'"):
        write_bundles(network(), chunks.stream(), ExportConfig(onnx=True), "ab", tmp_path / "out")
    assert not (tmp_path / "out").exists()
