"""Any format to events on executors: open the files, plan their ranges, and run a function over the events of a range.

Formats with a module of their own (ROOT, Parquet, ...) are read by executors, range by range (``ranges``), so that
events never cross to the JVM unless a DataFrame is asked for. JSON and CSV come through Spark's own readers
(``records``). Both are a :class:`Source`, and both end in :class:`RangeBatch`.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
from pyspark.sql.pandas.types import from_arrow_schema

from mlaas_spark.errors import (
    BranchNotFoundError,
    ConfigError,
    FilesetError,
    SpecsError,
    UnreadableInputError,
    hint,
    reason,
)
from mlaas_spark.formats import Format
from mlaas_spark.plan import EntryRange, Plan, make_plan
from mlaas_spark.schema import ENTRY, Branch, EventSchema, codes, column_name, common
from mlaas_spark.selection import Expression
from mlaas_spark.skipping import Skipped, Spare, ordered
from mlaas_spark.spark import records
from mlaas_spark.spark.ranges import Ranges, open_files
from mlaas_spark.spark.session import on_executor
from mlaas_spark.spark.spent import Spent
from mlaas_spark.xrootd import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from pyspark.sql import DataFrame, SparkSession
    from pyspark.sql.types import StructType

    from mlaas_spark.config import InputConfig
    from mlaas_spark.filesets import InputFile
    from mlaas_spark.plan import PlannedFile
    from mlaas_spark.spark.ranges import Batches, Unread
    from mlaas_spark.spark.session import R
    from mlaas_spark.usercode import UserFile
    from mlaas_spark.xrootd import Patience


class RangeBatch(NamedTuple):
    """Selected events of one entry range.

    Attributes:
        entries: The range.
        batch: Events that passed the selection, in entry order.
        seen: Events of the range in batches before this one.
    """

    entries: EntryRange
    batch: pa.RecordBatch
    seen: int


class Source(Protocol):
    """Where events come from: what Spark hands to executors, and what makes batches of events of it there."""

    def rows(self, spark: SparkSession, plan: Plan) -> DataFrame:
        """What Spark hands to executors for the plan's ranges."""

    def reader(self, plan: Plan) -> Callable[[Iterator[pa.RecordBatch]], Batches]:
        """The function that makes batches of events of it, those of a range in order; picklable."""

    def run(self, spark: SparkSession, plan: Plan, work: Callable[[Batches], Iterable[R]]) -> list[R]:
        """What ``work``, which is picklable, makes of these batches on executors, in order."""

    def reordered(self, places: Mapping[int, int]) -> Source:
        """The same for plans that have each file at another place."""

    def attempt(
        self, spark: SparkSession, plan: Plan, work: Callable[[Batches], Iterable[R]]
    ) -> tuple[list[R], list[Unread]]:
        """As :meth:`run`, of the ranges that are whole; and the damaged ones."""


