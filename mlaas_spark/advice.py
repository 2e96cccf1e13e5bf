"""What the statistics of the branches advise: caps, branches to leave out, branches to take the logarithm of. Pure.

Only what specs hold is used: no events are read again. Of each branch that is its length histogram and the exact count,
sum and sum of squares, minimum and maximum; so two branches are told to be equal if all of these are equal to the last
digit, and to be linear copies of each other (a correlation of 1) if their extremes lie equally many standard deviations
from their means. The first is as good as certain, the second a suspicion: look at it before it is acted on.
Nothing is said of branches of two values, flags: too many of them have equally many ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlaas_spark.branch_specs import BranchStats, Specs

SHARES = (0.95, 0.99, 0.999)
"""Shares of the events that a cap leaves uncut, from which one can be chosen."""

_WORTH = 0.9  # a cap is advised if it leaves at most so much of a branch's columns
_TAIL = 20.0  # standard deviations from the mean to the maximum; of a normal distribution of 1e9 values 6
_RARE = 0.5  # share of missing values from which on a branch is told of
_ALIKE = 1e-9  # relative, of numbers that are sums of float64


@dataclass(frozen=True, slots=True)
class Cap:
    """What caps of a jagged branch would do.

    Attributes:
        branch: The branch.
        dim: Columns without a cap, the longest list.
        caps: The cap for each share of :data:`SHARES`.
        cut: Share of all values beyond it.
    """

    branch: str
    dim: int
    caps: tuple[int, ...]
    cut: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Advice:
    """What was found.

    Attributes:
        share: Of :data:`SHARES`, which one caps are advised for.
        caps: Each jagged branch that has a cap at any share.
        widths: W at each share, all branches capped.
        width: W without caps.
        constant: Branches with one value.
        empty: Branches without any finite value.
        missing: Share of NaN and infinite values, of branches with some.
        tails: Branches with few very large values, and how many standard deviations the largest is from the mean: of
            flat ones the logarithm is advised, of jagged ones, which no expression can derive, a robust normalisation.
        jagged: The jagged branches.
        equal: Branch: the earlier one that it equals.
        linear: Branch: the earlier one that it may be a linear function of.
    """

    share: float
    caps: tuple[Cap, ...]
    widths: tuple[int, ...]
    width: int
    constant: tuple[str, ...]
    empty: tuple[str, ...]
    missing: Mapping[str, float]
    tails: Mapping[str, float]
    jagged: tuple[str, ...]
    equal: Mapping[str, str]
    linear: Mapping[str, str]

    @property
    def settings(self) -> dict[str, Any]:
        """What is advised, as a part of a config: caps, branches to leave out, derived ones."""
        at = SHARES.index(self.share)
        out = [*self.constant, *self.empty, *self.equal]
        caps = {of.branch: of.caps[at] for of in self.caps if of.branch not in out and _worth(of, at)}
        logs = [name for name in self.tails if name not in out and name not in self.jagged]
        derive = {f"log_{name}": f"log({name} + 1)" for name in logs}
        robust = {name: "robust" for name in self.tails if name not in out and name in self.jagged}
        of_input = {"exclude": sorted([*out, *logs]), "derive": derive}
        sections: dict[str, dict[str, Any]] = {"input": of_input, "features": {"caps": caps, "overrides": robust}}
        kept = {name: {key: value for key, value in of.items() if value} for name, of in sections.items()}
        return {name: of for name, of in kept.items() if of}

    def to_yaml(self) -> str:
        """:attr:`settings` to be pasted; "" if nothing is advised."""
        return yaml.safe_dump(self.settings, sort_keys=False, width=100) if self.settings else ""

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        caps = [
            {"branch": of.branch, "dim": of.dim, "caps": dict(zip(map(str, SHARES), of.caps, strict=True))}
            | {"cut": dict(zip(map(str, SHARES), of.cut, strict=True))}
            for of in self.caps
        ]
        plain = {name: getattr(self, name) for name in self.__slots__}
        return {**plain, "caps": caps, "settings": self.settings}


def advise(specs: Specs, share: float = 0.99) -> Advice:
    """Look at the statistics of all branches.

    Args:
        specs: Of the features.
        share: Of the events that an advised cap leaves uncut, one of :data:`SHARES`.
    """
    branches = {name: specs[name] for name in (*sorted(specs.flat), *sorted(specs.jagged))}
    caps = [_cap(name, stats) for name, stats in branches.items() if stats.jagged and stats.dim > 1]
    flat = sum(1 for stats in branches.values() if not stats.jagged)
    dims = {name: stats.dim for name, stats in branches.items() if stats.jagged}
    by_branch = {of.branch: of for of in caps}
    widths = tuple(
        flat + sum(by_branch[name].caps[at] if name in by_branch else dim for name, dim in dims.items())
        for at in range(len(SHARES))
    )
    finite = {name: stats for name, stats in branches.items() if stats.finite}
    constant = [
        name for name, stats in finite.items() if stats.minimum == stats.maximum and stats.finite == stats.count
    ]
    varied = {name: stats for name, stats in finite.items() if name not in constant}
    equal = _pairs(varied, _fingerprint)
    return Advice(
        share=share,
        caps=tuple(of for of in caps if of.caps[0] < of.dim),
        widths=widths,
        width=flat + sum(dims.values()),
        constant=tuple(constant),
        empty=tuple(name for name in branches if name not in finite),
        missing={
            name: 1 - stats.finite / stats.count for name, stats in branches.items() if stats.finite < stats.count
        },
        tails={name: of for name, stats in varied.items() if (of := _tail(stats)) >= _TAIL},
        jagged=tuple(sorted(specs.jagged)),
        equal=equal,
        linear=_pairs({name: stats for name, stats in varied.items() if name not in equal}, _shape),
    )


def _cap(name: str, stats: BranchStats) -> Cap:
    caps = tuple(max(stats.cap(share), 1) for share in SHARES)
    lengths = np.asarray(stats.lengths)
    beyond = (int((np.clip(np.arange(len(lengths)) - cap, 0, None) * lengths).sum()) for cap in caps)
    return Cap(name, stats.dim, caps, tuple(values / stats.count if stats.count else 0.0 for values in beyond))


def _worth(of: Cap, at: int) -> bool:
    return of.caps[at] <= _WORTH * of.dim


def _tail(stats: BranchStats) -> float:
    """Standard deviations from the mean to the maximum, of values that have a logarithm once 1 is added; else 0."""
    if stats.minimum is None or stats.maximum is None or stats.minimum < 0 or not stats.std:
        return 0.0
    return (stats.maximum - stats.mean) / stats.std


def _fingerprint(stats: BranchStats) -> tuple[Any, ...] | None:
    """All that specs hold, exactly; None of two values, of which many branches have equally many."""
    if _two_values(stats):
        return None
    numbers = (stats.count, stats.nan, stats.inf, stats.zero, stats.minimum, stats.maximum)
    return (stats.jagged, *numbers, stats.total, stats.squares, stats.lengths)


def _shape(stats: BranchStats) -> tuple[Any, ...] | None:
    """What a linear function of a branch has in common with it, rising or falling; None of two values or less."""
    if stats.minimum is None or stats.maximum is None or not stats.std or _two_values(stats):
        return None
    places = sorted(((stats.mean - stats.minimum) / stats.std, (stats.maximum - stats.mean) / stats.std))
    digits = -round(math.log10(_ALIKE)) - 1
    return (
        stats.jagged,
        stats.count,
        stats.nan,
        stats.inf,
        stats.lengths,
        *(f"{place:.{digits}g}" for place in places),
    )


def _two_values(stats: BranchStats) -> bool:
    """Whether all finite values are one of two: then, and only then, the variance is the product of their distances."""
    if stats.minimum is None or stats.maximum is None:
        return False
    distances = (stats.mean - stats.minimum) * (stats.maximum - stats.mean)
    return math.isclose(distances, stats.std**2, rel_tol=1e-9)


def _pairs(branches: Mapping[str, BranchStats], key: Any) -> dict[str, str]:
    """Branch: the first one before it with the same key."""
    first: dict[Any, str] = {}
    found = {}
    for name, stats in branches.items():
        if (value := key(stats)) is not None:
            if value in first:
                found[name] = first[value]
            first.setdefault(value, name)
    return found
