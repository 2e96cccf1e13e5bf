"""Plots of metrics.json as PNG and SVG: plain values in, images out. Reads and writes no file, opens no window."""

from __future__ import annotations

import io
import re
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 150

# Okabe and Ito's palette: told apart by colour-blind readers
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999933", "#332288")
_INK = "#333333"
GREY = "#5c6670"
_ON_LIGHT, _ON_DARK = "#323232", "#fefefe"  # text on a coloured cell, which stays as it is in the dark
# each colour as it is on a dark page, where a reader has one
_IN_THE_DARK = {
    _INK: "#d7dee6",
    GREY: "#9aa5b1",
    **dict(
        zip(
            COLOURS,
            ("#56a8e8", "#ff8a3d", "#2fc79a", "#e39ac4", "#f0b429", "#8fd0f7", "#c5c55a", "#9a8cf0"),
            strict=True,
        )
    ),
}
_MOST_CURVES = len(COLOURS)
_MOST_BRANCHES = 20
_MARKED = 60  # points of a curve that are marked one by one
_LONGEST = 40  # letters of a name
_LONGEST_TICK = 18
_PANEL = (5.6, 4.2)  # inches
_STYLE: dict[Any, Any] = {
    "font.size": 10,
    "text.color": _INK,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "axes.titlecolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "xtick.direction": "in",
    "ytick.direction": "in",
    "xtick.top": True,
    "ytick.right": True,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "axes.titlesize": 9,
    "errorbar.capsize": 0,
    "svg.hashsalt": "mlaas_spark",  # equal plots have equal names inside
}


@dataclass(frozen=True, slots=True)
class Plot:
    """An image.

    Attributes:
        name: Of its file, without ``.png``.
        title: What it shows, in a line.
        alt: What one sees on it, for those who do not.
        png: The image, on white.
        svg: The same on whatever is behind it, with other colours where the page is dark.
    """

    name: str
    title: str
    alt: str
    png: bytes
    svg: bytes


def draw(metrics: Mapping[str, Any]) -> list[Plot]:
    """A plot of each thing that the metrics have; equal metrics give equal images."""
    makers = (_roc, _scores, _confusion, _calibration, _significance, _residuals, _importance, _learning_curves)
    with styled():
        return [plot for maker in makers for plot in maker(metrics)]


def files(plots: Sequence[Plot]) -> dict[str, bytes]:
    """Images by the path of their file in a run folder: ``plots/roc.png``."""
    return {f"plots/{plot.name}.png": plot.png for plot in plots}


@contextmanager
def styled() -> Iterator[None]:
    """Draw in our style: a user's own matplotlibrc must not change what a run leaves."""
    import matplotlib as mpl

    with mpl.rc_context(), warnings.catch_warnings():
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        # names may have letters that the font lacks: they are drawn as boxes
        warnings.filterwarnings("ignore", r"Glyph .* missing from", UserWarning)
        yield


