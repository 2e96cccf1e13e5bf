"""ROOT files on a real XRootD server: what is read, in how many requests, and when the server fails."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from threading import Timer
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np
import pytest
import uproot

from mlaas_spark import register, root_io
from mlaas_spark.errors import UnreadableInputError
from mlaas_spark.spark import inspection
from mlaas_spark.spark.convert import convert
from mlaas_spark.spark.session import received
from mlaas_spark.xrootd import Patience
from tests.cluster import servers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import pyarrow as pa
    from pyspark.sql import SparkSession

    from mlaas_spark.manifest import Manifest
    from mlaas_spark.spark.ingest import Events, RangeBatch

pytestmark = pytest.mark.cluster


def test_specs_of_files_named_by_url_are_those_of_local_ones(
    specs_of: Callable[..., Any], xrootd: str, local: Path
) -> None:
    names = sorted(path.name for path in (local / "root").iterdir())
    expected = specs_of(*(str(local / "root" / name) for name in names))
    assert specs_of(*(f"{xrootd}/{name}" for name in names)) == expected


@pytest.mark.parametrize("pattern", ["", "/*.root", "/*_?.root"], ids=["folder", "glob", "letter"])
def test_folder_and_glob_are_expanded_on_the_server(opened: Callable[..., Events], xrootd: str, pattern: str) -> None:
    found = [file.path for file in opened(f"{xrootd}{pattern}").plan.files]
    assert found == [f"{xrootd}/background_0.root", f"{xrootd}/signal_0.root"]


def test_inspect_shows_there_what_it_shows_of_local_files(
    opened: Callable[..., Events], xrootd: str, local: Path
) -> None:
    there, here = opened(xrootd, events=500), opened(str(local / "root"), events=500)
    assert inspection.on_disk(there) == inspection.on_disk(here)
    assert inspection.read(there)[0] == inspection.read(here)[0]


def test_conversion_has_the_digest_of_one_from_local_files(
    opened: Callable[..., Events], xrootd: str, converted: Manifest, tmp_path: Path
) -> None:
    assert convert(opened(xrootd), str(tmp_path / "out")).content_digest == converted.content_digest


def test_file_that_the_server_has_not_is_named(opened: Callable[..., Events], xrootd: str) -> None:
    with pytest.raises(UnreadableInputError) as caught:
        opened(f"{xrootd}/signal_9.root")
    assert str(caught.value) == f"cannot read {xrootd}/signal_9.root: no such file"


@pytest.mark.parametrize("name", ["x.root", "", "*.root"], ids=["file", "folder", "glob"])
def test_server_that_is_down_is_named(opened: Callable[..., Events], name: str) -> None:
    url = f"root://localhost:{servers.free_port()}//store/{name}"
    with pytest.raises(UnreadableInputError, match=r"its server does not answer .*, tried 2 times") as caught:
        opened(url, retries=1)
    assert caught.value.path in {url, url.rpartition("/")[0]}  # of a glob, the folder that is looked through


def test_host_that_does_not_resolve_is_named(opened: Callable[..., Events]) -> None:
    with pytest.raises(UnreadableInputError, match=r"no-such-host.invalid.*its server does not answer"):
        opened("root://no-such-host.invalid//store/x.root", retries=0)


def test_baskets_of_a_range_come_in_a_few_requests(server: servers.XRootD, clusters: Path) -> None:
    with uproot.open(clusters) as file:
        baskets = sum(branch.num_baskets for branch in file["Events"].branches)
    assert baskets == 1_200
    header = root_io.read_header(f"{server.url}/store/{clusters.name}")
    before = server.requests()
    (batch,) = root_io.read_ranges(header.path, "Events", header.schema, [(0, 4_000)], 0, header.uuid)
    made = server.requests() - before
    assert made["readv"] == 1
    assert made.total() - made["elements"] < baskets / 100
    assert batch.equals(next(root_io.read_ranges(str(clusters), "Events", header.schema, [(0, 4_000)], 0)))


def test_logical_names_are_read_through_the_redirector_from_the_servers_that_have_them(
    opened: Callable[..., Events], local: Path, converted: Manifest, tmp_path: Path
) -> None:
    folders = [tmp_path / kind for kind in ("background", "signal")]
    for folder in folders:
        (folder / "mc").mkdir(parents=True)
        shutil.copy(local / "root" / f"{folder.name}_0.root", folder / "mc")
    with servers.xrootd_redirector(*folders) as redirector:
        events = opened("/store/mc/*.root", redirector=redirector)
        assert [file.path for file in events.plan.files] == [
            f"{redirector}//store/mc/background_0.root",
            f"{redirector}//store/mc/signal_0.root",
        ]
        assert convert(events, str(tmp_path / "out")).content_digest == converted.content_digest
        with pytest.raises(UnreadableInputError, match=r"//store/mc/other.root: no such file"):
            opened("/store/mc/other.root", redirector=redirector)


@pytest.mark.parametrize("name", ["x.root", "*.root"], ids=["file", "glob"])
def test_server_that_takes_connections_and_says_nothing_is_given_up(opened: Callable[..., Events], name: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"root://127.0.0.1:{silent.getsockname()[1]}//store/{name}"
        with pytest.raises(UnreadableInputError, match=r"does not answer .*, tried 2 times in .*--retries") as caught:
            opened(url, timeout=1, retries=1)
    assert caught.value.path in {url, url.rpartition("/")[0]}  # of a glob, the folder that is looked through


def test_server_that_stalls_between_ranges_is_named_with_tree_and_entries(
    server: servers.XRootD, clusters: Path
) -> None:
    header = root_io.read_header(f"{server.url}/store/{clusters.name}")
    ranges, patience = [(0, 300), (300, 600)], Patience(timeout=1, retries=1)
    batches = root_io.read_ranges(header.path, "Events", header.schema, ranges, 0, header.uuid, patience)
    assert next(batches).num_rows == 300
    server.process.send_signal(signal.SIGSTOP)
    with pytest.raises(
        UnreadableInputError,
        match=r"tree Events, entries \[300, 600\): its server does not answer .*, tried 2 times in .*--retries",
    ):
        next(batches)


def test_server_that_stalls_in_the_middle_of_a_job_is_given_up(
    opened: Callable[..., Events], server: servers.XRootD, clusters: Path
) -> None:
    events = opened(f"{server.url}/store/{clusters.name}", timeout=1, retries=1)
    assert len(events.plan.ranges) > 8  # more than one in a task
    pid = server.process.pid

    def stop_after_a_range(batches: Iterator[RangeBatch]) -> Iterator[pa.RecordBatch]:
        for _, batch, _ in batches:
            os.kill(pid, signal.SIGSTOP)
            yield batch.select(["__entry"])

    with pytest.raises(UnreadableInputError, match=r"does not answer .*, tried 2 times in") as caught, received():
        events.map_ranges(stop_after_a_range, "__entry long").collect()
    assert caught.value.path == f"{server.url}/store/{clusters.name}"


@contextmanager
def no_task_fails(spark: SparkSession) -> Iterator[None]:
    """Sees that what goes on does so by itself, and not by Spark's second try of a task."""
    group = f"group {uuid4()}"
    spark.sparkContext.setJobGroup(group, "")
    yield
    spark.sparkContext.setJobGroup("", "")
    tracker = spark.sparkContext.statusTracker()
    jobs = [tracker.getJobInfo(job) for job in tracker.getJobIdsForGroup(group)]
    stages = [tracker.getStageInfo(stage) for job in jobs if job for stage in job.stageIds]
    assert stages
    assert [stage.numFailedTasks for stage in stages if stage] == [0] * len(stages)


