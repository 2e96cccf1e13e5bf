"""Histograms of branches for a page: what a sample of events has in each, class by class."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from mlaas_spark.transform import FeatureTransform

BINS = 24
_WHOLE = 10_000  # whole numbers that are binned as such
_TAIL = 0.002  # of the values on each side, which would leave the rest one bin


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts of a branch's values, in ``BINS`` equal bins, of whole numbers in bins of one or of so many of them.

    Attributes:
        low: Where the first bin begins.
        high: Where the last bin ends.
        counts: Values in each bin, by the name of the class.
        outside: Values below ``low`` or above ``high``.
        whole: Whether bins are about whole numbers: the first about ``low + 0.5``.
    """

    low: float
    high: float
    counts: Mapping[str, tuple[int, ...]]
    outside: int
    whole: bool = False

    @property
    def bins(self) -> int:
        """How many there are."""
        return len(next(iter(self.counts.values())))

    @property
    def ends(self) -> tuple[float, float]:
        """The least and the largest value that it shows."""
        return (self.low + 0.5, self.high - 0.5) if self.whole else (self.low, self.high)


def histograms(
    matrix: npt.NDArray[np.float32],
    mask: npt.NDArray[np.uint8],
    transform: FeatureTransform,
    classes: Mapping[str, npt.NDArray[np.bool_]],
) -> dict[str, Histogram]:
    """Histograms of the branches of some events as they were before normalisation; without those that have no value.

    Args:
        matrix: Normalised features, shape (n, W).
        mask: 1 where there is a value, shape (n, W).
        transform: What made the two.
        classes: Which events are of each class, shape (n,).
    """
    made = {}
    for name, center, scale in zip(transform.layout.branches, transform.center, transform.scale, strict=True):
        if not scale:
            continue  # the normalisation left nothing of its values
        span = transform.layout.span(name)
        seen = mask[:, span].astype(bool)
        values = matrix[:, span].astype(np.float64) / scale + center
        of_class = {label: values[rows][seen[rows]] for label, rows in classes.items()}
        if (found := _histogram(of_class)) is not None:
            made[name] = found
    return made


def of_lengths(lengths: Sequence[int]) -> Histogram | None:
    """How many events have 0, 1, 2, ... values, those beyond the last bin in it; None without an event."""
    if not sum(lengths):
        return None
    # all that is filled, or what 99.8 % of the events have
    filled = len(np.trim_zeros(np.array(lengths), "b"))
    most = (
        filled if filled <= BINS else max(2, int(np.searchsorted(np.cumsum(lengths), (1 - _TAIL) * sum(lengths))) + 1)
    )
    step = -(-most // BINS)
    counts = [sum(lengths[at : at + step]) for at in range(0, most, step)]
    end = step * len(counts)
    return Histogram(-0.5, end - 0.5, {"": tuple(int(n) for n in counts)}, int(sum(lengths[end:])), whole=True)


def _histogram(of_class: Mapping[str, npt.NDArray[np.float64]]) -> Histogram | None:
    every = np.concatenate(list(of_class.values())) if of_class else np.empty(0)
    if not len(every):
        return None
    edges, whole = _edges(every)
    counts: dict[str, Any] = {label: np.histogram(values, edges)[0] for label, values in of_class.items()}
    inside = int(sum(found.sum() for found in counts.values()))
    as_integers = {label: tuple(int(n) for n in found) for label, found in counts.items()}
    return Histogram(float(edges[0]), float(edges[-1]), as_integers, len(every) - inside, whole)


def _edges(values: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], bool]:
    """Edges of the bins: about whole numbers, of many about as many of them each (True), else of all but the tails."""
    low, high = float(values.min()), float(values.max())
    near = np.rint(values)
    # a float32 that was normalised comes back to about seven digits
    whole = np.allclose(values, near, rtol=0, atol=1e-4 * max(1.0, abs(low), abs(high)))
    if whole and high - low < BINS:
        return np.arange(round(low), round(high) + 2, dtype=np.float64) - 0.5, True
    low, high = (float(value) for value in np.quantile(values, [_TAIL, 1 - _TAIL]))
    if whole and 1 <= high - low < _WHOLE:  # each bin as many whole numbers: others would show teeth that are not there
        step = math.ceil((round(high) - round(low) + 1) / BINS)
        bins = math.ceil((round(high) - round(low) + 1) / step)
        return round(low) - 0.5 + step * np.arange(bins + 1, dtype=np.float64), True
    if not high - low > 1e-6 * max(abs(low), abs(high)):
        low, high = low - 0.5 * max(1.0, abs(low)), high + 0.5 * max(1.0, abs(high))
    return np.linspace(low, high, BINS + 1), False
