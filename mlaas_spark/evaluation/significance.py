"""Significance of a signal after a cut on the score."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mlaas_spark.evaluation.events import thinned
from mlaas_spark.evaluation.roc import cumulated

if TYPE_CHECKING:
    import numpy.typing as npt

ASIMOV = "sqrt(2 ((S + B) ln(1 + S/B) - S)); Cowan, Cranmer, Gross, Vitells, arXiv:1007.1727, eq. 97"
SIMPLE = "S / sqrt(S + B)"
LEAST_BACKGROUND = 10
"""Background events that a best cut leaves at least: with fewer, B and its error are not known."""

_POINTS = 200


def simple(signal: npt.NDArray[np.float64], background: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """S / sqrt(S + B); NaN where S or B is below 0 or both are 0."""
    total = signal + background
    good = (signal >= 0) & (background >= 0) & (total > 0)
    return np.where(good, signal / np.sqrt(np.where(good, total, 1.0)), np.nan)


def asimov(signal: npt.NDArray[np.float64], background: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Median discovery significance of a counting experiment of known background, :data:`ASIMOV`.

    It is about S / sqrt(B) for S much smaller than B; NaN where S is below 0 or B is not above it.
    """
    good = (signal >= 0) & (background > 0)
    s, b = np.where(good, signal, 0.0), np.where(good, background, 1.0)
    # for small S/B the difference of two near numbers has no digits left: its series to second order does
    ratio = s / b
    exact = 2 * ((s + b) * np.log1p(ratio) - s)
    series = s * ratio * (1 - ratio / 3)
    return np.where(good, np.sqrt(np.maximum(np.where(ratio < 1e-5, series, exact), 0.0)), np.nan)


def scan(
    scores: npt.NDArray[Any],
    positive: npt.NDArray[np.bool_],
    weights: npt.NDArray[Any],
    signal_yield: float | None = None,
    background_yield: float | None = None,
) -> dict[str, Any] | None:
    """Significance of the events whose score is a threshold or higher, for each threshold.

    Lists of at most 200 ``threshold``, ``signal``, ``background``, ``simple`` (S / sqrt(S + B)) and ``asimov``; None
    where a significance is not defined. ``best`` has for each of the two the cut, of all, that is the best with at
    least ten background events left. S and B are sums of weights, scaled so that without a cut they are the yields, if
    these are given. None where the weights of a class add up to 0 or less.
    """
    threshold, s, b = cumulated(scores, positive, weights)
    if not len(s) or s[-1] <= 0 or b[-1] <= 0:
        return None
    s = s * (signal_yield / s[-1]) if signal_yield is not None else s
    b = b * (background_yield / b[-1]) if background_yield is not None else b
    _, _, events = cumulated(scores, positive, np.ones(len(scores)))
    curves = {"simple": simple(s, b), "asimov": asimov(s, b)}
    best = {}
    for name, values in curves.items():
        allowed = np.where((events >= LEAST_BACKGROUND) & np.isfinite(values), values, -1.0)
        at = int(allowed.argmax())
        if allowed[at] >= 0:
            best[name] = {
                "threshold": float(threshold[at]),
                "significance": float(values[at]),
                "signal": float(s[at]),
                "background": float(b[at]),
                "background_events": int(events[at]),
            }
    kept = thinned(len(threshold), _POINTS)
    return {
        "threshold": threshold[kept].tolist(),
        "signal": s[kept].tolist(),
        "background": b[kept].tolist(),
        **{name: [float(v) if np.isfinite(v) else None for v in values[kept]] for name, values in curves.items()},
        "best": {name: best.get(name) for name in curves},
        "formulas": {"simple": SIMPLE, "asimov": ASIMOV},
        "least_background_events": LEAST_BACKGROUND,
    }
