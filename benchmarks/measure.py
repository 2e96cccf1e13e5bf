"""Memory of a tree of processes while it works, and what machine it is."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import threading
from pathlib import Path
from typing import Any, Self

_EVERY_S = 0.1
_PROC = Path("/proc")
_DAEMON = re.compile(r"\0-m\0[\w.]*spark[\w.]*\.daemon\0")  # Spark's own, or ours; the JVM's command names it too
_VERSIONS = "import importlib.metadata as m; print('\\n'.join(f'{d.name}=={d.version}' for d in m.distributions()))"
_SHOWN = {
    "awkward",
    "keras",
    "numba",
    "numpy",
    "petastorm",
    "polars",
    "pyarrow",
    "pyspark",
    "pyspark-root-datasource",
    "tensorflow-cpu",
    "uproot",
}


class PeakMemory:
    """The most memory that a process and all below it have resident at one time, sampled ten times a second.

    Proportional set sizes are added up: a page that several processes share, as Spark's forked workers do, counts
    once. Pages of memory-mapped files count while they are resident.

    Attributes:
        total: Bytes of all.
        driver: Bytes of all but Spark's Python workers, which do an executor's work; in local mode the JVM is the
            driver's.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.total = self.driver = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            driver, workers = _processes(self._pid)
            of_driver = sum(map(_resident, driver))
            self.driver = max(self.driver, of_driver)
            self.total = max(self.total, of_driver + sum(map(_resident, workers)))
            if self._done.wait(_EVERY_S):
                return


def _processes(root: int) -> tuple[list[int], list[int]]:
    """The process and those below it: those of the driver, and Spark's Python daemon with its workers."""
    below: dict[int, list[int]] = {}
    for stat in _PROC.glob("[0-9]*/stat"):
        if text := _read(stat):
            number, _, rest = text.rpartition(")")
            below.setdefault(int(rest.split()[1]), []).append(int(number.split(" ", 1)[0]))
    driver: list[int] = []
    workers: list[int] = []
    waiting = [(root, driver)]
    while waiting:
        pid, group = waiting.pop()
        if _DAEMON.search(_read(_PROC / str(pid) / "cmdline")):
            group = workers
        group.append(pid)
        waiting += [(child, group) for child in below.get(pid, [])]
    return driver, workers


def _resident(pid: int) -> int:
    found = re.search(r"^Pss:\s+(\d+) kB", _read(_PROC / str(pid) / "smaps_rollup"), re.MULTILINE)
    return 1024 * int(found.group(1)) if found else 0


def _read(path: Path) -> str:
    """What a file of /proc says; nothing if the process has ended meanwhile."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def machine(environments: dict[str, str]) -> dict[str, Any]:
    """Cores, processor, memory and load of this machine; versions of the packages of each environment's Python."""
    model = re.search(r"^model name\s*: (.*)$", _read(_PROC / "cpuinfo"), re.MULTILINE)
    memory = re.search(r"^MemTotal:\s+(\d+) kB", _read(_PROC / "meminfo"), re.MULTILINE)
    program = str(Path(os.environ["JAVA_HOME"], "bin", "java")) if os.environ.get("JAVA_HOME") else "java"
    java = subprocess.run([program, "-version"], check=True, capture_output=True, text=True)  # noqa: S603 - our own
    return {
        "cores": len(os.sched_getaffinity(0)),
        "processor": model.group(1) if model else platform.processor(),
        "memory_gb": round(int(memory.group(1)) / 1e6, 1) if memory else None,
        "load_before": os.getloadavg()[0],
        "platform": platform.platform(),
        "python": platform.python_version(),
        "java": java.stderr.splitlines()[0],
        "packages": {name: _packages(python) for name, python in environments.items()},
    }


def _packages(python: str) -> dict[str, str]:
    listed = subprocess.run([python, "-c", _VERSIONS], check=True, capture_output=True, text=True).stdout  # noqa: S603
    versions = dict(line.replace("_", "-").split("==") for line in listed.splitlines())
    return {name: versions[name] for name in sorted(versions) if name in _SHOWN}
