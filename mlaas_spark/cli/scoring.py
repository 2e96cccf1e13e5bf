"""Verbs that use models: predict, and by a server predict-remote."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from mlaas_spark.cli import dry, show
from mlaas_spark.cli.app import app
from mlaas_spark.cli.options import (
    ALIAS,
    CONFIG,
    DRY,
    INPUT,
    SELECTION,
    SERVER,
    TLS,
    AsJson,
    ModelName,
    RetrySkipped,
    content,
    journal,
    resolved,
    serving,
    takes,
)
from mlaas_spark.errors import ConfigError
from mlaas_spark.formats import Format

if TYPE_CHECKING:
    from mlaas_spark.manifest import Manifest

_WITH_EVENTS = [suffix for kind in Format if kind.module for suffix in kind.suffixes]
_MARKS = Annotated[
    str | None, typer.Option("--selection", help="Score events that pass; the others are marked and have no score.")
]


@app.command()
@takes(CONFIG | INPUT | SELECTION | {"selection": _MARKS} | DRY)
def predict(
    context: typer.Context,
    out: Annotated[str, typer.Option("--out", help="Folder of the data set of scores.")],
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
    as_json: AsJson = False,
    retry_skipped: RetrySkipped = False,
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
    asked = {"keep": keep, "beside": beside, "format": out_format}
    mapping = content(context, features={"specs": specs_file}, predict=asked)
    config, told = resolved(context, mapping), journal(context)
    if context.params["dry_run"]:
        dry.tell(config, told, [out], as_json=as_json)
        return
    manifest = pipeline.predict(config, named[0], out, told, retry_skipped=retry_skipped)
    if as_json:
        show.manifest_json(out, manifest)
        return
    if manifest.drift:
        rows = [(name, *drift) for name, drift in manifest.drift.items()]
        show.table("Not as in training", ("branch", "below range", "above range", "NaN, inf", "cut"), rows)
    ledger = manifest.ledger
    show.line(
        f"{ledger['entries']:,} entries in = {ledger['rows']:,} rows out: {ledger['events']:,} events scored + "
        f"{ledger['selection']:,} not selected" + show.skipped(ledger)
    )
    show.data_set(out, manifest)
    if any(file.path.endswith(".root") for file in manifest.files):
        _show_friends(out, manifest)
        return
    show.folders(out, manifest)


def _show_friends(out: str, manifest: Manifest) -> None:
    """Which file is a friend of which input; of many the first."""
    rows = []
    for file in sorted(manifest.files, key=lambda file: file.ranges)[: show.LISTED]:
        source = manifest.inputs[file.ranges[0][0]]
        rows.append((f"{source.path}:{source.tree}" if source.tree else source.path, f"{out}/{file.path}"))
    if len(manifest.files) > show.LISTED:
        rows.append(("...", f"all in {out}/manifest.json"))
    show.table("Friend trees", ("input", "friend"), rows)
    show.line("to read one beside its input: docs/prediction.md")


@app.command(name="predict-remote")
@takes(CONFIG | SERVER | ALIAS | TLS)
def predict_remote(
    context: typer.Context,
    file: Annotated[
        str,
        typer.Argument(
            help=f"Events: .jsonl, .csv, .npz (what the model takes), {', '.join(_WITH_EVENTS)}, .root:Tree.",
            metavar="FILE",
        ),
    ],
    model: ModelName = None,
    first: Annotated[int | None, typer.Option("--events", help="Only the first so many.", min=1)] = None,
    tree_of: Annotated[str | None, typer.Option("--tree", help="Tree of a ROOT file that has several.")] = None,
    proto: Annotated[bool, typer.Option("--proto", help="Send protobuf in place of JSON.")] = False,
    image: Annotated[bool, typer.Option("--image", help="FILE is a PNG or JPEG image, for an image model.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --image: as JSON, as scores of events are anyway.")] = (
        False
    ),
) -> None:
    """Ask a TFaaS server for scores: a line of JSON for each event, on standard output, in their order.

    Example: mlaas-spark predict-remote data/demo/signal_0.root --events 3 --alias demo
    """
    from mlaas_spark import pipeline
    from mlaas_spark.serving.inputs import lines

    alias = context.params["alias"]
    if model and alias:
        msg = "name one model: --model NAME, or --alias FILE"
        raise ConfigError(msg)
    asking = pipeline.Asking(model, alias, first, tree_of, "proto" if proto else "json")
    if image:
        scores = pipeline.predict_image(serving(context), file, asking)
        if as_json:
            show.as_json([{"label": label, "score": score} for label, score in scores])
            return
        for label, score in scores:
            show.line(f"{score:.6f} {label}")
        return
    show.as_lines(lines(pipeline.predict_remote(serving(context), file, asking)))
