from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight

from mlaas_spark.config import TrainConfig
from mlaas_spark.errors import ModelContractError
from mlaas_spark.ml.weights import ClassTotals, added, check, class_factors, shown, totals, weighed

LABELS = st.lists(st.sampled_from([0.0, 1.0, 3.0]), min_size=1, max_size=60)


def of(
    labels: list[float], weights: list[float] | None = None
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    return np.array(labels, np.float32), np.array(weights or [1.0] * len(labels), np.float32)


@given(LABELS)
def test_balanced_is_scikit_learns(labels: list[float]) -> None:
    found = totals([of(labels[:7]), of(labels[7:])])
    factors = class_factors(found, TrainConfig(class_weight="balanced"))
    classes = np.unique(labels)
    assert list(factors) == classes.tolist()
    assert list(factors.values()) == pytest.approx(compute_class_weight("balanced", classes=classes, y=labels))


@given(LABELS.flatmap(lambda labels: st.tuples(st.just(labels), st.lists(st.floats(0.125, 8), min_size=60))))
def test_normalised_weights_of_each_class_add_up_to_the_same(case: tuple[list[float], list[float]]) -> None:
    labels, weights = of(case[0], case[1][: len(case[0])])
    factors = class_factors(totals([(labels, weights)]), TrainConfig(normalise_weights=True))
    sums = [weighed(labels, weights, factors)[labels == label].sum() for label in factors]
    assert sums == pytest.approx([weights.sum() / len(factors)] * len(factors), rel=1e-5)


def test_given_factors_are_taken_and_others_are_1() -> None:
    labels, weights = of([0, 1, 2, 1], [1, 2, 3, 4])
    factors = class_factors(totals([(labels, weights)]), TrainConfig.model_validate({"class_weight": {1: 10}}))
    assert weighed(labels, weights, factors).tolist() == [1, 20, 3, 40]


def test_a_factor_for_no_label_is_refused() -> None:
    with pytest.raises(ModelContractError, match="names the label 7, the labels in training are 0, 1"):
        class_factors(totals([of([0, 1])]), TrainConfig.model_validate({"class_weight": {7: 10}}))


def test_negative_weights_are_kept_and_told() -> None:
    found = totals([of([0, 0, 1], [1, -0.5, 2])])
    assert (found[0.0].weight, found[0.0].negative, found[1.0].negative) == (0.5, -0.5, 0.0)
    assert (found[0.0].negatives, found[1.0].negatives) == (1, 0)
    assert added(found) == ClassTotals(3, 2.5, -0.5, 1)
    assert shown({"signal": found[0.0], "all": added(found)}) == (
        "signal: 0.5 of 2 events, 1 of them negative, -0.5; all: 2.5 of 3 events, 1 of them negative, -0.5"
    )
    check(found, "here")


def test_a_class_whose_weights_are_not_above_0_cannot_be_normalised() -> None:
    found = totals([of([0, 0, 1], [1, -1.5, 2])])
    with pytest.raises(ModelContractError, match=r"weights of label 0 add up to -0\.5"):
        class_factors(found, TrainConfig(normalise_weights=True))


@pytest.mark.parametrize(("weights", "why"), [([0.0, 0.0], "add up to 0"), ([np.nan, 1.0], "not all finite")])
def test_weights_that_cannot_train_are_refused(weights: list[float], why: str) -> None:
    with pytest.raises(ModelContractError, match=why):
        check(totals([of([0, 1], weights)]), "here")
