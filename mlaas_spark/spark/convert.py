"""Batch conversion: any format to a Parquet data set with a manifest, one file an entry range, written by executors.

What it has in common with batch prediction (``predict``) is :func:`bring_up_to_date`; what that makes of the parts
where ROOT files are asked for is in ``friends``.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, Self

import pyarrow as pa
import pyarrow.compute as pc

from mlaas_spark import parquet
from mlaas_spark.bottleneck import WRITING
from mlaas_spark.config import ConvertConfig
from mlaas_spark.errors import BranchNotFoundError, ChunkError, ConfigError
from mlaas_spark.lease import held
from mlaas_spark.manifest import (
    DataFile,
    Manifest,
    clean,
    commit,
    discarded_if_empty,
    inputs_of,
    present,
    remove_superseded,
    request_digest,
    stage,
    value_digest,
)
from mlaas_spark.plan import EntryRange, recut
from mlaas_spark.schema import FILE
from mlaas_spark.spark.ingest import spans_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    from mlaas_spark.drift import Drift
    from mlaas_spark.manifest import Input, Staging
    from mlaas_spark.plan import PlannedFile
    from mlaas_spark.schema import EventSchema
    from mlaas_spark.spark.ingest import Events, RangeBatch
    from mlaas_spark.spark.spent import Spent

PLACE = "events"
"""Folder in the data set that holds its Parquet files and nothing else: any reader of Parquet folders can read it."""

_ROW_GROUP_EVENTS = 25_000
_NAMED = 5  # paths in a message
_SAMPLE = 1_000  # events that tell how many bytes one has


@dataclass(frozen=True, slots=True)
class Changes:
    """Paths of input files, with the tree where there are several, against those that a data set was made from."""

    kept: tuple[str, ...]
    new: tuple[str, ...]
    changed: tuple[str, ...]
    removed: tuple[str, ...]

    @classmethod
    def between(cls, before: Sequence[Input], now: Sequence[Input]) -> Self:
        """A file is the same while uuid, tree, entries and copy are, wherever it lies."""
        trees: dict[str, set[str]] = {}
        for item in (*before, *now):
            trees.setdefault(item.path, set()).add(item.tree)

        def place(item: Input) -> str:
            return f"{item.path}:{item.tree}" if len(trees[item.path]) > 1 else item.path

        known = {item.identity for item in before}
        fewer = Counter(item.identity[:-1] for item in before) - Counter(item.identity[:-1] for item in now)
        old_places, places = {place(item) for item in before}, {place(item) for item in now}
        other = [place(item) for item in now if item.identity not in known]
        return cls(
            kept=tuple(place(item) for item in now if item.identity in known),
            new=tuple(name for name in other if name not in old_places),
            changed=tuple(name for name in other if name in old_places),
            removed=tuple(place(i) for i in before if fewer[i.identity[:-1]] and place(i) not in places),
        )

    def __str__(self) -> str:
        groups = {"new": self.new, "changed": self.changed, "removed": self.removed, "kept": self.kept}
        return ", ".join(f"{len(paths)} {kind}{_named(kind, paths)}" for kind, paths in groups.items() if paths)


def _named(kind: str, paths: Sequence[str]) -> str:
    if kind not in {"changed", "removed"}:
        return ""
    return f" ({', '.join(paths[:_NAMED])}{', ...' if len(paths) > _NAMED else ''})"


class RangeTable(NamedTuple):
    """What is written of the events of one entry range.

    Attributes:
        entries: The range.
        table: Rows in entry order.
        drift: Of scores, what was not as in training.
        selected: How many rows are events that pass the selection; None where all are.
    """

    entries: EntryRange
    table: pa.Table
    drift: Mapping[str, Drift]
    selected: int | None = None


class Parts(NamedTuple):
    """The staged Parquet files of the ranges of new and changed inputs.

    Attributes:
        events: The events that they are made of.
        staging: Where they lie.
        files: Those of each range.
        taken: Paths that the data set's files have already.
    """

    events: Events
    staging: Staging
    files: Mapping[EntryRange, Sequence[DataFile]]
    taken: Collection[str]


@dataclass(frozen=True, slots=True)
class RangeSet:
    """What a data set that is made of a Parquet file for each entry range is, whatever its inputs.

    Attributes:
        layout: Of its manifest.
        place: Folder of its files.
        schema: Branches of its rows.
        recipe: Equal recipes make equal rows of equal inputs.
        differs: What a data set of another recipe holds, for the message that refuses it.
        tables: Makes the tables of a task from the events of its ranges; runs on executors.
        compression: Of the files.
        digests: For the manifest.
        gather: Makes of the parts other staged files, and says where each is to lie; None leaves each part as it is.
    """

    layout: str
    place: str
    schema: EventSchema
    recipe: str
    differs: str
    tables: Callable[[Iterator[RangeBatch]], Iterator[RangeTable]]
    compression: str = ConvertConfig().compression
    digests: Mapping[str, str] = field(default_factory=dict)
    gather: Callable[[Parts], list[tuple[DataFile, str]]] | None = None


def convert(events: Events, folder: str, config: ConvertConfig | None = None, *, retry: bool = False) -> Manifest:
    """Write the selected events to ``folder/events``, a Parquet file for each entry range.

    Args:
        events: What to write, already opened.
        folder: A new folder, an empty one, or one that an earlier conversion wrote, see :func:`bring_up_to_date`.
        config: Compression, the keys by which the events of each file are sorted, and how large files are to be,
            about (before the selection); None is the default.
        retry: Read again what an earlier conversion has skipped.

    Raises:
        BranchNotFoundError: A key to sort by is no branch that is read.
        ConfigError: A target size for JSON or CSV.
        ChunkError: The folder holds other branches, another selection or number of events, or something else.
        FilesetError: No event passes the selection.
    """
    plan, config = events.plan, config or ConvertConfig()
    if config.target_size and not plan.files[0].format.module:
        msg = "target_size is not for JSON and CSV: of these set spark.conf.spark.sql.files.maxPartitionBytes"
        raise ConfigError(msg)
    for key in config.sort_keys:
        if key not in plan.schema.flat:
            raise BranchNotFoundError(key, plan.schema.flat, "the flat branches that are read")
    converted = RangeSet(
        layout="events",
        place=PLACE,
        schema=plan.schema,
        recipe=request_digest([*asked(events), *config.sort_keys]),
        differs="other branches, another selection, order or number of events",
        tables=_tables(config.sort_keys),
        compression=config.compression,
    )
    return bring_up_to_date(events, converted, folder, partial(_sized, config=config), retry=retry)


def asked(events: Events) -> list[str]:
    """What was asked for of whatever inputs: branches, selection, entries."""
    limits = json.dumps(events.limits, sort_keys=True)
    return [events.plan.schema.digest(), events.selection.text if events.selection else "", limits]


def bring_up_to_date(
    events: Events,
    made: RangeSet,
    folder: str,
    recut: Callable[[Events, Collection[int]], Events] = lambda events, _: events,
    *,
    retry: bool = False,
) -> Manifest:
    """Write a data set, or what it lacks of the events.

    The files of inputs that have not changed stay, those of new and changed inputs are written, those of changed and
    removed ones go. What was begun goes on. Where damage may be skipped, ranges that are damaged are told of in the
    manifest; of inputs that have not changed they are not read again, unless ``retry`` or damage is an error.

    Args:
        events: All that the data set is to hold.
        made: What it is.
        folder: A new folder, an empty one, or one that holds an earlier version.
        recut: Gives the events with other ranges for the inputs, named by their places, that are to be written.
        retry: Read again what was skipped.

    Raises:
        ChunkError: The folder holds something else.
        FilesetError: No event passes the selection.
        SkipLimitError: More is damaged than may be.
    """
    with ExitStack() as stack:
        return _brought(events, made, folder, recut, stack, retry=retry)


def _brought(
    events: Events,
    made: RangeSet,
    folder: str,
    recut: Callable[[Events, Collection[int]], Events],
    stack: ExitStack,
    *,
    retry: bool,
) -> Manifest:
    plan = events.plan
    before = present(folder)
    if before is not None and before.request != made.recipe:
        msg = f"{folder} holds {made.differs}: choose another folder, or remove this one"
        raise ChunkError(msg)
    if before is not None and before.version > 1:
        remove_superseded(folder, before)  # its writer may have died before it did
    inputs = inputs_of(plan)
    known = before.inputs if before else ()
    places = {item.identity: index for index, item in enumerate(known)}
    kept = {places[item.identity]: index for index, item in enumerate(inputs) if item.identity in places}
    events = recut(events, set(range(len(inputs))) - set(kept.values()))
    plan = events.plan
    known_skips = (
        [item for item in before.skipped if item.key in {inputs[new].key for new in kept.values()}] if before else []
    )
    again: tuple[EntryRange, ...] = ()
    if retry or events.spare is None:
        spans = spans_of(plan, known_skips)
        again = tuple(EntryRange(file, *span) for file in sorted(spans) for span in sorted(spans[file]))
        known_skips = []
    fresh = (*(r for r in plan.ranges if r.file not in kept.values()), *again)
    stays = [_moved(file, kept) for file in before.files if file.ranges[0][0] in kept] if before else []

    staging = stage(folder, request_digest([made.recipe, plan.digest()]))
    stack.enter_context(held(staging.url))
    missing = tuple(r for r in fresh if staging.finished(_task(r)) is None)
    left = replace(events, skipped=())
    with discarded_if_empty(staging):
        if missing:
            _, left = left.with_ranges(missing).attempt(_writer(staging, made, events.spent))
        skipped = events.without([*known_skips, *left.skipped]).skipped  # refused if they are too many together
        done = {r: staging.finished(_task(r)) or [] for r in fresh}
        counts = {(r.file, r.start): sum(f.events for f in files) for r, files in done.items()}
        # the events of a kept file, whose ranges may have been others, count with the first of its ranges
        first = {r.file: r.start for r in reversed(plan.ranges)}
        for old, new in kept.items():
            if new in first:
                of_again = sum(counts.pop((r.file, r.start)) for r in again if r.file == new)
                counts[new, first[new]] = known[old].events + of_again
        counted = events.with_counts(counts)
        taken = {file.path for file in before.files} if before else set()
        gathered = made.gather(Parts(events, staging, done, taken)) if made.gather else None
    manifest = Manifest(
        layout=made.layout,
        request=made.recipe,
        schema=made.schema,
        inputs=inputs_of(counted.plan, skipped),
        files=tuple(stays),
        digests={"plan": plan.digest(), **made.digests},
        version=before.version + 1 if before else 1,
        skipped=skipped,
    )
    if before and not any(done.values()) and (before.inputs, before.skipped) == (manifest.inputs, manifest.skipped):
        clean(staging)
        manifest = before
    else:
        # a set from before there was this folder has its files beside the manifest, all of them
        beside = any("/" not in file.path for file in stays)
        named = partial(_final_name, version=manifest.version)
        staged = gathered or [
            (file, ("" if beside else f"{made.place}/") + named(plan.files[entries.file], entries, file.digest))
            for entries, files in done.items()
            for file in files
        ]
        manifest = commit(staging, manifest, staged)
    remove_superseded(folder, manifest)
    return manifest


def _sized(events: Events, files: Collection[int], config: ConvertConfig) -> Events:
    """The same events, the named files cut into ranges that make Parquet files of about the target size, if there is.

    How many bytes an event has is measured on the first of each file. So the ranges of a file depend on it alone,
    whatever is converted with it.
    """
    spans = events.plan.spans_read()
    samples = tuple(
        EntryRange(file, start, min(start + _SAMPLE, stop))
        for file, ((start, stop), *_) in ((file, spans[file]) for file in sorted(files) if spans[file])
    )
    if not (target := config.target_size) or not samples:
        return events

    def measure(batches: Iterator[RangeBatch]) -> Iterator[tuple[int, int]]:
        for entries, batch, _ in batches:
            size = parquet.size(pa.Table.from_batches([batch]).drop_columns([FILE]), _SAMPLE, config.compression)
            yield entries.file, max(1, target * entries.entries // size)

    # before the selection: what a task holds in memory is what it has read
    unselected = replace(events, selection=None).with_ranges(samples)
    return events.with_ranges(recut(events.plan, dict(unselected.run(measure))))


def _moved(file: DataFile, places: dict[int, int]) -> DataFile:
    """The same file where its input has another place in the list."""
    return replace(file, ranges=tuple((places[index], start, stop) for index, start, stop in file.ranges))


def _task(entries: EntryRange) -> str:
    # by the file's place: the staging folder is of one list of files. An earlier attempt may have cut the file
    # elsewhere: a range is named by both of its ends
    return f"{entries.file:06d}-{entries.start:012d}-{entries.stop:012d}"


def _final_name(file: PlannedFile, entries: EntryRange, values: str, version: int) -> str:
    # trees and copies of one file may have equal values in equal entries
    digest = request_digest([file.key, values])
    # a name of its own in each version: a writer that is slow to remove what an older one had removes nothing newer
    since = f"-v{version}" if version > 1 else ""
    return f"{file.uuid}-{entries.start:012d}-{entries.stop:012d}-{digest[:16]}{since}.parquet"


def _tables(sort_keys: Sequence[str]) -> Callable[[Iterator[RangeBatch]], Iterator[RangeTable]]:
    def run(batches: Iterator[RangeBatch]) -> Iterator[RangeTable]:
        for entries, group in itertools.groupby(batches, key=lambda item: item.entries):
            # without the file's place in the list of inputs, which changes while they come and go
            table = pa.Table.from_batches([item.batch for item in group]).drop_columns([FILE])
            if sort_keys:
                table = table.take(pc.sort_indices(table, [(key, "ascending") for key in sort_keys]))
            yield RangeTable(entries, table, {})

    return run


def _writer(staging: Staging, made: RangeSet, spent: Spent) -> Callable[[Iterator[RangeBatch]], Iterator[int]]:
    """The function that writes ranges and gives the events of each."""
    tables, compression = made.tables, made.compression

    def run(batches: Iterator[RangeBatch]) -> Iterator[int]:
        for entries, table, drift, selected in tables(batches):
            files = []
            with spent.timed(WRITING):
                if table.num_rows:
                    url = staging.new_file()
                    size = parquet.write(table, url, _ROW_GROUP_EVENTS, compression)
                    ranges = ((entries.file, entries.start, entries.stop),)
                    digest = value_digest(table.combine_chunks())
                    path, rows = url.rsplit("/", 1)[-1], table.num_rows
                    files.append(DataFile(path, rows, size, ranges, digest, drift=drift, selected=selected))
                staging.finish(_task(entries), files)
            yield table.num_rows

    return run
