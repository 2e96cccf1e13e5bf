"""What a job would take: a plan and what a probe measured give sizes, memory, times and warnings. Pure.

Bytes, seconds, events. Every figure says from what it was reckoned; nothing here is a fixed rate.
"""

from __future__ import annotations

import heapq
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from mlaas_spark.plan import EntryRange, Plan

T = TypeVar("T")

_SMALL_FILE = 10  # a file of less than a range's target by this factor is very small
_TASKS_PER_CORE = 4  # as spark.session.partitions has them
_FLOAT, _MASK, _LABEL_AND_WEIGHT = 4, 1, 8  # bytes of an event's column in a batch, and of the rest


@dataclass(frozen=True, slots=True)
class Timing:
    """One verb, run on a small sample in fresh workers, on the same again, and on a larger one.

    Attributes:
        first: Seconds of the small sample where nothing is loaded yet.
        again: Seconds of the same in warm workers.
        whole: Seconds of the larger sample, all cores at work, in warm workers.
        small: Entries of the busiest core in the small sample.
        large: Entries of the busiest core in the larger one.
    """

    first: float
    again: float
    whole: float
    small: int
    large: int

    @property
    def per_entry(self) -> float:
        """Seconds of a core for an entry; 0 where the samples are one."""
        return max(self.whole - self.again, 0.0) / (self.large - self.small) if self.large > self.small else 0.0

    @property
    def fixed(self) -> float:
        """Seconds of a job without its entries."""
        return max(self.again - self.per_entry * self.small, 0.0)

    @property
    def cold(self) -> float:
        """Seconds that the first job of fresh workers takes longer."""
        return max(self.first - self.again, 0.0)

    def seconds(self, busiest: int) -> float:
        """Of a job in warm workers whose busiest core has so many entries."""
        return self.fixed + self.per_entry * busiest


@dataclass(frozen=True, slots=True)
class Streaming:
    """The chunks of the sample as batches, twice: seconds of the first pass, of the next, events of a pass."""

    first: float
    again: float
    events: int

    def seconds(self, events: int) -> float:
        """Of a first pass over so many events."""
        return max(self.first - self.again, 0.0) + self.again / self.events * events


@dataclass(frozen=True, slots=True)
class Held:
    """Memory of the workers while they ran a verb.

    Attributes:
        peak: Most that one held, bytes.
        data: Bytes, as Arrow, of the most events that one task had at once.
    """

    peak: int
    data: int


@dataclass(frozen=True, slots=True)
class Memory:
    """What the probe saw of memory, bytes.

    Attributes:
        base: A Python worker with its libraries and no events.
        convert: A task that reads a range and writes it.
        chunks: A task that puts a range aside, or gathers a part of a chunk.
        jvm: The JVM of the tasks, or what it may take.
    """

    base: int
    convert: Held
    chunks: Held
    jvm: int

    def factor(self, held: Held) -> float:
        """Bytes that a worker takes for a byte of events."""
        return max(held.peak - self.base, 0) / held.data


@dataclass(frozen=True, slots=True)
class Room:
    """What there is.

    Attributes:
        executor_cores: Tasks that one executor runs at a time.
        memory: Bytes for one executor, its JVM and its Python workers.
        memory_of: Where that is from.
        driver: Bytes of the machine of the driver.
        disk: Free bytes where the output goes; None is not known.
        results: Bytes that a driver takes of the tasks of a job (spark.driver.maxResultSize); None is no limit.
    """

    executor_cores: int
    memory: int
    memory_of: str
    driver: int
    disk: int | None
    results: int | None


@dataclass(frozen=True, slots=True)
class Probe:
    """What was measured on samples of the plan's ranges.

    Attributes:
        cores: That shared the work.
        start: Seconds until there was a session; about 0 where one was there.
        opened: Seconds for opening all files.
        convert: The verb convert.
        specs: The verb specs.
        chunks: The verb chunks without its specs.
        stream: Batches of the chunks.
        kept: Share of the entries that pass the selection.
        in_memory: Bytes of an entry as Arrow.
        converted: Bytes of an event in the Parquet of convert.
        compact: Bytes of an event in compact chunks.
        dense: Bytes of an event in dense chunks.
        width: W; more events may show longer lists.
        partials: Bytes of the partial specs of one task, which the driver gathers.
        entries: Of the largest sample.
        memory: None where the system does not tell (no /proc).
        room: What there is.
    """

    cores: int
    start: float
    opened: float
    convert: Timing
    specs: Timing
    chunks: Timing
    stream: Streaming
    kept: float
    in_memory: float
    converted: float
    compact: float
    dense: float
    width: int
    partials: int
    entries: int
    memory: Memory | None
    room: Room


