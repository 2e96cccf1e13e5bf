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
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.numpy_support import carray

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

TOTAL_UNIT = -1127
"""Exponent of the unit of :attr:`Tally.total`: 2**-1127 is the last bit of the smallest float64's 53-bit mantissa."""

SQUARES_UNIT = 2 * (TOTAL_UNIT + 53) - 55
"""Exponent of the unit of :attr:`Tally.squares`, -2203: the last bit of the square of the smallest float64."""

_LANES = 16  # values at once: most lists of events are no longer, and a vector register of AVX-512 is not either
_CELLS = 1 << 17  # of a block of rows, all branches of it together: with 5 bytes a cell it stays in a cache of 1 MB
_LOW_BITS = 26  # a mantissa of 53 bits is summed in two limbs, so that 2**36 values fit in 64 bits
_LOW = (1 << _LOW_BITS) - 1
_EXPONENTS = 2100  # frexp exponents of float64 are in [-1073, 1024]

_UNIT_32 = -150  # float32: a mantissa of 24 bits times 2**(exponent - 150)
_EXPONENTS_32 = 255 + 26  # those of float32, and what squares need above
_SIZE, _INFINITE = 0x7FFFFFFF, 0x7F800000  # bits of float32 without the sign; those of infinity
_BLOCK, _SPAN = 1 << 10, 28  # values summed in one unit, and how many exponents it may lie below the largest of them


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    compiled: Callable[..., Any] = numba.njit(nogil=True, cache=True, error_model="numpy")(function)
    return compiled


def _inline(function: Callable[..., Any]) -> Callable[..., Any]:
    generated: Callable[..., Any] = intrinsic(function)
    return generated


_array: Callable[..., Any] = carray  # its own annotations are of a call outside kernels


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


def fill(  # noqa: PLR0913 - a kernel has no place to keep arguments but its arguments
    values: Sequence[npt.NDArray[Any]],
    offsets: Sequence[npt.NDArray[np.integer[Any]] | None],
    starts: npt.NDArray[np.int64],
    dims: npt.NDArray[np.int64],
    center: npt.NDArray[np.float64],
    scale: npt.NDArray[np.float64],
    matrix: npt.NDArray[np.float32],
    mask: npt.NDArray[np.uint8],
    *,
    rows: npt.NDArray[np.int64] | None = None,
) -> Counts:
    """Write every element of ``matrix`` and ``mask``, shape (n, W), from the values of the branches.

    Value x of a branch becomes ``float32((float64(x) - center) * scale)`` with mask 1. A NaN or infinite x is 0 with
    mask 0; so is padding behind the values an event has. Values beyond the branch's dim are cut.

    Args:
        values: For each branch its values, any numeric type: n of them if flat. float32 and float64 are not copied.
        offsets: For a jagged branch offsets into its values, shape (n + 1,), not always from 0; None if flat.
        starts: First column of each branch, in ascending order.
        dims: Columns of each branch, 1 if flat.
        center: Subtracted from each value of a branch.
        scale: Factor after that; 0 for a constant branch.
        matrix: float32, row-major, overwritten.
        mask: uint8, row-major, overwritten.
        rows: The row of each event, shape (n,), each row once; None for the order of the events.

    Raises:
        ValueError: Offsets that decrease or lead out of the values, columns or rows that lead out of the matrix.
    """
    (n, width), branches = matrix.shape, len(values)
    missing, cut = np.zeros(branches, np.int64), np.zeros(branches, np.int64)
    # the kernel goes by addresses: what could lead it out of the arrays is refused here, or there by each pair of edges
    ends = starts + dims
    if (starts < np.append(0, ends)[:-1]).any() or (dims < 0).any() or (ends > width).any():
        msg = f"columns that do not lie in order in the {width} of the matrix"
        raise ValueError(msg)
    if mask.shape != matrix.shape or not (matrix.flags.carray and mask.flags.carray):
        msg = f"matrix {matrix.shape} and mask {mask.shape} must be of one shape, row-major and writeable"
        raise ValueError(msg)
    rows = np.arange(n) if rows is None else np.ascontiguousarray(rows, np.int64)
    if len(rows) != n or not _each_once(rows):
        msg = f"rows of {n} events must be 0 to {n - 1}, each once"
        raise ValueError(msg)
    arrays = [_readable(*branch, n) for branch in zip(values, offsets, strict=True)]  # alive until the kernel is done
    table = np.array(
        [(*_place(*branch), *rest) for branch, *rest in zip(arrays, starts, dims, center, scale, strict=True)],
        _BRANCH,
    )
    if (odd := _fill(table, matrix.reshape(-1), mask.reshape(-1), rows, missing, cut)) >= 0:
        msg = f"offsets of branch {odd} decrease or lead out of its values"
        raise ValueError(msg)
    return Counts(missing, cut)


