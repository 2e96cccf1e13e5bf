"""The user's model: ``model(idim)`` out of their file, checked before a long training, and the targets it wants."""

from __future__ import annotations

import inspect
import logging
import os
import re
import sys
import warnings
import zipfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mlaas_spark.config import TrainConfig
from mlaas_spark.errors import ModelContractError, reason
from mlaas_spark.ml.archive import MAX_BYTES, MAX_RATIO, SMALL
from mlaas_spark.ml.sklearn_learner import SklearnModel
from mlaas_spark.ml.torch_learner import TorchModel
from mlaas_spark.usercode import UserFile, UserModule

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    import numpy.typing as npt

    from mlaas_spark.ml.inputs import InputLayout

logger = logging.getLogger("mlaas_spark")

_FUNCTION = "model"
_HAS_CODE = re.compile(r"unsafe|safe_mode|marshal|Lambda|TorchModuleWrapper", re.IGNORECASE)
_OWN_CODE = (
    "code in a model's file is not run: write the layer as a class in the file of train.model, with get_config, and "
    "register it by keras.saving.register_keras_serializable"
)
_GRAPH_ERROR = "Graph execution error"
_LONGEST_REASON = 300
_BINARY_LOSSES = ("binary_crossentropy", "binary_focal_crossentropy")

# what Keras 2 understood and Keras 3 does not, in the words of its errors, and what to write instead
_KERAS_3 = (
    (r"unexpected keyword argument.*'lr'|not recognized.*'lr'|\blr\b", "Keras 3 spells it learning_rate="),
    (r"'decay'|\bdecay is deprecated", "Keras 3 takes a schedule of keras.optimizers.schedules for decay="),
    (r"np_utils", "Keras 3 has keras.utils.to_categorical"),
    (r"keras\.layers\.(core|normalization|advanced_activations|convolutional)", "Keras 3 has it in keras.layers"),
    (r"keras\.optimizers\.legacy", "Keras 3 has it in keras.optimizers"),
    (r"tensorflow\.python\.keras|keras\.engine", "Keras 3 has it in keras"),
)

# Keras' remarks on habits that MLaaS4HEP's models have and that do work; messages of keras 3, pinned
_KNOWN_REMARKS = (
    r"Do not pass an `input_shape`/`input_dim` argument",
    r"You are using a softmax over axis",  # said once, in our words, by load_user_model
)


def load_user_model(
    path: str | Path | UserFile | UserModule,
    inputs: InputLayout,
    config: TrainConfig | None = None,
    *,
    source_name: str | None = None,
    seed: int | None = None,
) -> Any:
    """What the user's ``model(idim)`` or ``model(layout, config)`` gives: a compiled Keras model, or one to be wrapped.

    A torch module becomes a :class:`~mlaas_spark.ml.torch_learner.TorchModel`, an estimator of scikit-learn a
    :class:`~mlaas_spark.ml.sklearn_learner.SklearnModel`.

    Args:
        path: The user's Python file, or its text, which is run; or what running it gave.
        inputs: What events look like: its width, W, is given as ``idim``, or it is itself as ``layout``.
        config: The ``train`` section, given as ``config``.
        source_name: What to call the file in messages.
        seed: Seeds Python, numpy, TensorFlow and, if it is there, torch before the model is made.

    Raises:
        ModelContractError: The file cannot be run, has no function ``model``, or gives something that cannot be
            trained on (n, W) and scored as (n, K).
    """
    import keras

    module = run_model_file(path, seed)
    file, function = module.file, module.function(_FUNCTION)
    name = source_name or (str(path) if isinstance(path, str | os.PathLike) else file.path)
    with known_remarks():
        if seed is not None:
            keras.utils.set_random_seed(seed)  # once more: however much the file has drawn when, the model is the same
        arguments = (inputs, config or TrainConfig()) if _is_extended(function) else (inputs.width,)
        if inputs.kind != "matrix" and len(arguments) == 1:
            msg = (
                f"{name}: {_FUNCTION}(idim) takes the matrix alone: write {_FUNCTION}(layout, config) for "
                f"train.inputs {inputs.kind}"
            )
            raise ModelContractError(msg)
        try:
            with file.neighbours():
                if seed is not None:
                    _seed_torch(seed)
                model = function(*arguments)
        except (Exception, SystemExit) as error:
            given = f"{inputs.width}" if len(arguments) == 1 else "layout, config"
            msg = f"{_FUNCTION}({given}) failed: {file.explain(error)}{_spelling(str(error))}"
            raise ModelContractError(msg) from error
        if (
            wrapped := _of_other_library(model, function.__globals__, inputs, config or TrainConfig(), name)
        ) is not None:
            return wrapped
        outputs = _check(model, inputs, name)
        if config is not None and (config.loss or config.optimizer):
            msg = "train.loss and train.optimizer are for models of torch: a Keras model has them from compile"
            raise ModelContractError(msg)
        _warn_if_constant(model, inputs, outputs, name)
    return model


