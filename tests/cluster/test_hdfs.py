"""Files on a real HDFS: read, converted to, chunked, streamed and trained from; without a right, without a server."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import uproot

from mlaas_spark import manifest as manifests
from mlaas_spark import pipeline, storage
from mlaas_spark.branch_specs import SpecsFile, merged
from mlaas_spark.config import ChunkConfig, FeatureConfig, InputConfig, resolve
from mlaas_spark.errors import ConfigError, ModelContractError, UnreadableInputError, UnwritableOutputError
from mlaas_spark.filesets import fileset
from mlaas_spark.formats import Format
from mlaas_spark.ml.stream import ChunkStream
from mlaas_spark.runs import Journal
from mlaas_spark.selection import Expression
from mlaas_spark.spark import chunks, inspection, specs
from mlaas_spark.spark.convert import convert
from mlaas_spark.spark.ingest import open_events
from mlaas_spark.spark.predict import PredictRequest, predict
from mlaas_spark.transform import FeatureTransform
from mlaas_spark.usercode import UserFile
from tests.cluster import servers

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from pyspark.sql import SparkSession

    from mlaas_spark.config import Config
    from mlaas_spark.manifest import Manifest
    from mlaas_spark.spark.ingest import Events

LABEL = Expression.parse("PV_npvs >= 24")
KINDS = ["root", "parquet", "json", "csv"]

MODEL = """
from keras import Sequential
from keras.layers import Dense, Input

def model(idim):
    network = Sequential([Input((idim,)), Dense(4, activation="relu"), Dense(1, activation="sigmoid")])
    network.compile(optimizer="adam", loss="{loss}")
    return network
"""

COMMANDS = """
import contextlib, io, json, sys
from mlaas_spark.cli import main

for line in sys.argv[1:]:
    with contextlib.redirect_stdout(io.StringIO()):
        code = main(json.loads(line))
    print("exit", code, file=sys.stderr, flush=True)
"""

GATE = """
import os
import time
from pathlib import Path
from mlaas_spark import storage

HERE = Path({folder!r})

def preprocessing(rec):
    if (HERE / "armed").exists() and not (HERE / "open").exists() and storage.exists({out!r} + "/_staging"):
        (HERE / f"reached-{{os.getpid()}}").touch()
        end = time.monotonic() + 120
        while not (HERE / "open").exists() and time.monotonic() < end:
            time.sleep(0.02)
    return rec
