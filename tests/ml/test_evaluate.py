from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.metrics import accuracy_score, roc_auc_score

from mlaas_spark.config import EvaluateConfig, TrainConfig
from mlaas_spark.errors import ModelContractError
from mlaas_spark.ml.evaluate import Judged, evaluate, importance, learning_curves, predict, read_history
from mlaas_spark.ml.fit import fit
from mlaas_spark.ml.inputs import InputLayout
from mlaas_spark.ml.model import load_user_model
from mlaas_spark.ml.train import History

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mlaas_spark.evaluation.events import Scored
    from mlaas_spark.ml.stream import Batch
    from tests.ml.conftest import Chunks, MakeChunks

QUICK = EvaluateConfig(bootstrap=20, importance_repeats=2)


def met_only(batch: Batch) -> npt.NDArray[np.float32]:
    """A model that knows its first column, MET."""
    scores: npt.NDArray[np.float32] = 1 / (1 + np.exp(-4 * batch.matrix[:, 1:2]))
    return scores


def squares(scored: Scored, _: str) -> float:
    return float(((scored.scores[:, 0] - scored.labels) ** 2).mean())


def anything(*_: Any) -> None:
    """Any labels do."""


MET_ONLY = Judged(met_only, squares, "mean_squared_error", anything)


def test_predictions_come_in_the_manifests_order(chunks: Chunks) -> None:
    scored = predict(MET_ONLY, chunks.stream(), "validation")
    matrix, _ = chunks.expected("validation")
    np.testing.assert_allclose(scored.scores[:, 0], 1 / (1 + np.exp(-4 * matrix[:, 1])), rtol=1e-5)
    assert scored.labels.tolist() == [event["label"] for event in chunks.of("validation")]
    assert scored.weights.tolist() == [1.0] * 97


@pytest.mark.parametrize("most", [1, 16, 20, 97, 500])
def test_at_most_so_many_events_are_scored_each_once(chunks: Chunks, most: int) -> None:
    everything = predict(MET_ONLY, chunks.stream(), "validation").scores[:, 0].tolist()
    some = predict(MET_ONLY, chunks.stream(), "validation", most=most, seed=3).scores[:, 0].tolist()
    assert len(some) == min(most, 97)
    rest = sorted(everything)
    for score in some:
        rest.remove(score)  # fails if an event comes twice
    assert some == predict(MET_ONLY, chunks.stream(), "validation", most=most, seed=3).scores[:, 0].tolist()


def test_metrics_are_those_of_scikit_learn_on_the_split(chunks: Chunks) -> None:
    found = evaluate(MET_ONLY, chunks.stream(), "test", QUICK, names=("QCD", "ttbar"))
    y = [event["label"] for event in chunks.of("test")]
    matrix, _ = chunks.expected("test")
    assert found["auc"] == pytest.approx(roc_auc_score(y, matrix[:, 1]))
    assert found["accuracy"] == pytest.approx(accuracy_score(y, matrix[:, 1] > 0))
    assert (found["task"], found["events"], found["labels"]) == ("binary", 119, {"0": 60, "1": 59})
    assert found["train_events"] == 351
    assert set(found["overtraining"]) == {"0", "1"}
    assert found["class_names"] == {"0": "QCD", "1": "ttbar"}
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_training_events_are_compared_up_to_a_number_and_not_with_themselves(chunks: Chunks) -> None:
    few = EvaluateConfig(bootstrap=0, importance_events=0, train_events=40)
    found = evaluate(MET_ONLY, chunks.stream(), "test", few)
    assert found["train_events"] == 40
    assert sum(of["events"] for of in found["scores"][0]["splits"]["train"].values()) == 40
    assert (found["importance"], found["auc_interval"]) == (None, None)
    own = evaluate(MET_ONLY, chunks.stream(), "train", few)
    assert (own["train_events"], own["overtraining"]) == (0, None)
    assert "no overtraining check: these are the training events" in own["notes"]
    none = evaluate(MET_ONLY, chunks.stream(), "test", EvaluateConfig(train_events=0, importance_events=0))
    assert "no overtraining check: there are no training events to compare with" in none["notes"]


def test_importance_is_of_branches_the_first_being_the_one_that_the_model_uses(chunks: Chunks) -> None:
    found = importance(MET_ONLY, chunks.stream(), "test", QUICK, "binary")
    assert found["measures"] == ["auc_drop", "accuracy_drop", "loss_rise"]
    assert (found["events"], found["repeats"]) == (119, 2)
    first, *others = found["branches"]
    used = chunks.transform.layout.branches[1]
    assert (first["branch"], {row["branch"] for row in others}) == (used, {"MET", "nJet", "Jet_pt"} - {used})
    assert first["auc_drop"]["mean"] > 0.05
    assert first["loss_rise"]["mean"] > 0
    assert all(row[kind]["mean"] == 0 for row in others for kind in found["measures"])


