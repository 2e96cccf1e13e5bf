"""Fits a model to a chunk data set: checks that they belong together, makes the learner, trains."""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from mlaas_spark.errors import ModelContractError
from mlaas_spark.ml import own_fit, rebuilt, weights
from mlaas_spark.ml.callbacks import OF_ALL
from mlaas_spark.ml.examples import Examples
from mlaas_spark.ml.inputs import InputLayout
from mlaas_spark.ml.keras_learner import KerasLearner
from mlaas_spark.ml.model import check_labels, encode_targets, is_keras, label_counts, output_width
from mlaas_spark.ml.sklearn_learner import SklearnLearner, SklearnModel
from mlaas_spark.ml.torch_learner import TorchLearner, TorchModel
from mlaas_spark.ml.train import TRAIN, VALIDATION, History, nobody_looks, train

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import numpy as np
    import numpy.typing as npt

    from mlaas_spark.config import TrainConfig
    from mlaas_spark.ml.checkpoint import Keeper
    from mlaas_spark.ml.examples import Encode
    from mlaas_spark.ml.stream import ChunkStream
    from mlaas_spark.ml.train import Progress
    from mlaas_spark.ml.weights import ClassTotals

_log = logging.getLogger("mlaas_spark")


def fit(
    model: Any,
    stream: ChunkStream,
    config: TrainConfig,
    *,
    callbacks: Sequence[Any] = (),
    progress: Progress | None = None,
    keeper: Keeper | None = None,
) -> History:
    """Fit ``model`` in place on the training split.

    Args:
        model: A compiled Keras model, or what ``load_user_model`` makes of one of torch or scikit-learn: of these
            ``rebuilt.keras_model`` then gives the Keras model to go on with.
        stream: The chunks.
        config: How.
        callbacks: Keras callbacks; of a model of another library those of ``callbacks.OF_ALL``.
        progress: Told after each pass.
        keeper: Writes checkpoints, and goes on from the one it has; not of a model with a ``fit`` of its own.

    Raises:
        ModelContractError: Labels, weights and model do not fit together, the model fails, or the loss is not a number.
        ChunkError: The chunks cannot be read.
    """
    import keras

    examples = checked_examples(model, stream, config)
    learner = learner_of(model, examples, stream, config, callbacks)
    keras.utils.set_random_seed(config.seed)
    if isinstance(learner, KerasLearner) and own_fit.has_own_fit(model):
        history = own_fit.train(learner, stream, config, progress or nobody_looks)
    else:
        history = train(learner, stream, config, progress, keeper)
    return replace(history, weights=examples.totals)


def checked_examples(model: Any, stream: ChunkStream, config: TrainConfig) -> Examples:
    """The examples of a training.

    Raises:
        ModelContractError: Labels, weights and model do not fit together.
        ChunkError: The chunks cannot be read.
    """
    found = _checked(model, stream, config, InputLayout.of(stream.transform, config.inputs))
    factors = {} if stream.manifest.targets else weights.class_factors(found, config)
    examples = examples_of(model, stream, config, factors)
    if not stream.weighted:
        return examples
    by_label = {} if stream.manifest.targets else {f"label {label:g}": of for label, of in found.items()}
    return replace(examples, totals={**by_label, "all": weights.added(found)})


def examples_of(model: Any, stream: ChunkStream, config: TrainConfig, factors: Mapping[float, float]) -> Examples:
    """Examples of which all that :func:`checked_examples` checks is known to be right."""
    inputs = InputLayout.of(stream.transform, config.inputs)
    return Examples(inputs, encoder(model, stream, inputs), len(stream.manifest.targets), factors, stream.weighted)


def learner_of(
    model: Any, examples: Examples, stream: ChunkStream, config: TrainConfig, callbacks: Sequence[Any] = ()
) -> KerasLearner | SklearnLearner | TorchLearner:
    """The learner of a model of whatever library; of torch its random numbers are seeded.

    Raises:
        ModelContractError: The model takes no weights, and there are some.
    """
    if is_keras(model):
        return KerasLearner(model, examples, callbacks, config.verbose, stream.meter)
    if odd := [type(callback).__name__ for callback in callbacks if type(callback).__name__ not in OF_ALL]:
        msg = (
            f"{odd[0]} is for Keras models, that of {model.name} is one of {model.library}: it has {', '.join(OF_ALL)}"
        )
        raise ModelContractError(msg)
    if why := rebuilt.obstacle(model, examples.inputs):
        _log.warning("%s; it is trained, and neither evaluated nor exported", why)
    if isinstance(model, TorchModel):
        import torch

        torch.manual_seed(config.seed)
        classes = not stream.manifest.targets
        return TorchLearner(model, examples, classes=classes, callbacks=callbacks, meter=stream.meter)
    if examples.weighted and not model.takes_weights:
        why = (
            "the classes have weights (train)" if not stream.weighted else "the events have weights (see input.weight)"
        )
        msg = (
            f"{type(model.estimator).__name__} of {model.name} takes no weights in partial_fit, and {why}: "
            "SGDClassifier and SGDRegressor do"
        )
        raise ModelContractError(msg)
    labels = range(_classes(stream)) if model.is_classifier else ()
    return SklearnLearner(model, examples, labels, callbacks, stream.meter)


