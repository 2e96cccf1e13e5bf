"""Workers on executors of their own train a model together; ``mlaas-spark train`` on local-cluster."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from mlaas_spark import demo
from mlaas_spark.config import resolve

pytestmark = pytest.mark.cluster

REPOSITORY = Path(__file__).parents[2]

_JAVA = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"

MODEL = """
import os, signal
import keras

def model(idim):
    net = keras.Sequential([
        keras.layers.Input((idim,)),
        keras.layers.Dense(16, activation="relu"),
        keras.layers.Dense(1, activation="sigmoid"),
    ])
    net.compile(loss="binary_crossentropy", optimizer=keras.optimizers.Adam(0.01), metrics=["accuracy"])
    return net

class Killed(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        if epoch == 1 and os.path.exists({flag!r}):
            os.remove({flag!r})
            os.kill(os.getpid(), signal.SIGKILL)

def callbacks():
    return [Killed()]
"""


@dataclass(frozen=True)
class Jobs:
    """Runs of jobs/train.py on the sample in a folder."""

    folder: Path

    def run(self, name: str, master: str, *options: str, killed: bool = False) -> subprocess.CompletedProcess[str]:
        """One of them; the first of its workers that ends the second epoch may be killed."""
        if killed:
            (self.folder / "flag").touch()
        words = [
            *("--config", str(self.folder / "config.yaml")),
            *("--set", f"name={name}", "--set", f"spark.master={master}"),
        ]
        return subprocess.run(  # noqa: S603 - our own interpreter and job
            [sys.executable, str(REPOSITORY / "jobs" / "train.py"), *words, *options],
            cwd=self.folder,  # of local-cluster: its work folder is made here
            env={**os.environ, "PYSPARK_PYTHON": sys.executable},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )

    def history(self, name: str) -> list[dict[str, float]]:
        (path,) = (self.folder / "runs" / name).glob("2*/history.csv")
        with path.open() as stream:
            return [{key: float(value or 0) for key, value in row.items()} for row in csv.DictReader(stream)]


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Jobs:
    """Jobs on 3,000 events of the demo."""
    folder = tmp_path_factory.mktemp("training")
    demo.generate(folder / "sample", events=3_000, files=4, seed=3)
    (folder / "mine.py").write_text(MODEL.format(flag=str(folder / "flag")))
    groups = [
        {"name": name, "files": str(folder / "sample" / f"{name}_*.root"), "label": label}
        for name, label in (("signal", 1), ("background", 0))
    ]
    content = {
        "runs": str(folder / "runs"),
        "input": {"groups": groups},
        "chunks": {"size": 1_000, "folder": str(folder / "chunks")},
        "train": {
            "model": str(folder / "mine.py"),
            "epochs": 3,
            "batch_size": 64,
            "shards": 2,
            "checkpoint": {"steps": 10},
        },
        "spark": {
            "events_per_task": 1_000,
            "conf": {"spark.driver.defaultJavaOptions": _JAVA, "spark.executor.defaultJavaOptions": _JAVA},
        },
    }
    (folder / "config.yaml").write_text(resolve(content).to_yaml())

    return Jobs(folder)


def test_two_executors_train_what_one_process_does_and_go_on_after_one_was_killed(jobs: Jobs) -> None:
    alone = jobs.run("alone", "local[2]")
    assert alone.returncode == 0, alone.stderr
    cluster, workers = "local-cluster[2,1,2048]", ("--set", "train.workers=2")
    killed = jobs.run("together", cluster, *workers, killed=True)
    assert killed.returncode == 5, killed.stderr
    assert "is gone (killed by SIGKILL" in killed.stderr or "is gone: it was killed" in killed.stderr
    assert "Traceback" not in killed.stderr
    together = jobs.run("together", cluster, *workers, "--resume")
    assert together.returncode == 0, together.stderr
    one, other = jobs.history("alone"), jobs.history("together")
    assert len(one) == len(other) == 3
    for a, b in zip(one, other, strict=True):
        assert b == pytest.approx(a, rel=0, abs=1e-4)
    (run,) = (jobs.folder / "runs" / "together").glob("2*/run.json")
    assert json.loads(run.read_text())["resumed"]["turn"] == 1


def test_more_workers_than_there_is_room_for_are_refused(jobs: Jobs) -> None:
    refused = jobs.run("crowd", "local[2]", "--set", "train.workers=3", "--set", "train.shards=3")
    assert refused.returncode == 2
    assert "3 workers must run at once, Spark has room for 2" in refused.stderr
