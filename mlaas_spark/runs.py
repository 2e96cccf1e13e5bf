"""A run: its stages with their times, its folder that appears whole or not at all, the versions it ran with."""

from __future__ import annotations

import json
import logging
import os
import platform
import socket
import sys
import tempfile
import time
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlaas_spark import storage
from mlaas_spark.errors import UnreadableInputError, UnwritableOutputError
from mlaas_spark.shown import LineFormatter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

_log = logging.getLogger(__name__)

_PACKAGES = ("mlaas-spark", "pyspark", "pyarrow", "uproot", "awkward", "numpy", "numba", "petastorm", "keras")


@dataclass
class Stage:
    """One stage of a job: what it is called, how long it took, how many events went through.

    Who does the work may say meanwhile how far it is.

    Attributes:
        name: What it is called.
        seconds: It took.
        events: Went through it.
        remark: What else is to be said of it.
        total: Events that will have gone through it.
        size: Bytes that will have been read.
        measure: Tells which share of it is done, 0 to 1, None if that is not known now; called by another thread.
        deal: Deals its seconds to parts of the work; called when it is done.
        parts: Seconds by what it did, which add up to its own; {} where that was not measured.
    """

    name: str
    seconds: float = 0.0
    events: int | None = None
    remark: str = ""
    total: int | None = None
    size: int | None = None
    measure: Callable[[], float | None] | None = None
    deal: Callable[[float], dict[str, float]] | None = None
    parts: dict[str, float] = field(default_factory=dict)

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
    """The stages of a job; ``announce`` is told a line at the beginning and the end of each, the log as well.

    Each stage runs within what ``ticking`` makes of it, which may tell how far it is.
    """

    announce: Callable[[str], None] = _nobody_listens
    ticking: Callable[[Stage], AbstractContextManager[object]] = nullcontext
    stages: list[Stage] = field(default_factory=list)

    def say(self, line: str, **told: object) -> None:
        """Tell of progress; ``told`` goes with the log's record, for machines."""
        self.announce(line)
        _log.info(line.strip(), extra={"shown": self.announce is not _nobody_listens, **told})

    @contextmanager
    def stage(self, name: str) -> Iterator[Stage]:
        """Time a stage; a stage that fails is not listed."""
        stage = Stage(name)
        self.say(f"{name} ...")
        began = time.perf_counter()
        with self.ticking(stage):
            yield stage
        stage.seconds = time.perf_counter() - began
        stage.parts = stage.deal(stage.seconds) if stage.deal else {}
        self.stages.append(stage)
        self.say(str(stage), stage=stage.name, seconds=stage.seconds, events=stage.events, parts=stage.parts)

    def to_json(self) -> list[dict[str, Any]]:
        """As plain values; ``parts`` of the stages whose parts were measured."""
        return [
            {
                "name": s.name,
                "seconds": round(s.seconds, 3),
                "events": s.events,
                "khz": s.khz and round(s.khz, 2),
                **({"parts": {name: round(of, 3) for name, of in s.parts.items()}} if s.parts else {}),
            }
            for s in self.stages
        ]


@dataclass(frozen=True)
class Work:
    """A run that is being written.

    Attributes:
        home: Folder of the runs of one name: local, or a URL.
        unfinished: The hidden folder below it that becomes the run folder.
        path: Where to write: that folder if it is local, else one of this machine's temporary ones.
    """

    home: str
    unfinished: str
    path: Path


@contextmanager
def working_folder(home: str) -> Iterator[Work]:
    """A hidden folder below ``home`` to write a run in, with a ``log`` of all that is said; removed at the end.

    :func:`publish` makes it the run folder; whatever is not published was not finished and leaves nothing.

    Raises:
        UnwritableOutputError: There can be no folder.
    """
    unfinished = storage.join(home, f".unfinished-{socket.gethostname()}-{os.getpid()}-{time.time_ns():x}")
    missing = _missing(home)
    storage.make_folder(unfinished)
    if (local := storage.local_path(unfinished)) is not None:
        local.chmod(0o700)  # a saved model may hold code of the user's, and who can write there could change it
    try:
        with _place(unfinished) as path, _logged(path / "log"):
            yield Work(home, unfinished, path)
    finally:
        _remove(unfinished, missing)


def _missing(home: str) -> list[str]:
    """``home/chunks``, ``home`` and the folders above it that are not there, the innermost first."""
    start = home.partition("://")[0] + "://" if "://" in home else ""
    names = home.removeprefix(start).split("/")
    folders = [start + "/".join(names[:depth]) for depth in range(len(names), 1, -1)]
    with storage.to_be_written(home):
        return list(takewhile(lambda folder: not storage.exists(folder), [storage.join(home, "chunks"), *folders]))


@contextmanager
def _place(unfinished: str) -> Iterator[Path]:
    if (path := storage.local_path(unfinished)) is not None:
        yield path
    else:
        with tempfile.TemporaryDirectory(prefix="mlaas_spark_") as folder:
            yield Path(folder)


@contextmanager
def _logged(path: Path) -> Iterator[None]:
    """What our loggers say goes to a file too."""
    handler = _LogFile(path, encoding="utf-8")
    handler.setFormatter(LineFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger = logging.getLogger("mlaas_spark")
    level = logger.level
    logger.setLevel(min(level or logging.INFO, logging.INFO))
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        with suppress(OSError):  # of a full disk, which hides no error that led here
            handler.close()


class _LogFile(logging.FileHandler):
    """A log on a disk that is full is no longer written; what keeps a run from its own files is told by them."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        del record


def _remove(unfinished: str, missing: Sequence[str]) -> None:
    """Remove an unfinished run, and of the folders that it was missing those with nothing in them."""
    try:
        storage.remove(unfinished)
        for folder in missing:
            if storage.is_folder(folder) and not storage.children(folder):
                storage.remove(folder)
    except (UnreadableInputError, UnwritableOutputError) as error:  # which hides no error that led here
        _log.warning("%s is left, remove it: %s", unfinished, error.why)


def publish(work: Work, name: str, texts: Mapping[str, str], record: Mapping[str, Any] | None = None) -> str:
    """Write the texts into the working folder and give it its name, all or nothing; the run folder.

    The record is written last, as run.json, with bytes and SHA-256 of each other file but the log, which goes on.

    Raises:
        UnwritableOutputError: It could not be written, or the name is taken.
    """
    folder = storage.join(work.home, name)
    with storage.writing(folder):
        for file, text in texts.items():
            (work.path / file).write_text(text, encoding="utf-8")
        if record is not None:
            whole = {**record, "files": _sums(work.path)}
            (work.path / "run.json").write_text(json.dumps(whole, indent=1), encoding="utf-8")
    if storage.local_path(work.home) is None:
        storage.upload(work.path, work.unfinished)
    storage.publish_folder(folder, work.unfinished)
    return folder


def _sums(folder: Path) -> dict[str, dict[str, Any]]:
    """Bytes and SHA-256 of each file of a run, by its path."""
    names = sorted(storage.names_below(str(folder)) - {"log", "run.json"})
    return {
        name: {"bytes": (folder / name).stat().st_size, "sha256": storage.sha256(str(folder / name))} for name in names
    }


def versions() -> dict[str, str]:
    """Versions of what a run's results depend on."""
    found = {name: version(name) for name in _PACKAGES}
    found["tensorflow"] = version("tensorflow-cpu")
    return {**found, "python": sys.version.split()[0], "platform": platform.platform()}
