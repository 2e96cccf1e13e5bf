"""The verb train: from files to a run folder."""

from __future__ import annotations

import importlib
import json
import logging
import os
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from mlaas_spark import runs, storage
from mlaas_spark.errors import ConfigError, ModelContractError
from mlaas_spark.filesets import fileset
from mlaas_spark.pipeline import opening, preparing
from mlaas_spark.pipeline.fitting import Fitting
from mlaas_spark.pipeline.publishing import fit_and_publish
from mlaas_spark.pipeline.underway import Place, Prepared, Underway
from mlaas_spark.transform import FeatureTransform
from mlaas_spark.usercode import UserFile

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyspark.sql import SparkSession

    from mlaas_spark.branch_specs import SpecsFile
    from mlaas_spark.config import Config
    from mlaas_spark.ml.checkpoint import Keeper
    from mlaas_spark.pipeline.publishing import RunResult
    from mlaas_spark.runs import Journal
    from mlaas_spark.spark.ingest import Events
    from mlaas_spark.usercode import UserModule

_log = logging.getLogger(__name__)


def train(
    config: Config, journal: Journal, command: str = "", save_as: str | None = None, *, resume: bool = False
) -> RunResult:
    """The whole way: files to specs, chunks, a trained model, metrics and a bundle, in a run folder of its own.

    Args:
        config: The resolved config.
        journal: Told of each stage.
        command: What the user typed, for run.json and the report.
        save_as: Path or URL under which the model is also written (``.keras``, ``.h5``, ``.pb``).
        resume: Go on from the newest checkpoint of a training of this name that was interrupted.

    Raises:
        MlaasSparkError: One of its kinds for whatever a user can mend; then no run folder is left.
    """
    model_file(config)
    fileset(config.input)  # what costs nothing to check is checked before anything starts
    save_as = _free(save_as) if save_as else None
    with runs.working_folder(storage.join(storage.absolute(config.runs), config.name)) as work:
        return _train(config, journal, Place(work, command, save_as, datetime.now(UTC), resume))


def model_file(config: Config) -> UserFile:
    """The user's file with the model, read and parsed, not run.

    Raises:
        ConfigError: The config names none.
        ModelContractError: It cannot be read, or is no Python.
    """
    if config.train.model is None:
        msg = "no model: name a Python file with model(idim) by train.model of the config or --model"
        raise ConfigError(msg)
    user = UserFile.read(str(config.train.model), ModelContractError)
    user.check_syntax(ModelContractError)
    return user


def _free(save_as: str) -> str:
    """The model file with its folder; ConfigError if a folder is in its place on a server, where it would stay."""
    target = storage.absolute(save_as)
    if storage.local_path(target) is None and storage.is_folder(target):
        msg = f"{save_as} is a folder: choose another name for the model"
        raise ConfigError(msg)
    return target


def _train(config: Config, journal: Journal, place: Place) -> RunResult:
    # first of all what keeps TensorFlow quiet, which the user's file is about to import
    from mlaas_spark.ml.callbacks import set_learning_rate
    from mlaas_spark.ml.checkpoint import Keeper
    from mlaas_spark.ml.model import run_model_file

    checkpoints = _checkpoints(config, place)
    if config.export.onnx:
        from mlaas_spark.ml import onnx

        onnx.check_installed()
    user = model_file(config)
    spark = opening.start_spark(config, journal, meanwhile=_import_keras)
    with journal.stage("model file"):
        module = run_model_file(user, config.train.seed)
    events = opening.open_files(config, journal, spark=spark)
    made, counted = preparing.specs_of(config, events, journal)
    transform = FeatureTransform.of(made.specs, config.features)
    _log_cuts(made, transform)
    with journal.stage("build model"):
        model = _built(config, module, transform, events)
    folder = storage.absolute(_chunk_folder(config, counted, made))
    manifest = preparing.build_chunks(config, counted, made, folder, journal)
    data = Prepared(counted.plan, made, transform, manifest, folder, user.digest)
    set_learning_rate(model, config.train)
    identity = _identity(config, user, data)
    keeper = Keeper.of(checkpoints, identity, config.train.checkpoint, resume=place.resume)
    if keeper.resumed:
        at = keeper.resumed.position
        journal.say(f"goes on after {at.step:,} batches, with pass {at.turn + 1}, batch {at.batch + 1}")
    wanted = Fitting(model, module, keeper, checkpoints, config.train.callbacks)
    with _told_how_to_go_on(keeper, journal, place.command):
        return fit_and_publish(Underway(config, journal, data, place), wanted)


