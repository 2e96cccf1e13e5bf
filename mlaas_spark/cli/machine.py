"""Verbs about this machine: doctor, throughput."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from mlaas_spark.cli import show
from mlaas_spark.cli.app import app
from mlaas_spark.cli.options import BRANCHES, CONFIG, INPUT, SERVER, AsJson, journal, resolved, serving, takes

if TYPE_CHECKING:
    from mlaas_spark.doctor import Check

_EXIT_FAILED = 2


@app.command()
@takes(CONFIG | SERVER)
def doctor(
    context: typer.Context,
    out: Annotated[
        str | None, typer.Option("--out", help="A folder or URL that you want to write: a small file is tried there.")
    ] = None,
    session: Annotated[bool, typer.Option("--session", help="Start Spark too, which takes some seconds.")] = False,
    as_json: AsJson = False,
) -> None:
    """Look at this machine: Java, Python, packages, clusters, tickets, memory, folders; say how to mend what is wrong.

    Ends with 2 if something must be mended. With --config what that config needs is looked at, its server too.

    Example: mlaas-spark doctor --config conf/cluster.yaml --out hdfs://host/user/me
    """
    from mlaas_spark import pipeline

    found = pipeline.doctor(serving(context), out, journal(context), session=session)
    if as_json:
        show.as_json([asdict(check) for check in found])
    else:
        _show(found)
    if any(check.state == "fail" for check in found):
        raise typer.Exit(_EXIT_FAILED)


def _show(found: list[Check]) -> None:
    """A line for each; below what is wrong how to mend it."""
    wide = max(len(check.name) for check in found)
    for check in found:
        show.line(f"{check.state:4}  {check.name:{wide}}  {check.found}")
        if check.mend:
            show.line(f"      {'':{wide}}  -> {check.mend}")
    states = Counter(check.state for check in found)
    show.line(f"{states['ok']} ok, {states['warn']} to look at, {states['fail']} to mend")


@app.command()
@takes(CONFIG | INPUT | BRANCHES)
def throughput(
    context: typer.Context,
    out: Annotated[
        str | None, typer.Option("--out", help="Where jobs would write; default: runs of the config.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure how fast each stage goes on your own files, beside the most that this machine's disks and memory allow.

    Each verb is run on a sample, which takes a minute and leaves nothing.

    Example: mlaas-spark throughput data/demo/*.root
    """
    from mlaas_spark import pipeline

    found = pipeline.throughput(resolved(context), journal(context), out)
    if as_json:
        show.as_json(found.to_json())
        return
    rows = [
        (rate.stage, f"{rate.khz:,.1f}", f"{rate.limit:,.0f}", rate.limited_by, f"{100 * rate.khz / rate.limit:.1f} %")
        for rate in found.rates
    ]
    show.table("Throughput", ("stage", "kHz", "at most", "limited by", "of it"), rows)
    machine = found.machine
    reads = f"read {machine.read / 1e6:,.0f} MB/s, " if machine.read else ""
    show.line(
        f"this machine: {reads}write {machine.write / 1e6:,.0f} MB/s, copy in memory {machine.copy / 1e9:,.1f} GB/s; "
        f"{found.cores} cores, W = {found.width}"
    )
    show.line(f"slowest: {found.slowest.stage}; {found.slowest.advice}")
