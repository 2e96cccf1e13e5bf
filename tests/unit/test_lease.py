"""lease: who lives is told by the process where it runs, by its last sign of life elsewhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from mlaas_spark import lease
from mlaas_spark.lease import Lease, held, leases, runs_here

NOW = 1_000_000.0
ELSEWHERE = replace(Lease.mine(NOW), machine="another boot", host="node7", user="ann")


def test_this_process_lives_however_long_it_was_silent() -> None:
    assert Lease.mine(NOW).alive(NOW + 1e9, silent=0)


def test_a_process_of_this_machine_that_has_ended_is_dead_at_once() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        other = replace(Lease.mine(NOW), pid=process.pid, started=int(fields[19]))
        assert other.alive(NOW, silent=0)
        process.kill()
        process.wait()
        assert not other.alive(NOW)


def test_a_pid_that_another_process_has_now_is_not_the_writer() -> None:
    mine = Lease.mine(NOW)
    assert not replace(mine, started=mine.started - 1).alive(NOW)


def test_a_writer_elsewhere_lives_while_it_was_heard_of() -> None:
    assert ELSEWHERE.alive(NOW + 59, silent=60)
    assert not ELSEWHERE.alive(NOW + 60, silent=60)
    assert ELSEWHERE.alive(NOW - 500, silent=60)  # its clock is ahead


def test_who_has_ended_lives_nowhere() -> None:
    assert not replace(Lease.mine(NOW), ended=True).alive(NOW)
    assert not replace(ELSEWHERE, ended=True).alive(NOW)


def test_a_lease_is_there_while_the_work_goes_on_and_marked_at_its_end(tmp_path: Path) -> None:
    with held(str(tmp_path)):
        (during,) = leases(str(tmp_path))
        assert during.alive(time.time(), silent=0)
        assert (during.pid, during.ended) == (os.getpid(), False)
    (after,) = leases(str(tmp_path))
    assert after == replace(during, renewed=after.renewed, ended=True)


def test_an_error_of_the_work_is_raised_and_the_lease_marked(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), held(str(tmp_path)):
        raise ZeroDivisionError
    assert [item.ended for item in leases(str(tmp_path))] == [True]


def test_a_lease_is_renewed_while_the_work_goes_on(tmp_path: Path) -> None:
    with held(str(tmp_path), renew=0.01):
        (first,) = leases(str(tmp_path))
        deadline = time.monotonic() + 30
        while leases(str(tmp_path))[0].renewed <= first.renewed:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert not [thread for thread in threading.enumerate() if thread.name == "lease"]


def test_a_lease_of_a_folder_that_was_committed_does_not_come_back(tmp_path: Path) -> None:
    staging = tmp_path / "staging"
    with held(str(staging), renew=0.01):
        for file in staging.iterdir():
            file.unlink()
        staging.rmdir()
        time.sleep(0.1)
    assert not staging.exists()


def test_a_lease_that_was_never_whole_tells_its_writer_by_its_name(tmp_path: Path) -> None:
    with held(str(tmp_path)):
        (file,) = tmp_path.iterdir()
        part = tmp_path / f".{file.name}.{'0' * 32}.tmp"
        file.rename(part)
        part.write_text("{")
        (found,) = leases(str(tmp_path))
        assert (found.pid, found.started) == (os.getpid(), Lease.mine(0).started)
        assert found.alive(NOW, silent=0)
        gone = tmp_path / file.name.replace(f"-{os.getpid()}-", "-99999999-")
        part.rename(gone)
        (found,) = leases(str(tmp_path))
        assert not found.alive(time.time())


def test_other_files_are_no_leases(tmp_path: Path) -> None:
    (tmp_path / "part.parquet").write_text(json.dumps({"pid": 1}))
    (tmp_path / "ledger").mkdir()
    assert leases(str(tmp_path)) == []
    assert leases(str(tmp_path / "nothing")) == []


def test_whether_a_process_runs_is_known_of_this_machine_alone() -> None:
    host = lease.Lease.mine(NOW).host
    assert runs_here(host, os.getpid()) is True
    assert runs_here(host, 99_999_999) is False
    assert runs_here("node7", os.getpid()) is None


def test_a_lease_says_who_it_is() -> None:
    assert str(ELSEWHERE) == f"process {os.getpid()} of ann on node7"
