"""The command line: parse, call ``pipeline``, show, exit code. The only module that writes to the terminal."""

from __future__ import annotations

import itertools
import json
import logging
import os
import shlex
import shutil
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from typer.exceptions import TyperException

from mlaas_spark.errors import ConfigError, MlaasSparkError, reason

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mlaas_spark.config import Config
    from mlaas_spark.inspection import Headers, Inspection
    from mlaas_spark.manifest import Manifest
    from mlaas_spark.pipeline import RunResult
    from mlaas_spark.runs import Journal
    from mlaas_spark.schema import Omitted
    from mlaas_spark.serving.alias import Alias
    from mlaas_spark.serving.deploy import Proof

_EXIT_USAGE = 2
_EXIT_BUG = 1
_EXIT_INTERRUPTED = 7
_TYPER_INTERRUPTED = 130  # what typer makes of Ctrl-C, as a shell does
_BUNDLES = {"raw": "bundle, takes events", "features": "bundle, takes features"}

app = typer.Typer(
    name="mlaas-spark",
    help="Machine learning as a service for high energy physics, native to Apache Spark.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
_LONG_S = 600  # from where on minutes are told
_LISTED = 20  # names of a reason, and reasons
_WIDTH = None if sys.stdout.isatty() else 10_000  # in a pipe or a log a row is a line, however long its paths are
_out = Console(width=_WIDTH, soft_wrap=True, highlight=False)
_err = Console(stderr=True, soft_wrap=True, highlight=False)

Files = Annotated[
    list[str] | None,
    typer.Argument(help="Input: paths, globs, folders, path.root:Tree, lists in .txt files.", metavar="FILES"),
]
Fileset = Annotated[
    Path | None, typer.Option("--fileset", help="In place of FILES: a fileset as coffea's, in JSON or YAML.")
]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", "-c", help="YAML config; see conf/local.yaml for every key.")
]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="A config key: --set spark.master=local[2]; repeatable.")
]
Tree = Annotated[
    str | None,
    typer.Option("--tree", help="Tree to read, or a glob of trees: 'Events*'; may be left out if a file has only one."),
]
Columns = Annotated[
    str | None, typer.Option("--columns", help="Names of the columns of CSV that has no header line, comma separated.")
]
Branches = Annotated[
    str | None, typer.Option("--branches", help="Branches to read, globs, comma separated: MET_*,Jet_pt.")
]
Exclude = Annotated[str | None, typer.Option("--exclude", help="Branches to leave out, globs, comma separated.")]
Selection = Annotated[
    str | None, typer.Option("--selection", help="Keep events that pass: 'nMuon >= 2 && MET_pt > 20'.")
]
Derive = Annotated[
    list[str] | None, typer.Option("--derive", help="A branch made of others: 'HT=sum(Jet_pt)'; repeatable.")
]
SchemaPolicy = Annotated[
    str | None, typer.Option("--schema", help="Files of unlike branches: strict (refused), intersect or fill.")
]
FormatOption = Annotated[
    str | None, typer.Option("--format", help="root, parquet, json or csv; default: by file name.")
]
Events = Annotated[
    int | None, typer.Option("--events", help="Read only so many entries, from each file in proportion.")
]
Preproc = Annotated[
    str | None,
    typer.Option("--preproc", help="Python file with preprocessing_batch(batch) or preprocessing(rec); JSON, CSV."),
]
AllowCopies = Annotated[
    bool,
    typer.Option("--allow-copies", help="Read files of one uuid, or of equal content, all; else they are refused."),
]
Redirector = Annotated[
    str | None,
    typer.Option("--redirector", help="root://host:port before logical names (/store/...) that are no local files."),
]
Timeout = Annotated[
    int | None, typer.Option("--timeout", help="Seconds within which an XRootD server answers a request.")
]
Retries = Annotated[int | None, typer.Option("--retries", help="Further tries where an XRootD server does not answer.")]
Url = Annotated[str | None, typer.Option("--url", help="The TFaaS server: http://HOST:PORT, https://HOST/PATH.")]
ModelName = Annotated[str | None, typer.Option("--model", help="Served name; see mlaas-spark models.")]
AliasFile = Annotated[
    str | None, typer.Option("--alias", help="Alias file: a path or URL that ends in .json; NAME for NAME.json.")
]
Certificate = Annotated[
    Path | None, typer.Option("--certificate", help="X.509 certificate for TLS, PEM; a grid proxy has its key in it.")
]
Key = Annotated[Path | None, typer.Option("--key", help="The certificate's key, PEM.")]
Ca = Annotated[Path | None, typer.Option("--ca", help="Who vouches for the server: a PEM file, or a folder of them.")]
AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable result on standard output.")]


_INPUT_OPTIONS = {
    "files": "files",
    "inputs": "files",
    "tree": "tree",
    "columns": "columns",
    "branches": "branches",
    "exclude": "exclude",
    "selection": "selection",
    "derive": "derive",
    "schema": "schema_policy",
    "label": "label",
    "kind": "format",
    "events": "events",
    "preproc": "preproc",
    "fileset": "fileset",
    "allow_copies": "allow_copies",
    "redirector": "redirector",
    "timeout": "timeout",
    "retries": "retries",
}
"""Options that put a key into the config's section ``input``."""

_SOURCES = {"files", "groups", "fileset"}  # where the files are named: one of them


def _given(context: typer.Context) -> dict[str, Any]:
    """The keys of the section ``input`` that the command line gives; 0 is given, what is empty or false is not."""
    params = [(key, context.params.get(option)) for option, key in _INPUT_OPTIONS.items()]
    return {key: value for key, value in params if value or (value == 0 and value is not False)}


def _content(context: typer.Context) -> dict[str, Any]:
    """The config file's mapping with the options of the command line put in."""
    from mlaas_spark import config as configs

    path = context.params.get("config")
    content, given = (configs.read(path) if path else {}), _given(context)
    section = content.get("input") or {}
    if given and not isinstance(section, dict):
        msg = f"{path}: input is a {type(section).__name__}, not a section"
        raise ConfigError(msg)
    if given.keys() & _SOURCES:
        section = {key: value for key, value in section.items() if key not in _SOURCES}
    return {**content, "input": {**section, **given}} if given else content