@dataclass(frozen=True, slots=True)
class Asked:
    """What the config asks for, as far as an estimate depends on it.

    Attributes:
        cores: That the job would have.
        target: Entries of a range, about.
        part: Events of a part of a chunk: what one task gathers.
        chunk: Events of a chunk; None is all.
        layout: Of the chunks, compact or dense.
        whole_chunks: Whether training holds a chunk at a time in memory.
        training: Share of the events that an epoch streams: training and validation.
        epochs: Of training.
        ready: Events that the stream has ready at a time, about.
    """

    cores: int
    target: int
    part: int
    chunk: int | None
    layout: str
    whole_chunks: bool
    training: float
    epochs: int
    ready: int


@dataclass(frozen=True, slots=True)
class Figure:
    """A number with its unit, and from what it was reckoned."""

    name: str
    value: float
    unit: str
    source: str


@dataclass(frozen=True, slots=True)
class Warned:
    """Something that will not fit, or could be better: which, and what to do."""

    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Estimate:
    """Figures in the order in which they are told, and warnings."""

    figures: tuple[Figure, ...]
    warnings: tuple[Warned, ...]

    def __getitem__(self, name: str) -> float:
        """The value of a figure; KeyError if there is none of the name."""
        return {figure.name: figure.value for figure in self.figures}[name]

    def to_json(self) -> dict[str, Any]:
        """As plain values: figures by name."""
        return {
            "figures": {f.name: {"value": f.value, "unit": f.unit, "from": f.source} for f in self.figures},
            "warnings": [asdict(warned) for warned in self.warnings],
        }


def busiest(entries: Iterable[int], cores: int) -> int:
    """Entries of the core that has most to do, if each range in turn goes to the core that is free first.

    Another core never makes it more, another range or a longer one never less.
    """
    free = [0] * cores
    for of_range in entries:
        heapq.heapreplace(free, free[0] + of_range)
    return max(free)


def evenly(items: Sequence[T], count: int, phase: float = 0.0) -> tuple[T, ...]:
    """So many of the items, evenly spaced, in order; ``phase`` in [0, 1) gives others, where there are others."""
    taken = min(count, len(items))
    return tuple(items[int((number + phase) * len(items) / taken)] for number in range(taken))


def straddling(plan: Plan) -> list[EntryRange]:
    """Ranges that begin or end inside a cluster, whose baskets two tasks decompress."""
    edges = [{*file.boundaries} for file in plan.files]
    return [r for r in plan.ranges if not {r.start, r.stop} <= edges[r.file]]


def estimate(plan: Plan, sizes: Sequence[int], probe: Probe, asked: Asked) -> Estimate:
    """What the verbs would take on ``asked.cores`` cores.

    Args:
        plan: What would be read.
        sizes: Bytes of each file of the plan.
        probe: What was measured.
        asked: What the config asks for.
    """
    figures = tuple(_figures(plan, sizes, probe, asked))
    values = {figure.name: figure.value for figure in figures}
    return Estimate(figures, tuple(_warnings(plan, probe, asked, values)))


def _figures(plan: Plan, sizes: Sequence[int], probe: Probe, asked: Asked) -> Iterator[Figure]:
    yield from _of_plan(plan, sizes, probe, asked)
    yield from _of_output(plan, probe, asked)
    yield from _of_memory(plan, probe, asked)
    yield from _of_time(plan, probe, asked)


def _of_plan(plan: Plan, sizes: Sequence[int], probe: Probe, asked: Asked) -> Iterator[Figure]:
    by_path = {file.path: size for file, size in zip(plan.files, sizes, strict=True)}
    largest = max(r.entries for r in plan.ranges)
    yield Figure("files", len(by_path), "files", "the plan")
    yield Figure("input.bytes", sum(by_path.values()), "B", "sizes of the files")
    yield Figure("entries", plan.entries, "events", "headers of the files: all that is read")
    yield Figure("events", _events(plan, probe), "events", f"{100 * probe.kept:.3g} % of a sample pass the selection")
    yield Figure("clusters", sum(file.clusters for file in plan.files), "clusters", "headers of the files")
    yield Figure("ranges", len(plan.ranges), "ranges", f"clusters joined or cut to about {asked.target:,} entries")
    yield Figure("range.entries", largest, "events", "the largest range of the plan")
    yield Figure("tasks", _tasks(plan, asked.cores), "tasks", f"ranges, at most {_TASKS_PER_CORE} for a core")


