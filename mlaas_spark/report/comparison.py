"""A page of runs side by side: what came of each, what it took, and in what they differ."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from mlaas_spark import plots
from mlaas_spark.report import page

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_MOST_FITS = 200
_LESS_IS_BETTER = ("loss", "brier", "ece", "rmse")
_MORE_IS_BETTER = ("accuracy", "auc", "auc_weighted", "r2")


def render_comparison(runs: Sequence[Mapping[str, Any]], comparison: Mapping[str, Mapping[str, Sequence[Any]]]) -> str:
    """The page; every value is escaped.

    Args:
        runs: Of each run ``name``, ``folder``, ``started``, ``command``, ``split`` (which events its metrics are of),
            ``events`` and, where it has a history, ``curves``: ``fits`` and ``series`` of it.
        comparison: Rows of ``metrics``, ``seconds``, ``settings``, ``data`` and ``code``: a value for each run, None
            where it has none. Of the last three only what differs.
    """
    letters = [_letter(place) for place in range(len(runs))]
    curves = {letter: run.get("curves") or {} for letter, run in zip(letters, runs, strict=True)}
    drawn = plots.compared_curves(curves)
    rows = comparison["metrics"]
    metrics = [
        (_called(name), values, _best(name, values), _steps(values))
        for name, values in rows.items()
        if not (name == "auc_weighted" and values == rows.get("auc"))  # of two classes they are one
    ]
    seconds = list(comparison["seconds"].items())
    totals = [sum(values[place] or 0.0 for _, values in seconds) for place in range(len(runs))]
    differing = [
        (key, title, same, [(name, [_said(value) for value in values]) for name, values in comparison[key].items()])
        for key, title, same in (
            ("settings", "Config", "The config is the same."),
            ("data", "Data", "The data are the same, to the digest of all values."),
            ("code", "Code", "Versions of Python, of packages and of the machine are the same."),
        )
    ]
    return page.fill(
        "comparison.html.j2",
        {
            "runs": list(zip(letters, runs, strict=True)),
            "letters": letters,
            "metrics": metrics,
            "chance": _may_be_chance(rows),
            "splits": sorted({str(run["split"]) for run in runs}),
            "seconds": seconds,
            "curves": [(drawn, page.data_address(drawn.svg))] if drawn else [],
            "fits": _fits(curves),
            "totals": totals,
            "longest": max((value or 0.0 for _, values in seconds for value in values), default=0.0) or 1.0,
            "differing": differing,
        },
    )


def _fits(curves: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The values of the curves as a table: a column for each series of each run, a row for each fit."""
    names = plots.curve_names(name for found in curves.values() for name in found.get("series", ()))
    columns = [
        (letter, key, found["series"][key])
        for name in names
        for key in (name, f"val_{name}")
        for letter, found in curves.items()
        if key in found.get("series", ())
    ]
    fits = sorted({fit for found in curves.values() for fit in found.get("fits", ())})
    by_run = {
        letter: {fit: place for place, fit in enumerate(found.get("fits", ()))} for letter, found in curves.items()
    }
    rows = [
        (fit, [values[by_run[letter][fit]] if fit in by_run[letter] else None for letter, _, values in columns])
        for fit in fits[-_MOST_FITS:]
    ]
    return {"heads": [(letter, key) for letter, key, _ in columns], "rows": rows, "before": len(fits) - len(rows)}


def _letter(place: int) -> str:
    """A, B, ..., Z, A1, B1, ..."""
    turn, letter = divmod(place, 26)
    return chr(ord("A") + letter) + (str(turn) if turn else "")


_NAMES = {
    "auc": "AUC",
    "auc_weighted": "AUC, mean weighted by class",
    "auc_interval.std": "AUC, uncertainty (bootstrap)",
    "calibration.brier": "Brier score",
    "calibration.ece": "expected calibration error",
}


def _called(name: str) -> str:
    """A metric as people call it."""
    return _NAMES.get(name, name)


def _may_be_chance(metrics: Mapping[str, Sequence[Any]]) -> bool:
    """Whether the best and the worst AUC differ by less than their uncertainties, as if these were independent."""
    pairs = zip(metrics.get("auc", ()), metrics.get("auc_interval.std", ()), strict=False)
    known = sorted((value, error) for value, error in pairs if value is not None and error is not None)
    if len(known) < 2 or known[0][0] == known[-1][0]:
        return False
    return bool(known[-1][0] - known[0][0] < math.hypot(known[0][1], known[-1][1]))


def _best(name: str, values: Sequence[Any]) -> set[int]:
    """Places of the best of different values, where one way is better."""
    last = name.rpartition(".")[2]
    known = [value for value in values if isinstance(value, (int, float))]
    if len(set(known)) < 2 or last not in (*_LESS_IS_BETTER, *_MORE_IS_BETTER):
        return set()
    best = min(known) if last in _LESS_IS_BETTER else max(known)
    return {place for place, value in enumerate(values) if value == best}


def _steps(values: Sequence[Any]) -> list[float | None]:
    """Differences to the first run, for the others."""
    first, *others = values
    return [None if first is None or other is None else other - first for other in others]


def _said(value: Any) -> str:
    return "-" if value is None else page.short(value) if isinstance(value, float) else str(value)
