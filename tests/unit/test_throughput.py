"""throughput: rates and limits are those of a calculation by hand; the machine is measured; nothing is left."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from mlaas_spark import pipeline, throughput
from mlaas_spark.cli import main
from mlaas_spark.estimate import Timing
from mlaas_spark.throughput import Machine
from tests.unit import test_estimate as estimated

if TYPE_CHECKING:
    from pathlib import Path

# its chunks are too short to tell what a job costs: 1 s for 500
PROBE = replace(estimated.PROBE, chunks=Timing(first=1.0, again=1.0, whole=1.0, small=100, large=500), compact=1_000.0)
MACHINE = Machine(read=1e6, write=2e6, copy=1e9)


def test_rates_are_of_all_cores_and_limits_of_what_binds_first() -> None:
    found = throughput.compare(PROBE, 100.0, MACHINE, handed=500.0)
    told: dict[str, Any] = {rate.stage: (rate.khz, rate.limit, rate.limited_by) for rate in found.rates}
    assert told == {
        "convert": (pytest.approx(2.0), pytest.approx(10.0), "reading the files"),
        "specs": (pytest.approx(4.0), pytest.approx(10.0), "reading the files"),
        "chunks": (pytest.approx(1.0), pytest.approx(2.0), "writing"),
        "stream": (pytest.approx(2.0), pytest.approx(40_000.0), "copying in memory"),
        "hand-over to TensorFlow": (pytest.approx(0.5), pytest.approx(20_000.0), "copying in memory, one core"),
    }
    assert found.slowest.stage == "hand-over to TensorFlow"


def test_files_elsewhere_set_no_limit_of_reading() -> None:
    found = throughput.compare(PROBE, 100.0, Machine(None, 2e6, 1e9), handed=None)
    assert [rate.limited_by for rate in found.rates] == ["writing", "copying in memory", "writing", "copying in memory"]


def test_machine_is_measured_and_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throughput, "_WRITTEN", throughput._BLOCK)  # noqa: SLF001
    monkeypatch.setattr(throughput, "_COPIED", 1 << 20)
    (tmp_path / "a").write_bytes(bytes(1 << 20))
    found = throughput.machine([tmp_path / "a"], tmp_path)
    assert found.read is not None
    assert min(found.read, found.write, found.copy) > 0
    assert throughput.machine([], tmp_path).read is None
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_batches_are_timed_when_they_are_taken_again() -> None:
    passes = []

    class Batches:
        def __iter__(self) -> object:
            passes.append(1)
            return iter(np.arange(3))

    assert throughput.seconds_of(Batches()) >= 0  # type: ignore[arg-type]
    assert len(passes) == 2


def test_verb_shows_each_stage_and_names_the_slowest(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pipeline, "throughput", lambda *_: throughput.compare(PROBE, 100.0, MACHINE, 500.0))
    assert main(["throughput", "a.root"]) == 0
    shown = capsys.readouterr().out
    (line,) = (line for line in shown.splitlines() if line.startswith("convert"))
    assert line.split() == ["convert", "2.0", "10", "reading", "the", "files", "20.0", "%"]
    assert "slowest: hand-over to TensorFlow; a larger train.batch_size" in shown
    assert main(["throughput", "a.root", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["slowest"] == "hand-over to TensorFlow"
