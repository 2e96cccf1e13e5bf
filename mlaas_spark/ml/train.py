"""Training: the user's model fitted on a stream of chunks, chunk by chunk or epoch by epoch."""

from __future__ import annotations

import csv
import inspect
import io
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from mlaas_spark.errors import MlaasSparkError, ModelContractError
from mlaas_spark.ml.model import check_labels, encode_targets, graph_reason, known_remarks, label_counts, output_width

if TYPE_CHECKING:
    import numpy.typing as npt

    from mlaas_spark.config import TrainConfig
    from mlaas_spark.ml.stream import Batch, ChunkStream
    from mlaas_spark.transform import FeatureTransform

TRAIN, VALIDATION = "train", "validation"

Row = dict[str, float]
Progress = Callable[[int, int, Mapping[str, float]], None]
"""Told after each chunk or epoch: how many are done, how many there are, the newest row of the history."""

_NAMED_BRANCHES = 3
_SEARCHED_BATCHES = 100


@dataclass(frozen=True, slots=True)
class History:
    """What training went through.

    Attributes:
        rows: One for each epoch (of each chunk, numbers from 0): chunk, epoch, loss and the model's metrics, those of
            the validation split with ``val_`` before their name. No chunk is given where an epoch covers all.
    """

    rows: tuple[Row, ...]

    def to_csv(self) -> str:
        """As CSV with a header; a metric that a row lacks is empty."""
        names = list(dict.fromkeys(name for row in self.rows for name in ("chunk", "epoch", *row)))
        text = io.StringIO()
        writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        return text.getvalue()


def train(model: Any, stream: ChunkStream, config: TrainConfig, progress: Progress | None = None) -> History:
    """Fit ``model`` in place on the training split.

    The same seed, chunks and machine give the same weights with one thread of TensorFlow and of the stream.

    Raises:
        ModelContractError: The labels do not fit, the fit fails, or the loss is not a number any more.
        ChunkError: The chunks cannot be read.
    """
    import keras

    targets = _targets(model, stream)
    keras.utils.set_random_seed(config.seed)
    report = progress or _nobody_looks
    with known_remarks():
        if config.mode == "chunks":
            return _by_chunks(model, stream, config, targets, report)
        return _by_epochs(model, stream, config, targets, report)


def _targets(model: Any, stream: ChunkStream) -> Callable[[npt.NDArray[np.float32]], npt.NDArray[Any]]:
    """How labels become targets, if the training split can train the model at all."""
    by_split = {split: label_counts(counts) for split, counts in stream.manifest.counts().items()}
    counts = by_split.get(TRAIN, {})
    if not stream.events(TRAIN):
        msg = f"no events are in the training split of {stream.folder}"
        raise ModelContractError(msg)
    if len(counts) == 1:
        ((label, events),) = counts.items()
        msg = (
            f"only one class is in training: all {events} events have the label {label:g}; "
            "check the labels of the files, or the label expression"
        )
        raise ModelContractError(msg)
    outputs = output_width(model, stream.width)
    check_labels(model, {label for labels in by_split.values() for label in labels}, outputs)
    return partial(_encoded, model, outputs)


def _encoded(model: Any, outputs: int, labels: npt.NDArray[np.float32]) -> npt.NDArray[Any]:
    return encode_targets(model, labels, outputs)


def _by_chunks(
    model: Any,
    stream: ChunkStream,
    config: TrainConfig,
    targets: Callable[[npt.NDArray[np.float32]], npt.NDArray[Any]],
    report: Progress,
) -> History:
    """A fit of ``config.epochs`` on each chunk in memory, through the model's own ``fit``, as MLaaS4HEP."""
    rows: list[Row] = []
    chunks = [chunk for chunk in range(stream.manifest.chunks) if stream.events(TRAIN, chunk)]
    for done, chunk in enumerate(chunks, start=1):
        events = _arguments(stream.arrays(TRAIN, chunk), targets)
        validation = _arguments(stream.arrays(VALIDATION, chunk), targets) if stream.events(VALIDATION, chunk) else None
        new = [{"chunk": chunk, **row} for row in _fit_arrays(model, config, events, validation, f"chunk {chunk}")]
        for row in new:
            _refuse_nan(row, f"epoch {row['epoch']:g} of chunk {chunk}", stream.transform, events[0])
        rows += new
        report(done, len(chunks), rows[-1])
    return History(tuple(rows))


