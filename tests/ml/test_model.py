from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from mlaas_spark.errors import ModelContractError
from mlaas_spark.ml.inputs import InputLayout
from mlaas_spark.ml.model import check_labels, encode_targets, load_user_model, loss_name, output_width

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.tensorflow

W = 5

DENSE = """
from tensorflow import keras

def model(idim):
    net = keras.Sequential([keras.layers.Input(({shape},)), keras.layers.Dense({outputs}, activation="{activation}")])
    {compile}
    return net
"""


def dense(shape: str = "idim", outputs: int = 1, activation: str = "sigmoid", loss: str = "binary_crossentropy") -> str:
    compiled = f'net.compile(loss="{loss}", optimizer="sgd")' if loss else ""
    return DENSE.format(shape=shape, outputs=outputs, activation=activation, compile=compiled)


def test_a_model_in_mlaas4heps_style_loads(plain_model: Path) -> None:
    model = load_user_model(plain_model, InputLayout.matrix(W))
    assert model.compiled
    assert output_width(model, InputLayout.matrix(W)) == 1


def test_the_same_seed_gives_the_same_weights(plain_model: Path) -> None:
    one, same, other = (
        load_user_model(plain_model, InputLayout.matrix(W), seed=seed).get_weights() for seed in (1, 1, 2)
    )
    assert all(np.array_equal(a, b) for a, b in zip(one, same, strict=True))
    assert not np.array_equal(one[0], other[0])


def test_a_subclassed_model_is_built(model_file: Callable[[str], Path]) -> None:
    text = """
    import keras

    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(1, activation="sigmoid")

        def call(self, x):
            return self.dense(x)

        def fit(self, x_train, y_train, **kwds):
            return super().fit(x_train, y_train, **kwds)

    def model(idim):
        net = Net()
        net.compile(loss="binary_crossentropy", optimizer="sgd")
        return net
    """
    model = load_user_model(model_file(text), InputLayout.matrix(W))
    assert [tuple(weight.shape) for weight in model.weights] == [(W, 1), (1,)]


def test_a_model_file_may_import_its_neighbours(model_file: Callable[[str], Path]) -> None:
    path = model_file("import neighbour_of_the_model\nmodel = neighbour_of_the_model.model\n")
    (path.parent / "neighbour_of_the_model.py").write_text(dense())
    assert output_width(load_user_model(path, InputLayout.matrix(W)), InputLayout.matrix(W)) == 1


def test_softmax_on_one_output_is_warned_about_once(
    model_file: Callable[[str], Path], caplog: pytest.LogCaptureFixture
) -> None:
    path = model_file(dense(activation="softmax"))
    with caplog.at_level(logging.WARNING, logger="mlaas_spark"):
        load_user_model(path, InputLayout.matrix(W))
    (record,) = caplog.records
    assert "always 1" in record.getMessage()
    assert "mymodel.py" in record.getMessage()


def test_sigmoid_on_one_output_is_not_warned_about(plain_model: Path, caplog: pytest.LogCaptureFixture) -> None:
    load_user_model(plain_model, InputLayout.matrix(W))
    assert caplog.records == []


