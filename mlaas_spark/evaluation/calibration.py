"""Whether scores are probabilities: reliability curves, Brier score, expected calibration error."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mlaas_spark.evaluation.confusion import predicted
from mlaas_spark.evaluation.events import Scored, label_text

if TYPE_CHECKING:
    import numpy.typing as npt

_BINS = 15  # as in Guo et al.


def reliability(
    probability: npt.NDArray[Any], positive: npt.NDArray[np.bool_], weights: npt.NDArray[Any]
) -> dict[str, Any]:
    """In 15 equal bins of the probability: the mean one against the share of events that are positive.

    Lists over the bins: ``predicted``, ``observed``, ``error`` of the observed (root of the sum of w^2 (y - mean)^2
    over the sum of w), ``sum`` of the weights, ``events``; None in bins whose weights add up to 0 or less. ``ece`` is
    the mean distance of the two, weighted by the bins (Guo et al., arXiv:1706.04599, eq. 3), ``brier`` the mean
    squared error of the probability.
    """
    p, w = np.asarray(probability, np.float64), np.asarray(weights, np.float64)
    y = positive.astype(np.float64)
    index = np.clip((p * _BINS).astype(np.int64), 0, _BINS - 1)

    def summed(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.bincount(index, values, _BINS).astype(np.float64, copy=False)

    total = summed(w)
    some = total > 0
    safe = np.where(some, total, 1.0)
    mean, observed = summed(w * p) / safe, summed(w * y) / safe
    error = np.sqrt(summed((w * (y - observed[index])) ** 2)) / safe
    everything = float(w.sum())
    filled = float(total[some].sum())
    return {
        "edges": np.linspace(0, 1, _BINS + 1).tolist(),
        "predicted": _where(some, mean),
        "observed": _where(some, observed),
        "error": _where(some, error),
        "sum": total.tolist(),
        "events": np.bincount(index, minlength=_BINS).tolist(),
        "ece": float(total[some] @ np.abs(mean - observed)[some]) / filled if filled else None,
        "brier": float(w @ (p - y) ** 2) / everything if everything > 0 else None,
    }


def _where(some: npt.NDArray[np.bool_], values: npt.NDArray[np.float64]) -> list[float | None]:
    return [float(value) if there else None for there, value in zip(some, values, strict=True)]


def calibration(scored: Scored) -> dict[str, Any]:
    """``classes``: :func:`reliability` of each class against the rest; ``brier`` and ``ece`` of the model.

    Of one or two outputs these are those of label 1. Of more, ``brier`` is the sum of the squared errors over the
    classes (Brier's own definition) and ``ece`` that of the largest score against its being right (Guo et al.).
    """
    scores, labels, weights = scored.scores.astype(np.float64), scored.labels, scored.weights
    if scored.outputs <= 2:
        of_signal = reliability(scores[:, -1], labels == 1, weights)
        return {"classes": {"1": of_signal}, "brier": of_signal["brier"], "ece": of_signal["ece"]}
    classes = {label_text(k): reliability(scores[:, k], labels == k, weights) for k in range(scored.outputs)}
    briers = [of_class["brier"] for of_class in classes.values()]
    top = reliability(scores.max(axis=1), predicted(scores) == labels, weights)
    return {"classes": classes, "brier": None if None in briers else sum(briers), "ece": top["ece"]}
