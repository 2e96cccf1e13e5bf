"""Verbs that look and write nothing: inspect, plan, doctor."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlaas_spark import storage
from mlaas_spark.errors import MlaasSparkError, ServingError
from mlaas_spark.inspection import Headers, Inspection
from mlaas_spark.pipeline import choosing, opening

if TYPE_CHECKING:
    from mlaas_spark.config import Config
    from mlaas_spark.doctor import Check
    from mlaas_spark.plan import Plan
    from mlaas_spark.runs import Journal
    from mlaas_spark.spark.ingest import Events

SAMPLE = 25_000
"""Entries that inspect reads unless it is told how many."""


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


def inspect_headers(config: Config, journal: Journal) -> Headers:
    """Open the files; read no events."""
    return _headers(config, opening.open_files(config, journal), journal)


def inspect(config: Config, journal: Journal) -> Inspection:
    """Open the files and read so many entries as the config says (:data:`SAMPLE` if it does not), selected or not."""
    from mlaas_spark.spark import inspection as inspecting

    if config.input.selection:
        journal.say(f"inspect shows all entries: the selection {config.input.selection!r} is not applied")
    sampling = {"events": config.input.events or SAMPLE, "selection": None}
    config = config.model_copy(update={"input": config.input.model_copy(update=sampling)})
    events = opening.open_files(config, journal)
    headers = _headers(config, events, journal)
    with journal.stage("read events") as stage:
        specs, readings = inspecting.read(events)
        stage.events = specs.events
    return Inspection(headers, specs, tuple(choosing.candidates(config, events.plan.schema)), readings, stage.seconds)


def _headers(config: Config, events: Events, journal: Journal) -> Headers:
    from mlaas_spark.spark.inspection import on_disk

    with journal.stage("look up sizes"):
        files, compressed = on_disk(events)
    return Headers(events.plan, files, compressed, choosing.keys(config, events.plan.schema))


def plan(config: Config, journal: Journal) -> Planned:
    """Open the files and cut them into ranges, as every job begins; read no events."""
    return planned(config, opening.open_files(config, journal))


def planned(config: Config, events: Events) -> Planned:
    """What a job of these events would read."""
    from mlaas_spark.spark.session import partitions

    sizes = {path: storage.size(path, config.input.patience) for path in {file.path for file in events.plan.files}}
    of_inputs = tuple(sizes[file.path] for file in events.plan.files)
    return Planned(events.plan, partitions(events.spark, len(events.plan.ranges)), of_inputs)


def doctor(config: Config, out: str | None, journal: Journal, *, session: bool = False) -> list[Check]:
    """Look at what this machine has of what the config's work needs, its TFaaS server too.

    Args:
        config: Of it count where files are, what is written, ``spark`` and ``serve``.
        out: A further folder that would be written: a small file is written there and removed.
        journal: Told of each stage.
        session: Start Spark, and a Python worker in it, as well.
    """
    from mlaas_spark import doctor as doctors

    section = config.input
    named = [*section.files, section.redirector or "", *(name for group in section.groups for name in group.files)]
    writes = [place for place in (config.runs, config.chunks.folder) if place]
    tried = [out] if out else []
    needs = doctors.Needs.of([*named, *writes, *tried], config.spark.master, config.spark.x509_proxy)
    found = doctors.checks(needs, writes, tried)
    if config.serve.url:
        found.append(_asked_for_models(config))
    if session:
        found.append(_tried_spark(config, journal))
    return found


def _asked_for_models(config: Config) -> Check:
    from mlaas_spark.doctor import Check
    from mlaas_spark.serving.client import Client

    name = f"TFaaS {config.serve.url}"
    patient = config.serve.model_copy(update={"retries": 0, "timeout": 5.0})
    try:
        return Check(name, "ok", f"answers, has {len(Client(patient).models())} models")
    except ServingError as error:
        return Check(name, "fail", str(error), "is it up, and is the URL that of the server: --url, serve.url")


def _tried_spark(config: Config, journal: Journal) -> Check:
    from mlaas_spark.doctor import Check
    from mlaas_spark.spark.probe import workers

    try:
        spark = opening.start_spark(config, journal)
        there = workers(spark)
    except MlaasSparkError as error:
        return Check("Spark session", "fail", str(error), "see what is said of Java and of HADOOP_CONF_DIR")
    return Check(
        "Spark session", "ok", f"Spark {spark.version}, {spark.sparkContext.master}, {len(there)} Python workers"
    )
