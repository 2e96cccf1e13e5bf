"""Verbs that measure, by a short run of all stages on samples: explain, throughput."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlaas_spark import runs, storage
from mlaas_spark.estimate import Asked, Probe, Streaming, estimate
from mlaas_spark.pipeline import choosing, looking, opening, preparing

if TYPE_CHECKING:
    from mlaas_spark.config import Config
    from mlaas_spark.estimate import Estimate
    from mlaas_spark.ml.stream import ChunkStream
    from mlaas_spark.pipeline.looking import Planned
    from mlaas_spark.runs import Journal
    from mlaas_spark.spark.ingest import Events
    from mlaas_spark.throughput import Throughput

_READY = 3  # row groups of a thread that are decoded, waiting or in use


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
    events = opening.open_files(config, journal, text=True)
    planned = looking.planned(config, events)
    place = storage.absolute(out or config.runs)
    wanted = cores or events.spark.sparkContext.defaultParallelism
    with runs.working_folder(place) as work:
        measured, _ = _probed(config, events, work.unfinished, wanted, journal)
    return Explained(planned, estimate(events.plan, planned.bytes, measured, _asked(config, wanted)))


def throughput(config: Config, journal: Journal, out: str | None = None) -> Throughput:
    """Measure the stages on samples of the config's input, and what this machine could do at the most.

    Args:
        config: The resolved config.
        journal: Told of each stage.
        out: Where a job would write; None is the folder of the runs. What the probe writes there it removes.
    """
    from mlaas_spark import throughput as measuring

    events = opening.open_files(config, journal, text=True)
    planned = looking.planned(config, events)
    here = (storage.local_path(path) for path in sorted({file.path for file in events.plan.files}))
    paths = [path for path in here if path is not None]
    with runs.working_folder(storage.absolute(out or config.runs)) as work:
        measured, stream = _probed(
            config, events, work.unfinished, events.spark.sparkContext.defaultParallelism, journal
        )
        with journal.stage("hand over to TensorFlow"):
            handed = measuring.seconds_of(stream.dataset("train", seed=config.train.seed))
        with journal.stage("measure the machine"):
            machine = measuring.machine(paths, work.path)
        train = stream.events("train")
    size = sum({file.path: size for file, size in zip(events.plan.files, planned.bytes, strict=True)}.values())
    return measuring.compare(measured, size / events.plan.entries, machine, train / handed if train else None)


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


def _probed(config: Config, events: Events, folder: str, cores: int, journal: Journal) -> tuple[Probe, ChunkStream]:
    """What was measured, and the stream of the chunks that were made for it."""
    from mlaas_spark.ml.stream import ChunkStream, passes
    from mlaas_spark.spark import probe
    from mlaas_spark.spark.chunks import dense_bytes

    started, opened = (stage.seconds for stage in journal.stages[-2:])
    samples, numeric = probe.Samples.of(events), probe.numeric(events)
    with journal.stage("measure convert and specs") as stage:
        schema = numeric.plan.schema
        features, quantiles = choosing.features(config, schema), choosing.quantiles(config, schema)
        read = probe.read(events, samples, folder, config.convert, features, quantiles)
        stage.events = read.convert.entries + read.specs.entries
    made = preparing.read_specs(config.features.specs) if config.features.specs else read.specs.made
    request = preparing.chunk_request(config, numeric, made)
    with journal.stage("measure chunks") as stage:
        chunked = probe.chunked(numeric, samples, folder, request, read.in_memory)
        stage.events = chunked.verb.made.rows
    with journal.stage("measure the stream") as stage:
        stream = ChunkStream.open(chunked.folder, request.transform, config.train.batch_size, config.train.threads)
        first, again, some = passes(stream, config.train.seed if config.train.shuffle else None)
        stage.events = chunked.verb.made.rows
    memory = probe.memory(events.spark, read, chunked)
    written = read.convert.made
    measured = Probe(
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
        room=probe.room(events.spark, place=folder, cores=cores),
    )
    return measured, stream
