"""Chunk data sets: events mixed in proportion to the files, shuffled by seed, split by event hash, committed once.

Each range is read once: its events are labelled and spilled to the staging folder as an Arrow file, cut where the next
part begins. Each part is then gathered from the spills by one task, put in order and written. Events of ROOT and
Parquet never cross to the JVM (but for dense chunks, whose features a pandas UDF makes), and a rerun after a crash
takes up the spills and parts that are there.
"""

from __future__ import annotations

import bisect
import itertools
import logging
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

import numpy as np
import pyarrow as pa
from pyspark.sql import functions as F  # noqa: N812 - the name Spark's own documentation uses
from pyspark.sql.pandas.types import from_arrow_schema

from mlaas_spark import mixing, parquet, storage
from mlaas_spark.bottleneck import WRITING
from mlaas_spark.errors import BranchNotFoundError, ChunkError, ConfigError, SpecsMismatchError
from mlaas_spark.lease import held
from mlaas_spark.manifest import (
    FEATURES,
    LABEL,
    MASK,
    WEIGHT,
    DataFile,
    Manifest,
    Staging,
    begin,
    commit,
    discard,
    discarded_if_empty,
    inputs_of,
    label_columns,
    request_digest,
    stage,
    value_digest,
)
from mlaas_spark.schema import ENTRY, FILE, joined
from mlaas_spark.spark.features import features
from mlaas_spark.spark.session import on_executor, received, spread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    import numpy.typing as npt
    from pyspark.sql import SparkSession

    from mlaas_spark.config import ChunkConfig
    from mlaas_spark.plan import EntryRange, Plan
    from mlaas_spark.selection import Expression
    from mlaas_spark.spark.ingest import Events, RangeBatch
    from mlaas_spark.spark.spent import Spent
    from mlaas_spark.transform import FeatureTransform

_log = logging.getLogger(__name__)

_PART_EVENTS = 50_000  # events of a file of a chunk of 'all': what one task holds in memory
_ROW_GROUP_EVENTS = 8_192
_DONE = pa.schema([("events", pa.int64())])


@dataclass(frozen=True, slots=True)
class ChunkRequest:
    """What a chunk data set is made of, beside the events.

    Attributes:
        config: Size, layout, seed, split.
        transform: Features; its branches are the ones that are kept.
        keys: Identifier branches, kept beside the features.
        label: Expression of the label, None where each file has its own.
        targets: Of a regression, an expression for each target; then there is no label.
        weight: Expression of the weight of an event, a factor beside that of its file; None is 1.
        batch_size: Training batch; row groups hold whole ones.
        specs_digest: Digest of the specs the transform comes from.
    """

    config: ChunkConfig
    transform: FeatureTransform
    keys: tuple[str, ...]
    label: Expression | None
    batch_size: int
    specs_digest: str
    targets: tuple[Expression, ...] = ()
    weight: Expression | None = None

    @property
    def expressions(self) -> tuple[Expression, ...]:
        """What is reckoned for each event beside its features."""
        given = (self.label, *self.targets, self.weight)
        return tuple(expression for expression in given if expression is not None)

    def digest(self, plan: Plan) -> str:
        """Equal digests give equal chunks."""
        return request_digest(
            [
                plan.digest(),
                self.config.model_dump_json(exclude=_no_part_of_it(self.config)),
                self.transform.digest(),
                ",".join(self.keys),
                self.label.text if self.label else "",
                str(row_group_events(self.batch_size)),
                *(f"target {target.text}" for target in self.targets),
                *([f"weight {self.weight.text}"] if self.weight else []),
            ]
        )


def _no_part_of_it(config: ChunkConfig) -> dict[str, Any]:
    """What of a config does not change chunks; folds that are not asked for do not, so that older chunks stay known."""
    return {"folder": True, **({} if config.split.folds else {"split": {"folds", "fold"}})}


