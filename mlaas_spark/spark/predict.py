"""Batch prediction: any format to a Parquet data set of scores, one file an entry range, written by executors.

Where and how it is written is what conversion does (``convert.bring_up_to_date``); what the model is, this module does
not know: it is handed a function.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from mlaas_spark import drift
from mlaas_spark.errors import ConfigError, SpecsMismatchError, hint
from mlaas_spark.manifest import request_digest
from mlaas_spark.memory import Buffers
from mlaas_spark.schema import ENTRY, Branch, EventSchema, joined
from mlaas_spark.spark.convert import RangeSet, RangeTable, asked, bring_up_to_date

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import numpy.typing as npt
    from pyspark import Broadcast

    from mlaas_spark.drift import Ranges
    from mlaas_spark.manifest import Manifest
    from mlaas_spark.spark.ingest import Events, RangeBatch
    from mlaas_spark.transform import FeatureTransform

PLACE = "scores"
"""Folder in the data set that holds its Parquet files and nothing else."""

SOURCE = "__source"
"""Column that says from which input an event is: its uuid, with the tree where it has trees, wherever it lies."""

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
    """

    model: str
    transform: FeatureTransform
    ranges: Ranges
    scorer: Scorer
    outputs: tuple[str, ...]
    keys: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    batch_size: int = 4096


def predict(events: Events, request: PredictRequest, folder: str) -> Manifest:
    """Write the scores of the selected events to ``folder/scores``, a Parquet file for each entry range.

    Columns: the keys, what is kept, :data:`SOURCE`, ``__entry``, the scores; rows in entry order. The manifest says
    what was not as in training, see :class:`~mlaas_spark.drift.Drift`.

    Args:
        events: What to score, already opened.
        request: The model, and what is written.
        folder: A new folder, an empty one, or one that an earlier prediction wrote: then only what is new is scored.

    Raises:
        SpecsMismatchError: The events lack a branch that the model was trained on, or have it as another kind.
        ConfigError: A branch that is kept has the name of a score.
        SpecsError: NaN where ``nan: error`` was asked for in training.
        ServingError: The model cannot be loaded, or does not run.
        ChunkError: The folder holds the scores of another model or selection, or something else.
        FilesetError: No event passes the selection.
    """
    schema = events.plan.schema
    check_features(schema, request.transform, f"{len(events.plan.files)} files such as {events.plan.files[0].path}")
    written = tuple(dict.fromkeys((*request.keys, *request.keep)))
    if taken := [name for name in request.outputs if name in written]:
        msg = f"{taken[0]!r} is a branch that is kept and the name of a score: leave it out of predict.keep"
        raise ConfigError(msg)
    scores = [Branch(name, name, "float32", jagged=False) for name in request.outputs]
    events = events.reading({*request.transform.layout.branches, *written})
    model = events.spark.sparkContext.broadcast(request.scorer)
    made = RangeSet(
        layout="scores",
        place=PLACE,
        schema=EventSchema.of((*schema.keep(written).branches, *scores), schema.omitted),
        recipe=request_digest([*asked(events), request.model, request.transform.digest(), *written]),
        differs="scores of another model, other branches, another selection or number of events",
        tables=_tables(events, request, written, model),
        digests={"transform": request.transform.digest()},
    )
    try:
        return bring_up_to_date(events, made, folder)
    finally:
        model.destroy()


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
    events: Events, request: PredictRequest, written: Sequence[str], model: Broadcast[Scorer]
) -> Callable[[Iterator[RangeBatch]], Iterator[RangeTable]]:
    transform, ranges, size = request.transform, request.ranges, request.batch_size
    branches, outputs = transform.layout.branches, request.outputs
    sources = [file.key for file in events.plan.files]

    def run(batches: Iterator[RangeBatch]) -> Iterator[RangeTable]:
        score, buffers = model.value(), Buffers()
        for entries, group in itertools.groupby(batches, key=lambda item: item.entries):
            rows, scores = [], []
            seen = np.zeros((len(branches), len(drift.Drift._fields)), np.int64)
            for batch in of_size(_looked_at(group, branches, ranges, seen), size):
                features = transform.matrix(batch, empty=buffers.empty)
                scores.append(score(features.matrix, features.mask))
                rows.append(batch.select([*written, ENTRY]))
                seen[:, 2:] += np.column_stack([features.missing, features.cut])
            if not rows:
                yield RangeTable(entries, pa.table({}), {})
                continue
            made = np.concatenate(scores)
            table = _with_scores(pa.Table.from_batches(rows), sources[entries.file], outputs, made)
            nans = zip(outputs, np.isnan(made).sum(axis=0).tolist(), strict=True)
            undefined = {name: drift.Drift(missing=count) for name, count in nans if count}
            yield RangeTable(entries, table, drift.named(seen, branches) | undefined)

    return run


def _looked_at(
    group: Iterable[RangeBatch], branches: Sequence[str], ranges: Ranges, seen: npt.NDArray[np.int64]
) -> Iterator[pa.RecordBatch]:
    """The batches, whose values outside the ranges are counted in ``seen`` as they pass: whole batches cost least."""
    for _, batch, _ in group:
        seen[:, :2] += drift.outside(batch, branches, ranges)
        yield batch


def _with_scores(rows: pa.Table, source: str, outputs: Sequence[str], scores: npt.NDArray[np.float32]) -> pa.Table:
    table = rows.add_column(rows.num_columns - 1, SOURCE, pa.repeat(source, rows.num_rows))
    for name, column in zip(outputs, scores.T, strict=True):
        table = table.append_column(name, pa.array(np.ascontiguousarray(column)))
    return table


def of_size(batches: Iterable[pa.RecordBatch], size: int) -> Iterator[pa.RecordBatch]:
    """The same events in batches of ``size``, the last of fewer; only those across two batches are copied.

    How the events were cut before must not show: in another batch the last bit of a score may be another.
    """
    held: list[pa.RecordBatch] = []
    missing = size
    for batch in batches:
        rest = batch
        while rest.num_rows >= missing:
            yield joined([*held, rest.slice(0, missing)])
            rest = rest.slice(missing)
            held, missing = [], size
        if rest.num_rows:
            held.append(rest)
            missing -= rest.num_rows
    if held:
        yield joined(held)
