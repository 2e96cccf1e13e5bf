"""report.html of a run: plain values in, one self-contained page out. Loads nothing from a network, writes no file."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlaas_spark.evaluation.tables import tables

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from mlaas_spark.manifest import Manifest
    from mlaas_spark.plan import Plan
    from mlaas_spark.plots import Plot
    from mlaas_spark.specs import BranchStats, Specs
    from mlaas_spark.transform import FeatureTransform

_MOST_OMITTED = 200


@dataclass(frozen=True, slots=True)
class RunReport:
    """What the page tells of.

    Attributes:
        name: Name of the run.
        config_yaml: The resolved config.
        command: What the user typed.
        run: Content of run.json.
        manifest: Of the chunks.
        specs: Of the features.
        transform: Specs as they were applied.
        plan: What was read.
        metrics: Content of metrics.json; keys that a model cannot have may be missing.
        bundle: Path of the bundle's tar.
        plots: Of the metrics.
    """

    name: str
    config_yaml: str
    command: str
    run: Mapping[str, Any]
    manifest: Manifest
    specs: Specs
    transform: FeatureTransform
    plan: Plan
    metrics: Mapping[str, Any]
    bundle: str
    plots: Sequence[Plot] = ()


def render(report: RunReport) -> str:
    """The page; equal reports give equal text. Every name from a file is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("mlaas_spark"), autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True
    )
    counts = report.manifest.counts()
    total = sum(stage["seconds"] for stage in report.run["stages"]) or 1.0
    omitted = [{"name": item.name, "reason": item.reason} for item in report.plan.schema.omitted]
    if len(omitted) > _MOST_OMITTED:
        more = len(omitted) - _MOST_OMITTED
        omitted = [*omitted[:_MOST_OMITTED], {"name": f"and {more} more", "reason": "see skipped.json"}]
    return environment.get_template("report.html.j2").render(
        name=report.name,
        run=report.run,
        numbers=_numbers(report),
        ledger=report.manifest.ledger,
        inputs=report.manifest.inputs,
        splits=counts,
        labels=sorted({label for of_split in counts.values() for label in of_split}),
        omitted=omitted,
        plots=[(plot, base64.b64encode(plot.png).decode()) for plot in report.plots],
        tables=tables(report.metrics),
        notes=[str(note) for note in report.metrics.get("notes", [])],
        width=report.transform.width,
        filled=_filled(report),
        branches=list(_branch_rows(report)),
        stages=[{**stage, "share": stage["seconds"] / total} for stage in report.run["stages"]],
        command=report.command,
        config=report.config_yaml,
        facts=[*sorted(report.run["digests"].items()), *sorted(report.run["versions"].items())],
        bundle=report.bundle,
        served=report.run["bundle"],
    )


def _numbers(report: RunReport) -> list[tuple[str, str]]:
    ledger, metrics = report.manifest.ledger, report.metrics
    seconds = sum(stage["seconds"] for stage in report.run["stages"])
    shown = [("events in", f"{ledger['entries']:,}"), ("events out", f"{ledger['events']:,}")]
    for key, label in (("auc", "test AUC"), ("accuracy", "accuracy"), ("loss", "loss")):
        if isinstance(metrics.get(key), float):
            shown.append((label, f"{metrics[key]:.4f}"))
    for name, of in (metrics.get("residuals") or {}).items():
        shown.append((f"RMSE of {name}", _short(of["rmse"])))
    return [*shown, ("columns", f"{report.transform.width:,}"), ("time", f"{seconds:.0f} s")]


def _filled(report: RunReport) -> float:
    """Share of the matrix that is neither padding nor missing."""
    cells = report.specs.events * report.transform.width
    values = 0
    for name, dim in report.transform.layout.dims:
        stats = report.specs[name]
        values += stats.finite - _cut(stats, dim)
    return min(1.0, max(0.0, values / cells)) if cells else 0.0


def _cut(stats: BranchStats, dim: int) -> int:
    """Values beyond the columns of a branch."""
    return stats.cut(dim)


def _branch_rows(report: RunReport) -> Iterator[dict[str, Any]]:
    for name, dim in report.transform.layout.dims:
        stats = report.specs[name]
        share = f"{100 * stats.zero / stats.count:.1f} %" if stats.count else "-"
        values = (_short(value) for value in (stats.minimum, stats.maximum, stats.mean, stats.std))
        cells = [f"{dim:,}", f"{_cut(stats, dim):,}", *values, f"{stats.nan:,}", f"{stats.inf:,}", share]
        yield {"name": name, "kind": "jagged" if stats.jagged else "flat", "cells": cells}


def _short(value: float | None) -> str:
    return "-" if value is None or value != value else f"{value:.5g}"  # noqa: PLR0124 - NaN is not itself