def _resolved(context: typer.Context, content: dict[str, Any] | None = None) -> Config:
    """The config of a command line: its file, its options, its --set; ``content`` in place of file and options."""
    from mlaas_spark import config as configs

    settings: Sequence[str] = context.params.get("settings") or ()
    source = str(context.params.get("config") or "options")
    return configs.resolve(configs.override(_content(context) if content is None else content, settings), source)


def _journal() -> Journal:
    from mlaas_spark.runs import Journal

    return Journal(announce=lambda line: _err.print(escape(line)))


def _journal_of(context: typer.Context) -> Journal:
    """The journal of a verb with --json: spark-submit makes one stream of both outputs, where JSON must be alone."""
    from mlaas_spark.runs import Journal

    alone = context.params.get("as_json") and "PYSPARK_GATEWAY_PORT" in os.environ
    return Journal() if alone else _journal()


@app.callback()
def _common(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks and Spark's own messages.")] = False,
) -> None:
    handler = logging.StreamHandler()
    handler.setLevel(logging.DEBUG if debug else logging.WARNING)
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("mlaas_spark").setLevel(logging.DEBUG if debug else logging.INFO)


@app.command()
def inspect(
    context: typer.Context,
    files: Files = None,
    config: ConfigFile = None,
    settings: Settings = None,
    tree: Tree = None,
    columns: Columns = None,
    branches: Branches = None,
    exclude: Exclude = None,
    schema: SchemaPolicy = None,
    kind: FormatOption = None,
    events: Events = None,
    preproc: Preproc = None,
    fileset: Fileset = None,
    allow_copies: AllowCopies = False,
    headers: Annotated[bool, typer.Option("--headers", help="Only what the headers say: quick, no event is read.")] = (
        False
    ),
    redirector: Redirector = None,
    timeout: Timeout = None,
    retries: Retries = None,
    as_json: AsJson = False,
) -> None:
    """Show files, trees, sizes and branches; what is in the events, and how fast they are read; what is left out.

    Ranges are those of a sample of 25,000 entries, or of as many as --events says.

    Example: mlaas-spark inspect data/demo/*.root --events 5000
    """
    from mlaas_spark import pipeline

    if headers and events:
        msg = "--headers reads no event: leave out --events, or --headers"
        raise ConfigError(msg)
    look: Callable[[Config, Journal], Headers | Inspection] = pipeline.inspect_headers if headers else pipeline.inspect
    found = look(_resolved(context), _journal_of(context)).to_json()
    if as_json:
        sys.stdout.write(json.dumps(found, indent=1) + "\n")
        return
    _show_files(found)
    _show_branches(found)
    if "read" in found:
        _show_reading(found)
    _out.print(escape(_sum_of(found)))


def _show_files(found: dict[str, Any]) -> None:
    folder, names = within([file["path"] for file in found["files"]])
    has_trees = any(file["tree"] for file in found["files"])
    columns = ("file", *(["tree"] if has_trees else []), "entries", "clusters", "MB", "uuid")
    table = _table(f"Files in {folder}" if folder else "Files", *columns)
    for name, file in zip(names, found["files"], strict=True):
        tree = [file["tree"]] if has_trees else []
        table.add_row(*_cells(name, *tree, file["entries"], file["clusters"], _mb(file["bytes"]), file["uuid"]))
    _out.print(table)
    for name, file in zip(names, found["files"], strict=True):
        if len(file["trees"]) > 1:
            trees = ", ".join(f"{tree} ({entries:,})" for tree, entries in file["trees"].items())
            _out.print(escape(f"trees in {name}: {trees}"))


def _show_branches(found: dict[str, Any]) -> None:
    renamed = any(branch["name"] != branch["source"] for branch in found["branches"])
    columns = ("branch", "type", *(_STATISTICS if "read" in found else ()), "kB on disk", *(["in the file"] * renamed))
    table = _table("Branches", *columns)
    for branch in found["branches"]:
        kind = f"list<{branch['dtype']}>" if branch["jagged"] else branch["dtype"]
        statistics = _statistics(branch) if "read" in found else []
        source = [branch["source"]] if renamed else []
        table.add_row(*_cells(branch["name"], kind, *statistics, _kb(branch["compressed"]), *source))
    _out.print(table)
    if found["omitted"]:
        table = _table("Left out", "branch", "kB on disk", "why")
        for item in found["omitted"]:
            table.add_row(*_cells(item["name"], _kb(item["compressed"]), item["reason"]))
        _out.print(table)


_STATISTICS = ("dim", "min", "max", "NaN", "inf", "zero")


def _statistics(branch: dict[str, Any]) -> list[object]:
    share = branch["zero_share"]
    zero = "-" if share is None else f"{100 * share:.1f} %"
    return [branch["dim"], _number(branch["min"]), _number(branch["max"]), branch["nan"], branch["inf"], zero]


def _show_reading(found: dict[str, Any]) -> None:
    """A line for each chunk as MLaaS4HEP's reader has it, and two for all; MB are those of the values in memory."""
    read = found["read"]
    # Spark's own readers, of JSON and CSV, work ahead in the JVM
    by_us = found["files"][0]["format"] in {"root", "parquet"}
    waited = "of reading" if by_us else "that tasks waited for Spark's reader"
    _, names = within([file["path"] for file in found["files"]])
    short = dict(zip((file["path"] for file in found["files"]), names, strict=True))
    for chunk in read["chunks"]:
        where = f"{short[chunk['path']]} [{chunk['start']}, {chunk['stop']})"
        _out.print(escape(f"# {_speed(chunk, read['branches'])}, {where}"))
    _out.print(escape(f"# total {_speed(read['reading'], read['branches'])}, seconds {waited}, all tasks added"))
    _out.print(escape(f"# total {_speed(read['elapsed'], read['branches'])}, by the clock, with statistics"))


