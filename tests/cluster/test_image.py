"""The image for Kubernetes, built by its recipe and run without a Kubernetes: its driver and its executor work."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pyspark
import pytest

from tests.cluster import servers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlaas_spark.manifest import Manifest

pytestmark = pytest.mark.cluster

PROJECT = Path(__file__).parents[2]
SPARK_HOME = Path(pyspark.__file__).parent
ENTRYPOINT = "/opt/entrypoint.sh"
FREE_BYTES = 15 << 30

# a driver outside, whose only executor is the image's; Spark's own master gives it none
DRIVER = """
import sys
from pyspark.sql import SparkSession

def look(_):
    import mlaas_spark, uproot
    yield sys.executable, mlaas_spark.__file__

settings = {
    "spark.driver.host": "127.0.0.1",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.driver.port": sys.argv[2],
    "spark.ui.enabled": "false",
}
builder = SparkSession.builder.master(f"spark://127.0.0.1:{sys.argv[1]}")
for key, value in settings.items():
    builder = builder.config(key, value)
spark = builder.getOrCreate()
print(spark.sparkContext.applicationId, flush=True)
print(*spark.sparkContext.parallelize([0], 1).mapPartitions(look).first(), flush=True)
"""


class Image:
    """A container of the image; ``run`` is a command in it, as the user of the image."""

    def __init__(self, buildah: list[str], name: str) -> None:
        self.command = [*buildah, "run", "--isolation", "chroot", "--user", "185"]
        self.name = name

    def run(self, *words: str, **environment: str) -> list[str]:
        """The command line that runs the words through the entry point."""
        # the chroot has a name of the machine that nobody resolves
        given = {"SPARK_LOCAL_HOSTNAME": "localhost", **environment}
        settings = [word for key, value in given.items() for word in ("--env", f"{key}={value}")]
        return [*self.command, *settings, self.name, "--", ENTRYPOINT, *words]


def run(command: list[str], **options: object) -> str:
    done = subprocess.run(  # type: ignore[call-overload]  # noqa: S603 - the command is ours
        command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False, timeout=1_200, **options
    )
    assert done.returncode == 0, f"{command[:6]}: {done.stdout[-1000:]}{done.stderr[-3000:]}"
    output: str = done.stdout
    return output


@pytest.fixture(scope="module")
def image(local: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    """The image of conf/kubernetes/Dockerfile, with the sample's ROOT files in ``/data``."""
    servers.install("buildah", "buildah")
    servers.install("debootstrap", "debootstrap")
    folder = tmp_path_factory.mktemp("image")
    if shutil.disk_usage(folder).free < FREE_BYTES:
        pytest.skip(f"the image needs {FREE_BYTES >> 30} GB of disk while it is built")
    buildah = ["buildah", "--storage-driver", "vfs", "--root", f"{folder}/store", "--runroot", f"{folder}/run"]
    try:
        _make_base(folder / "base", buildah)
        run(
            [
                *(*buildah, "build", "--isolation", "chroot", "--layers=false", "--from", "localhost/base"),
                *("-f", "conf/kubernetes/Dockerfile", "-t", "localhost/mlaas_spark", "."),
            ],
            cwd=PROJECT,
        )
        name = run([*buildah, "from", "localhost/mlaas_spark"]).strip()
        run([*buildah, "copy", "--chown", "185", name, str(local / "root"), "/data"])
        yield Image(buildah, name)
    finally:
        run([*buildah, "rm", "-a"])
        run([*buildah, "rmi", "-a", "-f"])
        shutil.rmtree(folder, ignore_errors=True)


