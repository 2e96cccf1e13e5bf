from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from mlaas_spark.config import TrainConfig
from mlaas_spark.errors import ChunkError, ModelContractError
from mlaas_spark.layout import FeatureLayout
from mlaas_spark.ml.checkpoint import Position
from mlaas_spark.ml.fit import fit
from mlaas_spark.ml.inputs import InputLayout
from mlaas_spark.ml.meter import FIRST, FIT, HANDED
from mlaas_spark.ml.model import load_user_model
from mlaas_spark.ml.train import History, events_before, events_learned, largest_values, passes
from mlaas_spark.transform import FeatureTransform

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from tests.ml.conftest import Chunks, MakeChunks

pytestmark = pytest.mark.tensorflow

OWN_FIT = """
import keras

calls = []

class Net(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense({outputs}, activation="{activation}")

    def call(self, x):
        return self.dense(x)

    def fit(self, x_train, y_train, {arguments}):
        Net.calls.append((x_train.shape, y_train.shape, {kwds}))
        {body}

def model(idim):
    Net.calls = []
    net = Net()
    net.compile(loss="{loss}", optimizer=keras.optimizers.Adam(0.05), metrics=["accuracy"])
    return net
"""


def own_fit(
    body: str = "return super().fit(x_train, y_train, **kwds)", *, arguments: str = "**kwds", kwds: str = "dict(kwds)"
) -> str:
    return OWN_FIT.format(
        outputs=1, activation="sigmoid", loss="binary_crossentropy", body=body, arguments=arguments, kwds=kwds
    )


def config(mode: str = "epochs", **settings: Any) -> TrainConfig:
    return TrainConfig.model_validate({"mode": mode, "epochs": 2, "batch_size": 16, "threads": 1, **settings})


@pytest.mark.parametrize("mode", ["chunks", "epochs"])
def test_training_lowers_the_loss(chunks: Chunks, plain_model: Path, mode: str) -> None:
    stream = chunks.stream()
    model = load_user_model(plain_model, InputLayout.of(stream.transform), seed=1)
    x, y = stream.arrays("train", 0).matrix, stream.arrays("train", 0).label
    before = model.evaluate(x, y, verbose=0, return_dict=True)["loss"]
    fit(model, stream, config(mode, epochs=10))
    assert model.evaluate(x, y, verbose=0, return_dict=True)["loss"] < before


def test_chunks_mode_has_a_row_for_each_epoch_of_each_chunk(chunks: Chunks, plain_model: Path) -> None:
    stream = chunks.stream()
    history = fit(load_user_model(plain_model, InputLayout.of(stream.transform)), stream, config("chunks"))
    assert [(row["chunk"], row["epoch"]) for row in history.rows] == [(c, e) for c in range(3) for e in range(2)]
    assert {"loss", "accuracy", "val_loss", "val_accuracy"} < set(history.rows[0])


def test_epochs_mode_has_a_row_for_each_epoch(chunks: Chunks, plain_model: Path) -> None:
    stream = chunks.stream()
    history = fit(load_user_model(plain_model, InputLayout.of(stream.transform)), stream, config(epochs=3))
    assert [row["epoch"] for row in history.rows] == [0, 1, 2]
    assert {"loss", "accuracy", "val_loss", "val_accuracy"} < set(history.rows[0])


def test_progress_is_told_how_far_it_is(chunks: Chunks, plain_model: Path) -> None:
    stream = chunks.stream()
    told: list[tuple[int, int]] = []

    def progress(done: int, total: int, row: Mapping[str, float]) -> None:
        assert "loss" in row
        told.append((done, total))

    model = load_user_model(plain_model, InputLayout.of(stream.transform))
    fit(model, stream, config("chunks"), progress=progress)
    fit(model, stream, config("epochs"), progress=progress)
    assert told == [*((done, 6) for done in range(1, 7)), (1, 2), (2, 2)]  # two epochs of three chunks; two epochs


def test_the_wait_for_batches_and_the_fit_are_timed_apart(chunks: Chunks, plain_model: Path) -> None:
    stream = chunks.stream()
    began = time.perf_counter()
    history = fit(load_user_model(plain_model, InputLayout.of(stream.transform)), stream, config(epochs=3))
    took = time.perf_counter() - began
    parts = [stream.meter.seconds(part) for part in (HANDED, FIRST, FIT)]
    assert all(part > 0 for part in parts)
    assert sum(parts) <= took
    assert stream.meter.events("train") == events_learned(stream, history.rows) == 3 * stream.events("train")


