"""Compiled kernels: normalise, pad and mask into a row-major float32 matrix; exact statistics of a buffer of values.

numba, nogil, cached to disk so that workers do not compile again. numpy in and out: no pandas, no Arrow, no Spark,
nothing of ours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numba
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

TOTAL_UNIT = -1127
"""Exponent of the unit of :attr:`Tally.total`: 2**-1127 is the last bit of the smallest float64's 53-bit mantissa."""

SQUARES_UNIT = 2 * (TOTAL_UNIT + 53) - 55
"""Exponent of the unit of :attr:`Tally.squares`, -2203: the last bit of the square of the smallest float64."""

_ROWS = 16  # rows a block: 16 rows of a matrix of some thousand columns stay in the second-level cache
_LOW_BITS = 26  # a mantissa of 53 bits is summed in two limbs, so that 2**36 values fit in 64 bits
_EXPONENTS = 2100  # frexp exponents of float64 are in [-1073, 1024]


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    compiled: Callable[..., Any] = numba.njit(nogil=True, cache=True, error_model="numpy")(function)
    return compiled


@dataclass(frozen=True, slots=True)
class Counts:
    """What :func:`fill` met, per branch, int64.

    Attributes:
        missing: NaN and infinite values among those that have a column.
        cut: Values beyond the branch's columns.
    """

    missing: npt.NDArray[np.int64]
    cut: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Tally:
    """Exact statistics of values.

    Attributes:
        count: Values.
        nan: NaN among them.
        inf: Infinite ones among them.
        zero: Zeros among them.
        minimum: Smallest finite value, None without one.
        maximum: Largest finite value, None without one.
        total: Exact sum of finite values in units of ``2**TOTAL_UNIT``.
        squares: Sum of the squares, each rounded to 53 bits, exact in units of ``2**SQUARES_UNIT``.
    """

    count: int
    nan: int
    inf: int
    zero: int
    minimum: float | None
    maximum: float | None
    total: int
    squares: int


def fill(
    values: Sequence[npt.NDArray[Any]],
    offsets: Sequence[npt.NDArray[np.integer[Any]] | None],
    starts: npt.NDArray[np.int64],
    dims: npt.NDArray[np.int64],
    center: npt.NDArray[np.float64],
    scale: npt.NDArray[np.float64],
    matrix: npt.NDArray[np.float32],
    mask: npt.NDArray[np.uint8],
) -> Counts:
    """Write every element of ``matrix`` and ``mask``, shape (n, W), from the values of the branches.

    Value x of a branch becomes ``float32((float64(x) - center) * scale)`` with mask 1. A NaN or infinite x is 0 with
    mask 0; so is padding behind the values an event has. Values beyond the branch's dim are cut.

    Args:
        values: For each branch its values, any numeric type: n of them if flat.
        offsets: For a jagged branch offsets into its values, shape (n + 1,), not always from 0; None if flat.
        starts: First column of each branch.
        dims: Columns of each branch.
        center: Subtracted from each value of a branch.
        scale: Factor after that; 0 for a constant branch.
        matrix: float32, row-major, overwritten.
        mask: uint8, row-major, overwritten.
    """
    n, branches = matrix.shape[0], len(values)
    missing, cut = np.zeros(branches, np.int64), np.zeros(branches, np.int64)
    if n and branches:
        spans = [(0, n) if edges is None else (int(edges[0]), int(edges[-1])) for edges in offsets]
        # one buffer and one row of edges a branch: a uniform shape that compiles for two types, not for each mixture
        narrow = all(numbers.dtype == np.float32 for numbers in values)
        lengths = np.array([stop - start for start, stop in spans], np.int64)
        base = np.cumsum(lengths) - lengths
        buffer = np.empty(int(lengths.sum()), np.float32 if narrow else np.float64)
        edges_of = np.empty((branches, n + 1), np.int64)
        for branch, (start, stop) in enumerate(spans):
            buffer[base[branch] : base[branch] + stop - start] = values[branch][start:stop]
            edges = offsets[branch]
            edges_of[branch] = np.arange(n + 1) if edges is None else edges
            edges_of[branch] += base[branch] - start
        _fill(buffer, edges_of, starts, dims, center, scale, matrix, mask, missing, cut)
    return Counts(missing, cut)


