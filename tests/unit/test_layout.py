"""layout: spans, order and names of the columns of the feature matrix."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlaas_spark.errors import BranchNotFoundError, SpecsError
from mlaas_spark.layout import FeatureLayout

LAYOUT = FeatureLayout.of(flat=["PV_npvs", "MET_pt"], jagged={"Jet_pt": 3, "Electron_pt": 2, "Never": 0})


@given(jagged=st.dictionaries(st.text(), st.integers(0, 9)))
def test_spans_tile_the_width_without_gap_or_overlap(jagged: dict[str, int]) -> None:
    layout = FeatureLayout.of(flat=[], jagged=jagged)
    spans = [layout.span(name) for name in sorted(jagged)]
    assert [c for s in spans for c in range(s.start, s.stop)] == list(range(layout.width))


def test_flat_branches_come_first_whatever_order_they_were_named_in() -> None:
    layout = FeatureLayout.of(flat=["PV_npvs", "MET_pt"], jagged={"Jet_pt": 3})
    assert [name for name, _ in layout.dims] == ["MET_pt", "PV_npvs", "Jet_pt"]


def test_unknown_branch_error_names_the_nearest_one() -> None:
    with pytest.raises(BranchNotFoundError, match=r"Jet_pT.*Jet_pt"):
        FeatureLayout.of(flat=[], jagged={"Jet_pt": 3}).span("Jet_pT")


def test_every_branch_has_its_span() -> None:
    assert LAYOUT.branches == ("MET_pt", "PV_npvs", "Electron_pt", "Jet_pt", "Never")
    spans = [LAYOUT.span(name) for name in LAYOUT.branches]
    assert spans == [slice(0, 1), slice(1, 2), slice(2, 4), slice(4, 7), slice(7, 7)]
    assert LAYOUT.width == 7


def test_columns_of_jagged_branches_are_numbered_also_a_single_one() -> None:
    assert LAYOUT.columns({"Jet_pt", "Electron_pt", "Never"}) == [
        "MET_pt",
        "PV_npvs",
        "Electron_pt_0",
        "Electron_pt_1",
        "Jet_pt_0",
        "Jet_pt_1",
        "Jet_pt_2",
    ]
    assert FeatureLayout.of([], {"Jet_pt": 1}).columns(["Jet_pt"]) == ["Jet_pt_0"]


@given(st.sets(st.text(max_size=3)), st.dictionaries(st.text(min_size=4), st.integers(0, 9)))
def test_layout_reads_back_from_json_and_has_a_name_for_each_column(flat: set[str], jagged: dict[str, int]) -> None:
    layout = FeatureLayout.of(flat, jagged)
    assert FeatureLayout.from_json(json.loads(json.dumps(layout.to_json()))) == layout
    assert len(layout.columns(jagged)) == layout.width == len(flat) + sum(jagged.values())


def test_branch_that_is_flat_and_jagged_is_refused() -> None:
    with pytest.raises(SpecsError, match=r"branches \['a', 'c'\] are listed as flat and as jagged"):
        FeatureLayout.of(["c", "a", "b"], {"a": 1, "c": 2})
