"""Several workers, each a process of its own as on a cluster; threads of the test stand for Spark's tasks."""

from __future__ import annotations

import shutil
import textwrap
import threading
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from mlaas_spark.config import TrainConfig
from mlaas_spark.errors import ModelContractError
from mlaas_spark.ml import fit as fitting
from mlaas_spark.ml import parallel
from mlaas_spark.ml.callbacks import of_config
from mlaas_spark.ml.checkpoint import Keeper
from mlaas_spark.ml.inputs import InputLayout
from mlaas_spark.ml.meter import FIRST, FIT, HANDED, KERNEL, READ, TOGETHER
from mlaas_spark.ml.model import load_user_model
from mlaas_spark.ml.stream import ChunkStream
from mlaas_spark.usercode import UserFile
from tests.ml.conftest import TRANSFORM, events_of, write_chunks

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from mlaas_spark.ml.train import History
    from mlaas_spark.ml.worker import Launch
    from tests.ml.conftest import Chunks

pytestmark = pytest.mark.tensorflow

IDENTITY = {"data set": "that of the test"}


@dataclass(frozen=True)
class Member:
    """A task without Spark: a thread that knows of the others."""

    rank: int
    hosts: list[str]
    met: threading.Barrier
    said: dict[int, str]
    cpus: int = 1

    def gather(self, said: str) -> list[str]:
        self.said[self.rank] = said
        self.met.wait(900)
        return [self.said[rank] for rank in range(len(self.hosts))]


@dataclass
class Tasks:
    """As the barrier stage: the first error ends it. Counts how often it was asked."""

    stages: list[int] = field(default_factory=list)

    def __call__(self, workers: int, launch: Launch) -> list[str]:
        self.stages.append(workers)
        hosts, met, said = ["127.0.0.1"] * workers, threading.Barrier(workers), dict[int, str]()
        with ThreadPoolExecutor(workers) as pool:
            running = [pool.submit(launch, Member(rank, hosts, met, said)) for rank in range(workers)]
            done, _ = wait(running, return_when=FIRST_EXCEPTION)
            for future in done:
                future.result()
        return [future.result() for future in running]


def config(**settings: Any) -> TrainConfig:
    given = {"epochs": 3, "batch_size": 15, "threads": 1, "shards": 2, "patience": 900, **settings}
    return TrainConfig.model_validate(given)


@dataclass(frozen=True)
class Trained:
    """A model and what it went through."""

    model: Any
    history: History
    told: list[tuple[int, int]]
    stream: ChunkStream

    @property
    def weights(self) -> list[Any]:
        return list(self.model.get_weights())


def trained(chunks: Chunks, path: Path, settings: TrainConfig, keeper: Keeper | None = None) -> Trained:
    stream = ChunkStream.open(str(chunks.folder), TRANSFORM, settings.batch_size, settings.threads, settings.dealt)
    model = load_user_model(path, InputLayout.of(stream.transform), settings, seed=settings.seed)
    told: list[tuple[int, int]] = []

    def progress(done: int, total: int, row: Mapping[str, float]) -> None:
        assert "loss" in row
        told.append((done, total))

    if settings.workers == 1:
        called = of_config(settings.callbacks, path.parent, model)
        history = fitting.fit(model, stream, settings, callbacks=called, progress=progress, keeper=keeper)
    else:
        file = UserFile.read(path, ModelContractError)
        history = parallel.fit(model, stream, settings, file, Tasks(), progress=progress, keeper=keeper)
    return Trained(model, history, told, stream)


def same_curve(one: History, other: History) -> bool:
    """Equal within 1e-4 in all that a row holds."""
    return len(one.rows) == len(other.rows) and all(
        a.keys() == b.keys() and np.allclose(list(a.values()), list(b.values()), rtol=0, atol=1e-4)
        for a, b in zip(one.rows, other.rows, strict=True)
    )


# regularised, with a metric that is no mean, and a way for one of its processes to be killed in the second epoch
MODEL = """
    import os, signal
    import keras

    FLAG = {flag!r}

    def model(idim):
        net = keras.Sequential([
            keras.layers.Input((idim,)),
            keras.layers.Dense(8, activation="relu", kernel_regularizer=keras.regularizers.L2(0.01)),
            {layers}
            keras.layers.Dense(1, activation="sigmoid"),
        ])
        net.compile(
            loss="binary_crossentropy", optimizer=keras.optimizers.Adam(0.01, clipnorm=0.5),
            metrics=["accuracy"], weighted_metrics=[keras.metrics.AUC(name="auc")],
        )
        return net

    class Killed(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.epoch = epoch

        def on_train_batch_end(self, batch, logs=None):
            if FLAG and self.epoch == 1 and batch == 7:
                try:
                    os.close(os.open(FLAG, os.O_CREAT | os.O_EXCL))
                except FileExistsError:
                    return
                os.kill(os.getpid(), signal.SIGKILL)

    def callbacks():
        return [Killed()]
"""


