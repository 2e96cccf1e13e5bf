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
from typing import TYPE_CHECKING, Any, Self

from mlaas_spark import manifest as manifests
from mlaas_spark import plots, runs, skipping, storage
from mlaas_spark.bottleneck import Streamed, bottleneck
from mlaas_spark.branch_specs import SpecsFile
from mlaas_spark.config import Format
from mlaas_spark.errors import (
    BranchNotFoundError,
    ChunkError,
    ConfigError,
    ExportError,
    MlaasSparkError,
    ModelContractError,
    ServingError,
    SpecsError,
    SpecsMismatchError,
    UnreadableInputError,
    UnwritableOutputError,
    reason,
)
from mlaas_spark.estimate import Asked, Probe, Streaming, estimate
from mlaas_spark.filesets import fileset
from mlaas_spark.inspection import Headers, Inspection
from mlaas_spark.report import RunReport, render
from mlaas_spark.schema import column_name
from mlaas_spark.selection import Expression
from mlaas_spark.transform import FeatureTransform
from mlaas_spark.usercode import UserFile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from pyspark.sql import SparkSession

    from mlaas_spark.config import Config
    from mlaas_spark.doctor import Check
    from mlaas_spark.drift import Ranges
    from mlaas_spark.estimate import Estimate
    from mlaas_spark.manifest import Manifest
    from mlaas_spark.ml.bundle import Contents
    from mlaas_spark.ml.checkpoint import Keeper
    from mlaas_spark.ml.stream import ChunkStream
    from mlaas_spark.ml.train import History
    from mlaas_spark.plan import Plan
    from mlaas_spark.report.histograms import Histogram
    from mlaas_spark.runs import Journal, Stage, Work
    from mlaas_spark.serving.alias import Alias
    from mlaas_spark.serving.client import Client, Form
    from mlaas_spark.serving.deploy import Archive, Proof
    from mlaas_spark.skipping import Skipped
    from mlaas_spark.spark.ingest import Events
    from mlaas_spark.throughput import Throughput
    from mlaas_spark.usercode import UserModule
    from mlaas_spark.verify import Finding, Verified

_log = logging.getLogger(__name__)

_KERAS = ".keras"
_MODEL_FILE = "train.model"
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


def doctor(config: Config, out: str | None, journal: Journal, *, session: bool = False) -> list[Check]:
    """Look at what this machine has of what the config's work needs, its TFaaS server too.

    Args:
        config: Of it count where files are, what is written, ``spark`` and ``serve``.
        out: A further folder that would be written.
        journal: Told of each stage.
        session: Start Spark, and a Python worker in it, as well.
    """
    from mlaas_spark import doctor as doctors

    section = config.input
    named = [*section.files, section.redirector or "", *(name for group in section.groups for name in group.files)]
    writes = [place for place in (config.runs, config.chunks.folder, out) if place]
    needs = doctors.Needs.of([*named, *writes], config.spark.master, config.spark.x509_proxy)
    found = doctors.checks(needs, writes)
    if config.serve.url:
        found.append(_asked_for_models(config))
    if session:
        found.append(_tried_spark(config, journal))
    return found


def _asked_for_models(config: Config) -> Check:
    from mlaas_spark.doctor import Check

    name = f"TFaaS {config.serve.url}"
    patient = config.model_copy(update={"serve": config.serve.model_copy(update={"retries": 0, "timeout": 5.0})})
    try:
        return Check(name, "ok", f"answers, has {len(_client(patient).models())} models")
    except ServingError as error:
        return Check(name, "fail", str(error), "is it up, and is the URL that of the server: --url, serve.url")


def _tried_spark(config: Config, journal: Journal) -> Check:
    from mlaas_spark.doctor import Check
    from mlaas_spark.spark.probe import workers

    try:
        spark = _start(config, journal)
        there = workers(spark)
    except MlaasSparkError as error:
        return Check("Spark session", "fail", str(error), "see what is said of Java and of HADOOP_CONF_DIR")
    return Check(
        "Spark session", "ok", f"Spark {spark.version}, {spark.sparkContext.master}, {len(there)} Python workers"
    )


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
        probe, _ = _probed(config, events, work.unfinished, wanted, journal)
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


