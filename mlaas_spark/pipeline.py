"""Wires the verbs: config in, files out. The only module that sees both Spark and TensorFlow; no logic of its own."""

from __future__ import annotations

import importlib
import json
import logging
import os
import re
import shutil
from collections import Counter
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatchcase as fnmatch
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlaas_spark import manifest as manifests
from mlaas_spark import plots, runs, skipping, storage
from mlaas_spark.config import Format
from mlaas_spark.errors import (
    BranchNotFoundError,
    ChunkError,
    ConfigError,
    ExportError,
    ModelContractError,
    ServingError,
    SpecsError,
    SpecsMismatchError,
    UnreadableInputError,
    UnwritableOutputError,
    reason,
)
from mlaas_spark.estimate import Asked, Probe, Streaming, estimate
from mlaas_spark.fileset import fileset
from mlaas_spark.inspection import Headers, Inspection
from mlaas_spark.schema import column_name
from mlaas_spark.selection import Expression
from mlaas_spark.specs import SpecsFile
from mlaas_spark.transform import FeatureTransform
from mlaas_spark.usercode import UserFile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from pyspark.sql import SparkSession

    from mlaas_spark.config import Config
    from mlaas_spark.drift import Ranges
    from mlaas_spark.estimate import Estimate
    from mlaas_spark.manifest import Manifest
    from mlaas_spark.ml.bundle import Contents
    from mlaas_spark.ml.checkpoint import Keeper
    from mlaas_spark.ml.stream import ChunkStream
    from mlaas_spark.ml.train import History
    from mlaas_spark.plan import Plan
    from mlaas_spark.runs import Journal, Work
    from mlaas_spark.serving.alias import Alias
    from mlaas_spark.serving.client import Client, Form
    from mlaas_spark.serving.deploy import Archive, Proof
    from mlaas_spark.skipping import Skipped
    from mlaas_spark.spark.ingest import Events

_log = logging.getLogger(__name__)

_KERAS = ".keras"
_READY = 3  # row groups of a thread that are decoded, waiting or in use
SAMPLE = 25_000
"""Entries that inspect reads unless it is told how many."""


@dataclass(frozen=True)
class RunResult:
    """A finished training run; its folder, bundle and the bundle's tar by path or URL.

    ``archives`` has the tars of all bundles by what they take, ``raw`` or ``features``; ``bundle`` and ``archive`` are
    the first, which is to be served.
    """

    folder: str
    bundle: str
    archive: str
    metrics: dict[str, Any]
    entries: int
    events: int
    width: int
    left_out: int
    chunks: str
    saved: str | None = None
    archives: Mapping[str, str] = field(default_factory=dict)


def inspect_headers(config: Config, journal: Journal) -> Headers:
    """Open the files; read no events."""
    return _headers(config, _open(config, journal), journal)


def inspect(config: Config, journal: Journal) -> Inspection:
    """Open the files and read so many entries as the config says (:data:`SAMPLE` if it does not), selected or not."""
    from mlaas_spark.spark import inspection as inspecting

    if config.input.selection:
        journal.say(f"inspect shows all entries: the selection {config.input.selection!r} is not applied")
    sampling = {"events": config.input.events or SAMPLE, "selection": None}
    config = config.model_copy(update={"input": config.input.model_copy(update=sampling)})
    events = _open(config, journal)
    headers = _headers(config, events, journal)
    with journal.stage("read events") as stage:
        specs, readings = inspecting.read(events)
        stage.events = specs.events
    return Inspection(headers, specs, tuple(_candidates(config, events)), readings, stage.seconds)


def _headers(config: Config, events: Events, journal: Journal) -> Headers:
    from mlaas_spark.spark.inspection import on_disk

    with journal.stage("look up sizes"):
        files, compressed = on_disk(events)
    return Headers(events.plan, files, compressed, _keys(config, events))


@dataclass(frozen=True)
class Planned:
    """What a job would read.

    Attributes:
        plan: Files and entry ranges.
        partitions: In how many Spark tasks.
        bytes: Size of the file of each input; trees of one file share it.
    """

    plan: Plan
    partitions: int
    bytes: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        sizes = [r.entries for r in self.plan.ranges]
        ranges = Counter(r.file for r in self.plan.ranges)
        return {
            "files": [
                {"path": file.path, "tree": file.tree, "entries": file.entries, "ranges": ranges[index], "bytes": size}
                for index, (file, size) in enumerate(zip(self.plan.files, self.bytes, strict=True))
            ],
            "entries": self.plan.entries,
            "bytes": sum({file.path: size for file, size in zip(self.plan.files, self.bytes, strict=True)}.values()),
            "ranges": len(sizes),
            "partitions": self.partitions,
            "largest": max(sizes),
            "mean": sum(sizes) / len(sizes),
        }


def plan(config: Config, journal: Journal) -> Planned:
    """Open the files and cut them into ranges, as every job begins; read no events."""
    return _planned(config, _open(config, journal))


def _planned(config: Config, events: Events) -> Planned:
    from mlaas_spark.spark.session import partitions

    sizes = {path: storage.size(path, config.input.patience) for path in {file.path for file in events.plan.files}}
    of_inputs = tuple(sizes[file.path] for file in events.plan.files)
    return Planned(events.plan, partitions(events.spark, len(events.plan.ranges)), of_inputs)


@dataclass(frozen=True)
class Explained:
    """What a job would read, and what it would take."""

    planned: Planned
    estimate: Estimate

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {**self.planned.to_json(), **self.estimate.to_json()}


def explain(config: Config, journal: Journal, cores: int | None = None, out: str | None = None) -> Explained:
    """Say what jobs of the config would take: a short probe runs the verbs on samples of their ranges.

    Args:
        config: The resolved config.
        journal: Told of each stage.
        cores: That the jobs would have; None is those of the session.
        out: Where a job would write: the probe writes there too, into a folder of its own that it removes; None is
            the folder of the runs.
    """
    events = _open(config, journal, text=True)
    planned = _planned(config, events)
    place = storage.absolute(out or config.runs)
    wanted = cores or events.spark.sparkContext.defaultParallelism
    with runs.working_folder(place) as work:
        probe = _probed(config, events, work.unfinished, wanted, journal)
    return Explained(planned, estimate(events.plan, planned.bytes, probe, _asked(config, wanted)))


def _asked(config: Config, cores: int) -> Asked:
    from mlaas_spark.spark.chunks import part_events, row_group_events

    size, split = config.chunks.size, config.chunks.split
    return Asked(
        cores=cores,
        target=config.spark.events_per_task,
        part=part_events(size),
        chunk=None if size == "all" else size,
        layout=config.chunks.layout,
        whole_chunks=config.train.mode == "chunks",
        training=split.train + split.validation,
        epochs=config.train.epochs,
        ready=config.train.threads * _READY * row_group_events(config.train.batch_size),
    )


