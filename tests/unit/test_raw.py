"""raw: events as a client sends them, against plain Python loops and against the kernel on the events themselves."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlaas_spark.branch_specs import Specs
from mlaas_spark.config import FeatureConfig
from mlaas_spark.errors import BranchNotFoundError, ExportError
from mlaas_spark.layout import FeatureLayout
from mlaas_spark.raw import LOWEST, MISSING, normalised, raw_vector, restored, sentinel, shortest, with_missing
from mlaas_spark.transform import FeatureTransform

HUGE = float(np.float32(3.4e38))
numbers = st.floats(-HUGE, HUGE, width=32) | st.sampled_from([math.nan, math.inf, -math.inf, 0.0, -0.0, 1e-45, -3e-39])
events = st.lists(
    st.fixed_dictionaries(
        {"met": numbers, "n": st.integers(-(2**24), 2**24), "jets": st.lists(numbers, max_size=4), "same": st.just(7)}
    ),
    min_size=1,
    max_size=12,
)
configs = st.builds(
    FeatureConfig,
    normalise=st.sampled_from(["minmax", "standard", "robust", "none"]),
    overrides=st.dictionaries(st.sampled_from(["met", "n"]), st.sampled_from(["none", "standard"]), max_size=2),
    caps=st.dictionaries(st.just("jets"), st.integers(1, 3), max_size=1),
)

Event = dict[str, Any]


def batch_of(rows: list[Event]) -> pa.RecordBatch:
    types = {"met": pa.float32(), "n": pa.int32(), "jets": pa.list_(pa.float32()), "same": pa.float64()}
    return pa.RecordBatch.from_pydict(
        {name: pa.array([row[name] for row in rows], kind, from_pandas=False) for name, kind in types.items()}
    )


def made(rows: list[Event], config: FeatureConfig) -> tuple[pa.RecordBatch, Specs, FeatureTransform]:
    batch = batch_of(rows)
    specs = Specs.of(batch, batch.schema.names, batch.schema.names)
    return batch, specs, FeatureTransform.of(specs, config)


def row_of(event: Event, transform: FeatureTransform, missing: float) -> list[float]:
    """By plain Python: flat branches, then lists cut or padded."""
    row = []
    for name, dim in transform.layout.dims:
        values = event[name] if isinstance(event[name], list) else [event[name]]
        kept = [value if math.isfinite(value) else missing for value in values[:dim]]
        row += [*kept, *[missing] * (dim - len(kept))]
    return row


@given(rows=events, config=configs)
def test_raw_vectors_are_the_values_in_layout_order(rows: list[Event], config: FeatureConfig) -> None:
    batch, specs, transform = made(rows, config)
    missing = sentinel(specs.ranges)
    expected = np.array([row_of(event, transform, missing) for event in rows]).astype(np.float32)
    found = raw_vector(batch, transform, missing)
    assert found.dtype == np.float32
    assert found.shape == (len(rows), transform.width)
    np.testing.assert_array_equal(found, expected)


@given(rows=events, config=configs)
def test_features_of_raw_vectors_are_those_of_the_events_to_the_bit(rows: list[Event], config: FeatureConfig) -> None:
    batch, specs, transform = made(rows, config)
    missing = sentinel(specs.ranges)
    found, expected = normalised(raw_vector(batch, transform, missing), transform, missing), transform.matrix(batch)
    np.testing.assert_array_equal(found.mask, expected.mask)
    np.testing.assert_array_equal(found.matrix, expected.matrix)
    assert (found.missing >= expected.missing).all()  # padding looks like a missing value


@given(rows=events)
def test_raw_vectors_survive_json_with_few_digits(rows: list[Event]) -> None:
    batch, specs, transform = made(rows, FeatureConfig())
    for row in raw_vector(batch, transform, sentinel(specs.ranges)):
        text = json.dumps(shortest(row), allow_nan=False)
        np.testing.assert_array_equal(np.array(json.loads(text)).astype(np.float32), row)


def test_the_sentinel_survives_whatever_number_of_digits_it_is_printed_with() -> None:
    for text in ("-1e30", "-1e+30", f"{MISSING:f}", f"{np.float32(MISSING):.6g}", f"{np.float32(MISSING):.9g}"):
        assert np.float32(float(text)) <= np.float32(MISSING)


@pytest.mark.parametrize(
    ("ranges", "expected"),
    [
        ({}, MISSING),
        ({"a": (-999.0, 5.0), "b": (0.0, 3e38)}, MISSING),
        ({"a": (-2e29, 5.0), "b": (0.0, 1.0)}, LOWEST),
        ({"a": (-1e300, 0.0)}, LOWEST),
    ],
)
def test_the_sentinel_lies_below_the_ranges_of_training(ranges: Any, expected: float) -> None:
    assert sentinel(ranges) == expected


def test_a_sentinel_of_ones_own_is_taken_if_no_branch_comes_near() -> None:
    assert sentinel({"a": (-998.0, 1.0)}, -999.0) == -999.0


@pytest.mark.parametrize("asked", [math.nan, math.inf, -math.inf, -1e39])
def test_a_sentinel_that_is_no_finite_float32_is_refused(asked: float) -> None:
    with pytest.raises(ExportError, match=r"export\.missing: .* is no finite float32"):
        sentinel({}, asked)


def test_a_sentinel_among_the_values_is_refused_with_the_branch() -> None:
    with pytest.raises(ExportError, match=r"branch 'low' has values down to -1000 in training"):
        sentinel({"high": (0.0, 1.0), "low": (-1000.0, 1.0)}, -999.0)


@pytest.mark.parametrize(
    ("value", "sent"),
    [
        (2.0**24 + 1, 2.0**24),  # float64: the nearest float32
        (MISSING, float(np.nextafter(np.float32(MISSING), np.float32(0)))),
    ],
)
def test_values_that_float32_has_not_are_sent_as_the_nearest_that_is_no_sentinel(value: float, sent: float) -> None:
    transform = FeatureTransform(FeatureLayout((("x", 1),)), (False,), (5.0,), (0.1,))
    found = raw_vector(pa.RecordBatch.from_pydict({"x": pa.array([value])}), transform)
    assert found.tolist() == [[sent]]
    assert normalised(found, transform).mask.tolist() == [[1]]


@pytest.mark.parametrize("value", [1e300, -1e300])
def test_values_beyond_float32_are_sent_as_missing(value: float) -> None:
    transform = FeatureTransform(FeatureLayout((("x", 1),)), (False,), (5.0,), (0.1,))
    found = raw_vector(pa.RecordBatch.from_pydict({"x": pa.array([value])}), transform)
    assert found.tolist() == [[np.float32(MISSING)]]
    assert normalised(found, transform).mask.tolist() == [[0]]


def test_what_is_at_or_below_the_sentinel_nan_or_infinite_is_missing() -> None:
    transform = FeatureTransform(FeatureLayout((("x", 1), ("y", 4))), (False, True), (0.0, 1.0), (1.0, 2.0))
    x = np.array([[np.nan, 3.0, MISSING, -2e30, -np.inf]], np.float32)
    found = normalised(x, transform)
    assert found.matrix.tolist() == [[0.0, 4.0, 0.0, 0.0, 0.0]]
    assert found.mask.tolist() == [[0, 1, 0, 0, 0]]
    assert found.missing.tolist() == [1, 3]


def test_marking_what_is_missing_copies() -> None:
    matrix, mask = np.ones((1, 2), np.float32), np.array([[1, 0]], np.uint8)
    assert with_missing(matrix, mask, -5.0).tolist() == [[1.0, -5.0]]
    assert matrix.tolist() == [[1.0, 1.0]]


@given(rows=events, config=configs)
def test_restored_values_have_the_features_they_come_from(rows: list[Event], config: FeatureConfig) -> None:
    calm = [{**row, "met": 2.0 + index, "jets": [1.0 + index] * len(row["jets"])} for index, row in enumerate(rows)]
    batch, _, transform = made(calm, config)
    features = transform.matrix(batch)
    again = normalised(with_missing(restored(features.matrix, transform), features.mask, MISSING), transform)
    np.testing.assert_array_equal(again.mask, features.mask)
    np.testing.assert_allclose(again.matrix, features.matrix, rtol=1e-5, atol=1e-5)


def test_a_branch_that_the_events_lack_is_named() -> None:
    transform = FeatureTransform(FeatureLayout((("MET_pt", 1),)), (False,), (0.0,), (1.0,))
    with pytest.raises(BranchNotFoundError, match=r"MET_pt.*MET_pT"):
        raw_vector(pa.RecordBatch.from_pydict({"MET_pT": pa.array([1.0])}), transform)
