"""A model trained on its chunks, here or by workers on executors, and made a Keras model."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from mlaas_spark import storage
from mlaas_spark.bottleneck import Streamed
from mlaas_spark.errors import ExportError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mlaas_spark.config import Config
    from mlaas_spark.ml.checkpoint import Keeper
    from mlaas_spark.ml.stream import ChunkStream
    from mlaas_spark.ml.train import History
    from mlaas_spark.pipeline.underway import Underway
    from mlaas_spark.runs import Journal, Stage
    from mlaas_spark.usercode import UserModule


@dataclass(frozen=True)
class Fitting:
    """A model to be trained, and where its checkpoints lie."""

    model: Any
    module: UserModule
    keeper: Keeper
    checkpoints: str
    callbacks: tuple[dict[str, dict[str, Any]], ...]

    def files(self, work: Path) -> Path:
        """Where callbacks write: beside the checkpoints, for a resumed training to find; in the run if these are far.

        Args:
            work: Where the run is written.
        """
        local = storage.local_path(self.checkpoints)
        if local is None or not self.callbacks:
            return work
        (local / "files").mkdir(parents=True, exist_ok=True)
        return local / "files"

    def move_files(self, work: Path) -> None:
        """What callbacks wrote beside the checkpoints comes into the run."""
        if (written := self.files(work)) != work:
            for path in sorted(written.iterdir()):
                shutil.move(path, work / path.name)


@dataclass(frozen=True)
class Fitted:
    """What a training leaves.

    Attributes:
        model: A Keras model.
        stream: The chunks that it has learned from.
        history: Of the training.
    """

    model: Any
    stream: ChunkStream
    history: History


def fit(run: Underway, fitting: Fitting) -> Fitted:
    """Train, and make what has learned a Keras model.

    Raises:
        ExportError: A model of another library cannot be one; what it has learned is in a file beside the runs.
        MlaasSparkError: One of its kinds for whatever else a user can mend.
    """
    from mlaas_spark.ml.stream import ChunkStream
    from mlaas_spark.ml.train import events_learned

    config, data = run.config, run.data
    stream = ChunkStream.open(
        data.folder, data.transform, config.train.batch_size, config.train.threads, config.train.dealt
    )
    with run.journal.stage("train") as stage:
        before = _measure(stage, stream, config, fitting.keeper)
        history = _learned(run, stream, fitting)
        stage.events = events_learned(stream, history.rows) - before
        stage.deal = Streamed.of(stream.meter.parts()).parts
    model = _in_keras(fitting.model, stream, config, f"{run.folder}.npz", run.work)
    return Fitted(model, stream, history)


def _learned(run: Underway, stream: ChunkStream, fitting: Fitting) -> History:
    """Train here, or by workers on the executors."""
    from mlaas_spark.ml import callbacks, parallel
    from mlaas_spark.ml import fit as training
    from mlaas_spark.spark.barrier import together
    from mlaas_spark.spark.session import session

    config, model, keeper, files = run.config, fitting.model, fitting.keeper, fitting.files(run.work)
    progress = _told(run.journal)
    if config.train.workers == 1:
        called = callbacks.of_training(model, fitting.callbacks, files, fitting.module)
        return training.fit(model, stream, config.train, callbacks=called, progress=progress, keeper=keeper)
    start = partial(together, session(config.spark, config.name))
    return parallel.fit(
        model, stream, config.train, fitting.module.file, start, progress=progress, keeper=keeper, files=files
    )


def _told(journal: Journal) -> Callable[[int, int, Any], None]:
    def told(done: int, total: int, row: Any) -> None:
        shown = ", ".join(f"{key} {value:.4f}" for key, value in row.items() if key not in {"chunk", "epoch"})
        journal.say(f"  train {done}/{total}: {shown}")

    return told


def _measure(stage: Stage, stream: ChunkStream, config: Config, keeper: Keeper) -> int:
    """Let a training tell how far it is, as the stream tells; how many events it has behind it, where it goes on."""
    from mlaas_spark.ml.train import events_before

    before = events_before(stream, config.train, keeper.resumed.position) if keeper.resumed else 0
    stage.total = stream.events("train") * config.train.epochs
    stage.measure = partial(_share_trained, stream, stage.total, before, stream.meter.events("train"))
    return before


def _share_trained(stream: ChunkStream, total: int, before: int, delivered: int) -> float | None:
    """Of the events of a training that the stream has delivered; more may wait than were learned from.

    None before the first: what the library needs to begin is no pace.
    """
    new = stream.meter.events("train") - delivered
    return min((before + new) / max(total, 1), 1.0) if new else None


def _in_keras(model: Any, stream: ChunkStream, config: Config, kept: str, work: Path) -> Any:
    """The Keras model to go on with; of another library's model what it has learned is kept beside it.

    Raises:
        ExportError: There is none; then what was learned is in the file ``kept``.
    """
    from mlaas_spark.ml import rebuilt
    from mlaas_spark.ml.model import is_keras

    if is_keras(model):
        return model
    content = rebuilt.to_npz(model)
    try:
        made = rebuilt.keras_model(model, stream, config.train)
    except ExportError as error:
        storage.write_atomic(kept, content)
        msg = f"{error}; what it has learned is in {kept}, see docs/models.md"
        raise ExportError(msg) from error
    (work / rebuilt.FILE).write_bytes(content)
    return made