def _probed(config: Config, events: Events, folder: str, cores: int, journal: Journal) -> Probe:
    from mlaas_spark.ml.stream import ChunkStream, passes
    from mlaas_spark.spark import probe as probing
    from mlaas_spark.spark.chunks import dense_bytes

    started, opened = (stage.seconds for stage in journal.stages[-2:])
    samples, numeric = probing.Samples.of(events), probing.numeric(events)
    with journal.stage("measure convert and specs") as stage:
        features, quantiles = _features(config, numeric), _quantiles(config, numeric)
        read = probing.read(events, samples, folder, config.convert, features, quantiles)
        stage.events = read.convert.entries + read.specs.entries
    made = _read_specs(config.features.specs) if config.features.specs else read.specs.made
    request = _chunk_request(config, numeric, made)
    with journal.stage("measure chunks") as stage:
        chunked = probing.chunked(numeric, samples, folder, request, read.in_memory)
        stage.events = chunked.verb.made.rows
    with journal.stage("measure the stream") as stage:
        stream = ChunkStream.open(chunked.folder, request.transform, config.train.batch_size, config.train.threads)
        first, again, some = passes(stream, config.train.seed if config.train.shuffle else None)
        stage.events = chunked.verb.made.rows
    memory = probing.memory(events.spark, read, chunked)
    written = read.convert.made
    return Probe(
        cores=samples.cores,
        start=started,
        opened=opened,
        convert=read.convert.timing,
        specs=read.specs.timing,
        chunks=chunked.verb.timing,
        stream=Streaming(first, again, chunked.verb.made.rows),
        kept=written.rows / read.convert.entries,
        in_memory=read.in_memory,
        converted=sum(file.bytes for file in written.files) / written.rows,
        compact=chunked.compact,
        dense=chunked.beside + dense_bytes(some.matrix, some.mask, config.train.batch_size) / len(some),
        width=request.transform.width,
        partials=read.partials,
        entries=max(read.convert.entries, read.specs.entries, chunked.verb.entries),
        memory=memory,
        room=probing.room(events.spark, place=folder, cores=cores),
    )


def convert(config: Config, folder: str, journal: Journal, *, retry_skipped: bool = False) -> Manifest:
    """Write the selected events as a Parquet data set with a manifest; or only what an earlier run has skipped."""
    from mlaas_spark.spark import convert as converting

    target = storage.absolute(folder)
    only = _skipped_before(target, journal) if retry_skipped else None
    events = _open(config, journal, text=True, only=only)
    with journal.stage("convert") as stage:
        before = manifests.present(target)
        manifest = converting.convert(events, target, config.convert, retry=retry_skipped)
        stage.events = manifest.ledger["entries"]
        stage.remark = str(converting.Changes.between(before.inputs if before else (), manifest.inputs))
    _tell_skipped(config, manifest.skipped, target, journal)
    return manifest


def _skipped_before(folder: str, journal: Journal) -> set[str]:
    """Paths of the files that a data set has something of, or has skipped.

    Raises:
        ChunkError: There is no data set.
    """
    before = manifests.read(folder)
    if not before.skipped:
        journal.say(f"{folder}: nothing was skipped")
    return {item.path for item in before.inputs} | {item.path for item in before.skipped}


def _tell_skipped(config: Config, skipped: Sequence[Skipped], folder: str, journal: Journal) -> None:
    """Say what was skipped, and write it beside the manifest."""
    file = storage.join(folder, skipping.FILE)
    if skipped or config.input.bad_files == "skip" or storage.exists(file):
        storage.write_atomic(file, skipping.dumps(skipped).encode())
    _say_skipped(skipped, file, journal)


def _say_skipped(skipped: Sequence[Skipped], file: str, journal: Journal) -> None:
    if skipped:
        journal.say(f"{skipping.summary(skipped)}, see {file}: {skipping.told(skipped)}")


def specs(config: Config, target: str, journal: Journal, *, retry_skipped: bool = False) -> SpecsFile:
    """Compute specs and write them to ``target``; specs of an earlier run there save reading its files again.

    What an earlier run has skipped of a file is not read again either, unless ``retry_skipped``: then these files are.
    """
    from mlaas_spark.spark import specs as computing

    events = _open(config, journal)
    target = storage.absolute(target)
    known = _read_specs(target) if storage.exists(target) else None
    if known is not None and not retry_skipped and config.input.bad_files == "skip":
        events = events.without(item for item in known.skipped if item.key in known.by_file)
    with journal.stage("specs") as stage:
        made, _ = computing.compute(events, _features(config, events), _quantiles(config, events), known)
        stage.events = made.specs.events
    storage.write_atomic(target, made.dumps().encode())
    _say_skipped(made.skipped, target, journal)
    return made


def chunks(config: Config, folder: str, journal: Journal) -> Manifest:
    """Write the chunk data set of the config, with specs.json beside its manifest's folder."""
    events = _open(config, journal)
    made, counted = _specs(config, events, journal)
    manifest = _chunks(config, counted, made, storage.absolute(folder), journal)
    _say_skipped(manifest.skipped, storage.join(folder, skipping.FILE), journal)
    return manifest


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
    if config.train.model is None:
        msg = "no model: name a Python file with model(idim) by train.model of the config or --model"
        raise ConfigError(msg)
    fileset(config.input)  # what costs nothing to check is checked before anything starts
    save_as = _free(save_as) if save_as else None
    with runs.working_folder(storage.join(storage.absolute(config.runs), config.name)) as work:
        return _train(config, journal, _Place(work, command, save_as, datetime.now(UTC), resume))


def _free(save_as: str) -> str:
    """The model file with its folder; ConfigError if a folder is in its place on a server, where it would stay."""
    target = storage.absolute(save_as)
    if storage.local_path(target) is None and storage.is_folder(target):
        msg = f"{save_as} is a folder: choose another name for the model"
        raise ConfigError(msg)
    return target


@dataclass(frozen=True)
class _Place:
    """Where a run is written, who asked for it and when."""

    work: Work
    command: str
    save_as: str | None
    started: datetime
    resume: bool


@dataclass(frozen=True)
class _Prepared:
    """What the Spark side leaves for training."""

    plan: Plan
    specs: SpecsFile
    transform: FeatureTransform
    manifest: Manifest
    folder: str


