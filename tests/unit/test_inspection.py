"""inspection: sums that say when something is not known, W, rates, and values that JSON has."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from mlaas_spark.branch_specs import BranchStats, Specs
from mlaas_spark.formats import Format
from mlaas_spark.inspection import Headers, Inspection, OnDisk, Reading, added
from mlaas_spark.plan import EntryRange, Plan, PlannedFile
from mlaas_spark.schema import Branch, EventSchema, Omitted

FILES = tuple(
    PlannedFile(f"/d/{name}.root", Format.ROOT, "Events", name, entries, None, 1.0, "", (0, entries), steps)
    for name, entries, steps in (("a", 100, ()), ("b", 50, ((10, 20), (30, 40))))
)
SCHEMA = EventSchema.of(
    [
        Branch("Jet_pt", "Jet.pt", "float32", jagged=True),
        Branch("MET", "MET", "float32", jagged=False),
        Branch("event", "event", "uint64", jagged=False),
        Branch("twice", "=2*MET", "float64", jagged=False),
    ],
    [Omitted("name", "strings are not numbers")],
)
READINGS = (
    Reading(EntryRange(0, 0, 60, 60), 6_000_000, 0.5),
    Reading(EntryRange(1, 10, 20, 10), 1_000_000, 1.5),
)
SPECS = Specs(
    70,
    {
        "Jet_pt": BranchStats(jagged=True, count=0, lengths=(70,), dim=0),
        "MET": BranchStats(jagged=False, count=70, nan=3, inf=1, zero=7, minimum=-1.0, maximum=2.5, dim=1),
        "event": BranchStats(jagged=False, count=70, minimum=0.0, maximum=69.0, dim=1),
        "twice": BranchStats(jagged=False, count=70, minimum=-2.0, maximum=5.0, dim=1),
    },
)


def inspection(**changes: Any) -> Inspection:
    plan = Plan(FILES, SCHEMA, tuple(reading.entries for reading in READINGS))
    sizes = {"Jet.pt": 900, "MET": 80, "event": 20, "name": 1000}
    headers = Headers(plan, (OnDisk(2000, {"Events": 100, "Runs": 1}), OnDisk(1500, {"Events": 50})), sizes, ("event",))
    return dataclasses.replace(Inspection(headers, SPECS, ("Jet_pt", "MET", "twice"), READINGS, 4.0), **changes)


def test_values_are_those_that_json_has() -> None:
    content = inspection().to_json()
    assert json.loads(json.dumps(content, allow_nan=False)) == content


def test_entries_of_files_with_steps_are_those_of_the_steps() -> None:
    content = inspection().to_json()
    assert content["entries"] == content["read"]["of"] == 120
    assert [file["entries"] for file in content["files"]] == [100, 50]
    assert content["read"]["entries"] == 70


def test_speed_is_told_of_each_chunk_of_reading_and_by_the_clock() -> None:
    read = inspection().to_json()["read"]
    first, second = read["chunks"]
    assert (first["path"], first["start"], first["stop"], first["entries"]) == ("/d/a.root", 0, 60, 60)
    assert (first["mb_per_second"], first["khz"]) == (12.0, 0.12)
    assert (second["path"], second["seconds"]) == ("/d/b.root", 1.5)
    assert (read["reading"]["seconds"], read["reading"]["mb_per_second"], read["reading"]["khz"]) == (2.0, 3.5, 0.035)
    assert (read["elapsed"]["seconds"], read["elapsed"]["mb_per_second"]) == (4.0, 1.75)
    assert inspection(elapsed=0.0).to_json()["read"]["elapsed"]["khz"] is None


def test_branches_have_their_statistics_and_size_and_one_without_values_has_none() -> None:
    jets, met, _, derived = inspection().to_json()["branches"]
    assert (met["min"], met["max"], met["dim"], met["nan"], met["inf"]) == (-1.0, 2.5, 1, 3, 1)
    assert (met["zero"], met["zero_share"], met["compressed"]) == (7, 0.1, 80)
    assert (jets["min"], jets["max"], jets["dim"], jets["zero_share"], jets["compressed"]) == (None, None, 0, None, 900)
    assert derived["compressed"] is None
    assert inspection().to_json()["omitted"] == [
        {"name": "name", "reason": "strings are not numbers", "compressed": 1000}
    ]


@pytest.mark.parametrize(
    ("dim", "features", "width"), [(0, ("Jet_pt", "MET"), 1), (5, ("Jet_pt", "MET"), 6), (5, (), 0)]
)
def test_attributes_are_columns_of_the_features(dim: int, features: tuple[str, ...], width: int) -> None:
    jets = BranchStats(jagged=True, dim=dim)
    assert inspection(specs=Specs(70, {**SPECS.branches, "Jet_pt": jets}), features=features).width == width


def test_headers_alone_tell_nothing_of_events() -> None:
    content = inspection().headers.to_json()
    assert not {"read", "attributes"} & content.keys()
    assert content["branches"][1] == {
        "name": "MET", "source": "MET", "dtype": "float32", "jagged": False, "compressed": 80
    }  # fmt: skip
    assert (content["flat"], content["jagged"], content["bytes"], content["compressed"]) == (3, 1, 3500, 2000)
    assert [file["trees"] for file in content["files"]] == [{"Events": 100, "Runs": 1}, {"Events": 50}]


def test_sizes_add_up_over_files_and_what_one_does_not_tell_is_not_known() -> None:
    parts: list[dict[str, int | None]] = [{"a": 1, "b": None, "c": 0}, {"a": 2, "b": 5}, {"d": None}]
    assert added(parts) == {"a": 3, "b": None, "c": 0, "d": None}
    assert added([]) == {}


def test_what_is_left_out_by_its_column_name_has_its_size() -> None:
    headers = inspection().headers
    schema = EventSchema.of([], [Omitted("Jet_pt", "excluded by --branches or --exclude")])
    headers = dataclasses.replace(headers, plan=dataclasses.replace(headers.plan, schema=schema))
    assert [item["compressed"] for item in headers.to_json()["omitted"]] == [900]


@pytest.mark.parametrize(("sizes", "total"), [({"MET": 1, "x": 2}, 3), ({"MET": 1, "x": None}, None), ({}, None)])
def test_total_is_known_where_all_are(sizes: dict[str, int | None], total: int | None) -> None:
    headers = dataclasses.replace(inspection().headers, compressed=sizes)
    assert headers.to_json()["compressed"] == total