@_compiled
def _fill(  # noqa: PLR0913, PLR0917 - a kernel has no place to keep arguments but its arguments
    buffer: npt.NDArray[Any],
    edges: npt.NDArray[np.int64],
    starts: npt.NDArray[np.int64],
    dims: npt.NDArray[np.int64],
    center: npt.NDArray[np.float64],
    scale: npt.NDArray[np.float64],
    matrix: npt.NDArray[np.float32],
    mask: npt.NDArray[np.uint8],
    missing: npt.NDArray[np.int64],
    cut: npt.NDArray[np.int64],
) -> None:
    n = matrix.shape[0]
    zero, one, none = np.float32(0), np.uint8(1), np.uint8(0)
    for block in range(0, n, _ROWS):
        stop = min(block + _ROWS, n)
        for branch in range(len(dims)):
            dim, column = dims[branch], starts[branch]
            middle, factor = center[branch], scale[branch]
            for row in range(block, stop):
                first = edges[branch, row]
                length = edges[branch, row + 1] - first
                kept = min(length, dim)
                cut[branch] += length - kept
                numbers, marks = matrix[row, column : column + dim], mask[row, column : column + dim]
                for j in range(kept):
                    x = np.float64(buffer[first + j])
                    if math.isfinite(x):
                        numbers[j] = np.float32((x - middle) * factor)
                        marks[j] = one
                    else:
                        numbers[j] = zero
                        marks[j] = none
                        missing[branch] += 1
                numbers[kept:] = zero
                marks[kept:] = none


def tally(values: npt.NDArray[Any]) -> Tally:
    """Statistics of values of any numeric type, shape (n,), taken as float64.

    The sums are integers: whatever the order and the grouping, parts add up to the same.
    """
    floats = np.ascontiguousarray(values, np.float64 if values.dtype != np.float32 else np.float32)
    sums = np.zeros((2, _EXPONENTS, 2), np.int64)
    nan, inf, zero, low, high = _tally(floats, sums)
    finite = len(floats) - nan - inf
    return Tally(
        count=len(floats),
        nan=nan,
        inf=inf,
        zero=zero,
        minimum=float(low) if finite else None,
        maximum=float(high) if finite else None,
        total=_folded(sums[0], 1),
        squares=_folded(sums[1], 2),
    )


@_compiled
def _tally(values: npt.NDArray[Any], sums: npt.NDArray[np.int64]) -> tuple[int, int, int, Any, Any]:
    nan = inf = zero = 0
    low, high = np.float64(np.inf), np.float64(-np.inf)
    for value in values:
        x = np.float64(value)  # float() of a float32 would stay one
        if not math.isfinite(x):
            if math.isnan(x):
                nan += 1
            else:
                inf += 1
            continue
        if x < low:  # noqa: PLR1730 - numba compiles this to less than min()
            low = x
        if x > high:  # noqa: PLR1730
            high = x
        if x == 0.0:
            zero += 1
            continue
        mantissa, exponent = math.frexp(x)
        place = exponent + 1074
        whole = np.int64(mantissa * 9007199254740992.0)  # 2**53
        sums[0, place, 0] += whole & 67108863  # 2**26 - 1
        sums[0, place, 1] += whole >> _LOW_BITS
        # mantissa**2 is in [1/4, 1): rounded by the multiplication to 53 bits, which are whole in units of 2**-55
        whole = np.int64(mantissa * mantissa * 36028797018963968.0)  # 2**55
        sums[1, place, 0] += whole & 67108863
        sums[1, place, 1] += whole >> _LOW_BITS
    return nan, inf, zero, low, high


def _folded(sums: npt.NDArray[np.int64], power: int) -> int:
    """The two-limb sums of each exponent as one integer; a step in exponent is ``2**power``."""
    total = 0
    for place in np.flatnonzero(sums.any(axis=1)):
        low, high = int(sums[place, 0]), int(sums[place, 1])
        total += (low + (high << _LOW_BITS)) << (int(place) * power)
    return total


def as_float(total: int, unit: int) -> float:
    """``total * 2**unit`` as the nearest float64; infinite where that is too large."""
    try:
        return total / (1 << -unit)
    except OverflowError:
        return math.inf if total > 0 else -math.inf


def histogram_of_lengths(offsets: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.int64]:
    """Number of events with 0, 1, 2, ... values, from offsets of shape (n + 1,); empty for no event."""
    counts: npt.NDArray[np.int64] = np.bincount(np.diff(offsets))
    return counts
