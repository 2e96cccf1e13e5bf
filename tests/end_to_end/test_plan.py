"""The verb plan: how a job would divide its work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

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
