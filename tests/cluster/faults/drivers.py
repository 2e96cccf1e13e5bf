"""Drivers and clusters under test: started, given orders, and the processes of them that can be killed."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyspark

from tests.cluster import processes, servers
from tests.cluster.processes import below, words

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator

ROOT = Path(__file__).parents[3]
LIMIT_S = 900.0  # of an answer: no fault may hang; an executor's start took four minutes on a machine that had others
_DAEMONS = (b"pyspark.daemon", b"mlaas_spark.spark.daemon")
# jobs of a second: what the JVM's second compiler and its threads cost does not pay
_JAVA = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
CONF = {
    "spark.sql.shuffle.partitions": "3",
    "spark.driver.defaultJavaOptions": _JAVA,
    "spark.executor.defaultJavaOptions": _JAVA,
    "spark.executor.memory": "700m",
    "spark.python.daemon.module": "mlaas_spark.spark.daemon",
    "spark.network.timeout": "60s",
    "spark.executor.heartbeatInterval": "5s",
}


class Driver:
    """A process of ``jobs`` and its answers."""

    def __init__(self, content: dict[str, Any], log: Path, environment: dict[str, str] | None = None) -> None:
        path = os.pathsep.join([str(Path(__file__).with_name("hooks")), str(ROOT)])
        given = {**os.environ, "PYSPARK_PYTHON": sys.executable, "PYTHONPATH": path, **(environment or {})}
        self._log = log
        with log.open("wb") as errors:
            self.process = subprocess.Popen(  # noqa: S603 - our own interpreter and script
                [sys.executable, "-m", "tests.cluster.faults.jobs", json.dumps(content)],
                cwd=log.parent,
                env=given,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
        self._rest, self._orders = b"", 0

    def begin(self, verb: str, out: Path, **more: Any) -> None:
        """Give an order; returns when it is being done."""
        assert self.process.stdin is not None
        self._orders += 1
        order = {"order": self._orders, "verb": verb, "out": str(out), **more}
        self.process.stdin.write((json.dumps(order) + "\n").encode())
        self.process.stdin.flush()
        assert self.answer() == {"began": True}

    def run(self, verb: str, out: Path, **more: Any) -> dict[str, Any]:
        """Give an order and wait for what comes of it."""
        self.begin(verb, out, **more)
        return self.answer()

    def answer(self) -> dict[str, Any]:
        """The next answer to the last order; one to an order that a test has given up waiting for is dropped."""
        assert self.process.stdout is not None
        end = time.monotonic() + LIMIT_S
        while True:
            while b"\n" in self._rest:
                line, _, self._rest = self._rest.partition(b"\n")
                if line.startswith(b"="):
                    found: dict[str, Any] = json.loads(line[1:])
                    if found.pop("order", 0) == self._orders:
                        return found
            ready, _, _ = select.select([self.process.stdout], [], [], max(0, end - time.monotonic()))
            content = os.read(self.process.stdout.fileno(), 65_536) if ready else b""
            assert content, f"{'no answer' if ready else 'it hangs'}: {self._log.read_text(errors='replace')[-3000:]}"
            self._rest += content

    def waiting(self, seconds: float) -> bool:
        """Whether no answer has come after so many seconds."""
        assert self.process.stdout is not None
        return not self._rest and not select.select([self.process.stdout], [], [], seconds)[0]

    def end(self) -> None:
        """Have it end, by force if it must be."""
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                with suppress(OSError):
                    stream.close()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@contextmanager
def driver(content: dict[str, Any], log: Path, environment: dict[str, str] | None = None) -> Iterator[Driver]:
    """A driver with its session, ready for orders."""
    started = Driver(content, log, environment)
    try:
        assert started.answer() == {"ready": True}
        yield started
    finally:
        started.end()


class Cluster:
    """A standalone cluster on this machine: a master and two workers of one core, on hosts of two names.

    Spark gives no host a second attempt at a task that runs there: on one host there would be no speculation.
    """

    def __init__(self, home: Path) -> None:
        self.home, port = home, servers.free_port()
        self.url = f"spark://127.0.0.1:{port}"
        web = ["--webui-port", str(servers.free_port())]
        self._master = self._started("master.Master", ["--host", "127.0.0.1", "--port", str(port), *web])
        servers.wait(lambda: servers.listens(port), "the master")
        self.workers = [self._worker(place) for place in range(2)]

    def _worker(self, place: int) -> subprocess.Popen[bytes]:
        web = ["--webui-port", str(servers.free_port())]
        options = ["--host", f"127.0.0.{1 + place}", "-c", "1", "-m", "1g", "--work-dir", str(self.home / "work"), *web]
        return self._started("worker.Worker", [*options, self.url])

    def _started(self, kind: str, options: list[str]) -> subprocess.Popen[bytes]:
        program = Path(pyspark.__file__).parent / "bin" / "spark-class"
        path = os.pathsep.join([str(Path(__file__).with_name("hooks")), str(ROOT)])
        environment = {**os.environ, "PYTHONPATH": path, "SPARK_DAEMON_MEMORY": "256m", "SPARK_DAEMON_JAVA_OPTS": _JAVA}
        with (self.home / f"{kind}.log").open("ab") as log:
            return subprocess.Popen(  # noqa: S603 - Spark's own program
                [str(program), f"org.apache.spark.deploy.{kind}", *options], stdout=log, stderr=log, env=environment
            )

    def kill_worker(self, chance: random.Random) -> bool:
        """Kill a worker's JVM; another takes its place, as a cluster's manager would do."""
        place = chance.randrange(len(self.workers))
        self.workers[place].kill()
        self.workers[place].wait()
        self.workers[place] = self._worker(place)
        return True

    def end(self) -> None:
        """End all of it."""
        for process in (*self.workers, self._master):
            process.kill()
            process.wait()


def python_workers(roots: list[int]) -> list[int]:
    """Spark's Python workers: the children of its daemons, which have the same command line."""
    found = []
    for root in roots:
        for process in below(root):
            if any(name in words(process) for name in _DAEMONS):
                found += [child for child in below(process) if child != process]
    return sorted(set(found))


def executors(roots: list[int]) -> list[int]:
    """JVMs of executors."""
    return sorted({pid for root in roots for pid in processes.executors(root)})


def jvms(root: int) -> list[int]:
    """JVMs below a process."""
    return [p for p in below(root) if (words(p) or [b""])[0].endswith(b"java")]


def kill_one(victims: list[int], chance: random.Random) -> bool:
    """Kill -9 one of them; False if there was none, or it ended before."""
    if not victims:
        return False
    try:
        os.kill(chance.choice(victims), signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True
