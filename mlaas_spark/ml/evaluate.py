"""Evaluation: how well a trained model does on a split of the chunks, as plain values for metrics.json."""

from __future__ import annotations

import csv
import io
import math
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from mlaas_spark.config import EvaluateConfig
from mlaas_spark.errors import ModelContractError
from mlaas_spark.evaluation import roc
from mlaas_spark.evaluation.confusion import predicted
from mlaas_spark.evaluation.events import Scored, label_text, mean, plain
from mlaas_spark.evaluation.importance import permutation_importance
from mlaas_spark.evaluation.summary import Settings, Task, summarise, task_of
from mlaas_spark.ml.inputs import InputLayout
from mlaas_spark.ml.model import check_labels, encode_targets, graph_reason, known_remarks, loss_name
from mlaas_spark.ml.stream import Batch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    import numpy.typing as npt

    from mlaas_spark.ml.stream import ChunkStream

TRAIN = "train"

_AT_ONCE = 4_096  # events that the model scores at a time for the importance
_MOST_SCORED = 3_000_000  # events that it scores for the importance of all branches together
_FEWEST = 1_000  # of a permutation
_MEASURES = ("auc_drop", "accuracy_drop", "loss_rise", "rmse_rise")


@dataclass(frozen=True, slots=True)
class Judged:
    """A model as evaluation sees it.

    Attributes:
        score: A batch to scores (n, K).
        loss: Scored events to the model's own weighted loss; None if it has none, or it is not a number.
        loss_name: In snake case; "" if it has none.
        check: Whether it can have these labels with so many outputs; ModelContractError if not.
    """

    score: Callable[[Batch], npt.NDArray[np.float32]]
    loss: Callable[[Scored, Task], float | None]
    loss_name: str
    check: Callable[[Iterable[float], int], None]

    @classmethod
    def of(cls, model: Any, inputs: InputLayout) -> Judged:
        """A Keras model that takes these inputs."""

        def score(batch: Batch) -> npt.NDArray[np.float32]:
            return np.asarray(model.predict_on_batch(inputs.arrays(batch.matrix, batch.mask)), np.float32)

        def loss(scored: Scored, task: Task) -> float | None:
            return _loss(model, scored, task)

        return cls(score, loss, loss_name(model), partial(check_labels, model))


def predict(model: Any, stream: ChunkStream, split: str, *, most: int | None = None, seed: int | None = None) -> Scored:
    """Scored events of a split, in the manifest's order, or in that of a seed (see ``ChunkStream.batches``).

    Args:
        model: A Keras model that takes the matrix, or a :class:`Judged` one.
        stream: The chunks.
        split: ``train``, ``validation`` or ``test``.
        most: At most so many events, the first.
        seed: Of the order.

    Raises:
        ModelContractError: The split has no events, or the model fails.
        ChunkError: The chunks cannot be read.
    """
    judged = _judged(model, stream)
    scores, labels, weights = [], [], []
    for batch in _first(stream, split, most, seed):
        scores.append(_scores(judged, batch, split))
        labels.append(batch.label.copy())  # the batch is a view of a row group, which can go
        weights.append(batch.weight.copy())
    return Scored(np.concatenate(scores), np.concatenate(labels), np.concatenate(weights))


def _judged(model: Any, stream: ChunkStream) -> Judged:
    return model if isinstance(model, Judged) else Judged.of(model, InputLayout.of(stream.transform))


def _first(stream: ChunkStream, split: str, most: int | None, seed: int | None) -> Iterable[Batch]:
    """Batches with the first ``most`` events of a split."""
    if not stream.events(split):
        msg = f"the {split} split of {stream.folder} has no events to predict: give it a share in chunks.split"
        raise ModelContractError(msg)
    left = stream.events(split) if most is None else min(most, stream.events(split))
    with closing(stream.batches(split, seed=seed)) as batches:
        for batch in batches:
            yield batch.take(slice(0, left)) if left < len(batch) else batch
            left -= len(batch)
            if left <= 0 and most is not None:
                return


def some(stream: ChunkStream, split: str, most: int, seed: int) -> Batch:
    """The first ``most`` events of a split in the order of a seed, or all of fewer; raises as :func:`predict`."""
    parts = [  # a batch is a view of a row group, which can go
        replace(
            batch,
            matrix=batch.matrix.copy(),
            mask=batch.mask.copy(),
            label=batch.label.copy(),
            weight=batch.weight.copy(),
        )
        for batch in _first(stream, split, most, seed)
    ]
    return Batch.join(parts)


