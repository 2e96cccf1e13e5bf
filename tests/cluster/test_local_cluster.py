"""One thread, two threads and two executor processes of their own make the same specs, chunks and converted files."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import uproot

from mlaas_spark import demo
from tests.cluster.processes import executors

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.cluster

RECORDS = ("parquet", "json", "csv")
MASTERS = ["local[1]", "local[2]", "local-cluster[2,1,1024]"]

# jobs of a second: what the JVM's second compiler and its threads cost does not pay
_JAVA = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
CONF = {
    "spark.sql.shuffle.partitions": "3",
    "spark.driver.defaultJavaOptions": _JAVA,
    "spark.executor.defaultJavaOptions": _JAVA,
}

JOB = """
    import dataclasses, json, os, sys
    from functools import partial

    import numpy as np

    from mlaas_spark.config import resolve
    from mlaas_spark.formats import Format
    from mlaas_spark.filesets import fileset
    from mlaas_spark.selection import Expression
    from mlaas_spark.spark import chunks, convert, predict, specs
    from mlaas_spark.spark.ingest import open_events
    from mlaas_spark.spark.session import session
    from mlaas_spark.transform import FeatureTransform

    job = json.loads(sys.argv[1])
    config = resolve(job["config"])
    spark = session(config.spark, "cluster")
    events = open_events(spark, fileset(config.input), config.input, config.spark.events_per_task)
    names = [name for name in events.plan.schema.names if name not in config.input.identifiers]
    made, counted = specs.compute(events, names, quantiles=["MET_pt"])
    transform = FeatureTransform.of(made.specs, config.features)
    digests = {}
    for layout in job["layouts"]:
        settings = config.chunks.model_copy(update={"layout": layout})
        request = chunks.ChunkRequest(settings, transform, config.input.identifiers, None, 64, "specs")
        digests[layout] = chunks.build(counted, request, job["out"] + "/" + layout).content_digest
    digests["convert"] = convert.convert(events, job["out"] + "/convert").content_digest
    weights = np.linspace(-1, 1, transform.width, dtype=np.float32)[:, None]
    linear = partial(partial, np.einsum, "wk,nw,nw->nk", weights)
    scoring = predict.PredictRequest("linear", transform, {}, linear, ("score",), config.input.identifiers)
    digests["predict"] = predict.predict(events, scoring, job["out"] + "/predict").content_digest
    friends = dataclasses.replace(scoring, format=Format.ROOT)
    digests["friend trees"] = predict.predict(events, friends, job["out"] + "/friends").content_digest
    ranges = {}
    for path in job["records"]:
        kind = path.rpartition(".")[2]
        # two blocks; left to itself Spark would cut this file into one for each core
        spark.conf.set("spark.sql.files.maxPartitionBytes", str(os.path.getsize(path) * 4 // 5))
        spark.conf.set("spark.sql.files.openCostInBytes", "1")
        of_kind = resolve({"input": {"files": [path], "label": "luminosityBlock > 3"}})
        label = Expression.parse(of_kind.input.label)
        events = open_events(spark, fileset(of_kind.input), of_kind.input, 500, [label])
        request = chunks.ChunkRequest(config.chunks, transform, config.input.identifiers, label, 64, "specs")
        digests[kind + " chunks"] = chunks.build(events, request, job["out"] + "/chunks-" + kind).content_digest
        digests[kind + " convert"] = convert.convert(events, job["out"] + "/convert-" + kind).content_digest
        ranges[kind] = [[r.start, r.stop] for r in events.plan.ranges]
    executors = spark.sparkContext._jsc.sc().getExecutorMemoryStatus().size() - 1  # they come after the session
    print(json.dumps({"specs": made.dumps(), "executors": executors, "ranges": ranges, **digests}))
"""


def job_of(
    sample: Path, out: Path, master: str, layouts: tuple[str, ...] = ("compact", "dense"), records: tuple[str, ...] = ()
) -> str:
    groups = [
        {"name": name, "files": str(sample / f"{name}_*.root"), "label": label}
        for name, label in (("signal", 1), ("background", 0))
    ]
    config = {
        "input": {"groups": groups},
        "chunks": {"size": 700},
        "spark": {"master": master, "events_per_task": 500, "conf": CONF},
    }
    return json.dumps({"config": config, "out": str(out), "layouts": layouts, "records": records})


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """3,000 events of the demo in four ROOT files, and all of them in one file of each other format."""
    folder = tmp_path_factory.mktemp("sample")
    paths = demo.generate(folder, events=3_000, files=4, seed=3)
    events = uproot.concatenate([f"{path}:Events" for path in paths])
    rows = events.to_list()
    pq.write_table(pa.Table.from_pylist(rows), folder / "all.parquet", row_group_size=200)
    (folder / "all.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with (folder / "all.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([rows[0], *([json.dumps(value) for value in row.values()] for row in rows)])
    return folder


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., subprocess.Popen[str]]:
    """Starts a script with a job in a Python of its own; executors run the same Python."""

    def run(script: str, job: str) -> subprocess.Popen[str]:
        folder = tmp_path_factory.mktemp("job")
        path = folder / "job.py"
        path.write_text(textwrap.dedent(script))
        return subprocess.Popen(  # noqa: S603 - our own interpreter and script
            [sys.executable, str(path), job],
            cwd=folder,  # of local-cluster: its work folder is made here
            env={**os.environ, "PYSPARK_PYTHON": sys.executable},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return run


def answer(process: subprocess.Popen[str]) -> dict[str, Any]:
    output, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    made: dict[str, Any] = json.loads(output.splitlines()[-1])
    return made


@pytest.fixture(scope="module")
def answers(
    sample: Path, start: Callable[..., subprocess.Popen[str]], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, Any]]:
    """What the job makes on each master, one after the other."""
    records = tuple(str(sample / f"all.{kind}") for kind in RECORDS)
    return {
        master: answer(start(JOB, job_of(sample, tmp_path_factory.mktemp("out"), master, records=records)))
        for master in MASTERS
    }


def test_local_cluster_has_two_executors_beside_the_driver(answers: dict[str, dict[str, Any]]) -> None:
    assert [answers[master]["executors"] for master in MASTERS] == [0, 0, 2]


MADE = [
    "specs",
    "compact",
    "dense",
    "convert",
    "predict",
    "friend trees",
    *(f"{kind} {what}" for kind in RECORDS for what in ("chunks", "convert")),
]


@pytest.mark.parametrize("made", MADE)
def test_every_master_makes_the_same(answers: dict[str, dict[str, Any]], made: str) -> None:
    assert answers["local[1]"][made] == answers["local[2]"][made] == answers["local-cluster[2,1,1024]"][made]


def test_blocks_of_a_file_are_the_same_on_every_master(answers: dict[str, dict[str, Any]]) -> None:
    ranges = answers["local[1]"]["ranges"]
    # row groups of 200, joined to 500 events at the most
    assert ranges["parquet"] == [[start, min(start + 400, 3_000)] for start in range(0, 3_000, 400)]
    assert {kind: (len(ranges[kind]), ranges[kind][0][0], ranges[kind][-1][1]) for kind in ("json", "csv")} == {
        "json": (2, 0, 3_000),
        "csv": (2, 0, 3_000),
    }
    assert all(answers[master]["ranges"] == ranges for master in MASTERS)


def test_specs_cover_the_sample(answers: dict[str, dict[str, Any]]) -> None:
    specs = json.loads(answers["local-cluster[2,1,1024]"]["specs"])
    assert specs["events"]["total"] == 3_000
    assert specs["mlaas_spark"]["branches"]["Jet_pt"]["count"] > 3_000


def test_executor_that_is_killed_while_it_writes_changes_nothing(
    sample: Path,
    start: Callable[..., subprocess.Popen[str]],
    answers: dict[str, dict[str, Any]],
    tmp_path: Path,
) -> None:
    process = start(JOB, job_of(sample, tmp_path, "local-cluster[2,1,1024]", ("compact",)))
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("compact/_staging/*/*/*")):  # the first thing that an executor has put down
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    victims = executors(process.pid)
    assert victims
    os.kill(victims[0], signal.SIGKILL)
    made = answer(process)
    assert made["compact"] == answers["local[1]"]["compact"]
    assert made["convert"] == answers["local[1]"]["convert"]