def _speed(of: dict[str, Any], branches: int) -> str:
    rate, khz = (f"{of[key]:.1f}" if of[key] is not None else "-" for key in ("mb_per_second", "khz"))
    return (
        f"{of['entries']} entries, {branches} branches, {of['bytes'] / 1e6:.2f} MB, {of['seconds']:.2f} sec, "
        f"{rate} MB/sec, {khz} kHz"
    )


def _sum_of(found: dict[str, Any]) -> str:
    """The last lines: files, branches, and what the statistics are of."""
    if found["compressed"] is not None:
        compressed = f", {_mb(found['compressed'])} MB of it in branches"
    else:
        compressed = "; of branches with - the baskets lie in the tree's own header" if _is_root(found) else ""
    identifiers = ", ".join(found["identifiers"])
    files = len(found["files"])
    lines = [
        f"{files} file{'s' * (files > 1)}, {found['entries']:,} entries, {_mb(found['bytes'])} MB on disk{compressed}",
        f"{found['flat']} flat and {found['jagged']} jagged branches, {len(found['omitted'])} left out",
    ]
    if "read" not in found:
        return "\n".join(lines)
    lines[1] += f"; W = {found['attributes']} attributes"
    lines[1] += f" without the identifiers {identifiers}" if identifiers else ""
    read, entries = found["read"]["entries"], found["entries"]
    of = f"a sample, {read:,} of {entries:,} entries; --events {entries} reads all"
    lines.append(f"dim, ranges, NaN, inf, zero and W are those of {f'all {read:,} entries' if read == entries else of}")
    return "\n".join(lines)


def _is_root(found: dict[str, Any]) -> bool:
    return bool(found["files"][0]["format"] == "root")


def within(paths: Sequence[str]) -> tuple[str, list[str]]:
    """The folder that all paths are in, and the paths from there on."""
    parts = [path.split("/") for path in paths]
    levels = zip(*(path[:-1] for path in parts), strict=False)
    shared = sum(1 for _ in itertools.takewhile(lambda level: len({*level}) == 1, levels))
    return "/".join(parts[0][:shared]), ["/".join(path[shared:]) for path in parts]


def _mb(size: int) -> str:
    return f"{size / 1e6:,.1f}"


def _kb(size: int | None) -> str:
    return "-" if size is None else f"{size / 1e3:,.1f}"


