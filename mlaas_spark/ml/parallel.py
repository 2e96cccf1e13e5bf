"""Training on several workers of a cluster: on the driver what they are to do, and the model that comes back.

Each worker is a process of its own (:mod:`mlaas_spark.ml.worker`). They share a folder for the time of the training:
``start.npz``, the state that all begin with, ``rows.json`` and ``done.json``, how far it is (the history, the events
of all workers), and ``end.npz``, the trained state.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import threading
import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mlaas_spark import storage
from mlaas_spark.errors import ModelContractError, UnreadableInputError, UnwritableOutputError
from mlaas_spark.ml.fit import checked_examples, learner_of
from mlaas_spark.ml.parallel_learner import check_parallel
from mlaas_spark.ml.train import TRAIN, History, nobody_looks
from mlaas_spark.ml.worker import DONE, END, FILES, ROWS, START, Job, Launch, packed, unpacked

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from mlaas_spark.config import TrainConfig
    from mlaas_spark.ml.checkpoint import Keeper
    from mlaas_spark.ml.meter import Meter
    from mlaas_spark.ml.stream import ChunkStream
    from mlaas_spark.ml.train import Progress
    from mlaas_spark.usercode import UserFile

    Together = Callable[[int, Launch], list[str]]
    """Runs a function on so many executors at once; what each returns."""

_log = logging.getLogger("mlaas_spark")

_LOOK_S = 0.5  # how often the driver looks for new rows of the history


def fit(
    model: Any,
    stream: ChunkStream,
    config: TrainConfig,
    file: UserFile,
    together: Together,
    *,
    progress: Progress | None = None,
    keeper: Keeper | None = None,
    files: Path | None = None,
) -> History:
    """Fit ``model`` in place on the training split, by ``config.workers`` workers.

    With the same shards it learns from the same batches as by :func:`mlaas_spark.ml.fit.fit`.

    Args:
        model: A compiled Keras model or one of torch, that of ``file``; the workers begin with its weights.
        stream: The chunks, in as many shards as the config says; all workers can read its folder, worker 0 write there.
        config: How.
        file: The user's file, which makes the model on the workers.
        together: Starts the workers.
        progress: Told after each pass.
        keeper: Where worker 0 writes checkpoints, and what to go on from.
        files: A folder for what the callbacks of worker 0 write.

    Raises:
        ModelContractError: Labels, weights and model do not fit together, the model fails, the loss is not a number, or
            a worker is lost.
        ChunkError: The chunks cannot be read.
    """
    import keras

    check_parallel(model)
    examples = checked_examples(model, stream, config)
    learner = learner_of(model, examples, stream, config)
    keras.utils.set_random_seed(config.seed)
    learner.begin(0)
    with _folder(stream.folder) as folder, _kept(keeper):
        storage.write_atomic(storage.join(folder, START), packed(learner.state()))
        job = Job.of(stream, config, file, examples.factors, folder, keeper)
        with _watched(folder, progress or nobody_looks, stream.meter):
            answers = together(config.workers, Launch(job.to_json(), config.patience))
        answer, *others = map(json.loads, answers)
        for worker in (answer, *others):  # seconds of one worker are those of the mean
            stream.meter.spent({part: of / len(answers) for part, of in worker["seconds"].items()})
        content = storage.read_bytes(storage.join(folder, END))
        if files and storage.exists(written := storage.join(folder, FILES)):
            with storage.local_copy(written) as copy:
                shutil.copytree(copy, files, dirs_exist_ok=True)
    if hashlib.sha256(content).hexdigest() != answer["sha256"]:
        msg = f"the weights in {folder} are not those that worker 0 has written: its disk is not the driver's"
        raise ModelContractError(msg)
    learner.restore(unpacked(content))
    return History(tuple(answer["rows"]), examples.totals)


@contextmanager
def _folder(chunks: str) -> Iterator[str]:
    """A folder that all workers see, as they see the chunks; removed at the end."""
    folder = storage.join(chunks, f"_training-{uuid.uuid4().hex}")
    storage.make_folder(folder)
    try:
        yield folder
    finally:
        try:
            storage.remove(folder)
        except (UnreadableInputError, UnwritableOutputError) as error:  # which hides no error that led here
            _log.warning("%s is left, remove it: %s", folder, error.why)


@contextmanager
def _kept(keeper: Keeper | None) -> Iterator[None]:
    """Another process writes the checkpoints, into a folder that is there so that it can see whether it sees it."""
    if keeper is None:
        yield
        return
    storage.make_folder(keeper.checkpoints.folder)
    try:
        yield
    except BaseException:
        if not keeper.checkpoints.names():
            keeper.checkpoints.remove()
        raise
    finally:
        keeper.written = keeper.written or bool(keeper.checkpoints.names())


@contextmanager
def _watched(folder: str, progress: Progress, meter: Meter) -> Iterator[None]:
    """Meanwhile ``progress`` is told of each new row of the history that worker 0 writes there, the meter of events."""
    done = threading.Event()
    rows, events = storage.join(folder, ROWS), storage.join(folder, DONE)
    told = seen = 0

    def tell() -> None:
        nonlocal told, seen
        if storage.exists(events):
            newest = max(seen, int(json.loads(storage.read_bytes(events))))
            meter.add(TRAIN, newest - seen)
            seen = newest
        if storage.exists(rows):
            for number, total, row in json.loads(storage.read_bytes(rows))[told:]:
                progress(number, total, row)
                told += 1

    def watch() -> None:
        while not done.wait(_LOOK_S):
            try:
                tell()
            except UnreadableInputError as error:
                _log.warning("the progress of the training is not known any more: %s", error)
                return

    watcher = threading.Thread(target=watch, name="progress", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
    tell()
