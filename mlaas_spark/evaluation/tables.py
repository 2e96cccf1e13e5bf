"""Metrics as tables of text, for the report and the terminal."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_MOST_BRANCHES = 20
_MOST_CLASSES = 20
_MOST_PLACES = 6


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text; the first cell of each names it."""

    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def number(value: float | None, form: str = ".4f") -> str:
    """A number as a table shows it; - for None."""
    return "-" if value is None else format(value, form)


def class_text(label: str, metrics: Mapping[str, Any]) -> str:
    """A label with the name of its class, where it has one: ``1 (signal)``."""
    name = (metrics.get("class_names") or {}).get(label)
    return f"{label} ({name})" if name and name != label else label


def tables(metrics: Mapping[str, Any]) -> list[Table]:
    """What metrics.json says, in tables; those that a model has nothing for are not there."""
    makers = (_summary, _classes, _overtraining, _confusion, _cuts, _working_points, _residuals, _importance)
    return [table for maker in makers for table in maker(metrics) if table.rows]


def _summary(metrics: Mapping[str, Any]) -> Iterator[Table]:
    calibration = metrics.get("calibration") or {}
    interval = metrics.get("auc_interval")
    mean = " (mean of the classes)" if metrics.get("task") == "multiclass" else ""
    rows = [
        (f"AUC{mean}", metrics.get("auc"), _of_interval(interval)),
        ("AUC, mean weighted by class", metrics.get("auc_weighted") if mean else None, ""),
        ("accuracy", metrics.get("accuracy"), _plus_minus(metrics.get("accuracy_error"))),
        ("loss", metrics.get("loss"), ""),
        ("Brier score", calibration.get("brier"), ""),
        ("expected calibration error", calibration.get("ece"), ""),
    ]
    shown = [(name, number(value), error) for name, value, error in rows if value is not None]
    if weights := metrics.get("weights"):
        shown.append(("events", f"{weights['events']:,}", f"{weights['effective']:,.0f} effective"))
        shown.append(("sum of weights", f"{weights['sum']:,.6g}", _plus_minus(weights["error"], ".3g")))
        if weights["negative"]:
            share = f"{100 * weights['negative_share']:.2g} % of the absolute total"
            shown.append(("events of negative weight", f"{weights['negative']:,}", share))
    yield Table(f"Metrics on the {metrics.get('split', 'test')} events", ("metric", "value", "uncertainty"), (*shown,))


def _of_interval(interval: Mapping[str, Any] | None) -> str:
    if not interval:
        return ""
    low, high = interval["interval_68"]
    return f"{low:.4f} to {high:.4f} (68 %, {interval['replicas']} bootstrap replicas)"


def _plus_minus(error: float | None, form: str = ".4f") -> str:
    return "" if error is None else f"± {error:{form}}"


def with_error(value: float | None, error: float | None, digits: int = 2) -> str:
    """A value and its uncertainty, this in so many digits and the value no finer: ``0.107 ± 0.008``, ``6,694 ± 82``."""
    if value is None or not math.isfinite(value):
        return "-"
    if error is None or not math.isfinite(error) or error <= 0:
        return f"{value:,.4g}"
    # one digit less from 355 on, as the Particle Data Group rounds
    exponent = math.floor(math.log10(error))
    shown = digits - (digits > 1 and error / 10**exponent >= 3.55)
    if (places := max(shown - 1 - exponent, 0)) > _MOST_PLACES:
        return f"{value:.3g} ± {error:.2g}"
    text = f"{value:,.{places}f} ± {error:,.{places}f}"
    return text.removeprefix("-") if not float(f"{value:.{places}f}") else text


def _classes(metrics: Mapping[str, Any]) -> Iterator[Table]:
    curves = metrics.get("roc") or {}
    if metrics.get("task") != "multiclass":
        return
    calibration = (metrics.get("calibration") or {}).get("classes", {})
    rows = [
        (
            class_text(label, metrics),
            number(curve["auc"]),
            _of_interval(curve["auc_interval"]),
            number(calibration.get(label, {}).get("brier")),
            number(calibration.get(label, {}).get("ece")),
        )
        for label, curve in curves.items()
        if curve
    ]
    yield Table("Each class against the rest", ("label", "AUC", "interval", "Brier score", "ECE"), (*rows,))


