"""Verbs that look at files and write nothing: inspect, plan."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from mlaas_spark.cli import show
from mlaas_spark.cli.app import app
from mlaas_spark.cli.options import BRANCHES, CONFIG, INPUT, AsJson, journal, resolved, takes
from mlaas_spark.errors import ConfigError
from mlaas_spark.formats import Format

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlaas_spark.config import Config
    from mlaas_spark.inspection import Headers, Inspection
    from mlaas_spark.runs import Journal


@app.command()
@takes(CONFIG | INPUT | BRANCHES)
def inspect(
    context: typer.Context,
    headers: Annotated[bool, typer.Option("--headers", help="Only what the headers say: quick, no event is read.")] = (
        False
    ),
    as_json: AsJson = False,
) -> None:
    """Show files, trees, sizes and branches; what is in the events, and how fast they are read; what is left out.

    Ranges are those of a sample of 25,000 entries, or of as many as --events says.

    Example: mlaas-spark inspect data/demo/*.root --events 5000
    """
    from mlaas_spark import pipeline

    if headers and context.params["events"]:
        msg = "--headers reads no event: leave out --events, or --headers"
        raise ConfigError(msg)
    look: Callable[[Config, Journal], Headers | Inspection] = pipeline.inspect_headers if headers else pipeline.inspect
    found = look(resolved(context), journal(context)).to_json()
    if as_json:
        show.as_json(found)
        return
    _show_files(found)
    _show_branches(found)
    if "read" in found:
        _show_reading(found)
    for text in _sum_of(found):
        show.line(text)


def _show_files(found: dict[str, Any]) -> None:
    folder, names = show.within([file["path"] for file in found["files"]])
    has_trees = any(file["tree"] for file in found["files"])
    columns = ("file", *(["tree"] if has_trees else []), "entries", "clusters", "MB", "uuid")
    rows = [
        (
            name,
            *([file["tree"]] if has_trees else []),
            file["entries"],
            file["clusters"],
            show.mb(file["bytes"]),
            file["uuid"],
        )
        for name, file in zip(names, found["files"], strict=True)
    ]
    show.table(f"Files in {folder}" if folder else "Files", columns, rows)
    for name, file in zip(names, found["files"], strict=True):
        if len(file["trees"]) > 1:
            trees = ", ".join(f"{tree} ({entries:,})" for tree, entries in file["trees"].items())
            show.line(f"trees in {name}: {trees}")


def _show_branches(found: dict[str, Any]) -> None:
    renamed = any(branch["name"] != branch["source"] for branch in found["branches"])
    columns = ("branch", "type", *(_STATISTICS if "read" in found else ()), "kB on disk", *(["in the file"] * renamed))
    rows = []
    for branch in found["branches"]:
        kind = f"list<{branch['dtype']}>" if branch["jagged"] else branch["dtype"]
        statistics = _statistics(branch) if "read" in found else []
        source = [branch["source"]] if renamed else []
        rows.append((branch["name"], kind, *statistics, show.kb(branch["compressed"]), *source))
    show.table("Branches", columns, rows)
    if found["omitted"]:
        left = [(item["name"], show.kb(item["compressed"]), item["reason"]) for item in found["omitted"]]
        show.table("Left out", ("branch", "kB on disk", "why"), left)


_STATISTICS = ("dim", "min", "max", "NaN", "inf", "zero")


def _statistics(branch: dict[str, Any]) -> list[object]:
    share = branch["zero_share"]
    zero = "-" if share is None else f"{100 * share:.1f} %"
    return [branch["dim"], show.number(branch["min"]), show.number(branch["max"]), branch["nan"], branch["inf"], zero]


def _show_reading(found: dict[str, Any]) -> None:
    """A line for each chunk as MLaaS4HEP's reader has it, and two for all; MB are those of the values in memory."""
    read = found["read"]
    # Spark's own readers, of JSON and CSV, work ahead in the JVM
    by_us = Format(found["files"][0]["format"]).module
    waited = "of reading" if by_us else "that tasks waited for Spark's reader"
    _, names = show.within([file["path"] for file in found["files"]])
    short = dict(zip((file["path"] for file in found["files"]), names, strict=True))
    for chunk in read["chunks"]:
        where = f"{short[chunk['path']]} [{chunk['start']}, {chunk['stop']})"
        show.line(f"# {_speed(chunk, read['branches'])}, {where}")
    show.line(f"# total {_speed(read['reading'], read['branches'])}, seconds {waited}, all tasks added")
    show.line(f"# total {_speed(read['elapsed'], read['branches'])}, by the clock, with statistics")


def _speed(of: dict[str, Any], branches: int) -> str:
    rate, khz = (f"{of[key]:.1f}" if of[key] is not None else "-" for key in ("mb_per_second", "khz"))
    return (
        f"{of['entries']} entries, {branches} branches, {of['bytes'] / 1e6:.2f} MB, {of['seconds']:.2f} sec, "
        f"{rate} MB/sec, {khz} kHz"
    )


def _sum_of(found: dict[str, Any]) -> list[str]:
    """The last lines: files, branches, and what the statistics are of."""
    if found["compressed"] is not None:
        compressed = f", {show.mb(found['compressed'])} MB of it in branches"
    else:
        compressed = "; of branches with - the baskets lie in the tree's own header" if _is_root(found) else ""
    identifiers = ", ".join(found["identifiers"])
    files, size = len(found["files"]), show.mb(found["bytes"])
    lines = [
        f"{files} file{'s' * (files > 1)}, {found['entries']:,} entries, {size} MB on disk{compressed}",
        f"{found['flat']} flat and {found['jagged']} jagged branches, {len(found['omitted'])} left out",
    ]
    if "read" not in found:
        return lines
    lines[1] += f"; W = {found['attributes']} attributes"
    lines[1] += f" without the identifiers {identifiers}" if identifiers else ""
    read, entries = found["read"]["entries"], found["entries"]
    of = f"a sample, {read:,} of {entries:,} entries; --events {entries} reads all"
    lines.append(f"dim, ranges, NaN, inf, zero and W are those of {f'all {read:,} entries' if read == entries else of}")
    return lines


def _is_root(found: dict[str, Any]) -> bool:
    return bool(found["files"][0]["format"] == "root")


@app.command()
@takes(CONFIG | INPUT | BRANCHES)
def plan(
    context: typer.Context,
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
    config, told = resolved(context), journal(context)
    made = (pipeline.explain(config, told, cores, out) if explain else pipeline.plan(config, told)).to_json()
    if as_json:
        show.as_json(made)
        return
    rows = [
        (file["path"], file["tree"], file["entries"], file["ranges"], f"{file['bytes'] / 1e6:.1f}")
        for file in made["files"]
    ]
    show.table("Plan", ("path", "tree", "entries", "ranges", "MB"), rows)
    files_read = len({file["path"] for file in made["files"]})
    show.line(
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
    rows = [
        (told, show.amount(figure["value"], figure["unit"]), figure["from"])
        for name, told in _ESTIMATED.items()
        if (figure := made["figures"].get(name)) is not None
    ]
    show.table("Estimate", ("what", "how much", "reckoned from"), rows)
    for warned in made["warnings"]:
        show.line(f"warning: {warned['kind']}: {warned['text']}")
    if not made["warnings"]:
        show.line("no warnings: all of it fits")
