from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlaas_spark.evaluation.significance import asimov, scan, simple


@pytest.mark.parametrize(
    ("s", "b", "expected"),
    # by hand: sqrt(2 (15 ln 1.5 - 5)), sqrt(2 (2 ln 2 - 1)), 0, sqrt(2 (101 ln 101 - 100))
    [(5.0, 10.0, 1.471038), (1.0, 1.0, 0.878977), (0.0, 3.0, 0.0), (100.0, 1.0, 27.06020)],
)
def test_asimov_is_that_of_its_formula(s: float, b: float, expected: float) -> None:
    assert float(asimov(np.array([s]), np.array([b]))[0]) == pytest.approx(expected, rel=1e-5)


@given(s=st.floats(1e-6, 1e3), b=st.floats(1e-3, 1e6))
def test_asimov_is_the_likelihood_ratio_of_poisson_counts_and_below_s_over_root_b(s: float, b: float) -> None:
    # the exact series of (S+B) ln(1+S/B) - S where S/B is small, in fractions: no digits are lost
    ratio = Fraction(s) / Fraction(b)
    if ratio < Fraction(1, 10):
        terms = (Fraction((-1) ** k, k * (k - 1)) * ratio**k for k in range(2, 14))
        expected = math.sqrt(float(2 * Fraction(b) * sum(terms)))
    else:
        expected = math.sqrt(2 * ((s + b) * math.log1p(s / b) - s))
    found = float(asimov(np.array([s]), np.array([b]))[0])
    assert found == pytest.approx(expected, rel=1e-5)
    assert found <= s / math.sqrt(b) * (1 + 1e-9)


def test_significances_that_are_not_defined_are_nan() -> None:
    s, b = np.array([1.0, -1.0, 1.0, 0.0]), np.array([0.0, 1.0, -1.0, 0.0])
    assert np.isnan(asimov(s, b)).tolist() == [True, True, True, True]
    assert np.isnan(simple(s, b)).tolist() == [False, True, True, True]


def sample(n: int = 2_000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # type: ignore[type-arg]
    rng = np.random.default_rng(2)
    positive = rng.random(n) < 0.1
    return rng.normal(2.0 * positive, 1), positive, rng.exponential(0.2, n)


def test_the_best_cut_is_the_best_of_all_with_enough_background() -> None:
    scores, positive, weights = sample()
    found = scan(scores, positive, weights)
    assert found is not None
    best = {"simple": 0.0, "asimov": 0.0}
    for cut in scores:
        kept = scores >= cut
        s, b = weights[kept & positive].sum(), weights[kept & ~positive].sum()
        if (kept & ~positive).sum() >= 10:
            best["simple"] = max(best["simple"], s / math.sqrt(s + b))
            best["asimov"] = max(best["asimov"], math.sqrt(2 * ((s + b) * math.log(1 + s / b) - s)))
    for kind, value in best.items():
        of = found["best"][kind]
        assert of["significance"] == pytest.approx(value)
        kept = scores >= of["threshold"]
        assert of["background_events"] == (kept & ~positive).sum() >= 10
        assert (of["signal"], of["background"]) == (
            pytest.approx(weights[kept & positive].sum()),
            pytest.approx(weights[kept & ~positive].sum()),
        )


def test_yields_scale_signal_and_background() -> None:
    scores, positive, weights = sample()
    found, scaled = scan(scores, positive, weights), scan(scores, positive, weights, 40.0, 900.0)
    assert found is not None
    assert scaled is not None
    assert (scaled["signal"][-1], scaled["background"][-1]) == (pytest.approx(40), pytest.approx(900))
    total = weights[positive].sum()
    assert scaled["signal"] == pytest.approx([40 * s / total for s in found["signal"]])
    assert scaled["simple"][-1] == pytest.approx(40 / math.sqrt(940))


def test_a_scan_has_at_most_200_cuts_and_says_its_formulas() -> None:
    found = scan(*sample())
    assert found is not None
    assert len(found["threshold"]) == len(found["asimov"]) == len(found["simple"]) == 200
    assert "arXiv:1007.1727" in found["formulas"]["asimov"]


def test_too_few_background_events_have_no_best_cut() -> None:
    found = scan(np.array([0.9, 0.1]), np.array([True, False]), np.ones(2))
    assert found is not None
    assert found["best"] == {"simple": None, "asimov": None}
    assert found["asimov"][0] is None  # no background left: not defined


def test_negative_sums_have_no_significance() -> None:
    scores = np.linspace(1, 0, 40)
    positive = np.arange(40) % 2 == 0
    weights = np.ones(40)
    weights[1] = -3.0  # the background of the tightest cuts is below 0
    found = scan(scores, positive, weights)
    assert found is not None
    assert found["asimov"][1] is None
    assert found["simple"][1] is None
    assert scan(scores, positive, np.where(positive, 1.0, -1.0)) is None