def _overtraining(metrics: Mapping[str, Any]) -> Iterator[Table]:
    rows = [
        (class_text(label, metrics), number(test["statistic"]), number(test["p"], ".3g"))
        for label, test in (metrics.get("overtraining") or {}).items()
    ]
    caption = f"Scores of training against {metrics.get('split', 'test')} events: Kolmogorov-Smirnov test"
    yield Table(caption, ("label", "distance", "p-value"), (*rows,))


def _confusion(metrics: Mapping[str, Any]) -> Iterator[Table]:
    matrix = metrics.get("confusion")
    if not matrix or len(matrix["labels"]) > _MOST_CLASSES:
        return
    rows = [
        (class_text(label, metrics), *(_cell(total, share, k) for k, total in enumerate(totals)))
        for label, totals, share in zip(matrix["labels"], matrix["sum"], matrix["share"], strict=True)
    ]
    header = ("true label", *(f"taken for {class_text(label, metrics)}" for label in matrix["labels"]))
    yield Table("Confusion matrix: sum of weights, share of the row", header, (*rows,))


def _cell(total: float, share: Sequence[float] | None, column: int) -> str:
    return f"{total:,.6g}" + ("" if share is None else f" ({100 * share[column]:.1f} %)")


def _cuts(metrics: Mapping[str, Any]) -> Iterator[Table]:
    names = {"simple": "S/√(S+B)", "asimov": "Asimov"}
    rows = [
        (
            class_text(label, metrics),
            names[kind],
            *(number(best[key], ".4g") for key in ("threshold", "significance", "signal", "background")),
        )
        for label, scan in (metrics.get("significance") or {}).items()
        if scan
        for kind, best in scan["best"].items()
        if best
    ]
    header = ("signal", "significance", "score at least", "value", "S", "B")
    yield Table("Best cuts on the score", header, (*rows,))


def _working_points(metrics: Mapping[str, Any]) -> Iterator[Table]:
    rows = [
        (
            class_text(label, metrics),
            number(point["tpr"], ".3f"),
            number(point["fpr"], ".3g"),
            number(point["rejection"], ".4g"),
            number(point["threshold"], ".4g"),
        )
        for label, curve in (metrics.get("roc") or {}).items()
        if curve
        for point in curve["working_points"]
    ]
    header = ("signal", "signal efficiency", "background efficiency", "rejection", "score at least")
    yield Table("Working points", header, (*rows,))


def _residuals(metrics: Mapping[str, Any]) -> Iterator[Table]:
    rows = [
        (
            name,
            with_error(of["bias"], of["bias_error"]),
            *(number(of[key], ".4g") for key in ("std", "rmse", "mae", "r2", "median", "half_width_68")),
            number(of["relative"]["median"], ".4g"),
            number(of["relative"]["half_width_68"], ".4g"),
            number((of["overtraining"] or {}).get("p"), ".3g"),
        )
        for name, of in (metrics.get("residuals") or {}).items()
    ]
    header = (
        *("target", "bias", "std", "RMSE", "MAE", "R²", "median", "half width (68 %)"),
        *("relative: median", "half width (68 %)", "KS p-value, training"),
    )
    yield Table("Residuals: predicted minus true", header, (*rows,))


def _importance(metrics: Mapping[str, Any]) -> Iterator[Table]:
    found = metrics.get("importance")
    if not found:
        return
    kinds = [name for name in ("auc_drop", "accuracy_drop", "loss_rise", "rmse_rise") if name in found["measures"]]
    rows = [
        (
            row["branch"],
            *(with_error(row[kind]["mean"], row[kind]["std"]) for kind in kinds),
        )
        for row in found["branches"][:_MOST_BRANCHES]
    ]
    names = {"auc_drop": "drop of AUC", "accuracy_drop": "drop of accuracy", "loss_rise": "rise of loss"}
    of = f"of {len(found['branches'])} branches " if len(found["branches"]) > _MOST_BRANCHES else ""
    caption = (
        f"Permutation importance, the largest {of}on {found['events']:,} {metrics.get('split', 'test')} events, "
        f"{found['repeats']} permutations each"
    )
    yield Table(caption, ("branch", *(names.get(kind, "rise of RMSE") for kind in kinds)), (*rows,))
