"""kernels: the matrix and mask of a plain Python loop, and sums that are exact whatever the grouping."""

from __future__ import annotations

import ctypes
import math
import mmap
import multiprocessing
import struct
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlaas_spark.kernels import (
    SQUARES_UNIT,
    TOTAL_UNIT,
    as_float,
    fill,
    histogram_of_halves,
    histogram_of_lengths,
    tally,
)

Column = tuple[npt.NDArray[Any], npt.NDArray[np.integer[Any]] | None]

MEMORY = ["plain", "plain", "read-only", "unaligned", "strided", "backwards", "other bytes"]
TYPES = ["bool", "int8", "uint16", "int32", "int64", "uint64", "float16", "float32", "float64"]


def loop(
    columns: list[Column], dims: list[int], center: list[float], scale: list[float], n: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8], list[int], list[int]]:
    """Event by event and value by value: the definition of the matrix."""
    rows, marks = [], []
    missing, cut = [0] * len(columns), [0] * len(columns)
    for event in range(n):
        row: list[np.float32] = []
        mark: list[int] = []
        for branch, (values, offsets) in enumerate(columns):
            start, stop = (event, event + 1) if offsets is None else (int(offsets[event]), int(offsets[event + 1]))
            for j in range(dims[branch]):
                x = float(values[start + j]) if start + j < stop else None
                if x is not None and math.isfinite(x):
                    row.append(np.float32((x - center[branch]) * scale[branch]))
                    mark.append(1)
                else:
                    missing[branch] += x is not None
                    row.append(np.float32(0))
                    mark.append(0)
            cut[branch] += max(0, stop - start - dims[branch])
        rows.append(row)
        marks.append(mark)
    width = sum(dims)
    return (
        np.array(rows, np.float32).reshape(n, width),
        np.array(marks, np.uint8).reshape(n, width),
        missing,
        cut,
    )


def filled(
    columns: list[Column], dims: list[int], center: list[float], scale: list[float], n: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8], list[int], list[int]]:
    width = sum(dims)
    # rubbish where nothing is written must show, and what is written around them too
    cells, marks = np.full(n * width + 200, np.nan, np.float32), np.full(n * width + 200, 77, np.uint8)
    inside = slice(100, 100 + n * width)
    matrix, mask = cells[inside].reshape(n, width), marks[inside].reshape(n, width)
    spans = np.array(dims, np.int64)
    counts = fill(
        [values for values, _ in columns],
        [offsets for _, offsets in columns],
        np.cumsum(spans) - spans,
        spans,
        np.array(center, np.float64),
        np.array(scale, np.float64),
        matrix,
        mask,
    )
    assert np.isnan(np.delete(cells, inside)).all()
    assert (np.delete(marks, inside) == 77).all()
    return matrix, mask, counts.missing.tolist(), counts.cut.tolist()


def in_memory(array: npt.NDArray[Any], how: str) -> npt.NDArray[Any]:
    """The same numbers, lying otherwise."""
    if how == "read-only":
        array.flags.writeable = False
    if how == "unaligned":
        return np.frombuffer(b"x" + array.tobytes(), array.dtype, offset=1) if len(array) else array
    if how == "strided":
        return np.repeat(array, 2)[::2]
    if how == "backwards":
        return array[::-1].copy()[::-1]
    return array.astype(array.dtype.newbyteorder()) if how == "other bytes" else array