def _train(config: Config, journal: Journal, place: _Place) -> RunResult:
    # first of all what keeps TensorFlow quiet, which the user's file is about to import
    from mlaas_spark.ml.callbacks import set_learning_rate
    from mlaas_spark.ml.checkpoint import Keeper
    from mlaas_spark.ml.fit import check_answers
    from mlaas_spark.ml.inputs import InputLayout
    from mlaas_spark.ml.model import load_user_model

    checkpoints = _checkpoints(config, place)
    if config.export.onnx:
        from mlaas_spark.ml import onnx

        onnx.check_installed()
    user = UserFile.read(str(config.train.model), ModelContractError)
    user.check_syntax(ModelContractError)
    spark = _start(config, journal, meanwhile=_import_keras)
    with journal.stage("model file"):
        user.function("model", ModelContractError)
    events = _open(config, journal, spark=spark)
    made, counted = _specs(config, events, journal)
    transform = FeatureTransform.of(made.specs, config.features)
    _log_cuts(made, transform)
    with journal.stage("build model"):
        inputs = InputLayout.of(transform, config.train.inputs)
        model = load_user_model(str(config.train.model), inputs, config.train, seed=config.train.seed)
        labels = {file.label for file in events.plan.files if file.label is not None}
        if labels and not config.input.label and not config.input.targets:
            check_answers(model, inputs, labels)
        if config.train.workers > 1:
            _check_together(config, model, spark)
    request = _chunk_digest(config, counted, made)
    chunk_folder = config.chunks.folder or storage.join(config.runs, config.name, "chunks", request[:16])
    manifest = _chunks(config, counted, made, storage.absolute(chunk_folder), journal)
    data = _Prepared(counted.plan, made, transform, manifest, storage.absolute(chunk_folder))
    set_learning_rate(model, config.train)
    identity = _identity(config, user, data)
    keeper = Keeper.of(checkpoints, identity, config.train.checkpoint, resume=place.resume)
    if keeper.resumed:
        at = keeper.resumed.position
        journal.say(f"goes on after {at.step:,} batches, with pass {at.turn + 1}, batch {at.batch + 1}")
    with _told_how_to_go_on(keeper, journal):
        return _fit_and_publish(
            config, journal, data, _Fitting(model, keeper, checkpoints, config.train.callbacks), place
        )


@dataclass(frozen=True)
class _Fitting:
    """A model to be trained, and where its checkpoints lie."""

    model: Any
    keeper: Keeper
    checkpoints: str
    callbacks: tuple[dict[str, dict[str, Any]], ...]


def _checkpoints(config: Config, place: _Place) -> str:
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


def _identity(config: Config, user: UserFile, data: _Prepared) -> dict[str, str]:
    """What trains on what, for checkpoints: all that changes the weights."""
    free = {"model", "checkpoint", "threads", "verbose", "mlflow", "workers", "patience"}
    settings = {**config.train.model_dump(mode="json", exclude=free), "shards": config.train.dealt}
    return {
        "data set": data.manifest.content_digest[:12],
        "features": data.transform.digest()[:12],
        "model file": user.digest[:12],
        **{f"train.{name}": json.dumps(value) for name, value in settings.items()},
    }


@contextmanager
def _told_how_to_go_on(keeper: Keeper, journal: Journal) -> Iterator[None]:
    """Whatever ends a training, say that there is a checkpoint."""
    try:
        yield
    except BaseException:
        if keeper.written:
            journal.say(f"its last checkpoint is in {keeper.checkpoints.folder}: go on from it with --resume")
        raise


def _fit_and_publish(config: Config, journal: Journal, data: _Prepared, fitting: _Fitting, place: _Place) -> RunResult:
    from mlaas_spark.ml import bundle as bundles
    from mlaas_spark.ml import evaluate as evaluating
    from mlaas_spark.ml import savedmodel, tracking
    from mlaas_spark.ml.card import Origin
    from mlaas_spark.ml.inputs import InputLayout
    from mlaas_spark.ml.stream import ChunkStream

    tracked = tracking.client(config.train.mlflow) if config.train.mlflow else None
    work, manifest, model = place.work.path, data.manifest, fitting.model
    digest = manifests.request_digest([config.digest(), data.plan.digest()])
    name = f"{place.started:%Y%m%dT%H%M%SZ}-{digest[:12]}"
    stream = ChunkStream.open(
        data.folder, data.transform, config.train.batch_size, config.train.threads, config.train.dealt
    )
    with journal.stage("train") as stage:
        history = _fitted(config, journal, stream, fitting, _written_by_callbacks(fitting, work))
        stage.events = stream.events("train") * config.train.epochs
    model = _in_keras(model, stream, config, storage.join(place.work.home, f"{name}.npz"), work)
    split = next((name for name in ("test", "validation", "train") if stream.events(name)), "train")
    with journal.stage("evaluate") as stage:
        names = class_names(config)
        judged = evaluating.Judged.of(model, InputLayout.of(data.transform, config.train.inputs))
        metrics = evaluating.evaluate(judged, stream, split, config.evaluate, names=names, history=history.rows)
        drawn = plots.draw(metrics)
        for file, png in plots.files(drawn).items():
            (work / file).parent.mkdir(exist_ok=True)
            (work / file).write_bytes(png)
        stage.events = stream.events(split)
    with journal.stage("export"):
        model.save(work / "model.keras")
        origin = Origin(
            ranges=data.specs.specs.ranges,
            trained=place.started.isoformat(timespec="seconds"),
            config=config.digest(),
            metrics=metrics,
            versions=runs.versions(),
        )
        made = bundles.write_bundles(
            model,
            stream,
            config.export,
            _digest_of(data.specs),
            work / "bundle",
            origin=origin,
            inputs=InputLayout.of(data.transform, config.train.inputs),
        )
        bundle = next(iter(made.values()))
        if place.save_as:
            where, _, file = place.save_as.rpartition("/")
            with storage.local_place(where) as local:
                savedmodel.save_as(model, data.transform.width, local / file)
    run = {
        "name": config.name,
        "command": place.command,
        "started": place.started.isoformat(timespec="seconds"),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "stages": journal.to_json(),
        "events": {**manifest.ledger, **manifest.events()},
        "labels": manifest.counts(),
        "width": data.transform.width,
        "chunks": data.folder,
        "bundle": bundle.name,
        "bundles": {inputs: one.name for inputs, one in made.items()},
        "resumed": fitting.keeper.resumed and asdict(fitting.keeper.resumed.position),
        "digests": {
            **manifest.digests,
            "config": config.digest(),
            "content": manifest.content_digest,
        },
        "versions": origin.versions,
    }
    skipped = {
        "branches": [{"name": item.name, "reason": item.reason} for item in data.plan.schema.omitted],
        "files": [item.to_json() for item in manifest.skipped],
        "events": {"selection": manifest.ledger["selection"], **skipping.counts(manifest.skipped)},
    }
    texts = {
        "config.yaml": config.to_yaml(),
        "plan.json": json.dumps(data.plan.to_json(), indent=1),
        "specs.json": data.specs.dumps(),
        "metrics.json": json.dumps(metrics, indent=1),
        "history.csv": history.to_csv(),
        "skipped.json": json.dumps(skipped, indent=1),
        "run.json": json.dumps(run, indent=1),
    }
    from mlaas_spark.report import RunReport, render

    texts["report.html"] = render(
        RunReport(
            name=config.name,
            config_yaml=texts["config.yaml"],
            command=place.command,
            run=run,
            manifest=manifest,
            specs=data.specs.specs,
            transform=data.transform,
            plan=data.plan,
            metrics=metrics,
            bundle=storage.join(place.work.home, name, "bundle", bundle.archive.name),
            plots=drawn,
        )
    )
    if (written := _written_by_callbacks(fitting, work)) != work:
        for path in sorted(written.iterdir()):
            shutil.move(path, work / path.name)
    folder = runs.publish(place.work, name, texts)
    fitting.keeper.checkpoints.remove()
    _say_skipped(manifest.skipped, storage.join(folder, skipping.FILE), journal)
    if config.train.mlflow:
        with journal.stage("tell MLflow"), storage.local_copy(folder) as copy:
            files = [copy / name for name in ("config.yaml", "metrics.json", "report.html")]
            parameters = config.model_dump(mode="json")
            tracking.log_run(tracked, config.name, name, parameters, history.rows, metrics, files)
    return RunResult(
        folder=folder,
        bundle=storage.join(folder, "bundle", bundle.name),
        archive=storage.join(folder, "bundle", bundle.archive.name),
        metrics=metrics,
        entries=manifest.ledger["entries"],
        events=manifest.rows,
        width=data.transform.width,
        left_out=len(data.plan.schema.omitted),
        chunks=data.folder,
        saved=place.save_as,
        archives={inputs: storage.join(folder, "bundle", one.archive.name) for inputs, one in made.items()},
    )


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


