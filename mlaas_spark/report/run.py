"""report.html of a run: what was asked, what was read, what came of it, how to do it again and how to serve it."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import yaml

from mlaas_spark.bottleneck import longest
from mlaas_spark.config import Config
from mlaas_spark.evaluation.tables import class_text, tables
from mlaas_spark.mixing import SPLITS
from mlaas_spark.report import matrix, mixing, page, timings
from mlaas_spark.report.histograms import of_lengths
from mlaas_spark.skipping import FILE as SKIPPED
from mlaas_spark.skipping import summary

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from mlaas_spark.branch_specs import Specs
    from mlaas_spark.manifest import Manifest
    from mlaas_spark.plan import Plan
    from mlaas_spark.plots import Plot
    from mlaas_spark.report.histograms import Histogram
    from mlaas_spark.report.matrix import Filling
    from mlaas_spark.transform import FeatureTransform

_MOST_OMITTED = 200  # names of a reason, and reasons
_MOST_FILES = 500
_MOST_CHUNKS = 100
_MOST_FITS = 500
_MOST_SKIPPED = 200
_MOST_CLASSES = 8  # that can be told apart by colour


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
        folder: Of the run.
        plots: Of the metrics.
        histograms: Of branches, by name; the classes in them are labels, or "" where there are none.
        sampled: Events that the histograms are of.
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
    folder: str
    plots: Sequence[Plot] = ()
    histograms: Mapping[str, Histogram] = field(default_factory=dict)
    sampled: int = 0


def render(report: RunReport) -> str:
    """The page; equal reports give equal text. Every name from a file is escaped."""
    manifest, metrics = report.manifest, report.metrics
    events = manifest.events()
    events = {split: events[split] for split in SPLITS if split in events}
    counts = manifest.counts()
    filled = matrix.filling(report.specs, report.transform)
    layout = report.transform.layout
    chunks = mixing.chunks(manifest)
    stages = timings.timings(report.run)
    seconds: dict[str, float] = {}
    for stage in stages:
        seconds[stage.name] = seconds.get(stage.name, 0.0) + stage.seconds
    labels = sorted({label for of_split in counts.values() for label in of_split})
    return page.fill(
        "report.html.j2",
        {
            "name": report.name,
            "run": report.run,
            "numbers": _numbers(report),
            "folder": report.folder,
            "asked": _asked(report.config_yaml),
            "train": _train(report.config_yaml),
            "config": report.config_yaml,
            "command": report.command,
            "ledger": manifest.ledger,
            "inputs": sorted(manifest.inputs, key=lambda item: (item.path, item.tree))[:_MOST_FILES],
            "more_inputs": max(0, len(manifest.inputs) - _MOST_FILES),
            "events_of": events,
            "splits": {split: counts[split] for split in events if split in counts},
            "labels": labels,
            "called": {label: class_text(label, metrics) for label in labels},
            "omitted": _omitted(report.plan),
            "skipped": manifest.skipped[:_MOST_SKIPPED],
            "more_skipped": max(0, len(manifest.skipped) - _MOST_SKIPPED),
            "skipped_summary": summary(manifest.skipped),
            "skipped_file": SKIPPED,
            "flattened": [name for name, by in zip(layout.branches, report.transform.scale, strict=True) if not by],
            "branches": list(_branches(report, filled)),
            "width": report.transform.width,
            "has_statistics": filled is not None,
            "sampled": report.sampled if report.histograms else 0,
            "classes": [label for label in _classes(report) if label],
            "filled": filled and matrix.together(filled),
            "caps": matrix.caps(report.specs, report.transform),
            "chunks": chunks[:_MOST_CHUNKS],
            "more_chunks": max(0, len(chunks) - _MOST_CHUNKS),
            "all_chunks": len(chunks),
            "spreads": mixing.spreads(chunks),
            "plots": [(plot, page.data_address(plot.svg)) for plot in report.plots if plot.name != _CURVES],
            "curves": [(plot, page.data_address(plot.svg)) for plot in report.plots if plot.name == _CURVES],
            "fits": _fits(metrics),
            "best": (metrics.get("learning_curves") or {}).get("best"),
            "tables": tables(metrics),
            "notes": [str(note) for note in metrics.get("notes", [])],
            "stages": stages,
            "elapsed": timings.elapsed(report.run),
            "bottleneck": longest(seconds, {s["name"]: s.get("parts", {}) for s in report.run["stages"]}),
            "parts": timings.parts(report.run),
            "digests": sorted(report.run["digests"].items()),
            "versions": sorted(report.run["versions"].items()),
            "again": f"mlaas-spark train --config {shlex.quote(report.folder + '/config.yaml')}",
            "serving": _serving(report),
        },
    )


_CURVES = "learning_curves"  # as plots.draw calls them


def _numbers(report: RunReport) -> list[tuple[str, str]]:
    ledger, metrics = report.manifest.ledger, report.metrics
    shown = []
    for key, label in (("auc", "AUC"), ("accuracy", "accuracy"), ("loss", "loss")):
        if isinstance(metrics.get(key), float):
            shown.append((f"{metrics.get('split', 'test')} {label}", f"{metrics[key]:.4f}"))
    for name, of in (metrics.get("residuals") or {}).items():
        shown.append((f"RMSE of {name}", page.short(of["rmse"])))
    return [
        *shown,
        ("events in", page.count(ledger["entries"])),
        ("events used", page.count(ledger["events"])),
        ("columns", page.count(report.transform.width)),
        ("time", page.seconds(timings.elapsed(report.run))),
    ]


def _asked(config_yaml: str) -> list[tuple[str, str, str]]:
    """Settings that are not as they are unless asked for: key, value, default."""
    asked, usual = (
        dict(_leaves(tree)) for tree in (yaml.safe_load(config_yaml) or {}, Config().model_dump(mode="json"))
    )
    return [(key, _said(value), _said(usual.get(key))) for key, value in asked.items() if value != usual.get(key)]


def _train(config_yaml: str) -> dict[str, Any]:
    """How it was trained."""
    return {**Config().train.model_dump(), **((yaml.safe_load(config_yaml) or {}).get("train") or {})}


def _leaves(tree: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Each value by its dotted key, as ``--set`` takes it."""
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def _said(value: Any) -> str:
    """As the config has it, in a line."""
    if value in (None, "", [], {}):
        return "-"
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6, allow_unicode=True, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...")