def throughput(config: Config, journal: Journal, out: str | None = None) -> Throughput:
    """Measure the stages on samples of the config's input, and what this machine could do at the most.

    Args:
        config: The resolved config.
        journal: Told of each stage.
        out: Where a job would write; None is the folder of the runs. What the probe writes there it removes.
    """
    from mlaas_spark import throughput as measuring

    events = _open(config, journal, text=True)
    planned = _planned(config, events)
    here = (storage.local_path(path) for path in sorted({file.path for file in events.plan.files}))
    paths = [path for path in here if path is not None]
    with runs.working_folder(storage.absolute(out or config.runs)) as work:
        probe, stream = _probed(config, events, work.unfinished, events.spark.sparkContext.defaultParallelism, journal)
        with journal.stage("hand over to TensorFlow"):
            handed = measuring.seconds_of(stream.dataset("train", seed=config.train.seed))
        with journal.stage("measure the machine"):
            machine = measuring.machine(paths, work.path)
        train = stream.events("train")
    size = sum({file.path: size for file, size in zip(events.plan.files, planned.bytes, strict=True)}.values())
    return measuring.compare(probe, size / events.plan.entries, machine, train / handed if train else None)


def _probed(config: Config, events: Events, folder: str, cores: int, journal: Journal) -> tuple[Probe, ChunkStream]:
    """What was measured, and the stream of the chunks that were made for it."""
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
    probe = Probe(
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
    return probe, stream


def convert(config: Config, folder: str, journal: Journal, *, retry_skipped: bool = False) -> Manifest:
    """Write the selected events as a Parquet data set with a manifest; or only what an earlier run has skipped."""
    from mlaas_spark.spark import convert as converting

    target = storage.absolute(folder)
    only = _skipped_before(target, journal) if retry_skipped else None
    events = _open(config, journal, text=True, only=only)
    with journal.stage("convert") as stage:
        _measured(stage, events)
        before = manifests.present(target)
        manifest = converting.convert(events, target, config.convert, retry=retry_skipped)
        stage.events = manifest.ledger["entries"]
        stage.remark = str(converting.Changes.between(before.inputs if before else (), manifest.inputs))
    _say_bottleneck(journal)
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
        _measured(stage, events)
        made, _ = computing.compute(events, _features(config, events), _quantiles(config, events), known)
        stage.events = made.specs.events
    storage.write_atomic(target, made.dumps().encode())
    _say_bottleneck(journal)
    _say_skipped(made.skipped, target, journal)
    return made


def chunks(config: Config, folder: str, journal: Journal) -> Manifest:
    """Write the chunk data set of the config, with specs.json beside its manifest's folder."""
    events = _open(config, journal)
    made, counted = _specs(config, events, journal)
    manifest = _chunks(config, counted, made, storage.absolute(folder), journal)
    _say_bottleneck(journal)
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
    model_file(config)
    fileset(config.input)  # what costs nothing to check is checked before anything starts
    save_as = _free(save_as) if save_as else None
    with runs.working_folder(storage.join(storage.absolute(config.runs), config.name)) as work:
        return _train(config, journal, _Place(work, command, save_as, datetime.now(UTC), resume))


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
    model: str  # digest of the user's file


def _train(config: Config, journal: Journal, place: _Place) -> RunResult:
    # first of all what keeps TensorFlow quiet, which the user's file is about to import
    from mlaas_spark.ml.callbacks import set_learning_rate
    from mlaas_spark.ml.checkpoint import Keeper
    from mlaas_spark.ml.fit import check_answers
    from mlaas_spark.ml.inputs import InputLayout
    from mlaas_spark.ml.model import load_user_model, run_model_file

    checkpoints = _checkpoints(config, place)
    if config.export.onnx:
        from mlaas_spark.ml import onnx

        onnx.check_installed()
    user = model_file(config)
    spark = _start(config, journal, meanwhile=_import_keras)
    with journal.stage("model file"):
        module = run_model_file(user, config.train.seed)
    events = _open(config, journal, spark=spark)
    made, counted = _specs(config, events, journal)
    transform = FeatureTransform.of(made.specs, config.features)
    _log_cuts(made, transform)
    with journal.stage("build model"):
        inputs = InputLayout.of(transform, config.train.inputs)
        model = load_user_model(module, inputs, config.train, seed=config.train.seed)
        labels = {file.label for file in events.plan.files if file.label is not None}
        if labels and not config.input.label and not config.input.targets:
            check_answers(model, inputs, labels)
        if config.train.workers > 1:
            _check_together(config, model, spark)
    request = _chunk_digest(config, counted, made)
    chunk_folder = config.chunks.folder or storage.join(config.runs, config.name, "chunks", request[:16])
    manifest = _chunks(config, counted, made, storage.absolute(chunk_folder), journal)
    data = _Prepared(counted.plan, made, transform, manifest, storage.absolute(chunk_folder), user.digest)
    set_learning_rate(model, config.train)
    identity = _identity(config, user, data)
    keeper = Keeper.of(checkpoints, identity, config.train.checkpoint, resume=place.resume)
    if keeper.resumed:
        at = keeper.resumed.position
        journal.say(f"goes on after {at.step:,} batches, with pass {at.turn + 1}, batch {at.batch + 1}")
    with _told_how_to_go_on(keeper, journal, place.command):
        return _fit_and_publish(
            config, journal, data, _Fitting(model, module, keeper, checkpoints, config.train.callbacks), place
        )


@dataclass(frozen=True)
class _Fitting:
    """A model to be trained, and where its checkpoints lie."""

    model: Any
    module: UserModule
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
        _measured_by(stream, config.train.epochs, stage)
        history = _fitted(config, journal, stream, fitting, _written_by_callbacks(fitting, work))
        stage.events = stream.events("train") * config.train.epochs
    streamed = _streamed(stream, config)
    model = _in_keras(model, stream, config, storage.join(place.work.home, f"{name}.npz"), work)
    split = _judged_split(stream, journal)
    with journal.stage("evaluate") as stage:
        names = class_names(config)
        judged = evaluating.Judged.of(model, InputLayout.of(data.transform, config.train.inputs))
        metrics = evaluating.evaluate(judged, stream, split, config.evaluate, names=names, history=history.rows)
        drawn = plots.draw(metrics)
        with storage.writing(str(work)):
            for file, png in plots.files(drawn).items():
                (work / file).parent.mkdir(exist_ok=True)
                (work / file).write_bytes(png)
        stage.events = stream.events(split)
    with journal.stage("export"):
        with storage.writing(str(work)):
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
        "streamed": streamed and asdict(streamed),
        "events": {**manifest.ledger, **manifest.events()},
        "labels": manifest.counts(),
        "weights": {name: asdict(of) for name, of in history.weights.items()},
        "width": data.transform.width,
        "chunks": data.folder,
        "bundle": bundle.name,
        "bundles": {inputs: one.name for inputs, one in made.items()},
        "resumed": fitting.keeper.resumed and asdict(fitting.keeper.resumed.position),
        "digests": {
            **manifest.digests,
            "config": config.digest(),
            "content": manifest.content_digest,
            "model": data.model,
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
    }
    seen, sampled = _histograms(stream, config.evaluate.seed)
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
            folder=storage.join(place.work.home, name),
            plots=drawn,
            histograms=seen,
            sampled=sampled,
        )
    )
    if (written := _written_by_callbacks(fitting, work)) != work:
        for path in sorted(written.iterdir()):
            shutil.move(path, work / path.name)
    folder = runs.publish(place.work, name, texts, run)
    _say_bottleneck(journal, streamed)
    fitting.keeper.checkpoints.remove()
    _say_skipped(manifest.skipped, storage.join(folder, skipping.FILE), journal)
    if config.train.mlflow:
        _tell_mlflow(tracked, config, journal, folder, metrics, history)
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