@st.composite
def events(draw: st.DrawFn) -> tuple[list[Column], list[int], list[float], list[float], int]:
    n = draw(st.sampled_from([0, 1, 2, 15, 16, 17, 33]))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    columns: list[Column] = []
    dims = []
    for _ in range(draw(st.integers(0, 4))):
        dtype = np.dtype(draw(st.sampled_from(TYPES)))
        jagged = draw(st.booleans())
        longest = draw(st.sampled_from([5, 40]))  # 40: longer than what the kernel takes at once
        lengths = random.integers(0, longest + 1, n) if jagged else np.ones(n, np.int64)
        before = int(random.integers(0, 3)) if jagged else 0
        numbers = random.normal(0, 40, before + int(lengths.sum()) + (2 if jagged else 0))
        values = numbers.astype(dtype) if dtype.kind == "f" else np.abs(numbers).astype(dtype)
        if dtype.kind == "f" and len(values):
            odd = random.uniform(size=len(values)) < 0.2
            values[odd] = random.choice([np.nan, np.inf, -np.inf, -0.0, 1e-45, 6e-8], odd.sum())
        offsets = None
        if jagged:
            kind = draw(st.sampled_from(["int32", "int64", "uint16"]))
            offsets = in_memory(
                (before + np.concatenate([[0], np.cumsum(lengths)])).astype(kind), draw(st.sampled_from(MEMORY))
            )
        columns.append((in_memory(values, draw(st.sampled_from(MEMORY))), offsets))
        dims.append(draw(st.integers(0, longest)) if jagged else 1)
    center = [float(x) for x in random.normal(size=len(columns))]
    scale = [float(x) for x in random.choice([0.0, 1.0, 0.37], len(columns))]
    return columns, dims, center, scale, n


@settings(deadline=None, max_examples=150)
@given(events())
def test_matrix_mask_and_counts_are_those_of_a_plain_loop_to_the_bit(
    case: tuple[list[Column], list[int], list[float], list[float], int],
) -> None:
    matrix, mask, missing, cut = filled(*case)
    expected_matrix, expected_mask, expected_missing, expected_cut = loop(*case)
    assert matrix.tobytes() == expected_matrix.tobytes()
    np.testing.assert_array_equal(mask, expected_mask)
    assert (missing, cut) == (expected_missing, expected_cut)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_more_events_than_the_kernel_takes_at_once(dtype: str) -> None:
    random = np.random.default_rng(5)
    n, dims = 3000, [1, 30, 17, 16, 1]
    lengths = random.poisson(12, n)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    columns: list[Column] = [
        (random.normal(size=n if dim == 1 else offsets[-1]).astype(dtype), None if dim == 1 else offsets)
        for dim in dims
    ]
    matrix, mask, missing, cut = filled(columns, dims, [1.0] * 5, [0.3] * 5, n)
    start = 0
    for dim, (values, _) in zip(dims, columns, strict=True):
        real = np.arange(dim) < (np.ones(n) if dim == 1 else lengths)[:, None]
        places = (np.arange(n) if dim == 1 else offsets[:-1])[:, None] + np.arange(dim)
        taken = ((values[np.minimum(places, len(values) - 1)].astype(np.float64) - 1.0) * 0.3).astype(np.float32)
        np.testing.assert_array_equal(matrix[:, start : start + dim], np.where(real, taken, np.float32(0)))
        np.testing.assert_array_equal(mask[:, start : start + dim], real)
        start += dim
    assert missing == [0] * 5
    assert cut == [0, *(np.maximum(lengths - dim, 0).sum() for dim in dims[1:4]), 0]


def test_not_a_byte_beyond_the_values_is_read() -> None:
    """The values end where the page ends, and the next page may not be read: the process would die."""
    page = mmap.PAGESIZE
    pages = mmap.mmap(-1, 2 * page)
    memory = np.frombuffer(pages, np.uint8)

    def read(dtype: str, offsets: list[int], dim: int) -> None:
        guarded = ctypes.c_void_p(memory.ctypes.data + page)
        assert ctypes.CDLL(None).mprotect(guarded, page, 0) == 0
        values = memory[:page].view(dtype)
        last = len(values)
        edges = np.array([last + offset for offset in offsets], np.int32)
        filled([(values, edges)], [dim], [0.0], [1.0], len(offsets) - 1)

    for dtype in ("float32", "float64"):
        read_apart = multiprocessing.get_context("fork").Process(target=read, args=(dtype, [-20, -3, 0, 0], 30))
        read_apart.start()
        read_apart.join()
        assert read_apart.exitcode == 0


