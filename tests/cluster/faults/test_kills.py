"""Kill -9 of a Python worker, an executor, a worker's JVM, the driver, at a random moment of convert, specs, chunks.

The same comes of it: after Spark's retry, or after a rerun where it was the driver that died.
"""

from __future__ import annotations

import json
import random
import time
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlaas_spark import demo, leftovers
from mlaas_spark.filesets import MANIFEST
from mlaas_spark.manifest import check_files, read, value_digest
from tests.cluster.faults import drivers, tally
from tests.cluster.faults.drivers import CONF, Cluster, Driver, driver

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.cluster

VERBS = ("convert", "specs", "chunks")
EVENTS = 4_000
SEEDS = 20
WAIT_S = 60.0  # of an attempt for another one at its task


def seeds(quick: int) -> list[Any]:
    """The first few for every run of the tests, all of them for ``make soak``."""
    return [seed if seed < quick else pytest.param(seed, marks=pytest.mark.soak) for seed in range(SEEDS)]


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A config of 40 ranges of the demo's events."""
    folder = tmp_path_factory.mktemp("sample")
    demo.generate(folder, events=EVENTS, files=4, seed=3)
    groups = [
        {"name": name, "files": str(folder / f"{name}_*.root"), "label": label}
        for name, label in (("signal", 1), ("background", 0))
    ]
    return {"input": {"groups": groups}, "chunks": {"size": 500}, "spark": {"events_per_task": 100, "conf": CONF}}


def on(content: dict[str, Any], master: str, **conf: str) -> dict[str, Any]:
    return {**content, "spark": {**content["spark"], "master": master, "conf": {**CONF, **conf}}}


