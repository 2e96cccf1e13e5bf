"""Fits a model to a chunk data set: checks that they belong together, makes the learner, trains."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from mlaas_spark.errors import ModelContractError
from mlaas_spark.ml import own_fit, weights
from mlaas_spark.ml.examples import Examples
from mlaas_spark.ml.inputs import InputLayout
from mlaas_spark.ml.keras_learner import KerasLearner
from mlaas_spark.ml.model import check_labels, encode_targets, label_counts, output_width
from mlaas_spark.ml.train import TRAIN, VALIDATION, History, nobody_looks, train

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    import numpy.typing as npt

    from mlaas_spark.config import TrainConfig
    from mlaas_spark.ml.checkpoint import Keeper
    from mlaas_spark.ml.examples import Encode
    from mlaas_spark.ml.stream import ChunkStream
    from mlaas_spark.ml.train import Progress
    from mlaas_spark.ml.weights import ClassTotals


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
        model: A compiled Keras model.
        stream: The chunks.
        config: How.
        callbacks: Keras callbacks.
        progress: Told after each pass.
        keeper: Writes checkpoints, and goes on from the one it has; not of a model with a ``fit`` of its own.

    Raises:
        ModelContractError: Labels, weights and model do not fit together, the model fails, or the loss is not a number.
        ChunkError: The chunks cannot be read.
    """
    import keras

    learner = KerasLearner(model, checked_examples(model, stream, config), callbacks, config.verbose)
    keras.utils.set_random_seed(config.seed)
    if own_fit.has_own_fit(model):
        return own_fit.train(learner, stream, config, progress or nobody_looks)
    return train(learner, stream, config, progress, keeper)


def checked_examples(model: Any, stream: ChunkStream, config: TrainConfig) -> Examples:
    """The examples of a training.

    Raises:
        ModelContractError: Labels, weights and model do not fit together.
        ChunkError: The chunks cannot be read.
    """
    outputs = output_width(model, InputLayout.of(stream.transform, config.inputs))
    found = _checked(model, stream, outputs)
    return examples_of(model, stream, config, weights.class_factors(found, config))


def examples_of(model: Any, stream: ChunkStream, config: TrainConfig, factors: Mapping[float, float]) -> Examples:
    """Examples of which all that :func:`checked_examples` checks is known to be right."""
    inputs = InputLayout.of(stream.transform, config.inputs)
    encode = encoder(model, stream, output_width(model, inputs))
    return Examples(inputs, encode, len(stream.manifest.targets), factors, stream.weighted)


def encoder(model: Any, stream: ChunkStream, outputs: int) -> Encode:
    """How labels become what the loss of the model wants; the targets of a regression are that already."""
    if stream.manifest.targets:
        return _as_they_are
    return partial(_encoded, model, outputs)


def _as_they_are(labels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return labels


def _encoded(model: Any, outputs: int, labels: npt.NDArray[np.float32]) -> npt.NDArray[Any]:
    return encode_targets(model, labels, outputs)


def _checked(model: Any, stream: ChunkStream, outputs: int) -> Mapping[float, ClassTotals]:
    """The totals of the classes in training; {} of a regression, and where neither weights nor factors need them."""
    if not stream.events(TRAIN):
        msg = f"no events are in the training split of {stream.folder}"
        raise ModelContractError(msg)
    if targets := stream.manifest.targets:
        if len(targets) != outputs:
            msg = f"the model has {outputs} outputs for {len(targets)} targets ({', '.join(targets)})"
            raise ModelContractError(msg)
        together = weights.totals((of_batch[1] * 0, of_batch[1]) for of_batch in stream.answers(TRAIN))
        weights.check(together, f"the training split of {stream.folder}")
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
    check_labels(model, {label for labels in by_split.values() for label in labels}, outputs)
    found = weights.totals(stream.answers(TRAIN))
    weights.check(found, f"the training split of {stream.folder}")
    return found


def weight_remark(found: Mapping[float, ClassTotals]) -> str:
    """What to say of negative weights: "" if there are none."""
    negative = {label: of for label, of in found.items() if of.negative < 0}
    told = ", ".join(f"{of.negative:.4g} of {of.weight:.4g} for label {label:g}" for label, of in negative.items())
    return f"negative weights are kept: they add up to {told}" if told else ""
