"""Residuals of regression: predicted minus true, of each target."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from mlaas_spark.evaluation.distributions import ks_test
from mlaas_spark.evaluation.events import Scored, histogram, mean

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

_BINS = 50
_PROFILE = 12


def quantiles(values: npt.NDArray[Any], weights: npt.NDArray[Any], shares: Sequence[float]) -> list[float] | None:
    """The smallest values at or below which these shares of the weight lie; None with negative or no weights."""
    w = np.asarray(weights, np.float64)
    if not len(w) or (w < 0).any() or w.sum() <= 0:
        return None
    order = np.argsort(values, kind="stable")
    below = np.cumsum(w[order]) / w.sum()
    at = np.minimum(np.searchsorted(below, np.asarray(shares) * (1 - 1e-12)), len(w) - 1)
    return [float(value) for value in np.asarray(values, np.float64)[order][at]]


def residuals(splits: Mapping[str, Scored], names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """For each target what :func:`_of_target` gives for the first split, compared with the second if there is one."""
    return {name: _of_target(splits, column) for column, name in enumerate(names)}


def _of_target(splits: Mapping[str, Scored], column: int) -> dict[str, Any]:
    """Numbers of one target.

    ``bias`` (mean residual) and ``bias_error``, ``std``, ``rmse``, ``mae``, ``r2`` (1 - the mean squared residual over
    the variance of the true values), ``median`` and ``half_width_68`` (half of what lies between the 16 % and 84 %
    quantiles), ``relative`` (median, half width, mean and histogram of the residual over the absolute true value, where
    that is not 0), ``histogram`` of the residuals of each split, ``joint`` (true against predicted), ``profile`` (mean
    residual and spread in bins of the true value), ``overtraining`` (KS test of the residuals). Events whose score or
    target is not finite are left out, ``left_out`` says how many.
    """
    first, *others = splits
    parts = {split: _finite(scored, column) for split, scored in splits.items()}
    true, scores, w = parts[first]
    r = scores - true
    found: dict[str, Any] = {"events": len(r), "left_out": len(splits[first]) - len(r), **_moments(true, r, w)}
    edges = _edges(np.concatenate([s - t for t, s, _ in parts.values()]))
    found["histogram"] = {
        "edges": edges.tolist(),
        "splits": {
            split: {**histogram(s - t, v, edges), "beyond": float(v[(s - t < edges[0]) | (s - t > edges[-1])].sum())}
            for split, (t, s, v) in parts.items()
        },
    }
    found["joint"] = _joint(true, scores, w)
    found["profile"] = _profile(true, r, w)
    found["overtraining"] = None
    if others:
        t, s, v = parts[others[0]]
        found["overtraining"] = ks_test(r, s - t, w, v)
    return found


def _finite(
    scored: Scored, column: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    true = scored.targets[:, column].astype(np.float64)
    scores = scored.scores[:, column].astype(np.float64)
    good = np.isfinite(true) & np.isfinite(scores)
    return true[good], scores[good], scored.weights[good].astype(np.float64)


def _moments(true: npt.NDArray[np.float64], r: npt.NDArray[np.float64], w: npt.NDArray[np.float64]) -> dict[str, Any]:
    bias, error = mean(r, w)
    square, absolute = mean(r * r, w)[0], mean(np.abs(r), w)[0]
    centre = mean(true, w)[0]
    spread = mean((true - centre) ** 2, w)[0] if centre is not None else None
    variance = mean((r - bias) ** 2, w)[0] if bias is not None else None
    some = true != 0
    relative = r[some] / np.abs(true[some])
    edges = _edges(_without_tails(relative))
    return {
        "bias": bias,
        "bias_error": error,
        "std": _root(variance),
        "rmse": _root(square),
        "mae": absolute,
        "r2": 1 - square / spread if square is not None and spread else None,
        **_central(r, w),
        "relative": {
            "events": int(some.sum()),
            "mean": mean(relative, w[some])[0],
            **_central(relative, w[some]),
            "histogram": {"edges": edges.tolist(), **histogram(relative, w[some], edges)},
        },
    }


def _root(value: float | None) -> float | None:
    """Of a mean square, which negative weights can bring below 0."""
    return math.sqrt(value) if value is not None and value >= 0 else None


def _central(values: npt.NDArray[np.float64], weights: npt.NDArray[np.float64]) -> dict[str, float | None]:
    found = quantiles(values, weights, [0.15865, 0.5, 0.84135])
    if found is None:
        return {"median": None, "half_width_68": None}
    low, middle, high = found
    return {"median": middle, "half_width_68": (high - low) / 2}


def _edges(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """50 bins of the central 99 %; what lies beyond them is told apart."""
    low, high = np.quantile(values, [0.005, 0.995]).tolist() if len(values) else (0.0, 0.0)
    edges: npt.NDArray[np.float64] = np.histogram_bin_edges(np.empty(0), _BINS, (low, high))
    return edges


def _without_tails(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Those within five half widths of the median: small true values make residuals over them very long tails."""
    if not len(values):
        return values
    low, middle, high = np.quantile(values, [0.15865, 0.5, 0.84135])
    near: npt.NDArray[np.bool_] = np.abs(values - middle) <= 2.5 * (high - low)
    return values[near]


def _joint(
    true: npt.NDArray[np.float64], scores: npt.NDArray[np.float64], w: npt.NDArray[np.float64]
) -> dict[str, Any]:
    """Weights in bins of (true, predicted), of the same edges on both axes."""
    edges = _edges(np.concatenate([true, scores]))
    total, _ = np.histogramdd((true, scores), (edges, edges), weights=w)
    return {"edges": edges.tolist(), "sum": total.tolist()}


def _profile(true: npt.NDArray[np.float64], r: npt.NDArray[np.float64], w: npt.NDArray[np.float64]) -> dict[str, Any]:
    """Mean residual, its error and the spread in bins of the true value that hold equally many events."""
    edges = np.unique(np.quantile(true, np.linspace(0, 1, _PROFILE + 1))) if len(true) else np.empty(0)
    rows = []
    for low, high in itertools.pairwise(edges.tolist()):
        inside = (true >= low) & ((true < high) if high < edges[-1] else (true <= high))
        middle, error = mean(r[inside], w[inside])
        variance = mean((r[inside] - middle) ** 2, w[inside])[0] if middle is not None else None
        rows.append({"true": mean(true[inside], w[inside])[0], "mean": middle, "error": error, "std": _root(variance)})
    return {"edges": edges.tolist(), "bins": rows}