@pytest.fixture(scope="module")
def survivor(content: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    """A driver that nobody kills."""
    with driver(on(content, "local[2]"), tmp_path_factory.mktemp("survivor") / "log") as running:
        yield running


@pytest.fixture(scope="module")
def expected(survivor: Driver, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What each verb comes to, undisturbed; the second time, when all is warm, for how long it takes."""
    found = {}
    for verb in VERBS:
        first = survivor.run(verb, tmp_path_factory.mktemp("undisturbed") / verb)
        again = survivor.run(verb, tmp_path_factory.mktemp("undisturbed") / verb)
        assert again["digest"] == first["digest"]
        found[verb] = again
    return found


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The cluster whose processes are killed."""
    running = Cluster(tmp_path_factory.mktemp("cluster"))
    yield running
    running.end()


@pytest.fixture(scope="module")
def app(cluster: Cluster, content: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    """A driver on the cluster. A task may fail as often as a seed kills it; the master gives new executors for ever."""
    conf = {"spark.task.maxFailures": "8", "spark.deploy.maxExecutorRetries": "-1", "spark.driver.host": "127.0.0.1"}
    with driver(on(content, cluster.url, **conf), tmp_path_factory.mktemp("app") / "log") as running:
        assert "digest" in running.run("specs", tmp_path_factory.mktemp("warm") / "specs")
        yield running


def assert_same(verb: str, out: Path, answer: dict[str, Any], expected: dict[str, Any]) -> None:
    """The answer is the undisturbed one; what lies in the folder too, and nothing else when it is cleaned."""
    assert "error" not in answer, answer
    assert (answer["digest"], answer["ledger"]) == (expected["digest"], expected["ledger"])
    if verb == "specs":
        assert [path.name for path in out.iterdir() if not path.name.startswith(".")] == ["specs.json"]
        return
    manifest = read(str(out))
    assert manifest.content_digest == expected["digest"]
    assert manifest.ledger["entries"] == EVENTS == manifest.ledger["events"] + manifest.ledger["selection"]
    check_files(str(out), manifest)
    for file in manifest.files:
        assert value_digest(as_written(pq.read_table(out / file.path))) == file.digest
    leftovers.sweep(leftovers.find(str(out), silent=0))  # a last file of an attempt that was given up
    there = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert there == {MANIFEST, "_manifests/000001.json", *(file.path for file in manifest.files)}


def as_written(table: pa.Table) -> pa.Table:
    """The table with the items of lists called as ours are; Parquet's reader may call them ``element``."""
    kinds = [(f.name, pa.list_(f.type.value_type) if pa.types.is_list(f.type) else f.type) for f in table.schema]
    return table.cast(pa.schema(kinds))


def strike(what: str, chance: random.Random, cluster: Cluster) -> bool:
    roots = [worker.pid for worker in cluster.workers]
    if what == "Python worker":
        return drivers.kill_one(drivers.python_workers(roots), chance)
    if what == "executor":
        return drivers.kill_one(drivers.executors(roots), chance)
    return cluster.kill_worker(chance)


def struck(what: str, seed: int, verb: str, app: Driver, cluster: Cluster, home: Path, seconds: float) -> Path:
    """The folder of a job during which something was killed at a random moment; tried again if that came too late."""
    chance = random.Random(f"{what} {verb} {seed}")  # noqa: S311 - a moment, no secret
    for attempt in range(10):
        out = home / f"{attempt}"
        app.begin(verb, out)
        if app.waiting(chance.random() * seconds):
            end = time.monotonic() + 30
            while app.waiting(0) and time.monotonic() < end:
                if strike(what, chance, cluster) and app.waiting(0):
                    return out
                time.sleep(0.005)
        app.answer()
    pytest.fail(f"in ten jobs no {what} was there to be killed")


ALL = [
    (what, verb, seed)
    for what in ("Python worker", "executor", "worker JVM")
    for verb in VERBS
    for seed in range(SEEDS)
]


def quickly(what: str, verb: str, seed: int) -> bool:
    return seed < {"Python worker": 2, "executor": 1, "worker JVM": 1 if verb == "convert" else 0}[what]


# before those that use ``app``, which has all of the cluster's cores while it lives
def test_speculation_slow_tasks_and_duplicate_attempts_make_no_difference(
    cluster: Cluster, content: dict[str, Any], expected: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    """Of a task of each verb two attempts have written all files before one of them records its."""
    told = tmp_path / "told"
    conf = {
        "spark.driver.host": "127.0.0.1",
        "spark.speculation": "true",
        "spark.speculation.interval": "50ms",
        "spark.speculation.multiplier": "1.1",
        "spark.speculation.quantile": "0.3",
        "spark.speculation.minTaskRuntime": "0ms",
        "spark.speculation.efficiency.enabled": "false",  # by records read, of which it knows none here
        "spark.executorEnv.MLAAS_FAULTS": json.dumps({"wait": WAIT_S, "told": str(told)}),
    }
    row = tally.of("speculation: duplicate attempts of slow tasks")
    with driver(on(content, cluster.url, **conf), tmp_path / "log") as running:
        for verb in ("convert", "chunks"):
            told.write_text("")
            answer = running.run(verb, tmp_path / verb)
            attempts = [line.split() for line in told.read_text().splitlines()]
            twice = {task for task, attempt in attempts if attempt == "1"}
            row.tried += 1
            assert twice, f"no task was tried twice: {attempts}"
            row.fired += 1
            assert_same(verb, tmp_path / verb, answer, expected[verb])
            row.same += 1


@pytest.mark.parametrize(
    ("what", "verb", "seed"),
    [one if quickly(*one) else pytest.param(*one, marks=pytest.mark.soak) for one in ALL],
)
def test_what_executes_is_killed_and_spark_does_it_again(
    what: str,
    verb: str,
    seed: int,
    app: Driver,
    cluster: Cluster,
    expected: dict[str, dict[str, Any]],
    tmp_path: Path,
) -> None:
    row = tally.of(f"kill -9 at random: {what}, {verb}")
    row.tried += 1
    out = struck(what, seed, verb, app, cluster, tmp_path, expected[verb]["seconds"])
    row.fired += 1
    print(f"seed {seed}: a {what} was killed during {verb}")  # noqa: T201 - to repeat it
    assert_same(verb, out, app.answer(), expected[verb])
    row.same += 1


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("seed", seeds(quick=1))
def test_the_driver_is_killed_and_a_rerun_goes_on(
    verb: str,
    seed: int,
    content: dict[str, Any],
    survivor: Driver,
    expected: dict[str, dict[str, Any]],
    tmp_path: Path,
) -> None:
    """Of odd seeds the JVM, of even ones the Python process."""
    row = tally.of(f"kill -9 at random: driver, {verb}")
    row.tried += 1
    chance = random.Random(f"driver {verb} {seed}")  # noqa: S311 - a moment, no secret
    out = tmp_path / "out"
    with driver(on(content, "local[2]"), tmp_path / "log") as victim:
        victim.begin(verb, out)
        assert victim.waiting(chance.random() * expected[verb]["seconds"]), "it ended before it was killed"
        assert drivers.kill_one(drivers.jvms(victim.process.pid) if seed % 2 else [victim.process.pid], chance)
        row.fired += 1
        print(f"seed {seed}: the driver was killed during {verb}")  # noqa: T201 - to repeat it
        if not seed % 2:
            victim.process.wait(60)
    done = finished(out)
    assert_same(verb, out, survivor.run(verb, out), expected[verb])
    if verb != "specs":
        # work that was committed is not done again: it is the very file
        inodes = {(out / file.path).stat().st_ino for file in read(str(out)).files}
        assert done <= inodes
    row.same += 1


def finished(out: Path) -> set[int]:
    """Inodes of the files of finished tasks, staged or in place."""
    if (out / MANIFEST).exists():
        return {(out / file.path).stat().st_ino for file in read(str(out)).files}
    return {
        (record.parents[1] / file["path"]).stat().st_ino
        for record in out.glob("_staging/*/ledger/*.json")
        for file in json.loads(record.read_text())
        if (record.parents[1] / file["path"]).exists()
    }