def _tell_mlflow(
    tracked: Any, config: Config, journal: Journal, folder: str, metrics: Mapping[str, Any], history: History
) -> None:
    from mlaas_spark.ml import tracking

    name = folder.rpartition("/")[2]
    with journal.stage("tell MLflow"), storage.local_copy(folder) as copy:
        files = [copy / part for part in ("config.yaml", "metrics.json", "report.html", "plots")]
        there = [file for file in files if file.exists()]
        tracking.log_run(tracked, config.name, name, config.public(), history.rows, metrics, there)


def _say_bottleneck(journal: Journal, streamed: Streamed | None = None) -> None:
    """At the end of a job: what took longest, and what to change."""
    if told := bottleneck({stage.name: stage.seconds for stage in journal.stages}, streamed):
        journal.say(told)


def _judged_split(stream: ChunkStream, journal: Journal) -> str:
    """What the model is evaluated on: test, or where it is empty another, which is said."""
    split = next((name for name in ("test", "validation") if stream.events(name)), "train")
    if split != "test":
        journal.say(f"no events are in the test split: the model is evaluated on {split}")
    return split


_SAMPLED = 20_000  # events of the small histograms of the report
_SAMPLED_CELLS = 40_000_000  # of the matrix, which with very many columns are fewer events


def _histograms(stream: ChunkStream, seed: int) -> tuple[dict[str, Histogram], int]:
    """Histograms of the branches in some training events, by label where events have classes; how many events."""
    import numpy as np

    from mlaas_spark.evaluation.events import label_text
    from mlaas_spark.ml import evaluate as evaluating
    from mlaas_spark.report.histograms import histograms

    most = min(_SAMPLED, max(1, _SAMPLED_CELLS // stream.width))
    sample = evaluating.some(stream, "train", most, seed)
    labels = np.unique(sample.label) if not stream.manifest.targets else np.empty(0)
    classes = {label_text(label): sample.label == label for label in labels} or {"": np.ones(len(sample), bool)}
    return histograms(sample.matrix, sample.mask, stream.transform, classes), len(sample)


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
        called = callbacks.of_training(model, fitting.callbacks, files, fitting.module)
        return training.fit(model, stream, config.train, callbacks=called, progress=progress, keeper=keeper)
    start = partial(together, session(config.spark, config.name))
    return parallel.fit(
        model, stream, config.train, fitting.module.file, start, progress=progress, keeper=keeper, files=files
    )


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
        settings: ``evaluate.key=value`` in place of what the run's config says; ``train.model=FILE`` for the classes
            of a model in a run of another user, whose files are not run otherwise.

    Raises:
        ConfigError: The folder is no run, no such split, a setting of another section.
        UnwritableOutputError: The destination cannot be written, or holds something else.
        ChunkError: The chunks are gone, cannot be read, or are not those of the run.
        MlaasSparkError: One of its kinds for whatever else a user can mend.
    """
    from mlaas_spark.mixing import SPLITS

    if split not in SPLITS:
        msg = f"no split {split!r}: there are {', '.join(SPLITS)}"
        raise ConfigError(msg)
    if odd := [setting for setting in settings if not setting.strip().startswith(("evaluate.", f"{_MODEL_FILE}="))]:
        msg = f"--set {odd[0]}: only keys of evaluate can be changed, the rest is as the run had it"
        raise ConfigError(msg)
    place = storage.absolute(run)
    target = storage.absolute(destination) if destination else storage.join(place, f"evaluation-{split}")
    check_run(run)
    _check_replaceable(target)
    from mlaas_spark.ml import evaluate as evaluating

    with storage.local_copy(place) as folder:
        with journal.stage("open run"), storage.reading(run):
            finished = _Finished.read(place, folder, settings)
            chunks_at, content = _chunks_of(folder / "run.json")
            history = folder / "history.csv"
            rows = evaluating.read_history(history.read_text(encoding="utf-8")) if history.exists() else []
        stream = finished.stream(chunks_at)
        if stream.manifest.content_digest != content:
            msg = f"the chunks in {chunks_at} are not those that {run} was trained on: they were made again"
            raise ChunkError(msg)
        with journal.stage("evaluate") as stage:
            metrics = finished.metrics(stream, split, rows)
            stage.events = stream.events(split)
    with journal.stage("plots"):
        drawn = plots.draw(metrics)
    texts = {"metrics.json": json.dumps(metrics, indent=1).encode()}
    storage.replace_folder(target, {**texts, **plots.files(drawn)})
    return Evaluated(metrics, target, len(drawn))


@dataclass(frozen=True)
class _Finished:
    """A run that is done, opened to be judged or exported."""

    config: Config
    specs: SpecsFile
    transform: FeatureTransform
    model: Any

    @classmethod
    def read(cls, run: str, folder: Path, settings: Sequence[str] = ()) -> Self:
        """From its folder, of which ``folder`` is a local copy; ``settings`` are put into its config."""
        from mlaas_spark.config import override, read, resolve
        from mlaas_spark.ml.model import load_saved_model

        config = resolve(override(read(folder / "config.yaml"), settings), str(folder / "config.yaml"))
        made = SpecsFile.loads((folder / "specs.json").read_bytes(), str(folder / "specs.json"))
        model = load_saved_model(folder / "model.keras", _model_file(run, config, settings))
        return cls(config, made, FeatureTransform.of(made.specs, config.features), model)

    def stream(self, chunks: str) -> ChunkStream:
        """The events of a chunk data set as its model takes them."""
        from mlaas_spark.ml.stream import ChunkStream

        return ChunkStream.open(chunks, self.transform, self.config.train.batch_size, self.config.train.threads)

    def metrics(self, stream: ChunkStream, split: str, history: Sequence[Any] = ()) -> dict[str, Any]:
        """How well its model does on a split."""
        from mlaas_spark.ml import evaluate as evaluating
        from mlaas_spark.ml.inputs import InputLayout

        judged = evaluating.Judged.of(self.model, InputLayout.of(self.transform, self.config.train.inputs))
        names = class_names(self.config)
        return evaluating.evaluate(judged, stream, split, self.config.evaluate, names=names, history=history)


def judge(run: str, chunks: str, split: str, journal: Journal) -> dict[str, Any]:
    """Metrics of a finished run's model on a split of chunks that need not be its own: to compare it with another.

    Raises:
        SpecsMismatchError: The chunks lack a branch of the model, or are dense and made for another.
        MlaasSparkError: One of its kinds for whatever else a user can mend.
    """
    quick = ("evaluate.bootstrap=0", "evaluate.train_events=0", "evaluate.importance_events=0")
    place = storage.absolute(run)
    with storage.local_copy(place) as folder:
        with storage.reading(run):
            finished = _Finished.read(place, folder, quick)
        stream = finished.stream(chunks)
        with journal.stage(f"judge {run.rstrip('/').rpartition('/')[2]}") as stage:
            stage.events = stream.events(split)
            return finished.metrics(stream, split)


def reference(config: Config, known: SpecsFile | None, journal: Journal) -> SpecsFile:
    """Specs of the features with quantile bins for all of them, by file: what new data are compared with.

    Args:
        config: The resolved config.
        known: Of an earlier time: its files are not read again.
        journal: Told of each stage.
    """
    from mlaas_spark.spark import specs as computing

    events = _open(config, journal)
    names = _features(config, events)
    with journal.stage("specs") as stage:
        made, _ = computing.compute(events, names, names, known)
        stage.events = made.specs.events
    return made


def check_run(run: str) -> None:
    """The folder is that of a finished run; ConfigError if it is not."""
    there = set(storage.children(storage.absolute(run)))
    if lacking := sorted({"config.yaml", "model.keras", "run.json", "specs.json"} - there):
        msg = f"{run} is no run folder: it has no {' and '.join(lacking)}; see mlaas-spark train"
        raise ConfigError(msg)


def _model_file(run: str, config: Config, settings: Sequence[str]) -> Path | None:
    """The user's file of a run's model: that which is named now, else the run's own if this user has written the run.

    A run folder of another user could name any file, which would run with our rights.
    """
    named = config.train.model
    if named is None or any(setting.strip().startswith(f"{_MODEL_FILE}=") for setting in settings):
        return named
    if storage.is_own(storage.join(run, "config.yaml")):
        return named
    _log.warning(
        "%s is of another user: %s, which its config names, is not run; if the model needs it and you trust it: "
        "--set %s=%s",
        run,
        named,
        _MODEL_FILE,
        named,
    )
    return None


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


def verify(path: str, *, deep: bool = False) -> Verified:
    """A data set, or a finished run with its bundles and chunks, against what was recorded when it was written.

    Args:
        path: Folder of a converted data set, of scores or chunks, or a run folder: a path or URL.
        deep: Whether all values are read, and of a run the model is loaded for its digest.

    Raises:
        ChunkError: It is neither, or its manifest or run.json is not whole.
    """
    from mlaas_spark import verify as verifying
    from mlaas_spark.filesets import MANIFEST

    place = storage.absolute(path)
    names = storage.children(place)
    if verifying.RECORD in names:
        return _verify_run(place, deep=deep)
    if MANIFEST in names or not names:
        return verifying.data_set(place, deep=deep)
    msg = (
        f"{path} is neither a data set nor a run folder: it has no {MANIFEST} and no {verifying.RECORD}, but "
        f"{', '.join(names[:5])}; was the job that writes it interrupted?"
    )
    raise ChunkError(msg)


def _verify_run(place: str, *, deep: bool) -> Verified:
    from mlaas_spark import verify as verifying
    from mlaas_spark.verify import Finding

    told = verifying.run_record(place)
    findings, notes = verifying.run_files(place, told)
    damaged = {finding.path for finding in findings}
    with storage.local_copy(place) as folder:
        findings += verifying.run_digests(told, _run_digests(folder, damaged))
        for name in told["bundles"].values():
            findings += _verify_bundle(folder, name, damaged)
        if deep and not findings:
            findings += _verify_model(folder, told, notes)
    chunks_at = told["chunks"]
    if storage.exists(storage.join(chunks_at, "manifest.json")):
        of_chunks = verifying.data_set(chunks_at, deep=deep)
        findings += [
            Finding(of.kind, storage.join(chunks_at, of.path) if of.path else "", of.text) for of in of_chunks.findings
        ]
        content = {"content": manifests.read(chunks_at).content_digest}
        findings += verifying.run_digests(told, content)
        notes += of_chunks.notes
    else:
        notes.append(f"its chunks are not in {chunks_at} any more")
    size = sum(of["bytes"] for of in told["files"].values())
    return verifying.Verified(place, "run", deep, len(told["files"]), size, {}, tuple(findings), tuple(notes))


def _run_digests(folder: Path, damaged: set[str]) -> dict[str, str]:
    """Of the config, plan and specs of a run, as far as their files are as they were."""
    from mlaas_spark.config import read, resolve
    from mlaas_spark.plan import Plan

    found = {}
    if "config.yaml" not in damaged:
        found["config"] = resolve(read(folder / "config.yaml"), str(folder / "config.yaml")).digest()
    if "plan.json" not in damaged:
        plan, _ = Plan.from_json(json.loads((folder / "plan.json").read_bytes())).by_content()  # as chunks have it
        found["plan"] = plan.digest()
    if "specs.json" not in damaged:
        found["specs"] = _digest_of(SpecsFile.loads((folder / "specs.json").read_bytes(), str(folder / "specs.json")))
    return found


def _verify_bundle(folder: Path, name: str, damaged: set[str]) -> list[Finding]:
    """A bundle's folder and its tar are whole, have the same content, and that name."""
    from mlaas_spark.ml.bundle import read_bundle
    from mlaas_spark.verify import Finding

    of_bundle = f"bundle/{name}"
    if any(path.startswith((f"{of_bundle}/", f"{of_bundle}.tar.gz")) for path in damaged):
        return []  # which is said already
    try:
        one, other = read_bundle(folder / "bundle" / name), read_bundle(folder / "bundle" / f"{name}.tar.gz")
    except ServingError as error:
        return [Finding("unreadable", of_bundle, str(error))]
    if one != other or one.name != name:
        return [Finding("digest", of_bundle, f"its folder and its tar differ, or it is not {name}")]
    return []


def _verify_model(folder: Path, told: Mapping[str, Any], notes: list[str]) -> list[Finding]:
    """The digests in the names of the bundles are those of model.keras; no code of the run folder is run."""
    from mlaas_spark.ml.bundle import bundle_name
    from mlaas_spark.ml.model import load_saved_model
    from mlaas_spark.verify import Finding

    try:
        model = load_saved_model(folder / "model.keras", None)
    except ModelContractError as error:
        notes.append(
            f"model.keras cannot be loaded without the classes of its file, its digest is not checked: {error}"
        )
        return []
    return [
        Finding("digest", "model.keras", f"its weights and architecture are not those that {name} is named by: {found}")
        for name in told["bundles"].values()
        if (found := bundle_name(model, folder / "bundle" / name)) != name
    ]


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
    place = storage.absolute(run)
    target = storage.absolute(destination) if destination else storage.join(place, "bundle")
    if not {"run.json", "model.keras"} <= set(storage.children(place)):
        msg = f"{run} is no run folder: it has no run.json and model.keras; see mlaas-spark train"
        raise ExportError(msg)
    from mlaas_spark.ml.bundle import write_bundles
    from mlaas_spark.ml.card import Origin
    from mlaas_spark.ml.inputs import InputLayout

    with storage.local_copy(place) as folder, storage.local_place(target) as bundles:
        finished = _Finished.read(place, folder, settings)
        told = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        origin = Origin(
            ranges=finished.specs.specs.ranges,
            trained=told["started"],
            config=told["digests"]["config"],
            metrics=json.loads((folder / "metrics.json").read_text(encoding="utf-8")),
            versions=told["versions"],
        )
        with journal.stage("export"):
            written = write_bundles(
                finished.model,
                finished.stream(told["chunks"]),
                finished.config.export,
                _digest_of(finished.specs),
                bundles,
                origin=origin,
                inputs=InputLayout.of(finished.transform, finished.config.train.inputs),
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


def uploadable(config: Config, bundle: str, journal: Journal, alias: str | None = None) -> dict[str, Any]:
    """What :func:`upload` would do, checked as far as it can be without sending; errors are those of it."""
    from mlaas_spark.serving import alias as aliases

    before = aliases.current(alias) if alias else None
    client = _client(config)
    with journal.stage("check the bundle offline"):
        archive = _archive(bundle)
    served = any(model["name"] == archive.name for model in client.models())
    used = {"alias": alias, "before": before and before.current.name}
    return {"name": archive.name, "url": client.url, "files": sorted(archive.files), "served": served, **used}


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
    """Let clients of an alias use the model before; errors are those of :func:`rolled_back`."""
    from mlaas_spark.serving import alias as aliases

    changed = rolled_back(config, alias)
    aliases.put(alias, changed)
    return changed


def rolled_back(config: Config, alias: str) -> Alias:
    """What an alias would be after a rollback: the model before, which its server must still have.

    Raises:
        ServingError: There was none before, or its server does not have it.
    """
    from mlaas_spark.serving import alias as aliases

    changed = aliases.read(alias).rolled_back(aliases.stamp(datetime.now(UTC)))
    _client(config, changed.current.url).params(changed.current.name)
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
    _check_unused(config, name)
    _client(config).delete(name)


def deletable(config: Config, name: str) -> None:
    """:func:`delete` would remove a model; errors are those of it."""
    _check_unused(config, name)
    _client(config).params(name)


def _check_unused(config: Config, name: str) -> None:
    """Clients do not use the model by the alias of the config."""
    from mlaas_spark.serving import alias as aliases

    if (place := config.serve.alias) and (used := aliases.current(place)) and used.current.name == name:
        msg = (
            f"{name} is what the alias {place} means now: mlaas-spark rollback --alias {place}, or promote another one"
        )
        raise ServingError(msg)


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
        own: Whether this user has written the run: else no file that it names is run.
    """

    bundle: Contents
    ranges: Ranges
    config: Config | None = None
    own: bool = True


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
        _measured(stage, events)
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
    return _Trained(bundle, specs.ranges, config, storage.is_own(storage.join(place, "config.yaml")))


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
            if not trained.own:
                msg = (
                    f"the run is of another user: {run.preproc}, by which its records were preprocessed, is not run; "
                    "if you trust it, name it by --preproc"
                )
                raise ConfigError(msg)
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


def _measured(stage: Stage, events: Events) -> None:
    """Let a stage tell how far it is, as Spark tells, and how much it reads, where that costs nothing to know."""
    from mlaas_spark.spark.progress import share_done

    stage.total, stage.measure = events.plan.entries, share_done(events.spark)
    paths = {file.path for file in events.plan.files}
    if all(storage.local_path(path) is not None for path in paths):
        stage.size = storage.total_size(paths)


def _measured_by(stream: ChunkStream, epochs: int, stage: Stage) -> None:
    """Let a training tell how far it is, as the stream tells."""
    stage.total = stream.events("train") * epochs
    stage.measure = partial(_share_trained, stream, stage.total, stream.meter.events("train"))


def _streamed(stream: ChunkStream, config: Config) -> Streamed | None:
    """Where the time of a training went; workers on executors have streams of their own."""
    from mlaas_spark.ml.stream import KERNEL, READ, WAITED

    waited, kernel, read = (stream.meter.seconds(part) for part in (WAITED, KERNEL, READ))
    return Streamed(waited, kernel, read, config.train.threads) if config.train.workers == 1 else None


def _share_trained(stream: ChunkStream, total: int, before: int) -> float:
    """Of the events of a training that the stream has delivered; more may wait than were learned from."""
    return min((stream.meter.events("train") - before) / max(total, 1), 1.0)


def _start(config: Config, journal: Journal, meanwhile: Callable[[], object] | None = None) -> SparkSession:
    from mlaas_spark.spark.session import session

    with journal.stage("start Spark") as stage:
        spark = session(config.spark, f"mlaas-spark {config.name}", meanwhile)
        stage.remark = f"Spark {spark.version}, {spark.sparkContext.master}; -v shows what it says"
    return spark


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
        _measured(stage, events)
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
        _measured(stage, events)
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
