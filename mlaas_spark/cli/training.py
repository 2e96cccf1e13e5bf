"""Verbs that make models: train, evaluate, export."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mlaas_spark.cli import dry, show
from mlaas_spark.cli.app import app
from mlaas_spark.cli.options import (
    BRANCHES,
    CONFIG,
    DRY,
    INPUT,
    LABEL,
    SELECTION,
    AsJson,
    content,
    given,
    journal,
    resolved,
    takes,
)
from mlaas_spark.confidential import hide_arguments
from mlaas_spark.errors import ConfigError

if TYPE_CHECKING:
    from mlaas_spark.pipeline import RunResult

_BUNDLES = {"raw": "bundle, takes events", "features": "bundle, takes features"}


@app.command()
@takes(CONFIG | INPUT | BRANCHES | SELECTION | LABEL | DRY)
def train(
    context: typer.Context,
    model: Annotated[str | None, typer.Option("--model", help="Python file with model(idim).")] = None,
    listed: Annotated[str | None, typer.Option("--files", help="MLaaS4HEP: files.txt or a comma list.")] = None,
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
    as_json: AsJson = False,
) -> None:
    """Train a model, the whole way from files to a bundle for TFaaS.

    Example: mlaas-spark train --config conf/demo.yaml

    As in MLaaS4HEP: mlaas-spark train --files files.txt --labels labels.txt --model model.py --params params.json
    --fout out
    """
    from mlaas_spark import mlaas4hep, pipeline, storage

    save_as = None
    if listed is not None:
        if context.params["files"] or context.params["config"]:
            msg = "--files is MLaaS4HEP's way to name the input: leave out --config and FILES, or leave out --files"
            raise ConfigError(msg)
        preproc = context.params["preproc"]
        options = mlaas4hep.Options(listed, labels or "", model, params, preproc, specs_file, dtype, fout)
        translation = mlaas4hep.translate(options)
        for note in translation.notes:
            show.remark(f"note: {note}")
        mapping, save_as = translation.content, translation.save_as
        mapping["input"] |= given(context)
    else:
        if labels or params or dtype:
            msg = "--labels, --params and --dtype go with --files; with a config give groups with labels, or --label"
            raise ConfigError(msg)
        mapping = content(context, train={"model": model}, features={"specs": specs_file})
        if fout:
            where, save_as = mlaas4hep.place(fout)
            mapping = {**mapping, **where}
    config, told = resolved(context, mapping), journal(context)
    if context.params["dry_run"]:
        pipeline.model_file(config)
        runs, chunks = storage.join(config.runs, config.name), config.chunks.folder
        writes = [f"{runs}/<time>-<digest>", chunks or storage.join(runs, "chunks"), *([save_as] if save_as else [])]
        dry.tell(config, told, writes, as_json=as_json)
        return
    command = shlex.join(["mlaas-spark", "train", *hide_arguments(context.obj or [])])
    result = pipeline.train(config, told, command, save_as, resume=resume)
    if as_json:
        show.as_json({**asdict(result), "archives": dict(result.archives)})
        return
    _show(result)


def _show(result: RunResult) -> None:
    """The summary of a run: what happened, where it is, what to do next."""
    rows = [
        ("events", f"{result.entries:,} in, {result.events:,} out, {result.entries - result.events:,} not selected"),
        ("features", f"{result.width} columns, {result.left_out} branches left out"),
        *_results(result.metrics),
        ("run folder", result.folder),
        *((_BUNDLES[inputs], archive) for inputs, archive in result.archives.items()),
    ]
    if result.saved:
        rows.append(("model", str(result.saved)))
    show.pairs(rows)
    show.line("next:")
    program = show.program()
    show.line(f"  {program} serve-check {shlex.quote(result.archive)}")
    show.line(f"  open {shlex.quote(f'{result.folder}/report.html')} in a browser")
    show.line(f"  {program} train --help    # the same on your own files")


def _results(metrics: dict[str, Any]) -> list[tuple[str, str]]:
    """How well the model does, in a few lines."""
    if residuals := metrics.get("residuals"):
        return [
            (name, f"RMSE {show.number(of['rmse'])}, bias {show.number(of['bias'])}, R2 {show.number(of['r2'])}")
            for name, of in residuals.items()
        ]
    auc, interval, accuracy = metrics.get("auc"), metrics.get("auc_interval"), metrics.get("accuracy")
    error = f" ± {interval['std']:.4f}" if interval else ""
    return [
        ("test AUC", f"{auc:.4f}{error}" if auc is not None else "- (see notes in metrics.json)"),
        ("accuracy", f"{accuracy:.4f}" if accuracy is not None else "-"),
    ]


@app.command()
@takes(DRY)
def evaluate(
    context: typer.Context,
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
    from mlaas_spark import pipeline, storage
    from mlaas_spark.evaluation.tables import tables

    if context.params["dry_run"]:
        pipeline.check_run(run)
        dry.told({}, [out or storage.join(run, f"evaluation-{split}")], as_json=as_json)
        return
    found = pipeline.evaluate(run, split, out, journal(context), settings or ())
    if as_json:
        show.as_json(found.metrics)
        return
    for of_metrics in tables(found.metrics):
        show.table(of_metrics.caption, of_metrics.header, of_metrics.rows)
        show.line()
    for note in found.metrics["notes"]:
        show.line(f"note: {note}")
    show.line(f"metrics.json and {found.plots} plots in {found.folder}")


@app.command()
@takes({"settings": CONFIG["settings"]} | DRY)
def export(
    context: typer.Context,
    run: Annotated[str, typer.Argument(help="A run folder.")],
    out: Annotated[str | None, typer.Option("--out", help="Where to write; default: bundle/ of the run.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write the TFaaS bundles of a finished run again, with --set by other settings than the run's.

    Example: mlaas-spark export runs/demo/20260101T000000Z-0123456789ab --out bundles --set export.inputs=raw
    """
    from mlaas_spark import pipeline, storage

    if context.params["dry_run"]:
        pipeline.check_run(run)
        dry.told({}, [out or storage.join(run, "bundle")], as_json=as_json)
        return
    written = pipeline.export(run, out, journal(context), context.params["settings"] or ())
    if as_json:
        show.as_json(written)
        return
    for inputs, archive in written.items():
        show.line(f"{_BUNDLES[inputs]}: {archive}")