def _scores(judged: Judged, batch: Batch, split: str) -> npt.NDArray[np.float32]:
    with known_remarks():
        try:
            return judged.score(batch)
        except Exception as error:
            msg = f"the model cannot predict {split} events: {graph_reason(error)}"
            raise ModelContractError(msg) from error


def evaluate(
    model: Any,
    stream: ChunkStream,
    split: str = "test",
    config: EvaluateConfig | None = None,
    *,
    task: Task | None = None,
    names: Sequence[str] = (),
    history: Sequence[Mapping[str, float]] = (),
) -> dict[str, Any]:
    """Metrics of a split, JSON-ready.

    Those of :func:`mlaas_spark.evaluation.summary.summarise`, and ``loss`` (the model's own, weighted),
    ``class_names``, ``train_events`` (how many the scores are compared with), ``importance`` (see :func:`importance`)
    and ``learning_curves``. A metric that cannot be given is None, and ``notes`` says why.

    Args:
        model: A Keras model that takes the matrix, or a :class:`Judged` one.
        stream: The chunks.
        split: ``test``, or another.
        config: Sizes and seeds.
        task: What the labels are; None: a regression if the chunks have targets, else see :func:`task_of`.
        names: Of the classes by number, or of the targets of a regression, which else are their expressions.
        history: Rows of the training's history.

    Raises:
        ModelContractError: The split has no events, or the model fails.
        ChunkError: The chunks cannot be read.
    """
    config = config or EvaluateConfig()
    judged = _judged(model, stream)
    scored = predict(judged, stream, split)
    task = task or ("regression" if stream.manifest.targets else task_of(scored, judged.loss_name))
    _check(judged, scored, task)
    splits = {split: scored}
    if split != TRAIN and config.train_events and stream.events(TRAIN):
        splits[TRAIN] = predict(judged, stream, TRAIN, most=config.train_events, seed=config.seed)
    settings = Settings(config.bootstrap, config.seed, config.signal_yield, config.background_yield)
    metrics = summarise(task, splits, settings, names or stream.manifest.targets if task == "regression" else ())
    compared = 0 if len(splits) == 1 else len(splits[TRAIN])
    if not compared:
        why = "these are the training events" if split == TRAIN else "there are no training events to compare with"
        metrics["notes"].append(f"no overtraining check: {why}")
    metrics["loss"] = judged.loss(scored, task)
    if metrics["loss"] is None:
        metrics["notes"].append("no loss: it is not a number, or the model has none")
    metrics["class_names"] = None if task == "regression" else {label_text(k): name for k, name in enumerate(names)}
    metrics["train_events"] = compared
    metrics["importance"] = importance(judged, stream, split, config, task) if config.importance_events else None
    metrics["learning_curves"] = learning_curves(history)
    return metrics


def _check(judged: Judged, scored: Scored, task: Task) -> None:
    """Labels and outputs fit the task.

    Raises:
        ModelContractError: They do not.
    """
    if task == "regression":
        if scored.outputs != scored.targets.shape[1]:
            msg = f"the model has {scored.outputs} outputs for {scored.targets.shape[1]} targets: it needs one for each"
            raise ModelContractError(msg)
        return
    if scored.labels.ndim > 1:
        msg = f"{scored.labels.shape[1]} labels an event are no class numbers: the task is regression, not {task}"
        raise ModelContractError(msg)
    judged.check({float(label) for label in np.unique(scored.labels)}, scored.outputs)


