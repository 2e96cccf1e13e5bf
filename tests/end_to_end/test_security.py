"""A real training as its user starts it, in a folder where somebody else has put files, with secrets all around it."""

from __future__ import annotations

import gzip
import os
import stat
import subprocess
import sys
import threading
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from mlaas_spark import storage
from mlaas_spark.confidential import HIDDEN
from mlaas_spark.demo import generate
from tests.end_to_end.conftest import MODEL

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.end_to_end.conftest import Command

CONF = {
    "spark.hadoop.fs.s3a.access.key": "AKIAPLANTED00001",
    "spark.hadoop.fs.s3a.secret.key": "planted-secret-key-2",
    "spark.hadoop.fs.s3a.session.token": "planted-session-token-3",
    "spark.executorEnv.AWS_ACCESS_KEY_ID": "AKIAPLANTED00004",
    "spark.executor.defaultJavaOptions": "-Dsome.password=planted-in-java-5",
    "spark.ssl.keyPassword": "planted-key-password-6",
}
ON_COMMAND_LINE = ("spark.hadoop.fs.azure.account.key.x", "planted-on-command-line-7")
ENVIRONMENT = {
    "AWS_SECRET_ACCESS_KEY": "planted-in-environment-8",
    "BEARER_TOKEN": "planted-bearer-token-9",
    "MLFLOW_TRACKING_PASSWORD": "planted-mlflow-password-10",
}
IN_FILES = {"x509_proxy": "planted-grid-proxy-11", "user.keytab": "planted-keytab-12"}
SECRETS = [*CONF.values(), ON_COMMAND_LINE[1], *ENVIRONMENT.values(), *IN_FILES.values()]
SECRETS = [secret.removeprefix("-Dsome.password=") for secret in SECRETS]

SHADOWS = ["numpy", "pandas", "pyarrow", "uproot", "awkward", "sitecustomize", "model", "preproc", "keras", "py4j"]
"""Modules that jobs import, or might look for, as files beside the data."""


@dataclass(frozen=True)
class Trained:
    """What a training has left."""

    folder: Path
    out: str
    err: str
    commands: bytes

    @property
    def run(self) -> Path:
        """The run folder."""
        (found,) = (path.parent for path in (self.folder / "runs" / "safe").glob("*/run.json"))
        return found


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A training in a process of its own, whose current folder is that of the data."""
    folder = tmp_path_factory.mktemp("secrets")
    data, code, secret, temporary = (folder / name for name in ("data", "code", "secret", "tmp"))
    for place in (code, secret, temporary, folder / "eventlog"):
        place.mkdir()
    generate(data, 400, files=2, seed=3)
    (code / "network.py").write_text(MODEL)
    marker = f"open({str(folder / 'ran')!r}, 'a').write(__file__)\nraise ImportError('planted')\n"
    for name in SHADOWS:
        (data / f"{name}.py").write_text(marker)
    (data / "mlaas_spark").mkdir()
    (data / "mlaas_spark" / "__init__.py").write_text(marker)
    for name, content in IN_FILES.items():
        (secret / name).write_text(content)
        (secret / name).chmod(0o600)
    config = {
        "name": "safe",
        "runs": str(folder / "runs"),
        "input": {"groups": [{"files": "signal_*.root", "label": 1}, {"files": "background_*.root", "label": 0}]},
        "train": {"model": str(code / "network.py"), "epochs": 1, "batch_size": 64},
        "evaluate": {"bootstrap": 0, "importance_events": 0},
        "spark": {
            "master": "local[2]",
            "x509_proxy": str(secret / "x509_proxy"),
            "conf": {
                **CONF,
                "spark.eventLog.enabled": "true",
                "spark.eventLog.compress": "false",
                "spark.eventLog.dir": f"file://{folder / 'eventlog'}",
                "spark.local.dir": str(temporary),
                "spark.driver.defaultJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
            },
        },
    }
    (secret / "config.yaml").write_text(yaml.safe_dump(config))
    (secret / "config.yaml").chmod(0o600)
    environment = {**os.environ, **ENVIRONMENT, "KRB5_KTNAME": str(secret / "user.keytab"), "TMPDIR": str(temporary)}
    given = ["train", "--config", str(secret / "config.yaml"), "--set", "spark.conf." + "=".join(ON_COMMAND_LINE)]
    process = subprocess.Popen(  # noqa: S603 - our own command, as a user runs it
        [str(Path(sys.executable).parent / "mlaas-spark"), *given],
        cwd=data,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    seen: set[bytes] = set()
    ended = threading.Event()
    watch = threading.Thread(target=_watch, args=(str(folder), process.pid, seen, ended))
    watch.start()
    try:
        out, err = process.communicate(timeout=600)
    finally:
        process.kill()
        ended.set()
        watch.join()
    assert process.returncode == 0, err
    return Trained(folder, out, err, b"\n".join(seen))


def _watch(folder: str, ours: int, seen: set[bytes], ended: threading.Event) -> None:
    """Note the command lines of Spark's processes, which every user of the machine can read."""
    while not ended.wait(0.2):
        for place in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                line = place.read_bytes()
            except OSError:
                continue
            if place.parent.name != str(ours) and b"SparkSubmit" in line and folder.encode() in line:
                seen.add(line)