def _written_by_callbacks(fitting: _Fitting, work: Path) -> Path:
    """Where callbacks write: beside the checkpoints, for a resumed training to find; in the run if these are far."""
    local = storage.local_path(fitting.checkpoints)
    if local is None or not fitting.callbacks:
        return work
    (local / "files").mkdir(parents=True, exist_ok=True)
    return local / "files"


def _check_together(config: Config, model: Any, spark: SparkSession) -> None:
    """Workers can train the model, and there is room for them: said before anything else is done."""
    from mlaas_spark.ml.parallel_learner import check_parallel
    from mlaas_spark.spark.barrier import check_slots

    check_parallel(model)
    check_slots(spark, config.train.workers)


def _fitted(config: Config, journal: Journal, stream: ChunkStream, fitting: _Fitting, files: Path) -> History:
    """Train here, or by workers on the executors; what callbacks write comes into the folder ``files``."""
    from mlaas_spark.ml import callbacks, parallel
    from mlaas_spark.ml import fit as training
    from mlaas_spark.spark.barrier import together
    from mlaas_spark.spark.session import session

    model, keeper, progress = fitting.model, fitting.keeper, _told(journal)
    if config.train.workers == 1:
        called = callbacks.of_config(fitting.callbacks, files) + callbacks.of_file(Path(str(config.train.model)))
        return training.fit(model, stream, config.train, callbacks=called, progress=progress, keeper=keeper)
    user = UserFile.read(str(config.train.model), ModelContractError)
    start = partial(together, session(config.spark, config.name))
    return parallel.fit(model, stream, config.train, user, start, progress=progress, keeper=keeper, files=files)


def class_names(config: Config) -> tuple[str, ...]:
    """Names of the classes 0, 1, ...: those of the export, or the groups of each label; () where there are none."""
    if config.input.targets:
        return ()
    if len(config.export.labels) > 1:
        return config.export.labels
    of_label: dict[float, list[str]] = {}
    for group in config.input.groups:
        if not group.name or group.label is None:
            return ()
        of_label.setdefault(group.label, []).append(group.name)
    if sorted(of_label) != list(range(len(of_label))):
        return ()
    return tuple(", ".join(of_label[label]) for label in sorted(of_label))


@dataclass(frozen=True)
class Evaluated:
    """Metrics of a run, and the folder they are in, with plots."""

    metrics: dict[str, Any]
    folder: str
    plots: int


def evaluate(
    run: str, split: str, destination: str | None, journal: Journal, settings: Sequence[str] = ()
) -> Evaluated:
    """Judge the model of a finished run again, on a split of its chunks; write metrics.json and plots. Needs no Spark.

    Args:
        run: The run folder.
        split: ``train``, ``validation`` or ``test``.
        destination: Folder to write; one of an earlier evaluation is replaced. None: ``evaluation-<split>`` of the run.
        journal: Told of each stage.
        settings: ``evaluate.key=value`` in place of what the run's config says.

    Raises:
        ConfigError: The folder is no run, no such split, a setting of another section.
        UnwritableOutputError: The destination cannot be written, or holds something else.
        ChunkError: The chunks are gone, cannot be read, or are not those of the run.
        MlaasSparkError: One of its kinds for whatever else a user can mend.
    """
    from mlaas_spark.config import override, read, resolve
    from mlaas_spark.mixing import SPLITS

    if split not in SPLITS:
        msg = f"no split {split!r}: there are {', '.join(SPLITS)}"
        raise ConfigError(msg)
    if odd := [setting for setting in settings if not setting.strip().startswith("evaluate.")]:
        msg = f"--set {odd[0]}: only keys of evaluate can be changed, the rest is as the run had it"
        raise ConfigError(msg)
    place = storage.absolute(run)
    target = storage.absolute(destination) if destination else storage.join(place, f"evaluation-{split}")
    if lacking := sorted({"config.yaml", "model.keras", "run.json", "specs.json"} - set(storage.children(place))):
        msg = f"{run} is no run folder: it has no {' and '.join(lacking)}; see mlaas-spark train"
        raise ConfigError(msg)
    _check_replaceable(target)
    from mlaas_spark.ml import evaluate as evaluating
    from mlaas_spark.ml.inputs import InputLayout
    from mlaas_spark.ml.model import load_saved_model
    from mlaas_spark.ml.stream import ChunkStream

    with storage.local_copy(place) as folder:
        with journal.stage("open run"), storage.reading(run):
            config = resolve(override(read(folder / "config.yaml"), settings), str(folder / "config.yaml"))
            made = SpecsFile.loads((folder / "specs.json").read_bytes(), str(folder / "specs.json"))
            chunks_at, content = _chunks_of(folder / "run.json")
            history = folder / "history.csv"
            rows = evaluating.read_history(history.read_text(encoding="utf-8")) if history.exists() else []
            model = load_saved_model(folder / "model.keras", config.train.model)
        transform = FeatureTransform.of(made.specs, config.features)
        stream = ChunkStream.open(chunks_at, transform, config.train.batch_size, config.train.threads)
        if stream.manifest.content_digest != content:
            msg = f"the chunks in {chunks_at} are not those that {run} was trained on: they were made again"
            raise ChunkError(msg)
        with journal.stage("evaluate") as stage:
            names = class_names(config)
            judged = evaluating.Judged.of(model, InputLayout.of(transform, config.train.inputs))
            metrics = evaluating.evaluate(judged, stream, split, config.evaluate, names=names, history=rows)
            stage.events = stream.events(split)
    with journal.stage("plots"):
        drawn = plots.draw(metrics)
    texts = {"metrics.json": json.dumps(metrics, indent=1).encode()}
    storage.replace_folder(target, {**texts, **plots.files(drawn)})
    return Evaluated(metrics, target, len(drawn))


