from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pytest

from mlaas_spark.config import TrainConfig
from mlaas_spark.errors import ModelContractError
from mlaas_spark.ml.evaluate import classification, evaluate, histograms, predict
from mlaas_spark.ml.inputs import InputLayout
from mlaas_spark.ml.model import load_user_model
from mlaas_spark.ml.train import train

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.ml.conftest import Chunks, MakeChunks


def f32(values: Any) -> npt.NDArray[np.float32]:
    return np.array(values, np.float32)


def pairs_auc(scores: list[float], labels: list[float], weights: list[float]) -> float:
    """AUC as its definition has it: the share of (signal, background) pairs in the right order, ties by half."""
    right = total = 0.0
    for s, label, w in zip(scores, labels, weights, strict=True):
        for b, other, v in zip(scores, labels, weights, strict=True):
            if label == 1 and other == 0:
                total += w * v
                right += w * v * (1.0 if s > b else 0.5 if s == b else 0.0)
    return right / total


SCORES, LABELS, WEIGHTS = [0.9, 0.2, 0.6, 0.6, 0.1, 0.7], [1.0, 0.0, 1.0, 0.0, 1.0, 0.0], [1.0, 2.0, 1.0, 0.5, 1.0, 3.0]


@pytest.mark.parametrize("weights", [[1.0] * 6, WEIGHTS])
def test_auc_and_accuracy_of_one_output_are_those_of_their_definitions(weights: list[float]) -> None:
    found = classification(f32(SCORES)[:, None], f32(LABELS), f32(weights))
    right = sum(w for s, y, w in zip(SCORES, LABELS, weights, strict=True) if (s > 0.5) == (y == 1))
    assert found["accuracy"] == pytest.approx(right / sum(weights))
    assert found["auc"] == pytest.approx(pairs_auc(SCORES, LABELS, weights))
    assert found["notes"] == []


def test_two_outputs_score_by_the_second() -> None:
    one = classification(f32(SCORES)[:, None], f32(LABELS), f32([1.0] * 6))
    two = classification(np.column_stack([1 - f32(SCORES), f32(SCORES)]), f32(LABELS), f32([1.0] * 6))
    assert (two["auc"], two["accuracy"]) == (pytest.approx(one["auc"]), one["accuracy"])


def test_more_outputs_give_accuracy_and_the_mean_auc_of_one_against_the_rest() -> None:
    scores = f32([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4], [0.5, 0.4, 0.1]])
    labels = [0.0, 1.0, 2.0, 1.0]
    found = classification(scores, f32(labels), f32([1.0] * 4))
    aucs = [pairs_auc(scores[:, k].tolist(), [float(y == k) for y in labels], [1.0] * 4) for k in range(3)]
    assert found["accuracy"] == 0.75
    assert found["auc"] == pytest.approx(sum(aucs) / 3)
    assert found["roc"] is None


def test_the_roc_curve_goes_from_corner_to_corner_in_at_most_200_points() -> None:
    rng = np.random.default_rng(0)
    labels = f32(rng.integers(0, 2, 5000))
    roc = classification(f32(rng.random((5000, 1))), labels, f32([1.0] * 5000))["roc"]
    assert len(roc["fpr"]) == len(roc["tpr"]) == len(roc["threshold"]) == 200
    assert (roc["fpr"][0], roc["tpr"][0], roc["fpr"][-1], roc["tpr"][-1]) == (0, 0, 1, 1)
    assert json.loads(json.dumps(roc, allow_nan=False)) == roc


@pytest.mark.parametrize(
    ("scores", "labels", "weights", "note"),
    [
        ([0.1, 0.2], [1.0, 1.0], [1.0, 1.0], "no AUC: all events have the label 1"),
        ([0.1, 0.2], [0.0, 0.5], [1.0, 1.0], "the labels are not class numbers"),
        ([0.1, np.nan], [0.0, 1.0], [1.0, 1.0], "some scores are not numbers"),
        ([0.1, 0.2], [0.0, 1.0], [1.0, -1.0], "are unweighted: some weights are negative"),
    ],
)
def test_what_cannot_be_given_is_said(
    scores: list[float], labels: list[float], weights: list[float], note: str
) -> None:
    found = classification(f32(scores)[:, None], f32(labels), f32(weights))
    assert note in found["notes"][0]
    assert (found["auc"] is None) == (note.startswith("no AUC") or "not" in note)


