"""Estimators of scikit-learn: they learn what a plain loop of partial_fit learns, go on exactly, and become Keras."""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from scipy.special import expit, softmax
from sklearn.metrics import log_loss

from mlaas_spark.errors import ConfigError, ExportError, ModelContractError
from mlaas_spark.ml import rebuilt
from mlaas_spark.ml.callbacks import of_config, of_training
from mlaas_spark.ml.fit import check_answers, fit
from mlaas_spark.ml.inputs import InputLayout
from mlaas_spark.usercode import UserFile
from tests.ml.conftest import three_chunks, write_chunks
from tests.ml.trainings import Killed, config, loaded, trained

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.ml.conftest import Chunks, MakeChunks

    ModelFile = Callable[[str], Path]

pytestmark = [
    pytest.mark.tensorflow,
    # scikit-learn 1.8 takes these two estimators out in 1.10; MLaaS4HEP-like users have them
    pytest.mark.filterwarnings("ignore:.*PassiveAggressive.*deprecated:FutureWarning:sklearn"),
]

FILE = """
import numpy as np
from sklearn.linear_model import PassiveAggressiveClassifier, PassiveAggressiveRegressor, Perceptron
from sklearn.linear_model import SGDClassifier, SGDRegressor
from sklearn.multioutput import MultiOutputRegressor
from sklearn.naive_bayes import GaussianNB
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from sklearn.cluster import MiniBatchKMeans

def model(idim):
    return {estimator}
"""

CLASSIFIERS = [
    "SGDClassifier(loss='log_loss')",
    "SGDClassifier(loss='hinge', average=True, random_state=np.random.RandomState(3))",
    "SGDClassifier(loss='modified_huber', average=40, learning_rate='adaptive', eta0=0.02)",
    "SGDClassifier(loss='squared_hinge', penalty='elasticnet', random_state=5)",
    "MLPClassifier((6, 4), random_state=1)",
    "MLPClassifier((6,), activation='tanh', solver='sgd', learning_rate='invscaling', batch_size=8)",
    "MLPClassifier((6,), activation='logistic', random_state=np.random.RandomState(2))",
    "Perceptron(penalty='l2')",
    "PassiveAggressiveClassifier(C=0.1)",
]
REGRESSORS = [
    "SGDRegressor()",
    "SGDRegressor(loss='huber', average=True)",
    "MLPRegressor(hidden_layer_sizes=(5,))",
    "PassiveAggressiveRegressor()",
]
TWO_TARGETS = [
    "MLPRegressor(hidden_layer_sizes=(5,), solver='sgd')",
    "MultiOutputRegressor(SGDRegressor(average=True))",
]


@pytest.fixture(scope="module")
def of_classes(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Chunks]:
    """Chunks of so many classes."""
    made = {n: write_chunks(tmp_path_factory.mktemp("classes") / str(n), three_chunks(classes=n)) for n in (2, 3)}
    return made.__getitem__


@pytest.fixture(scope="module")
def of_targets(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Chunks]:
    """Chunks of so many targets, linear in the number of jets."""
    made = {}
    for n in (1, 2):
        events = three_chunks()
        for event in [event for of_file in events.values() for event in of_file]:
            event |= {"label": 3.0 * event["nJet"] - 1, **({"second": -1.0 * event["nJet"]} if n == 2 else {})}
        made[n] = write_chunks(tmp_path_factory.mktemp("targets") / str(n), events, targets=n)
    return made.__getitem__


def plain_loop(
    estimator: Any, chunks: Chunks, epochs: int, classes: int = 0, factors: dict[int, float] | None = None
) -> Any:
    """What scikit-learn's users write."""
    np.random.seed(1)  # noqa: NPY002 - what estimators without random_state draw from
    for epoch in range(epochs):
        for batch in chunks.stream(threads=1).batches("train", seed=1, epoch=epoch):
            arguments: dict[str, Any] = {"classes": list(range(classes))} if classes else {}
            if factors:
                arguments["sample_weight"] = [factors[int(label)] for label in batch.label]
            answers = batch.label.astype(int) if classes else batch.label
            estimator.partial_fit(np.array(batch.matrix), answers, **arguments)
    return estimator