@pytest.mark.parametrize("mode", ["chunks", "epochs"])
def test_events_before_a_position_are_those_of_the_passes_and_batches_before(chunks: Chunks, mode: str) -> None:
    stream = chunks.stream()
    seen = 0
    for turn, current in enumerate(passes(stream, config(mode))):
        for batch, events in enumerate(stream.batches("train", chunk=current.chunk)):
            assert events_before(stream, config(mode), Position(turn, batch, 0)) == seen
            seen += len(events)
    assert events_before(stream, config(mode), Position(turn + 1, 0, 0)) == seen == 2 * stream.events("train")


def test_a_history_that_has_the_last_epoch_alone_tells_of_all(chunks: Chunks) -> None:
    stream = chunks.stream()
    rows = [{"chunk": chunk, "epoch": 1, "loss": 0.5} for chunk in range(3)]
    assert events_learned(stream, rows) == 2 * stream.events("train")


@pytest.mark.parametrize("mode", ["chunks", "epochs"])
def test_the_same_seed_gives_the_same_weights(chunks: Chunks, plain_model: Path, mode: str) -> None:
    def weights(seed: int, threads: int) -> list[Any]:
        stream = chunks.stream(threads=threads)
        model = load_user_model(plain_model, InputLayout.of(stream.transform), seed=seed)
        fit(model, stream, config(mode, seed=seed))
        return list(model.get_weights())

    one, same, other = weights(1, 1), weights(1, 3), weights(2, 1)
    assert all(np.array_equal(a, b) for a, b in zip(one, same, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_dense_chunks_give_the_same_weights(chunks: Chunks, dense_chunks: Chunks, plain_model: Path) -> None:
    trained = []
    for kind in (chunks, dense_chunks):
        stream = kind.stream()
        model = load_user_model(plain_model, InputLayout.of(stream.transform), seed=1)
        fit(model, stream, config())
        trained.append(model.get_weights())
    assert all(np.array_equal(a, b) for a, b in zip(*trained, strict=True))


def test_an_overridden_fit_gets_arrays_of_each_chunk(chunks: Chunks, model_file: Callable[[str], Path]) -> None:
    stream = chunks.stream()
    model = load_user_model(model_file(own_fit()), InputLayout.of(stream.transform))
    history = fit(model, stream, config("chunks"))
    assert [(x, y) for x, y, _ in type(model).calls] == [((n, 5), (n,)) for n in (150, 131, 70)]
    kwds = type(model).calls[0][2]
    assert (kwds["epochs"], kwds["batch_size"], kwds["shuffle"], kwds["verbose"]) == (2, 16, True, 0)
    assert [part.shape for part in kwds["validation_data"]] == [(40, 5), (40,)]
    assert "sample_weight" not in kwds
    assert len(history.rows) == 6


def test_an_overridden_fit_that_returns_nothing_is_judged_on_validation_events(
    chunks: Chunks, model_file: Callable[[str], Path]
) -> None:
    stream = chunks.stream()
    model = load_user_model(
        model_file(own_fit("super().fit(x_train, y_train, **kwds)")), InputLayout.of(stream.transform)
    )
    history = fit(model, stream, config("chunks"))
    assert [(row["chunk"], row["epoch"]) for row in history.rows] == [(0, 1), (1, 1), (2, 1)]
    last = stream.arrays("validation", 2)
    loss = model.evaluate(last.matrix, last.label, verbose=0, return_dict=True)["loss"]
    assert history.rows[-1]["val_loss"] == pytest.approx(loss, rel=1e-5)


def test_an_overridden_fit_gets_only_what_it_takes(chunks: Chunks, model_file: Callable[[str], Path]) -> None:
    stream = chunks.stream()
    text = own_fit(
        "return super().fit(x_train, y_train, epochs=epochs, verbose=0)", arguments="epochs=1", kwds="epochs"
    )
    model = load_user_model(model_file(text), InputLayout.of(stream.transform))
    fit(model, stream, config("chunks"))
    assert type(model).calls[0][2] == 2


def test_an_overridden_fit_for_arrays_is_refused_in_epochs_mode(
    chunks: Chunks, model_file: Callable[[str], Path]
) -> None:
    stream = chunks.stream()
    with pytest.raises(ModelContractError, match=r"set train\.mode to chunks"):
        fit(load_user_model(model_file(own_fit()), InputLayout.of(stream.transform)), stream, config("epochs"))


@pytest.mark.parametrize("mode", ["chunks", "epochs"])
@pytest.mark.parametrize("loss", ["categorical_crossentropy", "sparse_categorical_crossentropy"])
def test_several_outputs_train_on_encoded_labels(
    chunks: Chunks, model_file: Callable[[str], Path], mode: str, loss: str
) -> None:
    text = f"""
    import keras

    def model(idim):
        net = keras.Sequential([keras.layers.Input((idim,)), keras.layers.Dense(2, activation="softmax")])
        net.compile(loss="{loss}", optimizer=keras.optimizers.Adam(0.05), metrics=["accuracy"])
        return net
    """
    stream = chunks.stream()
    history = fit(
        load_user_model(model_file(text), InputLayout.of(stream.transform), seed=1), stream, config(mode, epochs=8)
    )
    assert history.rows[-1]["val_accuracy"] > 0.75


@pytest.mark.parametrize("mode", ["chunks", "epochs"])
def test_softmax_on_one_output_runs(chunks: Chunks, model_file: Callable[[str], Path], mode: str) -> None:
    text = """
    from keras.models import Sequential
    from keras.layers import Dense

    def model(idim):
        net = Sequential([Dense(1, input_shape=(idim,), activation="softmax")])
        net.compile(loss="binary_crossentropy", optimizer="sgd")
        return net
    """
    stream = chunks.stream()
    assert fit(load_user_model(model_file(text), InputLayout.of(stream.transform)), stream, config(mode)).rows


@pytest.mark.parametrize("mode", ["chunks", "epochs"])
def test_event_weights_reach_the_loss(
    make_chunks: MakeChunks, make_events: Callable[..., Any], plain_model: Path, mode: str
) -> None:
    # events of weight 0 teach nothing: with other values in them the model learns the same
    def trained(seed: int) -> list[Any]:
        events = [{**event, "weight": 2.0} for event in make_events(64, seed=1)]
        unseen = [{**event, "weight": 0.0} for event in make_events(64, seed=seed)]
        stream = make_chunks({(0, "train"): [*events, *unseen]}, weight=2.0).stream()
        model = load_user_model(plain_model, InputLayout.of(stream.transform), seed=1)
        fit(model, stream, config(mode, batch_size=128))
        return list(model.get_weights())

    assert all(np.allclose(a, b, atol=1e-6) for a, b in zip(trained(2), trained(3), strict=True))


NAN_MODEL = """
import keras

def model(idim):
    net = keras.Sequential([keras.layers.Input((idim,)), keras.layers.Dense(1)])
    net.compile(loss="mse", optimizer=keras.optimizers.SGD(1e38))
    return net
"""


@pytest.mark.parametrize(("mode", "place"), [("chunks", "epoch 0 of chunk 0"), ("epochs", "epoch 0")])
def test_a_loss_that_is_not_a_number_stops_naming_place_and_branches(
    chunks: Chunks, model_file: Callable[[str], Path], mode: str, place: str
) -> None:
    stream = chunks.stream()
    with pytest.raises(ModelContractError, match=rf"not a number in {place}, batch 1 .* Jet_pt \("):
        fit(load_user_model(model_file(NAN_MODEL), InputLayout.of(stream.transform)), stream, config(mode, epochs=4))


def test_the_largest_branches_are_named_first() -> None:
    transform = FeatureTransform(FeatureLayout.of(["a", "b"], {"c": 2}), (False, False, True), (0.0,) * 3, (1.0,) * 3)
    matrix = np.array([[1.0, -5.0, 0.0, 3.0], [0.5, 2.0, 0.0, 0.0]], np.float32)
    assert largest_values(transform, matrix) == "b (5), c (3), a (1)"


def test_one_class_in_training_is_refused_with_its_count(
    make_chunks: MakeChunks, make_events: Callable[..., Any], plain_model: Path
) -> None:
    stream = make_chunks({(0, "train"): make_events(20, seed=1, classes=1)}).stream()
    with pytest.raises(ModelContractError, match="only one class is in training: all 20 events have the label 0"):
        fit(load_user_model(plain_model, InputLayout.of(stream.transform)), stream, config())


def test_more_classes_than_outputs_are_refused(
    make_chunks: MakeChunks, make_events: Callable[..., Any], plain_model: Path
) -> None:
    stream = make_chunks({(0, "train"): make_events(30, seed=1, classes=3)}).stream()
    with pytest.raises(ModelContractError, match="the labels are 0, 1, 2"):
        fit(load_user_model(plain_model, InputLayout.of(stream.transform)), stream, config())


def test_no_training_events_are_refused(
    make_chunks: MakeChunks, make_events: Callable[..., Any], plain_model: Path
) -> None:
    stream = make_chunks({(0, "test"): make_events(20, seed=1)}).stream()
    with pytest.raises(ModelContractError, match="no events are in the training split"):
        fit(load_user_model(plain_model, InputLayout.of(stream.transform)), stream, config())


def test_a_fit_that_raises_is_one_message_naming_the_chunk(chunks: Chunks, model_file: Callable[[str], Path]) -> None:
    stream = chunks.stream()
    model = load_user_model(model_file(own_fit("raise KeyError('mine')")), InputLayout.of(stream.transform))
    with pytest.raises(ModelContractError, match="failed in chunk 0: KeyError: 'mine'"):
        fit(model, stream, config("chunks"))


def test_a_damaged_chunk_stops_training_with_its_own_error(make_chunks: MakeChunks, plain_model: Path) -> None:
    chunks = make_chunks()
    stream = chunks.stream()
    path = chunks.folder / "train-002.parquet"
    path.write_bytes(b"PAR1" + b"\0" * 200)
    with pytest.raises(ChunkError, match="cannot read"):
        fit(load_user_model(plain_model, InputLayout.of(stream.transform)), stream, config())


def test_history_is_csv_with_what_a_row_lacks_left_empty() -> None:
    history = History(({"epoch": 0, "loss": 0.5}, {"epoch": 1, "loss": 0.25, "val_loss": 0.75}))
    assert history.to_csv() == "chunk,epoch,loss,val_loss\n,0,0.5,\n,1,0.25,0.75\n"


RECORDING = """
import keras
import numpy as np

class Net(keras.Model):
    seen = []

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(1, activation="sigmoid")

    def call(self, inputs):
        return self.dense(keras.ops.concatenate(inputs, axis=1) if isinstance(inputs, tuple) else inputs)

    def fit(self, data, epochs=1, validation_data=None, **kwds):
        recorded = {name: [np.concatenate([np.concatenate([np.asarray(part) for part in
            (x if isinstance(x, tuple) else (x,))], axis=1) for x, _, _ in epoch]),
            *(np.concatenate([np.asarray(e[place]) for e in epoch]) for place in (1, 2))]
            for name, epoch in (("train", list(data)), ("validation", list(validation_data)))}
        Net.seen.append(recorded)
        return super().fit(data, epochs=epochs, validation_data=validation_data, **kwds)

def model(*given):
    net = Net()
    net.compile(loss="binary_crossentropy", optimizer="sgd")
    return net
"""


@pytest.mark.parametrize("inputs", ["matrix", "matrix+mask"])
@pytest.mark.parametrize("weighing", [{"class_weight": {0: 0.25, 1: 3.0}}, {"normalise_weights": True}])
def test_an_overridden_fit_gets_inputs_and_weights_of_the_config_in_epochs_mode(
    make_chunks: MakeChunks,
    make_events: Callable[..., Any],
    model_file: Callable[[str], Path],
    weighing: dict[str, Any],
    inputs: str,
) -> None:
    rng = np.random.default_rng(1)
    events = {
        (0, split): [{**event, "weight": float(np.float32(rng.uniform(0.5, 2)))} for event in make_events(n, seed=n)]
        for split, n in (("train", 70), ("validation", 33))
    }
    settings = config(inputs=inputs, shuffle=False, **weighing)
    chunks = make_chunks(events, weight=2.0)
    text = RECORDING.replace("model(*given)", "model(layout, config)" if "+" in inputs else "model(idim)")
    model = load_user_model(model_file(text), InputLayout.of(chunks.transform, settings.inputs), settings)
    fit(model, chunks.stream(), settings)
    given = {
        label: np.array([event["weight"] for event in events[0, "train"] if event["label"] == label])
        for label in (0.0, 1.0)
    }
    if "class_weight" in weighing:
        factors = weighing["class_weight"]
    else:
        mean = (given[0.0].sum() + given[1.0].sum()) / 2
        factors = {label: mean / weights.sum() for label, weights in given.items()}
    (recorded,) = type(model).seen
    for split, (x, y, weights) in recorded.items():
        matrix, mask = chunks.expected(split)
        np.testing.assert_allclose(x, np.hstack([matrix, mask]) if "+" in inputs else matrix, rtol=1e-5, atol=1e-6)
        labels = [event["label"] for event in events[0, split]]
        assert y.reshape(-1).tolist() == labels
        expected = [event["weight"] * factors[event["label"]] for event in events[0, split]]
        np.testing.assert_allclose(weights, expected, rtol=1e-5)


def test_an_overridden_fit_gets_the_callbacks_and_what_it_leaves_out_is_said(
    chunks: Chunks, model_file: Callable[[str], Path], caplog: pytest.LogCaptureFixture
) -> None:
    import keras

    ends: list[int] = []
    called = [keras.callbacks.LambdaCallback(on_train_end=lambda _: ends.append(1))]
    stream = chunks.stream()
    fit(
        load_user_model(model_file(own_fit()), InputLayout.of(stream.transform)),
        stream,
        config("chunks"),
        callbacks=called,
    )
    assert len(ends) == 3
    text = own_fit("return super().fit(x_train, y_train, verbose=0)", arguments="epochs=1", kwds="epochs")
    model = load_user_model(model_file(text), InputLayout.of(stream.transform))
    fit(model, stream, config("chunks", class_weight="balanced"), callbacks=called)
    assert "fit of Net takes no callbacks and no sample_weight: they are left out" in caplog.text
    assert len(ends) == 3
