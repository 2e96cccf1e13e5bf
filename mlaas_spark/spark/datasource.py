"""``spark.read.format("root")``: ROOT files as a data source of Spark 4, for notebooks and SQL.

Plans as ``ingest`` does and yields the same columns; Spark asks for them in other processes than the main path's.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import pyarrow as pa
from pyspark.sql.datasource import DataSource, DataSourceReader, InputPartition
from pyspark.sql.pandas.types import from_arrow_schema

from mlaas_spark import root_io
from mlaas_spark.config import resolve
from mlaas_spark.errors import BranchNotFoundError, ConfigError, SpecsError, hint
from mlaas_spark.filesets import fileset
from mlaas_spark.formats import Format
from mlaas_spark.plan import Plan, PlannedFile, copy_numbers, make_plan
from mlaas_spark.schema import ENTRY, FILE, common
from mlaas_spark.spark.ingest import any_of, frame_schema, framed
from mlaas_spark.spark.session import on_executor

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from pyspark.sql.types import StructType

    from mlaas_spark.config import InputConfig
    from mlaas_spark.schema import EventSchema
    from mlaas_spark.xrootd import Patience

_ENTRIES = "entries_per_partition"
_INPUT = ("tree", "branches", "exclude", "redirector", "timeout", "retries")  # as the config's section ``input``
_OPTIONS = ("path", *_INPUT, _ENTRIES)
_PATHS = "paths"  # Spark's own option for load([...]): a JSON list
_ENTRIES_DEFAULT = 25_000


class RootSource(DataSource):
    """Events of ROOT files: a column for each branch, ``__file`` and ``__entry``, as ``Events.dataframe()`` has them.

    ``load`` takes what the command line takes as FILES: a path or URL, a glob, a folder, ``path.root:Tree``, a list of
    files (``.txt``), or a Python list of these; relative ones are looked up from where Spark was started.
    :func:`mlaas_spark.register` makes it known to a session.

    Options:
        tree: Name of the tree, or a glob of trees; needed where a file has several.
        branches: Globs, comma separated, of the branches to read; all by default. As everywhere the identifiers (run,
            luminosityBlock, event) come with them.
        exclude: Globs, comma separated, of the branches to leave out.
        redirector: ``root://host:port`` that goes before logical names (``/store/...``) that are no local files.
        timeout: Seconds within which an XRootD server answers a request (60).
        retries: Further tries where it does not (3).
        entries_per_partition: Entries in a partition, about (25000): partitions begin and end at clusters.

    A schema of the user (``.schema(...)``) reads its columns and no others, in its order; types are those of
    ``printSchema()`` without it, and the headers are read anew for each action.

    What it cannot do, and ``ingest`` can: Spark 4.0 does not tell a Python data source which columns a query uses, so
    that all are read for any query, ``count()`` too (name ``branches``); filters run after reading, not before; the
    headers are opened in one process on the driver, not on executors; files of unlike branches are refused; it does
    not write and does not stream.

    Raises:
        ConfigError: An option that is not known or not usable, a schema with a branch that is not a feature.
        FilesetError: No such file, no file matches, not one entry.
        TreeNotFoundError, BranchNotFoundError: With the nearest names there are.
        SpecsError: Files that differ in a branch; a type of the user's schema that is not the branch's; a uint64 beyond
            int64.
        UnreadableInputError: A file that is damaged, or was replaced since it was planned.

    Spark opens the files in processes of its own, from ``load`` (``.schema(...)`` given: from the first action), and
    wraps what they raise as an AnalysisException (reading: a PythonException) whose text has our message on a line.
    Around the call :func:`mlaas_spark.spark.session.received` raises it as the class named here.
    """

    _plan: Plan | None = None

    @classmethod
    def name(cls) -> str:
        """What ``format`` is called with."""
        return "root"

    def schema(self) -> StructType:
        """Columns of the DataFrame; what the headers say travels with the source, and is not read again."""
        with on_executor():
            self._plan = _planned(self.options)
            return from_arrow_schema(frame_schema(self._plan.schema))

    def reader(self, schema: StructType) -> RootReader:
        """Reader of the columns of ``schema``, the user's or ours."""
        with on_executor():
            plan = self._plan or _planned(self.options, schema.names)
            return RootReader(plan, _columns(plan, schema), _config(self.options)[0].patience)


@dataclass(frozen=True)
class EntryPartition(InputPartition):
    """Entries [start, stop) of a file, which is the ``index``-th of those named."""

    index: int
    path: str
    tree: str
    uuid: str
    start: int
    stop: int


