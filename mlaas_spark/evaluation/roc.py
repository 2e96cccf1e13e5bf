"""ROC curves of weighted events: points, area, its bootstrap interval, working points."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mlaas_spark.evaluation.events import thinned

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

_POINTS = 200
_BINS = 4_000  # of rank, for the bootstrap; fewer events than these are drawn one by one
_WORKING_POINTS = (0.3, 0.5, 0.7, 0.8, 0.9, 0.95)


def cumulated(
    scores: npt.NDArray[Any], positive: npt.NDArray[np.bool_], weights: npt.NDArray[Any]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Distinct scores, the highest first, and the weight of signal and of background at each or above it."""
    order = np.argsort(-scores, kind="stable")
    ordered, w = scores[order], np.asarray(weights, np.float64)[order]
    last = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], len(ordered) > 0))
    is_signal = positive[order]
    signal = np.cumsum(np.where(is_signal, w, 0.0))[last]
    background = np.cumsum(np.where(is_signal, 0.0, w))[last]
    return ordered[last].astype(np.float64), signal, background


def auc(scores: npt.NDArray[Any], positive: npt.NDArray[np.bool_], weights: npt.NDArray[Any]) -> float | None:
    """Area under the curve: the weighted share of (signal, background) pairs in the right order, ties by half.

    None where the weights of a class add up to 0 or less. Negative weights count as they are: the area is then an
    estimate that may leave [0, 1].
    """
    _, signal, background = cumulated(scores, positive, weights)
    return _area(signal, background)


def _area(signal: npt.NDArray[np.float64], background: npt.NDArray[np.float64]) -> float | None:
    if not len(signal) or signal[-1] <= 0 or background[-1] <= 0:
        return None
    tpr, fpr = np.append(0.0, signal / signal[-1]), np.append(0.0, background / background[-1])
    return float(np.diff(fpr) @ (tpr[1:] + tpr[:-1])) / 2


def curve(
    scores: npt.NDArray[Any], positive: npt.NDArray[np.bool_], weights: npt.NDArray[Any]
) -> dict[str, Any] | None:
    """``fpr``, ``tpr``, ``threshold`` of at most 200 points, ``auc`` and ``working_points``; None as :func:`auc`.

    Half of the points are evenly spread over the distinct scores, half are dense where few background events are
    left. An event is selected if its score is the threshold or higher.
    """
    threshold, signal, background = cumulated(scores, positive, weights)
    area = _area(signal, background)
    if area is None:
        return None
    tpr, fpr = np.append(0.0, signal / signal[-1]), np.append(0.0, background / background[-1])
    # the first point is above every score: its threshold would be infinite, which JSON does not have
    threshold = np.append(np.nextafter(threshold[0], np.inf), threshold)
    kept = _kept(fpr)
    return {
        "auc": area,
        "fpr": fpr[kept].tolist(),
        "tpr": tpr[kept].tolist(),
        "threshold": threshold[kept].tolist(),
        "working_points": _working_points(fpr, tpr, threshold),
    }


def _kept(fpr: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    if len(fpr) <= _POINTS:
        return np.arange(len(fpr))
    smallest = fpr[fpr > 0].min(initial=1.0)
    # searchsorted wants order, which negative weights break
    tail = np.searchsorted(np.maximum.accumulate(fpr), np.geomspace(smallest, 1.0, _POINTS // 2))
    return np.union1d(thinned(len(fpr), _POINTS // 2), np.minimum(tail, len(fpr) - 1))


def _working_points(
    fpr: npt.NDArray[np.float64], tpr: npt.NDArray[np.float64], threshold: npt.NDArray[np.float64]
) -> list[dict[str, float | None]]:
    """Where the signal efficiency first reaches some values: ``tpr``, ``fpr``, ``rejection`` (1/fpr), ``threshold``."""
    found = []
    for wanted in _WORKING_POINTS:
        at = int(np.argmax(tpr >= wanted))
        rejection = 1 / float(fpr[at]) if fpr[at] > 0 else None
        found.append(
            {"tpr": float(tpr[at]), "fpr": float(fpr[at]), "rejection": rejection, "threshold": float(threshold[at])}
        )
    return found


def auc_replicas(
    scores: npt.NDArray[Any],
    positive: npt.NDArray[np.bool_],
    weights: npt.NDArray[Any],
    replicas: int,
    seed: int | Sequence[int],
) -> npt.NDArray[np.float64]:
    """Areas of bootstrap replicas, in which each event counts as often as a Poisson number of mean 1 says.

    Of many events those next to each other in rank are put into one of some thousand bins, and the weight of a bin is
    drawn at once: a Poisson number of its effective events, scaled, which has the mean and the variance of the sum of
    the single draws (G. Bohm and G. Zech, arXiv:1309.1287; exact for equal weights). Signal and background, weights
    above and below 0 are drawn apart.
    """
    exact = auc(scores, positive, weights)
    if exact is None or not replicas:
        return np.empty(0)
    _, rank = np.unique(-scores, return_inverse=True)
    if rank.max() >= _BINS:
        order = np.argsort(rank, kind="stable")
        first = np.empty(len(rank), np.int64)
        first[order] = np.arange(len(rank)) * _BINS // len(rank)
        # events of one score stay in one bin, that of the first of them
        lowest = np.full(rank.max() + 1, _BINS)
        np.minimum.at(lowest, rank, first)
        rank = lowest[rank]
    bins = int(rank.max()) + 1
    w = np.asarray(weights, np.float64)
    species = rank + bins * (2 * positive + (w < 0))
    absolute = np.bincount(species, np.abs(w), 4 * bins).astype(np.float64, copy=False)
    squares = np.bincount(species, w * w, 4 * bins)
    some = absolute > 0
    scale, expected = np.zeros(4 * bins), np.zeros(4 * bins)
    scale[some] = squares[some] / absolute[some]
    expected[some] = absolute[some] ** 2 / squares[some]
    rng = np.random.default_rng(seed)
    draws = rng.poisson(expected, (replicas, 4 * bins)).astype(np.float64)
    areas = [_species_area(scale * drawn, bins) for drawn in draws]
    # what putting events into bins did to the area, it did to each replica
    shift = exact - (_species_area(absolute, bins) or exact)
    return np.array([area + shift for area in areas if area is not None])


def _species_area(drawn: npt.NDArray[np.float64], bins: int) -> float | None:
    background, minus_background, signal, minus_signal = drawn.reshape(4, bins)
    return _area(np.cumsum(signal - minus_signal), np.cumsum(background - minus_background))


def interval(areas: npt.NDArray[np.float64], seed: int) -> dict[str, Any] | None:
    """Central intervals of replicas by quantiles: ``interval_68``, ``interval_95``, ``std``; None of fewer than 2."""
    if len(areas) < 2:
        return None
    low95, low68, high68, high95 = np.quantile(areas, [0.025, 0.15865, 0.84135, 0.975]).tolist()
    return {
        "interval_68": [low68, high68],
        "interval_95": [low95, high95],
        "std": float(areas.std(ddof=1)),
        "replicas": len(areas),
        "seed": seed,
    }