def test_importance_takes_no_more_events_than_it_is_told(chunks: Chunks) -> None:
    config = EvaluateConfig(importance_events=50, importance_repeats=1)
    found = importance(MET_ONLY, chunks.stream(), "test", config, "binary")
    assert (found["events"], found["repeats"]) == (50, 1)
    assert found["branches"][0]["auc_drop"]["std"] is None


def test_regression_is_judged_when_it_is_asked_for(chunks: Chunks) -> None:
    config = EvaluateConfig(importance_repeats=2, signal_yield=3)
    found = evaluate(MET_ONLY, chunks.stream(), "test", config, task="regression", names=("isolation",))
    scored = predict(MET_ONLY, chunks.stream(), "test")
    r = (scored.scores[:, 0] - scored.labels).astype(np.float64)
    assert found["residuals"]["isolation"]["rmse"] == pytest.approx(float(np.sqrt((r**2).mean())))
    assert found["loss"] == pytest.approx(float((r**2).mean()), rel=1e-5)
    assert found["importance"]["measures"] == ["loss_rise", "rmse_rise"]
    assert (found["class_names"], found["auc"]) == (None, None)
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_a_regression_needs_an_output_for_each_target(chunks: Chunks) -> None:
    two = Judged(lambda batch: batch.matrix[:, :2], squares, "", anything)
    with pytest.raises(ModelContractError, match="2 outputs for 1 targets"):
        evaluate(two, chunks.stream(), "test", QUICK, task="regression")


def test_a_loss_that_is_no_number_is_said(chunks: Chunks) -> None:
    config = EvaluateConfig(bootstrap=0, importance_events=0)
    found = evaluate(Judged(met_only, lambda *_: None, "", anything), chunks.stream(), "test", config)
    assert found["loss"] is None
    assert "no loss: it is not a number, or the model has none" in found["notes"]


def test_a_split_without_events_is_refused(make_chunks: MakeChunks, make_events: Callable[..., Any]) -> None:
    stream = make_chunks({(0, "train"): make_events(20, seed=1)}).stream()
    with pytest.raises(ModelContractError, match=r"the test split of .* has no events"):
        evaluate(MET_ONLY, stream)


ROWS = [
    {"chunk": 0.0, "epoch": 0.0, "loss": 0.7, "val_loss": 0.6, "accuracy": 0.5},
    {"chunk": 0.0, "epoch": 1.0, "loss": 0.5, "val_loss": 0.4, "accuracy": 0.6},
    {"chunk": 1.0, "epoch": 0.0, "loss": 0.4},
]


def test_learning_curves_have_every_metric_and_the_best_fit() -> None:
    assert learning_curves(ROWS) == {
        "fits": [1, 2, 3],
        "series": {"loss": [0.7, 0.5, 0.4], "val_loss": [0.6, 0.4, None], "accuracy": [0.5, 0.6, None]},
        "best": {"fit": 2, "metric": "val_loss", "value": 0.4},
    }
    no_validation = learning_curves([{"epoch": 0.0, "loss": 0.7}, {"epoch": 1.0, "loss": 0.5}])
    assert no_validation is not None
    assert no_validation["best"] == {"fit": 2, "metric": "loss", "value": 0.5}
    assert learning_curves([]) is None


def test_history_is_read_back_as_it_was_written() -> None:
    assert read_history(History(tuple(ROWS)).to_csv()) == ROWS


