from __future__ import annotations

import json
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import auc as area
from sklearn.metrics import roc_auc_score, roc_curve

from mlaas_spark.evaluation.roc import auc, auc_replicas, curve, interval

Events = tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_], npt.NDArray[np.float32]]


def events(n: int, seed: int = 0, *, ties: bool = False, negative: bool = False, weighted: bool = True) -> Events:
    """Scores of signal that lie above those of background, on the whole."""
    rng = np.random.default_rng(seed)
    positive = rng.random(n) < 0.4
    scores = rng.normal(positive * 1.2, 1.0).astype(np.float32)
    weights = rng.exponential(1.0, n).astype(np.float32) if weighted else np.ones(n, np.float32)
    if negative:
        weights[rng.random(n) < 0.1] *= -1
    return scores.round(1) if ties else scores, positive, weights


def pairs_auc(scores: Any, positive: Any, weights: Any) -> float:
    """AUC as its definition has it: the share of (signal, background) pairs in the right order, ties by half."""
    right = total = 0.0
    for s, is_signal, w in zip(scores, positive, weights, strict=True):
        for b, other, v in zip(scores, positive, weights, strict=True):
            if is_signal and not other:
                total += w * v
                right += w * v * (1.0 if s > b else 0.5 if s == b else 0.0)
    return right / total


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_auc_and_curve_are_those_of_scikit_learn(*, ties: bool, weighted: bool) -> None:
    scores, positive, weights = events(150, ties=ties, weighted=weighted)
    assert auc(scores, positive, weights) == pytest.approx(roc_auc_score(positive, scores, sample_weight=weights))
    found = curve(scores, positive, weights)
    assert found is not None
    fpr, tpr, threshold = roc_curve(positive, scores, sample_weight=weights, drop_intermediate=False)
    assert found["fpr"] == pytest.approx(fpr)
    assert found["tpr"] == pytest.approx(tpr)
    assert found["threshold"][1:] == pytest.approx(threshold[1:])


@pytest.mark.parametrize("ties", [False, True])
def test_auc_with_negative_weights_is_the_sum_over_pairs(*, ties: bool) -> None:
    some = events(80, ties=ties, negative=True)
    assert (some[2] < 0).any()
    assert auc(*some) == pytest.approx(pairs_auc(*some))


@given(seed=st.integers(0, 1000), scale=st.floats(0.1, 10), shift=st.floats(-5, 5))
def test_auc_does_not_change_under_a_growing_function_of_the_scores(seed: int, scale: float, shift: float) -> None:
    scores, positive, weights = events(60, seed, ties=True)
    changed = np.exp(scale * scores.astype(np.float64)) + shift if scale < 5 else scale * scores.astype(np.float64) ** 3
    before, after = auc(scores, positive, weights), auc(changed, positive, weights)
    assert after == pytest.approx(before)


@given(seed=st.integers(0, 1000))
def test_auc_of_turned_scores_is_what_is_missing_to_1(seed: int) -> None:
    scores, positive, weights = events(60, seed, ties=True)
    forward, backward = auc(scores, positive, weights), auc(-scores, positive, weights)
    assert forward is not None
    assert backward == pytest.approx(1 - forward)


@given(seed=st.integers(0, 1000), factor=st.floats(0.01, 100))
def test_auc_does_not_depend_on_the_scale_of_the_weights_of_a_class(seed: int, factor: float) -> None:
    scores, positive, weights = events(60, seed)
    assert auc(scores, positive, np.where(positive, factor * weights, weights)) == pytest.approx(
        auc(scores, positive, weights)
    )


@pytest.mark.parametrize(("positive", "weights"), [([1, 1], [1, 1]), ([1, 0], [1, 0]), ([1, 0], [1, -1]), ([], [])])
def test_a_class_without_weight_has_no_auc(positive: list[int], weights: list[float]) -> None:
    args = (np.arange(float(len(positive))), np.array(positive, bool), np.array(weights, np.float64))
    assert auc(*args) is None
    assert curve(*args) is None
    assert len(auc_replicas(*args, 10, 1)) == 0