_BRANCH = np.dtype(
    [
        ("values", np.int64),  # address of value 0
        ("single", np.bool_),  # float32, else float64
        ("edges", np.int64),  # address of the offsets, 0 if flat
        ("short", np.bool_),  # int32, else int64
        ("begin", np.int64),  # the values are [begin, end)
        ("end", np.int64),
        ("start", np.int64),
        ("dim", np.int64),
        ("center", np.float64),
        ("scale", np.float64),
    ],
    align=True,
)
"""A branch as the kernel reads it: by addresses, so that one compiled function takes any mixture of types."""


def _readable(
    values: npt.NDArray[Any], offsets: npt.NDArray[np.integer[Any]] | None, n: int
) -> tuple[npt.NDArray[Any], npt.NDArray[np.integer[Any]] | None, int]:
    """Values and offsets as the kernel can read them, copied only where they are not, and the number of value 0."""
    begin, end = (0, n) if offsets is None else (int(offsets[0]), int(offsets[-1]))
    if not 0 <= begin <= end <= len(values) or (offsets is not None and len(offsets) != n + 1):
        msg = f"values [{begin}, {end}) of {n} events, where there are {len(values)}"
        raise ValueError(msg)
    values = values[begin:end]
    if values.dtype not in (np.float32, np.float64) or not _plain(values):
        values = values.astype(np.float64)
    if offsets is not None and (offsets.dtype not in (np.int32, np.int64) or not _plain(offsets)):
        offsets = offsets.astype(np.int64)
    return values, offsets, begin


def _plain(array: npt.NDArray[Any]) -> bool:
    return array.flags.c_contiguous and array.flags.aligned


def _place(
    values: npt.NDArray[Any], offsets: npt.NDArray[np.integer[Any]] | None, begin: int
) -> tuple[int, bool, int, bool, int, int]:
    """The first fields of ``_BRANCH``."""
    address = _address(values) - begin * values.itemsize  # perhaps before the array: only [begin, end) is read
    place = (address, values.itemsize == 4)
    edges = (0, False) if offsets is None else (_address(offsets), offsets.itemsize == 4)
    return (*place, *edges, begin, begin + len(values))


def _address(array: npt.NDArray[Any]) -> int:
    address: int = array.__array_interface__["data"][0]
    return address