def _chunks_of(run_json: Path) -> tuple[str, str]:
    """Folder and content digest of the chunks that a run was trained on."""
    try:
        told = json.loads(run_json.read_text(encoding="utf-8"))
        return str(told["chunks"]), str(told["digests"]["content"])
    except (ValueError, KeyError, TypeError) as error:
        raise UnreadableInputError(str(run_json), f"it does not say which chunks ({reason(error)})") from error


def _check_replaceable(folder: str) -> None:
    """Nothing is there, or an earlier evaluation; UnwritableOutputError else."""
    with storage.to_be_written(folder):
        there = set(storage.children(folder)) if storage.is_folder(folder) else storage.exists(folder)
    if there is True:
        raise UnwritableOutputError(folder, "there is a file of this name: name a folder for the evaluation")
    if there and (odd := sorted(there - {"metrics.json", "plots"}) or sorted({"metrics.json"} - there)):
        missing = "it has no metrics.json" if odd == ["metrics.json"] else f"it holds {odd[0]}"
        raise UnwritableOutputError(folder, f"it is no earlier evaluation, {missing}: name a new folder")


def export(run: str, destination: str | None, journal: Journal, settings: Sequence[str] = ()) -> dict[str, str]:
    """Write the bundles of a finished run again, from its model, specs and chunks.

    Args:
        run: The run folder.
        destination: Folder of the bundles; None for ``bundle/`` of the run.
        journal: Told of the stage.
        settings: ``key=value`` that are put into the run's config, such as ``export.onnx=true``.

    Returns:
        Their tars by what they take, ``raw`` or ``features``.

    Raises:
        ExportError: The folder is no run, or a bundle cannot be written.
        ConfigError: A setting that cannot be.
    """
    from mlaas_spark.config import override, read, resolve

    place = storage.absolute(run)
    target = storage.absolute(destination) if destination else storage.join(place, "bundle")
    if not {"run.json", "model.keras"} <= set(storage.children(place)):
        msg = f"{run} is no run folder: it has no run.json and model.keras; see mlaas-spark train"
        raise ExportError(msg)
    from mlaas_spark.ml.bundle import write_bundles
    from mlaas_spark.ml.card import Origin
    from mlaas_spark.ml.inputs import InputLayout
    from mlaas_spark.ml.model import load_saved_model
    from mlaas_spark.ml.stream import ChunkStream

    with storage.local_copy(place) as folder, storage.local_place(target) as bundles:
        config = resolve(override(read(folder / "config.yaml"), settings), str(folder / "config.yaml"))
        made = SpecsFile.loads((folder / "specs.json").read_bytes(), str(folder / "specs.json"))
        transform = FeatureTransform.of(made.specs, config.features)
        told = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        origin = Origin(
            ranges=made.specs.ranges,
            trained=told["started"],
            config=told["digests"]["config"],
            metrics=json.loads((folder / "metrics.json").read_text(encoding="utf-8")),
            versions=told["versions"],
        )
        with journal.stage("export"):
            stream = ChunkStream.open(told["chunks"], transform, config.train.batch_size, config.train.threads)
            model = load_saved_model(folder / "model.keras", config.train.model)
            inputs = InputLayout.of(transform, config.train.inputs)
            written = write_bundles(
                model, stream, config.export, _digest_of(made), bundles, origin=origin, inputs=inputs
            )
    archives = {kind: storage.join(target, bundle.archive.name) for kind, bundle in written.items()}
    if storage.local_path(target) is None:
        for archive in archives.values():
            serve_check(archive)  # what lies there, an earlier export perhaps
    return archives


def serve_check(path: str) -> dict[str, Any]:
    """Load a bundle as the server does and compare its scores with the model's.

    Raises:
        ServingError: It does not keep the contract, or is not there.
    """
    from mlaas_spark.ml.bundle import serve_check as check

    bundle = storage.absolute(path)
    if not storage.exists(bundle):
        msg = f"cannot read the bundle {path}: no such file"
        raise ServingError(msg)
    with storage.local_copy(bundle) as copy:
        return check(copy)


def upload(config: Config, bundle: str, journal: Journal, alias: str | None = None) -> tuple[Proof, Alias | None]:
    """Check a bundle offline, send it to the server, prove what came of it; with ``alias`` let clients use it.

    Args:
        config: Of it counts ``serve``.
        bundle: Its tar, or its folder with the tar beside it: a path or URL.
        journal: Told of each stage.
        alias: The alias file, by path, URL or name; None leaves clients with what they have.

    Raises:
        ServingError: The bundle, the server or what it made of the bundle does not keep the contract; then it is
            deleted from the server again.
    """
    from mlaas_spark.serving import alias as aliases
    from mlaas_spark.serving import deploy
    from mlaas_spark.serving.client import Client

    client = Client(config.serve)
    before = aliases.current(alias) if alias else None  # what is no alias file is known before anything is sent
    with journal.stage("check the bundle offline"):
        archive = _archive(bundle)
    with journal.stage("upload and prove") as stage:
        proof = deploy.upload(client, archive)
        stage.events = proof.events
    if alias is None:
        return proof, None
    entry = aliases.Entry(proof.name, config.serve.url or "", proof.digest, aliases.stamp(datetime.now(UTC)))
    return proof, aliases.promote(alias, entry, before)


def _archive(bundle: str) -> Archive:
    """The tar of a bundle, checked offline."""
    from mlaas_spark.serving.deploy import Archive

    place = storage.absolute(bundle.rstrip("/"))
    tar = f"{place}.tar.gz" if storage.is_folder(place) else place
    if not storage.exists(tar):
        msg = f"cannot read the bundle {bundle}: no such file as {tar}; mlaas-spark export writes it"
        raise ServingError(msg)
    from mlaas_spark.ml.bundle import serve_check as check

    with storage.local_copy(tar) as copy:
        check(copy)
        return Archive.read(copy)


def rollback(config: Config, alias: str) -> Alias:
    """Let clients of an alias use the model before, which its server must still have.

    Raises:
        ServingError: There was none before, or its server does not have it.
    """
    from mlaas_spark.serving import alias as aliases

    changed = aliases.read(alias).rolled_back(aliases.stamp(datetime.now(UTC)))
    _client(config, changed.current.url).params(changed.current.name)
    aliases.put(alias, changed)
    return changed


