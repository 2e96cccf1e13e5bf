"""Verbs about past runs: runs list, runs show, runs compare."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from mlaas_spark.cli import show
from mlaas_spark.cli.app import app
from mlaas_spark.cli.help import Application
from mlaas_spark.cli.options import CONFIG, AsJson, resolved, takes
from mlaas_spark.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlaas_spark.history import Run

runs = Application(help="Past runs: what there is, how well they did, in what they differ.", rich_markup_mode=None)
app.add_typer(runs, name="runs")

_Home = Annotated[
    str | None, typer.Option("--runs", help="The folder of runs; default: runs of the config, which is runs.")
]
_SHORT = 12  # digits of a digest
_LONG = 40  # characters of a list
_SHORTEST_S = 0.05  # of a part that is shown


@runs.command(name="list")
@takes(CONFIG)
def list_runs(
    context: typer.Context,
    home: Annotated[str | None, typer.Argument(metavar="[FOLDER]", help="The folder of runs, or of one name.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the finished runs, oldest first, with their metrics.

    Example: mlaas-spark runs list runs/demo
    """
    from mlaas_spark import history

    found = history.find(home or resolved(context).runs)
    if as_json:
        broken = [{"folder": folder, "why": why} for folder, why in found.broken]
        told = [{key: value for key, value in run.to_json().items() if key != "curves"} for run in found.runs]
        show.as_json({"runs": told, "broken": broken})
        return
    metrics = list(dict.fromkeys(name for run in found.runs for name in run.metrics))[:4]
    rows = [
        (
            run.name,
            run.started[:16].replace("T", " "),
            run.events.get("train", "-"),
            f"{sum(run.seconds.values()):,.0f}",
            *(show.number(run.metrics.get(name)) for name in metrics),
        )
        for run in found.runs
    ]
    show.table("Runs", ("run", "started", "trained on", "seconds", *metrics), rows)
    for _, why in found.broken:
        show.remark(f"note: left out: {why}")
    show.line(f"{len(found.runs)} runs; in what they differ: runs compare RUN RUN")


@runs.command(name="show")
@takes(CONFIG)
def show_run(
    context: typer.Context,
    run: Annotated[str, typer.Argument(help="A run folder, or a run of the list by its name or the beginning of it.")],
    home: _Home = None,
    as_json: AsJson = False,
) -> None:
    """Show one run: its command, metrics, stages, data and code.

    Example: mlaas-spark runs show demo/20260101T000000Z
    """
    from mlaas_spark import history

    found = history.read(history.of_name(run, home or resolved(context).runs))
    if as_json:
        show.as_json(found.to_json())
        return
    show.pairs([("run folder", found.folder), ("command", found.command or "-"), ("started", found.started)])
    show.line()
    rows = [(name, show.number(value)) for name, value in found.metrics.items()]
    show.table(f"Metrics ({found.split} events)", ("metric", "value"), rows)
    stages = [(name, f"{value:.1f}", _longest(found.parts.get(name, {}))) for name, value in found.seconds.items()]
    show.table("Stages", ("stage", "seconds", "of them"), stages)
    show.table("Events", ("events", "number"), list(found.events.items()))
    show.table("Data", ("what", "digest, or uuid"), [(name, _brief(value)) for name, value in found.data.items()])
    show.table("Code", ("package", "version"), [(name, _brief(value)) for name, value in found.code.items()])
    show.line(f"report: {found.folder}/report.html")


def _longest(parts: Mapping[str, float]) -> str:
    """Parts of a stage, the longest first."""
    ordered = sorted(parts.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {seconds:.1f}" for name, seconds in ordered if seconds >= _SHORTEST_S)


@runs.command(name="compare")
@takes(CONFIG)
def compare_runs(
    context: typer.Context,
    named: Annotated[
        list[str], typer.Argument(metavar="RUN...", help="Run folders, or runs of the list by the beginning of a name.")
    ],
    home: _Home = None,
    out: Annotated[str | None, typer.Option("--out", help="Also write a page: FILE.html, or a URL.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show runs side by side: metrics and times, and in what their config, data and code differ.

    Example: mlaas-spark runs compare demo/20260101T000000Z demo/20260102T000000Z --out compared.html
    """
    from mlaas_spark import history, storage
    from mlaas_spark.report import render_comparison

    if len(named) < 2:
        msg = "name two runs or more, as they stand in runs list"
        raise ConfigError(msg)
    folder = home or resolved(context).runs
    found: list[Run] = [history.read(history.of_name(run, folder)) for run in named]
    compared = history.compare(found)
    if out:
        page = render_comparison([run.to_json() for run in found], compared.to_json())
        storage.write_atomic(storage.absolute(out), page.encode())
        show.remark(f"written: {out}")
    if as_json:
        show.as_json(compared.to_json())
        return
    letters = [chr(ord("A") + place) for place in range(len(found))]
    show.pairs([(letter, f"{run.name}  {run.command}") for letter, run in zip(letters, found, strict=True)])
    show.line()
    _section("Metrics", letters, compared.metrics, "")
    if len({run.split for run in found}) > 1:
        show.line(f"note: these are of other events: {', '.join(run.split for run in found)}")
    _section("Seconds", letters, compared.seconds, "")
    _section("Config", letters, compared.settings, "the config is the same")
    _section("Data", letters, compared.data, "the data are the same, to the digest of all values")
    _section("Code", letters, compared.code, "versions of Python, of packages and of the machine are the same")


def _section(title: str, letters: list[str], rows: dict[str, tuple[Any, ...]], same: str) -> None:
    if not rows:
        show.line(same)
        return
    shown = [(name, *map(_brief, values)) for name, values in rows.items()]
    show.table(title if not same else f"{title}, where it differs", (title.lower(), *letters), shown)
    show.line()


def _brief(value: Any) -> object:
    """A value of a run; of a digest the first digits."""
    if isinstance(value, float):
        return show.number(value)
    if isinstance(value, str) and len(value) == 64 and not set(value) - set("0123456789abcdef"):
        return value[:_SHORT]
    if isinstance(value, (list, dict)) and len(str(value)) > _LONG:
        return f"{str(value)[:_LONG]} ..."
    return "-" if value is None else value