@app.command()
def plan(
    context: typer.Context,
    files: Files = None,
    config: ConfigFile = None,
    settings: Settings = None,
    tree: Tree = None,
    columns: Columns = None,
    branches: Branches = None,
    exclude: Exclude = None,
    schema: SchemaPolicy = None,
    kind: FormatOption = None,
    events: Events = None,
    preproc: Preproc = None,
    fileset: Fileset = None,
    allow_copies: AllowCopies = False,
    redirector: Redirector = None,
    timeout: Timeout = None,
    retries: Retries = None,
    explain: Annotated[
        bool,
        typer.Option("--explain", help="Say what jobs would take, by a probe of some seconds, and what will not fit."),
    ] = False,
    cores: Annotated[
        int | None,
        typer.Option("--cores", help="With --explain: that the jobs would have; default: the session's.", min=1),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option("--out", help="With --explain: where the jobs would write; default: runs of the config."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show how a job would divide its work: ranges and bytes of each file, partitions, the largest range.

    With --explain also sizes of what is written, memory, times on so many cores, and warnings: each verb is run on a
    sample, and leaves nothing.

    Example: mlaas-spark plan data/demo/*.root --set spark.events_per_task=5000

    Before a long job: mlaas-spark plan --config my.yaml --explain --cores 200 --out hdfs://host/user/me
    """
    from mlaas_spark import pipeline

    if not explain and (cores or out):
        msg = "--cores and --out go with --explain"
        raise ConfigError(msg)
    resolved, journal = _resolved(context), _journal_of(context)
    made = (pipeline.explain(resolved, journal, cores, out) if explain else pipeline.plan(resolved, journal)).to_json()
    if as_json:
        sys.stdout.write(json.dumps(made, indent=1) + "\n")
        return
    table = _table("Plan", "path", "tree", "entries", "ranges", "MB")
    for file in made["files"]:
        size = f"{file['bytes'] / 1e6:.1f}"
        table.add_row(*_cells(file["path"], file["tree"], file["entries"], file["ranges"], size))
    _out.print(table)
    files_read = len({file["path"] for file in made["files"]})
    _out.print(
        f"{made['entries']:,} events of {files_read} files, {made['bytes'] / 1e6:.1f} MB, in {made['ranges']} ranges "
        f"and {made['partitions']} partitions; a range has {made['mean']:,.0f} events, the largest {made['largest']:,}"
    )
    if explain:
        _show_estimate(made)


_ESTIMATED = {
    "events": "events that are selected",
    "clusters": "clusters in the files",
    "ranges": "ranges",
    "range.entries": "largest range",
    "tasks": "Spark tasks",
    "convert.bytes": "output of convert",
    "compact.bytes": "compact chunks",
    "dense.bytes": "dense chunks",
    "spill.bytes": "put aside while chunks are made",
    "partials.bytes": "gathered from tasks of specs",
    "range.bytes": "a range in memory",
    "convert.task.memory": "a task of convert or specs",
    "chunks.task.memory": "a task of chunks",
    "executor.memory": "an executor in all",
    "train.memory": "events that training holds",
    "start.seconds": "start Spark",
    "open.seconds": "open the files",
    "convert.seconds": "convert",
    "specs.seconds": "specs",
    "chunks.seconds": "chunks",
    "stream.seconds": "stream of an epoch",
    "job.convert.seconds": "mlaas-spark convert",
    "job.specs.seconds": "mlaas-spark specs",
    "job.chunks.seconds": "mlaas-spark chunks",
    "job.train.seconds": "mlaas-spark train",
}


def _show_estimate(made: dict[str, Any]) -> None:
    """A line for each figure, with its unit and from what it was reckoned; the warnings last."""
    table = _table("Estimate", "what", "how much", "reckoned from")
    for name, told in _ESTIMATED.items():
        if (figure := made["figures"].get(name)) is not None:
            table.add_row(*_cells(told, _amount(figure["value"], figure["unit"]), figure["from"]))
    _out.print(table)
    for warned in made["warnings"]:
        _out.print(escape(f"warning: {warned['kind']}: {warned['text']}"))
    if not made["warnings"]:
        _out.print("no warnings: all of it fits")


def _amount(value: float, unit: str) -> str:
    if unit == "B":
        return f"{value / 1e9:,.2f} GB" if value >= 1e9 else f"{value / 1e6:,.2f} MB"
    if unit == "s":
        return f"{value:,.1f} s" if value < _LONG_S else f"{value / 60:,.1f} min"
    return f"{value:,} {unit}"


@app.command()
def convert(
    context: typer.Context,
    out: Annotated[str, typer.Option("--out", help="Folder of the Parquet data set.")],
    files: Files = None,
    config: ConfigFile = None,
    settings: Settings = None,
    tree: Tree = None,
    columns: Columns = None,
    branches: Branches = None,
    exclude: Exclude = None,
    selection: Selection = None,
    derive: Derive = None,
    schema: SchemaPolicy = None,
    kind: FormatOption = None,
    events: Events = None,
    preproc: Preproc = None,
    fileset: Fileset = None,
    allow_copies: AllowCopies = False,
    redirector: Redirector = None,
    timeout: Timeout = None,
    retries: Retries = None,
    compression: Annotated[
        str | None, typer.Option("--compression", help="lz4 (reads fastest), zstd, snappy, gzip or none.")
    ] = None,
    sort_keys: Annotated[
        str | None, typer.Option("--sort-keys", help="Flat branches to sort each file by: run,luminosityBlock,event.")
    ] = None,
    target_size: Annotated[
        str | None, typer.Option("--target-size", help="Bytes of a Parquet file, about: 128MB; of ROOT and Parquet.")
    ] = None,
) -> None:
    """Write events as a Parquet data set with a manifest.

    Example: mlaas-spark convert data/demo/*.root --out data/parquet --selection 'nMuon >= 1'
    """
    from mlaas_spark import pipeline
    from mlaas_spark.schema import HALF

    content = _content(context)
    options = {"compression": compression, "sort_keys": sort_keys, "target_size": target_size}
    given = {key: value for key, value in options.items() if value}
    content = {**content, "convert": {**(content.get("convert") or {}), **given}} if given else content
    manifest = pipeline.convert(_resolved(context, content), out, _journal())
    size = sum(file.bytes for file in manifest.files)
    _out.print(escape(_ledger(manifest.ledger)))
    _out.print(
        escape(f"{len(manifest.files)} files, {size / 1e6:.1f} MB in {out}, digest {manifest.content_digest[:12]}")
    )
    if manifest.schema.omitted:
        _out.print(_left_out(manifest.schema.omitted))
    if halves := [branch.name for branch in manifest.schema.branches if HALF in branch.dtype]:
        _out.print(escape(f"{HALF} is float32 in Parquet, with equal values: {', '.join(halves)}"))
    _out.print(escape(f"to read as plain Parquet: {', '.join(_folders(out, manifest))}"))


@app.command()
def specs(
    context: typer.Context,
    out: Annotated[str, typer.Option("--out", help="The specs file to write.")] = "specs.json",
    files: Files = None,
    config: ConfigFile = None,
    settings: Settings = None,
    tree: Tree = None,
    columns: Columns = None,
    branches: Branches = None,
    exclude: Exclude = None,
    selection: Selection = None,
    derive: Derive = None,
    schema: SchemaPolicy = None,
    kind: FormatOption = None,
    events: Events = None,
    preproc: Preproc = None,
    fileset: Fileset = None,
    allow_copies: AllowCopies = False,
    redirector: Redirector = None,
    timeout: Timeout = None,
    retries: Retries = None,
) -> None:
    """Compute ranges, jagged dimensions and statistics of each branch.

    Example: mlaas-spark specs data/demo/*.root --out specs.json
    """
    from mlaas_spark import pipeline
    from mlaas_spark.transform import FeatureTransform

    resolved = _resolved(context)
    made = pipeline.specs(resolved, out, _journal()).specs
    table = _table("Specs", "branch", "type", "dim", "min", "max", "mean", "std", "NaN", "inf", "zero")
    for name, stats in sorted(made.branches.items()):
        numbers = (_number(value) for value in (stats.minimum, stats.maximum, stats.mean, stats.std))
        share = f"{100 * stats.zero / stats.count:.1f} %" if stats.count else "-"
        kind_of = "jagged" if stats.jagged else "flat"
        table.add_row(*_cells(name, kind_of, stats.dim, *numbers, stats.nan, stats.inf, share))
    _out.print(table)
    width = FeatureTransform.of(made, resolved.features).width
    _out.print(
        escape(
            f"{made.events:,} events, {len(made.flat)} flat and {len(made.jagged)} jagged branches, "
            f"W = {width} columns; written to {out}"
        )
    )


@app.command()
def chunks(
    context: typer.Context,
    out: Annotated[str, typer.Option("--out", help="Folder of the chunk data set.")],
    files: Files = None,
    config: ConfigFile = None,
    settings: Settings = None,
    tree: Tree = None,
    columns: Columns = None,
    branches: Branches = None,
    exclude: Exclude = None,
    selection: Selection = None,
    derive: Derive = None,
    schema: SchemaPolicy = None,
    label: Annotated[str | None, typer.Option("--label", help="Label: a branch or an expression.")] = None,
    kind: FormatOption = None,
    events: Events = None,
    preproc: Preproc = None,
    fileset: Fileset = None,
    allow_copies: AllowCopies = False,
    redirector: Redirector = None,
    timeout: Timeout = None,
    retries: Retries = None,
) -> None:
    """Mix events into chunks: in proportion to the files, shuffled, split into train, validation and test.

    Example: mlaas-spark chunks --config conf/demo.yaml --out data/chunks
    """
    from mlaas_spark import pipeline

    manifest = pipeline.chunks(_resolved(context), out, _journal())
    table = _table("Events", "split", "label", "events")
    for split, labels in manifest.counts().items():
        for value, rows in labels.items():
            table.add_row(*_cells(split, value, rows))
    _out.print(table)
    _out.print(escape(_ledger(manifest.ledger)))
    _out.print(escape(f"{manifest.chunks} chunks in {out}, digest {manifest.content_digest[:12]}"))


@app.command()
def train(
    context: typer.Context,
    inputs: Files = None,
    config: ConfigFile = None,
    settings: Settings = None,
    model: Annotated[str | None, typer.Option("--model", help="Python file with model(idim).")] = None,
    tree: Tree = None,
    columns: Columns = None,
    branches: Branches = None,
    exclude: Exclude = None,
    selection: Selection = None,
    derive: Derive = None,
    schema: SchemaPolicy = None,
    label: Annotated[str | None, typer.Option("--label", help="Label: a branch or an expression.")] = None,
    kind: FormatOption = None,
    events: Events = None,
    preproc: Preproc = None,
    fileset: Fileset = None,
    allow_copies: AllowCopies = False,
    redirector: Redirector = None,
    timeout: Timeout = None,
    retries: Retries = None,
    files: Annotated[str | None, typer.Option("--files", help="MLaaS4HEP: files.txt or a comma list.")] = None,
    labels: Annotated[
        str | None, typer.Option("--labels", help="MLaaS4HEP: labels.txt, a comma list, or a column's name.")
    ] = None,
    params: Annotated[str | None, typer.Option("--params", help="MLaaS4HEP: params.json.")] = None,
    specs_file: Annotated[str | None, typer.Option("--specs", help="Specs to use, ours or MLaaS4HEP's.")] = None,
    dtype: Annotated[str | None, typer.Option("--dtype", help="MLaaS4HEP: data type of the files.")] = None,
    fout: Annotated[
        str | None, typer.Option("--fout", help="Folder for the run, or a model file: model.keras, .h5, .pb.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the interrupted training of this name.")] = False,
) -> None:
    """Train a model, the whole way from files to a bundle for TFaaS.

    Example: mlaas-spark train --config conf/demo.yaml

    As in MLaaS4HEP: mlaas-spark train --files files.txt --labels labels.txt --model model.py --params params.json
    --fout out
    """
    from mlaas_spark import mlaas4hep, pipeline

    save_as = None
    if files is not None:
        if inputs or config:
            msg = "--files is MLaaS4HEP's way to name the input: leave out --config and FILES, or leave out --files"
            raise ConfigError(msg)
        options = mlaas4hep.Options(files, labels or "", model, params, preproc, specs_file, dtype, fout)
        translation = mlaas4hep.translate(options)
        for note in translation.notes:
            _err.print(escape(f"note: {note}"))
        content, save_as = translation.content, translation.save_as
        content["input"] |= {key: value for key, value in _given(context).items() if key != "files"}
    else:
        if labels or params or dtype:
            msg = "--labels, --params and --dtype go with --files; with a config give groups with labels, or --label"
            raise ConfigError(msg)
        content = _content(context)
        section = dict(content.get("train") or {})
        content = {**content, "train": {**section, "model": model}} if model else content
        if specs_file:
            content = {**content, "features": {**(content.get("features") or {}), "specs": specs_file}}
        if fout:
            where, save_as = mlaas4hep.place(fout)
            content = {**content, **where}
    command = shlex.join(["mlaas-spark", "train", *(context.obj or [])])
    result = pipeline.train(_resolved(context, content), _journal(), command, save_as, resume=resume)
    _show(result)


@app.command()
def evaluate(
    run: Annotated[str, typer.Argument(help="A run folder.")],
    split: Annotated[str, typer.Option("--split", help="Which events: test, validation or train.")] = "test",
    out: Annotated[
        str | None, typer.Option("--out", help="Where to write; default: evaluation-<split>/ of the run.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="A key: --set evaluate.signal_yield=40; repeatable.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Judge the model of a finished run on its own events again: metrics.json and plots. Needs no Spark.

    Example: mlaas-spark evaluate runs/demo/20260101T000000Z-0123456789ab --split validation
    """
    from mlaas_spark import pipeline
    from mlaas_spark.evaluation.tables import tables

    found = pipeline.evaluate(run, split, out, _journal(), settings or ())
    if as_json:
        sys.stdout.write(json.dumps(found.metrics, indent=1) + "\n")
        return
    for of_metrics in tables(found.metrics):
        table = _table(escape(of_metrics.caption), *of_metrics.header)
        for row in of_metrics.rows:
            table.add_row(*_cells(*row))
        _out.print(table)
        _out.print()
    for note in found.metrics["notes"]:
        _out.print(escape(f"note: {note}"))
    _out.print(escape(f"metrics.json and {found.plots} plots in {found.folder}"))


@app.command()
def export(
    run: Annotated[str, typer.Argument(help="A run folder.")],
    out: Annotated[str | None, typer.Option("--out", help="Where to write; default: bundle/ of the run.")] = None,
    settings: Settings = None,
) -> None:
    """Write the TFaaS bundles of a finished run again, with --set by other settings than the run's.

    Example: mlaas-spark export runs/demo/20260101T000000Z-0123456789ab --out bundles --set export.inputs=raw
    """
    from mlaas_spark import pipeline

    for inputs, archive in pipeline.export(run, out, _journal(), settings or ()).items():
        _out.print(escape(f"{_BUNDLES[inputs]}: {archive}"), soft_wrap=True)


@app.command()
def predict(
    context: typer.Context,
    out: Annotated[str, typer.Option("--out", help="Folder of the data set of scores.")],
    files: Files = None,
    run: Annotated[str | None, typer.Option("--run", help="A run folder: its model scores.")] = None,
    bundle: Annotated[
        str | None, typer.Option("--bundle", help="In place of --run: a bundle, its folder or its tar.gz.")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="In place of --run: a .keras file that Keras saved, with --specs.")
    ] = None,
    specs_file: Annotated[
        str | None, typer.Option("--specs", help="With --model: specs of its training; default: specs.json beside it.")
    ] = None,
    keep: Annotated[
        str | None, typer.Option("--keep", help="Branches to write beside the scores, globs: MET_pt,Jet_*.")
    ] = None,
    beside: Annotated[
        bool, typer.Option("--beside", help="Write the scores beside all branches that convert would write.")
    ] = False,
    out_format: Annotated[
        str | None,
        typer.Option("--out-format", help="parquet, or root: a friend tree for each input file; default: parquet."),
    ] = None,
    config: ConfigFile = None,
    settings: Settings = None,
    tree: Tree = None,
    columns: Columns = None,
    selection: Annotated[
        str | None, typer.Option("--selection", help="Score events that pass; the others are marked and have no score.")
    ] = None,
    derive: Derive = None,
    schema: SchemaPolicy = None,
    kind: FormatOption = None,
    events: Events = None,
    preproc: Preproc = None,
    fileset: Fileset = None,
    allow_copies: AllowCopies = False,
    redirector: Redirector = None,
    timeout: Timeout = None,
    retries: Retries = None,
) -> None:
    """Score events with a trained model, on executors, into a data set with a row for each entry, in entry order.

    Rows have the identifier branches, what is kept, the input's uuid, the entry, whether it is selected, and the score.

    Example: mlaas-spark predict data/demo/*.root --run runs/demo/20260101T000000Z-0123456789ab --out data/scores
    """
    from mlaas_spark import pipeline

    named = [given for given in (run, bundle, model) if given]
    if len(named) != 1:
        msg = "name one model: --run with a run folder, --bundle with a bundle, or --model with a .keras file"
        raise ConfigError(msg)
    if (model and not model.endswith(".keras")) or (specs_file and not model):
        msg = "--model takes a .keras file, and --specs goes with it; a run and a bundle have specs of their own"
        raise ConfigError(msg)
    content = _content(context)
    if specs_file:
        content = {**content, "features": {**(content.get("features") or {}), "specs": specs_file}}
    asked = {key: value for key, value in (("keep", keep), ("beside", beside), ("format", out_format)) if value}
    content = {**content, "predict": {**(content.get("predict") or {}), **asked}} if asked else content
    manifest = pipeline.predict(_resolved(context, content), named[0], out, _journal())
    size = sum(file.bytes for file in manifest.files)
    if manifest.drift:
        table = _table("Not as in training", "branch", "below range", "above range", "NaN, inf", "cut")
        for name, drift in manifest.drift.items():
            table.add_row(*_cells(name, *drift))
        _out.print(table)
    ledger = manifest.ledger
    _out.print(
        escape(
            f"{ledger['entries']:,} entries in = {ledger['rows']:,} rows out: {ledger['events']:,} events scored + "
            f"{ledger['selection']:,} not selected"
        )
    )
    _out.print(
        escape(f"{len(manifest.files)} files, {size / 1e6:.1f} MB in {out}, digest {manifest.content_digest[:12]}")
    )
    if any(file.path.endswith(".root") for file in manifest.files):
        _show_friends(out, manifest)
        return
    _out.print(escape(f"to read as plain Parquet: {', '.join(_folders(out, manifest))}"))


def _show_friends(out: str, manifest: Manifest) -> None:
    """Which file is a friend of which input; of many the first."""
    table = _table("Friend trees", "input", "friend")
    for file in sorted(manifest.files, key=lambda file: file.ranges)[:_LISTED]:
        source = manifest.inputs[file.ranges[0][0]]
        table.add_row(*_cells(f"{source.path}:{source.tree}" if source.tree else source.path, f"{out}/{file.path}"))
    if len(manifest.files) > _LISTED:
        table.add_row(*_cells("...", f"all in {out}/manifest.json"))
    _out.print(table)
    _out.print("to read one beside its input: docs/prediction.md")


@app.command(name="serve-check")
def serve_check(
    context: typer.Context,
    bundle: Annotated[str | None, typer.Argument(help="A bundle: its folder or its tar.gz.")] = None,
    config: ConfigFile = None,
    settings: Settings = None,
    url: Url = None,
    model: ModelName = None,
    alias: AliasFile = None,
    certificate: Certificate = None,
    key: Key = None,
    ca: Ca = None,
    as_json: AsJson = False,
) -> None:
    """Load a bundle as the TFaaS server does, and compare its scores with the model's. Needs no server.

    With --url the server is checked: that it has the bundle, file by file, and scores as its model does; without BUNDLE
    by the check events that it stores of one model, or of each.

    Example: mlaas-spark serve-check runs/demo/*/bundle/*.tar.gz
    """
    from mlaas_spark import pipeline

    if url is None and (model or alias):
        msg = "--model and --alias go with --url"
        raise ConfigError(msg)
    if url is None and bundle is None:
        msg = "name a bundle, or a server by --url"
        raise ConfigError(msg)
    if url is not None:
        asking = pipeline.Asking(model, alias)
        proofs = pipeline.serve_check_remote(_serving(context), bundle, asking, _journal_of(context))
        if as_json:
            sys.stdout.write(json.dumps([proof.to_json() for proof in proofs], indent=1) + "\n")
            return
        for proof in proofs:
            _out.print(escape(_proof(proof)))
        return
    found = pipeline.serve_check(str(bundle))
    if as_json:
        sys.stdout.write(json.dumps(found, indent=1) + "\n")
        return
    _out.print(escape(", ".join(f"{key} {value}" for key, value in found.items())))


@app.command()
def upload(
    context: typer.Context,
    bundle: Annotated[str, typer.Argument(help="A bundle: its tar.gz, or its folder with the tar beside it.")],
    config: ConfigFile = None,
    settings: Settings = None,
    url: Url = None,
    promote: Annotated[bool, typer.Option("--promote", help="Let clients of the alias use it.")] = False,
    alias: AliasFile = None,
    certificate: Certificate = None,
    key: Key = None,
    ca: Ca = None,
) -> None:
    """Send a bundle to a TFaaS server and prove it: files read back, scores compared; else it is deleted again.

    Example: mlaas-spark upload runs/demo/*/bundle/*.tar.gz --url http://localhost:8083 --promote --alias demo
    """
    from mlaas_spark import pipeline

    if alias and not promote:
        msg = "--alias goes with --promote"
        raise ConfigError(msg)
    resolved = _serving(context)
    place = (alias or resolved.serve.alias or _base_name(bundle)) if promote else None
    proof, promoted = pipeline.upload(resolved, bundle, _journal(), place)
    _out.print(escape(_proof(proof)))
    if promoted is not None:
        _out.print(escape(_alias(promoted)))


@app.command()
def rollback(
    context: typer.Context,
    alias: AliasFile = None,
    config: ConfigFile = None,
    settings: Settings = None,
    certificate: Certificate = None,
    key: Key = None,
    ca: Ca = None,
) -> None:
    """Let clients of an alias use the model before.

    Example: mlaas-spark rollback --alias demo
    """
    from mlaas_spark import pipeline

    resolved = _serving(context)
    if (place := alias or resolved.serve.alias) is None:
        msg = "name the alias: --alias FILE, or serve.alias of the config"
        raise ConfigError(msg)
    _out.print(escape(_alias(pipeline.rollback(resolved, place))))


@app.command()
def models(
    context: typer.Context,
    config: ConfigFile = None,
    settings: Settings = None,
    url: Url = None,
    certificate: Certificate = None,
    key: Key = None,
    ca: Ca = None,
    as_json: AsJson = False,
) -> None:
    """List the models of a TFaaS server.

    Example: mlaas-spark models --url http://localhost:8083
    """
    from mlaas_spark import pipeline

    listed = pipeline.models(_serving(context))
    if as_json:
        sys.stdout.write(json.dumps(listed, indent=1) + "\n")
        return
    table = _table("Models", "name", "description")
    for params in listed:
        table.add_row(*_cells(params["name"], params.get("description", "")))
    _out.print(table)


@app.command(name="params")
def show_params(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Served name.")],
    config: ConfigFile = None,
    settings: Settings = None,
    url: Url = None,
    certificate: Certificate = None,
    key: Key = None,
    ca: Ca = None,
) -> None:
    """Show the params.json of a model of a TFaaS server.

    Example: mlaas-spark params demo_0123456789ab --url http://localhost:8083
    """
    from mlaas_spark import pipeline

    sys.stdout.write(json.dumps(pipeline.params(_serving(context), name), indent=1) + "\n")


@app.command()
def delete(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Served name.")],
    config: ConfigFile = None,
    settings: Settings = None,
    url: Url = None,
    certificate: Certificate = None,
    key: Key = None,
    ca: Ca = None,
) -> None:
    """Remove a model from a TFaaS server; refused if it is what serve.alias of the config means now.

    Example: mlaas-spark delete demo_0123456789ab --url http://localhost:8083
    """
    from mlaas_spark import pipeline

    resolved = _serving(context)
    pipeline.delete(resolved, name)
    _out.print(escape(f"{name} is deleted at {resolved.serve.url}; a server may answer for it until it starts anew"))


@app.command(name="predict-remote")
def predict_remote(
    context: typer.Context,
    file: Annotated[
        str,
        typer.Argument(
            help="Events: .jsonl, .csv, .npz (what the model takes), .root[:Tree], .parquet.", metavar="FILE"
        ),
    ],
    config: ConfigFile = None,
    settings: Settings = None,
    url: Url = None,
    model: ModelName = None,
    alias: AliasFile = None,
    first: Annotated[int | None, typer.Option("--events", help="Only the first so many.", min=1)] = None,
    tree_of: Annotated[str | None, typer.Option("--tree", help="Tree of a ROOT file that has several.")] = None,
    proto: Annotated[bool, typer.Option("--proto", help="Send protobuf in place of JSON.")] = False,
    image: Annotated[bool, typer.Option("--image", help="FILE is a PNG or JPEG image, for an image model.")] = False,
    certificate: Certificate = None,
    key: Key = None,
    ca: Ca = None,
) -> None:
    """Ask a TFaaS server for scores: a line of JSON for each event, on standard output, in their order.

    Example: mlaas-spark predict-remote data/demo/signal_0.root --events 3 --alias demo
    """
    from mlaas_spark import pipeline
    from mlaas_spark.serving.inputs import lines

    if model and alias:
        msg = "name one model: --model NAME, or --alias FILE"
        raise ConfigError(msg)
    asking = pipeline.Asking(model, alias, first, tree_of, "proto" if proto else "json")
    if image:
        for label, score in pipeline.predict_image(_serving(context), file, asking):
            _out.print(escape(f"{score:.6f} {label}"))
        return
    try:
        for line in lines(pipeline.predict_remote(_serving(context), file, asking)):
            sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
    except BrokenPipeError:  # who reads has enough, as head does; what Python still holds goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


_SERVE_OPTIONS = ("url", "alias", "certificate", "key", "ca")
"""Options that put a key into the config's section ``serve``."""


def _serving(context: typer.Context) -> Config:
    """The config of a verb that speaks to a server."""
    from mlaas_spark import config as configs

    path = context.params.get("config")
    content = configs.read(path) if path else {}
    given = {key: str(value) for key in _SERVE_OPTIONS if (value := context.params.get(key)) is not None}
    section = content.get("serve") or {}
    if not isinstance(section, dict):
        msg = f"{path}: serve is a {type(section).__name__}, not a section"
        raise ConfigError(msg)
    return _resolved(context, {**content, "serve": {**section, **given}})


def _base_name(bundle: str) -> str:
    """What an alias is called if nobody says: the name of the bundle without the digest."""
    return bundle.rstrip("/").rsplit("/", 1)[-1].removesuffix(".tar.gz").rpartition("_")[0] or "model"


def _proof(proof: Proof) -> str:
    had = " (it had it already)" if proof.found and proof.files else ""
    files = f"{proof.files} files equal{had}, " if proof.files else ""
    return (
        f"{proof.name} at {proof.url}: {files}{proof.events:,} events scored, largest difference {proof.difference:.3g}"
    )


def _alias(alias: Alias) -> str:
    before = f", before it {alias.history[0].name}" if alias.history else ""
    return f"alias {alias.alias}: {alias.current.name} at {alias.current.url}{before}"


@app.command()
def demo(
    folder: Annotated[Path, typer.Option("--out", help="Folder of the sample.")] = Path("data/demo"),
    events: Annotated[int, typer.Option("--events", help="Events in all files.", min=8)] = 80_000,
    files: Annotated[int, typer.Option("--files", help="Number of files, half signal, half background.", min=2)] = 4,
    seed: Annotated[int, typer.Option("--seed", help="Equal seeds give equal events.", min=0)] = 1,
) -> None:
    """Write the demo's sample: physics-like ROOT files, signal and background.

    Example: mlaas-spark demo --out data/demo && mlaas-spark train --config conf/demo.yaml
    """
    from mlaas_spark.demo import generate

    if files % 2:
        msg = f"--files must be even, half signal and half background, not {files}"
        raise ConfigError(msg)
    for path in generate(folder, events, files, seed):
        _out.print(escape(str(path)))


def _show(result: RunResult) -> None:
    """The summary of a run: what happened, where it is, what to do next."""
    metrics = result.metrics
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    rows = [
        ("events", f"{result.entries:,} in, {result.events:,} out, {result.entries - result.events:,} not selected"),
        ("features", f"{result.width} columns, {result.left_out} branches left out"),
        *_results(metrics),
        ("run folder", result.folder),
        *((_BUNDLES[inputs], archive) for inputs, archive in result.archives.items()),
    ]
    if result.saved:
        rows.append(("model", str(result.saved)))
    for row in rows:
        table.add_row(*_cells(*row))
    _out.print(table)
    _out.print("next:")
    program = _program()
    _out.print(escape(f"  {program} serve-check {shlex.quote(result.archive)}"), soft_wrap=True)
    _out.print(escape(f"  open {shlex.quote(f'{result.folder}/report.html')} in a browser"), soft_wrap=True)
    _out.print(escape(f"  {program} train --help    # the same on your own files"))


def _results(metrics: dict[str, Any]) -> list[tuple[str, str]]:
    """How well the model does, in a few lines."""
    if residuals := metrics.get("residuals"):
        return [
            (name, f"RMSE {_number(of['rmse'])}, bias {_number(of['bias'])}, R2 {_number(of['r2'])}")
            for name, of in residuals.items()
        ]
    auc, interval, accuracy = metrics.get("auc"), metrics.get("auc_interval"), metrics.get("accuracy")
    error = f" ± {interval['std']:.4f}" if interval else ""
    return [
        ("test AUC", f"{auc:.4f}{error}" if auc is not None else "- (see notes in metrics.json)"),
        ("accuracy", f"{accuracy:.4f}" if accuracy is not None else "-"),
    ]


def _program() -> str:
    """How to call this program from here: its name if the shell finds it, else where it lies."""
    if shutil.which("mlaas-spark"):
        return "mlaas-spark"
    path = Path(sys.executable).parent / "mlaas-spark"
    return shlex.quote(str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path))


def _ledger(ledger: dict[str, int]) -> str:
    return f"{ledger['entries']:,} entries in = {ledger['events']:,} events out + {ledger['selection']:,} not selected"


def _folders(out: str, manifest: Manifest) -> list[str]:
    """Folders of a data set that hold its Parquet files."""
    return [f"{out}/{place}" for place in sorted({file.path.rpartition("/")[0] for file in manifest.files})]


def _left_out(omitted: Sequence[Omitted]) -> Table:
    """The branches that are not in the output, by reason; of very many the first."""
    from mlaas_spark.fileset import MANIFEST

    by_reason: dict[str, list[str]] = {}
    for item in omitted:
        by_reason.setdefault(item.reason, []).append(item.name)
    table = _table("Left out", "why", "branches", "names")
    for reason_of_all, names in list(by_reason.items())[:_LISTED]:
        more = f", ... (all in {MANIFEST})" if len(names) > _LISTED else ""
        table.add_row(*_cells(reason_of_all, len(names), ", ".join(names[:_LISTED]) + more))
    if len(by_reason) > _LISTED:
        rest = sum(len(names) for names in list(by_reason.values())[_LISTED:])
        table.add_row(*_cells(f"other reasons, see {MANIFEST}", rest, "..."))
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _cells(*values: object) -> list[str]:
    return [escape(f"{value:,}" if isinstance(value, int) else str(value)) for value in values]


def _number(value: float | None) -> str:
    return "-" if value is None or value != value else f"{value:.6g}"  # noqa: PLR0124 - NaN is not itself


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; the exit code.

    0 done, 2 usage or config, 3 input, 4 data mismatch, 5 training, 6 export or serving, 7 interrupted; 1 is a bug.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _run(given)
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - the last line of defence
        if "--debug" in given:
            traceback.print_exception(error)
        code, text = _told(error, given)
        _err.print(escape(text))
        return code


def _told(error: BaseException, given: Sequence[str]) -> tuple[int, str]:
    """Exit code and message of whatever stopped a command."""
    if isinstance(error, MlaasSparkError):
        return error.exit_code, f"error: {error}"
    if isinstance(error, (KeyboardInterrupt, typer.Abort)):
        return _EXIT_INTERRUPTED, "interrupted: run the same command again, finished work is kept"
    if isinstance(error, TyperException):
        return _EXIT_USAGE, f"error: {error.format_message()}; see mlaas-spark {_verb(given)}--help"
    return _EXIT_BUG, f"error: this is a bug in mlaas_spark, please report it: {reason(error)}; see --debug"


def _run(given: list[str]) -> int:
    command = typer.main.get_command(app)
    result = command.main(given, prog_name="mlaas-spark", standalone_mode=False, obj=given[1:])
    if result == _TYPER_INTERRUPTED:
        raise KeyboardInterrupt
    return result if isinstance(result, int) else 0


def _verb(given: Sequence[str]) -> str:
    verbs = {
        command.name or (command.callback.__name__ if command.callback else "") for command in app.registered_commands
    }
    return next((f"{word} " for word in given if word in verbs), "")
