"""Batch prediction: any format to a data set of scores, Parquet or friend trees, written by executors.

Where and how it is written is what conversion does (``convert.bring_up_to_date``); what the model is, this module does
not know: it is handed a function.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Self

import numpy as np
import pyarrow as pa

from mlaas_spark import drift, friend
from mlaas_spark.bottleneck import SCORING
from mlaas_spark.errors import ChunkError, ConfigError, SpecsMismatchError, hint
from mlaas_spark.formats import Format
from mlaas_spark.manifest import present, request_digest
from mlaas_spark.memory import Buffers
from mlaas_spark.schema import ENTRY, Branch, EventSchema, of_size
from mlaas_spark.spark.convert import RangeSet, RangeTable, asked, bring_up_to_date
from mlaas_spark.spark.friends import gather

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import numpy.typing as npt
    from pyspark import Broadcast

    from mlaas_spark.drift import Ranges
    from mlaas_spark.manifest import Manifest
    from mlaas_spark.selection import Expression
    from mlaas_spark.spark.ingest import Events, RangeBatch
    from mlaas_spark.transform import FeatureTransform

PLACE = "scores"
"""Folder in the data set that holds its Parquet files and nothing else."""

SOURCE = "__source"
"""Column that says from which input an event is: its uuid, with the tree where it has trees, wherever it lies."""

SELECTED = "__selected"
"""Column that says whether the event passes the selection; one that does not has no score."""

SELECTED_BRANCH = "selected"
"""The same in a friend tree."""

Score = Callable[["npt.NDArray[np.float32]", "npt.NDArray[np.uint8]"], "npt.NDArray[np.float32]"]
"""Matrix (n, W) and mask (n, W) to scores, float32 (n, K); the matrix is overwritten when it has returned."""

Scorer = Callable[[], Score]
"""Gives the function that scores, in the process that calls it; picklable, quick when it is called again."""

_NAMED = 5  # branches in a message


@dataclass(frozen=True, slots=True)
class PredictRequest:
    """How events are scored and what is written of them.

    Attributes:
        model: Name of the model: one name for one model with its transform.
        transform: The features that it was trained on.
        ranges: What values they had in training; {} where that is not known.
        scorer: The model.
        outputs: A column's name for each of its outputs.
        keys: Identifier branches, the first columns.
        keep: Further branches that are written.
        batch_size: Events that are scored at a time.
        format: Parquet, or ROOT: a friend tree for each input.
    """

    model: str
    transform: FeatureTransform
    ranges: Ranges
    scorer: Scorer
    outputs: tuple[str, ...]
    keys: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    batch_size: int = 4096
    format: Format = Format.PARQUET


def predict(events: Events, request: PredictRequest, folder: str, *, retry: bool = False) -> Manifest:
    """Write a row with scores for each entry: those that fail the selection are marked, and have no score.

    As Parquet, a file for each entry range in ``folder/scores``: the keys, what is kept, :data:`SOURCE`, ``__entry``,
    :data:`SELECTED`, the scores, null where there are none; rows in entry order. As ROOT, a friend tree for each input
    in ``folder``, see ``friends``: the keys, what is kept, :data:`SELECTED_BRANCH`, the scores, NaN where there are
    none. The manifest says what was not as in training, see :class:`~mlaas_spark.drift.Drift`.

    Args:
        events: What to score, already opened.
        request: The model, and what is written.
        folder: A new folder, an empty one, or one that an earlier prediction wrote: then only what is new is scored.
        retry: Read again what an earlier prediction has skipped.

    Raises:
        SpecsMismatchError: The events lack a branch that the model was trained on, or have it as another kind.
        ConfigError: A branch that is kept has the name of a score, or cannot be in a friend tree; a friend tree of a
            part of its input's entries.
        SpecsError: NaN where ``nan: error`` was asked for in training; a missing whole number for a friend tree.
        ServingError: The model cannot be loaded, or does not run.
        ChunkError: The folder holds the scores of another model or selection, in another format, or something else.
    """
    schema = events.plan.schema
    check_features(schema, request.transform, f"{len(events.plan.files)} files such as {events.plan.files[0].path}")
    written = tuple(dict.fromkeys((*request.keys, *request.keep)))
    marks = [SELECTED_BRANCH] if request.format is Format.ROOT else []
    if taken := [name for name in (*request.outputs, *marks) if name in written]:
        whose = "that says which events are selected" if taken[0] in marks else "of a score"
        msg = f"{taken[0]!r} is a branch that is kept and the name {whose}: leave it out of what is kept"
        raise ConfigError(msg)
    rows = [schema[name] for name in written]
    made = [*(_branch(name, "bool") for name in marks), *(_branch(name, "float32") for name in request.outputs)]
    if request.format is Format.ROOT:
        friend.refuse_unwritable(rows)
        _refuse_a_part(events)
        events = replace(events, spare=None)  # a tree that lacks entries is no friend: a damaged range is an error
    _refuse_other(folder, request)
    events = events.reading({*request.transform.layout.branches, *written})
    recipe = [*asked(events), request.model, request.transform.digest(), request.format, "all entries", *written]
    model = events.spark.sparkContext.broadcast(request.scorer)
    scores = RangeSet(
        layout="scores",
        place=PLACE,
        schema=EventSchema.of((*rows, *made), schema.omitted),
        recipe=request_digest(recipe),
        differs="scores with other branches beside them, of another selection or number of events",
        tables=_tables(events, request, tuple(rows), model),
        digests={"transform": request.transform.digest(), "model": request_digest([request.model])},
        gather=gather(f"scores of {request.model}", (*rows, *made)) if request.format is Format.ROOT else None,
    )
    try:
        # which entries pass is found where they are scored: all of them are written
        return bring_up_to_date(replace(events, selection=None), scores, folder, retry=retry)
    finally:
        model.destroy()


def _branch(name: str, dtype: str) -> Branch:
    return Branch(name, name, dtype, jagged=False)


def _refuse_a_part(events: Events) -> None:
    """ConfigError unless all entries of the inputs are read: a shorter tree is no friend of a longer one."""
    if limits := events.plan.limits:
        files = (file for file in events.plan.files if file.entries and limits[file.key] != [[0, file.entries]])
        file = next(files)
        msg = (
            f"a friend tree has all entries of its input, and not all {file.entries} of {file.path} are read: "
            "leave out --events and the fileset's steps, or write Parquet"
        )
        raise ConfigError(msg)


def _refuse_other(folder: str, request: PredictRequest) -> None:
    """ChunkError if the folder holds something that is never brought up to date to these scores."""
    if (before := present(folder)) is None:
        return
    names = {Format.ROOT: "friend trees (ROOT)", Format.PARQUET: "Parquet"}
    found = Format.ROOT if any(file.path.endswith(".root") for file in before.files) else Format.PARQUET
    if before.layout != "scores":
        what = f"a data set of another kind ({before.layout}), not scores"
    elif found is not request.format:
        what = f"scores as {names[found]}, not as {names[request.format]}"
    elif before.digests.get("model", ours := request_digest([request.model])) != ours:
        what = f"scores of another model than {request.model}"
    else:
        return
    msg = f"{folder} holds {what}: choose another folder, or remove this one"
    raise ChunkError(msg)


def check_features(schema: EventSchema, transform: FeatureTransform, where: str) -> None:
    """SpecsMismatchError unless the schema has what the transform makes features of, flat and jagged as it was."""
    kinds = dict(zip(transform.layout.branches, transform.jagged, strict=True))
    if lacking := [name for name in kinds if name not in schema]:
        raise lacks(lacking, schema.names, where)
    odd = [
        schema[name] for name, jagged in kinds.items() if schema[name].jagged != jagged or schema[name].why_no_feature
    ]
    if odd:
        told = [f"{b.name} is {b.describes}, not {'jagged' if kinds[b.name] else 'flat'} numbers" for b in odd]
        msg = f"branches are not as the model was trained on in {where}: {'; '.join(told[:_NAMED])}{_more(told)}"
        raise SpecsMismatchError(msg)


def lacks(missing: Sequence[str], available: Sequence[str], where: str) -> SpecsMismatchError:
    """The error that says which branches of the model are missing."""
    told = [f"{name!r}{hint(name, available) if len(missing) <= _NAMED else ''}" for name in missing]
    msg = f"branches that the model was trained on are not in {where}: {', '.join(told[:_NAMED])}{_more(told)}"
    return SpecsMismatchError(msg)


def _more(told: Sequence[str]) -> str:
    return f" and {len(told) - _NAMED} more" if len(told) > _NAMED else ""


def _tables(
    events: Events, request: PredictRequest, rows: Sequence[Branch], model: Broadcast[Scorer]
) -> Callable[[Iterator[RangeBatch]], Iterator[RangeTable]]:
    transform, ranges, size = request.transform, request.ranges, request.batch_size
    branches, outputs, selection = transform.layout.branches, request.outputs, events.selection
    written, files, spent = [branch.name for branch in rows], events.plan.files, events.spent
    as_root = request.format is Format.ROOT

    def run(batches: Iterator[RangeBatch]) -> Iterator[RangeTable]:
        with spent.timed(SCORING):  # its library is imported here
            score = model.value()
        buffers = Buffers()
        for entries, group in itertools.groupby(batches, key=lambda item: item.entries):
            read, scores = _Read.of(len(branches)), [np.empty((0, len(outputs)), np.float32)]
            for batch in of_size(_looked_at(read.selected(group, selection, written), branches, ranges, read), size):
                features = transform.matrix(batch, empty=buffers.empty)
                with spent.timed(SCORING):
                    scores.append(score(features.matrix, features.mask))
                read.seen[:, 2:] += np.column_stack([features.missing, features.cut])
            if not read.rows:
                yield RangeTable(entries, pa.table({}), {})
                continue
            made, passes = np.concatenate(scores), np.concatenate(read.passes)
            table = pa.Table.from_batches(read.rows)
            if as_root:
                where = f"entries [{entries.start}, {entries.stop}) of {files[entries.file].path}"
                friend.refuse_missing(table, rows, where)
                table = table.drop_columns([ENTRY]).append_column(SELECTED_BRANCH, pa.array(passes))
            else:
                place = pa.repeat(files[entries.file].key, table.num_rows)
                table = table.add_column(table.num_columns - 1, SOURCE, place).append_column(SELECTED, pa.array(passes))
            nans = zip(outputs, np.isnan(made).sum(axis=0).tolist(), strict=True)
            undefined = {name: drift.Drift(missing=count) for name, count in nans if count}
            selected = None if passes.all() else int(passes.sum())
            found = drift.named(read.seen, branches) | undefined
            yield RangeTable(entries, _with_scores(table, outputs, made, passes), found, selected)

    return run


@dataclass(frozen=True, slots=True)
class _Read:
    """What has been read of a range.

    Attributes:
        seen: Counts of :class:`~mlaas_spark.drift.Drift`, shape (branches, 4), of the selected events.
        rows: What is written of all its events, in entry order.
        passes: Which of them pass the selection.
    """

    seen: npt.NDArray[np.int64]
    rows: list[pa.RecordBatch] = field(default_factory=list)
    passes: list[npt.NDArray[np.bool_]] = field(default_factory=list)

    @classmethod
    def of(cls, branches: int) -> Self:
        """Nothing yet."""
        return cls(np.zeros((branches, len(drift.Drift._fields)), np.int64))

    def selected(
        self, group: Iterable[RangeBatch], selection: Expression | None, written: Sequence[str]
    ) -> Iterator[pa.RecordBatch]:
        """The events that pass, batch by batch; what is written of all is kept."""
        for _, batch, _ in group:
            self.rows.append(batch.select([*written, ENTRY]))
            passes = np.ones(batch.num_rows, bool) if selection is None else selection.passes(batch)
            self.passes.append(passes)
            yield batch if passes.all() else batch.filter(pa.array(passes))


def _looked_at(
    events: Iterable[pa.RecordBatch], branches: Sequence[str], ranges: Ranges, read: _Read
) -> Iterator[pa.RecordBatch]:
    """The batches, whose values outside the ranges are counted as they pass: whole batches cost least."""
    for batch in events:
        read.seen[:, :2] += drift.outside(batch, branches, ranges)
        yield batch


def _with_scores(
    table: pa.Table, outputs: Sequence[str], scores: npt.NDArray[np.float32], passes: npt.NDArray[np.bool_]
) -> pa.Table:
    """The rows with the scores of those that pass, which come in their order; null for the others."""
    every = np.full((len(passes), len(outputs)), np.nan, np.float32)
    every[passes] = scores
    fails = None if passes.all() else ~passes
    for name, column in zip(outputs, every.T, strict=True):
        # a score that is NaN is no null: the model gave it
        table = table.append_column(name, pa.array(np.ascontiguousarray(column), mask=fails, from_pandas=False))
    return table
