"""Verbs of jobs that nobody watches: scheduled, which runs any verb, and retrain."""

from __future__ import annotations

import contextlib
import logging
import shlex
import time
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from mlaas_spark.cli import dry, show
from mlaas_spark.cli.app import app, attempt
from mlaas_spark.cli.options import (
    BRANCHES,
    CONFIG,
    DRY,
    INPUT,
    LABEL,
    SELECTION,
    AsJson,
    content,
    journal,
    resolved,
    takes,
)
from mlaas_spark.confidential import hide_arguments


@app.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
def scheduled(
    command: Annotated[list[str], typer.Argument(metavar="VERB ...", help="The verb to run, with all its options.")],
    name: Annotated[str, typer.Option("--name", help="Of the job, in what machines are told.")] = "",
    lock: Annotated[
        str | None, typer.Option("--lock", help="Folder of a lock: no two jobs with the same one run at a time.")
    ] = None,
    metrics_file: Annotated[
        str | None, typer.Option("--metrics-file", help="File for Prometheus' textfile collector: DIR/NAME.prom.")
    ] = None,
    log_json: Annotated[
        str | None, typer.Option("--log-json", help="File to which all that is said is added, as lines of JSON.")
    ] = None,
    notify: Annotated[
        str | None, typer.Option("--notify", help="Program that gets the outcome as JSON on its standard input.")
    ] = None,
) -> None:
    """Run a verb as a scheduled job: under a lock, its outcome told to machines. The exit code is the verb's.

    Example: mlaas-spark scheduled --lock locks/night --metrics-file night.prom convert data/*.root --out data/parquet
    """
    from mlaas_spark import telemetry
    from mlaas_spark.lock import held

    stages = telemetry.Stages()
    handlers = [stages, *([telemetry.json_lines(Path(log_json))] if log_json else [])]
    logger = logging.getLogger("mlaas_spark")
    with held(lock) if lock else contextlib.nullcontext(), _listening(logger, handlers):
        began = time.time()
        code, message = attempt(command)
        if message:
            show.remark(message)
        outcome = telemetry.Outcome(command[0], name, code, began, time.time() - began, message, tuple(stages.done))
        logger.info("%s ended with exit code %d", shlex.join(hide_arguments(command)), code)
        if metrics_file:
            telemetry.write_textfile(Path(metrics_file), outcome)
        if notify and (failed := telemetry.notify(notify, outcome)):
            show.remark(f"warning: {failed}")
    raise typer.Exit(code)


@contextlib.contextmanager
def _listening(logger: logging.Logger, handlers: list[logging.Handler]) -> Any:
    for handler in handlers:
        logger.addHandler(handler)
    try:
        yield
    finally:
        for handler in handlers:
            logger.removeHandler(handler)
            handler.close()


@app.command()
@takes(CONFIG | INPUT | BRANCHES | SELECTION | LABEL | DRY)
def retrain(
    context: typer.Context,
    since: Annotated[
        Literal["last", "ever"],
        typer.Option("--since", help="last: nothing is done without new files; ever: train in any case."),
    ] = "last",
    drift: Annotated[
        Literal["fail", "warn", "off"] | None,
        typer.Option("--drift", help="What becomes of new files that are not as those before; default: fail."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train again if there are new files; the new model comes into service if it is no worse than the one there.

    Exit code 4 if the new files are not as those before (PSI, KS, missing values, longer lists), or another job works.

    Example: mlaas-spark retrain --config conf/demo.yaml --since last --drift fail
    """
    from mlaas_spark import retrain as retraining
    from mlaas_spark import shifts, storage

    config, told = resolved(context, content(context, retrain={"drift": drift})), journal(context)
    if context.params["dry_run"]:
        dry.tell(config, told, [storage.join(config.runs, config.name)], as_json=as_json)
        return
    command = shlex.join(["mlaas-spark", "retrain", *hide_arguments(context.obj or [])])
    done = retraining.retrain(config, told, command, always=since == "ever")
    if as_json:
        show.as_json(done.to_json())
        return
    if done.shifts:
        show.table("Shifts of new files", ("branch", "PSI", "KS", "missing", "why"), shifts.rows(list(done.shifts)))
    rows = [("outcome", done.what), ("new files", f"{done.new:,}")]
    if done.run:
        rows += [("run folder", done.run), (done.metric, f"{done.score:.4f}")]
    if done.before is not None:
        rows.append(("in service before", f"{done.before:.4f}"))
    show.pairs(rows)