def models(config: Config) -> list[dict[str, Any]]:
    """The params.json of each model of the server."""
    return _client(config).models()


def params(config: Config, name: str) -> dict[str, Any]:
    """The params.json of a model of the server."""
    return _client(config).params(name)


def delete(config: Config, name: str) -> None:
    """Remove a model from the server.

    Raises:
        ServingError: No such model, or clients use it by the alias of the config.
    """
    from mlaas_spark.serving import alias as aliases

    if (place := config.serve.alias) and (used := aliases.current(place)) and used.current.name == name:
        msg = (
            f"{name} is what the alias {place} means now: mlaas-spark rollback --alias {place}, or promote another one"
        )
        raise ServingError(msg)
    _client(config).delete(name)


@dataclass(frozen=True)
class Asking:
    """What a server is asked for.

    Attributes:
        model: Served name; None for that of the alias.
        alias: Alias file; None for that of the config.
        events: So many of the file; None for all.
        tree: Of a ROOT file with several.
        form: ``json`` or ``proto``.
    """

    model: str | None = None
    alias: str | None = None
    events: int | None = None
    tree: str | None = None
    form: Form = "json"


def predict_remote(config: Config, file: str, asking: Asking) -> Iterator[list[float]]:
    """Scores of a file's events by the server, in their order, as they come.

    Raises:
        ServingError: No such model, events that are not what it takes (nothing is sent then), or no answer.
        MlaasSparkError: One of its kinds for a file that cannot be read.
    """
    from mlaas_spark.serving import inputs

    client, name = _served(config, asking)
    model = client.served(name)
    x = inputs.read(file, model, asking.events, asking.tree)
    return client.stream(model, x, asking.form)


def predict_image(config: Config, file: str, asking: Asking) -> list[tuple[str, float]]:
    """The likeliest labels of an image, PNG or JPEG, with their scores."""
    client, name = _served(config, asking)
    try:
        image = storage.read_bytes(storage.absolute(file))
    except FileNotFoundError as error:
        raise UnreadableInputError(file, "no such file") from error
    return client.predict_image(name, image)


def serve_check_remote(config: Config, bundle: str | None, asking: Asking, journal: Journal) -> list[Proof]:
    """Prove that the server has a bundle and scores as its model does; without a bundle, by the check events it has.

    Raises:
        ServingError: It does not, or there is nothing to check.
    """
    from mlaas_spark.ml.archive import CHECK
    from mlaas_spark.serving import deploy

    if bundle is not None:
        with journal.stage("check the bundle offline"):
            archive = _archive(bundle)
        with journal.stage("check the server") as stage:
            proof = deploy.check(_client(config), archive)
            stage.events = proof.events
        return [proof]
    if asking.model or asking.alias:
        client, name = _served(config, asking)
        names = [name]
    else:
        client = _client(config)
        names = [str(of["name"]) for of in client.models()]
    proofs: list[Proof] = []
    with journal.stage("check the server") as stage:
        for name in names:
            if (of_model := deploy.check_served(client, name)) is None:
                journal.say(f"  {name} has no {CHECK}: not checked")
                continue
            proofs.append(of_model)
            stage.events = sum(proof.events for proof in proofs)
    if not proofs:
        msg = f"{client.url} has no model with {CHECK} to check: mlaas-spark upload sends it with the model"
        raise ServingError(msg)
    return proofs


def _client(config: Config, url: str | None = None) -> Client:
    from mlaas_spark.serving.client import Client

    return Client(config.serve.model_copy(update={"url": url}) if url else config.serve)


def _served(config: Config, asking: Asking) -> tuple[Client, str]:
    """Server and model that are asked for, by name or by alias; the URL of the config goes before the alias' own."""
    from mlaas_spark.serving import alias as aliases

    if asking.model:
        return _client(config), asking.model
    if not (place := asking.alias or config.serve.alias):
        msg = "name the model: --model NAME, or --alias FILE of one that was promoted"
        raise ConfigError(msg)
    current = aliases.read(place).current
    return _client(config, config.serve.url or current.url), current.name


@dataclass(frozen=True)
class _Trained:
    """What prediction takes of a run or a bundle.

    Attributes:
        bundle: The model with its transform.
        ranges: Values of the branches in training; {} of a bundle from before they were kept in it.
        config: What the run was told; None of a bundle or a Keras model.
    """

    bundle: Contents
    ranges: Ranges
    config: Config | None = None


def predict(config: Config, model: str, folder: str, journal: Journal, *, retry_skipped: bool = False) -> Manifest:
    """Score the events of the config's input and write a data set of scores, on executors: a row for each entry.

    Columns: identifier branches, those of ``predict.keep``, ``__source`` (uuid of the input, with its tree),
    ``__entry``, ``__selected`` and ``score``, or of a model of several outputs ``score_<label>`` for each; an event
    that fails the selection has none. With ``predict.beside`` all branches that ``convert`` would write are kept. With
    ``predict.format: root`` the columns are those of a friend tree for each input: ``selected`` for ``__selected``, no
    ``__source`` and ``__entry``. Of the config count ``input``, ``predict`` and ``spark``; branches are the run's, and
    so are derived ones, categories and identifiers that the config does not have. What was not as in training is in
    ``Manifest.drift``.

    Args:
        config: The resolved config.
        model: A run folder, a bundle (its folder or its tar.gz) or a model saved by Keras (``.keras``): a path or URL.
            A ``.keras`` file takes the features that ``features`` of the config and its specs give, those beside it
            as specs.json if the config names none; ``train.model`` is the file with its own classes, if it has any,
            ``train.inputs`` what it takes.
        folder: Of the data set: a new one, an empty one, or that of an earlier prediction, which is brought up to date.
        journal: Told of each stage.
        retry_skipped: Read only what an earlier prediction has skipped.

    Raises:
        SpecsMismatchError: The input lacks branches of the model, or has them as another kind; specs of another W.
        SpecsError: No specs for a ``.keras`` file.
        ModelContractError: A ``.keras`` file that cannot be loaded.
        ServingError: There is no such model, or it does not run.
        MlaasSparkError: One of its kinds for whatever else a user can mend.
    """
    from mlaas_spark.spark import convert as converting
    from mlaas_spark.spark import predict as predicting

    with journal.stage("open model"):
        trained = _keras_model(config, model) if model.endswith(_KERAS) else _trained(model)
    bundle = trained.bundle
    config = _as_trained(config, trained, journal)
    target = storage.absolute(folder)
    only = _skipped_before(target, journal) if retry_skipped else None
    try:
        events = _open(config, journal, text=True, only=only)
    except BranchNotFoundError as error:
        lacking = [name for name in bundle.transform.layout.branches if name not in error.available]
        if error.branch not in lacking:
            raise
        raise predicting.lacks(lacking, error.available, error.where) from error
    request = _predict_request(config, events, trained)
    with journal.stage("predict") as stage:
        before = manifests.present(target)
        manifest = predicting.predict(events, request, target, retry=retry_skipped)
        stage.events = manifest.ledger["entries"]
        stage.remark = str(converting.Changes.between(before.inputs if before else (), manifest.inputs))
    _tell_skipped(config, manifest.skipped, target, journal)
    if not manifest.ledger["events"]:
        journal.say(f"selection {config.input.selection!r} keeps none of the events: none has a score")
    if not trained.ranges:
        journal.say(f"{model} does not know the ranges of training: only cuts and NaN are counted")
    return manifest


