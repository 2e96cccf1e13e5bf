"""Pictures of specs, chunks and scores: there where there is something to draw, and they say what they show."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa

from mlaas_spark import overview
from mlaas_spark.branch_specs import Specs
from mlaas_spark.config import FeatureConfig
from mlaas_spark.manifest import DataFile, Manifest
from mlaas_spark.plots import Plot
from mlaas_spark.schema import EventSchema
from mlaas_spark.transform import FeatureTransform

EVENTS = pa.RecordBatch.from_pydict(
    {
        "MET_pt": pa.array([1.0, 5.0, 250.0]),
        "Jet_pt": pa.array([[20.0], [], [30.0, 40.0]]),
        "Jet_eta": pa.array([[0.1], [], [0.3, -0.4]]),
        "<b>$x$": pa.array([float("nan")] * 3),
    }
)


def _of(names: tuple[str, ...]) -> tuple[Specs, FeatureTransform]:
    specs = Specs.of(EVENTS.select(list(names)), names)
    return specs, FeatureTransform.of(specs, FeatureConfig())


def test_specs_show_the_ranges_of_branches_with_values_and_one_curve_for_a_collection() -> None:
    ranges, lengths = overview.of_specs(*_of(("MET_pt", "Jet_pt", "Jet_eta", "<b>$x$"))).plots
    assert ranges.alt == "Range, mean and deviation of MET_pt, Jet_eta, Jet_pt"
    assert lengths.alt == "Shares of events for Jet_eta"
    assert all(plot.png.startswith(b"\x89PNG") for plot in (ranges, lengths))


def test_branches_that_are_not_drawn_are_told() -> None:
    ranges, _ = overview.of_specs(*_of(("MET_pt", "Jet_pt", "<b>$x$"))).plots
    assert ranges.title == "Where the values lie (without 1 more branches)"


def test_flat_branches_alone_have_no_lengths_and_nothing_finite_no_ranges() -> None:
    assert [plot.name for plot in overview.of_specs(*_of(("MET_pt",))).plots] == ["ranges"]
    assert overview.of_specs(*_of(("<b>$x$",))).plots == ()


def test_chunks_say_how_far_their_shares_of_a_label_differ() -> None:
    files = tuple(
        DataFile(f"{chunk}-{split}", 100, 1, ((0, 0, 1),), "", chunk, split, {"0": zeros, "1": 100 - zeros})
        for chunk, split, zeros in (
            (0, "train", 50),
            (0, "test", 50),
            (1, "train", 40),
            (1, "test", 60),
            (2, "train", 80),
        )
    )
    manifest = Manifest("compact", "", EventSchema(()), (), files)
    (plot,) = overview.of_chunks(manifest).plots
    assert plot.alt == "Shares of 2 labels in 3 chunks; they differ by 0.300 at most"


def test_scores_of_several_outputs_have_a_curve_each_and_events_without_a_score_do_not_count() -> None:
    scores = pd.DataFrame({"score_a": [0.1, np.nan, 0.7], "score_b": [0.9, np.nan, 0.3], "MET_pt": [1.0, 2.0, 3.0]})
    (plot,) = overview.of_scores(scores).plots
    assert (plot.title, plot.alt) == ("Scores of 2 events", "Histogram of score_a, score_b")
    assert overview.of_scores(scores[["MET_pt"]]).plots == ()


def test_a_gallery_escapes_names() -> None:
    html = overview.of_specs(*_of(("MET_pt", "Jet_pt")))._repr_html_()
    assert html.count("<img") == 2
    hostile = overview.Gallery((Plot("x", "<script>", '"><script>', b"", b""),))._repr_html_()
    assert "<script>" not in hostile
