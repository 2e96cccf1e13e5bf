"""The verb inspect: what is in the files, and how fast they are read."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import awkward as ak
import numpy as np
import pytest
import uproot

from mlaas_spark import interrupts

if TYPE_CHECKING:
    from pathlib import Path

    from tests.end_to_end.conftest import Command

SPEED = r"(\d+) entries, (\d+) branches, \d+\.\d\d MB, \d+\.\d\d sec, \d+\.\d MB/sec, \d+\.\d kHz"
"""As MLaaS4HEP's reader prints it."""


@pytest.fixture
def rntuple(tmp_path: Path) -> str:
    """A file with an RNTuple of 60 entries and a TTree beside it."""
    lists = ak.Array([[1.0, 0.0, np.nan], [], [4.0]] * 20)
    with uproot.recreate(tmp_path / "rntuple.root", compression=None) as file:
        file.mkrntuple("Events", {"x": np.arange(60.0), "jagged": lists, "name": ["a"] * 60})
        file.mktree("Runs", {"run": np.dtype("i4")})
        file["Runs"].extend({"run": np.arange(2, dtype=np.int32)})
    return str(tmp_path / "rntuple.root")


def test_json_has_all_that_is_shown_and_is_alone_on_standard_output(run: Command, sample: Path) -> None:
    paths = sorted(map(str, sample.glob("*.root")))
    found: dict[str, Any] = json.loads(run("inspect", *paths, "--json").out)
    assert set(found) == {
        "files", "entries", "bytes", "compressed", "flat", "jagged", "attributes", "identifiers", "branches", "omitted",
        "read",
    }  # fmt: skip
    assert [set(file) for file in found["files"]] == [
        {"path", "format", "tree", "trees", "uuid", "entries", "clusters", "bytes"}
    ] * 4
    assert [file["trees"] for file in found["files"]] == [{"Events": 600}] * 4
    assert {key for branch in found["branches"] for key in branch} == {
        "name", "source", "dtype", "jagged", "compressed", "min", "max", "dim", "count", "nan", "inf", "zero",
        "zero_share",
    }  # fmt: skip
    speed = {"entries", "bytes", "seconds", "mb_per_second", "khz"}
    read = found["read"]
    assert set(read) == {"entries", "of", "branches", "reading", "elapsed", "chunks"}
    assert set(read["reading"]) == set(read["elapsed"]) == speed
    assert [set(chunk) for chunk in read["chunks"]] == [{*speed, "path", "start", "stop"}] * 4
    assert read["reading"]["seconds"] == pytest.approx(sum(chunk["seconds"] for chunk in read["chunks"]))


def test_json_is_alone_where_spark_submit_makes_one_stream_of_both_outputs(
    run: Command, sample: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYSPARK_GATEWAY_PORT", "1")  # as spark-submit sets it, whose process is the command's alone
    monkeypatch.setattr(interrupts, "program", lambda work, *_, **__: work())
    assert run("inspect", str(sample), "--headers", "--json").err == ""
    assert "open files done" in run("inspect", str(sample), "--headers").err


def test_attributes_are_those_that_specs_has(run: Command, sample: Path) -> None:
    found = json.loads(run("inspect", str(sample), "--json").out)
    dims, flat = [], 0
    with uproot.open(f"{sample}/signal_0.root:Events") as tree:
        names = tree.keys()
    for name in set(names) - {"run", "luminosityBlock", "event"}:
        arrays = [uproot.open(f"{path}:Events")[name].array() for path in sorted(sample.glob("*.root"))]
        if arrays[0].ndim == 1:
            flat += 1
        else:
            dims.append(max(int(ak.max(ak.num(array))) for array in arrays))
    assert found["attributes"] == flat + sum(dims)
    assert f"W = {found['attributes']} columns" in run("specs", str(sample)).out


def test_sample_is_told_as_one_and_taken_from_each_file(run: Command, sample: Path) -> None:
    out = run("inspect", str(sample), "--events", "100").out
    lines = [line for line in out.splitlines() if re.match(rf"# {SPEED}, \w+\.root \[0, 25\)$", line)]
    assert len(lines) == 4
    assert re.search(rf"^# total {SPEED}, seconds of reading, all tasks added$", out, re.MULTILINE)
    assert re.search(rf"^# total {SPEED}, by the clock, with statistics$", out, re.MULTILINE)
    assert "those of a sample, 100 of 2,400 entries; --events 2400 reads all" in out
    assert "those of all 2,400 entries" in run("inspect", str(sample), "--events", "2400").out


def test_headers_alone_are_shown_without_reading_events(run: Command, sample: Path) -> None:
    outcome = run("inspect", str(sample), "--headers")
    assert "read events" not in outcome.err
    assert "#" not in outcome.out
    assert "4 files, 2,400 entries" in outcome.out
    assert "8 flat and 9 jagged branches, 0 left out" in outcome.out
    found = json.loads(run("inspect", str(sample), "--headers", "--json").out)
    assert not {"read", "attributes"} & found.keys()


def test_rntuple_shows_its_statistics_its_pages_and_the_trees_beside_it(run: Command, rntuple: str) -> None:
    found = json.loads(run("inspect", rntuple, "--tree", "Events", "--json").out)
    assert found["files"][0]["trees"] == {"Events": 60, "Runs": 2}
    jagged, x = found["branches"]
    assert (x["min"], x["max"], x["dim"], x["zero_share"], x["compressed"]) == (0.0, 59.0, 1, 1 / 60, 480)
    assert (jagged["min"], jagged["max"], jagged["dim"], jagged["nan"]) == (0.0, 4.0, 3, 20)
    assert (jagged["zero_share"], jagged["compressed"]) == (0.25, 8 * 60 + 8 * 80)
    assert found["omitted"] == [
        {"name": "name", "reason": "strings are not numbers", "compressed": found["omitted"][0]["compressed"]}
    ]
    assert found["omitted"][0]["compressed"] >= 60
    assert "trees in rntuple.root: Events (60), Runs (2)" in run("inspect", rntuple, "--tree", "Events").out


def test_file_without_any_feature_is_shown_all_the_same(run: Command, tmp_path: Path) -> None:
    (tmp_path / "names.csv").write_text("run,name\n1,a\n2,b\n")
    found = json.loads(run("inspect", "names.csv", "--json").out)
    assert (found["attributes"], found["compressed"], found["read"]["entries"]) == (0, None, 2)
    assert found["omitted"] == [{"name": "name", "reason": "strings are not numbers", "compressed": None}]
    out = run("inspect", "names.csv").out
    assert re.search(r"^run +int32 +1 +1 +2 +0 +0 +0\.0 % +-", out, re.MULTILINE)
    assert "seconds that tasks waited for Spark's reader, all tasks added" in out


def test_selection_of_the_config_is_not_applied_and_that_is_told(run: Command, sample: Path, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(f"input: {{files: {sample}, selection: nMuon > 1, events: 40}}\n")
    outcome = run("inspect", "--config", "c.yaml", "--json")
    assert json.loads(outcome.out)["read"]["entries"] == 40
    assert "inspect shows all entries: the selection 'nMuon > 1' is not applied" in outcome.err
