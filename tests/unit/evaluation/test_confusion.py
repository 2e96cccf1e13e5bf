from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix

from mlaas_spark.evaluation.confusion import confusion, predicted
from mlaas_spark.evaluation.events import Scored


def sample(outputs: int, classes: int) -> Scored:
    rng = np.random.default_rng(1)
    scores = rng.random((400, outputs)).astype(np.float32)
    weights = rng.normal(1, 1, 400).astype(np.float32)  # some negative
    return Scored(scores, rng.integers(0, classes, 400).astype(np.float32), weights)


@pytest.mark.parametrize("outputs", [1, 2, 4])
def test_sums_and_counts_are_those_of_scikit_learn(outputs: int) -> None:
    scored = sample(outputs, max(outputs, 2))
    found = confusion(scored)
    taken = [int(row[0] > 0.5) if outputs == 1 else int(np.argmax(row)) for row in scored.scores]
    assert predicted(scored.scores).tolist() == taken
    assert found["events"] == confusion_matrix(scored.labels, taken).tolist()
    weights = scored.weights.astype(np.float64)
    np.testing.assert_allclose(found["sum"], confusion_matrix(scored.labels, taken, sample_weight=weights))
    squares = confusion_matrix(scored.labels, taken, sample_weight=weights**2)
    np.testing.assert_allclose(found["error"], np.sqrt(squares))


def test_rows_are_shares_of_the_true_class() -> None:
    found = confusion(sample(3, 3))
    assert [sum(row) for row in found["share"]] == pytest.approx([1, 1, 1])
    assert found["labels"] == ["0", "1", "2"]


def test_a_class_without_weight_has_a_row_without_shares() -> None:
    scored = Scored(np.array([[0.9], [0.2]], np.float32), np.zeros(2, np.float32), np.ones(2, np.float32))
    assert confusion(scored)["share"] == [[0.5, 0.5], None]