def _of_output(plan: Plan, probe: Probe, asked: Asked) -> Iterator[Figure]:
    events = _events(plan, probe)

    def figure(name: str, each: float, how: str) -> Figure:
        return Figure(name, round(each * events), "B", f"{each:,.1f} B an event, {how}, x {events:,} events")

    yield figure("convert.bytes", probe.converted, "written by convert from a sample")
    yield figure("compact.bytes", probe.compact, "written by chunks from a sample")
    yield figure("dense.bytes", probe.dense, f"the matrix of a sample, W = {probe.width}, and its keys, compressed")
    yield figure("spill.bytes", probe.in_memory, "events put aside as Arrow while chunks are made")
    tasks = _tasks(plan, asked.cores)
    yield Figure(
        "partials.bytes",
        probe.partials * tasks,
        "B",
        f"{probe.partials:,} B of partial specs of a task, measured, x {tasks} tasks, gathered by the driver",
    )


def _of_memory(plan: Plan, probe: Probe, asked: Asked) -> Iterator[Figure]:
    memory, room = probe.memory, probe.room
    largest = max(r.entries for r in plan.ranges)
    of_range = round(largest * probe.in_memory)
    yield Figure("range.bytes", of_range, "B", f"{largest:,} events x {probe.in_memory:,.1f} B decompressed, measured")
    if memory is not None:
        part = min(asked.part, _events(plan, probe))
        of_part = max(of_range, round(part * probe.in_memory))
        reading, gathering = memory.factor(memory.convert), memory.factor(memory.chunks)
        read, gathered = memory.base + reading * of_range, memory.base + gathering * of_part
        told = f"{memory.base / 1e6:,.0f} MB for Python and its libraries +"
        yield Figure("convert.task.memory", round(read), "B", f"{told} {reading:.1f} x a range decompressed")
        yield Figure(
            "chunks.task.memory",
            round(gathered),
            "B",
            f"{told} {gathering:.1f} x {of_part / 1e6:,.1f} MB, the larger of a range and {part:,} events of a chunk",
        )
        cores = min(room.executor_cores, len(plan.ranges))
        yield Figure(
            "executor.memory",
            round(memory.jvm + cores * max(read, gathered)),
            "B",
            f"JVM {memory.jvm / 1e6:,.0f} MB + {cores} tasks at a time x the larger of the two",
        )
    held, how = _held(plan, probe, asked)
    yield Figure("train.memory", held, "B", f"{how}, matrix and mask of W = {probe.width}; without the model")


def _held(plan: Plan, probe: Probe, asked: Asked) -> tuple[int, str]:
    """Bytes of events that training holds on the driver, and which these are."""
    events = _events(plan, probe)
    each = probe.width * (_FLOAT + _MASK) + _LABEL_AND_WEIGHT
    if not asked.whole_chunks:
        ready = min(asked.ready, events)
        return ready * each, f"{ready:,} events of row groups that are ready"
    of_chunk = round(min(asked.chunk or events, events) * asked.training)
    return of_chunk * each, f"{of_chunk:,} training and validation events of {'a chunk' if asked.chunk else 'all'}"


def _of_time(plan: Plan, probe: Probe, asked: Asked) -> Iterator[Figure]:
    most = busiest((r.entries for r in plan.ranges), asked.cores)
    shared = f"{most:,} events on the busiest of {asked.cores} cores"
    elsewhere = "" if asked.cores == probe.cores else f", measured on {probe.cores} cores"
    begun = probe.start + probe.opened
    yield Figure("start.seconds", probe.start, "s", "measured: the session of this probe")
    yield Figure("open.seconds", probe.opened, "s", f"measured on {probe.cores} cores: all files were opened")
    # workers are fresh for whatever job is the first; the second finds what both need loaded
    fresh = {"convert": probe.convert.cold, "specs": probe.convert.cold + probe.specs.cold, "chunks": probe.chunks.cold}
    stages = {"convert": probe.convert, "specs": probe.specs, "chunks": probe.chunks}
    seconds = {name: fresh[name] + timing.seconds(most) for name, timing in stages.items()}
    for name, timing in stages.items():
        yield Figure(
            f"{name}.seconds",
            seconds[name],
            "s",
            f"{timing.fixed:.2f} s a job + {fresh[name]:.2f} s in fresh workers + {1e6 * timing.per_entry:,.2f} us an "
            f"event x {shared}{elsewhere}",
        )
    streamed = round(_events(plan, probe) * asked.training)
    epoch = probe.stream.seconds(streamed)
    yield Figure(
        "stream.seconds",
        epoch,
        "s",
        f"{probe.stream.events / probe.stream.again / 1e3:,.0f} kHz on the driver, measured, x {streamed:,} training "
        "and validation events of an epoch; without the model's own time",
    )
    # Python's own start and end, a second or two, are in no stage
    told = f"stages: {probe.start:.1f} s of the session + {probe.opened:.1f} s of opening files +"
    yield Figure("job.convert.seconds", begun + seconds["convert"], "s", f"{told} convert")
    yield Figure("job.specs.seconds", begun + seconds["specs"], "s", f"{told} specs")
    both = begun + seconds["specs"] + seconds["chunks"]
    yield Figure("job.chunks.seconds", both, "s", f"{told} specs + chunks")
    fit = f"{told} specs + chunks + {asked.epochs} epochs of the stream, without the model's own time"
    yield Figure("job.train.seconds", both + asked.epochs * epoch, "s", fit)


