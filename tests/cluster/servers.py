"""Real servers on the loopback interface, started and stopped by the tests that need them."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_CACHE = Path.home() / ".cache" / "mlaas_spark_tests"
_START_S = 120

# Hadoop as pyspark's client is, and what its mini clusters need and pyspark has not
_HADOOP_JARS = (
    "org.apache.hadoop:hadoop-client-minicluster:3.4.1",
    "junit:junit:4.13.2",
    "org.hamcrest:hamcrest-core:1.3",
    "commons-logging:commons-logging:1.2",
    "com.google.code.findbugs:jsr305:3.0.2",
    "org.bouncycastle:bcpkix-jdk18on:1.78.1",
    "org.bouncycastle:bcprov-jdk18on:1.78.1",
    "org.bouncycastle:bcutil-jdk18on:1.78.1",
    "javax.xml.bind:jaxb-api:2.3.1",
    "org.glassfish.jaxb:jaxb-runtime:2.3.9",
    "javax.activation:javax.activation-api:1.2.0",
)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def xrootd(folder: Path) -> Iterator[str]:
    """An XRootD server of the files in ``folder``; its URL, ending in the slash of an absolute path."""
    install("xrootd", "xrootd-server")
    port, home = free_port(), folder.parent / f"{folder.name}-xrootd"
    home.mkdir()
    (home / "xrootd.cfg").write_text(
        f"xrd.port {port}\nall.export /\noss.localroot {folder}\nall.adminpath {home}\nall.pidpath {home}\n"
        "xrd.allow host localhost\n"
    )
    for path in (folder, *folder.parents):  # pytest's folders are for their owner alone
        if path.stat().st_uid == os.getuid() and path != Path("/"):
            path.chmod(path.stat().st_mode | 0o055)
    user = pwd.getpwnam("xrootd")
    os.chown(home, user.pw_uid, user.pw_gid)
    command = ["runuser", "-u", "xrootd", "--", "xrootd", "-c", str(home / "xrootd.cfg"), "-l", str(home / "log")]
    with _running(command, home / "out", lambda: listens(port)):
        yield f"root://localhost:{port}/"


@dataclass(frozen=True)
class Hadoop:
    """A running HDFS and YARN.

    Attributes:
        url: Of the HDFS, without a slash at the end.
        conf: What a client's HADOOP_CONF_DIR is.
        server: The process.
    """

    url: str
    conf: Path
    server: subprocess.Popen[bytes]

    def order(self, text: str) -> None:
        """``stop namenode`` or ``start namenode``; returns when it is done."""
        assert self.server.stdin is not None
        before = self._answers()
        self.server.stdin.write(f"{text}\n".encode())
        self.server.stdin.flush()
        end = time.monotonic() + _START_S
        while self._answers() == before:
            assert time.monotonic() < end, text
            time.sleep(0.1)

    def logs(self) -> str:
        """The ends of what YARN's containers have printed."""
        found = sorted(self.conf.parent.rglob("container_*/std*"))
        return "".join(f"\n{path}:\n{path.read_text(errors='replace')[-3000:]}" for path in found)

    def _answers(self) -> int:
        return (self.conf.parent / "out").read_text(errors="replace").count("done: ")


@contextmanager
def hadoop(home: Path) -> Iterator[Hadoop]:
    """A NameNode, a DataNode, a ResourceManager and a NodeManager, their files below ``home``."""
    import pyspark

    jars = f"{Path(pyspark.__file__).parent}/jars/*"
    port = free_port()
    command = [
        *("java", "-Xmx1g", "--add-opens", "java.base/java.lang=ALL-UNNAMED"),
        *("-cp", ":".join([*map(str, _hadoop_jars()), jars]), str(Path(__file__).with_name("MiniHadoop.java"))),
        *(str(home), str(port), jars),
    ]
    conf = home / "conf"
    with _running(command, home / "out", (conf / "ready").is_file, home) as server:
        yield Hadoop(f"hdfs://localhost:{port}", conf, server)


@contextmanager
def _running(
    command: list[str], log: Path, ready: Callable[[], bool], folder: Path | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A server process from when it is ready to the end of the block; its output in ``log``."""
    with log.open("wb") as out:
        process = subprocess.Popen(  # noqa: S603 - a server of ours
            command, stdout=out, stderr=out, stdin=subprocess.PIPE, cwd=folder
        )
    try:
        end = time.monotonic() + _START_S
        while not ready():
            if process.poll() is not None or time.monotonic() > end:
                pytest.fail(f"{command[0]} did not start: {log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.1)
        yield process
    finally:
        process.terminate()
        try:
            process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def listens(port: int) -> bool:
    """Whether somebody listens at a port of this machine."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait(ready: Callable[[], bool], what: str) -> None:
    """Return when ``ready`` says so; the test fails if that takes too long."""
    end = time.monotonic() + _START_S
    while not ready():
        if time.monotonic() > end:
            pytest.fail(f"{what} is not ready after {_START_S} s")
        time.sleep(0.1)


def install(program: str, package: str) -> None:
    """Have Debian's package installed where a test needs its program, or skip the test."""
    if shutil.which(program):
        return
    if os.geteuid() or not shutil.which("apt-get"):
        pytest.skip(f"{program} is missing, and only root can install {package} with apt-get")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["apt-get", "update", "-q"], ["apt-get", "install", "-y", "-q", package]):
        subprocess.run(  # noqa: S603 - the command is ours
            command, check=True, env=environment, capture_output=True, stdin=subprocess.DEVNULL
        )


def _hadoop_jars() -> list[Path]:
    """The jars of Hadoop's mini cluster, fetched once from Maven's repository, or skip the test."""
    folder = _CACHE / "hadoop-3.4.1"
    jars = [folder / f"{name}-{version}.jar" for _, name, version in (jar.split(":") for jar in _HADOOP_JARS)]
    if all(jar.is_file() for jar in jars):
        return jars
    if not shutil.which("mvn"):
        pytest.skip("mvn is missing: it fetches the jars of Hadoop's mini cluster")
    maven = ["mvn", "-q", "-B", "dependency:copy", f"-DoutputDirectory={folder}"]
    for jar in _HADOOP_JARS:
        subprocess.run(  # noqa: S603 - the command is ours
            [*maven, f"-Dartifact={jar}"], check=True, capture_output=True, stdin=subprocess.DEVNULL
        )
    return jars