def _trained(model: str) -> _Trained:
    """A run folder or a bundle, by what is there."""
    from mlaas_spark.config import read, resolve
    from mlaas_spark.ml.bundle import read_bundle

    place = storage.absolute(model)
    if not storage.exists(place):
        msg = f"no such model: {model}; name a run folder, see mlaas-spark train, or a bundle"
        raise ServingError(msg)
    if not storage.is_folder(place) or "run.json" not in storage.children(place):
        with storage.local_copy(place) as copy:
            bundle = read_bundle(copy)
        return _Trained(bundle, bundle.sending.ranges)
    with storage.local_copy(place) as run:
        told = json.loads((run / "run.json").read_text(encoding="utf-8"))
        # the features of this process have all digits of the file, what a raw bundle takes is float32
        name = told.get("bundles", {}).get("features", told["bundle"])
        bundle = read_bundle(run / "bundle" / name)
        config = resolve(read(run / "config.yaml"), str(run / "config.yaml"))
        specs = SpecsFile.loads((run / "specs.json").read_bytes(), str(run / "specs.json")).specs
    if FeatureTransform.of(specs, config.features) != bundle.transform:
        msg = f"{model}: its specs.json and config.yaml are not those that its bundle was made with"
        raise SpecsMismatchError(msg)
    return _Trained(bundle, specs.ranges, config)


def _keras_model(config: Config, model: str) -> _Trained:
    """A model saved by Keras, with the transform that the config and specs.json give."""
    place = storage.absolute(model)
    if not storage.exists(place):
        msg = f"no such model: {model}; name a .keras file that Keras saved"
        raise ServingError(msg)
    beside = storage.join(place.rpartition("/")[0], "specs.json")
    source = config.features.specs or beside
    if not config.features.specs and not storage.exists(beside):
        msg = (
            f"{model} does not say how its features are made: name the specs of its training with --specs specs.json, "
            f"or put them beside it ({beside} is not there)"
        )
        raise SpecsError(msg)
    made = _read_specs(source)
    transform = FeatureTransform.of(made.specs, config.features)
    from mlaas_spark.ml.bundle import contents_of
    from mlaas_spark.ml.inputs import InputLayout
    from mlaas_spark.ml.model import load_saved_model, output_width

    inputs = InputLayout.of(transform, config.train.inputs)
    with storage.local_copy(place) as file:
        try:
            loaded = load_saved_model(file, config.train.model)
            output_width(loaded, inputs)
        except ModelContractError as error:
            classes = "" if config.train.model else "; if it has classes of your own, --set train.model=FILE names them"
            msg = f"{model} with {source} of W = {transform.width}: {error}{classes}"
            raise ModelContractError(msg) from error
    stem = re.sub(r"[^a-zA-Z0-9_]", "_", place.rpartition("/")[2].removesuffix(_KERAS))
    bundle = contents_of(loaded, transform, inputs, stem, config.export.labels, made.specs.ranges)
    return _Trained(bundle, made.specs.ranges)


def _as_trained(config: Config, trained: _Trained, journal: Journal) -> Config:
    """The config with what the model needs read, made as it was in training."""
    given, run = config.input, trained.config.input if trained.config else None
    taken: dict[str, Any] = {"exclude": (), "label": None, "targets": (), "weight": None}
    if run is not None:
        for key in ("derive", "categories"):
            own = getattr(given, key)
            # an empty one that was asked for takes none of the run's: the input has them already
            taken[key] = own if not own and key in given.model_fields_set else {**getattr(run, key), **own}
        if "identifiers" not in given.model_fields_set:
            taken["identifiers"] = run.identifiers
        if run.preproc and not given.preproc and fileset(given)[0].format in {Format.JSON, Format.CSV}:
            taken["preproc"] = run.preproc
        if run.selection and not given.selection:
            journal.say(f"the model was trained on events that pass {run.selection!r}; here all are scored")
    derived = taken.get("derive", given.derive)
    branches = (*trained.bundle.transform.layout.branches, *config.predict.keep)
    taken["branches"] = tuple(name for name in branches if name not in derived)
    if config.predict.beside:
        if lost := [(b, p) for p in given.exclude for b in trained.bundle.transform.layout.branches if fnmatch(b, p)]:
            msg = f"input.exclude has {lost[0][1]!r}, and the model needs {lost[0][0]}: it is written beside the scores"
            raise ConfigError(msg)
        taken["exclude"] = given.exclude
        taken["branches"] = (*given.branches, *taken["branches"]) if given.branches else ()
    return config.model_copy(update={"input": given.model_copy(update=taken)})


def _predict_request(config: Config, events: Events, trained: _Trained) -> Any:
    from mlaas_spark.ml.predict import SavedModel
    from mlaas_spark.spark.predict import PredictRequest

    bundle, schema = trained.bundle, events.plan.schema
    labels, asked = bundle.labels, config.predict
    kept = schema.names if asked.beside else schema.select(asked.keep).names if asked.keep else ()
    return PredictRequest(
        model=bundle.name,
        transform=bundle.takes,
        ranges=trained.ranges,
        scorer=SavedModel.of(bundle),
        outputs=("score",) if len(labels) == 1 else tuple(f"score_{column_name(label)}" for label in labels),
        keys=_keys(config, events),
        keep=kept,
        batch_size=asked.batch_size,
        format=Format(asked.format),
    )


def _open(
    config: Config,
    journal: Journal,
    *,
    text: bool = False,
    spark: SparkSession | None = None,
    only: set[str] | None = None,
) -> Events:
    """Open the files of a config, or those of ``only`` these paths, on executors.

    With ``text`` also the branches that cannot be features.
    """
    files = fileset(config.input)
    if only is not None and (others := [file for file in files if file.path not in only]):
        files = tuple(file for file in files if file.path in only)
        journal.say(f"{len(others)} new files are left for a run without --retry-skipped, such as {others[0].path}")
    preproc = UserFile.read(config.input.preproc, ConfigError) if config.input.preproc else None
    from mlaas_spark.spark.ingest import open_events

    spark = spark or _start(config, journal)
    with journal.stage("open files") as stage:
        expressions = _answers(config)
        events = open_events(spark, files, config.input, config.spark.events_per_task, expressions, preproc, text=text)
        stage.events = events.plan.entries
    return events