def _make_base(folder: Path, buildah: list[str]) -> None:
    """A Debian 12 as the recipe begins with, with this machine's ways to Debian's and Python's packages."""
    run(["debootstrap", "--variant=minbase", "bookworm", str(folder), _debian()])
    for settings in ("apt/apt.conf.d", "apt/sources.list.d"):
        shutil.copytree(f"/etc/{settings}", folder / "etc" / settings, dirs_exist_ok=True)
    certificates = os.environ.get("PIP_CERT", "")
    if Path(certificates).is_file():
        shutil.copy(certificates, folder / "etc" / "certificates.pem")
        (folder / "etc" / "pip.conf").write_text("[global]\ncert = /etc/certificates.pem\n")
    container = run([*buildah, "from", "scratch"]).strip()
    run([*buildah, "copy", container, str(folder), "/"])
    run([*buildah, "commit", "--rm", container, "localhost/base"])
    shutil.rmtree(folder)


def _debian() -> str:
    """Where this machine has its Debian packages from."""
    listed = run(["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Codename: bookworm"])
    return listed.split()[0]


@contextmanager
def started(command: list[str], log: Path, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process, its output in ``log``, until the end of the block."""
    with log.open("wb") as out:
        process = subprocess.Popen(  # noqa: S603 - the command is ours
            command,
            stdout=out,
            stderr=out,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "SPARK_LOCAL_HOSTNAME": "localhost", **environment},
        )
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def test_driver_in_it_converts_with_the_digest_of_this_machine(image: Image, converted: Manifest) -> None:
    job = ["local:///opt/mlaas_spark/jobs/convert.py", "/data", "--out", "/tmp/out"]  # noqa: S108 - the image's own
    command = image.run(
        *("driver", "--master", "local[2]", *job, "--set", "spark.events_per_task=300"),
        SPARK_DRIVER_BIND_ADDRESS="127.0.0.1",
    )
    assert f"digest {converted.content_digest[:12]}" in run(command)


def test_executor_in_it_works_for_a_driver_outside(image: Image, tmp_path: Path) -> None:
    master, driver = str(servers.free_port()), str(servers.free_port())
    (tmp_path / "driver.py").write_text(DRIVER)
    spark = [str(SPARK_HOME / "bin" / "spark-class"), "org.apache.spark.deploy.master.Master", "--host", "127.0.0.1"]
    told = tmp_path / "driver.log"
    with ExitStack() as stack:
        stack.enter_context(started([*spark, "--port", master], tmp_path / "master.log", SPARK_HOME=str(SPARK_HOME)))
        servers.wait(lambda: servers.listens(int(master)), "Spark's master")
        job = stack.enter_context(
            started(
                [sys.executable, str(tmp_path / "driver.py"), master, driver],
                told,
                PYSPARK_PYTHON="/opt/mlaas_spark/bin/python",
            )
        )
        servers.wait(lambda: "app-" in told.read_text() or job.poll() is not None, "the driver")
        application = next(line for line in told.read_text().splitlines() if line.startswith("app-"))
        executor = image.run(
            "executor",
            SPARK_DRIVER_URL=f"spark://CoarseGrainedScheduler@127.0.0.1:{driver}",
            SPARK_EXECUTOR_ID="0",
            SPARK_EXECUTOR_CORES="1",
            SPARK_EXECUTOR_MEMORY="512m",
            SPARK_APPLICATION_ID=application,
            SPARK_EXECUTOR_POD_IP="127.0.0.1",
            SPARK_EXECUTOR_POD_NAME="pod",
            SPARK_RESOURCE_PROFILE_ID="0",
            SPARK_JAVA_OPT_0=f"-Dspark.driver.port={driver}",
            SPARK_JAVA_OPT_1="--add-opens=java.base/sun.nio.ch=ALL-UNNAMED",
        )
        stack.enter_context(started(executor, tmp_path / "executor.log"))
        job.wait(240)
    assert told.read_text().splitlines()[-1] == (
        "/opt/mlaas_spark/bin/python /opt/mlaas_spark/lib/python3.11/site-packages/mlaas_spark/__init__.py"
    ), (tmp_path / "executor.log").read_text()[-3000:]