@dataclass(frozen=True)
class Events:
    """The selected events of a plan, wherever they come from.

    Attributes:
        spark: The session.
        plan: Files, ranges, and the schema of the branches that are read.
        source: What reads them.
        selection: Events that fail it are dropped; None keeps all.
        patience: With the servers of ROOT files.
        spare: How much may be skipped; None where damage is an error.
        skipped: What is left out of the plan because it is damaged.
        spent: What executors spend their time on.
    """

    spark: SparkSession
    plan: Plan
    source: Source
    selection: Expression | None = None
    patience: Patience = PATIENCE
    spare: Spare | None = None
    skipped: tuple[Skipped, ...] = ()
    spent: Spent = field(default_factory=Spent)

    def map_ranges(
        self, function: Callable[[Iterator[RangeBatch]], Iterable[pa.RecordBatch]], schema: StructType | str
    ) -> DataFrame:
        """A DataFrame of what ``function`` makes of the events; it runs on executors and must be picklable.

        All batches of a range come to one call, in order.
        """
        read, work = self.source.reader(self._stored), self._of_selected(function)

        def run(rows: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            with on_executor():
                yield from work(read(iter(rows)))

        return self.source.rows(self.spark, self._stored).mapInArrow(run, schema)

    def run(self, function: Callable[[Iterator[RangeBatch]], Iterable[R]]) -> list[R]:
        """What ``function`` makes of the events, as :meth:`map_ranges`, at the driver; the results are picklable."""
        return self.source.run(self.spark, self._stored, self._of_selected(function))

    def attempt(self, function: Callable[[Iterator[RangeBatch]], Iterable[R]]) -> tuple[list[R], Events]:
        """As :meth:`run`, and the events without the ranges that are damaged, where such may be skipped.

        Raises:
            SkipLimitError: They are more than may be.
        """
        if self.spare is None:
            return self.run(function), self
        made, unread = self.source.attempt(self.spark, self._stored, self._of_selected(function))
        files = self.plan.files
        damaged = [
            Skipped(files[r.file].path, why, files[r.file].tree, files[r.file].key, r.start, r.stop)
            for r, why in unread
        ]
        return made, self.without(damaged)

    def without(self, skipped: Iterable[Skipped]) -> Events:
        """The same events without some damaged ranges, which are told of.

        Raises:
            SkipLimitError: They are more than may be.
        """
        every = ordered((*self.skipped, *skipped))
        if self.spare is not None:
            self.spare.check(every)
        plan = self.plan.without(spans_of(self.plan, every))
        return dataclasses.replace(self, plan=plan, skipped=every)

    def whole(self, names: Iterable[str]) -> Events:
        """The events of the ranges whose named branches can be read; they are read, where damage may be skipped."""
        if self.spare is None:
            return self

        def read(batches: Iterator[RangeBatch]) -> Iterator[None]:
            for _ in batches:
                pass
            yield from ()

        _, left = self.reading(names).attempt(read)
        return self.without(left.skipped)

    @property
    def limits(self) -> Mapping[str, list[list[int]]]:
        """Spans of entries that were asked for, see :attr:`Plan.limits`, skipped or not."""
        return self.plan.limits if self.spare is None else self.spare.limits

    @property
    def _stored(self) -> Plan:
        return dataclasses.replace(self.plan, schema=self.plan.schema.stored())

    def _of_selected(self, function: Callable[[Iterator[RangeBatch]], Iterable[R]]) -> Callable[[Batches], Iterable[R]]:
        """The function of the batches that the source reads; without a reference to the session."""
        selection, wanted, files, spent = self.selection, self.plan.schema, self.plan.files, self.spent

        def work(read: Batches) -> Iterable[R]:
            coded = _with_codes(spent.reading(read), wanted, files)
            return spent.working(function(_selected(_with_derived(coded, wanted), selection)))

        return work

    def dataframe(self) -> DataFrame:
        """The events as a DataFrame: a column for each branch, ``__file`` and ``__entry``."""
        schema = self.plan.schema
        target = frame_schema(schema)

        def convert(batches: Iterator[RangeBatch]) -> Iterator[pa.RecordBatch]:
            for _, batch, _ in batches:
                if batch.num_rows:
                    yield framed(batch, target)

        return self.map_ranges(convert, from_arrow_schema(target))

    def reading(self, names: Iterable[str]) -> Events:
        """The same events with only the named branches, and those that these and the selection need."""
        wanted = {*names, *(self.selection.branches if self.selection else ())}
        wanted |= {name for branch in self.plan.schema.branches if branch.name in wanted for name in _made_of(branch)}
        return dataclasses.replace(self, plan=dataclasses.replace(self.plan, schema=self.plan.schema.keep(wanted)))

    def counted(self) -> Events:
        """The same events with the number of selected ones known for each range; reads what the selection needs."""
        if self.plan.counted:
            return self
        if self.selection is None:
            ranges = tuple(dataclasses.replace(r, events=r.entries) for r in self.plan.ranges)
            return self.with_ranges(ranges)

        def count(batches: Iterator[RangeBatch]) -> Iterator[tuple[tuple[int, int], int]]:
            totals: Counter[tuple[int, int]] = Counter()
            for entries, batch, _ in batches:
                totals[entries.file, entries.start] += batch.num_rows
            yield from totals.items()

        return self.with_counts(dict(self.reading([]).run(count)))

    def with_counts(self, events: dict[tuple[int, int], int]) -> Events:
        """The same events with the number of selected ones of each range (file, start) filled in.

        Raises:
            FilesetError: Not one event passes the selection.
        """
        if self.selection is not None and not sum(events.values()):
            msg = f"selection {self.selection.text!r} keeps none of {self.plan.entries} events"
            raise FilesetError(msg)
        return self.with_ranges(
            tuple(dataclasses.replace(r, events=events.get((r.file, r.start), 0)) for r in self.plan.ranges)
        )

    def by_content(self) -> Events:
        """The same events with the files in an order that is of their content alone, whatever they are called."""
        plan, places = self.plan.by_content()
        return dataclasses.replace(self, plan=plan, source=self.source.reordered(places))

    def with_ranges(self, ranges: tuple[EntryRange, ...]) -> Events:
        """The same events with other ranges."""
        return dataclasses.replace(self, plan=dataclasses.replace(self.plan, ranges=ranges))


def spans_of(plan: Plan, skipped: Iterable[Skipped]) -> dict[int, list[tuple[int, int]]]:
    """The skipped spans of entries of each of the plan's files, by index."""
    places = {file.key: index for index, file in enumerate(plan.files)}
    spans: dict[int, list[tuple[int, int]]] = {}
    for item in skipped:
        if item.key in places:
            spans.setdefault(places[item.key], []).append((item.start, item.stop))
    return spans


def open_events(
    spark: SparkSession,
    files: Sequence[InputFile],
    config: InputConfig,
    events_per_task: int,
    expressions: Sequence[Expression] = (),
    preproc: UserFile | None = None,
    *,
    text: bool = False,
) -> Events:
    """Open the files on executors and plan their ranges.

    Args:
        spark: The session.
        files: Input files, all of one format.
        config: Branches, exclusions, selection and number of events; patience with servers.
        events_per_task: Entries in a range, about.
        expressions: Further expressions whose branches are read (labels); the selection of the config first, if any.
        preproc: User's file with ``preprocessing_batch(batch)`` or ``preprocessing(rec)``, for JSON and CSV.
        text: Whether branches that cannot be features (text, nested lists) are read as well.

    Raises:
        FilesetError, UnreadableInputError, SpecsError: Files that are missing, unreadable, or do not fit together.
    """
    selection = Expression.parse(config.selection) if config.selection else None
    categories = {column_name(name): numbers for name, numbers in config.categories.items()}
    source, planned, schemas, damaged = _open(spark, files, config, events_per_task, preproc, frozenset(categories))
    where = files[0].path if len(files) == 1 else f"{len(files)} files such as {files[0].path}"
    _refuse_unknown(categories, any_of(schemas), where)
    schemas = [(path, of_file.categorised(categories)) for path, of_file in schemas]
    if not text:
        schemas = [(path, of_file.features()) for path, of_file in schemas]
    schema = any_of(schemas)
    chosen = schema.select(config.branches, config.exclude, where)
    derived = [Branch(name, f"={text}", "float64", jagged=False) for name, text in config.derive.items()]
    if taken := [branch.name for branch in derived if branch.name in schema]:
        msg = f"{taken[0]!r} is a branch of {where}: give what is derived another name"
        raise ConfigError(msg)
    used = {name for expression in (selection, *expressions) if expression for name in expression.branches}
    used = used - config.derive.keys() | {name for branch in derived for name in _made_of(branch)}
    kept_as_keys = {name for name in config.identifiers if name in schema}
    for name in sorted(used):
        if name not in schema:
            raise BranchNotFoundError(name, schema.names, where)
        if why := schema[name].why_no_feature:
            msg = f"branch {name!r} cannot be used in an expression: {why}"
            raise ConfigError(msg)
    wanted = {*chosen.names, *used, *kept_as_keys}
    read = common([(path, of_file.keep(wanted)) for path, of_file in schemas], config.schema_policy)
    if lost := sorted(used - set(read.names)):
        raise BranchNotFoundError(lost[0], read.names, f"all of {where}")
    read = EventSchema.of((*read.branches, *derived), {*chosen.omitted, *read.omitted})
    read.refuse_omitted(config.branches, where)
    planned = [dataclasses.replace(file, lacks=tuple(sorted({*file.lacks} & {*read.names}))) for file in planned]
    target = events_per_task if isinstance(source, Ranges) else None  # a block of Spark's readers is a range
    plan = make_plan(planned, read, target, config.events)
    events = Events(spark, plan, source, selection, config.patience, spent=Spent(spark))
    if config.bad_files == "fail":
        return events
    spare = Spare(config.skip_limit, plan.entries, len({file.path for file in planned}), plan.limits)
    return dataclasses.replace(events, spare=spare).without(damaged)


def _open(
    spark: SparkSession,
    files: Sequence[InputFile],
    config: InputConfig,
    events_per_task: int,
    preproc: UserFile | None,
    texts: frozenset[str],
) -> tuple[Source, list[PlannedFile], list[tuple[str, EventSchema]], list[Skipped]]:
    """What reads the files; the files; each schema that a file has, with the first such file; what is damaged."""
    kind, allow_copies, skip = files[0].format, config.allow_copies, config.bad_files == "skip"
    if config.columns and kind is not Format.CSV:
        msg = f"columns are named for CSV without a header line, and {files[0].path} is {kind}"
        raise ConfigError(msg)
    if preproc is not None and kind.module and kind is not Format.ROOT:
        msg = f"preproc runs for records of JSON and CSV; {kind} has columns: use selection and derive instead"
        raise ConfigError(msg)
    if kind.module:
        return open_files(spark, files, events_per_task, config.patience, allow_copies=allow_copies, skip=skip)
    open_all = partial(
        records.open_records, spark, preproc=preproc, texts=texts, named=config.columns, allow_copies=allow_copies
    )
    return records.open_whole(spark, files, open_all, config.columns) if skip else (*open_all(files), [])


def frame_schema(schema: EventSchema) -> pa.Schema:
    """Arrow schema of the DataFrame of events: types that Spark has (unsigned integers one size up).

    uint64 becomes int64; a value beyond its range is an error, not another value.
    """
    return pa.schema([pa.field(field.name, _spark_type(field.type)) for field in schema.arrow()])


def framed(batch: pa.RecordBatch, target: pa.Schema) -> pa.RecordBatch:
    """The columns of ``target``, which is of :func:`frame_schema`, out of a batch of events.

    Raises:
        SpecsError: A value is beyond the range of its column's type.
    """
    return pa.RecordBatch.from_arrays([_cast(batch, field) for field in target], schema=target)


def _cast(batch: pa.RecordBatch, field: pa.Field) -> pa.Array:
    try:
        return batch.column(field.name).cast(field.type)
    except pa.ArrowInvalid as error:
        msg = f"branch {field.name!r} does not fit into a DataFrame as {field.type} ({reason(error)})"
        raise SpecsError(msg) from error


def _spark_type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_list(kind):
        return pa.list_(_spark_type(kind.value_type))
    wider = {
        pa.uint8(): pa.int16(),
        pa.uint16(): pa.int32(),
        pa.uint32(): pa.int64(),
        pa.uint64(): pa.int64(),
    }
    return wider.get(kind, kind)


def _selected(
    source: Iterator[tuple[EntryRange, pa.RecordBatch]], selection: Expression | None
) -> Iterator[RangeBatch]:
    seen: Counter[tuple[int, int]] = Counter()
    for entries, batch in source:
        kept = batch if selection is None else batch.filter(pa.array(selection.passes(batch)))
        key = (entries.file, entries.start)
        yield RangeBatch(entries, kept, seen[key])
        seen[key] += kept.num_rows


def _made_of(branch: Branch) -> frozenset[str]:
    """Names of the branches that a derived one is made of; empty for one that is in the file."""
    return Expression.parse(branch.source[1:]).branches if branch.derived else frozenset()


def _with_derived(
    source: Iterator[tuple[EntryRange, pa.RecordBatch]], schema: EventSchema
) -> Iterator[tuple[EntryRange, pa.RecordBatch]]:
    expressions = {b.name: Expression.parse(b.source[1:]) for b in schema.branches if b.derived}
    target = schema.arrow()
    for entries, batch in source:
        if expressions:
            made = {name: pa.array(text.values(batch).astype(np.float64)) for name, text in expressions.items()}
            columns = [made[name] if name in made else batch.column(name) for name in target.names]
            batch = pa.RecordBatch.from_arrays(columns, names=target.names)  # noqa: PLW2901 - the same, with more
        yield entries, batch


def _refuse_unknown(names: Iterable[str], schema: EventSchema, where: str) -> None:
    for name in names:
        if name not in schema and name not in {column_name(item.name) for item in schema.omitted}:
            raise BranchNotFoundError(name, schema.names, where)


def _with_codes(
    source: Iterator[tuple[EntryRange, pa.RecordBatch]], schema: EventSchema, files: Sequence[PlannedFile]
) -> Iterator[tuple[EntryRange, pa.RecordBatch]]:
    """The batches with the numbers of categories in place of their text."""
    coded = {branch.name: branch for branch in schema.branches if branch.categories}
    for entries, batch in source:
        if coded:
            columns = [
                _coded(batch, coded[name], files[entries.file]) if name in coded else batch.column(name)
                for name in batch.schema.names
            ]
            batch = pa.RecordBatch.from_arrays(columns, names=batch.schema.names)  # noqa: PLW2901 - the same, as numbers
        yield entries, batch


def _coded(batch: pa.RecordBatch, branch: Branch, file: PlannedFile) -> pa.Array:
    made = codes(batch.column(branch.name), branch)
    if isinstance(made, tuple):
        text, place = made
        entry = batch.column(ENTRY)[place].as_py()
        known = hint(text, [category for category, _ in branch.categories])
        why = f"branch {branch.name!r} has {text!r}, which is none of its categories{known}; see input.categories"
        raise UnreadableInputError(file.path, why, file.tree or None, (entry, entry + 1))
    return made


def any_of(schemas: Sequence[tuple[str, EventSchema]]) -> EventSchema:
    """Every branch that any file has: what may be chosen from, before the files must agree on what was chosen."""
    branches = {branch.name: branch for _, schema in reversed(schemas) for branch in schema.branches}
    omitted = {(item.name, item.reason): item for _, schema in schemas for item in schema.omitted}
    return EventSchema.of(branches.values(), omitted.values())