def numbers(estimator: Any) -> list[Any]:
    found = [getattr(estimator, name, None) for name in ("coef_", "intercept_", "coefs_", "intercepts_", "t_")]
    found += [number for of_one in getattr(estimator, "estimators_", ()) for number in numbers(of_one)]
    return [array for part in found if part is not None for array in (part if isinstance(part, list) else [part])]


def equal(one: Any, other: Any) -> bool:
    pairs = list(zip(numbers(one), numbers(other), strict=True))
    assert pairs
    return all(np.array_equal(a, b) for a, b in pairs)


# --- learning


@pytest.mark.parametrize("estimator", CLASSIFIERS)
@pytest.mark.parametrize("classes", [2, 3])
def test_a_classifier_learns_what_a_plain_loop_learns(
    of_classes: Callable[[int], Chunks], model_file: ModelFile, estimator: str, classes: int
) -> None:
    chunks, path = of_classes(classes), model_file(FILE.format(estimator=estimator))
    model = loaded(path, chunks)
    fit(model, chunks.stream(threads=1), config())
    assert equal(model.estimator, plain_loop(loaded(path, chunks).estimator, chunks, 3, classes))


@pytest.mark.parametrize(("estimator", "targets"), [*((e, 1) for e in REGRESSORS), *((e, 2) for e in TWO_TARGETS)])
def test_a_regressor_learns_what_a_plain_loop_learns(
    of_targets: Callable[[int], Chunks], model_file: ModelFile, estimator: str, targets: int
) -> None:
    chunks, path = of_targets(targets), model_file(FILE.format(estimator=estimator))
    model = loaded(path, chunks)
    fit(model, chunks.stream(threads=1), config())
    assert equal(model.estimator, plain_loop(loaded(path, chunks).estimator, chunks, 3))


def test_class_weights_are_the_weights_of_partial_fit(chunks: Chunks, model_file: ModelFile) -> None:
    path = model_file(FILE.format(estimator="SGDClassifier(loss='log_loss')"))
    model = loaded(path, chunks)
    fit(model, chunks.stream(threads=1), config(class_weight={0: 1.0, 1: 3.0}))
    expected = plain_loop(loaded(path, chunks).estimator, chunks, 3, 2, {0: 1.0, 1: 3.0})
    assert equal(model.estimator, expected)
    assert not equal(model.estimator, plain_loop(loaded(path, chunks).estimator, chunks, 3, 2))