def build(events: Events, request: ChunkRequest, folder: str) -> Manifest:
    """Write the chunks of the events to ``folder`` and return the manifest; chunks that are there already are kept.

    The order in which the files were named, and their names, make no difference.

    Raises:
        BranchNotFoundError: The events lack a feature or a key.
        ConfigError: Neither files nor an expression give a label.
        ChunkError: The folder holds other chunks or something else.
    """
    events = events.by_content()
    _check_branches(events.plan, request)
    _check_labels(events.plan, request)
    selection = events.selection.text if events.selection else ""
    staging = begin(folder, request_digest([request.digest(events.plan), selection]))
    if isinstance(staging, Manifest):
        _log.info("%s holds these chunks already", folder)
        return staging
    with held(staging.url):
        counted, staged = _staged(events, request, staging)
        if not request.targets:
            _check_classes(staged, staging)
        return _committed(counted, request, staging, staged)


def trial(events: Events, request: ChunkRequest, folder: str) -> Manifest:
    """Chunks of a sample, to see what they take: as :func:`build`, but all events have the label 0, given one or not.

    Raises:
        BranchNotFoundError: The events lack a feature or a key.
    """
    _check_branches(events.plan, request)
    plan = replace(events.plan, files=tuple(replace(file, label=0.0) for file in events.plan.files))
    unlabelled, request = replace(events, plan=plan), replace(request, label=None, targets=(), weight=None)
    staging = stage(folder, request_digest([request.digest(plan)]))
    with held(staging.url):
        counted, staged = _staged(unlabelled, request, staging)
        return _committed(counted, request, staging, staged)


def part_events(size: int | Literal["all"]) -> int:
    """Events of a part, which one task gathers: a chunk's, or of a chunk of ``all`` some."""
    return _PART_EVENTS if size == "all" else size


def _staged(events: Events, request: ChunkRequest, staging: Staging) -> tuple[Events, list[tuple[int, DataFile]]]:
    with discarded_if_empty(staging):
        counted = events.counted()
        return counted, _write(counted, request, staging)


def _committed(events: Events, request: ChunkRequest, staging: Staging, staged: list[tuple[int, DataFile]]) -> Manifest:
    size = request.config.size
    manifest = Manifest(
        layout=request.config.layout,
        request=staging.request,
        schema=events.plan.schema.keep({*request.transform.layout.branches, *request.keys}),
        inputs=inputs_of(events.plan, events.skipped),
        skipped=events.skipped,
        files=(),
        keys=request.keys,
        digests={
            "plan": events.plan.digest(),
            "specs": request.specs_digest,
            "transform": request.transform.digest(),
            "config": request_digest([request.config.model_dump_json(exclude=_no_part_of_it(request.config))]),
        },
        transform=request.transform.to_json() if request.config.layout == "dense" else None,
        targets=tuple(target.text for target in request.targets),
        weight=request.weight.text if request.weight else "",
    )
    final = []
    for part, file in staged:
        chunk = 0 if size == "all" else part
        final.append((replace(file, chunk=chunk), f"{file.split}/{part:06d}-{file.digest[:16]}.parquet"))
    return commit(staging, manifest, final)


def _check_branches(plan: Plan, request: ChunkRequest) -> None:
    for name in (*request.transform.layout.branches, *request.keys):
        if name not in plan.schema:
            raise BranchNotFoundError(name, plan.schema.names, "the events")


def _check_labels(plan: Plan, request: ChunkRequest) -> None:
    unlabelled = [file.path for file in plan.files if file.label is None]
    if request.label is None and not request.targets and unlabelled:
        msg = (
            f"no label for {unlabelled[0]}{' and others' if len(unlabelled) > 1 else ''}: give each group a label, "
            "or input.label as a branch or an expression, or input.targets for a regression"
        )
        raise ConfigError(msg)
    answers = {branch for expression in request.expressions for branch in expression.branches}
    if both := answers & set(request.transform.layout.branches):
        msg = (
            f"branches {sorted(both)} make the label, a target or the weight and are features too: "
            "the model would read the answer"
        )
        raise SpecsMismatchError(msg)


