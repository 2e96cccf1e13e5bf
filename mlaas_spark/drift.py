"""Drift while scoring: what the events that a model scores have and those that it was trained on had not. Pure.

PSI and KS, by which ``retrain --drift`` compares new files with those of a training, are ``shifts``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mlaas_spark.schema import buffers

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import numpy.typing as npt
    import pyarrow as pa

Ranges = dict[str, tuple[float, float]]
"""Smallest and largest finite value that each branch had in training; a branch without one is not looked at."""


class Drift(NamedTuple):
    """Values of one branch.

    Attributes:
        below: Finite ones below the range of training.
        above: Finite ones above it.
        missing: NaN and infinite ones among those that have a column; of a score NaN.
        cut: Those beyond the branch's columns: lists are longer than in training, or than a cap.
    """

    below: int = 0
    above: int = 0
    missing: int = 0
    cut: int = 0


def outside(events: pa.RecordBatch, branches: Sequence[str], ranges: Ranges) -> npt.NDArray[np.int64]:
    """Finite values of each branch below and above its range, shape (branches, 2)."""
    counts = np.zeros((len(branches), 2), np.int64)
    for place, name in enumerate(branches):
        if name in ranges:
            values, offsets = buffers(events.column(name))
            counts[place] = _outside(values if offsets is None else values[offsets[0] : offsets[-1]], *ranges[name])
    return counts


def _outside(values: npt.NDArray[Any], low: float, high: float) -> tuple[int, int]:
    # two passes that pass over NaN; only where they find something are the values counted
    if not len(values) or (np.fmin.reduce(values) >= low and np.fmax.reduce(values) <= high):
        return 0, 0
    finite = values[np.isfinite(values)]
    return int(np.count_nonzero(finite < low)), int(np.count_nonzero(finite > high))


def named(counts: npt.NDArray[np.int64], branches: Sequence[str]) -> dict[str, Drift]:
    """Rows of (below, above, missing, cut) by branch, of those that have something to tell."""
    return {name: Drift(*row) for name, row in zip(branches, counts.tolist(), strict=True) if any(row)}


def merged(parts: Iterable[Mapping[str, Drift]]) -> dict[str, Drift]:
    """All parts as one, by branch."""
    totals: dict[str, Drift] = {}
    for part in parts:
        for name, drift in part.items():
            totals[name] = Drift(*map(sum, zip(totals.get(name, Drift()), drift, strict=True)))
    return dict(sorted(totals.items()))