@pytest.mark.parametrize("negative", [False, True])
def test_a_long_curve_has_at_most_200_points_from_corner_to_corner(*, negative: bool) -> None:
    found = curve(*events(20_000, negative=negative))
    assert found is not None
    assert 150 < len(found["fpr"]) == len(found["tpr"]) == len(found["threshold"]) <= 200
    ends = (found["fpr"][0], found["tpr"][0], found["fpr"][-1], found["tpr"][-1])
    assert ends == pytest.approx((0, 0, 1, 1))
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    if not negative:
        # dense where few background events are left
        assert sum(fpr < 0.01 for fpr in found["fpr"]) > 30
        # few points, near the whole curve
        assert area(found["fpr"], found["tpr"]) == pytest.approx(found["auc"], abs=1e-3)


def test_working_points_are_the_first_cuts_that_keep_enough_signal() -> None:
    scores, positive, weights = events(500)
    found = curve(scores, positive, weights)
    assert found is not None
    for point, wanted in zip(found["working_points"], (0.3, 0.5, 0.7, 0.8, 0.9, 0.95), strict=True):
        kept = scores >= point["threshold"]
        assert point["tpr"] == pytest.approx(weights[kept & positive].sum() / weights[positive].sum())
        assert point["fpr"] == pytest.approx(weights[kept & ~positive].sum() / weights[~positive].sum())
        tighter = scores > point["threshold"]
        assert weights[tighter & positive].sum() / weights[positive].sum() < wanted <= point["tpr"] + 1e-6
        assert point["rejection"] == pytest.approx(1 / point["fpr"])


def test_a_cut_without_background_has_no_rejection() -> None:
    found = curve(np.array([0.9, 0.8, 0.1]), np.array([True, True, False]), np.ones(3))
    assert found is not None
    assert [point["rejection"] for point in found["working_points"]] == [None] * 6


def delong(scores: npt.NDArray[Any], positive: npt.NDArray[np.bool_]) -> float:
    """Standard error of an unweighted AUC: E. DeLong et al., Biometrics 44 (1988) 837."""
    s, b = scores[positive][:, None], scores[~positive][None, :]
    right = (s > b) + 0.5 * (s == b)
    return float(np.sqrt(right.mean(axis=1).var(ddof=1) / s.size + right.mean(axis=0).var(ddof=1) / b.size))


@pytest.mark.parametrize("n", [1_000, 9_000])  # drawn one by one, and by bins
def test_bootstrap_spread_of_unweighted_events_is_delongs(n: int) -> None:
    scores, positive, weights = events(n, weighted=False)
    areas = auc_replicas(scores, positive, weights, 1_000, 7)
    found = interval(areas, 7)
    assert found is not None
    error = delong(scores, positive)
    assert found["std"] == pytest.approx(error, rel=0.1)
    low, high = found["interval_68"]
    assert (high - low) / 2 == pytest.approx(error, rel=0.12)
    assert found["interval_95"][1] - found["interval_95"][0] == pytest.approx(2 * 1.96 * error, rel=0.12)
    assert areas.mean() == pytest.approx(auc(scores, positive, weights), abs=0.2 * error)


@pytest.mark.parametrize("negative", [False, True])
@pytest.mark.parametrize("n", [1_000, 9_000])
def test_bootstrap_spread_of_weighted_events_is_that_of_single_draws(n: int, *, negative: bool) -> None:
    scores, positive, weights = events(n, negative=negative)
    rng = np.random.default_rng(11)
    single = [auc(scores, positive, weights * rng.poisson(1.0, n)) for _ in range(400)]
    areas = auc_replicas(scores, positive, weights, 1_000, 7)
    assert areas.std() == pytest.approx(np.std([area for area in single if area is not None]), rel=0.15)


def test_intervals_cover_the_true_value_as_often_as_they_say() -> None:
    truth = 0.8019  # of two normal distributions 1.2 apart: Phi(1.2 / sqrt(2))
    inside = 0
    for seed in range(120):
        scores, positive, weights = events(400, seed)
        found = interval(auc_replicas(scores, positive, weights, 200, seed), seed)
        assert found is not None
        low, high = found["interval_68"]
        inside += low <= truth <= high
    assert 0.55 * 120 < inside < 0.81 * 120  # 68 % within three standard deviations


def test_equal_seeds_give_equal_intervals_and_others_do_not() -> None:
    some = events(300)
    first, again, other = (auc_replicas(*some, 50, seed) for seed in (1, 1, 2))
    assert first.tolist() == again.tolist() != other.tolist()


def test_one_replica_makes_no_interval() -> None:
    assert interval(auc_replicas(*events(100), 1, 1), 1) is None
    assert interval(auc_replicas(*events(100), 0, 1), 1) is None
