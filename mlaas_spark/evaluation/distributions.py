"""Distributions of scores by class, of test and training over each other, and whether they agree."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mlaas_spark.evaluation.events import Scored, effective, histogram, label_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

_BINS = 50
_PANELS = 10


def score_histograms(splits: Mapping[str, Scored]) -> list[dict[str, Any]]:
    """A panel for each output: ``output`` (number of the class) and ``edges`` of 50 equal bins; ``splits``.

    ``splits[split][label]`` has ``sum`` and ``error`` of the weights in each bin and ``events``. Of one or two outputs
    there is one panel, of the probability of label 1; of more than ten the first ten. Bins span [0, 1] if all scores
    lie in it, else their range. Scores that are not finite are left out.
    """
    outputs = next(iter(splits.values())).outputs
    panels = [(1, outputs - 1)] if outputs <= 2 else [(column, column) for column in range(min(outputs, _PANELS))]
    return [_panel(number, column, splits) for number, column in panels]


def _panel(number: int, column: int, splits: Mapping[str, Scored]) -> dict[str, Any]:
    edges = _edges(np.concatenate([scored.scores[:, column] for scored in splits.values()]))
    return {
        "output": number,
        "edges": edges.tolist(),
        "splits": {
            split: {
                label_text(label): _of_class(scored, column, scored.labels == label, edges)
                for label in np.unique(scored.labels)
            }
            for split, scored in splits.items()
        },
    }


def _edges(scores: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    finite = scores[np.isfinite(scores)]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    span = (0.0, 1.0) if low >= 0.0 and high <= 1.0 else (low, high)
    edges: npt.NDArray[np.float64] = np.histogram_bin_edges(np.empty(0), _BINS, span)
    return edges


def _of_class(
    scored: Scored, column: int, chosen: npt.NDArray[np.bool_], edges: npt.NDArray[np.float64]
) -> dict[str, Any]:
    chosen = chosen & np.isfinite(scored.scores[:, column])
    return {
        "events": int(chosen.sum()),
        **histogram(scored.scores[chosen, column], scored.weights[chosen], edges),
    }


def ks_test(
    first: npt.NDArray[Any], second: npt.NDArray[Any], first_weights: npt.NDArray[Any], second_weights: npt.NDArray[Any]
) -> dict[str, float | None]:
    """Kolmogorov and Smirnov's test that two weighted samples come from one distribution.

    ``statistic`` is the largest distance of the weighted distribution functions. ``p`` is its probability for as many
    effective events, (sum w)^2 / sum w^2, as the samples have (J. F. Monahan, Numerical Methods of Statistics,
    2nd ed., 12.4); of unit weights that of scipy's ks_2samp(method="asymp"). With negative weights a distribution
    function need not grow: there is no ``p`` then. Both are None where the weights of a sample add up to 0 or less.
    """
    w, v = np.asarray(first_weights, np.float64), np.asarray(second_weights, np.float64)
    n, m = effective(w), effective(v)
    if not len(w) or not len(v) or w.sum() <= 0 or v.sum() <= 0:
        return {"statistic": None, "p": None, "effective": None}
    together = np.concatenate([first, second])
    order = np.argsort(together, kind="stable")
    steps = np.concatenate([w / w.sum(), -v / v.sum()])[order]
    ordered = together[order]
    last = np.append(ordered[1:] != ordered[:-1], True)
    distance = float(np.abs(np.cumsum(steps)[last]).max())
    both = n * m / (n + m)
    p = None
    if (w >= 0).all() and (v >= 0).all() and round(both) >= 1:
        from scipy.stats import kstwo  # takes a second to import

        p = float(np.clip(kstwo.sf(distance, round(both)), 0.0, 1.0))
    return {"statistic": distance, "p": p, "effective": both}


def overtraining(test: Scored, train: Scored) -> dict[str, dict[str, float | None]]:
    """:func:`ks_test` of the scores of each label, test against training; of several outputs that of the own class."""
    return {
        label_text(label): _compared(test, train, float(label))
        for label in np.unique(test.labels)
        if (train.labels == label).any()
    }


def _compared(test: Scored, train: Scored, label: float) -> dict[str, float | None]:
    column = test.outputs - 1 if test.outputs <= 2 else int(label)
    a, b = test.labels == label, train.labels == label
    return ks_test(test.scores[a, column], train.scores[b, column], test.weights[a], train.weights[b])