def _built(config: Config, module: UserModule, transform: FeatureTransform, events: Events) -> Any:
    """The user's model; what would fail after hours is looked for now.

    Raises:
        ModelContractError: It is no model, or does not go with the labels or with workers.
    """
    from mlaas_spark.ml.fit import check_answers
    from mlaas_spark.ml.inputs import InputLayout
    from mlaas_spark.ml.model import load_user_model

    inputs = InputLayout.of(transform, config.train.inputs)
    model = load_user_model(module, inputs, config.train, seed=config.train.seed)
    labels = {file.label for file in events.plan.files if file.label is not None}
    if labels and not config.input.label and not config.input.targets:
        check_answers(model, inputs, labels)
    if config.train.workers > 1:
        _check_together(config, model, events.spark)
    return model


def _chunk_folder(config: Config, events: Events, made: SpecsFile) -> str:
    """That of the config, or one for all trainings of this name that would make the same chunks."""
    if config.chunks.folder:
        return config.chunks.folder
    return storage.join(config.runs, config.name, "chunks", preparing.chunk_digest(config, events, made)[:16])


def _import_keras() -> None:
    """It takes seconds, in which Spark starts; what fails is said by who needs it."""
    with suppress(ImportError):
        importlib.import_module("keras")


def _checkpoints(config: Config, place: Place) -> str:
    """The folder for the checkpoints of a training: a new one, or to resume that of the newest interrupted one.

    Raises:
        ConfigError: There is none to resume.
    """
    home = storage.join(storage.absolute(config.runs), config.name, "checkpoints")
    from mlaas_spark.ml.checkpoint import Checkpoints

    names = sorted(storage.children(home)) if storage.exists(home) else []
    there = [name for name in names if Checkpoints(storage.join(home, name)).names()]
    if not place.resume:
        return storage.join(home, f"{place.started:%Y%m%dT%H%M%SZ}-{os.getpid()}")
    if not there:
        msg = f"nothing to resume: {home} has no checkpoints; train without --resume"
        raise ConfigError(msg)
    return storage.join(home, there[-1])


def _identity(config: Config, user: UserFile, data: Prepared) -> dict[str, str]:
    """What trains on what, for checkpoints: all that changes the weights."""
    free = {"model", "checkpoint", "threads", "verbose", "mlflow", "workers", "patience"}
    kept = {name: value for name, value in config.public()["train"].items() if name not in free}
    settings = {**kept, "shards": config.train.dealt}
    return {
        "data set": data.manifest.content_digest[:12],
        "features": data.transform.digest()[:12],
        "model file": user.digest[:12],
        **{f"train.{name}": json.dumps(value) for name, value in settings.items()},
    }


@contextmanager
def _told_how_to_go_on(keeper: Keeper, journal: Journal, command: str) -> Iterator[None]:
    """Whatever ends a training, say that there is a checkpoint, and the command that goes on from it."""
    try:
        yield
    except BaseException:
        if keeper.written:
            again = f": {command}{'' if '--resume' in command.split() else ' --resume'}" if command else ""
            journal.say(f"its last checkpoint is in {keeper.checkpoints.folder}; go on from it with --resume{again}")
        raise


def _check_together(config: Config, model: Any, spark: SparkSession) -> None:
    """Workers can train the model, and there is room for them: said before anything else is done."""
    from mlaas_spark.ml.parallel_learner import check_parallel
    from mlaas_spark.spark.barrier import check_slots

    check_parallel(model)
    check_slots(spark, config.train.workers)


def _log_cuts(made: SpecsFile, transform: FeatureTransform) -> None:
    """Say how many values the caps will cut."""
    for name, dim in transform.layout.dims:
        stats = made.specs[name]
        if stats.jagged and (cut := stats.cut(dim)):
            _log.warning("%s: %d of %d values are cut at %d an event", name, cut, stats.count, dim)
