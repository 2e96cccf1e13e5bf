"""spark-submit to a real YARN, in client and cluster mode, with the packed environment: workers have nothing else."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pyspark
import pytest

from mlaas_spark import cli, storage
from mlaas_spark import manifest as manifests

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    from mlaas_spark.manifest import Manifest
    from tests.cluster import servers

    Submit: TypeAlias = Callable[..., subprocess.CompletedProcess[str]]

pytestmark = [pytest.mark.cluster, pytest.mark.tensorflow]

PROJECT = Path(__file__).parents[2]
SPARK_HOME = Path(pyspark.__file__).parent

# our command, and then where the executors' packages lie
CLIENT = """
import json, sys

from mlaas_spark import cli
from mlaas_spark.spark.session import numbers
from pyspark.sql import SparkSession

def packages(_):
    import awkward, mlaas_spark
    yield [sys.executable, mlaas_spark.__file__, awkward.__file__]

assert cli.main(sys.argv[1:]) == 0
print(json.dumps(numbers(SparkSession.getActiveSession(), 1).rdd.mapPartitions(packages).collect()[0]))
"""

CONFIG = """
name: yarn
runs: {url}/runs
input:
  groups:
    - {{name: signal, files: {url}/data/root/signal_*.root, label: 1}}
    - {{name: background, files: {url}/data/root/background_*.root, label: 0}}
chunks: {{size: 500}}
train: {{model: demo_model.py, epochs: 1}}
spark: {{events_per_task: 300}}
"""


@pytest.fixture(scope="module")
def environment(hadoop: servers.Hadoop) -> str:
    """URL of what ``make pack`` makes."""
    make = ["make", "pack", f"PYTHON={Path(sys.executable).resolve()}"]
    made = subprocess.run(  # noqa: S603 - our own Makefile
        make,
        cwd=PROJECT,
        env={name: value for name, value in os.environ.items() if not name.startswith("MAKE")},
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert made.returncode == 0, made.stderr
    url = f"{hadoop.url}/environments/mlaas_spark.tar.gz"
    fs, path = storage.filesystem(url)
    fs.makedirs(path.rpartition("/")[0], exist_ok=True)
    with (PROJECT / "dist" / "mlaas_spark.tar.gz").open("rb") as source, fs.open(path, "wb") as target:
        shutil.copyfileobj(source, target, 1 << 24)
    return url


@pytest.fixture(scope="module")
def submit(hadoop: servers.Hadoop, environment: str, tmp_path_factory: pytest.TempPathFactory) -> Submit:
    """``submit(mode, *arguments)``: spark-submit as in docs/cluster.md, without the environment of the tests."""

    def run(mode: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        settings = {
            "spark.yarn.jars": f"local:{SPARK_HOME}/jars/*",
            "spark.pyspark.python": "./environment/bin/python",
            "spark.yarn.am.memory": "512m",
            "spark.executor.instances": "1",
            "spark.executor.memory": "512m",
            "spark.driver.memory": "1g",
        }
        if mode == "client":
            settings["spark.pyspark.driver.python"] = sys.executable
        lines = [word for key, value in settings.items() for word in ("--conf", f"{key}={value}")]
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "JAVA_HOME") if name in os.environ}
        done = subprocess.run(  # noqa: S603 - Spark's own command
            [
                *(str(SPARK_HOME / "bin" / "spark-submit"), "--master", "yarn", "--deploy-mode", mode),
                *(*lines, "--archives", f"{environment}#environment", *arguments),
            ],
            cwd=tmp_path_factory.mktemp(mode),
            env={**kept, "SPARK_HOME": str(SPARK_HOME), "HADOOP_CONF_DIR": str(hadoop.conf)},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        logs = "" if done.returncode == 0 else hadoop.logs()
        assert done.returncode == 0, done.stderr[-3000:] + logs
        return done

    return run


def test_client_mode_converts_with_the_digest_of_local_files(
    submit: Submit, hdfs: str, converted: Manifest, tmp_path: Path
) -> None:
    (tmp_path / "job.py").write_text(CLIENT)
    out = f"{hdfs}/out/yarn-client"
    convert = ["convert", f"{hdfs}/data/root", "--out", out, "--set", "spark.events_per_task=300"]
    done = submit("client", str(tmp_path / "job.py"), *convert)
    assert manifests.read(out).content_digest == converted.content_digest
    assert all("/environment/" in place for place in json.loads(done.stdout.splitlines()[-1]))


def test_cluster_mode_trains_with_the_run_folder_on_hdfs(
    submit: Submit, hdfs: str, local: Path, tmp_path: Path
) -> None:
    (tmp_path / "yarn.yaml").write_text(CONFIG.format(url=hdfs))
    files = f"{tmp_path / 'yarn.yaml'},{PROJECT / 'conf' / 'demo_model.py'}"
    submit("cluster", "--files", files, str(PROJECT / "jobs" / "train.py"), "--config", "yarn.yaml")
    (run,) = (name for name in storage.children(f"{hdfs}/runs/yarn") if name != "chunks")
    found = json.loads(storage.read_bytes(f"{hdfs}/runs/yarn/{run}/run.json"))
    assert found["events"]["entries"] == found["events"]["events"] == 1_200

    settings = tmp_path / "local.yaml"
    settings.write_text(CONFIG.format(url=hdfs).replace(f"{hdfs}/data", str(local)))
    assert cli.main(["chunks", "--config", str(settings), "--out", str(tmp_path / "chunks")]) == 0
    here = manifests.read(str(tmp_path / "chunks"))
    assert manifests.read(found["chunks"]).content_digest == here.content_digest
