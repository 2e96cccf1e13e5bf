from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score

from mlaas_spark.evaluation.events import Scored
from mlaas_spark.evaluation.residuals import quantiles, residuals


def sample(n: int = 800, targets: int = 1, seed: int = 0) -> Scored:
    rng = np.random.default_rng(seed)
    true = rng.exponential(50, (n, targets)).astype(np.float32)
    scores = (true * rng.normal(1.1, 0.2, (n, targets))).astype(np.float32)
    return Scored(scores, true if targets > 1 else true[:, 0], rng.exponential(1, n).astype(np.float32))


def test_numbers_are_those_of_scikit_learn_for_each_target() -> None:
    scored = sample(targets=3)
    found = residuals({"test": scored}, ["a", "b", "c"])
    w = scored.weights.astype(np.float64)
    for column, name in enumerate("abc"):
        true, score = scored.labels[:, column].astype(np.float64), scored.scores[:, column].astype(np.float64)
        of = found[name]
        assert of["rmse"] ** 2 == pytest.approx(mean_squared_error(true, score, sample_weight=w))
        assert of["mae"] == pytest.approx(mean_absolute_error(true, score, sample_weight=w))
        assert of["r2"] == pytest.approx(r2_score(true, score, sample_weight=w))
        bias = float(np.average(score - true, weights=w))
        assert of["bias"] == pytest.approx(bias)
        assert of["rmse"] ** 2 == pytest.approx(of["std"] ** 2 + bias**2)


def test_relative_resolution_is_that_of_the_smearing() -> None:
    found = residuals({"test": sample(20_000)}, ["E"])["E"]["relative"]
    assert found["median"] == pytest.approx(0.1, abs=0.01)
    assert found["half_width_68"] == pytest.approx(0.2, rel=0.05)
    assert found["events"] == 20_000


@given(
    values=st.lists(st.floats(-100, 100), min_size=1, max_size=30),
    times=st.lists(st.integers(1, 4), min_size=30, max_size=30),
    share=st.floats(0.01, 0.99),
)
def test_weighted_quantiles_are_those_of_repeated_events(values: list[float], times: list[int], share: float) -> None:
    times = times[: len(values)]
    repeated = sorted(value for value, n in zip(values, times, strict=True) for _ in range(n))
    exact = share * len(repeated)
    if abs(exact - round(exact)) > 1e-6:  # else two values are the quantile
        assert quantiles(np.array(values), np.array(times), [share]) == [repeated[math.ceil(exact) - 1]]


@pytest.mark.parametrize("weights", [[1.0, -1.0, 3.0], [0.0, 0.0, 0.0]])
def test_there_are_no_quantiles_with_negative_weights_or_none(weights: list[float]) -> None:
    assert quantiles(np.arange(3.0), np.array(weights), [0.5]) is None


def test_negative_weights_count_in_means() -> None:
    scored = Scored(
        np.array([[1.0], [2.0], [5.0]], np.float32),
        np.array([0.0, 3.0, 3.0], np.float32),
        np.array([2.0, -0.5, 1.0], np.float32),
    )
    found = residuals({"test": scored}, ["E"])["E"]
    assert found["bias"] == pytest.approx((2 * 1 - 0.5 * -1 + 1 * 2) / 2.5)
    assert found["mae"] == pytest.approx((2 * 1 - 0.5 * 1 + 1 * 2) / 2.5)
    assert (found["median"], found["half_width_68"]) == (None, None)


def test_histograms_and_events_beyond_add_up_to_all_weight() -> None:
    test, train = sample(), sample(1_500, seed=1)
    found = residuals({"test": test, "train": train}, ["E"])["E"]
    for split, scored in (("test", test), ("train", train)):
        of = found["histogram"]["splits"][split]
        assert sum(of["sum"]) + of["beyond"] == pytest.approx(float(scored.weights.sum()), rel=1e-5)
    assert found["overtraining"]["p"] > 1e-3
    assert len(found["joint"]["sum"]) == len(found["joint"]["sum"][0]) == len(found["joint"]["edges"]) - 1


def test_joint_histogram_has_true_values_in_rows() -> None:
    scored = Scored(np.array([[0.0], [9.0]], np.float32), np.array([0.0, 0.0], np.float32), np.ones(2, np.float32))
    total = np.array(residuals({"test": scored}, ["E"])["E"]["joint"]["sum"])
    assert (total.sum(axis=1) > 0).sum() == 1  # one true value


def test_profile_has_bias_and_spread_in_bins_of_the_true_value() -> None:
    scored = sample(5_000)
    profile = residuals({"test": scored}, ["E"])["E"]["profile"]
    true, r = scored.labels.astype(np.float64), (scored.scores[:, 0] - scored.labels).astype(np.float64)
    low, high = profile["edges"][3:5]
    inside = (true >= low) & (true < high)
    assert profile["bins"][3]["mean"] == pytest.approx(np.average(r[inside], weights=scored.weights[inside]), rel=1e-5)
    assert inside.sum() == pytest.approx(5_000 / 12, abs=2)


def test_what_is_not_finite_is_left_out_and_counted() -> None:
    scored = sample(100)
    scored.scores[3], scored.labels[7] = np.nan, np.inf
    found = residuals({"test": scored}, ["E"])["E"]
    assert (found["events"], found["left_out"]) == (98, 2)


@pytest.mark.parametrize(("labels", "none"), [([2.0, 2.0], "r2"), ([0.0, 0.0], "relative")], ids=["constant", "zero"])
def test_what_is_not_defined_is_none(labels: list[float], none: str) -> None:
    scored = Scored(np.array([[1.0], [3.0]], np.float32), np.array(labels, np.float32), np.ones(2, np.float32))
    found: dict[str, Any] = residuals({"test": scored}, ["E"])["E"]
    value = found["relative"]["median"] if none == "relative" else found[none]
    assert value is None
    assert found["rmse"] is not None


def test_relative_residuals_keep_the_sign_of_the_residual_where_the_true_value_is_negative() -> None:
    scored = Scored(np.array([[-1.0]], np.float32), np.array([-2.0], np.float32), np.ones(1, np.float32))
    found = residuals({"test": scored}, ["E"])["E"]
    assert (found["bias"], found["relative"]["mean"], found["relative"]["median"]) == (1.0, 0.5, 0.5)
