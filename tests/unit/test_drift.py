"""drift: what is outside the ranges of training, counted by hand."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa

from mlaas_spark.drift import Drift, merged, named, outside

EVENTS = pa.RecordBatch.from_pydict(
    {
        "flat": pa.array([1.0, math.nan, -5.0, math.inf, 2.0, 9.0, None], pa.float32(), from_pandas=False),
        "number": pa.array([0, 1, 2, 3, 4, 5, 6], pa.uint8()),
        "flag": pa.array([True, False, True, True, True, True, True]),
        "jagged": pa.array([[50.0], [1.0, 2.5], [], None, [-1.0, 3.0], [math.nan], [-50.0]], pa.list_(pa.float64())),
        "empty": pa.array([[]] * 7, pa.list_(pa.int32())),
    }
)
BRANCHES = ["flat", "number", "flag", "jagged", "empty"]


def test_finite_values_below_and_above_the_range_are_counted() -> None:
    ranges = {"flat": (0.0, 2.0), "number": (1.0, 3.0), "flag": (0.0, 1.0), "jagged": (0.0, 2.0), "empty": (0.0, 1.0)}
    counts = outside(EVENTS, BRANCHES, ranges)
    assert counts.tolist() == [[1, 1], [1, 3], [0, 0], [2, 3], [0, 0]]


def test_values_at_the_ends_are_inside() -> None:
    ranges = {"flat": (-5.0, 9.0), "number": (0.0, 6.0), "jagged": (-50.0, 50.0)}
    assert not outside(EVENTS, BRANCHES, ranges).any()


def test_a_slice_counts_only_its_own_events() -> None:
    ranges = {"jagged": (0.0, 2.0)}
    assert outside(EVENTS.slice(1, 4), ["jagged"], ranges).tolist() == [[1, 2]]


def test_branches_without_a_range_are_not_looked_at() -> None:
    assert outside(EVENTS, ["absent", "flat"], {"flat": (0.0, 2.0)}).tolist() == [[0, 0], [1, 1]]


def test_only_branches_with_something_to_tell_are_named() -> None:
    counts = np.array([[0, 0, 0, 0], [1, 2, 3, 4]])
    assert named(counts, ["a", "b"]) == {"b": Drift(below=1, above=2, missing=3, cut=4)}


def test_parts_add_up_by_branch() -> None:
    parts = [{"b": Drift(1, 2, 3, 4)}, {}, {"a": Drift(cut=1), "b": Drift(above=10)}]
    assert merged(parts) == {"a": Drift(cut=1), "b": Drift(1, 12, 3, 4)}
    assert merged([]) == {}