def run_model_file(path: str | Path | UserFile | UserModule, seed: int | None = None) -> UserModule:
    """Run the user's file, if that was not done yet: once for its model and its callbacks.

    Args:
        path: The file, its text, or what running it gave.
        seed: Seeds Python, numpy and TensorFlow before.

    Raises:
        ModelContractError: It cannot be run, or has no function ``model``.
    """
    if isinstance(path, UserModule):
        return path
    import keras

    if keras.backend.backend() != "tensorflow":
        msg = f"Keras runs on {keras.backend.backend()}: set KERAS_BACKEND=tensorflow"
        raise ModelContractError(msg)
    if seed is not None:
        keras.utils.set_random_seed(seed)
    with known_remarks():
        try:
            module = UserModule.of(path, ModelContractError)
            module.function(_FUNCTION)
        except ModelContractError as error:
            msg = f"{error}{_spelling(str(error))}"
            raise ModelContractError(msg) from error
    return module


def is_keras(model: Any) -> bool:
    """Whether it is no model of another library."""
    return not isinstance(model, SklearnModel | TorchModel)


def _of_other_library(
    model: Any, namespace: Mapping[str, Any], inputs: InputLayout, config: TrainConfig, name: str
) -> SklearnModel | TorchModel | None:
    """A model of scikit-learn or torch, wrapped; None of anything else."""
    torch, base = sys.modules.get("torch"), sys.modules.get("sklearn.base")
    if torch is not None and isinstance(model, torch.nn.Module):
        wrapped = TorchModel.of(model, namespace, config, name)
        wrapped.output_width(inputs)
        return wrapped
    if base is None or not isinstance(model, base.BaseEstimator):
        return None
    if config.loss or config.optimizer or config.learning_rate:
        msg = (
            "train.loss, optimizer and learning_rate are not for estimators of scikit-learn: they are arguments of them"
        )
        raise ModelContractError(msg)
    return SklearnModel.of(model, inputs, name)


def _seed_torch(seed: int) -> None:
    """Only where the user's file has imported it: it takes seconds."""
    if (torch := sys.modules.get("torch")) is not None:
        torch.manual_seed(seed)


def load_saved_model(path: str | Path, user_file: str | Path | None) -> Any:
    """A model that was saved as ``.keras``, with the classes of the user's file where it needs them.

    No code is run that the model's file holds (Keras' safe mode): a Lambda of Python code, a module of torch, and
    functions that are not Keras' own are refused. Classes come from the user's file alone.

    Raises:
        ModelContractError: It cannot be loaded, unpacks to more than a model has, or holds code.
    """
    import keras

    classes = {}
    if user_file is not None:
        namespace = UserFile.read(user_file, ModelContractError).function(_FUNCTION, ModelContractError).__globals__
        classes = {name: value for name, value in namespace.items() if isinstance(value, type)}
    _check_packed(Path(path))
    try:
        return keras.saving.load_model(path, custom_objects=classes, safe_mode=True)
    except Exception as error:  # Keras raises whatever the layers raise that a file names
        advice = f"; {_OWN_CODE}" if _HAS_CODE.search(str(error)) else ""
        msg = f"cannot load the model {path}: {reason(error)}{advice}"
        raise ModelContractError(msg) from error


def _check_packed(path: Path) -> None:
    """A ``.keras`` file, which is a zip, unpacks to the size of a model; what is none is left to Keras to refuse."""
    try:
        with zipfile.ZipFile(path) as packed:
            size = sum(entry.file_size for entry in packed.infolist())
    except (OSError, zipfile.BadZipFile):
        return
    if size > min(MAX_BYTES, SMALL + MAX_RATIO * path.stat().st_size):
        msg = f"{path} unpacks to {size:,} bytes: not opened"
        raise ModelContractError(msg)


def output_width(model: Any, inputs: InputLayout) -> int:
    """K, the number of outputs; builds a model that was not built yet.

    Raises:
        ModelContractError: The model does not take the inputs, or does not give (n, K).
    """
    nothing = inputs.arrays(np.zeros((1, inputs.width), np.float32), np.zeros((1, inputs.width), np.uint8))
    try:
        with known_remarks():
            scores = model(nothing, training=False)
    except Exception as error:
        msg = f"it cannot take events of shape {_shown(inputs)}: {reason(error)}"
        raise ModelContractError(msg) from error
    shape = getattr(scores, "shape", None)
    if shape is None or len(shape) != 2 or shape[0] != 1:
        kind = f"shape {tuple(shape)}" if shape is not None else f"a {type(scores).__name__}"
        msg = f"its output for one event has {kind}, it must be (1, K): K scores an event"
        raise ModelContractError(msg)
    return int(shape[1])


def _shown(inputs: InputLayout) -> str:
    """Shapes of the inputs of n events."""
    shapes = {name: f"(n, {', '.join(map(str, shape))})" for name, shape in inputs.shapes.items()}
    return shapes["matrix"] if len(shapes) == 1 else ", ".join(f"{name} {shape}" for name, shape in shapes.items())


