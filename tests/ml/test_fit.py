"""What a model is fitted to: weights, targets, inputs; and that a training goes on exactly where it was interrupted."""

from __future__ import annotations

import gc
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from mlaas_spark.config import CheckpointConfig, TrainConfig
from mlaas_spark.errors import ConfigError, ModelContractError
from mlaas_spark.ml import callbacks as making
from mlaas_spark.ml.checkpoint import Keeper
from mlaas_spark.ml.fit import fit
from mlaas_spark.ml.inputs import InputLayout
from mlaas_spark.ml.model import load_user_model, run_model_file
from tests.ml.trainings import Killed, config, keeper_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.ml.conftest import Chunks, MakeChunks

pytestmark = pytest.mark.tensorflow

DROPOUT = """
import keras

def model(idim):
    L = keras.layers
    net = keras.Sequential([L.Input((idim,)), L.Dense(8, "relu"), L.Dropout(0.3), L.BatchNormalization(), L.Dense(1)])
    net.compile(loss=keras.losses.BinaryCrossentropy(from_logits=True), optimizer="adam", metrics=["accuracy"])
    return net
"""


def weights_of(model: Any) -> list[Any]:
    return list(model.get_weights())


def equal(one: list[Any], other: list[Any]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def trained(
    chunks: Chunks, path: Path, settings: TrainConfig, folder: Path, die_at: int | None = None, *, resume: bool = False
) -> tuple[list[Any], list[tuple[int, float]], Any]:
    """Weights, batches learned with the loss so far of their pass, and the history."""
    import keras

    stream: Any = chunks.stream(threads=1)
    model = load_user_model(path, InputLayout.of(stream.transform), seed=settings.seed)
    learned: list[tuple[int, float]] = []

    class Watch(keras.callbacks.Callback):  # type: ignore[misc] # keras has no types
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            learned.append((batch, logs["loss"]))

    keeper = keeper_of(folder, settings, die_at, resume=resume)
    called = [*making.of_config(settings.callbacks, folder), Watch()]
    history = fit(model, stream, settings, callbacks=called, keeper=keeper)
    return weights_of(model), learned, history


@pytest.mark.parametrize("mode", ["epochs", "chunks"])
@pytest.mark.parametrize("die_at", [1, 22, 40])  # the first batch, the end of a pass, in the middle of another
def test_a_training_that_died_goes_on_to_the_same_weights(
    chunks: Chunks, model_file: Callable[[str], Path], tmp_path: Path, mode: str, die_at: int
) -> None:
    path = model_file(DROPOUT)
    patient = {"EarlyStopping": {"monitor": "val_loss", "patience": 50, "restore_best_weights": True}}
    slower = {"ReduceLROnPlateau": {"monitor": "loss", "patience": 1, "min_delta": 1.0}}
    settings = config(mode=mode, checkpoint={"steps": 1, "seconds": None}, callbacks=[patient, slower])
    whole, all_learned, history = trained(chunks, path, settings, tmp_path / "whole")
    assert history.rows[-1]["learning_rate"] < history.rows[0]["learning_rate"]
    with pytest.raises(Killed):
        trained(chunks, path, settings, tmp_path / "parts", die_at)
    rest, learned, same = trained(chunks, path, settings, tmp_path / "parts", resume=True)
    assert learned == all_learned[die_at:]
    assert same.rows == history.rows
    assert equal(whole, rest)


def test_of_a_training_that_is_over_nothing_large_stays(chunks: Chunks, model_file: Callable[[str], Path]) -> None:
    """TensorFlow keeps the graphs of its data sets for ever, and whatever these hold."""
    stream: Any = chunks.stream(threads=1)
    model = load_user_model(model_file(DROPOUT), InputLayout.of(stream.transform), seed=1)
    fit(model, stream, config(epochs=1))
    there = [weakref.ref(part) for part in (model, model.optimizer, model.layers[0].kernel)]
    assert all(part() is not None for part in there)
    del model
    gc.collect()
    assert [part() for part in there] == [None, None, None]


def test_the_events_after_a_resume_are_those_that_were_not_learned(chunks: Chunks) -> None:
    stream = chunks.stream()
    for epoch in range(3):
        whole = [batch.matrix.copy() for batch in stream.batches("train", seed=5, epoch=epoch)]
        for start in (0, 1, 9, 10, 21, 22):
            rest = [batch.matrix.copy() for batch in stream.batches("train", seed=5, epoch=epoch, start=start)]
            assert len(rest) == len(whole) - start
            assert all(np.array_equal(a, b) for a, b in zip(whole[start:], rest, strict=True))


def test_a_state_of_another_model_is_refused(chunks: Chunks, model_file: Callable[[str], Path], tmp_path: Path) -> None:
    settings = config(checkpoint={"steps": 1, "seconds": None})
    with pytest.raises(Killed):
        trained(chunks, model_file(DROPOUT), settings, tmp_path / "c", 3)
    with pytest.raises(ModelContractError, match="of another model: model/0 is of shape"):
        trained(chunks, model_file(DROPOUT.replace("Dense(8", "Dense(9")), settings, tmp_path / "c", resume=True)


def test_the_loop_learns_what_keras_fit_learns(chunks: Chunks, plain_model: Path) -> None:
    import keras

    settings = config(shuffle=False)
    stream = chunks.stream(threads=1)
    ours, theirs = (load_user_model(plain_model, InputLayout.of(stream.transform), seed=1) for _ in range(2))
    history = fit(ours, stream, settings)
    keras.utils.set_random_seed(settings.seed)
    told = theirs.fit(
        stream.dataset("train"), validation_data=stream.dataset("validation"), epochs=3, verbose=0, shuffle=False
    )
    assert equal(weights_of(ours), weights_of(theirs))
    for name, values in told.history.items():
        assert [row[name] for row in history.rows] == pytest.approx(values, rel=1e-6)


def test_early_stopping_ends_the_training(chunks: Chunks, plain_model: Path, tmp_path: Path) -> None:
    settings = config(epochs=9, callbacks=[{"EarlyStopping": {"monitor": "loss", "patience": 1, "min_delta": 10.0}}])
    model = load_user_model(plain_model, InputLayout.of(chunks.stream().transform))
    history = fit(model, chunks.stream(), settings, callbacks=making.of_config(settings.callbacks, tmp_path))
    assert len(history.rows) == 2


@pytest.mark.parametrize(
    ("named", "why"),
    [
        ({"EarlyStoping": {}}, "no callback 'EarlyStoping'.*EarlyStopping"),
        ({"EarlyStopping": {"patients": 3}}, "does not take"),
        ({"ModelCheckpoint": {"filepath": "../best.keras"}}, "a name for a file in the run folder"),
    ],
)
def test_callbacks_that_cannot_be_made_are_config_errors(tmp_path: Path, named: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        making.of_config([named], tmp_path)


def test_the_best_model_is_kept_in_the_folder(chunks: Chunks, plain_model: Path, tmp_path: Path) -> None:
    named = [{"ModelCheckpoint": {"filepath": "best.keras", "monitor": "val_loss", "save_best_only": True}}]
    stream = chunks.stream()
    model = load_user_model(plain_model, InputLayout.of(stream.transform))
    fit(model, stream, config(), callbacks=making.of_config(named, tmp_path))
    assert (tmp_path / "best.keras").stat().st_size > 0


def test_callbacks_of_the_users_file_are_called(chunks: Chunks, model_file: Callable[[str], Path]) -> None:
    path = model_file(
        DROPOUT
        + """
class Count(keras.callbacks.Callback):
    epochs = 0

    def on_epoch_end(self, epoch, logs=None):
        self.epochs += 1

def callbacks():
    return [Count()]
"""
    )
    (count,) = making.of_file(path)
    fit(load_user_model(path, InputLayout.of(chunks.stream().transform)), chunks.stream(), config(), callbacks=[count])
    assert count.epochs == 3


def test_the_model_file_is_run_once_for_model_and_callbacks(model_file: Callable[[str], Path], tmp_path: Path) -> None:
    path = model_file(f"""
    import pathlib
    import keras

    with pathlib.Path({str(tmp_path / "runs")!r}).open("a") as stream:
        stream.write("once ")

    def model(idim):
        net = keras.Sequential([keras.layers.Input((idim,)), keras.layers.Dense(1)])
        net.compile(loss="mse", optimizer="sgd")
        return net

    def callbacks():
        return [keras.callbacks.TerminateOnNaN()]
    """)
    module = run_model_file(path, seed=1)
    model = load_user_model(module, InputLayout.matrix(5), seed=1)
    assert [type(item).__name__ for item in making.of_training(model, (), tmp_path, module)] == ["TerminateOnNaN"]
    assert (tmp_path / "runs").read_text() == "once "


def test_a_schedule_by_keras_name_sets_the_learning_rate(plain_model: Path) -> None:
    model = load_user_model(plain_model, InputLayout.matrix(5))
    making.set_learning_rate(
        model, config(learning_rate={"CosineDecay": {"initial_learning_rate": 0.5, "decay_steps": 10}})
    )
    assert float(model.optimizer.learning_rate) == pytest.approx(0.5)
    with pytest.raises(ConfigError, match="has a schedule"):
        making.set_learning_rate(model, config(learning_rate=0.25))
    other = load_user_model(plain_model, InputLayout.matrix(5))
    making.set_learning_rate(other, config(learning_rate=0.25))
    assert float(other.optimizer.learning_rate) == pytest.approx(0.25)
    with pytest.raises(ConfigError, match="no schedule 'CosinDecay'; nearest: CosineDecay"):
        making.set_learning_rate(model, config(learning_rate={"CosinDecay": {}}))


def test_class_factors_weigh_the_loss_as_sample_weights_do(chunks: Chunks, plain_model: Path) -> None:
    stream = chunks.stream(batch_size=1000)
    settings = config(class_weight={"0": 1.0, "1": 5.0}, epochs=1, batch_size=1000)
    ours, theirs = (load_user_model(plain_model, InputLayout.of(stream.transform), seed=1) for _ in range(2))
    fit(ours, stream, settings)
    (batch,) = stream.batches("train", seed=settings.seed)
    theirs.train_on_batch(batch.matrix, batch.label, sample_weight=np.where(batch.label == 1, 5.0, 1.0))
    assert all(np.allclose(a, b, atol=1e-6) for a, b in zip(weights_of(ours), weights_of(theirs), strict=True))


def test_a_model_may_take_the_mask_beside_the_matrix(chunks: Chunks, model_file: Callable[[str], Path]) -> None:
    path = model_file("""
    import keras

    def model(layout, config):
        inputs = layout.keras_inputs()
        both = keras.layers.Concatenate()([inputs["matrix"], inputs["mask"]])
        net = keras.Model(list(inputs.values()), keras.layers.Dense(1, "sigmoid")(both))
        net.compile(loss="binary_crossentropy", optimizer=keras.optimizers.Adam(0.05), metrics=["accuracy"])
        return net
    """)
    settings = config(inputs="matrix+mask", epochs=8)
    stream = chunks.stream()
    model = load_user_model(path, InputLayout.of(stream.transform, "matrix+mask"), settings)
    assert fit(model, stream, settings).rows[-1]["val_accuracy"] > 0.75


DEEP_SETS = """
import keras
from keras import layers, ops

def model(layout, config):
    inputs = layout.keras_inputs()
    hidden = layers.Dense(16, "relu")(layers.Dense(16, "relu")(inputs["Jet"]))
    mask = layers.Reshape((-1, 1))(inputs["Jet_mask"])
    jets = layers.Lambda(lambda pair: ops.sum(pair[0] * pair[1], axis=1))([hidden, mask])
    both = layers.Concatenate()([inputs["flat"], jets])
    net = keras.Model(inputs, layers.Dense(1, "sigmoid")(layers.Dense(16, "relu")(both)))
    net.compile(loss="binary_crossentropy", optimizer=keras.optimizers.Adam(0.02), metrics=["accuracy"])
    return net
"""


def test_deep_sets_over_jets_learn_from_groups(chunks: Chunks, model_file: Callable[[str], Path]) -> None:
    settings = config(inputs="groups", epochs=8)
    stream = chunks.stream()
    inputs = InputLayout.of(stream.transform, "groups")
    model = load_user_model(model_file(DEEP_SETS), inputs, settings)
    assert fit(model, stream, settings).rows[-1]["val_accuracy"] > 0.75
    # an object that is not there does not change the score
    batch = stream.arrays("test", 0)
    given = inputs.arrays(batch.matrix, batch.mask)
    other = {**given, "Jet": np.where(given["Jet_mask"][..., None] == 0, 7.0, given["Jet"])}
    assert np.allclose(model.predict(given, verbose=0), model.predict(other, verbose=0), atol=1e-6)


def test_a_plain_model_cannot_take_groups(plain_model: Path, chunks: Chunks) -> None:
    with pytest.raises(ModelContractError, match=r"write model\(layout, config\) for train\.inputs groups"):
        load_user_model(plain_model, InputLayout.of(chunks.stream().transform, "groups"))


REGRESSION = """
import keras

def model(idim):
    net = keras.Sequential([keras.layers.Input((idim,)), keras.layers.Dense({outputs})])
    net.compile(loss="mse", optimizer=keras.optimizers.Adam(0.05))
    return net
"""


@pytest.mark.parametrize("targets", [1, 2])
def test_a_regression_learns_its_targets(
    make_chunks: MakeChunks, make_events: Callable[..., Any], model_file: Callable[[str], Path], targets: int
) -> None:
    events = [
        {**event, "label": 3.0 * event["nJet"] - 1.0, "second": -1.0 * event["nJet"]} for event in make_events(512, 1)
    ]
    chunks = make_chunks({(0, "train"): events, (0, "validation"): events[:64]}, targets=targets)
    stream = chunks.stream()
    assert stream.arrays("validation", 0).label.shape == ((64,) if targets == 1 else (64, 2))
    model = load_user_model(model_file(REGRESSION.format(outputs=targets)), InputLayout.of(stream.transform))
    history = fit(model, stream, config(epochs=30))
    assert history.rows[-1]["val_loss"] < 0.05
    found = model.predict(stream.arrays("validation", 0).matrix, verbose=0)
    assert found[:, 0] == pytest.approx([event["label"] for event in events[:64]], abs=1.0)


def test_a_regression_needs_an_output_for_each_target(
    make_chunks: MakeChunks, make_events: Callable[..., Any], plain_model: Path
) -> None:
    events = [{**event, "second": 0.0} for event in make_events(64, 1)]
    stream = make_chunks({(0, "train"): events}, targets=2).stream()
    with pytest.raises(ModelContractError, match="1 outputs for 2 targets"):
        fit(load_user_model(plain_model, InputLayout.of(stream.transform)), stream, config())


def test_weights_that_are_all_0_are_refused(
    make_chunks: MakeChunks, make_events: Callable[..., Any], plain_model: Path
) -> None:
    events = [{**event, "weight": 0.0} for event in make_events(64, seed=1)]
    stream = make_chunks({(0, "train"): events}, weight=0.0).stream()
    with pytest.raises(ModelContractError, match="add up to 0"):
        fit(load_user_model(plain_model, InputLayout.of(stream.transform)), stream, config())


def test_totals_of_the_weights_are_told_negative_ones_too(
    make_chunks: MakeChunks, make_events: Callable[..., Any], plain_model: Path
) -> None:
    events = [{**event, "weight": -0.5 if event["entry"] % 8 == 0 else 1.5} for event in make_events(64, seed=1)]
    stream = make_chunks({(0, "train"): events}, weight=2.0).stream()
    model = load_user_model(plain_model, InputLayout.of(stream.transform))
    found = fit(model, stream, config(epochs=1)).weights
    # entries 0, 8, ... have an even number, which is label 0 of two
    assert (found["label 0"].events, found["label 0"].negatives, found["label 1"].negatives) == (32, 8, 0)
    assert (found["label 0"].weight, found["label 0"].negative) == (24 * 1.5 - 8 * 0.5, -4.0)
    assert (found["all"].events, found["all"].weight) == (64, 56 * 1.5 - 8 * 0.5)


def test_weights_that_are_not_numbers_are_refused(
    make_chunks: MakeChunks, make_events: Callable[..., Any], plain_model: Path
) -> None:
    events = [{**event, "weight": np.nan if event["entry"] == 5 else 1.0} for event in make_events(64, seed=1)]
    stream = make_chunks({(0, "train"): events}, weight=2.0).stream()
    with pytest.raises(ModelContractError, match=r"the weights of the events of label 1 are not all finite"):
        fit(load_user_model(plain_model, InputLayout.of(stream.transform)), stream, config())


def test_a_class_that_validation_lacks_is_said(
    make_chunks: MakeChunks, make_events: Callable[..., Any], plain_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    only_0 = make_events(20, seed=2, classes=1)
    stream = make_chunks({(0, "train"): make_events(64, seed=1), (0, "validation"): only_0}).stream()
    fit(load_user_model(plain_model, InputLayout.of(stream.transform)), stream, config(epochs=1))
    assert "the label 1 has no events in validation" in caplog.text


def test_after_a_loss_that_is_no_number_the_checkpoints_are_good_ones(
    chunks: Chunks, model_file: Callable[[str], Path], tmp_path: Path
) -> None:
    path = model_file("""
    import keras

    def model(idim):
        net = keras.Sequential([keras.layers.Input((idim,)), keras.layers.Dense(8), keras.layers.Dense(1)])
        net.compile(loss="mse", optimizer=keras.optimizers.SGD(1e4))
        return net
    """)
    settings = config(checkpoint={"steps": 1, "seconds": None})
    with pytest.raises(ModelContractError, match="the loss is not a number"):
        trained(chunks, path, settings, tmp_path / "c")
    kept = Keeper.of(str(tmp_path / "c"), {"data": "x"}, settings.checkpoint, resume=True).resumed
    assert kept is not None
    assert all(np.isfinite(array).all() for name, array in kept.state.items() if name.startswith("model/"))


def test_a_class_that_training_lacks_is_refused(
    make_chunks: MakeChunks, make_events: Callable[..., Any], plain_model: Path
) -> None:
    three = make_events(30, seed=2, classes=3)
    stream = make_chunks({(0, "train"): make_events(64, seed=1), (0, "validation"): three}).stream()
    with pytest.raises(ModelContractError, match="the label 2 has events in validation and none in training"):
        fit(load_user_model(plain_model, InputLayout.of(stream.transform)), stream, config())


def test_checkpoints_cost_nothing_where_none_is_due(chunks: Chunks, plain_model: Path, tmp_path: Path) -> None:
    settings = config(checkpoint=CheckpointConfig(seconds=1e9).model_dump())
    trained(chunks, plain_model, settings, tmp_path / "none")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    "hook", ["on_epoch_begin", "on_train_batch_end", "on_test_end", "on_epoch_end", "on_train_end"]
)
def test_what_a_callback_raises_is_an_error_of_the_training(chunks: Chunks, plain_model: Path, hook: str) -> None:
    import keras

    def fail(*_: object) -> None:
        raise MemoryError

    called = type("Failing", (keras.callbacks.Callback,), {hook: lambda *_, **__: fail()})()
    model = load_user_model(plain_model, InputLayout.of(chunks.stream().transform))
    with pytest.raises(ModelContractError, match=r"a callback failed in .*: MemoryError"):
        fit(model, chunks.stream(), config(epochs=1), callbacks=[called])
