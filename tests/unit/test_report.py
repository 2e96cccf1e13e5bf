"""report: one page that loads nothing, escapes every name, and shows what it is given."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from typing import Any

import pyarrow as pa
import pytest

from mlaas_spark.branch_specs import Specs
from mlaas_spark.config import FeatureConfig, Format
from mlaas_spark.manifest import DataFile, Input, Manifest
from mlaas_spark.plan import EntryRange, Plan, PlannedFile
from mlaas_spark.plots import Plot
from mlaas_spark.report import RunReport, render
from mlaas_spark.schema import Branch, EventSchema, Omitted
from mlaas_spark.transform import FeatureTransform

HOSTILE = "<script>alert(1)</script>"
PNG = b"\x89PNG of a test"
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
            "overtraining": {"0": {"statistic": 0.0123, "p": 0.4}},
            "class_names": {"0": HOSTILE},
            "split": "test",
            "notes": [],
        },
        "bundle": "/runs/bundle/model_0123.tar.gz",
        "plots": (Plot("roc", f"ROC {HOSTILE}", f'curves" {HOSTILE}', PNG),),
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


def test_control_codes_of_names_are_spelled_out() -> None:
    page = render(report(name="a\x1b[2J\u202eb"))
    assert r"a\x1b[2J\u202eb" in page
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", page)


def test_nothing_is_loaded_from_anywhere() -> None:
    page = render(report())
    assert all(address.startswith(("#", "data:image/png;base64,")) for address in Page(page).addresses)
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


def test_images_are_in_the_page_with_words_for_those_who_do_not_see_them() -> None:
    (address,) = (address for address in Page(render(report())).addresses if address.startswith("data:"))
    assert base64.b64decode(address.partition(",")[2]) == PNG
    assert re.search(r'<img src="data:[^"]*" alt="curves&#34; &lt;script&gt;', render(report()))


def test_metrics_are_in_tables() -> None:
    page = render(report())
    row = re.search(r'<th scope="row">0 \(&lt;script&gt;.*?</tr>', page)
    assert row is not None
    assert re.findall(r'<td class="n">(.*?)</td>', row.group(0)) == ["0.0123", "0.4"]


def test_a_model_without_metrics_has_a_page_with_the_notes() -> None:
    page = render(report(metrics={"loss": 1.0, "auc": None, "notes": ["no AUC: three classes"]}, plots=()))
    assert "<img" not in page
    assert "no AUC: three classes" in page


def test_a_regression_shows_its_errors_among_the_numbers() -> None:
    numbers = dict.fromkeys(["bias", "bias_error", "std", "rmse", "mae", "r2", "median", "half_width_68"], 0.125)
    of = {**numbers, "relative": {"median": 0.1, "half_width_68": None}, "overtraining": None}
    page = render(report(metrics={"residuals": {"E_true": of}, "notes": []}))
    assert "RMSE of E_true" in page
    assert page.count("0.125") >= 8