@pytest.mark.tensorflow
class TestWithModels:
    def test_metrics_are_those_of_the_models_own_evaluate(self, chunks: Chunks, plain_model: Path) -> None:
        stream = chunks.stream()
        model = load_user_model(plain_model, InputLayout.of(stream.transform), seed=1)
        history = fit(model, stream, TrainConfig(epochs=3, batch_size=16))
        metrics = evaluate(model, stream, "test", QUICK, history=history.rows)
        x = np.concatenate([batch.matrix for batch in stream.batches("test")])
        y = np.array([event["label"] for event in chunks.of("test")], np.float32)
        own = model.evaluate(x, y, batch_size=len(x), verbose=0, return_dict=True)
        assert metrics["loss"] == pytest.approx(own["loss"], rel=1e-5)
        assert metrics["accuracy"] == pytest.approx(own["accuracy"], rel=1e-6)
        assert metrics["auc"] == pytest.approx(roc_auc_score(y, model.predict(x, verbose=0)[:, 0]))
        assert metrics["learning_curves"]["series"]["loss"] == [row["loss"] for row in history.rows]
        assert {row["branch"] for row in metrics["importance"]["branches"]} == {"MET", "nJet", "Jet_pt"}
        assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics

    def test_loss_is_weighted_like_the_models(
        self, make_chunks: MakeChunks, make_events: Callable[..., Any], plain_model: Path
    ) -> None:
        events = [{**event, "weight": 1.0 + event["label"]} for event in make_events(60, seed=1)]
        stream = make_chunks({(0, "test"): events}, weight=2.0).stream()
        model = load_user_model(plain_model, InputLayout.of(stream.transform), seed=1)
        batch = stream.arrays("test", 0)
        own = model.evaluate(batch.matrix, batch.label, sample_weight=batch.weight, batch_size=60, verbose=0)
        assert evaluate(model, stream, "test", QUICK)["loss"] == pytest.approx(own[0], rel=1e-5)

    def test_loss_of_a_regression_is_that_of_the_targets_as_they_are(
        self, chunks: Chunks, model_file: Callable[[str], Path]
    ) -> None:
        path = model_file("""
            import keras

            def model(idim):
                net = keras.Sequential([keras.layers.Input((idim,)), keras.layers.Dense(1)])
                net.compile(loss="mean_squared_error", optimizer="adam")
                return net
            """)
        stream = chunks.stream()
        model = load_user_model(path, InputLayout.of(stream.transform), seed=1)
        found = evaluate(model, stream, "test", QUICK, task="regression")
        scored = predict(model, stream, "test")
        r = (scored.scores[:, 0] - scored.labels).astype(np.float64)
        assert found["loss"] == pytest.approx(float((r**2).mean()), rel=1e-5)
        assert found["importance"]["branches"][0]["loss_rise"]["mean"] is not None

    def test_labels_that_the_model_has_no_output_for_are_refused(
        self, make_chunks: MakeChunks, make_events: Callable[..., Any], plain_model: Path
    ) -> None:
        stream = make_chunks({(0, "test"): make_events(30, seed=1, classes=3)}).stream()
        with pytest.raises(ModelContractError, match="the labels are 0, 1, 2"):
            evaluate(load_user_model(plain_model, InputLayout.of(stream.transform)), stream)

    def test_several_classes_are_judged_against_the_rest(
        self, make_chunks: MakeChunks, make_events: Callable[..., Any], model_file: Callable[[str], Path]
    ) -> None:
        path = model_file("""
            import keras

            def model(idim):
                layers = [keras.layers.Input((idim,)), keras.layers.Dense(3, activation="softmax")]
                net = keras.Sequential(layers)
                net.compile(loss="categorical_crossentropy", optimizer="adam")
                return net
            """)
        split = {(0, name): make_events(90, seed=seed, classes=3) for seed, name in enumerate(("train", "test"))}
        stream = make_chunks(split).stream()
        found = evaluate(load_user_model(path, InputLayout.of(stream.transform), seed=1), stream, "test", QUICK)
        assert found["task"] == "multiclass"
        assert set(found["roc"]) == {"0", "1", "2"}
        assert found["loss"] > 0

    def test_a_model_gets_the_inputs_that_it_was_trained_with(
        self, chunks: Chunks, model_file: Callable[[str], Path]
    ) -> None:
        path = model_file("""
            import keras

            def model(layout, config):
                made = layout.keras_inputs()
                seen = keras.layers.Concatenate()([made["matrix"], made["mask"]])
                net = keras.Model(list(made.values()), keras.layers.Dense(1, activation="sigmoid")(seen))
                net.compile(loss="binary_crossentropy", optimizer="adam")
                return net
            """)
        stream = chunks.stream()
        inputs = InputLayout.of(stream.transform, "matrix+mask")
        model = load_user_model(path, inputs, TrainConfig(inputs="matrix+mask"), seed=1)
        found = evaluate(Judged.of(model, inputs), stream, "test", QUICK)
        matrix, mask = chunks.expected("test")
        scores = model.predict([matrix.astype(np.float32), mask.astype(np.float32)], verbose=0)[:, 0]
        y = [event["label"] for event in chunks.of("test")]
        assert found["auc"] == pytest.approx(roc_auc_score(y, scores))
        assert len(found["importance"]["branches"]) == 3

    def test_chunks_with_several_targets_are_a_regression_of_each(
        self, make_chunks: MakeChunks, make_events: Callable[..., Any], model_file: Callable[[str], Path]
    ) -> None:
        path = model_file("""
            import keras

            def model(idim):
                net = keras.Sequential([keras.layers.Input((idim,)), keras.layers.Dense(2)])
                net.compile(loss="mean_squared_error", optimizer="adam")
                return net
            """)
        events = {
            (0, split): [
                {**e, "label": 3.0 * e["nJet"] - 1, "second": -1.0 * e["nJet"]} for e in make_events(60, seed=n)
            ]
            for n, split in enumerate(("train", "test"))
        }
        chunks = make_chunks(events, targets=2)
        stream = chunks.stream()
        model = load_user_model(path, InputLayout.of(stream.transform), seed=1)
        found = evaluate(model, stream, "test", QUICK)
        assert found["task"] == "regression"
        assert list(found["residuals"]) == ["3 * nJet - 1", "-nJet"]
        x = chunks.expected("test")[0].astype(np.float32)
        y = np.array([[event["label"], event["second"]] for event in chunks.of("test")])
        r = model.predict(x, verbose=0) - y
        assert found["residuals"]["-nJet"]["rmse"] == pytest.approx(float(np.sqrt((r[:, 1] ** 2).mean())), rel=1e-5)
        assert found["loss"] == pytest.approx(float((r**2).mean()), rel=1e-5)
