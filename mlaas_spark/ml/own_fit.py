"""Models with a ``fit`` of their own, as MLaaS4HEP's users write them: it is called, and trains as it likes."""

from __future__ import annotations

import inspect
import itertools
import logging
from typing import TYPE_CHECKING, Any

from mlaas_spark.errors import MlaasSparkError, ModelContractError
from mlaas_spark.ml.keras_learner import dataset
from mlaas_spark.ml.meter import FIT, HANDED
from mlaas_spark.ml.model import graph_reason, known_remarks
from mlaas_spark.ml.stream import Batch
from mlaas_spark.ml.train import TRAIN, VALIDATION, History, Row, finite, refuse_nan

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

    from mlaas_spark.config import TrainConfig
    from mlaas_spark.ml.keras_learner import KerasLearner
    from mlaas_spark.ml.stream import ChunkStream
    from mlaas_spark.ml.train import Progress


_log = logging.getLogger("mlaas_spark")


def has_own_fit(model: Any) -> bool:
    """Whether a Keras model's class overrides ``fit``."""
    import keras

    return type(model).fit is not keras.Model.fit


def train(learner: KerasLearner, stream: ChunkStream, config: TrainConfig, progress: Progress) -> History:
    """Call the model's own ``fit``: on the arrays of each chunk, of all chunks, or in mode epochs on a tf.data.Dataset.

    Raises:
        ModelContractError: It fails, takes no data set, or its loss is not a number.
        ChunkError: The chunks cannot be read.
    """
    if config.mode == "epochs":
        with known_remarks():
            return _on_stream(learner, stream, config, progress)
    rows: list[Row] = []
    chunks: list[int | None] = [chunk for chunk in range(stream.manifest.chunks) if stream.events(TRAIN, chunk)]
    if config.mode == "all":
        chunks = [None]
    for done, chunk in enumerate(chunks, start=1):
        with stream.meter.timed(HANDED):
            events = _arrays(stream, TRAIN, chunk)
            examples = learner.examples.of(events)
            judged = (
                learner.examples.of(_arrays(stream, VALIDATION, chunk)) if stream.events(VALIDATION, chunk) else None
            )
        where = "all chunks" if chunk is None else f"chunk {chunk}"
        with known_remarks(), stream.meter.timed(FIT):
            new = _fit_arrays(learner.model, config, examples, judged, where, learner.callbacks)
        stream.meter.add(TRAIN, stream.events(TRAIN, chunk) * (config.epochs - 1))  # they were delivered once
        for row in new:
            if not finite(row):
                refuse_nan(row, f"epoch {row['epoch']:g} of {where}", stream.transform, events.matrix)
            rows.append(row if chunk is None else {"chunk": chunk, **row})
        progress(done, len(chunks), rows[-1])
    return History(tuple(rows))


def _arrays(stream: ChunkStream, split: str, chunk: int | None) -> Batch:
    return stream.arrays(split, chunk) if chunk is not None else Batch.join(stream.batches(split))


def _fit_arrays(
    model: Any,
    config: TrainConfig,
    events: tuple[npt.NDArray[Any], ...],
    validation: tuple[npt.NDArray[Any], ...] | None,
    where: str,
    callbacks: Sequence[Any],
) -> list[Row]:
    """History rows of one fit; the user's own ``fit`` may return anything."""
    x, y, *weight = events
    wanted = {
        "epochs": config.epochs,
        "batch_size": config.batch_size,
        "shuffle": config.shuffle,
        "verbose": config.verbose,
        **({"validation_data": validation} if validation else {}),
        **({"sample_weight": weight[0]} if weight else {}),
        **({"callbacks": list(callbacks)} if callbacks else {}),
    }
    taken = _accepted(model.fit, wanted)
    if left := sorted({"sample_weight", "callbacks"} & wanted.keys() - taken.keys()):
        _log.warning("fit of %s takes no %s: they are left out", type(model).__name__, " and no ".join(left))
    try:
        result = model.fit(x, y, **taken)
        history = getattr(result, "history", None)
        if isinstance(history, dict) and history.get("loss"):
            return [
                {"epoch": epoch, **{name: float(values[epoch]) for name, values in history.items()}}
                for epoch in range(len(history["loss"]))
            ]
        prefix, judged = ("val_", validation) if validation else ("", events)
        x, y, *weight = judged
        found = model.evaluate(
            x, y, sample_weight=weight[0] if weight else None, batch_size=config.batch_size, verbose=0, return_dict=True
        )
    except Exception as error:
        msg = f"fit of the model failed in {where}: {graph_reason(error)}"
        raise ModelContractError(msg) from error
    return [{"epoch": config.epochs - 1, **{f"{prefix}{name}": float(value) for name, value in found.items()}}]


def _accepted(function: Callable[..., Any], wanted: dict[str, Any]) -> dict[str, Any]:
    """The keyword arguments that a user's own ``fit`` takes; all of them if it has ``**kwds``."""
    parameters = inspect.signature(function).parameters
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return wanted
    return {name: value for name, value in wanted.items() if name in parameters}


def _dataset(
    learner: KerasLearner, stream: ChunkStream, split: str, seed: int | None, failures: list[MlaasSparkError]
) -> Any:
    """The examples of a split as a ``tf.data.Dataset`` of known length, whose every iterator is the next epoch."""
    import tensorflow as tf

    epochs = itertools.count()
    made = dataset(learner.examples, lambda: stream.batches(split, seed=seed, epoch=next(epochs)), failures)
    return made.apply(tf.data.experimental.assert_cardinality(stream.steps(split)))


def _on_stream(learner: KerasLearner, stream: ChunkStream, config: TrainConfig, progress: Progress) -> History:
    """One call with a data set whose every iteration is the next epoch."""
    import keras

    model = learner.model
    failures: list[MlaasSparkError] = []
    rows: list[Row] = []

    def end_epoch(epoch: int, logs: dict[str, Any] | None) -> None:
        rows.append({"epoch": epoch, **{name: float(value) for name, value in (logs or {}).items()}})
        if not finite(rows[-1]):
            refuse_nan(rows[-1], f"epoch {epoch}", stream.transform, next(stream.batches(TRAIN)).matrix)
        progress(epoch + 1, config.epochs, rows[-1])

    arguments: dict[str, Any] = {
        "epochs": config.epochs,
        "verbose": config.verbose,
        "shuffle": False,  # the stream has its own order; Keras cannot shuffle it
        "callbacks": [*learner.callbacks, keras.callbacks.LambdaCallback(on_epoch_end=end_epoch)],
    }
    if stream.events(VALIDATION):
        arguments["validation_data"] = _dataset(learner, stream, VALIDATION, None, failures)
    events = _dataset(learner, stream, TRAIN, config.seed if config.shuffle else None, failures)
    try:
        inspect.signature(model.fit).bind(events, **arguments)
    except TypeError as error:
        msg = f"the model's own fit takes arrays and no stream ({error}): set train.mode to chunks"
        raise ModelContractError(msg) from error
    try:
        model.fit(events, **arguments)
    except MlaasSparkError:
        raise
    except Exception as error:  # whatever the user's fit raises
        if failures:
            raise failures[0] from None
        msg = f"fit of the model failed in epoch {len(rows)}: {graph_reason(error)}"
        raise ModelContractError(msg) from error
    return History(tuple(rows))