def contents(folder: Path) -> Iterator[tuple[Path, bytes]]:
    """All files below a folder, packed ones also as what is in them."""
    for path in sorted(folder.rglob("*")):
        if not path.is_file():
            continue
        content = path.read_bytes()
        yield path, content
        if path.suffix == ".gz":
            yield path, gzip.decompress(content)
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as packed:
                yield from ((path / name, packed.read(name)) for name in packed.namelist())


def test_secrets_are_in_nothing_that_a_training_leaves(trained: Trained) -> None:
    """Log, config, report, run folder, chunks, event log, temporary files, standard output and error."""
    given = trained.folder / "secret"
    left = [(path, content) for path, content in contents(trained.folder) if not path.is_relative_to(given)]
    left += [(Path("stdout"), trained.out.encode()), (Path("stderr"), trained.err.encode())]
    names = {path.name for path, _ in left}
    assert {"log", "config.yaml", "report.html", "run.json", "model.keras", "MODEL_CARD.md"} <= names
    assert [(str(path), secret) for path, content in left for secret in SECRETS if secret.encode() in content] == []


def test_spark_had_the_secrets_and_its_event_log_has_them_not(trained: Trained) -> None:
    text = "".join(path.read_text() for path in (trained.folder / "eventlog").rglob("events_*"))
    assert '"Event":"SparkListenerEnvironmentUpdate"' in text
    for key in [*CONF, ON_COMMAND_LINE[0]]:
        assert f'"{key}":"*********(redacted)"' in text, key


def test_secrets_are_in_no_command_line_that_is_ours(trained: Trained) -> None:
    assert b"SparkSubmit" in trained.commands
    assert [secret for secret in SECRETS if secret.encode() in trained.commands] == []


def test_the_config_that_is_kept_says_that_there_was_a_secret(trained: Trained) -> None:
    kept = yaml.safe_load((trained.run / "config.yaml").read_text())["spark"]["conf"]
    assert {key: kept[key] for key in [*CONF, ON_COMMAND_LINE[0]]} == dict.fromkeys([*CONF, ON_COMMAND_LINE[0]], HIDDEN)
    assert f"{ON_COMMAND_LINE[0]}={HIDDEN}" in (trained.run / "run.json").read_text()


def test_a_run_folder_is_for_its_user_alone(trained: Trained) -> None:
    assert stat.S_IMODE(trained.run.stat().st_mode) == 0o700


def test_nothing_that_lies_beside_the_data_is_run(trained: Trained) -> None:
    """A numpy.py or a package mlaas_spark in the current folder, on the driver and in Spark's Python workers."""
    assert not (trained.folder / "ran").exists(), (trained.folder / "ran").read_text()
    assert not list((trained.folder / "data").rglob("*.pyc"))


def test_a_config_of_a_run_folder_is_not_taken_for_one_with_its_secrets(trained: Trained, run: Command) -> None:
    done = run("specs", "--config", str(trained.run / "config.yaml"), str(trained.folder / "data" / "signal_0.root"))
    assert done.code == 2
    assert "is a secret, which run folders do not keep" in done.err


# runs of others


def test_a_run_of_another_user_names_no_code(trained: Trained, run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    network = trained.folder / "code" / "network.py"
    before = network.read_text()
    network.write_text(f"open({str(trained.folder / 'evil')!r}, 'w').close()\n{before}")
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    done = run("evaluate", str(trained.run), "--out", "theirs", "--set", "evaluate.bootstrap=0")
    assert done.code == 0
    assert f"is of another user: {network}, which its config names, is not run" in done.err
    assert not (trained.folder / "evil").exists()
    monkeypatch.undo()
    assert storage.is_own(str(trained.run / "config.yaml"))  # whose network.py is run, as test_evaluate.py shows
    network.write_text(before)
