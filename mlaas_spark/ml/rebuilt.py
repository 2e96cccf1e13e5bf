"""A Keras model that says what a trained model of another library says: what evaluation, bundles and servers take.

Dense layers, their activations and normalisations carry over one to one. What is rebuilt is proven: it gives the scores
of the original on real events. The original's own numbers can be kept beside it, see :func:`to_npz`.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np

from mlaas_spark.errors import ExportError, MlaasSparkError, reason
from mlaas_spark.ml.inputs import InputLayout
from mlaas_spark.ml.model import is_keras, known_remarks
from mlaas_spark.ml.torch_learner import TorchModel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy.typing as npt

    from mlaas_spark.config import TrainConfig
    from mlaas_spark.ml.sklearn_learner import SklearnModel
    from mlaas_spark.ml.stream import Batch, ChunkStream

TOLERANCE = 1e-5
"""How far a score may be from the original's; of scores above 1 this share of them."""
FILE = "model.npz"
"""Name in a run of what a model of another library has learned."""
_PROVEN_ON = 4096  # events

_SKLEARN_ACTIVATIONS = {
    "identity": "linear",
    "logistic": "sigmoid",
    "tanh": "tanh",
    "relu": "relu",
    "softmax": "softmax",
}
_TINY = 1e-30
_EXACT = "float64"


def keras_model(model: Any, stream: ChunkStream, config: TrainConfig) -> Any:
    """The Keras model to go on with after training: of another library's model one that gives the same scores.

    Args:
        model: What ``load_user_model`` gave and ``fit`` trained; a Keras model is returned as it is.
        stream: The chunks: on events of them it is proven.
        config: The inputs of the model.

    Raises:
        ExportError: A layer has no counterpart in Keras, or the scores differ.
    """
    if is_keras(model):
        return model
    inputs = InputLayout.of(stream.transform, config.inputs)
    with known_remarks():
        made = build(model, inputs, regression=bool(stream.manifest.targets))
        _prove(made, model, inputs, stream)
    return made


def build(model: SklearnModel | TorchModel, inputs: InputLayout, *, regression: bool = False) -> Any:
    """A compiled Keras model with the numbers of the trained model.

    Raises:
        ExportError: A layer has no counterpart; it is named.
    """
    import keras

    tensors = inputs.keras_inputs()
    given = tuple(tensors.values())
    if isinstance(model, TorchModel):
        from mlaas_spark.ml import rebuilt_torch

        outputs, loss = rebuilt_torch.outputs(model, inputs, tensors), model.loss
    else:
        exact, loss = _of_sklearn(model.estimator, model.name, given[0]), ""
        outputs = keras.layers.Activation("linear", dtype="float32")(exact)
        regression = regression or not model.is_classifier
    made = keras.Model({"matrix": given[0], "matrix+mask": given}.get(inputs.kind, tensors), outputs)
    if not loss:
        classes = "binary_crossentropy" if outputs.shape[1] == 1 else "sparse_categorical_crossentropy"
        loss = "mean_squared_error" if regression else classes
    made.compile(loss=loss, optimizer="sgd", metrics=[] if regression else ["accuracy"])
    return made


def obstacle(model: SklearnModel | TorchModel, inputs: InputLayout) -> str:
    """Why a model that has learned nothing yet will not be rebuilt, "" if nothing is known to keep it from that."""
    try:
        if isinstance(model, TorchModel):
            build(model, inputs)
        else:
            _check_kind(model.estimator, model.name)
    except ExportError as error:
        return str(error)
    return ""


def to_npz(model: SklearnModel | TorchModel) -> bytes:
    """What the model has learned by its library's own names: torch's ``state_dict``, scikit-learn's ``coef_``."""
    content = io.BytesIO()
    np.savez(content, **model.arrays())
    return content.getvalue()


def dense(
    tensor: Any,
    weights: npt.NDArray[Any],
    bias: npt.NDArray[Any] | None,
    activation: str = "linear",
    dtype: str = _EXACT,
) -> Any:
    """A dense layer with these numbers.

    Args:
        tensor: Its input, shape (n, inputs).
        weights: Shape (inputs, outputs).
        bias: Shape (outputs,).
        activation: Keras' name.
        dtype: In which it computes.
    """
    import keras

    layer = keras.layers.Dense(weights.shape[1], activation=activation, use_bias=bias is not None, dtype=dtype)
    result = layer(tensor)
    layer.set_weights([weights] if bias is None else [weights, bias])
    return result


