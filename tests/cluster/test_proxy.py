"""The grid proxy: brought to executors as a file that only its owner reads, and never logged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from mlaas_spark.config import SparkConfig
from mlaas_spark.errors import ConfigError
from mlaas_spark.spark.session import session

pytestmark = pytest.mark.cluster

CONTENT = "a private key, would be: c2VjcmV0"

JOB = """
    import json, os, stat, sys

    from mlaas_spark.config import SparkConfig
    from mlaas_spark.spark.session import numbers, on_executor, session

    proxy, folder = sys.argv[1:]
    conf = {"spark.driver.extraJavaOptions": "-Dx=y"}  # in place of ours, which keep Spark quiet
    spark = session(SparkConfig(master="local-cluster[1,1,1024]", conf=conf, x509_proxy=proxy), "proxy")
    spark.sparkContext.setLogLevel("DEBUG")

    def look(_):
        with on_executor():
            path = os.environ["X509_USER_PROXY"]
            with open(path) as file:
                yield [path, stat.S_IMODE(os.stat(path).st_mode), file.read()]

    found = numbers(spark, 1).rdd.mapPartitions(look).collect()
    with open(folder + "/found.json", "w") as file:
        json.dump(found[0], file)
"""


def test_executors_find_it_with_its_permission_and_no_log_has_it(tmp_path: Path) -> None:
    proxy = tmp_path / "x509up_u1000"
    proxy.write_text(CONTENT)
    proxy.chmod(0o600)
    (tmp_path / "job.py").write_text(textwrap.dedent(JOB))
    done = subprocess.run(  # noqa: S603 - our own interpreter and script
        [sys.executable, str(tmp_path / "job.py"), str(proxy), str(tmp_path)],
        cwd=tmp_path,
        env={**os.environ, "PYSPARK_PYTHON": sys.executable, "SPARK_CONF_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    path, mode, content = json.loads((tmp_path / "found.json").read_text())
    assert (mode, content) == (0o600, CONTENT)
    assert path != str(proxy)
    of_executor = "".join(log.read_text() for log in Path(path).parent.glob("std*"))
    assert "DEBUG" in done.stderr
    assert "INFO" in of_executor
    assert "c2VjcmV0" not in done.stdout + done.stderr + of_executor


@pytest.mark.usefixtures("spark")
def test_one_that_others_can_read_is_refused(tmp_path: Path) -> None:
    proxy = tmp_path / "x509up"
    proxy.write_text(CONTENT)
    proxy.chmod(0o644)
    with pytest.raises(ConfigError, match=r"x509up can be read by others \(mode 0644\): chmod 600") as caught:
        session(SparkConfig(x509_proxy=proxy), "proxy")
    assert "c2VjcmV0" not in str(caught.value)


@pytest.mark.usefixtures("spark")
def test_one_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no grid proxy at .*x509up"):
        session(SparkConfig(x509_proxy=tmp_path / "x509up"), "proxy")
