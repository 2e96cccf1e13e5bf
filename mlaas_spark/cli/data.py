"""Verbs that make data sets: demo, convert, specs, chunks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mlaas_spark.cli import show
from mlaas_spark.cli.app import app
from mlaas_spark.cli.options import (
    BRANCHES,
    CONFIG,
    INPUT,
    LABEL,
    SELECTION,
    RetrySkipped,
    content,
    journal,
    resolved,
    takes,
)
from mlaas_spark.errors import ConfigError


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
        show.line(str(path))


@app.command()
@takes(CONFIG | INPUT | BRANCHES | SELECTION)
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
    retry_skipped: RetrySkipped = False,
) -> None:
    """Write events as a Parquet data set with a manifest.

    Example: mlaas-spark convert data/demo/*.root --out data/parquet --selection 'nMuon >= 1'
    """
    from mlaas_spark import pipeline
    from mlaas_spark.schema import HALF

    mapping = content(context)
    options = {"compression": compression, "sort_keys": sort_keys, "target_size": target_size}
    given = {key: value for key, value in options.items() if value}
    mapping = {**mapping, "convert": {**(mapping.get("convert") or {}), **given}} if given else mapping
    manifest = pipeline.convert(resolved(context, mapping), out, journal(), retry_skipped=retry_skipped)
    show.ledger(manifest.ledger)
    show.data_set(out, manifest)
    if manifest.schema.omitted:
        show.left_out(manifest.schema.omitted)
    if halves := [branch.name for branch in manifest.schema.branches if HALF in branch.dtype]:
        show.line(f"{HALF} is float32 in Parquet, with equal values: {', '.join(halves)}")
    show.folders(out, manifest)


@app.command()
@takes(CONFIG | INPUT | BRANCHES | SELECTION)
def specs(
    context: typer.Context,
    out: Annotated[str, typer.Option("--out", help="The specs file to write.")] = "specs.json",
    retry_skipped: RetrySkipped = False,
) -> None:
    """Compute ranges, jagged dimensions and statistics of each branch.

    Example: mlaas-spark specs data/demo/*.root --out specs.json
    """
    from mlaas_spark import pipeline
    from mlaas_spark.transform import FeatureTransform

    config = resolved(context)
    made = pipeline.specs(config, out, journal(), retry_skipped=retry_skipped).specs
    rows: list[tuple[object, ...]] = []
    for name, stats in sorted(made.branches.items()):
        numbers = (show.number(value) for value in (stats.minimum, stats.maximum, stats.mean, stats.std))
        share = f"{100 * stats.zero / stats.count:.1f} %" if stats.count else "-"
        kind = "jagged" if stats.jagged else "flat"
        rows.append((name, kind, stats.dim, *numbers, stats.nan, stats.inf, share))
    columns = ("branch", "type", "dim", "min", "max", "mean", "std", "NaN", "inf", "zero")
    show.table("Specs", columns, rows)
    width = FeatureTransform.of(made, config.features).width
    show.line(
        f"{made.events:,} events, {len(made.flat)} flat and {len(made.jagged)} jagged branches, "
        f"W = {width} columns; written to {out}"
    )


@app.command()
@takes(CONFIG | INPUT | BRANCHES | SELECTION | LABEL)
def chunks(
    context: typer.Context,
    out: Annotated[str, typer.Option("--out", help="Folder of the chunk data set.")],
) -> None:
    """Mix events into chunks: in proportion to the files, shuffled, split into train, validation and test.

    Example: mlaas-spark chunks --config conf/demo.yaml --out data/chunks
    """
    from mlaas_spark import pipeline

    manifest = pipeline.chunks(resolved(context), out, journal())
    counts = manifest.counts().items()
    rows = [(split, value, events) for split, labels in counts for value, events in labels.items()]
    show.table("Events", ("split", "label", "events"), rows)
    show.ledger(manifest.ledger)
    show.line(f"{manifest.chunks} chunks in {out}, digest {manifest.content_digest[:12]}")