@pytest.mark.parametrize(
    ("offsets", "message"),
    [
        ([0, 2, 1, 4], "offsets of branch 0 decrease or lead out"),
        ([0, 900, 3, 4], "offsets of branch 0 decrease or lead out"),
        ([1, 0, 3, 4], "offsets of branch 0 decrease or lead out"),
        ([0, 2, 3, 5], "of 3 events, where there are 4"),
        ([-1, 2, 3, 4], "of 3 events, where there are 4"),
        ([0, 2, 4], "of 3 events, where there are 4"),
        ([4, 3, 2, 1], "of 3 events, where there are 4"),
        (None, r"values \[0, 3\) of 3 events, where there are 2"),
    ],
)
def test_offsets_that_lead_out_of_the_values_are_refused(offsets: list[int] | None, message: str) -> None:
    edges = None if offsets is None else np.array(offsets, np.int32)
    with pytest.raises(ValueError, match=message):
        filled([(np.ones(2 if offsets is None else 4, np.float32), edges)], [1], [0.0], [1.0], 3)


@pytest.mark.parametrize(
    ("matrix", "mask", "start", "dim"),
    [((3, 2), (3, 2), 1, 2), ((3, 2), (3, 2), -1, 2), ((3, 2), (3, 2), 0, -1), ((3, 2), (3, 1), 0, 2)],
)
def test_cells_that_are_not_there_are_refused(
    matrix: tuple[int, int], mask: tuple[int, int], start: int, dim: int
) -> None:
    branch = [np.ones(3, np.float32)], [np.arange(4)], np.array([start]), np.array([dim]), np.zeros(1), np.ones(1)
    with pytest.raises(ValueError, match=r"do not lie in order in the 2 of the matrix|must be of one shape"):
        fill(*branch, np.zeros(matrix, np.float32), np.zeros(mask, np.uint8))
    with pytest.raises(ValueError, match="row-major and writeable"):
        fill(
            *branch[:2],
            np.array([0]),
            np.array([2]),
            *branch[4:],
            np.zeros((2, 3), np.float32).T,
            np.zeros((3, 2), np.uint8),
        )


def test_values_beyond_the_cap_are_cut_and_counted() -> None:
    values, offsets = np.array([1, 2, 3, 4, 5], np.float32), np.array([0, 3, 3, 5], np.int32)
    matrix, mask, _, cut = filled([(values, offsets)], [2], [0.0], [1.0], 3)
    assert matrix.tolist() == [[1, 2], [0, 0], [4, 5]]
    assert mask.tolist() == [[1, 1], [0, 0], [1, 1]]
    assert cut == [1]


def test_a_constant_branch_is_zero_and_real() -> None:
    matrix, mask, _, _ = filled([(np.full(3, 5.0), None)], [1], [5.0], [0.0], 3)
    assert matrix.tolist() == [[0], [0], [0]]
    assert mask.tolist() == [[1], [1], [1]]


def exact(total: int, unit: int) -> Fraction:
    return total * Fraction(2) ** unit


@settings(deadline=None)
@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=40))
def test_total_is_the_exact_sum(numbers: list[float]) -> None:
    finite = [x for x in numbers if math.isfinite(x)]
    seen = tally(np.array(numbers, np.float64))
    assert exact(seen.total, TOTAL_UNIT) == sum((Fraction(x) for x in finite), Fraction(0))
    assert (seen.count, seen.nan, seen.zero) == (
        len(numbers),
        sum(math.isnan(x) for x in numbers),
        sum(x == 0 for x in finite),
    )
    assert seen.inf == len(numbers) - len(finite) - seen.nan
    assert (seen.minimum, seen.maximum) == (min(finite, default=None), max(finite, default=None))


ONES = [np.float32(2) ** power for power in range(-149, 128)]  # every exponent, those of subnormals too
float32s = st.floats(width=32) | st.sampled_from(
    [0.0, -0.0, (2 - 2.0**-23) * 2.0**127, 2.0**-149, 2.0**-126 - 2.0**-149]
)


