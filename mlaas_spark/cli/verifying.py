"""verify: data sets and runs against what was recorded of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from mlaas_spark.cli import show
from mlaas_spark.cli.app import app
from mlaas_spark.cli.options import AsJson  # noqa: TC001 - typer looks at it
from mlaas_spark.cli.runs import runs

if TYPE_CHECKING:
    from mlaas_spark.verify import Verified

_EXIT_MISMATCH = 4

Deep = Annotated[
    bool, typer.Option("--deep", help="Read all of it: every byte, every value; of a run load the model too.")
]


@app.command()
def verify(
    folder: Annotated[str, typer.Argument(help="A data set, converted, of scores or chunks, or a run folder.")],
    deep: Deep = False,
    as_json: AsJson = False,
) -> None:
    """Compare a data set or a run with what was recorded when it was written; exit code 4 if something differs.

    Names files that are missing, too many, cut or changed, and a ledger that does not add up. Reads only.

    Example: mlaas-spark verify data/parquet --deep
    """
    from mlaas_spark import pipeline

    _show(pipeline.verify(folder, deep=deep), as_json=as_json)


@runs.command(name="verify")
def verify_run(
    run: Annotated[str, typer.Argument(help="A run folder.")],
    deep: Deep = False,
    as_json: AsJson = False,
) -> None:
    """Compare a run with its record: all its files, its bundles, its chunks; as mlaas-spark verify.

    Example: mlaas-spark runs verify runs/demo/20260101T000000Z-0123456789ab --deep
    """
    verify(run, deep=deep, as_json=as_json)


def _show(found: Verified, *, as_json: bool) -> None:
    if as_json:
        show.as_json(found.to_json())
    else:
        for finding in found.findings:
            show.line(f"{finding.kind}: {finding}")
        for note in found.notes:
            show.line(f"note: {note}")
        how = "every byte and value read" if found.deep else "--deep reads all values"
        if found.what == "run" and not found.deep:
            how = "every file of it read; --deep reads its chunks and model too"
        size = f"{found.files} files, {found.bytes / 1e6:.1f} MB, {how}"
        if found.ledger:
            show.ledger(dict(found.ledger))
        wrong = len(found.findings)
        told = f"{wrong} thing{'s' * (wrong > 1)} not as recorded" if wrong else "all is as recorded"
        show.line(f"{found.folder} ({found.what}): {told}; {size}")
    if found.findings:
        raise typer.Exit(_EXIT_MISMATCH)
