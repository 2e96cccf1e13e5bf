"""Locks: one holder at a time, a dead one's is taken over by one of those who try."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING

import pytest

from mlaas_spark import lock
from mlaas_spark.errors import LockedError

if TYPE_CHECKING:
    from pathlib import Path

HOLD = """
import sys, time
from mlaas_spark import lock
with lock.held(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_job_is_refused_with_the_name_of_the_first(tmp_path: Path) -> None:
    folder = str(tmp_path / "lock")
    named = rf"process {os.getpid()} of .* is at work here"
    with lock.held(folder), pytest.raises(LockedError, match=named), lock.held(folder):
        pytest.fail("two jobs hold one lock")
    with lock.held(folder):
        pass


def test_a_job_that_fails_gives_the_lock_back(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), lock.held(str(tmp_path)):
        _ = 1 / 0
    with lock.held(str(tmp_path)):
        assert [path.name for path in tmp_path.iterdir()] == ["000002.json"]


def test_the_lock_of_a_killed_process_is_taken_over_at_once(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603 - ours
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(LockedError, match=f"process {process.pid} of"), lock.held(str(tmp_path)):
            pass
        process.send_signal(signal.SIGKILL)
    with lock.held(str(tmp_path)):
        pass


def test_a_silent_job_of_another_machine_counts_as_dead_after_its_lease(tmp_path: Path) -> None:
    other = {"host": "far", "machine": "another", "pid": 1, "started": 1, "user": "x", "began": 0.0, "ended": False}
    (tmp_path / "000041.json").write_text(json.dumps({**other, "renewed": time.time() - 100}))
    with pytest.raises(LockedError, match="process 1 of x on far"), lock.held(str(tmp_path), silent=200):
        pass
    with lock.held(str(tmp_path), silent=50):
        assert [path.name for path in tmp_path.iterdir()] == ["000042.json"]


def _take(folder: str) -> bool:
    try:
        with lock.held(folder):
            time.sleep(1.0)
    except LockedError:
        return False
    return True


def test_of_several_who_find_a_dead_lock_one_gets_it(tmp_path: Path) -> None:
    other = {"host": "far", "machine": "another", "pid": 1, "started": 1, "user": "x", "began": 0.0, "renewed": 0.0}
    (tmp_path / "000001.json").write_text(json.dumps(other))
    with ProcessPoolExecutor(6, mp_context=multiprocessing.get_context("spawn")) as pool:
        list(pool.map(time.sleep, [0.2] * 12))  # all processes are there before they are let loose
        assert sum(pool.map(_take, [str(tmp_path)] * 6)) == 1