def _warnings(plan: Plan, probe: Probe, asked: Asked, values: dict[str, float]) -> Iterator[Warned]:
    yield from _of_room(probe, asked, values)
    ranges, cores = len(plan.ranges), asked.cores
    if ranges < cores:
        each = max(plan.entries // (_TASKS_PER_CORE * cores), 1)
        yield Warned(
            "few ranges",
            f"{ranges} ranges keep at most as many of {cores} cores at work: set spark.events_per_task to {each:,}, "
            "or ask for fewer cores",
        )
    small = [file for file in plan.files if file.entries * _SMALL_FILE < asked.target]
    if len(small) > _TASKS_PER_CORE * cores:
        mean = sum(file.entries for file in small) / len(small)
        yield Warned(
            "small files",
            f"{len(small)} of {len(plan.files)} files are very small, {mean:,.0f} events each where a range may have "
            f"{asked.target:,}: opening them is much of the work; merge them (hadd)",
        )
    if cut := straddling(plan):
        first = cut[0]
        path = plan.files[first.file].path
        yield Warned(
            "straddle",
            f"{len(cut)} of {ranges} ranges begin or end inside a cluster, such as [{first.start}, {first.stop}) of "
            f"{path}: two tasks decompress the same baskets; clusters of at most {asked.target:,} entries would not",
        )


def _of_room(probe: Probe, asked: Asked, values: dict[str, float]) -> Iterator[Warned]:
    room = probe.room
    if values.get("executor.memory", 0) > room.memory:
        yield Warned(
            "executor memory",
            f"an executor needs {_gb(values['executor.memory'])}, there is {_gb(room.memory)} ({room.memory_of}): set "
            "spark.events_per_task or chunks.size lower, or run fewer tasks in an executor (spark.executor.cores)",
        )
    final = values["dense.bytes"] if asked.layout == "dense" else 0.0
    made = {
        "convert": (values["convert.bytes"], "its Parquet files"),
        "chunks": (values["spill.bytes"] + values["compact.bytes"] + final, "what is put aside, and the chunks"),
    }
    for verb, (needed, what) in made.items():
        if room.disk is not None and needed > room.disk:
            yield Warned(
                f"disk of {verb}",
                f"{verb} writes {_gb(needed)} ({what}), {_gb(room.disk)} are free where the output goes: choose "
                "another place by --out, fewer branches or a selection",
            )
    if room.results is not None and values["partials.bytes"] > room.results:
        yield Warned(
            "driver results",
            f"the driver gathers {_gb(values['partials.bytes'])} of partial specs, and takes {_gb(room.results)}: set "
            "spark.driver.maxResultSize higher",
        )
    if values["train.memory"] > room.driver:
        of = "a chunk" if asked.chunk else "all events, chunks.size being all,"
        held = f"{of} in memory" if asked.whole_chunks else "row groups in memory"
        yield Warned(
            "training memory",
            f"training holds {held}, {_gb(values['train.memory'])}, the driver has {_gb(room.driver)}: set train.mode "
            "to epochs, chunks.size lower, or features.caps",
        )


def _events(plan: Plan, probe: Probe) -> int:
    return round(plan.entries * probe.kept)


def _tasks(plan: Plan, cores: int) -> int:
    return min(len(plan.ranges), _TASKS_PER_CORE * cores)


def _gb(size: float) -> str:
    return f"{size / 1e9:,.2f} GB"