def test_histograms_count_every_event_by_label() -> None:
    found = histograms(f32([[0.0], [0.01], [0.99], [1.0]]), f32([0, 0, 1, 1]))
    assert (len(found["edges"]), found["edges"][0], found["edges"][-1]) == (51, 0.0, 1.0)
    assert found["counts"]["0"][0] == 2
    assert found["counts"]["1"][-1] == 2
    assert sum(map(sum, found["counts"].values())) == 4


def test_histograms_of_scores_beyond_0_to_1_span_their_range() -> None:
    found = histograms(f32([[-2.0], [3.0]]), f32([0, 1]))
    assert (found["edges"][0], found["edges"][-1]) == (-2.0, 3.0)


@pytest.mark.tensorflow
class TestWithModels:
    def test_metrics_are_those_of_the_models_own_evaluate(self, chunks: Chunks, plain_model: Path) -> None:
        stream = chunks.stream()
        model = load_user_model(plain_model, InputLayout.of(stream.transform), seed=1)
        train(model, stream, TrainConfig(epochs=3, batch_size=16))
        metrics = evaluate(model, stream)
        x = np.concatenate([batch.matrix for batch in stream.batches("test")])
        y = np.array([event["label"] for event in chunks.of("test")], np.float32)
        own = model.evaluate(x, y, batch_size=len(x), verbose=0, return_dict=True)
        assert metrics["loss"] == pytest.approx(own["loss"], rel=1e-5)
        assert metrics["accuracy"] == pytest.approx(own["accuracy"], rel=1e-6)
        assert metrics["labels"] == {"0": 60, "1": 59}
        scores = model.predict(x, verbose=0)[:, 0].tolist()
        assert metrics["auc"] == pytest.approx(pairs_auc(scores, y.tolist(), [1.0] * len(y)))
        assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics

    def test_loss_is_weighted_like_the_models(
        self, make_chunks: MakeChunks, make_events: Callable[..., Any], plain_model: Path
    ) -> None:
        events = [{**event, "weight": 1.0 + event["label"]} for event in make_events(60, seed=1)]
        stream = make_chunks({(0, "test"): events}, weight=2.0).stream()
        model = load_user_model(plain_model, InputLayout.of(stream.transform), seed=1)
        batch = stream.arrays("test", 0)
        own = model.evaluate(batch.matrix, batch.label, sample_weight=batch.weight, batch_size=60, verbose=0)
        assert evaluate(model, stream)["loss"] == pytest.approx(own[0], rel=1e-5)

    def test_predictions_come_in_the_manifests_order(self, chunks: Chunks, plain_model: Path) -> None:
        stream = chunks.stream()
        scores, labels, weights = predict(
            load_user_model(plain_model, InputLayout.of(stream.transform)), stream, "validation"
        )
        assert scores.shape == (97, 1)
        assert labels.tolist() == [event["label"] for event in chunks.of("validation")]
        assert weights.tolist() == [1.0] * 97

    def test_labels_that_the_model_has_no_output_for_are_refused(
        self, make_chunks: MakeChunks, make_events: Callable[..., Any], plain_model: Path
    ) -> None:
        stream = make_chunks({(0, "test"): make_events(30, seed=1, classes=3)}).stream()
        with pytest.raises(ModelContractError, match="the labels are 0, 1, 2"):
            evaluate(load_user_model(plain_model, InputLayout.of(stream.transform)), stream)

    def test_a_split_without_events_is_refused(
        self, make_chunks: MakeChunks, make_events: Callable[..., Any], plain_model: Path
    ) -> None:
        stream = make_chunks({(0, "train"): make_events(20, seed=1)}).stream()
        with pytest.raises(ModelContractError, match=r"the test split of .* has no events"):
            evaluate(load_user_model(plain_model, InputLayout.of(stream.transform)), stream)