def _arguments(
    batch: Batch, targets: Callable[[npt.NDArray[np.float32]], npt.NDArray[Any]]
) -> tuple[npt.NDArray[Any], ...]:
    """(x, y), or (x, y, weight) where some weight is not 1."""
    pair = (batch.matrix, targets(batch.label))
    return pair if (batch.weight == 1.0).all() else (*pair, batch.weight)


def _fit_arrays(
    model: Any,
    config: TrainConfig,
    events: tuple[npt.NDArray[Any], ...],
    validation: tuple[npt.NDArray[Any], ...] | None,
    where: str,
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
    }
    try:
        result = model.fit(x, y, **_accepted(model.fit, wanted))
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


def _by_epochs(
    model: Any,
    stream: ChunkStream,
    config: TrainConfig,
    targets: Callable[[npt.NDArray[np.float32]], npt.NDArray[Any]],
    report: Progress,
) -> History:
    """One fit on the stream: each epoch sees every training event once, in another order."""
    import keras

    failures: list[MlaasSparkError] = []
    rows: list[Row] = []

    def end_batch(batch: int, logs: Mapping[str, Any] | None) -> None:
        if not math.isfinite((logs or {}).get("loss", 0.0)):
            where = f"epoch {len(rows)}, batch {batch}"
            _refuse_nan({"loss": math.nan}, where, stream.transform, _some_events(stream))

    def end_epoch(epoch: int, logs: Mapping[str, Any] | None) -> None:
        rows.append({"epoch": epoch, **{name: float(value) for name, value in (logs or {}).items()}})
        if not _finite(rows[-1]):
            _refuse_nan(rows[-1], f"epoch {epoch}", stream.transform, _some_events(stream))
        report(epoch + 1, config.epochs, rows[-1])

    arguments = {
        "epochs": config.epochs,
        "verbose": config.verbose,
        "shuffle": False,  # the stream has its own order; Keras cannot shuffle it
        "callbacks": [keras.callbacks.LambdaCallback(on_epoch_end=end_epoch, on_train_batch_end=end_batch)],
    }
    if stream.events(VALIDATION):
        arguments["validation_data"] = stream.dataset(VALIDATION, targets=targets, failures=failures)
    seed = config.seed if config.shuffle else None
    events = stream.dataset(TRAIN, seed=seed, targets=targets, failures=failures)
    try:
        inspect.signature(model.fit).bind(events, **arguments)
    except TypeError as error:
        msg = f"the model's own fit takes arrays and no stream ({error}): set train.mode to chunks"
        raise ModelContractError(msg) from error
    try:
        model.fit(events, **arguments)
    except MlaasSparkError:
        raise
    except Exception as error:
        if failures:
            raise failures[0] from None
        msg = f"fit of the model failed in epoch {len(rows)}: {graph_reason(error)}"
        raise ModelContractError(msg) from error
    return History(tuple(rows))


def _refuse_nan(row: Row, where: str, transform: FeatureTransform, matrix: npt.NDArray[np.float32]) -> None:
    if _finite(row):
        return
    msg = (
        f"the loss is not a number in {where}; the largest feature values are {largest_values(transform, matrix)}: "
        "normalise them, or lower the learning rate"
    )
    raise ModelContractError(msg)


def _finite(row: Row) -> bool:
    """Whether all losses of a history row are numbers."""
    return all(math.isfinite(value) for name, value in row.items() if name.endswith("loss"))


def _some_events(stream: ChunkStream) -> npt.NDArray[np.float32]:
    """Largest values of each column in some training batches, shape (batches, W)."""
    batches = stream.batches(TRAIN)
    found = [np.abs(batch.matrix).max(axis=0) for _, batch in zip(range(_SEARCHED_BATCHES), batches, strict=False)]
    return np.array(found, np.float32)


def largest_values(transform: FeatureTransform, matrix: npt.NDArray[np.float32]) -> str:
    """The branches with the largest absolute values in a feature matrix, and those values."""
    top = {
        name: float(np.abs(matrix[:, transform.layout.span(name)]).max(initial=0)) for name in transform.layout.branches
    }
    worst = sorted(top, key=lambda name: (-top[name], name))[:_NAMED_BRANCHES]
    return ", ".join(f"{name} ({top[name]:.3g})" for name in worst)


def _nobody_looks(done: int, total: int, row: Mapping[str, float]) -> None:
    """Progress that nobody asked for."""
