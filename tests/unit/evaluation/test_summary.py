from __future__ import annotations

import json
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.metrics import accuracy_score, roc_auc_score

from mlaas_spark.evaluation.events import Scored
from mlaas_spark.evaluation.summary import Settings, Task, summarise, task_of
from mlaas_spark.evaluation.tables import tables


def f32(values: Any) -> npt.NDArray[np.float32]:
    return np.array(values, np.float32)


def scored(scores: Any, labels: Any, weights: Any = None) -> Scored:
    column = f32(scores)
    return Scored(
        column if column.ndim == 2 else column[:, None],
        f32(labels),
        f32(np.ones(len(column)) if weights is None else weights),
    )


def sample(outputs: int, n: int = 1_000, seed: int = 0, *, negative: bool = False) -> Scored:
    """Classes of a model that is right more often than not; weighted."""
    rng = np.random.default_rng(seed)
    classes = max(outputs, 2)
    labels = rng.integers(0, classes, n)
    z = rng.normal(size=(n, classes))
    z[np.arange(n), labels] += 1.5
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    weights = rng.exponential(1, n)
    if negative:
        weights[::10] *= -1
    return scored(p[:, 1:] if outputs == 1 else p, labels, weights)


KEYS = {
    *("task", "split", "events", "labels", "weights", "accuracy", "accuracy_error", "auc", "auc_interval"),
    *(
        "auc_weighted",
        "roc",
        "scores",
        "overtraining",
        "confusion",
        "calibration",
        "significance",
        "residuals",
        "notes",
    ),
}
SETTINGS = Settings(replicas=50)


@pytest.mark.parametrize("outputs", [1, 2])
def test_binary_metrics_are_weighted_and_those_of_scikit_learn(outputs: int) -> None:
    of = sample(outputs)
    found = summarise("binary", {"test": of, "train": sample(outputs, seed=1)}, SETTINGS)
    taken = of.scores[:, 0] > 0.5 if outputs == 1 else of.scores.argmax(axis=1)
    assert found["accuracy"] == pytest.approx(accuracy_score(of.labels, taken, sample_weight=of.weights))
    auc = roc_auc_score(of.labels, of.scores[:, -1], sample_weight=of.weights)
    assert found["auc"] == found["auc_weighted"] == found["roc"]["1"]["auc"] == pytest.approx(auc)
    low, high = found["auc_interval"]["interval_95"]
    assert low < found["auc"] < high
    assert set(found) == KEYS
    assert found["notes"] == []
    assert set(found["overtraining"]) == set(found["labels"]) == {"0", "1"}
    assert list(found["significance"]) == ["1"]
    assert found["residuals"] is None


def test_several_classes_have_curves_against_the_rest_and_two_means() -> None:
    of = sample(4)
    found = summarise("multiclass", {"test": of}, SETTINGS)
    w, labels = of.weights.astype(np.float64), of.labels
    aucs = [roc_auc_score(labels == k, of.scores[:, k], sample_weight=w) for k in range(4)]
    assert [found["roc"][str(k)]["auc"] for k in range(4)] == pytest.approx(aucs)
    assert found["auc"] == pytest.approx(np.mean(aucs))
    totals = [w[labels == k].sum() for k in range(4)]
    assert found["auc_weighted"] == pytest.approx(np.average(aucs, weights=totals))
    assert found["auc_interval"] is None
    assert all(found["roc"][str(k)]["auc_interval"]["std"] > 0 for k in range(4))
    assert any("no bootstrap interval of the mean AUC" in note for note in found["notes"])
    assert set(found["significance"]) == set(found["calibration"]["classes"]) == {"0", "1", "2", "3"}


def test_unweighted_mean_auc_of_classes_is_scikit_learns_macro_one() -> None:
    of = sample(3)
    of = scored(of.scores / of.scores.sum(axis=1, keepdims=True), of.labels)
    found = summarise("multiclass", {"test": of}, SETTINGS)
    probabilities = of.scores.astype(np.float64)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    for average, key in (("macro", "auc"), ("weighted", "auc_weighted")):
        own = roc_auc_score(of.labels, probabilities, multi_class="ovr", average=average)
        assert found[key] == pytest.approx(own, abs=1e-5)