def importance(judged: Judged, stream: ChunkStream, split: str, config: EvaluateConfig, task: Task) -> dict[str, Any]:
    """Permutation importance of each branch on some events of a split.

    ``events`` and ``repeats`` that it is of, ``measures`` there are, and ``branches``, the most important first, each
    with ``branch`` and ``mean`` and ``std`` of each measure: ``auc_drop`` (of several classes of the mean AUC),
    ``accuracy_drop``, ``loss_rise``; of a regression ``loss_rise`` and ``rmse_rise`` (all targets). Of very many
    branches there are fewer repeats and events: the model scores at most three million, or a thousand a branch.
    """
    spans = {name: stream.transform.layout.span(name) for name in stream.transform.layout.branches}
    repeats = max(1, min(config.importance_repeats, _MOST_SCORED // (config.importance_events * len(spans))))
    events = min(config.importance_events, max(_MOST_SCORED // len(spans), _FEWEST))
    sample = some(stream, split, events, config.seed)

    def score(matrix: npt.NDArray[np.float32], mask: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        whole = replace(sample, matrix=matrix, mask=mask)
        starts = range(0, len(sample), _AT_ONCE)
        return np.concatenate([_scores(judged, whole.take(slice(at, at + _AT_ONCE)), split) for at in starts])

    def measure(scores: npt.NDArray[np.float32]) -> dict[str, float | None]:
        return _lost(judged, Scored(scores, sample.label, sample.weight), task)

    found = permutation_importance(score, (sample.matrix, sample.mask), spans, measure, repeats, config.seed)
    measures = [
        name for name in _MEASURES if any(name in row and row[name]["mean"] is not None for row in found.values())
    ]
    rows: list[dict[str, Any]] = [{"branch": branch, **row} for branch, row in found.items()]
    if measures:
        rows.sort(key=lambda row: (-(row[measures[0]]["mean"] or 0.0), row["branch"]))
    made: dict[str, Any] = plain({"events": len(sample), "repeats": repeats, "measures": measures, "branches": rows})
    return made


def _lost(judged: Judged, scored: Scored, task: Task) -> dict[str, float | None]:
    """What grows as a model gets worse."""
    if not np.isfinite(scored.scores).all():
        return {}
    loss = judged.loss(scored, task)
    if task == "regression":
        squares = mean(((scored.scores.astype(np.float64) - scored.targets) ** 2).mean(axis=1), scored.weights)[0]
        return {"loss_rise": loss, "rmse_rise": math.sqrt(squares) if squares is not None and squares >= 0 else None}
    accuracy = mean(predicted(scored.scores) == scored.labels, scored.weights)[0]
    columns = {1: scored.outputs - 1} if scored.outputs <= 2 else {k: k for k in range(scored.outputs)}
    found = (roc.auc(scored.scores[:, at], scored.labels == k, scored.weights) for k, at in columns.items())
    areas = [area for area in found if area is not None]
    return {
        "auc_drop": -float(np.mean(areas)) if areas else None,
        "accuracy_drop": -accuracy if accuracy is not None else None,
        "loss_rise": loss,
    }


def read_history(text: str) -> list[dict[str, float]]:
    """Rows of a run's history.csv; what is empty is left out."""
    return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(io.StringIO(text))]


def learning_curves(history: Sequence[Mapping[str, float]]) -> dict[str, Any] | None:
    """Metrics of the training by epoch; None of no history.

    ``fits`` (1, 2, ...: epochs, or epochs of chunks), ``series`` (each metric of the history, None where a row lacks
    it) and ``best``, the fit of the lowest ``val_loss``, of ``loss`` where there is no validation.
    """
    if not history:
        return None
    names = [name for name in dict.fromkeys(name for row in history for name in row) if name not in {"chunk", "epoch"}]
    series = {name: [row.get(name) for row in history] for name in names}
    judged = "val_loss" if any(value is not None for value in series.get("val_loss", [])) else "loss"
    known = [(value, fit) for fit, value in enumerate(series.get(judged, []), start=1) if value is not None]
    best = {"fit": min(known)[1], "metric": judged, "value": min(known)[0]} if known else None
    made: dict[str, Any] = plain({"fits": list(range(1, len(history) + 1)), "series": series, "best": best})
    return made


def _loss(model: Any, scored: Scored, task: Task) -> float | None:
    """The model's own loss of these scores, None if it is not a number."""
    if task == "regression":
        targets: npt.NDArray[Any] = scored.labels if scored.outputs == 1 else scored.targets
    else:
        targets = encode_targets(model, scored.labels, scored.outputs)
    weights = None if (scored.weights == 1.0).all() else scored.weights
    with known_remarks():
        try:
            loss = model.compute_loss(y=targets, y_pred=scored.scores, sample_weight=weights, training=False)
        except Exception as error:
            msg = f"the model's loss cannot be computed: {graph_reason(error)}"
            raise ModelContractError(msg) from error
    value = float(loss)
    return value if math.isfinite(value) else None
