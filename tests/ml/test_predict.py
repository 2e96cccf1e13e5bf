"""ml.predict: a bundle's model in another process, against Keras' own predict on the same matrix."""

from __future__ import annotations

import dataclasses
import pickle
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from mlaas_spark.config import ExportConfig
from mlaas_spark.errors import ServingError
from mlaas_spark.memory import Buffers
from mlaas_spark.ml.bundle import read_bundle, write_bundle
from mlaas_spark.ml.predict import SavedModel
from tests.ml.conftest import TRANSFORM, W

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy.typing as npt

    from mlaas_spark.ml.bundle import Bundle
    from tests.ml.conftest import Chunks

Made = tuple[Any, "Bundle"]


def network(outputs: int) -> Any:
    import keras

    last = keras.layers.Dense(outputs, activation="softmax" if outputs > 1 else "sigmoid")
    model = keras.Sequential([keras.Input((W,)), keras.layers.Dense(8, activation="relu"), last])
    loss = "sparse_categorical_crossentropy" if outputs > 1 else "binary_crossentropy"
    model.compile(optimizer="adam", loss=loss)
    return model


@pytest.fixture(scope="module", params=[1, 3], ids=["binary", "multiclass"])
def made(request: pytest.FixtureRequest, chunks: Chunks, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A Keras model and its bundle."""
    model = network(request.param)
    return model, write_bundle(model, chunks.stream(), ExportConfig(), "specs", tmp_path_factory.mktemp("bundles"))


def events(n: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(3).normal(size=(n, W)).astype(np.float32)


def mask_of(x: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    return np.ones(x.shape, np.uint8)


@pytest.mark.parametrize("place", ["folder", "archive"])
def test_scores_are_those_of_keras(made: Made, place: str) -> None:
    model, bundle = made
    score = SavedModel.of(read_bundle(getattr(bundle, place)))()
    x = events(1000)
    found = score(x, mask_of(x))
    assert found.dtype == np.float32
    assert found.shape == (1000, bundle.outputs)
    np.testing.assert_allclose(found, model.predict(x, verbose=0), rtol=0, atol=1e-6)


def test_memory_that_is_used_again_changes_no_earlier_scores(made: Made) -> None:
    model, bundle = made
    score, memory = SavedModel.of(read_bundle(bundle.folder))(), Buffers().empty((64, W), np.float32)
    x, found = events(160), []
    for start in range(0, 160, 64):
        part = x[start : start + 64]
        memory[: len(part)] = part
        found.append(score(memory[: len(part)], mask_of(part)))
    np.testing.assert_allclose(np.concatenate(found), model.predict(x, verbose=0), rtol=0, atol=1e-6)


def test_memory_that_begins_anywhere_is_scored_too(made: Made) -> None:
    model, bundle = made
    memory = np.empty(4 * 10 * W + 128, np.uint8)
    first = -memory.ctypes.data % 64 + 4
    x = memory[first : first + 4 * 10 * W].view(np.float32).reshape(10, W)
    x[:] = events(10)
    found = SavedModel.of(read_bundle(bundle.folder))()(x, mask_of(x))
    np.testing.assert_allclose(found, model.predict(x, verbose=0), rtol=0, atol=1e-6)


def test_a_model_whose_scores_are_its_input_gives_them_in_memory_of_their_own(tmp_path: Path) -> None:
    import keras
    import tensorflow as tf

    from mlaas_spark.ml.savedmodel import write_savedmodel

    class Passing(keras.layers.Layer):  # type: ignore[misc] # Keras has no types
        def build(self, _: Any) -> None:
            self.unused = self.add_weight(shape=(1,))

        def call(self, x: Any) -> Any:
            with tf.control_dependencies([tf.convert_to_tensor(self.unused)]):
                return tf.identity(x)

    write_savedmodel(keras.Sequential([keras.Input((W,)), Passing()]), W, tmp_path / "passing")
    files = tuple(
        (path.relative_to(tmp_path / "passing").as_posix(), path.read_bytes())
        for path in sorted((tmp_path / "passing").rglob("*"))
        if path.is_file()
    )
    memory = Buffers().empty((4, W), np.float32)
    memory[:] = 1.0
    found = SavedModel("passing", "digest", W, W, files)()(memory, mask_of(memory))
    memory[:] = 2.0
    assert (found == 1.0).all()


def test_contents_are_those_that_the_bundle_was_made_of(made: Made) -> None:
    _, bundle = made
    contents = read_bundle(bundle.archive)
    assert contents == read_bundle(bundle.folder)
    assert contents.name == bundle.name
    assert contents.transform == TRANSFORM
    assert len(contents.labels) == bundle.outputs
    assert contents.files[0][0] == "saved_model.pb"


def test_the_model_is_loaded_once_a_process_whoever_unpickles_it(made: Made) -> None:
    model = SavedModel.of(read_bundle(made[1].folder))
    crossed = pickle.loads(pickle.dumps(model))  # noqa: S301 - our own bytes
    assert crossed == model
    assert crossed() == model()  # methods are equal if they are of one object


def test_reading_a_bundle_needs_no_tensorflow(made: Made) -> None:
    script = (
        "import sys\n"
        "from mlaas_spark.ml.bundle import read_bundle\n"
        "from mlaas_spark.ml.predict import SavedModel\n"
        f"SavedModel.of(read_bundle({str(made[1].archive)!r}))\n"
        "assert not {'tensorflow', 'keras'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)  # noqa: S603 - our own script


@pytest.mark.parametrize(
    ("damaged", "says"),
    [
        (lambda files: [(path, content[:50]) for path, content in files], "is no SavedModel"),
        (lambda files: [file for file in files if not file[0].startswith("variables")], "cannot be loaded"),
    ],
)
def test_damaged_model_is_refused(made: Made, damaged: Callable[[Any], Any], says: str) -> None:
    whole = SavedModel.of(read_bundle(made[1].folder))
    broken = dataclasses.replace(whole, digest="damaged", files=tuple(damaged(whole.files)))
    with pytest.raises(ServingError, match=says):
        broken()


def test_model_of_other_width_or_outputs_is_refused(made: Made) -> None:
    whole = SavedModel.of(read_bundle(made[1].folder))
    x = np.zeros((3, W + 1), np.float32)
    with pytest.raises(ServingError, match="does not run"):
        whole()(x, mask_of(x))
    other = dataclasses.replace(whole, digest="other", outputs=7)
    with pytest.raises(ServingError, match=r"gives float32 \(3, \d\), not float32 \(3, 7\)"):
        other()(events(3), mask_of(events(3)))
