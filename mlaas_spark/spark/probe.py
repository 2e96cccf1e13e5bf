"""What plan --explain measures: the real verbs on a few ranges of the plan, and the memory of those who run them.

A verb runs three times: on a cluster for each core in fresh workers, on the same again, and on ranges from all over
the plan, as many more as it takes for the difference to be a second. The samples of verbs are of other ranges, so
that no verb reads what another has put into the page cache.
"""

from __future__ import annotations

import dataclasses
import importlib
import itertools
import os
import shutil
import socket
import time
from bisect import bisect_right
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

import pyarrow as pa

from mlaas_spark import parquet_io, storage
from mlaas_spark.branch_specs import to_rows
from mlaas_spark.errors import FilesetError
from mlaas_spark.estimate import Held, Memory, Room, Timing, busiest, evenly
from mlaas_spark.plan import EntryRange
from mlaas_spark.spark import inspection
from mlaas_spark.spark.chunks import part_events, trial
from mlaas_spark.spark.convert import convert
from mlaas_spark.spark.records import Records
from mlaas_spark.spark.session import spread
from mlaas_spark.spark.specs import compute

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from pyspark.sql import SparkSession

    from mlaas_spark.branch_specs import SpecsFile
    from mlaas_spark.config import ConvertConfig
    from mlaas_spark.manifest import Manifest
    from mlaas_spark.plan import Plan
    from mlaas_spark.spark.chunks import ChunkRequest
    from mlaas_spark.spark.ingest import Events

T = TypeVar("T")
Ranges = tuple[EntryRange, ...]

