"""What the feature matrix is filled with: values, padding and missing ones, in all and by branch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import yaml

if TYPE_CHECKING:
    from mlaas_spark.branch_specs import BranchStats, Specs
    from mlaas_spark.transform import FeatureTransform

_CAP = 0.99  # share of the events that the caps told of leave whole
_WORTH = 0.9  # of the columns, which caps must save a tenth of to be told of


@dataclass(frozen=True, slots=True)
class Filling:
    """Cells of the matrix, events times columns, by what is in them.

    Attributes:
        values: Finite numbers.
        padding: Where an event has fewer values than the branch columns.
        missing: NaN and infinite values.
        cut: Values that have no cell, beyond the columns of their branch.
    """

    values: int
    padding: int
    missing: int
    cut: int

    @property
    def cells(self) -> int:
        """All of them."""
        return self.values + self.padding + self.missing

    def share(self, part: int) -> float:
        """Of the cells; 0 where there are none."""
        return part / self.cells if self.cells else 0.0


def filling(specs: Specs, transform: FeatureTransform) -> dict[str, Filling] | None:
    """By branch in layout order; None of specs that hold ranges only, as MLaaS4HEP's.

    Where a branch has both missing and cut values, the missing ones are taken to be in its columns.
    """
    if not any(specs[name].count for name in transform.layout.branches):
        return None
    return {name: _of_branch(specs[name], dim, specs.events) for name, dim in transform.layout.dims}


def together(parts: dict[str, Filling]) -> Filling:
    """The whole matrix."""
    every = parts.values()
    return Filling(
        sum(part.values for part in every),
        sum(part.padding for part in every),
        sum(part.missing for part in every),
        sum(part.cut for part in every),
    )


def _of_branch(stats: BranchStats, dim: int, events: int) -> Filling:
    cut = stats.cut(dim)
    kept = stats.count - cut
    missing = min(stats.nan + stats.inf, kept)
    return Filling(kept - missing, events * dim - kept, missing, cut)


@dataclass(frozen=True, slots=True)
class Caps:
    """Columns that jagged branches would have with caps.

    Attributes:
        share: Of the events, which no cap of a branch cuts.
        width: Columns of all branches.
        caps: Columns of each branch that would have fewer than now.
    """

    share: float
    width: int
    caps: dict[str, int]

    @property
    def text(self) -> str:
        """As the config takes it."""
        caps: str = yaml.safe_dump({"features": {"caps": self.caps}}, allow_unicode=True, sort_keys=False)
        return caps.rstrip()


def caps(specs: Specs, transform: FeatureTransform) -> Caps | None:
    """Caps that leave 99 % of the events uncut in each branch; None if they do not save a tenth of the columns."""
    found = {}
    for name, dim in transform.layout.dims:
        stats = specs[name]
        if stats.jagged and stats.count and (cap := max(stats.cap(_CAP), 1)) < dim:
            found[name] = cap
    width = sum(found.get(name, dim) for name, dim in transform.layout.dims)
    return Caps(_CAP, width, found) if found and width < _WORTH * transform.width else None