@_inline
def _pointer(_typing: Any, _number: Any) -> Any:
    """An address as the pointer that ``_array`` wants."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(types.int64), generate


@_inline
def _normalise(
    _typing: Any,
    values: Any,
    _first: Any,
    _kept: Any,
    _center: Any,
    _scale: Any,
    matrix: Any,
    mask: Any,
    _cell: Any,
    _room: Any,
) -> Any:
    """Write min(kept, _LANES) values, from values[first] on, to the cells from cell on; how many were finite.

    LLVM's vectors by hand: a list is too short for the loops that the compiler makes of a loop (8 times slower), and
    only a masked load touches nothing, not even what it does not use, beyond the list. All lanes are stored, zeros
    behind the values, if as many cells as that are left in the row, ``room``: those behind belong to branches that
    come later, and masked stores are slow before AVX-512.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _, first, kept, center, scale, _, _, cell, room = arguments
        values, matrix, mask = (
            context.make_array(signature.args[place])(context, builder, arguments[place]).data for place in (0, 5, 6)
        )
        number, byte, int32, int64 = values.type.pointee, ir.IntType(8), ir.IntType(32), ir.IntType(64)

        def lanes(of: Any) -> Any:
            return ir.VectorType(of, _LANES)

        def same(x: Any) -> Any:
            one = builder.insert_element(ir.Constant(lanes(x.type), ir.Undefined), x, ir.Constant(int32, 0))
            return builder.shuffle_vector(one, one, ir.Constant(lanes(int32), [0] * _LANES))

        def masked(action: str, result: Any, *operands: Any) -> Any:
            moved = operands[0].type if action == "store" else result
            code = {ir.FloatType(): "f32", ir.DoubleType(): "f64", byte: "i8"}[moved.element]
            kind = ir.FunctionType(result, [operand.type for operand in operands])
            name = f"llvm.masked.{action}.v{_LANES}{code}.p0"
            declared = cgutils.get_or_insert_function(builder.module, kind, name)  # type: ignore[no-untyped-call]
            return builder.call(declared, operands)

        def at(array: Any, index: Any) -> tuple[Any, Any]:
            size = context.get_abi_sizeof(array.type.pointee)
            place = builder.bitcast(builder.gep(array, [index]), lanes(array.type.pointee).as_pointer())
            return place, ir.Constant(int32, size)  # aligned to one number, not to a vector

        zero = ir.Constant(lanes(number), [0.0] * _LANES)
        inside = builder.icmp_signed("<", ir.Constant(lanes(int64), list(range(_LANES))), same(kept))
        x = masked("load", lanes(number), *at(values, first), inside, zero)
        real = builder.and_(inside, builder.fcmp_ordered("==", builder.fsub(x, x), zero))  # inf - inf is NaN
        wide = x if number == ir.DoubleType() else builder.fpext(x, lanes(ir.DoubleType()))
        y = builder.fptrunc(builder.fmul(builder.fsub(wide, same(center)), same(scale)), lanes(ir.FloatType()))
        marks = builder.zext(real, lanes(byte))
        fits = builder.icmp_signed(">=", room, ir.Constant(int64, _LANES))
        with builder.if_else(fits) as (all_lanes, those_kept):
            with all_lanes:
                padded = builder.select(real, y, ir.Constant(y.type, [0.0] * _LANES))
                builder.store(padded, at(matrix, cell)[0], align=4)
                builder.store(marks, at(mask, cell)[0], align=1)
            with those_kept:
                masked("store", ir.VoidType(), y, *at(matrix, cell), real)
                masked("store", ir.VoidType(), marks, *at(mask, cell), real)
        return builder.zext(builder.ctpop(builder.bitcast(real, ir.IntType(_LANES))), int64)

    signature = types.int64(
        values, types.int64, types.int64, types.float64, types.float64, matrix, mask, types.int64, types.int64
    )
    return signature, generate


@_compiled
def _each_once(rows: npt.NDArray[np.int64]) -> bool:
    """Whether these are 0 to n - 1 in some order."""
    n = len(rows)
    seen = np.zeros(n, np.bool_)
    for row in rows:
        if not 0 <= row < n or seen[row]:
            return False
        seen[row] = True
    return True