def _start(config: Config, journal: Journal, meanwhile: Callable[[], object] | None = None) -> SparkSession:
    from mlaas_spark.spark.session import session

    with journal.stage("start Spark"):
        return session(config.spark, f"mlaas-spark {config.name}", meanwhile)


def _import_keras() -> None:
    """It takes seconds, in which Spark starts; what fails is said by who needs it."""
    with suppress(ImportError):
        importlib.import_module("keras")


def _keys(config: Config, events: Events) -> tuple[str, ...]:
    """The identifier branches that the events have and that are whole numbers."""
    schema = events.plan.schema
    return tuple(
        name
        for name in config.input.identifiers
        if name in schema and not schema[name].jagged and "int" in schema[name].dtype
    )


def _answers(config: Config) -> list[Expression]:
    """Label, targets and weight of events, as far as they are expressions."""
    texts = (config.input.label, *config.input.targets, config.input.weight)
    return [Expression.parse(text) for text in texts if text]


def _candidates(config: Config, events: Events) -> list[str]:
    """Branches that become features: no identifiers, nothing of the answers, nothing that only the selection reads."""
    answers = {branch for expression in _answers(config) for branch in expression.branches}
    chosen = events.plan.schema.select(config.input.branches, config.input.exclude)
    wanted = {*chosen.names, *config.input.derive} - answers - {*config.input.identifiers}
    return [name for name in events.plan.schema.names if name in wanted]


def _features(config: Config, events: Events) -> list[str]:
    """:func:`_candidates`, at least one of them."""
    names = _candidates(config, events)
    if not names:
        msg = "no branch is left that could be a feature: see mlaas-spark inspect for what there is"
        raise SpecsError(msg)
    return names


def _quantiles(config: Config, events: Events) -> list[str]:
    """Branches that are normalised by quantiles."""
    features = config.features
    return [name for name in _features(config, events) if features.overrides.get(name, features.normalise) == "robust"]


def _specs(config: Config, events: Events, journal: Journal) -> tuple[SpecsFile, Events]:
    """Specs of the features, from the config's specs file where it names one."""
    from mlaas_spark.spark import specs as computing

    wanted, source = _features(config, events), config.features.specs
    given = _read_specs(source) if source else None
    # what is skipped is decided once, by all that the job reads of events
    needed = {*_keys(config, events), *(name for answer in _answers(config) for name in answer.branches)}
    if source and events.spare is not None:
        with journal.stage("check files") as stage:
            events = events.whole([*wanted, *needed])
            stage.events = events.plan.entries
    if source and given is not None and not given.by_file:
        with journal.stage("count events") as stage:
            counted = events.counted()
            stage.events = counted.plan.entries
        return _fitting(given, wanted, events, source), counted
    with journal.stage("specs") as stage:
        made, counted = computing.compute(events, wanted, _quantiles(config, events), given, also=needed)
        stage.events = counted.plan.entries
    return made, counted


def _fitting(given: SpecsFile, wanted: Sequence[str], events: Events, source: str) -> SpecsFile:
    """Specs made elsewhere, if they describe branches that the events have."""
    lacking = sorted(set(given.specs.branches) - set(wanted))
    if lacking:
        msg = f"{source} has specs of {', '.join(lacking[:5])}, which the input does not have as features"
        raise SpecsMismatchError(msg)
    odd = [name for name in given.specs.branches if given.specs[name].jagged != events.plan.schema[name].jagged]
    if odd:
        msg = f"{source}: {', '.join(odd[:5])} is jagged on one side and flat on the other"
        raise SpecsMismatchError(msg)
    if unknown := sorted(set(wanted) - set(given.specs.branches)):
        _log.warning("%s has no specs of %s: they are no features", source, ", ".join(unknown[:10]))
    return given


def _read_specs(path: str) -> SpecsFile:
    try:
        return SpecsFile.loads(storage.read_bytes(path), path)
    except FileNotFoundError as error:
        msg = f"no such specs file: {path}; make it with mlaas-spark specs"
        raise SpecsError(msg) from error


def _chunk_request(config: Config, events: Events, made: SpecsFile) -> Any:
    from mlaas_spark.spark.chunks import ChunkRequest

    return ChunkRequest(
        config=config.chunks,
        transform=FeatureTransform.of(made.specs, config.features),
        keys=_keys(config, events),
        label=Expression.parse(config.input.label) if config.input.label else None,
        batch_size=config.train.batch_size,
        specs_digest=_digest_of(made),
        targets=tuple(map(Expression.parse, config.input.targets)),
        weight=Expression.parse(config.input.weight) if config.input.weight else None,
    )


def _chunk_digest(config: Config, events: Events, made: SpecsFile) -> str:
    request = _chunk_request(config, events, made)
    digest: str = manifests.request_digest([request.digest(events.plan), config.input.selection or ""])
    return digest


def _chunks(config: Config, events: Events, made: SpecsFile, folder: str, journal: Journal) -> Manifest:
    from mlaas_spark.spark import chunks as building

    with journal.stage("chunks") as stage:
        manifest = building.build(events, _chunk_request(config, events, made), folder)
        stage.events = manifest.rows
        stage.remark = f"{manifest.chunks} chunks, {len(manifest.files)} files in {folder}"
    if not manifest.events().get("train"):
        msg = f"no event in the training split of {manifest.rows}: give more events or a larger chunks.split.train"
        raise ChunkError(msg)
    storage.write_atomic(storage.join(folder, "specs.json"), made.dumps().encode())
    if manifest.skipped or config.input.bad_files == "skip":
        storage.write_atomic(storage.join(folder, skipping.FILE), skipping.dumps(manifest.skipped).encode())
    return manifest


def _told(journal: Journal) -> Callable[[int, int, Any], None]:
    def told(done: int, total: int, row: Any) -> None:
        shown = ", ".join(f"{key} {value:.4f}" for key, value in row.items() if key not in {"chunk", "epoch"})
        journal.say(f"  train {done}/{total}: {shown}")

    return told


def _log_cuts(made: SpecsFile, transform: FeatureTransform) -> None:
    """Say how many values the caps will cut."""
    for name, dim in transform.layout.dims:
        stats = made.specs[name]
        if stats.jagged and (cut := stats.cut(dim)):
            _log.warning("%s: %d of %d values are cut at %d an event", name, cut, stats.count, dim)


def _digest_of(made: SpecsFile) -> str:
    return manifests.request_digest([made.dumps()])