def _check_classes(staged: list[tuple[int, DataFile]], staging: Staging) -> None:
    labels = {label for _, file in staged if file.split == "train" for label in file.labels}
    if len(labels) < 2:
        discard(staging)
        msg = (
            f"only one class in training: every event has label {', '.join(labels) or 'none'}; "
            "training needs at least two, see labels of the groups or input.label"
        )
        raise ChunkError(msg)


def _write(events: Events, request: ChunkRequest, staging: Staging) -> list[tuple[int, DataFile]]:
    """Spill the ranges, gather the parts; the staged files of each part."""
    mix = _Mix.of(events.plan, request.config)
    done = {part: files for part in range(mix.parts) if (files := staging.finished(_task(part))) is not None}
    missing = [part for part in range(mix.parts) if part not in done]
    if missing:
        kept = [*request.transform.layout.branches, *request.keys]
        needed = {*kept, *(branch for expression in request.expressions for branch in expression.branches)}
        wanted = {(item.file, item.start) for part in missing for item in mix.slices(part)}
        ranges = tuple(
            r
            for r in events.plan.ranges
            if (r.file, r.start) in wanted and not storage.exists(_spill(staging, r.file, r.start, r.stop))
        )
        if ranges:
            events.reading(needed).with_ranges(ranges).run(_spiller(events, mix, request, kept, staging))
        spread(events.spark, missing, _gatherer(events, mix, request, staging))
        done.update({part: staging.finished(_task(part)) or [] for part in missing})
    staged = [(part, file) for part in sorted(done) for file in done[part]]
    if request.config.layout == "compact":
        return staged
    key_types = {name: events.plan.schema[name].arrow_type for name in request.keys}
    return _densified(events.spark.newSession(), staged, request, staging, key_types, events.spent)


class _Slice(NamedTuple):
    """Some ``events`` of the range [start, stop) of a file: the record batch ``number`` of its spill."""

    file: int
    start: int
    stop: int
    number: int
    events: int


@dataclass(frozen=True, slots=True)
class _Mix:
    """Which events of which range belong to which part.

    Attributes:
        bounds: Events of each file in all parts up to and with each, shape (parts, files).
        ranges: For each file its ranges: (first entry, one past the last, number of the first event, events).
        edges: For each file the numbers of its events where a part ends, ascending.
    """

    bounds: npt.NDArray[np.int64]
    ranges: tuple[tuple[tuple[int, int, int, int], ...], ...]
    edges: tuple[npt.NDArray[np.int64], ...]

    @classmethod
    def of(cls, plan: Plan, config: ChunkConfig) -> Self:
        size = part_events(config.size)
        ranks = plan.first_ranks()
        ranges: list[list[tuple[int, int, int, int]]] = [[] for _ in plan.files]
        for r in plan.ranges:
            ranges[r.file].append((r.start, r.stop, ranks[r.file, r.start], r.events or 0))
        bounds = np.cumsum(mixing.chunk_counts(plan.events_by_file(), size), axis=0)
        return cls(bounds, tuple(tuple(of_file) for of_file in ranges), tuple(np.unique(ends) for ends in bounds.T))

    @property
    def parts(self) -> int:
        return len(self.bounds)

    def slices(self, part: int) -> Iterator[_Slice]:
        """The events of a part, in order of file and entry."""
        below = self.bounds[part - 1] if part else np.zeros_like(self.bounds[0])
        for file, (low, high) in enumerate(zip(below.tolist(), self.bounds[part].tolist(), strict=True)):
            of_file = self.ranges[file]
            place = max(bisect.bisect_right(of_file, low, key=lambda item: item[2]) - 1, 0)
            for start, stop, rank, events in of_file[place:]:
                if rank >= high:
                    break
                if (first := max(low, rank)) < (last := min(high, rank + events)):
                    number = self.place(file, first) - self.place(file, rank)
                    yield _Slice(file, start, stop, number, last - first)

    def place(self, file: int, rank: int) -> int:
        """How many parts that have events of a file end before its event ``rank``."""
        return int(np.searchsorted(self.edges[file], rank, side="right"))

    def cuts(self, file: int, rank: int, events: int) -> list[int]:
        """Where ``events`` events from number ``rank`` of a file go over to the next part: 0, ..., events."""
        edges = self.edges[file]
        return [0, *(edges[(edges > rank) & (edges < rank + events)] - rank).tolist(), events]


