"""kernels: the matrix and mask of a plain Python loop, and sums that are exact whatever the grouping."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlaas_spark.kernels import SQUARES_UNIT, TOTAL_UNIT, as_float, fill, histogram_of_lengths, tally

Column = tuple[npt.NDArray[Any], npt.NDArray[np.integer[Any]] | None]

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
    # rubbish where nothing is written must show
    matrix, mask = np.full((n, width), np.nan, np.float32), np.full((n, width), 77, np.uint8)
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
    return matrix, mask, counts.missing.tolist(), counts.cut.tolist()


@st.composite
def events(draw: st.DrawFn) -> tuple[list[Column], list[int], list[float], list[float], int]:
    n = draw(st.sampled_from([0, 1, 2, 15, 16, 17, 33]))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    columns: list[Column] = []
    dims = []
    for _ in range(draw(st.integers(0, 4))):
        dtype = np.dtype(draw(st.sampled_from(TYPES)))
        jagged = draw(st.booleans())
        lengths = random.integers(0, 6, n) if jagged else np.ones(n, np.int64)
        before = int(random.integers(0, 3)) if jagged else 0
        numbers = random.normal(0, 40, before + int(lengths.sum()) + (2 if jagged else 0))
        values = numbers.astype(dtype) if dtype.kind == "f" else np.abs(numbers).astype(dtype)
        if dtype.kind == "f" and len(values):
            values[random.uniform(size=len(values)) < 0.2] = random.choice([np.nan, np.inf, -np.inf])
        offsets = None
        if jagged:
            kind = draw(st.sampled_from(["int32", "int64"]))
            offsets = (before + np.concatenate([[0], np.cumsum(lengths)])).astype(kind)
        columns.append((values, offsets))
        dims.append(draw(st.integers(0, 5)) if jagged else 1)
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
