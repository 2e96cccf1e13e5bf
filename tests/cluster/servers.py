"""Real servers on the loopback interface, started and stopped by the tests that need them."""

from __future__ import annotations

import fcntl
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections import Counter
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_REPOSITORY = Path(__file__).parents[2]
_CACHE = Path.home() / ".cache" / "mlaas_spark_tests"
_START_S = 120
_LIVE = re.compile("service enabled|changed to active")  # what a redirector says when it knows its servers

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


@dataclass
class XRootD:
    """An XRootD server.

    Attributes:
        url: Ends in the slash of an absolute path.
        home: Where it keeps its log, and in ``files`` what it serves.
        process: What runs.
    """

    url: str
    home: Path
    process: subprocess.Popen[bytes]

    def kill(self) -> None:
        """Kill it without a farewell; it is gone when this returns."""
        self.process.kill()
        self.process.wait()

    def restart(self) -> None:
        """Start it again; it may not yet listen when this returns."""
        self.process = _as_xrootd("xrootd", self.home)

    def requests(self) -> Counter[str]:
        """How many requests of each kind it has had, and how many ``elements`` in its vector reads (16 bytes each)."""
        found = re.findall(r" req=(\w+) dlen=(\d+)", (self.home / "xrootd.log").read_text(errors="replace"))
        counts = Counter(kind for kind, _ in found)
        counts["elements"] = sum(int(length) // 16 for kind, length in found if kind == "readv")
        return counts


@contextmanager
def xrootd(folder: Path) -> Iterator[XRootD]:
    """An XRootD server of a copy of ``folder`` in ``/store``."""
    port = free_port()
    with _xrootd_home(folder, f"xrd.port {port}\nxrootd.trace request\n") as home:
        server = XRootD(f"root://localhost:{port}/", home, _as_xrootd("xrootd", home))
        try:
            _await(lambda: listens(port), server.process, home / "out")
            yield server
        finally:
            server.process.send_signal(signal.SIGCONT)
            _end(server.process)


@contextmanager
def xrootd_redirector(*folders: Path) -> Iterator[str]:
    """URL of a redirector, with no slash at its end; behind it for each folder a server of a copy of it in ``/store``.

    Each program is started when the one that it asks for is up: who meets nobody comes again after ten seconds.
    """
    port, cluster = free_port(), free_port()
    of_all = f"all.manager localhost:{cluster}\ncms.allow host *\n"
    of_manager = (
        f"{of_all}all.role manager\nxrd.port {port}\nif exec cmsd\nxrd.port {cluster}\nfi\n"
        f"cms.delay startup 1 servers {len(folders)} lookup 1\n"
    )
    with ExitStack() as stack:

        def start(program: str, home: Path, ready: Callable[[], bool]) -> None:
            process = _as_xrootd(program, home)
            stack.callback(_end, process)
            _await(ready, process, home / "out")

        manager = stack.enter_context(_xrootd_home(folders[0], of_manager))
        start("cmsd", manager, lambda: listens(cluster))
        start("xrootd", manager, lambda: listens(port))
        for folder in folders:
            of_data = f"{of_all}all.role server\nxrd.port {free_port()}\n"
            home = stack.enter_context(_xrootd_home(folder, of_data))
            start("cmsd", home, (home / ".olb" / "olbd.admin").exists)
            start("xrootd", home, lambda: True)
        log = manager / "cmsd.log"
        said = {"service enabled", "changed to active"}
        wait(lambda: said <= set(_LIVE.findall(log.read_text(errors="replace"))), "the redirector")
        yield f"root://localhost:{port}"


@contextmanager
def _xrootd_home(folder: Path, settings: str) -> Iterator[Path]:
    """A folder for a server, with its configuration and a copy of ``folder`` as ``files/store``.

    It is none of pytest's, which pytest shuts to other users, such as the server's, whenever one of its processes
    starts on the machine.
    """
    install("xrootd", "xrootd-server")
    user = pwd.getpwnam("xrootd")
    with TemporaryDirectory(prefix="xrootd-") as name:
        home = Path(name)
        shutil.copytree(folder, home / "files" / "store")
        (home / "cfg").write_text(
            f"all.export /\noss.localroot {home}/files\nall.adminpath {home}\nall.pidpath {home}\nxrd.allow host *\n"
            f"{settings}"
        )
        for path in (home, *home.rglob("*")):
            os.chown(path, user.pw_uid, user.pw_gid)
        yield home


def _as_xrootd(program: str, home: Path) -> subprocess.Popen[bytes]:
    """A program of XRootD with its home; as the user xrootd, for it refuses to run as root."""
    command = [program, "-c", str(home / "cfg"), "-l", str(home / f"{program}.log")]
    with (home / "out").open("ab") as out:
        return subprocess.Popen(  # noqa: S603 - a server of ours
            command, stdout=out, stderr=out, stdin=subprocess.DEVNULL, user="xrootd", group="xrootd", extra_groups=[]
        )


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
        wait(lambda: self._answers() != before, text)

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
        _await(ready, process, log)
        yield process
    finally:
        _end(process)


def _await(ready: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    wait(lambda: process.poll() is not None or ready(), f"{process.args!r}", log)
    if process.poll() is not None:
        pytest.fail(f"{process.args!r} did not start: {log.read_text(errors='replace')[-2000:]}")


def _end(process: subprocess.Popen[bytes]) -> None:
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


def wait(ready: Callable[[], bool], what: str, log: Path | None = None) -> None:
    """Return when ``ready`` says so; the test fails, with the end of the log, if that takes too long."""
    end = time.monotonic() + _START_S
    while not ready():
        if time.monotonic() > end:
            said = f": {log.read_text(errors='replace')[-2000:]}" if log else ""
            pytest.fail(f"{what} is not ready after {_START_S} s{said}")
        time.sleep(0.1)


def airflow() -> Path:
    """Python of an environment with Airflow, which does not fit beside us; made once."""
    lock = Path(__file__).with_name("airflow.lock")
    folder = _CACHE / "airflow"
    made, python = folder / lock.name, folder / "bin" / "python"
    if not made.is_file() or made.read_bytes() != lock.read_bytes():
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)  # noqa: S603 - ours
        pip = [str(python), *["-m", "pip", "install", "--quiet", "--require-hashes", "--no-deps", "-r"], str(lock)]
        subprocess.run(pip, check=True)  # noqa: S603 - packages by their hashes
        shutil.copyfile(lock, made)
    return python


def install(program: str, package: str) -> None:
    """Have Debian's package installed where a test needs its program, or skip the test."""
    if shutil.which(program):
        return
    if os.geteuid() or not shutil.which("apt-get"):
        pytest.skip(f"{program} is missing, and only root can install {package} with apt-get")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    with (Path(gettempdir()) / "mlaas_spark_tests.apt").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests of another folder may be at it, and apt-get waits for nobody
        for command in (["apt-get", "update", "-q"], ["apt-get", "install", "-y", "-q", package]):
            subprocess.run(  # noqa: S603 - the command is ours
                command, check=True, env=environment, capture_output=True, stdin=subprocess.DEVNULL
            )


def debian_torch() -> dict[str, str]:
    """What the environment of a process needs to import Debian's torch, unpacked once into build/; or skip the test.

    PyPI's torch is that for CUDA, of gigabytes. Nothing is installed: its modules are linked into a folder for
    PYTHONPATH, and its libraries, of which some have namesakes in other wheels, are found by that process alone.
    """
    home = _REPOSITORY / "build" / "torch"
    if not (home / "modules").is_dir():
        if os.geteuid() or not all(map(shutil.which, ("apt-get", "dpkg"))):
            pytest.skip("torch is missing, and only root can fetch python3-torch with apt-get")
        home.parent.mkdir(exist_ok=True)
        with TemporaryDirectory(dir=home.parent) as unfinished:
            _unpack_torch(Path(unfinished, "torch"))
            Path(unfinished, "torch").rename(home)
    libraries = [home / "root" / place for place in _LIBRARIES]
    return {
        "PYTHONPATH": os.pathsep.join(filter(None, [str(home / "modules"), os.environ.get("PYTHONPATH")])),
        "LD_LIBRARY_PATH": os.pathsep.join(map(str, libraries)),
    }


_TORCH = ("torch", "torchgen", "functorch", "astunparse")
_LIBRARIES = (
    "usr/lib/x86_64-linux-gnu",
    "usr/lib/x86_64-linux-gnu/blas",  # linked to from the folder above where packages are installed
    "usr/lib/x86_64-linux-gnu/lapack",
    "usr/lib",
    "lib/x86_64-linux-gnu",
)
_NOT_NEEDED = re.compile("python3-(?!torch|astunparse)|libtorch-test|.*-(data|common)_")


def _unpack_torch(folder: Path) -> None:
    """Unpack python3-torch, and of what it needs what this machine has not installed."""
    archives, root, modules = folder / "archives", folder / "root", folder / "modules"
    (archives / "partial").mkdir(parents=True)
    fetch = ["apt-get", "install", "-y", "-q", "--no-install-recommends", "--download-only", "python3-torch"]
    options = [f"-oDir::Cache::archives={archives}", "-oAPT::Sandbox::User=root"]
    for command in (["apt-get", "update", "-q"], [*fetch, *options]):
        subprocess.run(  # noqa: S603 - the command is ours
            command, check=True, capture_output=True, stdin=subprocess.DEVNULL
        )
    for package in sorted(archives.glob("*.deb")):
        if not _NOT_NEEDED.match(package.name):
            subprocess.run(["dpkg", "-x", str(package), str(root)], check=True)  # noqa: S603, S607 - Debian's own
    shutil.rmtree(archives)
    places = [root / "usr/lib/python3/dist-packages", Path("/usr/lib/python3/dist-packages")]
    modules.mkdir()
    for name in _TORCH:
        (found,) = [place / name for place in places if (place / name).is_dir()][:1]
        target = found if found.is_relative_to("/usr") else Path("..", found.relative_to(folder))
        (modules / name).symlink_to(target)
    made_for = sysconfig.get_config_var("SOABI")
    if not list((modules / "torch").glob(f"_C.{made_for}.so")):
        pytest.skip(f"Debian's torch is not for this Python, {made_for}")


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