def _densified(
    session: SparkSession,
    staged: list[tuple[int, DataFile]],
    request: ChunkRequest,
    staging: Staging,
    key_types: dict[str, pa.DataType],
    spent: Spent,
) -> list[tuple[int, DataFile]]:
    """Each staged compact file as a dense one, its features made by the pandas UDF; one task a file, rows in order."""
    tasks = {file.path: f"dense-{part:06d}-{file.split}" for part, file in staged}
    compact = {file.path: file for _, file in staged}
    missing = [path for path, task in tasks.items() if staging.finished(task) is None]
    if missing:
        # an opening cost as high as the size of a partition gives each file a partition of its own, unsplit
        session.conf.set("spark.sql.files.maxPartitionBytes", str(2**40))
        session.conf.set("spark.sql.files.openCostInBytes", str(2**40))
        session.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", str(_ROW_GROUP_EVENTS))
        kept = [*request.keys, FILE, ENTRY, *label_columns(len(request.targets)), WEIGHT]
        rows = session.read.parquet(*(storage.join(staging.url, path) for path in missing)).select(
            features(request.transform).alias("made"), *kept, F.col("_metadata.file_name").alias("name")
        )
        writing = rows.select("made.features", "made.mask", *kept, "name").mapInArrow(
            _dense_writer(compact, tasks, request, staging, key_types, spent), from_arrow_schema(_DONE)
        )
        with received():
            writing.collect()
    return [(part, dense) for part, file in staged for dense in staging.finished(tasks[file.path]) or []]


