"""conf/schedule: what cron, systemd and Airflow make of it."""

from __future__ import annotations

import configparser
import json
import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

import typer

from mlaas_spark.cli import app
from tests.cluster import servers

SCHEDULE = Path(__file__).parents[2] / "conf" / "schedule"
PARSE = """
import json, sys
from airflow.dag_processing.dagbag import DagBag
bag = DagBag(sys.argv[1])
dags = {name: {task.task_id: sorted(task.upstream_task_ids) for task in dag.tasks} for name, dag in bag.dags.items()}
print(json.dumps({"errors": bag.import_errors, "dags": dags}))
"""
STUB = """#!/bin/bash
printf '%q ' "$@" >> "$CALLS"; echo >> "$CALLS"
[[ " $* " == *" $FAILS "* ]] && exit 4 || exit 0
"""


def test_airflow_reads_the_dag_with_its_tasks_in_order(tmp_path: Path) -> None:
    environment = {**os.environ, "AIRFLOW_HOME": str(tmp_path), "AIRFLOW__CORE__LOAD_EXAMPLES": "False"}
    command = [str(servers.airflow()), "-c", PARSE, str(SCHEDULE / "airflow_dag.py")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)  # noqa: S603 - ours
    told = json.loads(done.stdout.splitlines()[-1])
    assert told == {"errors": {}, "dags": {"mlaas_spark_night": {"convert": [], "retrain": ["convert"]}}}


def _night(tmp_path: Path, **environment: str) -> tuple[int, list[list[str]]]:
    """Exit code of night.sh with a stub in place of the program, and the calls of it."""
    stub, calls = tmp_path / "mlaas-spark", tmp_path / "calls"
    stub.write_text(STUB)
    stub.chmod(0o755)
    places = {"CONFIG": "c.yaml", "DATA": "/data/a b", "OUT": f"{tmp_path}/out", "CALLS": str(calls), "FAILS": "none"}
    given = {"PATH": os.environ["PATH"], "MLAAS_SPARK": str(stub), **places, **environment}
    done = subprocess.run([SCHEDULE / "night.sh"], env=given, check=False)  # noqa: S603 - ours
    return done.returncode, [shlex.split(line) for line in calls.read_text().splitlines()]


def _parsed(call: list[str]) -> tuple[dict[str, Any], str, dict[str, Any]]:
    """A call as the command line reads it: of scheduled, the verb, and of the verb."""
    verbs = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    outer = verbs[call[0]].make_context(call[0], call[1:]).params
    verb, *rest = outer["command"]
    return outer, verb, verbs[verb].make_context(verb, rest).params


def test_cron_runs_two_jobs_under_their_locks_with_options_that_exist(tmp_path: Path) -> None:
    code, calls = _night(tmp_path, NOTIFY="mail x")
    assert code == 0
    (outer, verb, inner), (_, second, of_second) = map(_parsed, calls)
    assert (verb, second) == ("convert", "retrain")
    assert inner["files"] == ["/data/a b"]
    assert outer["notify"] == "mail x"
    assert outer["lock"] == f"{tmp_path}/out/lock-convert"
    assert (of_second["since"], of_second["drift"]) == ("last", "fail")


def test_cron_ends_with_the_exit_code_of_the_first_job_that_fails(tmp_path: Path) -> None:
    code, calls = _night(tmp_path, FAILS="convert")
    assert code == 4
    assert len(calls) == 1


def test_systemd_runs_the_same_script_by_the_timer_of_its_name() -> None:
    service, timer = (configparser.ConfigParser(strict=False, interpolation=None) for _ in range(2))
    service.read(SCHEDULE / "mlaas-spark-night.service")
    timer.read(SCHEDULE / "mlaas-spark-night.timer")
    assert Path(service["Service"]["ExecStart"]).name == "night.sh"
    assert timer["Timer"]["OnCalendar"]
