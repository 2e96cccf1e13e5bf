"""A run: its stages with their times, its folder that appears whole or not at all, the versions it ran with."""

from __future__ import annotations

import logging
import os
import platform
import shutil
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

_log = logging.getLogger(__name__)

_PACKAGES = ("mlaas-spark", "pyspark", "pyarrow", "uproot", "awkward", "numpy", "numba", "petastorm", "keras")


@dataclass
class Stage:
    """One stage of a job: what it is called, how long it took, how many events went through."""

    name: str
    seconds: float = 0.0
    events: int | None = None
    remark: str = ""

    @property
    def khz(self) -> float | None:
        """Thousand events a second."""
        return self.events / self.seconds / 1e3 if self.events and self.seconds else None

    def __str__(self) -> str:
        speed = f", {self.events:,} events, {self.khz:.1f} kHz" if self.events and self.khz else ""
        remark = f": {self.remark}" if self.remark else ""
        return f"{self.name} done in {self.seconds:.1f} s{speed}{remark}"


def _nobody_listens(line: str) -> None:
    """For callers that only want the log."""


@dataclass
class Journal:
    """The stages of a job; ``announce`` is told a line at the beginning and the end of each, the log as well."""

    announce: Callable[[str], None] = _nobody_listens
    stages: list[Stage] = field(default_factory=list)

    def say(self, line: str) -> None:
        """Tell of progress."""
        self.announce(line)
        _log.info(line.strip())

    @contextmanager
    def stage(self, name: str) -> Iterator[Stage]:
        """Time a stage; a stage that fails is not listed."""
        stage = Stage(name)
        self.say(f"{name} ...")
        began = time.perf_counter()
        yield stage
        stage.seconds = time.perf_counter() - began
        self.stages.append(stage)
        self.say(str(stage))

    def to_json(self) -> list[dict[str, Any]]:
        """As plain values."""
        return [
            {"name": s.name, "seconds": round(s.seconds, 3), "events": s.events, "khz": s.khz and round(s.khz, 2)}
            for s in self.stages
        ]


@contextmanager
def working_folder(home: Path) -> Iterator[Path]:
    """A hidden folder below ``home`` to write a run in, with a ``log`` of all that is said; removed at the end.

    :func:`publish` makes it the run folder; whatever is not published was not finished and leaves nothing.
    """
    work = home / f".unfinished-{os.getpid()}-{time.time_ns():x}"
    made = [folder for folder in (home / "chunks", home, *home.parents) if not folder.exists()]
    work.mkdir(parents=True)
    handler = logging.FileHandler(work / "log", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger = logging.getLogger("mlaas_spark")
    level = logger.level
    logger.setLevel(min(level or logging.INFO, logging.INFO))
    logger.addHandler(handler)
    try:
        yield work
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        handler.close()
        shutil.rmtree(work, ignore_errors=True)
        for folder in made:
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()


def publish(work: Path, folder: Path, texts: Mapping[str, str]) -> None:
    """Write the texts into the working folder and give it its name; atomic."""
    for name, text in texts.items():
        (work / name).write_text(text, encoding="utf-8")
    os.replace(work, folder)  # noqa: PTH105 - a rename within one folder, all or nothing


def versions() -> dict[str, str]:
    """Versions of what a run's results depend on."""
    found = {name: version(name) for name in _PACKAGES}
    found["tensorflow"] = version("tensorflow-cpu")
    return {**found, "python": sys.version.split()[0], "platform": platform.platform()}