def check_answers(model: Any, inputs: InputLayout, labels: Iterable[float]) -> None:
    """The labels of the files can be learned by the model; nothing is read.

    Raises:
        ModelContractError: They cannot.
    """
    if not isinstance(model, SklearnModel):
        check_labels(model, labels, _outputs(model, inputs))
    elif model.is_classifier and (found := sorted(set(labels))) and found != list(range(len(found))):
        shown = ", ".join(f"{label:g}" for label in found[:8])
        msg = (
            f"the labels are {shown}, {type(model.estimator).__name__} takes 0, 1 and so on: give each group its label"
        )
        raise ModelContractError(msg)


def _outputs(model: Any, inputs: InputLayout) -> int:
    """K of a model of Keras or torch."""
    return model.output_width(inputs) if isinstance(model, TorchModel) else output_width(model, inputs)


def _classes(stream: ChunkStream) -> int:
    """Classes that training has events of."""
    return len(label_counts(stream.manifest.counts()[TRAIN]))


def encoder(model: Any, stream: ChunkStream, inputs: InputLayout) -> Encode:
    """How labels become what the loss of the model wants; the targets of a regression are that already."""
    if stream.manifest.targets:
        return _as_they_are
    if isinstance(model, SklearnModel):
        return _class_numbers if model.is_classifier else _as_they_are
    return partial(_encoded, model, _outputs(model, inputs))


def _class_numbers(labels: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    return labels.astype("int64")


def _as_they_are(labels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return labels


def _encoded(model: Any, outputs: int, labels: npt.NDArray[np.float32]) -> npt.NDArray[Any]:
    return encode_targets(model, labels, outputs)


def _checked(model: Any, stream: ChunkStream, config: TrainConfig, inputs: InputLayout) -> Mapping[float, ClassTotals]:
    """The totals of the classes in training, of a regression of all events under the label 0.

    {}, and nothing read, where neither weights nor factors need them.
    """
    if not stream.events(TRAIN):
        msg = f"no events are in the training split of {stream.folder}"
        raise ModelContractError(msg)
    if targets := stream.manifest.targets:
        _check_targets(model, inputs, targets)
        if stream.weighted:
            together = weights.totals((given * 0, given) for _, given in stream.answers(TRAIN))
            weights.check(together, f"the training split of {stream.folder}")
            return together
        return {}
    by_split = {split: label_counts(counts) for split, counts in stream.manifest.counts().items()}
    counts = by_split.get(TRAIN, {})
    if len(counts) == 1:
        ((label, events),) = counts.items()
        msg = (
            f"only one class is in training: all {events} events have the label {label:g}; "
            "check the labels of the files, or the label expression"
        )
        raise ModelContractError(msg)
    if missing := sorted(set(by_split.get(VALIDATION, {})) - set(counts)):
        msg = (
            f"the label {missing[0]:g} has events in validation and none in training, so it cannot be learned: "
            "give more events, or another share in chunks.split"
        )
        raise ModelContractError(msg)
    for split, there in by_split.items():
        if there and (absent := sorted(set(counts) - set(there))):
            _log.warning(
                "the label %g has no events in %s: its metrics are those of the other labels; give more events, or "
                "another share in chunks.split",
                absent[0],
                split,
            )
    check_answers(model, inputs, {label for labels in by_split.values() for label in labels})
    if not (stream.weighted or config.class_weight is not None or config.normalise_weights):
        return {}
    found = weights.totals(stream.answers(TRAIN))
    weights.check(found, f"the training split of {stream.folder}")
    return found


def _check_targets(model: Any, inputs: InputLayout, targets: Sequence[str]) -> None:
    named = f"{len(targets)} targets ({', '.join(targets)})"
    if not isinstance(model, SklearnModel):
        if len(targets) != (outputs := _outputs(model, inputs)):
            msg = f"the model has {outputs} outputs for {named}"
            raise ModelContractError(msg)
    elif model.is_classifier:
        msg = f"the model of {model.name} is a classifier, {type(model.estimator).__name__}, for {named}"
        raise ModelContractError(msg)
