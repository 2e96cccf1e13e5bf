"""report.html of a run: plain values in, one self-contained page out. Loads nothing from a network, writes no file."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from matplotlib.axes import Axes

    from mlaas_spark.manifest import Manifest
    from mlaas_spark.plan import Plan
    from mlaas_spark.specs import BranchStats, Specs
    from mlaas_spark.transform import FeatureTransform

# Okabe and Ito's palette: told apart by colour-blind readers, on white and on black
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_GREY = "#808890"  # axes and text that read on white and on black
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
        history: A row for each epoch: ``epoch``, ``loss``, metrics, ``val_`` metrics.
        bundle: Path of the bundle's tar.
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
    history: Sequence[Mapping[str, float | int]]
    bundle: str


def render(report: RunReport) -> str:
    """The page; equal reports give equal text. Every name from a file is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

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
        # matplotlib escapes the text it draws; tested with hostile names
        plots=[(title, Markup(svg)) for title, svg in _plots(report)],  # noqa: S704
        notes=_notes(report.metrics),
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
    return [*shown, ("columns", f"{report.transform.width:,}"), ("time", f"{seconds:.0f} s")]


def _notes(metrics: Mapping[str, Any]) -> list[str]:
    notes = metrics.get("notes", [])
    return [f"{key}: {why}" for key, why in notes.items()] if isinstance(notes, dict) else [str(note) for note in notes]


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
    return sum(max(length - dim, 0) * events for length, events in enumerate(stats.lengths))


def _branch_rows(report: RunReport) -> Iterator[dict[str, Any]]:
    for name, dim in report.transform.layout.dims:
        stats = report.specs[name]
        share = f"{100 * stats.zero / stats.count:.1f} %" if stats.count else "-"
        values = (_short(value) for value in (stats.minimum, stats.maximum, stats.mean, stats.std))
        cells = [f"{dim:,}", f"{_cut(stats, dim):,}", *values, f"{stats.nan:,}", f"{stats.inf:,}", share]
        yield {"name": name, "kind": "jagged" if stats.jagged else "flat", "cells": cells}


def _short(value: float | None) -> str:
    return "-" if value is None or value != value else f"{value:.5g}"  # noqa: PLR0124 - NaN is not itself


def _plots(report: RunReport) -> Iterator[tuple[str, str]]:
    """(title, SVG) of the learning curves and, where there are any, the ROC curve and the scores."""
    if report.history:
        yield "Loss of training and validation by epoch", _svg(lambda axes: _draw_history(axes, report.history))
    if roc := report.metrics.get("roc"):
        yield "ROC curve on the test events", _svg(lambda axes: _draw_roc(axes, roc))
    if scores := report.metrics.get("scores"):
        yield "Scores of the test events by label", _svg(lambda axes: _draw_scores(axes, scores))


def _draw_history(axes: Axes, history: Sequence[Mapping[str, float | int]]) -> None:
    steps = range(1, len(history) + 1)
    for colour, key, label in ((_COLOURS[0], "loss", "training"), (_COLOURS[1], "val_loss", "validation")):
        if all(key in row for row in history):
            axes.plot(steps, [row[key] for row in history], color=colour, marker="o", markersize=3, label=label)
    axes.set_xlabel("fit of an epoch")
    axes.set_ylabel("loss")
    axes.legend(frameon=False, labelcolor=_GREY)


def _draw_roc(axes: Axes, roc: Mapping[str, Sequence[float]]) -> None:
    axes.plot(roc["fpr"], roc["tpr"], color=_COLOURS[0])
    axes.plot([0, 1], [0, 1], color=_GREY, linestyle=":", linewidth=1)
    axes.set_xlabel("false positive rate")
    axes.set_ylabel("true positive rate")


def _draw_scores(axes: Axes, scores: Mapping[str, Any]) -> None:
    for colour, (label, counts) in zip(_COLOURS, sorted(scores["counts"].items()), strict=False):
        axes.stairs(counts, scores["edges"], color=colour, label=f"label {label}".replace("$", r"\$"))
    axes.set_xlabel("score")
    axes.set_ylabel("events")
    axes.legend(frameon=False, labelcolor=_GREY)


def _svg(draw: Any) -> str:
    """A drawing as an SVG element, without date or random names, transparent so that it suits both themes."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "mlaas_spark", "font.size": 10}):
        figure = Figure(figsize=(5, 3.4), layout="constrained")
        axes = figure.add_subplot()
        draw(axes)
        axes.tick_params(colors=_GREY, which="both")
        for part in (axes.xaxis.label, axes.yaxis.label):
            part.set_color(_GREY)
        for side, spine in axes.spines.items():
            spine.set_visible(side in {"left", "bottom"})
            spine.set_color(_GREY)
        stream = io.StringIO()
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    text = stream.getvalue()
    return text[text.index("<svg") :]