"""

pytestmark = [pytest.mark.cluster, pytest.mark.tensorflow]


@pytest.mark.parametrize("kind", KINDS)
def test_specs_of_files_there_are_those_of_local_ones(
    specs_of: Callable[..., Any], hdfs: str, local: Path, kind: str
) -> None:
    assert specs_of(f"{hdfs}/data/{kind}") == specs_of(str(local / kind))


@pytest.mark.parametrize("kind", ["root", "parquet", "json", "csv"])
def test_inspect_shows_there_what_it_shows_of_local_files(
    opened: Callable[..., Events], hdfs: str, local: Path, kind: str
) -> None:
    there, here = opened(f"{hdfs}/data/{kind}", events=500), opened(str(local / kind), events=500)
    assert inspection.on_disk(there) == inspection.on_disk(here)
    assert inspection.read(there)[0] == inspection.read(here)[0]


def test_globs_are_expanded_there(opened: Callable[..., Events], hdfs: str) -> None:
    assert [file.path for file in opened(f"{hdfs}/data/*/signal*.root").plan.files] == [
        f"{hdfs}/data/root/signal_0.root"
    ]


def test_conversion_to_hdfs_is_that_to_a_disk(
    opened: Callable[..., Events], hdfs: str, converted: Manifest, local: Path
) -> None:
    made = convert(opened(str(local / "root")), f"{hdfs}/out/converted")
    assert made.content_digest == converted.content_digest == manifests.read(f"{hdfs}/out/converted").content_digest
    manifests.check_files(f"{hdfs}/out/converted", made)
    assert storage.children(f"{hdfs}/out/converted") == ["_manifests", "events", "manifest.json"]
    left = [f"events/{name}" for name in storage.children(f"{hdfs}/out/converted/events")]
    assert left == sorted(file.path for file in made.files)
    fs, path = storage.filesystem(f"{hdfs}/out/converted/{made.files[0].path}")
    with fs.open(path, "rb") as file:
        assert pq.read_table(file).num_rows == made.files[0].rows
    again = convert(opened(str(local / "root")), f"{hdfs}/out/converted")
    assert again == made


def test_a_set_on_hdfs_is_brought_up_to_date(
    opened: Callable[..., Events], hdfs: str, converted: Manifest, local: Path
) -> None:
    one, two = sorted(str(path) for path in (local / "root").iterdir())
    convert(opened(one), f"{hdfs}/out/grows")
    made = convert(opened(one, two), f"{hdfs}/out/grows")
    assert (made.version, made.content_digest) == (2, converted.content_digest)
    first = convert(opened(one), f"{hdfs}/out/grows")
    left = [f"events/{name}" for name in storage.children(f"{hdfs}/out/grows/events")]
    assert left == sorted(file.path for file in first.files)


def test_friend_trees_on_hdfs_are_those_on_a_disk(
    opened: Callable[..., Events], specs_of: Callable[..., Any], hdfs: str, local: Path, tmp_path: Path
) -> None:
    transform = FeatureTransform.of(merged(specs_of(str(local / "root")).values()), FeatureConfig())
    scorer = partial(partial, np.einsum, "wk,nw,nw->nk", np.ones((transform.width, 1), np.float32))
    request = PredictRequest("sum_1", transform, {}, scorer, ("score",), ("event",), format=Format.ROOT)
    there = predict(opened(f"{hdfs}/data/root", selection="nJet >= 2"), request, f"{hdfs}/out/friends")
    here = predict(opened(str(local / "root"), selection="nJet >= 2"), request, str(tmp_path / "here"))
    assert there.content_digest == here.content_digest
    names = [file.path for file in there.files]
    assert storage.children(f"{hdfs}/out/friends") == sorted([*names, "_manifests", "manifest.json"])
    manifests.check_files(f"{hdfs}/out/friends", there)
    for name in names:
        (tmp_path / name).write_bytes(storage.read_bytes(f"{hdfs}/out/friends/{name}"))
        with uproot.open(tmp_path / name) as found, uproot.open(tmp_path / "here" / name) as expected:
            for branch, values in expected["Events"].arrays(library="np").items():
                theirs = found["Events"][branch].array(library="np")
                assert np.array_equal(theirs, values, equal_nan=values.dtype.kind == "f"), branch


def test_chunks_on_hdfs_stream_the_matrices_of_local_ones(
    opened: Callable[..., Events], hdfs: str, local: Path, tmp_path: Path
) -> None:
    events = opened(str(local / "root"))
    made, counted = specs.compute(
        events, [name for name in events.plan.schema.names if name not in {"event", "PV_npvs"}]
    )
    transform = FeatureTransform.of(made.specs, FeatureConfig())
    request = chunks.ChunkRequest(ChunkConfig(size=500), transform, ("event",), LABEL, 64, "specs")
    folders = [f"{hdfs}/out/chunks", str(tmp_path / "chunks")]
    digests = {chunks.build(counted, request, folder).content_digest for folder in folders}
    assert len(digests) == 1
    remote, here = (list(ChunkStream.open(folder, transform, 64, 2).batches("train")) for folder in folders)
    assert sum(len(batch.matrix) for batch in here) > 500
    for one, other in zip(remote, here, strict=True):
        np.testing.assert_array_equal(one.matrix, other.matrix)
        np.testing.assert_array_equal(one.label, other.label)


def test_file_that_is_not_there_is_named(opened: Callable[..., Events], hdfs: str) -> None:
    for path in (f"{hdfs}/data/root/none.root", f"{hdfs}/data/parquet/none.parquet", f"{hdfs}/data/json/none.json"):
        with pytest.raises(UnreadableInputError, match=r"none.*no such file") as caught:
            opened(path)
        assert path in str(caught.value)


@pytest.mark.parametrize("host", ["no-such-host.invalid:9000", "localhost:{port}"], ids=["unknown", "down"])
def test_name_node_that_does_not_answer_is_named(opened: Callable[..., Events], host: str) -> None:
    url = f"hdfs://{host.format(port=servers.free_port())}/data/x.root"
    with pytest.raises(UnreadableInputError, match="its server does not answer") as caught:
        opened(url)
    assert url in str(caught.value)


def test_run_folder_on_hdfs_is_whole_and_its_bundle_serves(
    spark: SparkSession, hdfs: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    del spark  # which is the session that the job finds
    result = pipeline.train(training(hdfs, tmp_path), Journal(), "the command", f"{hdfs}/out/models/m.keras")
    home = f"{hdfs}/out/runs/physics"
    assert storage.children(home) == sorted(["chunks", result.folder.rsplit("/", 1)[-1]])
    assert set(storage.children(result.folder)) == {
        *("bundle", "config.yaml", "history.csv", "log", "metrics.json", "model.keras", "plan.json", "report.html"),
        *("plots", "run.json", "skipped.json", "specs.json"),
    }
    assert result.chunks.startswith(f"{home}/chunks/")
    assert json.loads(storage.read_bytes(f"{result.folder}/run.json"))["chunks"] == result.chunks
    report = pipeline.serve_check(result.archive)
    assert report == pipeline.serve_check(result.bundle)
    assert report["events"] > 100
    exported = pipeline.export(result.folder, f"{hdfs}/out/exported", Journal())
    assert [*exported] == ["raw", "features"]
    assert {archive.rsplit("/", 1)[0] for archive in exported.values()} == {f"{hdfs}/out/exported"}
    assert pipeline.export(result.folder, None, Journal()) == result.archives
    assert storage.children(f"{hdfs}/out/models") == ["m.keras"]
    assert capsys.readouterr().out == ""


def test_run_that_fails_leaves_no_folder_on_hdfs(spark: SparkSession, hdfs: str, tmp_path: Path) -> None:
    del spark
    config = training(hdfs, tmp_path, loss="none_such", runs="failed", chunks=f"{tmp_path}/chunks")
    with pytest.raises(ModelContractError):
        pipeline.train(config, Journal())
    assert not storage.exists(f"{hdfs}/out/failed")


def test_url_without_host_is_one_of_the_default_file_system(
    hadoop: servers.Hadoop, hdfs: str, specs_of: Callable[..., Any], converted: Manifest, local: Path
) -> None:
    made = [["specs", f"hdfs:///data/{kind}", "--out", f"hdfs:///out/default/{kind}.json"] for kind in KINDS]
    lines = [*made, ["convert", "hdfs:///data/root", "--out", "hdfs:///out/default/converted"]]
    outcome = run(lines, {"HADOOP_CONF_DIR": str(hadoop.conf)})
    assert outcome.codes == [0] * len(lines), outcome.text
    for kind in KINDS:
        content = storage.read_bytes(f"{hdfs}/out/default/{kind}.json")
        of_file = SpecsFile.loads(content, kind).by_file
        local_specs = specs_of(str(local / kind))
        assert of_file.keys() == local_specs.keys()
        for uuid, branches in of_file.items():
            assert len(branches.branches) > 10
            assert dict(branches.branches) == {name: local_specs[uuid][name] for name in branches.branches}
    assert manifests.read(f"{hdfs}/out/default/converted").content_digest == converted.content_digest


def test_url_without_host_needs_hadoops_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HADOOP_CONF_DIR", raising=False)
    monkeypatch.delenv("HADOOP_HOME", raising=False)
    with pytest.raises(ConfigError, match=r"hdfs:///data/x.root: the URL names no NameNode.*write hdfs://host:port"):
        fileset(InputConfig(files=("hdfs:///data/x.root",)))


def test_what_may_not_be_read_or_written_is_named(hdfs: str, local: Path, tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(MODEL.format(loss="binary_crossentropy"))
    for kind in KINDS:
        for path in sorted((local / kind).iterdir())[:1]:
            storage.write_atomic(f"{hdfs}/closed/files/{path.name}", path.read_bytes())
            storage.write_atomic(f"{hdfs}/closed/folder/{kind}/{path.name}", path.read_bytes())
    fs, _ = storage.filesystem(hdfs)
    files = {path.rsplit("/", 1)[-1]: path for path in storage.below(f"{hdfs}/closed/files")}
    for name in files:
        fs.client.set_permission(f"/closed/files/{name}", 0)
    fs.client.set_permission("/closed/folder", 0o700)
    good = str(local / "root")
    denied = "Permission denied: user=bob"
    cases = [
        *((["specs", path, "--out", f"{tmp_path}/s.json"], 3, f"cannot read {path}") for path in files.values()),
        *(
            (["specs", f"{hdfs}/closed/folder/{kind}", "--out", f"{tmp_path}/s.json"], 3, f"cannot read {hdfs}/closed")
            for kind in KINDS
        ),
        (["specs", f"{hdfs}/closed/*/*.root", "--out", f"{tmp_path}/s.json"], 3, f"cannot read {hdfs}/closed/*/*.root"),
        (["convert", good, "--out", f"{hdfs}/closed/out"], 2, f"cannot write {hdfs}/closed/out"),
        (["convert", good, "--out", f"{hdfs}/closed/folder/out"], 2, f"cannot write {hdfs}/closed/folder/out"),
        (["specs", good, "--out", f"{hdfs}/closed/s.json"], 2, f"cannot write {hdfs}/closed/s.json"),
        (["chunks", good, "--label", "PV_npvs >= 24", "--out", f"{hdfs}/closed/c"], 2, f"cannot write {hdfs}/closed/c"),
        (
            [
                "train",
                good,
                "--label",
                "PV_npvs >= 24",
                "--model",
                f"{tmp_path}/model.py",
                "--fout",
                f"{hdfs}/closed/r",
            ],
            2,
            f"cannot write {hdfs}/closed/r",
        ),
    ]
    outcome = run([line for line, _, _ in cases], {"HADOOP_USER_NAME": "bob"})
    told = zip(cases, outcome.codes, outcome.errors, strict=True)
    for (line, code, beginning), found, message in told:
        assert (found, message.startswith(f"error: {beginning}"), denied in message) == (code, True, True), (
            line,
            message,
        )
    assert "Traceback" not in outcome.text
    assert storage.children(f"{hdfs}/closed") == ["files", "folder"]


@pytest.mark.parametrize("host", ["no-such-host.invalid:9000", "localhost:{port}"], ids=["unknown", "down"])
def test_output_on_a_name_node_that_does_not_answer_is_named(
    opened: Callable[..., Events], host: str, local: Path, tmp_path: Path
) -> None:
    url = f"hdfs://{host.format(port=servers.free_port())}/out"
    with pytest.raises(UnwritableOutputError, match=f"cannot write {url}.*: its server does not answer"):
        convert(opened(str(local / "root")), url)
    with pytest.raises(UnwritableOutputError, match=f"cannot write {url}/runs/physics.*: its server does not answer"):
        pipeline.train(training(url.removesuffix("/out"), tmp_path, files=str(local / "root")), Journal())


def test_job_goes_on_when_the_name_node_comes_back(
    spark: SparkSession, hadoop: servers.Hadoop, hdfs: str, local: Path, opened: Callable[..., Events], tmp_path: Path
) -> None:
    out = f"{hdfs}/out/outage"
    gate = Gate.before(out, tmp_path)
    config = InputConfig(files=(f"{hdfs}/data/json",))
    events = open_events(spark, fileset(config), config, 300, preproc=UserFile.read(str(gate.code), ConfigError))
    gate.arm()
    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(convert, events, out)
        gate.wait_for(job.done)
        hadoop.order("stop namenode")
        with socket.create_server(("127.0.0.1", int(hadoop.url.rsplit(":", 1)[1]))) as instead:
            gate.open()
            instead.settimeout(100)
            instead.accept()[0].close()  # the job misses the name node
        assert not job.done()
        hadoop.order("start namenode")
        made = job.result(300)
    expected = convert(opened(str(local / "json")), str(tmp_path / "expected"))
    check_set(out, made, expected)


def test_job_that_loses_the_name_node_fails_with_a_named_error_and_a_rerun_ends_as_if_it_had_not(
    hadoop: servers.Hadoop, hdfs: str, local: Path, opened: Callable[..., Events], tmp_path: Path
) -> None:
    out = f"{hdfs}/out/lost"
    gate = Gate.before(out, tmp_path)
    line = ["convert", f"{hdfs}/data/json", "--out", out, "--preproc", str(gate.code), "--set", "spark.master=local[2]"]
    environment = {"HADOOP_CONF_DIR": str(impatient(hadoop.conf, tmp_path / "conf"))}
    gate.arm()
    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(run, [line], environment)
        gate.wait_for(job.done)
        hadoop.order("stop namenode")
        try:
            gate.open()
            outcome = job.result(300)
        finally:
            hadoop.order("start namenode")
    # the file system of the writer, or in the next try of a task that of the reader
    assert outcome.codes in ([2], [3]), outcome.text
    (message,) = outcome.errors
    assert message.startswith((f"error: cannot write {out}/_staging/", f"error: cannot read {hdfs}/data/json/"))
    assert "its server does not answer" in message
    assert "Traceback" not in outcome.text
    assert not storage.exists(f"{out}/manifest.json")
    gate.disarm()
    again = run([line], environment)
    assert again.codes == [0], again.text
    expected = convert(opened(str(local / "json")), str(tmp_path / "expected"))
    check_set(out, manifests.read(out), expected)


def check_set(folder: str, made: Manifest, expected: Manifest) -> None:
    """The data set is the expected one, whole, with nothing beside it."""
    assert made.content_digest == expected.content_digest == manifests.read(folder).content_digest
    manifests.check_files(folder, made)
    listed = [f"{folder}/{path}" for path in ("_manifests/000001.json", "manifest.json", *(f.path for f in made.files))]
    assert storage.below(folder) == sorted(listed)


def training(
    url: str, folder: Path, *, files: str = "", loss: str = "binary_crossentropy", runs: str = "runs", chunks: str = ""
) -> Config:
    """A short training whose run folder is on HDFS."""
    (folder / "model.py").write_text(MODEL.format(loss=loss))
    return resolve(
        {
            "name": "physics",
            "runs": f"{url}/out/{runs}",
            "input": {"files": [files or f"{url}/data/root"], "label": LABEL.text},
            "chunks": {"size": 500, "folder": chunks or None},
            "train": {"model": str(folder / "model.py"), "epochs": 1},
        }
    )


@dataclass(frozen=True)
class Outcome:
    """What commands gave: the exit code of each, the lines of error, all that was written to standard error."""

    codes: list[int]
    errors: list[str]
    text: str


def run(lines: Sequence[Sequence[str]], environment: Mapping[str, str]) -> Outcome:
    """Run command lines one by one in a process of their own: Java and hdfs_native read the environment once."""
    done = subprocess.run(  # noqa: S603 - our own interpreter and commands
        [sys.executable, "-c", COMMANDS, *map(json.dumps, lines)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    told = done.stderr.splitlines()
    codes = [int(line.split()[1]) for line in told if line.startswith("exit ")]
    return Outcome(codes, [line for line in told if line.startswith("error:")], done.stderr)


def impatient(conf: Path, folder: Path) -> Path:
    """Hadoop's configuration with clients that give up a NameNode after some seconds, not minutes."""
    folder.mkdir()
    settings = {
        "dfs.client.failover.max.attempts": 3,
        "dfs.client.failover.sleep.base.millis": 100,
        "ipc.client.connect.max.retries": 1,
    }
    entries = "".join(f"<property><name>{k}</name><value>{v}</value></property>" for k, v in settings.items())
    (folder / "core-site.xml").write_bytes((conf / "core-site.xml").read_bytes())
    (folder / "hdfs-site.xml").write_text(f"<configuration>{entries}</configuration>")
    return folder


@dataclass(frozen=True)
class Gate:
    """A user's preprocessing that stops a conversion in its middle, once it has begun to write, until it may go on."""

    folder: Path

    @classmethod
    def before(cls, out: str, folder: Path) -> Gate:
        (folder / "gate.py").write_text(GATE.format(folder=str(folder), out=out))
        return cls(folder)

    @property
    def code(self) -> Path:
        return self.folder / "gate.py"

    def arm(self) -> None:
        (self.folder / "armed").touch()

    def disarm(self) -> None:
        (self.folder / "armed").unlink()

    def open(self) -> None:
        (self.folder / "open").touch()

    def wait_for(self, over: Callable[[], bool]) -> None:
        """Until both tasks of the job, a file each, stand before the gate: Spark has read what they write."""
        end = time.monotonic() + 200
        while len(list(self.folder.glob("reached-*"))) < 2:
            assert not over(), "the job ended before it reached the gate"
            assert time.monotonic() < end
            time.sleep(0.02)
