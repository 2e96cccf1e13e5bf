"""Pictures of data before and after a model: specs, chunks, scores. Plain values in, images out."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from mlaas_spark.plots import COLOURS, GREY, Plot, canvas, images, plain, styled, whole_ticks

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd

    from mlaas_spark.branch_specs import Specs
    from mlaas_spark.manifest import Manifest
    from mlaas_spark.transform import FeatureTransform

_MOST_BRANCHES = 24
_SCORE_BINS = 50
_ROW = 0.28  # inches of a branch


@dataclass(frozen=True, slots=True)
class Gallery:
    """Pictures, one below the other in a notebook."""

    plots: tuple[Plot, ...]

    def _repr_html_(self) -> str:
        return "".join(
            f'<figure><img style="max-width:100%" alt="{escape(plot.alt)}" '
            f'src="data:image/png;base64,{base64.b64encode(plot.png).decode()}">'
            f"<figcaption>{escape(plot.title)}</figcaption></figure>"
            for plot in self.plots
        )


def of_specs(specs: Specs, transform: FeatureTransform) -> Gallery:
    """Where the values of branches lie, and how many values events have of the jagged ones."""
    with styled():
        return Gallery((*_ranges(specs, transform), *_lengths(specs, transform)))


def of_chunks(manifest: Manifest) -> Gallery:
    """The share of each label in each chunk: equal heights are well mixed chunks."""
    with styled():
        return Gallery(tuple(_mixing(manifest)))


def of_scores(scores: pd.DataFrame) -> Gallery:
    """How many events have which score; a curve for each output."""
    with styled():
        return Gallery(tuple(_scores(scores)))


def _ranges(specs: Specs, transform: FeatureTransform) -> Iterator[Plot]:
    names = [name for name in transform.layout.branches if specs[name].minimum is not None][:_MOST_BRANCHES]
    if not names:
        return
    drawn, (axes,) = canvas(1, (6.4, 1.2 + _ROW * len(names)))
    places = np.arange(len(names))[::-1]
    low = np.array([specs[name].minimum for name in names], np.float64)
    high = np.array([specs[name].maximum for name in names], np.float64)
    mean, std = (np.array([getattr(specs[name], key) for name in names]) for key in ("mean", "std"))
    axes.hlines(places, low, high, color=GREY, linewidth=1.5, label="smallest to largest")
    axes.errorbar(mean, places, xerr=std, fmt="o", markersize=4, color=COLOURS[0], label="mean and deviation")
    axes.set_xscale("symlog", linthresh=1.0)
    axes.set_yticks(places, [plain(name) for name in names])
    axes.set_xlabel("value (linear between -1 and 1, logarithmic beyond)")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.9 / (1.2 + _ROW * len(names))), ncols=2)
    left = len(transform.layout.branches) - len(names)
    title = f"Where the values lie{f' (without {left} more branches)' if left else ''}"
    yield Plot("ranges", title, f"Range, mean and deviation of {', '.join(names)}", *images(drawn))


def _lengths(specs: Specs, transform: FeatureTransform) -> Iterator[Plot]:
    columns = dict(transform.layout.dims)
    counts: dict[tuple[int, ...], list[str]] = {}
    for name in specs.jagged:
        # branches of one collection have the same lengths: one curve
        counts.setdefault(specs[name].lengths, []).append(name)
    shown = [(np.array(lengths), names) for lengths, names in counts.items() if sum(lengths)][: len(COLOURS)]
    if not shown:
        return
    drawn, (axes,) = canvas()
    for colour, (lengths, names) in zip(COLOURS, shown, strict=False):
        label = plain(names[0]) if len(names) == 1 else f"{plain(names[0], 20)} and {len(names) - 1} more"
        at_least = lengths[::-1].cumsum()[::-1] / lengths.sum()
        axes.step(np.arange(len(lengths)), at_least, where="mid", color=colour, label=label)
        axes.axvline(columns[names[0]], color=colour, linestyle=":", linewidth=1)
    axes.set_yscale("log")
    axes.set_xlabel("values in an event (dotted: columns of the matrix)")
    axes.set_ylabel("share of events with so many or more")
    axes.legend()
    named = ", ".join(names[0] for _, names in shown)
    yield Plot("lengths", "How long the lists of jagged branches are", f"Shares of events for {named}", *images(drawn))


def _mixing(manifest: Manifest) -> Iterator[Plot]:
    labels = sorted({label for file in manifest.files for label in file.labels})[: len(COLOURS)]
    if not labels or not manifest.chunks:
        return
    counts = np.zeros((len(labels), manifest.chunks))
    for file in manifest.files:
        for row, label in enumerate(labels):
            counts[row, file.chunk] += file.labels.get(label, 0)
    shares = counts / np.maximum(counts.sum(axis=0), 1)
    drawn, (axes,) = canvas()
    edges = np.arange(manifest.chunks + 1) - 0.5
    for label, colour, share, below in zip(labels, COLOURS, shares, np.cumsum(shares, axis=0) - shares, strict=False):
        axes.stairs(share + below, edges, baseline=below, fill=True, color=colour, label=f"label {plain(label)}")
    whole_ticks(axes)
    axes.set(xlabel="chunk", ylabel="share of its events", ylim=(0, 1))
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.12), ncols=min(len(labels), 4))
    spread = float((shares.max(axis=1) - shares.min(axis=1)).max())
    alt = f"Shares of {len(labels)} labels in {manifest.chunks} chunks; they differ by {spread:.3f} at most"
    yield Plot("mixing", "Labels in each chunk", alt, *images(drawn))


def _scores(scores: pd.DataFrame) -> Iterator[Plot]:
    names = [name for name in scores.columns if name == "score" or name.startswith("score_")][: len(COLOURS)]
    if not names:
        return
    values = {name: scores[name].dropna().to_numpy(np.float64) for name in names}
    drawn, (axes,) = canvas()
    edges = np.histogram_bin_edges(np.concatenate(list(values.values())), bins=_SCORE_BINS)
    for colour, (name, of) in zip(COLOURS, values.items(), strict=False):
        axes.stairs(np.histogram(of, edges)[0], edges, color=colour, label=plain(name))
    axes.set(xlabel="score", ylabel="events")
    if len(names) > 1:
        axes.legend()
    events = max(map(len, values.values()))
    yield Plot("scores", f"Scores of {events:,} events", f"Histogram of {', '.join(names)}", *images(drawn))
