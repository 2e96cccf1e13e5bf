"""report: one page that loads nothing, escapes every name, and shows what it is given."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import pyarrow as pa
import pytest

from mlaas_spark.config import FeatureConfig, Format
from mlaas_spark.manifest import DataFile, Input, Manifest
from mlaas_spark.plan import EntryRange, Plan, PlannedFile
from mlaas_spark.report import RunReport, render
from mlaas_spark.schema import Branch, EventSchema, Omitted
from mlaas_spark.specs import Specs
from mlaas_spark.transform import FeatureTransform

HOSTILE = "<script>alert(1)</script>"
VOID = {"meta", "br", "img", "hr", "link", "input", "path", "use"}


def report(**changes: Any) -> RunReport:
    schema = EventSchema.of(
        [Branch("MET", "MET", "float32", jagged=False), Branch("Jet_pt", "Jet_pt", "float32", jagged=True)],
        [Omitted(HOSTILE, "strings are not numbers")],
    )
    batch = pa.RecordBatch.from_pydict({"MET": [1.0, 2.0], "Jet_pt": [[1.0, 2.0, 3.0], []]})
    specs = Specs.of(batch, ["MET", "Jet_pt"])
    file = PlannedFile(f"/data/{HOSTILE}.root", Format.ROOT, "Events", "0" * 32, 2, 1.0, 1.0, "", (0, 2))
    manifest = Manifest(
        layout="compact",
        request="r" * 64,
        schema=schema,
        inputs=(Input(file.path, file.uuid, file.tree, 2, 2, 1.0, 1.0),),
        files=(DataFile("train/0.parquet", 2, 10, ((0, 0, 2),), "d", split="train", labels={"0": 1, "1": 1}),),
    )
    values: dict[str, Any] = {
        "name": "a run",
        "config_yaml": f"name: {HOSTILE}\n",
        "command": f"mlaas-spark train {HOSTILE}",
        "run": {
            "started": "2026-01-01T00:00:00+00:00",
            "finished": "2026-01-01T00:01:00+00:00",
            "stages": [{"name": "specs", "seconds": 3.0, "events": 2, "khz": 0.1}],
            "digests": {"content": "c" * 64},
            "versions": {"mlaas-spark": "0.1.0"},
            "bundle": "model_0123",
        },
        "manifest": manifest,
        "specs": specs,
        "transform": FeatureTransform.of(specs, FeatureConfig(caps={"Jet_pt": 2})),
        "plan": Plan((file,), schema, (EntryRange(0, 0, 2, 2),)),
        "metrics": {
            "auc": 0.8123,
            "accuracy": 0.75,
            "loss": 0.5,
            "roc": {"fpr": [0.0, 0.5, 1.0], "tpr": [0.0, 0.9, 1.0]},
            "scores": {"edges": [0.0, 0.5, 1.0], "counts": {HOSTILE: [3, 1], "1": [1, 3]}},
            "notes": {},
        },
        "history": [{"epoch": 0, "loss": 0.7, "val_loss": 0.6}, {"epoch": 1, "loss": 0.5, "val_loss": 0.55}],
        "bundle": "/runs/bundle/model_0123.tar.gz",
    }
    return RunReport(**{**values, **changes})


class Page(HTMLParser):
    """Open tags, addresses, text and headings of a page; fails on a tag that is closed and was not open."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for key, value in attrs if key in {"src", "href", "action", "data"}]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for key, value in attrs if key in {"src", "href", "xlink:href"}]

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open, f"</{tag}> without its beginning"
            assert self.open.pop() == tag


def test_every_tag_is_closed_in_its_order() -> None:
    assert Page(render(report())).open == []


def test_names_from_files_and_users_are_escaped_everywhere() -> None:
    page = render(report(name=HOSTILE))
    assert HOSTILE not in page
    assert page.count("&lt;script&gt;") >= 5
    assert "script" not in Page(page).tags


def test_nothing_is_loaded_from_anywhere() -> None:
    page = render(report())
    assert all(address.startswith("#") for address in Page(page).addresses)
    assert not re.search(r"@import|url\((?!#)", page)


def test_equal_reports_give_equal_pages() -> None:
    assert render(report()) == render(report())


@pytest.mark.parametrize("part", ["0.8123", "0.7500", "model_0123", "serve-check", "strings are not numbers"])
def test_page_tells_results_and_how_to_serve_them(part: str) -> None:
    assert part in render(report())


def test_values_cut_by_a_cap_are_shown_with_their_branch() -> None:
    row = re.search(r'<th scope="row">Jet_pt</th>(.*?)</tr>', render(report()))
    assert row is not None
    cells = re.findall(r'<td class="n">(.*?)</td>', row.group(1))
    assert cells[:4] == ["2", "1", "1", "3"]  # columns, cut, min, max


def test_share_of_the_matrix_that_is_values() -> None:
    # 2 events x 3 columns: 2 flat values and 2 of the 3 jagged ones
    assert "66.7 % of the matrix are values" in render(report())


def test_curves_follow_what_they_are_given() -> None:
    longer = [{"epoch": n, "loss": 1.0 / (n + 1), "val_loss": 1.1 / (n + 1)} for n in range(9)]
    page, other = render(report()), render(report(history=longer))
    assert page.count("<use ") < other.count("<use ")


def test_a_model_without_roc_has_a_page_without_it() -> None:
    page = render(report(metrics={"loss": 1.0, "auc": None, "notes": {"auc": "three classes"}}))
    assert "ROC curve" not in page
    assert "three classes" in page