def _is_extended(function: Any) -> bool:
    """Whether it takes (layout, config), not idim alone."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(function).parameters.values()
    return sum(p.kind in kinds and p.default is inspect.Parameter.empty for p in parameters) == 2


def encode_targets(model: Any, labels: npt.NDArray[Any], n_classes: int) -> npt.NDArray[Any]:
    """Labels as the loss of ``model`` wants them.

    One output: as they are, float32 (n,). Several: class numbers, int32 (n,), for a sparse loss, else one-hot,
    float32 (n, n_classes), as MLaaS4HEP does.
    """
    if n_classes == 1:
        return np.asarray(labels, np.float32)
    numbers = np.asarray(labels).astype(np.int32)
    if "sparse" in loss_name(model):
        return numbers
    hot = np.zeros((len(numbers), n_classes), np.float32)
    hot[np.arange(len(numbers)), numbers] = 1.0
    return hot


def check_labels(model: Any, labels: Iterable[float], n_classes: int) -> None:
    """The labels can be targets of a model with ``n_classes`` outputs.

    Raises:
        ModelContractError: They cannot.
    """
    found = sorted(set(labels))
    if not found:
        return
    shown = ", ".join(f"{label:g}" for label in found[:8])
    if n_classes == 1:
        if loss_name(model) in _BINARY_LOSSES and (found[0] < 0 or found[-1] > 1):
            msg = f"the labels are {shown}, a model of one output with {loss_name(model)} takes labels from 0 to 1"
            raise ModelContractError(msg)
        return
    if any(label != int(label) or not 0 <= label < n_classes for label in found):
        msg = f"the labels are {shown}, a model of {n_classes} outputs takes the labels 0 to {n_classes - 1}"
        raise ModelContractError(msg)


def label_counts(counts: Mapping[str, int]) -> dict[float, int]:
    """Events of each label of a manifest, as numbers."""
    return {float(label): events for label, events in counts.items() if events}


def loss_name(model: Any) -> str:
    """Name of the loss in snake case, "" if it has none."""
    loss = getattr(model, "loss", None)
    if loss is None:
        return ""
    if not isinstance(loss, str):
        loss = getattr(loss, "name", None) or getattr(loss, "__name__", None) or type(loss).__name__
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", str(loss)).lower()


def graph_reason(error: BaseException) -> str:
    """As ``errors.reason``, without the lines that TensorFlow puts before what went wrong in a graph."""
    text = str(error)
    if not text.startswith(_GRAPH_ERROR):
        return reason(error)
    said = (line for line in text.splitlines() if line.strip() and not line[0].isspace())
    told = next((line for line in said if not line.startswith((_GRAPH_ERROR, "Detected at node", "Node: "))), "")
    return f"{type(error).__name__}: {told[:_LONGEST_REASON]}"


@contextmanager
def known_remarks() -> Iterator[None]:
    """Without Keras' remarks on what MLaaS4HEP's models do and what works."""
    with warnings.catch_warnings():
        for message in _KNOWN_REMARKS:
            warnings.filterwarnings("ignore", message, UserWarning)
        yield


def _check(model: Any, inputs: InputLayout, name: str) -> int:
    """K of a model that keeps the contract."""
    import keras

    if not isinstance(model, keras.Model):
        msg = (
            f"{_FUNCTION} of {name} returned a {type(model).__name__}, not a Keras model, and not one of torch or "
            "scikit-learn"
        )
        raise ModelContractError(msg)
    if not model.compiled:
        msg = f"the model of {name} is not compiled: call model.compile(loss=..., optimizer=...) before returning it"
        raise ModelContractError(msg)
    tensors, width = getattr(model, "inputs", None), inputs.width
    if tensors and inputs.kind == "matrix":
        shapes = [tuple(tensor.shape) for tensor in tensors]
        if len(shapes) != 1 or len(shapes[0]) != 2 or shapes[0][1] not in {None, width}:
            msg = (
                f"the model of {name} takes input of shape {', '.join(map(str, shapes))}, the events have W = {width} "
                f"columns, shape (None, {width}): use the argument of {_FUNCTION}(idim) as its input width"
            )
            raise ModelContractError(msg)
    try:
        outputs = output_width(model, inputs)
    except ModelContractError as error:
        msg = f"the model of {name} does not fit: {error}"
        raise ModelContractError(msg) from error
    if not model.trainable_weights:
        msg = f"the model of {name} has no weights to train"
        raise ModelContractError(msg)
    return outputs


def _warn_if_constant(model: Any, inputs: InputLayout, outputs: int, name: str) -> None:
    """Softmax over one output is 1 for every event: say so, once."""
    if outputs != 1:
        return
    matrix = np.random.default_rng(0).normal(size=(16, inputs.width)).astype(np.float32)
    events = inputs.arrays(matrix, np.ones(matrix.shape, np.uint8))
    if np.allclose(np.asarray(model(events, training=False)), 1.0, rtol=0, atol=1e-6):  # some CPUs give 0.99999994
        logger.warning(
            "the model of %s ends in softmax on one output, which is always 1: it cannot learn; use sigmoid", name
        )


def _spelling(text: str) -> str:
    return next((f"; {advice}" for pattern, advice in _KERAS_3 if re.search(pattern, text)), "")
