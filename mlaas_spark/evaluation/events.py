"""Scored events, their weights, and numbers as JSON has them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class Scored:
    """Events with what a model says of them.

    Attributes:
        scores: float32, shape (n, K).
        labels: float32, shape (n,), or (n, T) for several targets.
        weights: float32, shape (n,); may be negative, as of generators beyond leading order.
    """

    scores: npt.NDArray[np.float32]
    labels: npt.NDArray[np.float32]
    weights: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def outputs(self) -> int:
        """K."""
        return int(self.scores.shape[1])

    @property
    def targets(self) -> npt.NDArray[np.float32]:
        """Labels as (n, T)."""
        return self.labels.reshape(len(self.labels), -1)


def effective(weights: npt.NDArray[Any]) -> float:
    """How many events of weight 1 have the same relative error: (sum w)^2 / sum w^2; 0 of none."""
    w = np.asarray(weights, np.float64)
    squares = float(w @ w)
    return float(w.sum()) ** 2 / squares if squares else 0.0


def weighing(weights: npt.NDArray[Any]) -> dict[str, Any]:
    """What weights add up to.

    ``events``, ``sum``, ``error`` (root of the sum of squares), ``effective`` events (:func:`effective`), ``negative``
    (events below 0) and ``negative_share`` (of the sum of the absolute weights).
    """
    w = np.asarray(weights, np.float64)
    absolute = float(np.abs(w).sum())
    return {
        "events": len(w),
        "sum": float(w.sum()),
        "error": math.sqrt(float(w @ w)),
        "effective": effective(w),
        "negative": int((w < 0).sum()),
        "negative_share": float(-w[w < 0].sum()) / absolute if absolute else 0.0,
    }


def mean(values: npt.NDArray[Any], weights: npt.NDArray[Any]) -> tuple[float | None, float | None]:
    """Weighted mean and its error, root of sum w^2 (x - mean)^2 over sum w; None where the weights add up to 0 or less.

    Values may be (n,) with weights (n,).
    """
    w, x = np.asarray(weights, np.float64), np.asarray(values, np.float64)
    total = float(w.sum())
    if total <= 0:
        return None, None
    middle = float(w @ x) / total
    return middle, math.sqrt(float((w * (x - middle)) @ (w * (x - middle)))) / total


def histogram(
    values: npt.NDArray[Any], weights: npt.NDArray[Any], edges: npt.NDArray[np.float64]
) -> dict[str, list[float]]:
    """``sum`` of the weights in each bin and ``error``, root of the sum of their squares; beyond the edges not."""
    w = np.asarray(weights, np.float64)
    x = np.asarray(values, np.float64)
    total = np.histogram(x, edges, weights=w)[0]
    squares = np.histogram(x, edges, weights=w * w)[0]
    return {"sum": total.tolist(), "error": np.sqrt(squares).tolist()}


def thinned(length: int, most: int) -> npt.NDArray[np.int64]:
    """At most ``most`` of the numbers below ``length``, evenly spread, first and last among them."""
    return np.unique(np.linspace(0, max(length - 1, 0), min(length, most)).round().astype(np.int64))


def label_text(label: float) -> str:
    """A label as metrics.json and the manifest have it: 1, 0.5."""
    return f"{label:g}"


def plain(value: Any) -> Any:
    """Lists, numbers and texts that JSON has: no numpy; what is not finite is None."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