def test_regression_has_residuals_and_nothing_of_classes() -> None:
    of = Scored(f32(np.ones((5, 2))), f32(np.arange(10).reshape(5, 2)), f32(np.ones(5)))
    found = summarise("regression", {"test": of, "train": of}, SETTINGS, ["px", "py"])
    assert set(found) == KEYS
    assert list(found["residuals"]) == ["px", "py"]
    assert found["residuals"]["px"]["bias"] == pytest.approx(1 - 4)
    assert found["residuals"]["px"]["overtraining"]["statistic"] == 0
    assert found["labels"] is None
    assert {key for key in KEYS if found[key] is None} >= {"auc", "roc", "confusion", "scores", "significance"}


def test_targets_without_names_have_numbers() -> None:
    one = Scored(f32([[1.0], [2.0]]), f32([1.0, 3.0]), f32([1, 1]))
    assert list(summarise("regression", {"test": one}, SETTINGS)["residuals"]) == ["target"]
    two = Scored(f32(np.ones((3, 2))), f32(np.eye(3)[:, :2]), f32(np.ones(3)))
    assert list(summarise("regression", {"test": two}, SETTINGS)["residuals"]) == ["target_0", "target_1"]


def test_negative_weights_are_kept_told_and_their_share_given() -> None:
    of = sample(1, negative=True)
    found = summarise("binary", {"test": of, "train": sample(1, seed=1, negative=True)}, SETTINGS)
    w = of.weights.astype(np.float64)
    right = (of.scores[:, 0] > 0.5) == of.labels
    assert found["accuracy"] == pytest.approx(w[right].sum() / w.sum())
    assert found["weights"]["negative"] == 100
    assert found["weights"]["negative_share"] == pytest.approx(-w[w < 0].sum() / np.abs(w).sum())
    assert found["weights"]["by_label"]["1"]["sum"] == pytest.approx(w[of.labels == 1].sum())
    assert "100 of 1000 weights are negative" in found["notes"][0]
    assert any("no KS p-value" in note for note in found["notes"])
    assert found["overtraining"]["0"]["p"] is None
    assert found["overtraining"]["0"]["statistic"] > 0


@pytest.mark.parametrize(
    ("scores", "labels", "weights", "note", "missing"),
    [
        ([0.1, 0.2], [1, 1], [1, 1], "no AUC: all events have the label 1", {"auc", "roc", "significance"}),
        ([0.1, 0.2], [0, 0.5], [1, 1], "the labels are not class numbers", {"auc", "accuracy", "confusion"}),
        ([0.1, np.nan], [0, 1], [1, 1], "some scores are not numbers", {"auc", "accuracy", "calibration"}),
        ([-0.1, 1.2], [0, 1], [1, 1], "no calibration: scores beyond [0, 1]", {"calibration"}),
        ([0.1, 0.2], [0, 1], [1, -1], "no accuracy: the weights add up to 0", {"accuracy", "auc", "significance"}),
        ([0.1, 0.2], [0, 1], [1, 0], "no ROC curve of label 1", {"auc", "roc", "significance"}),
        ([0.1, 0.2], [0, 1], [1, 1], "no best cut for label 1: none leaves 10 background", set()),
    ],
)
def test_what_cannot_be_given_is_none_and_said(
    scores: list[float], labels: list[float], weights: list[float], note: str, missing: set[str]
) -> None:
    found = summarise("binary", {"test": scored(scores, labels, weights)}, SETTINGS)
    assert any(note in said for said in found["notes"]), found["notes"]
    assert all(found[key] is None for key in missing)
    assert set(found) == KEYS


