"""Processes that write data sets die, are lied to, or meet others, at each of their steps. No Spark: see ``local``."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import pytest

from mlaas_spark import leftovers
from mlaas_spark.filesets import MANIFEST
from mlaas_spark.manifest import Manifest, check_files, read, value_digest
from tests.cluster.faults import local, tally
from tests.cluster.faults.steps import STEPS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.cluster.faults.conftest import Processes

BEFORE, AFTER = ["a", "b"], ["c", "b", "d"]  # an input stays, one goes, two come
NOTHING_YET: list[str] = []
WORK = {"a new data set": (NOTHING_YET, BEFORE), "a grown data set": (BEFORE, AFTER)}


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folder that each kind of work begins with."""
    grown = tmp_path_factory.mktemp("begun") / "out"
    assert local.make(str(grown), BEFORE) == 0
    return {"a new data set": grown / "nothing", "a grown data set": grown}


@pytest.fixture(scope="module")
def digests(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The content digest that each kind of work comes to, undisturbed."""
    found = {}
    for kind, (_, names) in WORK.items():
        folder = str(tmp_path_factory.mktemp("undisturbed") / "out")
        assert local.make(folder, names) == 0
        found[kind] = read(folder).content_digest
    return found


class Place:
    """A folder in which a kind of work is done, and what is told of it."""

    def __init__(self, home: Path, kind: str, begun: dict[str, Path]) -> None:
        self.kind, (_, self.names) = kind, WORK[kind]
        self.out, self.told = home / "out", home / "told"
        self.home = home
        home.mkdir(parents=True)
        if begun[kind].exists():
            shutil.copytree(begun[kind], self.out)

    def order(self, step: int = 0, what: str = "before", only: Sequence[str] = STEPS) -> dict[str, Any]:
        fault = {"step": step, "what": what, "told": str(self.told), "only": list(only)}
        return {"do": "make", "args": [str(self.out), self.names], "out": str(self.home / "said"), "fault": fault}

    @property
    def said(self) -> str:
        return (self.home / "said").read_text()

    def fired(self) -> int:
        return self.told.read_text().count("fired") if self.told.exists() else 0


def assert_valid(folder: Path) -> Manifest | None:
    """What readers find is whole: the manifest, its files, their values; and nothing lies beside them but staging."""
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    unnamed = {path for path in files if not path.startswith(("_staging/", "_manifests/", "events/"))} - {MANIFEST}
    assert not unnamed
    assert all(re.fullmatch(r"_manifests/\d{6}\.json", path) for path in files if path.startswith("_manifests/"))
    if MANIFEST not in files:
        return None
    found = read(str(folder))
    check_files(str(folder), found)
    return found


def assert_same(folder: Path, digest: str) -> None:
    """The data set is what it is to be, the ledger adds up, and nothing else is there when it was cleaned."""
    found = assert_valid(folder)
    assert found is not None
    assert found.content_digest == digest
    assert found.ledger["entries"] == found.ledger["events"] + found.ledger["selection"]
    assert found.ledger["entries"] == len(found.inputs) * local.ENTRIES
    for file in found.files:
        assert value_digest(pq.read_table(folder / file.path)) == file.digest
    cleaned(folder)
    versions = {f"_manifests/{number:06d}.json" for number in range(1, found.version + 1)}
    there = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert there == {MANIFEST, *versions, *(file.path for file in found.files)}
    assert not (folder / "_staging").exists()


def cleaned(folder: Path) -> None:
    leftovers.complete(str(folder))
    found = leftovers.find(str(folder))
    assert not [item for item in found if item.stays], "its writers are dead"
    leftovers.sweep(found)


def steps_of(
    processes: Processes, home: Path, kind: str, begun: dict[str, Path], only: Sequence[str] = STEPS
) -> tuple[int, int]:
    """How many steps the work has, and with which the commit begins."""
    place = Place(home, kind, begun)
    assert processes.run(place.order(0, "after", only)) == [0]
    lines = place.told.read_text().splitlines()
    commit = min((number for number, line in enumerate(lines, 1) if "_manifests" in line), default=1)
    return len(lines), commit


@pytest.mark.parametrize("kind", WORK)
@pytest.mark.parametrize(
    ("what", "times"),
    [
        ("quickly", 1),
        pytest.param("before", 1, marks=pytest.mark.soak),
        pytest.param("after", 1, marks=pytest.mark.soak),
        pytest.param("before", 2, marks=pytest.mark.soak),
        pytest.param("after", 2, marks=pytest.mark.soak),
        pytest.param("before", 3, marks=pytest.mark.soak),
        pytest.param("after", 3, marks=pytest.mark.soak),
    ],
)
def test_a_writer_killed_at_any_step_leaves_what_a_rerun_completes(
    processes: Processes,
    begun: dict[str, Path],
    digests: dict[str, str],
    quick: Path,
    kind: str,
    what: str,
    times: int,
) -> None:
    steps, commit = steps_of(processes, quick / "counted", kind, begun)
    assert 20 < commit < steps - 10
    row = tally.of("kill -9 at each step of a commit")
    # quickly: each step of the commit, and some of those before it
    for step in [*range(1, commit, 8), *range(commit, steps + 1)] if what == "quickly" else range(1, steps + 1):
        place = Place(quick / f"{step}", kind, begun)
        row.tried += times
        for _ in range(times):
            (status,) = processes.run(place.order(step, what.replace("quickly", "before")))
            assert status in {-signal.SIGKILL, 0}
            if place.out.exists():
                assert_valid(place.out)
        assert place.fired(), "the fault did not fire"
        assert processes.run(place.order()) == [0], place.said
        assert_same(place.out, digests[kind])
        row.fired += place.fired()
        row.same += place.fired()
        shutil.rmtree(place.home)


@pytest.mark.parametrize("kind", WORK)
def test_what_a_killed_writer_left_can_be_cleaned_instead(
    processes: Processes, begun: dict[str, Path], digests: dict[str, str], quick: Path, kind: str
) -> None:
    steps, _ = steps_of(processes, quick / "counted", kind, begun)
    for step in range(1, steps + 1, 7):
        place = Place(quick / f"{step}", kind, begun)
        assert processes.run(place.order(step, "after")) == [-signal.SIGKILL]
        if place.out.exists():
            cleaned(place.out)
        assert not list(place.home.glob("out/_staging"))
        if (place.out / MANIFEST).exists():
            found = read(str(place.out))
            check_files(str(place.out), found)
        assert processes.run(place.order()) == [0], place.said
        assert_same(place.out, digests[kind])


LIED = [("link",), ("replace",), pytest.param(("fsync", "mkdir", "unlink", "rmdir"), marks=pytest.mark.soak)]


@pytest.mark.parametrize("kind", WORK)
@pytest.mark.parametrize("only", LIED, ids="-".join)
def test_a_lost_reply_is_resolved_by_reading(
    processes: Processes,
    begun: dict[str, Path],
    digests: dict[str, str],
    quick: Path,
    kind: str,
    only: tuple[str, ...],
) -> None:
    """Each step takes place, and its writer is told that it did not."""
    steps, _ = steps_of(processes, quick / "counted", kind, begun, only)
    row = tally.of("reply lost: done, and an error seen")
    for step in range(1, steps + 1):
        place = Place(quick / f"{step}", kind, begun)
        (status,) = processes.run(place.order(step, "lost", only))
        row.tried += 1
        row.fired += place.fired()
        assert place.fired() == 1
        assert status in {0, local.FAILED}, place.said
        if status:
            assert place.said.startswith("UnwritableOutputError: cannot write"), place.said
        if only == ("link",):  # records of tasks, and the version: what is there tells
            assert status == 0, place.said
        assert_valid(place.out)
        assert processes.run(place.order()) == [0], place.said
        assert_same(place.out, digests[kind])
        row.same += 1
        shutil.rmtree(place.home)


def test_a_live_writers_staging_is_untouched(
    processes: Processes, begun: dict[str, Path], digests: dict[str, str], quick: Path
) -> None:
    kind = "a grown data set"
    steps, _ = steps_of(processes, quick / "counted", kind, begun)
    row = tally.of("clean beside a live writer")
    for step in range(8, steps - 6, max(1, steps // 8)):
        place = Place(quick / f"{step}", kind, begun)
        processes.begin(place.order(step, "stop"))
        writer = stopped(place)
        before = sorted(place.out.rglob("*"))
        if list(place.out.glob("_staging/*/writer-*.json")):
            row.tried += 1
            row.fired += place.fired()
            found = leftovers.find(str(place.out), silent=0)
            assert found
            assert all(item.stays for item in found)
            # who writes it, or that it is needed: by its version, which is published
            named = (f"process {writer} of", "its data set is committed but not yet in place")
            assert any(item.why.startswith(named) for item in found), found
            assert leftovers.sweep(found) == []
            assert sorted(place.out.rglob("*")) == before
            row.same += 1
        os.kill(writer, signal.SIGCONT)
        assert processes.ended() == [0], place.said
        assert_same(place.out, digests[kind])
    assert row.fired >= 4


def stopped(place: Place) -> int:
    """The process that has stopped itself at a step; waits for it."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if place.fired():
            for stat in Path("/proc").glob("[0-9]*/stat"):
                fields = stat.read_text(errors="replace").rpartition(")")[2].split()
                descriptors = stat.parent / "fd"
                if fields[0] == "T" and any(
                    os.path.realpath(fd) == str(place.told.resolve()) for fd in descriptors.iterdir()
                ):
                    return int(stat.parent.name)
        time.sleep(0.01)
    pytest.fail("the writer did not stop")


WRITERS, COMMITS = 8, 25


def test_writers_of_one_data_set_lose_nothing(processes: Processes, quick: Path) -> None:
    """Each adds its files, a commit each; who comes second is refused by name and adds again to what is there then."""
    row = tally.of(f"{WRITERS} writers x {COMMITS} commits to one data set")
    out = quick / "out"
    orders = [
        {"do": "add", "args": [str(out), writer, COMMITS, 1], "out": str(quick / f"said-{writer}")}
        for writer in range(WRITERS)
    ]
    assert processes.run(*orders) == [0] * WRITERS, [path.read_text() for path in quick.glob("said-*")]
    conflicts = sum(int((quick / f"said-{writer}").read_text().split()[-1]) for writer in range(WRITERS))
    assert conflicts, "the writers never met"
    row.tried += WRITERS * COMMITS + conflicts
    row.fired += conflicts
    assert_all_added(out)
    row.same += conflicts


def assert_all_added(out: Path) -> None:
    found = read(str(out))
    expected = {f"{writer}-{number}" for writer in range(WRITERS) for number in range(COMMITS)}
    assert sorted(item.path for item in found.inputs) == sorted(expected)
    assert found.version == WRITERS * COMMITS
    one_more: set[str] = set()
    for number in range(1, found.version + 1):  # each version has all of that before it, and one file more
        version = Manifest.from_json(json.loads((out / "_manifests" / f"{number:06d}.json").read_text()))
        now = {item.path for item in version.inputs}
        assert len(now) == number
        assert now > one_more
        one_more = now
    check_files(str(out), found)
    for file in found.files:
        assert value_digest(pq.read_table(out / file.path)) == file.digest
    leftovers.complete(str(out))
    # who writes manifest.json may do so in a staging folder that another, who wrote it too, has removed; killed there,
    # it leaves half a file and nothing of who it was
    unknown = [item for item in leftovers.find(str(out)) if item.stays]
    assert all(path.suffix == ".tmp" for item in unknown for path in Path(item.path).rglob("*") if path.is_file())
    leftovers.sweep(leftovers.find(str(out), silent=0))
    assert not (out / "_staging").exists()
    there = {str(path.relative_to(out)) for path in (out / "events").rglob("*")}
    assert there == {file.path for file in found.files}


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(3))
def test_writers_of_one_data_set_that_are_killed_at_random_lose_nothing(
    processes: Processes, quick: Path, seed: int
) -> None:
    chance = random.Random(seed)  # noqa: S311 - a shuffle, no secret
    row = tally.of("kill -9 at random: one of several writers of one data set")
    out = quick / "out"
    print(f"seed {seed}")  # noqa: T201 - to repeat it

    def orders() -> Iterator[dict[str, Any]]:
        for writer in range(WRITERS):
            told = str(quick / f"told-{writer}")
            fault = {"step": chance.randrange(10, 400), "what": chance.choice(["before", "after"]), "told": told}
            yield {
                "do": "add",
                "args": [str(out), writer, COMMITS, seed],
                "out": str(quick / f"said-{writer}"),
                "fault": fault,
            }

    fired = 0
    for _ in range(200):
        statuses = processes.run(*orders())
        assert set(statuses) <= {0, -signal.SIGKILL}, [path.read_text() for path in quick.glob("said-*")]
        fired += sum(status != 0 for status in statuses)
        if not any(statuses):
            break
    assert fired >= WRITERS
    row.tried += fired
    row.fired += fired
    assert_all_added(out)
    row.same += fired
