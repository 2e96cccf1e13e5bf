from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ks_2samp

from mlaas_spark.evaluation.distributions import ks_test, overtraining, score_histograms
from mlaas_spark.evaluation.events import Scored


def scored(scores: Any, labels: Any, weights: Any = None) -> Scored:
    column = np.array(scores, np.float32)
    column = column[:, None] if column.ndim == 1 else column
    made = np.ones(len(column)) if weights is None else weights
    return Scored(column, np.array(labels, np.float32), np.array(made, np.float32))


@pytest.mark.parametrize("digits", [1, 6])  # with ties and without
@pytest.mark.parametrize("shift", [0.0, 0.3])
def test_ks_of_unit_weights_is_scipys(digits: int, shift: float) -> None:
    rng = np.random.default_rng(3)
    a, b = rng.normal(0, 1, 300).round(digits), rng.normal(shift, 1, 450).round(digits)
    found = ks_test(a, b, np.ones(300), np.ones(450))
    own = ks_2samp(a, b, method="asymp")
    assert [found["statistic"], found["p"]] == pytest.approx([own.statistic, own.pvalue])


def largest_distance(a: Any, b: Any, w: Any, v: Any) -> float:
    """By the definition: over all values, of the weighted shares at or below them."""
    values = np.concatenate([a, b]).tolist()
    return max(float(abs(w[a <= x].sum() / w.sum() - v[b <= x].sum() / v.sum())) for x in values)


@given(seed=st.integers(0, 500))
def test_ks_distance_of_weighted_samples_is_that_of_its_definition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=30).round(1), rng.normal(size=20).round(1)
    w, v = rng.normal(1, 0.8, 30), rng.exponential(1, 20)
    if w.sum() > 0:
        assert ks_test(a, b, w, v)["statistic"] == pytest.approx(largest_distance(a, b, w, v))


@given(values=st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=50), scale=st.floats(0.01, 100))
def test_ks_of_equal_samples_is_0_however_their_weights_are_scaled(values: list[float], scale: float) -> None:
    sample, weights = np.array(values), np.arange(1.0, len(values) + 1)
    found = ks_test(sample, sample, weights, scale * weights)
    assert found["statistic"] == pytest.approx(0, abs=1e-12)
    assert found["p"] in {None, 1.0}  # None where the sample is less than one effective event


def test_ks_of_samples_apart_is_1() -> None:
    found = ks_test(np.zeros(50), np.ones(50), np.ones(50), np.full(50, 3.0))
    assert found["statistic"] == pytest.approx(1)
    assert found["p"] is not None
    assert found["p"] < 1e-10


def test_p_values_of_weighted_samples_of_one_distribution_are_evenly_spread() -> None:
    rng = np.random.default_rng(5)
    found = []
    for _ in range(400):
        a, b = rng.normal(size=200), rng.normal(size=300)
        p = ks_test(a, b, rng.exponential(1, 200), rng.uniform(0.1, 2, 300))["p"]
        assert p is not None
        found.append(p)
    below = np.mean(np.array(found)[:, None] < [0.05, 0.2, 0.5, 0.8], axis=0)
    # the statistic is discrete and effective events are a rule of thumb: not exactly uniform, never far from it
    assert below == pytest.approx([0.05, 0.2, 0.5, 0.8], abs=0.08)


@pytest.mark.parametrize(
    ("w", "statistic", "p"),
    [([1.0, 1.0, -0.5], True, False), ([1.0, -1.0, -1.0], False, False), ([0.0, 0.0, 0.0], False, False)],
)
def test_negative_weights_have_a_distance_and_no_p_and_no_weight_has_neither(
    w: list[float], *, statistic: bool, p: bool
) -> None:
    found = ks_test(np.arange(3.0), np.arange(3.0), np.array(w), np.ones(3))
    assert (found["statistic"] is not None, found["p"] is not None) == (statistic, p)


def test_histograms_of_both_splits_have_the_weight_of_every_event_by_label() -> None:
    test = scored([0.0, 0.01, 0.99, 1.0], [0, 0, 1, 1], [1, 2, 3, -1])
    (panel,) = score_histograms({"test": test, "train": scored([0.5, 0.5], [0, 1])})
    assert (len(panel["edges"]), panel["edges"][0], panel["edges"][-1], panel["output"]) == (51, 0.0, 1.0, 1)
    of = panel["splits"]["test"]
    assert (of["0"]["sum"][0], of["0"]["error"][0], of["0"]["events"]) == (3.0, pytest.approx(5**0.5), 2)
    assert (of["1"]["sum"][-1], of["1"]["error"][-1]) == (2.0, pytest.approx(10**0.5))
    assert sum(panel["splits"]["train"]["1"]["sum"]) == 1.0


def test_histograms_of_scores_beyond_0_to_1_span_their_range_without_what_is_not_finite() -> None:
    (panel,) = score_histograms({"test": scored([-2.0, 3.0, np.nan], [0, 1, 1])})
    assert (panel["edges"][0], panel["edges"][-1]) == (-2.0, 3.0)
    assert panel["splits"]["test"]["1"]["events"] == 1


def test_two_outputs_have_one_panel_of_the_second_and_three_have_three() -> None:
    two = scored([[0.9, 0.1], [0.2, 0.8]], [0, 1])
    (panel,) = score_histograms({"test": two})
    assert panel["splits"]["test"]["1"]["sum"][40] == 1.0  # 0.8
    three = scored(np.full((2, 3), 1 / 3), [0, 2])
    assert [panel["output"] for panel in score_histograms({"test": three})] == [0, 1, 2]


def test_very_many_outputs_have_ten_panels() -> None:
    assert len(score_histograms({"test": scored(np.full((2, 40), 1 / 40), [0, 39])})) == 10


def test_overtraining_compares_each_label_in_its_own_output() -> None:
    rng = np.random.default_rng(0)

    def sample(n: int, memorised: float) -> Scored:
        labels = rng.integers(0, 3, n)
        scores: npt.NDArray[np.float64] = rng.uniform(0, 0.3, (n, 3))
        scores[np.arange(n), labels] += 0.3 + memorised * (labels == 2)
        return scored(scores, labels)

    test, train = sample(3_000, 0.0), sample(3_000, 0.2)
    found = overtraining(test, train)
    assert list(found) == ["0", "1", "2"]
    own = ks_2samp(test.scores[test.labels == 2, 2], train.scores[train.labels == 2, 2])
    assert found["2"]["statistic"] == pytest.approx(own.statistic)
    ps = [found[label]["p"] for label in found]
    assert [p is not None and p > 1e-3 for p in ps] == [True, True, False]


def test_a_label_that_training_lacks_is_not_compared() -> None:
    assert list(overtraining(scored([0.1, 0.9], [0, 1]), scored([0.1], [0]))) == ["0"]