@pytest.mark.parametrize("negative", [False, True])
@pytest.mark.parametrize(("task", "outputs"), [("binary", 1), ("multiclass", 3), ("regression", 3)])
def test_metrics_are_json_without_nan(task: Task, outputs: int, *, negative: bool) -> None:
    splits = {name: sample(outputs, seed=seed, negative=negative) for seed, name in enumerate(("test", "train"))}
    if task == "regression":
        splits = {name: Scored(of.scores, of.scores * 2, of.weights) for name, of in splits.items()}
    found = summarise(task, splits, SETTINGS)
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_a_class_without_events_is_left_out_of_the_mean() -> None:
    of = sample(3)
    some = of.labels != 2
    found = summarise("multiclass", {"test": Scored(of.scores[some], of.labels[some], of.weights[some])}, SETTINGS)
    assert found["roc"]["2"] is None
    assert found["auc"] == pytest.approx(np.mean([found["roc"][str(k)]["auc"] for k in range(2)]))
    assert any("mean over the 2 classes" in note for note in found["notes"])


@pytest.mark.parametrize(
    ("shape", "labels", "loss", "task"),
    [
        ((2, 1), [0.0, 1.0], "mean_squared_error", "binary"),
        ((2, 1), [0.0, 0.5], "binary_crossentropy", "binary"),
        ((2, 1), [0.0, 2.5], "mean_squared_error", "regression"),
        ((2, 2), [0.0, 1.0], "categorical_crossentropy", "binary"),
        ((2, 3), [0.0, 2.0], "categorical_crossentropy", "multiclass"),
        ((2, 2), [[0.0, 1.0], [1.0, 2.0]], "mean_squared_error", "regression"),
    ],
)
def test_task_is_told_by_outputs_labels_and_loss(shape: tuple[int, int], labels: Any, loss: str, task: Task) -> None:
    assert task_of(Scored(np.zeros(shape, np.float32), f32(labels), f32([1, 1])), loss) == task


def cells(metrics: dict[str, Any]) -> dict[str, dict[str, tuple[str, ...]]]:
    return {table.caption: {row[0]: row[1:] for row in table.rows} for table in tables(metrics)}


def test_tables_show_the_numbers_with_names_of_the_classes() -> None:
    found = summarise("binary", {"test": sample(1), "train": sample(1, seed=1)}, SETTINGS)
    shown = cells({**found, "loss": 0.5, "class_names": {"0": "QCD", "1": "ttbar"}})
    assert shown["Metrics on the test events"]["AUC"][0] == f"{found['auc']:.4f}"
    assert shown["Metrics on the test events"]["loss"] == ("0.5000", "")
    ks = shown["Scores of training against test events: Kolmogorov-Smirnov test"]
    assert ks["0 (QCD)"][0] == f"{found['overtraining']['0']['statistic']:.4f}"
    assert "Best cuts on the score" in shown
    matrix = shown["Confusion matrix: sum of weights, share of the row"]
    assert matrix["1 (ttbar)"][1].endswith(f"({100 * found['confusion']['share'][1][1]:.1f} %)")


def test_tables_of_several_classes_and_of_targets_have_a_row_for_each() -> None:
    several = cells(summarise("multiclass", {"test": sample(3)}, SETTINGS))
    assert list(several["Each class against the rest"]) == ["0", "1", "2"]
    of = Scored(f32(np.ones((4, 2))), f32(np.arange(8).reshape(4, 2)), f32(np.ones(4)))
    targets = cells(summarise("regression", {"test": of}, SETTINGS, ["px", "py"]))
    assert list(targets["Residuals: predicted minus true"]) == ["px", "py"]
    assert (
        targets["Residuals: predicted minus true"]["px"][0] == "-2.0 ± 1.1"
    )  # 1 less 0, 2, 4 and 6: the mean, and sqrt(5) / 2


def test_table_of_the_importance_has_the_first_twenty_branches() -> None:
    rows = [{"branch": f"b{k}", "loss_rise": {"mean": 1.0 - k / 100, "std": None}} for k in range(25)]
    importance = {"events": 500, "repeats": 1, "measures": ["loss_rise"], "branches": rows}
    (table,) = tables({"importance": importance, "split": "test"})
    assert [row[0] for row in table.rows] == [f"b{k}" for k in range(20)]
    assert "the largest of 25 branches on 500 test events" in table.caption


def test_metrics_that_a_model_lacks_have_no_table() -> None:
    assert tables({"auc": None, "notes": []}) == []
