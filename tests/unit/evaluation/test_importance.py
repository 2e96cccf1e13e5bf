from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.inspection import permutation_importance as sklearns
from sklearn.linear_model import LinearRegression

from mlaas_spark.evaluation.importance import permutation_importance

SPANS = {"MET": slice(0, 1), "Jet_pt": slice(1, 4), "unused": slice(4, 6)}


def data(n: int = 300, seed: int = 0) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8], npt.NDArray[Any]]:
    rng = np.random.default_rng(seed)
    matrix = rng.normal(size=(n, 6)).astype(np.float32)
    mask = (rng.random((n, 6)) < 0.8).astype(np.uint8)
    return matrix, mask, 3 * matrix[:, 0] + matrix[:, 1] - matrix[:, 2]


def score(matrix: npt.NDArray[np.float32], _: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    made: npt.NDArray[np.float32] = 3 * matrix[:, :1] + matrix[:, 1:2] - matrix[:, 2:3]
    return made


def run(seed: int = 1, repeats: int = 5, spans: dict[str, slice] | None = None) -> dict[str, Any]:
    matrix, mask, truth = data()

    def mse(scores: npt.NDArray[np.float32]) -> dict[str, float | None]:
        return {"mse": float(np.mean((scores[:, 0] - truth) ** 2))}

    return permutation_importance(score, (matrix, mask), spans or SPANS, mse, repeats, seed)


@given(seed=st.integers(0, 100))
def test_a_branch_that_the_model_does_not_use_has_none(seed: int) -> None:
    assert run(seed, 2)["unused"]["mse"] == {"mean": 0.0, "std": 0.0}


def test_importance_of_a_column_is_twice_its_share_of_the_variance_as_in_scikit_learn() -> None:
    matrix, _, truth = data()

    linear = LinearRegression()
    linear.coef_, linear.intercept_ = np.array([3.0, 1, -1, 0, 0, 0]), 0.0
    own = sklearns(linear, matrix, truth, scoring="neg_mean_squared_error", n_repeats=50, random_state=0)
    found = run(repeats=50)["MET"]["mse"]
    assert found["mean"] == pytest.approx(own.importances_mean[0], rel=0.05)
    # of a permuted x the mean squared difference is twice its variance
    assert found["mean"] == pytest.approx(2 * 9 * matrix[:, 0].var(), rel=0.05)
    assert found["std"] == pytest.approx(own.importances_std[0], rel=0.4)


def test_columns_of_a_branch_are_permuted_together_with_their_mask() -> None:
    matrix, mask, _ = data()
    rows = {(*x, *m) for x, m in zip(matrix[:, 1:4].tolist(), mask[:, 1:4].tolist(), strict=True)}
    seen = []

    def watched(x: npt.NDArray[np.float32], m: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        seen.append((x.copy(), m.copy()))
        return x[:, :1]

    permutation_importance(watched, (matrix, mask), {"Jet_pt": SPANS["Jet_pt"]}, lambda _: {"a": 0.0}, 2, 1)
    (before, _), *permuted = seen
    for x, m in permuted:
        assert {(*a, *b) for a, b in zip(x[:, 1:4].tolist(), m[:, 1:4].tolist(), strict=True)} == rows
        assert not np.array_equal(x[:, 1:4], before[:, 1:4])
        others = np.array([0, 4, 5])
        assert np.array_equal(x[:, others], before[:, others])
    assert not np.array_equal(permuted[0][0], permuted[1][0])


def test_features_are_as_before_even_if_the_model_fails() -> None:
    matrix, mask, _ = data()
    before = matrix.copy(), mask.copy()
    calls = []

    def failing(x: npt.NDArray[np.float32], _: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        calls.append(x)
        if len(calls) > 2:
            msg = "out of luck"
            raise ValueError(msg)
        return x[:, :1]

    with pytest.raises(ValueError, match="out of luck"):
        permutation_importance(failing, (matrix, mask), SPANS, lambda _: {"a": 0.0}, 3, 1)
    assert np.array_equal(matrix, before[0])
    assert np.array_equal(mask, before[1])


def test_a_branchs_importance_depends_on_the_seed_and_not_on_the_other_branches() -> None:
    assert run()["Jet_pt"] == run(spans={"Jet_pt": SPANS["Jet_pt"]})["Jet_pt"]
    assert run(seed=1)["MET"] != run(seed=2)["MET"]


def test_one_repeat_has_no_spread_and_a_measure_without_value_has_none() -> None:
    assert run(repeats=1)["MET"]["mse"]["std"] is None
    matrix, mask, _ = data()
    found = permutation_importance(score, (matrix, mask), SPANS, lambda _: {"auc": None}, 2, 1)
    assert found["MET"]["auc"] == {"mean": None, "std": None}
