from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from benchmarks.growth import curves
from benchmarks.measure import PeakMemory
from benchmarks.measures import FULL, QUICK, Bench
from benchmarks.rows import ROWS, Row, chosen, together
from benchmarks.serve import Served

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.measures import Sizes

SERVER = """
import os
from benchmarks.serve import serve

def add(a, b):
    print("noise of Python")
    os.system("echo noise of a process below")
    return a + b

serve({"add": add, "die": lambda: 1 / 0})
"""


def test_rows_and_goals_are_those_that_were_asked_for() -> None:
    at_least = {row.name: row.goal for row in ROWS if not row.lower}
    at_most = {row.name: row.goal for row in ROWS if row.lower}
    assert at_least == {
        "convert_one_core": 1.7,
        "convert_all_cores": 1.15,
        "convert_spark_source": 6,
        "kernel": 0.4,
        "stream_reader": 0.7,
        "fit_workers": 1.0,
        "stream_tf": 0.85,
        "fit_streamed": 1.0,
        "chunks": 0.8,
        "features_udf": 0.5,
        "predict": 1.5,
        "scaling": 1.7,
        "root_to_features": 25,
    }
    assert at_most == {
        "convert_cold_start": 1.6,
        "specs_root": 1.15,
        "specs_parquet": 1.5,
        "plan_10000": 1,
        "help": 1,
        "train_overhead": 15,
        "memory_flat": 1.2,
        "time_flat": 1.1,
    }


@pytest.mark.parametrize("lower", [False, True])
def test_a_row_compares_medians_and_knows_which_way_is_better(lower: bool) -> None:  # noqa: FBT001
    row = Row("r", "ours", "peer", "a peer", "s", 2.0, "", lower=lower)
    result = row.result({"ours": [1.0, 600.0, 6.0], "peer": [2.0, 2.0, 0.1]})
    assert (result["ours"], result["peer"], result["ratio"]) == (6.0, 2.0, 3.0)
    assert result["ok"] is not lower


def test_a_row_without_a_peer_has_an_absolute_goal() -> None:
    result = Row("r", "ours", None, "one second", "s", 1.0, "", lower=True).result({"ours": [0.5]})
    assert (result["ratio"], result["ok"]) == (0.5, True)


def test_rows_are_chosen_by_name_and_an_unknown_name_is_an_error_that_lists_them() -> None:
    assert [row.name for row in chosen("help,kernel")] == ["kernel", "help"]
    assert chosen("") == list(ROWS)
    with pytest.raises(ValueError, match="no row kernels; there are convert_one_core, "):
        chosen("kernels,help")


def test_what_is_compared_even_through_another_is_measured_together() -> None:
    groups = [frozenset("ab"), frozenset("d"), frozenset("ef"), frozenset("be")]
    assert set(together(groups)) == {frozenset("abef"), frozenset("d")}


@pytest.mark.parametrize("sizes", [FULL, QUICK], ids=["full", "quick"])
def test_every_figure_of_a_row_is_measured_once(sizes: Sizes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.workload.generate", lambda *_: [])
    with Bench(sizes, tmp_path) as bench:
        measured = [figure for measure in bench.measures() for figure in measure.figures]
    assert sorted(measured) == sorted(set().union(*(row.figures for row in ROWS)))


def test_curves_have_the_events_asked_for_in_two_files_or_more_and_share_what_they_can() -> None:
    planned = curves([10_000, 100_000, 400_000])
    assert [(point.files, point.events) for point in planned["events"]] == [(2, 10_000), (4, 100_000), (16, 400_000)]
    others = {point for name in ("cores", "branches", "files") for point in planned[name]}
    assert {round(point.events, -3) for point in others} == {100_000}
    assert all(planned["events"][1] in planned[name] for name in ("cores", "branches", "files"))


def test_peak_memory_counts_what_a_process_below_holds() -> None:
    holder = "import sys; held = bytearray(2**26 * b'x'); print('held', flush=True); sys.stdin.read()"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {holder!r}])"
    command = [sys.executable, "-c", parent]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:  # noqa: S603 - our own
        assert process.stdout is not None
        process.stdout.readline()
        with PeakMemory(process.pid) as memory:
            pass
        process.communicate()
    assert 2**26 < memory.driver == memory.total < 2**28


def test_answers_are_free_of_what_else_is_printed(tmp_path: Path) -> None:
    with Served([sys.executable, "-c", SERVER], tmp_path / "log") as process:
        process.send("add", a=1, b=2)
        process.send("add", a=3, b=4)
        assert [process.receive(), process.receive()] == [3, 7]
    assert (tmp_path / "log").read_text().count("noise") == 4


def test_a_process_that_dies_is_an_error_with_what_it_said(tmp_path: Path) -> None:
    with (
        Served([sys.executable, "-c", SERVER], tmp_path / "log") as process,
        pytest.raises(RuntimeError, match="ZeroDivisionError"),
    ):
        process.ask("die")