@settings(deadline=None, max_examples=200)
@given(st.lists(float32s, max_size=60), st.sampled_from([1, 60]))
def test_float32_values_have_the_exact_sums_and_the_tally_of_the_same_float64(numbers: list[float], times: int) -> None:
    values = np.array(numbers * times, np.float32)
    seen = tally(values)
    finite = [Fraction(x) for x in numbers if math.isfinite(x)]
    assert exact(seen.total, TOTAL_UNIT) == sum(finite, Fraction(0)) * times
    assert exact(seen.squares, SQUARES_UNIT) == sum((x * x for x in finite), Fraction(0)) * times
    assert seen == tally(values.astype(np.float64))  # by a kernel of its own


@pytest.mark.parametrize("scale", [1.0, 2.0**-28, 2.0**-29, 2.0**-100, 2.0**-149])
@pytest.mark.parametrize("halvings", range(4))
def test_the_largest_sums_a_block_can_have_do_not_overflow(scale: float, halvings: int) -> None:
    largest = np.finfo(np.float32).max / np.float32(2) ** halvings  # of each place in the unit that 4 exponents share
    values = np.array([largest, largest * scale] * 3000, np.float32)
    seen = tally(values)
    assert exact(seen.total, TOTAL_UNIT) == sum(Fraction(x) for x in values[:2].tolist()) * 3000
    assert exact(seen.squares, SQUARES_UNIT) == sum(Fraction(x) ** 2 for x in values[:2].tolist()) * 3000
    assert tally(-values) == tally(-values.astype(np.float64))


@pytest.mark.parametrize("dtype", ["int32", "uint32", "int64", "uint64"])
@pytest.mark.parametrize("largest", [0, 7, 2**24, 2**24 + 1, 2**31 - 1])
def test_integers_of_any_size_are_summed_as_float64(dtype: str, largest: int) -> None:
    values = np.array([largest, 1, largest - 1 if largest else 0, largest], dtype)
    for some in (values, -values.astype("int64"), values[:0]):
        assert tally(some) == tally(some.astype(np.float64))


def test_every_exponent_is_summed_where_it_belongs() -> None:
    values = np.array(ONES, np.float32)
    assert exact(tally(values).total, TOTAL_UNIT) == sum(Fraction(2) ** power for power in range(-149, 128))
    for value in ONES:
        alone = tally(np.array([value, -value, value], np.float32))
        assert exact(alone.total, TOTAL_UNIT) == Fraction(float(value))
        assert exact(alone.squares, SQUARES_UNIT) == 3 * Fraction(float(value)) ** 2


@settings(deadline=None)
@given(st.sampled_from(TYPES), st.lists(st.integers(0, 2**64 - 1), max_size=40), st.sampled_from(MEMORY))
def test_any_bits_of_any_type_lying_anyhow_are_summed_as_float64(dtype: str, bits: list[int], how: str) -> None:
    raw = np.array(bits, np.uint64).view(np.uint8)
    values = (raw % 2).astype(bool) if dtype == "bool" else raw.view(dtype)
    numbers = [float(x) for x in values.tolist()]
    finite = [x for x in numbers if math.isfinite(x)]
    seen = tally(in_memory(values, how))
    assert exact(seen.total, TOTAL_UNIT) == sum(map(Fraction, finite), Fraction(0))
    assert (seen.count, seen.nan) == (len(numbers), sum(map(math.isnan, numbers)))
    assert seen.inf == sum(map(math.isinf, numbers))
    assert seen.zero == finite.count(0.0)
    assert (seen.minimum, seen.maximum) == (min(finite, default=None), max(finite, default=None))


@settings(deadline=None)
@given(st.lists(float32s, max_size=60))
def test_halves_are_counted_in_the_order_of_the_values(numbers: list[float]) -> None:
    values = np.array(numbers, np.float32)
    found, counts = histogram_of_halves(values)
    finite = sorted(values[np.isfinite(values)].tolist(), key=lambda x: (x, math.copysign(1, x)))
    halves = [struct.unpack("<i", struct.pack("<f", x))[0] for x in finite]
    halves = [(half if half >= 0 else ~(half & 0x7FFFFFFF)) >> 16 for half in halves]
    assert np.repeat(found, counts).tolist() == halves == sorted(halves)