_ENOUGH_S = 1.0  # by which the larger sample is to take longer, so that what a machine does besides matters little
_GROWTH = 4
_PLACE_BYTES = 12  # of each event, its file (int32) and entry (int64)
_LOOKS = 4  # tasks for each core, so that each worker gets one
_NO_LIMIT = 1 << 60
_UNITS = {"b": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


@dataclass(frozen=True)
class Samples:
    """Ranges of a plan to measure with.

    Attributes:
        small: A cluster for each core; of JSON and CSV, which are read by the file, a file for each.
        units: What larger samples are made of: ranges, or the ranges of a file.
        cores: That share the work.
    """

    small: Ranges
    units: tuple[Ranges, ...]
    cores: int

    @classmethod
    def of(cls, events: Events) -> Samples:
        """The samples of a plan on the cores of the session."""
        plan, cores = events.plan, events.spark.sparkContext.defaultParallelism
        if not isinstance(events.source, Records):
            units: tuple[Ranges, ...] = tuple((r,) for r in plan.ranges)
        else:
            units = tuple(
                tuple(r for r in plan.ranges if r.file == file) for file in sorted({r.file for r in plan.ranges})
            )
        shortest = sorted(units, key=_entries)[:cores]
        if not isinstance(events.source, Records):
            small = tuple(_first_cluster(plan, r) for (r,) in shortest)
        else:
            small = tuple(r for unit in shortest for r in unit)
        return cls(_in_order(small), units, cores)

    def larger(self, count: int, phase: float) -> Ranges:
        """So many units from all over the plan, the largest one among them."""
        chosen = evenly(self.units, count, phase)
        largest = max(self.units, key=_entries)
        units = chosen if largest in chosen else (largest, *chosen[1:])
        return _in_order(tuple(r for unit in units for r in unit))


@dataclass(frozen=True)
class Measured(Generic[T]):
    """Times of a verb, and the larger sample with what the verb made of it."""

    timing: Timing
    ranges: Ranges
    made: T

    @property
    def entries(self) -> int:
        """Of the larger sample."""
        return _entries(self.ranges)


def measured(
    samples: Samples, phase: float, events: Callable[[Ranges], Events], verb: Callable[[Events], T]
) -> Measured[T]:
    """Run a verb on the events of samples; see the head of this module. To get at the events is not timed."""
    first, _ = _timed(verb, events(samples.small))
    again, _ = _timed(verb, events(samples.small))
    count = 2 * samples.cores
    while True:
        ranges = samples.larger(count, phase)
        whole, made = _timed(verb, events(ranges))
        if whole - again >= _ENOUGH_S or count >= len(samples.units):
            break
        count *= _GROWTH
    small, large = (busiest((r.entries for r in some), samples.cores) for some in (samples.small, ranges))
    return Measured(Timing(first, again, whole, small, large), ranges, made)


@dataclass(frozen=True)
class Read:
    """What convert and specs were seen to take.

    Attributes:
        convert: The verb and the manifest that it wrote.
        specs: The verb and the specs of its sample.
        in_memory: Bytes of an entry as Arrow.
        partials: Bytes of the partial specs of one task.
        base: Bytes of a Python worker without events.
        held: Of the workers that ran the two verbs.
    """

    convert: Measured[Manifest]
    specs: Measured[SpecsFile]
    in_memory: float
    partials: int
    base: int
    held: Held


def read(
    events: Events,
    samples: Samples,
    folder: str,
    config: ConvertConfig,
    features: Sequence[str],
    quantiles: Sequence[str],
) -> Read:
    """Convert and tally samples of the events, those of all their branches and those of the features."""
    base = max(worker.resident for worker in workers(events.spark))
    numbers = itertools.count()
    untargeted = config.model_copy(update={"target_size": None})  # the ranges are those of the plan
    with _told_as_a_sample(events):
        converting = measured(
            samples,
            0.0,
            partial(only, events),
            lambda some: convert(some, storage.join(folder, f"convert-{next(numbers)}"), untargeted),
        )
        featured = numeric(events)
        tallying = measured(samples, 1 / 3, partial(only, featured), lambda some: compute(some, features, quantiles)[0])
    held = max(worker.peak for worker in workers(events.spark))
    _, readings = inspection.read(only(dataclasses.replace(featured, selection=None), samples.small))
    in_memory = sum(reading.bytes for reading in readings) / sum(reading.entries.entries for reading in readings)
    in_memory += _PLACE_BYTES
    rows = to_rows(next(iter(tallying.made.by_file.values())))
    partials = sum(pa.array(column).nbytes for column in zip(*rows, strict=True))
    longest = max(r.entries for r in (*converting.ranges, *tallying.ranges))
    return Read(converting, tallying, in_memory, partials, base, Held(held, round(longest * in_memory)))


@dataclass(frozen=True)
class Chunked:
    """What chunks were seen to take.

    Attributes:
        verb: Chunks without their specs, and the manifest.
        folder: Where they are.
        compact: Bytes of an event in compact chunks.
        beside: Those of them that are no features: keys, place, label and weight.
        held: Of the workers.
    """

    verb: Measured[Manifest]
    folder: str
    compact: float
    beside: float
    held: Held


def chunked(events: Events, samples: Samples, folder: str, request: ChunkRequest, in_memory: float) -> Chunked:
    """Make chunks of samples of the events, which are counted before; ``in_memory`` are bytes of an event as Arrow."""
    folders = (storage.join(folder, f"chunks-{number}") for number in itertools.count())
    last = ""

    def counted(ranges: Ranges) -> Events:
        return only(events, ranges).counted()

    def build(some: Events) -> Manifest:
        nonlocal last
        last = next(folders)
        return trial(some, request, last)

    made = measured(samples, 2 / 3, counted, build)
    peak = max(worker.peak for worker in workers(events.spark))
    part = min(part_events(request.config.size), made.made.rows)
    held = Held(peak, round(max(part, *(r.entries for r in made.ranges)) * in_memory))
    files, place = made.made.files, last
    if request.config.layout == "dense":
        compact = dataclasses.replace(request, config=request.config.model_copy(update={"layout": "compact"}))
        place = storage.join(folder, "compact")
        files = trial(counted(made.ranges), compact, place).files
    features = {*request.transform.layout.branches}
    columns = (parquet_io.read_compressed(storage.join(place, file.path)) for file in files)
    beside = sum(size for of_file in columns for name, size in of_file.items() if name not in features)
    written = sum(file.bytes for file in files)
    return Chunked(made, last, written / made.made.rows, beside / made.made.rows, held)


def numeric(events: Events) -> Events:
    """The same events without the branches that cannot be features."""
    return dataclasses.replace(events, plan=dataclasses.replace(events.plan, schema=events.plan.schema.features()))


def only(events: Events, ranges: Ranges) -> Events:
    """The events of some ranges; of JSON and CSV no other file is read."""
    some = events.with_ranges(ranges)
    if not isinstance(events.source, Records):
        return some
    return dataclasses.replace(some, source=events.source.of({r.file for r in ranges}))


def _timed(verb: Callable[[Events], T], events: Events) -> tuple[float, T]:
    began = time.perf_counter()
    made = verb(events)
    return time.perf_counter() - began, made


@contextmanager
def _told_as_a_sample(events: Events) -> Iterator[None]:
    """A selection that keeps nothing of a sample may keep something of the whole."""
    try:
        yield
    except FilesetError as error:
        if events.selection is None:
            raise
        msg = f"{error} of a sample, so there is nothing to measure: explain it without the selection, or a wider one"
        raise FilesetError(msg) from error


def _entries(unit: Ranges) -> int:
    return sum(r.entries for r in unit)


def _in_order(ranges: Ranges) -> Ranges:
    return tuple(sorted(ranges, key=lambda r: (r.file, r.start)))


def _first_cluster(plan: Plan, entries: EntryRange) -> EntryRange:
    edges = plan.files[entries.file].boundaries
    end = edges[min(bisect_right(edges, entries.start), len(edges) - 1)]
    return EntryRange(entries.file, entries.start, min(end, entries.stop))


# --- memory and disks -------------------------------------------------------------------------------------------------


class Worker(NamedTuple):
    """A Python worker and its machine, bytes; 0 is not known.

    Attributes:
        resident: What it holds now.
        peak: The most it held since the last look.
        machine: Memory of its machine, or of its container.
    """

    resident: int
    peak: int
    machine: int


def workers(spark: SparkSession) -> list[Worker]:
    """Each Python worker that is there, its libraries loaded; what it held at most is counted anew from here."""

    def look(numbers: Iterable[int]) -> Iterator[tuple[str, Worker]]:
        importlib.import_module("mlaas_spark.root_io")
        for _ in numbers:
            resident, peak = _resident("self")
            with suppress(OSError):  # the kernel may not offer it: then the peak is that of all that was before
                Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
            yield f"{socket.gethostname()} {os.getpid()}", Worker(resident, peak, memory_of_machine())

    by_worker: dict[str, Worker] = {}
    for name, seen in spread(spark, range(_LOOKS * spark.sparkContext.defaultParallelism), look):
        before = by_worker.get(name, seen)  # of several looks at a worker the first one saw its peak
        by_worker[name] = seen._replace(peak=max(before.peak, seen.peak))
    return list(by_worker.values())


def memory(spark: SparkSession, read: Read, chunks: Chunked) -> Memory | None:
    """What the verbs took; None where the system does not tell."""
    if not (read.base and read.held.peak and chunks.held.peak):
        return None
    return Memory(read.base, read.held, chunks.held, peak_of_jvm(spark))


def peak_of_jvm(spark: SparkSession) -> int:
    """Most that the JVM of the tasks took, or of a cluster's executor what it may take."""
    if _is_local(spark):
        jvm: Any = spark.sparkContext._jvm  # noqa: SLF001 - the only way to the JVM's own number
        return _resident(str(jvm.java.lang.ProcessHandle.current().pid()))[1]
    return _executor_heap(spark)


def room(spark: SparkSession, place: str, cores: int) -> Room:
    """What there is for the executors, on the driver and where the output goes, for a job of so many cores."""
    machine = min(worker.machine for worker in workers(spark))
    driver, disk = memory_of_machine(), free_disk(place)
    conf = spark.sparkContext.getConf()
    results = memory_text(conf.get("spark.driver.maxResultSize", "") or "1g", "b") or None
    if _is_local(spark):
        return Room(cores, machine, "this machine", driver, disk, results)
    parallel = spark.sparkContext.defaultParallelism
    jsc: Any = spark.sparkContext._jsc  # noqa: SLF001 - as above
    executors = max(jsc.sc().getExecutorMemoryStatus().size() - 1, 1)  # the driver is one of them
    each = int(conf.get("spark.executor.cores", "") or -(-parallel // executors))
    if not (spark.sparkContext.master or "").startswith(("yarn", "k8s")):
        return Room(each, machine, "the executor's machine", driver, disk, results)
    heap = _executor_heap(spark)
    factor = float(conf.get("spark.executor.memoryOverheadFactor", "") or 0.1)
    overhead = conf.get("spark.executor.memoryOverhead", "")
    beside = memory_text(overhead, "m") if overhead else max(round(factor * heap), 384 << 20)  # Spark's own rule
    python = conf.get("spark.executor.pyspark.memory", "")
    limit = heap + beside + (memory_text(python, "m") if python else 0)
    return Room(each, limit, "spark.executor.memory with its overhead", driver, disk, results)


def free_disk(place: str) -> int | None:
    """Free bytes where ``place`` is or will be; None where it is not on this machine's file systems."""
    path = storage.local_path(storage.absolute(place))
    if path is None:
        return None
    return shutil.disk_usage(next(folder for folder in (path, *path.parents) if folder.exists())).free


def memory_of_machine() -> int:
    """Bytes of memory of this machine, or of the container it is."""
    limit = _NO_LIMIT
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):  # no such control group, or no limit in it
            limit = min(limit, int(Path("/sys/fs/cgroup", name).read_text(encoding="ascii")))
    return min(limit, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


def memory_text(text: str, unit: str) -> int:
    """Bytes of a size as Spark writes it (512m, 4g, 4gb), a bare number being in ``unit``."""
    number = text.strip().lower().removesuffix("b")
    return int(number[:-1]) * _UNITS[number[-1]] if number[-1].isalpha() else int(number) * _UNITS[unit]


def _executor_heap(spark: SparkSession) -> int:
    return memory_text(spark.sparkContext.getConf().get("spark.executor.memory", "") or "1g", "m")


def _is_local(spark: SparkSession) -> bool:
    return (spark.sparkContext.master or "").startswith("local[") or spark.sparkContext.master == "local"


def _resident(pid: str) -> tuple[int, int]:
    """Bytes that a process holds, and the most that it held; 0 where the system has no /proc."""
    try:
        lines = Path("/proc", pid, "status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0, 0
    found = {name: value for name, _, value in (line.partition(":") for line in lines)}
    resident, peak = (int(found[name].split()[0]) << 10 for name in ("VmRSS", "VmHWM"))
    return resident, peak