def canvas(panels: int = 1, size: tuple[float, float] = _PANEL) -> tuple[Figure, list[Axes]]:
    """A figure of so many panels, each of ``size`` inches."""
    from matplotlib.figure import Figure

    columns = min(panels, 2)
    rows = -(-panels // columns)
    figure = Figure(figsize=(size[0] * columns, size[1] * rows), layout="constrained")
    axes = [figure.add_subplot(rows, columns, index + 1) for index in range(panels)]
    return figure, axes


def images(figure: Figure) -> tuple[bytes, bytes]:
    """As PNG, and as SVG with the panels one below the other: as wide as a phone shows."""
    png, svg = io.BytesIO(), io.BytesIO()
    figure.savefig(png, format="png", dpi=DPI, metadata={"Software": None})
    _stack(figure)
    unsaid = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(svg, format="svg", dpi=DPI, transparent=True, metadata=unsaid)
    return png.getvalue(), _themed(svg.getvalue().decode()).encode()


def _stack(figure: Figure) -> None:
    panels = [axes for axes in figure.axes if axes.get_subplotspec() is not None]
    if len(panels) > 1:
        figure.set_size_inches(_PANEL[0], _PANEL[1] * len(panels))
        grid = figure.add_gridspec(len(panels), 1)
        for row, axes in enumerate(panels):
            axes.set_subplotspec(grid[row])


def _themed(svg: str) -> str:
    """An SVG whose colours follow the page's: light or dark."""
    names = {colour.lower(): f"--c{index}" for index, colour in enumerate(_IN_THE_DARK)}
    light = "".join(f"{name}:{colour};" for colour, name in names.items())
    dark = "".join(f"{name}:{colour};" for name, colour in zip(names.values(), _IN_THE_DARK.values(), strict=True))
    style = f"<style>svg{{{light}}}@media screen and (prefers-color-scheme: dark){{svg{{{dark}}}}}</style>"
    # in style attributes alone, and without matplotlib's comments, which are text of the user's
    swapped = re.sub(
        r'style="[^"]*"',
        lambda found: re.sub(
            "#[0-9a-f]{6}", lambda hit: f"var({names[hit[0]]})" if hit[0] in names else hit[0], found[0]
        ),
        re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL),
    )
    return re.sub(r"(<svg [^>]*>)", lambda found: found[1] + style, swapped, count=1)


def plain(text: str, longest: int = _LONGEST) -> str:
    """A name as matplotlib draws it: no formula, no line break, not too long."""
    line = " ".join(text.split())
    short = line if len(line) <= longest else line[: longest - 1] + "…"
    return short.replace("$", r"\$")


