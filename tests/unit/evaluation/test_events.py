from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlaas_spark.evaluation.events import effective, histogram, mean, plain, thinned, weighing

WEIGHTS = [1.0, -0.5, 2.0, 0.5]


def test_weighing_gives_sum_error_and_negative_share_by_their_formulas() -> None:
    found = weighing(np.array(WEIGHTS))
    assert found == {
        "events": 4,
        "sum": pytest.approx(3.0),
        "error": pytest.approx(math.sqrt(1 + 0.25 + 4 + 0.25)),
        "effective": pytest.approx(9 / 5.5),
        "negative": 1,
        "negative_share": pytest.approx(0.5 / 4),
    }


@given(n=st.integers(1, 50), w=st.floats(0.01, 100))
def test_equal_weights_are_as_many_effective_events_as_there_are(n: int, w: float) -> None:
    assert effective(np.full(n, w)) == pytest.approx(n)


def test_no_events_have_no_weight() -> None:
    assert weighing(np.empty(0)) == {
        "events": 0,
        "sum": 0.0,
        "error": 0.0,
        "effective": 0.0,
        "negative": 0,
        "negative_share": 0.0,
    }


def test_mean_and_its_error_are_those_of_plain_loops() -> None:
    values = [3.0, 1.0, 4.0, 1.5]
    total = sum(WEIGHTS)
    middle = sum(w * x for w, x in zip(WEIGHTS, values, strict=True)) / total
    error = math.sqrt(sum((w * (x - middle)) ** 2 for w, x in zip(WEIGHTS, values, strict=True))) / total
    assert list(mean(np.array(values), np.array(WEIGHTS))) == pytest.approx([middle, error])


@pytest.mark.parametrize("weights", [[1.0, -1.0], [0.0, 0.0], [-2.0, 1.0]])
def test_a_mean_over_no_weight_is_none(weights: list[float]) -> None:
    assert mean(np.array([1.0, 2.0]), np.array(weights)) == (None, None)


def test_histograms_have_sums_of_weights_and_roots_of_squares() -> None:
    found = histogram(np.array([0.1, 0.2, 0.7, 5.0]), np.array(WEIGHTS), np.array([0.0, 0.5, 1.0]))
    assert found["sum"] == pytest.approx([0.5, 2.0])
    assert found["error"] == pytest.approx([math.sqrt(1.25), 2.0])


@given(length=st.integers(0, 500), most=st.integers(2, 50))
def test_thinned_keeps_first_and_last_and_no_more_than_asked_for(length: int, most: int) -> None:
    kept = thinned(length, most).tolist()
    assert len(kept) <= most
    assert kept == sorted(set(kept))
    assert not length or {kept[0], kept[-1]} == {0, length - 1}


def test_plain_values_are_json_without_nan_and_numpy() -> None:
    value = {1: np.float32(0.5), "a": [math.nan, np.array([1.0, math.inf])], "b": (np.int64(3), None, True, "x")}
    assert json.loads(json.dumps(plain(value), allow_nan=False)) == {
        "1": 0.5,
        "a": [None, [1.0, None]],
        "b": [3, None, True, "x"],
    }
