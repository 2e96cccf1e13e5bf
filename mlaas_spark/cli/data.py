"""Verbs that make data sets: demo, convert, specs, chunks; and clean, for what these have left unfinished."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
    RetrySkipped,
    content,
    journal,
    resolved,
    takes,
)
from mlaas_spark.errors import ConfigError
from mlaas_spark.storage import absolute

if TYPE_CHECKING:
    from mlaas_spark.advice import Advice


@app.command()
@takes(DRY)
def demo(
    context: typer.Context,
    folder: Annotated[Path, typer.Option("--out", help="Folder of the sample.")] = Path("data/demo"),
    events: Annotated[int, typer.Option("--events", help="Events in all files.", min=8)] = 80_000,
    files: Annotated[int, typer.Option("--files", help="Number of files, half signal, half background.", min=2)] = 4,
    seed: Annotated[int, typer.Option("--seed", help="Equal seeds give equal events.", min=0)] = 1,
    as_json: AsJson = False,
) -> None:
    """Write the demo's sample: physics-like ROOT files, signal and background; with a config and a model to train.

    Example: mlaas-spark demo --out data/demo && mlaas-spark train --config data/demo/train.yaml
    """
    from mlaas_spark.demo import generate, write_config

    if files % 2:
        msg = f"--files must be even, half signal and half background, not {files}"
        raise ConfigError(msg)
    if context.params["dry_run"]:
        dry.told({}, [str(folder)], as_json=as_json)
        return
    written = [str(path) for path in [*generate(folder, events, files, seed), write_config(folder)]]
    if as_json:
        show.as_json({"files": written})
        return
    for path in written:
        show.line(path)


@app.command()
@takes(CONFIG | INPUT | BRANCHES | SELECTION | DRY)
def convert(
    context: typer.Context,
    out: Annotated[str, typer.Option("--out", help="Folder of the Parquet data set.")],
    compression: Annotated[
        str | None, typer.Option("--compression", help="lz4 (reads fastest), zstd, snappy, gzip or none.")
    ] = None,
    sort_keys: Annotated[
        str | None, typer.Option("--sort-keys", help="Flat branches to sort each file by: run,luminosityBlock,event.")
    ] = None,
    target_size: Annotated[
        str | None, typer.Option("--target-size", help="Bytes of a Parquet file, about: 128MB; of ROOT and Parquet.")
    ] = None,
    as_json: AsJson = False,
    retry_skipped: RetrySkipped = False,
) -> None:
    """Write events as a Parquet data set with a manifest.

    Example: mlaas-spark convert data/demo/*.root --out data/parquet --selection 'nMuon >= 1'
    """
    from mlaas_spark import pipeline
    from mlaas_spark.schema import HALF

    options = {"compression": compression, "sort_keys": sort_keys, "target_size": target_size}
    config, told = resolved(context, content(context, convert=options)), journal(context)
    if context.params["dry_run"]:
        dry.tell(config, told, [out], as_json=as_json)
        return
    manifest = pipeline.convert(config, out, told, retry_skipped=retry_skipped)
    if as_json:
        show.manifest_json(out, manifest)
        return
    show.ledger(manifest.ledger)
    show.data_set(out, manifest)
    if manifest.schema.omitted:
        show.left_out(manifest.schema.omitted)
    if halves := [branch.name for branch in manifest.schema.branches if HALF in branch.dtype]:
        show.line(f"{HALF} is float32 in Parquet, with equal values: {', '.join(halves)}")
    show.folders(out, manifest)


@app.command()
@takes(CONFIG | INPUT | BRANCHES | SELECTION | DRY)
def specs(
    context: typer.Context,
    out: Annotated[str, typer.Option("--out", help="The specs file to write.")] = "specs.json",
    advise: Annotated[
        bool, typer.Option("--advise", help="Say which branches to cap, leave out or take the logarithm of, as YAML.")
    ] = False,
    share: Annotated[
        float, typer.Option("--share", help="With --advise: events that a cap leaves uncut: 0.95, 0.99 or 0.999.")
    ] = 0.99,
    as_json: AsJson = False,
    retry_skipped: RetrySkipped = False,
) -> None:
    """Compute ranges, jagged dimensions and statistics of each branch.

    With --advise what they say of the features: which to cap and what that cuts, which to leave out.

    Example: mlaas-spark specs data/demo/*.root --out specs.json --advise
    """
    from mlaas_spark import pipeline
    from mlaas_spark.advice import SHARES
    from mlaas_spark.advice import advise as advised
    from mlaas_spark.transform import FeatureTransform

    if share not in SHARES:
        msg = f"--share is {', '.join(map(str, SHARES))}, not {share:g}"
        raise ConfigError(msg)
    config, told = resolved(context), journal(context)
    if context.params["dry_run"]:
        dry.tell(config, told, [out], as_json=as_json)
        return
    made = pipeline.specs(config, out, told, retry_skipped=retry_skipped).specs
    width = FeatureTransform.of(made, config.features).width
    if as_json:
        branches = {name: stats.to_json() for name, stats in sorted(made.branches.items())}
        advice = {"advice": advised(made, share).to_json()} if advise else {}
        show.as_json({"out": out, "events": made.events, "width": width, "branches": branches, **advice})
        return
    if advise:
        _show_advice(advised(made, share))
        return
    rows: list[tuple[object, ...]] = []
    for name, stats in sorted(made.branches.items()):
        numbers = (show.number(value) for value in (stats.minimum, stats.maximum, stats.mean, stats.std))
        zero = f"{100 * stats.zero / stats.count:.1f} %" if stats.count else "-"
        kind = "jagged" if stats.jagged else "flat"
        rows.append((name, kind, stats.dim, *numbers, stats.nan, stats.inf, zero))
    columns = ("branch", "type", "dim", "min", "max", "mean", "std", "NaN", "inf", "zero")
    show.table("Specs", columns, rows)
    show.line(
        f"{made.events:,} events, {len(made.flat)} flat and {len(made.jagged)} jagged branches, "
        f"W = {width} columns; written to {out}"
    )


def _show_advice(advice: Advice) -> None:
    """Tables of what was found, and the YAML to paste."""
    from mlaas_spark.advice import SHARES

    percent = [f"{100 * share:g} %" for share in SHARES]
    rows = [
        (of.branch, of.dim, *(f"{cap} ({_percent(cut)})" for cap, cut in zip(of.caps, of.cut, strict=True)))
        for of in sorted(advice.caps, key=lambda of: of.caps[0] - of.dim)
    ]
    if rows:
        show.table("Caps by the share of events left whole (values cut)", ("branch", "dim", *percent), rows)
        show.line(f"W = {advice.width} without caps, {', '.join(map(str, advice.widths))} with")
        show.line()
    found = [
        *((name, "one value in all events") for name in advice.constant),
        *((name, "no finite value") for name in advice.empty),
        *((name, f"{_percent(missing)} of it NaN or infinite") for name, missing in advice.missing.items()),
        *((name, f"largest value {of:.0f} standard deviations from the mean") for name, of in advice.tails.items()),
        *((name, f"equals {other}: all statistics are the same") for name, other in advice.equal.items()),
        *((name, f"may be a linear function of {other}: look at both") for name, other in advice.linear.items()),
    ]
    if found:
        show.table("Branches", ("branch", "what was found"), found)
        show.line()
    if not (text := advice.to_yaml()):
        show.line("nothing is to be changed")
        return
    show.line("# to paste into the config; duplicates are told by their statistics, without reading events again")
    for line in text.splitlines():
        show.line(line)


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share else "0"


@app.command()
@takes(CONFIG | INPUT | BRANCHES | SELECTION | LABEL | DRY)
def chunks(
    context: typer.Context,
    out: Annotated[str, typer.Option("--out", help="Folder of the chunk data set.")],
    as_json: AsJson = False,
) -> None:
    """Mix events into chunks: in proportion to the files, shuffled, split into train, validation and test.

    Example: mlaas-spark chunks --config conf/demo.yaml --out data/chunks
    """
    from mlaas_spark import pipeline

    config, told = resolved(context), journal(context)
    if context.params["dry_run"]:
        dry.tell(config, told, [out], as_json=as_json)
        return
    manifest = pipeline.chunks(config, out, told)
    if as_json:
        show.manifest_json(out, manifest)
        return
    counts = manifest.counts().items()
    rows = [(split, value, events) for split, labels in counts for value, events in labels.items()]
    show.table("Events", ("split", "label", "events"), rows)
    show.ledger(manifest.ledger)
    show.line(f"{manifest.chunks} chunks in {out}, digest {manifest.content_digest[:12]}")


@app.command()
def clean(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="A data set, a folder of data sets, or one of runs.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be removed; change nothing.")] = False,
    after: Annotated[
        float,
        typer.Option(
            "--after", min=0, help="Minutes of silence after which a writer on another machine counts as dead."
        ),
    ] = 60.0,
    as_json: AsJson = False,
) -> None:
    """Remove what writers that died have left; what a live writer holds stays.

    Example: mlaas-spark clean data/converted --dry-run
    """
    from mlaas_spark import leftovers

    place = absolute(folder)
    if not dry_run:
        leftovers.complete(place)
    found = leftovers.find(place, after * 60)
    gone = [item for item in found if not item.stays] if dry_run else leftovers.sweep(found)
    kept = [item for item in found if item.stays]
    if as_json:
        listed = {name: [item.to_json() for item in items] for name, items in (("removed", gone), ("kept", kept))}
        show.as_json({"folder": place, "dry_run": dry_run, **listed})
        return
    for item in gone:
        show.line(f"{'would remove' if dry_run else 'removed'} {item}")
    for item in kept:
        show.line(f"kept {item}")
    if not found:
        show.line(f"nothing is left over in {place}")
