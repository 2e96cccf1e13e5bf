"""What training takes: specs of the branches and chunks of events; the verbs specs and chunks."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from mlaas_spark import manifest as manifests
from mlaas_spark import skipping, storage
from mlaas_spark.branch_specs import SpecsFile
from mlaas_spark.errors import ChunkError, SpecsError, SpecsMismatchError
from mlaas_spark.pipeline import choosing, opening, telling
from mlaas_spark.selection import Expression
from mlaas_spark.transform import FeatureTransform

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlaas_spark.config import Config
    from mlaas_spark.manifest import Manifest
    from mlaas_spark.runs import Journal
    from mlaas_spark.spark.chunks import ChunkRequest
    from mlaas_spark.spark.ingest import Events

_log = logging.getLogger(__name__)


def specs(config: Config, target: str, journal: Journal, *, retry_skipped: bool = False) -> SpecsFile:
    """Compute specs and write them to ``target``; specs of an earlier run there save reading its files again.

    What an earlier run has skipped of a file is not read again either, unless ``retry_skipped``: then these files are.
    """
    from mlaas_spark.spark import specs as computing

    events = opening.open_files(config, journal)
    target = storage.absolute(target)
    known = read_specs(target) if storage.exists(target) else None
    if known is not None and not retry_skipped and config.input.bad_files == "skip":
        events = events.without(item for item in known.skipped if item.key in known.by_file)
    with journal.stage("specs") as stage:
        opening.measure(stage, events)
        schema = events.plan.schema
        wanted = choosing.features(config, schema)
        made, _ = computing.compute(events, wanted, choosing.quantiles(config, schema), known)
        stage.events = made.specs.events
    storage.write_atomic(target, made.dumps().encode())
    telling.say_bottleneck(journal)
    telling.say_skipped(made.skipped, target, journal)
    return made


def chunks(config: Config, folder: str, journal: Journal) -> Manifest:
    """Write the chunk data set of the config, with specs.json beside its manifest's folder."""
    events = opening.open_files(config, journal)
    made, counted = specs_of(config, events, journal)
    manifest = build_chunks(config, counted, made, storage.absolute(folder), journal)
    telling.say_bottleneck(journal)
    telling.say_skipped(manifest.skipped, storage.join(folder, skipping.FILE), journal)
    return manifest


def reference(config: Config, known: SpecsFile | None, journal: Journal) -> SpecsFile:
    """Specs of the features with quantile bins for all of them, by file: what new data are compared with.

    Args:
        config: The resolved config.
        known: Of an earlier time: its files are not read again.
        journal: Told of each stage.
    """
    from mlaas_spark.spark import specs as computing

    events = opening.open_files(config, journal)
    names = choosing.features(config, events.plan.schema)
    with journal.stage("specs") as stage:
        made, _ = computing.compute(events, names, names, known)
        stage.events = made.specs.events
    return made


def specs_of(config: Config, events: Events, journal: Journal) -> tuple[SpecsFile, Events]:
    """Specs of the features, from the config's specs file where it names one."""
    from mlaas_spark.spark import specs as computing

    schema, source = events.plan.schema, config.features.specs
    wanted, quantiles = choosing.features(config, schema), choosing.quantiles(config, schema)
    given = read_specs(source) if source else None
    # what is skipped is decided once, by all that the job reads of events
    needed = {*choosing.keys(config, schema), *(name for of in choosing.answers(config) for name in of.branches)}
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
        opening.measure(stage, events)
        made, counted = computing.compute(events, wanted, quantiles, given, also=needed)
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


def read_specs(path: str) -> SpecsFile:
    """A specs file, ours or MLaaS4HEP's.

    Raises:
        SpecsError: There is none, or it is not whole.
    """
    try:
        return SpecsFile.loads(storage.read_bytes(path), path)
    except FileNotFoundError as error:
        msg = f"no such specs file: {path}; make it with mlaas-spark specs"
        raise SpecsError(msg) from error


def digest_of(made: SpecsFile) -> str:
    """Of all that specs.json says."""
    return manifests.request_digest([made.dumps()])


def chunk_request(config: Config, events: Events, made: SpecsFile) -> ChunkRequest:
    """What chunks are to hold."""
    from mlaas_spark.spark.chunks import ChunkRequest

    return ChunkRequest(
        config=config.chunks,
        transform=FeatureTransform.of(made.specs, config.features),
        keys=choosing.keys(config, events.plan.schema),
        label=Expression.parse(config.input.label) if config.input.label else None,
        batch_size=config.train.batch_size,
        specs_digest=digest_of(made),
        targets=tuple(map(Expression.parse, config.input.targets)),
        weight=Expression.parse(config.input.weight) if config.input.weight else None,
    )


def chunk_digest(config: Config, events: Events, made: SpecsFile) -> str:
    """Of all that decides what is in the chunks."""
    request = chunk_request(config, events, made)
    return manifests.request_digest([request.digest(events.plan), config.input.selection or ""])


def build_chunks(config: Config, events: Events, made: SpecsFile, folder: str, journal: Journal) -> Manifest:
    """Write the chunk data set of events, or bring it up to date, with specs.json beside its manifest.

    Raises:
        ChunkError: No event is in the training split.
    """
    from mlaas_spark.spark import chunks as building

    with journal.stage("chunks") as stage:
        opening.measure(stage, events)
        manifest = building.build(events, chunk_request(config, events, made), folder)
        stage.events = manifest.rows
        stage.remark = f"{manifest.chunks} chunks, {len(manifest.files)} files in {folder}"
    if not manifest.events().get("train"):
        msg = f"no event in the training split of {manifest.rows}: give more events or a larger chunks.split.train"
        raise ChunkError(msg)
    storage.write_atomic(storage.join(folder, "specs.json"), made.dumps().encode())
    if manifest.skipped or config.input.bad_files == "skip":
        storage.write_atomic(storage.join(folder, skipping.FILE), skipping.dumps(manifest.skipped).encode())
    return manifest