def _omitted(plan: Plan) -> list[tuple[str, int, str]]:
    """Branches that are no features: why, how many, and their names."""
    of_reason: dict[str, list[str]] = {}
    for item in plan.schema.omitted:
        of_reason.setdefault(item.reason, []).append(item.name)
    return [
        (
            reason,
            len(names),
            ", ".join(names[:_MOST_OMITTED]) + (", ... (see skipped.json)" if len(names) > _MOST_OMITTED else ""),
        )
        for reason, names in list(of_reason.items())[:_MOST_OMITTED]
    ]


def _classes(report: RunReport) -> list[str]:
    """Classes of the histograms, those that can be told apart by colour."""
    found = sorted({label for histogram in report.histograms.values() for label in histogram.counts})
    return found[:_MOST_CLASSES]


@dataclass(frozen=True, slots=True)
class _Row:
    """A branch in the table."""

    name: str
    jagged: bool
    dim: int
    longest: int
    filling: Filling | None
    numbers: Mapping[str, Any]
    values: Mapping[str, Any] | None
    lengths: Mapping[str, Any] | None


def _branches(report: RunReport, filled: Mapping[str, Filling] | None) -> Iterator[_Row]:
    classes = _classes(report)
    for name, dim in report.transform.layout.dims:
        stats = report.specs[name]
        numbers: dict[str, Any] = {"min": stats.minimum, "max": stats.maximum}
        if stats.count:
            numbers |= {"mean": stats.mean, "std": stats.std, "zero": stats.zero / stats.count}
        values, lengths = report.histograms.get(name), of_lengths(stats.lengths)
        yield _Row(
            name,
            stats.jagged,
            dim,
            stats.dim,
            filled[name] if filled else None,
            numbers,
            _drawn(values, classes, f"values of {name}") if values else None,
            _drawn(lengths, [""], f"events by the number of values in {name}") if lengths else None,
        )


_HEIGHT = 30  # of a small histogram, in its own units; a bin is 4 wide


def _drawn(histogram: Histogram, classes: Sequence[str], what: str) -> dict[str, Any]:
    """A small histogram: each class an outline, as high as its share of the events of this class."""
    shares = {}
    for index, label in enumerate(classes):
        counts = histogram.counts.get(label)
        if counts and (total := sum(counts)):
            shares[index] = [n / total for n in counts]
    highest = max((max(bins) for bins in shares.values()), default=0.0) or 1.0
    outlines = []
    for index, bins in shares.items():
        steps = " ".join(f"V{_HEIGHT + 1 - round(_HEIGHT * share / highest)}h4" for share in bins)
        outlines.append((index, f"M0 {_HEIGHT + 1}{steps}V{_HEIGHT + 1}"))
    low, high = (_end(end, histogram) for end in histogram.ends)
    more = f", {histogram.outside:,} beyond" if histogram.outside else ""
    return {
        "width": 4 * histogram.bins,
        "height": _HEIGHT + 2,
        "outlines": outlines,
        "low": low,
        "high": high,
        "text": f"{what}, from {low} to {high}{more}",
    }


def _end(value: float, histogram: Histogram) -> str:
    """Where a histogram begins or ends, no more precise than its bins."""
    return "0" if abs(value) < 1e-3 * (histogram.high - histogram.low) else f"{value:.3g}"


def _fits(metrics: Mapping[str, Any]) -> dict[str, Any] | None:
    """The training's history as a table; None without."""
    curves = metrics.get("learning_curves")
    if not curves:
        return None
    names = list(curves["series"])
    rows = [[fit, *of] for fit, *of in zip(curves["fits"], *(curves["series"][name] for name in names), strict=True)]
    return {"names": names, "rows": rows[-_MOST_FITS:], "before": max(0, len(rows) - _MOST_FITS)}


def _serving(report: RunReport) -> list[tuple[str, str]]:
    """What to do with the bundle, and the command for it."""
    bundle, alias = shlex.quote(report.bundle), shlex.quote(report.name)
    asked = f'{{"keys": [...], "values": [...], "model": {json.dumps(report.run["bundle"])}}}'
    run, model = shlex.quote(report.folder), shlex.quote(str(report.run["bundle"]))
    return [
        (
            "Check that it scores as the model does, as the server loads it; needs no server",
            f"mlaas-spark serve-check {bundle}",
        ),
        (
            "Send it to a TFaaS server, prove it there, and let clients of the alias use it",
            f'mlaas-spark upload {bundle} --url "$TFAAS_URL" --promote --alias {alias}',
        ),
        (
            "Ask the server for the scores of events in files",
            f'mlaas-spark predict-remote FILE.root --model {model} --url "$TFAAS_URL"',
        ),
        (
            "Or with any client of HTTP; MODEL_CARD.md in the bundle has the keys and an example",
            f"""curl -H 'Content-Type: application/json' -d '{asked}' "$TFAAS_URL/json\"""",
        ),
        ("Go back to the model before", f"mlaas-spark rollback --alias {alias}"),
        ("Score many files without a server, on Spark", f"mlaas-spark predict FILE.root --run {run} --out scores"),
    ]
