"""Evaluation: how well a trained model does on a split of the chunks, as plain values for metrics.json."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from mlaas_spark.errors import ModelContractError
from mlaas_spark.ml.model import check_labels, encode_targets, graph_reason, known_remarks

if TYPE_CHECKING:
    import numpy.typing as npt

    from mlaas_spark.ml.stream import ChunkStream

_ROC_POINTS = 200
_BINS = 50


def predict(model: Any, stream: ChunkStream, split: str) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]:
    """Scores float32 (n, K), labels float32 (n,) and weights float32 (n,) of a split, in the manifest's order.

    Raises:
        ModelContractError: The split has no events, or the model fails.
        ChunkError: The chunks cannot be read.
    """
    if not stream.events(split):
        msg = f"the {split} split of {stream.folder} has no events to predict: give it a share in chunks.split"
        raise ModelContractError(msg)
    scores, labels, weights = [], [], []
    with known_remarks():
        for batch in stream.batches(split):
            try:
                scores.append(np.asarray(model.predict_on_batch(batch.matrix), np.float32))
            except Exception as error:
                msg = f"the model cannot predict {split} events: {graph_reason(error)}"
                raise ModelContractError(msg) from error
            labels.append(batch.label.copy())  # the batch is a view of a row group, which can go
            weights.append(batch.weight.copy())
    return np.concatenate(scores), np.concatenate(labels), np.concatenate(weights)


def evaluate(model: Any, stream: ChunkStream, split: str = "test") -> dict[str, Any]:
    """Metrics of a split, JSON-ready.

    Keys: ``split``, ``events``, ``labels`` (events of each), ``loss`` (the model's own, weighted), ``accuracy``,
    ``auc``, ``roc`` (``fpr``, ``tpr``, ``threshold``; at most 200 points; binary models only) and ``scores`` (a
    histogram for each label; of several outputs that of the label's own class). A metric that cannot be given is
    None, and ``notes`` says why.

    Raises:
        ModelContractError: The split has no events, or the model fails.
        ChunkError: The chunks cannot be read.
    """
    scores, labels, weights = predict(model, stream, split)
    check_labels(model, {float(label) for label in np.unique(labels)}, scores.shape[1])
    metrics: dict[str, Any] = {
        "split": split,
        "events": len(labels),
        "labels": {
            f"{label:g}": int(count) for label, count in zip(*np.unique(labels, return_counts=True), strict=True)
        },
        "loss": _loss(model, scores, labels, weights),
        **classification(scores, labels, weights),
        "scores": histograms(scores, labels),
    }
    return metrics


def classification(
    scores: npt.NDArray[np.float32], labels: npt.NDArray[np.float32], weights: npt.NDArray[np.float32]
) -> dict[str, Any]:
    """``accuracy``, ``auc``, ``roc`` and ``notes``.

    One output is the probability of label 1; of two, the second is. More than two: accuracy of the largest, and the
    mean AUC of one class against the rest. Weights count unless one is negative, for which neither metric is defined.
    """
    result: dict[str, Any] = {"accuracy": None, "auc": None, "roc": None, "notes": []}
    notes: list[str] = result["notes"]
    outputs = scores.shape[1]
    classes = np.unique(labels)
    if not np.isin(classes, np.arange(max(outputs, 2))).all():
        notes.append("no accuracy and AUC: the labels are not class numbers")
        return result
    if not np.isfinite(scores).all():
        notes.append("no accuracy and AUC: some scores are not numbers")
        return result
    if (weights < 0).any():
        notes.append("accuracy and AUC are unweighted: some weights are negative")
        weights = np.ones_like(weights)
    predicted = scores[:, 0] > 0.5 if outputs == 1 else scores.argmax(axis=1)
    if weights.sum() > 0:
        result["accuracy"] = float(np.average(predicted == labels, weights=weights))
    if len(classes) == 1:
        notes.append(f"no AUC: all events have the label {classes[0]:g}")
        return result
    if outputs > 2:
        aucs = [_roc(scores[:, int(k)], labels == k, weights)[0] for k in classes]
        result["auc"] = float(np.mean([auc for auc in aucs if auc is not None])) if any(aucs) else None
        if len(classes) < outputs:
            notes.append(f"the AUC is the mean over the {len(classes)} classes that have events")
        return result
    result["auc"], result["roc"] = _roc(scores[:, -1], labels == 1.0, weights)
    return result


def histograms(scores: npt.NDArray[np.float32], labels: npt.NDArray[np.float32]) -> dict[str, Any]:
    """``edges`` of 50 equal bins and ``counts`` of each label; [0, 1] if all scores lie in it, else their range."""
    outputs = scores.shape[1]
    own = {
        label: scores[labels == label, 0 if outputs == 1 else _own_column(label, outputs)]
        for label in np.unique(labels)
    }
    finite = np.concatenate([column[np.isfinite(column)] for column in own.values()])
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    span = (0.0, 1.0) if low >= 0.0 and high <= 1.0 else (low, high)
    edges = np.histogram_bin_edges([], _BINS, span)
    counts = {
        f"{label:g}": np.histogram(column[np.isfinite(column)], edges)[0].tolist() for label, column in own.items()
    }
    return {"edges": edges.tolist(), "counts": counts}


def _own_column(label: float, outputs: int) -> int:
    """Of two outputs always the second, the probability of label 1; of more, that of the label's own class."""
    return 1 if outputs == 2 else min(max(int(label), 0), outputs - 1)


def _roc(
    scores: npt.NDArray[np.float32], positive: npt.NDArray[np.bool_], weights: npt.NDArray[np.float32]
) -> tuple[float | None, dict[str, list[float]] | None]:
    """AUC, and at most 200 points of the ROC curve; None where all weights of a class are 0."""
    from sklearn.metrics import auc, roc_curve

    if weights[positive].sum() <= 0 or weights[~positive].sum() <= 0:
        return None, None
    fpr, tpr, threshold = roc_curve(positive, scores, sample_weight=weights)
    kept = np.unique(np.linspace(0, len(fpr) - 1, min(len(fpr), _ROC_POINTS)).round().astype(int))
    # the first point is above every score: its threshold is infinite, which JSON does not have
    threshold[0] = np.nextafter(threshold[1], math.inf) if len(threshold) > 1 else 1.0
    points = {"fpr": fpr[kept].tolist(), "tpr": tpr[kept].tolist(), "threshold": threshold[kept].astype(float).tolist()}
    return float(auc(fpr, tpr)), points


def _loss(
    model: Any, scores: npt.NDArray[np.float32], labels: npt.NDArray[np.float32], weights: npt.NDArray[np.float32]
) -> float | None:
    """The model's own loss of these scores, None if it is not a number."""
    targets = encode_targets(model, labels, scores.shape[1])
    with known_remarks():
        try:
            loss = model.compute_loss(
                y=targets, y_pred=scores, sample_weight=None if (weights == 1.0).all() else weights, training=False
            )
        except Exception as error:
            msg = f"the model's loss cannot be computed: {graph_reason(error)}"
            raise ModelContractError(msg) from error
    value = float(loss)
    return value if math.isfinite(value) else None
