"""report: one page that loads nothing, escapes every name, and shows what it is given."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import shlex
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml

from mlaas_spark.bottleneck import Streamed
from mlaas_spark.branch_specs import Specs
from mlaas_spark.config import FeatureConfig
from mlaas_spark.formats import Format
from mlaas_spark.manifest import DataFile, Input, Manifest
from mlaas_spark.plan import EntryRange, Plan, PlannedFile
from mlaas_spark.plots import Plot
from mlaas_spark.report import RunReport, matrix, mixing, page, render, render_comparison, timings
from mlaas_spark.report.histograms import BINS, Histogram, histograms, of_lengths
from mlaas_spark.schema import Branch, EventSchema, Omitted
from mlaas_spark.skipping import Skipped
from mlaas_spark.transform import FeatureTransform

HOSTILE = "<script>alert(1)</script>"
SVG = b"<svg xmlns='http://www.w3.org/2000/svg'/>"
VOID = {"meta", "br", "img", "hr", "link", "input", "use"}


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
        "config_yaml": yaml.safe_dump({"name": HOSTILE, "train": {"epochs": 5, "batch_size": 77}}),
        "command": f"mlaas-spark train {HOSTILE}",
        "run": {
            "started": "2026-01-01T00:00:00+00:00",
            "finished": "2026-01-01T00:01:00+00:00",
            "stages": [{"name": "specs", "seconds": 3.0, "events": 2, "khz": 0.1}],
            "digests": {"content": "c" * 64},
            "versions": {"mlaas-spark": "0.1.0"},
            "bundle": "model_0123",
            "chunks": "/runs/chunks",
            "resumed": None,
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
        "plots": (Plot("roc", f"ROC {HOSTILE}", f'curves" {HOSTILE}', b"PNG", SVG),),
        "folder": f"/runs/{HOSTILE}",
        "histograms": {"MET": Histogram(0.0, 3.0, {"0": (1, 0, 3), "1": (0, 2, 2)}, 1)},
        "sampled": 9,
    }
    return RunReport(**{**values, **changes})


class Page(HTMLParser):
    """Open tags, addresses, text and headings of a page; fails on a tag that is closed and was not open."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.keys: set[str] = set()
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.keys |= {key for key, _ in attrs}
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


@pytest.mark.parametrize("hostile", [HOSTILE, '"><img src=x onerror=alert(1)>', "</script></style></table>"])
def test_names_from_files_and_users_are_escaped_everywhere(hostile: str) -> None:
    branches = [Branch(hostile, hostile, "float32", jagged=False), Branch("n", "n", "float32", jagged=True)]
    specs = Specs.of(pa.RecordBatch.from_pydict({hostile: [1.0, 2.0], "n": [[1.0], []]}), [hostile, "n"])
    schema = EventSchema.of(branches, [Omitted(f"b{hostile}", f"why {hostile}")])
    file = PlannedFile(f"/data/{hostile}.root", Format.ROOT, f"T{hostile}", "0" * 32, 2, 1.0, 1.0, "", (0, 2))
    made = render(
        report(
            name=hostile,
            command=f"train {hostile}",
            config_yaml=yaml.safe_dump({"name": hostile}),
            specs=specs,
            transform=FeatureTransform.of(specs, FeatureConfig()),
            plan=Plan((file,), schema, (EntryRange(0, 0, 2, 2),)),
            bundle=f"/runs/{hostile}.tar.gz",
            folder=f"/runs/{hostile}",
            histograms={hostile: Histogram(0.0, 1.0, {hostile: (1, 2)}, 0)},
            plots=(Plot("roc", hostile, hostile, b"", SVG),),
            metrics={"class_names": {"0": hostile}, "notes": [hostile], "split": "test"},
        )
    )
    assert hostile not in made
    assert Page(made).open == []
    assert Page(made).tags.count("script") == 1
    assert Page(made).tags.count("img") == 1
    assert not {key for key in Page(made).keys if key.startswith("on")}


def test_a_name_is_no_template() -> None:
    assert "<h1>{{ 7 * 7 }}</h1>" in render(report(name="{{ 7 * 7 }}"))


def test_control_codes_of_names_are_spelled_out() -> None:
    page = render(report(name="a\x1b[2J\u202eb"))
    assert r"a\x1b[2J\u202eb" in page
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", page)


