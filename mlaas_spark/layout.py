"""Feature layout: the one owner of column order in the (n, W) feature matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from mlaas_spark.errors import BranchNotFoundError, SpecsError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping


_WIDEST = 1 << 24
"""Columns of a layout that is read from a file, at most: an event would have 64 MB."""


@dataclass(frozen=True, slots=True)
class FeatureLayout:
    """Branches in column order, each with its number of columns.

    Flat branches by name, then jagged ones by name: MLaaS4HEP's order, so its models still fit.
    """

    dims: tuple[tuple[str, int], ...]

    @classmethod
    def of(cls, flat: Collection[str], jagged: Mapping[str, int]) -> Self:
        """Give each flat branch one column, each jagged branch ``jagged[name]`` columns."""
        if both := sorted(set(flat) & set(jagged)):
            msg = f"branches {both} are listed as flat and as jagged: keep each in one list"
            raise SpecsError(msg)
        return cls((*((name, 1) for name in sorted(flat)), *sorted(jagged.items())))

    @property
    def width(self) -> int:
        """W, the number of columns."""
        return sum(dim for _, dim in self.dims)

    @property
    def branches(self) -> tuple[str, ...]:
        """Branches in column order."""
        return tuple(name for name, _ in self.dims)

    def span(self, branch: str) -> slice:
        """Columns of ``branch``; BranchNotFoundError, naming the nearest ones, if it has none."""
        start = 0
        for name, dim in self.dims:
            if name == branch:
                return slice(start, start + dim)
            start += dim
        raise BranchNotFoundError(branch, self.branches, "the feature layout")

    def columns(self, jagged: Collection[str]) -> list[str]:
        """A name for each column: the branch, or ``branch_0, branch_1, ...`` for those in ``jagged``."""
        return [f"{name}_{index}" if name in jagged else name for name, dim in self.dims for index in range(dim)]

    def to_json(self) -> list[list[Any]]:
        """As plain values; :meth:`from_json` reads them back."""
        return [[name, dim] for name, dim in self.dims]

    @classmethod
    def from_json(cls, content: Iterable[Iterable[Any]]) -> Self:
        """The layout that :meth:`to_json` wrote.

        Raises:
            SpecsError: A branch has fewer columns than none, or all have more than any matrix.
        """
        dims = tuple((str(name), int(dim)) for name, dim in content)
        if any(dim < 0 for _, dim in dims) or sum(dim for _, dim in dims) > _WIDEST:
            msg = f"a layout of {sum(dim for _, dim in dims)} columns is none: at most {_WIDEST}, none below 0"
            raise SpecsError(msg)
        return cls(dims)