def _of_sklearn(estimator: Any, name: str, matrix: Any) -> Any:
    """The scores of an estimator as a Keras tensor; :meth:`SklearnModel.scores` says what they are.

    In float64: weights of linear models can be so large that scores of float32 differ.
    """
    import keras
    from sklearn.base import is_classifier

    if hasattr(estimator, "coefs_"):
        return _of_layers(estimator, matrix)
    if hasattr(estimator, "coefs_"):
        return _of_layers(estimator, matrix)
    _check_kind(estimator, name)
    if hasattr(estimator, "estimators_"):
        return keras.layers.Concatenate(dtype=_EXACT)(
            [_of_sklearn(of_one, name, matrix) for of_one in estimator.estimators_]
        )
    weights, bias = np.atleast_2d(estimator.coef_).T, np.ravel(estimator.intercept_)
    return _of_decision(estimator, matrix, weights, bias) if is_classifier(estimator) else dense(matrix, weights, bias)


def _of_decision(estimator: Any, matrix: Any, weights: Any, bias: Any) -> Any:
    """Of a linear classifier."""
    import keras

    share = keras.layers.Softmax(dtype=_EXACT)
    if getattr(estimator, "loss", "") == "modified_huber":  # (clip(f, -1, 1) + 1) / 2, and hard_sigmoid(3 f) is that
        sides = dense(matrix, 3 * weights, 3 * bias, "hard_sigmoid")
        # softmax of log is a share of the sum; where all are 0, all are as likely
        return sides if weights.shape[1] == 1 else share(keras.ops.log(sides + _TINY))
    if weights.shape[1] == 1:
        return dense(matrix, weights, bias, "sigmoid")
    if not hasattr(estimator, "predict_proba"):
        return dense(matrix, weights, bias, "softmax")
    # one class against the rest, as in scikit-learn: each sigmoid's share of their sum
    return share(dense(matrix, weights, bias, "log_sigmoid"))


def _of_layers(estimator: Any, matrix: Any) -> Any:
    """Of an MLP."""
    layers = list(zip(estimator.coefs_, estimator.intercepts_, strict=True))
    for weights, bias in layers[:-1]:
        matrix = dense(matrix, weights, bias, _SKLEARN_ACTIVATIONS[estimator.activation])
    return dense(matrix, *layers[-1], _SKLEARN_ACTIVATIONS[estimator.out_activation_])


def _check_kind(estimator: Any, name: str) -> None:
    """It is linear, in layers, or several linear ones, each for a target.

    Raises:
        ExportError: It is not.
    """
    from sklearn.linear_model._base import LinearClassifierMixin
    from sklearn.linear_model._stochastic_gradient import BaseSGDRegressor
    from sklearn.multioutput import MultiOutputRegressor
    from sklearn.neural_network import MLPClassifier, MLPRegressor

    if isinstance(estimator, MultiOutputRegressor):
        _check_kind(estimator.estimator, name)
    elif not isinstance(estimator, LinearClassifierMixin | BaseSGDRegressor | MLPClassifier | MLPRegressor):
        msg = (
            f"the {type(estimator).__name__} of {name} cannot be rebuilt in Keras, which evaluation and export take: "
            "linear estimators (SGD, Perceptron, PassiveAggressive) and MLPs can"
        )
        raise ExportError(msg)


def _prove(made: Any, model: SklearnModel | TorchModel, inputs: InputLayout, stream: ChunkStream) -> None:
    """Compare scores on real events.

    Raises:
        ExportError: They differ by more than :data:`TOLERANCE`.
    """
    original: Callable[[Any], npt.NDArray[np.float64]] = model.scores
    seen = 0
    for batch in _some(stream):
        events = inputs.arrays(batch.matrix, batch.mask)
        try:
            wanted, found = original(events), np.asarray(made(events, training=False), np.float64)
        except MlaasSparkError:
            raise
        except Exception as error:  # whatever the user's module raises
            msg = f"the model of {model.name} does not take events after training: {reason(error)}"
            raise ExportError(msg) from error
        if wanted.shape != found.shape:
            msg = f"the model of {model.name} gives scores {wanted.shape}, rebuilt in Keras {found.shape}"
            raise ExportError(msg)
        far = np.abs(wanted - found) / np.maximum(1, np.abs(wanted))
        if not (far <= TOLERANCE).all():  # NaN too
            worst = np.unravel_index(np.nanargmax(np.where(np.isnan(far), np.inf, far)), far.shape)
            msg = (
                f"the model of {model.name} was rebuilt in Keras and does not give the same scores: {found[worst]:.7g} "
                f"for {wanted[worst]:.7g} at event {seen + int(worst[0])} of those compared"
            )
            raise ExportError(msg)
        seen += len(batch)


def _some(stream: ChunkStream) -> Iterator[Batch]:
    seen = 0
    for split in ("test", "validation", "train"):
        if not stream.events(split):
            continue
        for batch in stream.batches(split):
            yield batch
            seen += len(batch)
            if seen >= _PROVEN_ON:
                return