def write_model(folder: Path, flag: Path | None = None, layers: str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "mine.py"
    path.write_text(textwrap.dedent(MODEL.format(flag=str(flag or ""), layers=layers)))
    return path


SETTINGS: dict[str, Any] = {
    "class_weight": "balanced",
    "callbacks": [{"ReduceLROnPlateau": {"monitor": "loss", "patience": 1, "min_delta": 1.0}}],
    "learning_rate": 0.02,
}


def weighted_chunks(folder: Path) -> Chunks:
    """Two chunks of weighted events, more of one class; their numbers fit no batch."""
    rng = np.random.default_rng(4)
    events = {
        (chunk, split): [
            {**event, "weight": float(np.float32(rng.uniform(0.2, 3)))}
            for event in events_of(count, seed=chunk + len(split), classes=3)
            if event["label"] < 2 or event["entry"] % 2
        ]
        for split, counts in {"train": (170, 121), "validation": (31, 20)}.items()
        for chunk, count in enumerate(counts)
    }
    for of_file in events.values():
        for event in of_file:
            event["label"] = min(event["label"], 1.0)
    return write_chunks(folder, events, weight=2.0)


@pytest.fixture(scope="module")
def weighted(tmp_path_factory: pytest.TempPathFactory) -> Chunks:
    return weighted_chunks(tmp_path_factory.mktemp("weighted") / "chunks")


@pytest.fixture(scope="module")
def alone(weighted: Chunks, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return trained(weighted, write_model(tmp_path_factory.mktemp("alone")), config(**SETTINGS))


@pytest.fixture(scope="module")
def together(weighted: Chunks, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return trained(weighted, write_model(tmp_path_factory.mktemp("together")), config(workers=2, **SETTINGS))


@pytest.fixture(scope="module")
def killed(weighted: Chunks, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a training that was killed in a worker, with its checkpoints, and what it said."""
    folder = tmp_path_factory.mktemp("killed")
    path = write_model(folder, folder / "flag")
    settings = config(workers=2, checkpoint={"steps": 4}, **SETTINGS)
    keeper = Keeper.of(str(folder / "checkpoints"), IDENTITY, settings.checkpoint, resume=False)
    with pytest.raises(ModelContractError) as error:
        trained(weighted, path, settings, keeper)
    assert keeper.written
    return folder, str(error.value)


def test_two_workers_go_through_what_one_does_with_the_same_batches(alone: Trained, together: Trained) -> None:
    assert {"loss", "accuracy", "auc", "val_loss", "val_auc"} <= alone.history.rows[0].keys()
    assert same_curve(alone.history, together.history)
    assert float(np.asarray(together.model.optimizer.learning_rate)) < 0.02  # the callback had something to do
    for one, other in zip(alone.weights, together.weights, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-4)


def test_the_optimizer_comes_back_too(alone: Trained, together: Trained, weighted: Chunks) -> None:
    pairs = zip(alone.model.optimizer.variables, together.model.optimizer.variables, strict=True)
    for one, other in pairs:
        np.testing.assert_allclose(np.asarray(one), np.asarray(other), rtol=0, atol=1e-4)
    steps = ChunkStream.open(str(weighted.folder), TRANSFORM, 15, 1, 2).steps("train")
    assert int(np.asarray(together.model.optimizer.iterations)) == 3 * steps


def test_progress_is_told_while_they_train(together: Trained) -> None:
    assert together.told == [(1, 3), (2, 3), (3, 3)]


def test_the_driver_knows_the_events_of_all_workers_and_where_their_time_went(together: Trained) -> None:
    assert together.stream.meter.events("train") == 3 * together.stream.events("train")
    assert all(together.stream.meter.seconds(part) > 0 for part in (HANDED, FIRST, FIT, TOGETHER, READ, KERNEL))
    parts = [together.stream.of_worker(worker, 2).own_events("train") for worker in range(2)]
    assert sum(parts) == together.stream.own_events("train") == together.stream.events("train")
    assert abs(parts[0] - parts[1]) <= 0.1 * sum(parts)


def test_nothing_of_the_training_stays_with_the_chunks(together: Trained, weighted: Chunks) -> None:
    assert together.history.rows
    assert not list(weighted.folder.glob("_training*"))


def test_a_killed_worker_ends_the_training_and_is_named(killed: tuple[Path, str]) -> None:
    folder, said = killed
    assert (folder / "flag").exists()
    assert "worker" in said
    assert "is gone" in said
    assert "--resume" in said


@pytest.mark.parametrize("workers", [2, 1])
def test_resumed_it_ends_as_if_nobody_had_been_killed(
    weighted: Chunks, killed: tuple[Path, str], together: Trained, tmp_path: Path, workers: int
) -> None:
    folder, _ = killed
    shutil.copytree(folder / "checkpoints", tmp_path / "checkpoints")
    settings = config(workers=workers, checkpoint={"steps": 4}, **SETTINGS)
    keeper = Keeper.of(str(tmp_path / "checkpoints"), IDENTITY, settings.checkpoint, resume=True)
    assert keeper.resumed is not None
    assert keeper.resumed.position.turn == 1
    resumed = trained(weighted, folder / "mine.py", settings, keeper)
    assert same_curve(resumed.history, together.history)
    for one, other in zip(resumed.weights, together.weights, strict=True):
        if workers == 2:
            assert np.array_equal(one, other)
        else:
            np.testing.assert_allclose(one, other, rtol=0, atol=1e-4)


def test_dropout_and_batch_normalisation_leave_the_workers_with_equal_weights(weighted: Chunks, tmp_path: Path) -> None:
    layers = "keras.layers.BatchNormalization(), keras.layers.Dropout(0.3),"
    # a batch of 97 in 3 shards on 2 workers: the last batches are short, or none of a worker's
    settings = config(workers=2, shards=3, batch_size=97, epochs=4, mode="chunks")
    made = trained(weighted, write_model(tmp_path, layers=layers), settings)
    assert len(made.history.rows) == 8
    moving_mean = made.model.layers[1].moving_mean
    assert np.abs(np.asarray(moving_mean)).max() > 0


def test_an_error_of_one_worker_is_that_of_the_training(weighted: Chunks, tmp_path: Path) -> None:
    path = write_model(tmp_path)
    path.write_text(path.read_text().replace("def model(idim):", "def model(idim):\n    raise_on_workers()"))
    text = path.read_text()
    driver = tmp_path / "driver.py"
    path.write_text("import os, sys\ndef raise_on_workers():\n    raise OSError('no licence here')\n" + text)
    driver.write_text("def raise_on_workers(): pass\n" + text)
    stream = ChunkStream.open(str(weighted.folder), TRANSFORM, 15, 1, 2)
    model = load_user_model(driver, InputLayout.of(stream.transform))
    with pytest.raises(ModelContractError, match=r"mine\.py, line \d+: OSError: no licence here"):
        parallel.fit(model, stream, config(workers=2), UserFile.read(path, ModelContractError), Tasks())


@pytest.mark.parametrize(
    ("loss", "body", "said"),
    [
        ("'mse'", "def fit(self, x, y): pass", "Net has a fit of its own"),
        ("keras.losses.MeanSquaredError('sum')", "pass", "mean_squared_error has the reduction 'sum'"),
    ],
)
def test_what_several_workers_cannot_train_is_refused_before_they_start(
    chunks: Chunks, model_file: Callable[[str], Path], loss: str, body: str, said: str
) -> None:
    path = model_file(f"""
    import keras

    class Net(keras.Sequential):
        {body}

    def model(idim):
        net = Net([keras.layers.Input((idim,)), keras.layers.Dense(1)])
        net.compile(loss={loss}, optimizer="sgd")
        return net
    """)
    tasks = Tasks()
    stream = ChunkStream.open(str(chunks.folder), TRANSFORM, 16, 1, 2)
    model = load_user_model(path, InputLayout.of(stream.transform))
    with pytest.raises(ModelContractError, match=said):
        parallel.fit(model, stream, config(workers=2), UserFile.read(path, ModelContractError), tasks)
    assert tasks.stages == []


def test_a_worker_that_runs_out_of_memory_ends_the_training_and_is_named(weighted: Chunks, tmp_path: Path) -> None:
    path = write_model(tmp_path)
    before = "        if FLAG and"
    text = path.read_text()
    assert before in text
    hungry = """\
        if self.epoch == 1 and batch == 3:
            used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30),) * 2)  # TensorFlow's threads are not to meet it
            bytearray(4 << 30)
"""
    path.write_text(text.replace(before, hungry + before))
    path.write_text("import resource\n" + path.read_text())
    ended: list[BaseException] = []

    def train() -> None:
        try:
            trained(weighted, path, config(workers=2, **SETTINGS))
        except BaseException as error:  # noqa: BLE001 - looked at below
            ended.append(error)

    watched = threading.Thread(target=train, daemon=True)
    watched.start()
    watched.join(1800)
    assert not watched.is_alive(), "it hangs"
    (error,) = ended
    assert isinstance(error, ModelContractError)
    assert "a callback failed in epoch 1, batch 3: MemoryError" in str(error)
