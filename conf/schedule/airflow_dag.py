"""Airflow 3: a night's work as a DAG. Copy it into the folder of DAGs; Variables mlaas_spark_* say where things are.

Each task may be repeated at any time. What a second try cannot mend (usage, input, data: exit codes 2, 3 and 4) fails
at once; training, serving and interruptions (5, 6 and 7) are tried again.
"""

from __future__ import annotations

import shlex
import subprocess
from datetime import timedelta
from pathlib import Path

import pendulum
from airflow.exceptions import AirflowException, AirflowFailException
from airflow.sdk import Variable, dag, task

FINAL = {2, 3, 4}


def job(name: str, verb: str, **places: str) -> None:
    """Run a verb under its lock, with its outcome told to Prometheus and its log as lines of JSON."""
    out = places["out"]
    Path(out, "metrics").mkdir(parents=True, exist_ok=True)
    told = f"--name {name} --lock {out}/lock-{name} --log-json {out}/{name}.jsonl"
    told += f" --metrics-file {out}/metrics/mlaas_spark_{name}.prom"
    command = ["mlaas-spark", "scheduled", *shlex.split(told), *(word.format(**places) for word in shlex.split(verb))]
    code = subprocess.run(command, check=False).returncode  # noqa: S603 - words of our own, and no shell
    msg = f"{name} ended with exit code {code}: see its log"
    if code in FINAL:
        raise AirflowFailException(msg)
    if code:
        raise AirflowException(msg)


@dag(
    schedule="15 2 * * *",
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,
    default_args={"retries": 2, "retry_delay": timedelta(minutes=10)},
)
def mlaas_spark_night() -> None:
    """New files into Parquet; the model trained again if there are any."""

    def places() -> dict[str, str]:
        return {name: Variable.get(f"mlaas_spark_{name}", f"/data/{name}") for name in ("config", "data", "out")}

    @task
    def convert() -> None:
        job("convert", "convert {data} --config {config} --out {out}/parquet", **places())

    @task(execution_timeout=timedelta(hours=8))
    def retrain() -> None:
        job("retrain", "retrain --config {config} --since last --drift fail", **places())

    convert() >> retrain()


mlaas_spark_night()