@settings(deadline=None)
@given(st.lists(st.floats(-1e150, 1e150), min_size=1, max_size=40))
def test_squares_are_right_to_their_last_bit_each(numbers: list[float]) -> None:
    seen = tally(np.array(numbers, np.float64))
    truth = sum((Fraction(x) ** 2 for x in numbers), Fraction(0))
    assert abs(exact(seen.squares, SQUARES_UNIT) - truth) <= truth * Fraction(1, 2**53)


@settings(deadline=None)
@given(st.lists(st.floats(), max_size=40), st.integers(0, 40))
def test_tallies_of_any_two_parts_add_up_to_the_whole(numbers: list[float], cut: int) -> None:
    whole, left, right = (tally(np.array(part, np.float64)) for part in (numbers, numbers[:cut], numbers[cut:]))
    assert left.total + right.total == whole.total
    assert left.squares + right.squares == whole.squares


@pytest.mark.parametrize("dtype", TYPES)
def test_every_numeric_type_is_summed_as_float64(dtype: str) -> None:
    values = np.array([0, 1, 1, 0, 1], dtype)
    seen = tally(values)
    assert as_float(seen.total, TOTAL_UNIT) == 3.0
    assert as_float(seen.squares, SQUARES_UNIT) == 3.0
    assert (seen.zero, seen.minimum, seen.maximum) == (2, 0.0, 1.0)


def test_sums_that_cancel_lose_nothing() -> None:
    seen = tally(np.array([1e16, 1.0, -1e16, 5e-324]))
    assert as_float(seen.total, TOTAL_UNIT) == 1.0
    assert exact(seen.total, TOTAL_UNIT) == 1 + Fraction(5e-324)


def test_a_sum_too_large_for_a_float_is_infinite_with_its_sign() -> None:
    seen = tally(np.full(4, -1.7e308))
    assert as_float(seen.total, TOTAL_UNIT) == -math.inf


def test_no_values_have_no_minimum() -> None:
    seen = tally(np.empty(0, np.float32))
    assert (seen.count, seen.minimum, seen.maximum, seen.total) == (0, None, None, 0)


def test_lengths_are_counted_by_length() -> None:
    assert histogram_of_lengths(np.array([5, 7, 7, 8, 10], np.int32)).tolist() == [1, 1, 2]
    assert histogram_of_lengths(np.array([3], np.int64)).tolist() == []


def test_events_in_other_rows_are_the_same_rows_in_another_order() -> None:
    random = np.random.default_rng(6)
    n, width = 3000, 61  # more than the kernel takes at once
    offsets = np.concatenate([[0], np.cumsum(random.poisson(12, n))]).astype(np.int32)
    columns = [random.normal(size=n).astype(np.float32), random.normal(size=offsets[-1]).astype(np.float32)]
    branches = columns, [None, offsets], np.array([0, 1]), np.array([1, width - 1]), np.zeros(2), np.ones(2)
    made = [(np.full((n, width), np.nan, np.float32), np.full((n, width), 77, np.uint8)) for _ in range(2)]
    rows = random.permutation(n)
    fill(*branches, *made[0])
    fill(*branches, *made[1], rows=rows)
    for in_order, elsewhere in zip(*made, strict=True):
        np.testing.assert_array_equal(elsewhere[rows], in_order)


@pytest.mark.parametrize("rows", [[0, 0], [1, 2], [-1, 0], [0]])
def test_rows_that_are_not_each_row_once_are_refused(rows: list[int]) -> None:
    matrix, mask = np.zeros((2, 1), np.float32), np.zeros((2, 1), np.uint8)
    one = np.array([1], np.int64)
    with pytest.raises(ValueError, match="each once"):
        fill([np.ones(2)], [None], one - 1, one, one * 0.0, one * 1.0, matrix, mask, rows=np.array(rows))
