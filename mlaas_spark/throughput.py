"""How fast the stages are on the user's own files, beside the most that the disks and the memory of this machine allow.

The limits are measured too: files are read as they are, a file is written and brought to the disk, an array is copied.
Files that were read just before come from memory: then the limit is that of the memory, as it is for the stages.
"""

from __future__ import annotations

import os
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mlaas_spark.bottleneck import HAND_OVER, TRAIN, cure

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from mlaas_spark.estimate import Probe, Timing

_BLOCK = 8 << 20
_READ = 256 << 20  # bytes read at the most
_WRITTEN = 64 << 20
_COPIED = 128 << 20
_TIMES = 3
_MATRIX = 5  # bytes of a column of an event: a float32 and its mask


@dataclass(frozen=True, slots=True)
class Machine:
    """What a machine can do, bytes a second.

    Attributes:
        read: Of the input's files; None if none of them is on it.
        write: To where the output goes, until the disk has it.
        copy: From memory to memory, by one core.
    """

    read: float | None
    write: float
    copy: float


@dataclass(frozen=True, slots=True)
class Rate:
    """A stage's speed, thousand events a second.

    Attributes:
        stage: Its name.
        khz: What was measured, of all cores.
        limit: The most that the machine allows.
        limited_by: By what.
    """

    stage: str
    khz: float
    limit: float
    limited_by: str

    @property
    def advice(self) -> str:
        """What makes it faster."""
        return cure(TRAIN, HAND_OVER) if self.stage == HAND_OVER else cure(self.stage)


@dataclass(frozen=True, slots=True)
class Throughput:
    """All of it.

    Attributes:
        rates: Of the stages, in the order of the work.
        machine: What it can do.
        cores: That shared the work.
        width: W, the columns of the features.
    """

    rates: tuple[Rate, ...]
    machine: Machine
    cores: int
    width: int

    @property
    def slowest(self) -> Rate:
        """The stage with the fewest events a second."""
        return min(self.rates, key=lambda rate: rate.khz)

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {**asdict(self), "slowest": self.slowest.stage}


def compare(probe: Probe, bytes_per_entry: float, machine: Machine, handed: float | None) -> Throughput:
    """Rates from what the probe measured; the first run of a verb, which warms up, does not count.

    Args:
        probe: Seconds of the verbs on samples.
        bytes_per_entry: Of the input's files.
        machine: Its limits.
        handed: Events a second that tf.data took from the stream; None if there was none to take.
    """
    copied = machine.copy * probe.cores
    read = (machine.read / bytes_per_entry, "reading the files") if machine.read else (np.inf, "")

    def limit(written: float) -> tuple[float, str]:
        """Of a verb that reads an entry and writes so many bytes of it."""
        options = [read, (copied / max(probe.in_memory, 1.0), "copying in memory")]
        if written:
            options.append((machine.write / written, "writing"))
        return min(options)

    rows: list[tuple[str, float, tuple[float, str]]] = [
        ("convert", _rate(probe.convert, probe.cores), limit(probe.converted * probe.kept)),
        ("specs", _rate(probe.specs, probe.cores), limit(0.0)),
        ("chunks", _rate(probe.chunks, probe.cores), limit(probe.compact)),
        ("stream", probe.stream.events / probe.stream.again, (copied / (_MATRIX * probe.width), "copying in memory")),
    ]
    if handed is not None:
        rows.append((HAND_OVER, handed, (machine.copy / (_MATRIX * probe.width), "copying in memory, one core")))
    rates = tuple(Rate(stage, speed / 1e3, most / 1e3, by) for stage, speed, (most, by) in rows)
    return Throughput(rates, machine, probe.cores, probe.width)


def _rate(timing: Timing, cores: int) -> float:
    """Entries a second of all cores: of the larger sample what it has more than the small one."""
    # too few entries to tell: with all that a job costs beside them
    per_entry = timing.per_entry or timing.whole / timing.large
    return cores / per_entry


def machine(paths: Sequence[Path], folder: Path) -> Machine:
    """Measure what this machine can do; files are read, one is written in the folder and removed."""
    return Machine(_read(paths) if paths else None, _write(folder / "throughput"), _copy())


def _read(paths: Iterable[Path]) -> float:
    seen, began = 0, time.perf_counter()
    for path in paths:
        with path.open("rb", buffering=0) as file:
            while seen < _READ and (block := file.read(_BLOCK)):
                seen += len(block)
    return seen / (time.perf_counter() - began)


def _write(path: Path) -> float:
    block = np.random.default_rng(1).bytes(_BLOCK)
    began = time.perf_counter()
    try:
        with path.open("wb", buffering=0) as file:
            for _ in range(_WRITTEN // _BLOCK):
                file.write(block)
            os.fsync(file.fileno())
        return _WRITTEN / (time.perf_counter() - began)
    finally:
        path.unlink(missing_ok=True)


def _copy() -> float:
    source = np.ones(_COPIED, np.uint8)
    target = np.empty_like(source)
    times = []
    for _ in range(_TIMES):
        began = time.perf_counter()
        np.copyto(target, source)
        times.append(time.perf_counter() - began)
    return _COPIED / min(times)


def seconds_of(batches: Iterable[Any]) -> float:
    """Seconds to take all of the batches, each taken once before."""
    for _ in batches:
        pass
    began = time.perf_counter()
    for _ in batches:
        pass
    return time.perf_counter() - began
