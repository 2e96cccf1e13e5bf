"""The drift gate: how far new data are from those of a training, by branch, from specs with quantile bins, no events.

PSI is the population stability index, sum over bins of (q - p) ln(q / p), in ten bins of equal content in training
(Siddiqi, Credit Risk Scorecards, 2006); KS the largest distance of the two cumulative distributions. Both count only
where chance is ruled out: n m / (n + m) PSI is chi-squared distributed, with a degree of freedom less than there are
bins (Yurdakul, Statistical Properties of PSI, 2018), and the p-value of KS is Kolmogorov's. Longer lists count where
chance is ruled out too, or where they are twice as long. Pure.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import chi2, kstwobign

from mlaas_spark.errors import SpecsError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from mlaas_spark.branch_specs import BranchStats, Specs

    Counts = npt.NDArray[np.float64]

_BINS = 10
_CHANCE = 1e-4
"""What is more probable than this without any change is no shift."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What is a shift that somebody should look at.

    Attributes:
        psi: Population stability index: below 0.1 is none, above 0.25 a large one by custom.
        ks: Distance of the cumulative distributions, 0 to 1.
        missing: Growth of the share of values that are NaN or infinite, 0 to 1.
    """

    psi: float = 0.2
    ks: float = 0.1
    missing: float = 0.01


@dataclass(frozen=True, slots=True)
class Shift:
    """One branch: its values, or with ``of`` ``lengths`` how many values events have.

    Attributes:
        branch: Its name.
        of: ``values`` or ``lengths``.
        psi: Population stability index; 0 where it may be chance.
        ks: Kolmogorov and Smirnov's distance; 0 where it may be chance.
        missing: Share of missing values in the new data less that in training.
        longest: Longest list in training and in the new data; (1, 1) of a flat branch.
        worries: Why somebody should look at it; () if nobody need.
    """

    branch: str
    of: str
    psi: float
    ks: float
    missing: float
    longest: tuple[int, int]
    worries: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def between(training: Specs, new: Specs, limits: Limits) -> list[Shift]:
    """The shift of every branch that both have, the largest PSI first.

    Raises:
        SpecsError: Specs without quantile bins of a branch that has finite values.
    """
    found = []
    for name in sorted(training.branches.keys() & new.branches.keys()):
        before, after = training[name], new[name]
        found.append(_shift(name, "values", _values(name, before, after), before, after, limits))
        if before.jagged and after.jagged:
            lengths = [(float(a), float(b)) for a, b in zip_longest(before.lengths, after.lengths, fillvalue=0)]
            found.append(_shift(name, "lengths", np.array(lengths).reshape(-1, 2), before, after, limits))
    return sorted(found, key=lambda shift: (-len(shift.worries), -shift.psi, -shift.ks, shift.branch))


def _values(name: str, before: BranchStats, after: BranchStats) -> Counts:
    """Finite values of both by quantile bin, in the order of values, shape (bins, 2)."""
    for stats in (before, after):
        if stats.finite and not stats.bins:
            msg = f"the specs of {name} hold no quantile bins: make them with quantiles, which retrain does"
            raise SpecsError(msg)
    keys = sorted({*before.bins, *after.bins})
    return np.array([(before.bins.get(key, 0), after.bins.get(key, 0)) for key in keys], np.float64).reshape(-1, 2)


def _shift(branch: str, of: str, counts: Counts, before: BranchStats, after: BranchStats, limits: Limits) -> Shift:
    psi, ks = (_psi(counts), _ks(counts)) if counts.sum(axis=0).all() else (0.0, 0.0)
    values = of == "values"
    missing = _missing(after) - _missing(before) if values else 0.0
    longest = (before.dim, after.dim)
    worries = [f"PSI {psi:.2f} > {limits.psi:g}"] if psi > limits.psi else []
    worries += [f"KS {ks:.2f} > {limits.ks:g}"] if ks > limits.ks else []
    worries += [f"missing +{missing:.1%}"] if missing > limits.missing else []
    worries += [f"longest list {longest[1]}, was {longest[0]}"] if not values and _longer(counts, *longest) else []
    return Shift(branch, of, psi, ks, missing, longest, tuple(worries))


def _longer(counts: Counts, before: int, after: int) -> bool:
    """Whether lists are twice as long as ever before, or more events have longer ones than chance explains.

    More events have a longer longest list: of equal ones the k longest are all new with less than (m / (n + m))^k.
    """
    if after > 2 * before:
        return True
    events = counts.sum(axis=0)
    return bool((events[1] / events.sum()) ** counts[before + 1 :, 1].sum() < _CHANCE)


def _missing(stats: BranchStats) -> float:
    return (stats.nan + stats.inf) / stats.count if stats.count else 0.0


def _psi(counts: Counts) -> float:
    """Of bins that hold a tenth of training each, as far as its bins can be put together so."""
    totals = counts.sum(axis=0)
    # the middle of each bin in the cumulative distribution of training says in which tenth it is
    middle = (np.cumsum(counts[:, 0]) - counts[:, 0] / 2) / totals[0]
    tenth = np.minimum((middle * _BINS).astype(np.int64), _BINS - 1)
    grouped = np.zeros((_BINS, 2))
    np.add.at(grouped, tenth, counts)
    grouped = grouped[grouped.any(axis=1)]
    # half an event where there is none: the logarithm needs something
    p, q = (np.maximum(grouped, 0.5) / totals).T
    psi = float(np.sum((q - p) * np.log(q / p)))
    scale = totals[0] * totals[1] / totals.sum()
    return psi if chi2.sf(psi * scale, max(len(grouped) - 1, 1)) < _CHANCE else 0.0


def _ks(counts: Counts) -> float:
    totals = counts.sum(axis=0)
    below = np.cumsum(counts, axis=0) / totals
    distance = float(np.abs(below[:, 0] - below[:, 1]).max())
    scale = math.sqrt(totals[0] * totals[1] / totals.sum())
    return distance if kstwobign.sf(distance * scale) < _CHANCE else 0.0


def rows(shifts: list[Shift], most: int = 20) -> list[tuple[str, ...]]:
    """As a table: branch, PSI, KS, missing, why; those that somebody should look at, or else the largest few."""
    shown = [shift for shift in shifts if shift.worries] or shifts[:5]
    return [
        (
            shift.branch if shift.of == "values" else f"{shift.branch} (lengths)",
            f"{shift.psi:.3f}",
            f"{shift.ks:.3f}",
            f"{shift.missing:+.2%}" if shift.of == "values" else "",
            "; ".join(shift.worries),
        )
        for shift in shown[:most]
    ]


def worrying(shifts: list[Shift]) -> Mapping[str, tuple[str, ...]]:
    """Why to look at branches, by name."""
    found: dict[str, tuple[str, ...]] = {}
    for shift in shifts:
        if shift.worries:
            found[shift.branch] = (*found.get(shift.branch, ()), *shift.worries)
    return found
