from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from mlaas_spark.evaluation.calibration import calibration, reliability
from mlaas_spark.evaluation.events import Scored


def test_curve_of_unit_weights_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    p = rng.random(2_000)
    y = rng.random(2_000) < p**2
    found = reliability(p, y, np.ones(2_000))
    observed, predicted = calibration_curve(y, p, n_bins=15)
    assert found["observed"] == pytest.approx(observed.tolist())
    assert found["predicted"] == pytest.approx(predicted.tolist())
    assert found["brier"] == pytest.approx(brier_score_loss(y, p))
    counts = np.array(found["events"])
    assert found["ece"] == pytest.approx(float(counts @ np.abs(observed - predicted)) / 2_000)
    # of unit weights the error is the binomial one
    assert found["error"] == pytest.approx(np.sqrt(observed * (1 - observed) / counts).tolist())


def test_weighted_brier_score_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    p, w = rng.random(500), rng.exponential(1, 500)
    y = rng.random(500) < 0.3
    assert reliability(p, y, w)["brier"] == pytest.approx(brier_score_loss(y, p, sample_weight=w))


@given(counts=st.lists(st.integers(0, 20), min_size=15, max_size=15).filter(any), scale=st.floats(0.1, 10))
def test_perfectly_calibrated_scores_have_no_calibration_error(counts: list[int], scale: float) -> None:
    """In each bin the weights of the positive events are that share of the bin that its score says."""
    p, y, w = [], [], []
    for bin_, count in enumerate(counts):
        middle = (bin_ + 0.5) / 15
        for _ in range(count):
            p += [middle, middle]
            y += [True, False]
            w += [scale * middle, scale * (1 - middle)]
    found = reliability(np.array(p), np.array(y), np.array(w))
    assert found["ece"] == pytest.approx(0, abs=1e-12)
    assert [value is None for value in found["observed"]] == [count == 0 for count in counts]


def test_scores_that_are_always_wrong_have_an_error_of_1() -> None:
    found = reliability(np.array([0.0, 1.0]), np.array([True, False]), np.ones(2))
    assert (found["ece"], found["brier"]) == (1.0, 1.0)


def test_a_bin_of_negative_weight_is_left_out() -> None:
    found = reliability(np.array([0.05, 0.95]), np.array([False, True]), np.array([-1.0, 3.0]))
    assert found["observed"][0] is None
    assert found["ece"] == pytest.approx(0.05)
    assert found["sum"][0] == -1.0


def test_no_weight_has_no_score() -> None:
    found = reliability(np.array([0.1, 0.1]), np.array([False, True]), np.array([-1.0, 1.0]))
    assert (found["ece"], found["brier"]) == (None, None)


def test_two_outputs_are_those_of_label_1() -> None:
    rng = np.random.default_rng(0)
    p = rng.random(100).astype(np.float32)
    labels, weights = rng.integers(0, 2, 100).astype(np.float32), np.ones(100, np.float32)
    one = calibration(Scored(p[:, None], labels, weights))
    two = calibration(Scored(np.column_stack([1 - p, p]), labels, weights))
    assert one == two
    assert list(one["classes"]) == ["1"]


def test_several_classes_have_briers_sum_and_the_error_of_the_largest_score() -> None:
    rng = np.random.default_rng(0)
    z = rng.exponential(1, (600, 3))
    p = (z / z.sum(axis=1, keepdims=True)).astype(np.float32)
    labels = rng.integers(0, 3, 600)
    w = rng.exponential(1, 600).astype(np.float32)
    found = calibration(Scored(p, labels.astype(np.float32), w))
    hot = np.eye(3)[labels]
    assert found["brier"] == pytest.approx(float(np.average(((p - hot) ** 2).sum(axis=1), weights=w)))
    right = p.argmax(axis=1) == labels
    ece = 0.0
    for bin_ in range(15):
        inside = (p.max(axis=1) >= bin_ / 15) & (p.max(axis=1) < (bin_ + 1) / 15)
        if inside.any():
            ece += abs(float(w[inside] @ (p.max(axis=1)[inside] - right[inside])))
    assert found["ece"] == pytest.approx(ece / w.sum(), rel=1e-5)
    assert list(found["classes"]) == ["0", "1", "2"]