@dataclass(frozen=True)
class RootReader(DataSourceReader):
    """Reads a plan, a partition an entry range; ``columns`` are the asked-for ones of its :func:`frame_schema`."""

    plan: Plan
    columns: pa.Schema
    patience: Patience

    def partitions(self) -> list[InputPartition]:
        """The ranges of the plan, in order."""
        files = self.plan.files
        return [
            EntryPartition(r.file, files[r.file].path, files[r.file].tree, files[r.file].uuid, r.start, r.stop)
            for r in self.plan.ranges
        ]

    def read(self, partition: InputPartition) -> Iterator[pa.RecordBatch]:
        """The events of a partition, in one batch; runs on an executor."""
        of = cast("EntryPartition", partition)  # one of those above
        with on_executor():
            for batch in root_io.read_ranges(
                of.path, of.tree, self.plan.schema, [(of.start, of.stop)], of.index, of.uuid, self.patience
            ):
                yield framed(batch, self.columns)


def _planned(options: Mapping[str, str], names: Collection[str] | None = None) -> Plan:
    """Open the headers and plan the ranges of what the options choose, or of the columns ``names`` among it."""
    config, target = _config(options)
    files = fileset(config)
    with ThreadPoolExecutor() as pool:
        found = list(pool.map(lambda file: root_io.read_headers(file.path, file.tree, config.patience), files))
    opened = [(file, header) for file, headers in zip(files, found, strict=True) for header in headers]
    copy_numbers([(header.path, header.uuid, header.tree) for _, header in opened], allowed=False)
    planned = [
        PlannedFile(
            header.path,
            Format.ROOT,
            header.tree,
            header.uuid,
            header.entries,
            file.label,
            file.weight,
            file.group,
            header.boundaries,
            clusters=len(header.boundaries) - 1,
        )
        for file, header in opened
    ]
    schemas = [(header.path, header.schema.features()) for _, header in opened]
    where = files[0].path if len(files) == 1 else f"{len(files)} files such as {files[0].path}"
    schema = any_of(schemas)
    chosen = schema.select(config.branches, config.exclude, where)
    wanted = {*chosen.names, *config.identifiers} & {*schema.names}
    if names is not None:
        _refuse_unknown(names, schema.keep(wanted), where)
        wanted = set(names)
    read = common([(path, of_file.keep(wanted)) for path, of_file in schemas])
    return make_plan(planned, read, target)


def _config(options: Mapping[str, str]) -> tuple[InputConfig, int]:
    """What to read, and the entries in a partition."""
    if unknown := sorted(set(options) - {*_OPTIONS, _PATHS}):
        msg = f"unknown option {unknown[0]!r} of format root{hint(unknown[0], _OPTIONS)}"
        raise ConfigError(msg)
    names = json.loads(options[_PATHS]) if _PATHS in options else [options["path"]] if "path" in options else []
    if not names:
        msg = "no path: name ROOT files in load(...), or in the option 'path'"
        raise ConfigError(msg)
    entries = options.get(_ENTRIES, str(_ENTRIES_DEFAULT))
    if not entries.isdecimal() or not int(entries):
        msg = f"option {_ENTRIES!r} is {entries!r}: give a whole number of entries, 1 or more"
        raise ConfigError(msg)
    chosen = {name: options[name] for name in _INPUT if name in options}
    content = {"input": {"files": names, "format": Format.ROOT, **chosen}}
    return resolve(content, "options of format root").input, int(entries)


def _refuse_unknown(names: Collection[str], schema: EventSchema, where: str) -> None:
    left_out = {item.name: item.reason for item in schema.omitted}
    for name in names:
        if name in left_out:
            msg = f"branch {name!r} of {where} cannot be a column: {left_out[name]}"
            raise ConfigError(msg)
        if name not in {*schema.names, FILE, ENTRY}:
            raise BranchNotFoundError(name, schema.names, where)


def _columns(plan: Plan, schema: StructType) -> pa.Schema:
    """Arrow types of the columns that are asked for; SpecsError for one that the branch does not have."""
    ours = frame_schema(plan.schema)
    types = {field.name: field.dataType.simpleString() for field in from_arrow_schema(ours)}
    for field in schema:
        if (asked := field.dataType.simpleString()) != types[field.name]:
            msg = f"branch {field.name!r} is read as {types[field.name]}, not {asked}: cast it after reading"
            raise SpecsError(msg)
    return pa.schema([ours.field(name) for name in schema.names])