def test_mode_chunks_learns_chunk_after_chunk(chunks: Chunks, model_file: ModelFile) -> None:
    path = model_file(FILE.format(estimator="SGDClassifier(loss='log_loss')"))
    model = loaded(path, chunks)
    history = fit(model, chunks.stream(threads=1), config(mode="chunks", epochs=2))
    assert [(row["chunk"], row["epoch"]) for row in history.rows] == [(c, e) for c in range(3) for e in range(2)]
    expected = loaded(path, chunks).estimator
    np.random.seed(1)  # noqa: NPY002 - as above
    for turn in range(6):
        for batch in chunks.stream(threads=1).batches("train", chunk=turn // 2, seed=1, epoch=turn):
            expected.partial_fit(batch.matrix, batch.label.astype(int), classes=[0, 1])
    assert equal(model.estimator, expected)


# --- what is reported


def by_hand(estimator: Any, x: Any, y: Any) -> list[float]:
    """Losses by their formulas, event by event."""
    losses = []
    for row, label in zip(x, y, strict=True):
        if not hasattr(estimator, "classes_"):
            found = np.ravel(estimator.predict([row]))
            losses.append(float(np.mean([(a - b) ** 2 for a, b in zip(found, np.ravel(label), strict=True)])))
        elif hasattr(estimator, "predict_proba"):
            losses.append(-math.log(min(max(estimator.predict_proba([row])[0][int(label)], 1e-7), 1 - 1e-7)))
        else:
            decision = np.ravel(estimator.decision_function([row]))
            scores = [-decision[0] / 2, decision[0] / 2] if len(decision) == 1 else list(decision)
            others = [score for number, score in enumerate(scores) if number != int(label)]
            losses.append(max(0.0, 1 - (scores[int(label)] - max(others))))
    return losses


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("estimator", ["SGDClassifier(loss='log_loss')", "SGDClassifier()", "MLPClassifier((4,))"])
def test_loss_and_accuracy_are_those_before_each_batch_is_learned(
    of_classes: Callable[[int], Chunks], model_file: ModelFile, estimator: str, classes: int
) -> None:
    chunks, path = of_classes(classes), model_file(FILE.format(estimator=estimator))
    history = fit(loaded(path, chunks), chunks.stream(threads=1), config(epochs=1))
    plain = loaded(path, chunks).estimator
    np.random.seed(1)  # noqa: NPY002 - as above
    losses: list[float] = []
    right = 0
    for number, batch in enumerate(chunks.stream(threads=1).batches("train", seed=1, epoch=0)):
        x, y = np.array(batch.matrix), batch.label.astype(int)
        if number == 0:  # it has no weights before it
            plain.partial_fit(x, y, classes=list(range(classes)))
        losses += by_hand(plain, x, y)
        right += int((plain.predict(x) == y).sum())
        if number:
            plain.partial_fit(x, y)
    (row,) = history.rows
    assert row["loss"] == pytest.approx(np.mean(losses), rel=1e-6)
    assert row["accuracy"] == right / len(losses)
    judged = chunks.stream().batches("validation")
    expected = [loss for batch in judged for loss in by_hand(plain, np.array(batch.matrix), batch.label)]
    assert row["val_loss"] == pytest.approx(np.mean(expected), rel=1e-6)


def test_a_regressor_reports_its_squared_error(of_targets: Callable[[int], Chunks], model_file: ModelFile) -> None:
    chunks = of_targets(2)
    model = loaded(model_file(FILE.format(estimator="MLPRegressor(hidden_layer_sizes=(5,))")), chunks)
    history = fit(model, chunks.stream(), config(epochs=4))
    assert "accuracy" not in history.rows[0]
    assert history.rows[-1]["loss"] < history.rows[0]["loss"]
    expected = [
        loss
        for batch in chunks.stream().batches("validation")
        for loss in by_hand(model.estimator, batch.matrix, batch.label)
    ]
    assert history.rows[-1]["val_loss"] == pytest.approx(np.mean(expected), rel=1e-6)


# --- going on


@pytest.mark.parametrize("estimator", CLASSIFIERS)
@pytest.mark.parametrize("classes", [2, 3])
def test_a_training_that_died_goes_on_to_the_same_numbers(
    of_classes: Callable[[int], Chunks], model_file: ModelFile, tmp_path: Path, estimator: str, classes: int
) -> None:
    chunks, path = of_classes(classes), model_file(FILE.format(estimator=estimator))
    whole, history = trained(chunks, path, config(epochs=2), tmp_path / "whole")
    for die_at in (1, 22, 31):
        settings = config(epochs=2, checkpoint={"steps": die_at, "seconds": None})
        with pytest.raises(Killed):
            trained(chunks, path, settings, tmp_path / str(die_at), die_at)
        np.random.seed(99)  # noqa: NPY002 - another process has another state
        settings = config(epochs=2, checkpoint={"steps": 1000, "seconds": None})
        rest, same = trained(chunks, path, settings, tmp_path / str(die_at), resume=True)
        assert equal(whole.estimator, rest.estimator)
        assert same.rows == history.rows


@pytest.mark.parametrize("mode", ["chunks", "all"])
def test_so_it_does_in_every_mode(chunks: Chunks, model_file: ModelFile, tmp_path: Path, mode: str) -> None:
    path = model_file(FILE.format(estimator="MLPClassifier((6, 4))"))
    settings = config(mode=mode, checkpoint={"steps": 27, "seconds": None})
    whole, history = trained(chunks, path, settings, tmp_path / "whole")
    with pytest.raises(Killed):
        trained(chunks, path, settings, tmp_path / "parts", 27)
    rest, same = trained(chunks, path, settings, tmp_path / "parts", resume=True)
    assert equal(whole.estimator, rest.estimator)
    assert same.rows == history.rows


@pytest.mark.parametrize(("estimator", "targets"), [*((e, 1) for e in REGRESSORS), *((e, 2) for e in TWO_TARGETS)])
def test_so_do_regressors(
    of_targets: Callable[[int], Chunks], model_file: ModelFile, tmp_path: Path, estimator: str, targets: int
) -> None:
    chunks, path = of_targets(targets), model_file(FILE.format(estimator=estimator))
    settings = config(checkpoint={"steps": 30, "seconds": None})
    whole, _ = trained(chunks, path, settings, tmp_path / "whole")
    with pytest.raises(Killed):
        trained(chunks, path, settings, tmp_path / "parts", 30)
    rest, _ = trained(chunks, path, settings, tmp_path / "parts", resume=True)
    assert equal(whole.estimator, rest.estimator)


def test_a_checkpoint_holds_numbers_and_text_alone(chunks: Chunks, model_file: ModelFile, tmp_path: Path) -> None:
    settings = config(checkpoint={"steps": 20, "seconds": None})
    trained(chunks, model_file(FILE.format(estimator="MLPClassifier((6,))")), settings, tmp_path / "c")
    newest = max((tmp_path / "c").iterdir())
    with np.load(newest / "state.npz", allow_pickle=False) as state:
        assert {state[name].dtype.kind for name in state.files} <= set("iufbU")
        assert sum(state[name].shape == (5, 6) for name in state.files) >= 3  # weights, two moments of Adam


def test_a_checkpoint_of_another_estimator_is_refused(chunks: Chunks, model_file: ModelFile, tmp_path: Path) -> None:
    settings = config(checkpoint={"steps": 1, "seconds": None})
    with pytest.raises(Killed):
        trained(chunks, model_file(FILE.format(estimator="MLPClassifier((6,))")), settings, tmp_path / "c", 3)
    path = model_file(FILE.format(estimator="SGDClassifier()"))
    with pytest.raises(ModelContractError, match=r"of another model: model .*attributes of SGDClassifier.*"):
        trained(chunks, path, settings, tmp_path / "c", resume=True)


# --- in Keras


@pytest.mark.parametrize("estimator", CLASSIFIERS)
@pytest.mark.parametrize("classes", [2, 3])
def test_a_classifier_becomes_a_keras_model_of_its_scores(
    of_classes: Callable[[int], Chunks], model_file: ModelFile, estimator: str, classes: int
) -> None:
    chunks = of_classes(classes)
    model = loaded(model_file(FILE.format(estimator=estimator)), chunks)
    fit(model, chunks.stream(), config())
    keras_model = rebuilt.keras_model(model, chunks.stream(), config())
    events = chunks.stream().arrays("test", 0).matrix.astype(np.float64)
    found = np.asarray(keras_model(events, training=False))
    if hasattr(model.estimator, "predict_proba"):
        expected = model.estimator.predict_proba(events)
        expected = expected[:, 1:] if classes == 2 else expected
    else:
        decision = model.estimator.decision_function(events)
        expected = expit(decision)[:, None] if classes == 2 else softmax(decision, axis=1)
    assert np.abs(found - expected).max() < 1e-5
    predicted = found[:, 0] > 0.5 if classes == 2 else found.argmax(axis=1)
    clear = np.sort(np.hstack([1 - found, found] if classes == 2 else [found]), axis=1)[:, -2:]
    same = predicted == model.estimator.predict(events)
    assert same[clear[:, 1] > clear[:, 0] + 1e-5].all()


@pytest.mark.parametrize(("estimator", "targets"), [*((e, 1) for e in REGRESSORS), *((e, 2) for e in TWO_TARGETS)])
def test_a_regressor_becomes_a_keras_model(
    of_targets: Callable[[int], Chunks], model_file: ModelFile, estimator: str, targets: int
) -> None:
    chunks = of_targets(targets)
    model = loaded(model_file(FILE.format(estimator=estimator)), chunks)
    fit(model, chunks.stream(), config())
    keras_model = rebuilt.keras_model(model, chunks.stream(), config())
    events = chunks.stream().arrays("test", 1)
    expected = model.estimator.predict(events.matrix).reshape(len(events), targets)
    assert np.asarray(keras_model(events.matrix)) == pytest.approx(expected, rel=1e-5, abs=1e-5)
    assert keras_model.loss == "mean_squared_error"


def test_a_rebuilt_model_is_saved_and_loaded_as_any(chunks: Chunks, model_file: ModelFile, tmp_path: Path) -> None:
    import keras

    model = loaded(model_file(FILE.format(estimator="SGDClassifier(loss='modified_huber')")), chunks)
    fit(model, chunks.stream(), config())
    made = rebuilt.keras_model(model, chunks.stream(), config())
    made.save(tmp_path / "model.keras")
    events = chunks.stream().arrays("test", 0).matrix
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert np.array_equal(np.asarray(again(events)), np.asarray(made(events)))


def test_an_estimator_without_counterpart_is_trained_kept_and_not_exported(
    chunks: Chunks, model_file: ModelFile, caplog: pytest.LogCaptureFixture
) -> None:
    model = loaded(model_file(FILE.format(estimator="GaussianNB()")), chunks)
    history = fit(model, chunks.stream(), config())
    assert history.rows[-1]["accuracy"] > 0.7
    assert "the GaussianNB of" in caplog.text
    with pytest.raises(ExportError, match=r"the GaussianNB of .*mymodel.py cannot be rebuilt in Keras"):
        rebuilt.keras_model(model, chunks.stream(), config())
    with np.load(io.BytesIO(rebuilt.to_npz(model)), allow_pickle=False) as kept:
        assert np.array_equal(kept["theta_"], model.estimator.theta_)


def test_scores_that_differ_are_not_exported(chunks: Chunks, model_file: ModelFile) -> None:
    text = FILE.format(estimator="Odd(loss='log_loss')").replace(
        "def model",
        "class Odd(SGDClassifier):\n    def predict_proba(self, x):\n        return super().predict_proba(x) / 2\n\n"
        "def model",
    )
    model = loaded(model_file(text), chunks)
    fit(model, chunks.stream(), config())
    with pytest.raises(ExportError, match=r"does not give the same scores: [\d.e-]+ for [\d.e-]+ at event"):
        rebuilt.keras_model(model, chunks.stream(), config())


# --- what cannot be


@pytest.mark.parametrize(
    ("estimator", "settings", "message"),
    [
        ("SVC()", {}, "a SVC, which does not learn to answer batch by batch: return .* SGDClassifier"),
        ("MiniBatchKMeans()", {}, "a MiniBatchKMeans, which does not learn to answer"),
        ("make_pipeline(StandardScaler(), SGDClassifier())", {}, "a Pipeline, which has no partial_fit.*features.norm"),
        ("SGDClassifier()", {"loss": "MSELoss"}, "train.loss, optimizer and learning_rate are not for estimators"),
        ("SGDClassifier()", {"learning_rate": 0.1}, "train.loss, optimizer and learning_rate are not for estimators"),
        ("SGDClassifier", {}, "returned a ABCMeta, not a Keras model"),
    ],
)
def test_what_cannot_learn_is_refused_before_training(
    chunks: Chunks, model_file: ModelFile, estimator: str, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelContractError, match=message):
        loaded(model_file(FILE.format(estimator=estimator)), chunks, config(**settings))


@pytest.mark.parametrize(
    ("estimator", "settings", "message"),
    [
        (
            "PassiveAggressiveClassifier()",
            {"class_weight": "balanced"},
            "takes no weights in partial_fit.*classes have",
        ),
        ("SGDClassifier(early_stopping=True)", {}, "failed in epoch 0, batch 0: ValueError"),
        ("SGDClassifier(class_weight='balanced')", {}, "failed in epoch 0, batch 0: ValueError.*balanced"),
        ("SGDClassifier(alpha=-1)", {}, "failed in epoch 0, batch 0: InvalidParameterError.*alpha"),
    ],
)
def test_what_fails_in_training_is_named(
    chunks: Chunks, model_file: ModelFile, estimator: str, settings: dict[str, Any], message: str
) -> None:
    model = loaded(model_file(FILE.format(estimator=estimator)), chunks)
    with pytest.raises(ModelContractError, match=message):
        fit(model, chunks.stream(), config(**settings))


def test_events_with_weights_need_an_estimator_that_takes_them(make_chunks: MakeChunks, model_file: ModelFile) -> None:
    chunks = make_chunks(weight=2.0)
    model = loaded(model_file(FILE.format(estimator="PassiveAggressiveClassifier()")), chunks)
    with pytest.raises(ModelContractError, match=r"PassiveAggressiveClassifier of .* the events have weights"):
        fit(model, chunks.stream(), config())


def test_it_takes_the_matrix_alone(chunks: Chunks, model_file: ModelFile) -> None:
    path = model_file(FILE.format(estimator="SGDClassifier()").replace("model(idim)", "model(layout, config)"))
    with pytest.raises(ModelContractError, match=r"takes the matrix alone: set train.inputs to matrix"):
        loaded(path, chunks, config(inputs="groups"))


# --- callbacks

EAGER = "SGDClassifier(loss='log_loss', learning_rate='constant', eta0=3.0, random_state=1)"
EARLY = {"EarlyStopping": {"patience": 2, "restore_best_weights": True}}
BEST = {"ModelCheckpoint": {"filepath": "best.npz", "save_best_only": True}}


def test_it_stops_early_with_the_best_weights_which_are_written_too(
    chunks: Chunks, model_file: ModelFile, tmp_path: Path
) -> None:
    settings = config(epochs=30, callbacks=[EARLY, BEST])
    path = model_file(FILE.format(estimator=EAGER))
    model, history = trained(chunks, path, settings, tmp_path)
    stream = chunks.stream(threads=1)
    estimator, losses, learned = loaded(path, chunks, settings).estimator, list[float](), list[Any]()
    seen = [
        np.concatenate(parts)
        for parts in zip(*((b.matrix, b.label) for b in stream.batches("validation")), strict=True)
    ]
    while len(losses) < 30 and len(losses) - int(np.argmin([*losses, math.inf])) < 3:
        for batch in stream.batches("train", seed=1, epoch=len(losses)):
            estimator.partial_fit(np.array(batch.matrix), batch.label.astype(int), classes=[0, 1])
        losses.append(log_loss(seen[1], np.clip(estimator.predict_proba(seen[0])[:, 1], 1e-7, 1 - 1e-7)))
        learned.append(estimator.coef_.copy())
    assert len(losses) < 30
    assert [row["val_loss"] for row in history.rows] == pytest.approx(losses, rel=1e-5)
    best = learned[int(np.argmin(losses))]
    assert np.array_equal(model.estimator.coef_, best)
    with np.load(tmp_path / "best.npz", allow_pickle=False) as written:
        assert np.array_equal(written["coef_"], best)


def test_callbacks_go_on_after_a_death_where_they_were(chunks: Chunks, model_file: ModelFile, tmp_path: Path) -> None:
    slower = {"ReduceLROnPlateau": {"factor": 0.5, "patience": 1}}
    settings = config(epochs=12, callbacks=[EARLY, slower], checkpoint={"steps": 1, "seconds": None})
    path = model_file(FILE.format(estimator=EAGER))
    whole, history = trained(chunks, path, settings, tmp_path / "whole")
    assert history.rows[-1]["learning_rate"] < 3.0
    with pytest.raises(Killed):
        trained(chunks, path, settings, tmp_path / "parts", die_at=22 * (len(history.rows) - 1) + 5)
    rest, same = trained(chunks, path, settings, tmp_path / "parts", resume=True)
    assert same.rows == history.rows
    assert equal(rest.estimator, whole.estimator)


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({"TensorBoard": {}}, "TensorBoard is for Keras models, .* it has EarlyStopping, ModelCheckpoint, Reduce"),
        ({"EarlyStoping": {}}, "Keras has no callback 'EarlyStoping'.*nearest: EarlyStopping"),
        ({"EarlyStopping": {"monitor": "val_auc"}}, "no metric 'val_auc', it has loss, accuracy, val_loss, val_acc"),
        ({"ModelCheckpoint": {"filepath": "best.keras"}}, r"a filepath that ends in \.npz.* not 'best\.keras'"),
        ({"ModelCheckpoint": {"filepath": "best.npz", "save_freq": 10}}, "no save_freq"),
    ],
)
def test_callbacks_that_are_for_keras_models_are_refused(
    chunks: Chunks, model_file: ModelFile, tmp_path: Path, named: dict[str, Any], message: str
) -> None:
    model = loaded(model_file(FILE.format(estimator="SGDClassifier()")), chunks)
    with pytest.raises(ConfigError, match=message):
        of_config([named], tmp_path, model)