def _class(label: str, metrics: Mapping[str, Any], longest: int = _LONGEST // 2) -> str:
    """How a class is called in a legend."""
    name = (metrics.get("class_names") or {}).get(label)
    return plain(name or f"label {label}", longest)


def _said(axes: Axes, metrics: Mapping[str, Any]) -> None:
    """Above the axes: the split, how many events, and whether weights count."""
    axes.set_title(_where(metrics), loc="right", color=GREY)


def _where(metrics: Mapping[str, Any]) -> str:
    weights = metrics.get("weights")
    if not weights:
        return f"{metrics.get('split', 'test')} events"
    text = f"{metrics['split']}: {weights['events']:,} events"
    if abs(weights["sum"] - weights["events"]) < 1e-6 * weights["events"] and not weights["negative"]:
        return f"{text}, unweighted" if _is_unweighted(weights) else f"{text}, weighted"
    return f"{text}, weighted (sum {_short(weights['sum'])})"


def _short(value: float) -> str:
    """A sum of weights without digits that nobody reads."""
    return f"{value:,.0f}" if 100 <= abs(value) < 1e7 else f"{value:.3g}"


def _is_unweighted(weights: Mapping[str, Any]) -> bool:
    return bool(abs(weights["effective"] - weights["events"]) < 1e-6 * weights["events"])


def _amount(metrics: Mapping[str, Any]) -> str:
    """What a histogram counts."""
    weights = metrics.get("weights")
    return "events" if weights and _is_unweighted(weights) and not weights["negative"] else "sum of weights"


def _roc(metrics: Mapping[str, Any]) -> Iterator[Plot]:
    curves = {label: curve for label, curve in (metrics.get("roc") or {}).items() if curve}
    if not curves:
        return
    figure, (left, right) = canvas(2)
    left.plot([0, 1], [0, 1], color=GREY, linestyle=":", linewidth=1)
    lowest = 1.0
    for colour, (label, curve) in zip(COLOURS, curves.items(), strict=False):
        fpr, tpr = np.array(curve["fpr"]), np.array(curve["tpr"])
        text = f"{_class(label, metrics)}: AUC {curve['auc']:.4f}" + _error(curve)
        left.plot(fpr, tpr, color=colour, label=text)
        some = (fpr > 0) & (tpr > 0)
        right.plot(tpr[some], 1 / fpr[some], color=colour, label=_class(label, metrics))
        lowest = min(lowest, float(fpr[some].min(initial=1.0)))
    shared = np.linspace(0.01, 1, 100)
    right.plot(shared, 1 / shared, color=GREY, linestyle=":", linewidth=1)
    left.set(xlabel="background efficiency (false positive rate)", ylabel="signal efficiency (true positive rate)")
    left.set(xlim=(0, 1), ylim=(0, 1.005))
    right.set(xlabel="signal efficiency", ylabel="background rejection (1 / background efficiency)", yscale="log")
    right.set(xlim=(0, 1), ylim=(0.9, 2 / lowest))
    for axes in (left, right):
        axes.legend(loc="lower right" if axes is left else "upper right")
        _said(axes, metrics)
    told = ", ".join(f"label {label}: AUC {curve['auc']:.4f}" for label, curve in curves.items())
    yield Plot("roc", f"ROC curve on the {metrics.get('split', 'test')} events", f"ROC curves; {told}", *images(figure))


def _error(curve: Mapping[str, Any]) -> str:
    interval = curve.get("auc_interval")
    return f" ± {interval['std']:.4f}" if interval else ""


def _scores(metrics: Mapping[str, Any]) -> Iterator[Plot]:
    panels = metrics.get("scores")
    if not panels:
        return
    split = metrics["split"]
    has_train = any(name != split for panel in panels for name in panel["splits"])
    figure, several = canvas(len(panels))
    for axes, panel in zip(several, panels, strict=True):
        _draw_scores(axes, panel, metrics)
    told = "; ".join(
        f"label {label}: KS distance {test['statistic']:.3g}"
        + (f", p {test['p']:.2g}" if test["p"] is not None else "")
        for label, test in (metrics.get("overtraining") or {}).items()
        if test["statistic"] is not None
    )
    title = f"Scores by class: {split} filled" + (", training as points scaled to it" if has_train else "")
    alt = f"Histograms of the scores of each class in {split}" + (" and training events" if has_train else "")
    yield Plot("scores", title, f"{alt}. {told}".strip(), *images(figure))


def _draw_scores(axes: Axes, panel: Mapping[str, Any], metrics: Mapping[str, Any]) -> None:
    """The split's events filled, those of training as points with errors, scaled to the same area."""
    edges = np.array(panel["edges"])
    middle = (edges[1:] + edges[:-1]) / 2
    split = metrics["split"]
    tests = metrics.get("overtraining") or {}
    heights = [0.0]
    for colour, (label, test) in zip(COLOURS, panel["splits"][split].items(), strict=False):
        total = np.array(test["sum"])
        name = _class(label, metrics)
        axes.stairs(total, edges, fill=True, color=colour, alpha=0.3, label=f"{name}, {split}")
        axes.stairs(total, edges, color=colour, linewidth=1)
        heights += [float(total.max())]
        train = panel["splits"].get("train", {}).get(label) if split != "train" else None
        if train is None or sum(train["sum"]) <= 0:
            continue
        scale = total.sum() / sum(train["sum"])
        points, error = scale * np.array(train["sum"]), scale * np.array(train["error"])
        some = error > 0
        p = (tests.get(label) or {}).get("p")
        own = len(metrics["scores"]) == 1 or label == str(panel["output"])
        shown = f"{name}, training" + (f" (KS p = {p:.2g})" if p is not None and own else "")
        axes.errorbar(
            *(middle[some], points[some], error[some]), color=colour, fmt="o", markersize=2.5, linewidth=1, label=shown
        )
        heights += [float((points + error).max())]
    of = "" if len(metrics["scores"]) == 1 else f" of {_class(str(panel['output']), metrics)}"
    axes.set(xlabel=f"score{of}", ylabel=f"{_amount(metrics)} / {edges[1] - edges[0]:.3g}")
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(top=1.45 * max(heights) or 1.0)
    axes.legend(loc="upper center", ncols=2, fontsize=7.5)
    _said(axes, metrics)


def _confusion(metrics: Mapping[str, Any]) -> Iterator[Plot]:
    matrix = metrics.get("confusion")
    if not matrix:
        return
    labels = matrix["labels"]
    share = np.array([row if row is not None else [np.nan] * len(labels) for row in matrix["share"]], np.float64)
    side = max(3.6, 1.2 + 0.62 * len(labels))
    figure, (axes,) = canvas(1, (min(side + 1.2, 14), min(side, 12)))
    image = axes.imshow(share, vmin=0, vmax=1, cmap="Blues")
    if len(labels) <= 12:
        for row, column in np.ndindex(share.shape):
            dark = np.isfinite(share[row, column]) and share[row, column] > 0.55
            text = f"{100 * share[row, column]:.1f} %\n" if np.isfinite(share[row, column]) else "-\n"
            text += (
                f"{_short(matrix['sum'][row][column])} ± {_short(float(format(matrix['error'][row][column], '.2g')))}"
            )
            size = 8 if len(labels) <= 4 else 5
            axes.text(column, row, text, ha="center", va="center", fontsize=size, color=_ON_DARK if dark else _ON_LIGHT)
    names = [_class(label, metrics, _LONGEST_TICK) for label in labels]
    turned = len(labels) > 3 or max(map(len, names)) > 12
    axes.set_xticks(range(len(labels)), names, rotation=45 if turned else 0, ha="right" if turned else "center")
    axes.set_yticks(range(len(labels)), names)
    axes.tick_params(which="both", length=0)
    axes.set(xlabel="taken for", ylabel="true class")
    _said(axes, metrics)
    figure.colorbar(image, ax=axes, label="share of the true class", shrink=0.85)
    told = "; ".join(
        f"{100 * row[k]:.1f} % of label {label} are right"
        for k, (label, row) in enumerate(zip(labels, share, strict=True))
    )
    title = "Confusion matrix: share of each true class, " + _amount(metrics)
    yield Plot("confusion", title, f"Confusion matrix; {told}", *images(figure))


def _calibration(metrics: Mapping[str, Any]) -> Iterator[Plot]:
    found = metrics.get("calibration")
    if not found:
        return
    figure, (axes, below) = canvas(2)
    axes.plot([0, 1], [0, 1], color=GREY, linestyle=":", linewidth=1, label="calibrated")
    for colour, (label, curve) in zip(COLOURS, found["classes"].items(), strict=False):
        kept = [k for k, value in enumerate(curve["observed"]) if value is not None]
        x, y, error = ([curve[key][k] for k in kept] for key in ("predicted", "observed", "error"))
        numbers = f": ECE {curve['ece']:.4f}" if curve["ece"] is not None else ""
        numbers += f", Brier {curve['brier']:.4f}" if curve["brier"] is not None else ""
        text = f"{_class(label, metrics)}{numbers}"
        axes.errorbar(x, y, error, color=colour, fmt="o-", markersize=3.5, linewidth=1, label=text)
        below.stairs(curve["sum"], curve["edges"], color=colour, label=_class(label, metrics))
    axes.set(xlabel="mean score in the bin", ylabel="share of events of the class", xlim=(0, 1), ylim=(-0.02, 1.02))
    axes.legend(loc="upper left")
    below.set(xlabel="score", ylabel=f"{_amount(metrics)} / bin", xlim=(0, 1))
    below.legend()
    _said(axes, metrics)
    _said(below, metrics)
    alt = f"Reliability curve; expected calibration error {_text(found['ece'])}, Brier score {_text(found['brier'])}"
    yield Plot("calibration", "Calibration: how often events of a score are of the class", alt, *images(figure))


def _text(value: float | None) -> str:
    return "not defined" if value is None else f"{value:.4g}"


def _significance(metrics: Mapping[str, Any]) -> Iterator[Plot]:
    scans = {label: scan for label, scan in (metrics.get("significance") or {}).items() if scan}
    if not scans:
        return
    shown = list(scans.items())[:_MOST_CURVES]
    figure, several = canvas(len(shown))
    names = {"simple": "S / sqrt(S + B)", "asimov": "Asimov"}
    told = []
    for axes, (label, scan) in zip(several, shown, strict=True):
        for colour, (kind, name) in zip(COLOURS, names.items(), strict=False):
            values = np.array([np.nan if value is None else value for value in scan[kind]], np.float64)
            best = scan["best"][kind]
            text = f"{name}: {best['significance']:.3g} at {best['threshold']:.3g}" if best else name
            axes.plot(scan["threshold"], values, color=colour, label=text)
            if best:
                axes.plot(best["threshold"], best["significance"], "v", color=colour, markersize=6)
                told.append(f"label {label}, {name}: best {best['significance']:.3g} at score {best['threshold']:.3g}")
        highest = max([best["significance"] for best in scan["best"].values() if best] or [1.0])
        axes.set(xlabel="cut: score at least", ylabel="significance", ylim=(0, 1.35 * highest))
        uncut = f"S = {_short(scan['signal'][-1])}, B = {_short(scan['background'][-1])}"
        of = f"{_class(label, metrics)} against the rest: {uncut} before a cut"
        axes.legend(title=of, title_fontsize=8, loc="upper left")
        _said(axes, metrics)
    title = "Significance of the signal after a cut on the score (S and B are sums of weights)"
    yield Plot("significance", title, "Significance against the cut; " + "; ".join(told), *images(figure))


def _importance(metrics: Mapping[str, Any]) -> Iterator[Plot]:
    found = metrics.get("importance")
    if not found or not found["measures"]:
        return
    kind = found["measures"][0]
    rows = [row for row in found["branches"] if row[kind]["mean"] is not None][:_MOST_BRANCHES]
    figure, (axes,) = canvas(1, (6.4, 1.2 + 0.26 * max(len(rows), 4)))
    places = np.arange(len(rows))
    error = [row[kind]["std"] or 0.0 for row in rows]
    axes.barh(places, [row[kind]["mean"] for row in rows], xerr=error, color=COLOURS[0], alpha=0.8, ecolor=_INK)
    axes.set_yticks(places, [plain(row["branch"]) for row in rows])
    axes.tick_params(axis="y", which="both", length=0)
    axes.invert_yaxis()
    axes.axvline(0, color=_INK, linewidth=0.8)
    names = {"auc_drop": "drop of AUC", "accuracy_drop": "drop of accuracy", "loss_rise": "rise of loss"}
    axes.set_xlabel(f"{names.get(kind, 'rise of RMSE')} when the branch is permuted")
    axes.set_title(f"{found['events']:,} {metrics['split']} events, {found['repeats']} permutations", color=GREY)
    title = "Permutation importance by branch" + (
        f": the first {len(rows)} of {len(found['branches'])}" if len(found["branches"]) > len(rows) else ""
    )
    first = ", ".join(f"{row['branch']} {row[kind]['mean']:.3g}" for row in rows[:5])
    yield Plot(
        "importance", title, f"Bars of the {names.get(kind, 'rise of RMSE')} of each branch: {first}", *images(figure)
    )


def _learning_curves(metrics: Mapping[str, Any]) -> Iterator[Plot]:
    found = metrics.get("learning_curves")
    if not found:
        return
    series = found["series"]
    if not (names := curve_names(series)):
        return
    figure, several = canvas(len(names))
    marker = "o" if len(found["fits"]) <= _MARKED else ""
    for axes, name in zip(several, names, strict=True):
        for colour, key, text in ((COLOURS[0], name, "training"), (COLOURS[1], f"val_{name}", "validation")):
            if key in series:
                values = [np.nan if value is None else value for value in series[key]]
                axes.plot(found["fits"], values, color=colour, marker=marker, markersize=3, label=text)
        best = found["best"]
        if name == "loss" and best:
            axes.axvline(best["fit"], color=GREY, linestyle=":", label=f"lowest {best['metric']}: fit {best['fit']}")
        axes.set(xlabel=_FIT, ylabel=plain(name))
        axes.legend()
        whole_ticks(axes)
    last = ", ".join(f"{name} {series[name][-1]:.4g}" for name in series if series[name][-1] is not None)
    title = "Learning curves: loss of training and validation by epoch"
    yield Plot("learning_curves", title, f"Learning curves; at the end {last}", *images(figure))


_FIT = "fit (an epoch, or one of a chunk)"


def curve_names(series: Iterable[str]) -> list[str]:
    """What of a training's history is drawn: the loss, and the first metrics of which validation has some too."""
    there = list(dict.fromkeys(series))
    names = [name for name in there if name != "loss" and not name.startswith("val_") and f"val_{name}" in there]
    return [*(["loss"] if {"loss", "val_loss"} & {*there} else []), *names[:3]]


def compared_curves(runs: Mapping[str, Mapping[str, Any]]) -> Plot | None:
    """Learning curves of several runs over each other, each run in a colour of its own; None of runs without a history.

    Args:
        runs: By the letter of the run, ``learning_curves`` of its metrics; {} of one without.
    """
    names = curve_names(name for found in runs.values() for name in found.get("series", ()))
    if not names:
        return None
    with styled():
        figure, several = canvas(len(names))
        for axes, name in zip(several, names, strict=True):
            for place, (letter, found) in enumerate(runs.items()):
                colour = COLOURS[place % len(COLOURS)]
                for key, line in ((name, ":"), (f"val_{name}", "-")):
                    values = [np.nan if value is None else value for value in found.get("series", {}).get(key, ())]
                    if values:
                        marker = "o" if len(values) <= _MARKED else ""
                        what = "training" if key == name else "validation"
                        text = f"{plain(letter)}, {what}"
                        # those below are wider: equal curves, of one seed, are seen both
                        width = 1.5 + 1.5 * min(len(runs) - 1 - place, 3)
                        drawn: dict[str, Any] = {
                            "color": colour,
                            "marker": marker,
                            "markersize": 2 + width,
                            "linewidth": width,
                        }
                        axes.plot(found["fits"], values, line, label=text, **drawn)
                        axes.annotate(
                            plain(letter), (found["fits"][-1], values[-1]), (4, 0), textcoords="offset points",
                            color=colour, va="center", annotation_clip=False,
                        )  # fmt: skip
            axes.set(xlabel=_FIT, ylabel=plain(name))
            axes.legend(ncols=-(-len(runs) // 4))
            whole_ticks(axes)
        ends = "; ".join(
            f"{key} at the end: " + ", ".join(told)
            for name in names
            for key in (name, f"val_{name}")
            if (told := [f"{letter} {of[key][-1]:.4g}" for letter, of in _ended(runs, key)])
        )
        return Plot(
            "curves", f"Learning curves: {', '.join(names)} by fit", f"Learning curves; {ends}", *images(figure)
        )


def _ended(runs: Mapping[str, Mapping[str, Any]], key: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Runs that have a last value of a series."""
    for letter, found in runs.items():
        series = found.get("series", {})
        if series.get(key) and series[key][-1] is not None:
            yield letter, series


def whole_ticks(axes: Axes) -> None:
    """Whole numbers on the x axis."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def _residuals(metrics: Mapping[str, Any]) -> Iterator[Plot]:
    for index, (name, found) in enumerate((metrics.get("residuals") or {}).items()):
        figure, several = canvas(4)
        drawers: Sequence[Callable[[Axes, Mapping[str, Any], Mapping[str, Any]], None]] = (
            *(_draw_residuals, _draw_joint, _draw_profile, _draw_relative),
        )
        for axes, drawer in zip(several, drawers, strict=True):
            drawer(axes, found, metrics)
            _said(axes, metrics)
        figure.suptitle(plain(name))
        only = len(metrics["residuals"]) == 1
        alt = (
            f"Residuals of {name}: bias {_text(found['bias'])}, RMSE {_text(found['rmse'])}, R2 {_text(found['r2'])}; "
            "their histogram, predicted against true, bias and spread in bins of the true value, relative residuals"
        )
        title = f"Residuals of {name}: predicted minus true"
        yield Plot("residuals" if only else f"residuals_{index}", title, alt, *images(figure))


def _draw_residuals(axes: Axes, found: Mapping[str, Any], metrics: Mapping[str, Any]) -> None:
    edges = np.array(found["histogram"]["edges"])
    middle = (edges[1:] + edges[:-1]) / 2
    splits = found["histogram"]["splits"]
    total = np.array(splits[metrics["split"]]["sum"])
    text = f"{metrics['split']}: bias {_text(found['bias'])}, RMSE {_text(found['rmse'])}"
    axes.stairs(total, edges, fill=True, color=COLOURS[0], alpha=0.3, label=text)
    axes.stairs(total, edges, color=COLOURS[0], linewidth=1)
    for split, train in splits.items():
        if split != metrics["split"] and sum(train["sum"]) > 0:
            scale = total.sum() / sum(train["sum"])
            points, error = scale * np.array(train["sum"]), scale * np.array(train["error"])
            p = (found["overtraining"] or {}).get("p")
            shown = "training, scaled" + (f" (KS p = {p:.2g})" if p is not None else "")
            axes.errorbar(middle, points, error, color=_INK, fmt="o", markersize=2.5, linewidth=1, label=shown)
    axes.axvline(0, color=GREY, linestyle=":", linewidth=1)
    axes.set(xlabel="predicted - true", ylabel=f"{_amount(metrics)} / {edges[1] - edges[0]:.3g}")
    axes.set_ylim(top=1.35 * max(float(total.max()), 0.0) or 1.0)
    axes.legend(loc="upper left")


def _draw_joint(axes: Axes, found: Mapping[str, Any], metrics: Mapping[str, Any]) -> None:
    from matplotlib.colors import LogNorm

    edges, total = np.array(found["joint"]["edges"]), np.array(found["joint"]["sum"])
    shown = np.where(total > 0, total, np.nan)
    # equal ends, as of a single filled bin, are no scale
    low, high = (float(np.nanmin(shown)), float(np.nanmax(shown))) if (total > 0).any() else (1.0, 1.0)
    image = axes.pcolormesh(edges, edges, shown.T, cmap="viridis", norm=LogNorm(low, max(high, 1.01 * low)))
    image.set_rasterized(True)  # as thousands of rectangles the SVG would be large
    axes.plot(edges[[0, -1]], edges[[0, -1]], color=COLOURS[1], linestyle="--", linewidth=1)
    axes.set(xlabel="true", ylabel="predicted")
    if axes.figure is not None:
        axes.figure.colorbar(image, ax=axes, label=f"{_amount(metrics)} / bin")


def _draw_profile(axes: Axes, found: Mapping[str, Any], _: Mapping[str, Any]) -> None:
    """Bias as points, resolution as a band about it."""
    bins = [row for row in found["profile"]["bins"] if row["mean"] is not None]
    true, mean, error = (np.array([row[key] for row in bins], np.float64) for key in ("true", "mean", "error"))
    spread = np.array([row["std"] if row["std"] is not None else np.nan for row in bins], np.float64)
    axes.axhline(0, color=GREY, linestyle=":", linewidth=1)
    band = axes.fill_between(true, mean - spread, mean + spread, color=COLOURS[1], alpha=0.2, linewidth=0)
    band.set_label("± standard deviation in the bin")
    axes.errorbar(true, mean, error, color=COLOURS[0], fmt="o", markersize=4, label="mean, with its error")
    axes.set(xlabel="true", ylabel="predicted - true")
    axes.legend()


def _draw_relative(axes: Axes, found: Mapping[str, Any], metrics: Mapping[str, Any]) -> None:
    relative = found["relative"]
    edges = np.array(relative["histogram"]["edges"])
    total = np.array(relative["histogram"]["sum"])
    text = f"median {_text(relative['median'])}, half width (68 %) {_text(relative['half_width_68'])}"
    if relative["median"] is None:
        text = "quantiles are not defined with negative weights"
    axes.stairs(total, edges, fill=True, color=COLOURS[2], alpha=0.3, label=text)
    axes.stairs(total, edges, color=COLOURS[2], linewidth=1)
    axes.axvline(0, color=GREY, linestyle=":", linewidth=1)
    axes.set(xlabel="(predicted - true) / |true|", ylabel=f"{_amount(metrics)} / {edges[1] - edges[0]:.3g}")
    axes.set_ylim(top=1.25 * max(float(total.max()), 0.0) or 1.0)
    axes.legend(loc="upper left")