LR = """
import keras

def model(idim):
    net = keras.Sequential([keras.layers.Input((idim,)), keras.layers.Dense(1)])
    net.compile(loss="mse", optimizer=keras.optimizers.Adam(lr=0.1))
    return net
"""
TWO_INPUTS = """
import keras

def model(idim):
    a, b = keras.Input((idim,)), keras.Input((idim,))
    net = keras.Model([a, b], keras.layers.Dense(1)(keras.layers.Add()([a, b])))
    net.compile(loss="mse", optimizer="sgd")
    return net
"""
IMAGE_OUTPUT = """
import keras

def model(idim):
    layers = [keras.layers.Input((idim,)), keras.layers.Dense(4), keras.layers.Reshape((2, 2))]
    net = keras.Sequential(layers)
    net.compile(loss="mse", optimizer="sgd")
    return net
"""
NO_WEIGHTS = """
import keras

def model(idim):
    net = keras.Sequential([keras.layers.Input((idim,)), keras.layers.Flatten()])
    net.compile(loss="mse", optimizer="sgd")
    return net
"""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def model(idim)\n    pass\n", r"mymodel\.py, line 1: "),
        ("import os\n1 / 0\n", r"mymodel\.py, line 2: ZeroDivisionError"),
        ("import nosuchlibrary\n", r"mymodel\.py, line 1: ModuleNotFoundError.*nosuchlibrary"),
        ("from MLaaS4HEP.models import trainer\n", r"imports MLaaS4HEP"),
        ("def modle(idim):\n    pass\n", r"no function 'model'; nearest: modle"),
        ("model = 3\n", r"no function 'model'"),
        ("def model():\n    pass\n", r"model\(5\) failed: .*takes 0 positional"),
        ("def model(idim):\n    x = 1\n    raise ValueError('bad\\nmore')\n", r"mymodel\.py, line 3: ValueError: bad$"),
        ("def model(idim):\n    return None\n", r"returned a NoneType, not a Keras model"),
        ("def model(idim):\n    raise SystemExit(3)\n", r"model\(5\) failed"),
        (LR, r"line 6: .*lr.*; Keras 3 spells it learning_rate="),
        (dense(loss=""), r"is not compiled"),
        (dense(shape="7"), r"\(None, 7\).*W = 5"),
        (TWO_INPUTS, r"\(None, 5\), \(None, 5\), the events have W = 5"),
        (IMAGE_OUTPUT, r"has shape \(1, 2, 2\), it must be \(1, K\)"),
        (NO_WEIGHTS, r"no weights to train"),
    ],
)
def test_a_bad_model_is_one_message_that_names_the_file(
    model_file: Callable[[str], Path], text: str, message: str
) -> None:
    with pytest.raises(ModelContractError, match=message) as caught:
        load_user_model(model_file(text), InputLayout.matrix(W))
    assert "mymodel.py" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelContractError, match=r"cannot read .*nothing\.py: No such file"):
        load_user_model(tmp_path / "nothing.py", InputLayout.matrix(W))


def compiled(outputs: int, loss: Any) -> Any:
    import keras

    model = keras.Sequential([keras.layers.Input((W,)), keras.layers.Dense(outputs)])
    model.compile(loss=loss, optimizer="sgd")
    return model


def my_sparse_loss(y: Any, p: Any) -> Any:
    return p - y


def test_one_output_takes_labels_as_they_are() -> None:
    assert encode_targets(compiled(1, "binary_crossentropy"), np.array([0.0, 1.0]), 1).tolist() == [0.0, 1.0]


def test_categorical_crossentropy_takes_one_hot() -> None:
    targets = encode_targets(compiled(3, "categorical_crossentropy"), np.array([0.0, 2.0]), 3)
    assert targets.tolist() == [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]


def test_a_sparse_loss_takes_class_numbers() -> None:
    import keras

    for loss in ("sparse_categorical_crossentropy", keras.losses.SparseCategoricalCrossentropy(), my_sparse_loss):
        targets = encode_targets(compiled(3, loss), np.array([0.0, 2.0]), 3)
        assert targets.tolist() == [0, 2]
        assert targets.dtype == np.int32


def test_losses_have_one_name_however_they_are_given() -> None:
    import keras

    losses = ("binary_crossentropy", keras.losses.BinaryCrossentropy(), keras.losses.binary_crossentropy)
    assert {loss_name(compiled(1, loss)) for loss in losses} == {"binary_crossentropy"}


@pytest.mark.parametrize(
    ("outputs", "loss", "labels", "message"),
    [
        (1, "binary_crossentropy", [0, 1, 2], "the labels are 0, 1, 2, a model of one output"),
        (2, "categorical_crossentropy", [0, 1, 2], "a model of 2 outputs takes the labels 0 to 1"),
        (2, "categorical_crossentropy", [0, 0.5], "the labels are 0, 0.5"),
        (2, "sparse_categorical_crossentropy", [-1, 1], "the labels are -1, 1"),
    ],
)
def test_labels_that_do_not_fit_the_outputs_are_refused(
    outputs: int, loss: str, labels: list[float], message: str
) -> None:
    with pytest.raises(ModelContractError, match=message):
        check_labels(compiled(outputs, loss), labels, outputs)


def test_a_regression_takes_any_labels() -> None:
    check_labels(compiled(1, "mse"), [-3.0, 0.5, 12.0], 1)
