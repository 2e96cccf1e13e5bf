"""Verbs about this machine: doctor."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from mlaas_spark.cli import show
from mlaas_spark.cli.app import app
from mlaas_spark.cli.options import CONFIG, SERVER, AsJson, journal, serving, takes

if TYPE_CHECKING:
    from mlaas_spark.doctor import Check

_EXIT_FAILED = 2


@app.command()
@takes(CONFIG | SERVER)
def doctor(
    context: typer.Context,
    out: Annotated[str | None, typer.Option("--out", help="A folder that you want to write.")] = None,
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