def test_callbacks_that_a_file_or_a_caller_gives_are_refused(
    chunks: Chunks, model_file: ModelFile, tmp_path: Path
) -> None:
    import keras

    text = FILE.format(estimator="SGDClassifier()") + "\ndef callbacks():\n    import keras\n"
    path = model_file(text + "    return [keras.callbacks.TerminateOnNaN()]\n")
    model = loaded(path, chunks)
    with pytest.raises(ModelContractError, match=r"callbacks of .* are Keras' own, its model is one of scikit-learn"):
        of_training(model, (), tmp_path, UserFile.read(path, ModelContractError))
    with pytest.raises(ModelContractError, match="TerminateOnNaN is for Keras models"):
        fit(model, chunks.stream(), config(), callbacks=[keras.callbacks.TerminateOnNaN()])


@pytest.mark.parametrize("estimator", ["SGDClassifier()", "MLPClassifier()"])
def test_an_estimator_without_a_learning_rate_to_lower_is_named(
    chunks: Chunks, model_file: ModelFile, tmp_path: Path, estimator: str
) -> None:
    model = loaded(model_file(FILE.format(estimator=estimator)), chunks)
    with pytest.raises(ModelContractError, match=f"{estimator[:-2]} of .* has no learning rate that a callback"):
        of_config([{"ReduceLROnPlateau": {}}], tmp_path, model)


def test_labels_and_targets_must_suit(
    chunks: Chunks, of_targets: Callable[[int], Chunks], model_file: ModelFile
) -> None:
    model = loaded(model_file(FILE.format(estimator="SGDClassifier()")), chunks)
    inputs = InputLayout.of(chunks.transform)
    check_answers(model, inputs, [0.0, 1.0, 2.0])
    with pytest.raises(ModelContractError, match="the labels are 1, 2, SGDClassifier takes 0, 1 and so on"):
        check_answers(model, inputs, [2.0, 1.0])
    with pytest.raises(ModelContractError, match="a classifier, SGDClassifier, for 2 targets"):
        fit(model, of_targets(2).stream(), config())