def test_job_goes_on_when_a_server_that_stalled_answers_again(
    opened: Callable[..., Events], server: servers.XRootD, converted: Manifest, spark: SparkSession, tmp_path: Path
) -> None:
    events = opened(f"{server.url}/store", timeout=1, retries=4)
    server.process.send_signal(signal.SIGSTOP)
    timer = Timer(4, server.process.send_signal, [signal.SIGCONT])
    timer.start()
    with no_task_fails(spark):
        assert convert(events, str(tmp_path / "out")).content_digest == converted.content_digest
    timer.join()


def test_job_goes_on_when_a_server_that_was_killed_is_back(
    opened: Callable[..., Events], server: servers.XRootD, converted: Manifest, spark: SparkSession, tmp_path: Path
) -> None:
    events = opened(f"{server.url}/store", timeout=2, retries=4)
    server.kill()
    timer = Timer(2, server.restart)
    timer.start()
    with no_task_fails(spark):
        assert convert(events, str(tmp_path / "out")).content_digest == converted.content_digest
    timer.join()


def test_data_source_reads_from_the_server_and_gives_it_up_as_its_options_say(
    opened: Callable[..., Events], server: servers.XRootD, spark: SparkSession
) -> None:
    register(spark)
    url = f"{server.url}/store/signal_0.root"
    reader = spark.read.format("root").options(timeout=1, retries=0)
    frame, expected = reader.load(url), opened(url).dataframe()
    assert frame.columns == expected.columns
    assert frame.count() == expected.count()
    assert frame.exceptAll(expected).isEmpty()
    server.process.send_signal(signal.SIGSTOP)
    with pytest.raises(UnreadableInputError, match=r"does not answer .*, tried once"), received():
        frame.collect()


@pytest.fixture
def clusters(server: servers.XRootD) -> Path:
    """A file in ``/store`` of the server, as a local path: 4,000 entries of 30 branches, in clusters of 100."""
    path = server.home / "files" / "store" / "clusters.root"
    rows = np.arange(100, dtype=np.float32)
    with uproot.recreate(path) as file:
        tree = file.mktree("Events", {f"x{number}": np.float32 for number in range(30)})
        for _ in range(40):
            tree.extend({f"x{number}": rows + number for number in range(30)})
    return path


@pytest.fixture
def server(local: Path) -> Iterator[servers.XRootD]:
    """A server of the ROOT files in ``/store``, for one test to break."""
    with servers.xrootd(local / "root") as running:
        yield running


def test_client_lives_beside_a_tensorflow_that_was_there_first(xrootd: str) -> None:
    read = f"root_io.read_header({xrootd + '/signal_0.root'!r}).entries"
    script = f"import tensorflow\nfrom mlaas_spark import root_io\nprint({read})"
    done = subprocess.run(  # noqa: S603 - our own interpreter and script
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=240, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, "600"), done.stderr[-2000:]