@_compiled
def _fill(
    table: npt.NDArray[Any],
    matrix: npt.NDArray[np.float32],
    mask: npt.NDArray[np.uint8],
    rows: npt.NDArray[np.int64],
    missing: npt.NDArray[np.int64],
    cut: npt.NDArray[np.int64],
) -> int:
    """Fill the cells, row after row in one dimension; the first branch with wrong offsets, or -1."""
    n = len(rows)
    width = len(matrix) // max(n, 1)
    block = max(_CELLS // max(width, 1), 1)
    for start in range(0, n, block):
        stop = min(start + block, n)
        # all zero, then the values: half the cells are padding, and writing in order brings them into the cache
        for cell in rows[start:stop] * width:
            matrix[cell : cell + width] = np.float32(0)
            mask[cell : cell + width] = np.uint8(0)
        for index in range(len(table)):
            branch = table[index]
            if branch.single:
                values = _array(_pointer(branch.values), (branch.end,), np.float32)
                seen, good, total = _branch(values, branch, rows[start:stop], start, width, matrix, mask)
            else:
                wide = _array(_pointer(branch.values), (branch.end,), np.float64)
                seen, good, total = _branch(wide, branch, rows[start:stop], start, width, matrix, mask)
            if seen < 0:
                return index
            missing[index] += seen - good
            cut[index] += total - seen
    return -1


@_compiled
def _branch(
    values: npt.NDArray[Any],
    branch: Any,
    rows: npt.NDArray[np.int64],
    start: int,
    width: int,
    matrix: npt.NDArray[np.float32],
    mask: npt.NDArray[np.uint8],
) -> tuple[Any, Any, Any]:
    """Rows of the events from ``start`` on: values that have a column, finite ones, all; -1 for wrong offsets."""
    room = width - branch.start
    seen = good = 0
    if branch.edges == 0:
        for place in range(len(rows)):
            x = np.float64(values[start + place])
            if x - x == 0.0:  # finite
                cell = rows[place] * width + branch.start
                matrix[cell] = np.float32((x - branch.center) * branch.scale)
                mask[cell] = 1
                good += 1
        return len(rows), good, len(rows)
    stop = start + len(rows)
    short = _array(_pointer(branch.edges), (stop + 1,), np.int32)
    long = _array(_pointer(branch.edges), (stop + 1,), np.int64)
    begin = last = np.int64(short[start]) if branch.short else long[start]
    for place in range(len(rows)):
        event = start + place
        first, last = last, np.int64(short[event + 1]) if branch.short else long[event + 1]
        if not branch.begin <= first <= last <= branch.end:
            return -1, 0, 0
        kept = min(last - first, branch.dim)
        seen += kept
        cell = rows[place] * width + branch.start
        for done in range(0, kept, _LANES):
            good += _normalise(
                values, first + done, kept - done, branch.center, branch.scale, matrix, mask, cell + done, room - done
            )
    return seen, good, last - begin


def tally(values: npt.NDArray[Any]) -> Tally:
    """Statistics of values of any numeric type, shape (n,), taken as float64.

    The sums are integers: whatever the order and the grouping, parts add up to the same.
    """
    if _fit_float32(values):
        bits = np.ascontiguousarray(values, np.float32).view(np.int32)
        sums = np.zeros((2, _EXPONENTS_32, 2), np.int64)
        nan, inf, zero, low, high = _tally32(bits, sums)
        limits = _from_order(low), _from_order(high)
        units = _UNIT_32 - TOTAL_UNIT, 2 * _UNIT_32 - SQUARES_UNIT
    else:
        sums = np.zeros((2, _EXPONENTS, 2), np.int64)
        nan, inf, zero, *limits = _tally64(np.ascontiguousarray(values, np.float64), sums)
        units = 0, 0
    finite = len(values) - nan - inf
    return Tally(
        count=len(values),
        nan=nan,
        inf=inf,
        zero=zero,
        minimum=float(limits[0]) if finite else None,
        maximum=float(limits[1]) if finite else None,
        total=_folded(sums[0], 1) << units[0],
        squares=_folded(sums[1], 2) << units[1],
    )


def _fit_float32(values: npt.NDArray[Any]) -> bool:
    """Whether float32 holds them without loss; of the integers, these are mostly counts, charges, indices, flags."""
    if np.can_cast(values.dtype, np.float32):
        return True
    return values.dtype.kind in "iu" and len(values) > 0 and values.min() >= -(2**24) and values.max() <= 2**24


@_compiled
def _tally64(values: npt.NDArray[np.float64], sums: npt.NDArray[np.int64]) -> tuple[int, int, int, Any, Any]:
    nan = inf = zero = 0
    low, high = np.float64(np.inf), np.float64(-np.inf)
    for x in values:
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
        _add(sums[0], place, np.int64(mantissa * 9007199254740992.0))  # 2**53
        # mantissa**2 is in [1/4, 1): rounded by the multiplication to 53 bits, which are whole in units of 2**-55
        _add(sums[1], place, np.int64(mantissa * mantissa * 36028797018963968.0))  # 2**55
    return nan, inf, zero, low, high


@_compiled
def _tally32(bits: npt.NDArray[np.int32], sums: npt.NDArray[np.int64]) -> tuple[int, int, int, int, int]:
    """Statistics from the bits of float32; a place of ``sums`` is an exponent, limits are as :func:`_from_order` has.

    A mantissa of 24 bits and its square of 48 are summed without rounding, so the integers are those of float64.
    """
    nan = inf = zero = 0
    low, high = _INFINITE, -_INFINITE
    for start in range(0, len(bits), _BLOCK):
        block = bits[start : start + _BLOCK]
        top = 0
        for index in range(len(block)):  # `for number in block` would be compiled for any stride
            number = block[index]
            size = number & _SIZE
            nan += size > _INFINITE
            inf += size == _INFINITE
            zero += size == 0
            finite = size < _INFINITE
            order = number if number >= 0 else -size
            low = min(low, order if finite else _INFINITE)
            high = max(high, order if finite else -_INFINITE)
            top = max(top, size if finite else 0)
        # rounded up to a multiple of 4, so that the blocks of a branch share few places
        base = max((top >> 23) - _SPAN, 1) + 3 & ~3
        if _add_block(block, base, sums):
            _add_small(block, base, sums)
    return nan, inf, zero, low, high


@_compiled
def _add_block(block: npt.NDArray[np.int32], base: int, sums: npt.NDArray[np.int64]) -> int:
    """Add the finite values that are multiples of the unit of exponent ``base``; how many are smaller, and left."""
    total = upper = middle = lower = small = 0
    for index in range(len(block)):
        number = block[index]
        size = number & _SIZE
        exponent = size >> 23
        inside = (exponent >= base) & (exponent < 255)
        # at most 24 + _SPAN = 52 bits, two halves of 26: sums of 2**10 of them or their products fit in 64 bits
        whole = (size & 0x7FFFFF | 0x800000) << (exponent - base if inside else 0)
        whole = whole if inside else 0
        high, low = whole >> _LOW_BITS & _LOW, whole & _LOW
        total += whole if number >= 0 else -whole
        upper += high * high
        middle += high * low
        lower += low * low
        small += (size != 0) & (exponent < base)
    _add(sums[0], base, total)
    # a place is a factor of 4: 13 are a half of 26 bits
    _add(sums[1], base, lower)
    _add(sums[1], base + 13, 2 * middle)
    _add(sums[1], base + 26, upper)
    return small


@_compiled
def _add_small(block: npt.NDArray[np.int32], base: int, sums: npt.NDArray[np.int64]) -> None:
    """Add the values below the exponent ``base``, each at its own."""
    for index in range(len(block)):
        number = block[index]
        size = number & _SIZE
        exponent = size >> 23
        if size != 0 and exponent < base:
            whole = size & 0x7FFFFF | (0x800000 if exponent > 0 else 0)  # subnormal numbers have no leading 1
            place = max(exponent, 1)
            _add(sums[0], place, whole if number >= 0 else -whole)
            _add(sums[1], place, whole * whole)


@_compiled
def _add(sums: npt.NDArray[np.int64], place: int, whole: int) -> None:
    sums[place, 0] += whole & _LOW
    sums[place, 1] += whole >> _LOW_BITS


def _from_order(order: int) -> float:
    """The float32 whose bits without the sign are ``abs(order)``."""
    size = float(np.array(abs(order), np.int32).view(np.float32))
    return size if order >= 0 else -size


def _folded(sums: npt.NDArray[np.int64], power: int) -> int:
    """The two-limb sums of each exponent as one integer; a step in exponent is ``2**power``."""
    limbs = sums.reshape(-1)
    return sum(int(limbs[at]) << (int(at) // 2 * power + int(at) % 2 * _LOW_BITS) for at in np.flatnonzero(limbs))


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


def histogram_of_halves(values: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The upper 16 bits of the finite values that occur, in the order of the values (-0.0 below 0.0), and how often."""
    counts = np.zeros(1 << 16, np.int64)
    _count_halves(np.ascontiguousarray(values, np.float32).view(np.int32), counts)
    found = np.flatnonzero(counts)
    return found - (1 << 15), counts[found]


@_compiled
def _count_halves(bits: npt.NDArray[np.int32], counts: npt.NDArray[np.int64]) -> None:
    for index in range(len(bits)):
        number = bits[index]
        size = number & _SIZE
        if size < _INFINITE:
            counts[((number if number >= 0 else ~size) >> 16) + 32768] += 1