def test_nothing_is_loaded_from_anywhere() -> None:
    made = render(report())
    assert all(address.startswith(("#", "data:image/svg+xml;base64,")) for address in Page(made).addresses)
    assert not re.search(r"@import|url\((?!#)", made)


def test_the_page_forbids_itself_whatever_it_does_not_need() -> None:
    made = render(report())
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', made)
    assert policy.startswith("default-src &#39;none&#39;; img-src data:")
    (script,) = re.findall(r"<script>(.*?)</script>", made, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"&#39;sha256-{digest}&#39;" in policy.replace("&#43;", "+")
    assert "innerHTML" not in script


def test_equal_reports_give_equal_pages() -> None:
    assert render(report()) == render(report())


@pytest.mark.parametrize("part", ["0.8123", "0.7500", "model_0123", "serve-check", "strings are not numbers"])
def test_page_tells_results_and_how_to_serve_them(part: str) -> None:
    assert part in render(report())


def cells(made: str, name: str) -> list[str]:
    """Numbers in the row of a table that is called so."""
    row = re.search(rf'<th scope="row"[^>]*>{re.escape(name)}</th>(.*?)</tr>', made, re.DOTALL)
    assert row is not None, name
    return re.findall(r'<td class="n"[^>]*>(.*?)</td>', row.group(1))


def test_specs_are_shown_with_what_a_cap_cuts() -> None:
    # columns, longest, min, max, mean, std, zero, NaN and inf, padding, cut
    assert cells(render(report()), "Jet_pt") == ["2", "3", "1", "3", "2", "0.8165", "0.0 %", "0", "50.0 %", "1"]
    assert cells(render(report()), "MET") == ["1", "1", "1", "2", "1.5", "0.5", "0.0 %", "0", "0.0 %", "0"]


def test_share_of_the_matrix_that_is_values() -> None:
    # 2 events x 3 columns: 2 flat values and 2 of the 3 jagged ones
    assert "66.7 % of the matrix are values, 33.3 % padding, 0.0 % missing" in render(report())


def test_every_cell_of_the_matrix_is_a_value_padding_or_missing() -> None:
    batch = pa.RecordBatch.from_pydict(
        {"a": [1.0, float("nan"), 2.0], "b": [[1.0, float("inf")], [], [1.0, 2.0, 3.0, 4.0]]}
    )
    specs = Specs.of(batch, ["a", "b"])
    transform = FeatureTransform.of(specs, FeatureConfig(caps={"b": 3}))
    found = matrix.filling(specs, transform)
    assert found is not None
    made = transform.matrix(batch)
    whole = matrix.together(found)
    assert whole.cells == made.mask.size
    assert whole.values == made.mask.sum()
    assert whole.missing == made.missing.sum()
    assert whole.cut == made.cut.sum() == 1


def test_specs_of_ranges_alone_tell_of_no_padding() -> None:
    ranges = Specs(0, {name: replace(stats, count=0) for name, stats in report().specs.branches.items()})
    made = render(report(specs=ranges))
    assert "The specs hold ranges only" in made
    assert cells(made, "MET") == ["1", "1", "1", "2"]


def test_caps_that_would_save_columns_are_told_as_the_config_takes_them() -> None:
    lengths = [[1.0]] * 199 + [[1.0] * 50]
    specs = Specs.of(pa.RecordBatch.from_pydict({"b": lengths}), ["b"])
    found = matrix.caps(specs, FeatureTransform.of(specs, FeatureConfig()))
    assert found is not None
    assert (found.width, yaml.safe_load(found.text)) == (1, {"features": {"caps": {"b": 1}}})
    assert matrix.caps(specs, FeatureTransform.of(specs, FeatureConfig(caps={"b": 1}))) is None


def test_settings_that_are_not_the_default_are_shown_and_no_others() -> None:
    made = render(report())
    asked = made[made.index('id="asked-c"') : made.index("The whole config")]
    assert re.findall(r'<th scope="row"><code>(.*?)</code>', asked) == ["name", "train.batch_size"]
    assert "77" in asked


def test_commands_can_be_pasted_whatever_the_folder_is_called() -> None:
    made = html.unescape(render(report(folder="/runs/it's a run", bundle="/runs/it's a run/b.tar.gz")))
    (again,) = re.findall(r"<pre [^>]*>(mlaas-spark train --config .*?)</pre>", made)
    assert shlex.split(again)[-1] == "/runs/it's a run/config.yaml"
    (check,) = re.findall(r"<pre [^>]*>(mlaas-spark serve-check .*?)</pre>", made)
    assert shlex.split(check) == ["mlaas-spark", "serve-check", "/runs/it's a run/b.tar.gz"]
    (curl,) = re.findall(r"<pre [^>]*>(curl .*?)</pre>", made)
    assert json.loads(shlex.split(curl)[4].replace("[...]", "[]"))["model"] == "model_0123"


def test_the_bottleneck_is_the_longest_stage() -> None:
    stages = [
        {"name": name, "seconds": seconds, "events": None, "khz": None}
        for name, seconds in (("specs", 3.0), ("train", 40.0), ("export", 7.0))
    ]
    run = {**report().run, "stages": stages}
    found = timings.timings(run)
    assert [(stage.name, stage.share) for stage in found] == [
        ("specs", 3 / 60),
        ("train", 40 / 60),
        ("export", 7 / 60),
        ("between the stages", 10 / 60),
    ]
    made = render(report(run=run))
    assert "The bottleneck is <strong>train</strong>: 40 s, 66.7 % of the run. To shorten it: fewer epochs" in made
    assert "What train did" not in made


def test_parts_of_the_stages_are_told_apart() -> None:
    of_specs = {"reading": 1.0, "decompressing": 5.0, "kernel": 3.0, "the rest": 1.0}
    of_train = Streamed(waited=4, kernel=6, read=1, decoded=1, handed=12, first=2, fit=20).parts(40)
    stages = [
        {"name": "specs", "seconds": 10.0, "events": None, "khz": None, "parts": of_specs},
        {"name": "train", "seconds": 40.0, "events": None, "khz": None, "parts": of_train},
    ]
    made = render(report(run={**report().run, "stages": stages}))
    assert "The bottleneck is <strong>fit</strong>: 20 s of the 40 s of train" in made
    parts = made[made.index('id="parts-1-c"') :]
    shown = re.findall(r'<th scope="row">(.*?)</th>.*?<td class="n"[^>]*>([\d.]+)</td></tr>', parts)[:11]
    assert [(name, float(seconds)) for name, seconds in shown] == [
        *of_specs.items(),
        *(("reading", 0.5), ("decompressing", 0.5), ("kernel", 3.0), ("hand-over to TensorFlow", 8.0)),
        *(("first step", 2.0), ("fit", 20.0), ("the rest", 6.0)),
    ]


def test_what_was_skipped_is_told_with_file_entries_and_reason() -> None:
    bad = Skipped("/data/<i>bad.root", "basket 3 <b>is torn</b>", "Events", "k", 1_000, 3_500)
    gone = Skipped("/data/gone.root", "no header")
    one = report().manifest
    inputs = (replace(one.inputs[0], entries=4_000, skipped=2_500, events=2),)
    made = render(report(manifest=replace(one, inputs=inputs, skipped=(bad, gone))))
    assert "4,000 entries asked for = 2 events used + 1,498 that failed the selection + 2,500 that are damaged" in made
    table = made[made.index('id="skipped-c"') : made.index('id="branches"')]
    cells = re.findall(r"<(?:td|th scope=.row.)[^>]*>(.*?)</t[dh]>", table)
    assert cells == [
        *("/data/&lt;i&gt;bad.root", "Events", "[1,000, 3,500)", "2,500", "basket 3 &lt;b&gt;is torn&lt;/b&gt;"),
        *("/data/gone.root", "-", "all", "not known", "no header"),
    ]
    assert "nothing was skipped" not in made
    assert "1 file that could not be opened" in made
    assert "Of these files nothing was skipped as damaged." in render(report())
    many = tuple(replace(bad, path=f"/data/{k:03}.root") for k in range(203))
    assert "And 3 more: see skipped.json." in render(report(manifest=replace(one, inputs=inputs, skipped=many)))


def test_chunks_tell_files_splits_and_labels() -> None:
    files = (
        DataFile("train/0.parquet", 6, 10, ((0, 0, 3), (1, 0, 3)), "d", 0, "train", {"0": 3, "1": 3}),
        DataFile("test/0.parquet", 2, 10, ((2, 0, 2),), "d", 0, "test", {"0": 2}),
        DataFile("train/1.parquet", 4, 10, ((0, 3, 7),), "d", 1, "train", {"1": 4}),
    )
    manifest = replace(report().manifest, files=files)
    first, second = mixing.chunks(manifest)
    assert (first.events, first.files, first.splits) == (8, 3, {"train": 6, "test": 2})
    assert (first.share("0"), second.share("1"), second.files) == (5 / 8, 1.0, 1)
    assert [(one.label, one.share, one.least, one.most) for one in mixing.spreads([first, second])] == [
        ("0", 5 / 12, 0.0, 5 / 8),
        ("1", 7 / 12, 3 / 8, 1.0),
    ]
    assert "41.7 % of all events, 0.0 % to 62.5 % of a chunk" in render(report(manifest=manifest))


def test_histograms_are_of_the_values_before_normalisation() -> None:
    rng = np.random.default_rng(4)
    flat, lengths = rng.normal(50, 9, 500).astype(np.float32), rng.integers(0, 4, 500)
    batch = pa.RecordBatch.from_pydict({"x": flat, "n": [list(np.arange(n, dtype=np.float32)) for n in lengths]})
    specs = Specs.of(batch, ["x", "n"])
    transform = FeatureTransform.of(specs, FeatureConfig(normalise="standard"))
    made = transform.matrix(batch)
    first = np.arange(500) < 200
    found = histograms(made.matrix, made.mask, transform, {"0": first, "1": ~first})
    x, n = found["x"], found["n"]
    low, high = np.quantile(flat.astype(np.float64), [0.002, 0.998])
    assert (x.low, x.high) == pytest.approx((low, high), rel=1e-4)
    assert x.bins == BINS
    assert sum(map(sum, x.counts.values())) + x.outside == 500
    assert (n.ends, n.whole) == ((0.0, 2.0), True)
    assert n.counts["0"] == tuple(int((lengths[:200] > value).sum()) for value in range(3))
    assert n.counts["1"] == tuple(int((lengths[200:] > value).sum()) for value in range(3))


def test_bins_of_whole_numbers_hold_as_many_of_them_each() -> None:
    vertices = np.arange(40, dtype=np.float32).repeat(10)  # flat: bins of 40 / 24 whole numbers would have teeth
    batch = pa.RecordBatch.from_pydict({"n": vertices})
    specs = Specs.of(batch, ["n"])
    transform = FeatureTransform.of(specs, FeatureConfig())
    made = transform.matrix(batch)
    found = histograms(made.matrix, made.mask, transform, {"": np.ones(400, bool)})["n"]
    assert found.whole
    assert set(found.counts[""]) == {20}
    assert (found.ends, found.outside) == ((0.0, 39.0), 0)


def test_histograms_of_lengths_count_every_event() -> None:
    found = of_lengths((4, 0, 3))
    assert found is not None
    assert (found.counts[""], found.ends, found.outside) == ((4, 0, 3), (0.0, 2.0), 0)
    assert of_lengths(()) is None
    many = of_lengths((1000, *[0] * 98, 1))
    assert many is not None
    assert sum(many.counts[""]) + many.outside == 1001
    assert many.bins <= BINS


def test_a_branch_that_the_normalisation_flattens_is_told() -> None:
    batch = pa.RecordBatch.from_pydict({"MET": [1.0, 2.0], "Jet_pt": [[5.0], [5.0]]})
    specs = Specs.of(batch, ["MET", "Jet_pt"])
    made = render(report(specs=specs, transform=FeatureTransform.of(specs, FeatureConfig())))
    assert "The normalisation leaves nothing of Jet_pt:" in made
    assert "leaves nothing of" not in render(report())


@pytest.mark.parametrize(
    ("value", "said"), [(0.42, "0.4 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (7260.0, "2 h 1 min")]
)
def test_times_are_said_as_people_say_them(value: float, said: str) -> None:
    assert page.seconds(value) == said


@pytest.mark.parametrize(
    ("value", "said"), [(0.0, "0.0 %"), (1e-6, "< 0.1 %"), (0.5, "50.0 %"), (0.99999, "> 99.9 %"), (1.0, "100.0 %")]
)
def test_shares_are_nothing_or_all_only_if_they_are(value: float, said: str) -> None:
    assert page.percent(value) == said


def test_images_are_in_the_page_with_words_for_those_who_do_not_see_them() -> None:
    (address,) = (address for address in Page(render(report())).addresses if address.startswith("data:"))
    assert base64.b64decode(address.partition(",")[2]) == SVG
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
    assert page.count("0.125") >= 6
    assert re.search(r"0\.1[23] ± 0\.1[23]", page)  # the bias with its error, rounded as the PDG does


def compared(**changes: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Two runs and their comparison, as mlaas_spark.history gives them."""
    runs = [
        {"name": f"demo/{k} {HOSTILE}", "folder": f"/runs/{k}", "started": "2026-01-01T00:00:00+00:00"}
        | {"command": f"mlaas-spark train {HOSTILE}", "split": "test", "events": {"train": 1000 * (k + 1)}}
        | {
            "curves": {
                "fits": [1, 2, 3][: k + 2],
                "series": {"loss": [0.9, 0.5, 0.375][: k + 2], HOSTILE: [1.0] * (k + 2)},
            }
        }
        for k in range(2)
    ]
    comparison = {
        "metrics": {
            "auc": (0.8, 0.9),
            "loss": (0.5, 0.6),
            f"{HOSTILE}.rmse": (1.0, None),
            "auc_interval.std": (0.1, 0.2),
        },
        "seconds": {"specs": (1.0, 3.0), "train": (4.0, None)},
        "settings": {"train.epochs": (5, 7), "name": (HOSTILE, None)},
        "data": {},
        "code": {"keras": ("3.1", "3.2")},
    }
    return runs, {**comparison, **changes}


def test_a_comparison_shows_values_differences_and_the_best() -> None:
    made = render_comparison(*compared())
    assert Page(made).open == []
    assert HOSTILE not in made
    assert Page(made).tags.count("script") == 1
    rows = {
        name: re.findall(r'<td class="n([^"]*)">([^<]*)', row)
        for name, row in re.findall(
            r'<th scope="row">(AUC|loss|AUC, uncertainty \(bootstrap\))</th>(.*?)</tr>', made, re.DOTALL
        )
    }
    assert rows == {
        "AUC": [("", "0.8"), (" best", "0.9"), (" soft", "+0.1")],
        "loss": [(" best", "0.5"), ("", "0.6"), (" soft", "+0.1")],
        "AUC, uncertainty (bootstrap)": [("", "0.1"), ("", "0.2"), (" soft", "+0.1")],
    }
    assert "The data are the same, to the digest of all values." in made
    assert re.search(r'<th scope="row">all</th><td class="n">5.0</td><td class="n">3.0</td>', made)


def test_a_comparison_draws_the_learning_curves_of_all_runs_in_the_colours_of_the_table() -> None:
    runs, rows = compared()
    made = render_comparison(runs, rows)
    (address,) = (address for address in Page(made).addresses if address.startswith("data:"))
    svg = base64.b64decode(address.partition(",")[2]).decode()
    assert svg.count("stroke: var(--c2)") > 0  # the first run's, and the second's
    assert svg.count("stroke: var(--c3)") > 0
    assert re.search(r'alt="Learning curves; loss at the end: A 0.5, B 0.375"', made)
    table = made[made.index('id="fits-c"') : made.index('id="seconds"')]
    assert re.findall(r'<tr><th scope="row" class="n"[^>]*>(\d)</th>(.*?)</tr>', table) == [
        (str(fit), f'<td class="n" data-v="{a}">{a or "-"}</td><td class="n" data-v="{b}">{b}</td>')
        for fit, a, b in ((1, 0.9, 0.9), (2, 0.5, 0.5), (3, "", 0.375))
    ]
    assert Page(made).open == []
    without = render_comparison([{**run, "curves": {}} for run in runs], rows)
    assert "None of these runs has a history of its training." in without


def test_a_best_that_may_be_the_best_by_chance_is_not_praised_alone() -> None:
    said = "may be the best by chance"
    assert said in render_comparison(*compared())  # 0.8 and 0.9, with 0.1 and 0.2
    runs, rows = compared()
    surer = {**rows, "metrics": {**rows["metrics"], "auc_interval.std": (0.01, 0.02)}}
    assert said not in render_comparison(runs, surer)


def test_a_comparison_says_when_metrics_are_of_different_events() -> None:
    runs, rows = compared()
    assert "of different events" not in render_comparison(runs, rows)
    assert "of different events: test, validation" in render_comparison(
        [runs[0], {**runs[1], "split": "validation"}], rows
    )