def _dense_writer(
    compact: dict[str, DataFile],
    tasks: dict[str, str],
    request: ChunkRequest,
    staging: Staging,
    key_types: dict[str, pa.DataType],
    spent: Spent,
) -> Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    columns = request.transform.width
    widths = {FEATURES: 4 * columns, MASK: (columns + 7) // 8}

    def run(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        with on_executor():
            yield from spent.working(written(batch for batch in batches if batch.num_rows))

    def written(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for name, group in itertools.groupby(batches, key=lambda batch: str(batch.column("name")[0])):
            table = pa.Table.from_batches(list(group)).drop(["name"])
            table = table.rename_columns([FEATURES, MASK, *table.column_names[2:]]).combine_chunks()
            for place, (column, width) in enumerate(widths.items()):
                table = table.set_column(place, column, _fixed_width(table.column(column).chunk(0), width))
            for key, kind in key_types.items():  # Spark has no unsigned integers
                table = table.set_column(table.column_names.index(key), key, table.column(key).cast(kind))
            if table.num_rows != compact[name].rows:
                msg = f"{name}: {table.num_rows} dense rows for {compact[name].rows} events"
                raise ChunkError(msg)
            with spent.timed(WRITING):
                url = staging.new_file()
                size, sums = parquet.write_checked(table, url, row_group_events(request.batch_size))
                digest = value_digest(table.combine_chunks())
                path = url.rsplit("/", 1)[-1]
                made = replace(compact[name], path=path, bytes=size, digest=digest, checksums=sums)
                staging.finish(tasks[name], [made])
            yield pa.RecordBatch.from_arrays([pa.array([made.rows])], schema=_DONE)

    return run


def dense_bytes(matrix: npt.NDArray[np.float32], mask: npt.NDArray[np.uint8], batch_size: int) -> int:
    """How many bytes the features of some events, shape (n, W), take in dense chunks, about; nothing is written."""
    rows = {FEATURES: matrix.astype("<f4", copy=False).view(np.uint8), MASK: np.packbits(mask, axis=1)}
    columns = {
        name: pa.FixedSizeBinaryArray.from_buffers(
            pa.binary(row.shape[1]), len(row), [None, pa.py_buffer(np.ascontiguousarray(row))]
        )
        for name, row in rows.items()
    }
    return parquet.size(pa.table(columns), row_group_events(batch_size), "lz4")


def _fixed_width(column: pa.BinaryArray, width: int) -> pa.FixedSizeBinaryArray:
    """Byte strings of one length as fixed-size binary, without a copy."""
    _, offsets, content = column.buffers()
    first = int(np.frombuffer(offsets, np.int32)[column.offset])
    whole = content.slice(first, len(column) * width)
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), len(column), [None, whole])


def _task(part: int) -> str:
    return f"part-{part:06d}"


def _spill(staging: Staging, file: int, start: int, stop: int) -> str:
    # an earlier attempt may have cut the file elsewhere: a range is named by both of its ends
    return storage.join(staging.url, "spill", f"{file:06d}-{start:012d}-{stop:012d}.arrow")


def _spiller(
    events: Events, mix: _Mix, request: ChunkRequest, kept: Sequence[str], staging: Staging
) -> Callable[[Iterator[RangeBatch]], Iterator[EntryRange]]:
    """First stage: the events of a range with label and weight, as an Arrow file of one record batch a part."""
    plan, spent = events.plan, events.spent
    first_ranks = plan.first_ranks()
    labels = [file.label for file in plan.files]
    weights = [file.weight for file in plan.files]

    def run(batches: Iterator[RangeBatch]) -> Iterator[EntryRange]:
        for entries, group in itertools.groupby(batches, key=lambda item: item.entries):
            url = _spill(staging, entries.file, entries.start, entries.stop)
            rank = first_ranks[entries.file, entries.start]
            cut = (piece for item in group for piece in pieces(item, rank))
            of_parts = (
                joined([piece for _, piece in some]) for _, some in itertools.groupby(cut, lambda pair: pair[0])
            )
            storage.write_stream(url, partial(_write_arrow, of_parts, spent))
            yield entries

    def pieces(item: RangeBatch, rank: int) -> Iterator[tuple[int, pa.RecordBatch]]:
        batch, file = item.batch, item.entries.file
        if request.targets:
            answers = [_numbers(batch, target, "target") for target in request.targets]
        elif request.label is not None:
            answers = [_numbers(batch, request.label, "label")]
        else:
            answers = [np.full(batch.num_rows, labels[file], np.float32)]
        weight = np.full(batch.num_rows, weights[file], np.float32)
        if request.weight is not None:
            weight *= _numbers(batch, request.weight, "weight")
        names = [*kept, FILE, ENTRY]
        columns = [*(batch.column(name) for name in names), *map(pa.array, answers), pa.array(weight)]
        whole = pa.RecordBatch.from_arrays(columns, names=[*names, *label_columns(len(request.targets)), WEIGHT])
        for start, stop in pairwise(mix.cuts(file, rank + item.seen, batch.num_rows)):
            yield mix.place(file, rank + item.seen + start), whole.slice(start, stop - start)

    return run


def _write_arrow(batches: Iterator[pa.RecordBatch], spent: Spent, stream: Any) -> None:
    first = next(batches)
    with pa.ipc.new_file(stream, first.schema) as writer:
        for batch in itertools.chain([first], batches):
            with spent.timed(WRITING):
                writer.write_batch(batch)


def _numbers(batch: pa.RecordBatch, expression: Expression, what: str) -> npt.NDArray[np.float32]:
    values: npt.NDArray[np.float32] = expression.values(batch).astype(np.float32)
    if not np.isfinite(values).all():
        msg = f"{what} {expression.text!r} is missing or infinite for {int((~np.isfinite(values)).sum())} events"
        raise ConfigError(msg)
    return values


def _gatherer(
    events: Events, mix: _Mix, request: ChunkRequest, staging: Staging
) -> Callable[[Iterator[int]], Iterator[int]]:
    """Second stage: put the events of a part in order and write one file a split."""
    plan, spent = events.plan, events.spent
    uuids = np.array([mixing.uuid_key(file.uuid) for file in plan.files], np.int64)
    # equal entries of files that share a uuid, trees or copies, are in one split and yet no neighbours
    places = uuids + np.array(plan.twins, np.int64)

    def run(parts: Iterator[int]) -> Iterator[int]:
        for part in parts:
            table = pa.concat_tables(_read_slice(staging, item) for item in mix.slices(part))
            files = []
            for split, rows in _splits(table, request, uuids, places):
                with spent.timed(WRITING):
                    files.append(_data_file(rows, split, request, staging))
            staging.finish(_task(part), files)
            yield part

    return lambda parts: spent.working(run(parts))


def _read_slice(staging: Staging, item: _Slice) -> pa.Table:
    """The events of a part that lie in one spill; no other record batch is read."""
    reader = pa.ipc.open_file(storage.open_mapped(_spill(staging, item.file, item.start, item.stop)))
    there = item.number < reader.num_record_batches
    table = pa.Table.from_batches([reader.get_batch(item.number)] if there else [], reader.schema)
    if table.num_rows != item.events:
        msg = f"{table.num_rows} events were put aside where there should be {item.events}: run it again"
        raise ChunkError(msg)
    return table


def _splits(
    events: pa.Table, request: ChunkRequest, uuids: npt.NDArray[np.int64], places: npt.NDArray[np.int64]
) -> Iterator[tuple[str, pa.Table]]:
    """The events of a part in order, split by split."""
    file, entry = events.column(FILE).to_numpy(), events.column(ENTRY).to_numpy()
    keys = [events.column(name).to_numpy() for name in request.keys] if request.keys else [uuids[file], entry]
    shares = request.config.split
    split = mixing.split_of(keys, (shares.train, shares.validation, shares.test), shares.folds, shares.fold)
    order = mixing.shuffle_order(places[file], entry, request.config.seed)
    for index, name in enumerate(mixing.SPLITS):
        rows = order[split[order] == index]
        if len(rows):
            yield name, events.take(pa.array(rows))


def _data_file(events: pa.Table, split: str, request: ChunkRequest, staging: Staging) -> DataFile:
    url = staging.new_file()
    size, sums = parquet.write_checked(events, url, row_group_events(request.batch_size))
    labels, counts = ((), ()) if request.targets else np.unique(events.column(LABEL).to_numpy(), return_counts=True)
    return DataFile(
        path=url.rsplit("/", 1)[-1],
        rows=events.num_rows,
        bytes=size,
        ranges=_ranges(events),
        digest=value_digest(events.combine_chunks()),
        split=split,
        labels={f"{label:g}": int(count) for label, count in zip(labels, counts, strict=True)},
        checksums=sums,
    )


def row_group_events(batch_size: int) -> int:
    """Events of a row group: the largest number of whole batches that is not above the target, at least one."""
    return max(1, _ROW_GROUP_EVENTS // batch_size) * batch_size


def _ranges(events: pa.Table) -> tuple[tuple[int, int, int], ...]:
    """First and one past the last entry of each file."""
    of_file = pa.table({"file": events.column(FILE), "entry": events.column(ENTRY)}).group_by("file")
    limits = of_file.aggregate([("entry", "min"), ("entry", "max")]).sort_by("file").to_pylist()
    return tuple((row["file"], row["entry_min"], row["entry_max"] + 1) for row in limits)
