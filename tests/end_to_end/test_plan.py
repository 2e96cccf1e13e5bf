"""The verb plan: how a job would divide its work."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.end_to_end.conftest import Command


def test_plan_shows_ranges_partitions_events_and_bytes(run: Command, sample: Path) -> None:
    paths = sorted(map(str, sample.glob("*.root")))
    found = json.loads(run("plan", *paths, "--set", "spark.events_per_task=1000", "--json").out)
    sizes = [Path(path).stat().st_size for path in paths]
    assert [(file["path"], file["bytes"]) for file in found["files"]] == list(zip(paths, sizes, strict=True))
    assert sum(file["entries"] for file in found["files"]) == found["entries"]
    assert sum(file["ranges"] for file in found["files"]) == found["ranges"] >= len(paths)
    assert found["partitions"] == min(found["ranges"], 8)
    assert found["bytes"] == sum(sizes)
    assert found["mean"] * found["ranges"] == found["entries"]


def test_plan_is_told_in_a_line(run: Command, sample: Path) -> None:
    outcome = run("plan", str(sample))
    assert outcome.code == 0
    assert "2,400 events of 4 files, " in outcome.out
    assert "in 4 ranges and 4 partitions; a range has 600 events, the largest 600" in outcome.out


@pytest.fixture
def explained(run: Command, sample: Path, tmp_path: Path) -> dict[str, Any]:
    """What --explain says of the sample for 4 cores, into a folder that is not there."""
    out = tmp_path / "not" / "yet"
    outcome = run("plan", str(sample), "--explain", "--cores", "4", "--out", str(out), "--json")
    assert outcome.code == 0, outcome.err
    assert list(tmp_path.iterdir()) == []  # the probe leaves nothing
    found: dict[str, Any] = json.loads(outcome.out)
    return found


def test_what_is_explained_is_what_the_plan_says_and_the_verbs_write(
    run: Command, sample: Path, tmp_path: Path, explained: dict[str, Any]
) -> None:
    planned = json.loads(run("plan", str(sample), "--json").out)
    assert {key: explained[key] for key in planned} == planned
    figures = {name: figure["value"] for name, figure in explained["figures"].items()}
    assert (figures["ranges"], figures["entries"], figures["range.entries"]) == (4, 2_400, planned["largest"])
    assert figures["input.bytes"] == planned["bytes"]
    assert explained["warnings"] == []

    assert run("convert", str(sample), "--out", "parquet").code == 0
    signal = [{"files": [f"{sample}/{name}_*.root"], "label": label} for label, name in enumerate(("back*", "signal"))]
    for layout in ("compact", "dense"):
        groups = ("--set", f"input.groups={json.dumps(signal)}", "--set", f"chunks.layout={layout}")
        assert run("chunks", *groups, "--out", layout).code == 0
    written = {
        f"{what}.bytes": sum(path.stat().st_size for path in (tmp_path / folder).glob("*/*.parquet"))
        for what, folder in {"convert": "parquet", "compact": "compact", "dense": "dense"}.items()
    }
    assert all(size / 2 < figures[name] < 2 * size for name, size in written.items()), (figures, written)


def test_explain_tells_each_figure_in_a_line_and_warns(run: Command, sample: Path, tmp_path: Path) -> None:
    for number in range(9):  # one file of few events nine times, under other names
        shutil.copy(sample / "signal_0.root", tmp_path / f"{number}.root")
    outcome = run("plan", ".", "--allow-copies", "--explain", "--cores", "16")
    assert outcome.code == 0, outcome.err
    lines = {line.split("  ")[0]: line for line in outcome.out.splitlines()}
    assert " MB " in lines["output of convert"]
    assert "B an event, written by convert from a sample, x 5,400 events" in lines["output of convert"]
    assert " s " in lines["mlaas-spark train"]
    warnings = [line for line in outcome.out.splitlines() if line.startswith("warning: ")]
    assert len(warnings) == 1
    assert "9 ranges keep at most as many of 16 cores" in warnings[0]


def test_options_of_explain_without_it_are_refused(run: Command, sample: Path) -> None:
    outcome = run("plan", str(sample), "--cores", "4")
    assert (outcome.code, outcome.messages) == (2, ["error: --cores and --out go with --explain"])
