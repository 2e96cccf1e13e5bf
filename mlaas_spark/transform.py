"""Feature transform: specs and config turned into the numbers the kernels need, and events into a feature matrix.

The one way from events to features: the pandas UDFs, the dense chunks and the stream all call :meth:`matrix`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from mlaas_spark import kernels
from mlaas_spark.errors import BranchNotFoundError, SpecsError, SpecsMismatchError
from mlaas_spark.layout import FeatureLayout
from mlaas_spark.schema import buffers

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt
    import pyarrow as pa

    from mlaas_spark.branch_specs import BranchStats, Specs
    from mlaas_spark.config import FeatureConfig
    from mlaas_spark.memory import Empty


_log = logging.getLogger(__name__)

LONG, _SHARE = 4096, 0.999
"""A jagged branch with a longer list has columns for as many values as this share of its events do not exceed."""


@dataclass(frozen=True, slots=True)
class Features:
    """A batch of events as numbers.

    Attributes:
        matrix: float32, shape (n, W); 0 where padded or missing.
        mask: uint8, shape (n, W); 1 = real value, 0 = padding or missing.
        missing: NaN and infinite values of each branch in layout order, int64; and those that are so when normalised.
        cut: Values of each branch beyond its dim, int64.
    """

    matrix: npt.NDArray[np.float32]
    mask: npt.NDArray[np.uint8]
    missing: npt.NDArray[np.int64]
    cut: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class FeatureTransform:
    """Column order, which branches are jagged, and the normalisation (x - center) * scale of each branch."""

    layout: FeatureLayout
    jagged: tuple[bool, ...]
    center: tuple[float, ...]
    scale: tuple[float, ...]
    nan: str = "missing"

    @classmethod
    def of(cls, specs: Specs, config: FeatureConfig) -> Self:
        """The transform that specs and config ask for.

        Raises:
            BranchNotFoundError: ``overrides`` or ``caps`` name a branch that has no specs.
            SpecsError: A cap on a flat branch, no branch at all, or specs without what the normalisation needs.
        """
        for name in (*config.overrides, *config.caps):
            if name not in specs.branches:
                raise BranchNotFoundError(name, specs.branches, "features.overrides or features.caps of the config")
        if flat := [name for name in config.caps if not specs[name].jagged]:
            msg = f"features.caps: {', '.join(flat)} is flat, only jagged branches have a length to cap"
            raise SpecsError(msg)
        dims = {name: _dim(name, specs[name], config.caps.get(name)) for name in specs.jagged}
        layout = FeatureLayout.of(specs.flat, dims)
        if not layout.width:
            msg = "no branch is left that could be a feature: see mlaas-spark inspect for what there is"
            raise SpecsError(msg)
        pairs = [
            _center_and_scale(name, specs[name], config.overrides.get(name, config.normalise))
            for name in layout.branches
        ]
        return cls(
            layout,
            tuple(specs[name].jagged for name in layout.branches),
            tuple(center for center, _ in pairs),
            tuple(scale for _, scale in pairs),
            config.nan,
        )

    @property
    def width(self) -> int:
        """W, the number of columns."""
        return self.layout.width

    @property
    def columns(self) -> list[str]:
        """A name for each column of the matrix."""
        jagged = {name for name, is_jagged in zip(self.layout.branches, self.jagged, strict=True) if is_jagged}
        return self.layout.columns(jagged)

    def only(self, branch: str) -> FeatureTransform:
        """The transform of one branch alone."""
        self.layout.span(branch)
        index = self.layout.branches.index(branch)
        return FeatureTransform(
            FeatureLayout((self.layout.dims[index],)),
            (self.jagged[index],),
            (self.center[index],),
            (self.scale[index],),
            self.nan,
        )

    def matrix(
        self, events: pa.RecordBatch, rows: npt.NDArray[np.int64] | None = None, empty: Empty = np.empty
    ) -> Features:
        """Normalise, pad and mask a batch of events with a column for each branch.

        Args:
            events: The events.
            rows: The row of each event, each row once; None for the order of the events.
            empty: Makes the two arrays, as ``numpy.empty``. Memory fresh from the system costs as much time as the
                numbers in it: see :class:`mlaas_spark.memory.Buffers`.

        Raises:
            BranchNotFoundError: A branch of the layout is not in the batch.
            SpecsError: A branch is flat and should be jagged or the reverse; NaN where ``nan: error`` was asked for.
        """
        names = set(events.schema.names)
        columns = []
        for name, jagged in zip(self.layout.branches, self.jagged, strict=True):
            if name not in names:
                raise BranchNotFoundError(name, names, "the events")
            values, offsets = buffers(events.column(name))
            if (offsets is not None) != jagged:
                here, there = ("flat", "jagged") if jagged else ("jagged", "flat")
                msg = f"branch {name!r} is {here} in the events, {there} in the specs: make the specs from these events"
                raise SpecsMismatchError(msg)
            columns.append((values, offsets))
        dims = np.array([dim for _, dim in self.layout.dims], np.int64)
        shape = (events.num_rows, self.width)
        matrix, mask = empty(shape, np.float32), empty(shape, np.uint8)
        counts = kernels.fill(
            [values for values, _ in columns],
            [offsets for _, offsets in columns],
            np.cumsum(dims) - dims,
            dims,
            np.array(self.center),
            np.array(self.scale),
            matrix,
            mask,
            rows=rows,
        )
        mask_overflow(matrix, mask, counts.missing, np.cumsum(dims) - dims)
        if self.nan == "error" and counts.missing.any():
            worst = int(np.argmax(counts.missing))
            msg = (
                f"branch {self.layout.branches[worst]!r} has {counts.missing[worst]} NaN or infinite values: "
                "set features.nan to missing to mask them, or leave the branch out"
            )
            raise SpecsError(msg)
        return Features(matrix, mask, counts.missing, counts.cut)

    def digest(self) -> str:
        """SHA-256 over everything that changes the matrix."""
        return hashlib.sha256(json.dumps(self.to_json()).encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """As plain values; :meth:`from_json` reads them back."""
        return {
            "layout": self.layout.to_json(),
            "jagged": list(self.jagged),
            "center": list(self.center),
            "scale": list(self.scale),
            "nan": self.nan,
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """The transform that :meth:`to_json` wrote."""
        return cls(
            FeatureLayout.from_json(content["layout"]),
            tuple(content["jagged"]),
            tuple(content["center"]),
            tuple(content["scale"]),
            content["nan"],
        )


def mask_overflow(
    matrix: npt.NDArray[np.float32],
    mask: npt.NDArray[np.uint8],
    missing: npt.NDArray[np.int64],
    starts: npt.NDArray[np.int64],
) -> None:
    """Make what is beyond float32 once it is normalised missing, in place: no model is given NaN or infinity."""
    with np.errstate(over="ignore", invalid="ignore"):
        # of finite values the sum is finite, or they are so large that each is looked at
        if np.isfinite(matrix.sum(dtype=np.float32)):
            return
    rows, columns = np.nonzero(~np.isfinite(matrix))
    matrix[rows, columns], mask[rows, columns] = 0, 0
    # of branches without columns, which begin where the next one does, none is counted
    np.add.at(missing, np.searchsorted(starts, columns, side="right") - 1, 1)


def _dim(name: str, stats: BranchStats, cap: int | None) -> int:
    """Columns of a jagged branch: its longest list, or the cap; without one a very long list makes no columns.

    Raises:
        SpecsError: Most of the events have very long lists.
    """
    if cap is not None:
        return min(stats.dim, cap)
    if stats.dim <= LONG:
        return stats.dim
    dim = max(stats.cap(_SHARE), 1) if stats.lengths else stats.dim
    if dim > LONG:
        msg = f"branch {name!r} has lists of {dim} values and more: say by features.caps how many make columns"
        raise SpecsError(msg)
    _log.warning(
        "%s: longest list has %d values: capped at %d, which %.1f %% of the events do not exceed, see features.caps",
        name,
        stats.dim,
        dim,
        100 * _SHARE,
    )
    return dim


def _center_and_scale(name: str, stats: BranchStats, normalisation: str) -> tuple[float, float]:
    """Center and factor of (x - center) * scale; a constant branch has factor 0."""
    if normalisation == "none":
        return 0.0, 1.0
    if stats.minimum is None or stats.maximum is None:
        return 0.0, 0.0  # not one finite value
    if normalisation == "minmax":
        return stats.minimum, _inverse(stats.maximum - stats.minimum)
    if not stats.count:
        msg = (
            f"branch {name!r}: specs of MLaaS4HEP hold ranges only, which is enough for minmax, not for {normalisation}"
        )
        raise SpecsError(msg)
    if normalisation == "standard":
        return stats.mean, _inverse(stats.std)
    return stats.quantile(0.5), _inverse(stats.quantile(0.75) - stats.quantile(0.25))


def _inverse(spread: float) -> float:
    inverse = 1.0 / spread if spread > 0 else 0.0
    return inverse if math.isfinite(inverse) else 0.0  # a spread so small that its inverse is infinite is none
