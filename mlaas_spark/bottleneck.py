"""What a job spent its time on, and what to change: from measured seconds. Pure; the one owner of that advice."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Mapping

TRAIN = "train"
_SHORT_S = 10.0

READING, DECOMPRESSING, KERNEL = "reading", "decompressing", "kernel"
HAND_OVER, FIRST, FIT, TOGETHER = "hand-over to TensorFlow", "first step", "fit", "other workers"
SCORING, WRITING = "the model", "writing"
REST = "the rest"

WORKED = "worked"
"""Of executors all of their work, of which reading, decompressing, scoring and writing are parts."""

_CURES = {
    # stages, by their names in run.json, and those of throughput
    "start Spark": "it is paid once a session: run several verbs in one (a notebook, spark-submit), or on more events",
    "model file": "most of it is the import of the model's library, and counts less with more events",
    "open files": "fewer and larger files, or more cores: headers are read in parallel (spark.master, --num-executors)",
    "convert": "more cores (spark.master); fewer branches (--branches, --exclude); lz4, not zstd (--compression)",
    "count events": "more cores (spark.master): what the selection needs of every event is read",
    "specs": "more cores (spark.master), fewer branches (input.branches); keep specs.json (features.specs): only new "
    "files are read again",
    "chunks": "more cores or executors (spark.master), fewer branches (input.branches); chunks that are there are used "
    "again (chunks.folder)",
    "build model": "most of it is the import of the model's library",
    TRAIN: "fewer epochs (train.epochs), larger batches (train.batch_size), more workers (train.workers) or a smaller "
    "model",
    "evaluate": "a smaller evaluate.importance_events, evaluate.bootstrap or evaluate.train_events",
    "export": "export.inputs=raw alone makes one bundle in place of two; most of it is the check that they score as "
    "the model does",
    "predict": "more cores (spark.master); fewer branches beside the scores (--keep, --beside)",
    "stream": "features.caps, more train.threads, chunks.layout=dense",
}
_OF_TRAINING = {
    READING: "chunks on a nearer disk, more train.threads, or more cores",
    DECOMPRESSING: "fewer branches (input.branches), more train.threads, or more cores",
    KERNEL: "features.caps, chunks.layout=dense, more train.threads, or more cores",
    HAND_OVER: "a larger train.batch_size, features.caps",
    FIRST: "it is paid once: the model's library compiles the step; more events, or a smaller model",
    FIT: "a larger train.batch_size, a smaller model, train.workers",
    TOGETHER: "a larger train.batch_size, fewer train.workers, or cores and network of equal speed for all of them",
}
_OF_EXECUTORS = {
    READING: "files on a nearer or faster disk or server; fewer branches (input.branches, --branches); more executors, "
    "if the server can serve them",
    DECOMPRESSING: "more cores (spark.master); fewer branches (input.branches, --branches); convert once what is read "
    "often",
    KERNEL: "more cores (spark.master), fewer branches (input.branches, --branches)",
    SCORING: "more cores (spark.master), or a smaller model",
    WRITING: "an output on a nearer or faster disk or server; lz4, not zstd (--compression)",
}


def cure(stage: str, part: str | None = None) -> str:
    """What makes a stage, or a part of it, shorter, "" where nothing is known to."""
    if part is None:
        return _CURES.get(stage, "")
    return (_OF_TRAINING if stage == TRAIN else _OF_EXECUTORS).get(part, "")


@dataclass(frozen=True, slots=True)
class Streamed:
    """Where a training's time went, in seconds; of several workers the mean of each.

    Attributes:
        waited: Who takes the stream's batches waited for its threads.
        kernel: Threads normalised, padded and shuffled, added up.
        read: Threads waited for the bytes of row groups, or for a core, added up.
        decoded: Threads decompressed, added up.
        handed: The training waited for its next batch, for whatever reason.
        first: It made its first step, which its library compiles.
        fit: It made the other steps, and judged the validation split.
        together: Workers waited for each other and added up.
        measured: Whether the fit was timed; of a model with a ``fit`` of its own on a stream it cannot be.
    """

    waited: float = 0.0
    kernel: float = 0.0
    read: float = 0.0
    decoded: float = 0.0
    handed: float = 0.0
    first: float = 0.0
    fit: float = 0.0
    together: float = 0.0
    measured: bool = True

    @classmethod
    def of(cls, seconds: Mapping[str, float]) -> Self:
        """From what a meter has counted, by the names of the attributes."""
        known = {one.name for one in fields(cls)} - {"measured"}
        given = {name: value for name, value in seconds.items() if name in known}
        return cls(**given, measured=bool(given.get("fit") or given.get("first")))

    def parts(self, seconds: float) -> dict[str, float]:
        """The seconds of a training by what it did; they add up to all of them.

        What it waited for events is dealt to reading, decompressing and the kernel as its threads spent their time;
        what it waited for batches beyond that is the hand-over.

        Args:
            seconds: It took.
        """
        starved = min(self.waited, self.handed) if self.measured else min(self.waited, seconds)
        busy = self.read + self.decoded + self.kernel
        spent = ((READING, self.read), (DECOMPRESSING, self.decoded), (KERNEL, self.kernel))
        parts = {name: starved * part / busy for name, part in spent} if busy else {READING: starved}
        if not self.measured:
            return {**parts, FIT: max(seconds - starved, 0.0)}
        parts |= {HAND_OVER: self.handed - starved, FIRST: self.first, FIT: self.fit}
        if self.together:
            parts[TOGETHER] = self.together
        return {**parts, REST: max(seconds - sum(parts.values()), 0.0)}


def of_executors(spent: Mapping[str, float], cores: int, seconds: float) -> dict[str, float]:
    """The seconds of a stage by what executors did meanwhile; they add up to all of them, {} where none was measured.

    What is neither read, decompressed, scored nor written is the kernel of the stage. The rest is the driver, Spark
    between tasks, and cores that had nothing to do.

    Args:
        spent: Seconds of all tasks, by part, and in all (``WORKED``).
        cores: That share the work.
        seconds: The stage took.
    """
    if not (worked := spent.get(WORKED, 0.0)):
        return {}
    parts = {name: spent[name] for name in (READING, DECOMPRESSING, SCORING, WRITING) if name in spent}
    parts[KERNEL] = max(worked - sum(parts.values()), 0.0)
    share = min(1 / cores, seconds / worked)  # tasks may be more at once than Spark said there are cores
    found = {name: part * share for name, part in parts.items()}
    return {**found, REST: max(seconds - sum(found.values()), 0.0)}


@dataclass(frozen=True, slots=True)
class Bottleneck:
    """What took longest.

    Attributes:
        stage: The longest stage.
        seconds: It took.
        total: All stages took.
        part: Of a stage whose time was measured by parts, the longest of these.
        of: Seconds of that part.
        cure: What makes it shorter; "" where nothing is known to.
    """

    stage: str
    seconds: float
    total: float
    part: str | None
    of: float
    cure: str

    @property
    def line(self) -> str:
        """All of it, for the end of a job."""
        where = f"{self.stage}, {self.seconds:.0f} of {self.total:.0f} s"
        if self.part is not None:
            where = (
                f"{self.part}, {self.of:.0f} of the {self.seconds:.0f} s of {self.stage} ({self.total:.0f} s in all)"
            )
        return f"bottleneck: {where}" + (f"; to shorten it: {self.cure}" if self.cure else "")


def longest(seconds: Mapping[str, float], parts: Mapping[str, Mapping[str, float]] | None = None) -> Bottleneck | None:
    """The stage that took longest, and the part of it that did, where that was measured; None without stages.

    Args:
        seconds: Of each stage.
        parts: Of some stages, the seconds of their parts.
    """
    if not seconds:
        return None
    total = sum(seconds.values())
    stage, most = max(seconds.items(), key=lambda item: item[1])
    part, of = max((parts or {}).get(stage, {}).items(), key=lambda item: item[1], default=(REST, 0.0))
    if part == REST:
        return Bottleneck(stage, most, total, None, most, cure(stage))
    return Bottleneck(stage, most, total, part, of, cure(stage, part))


def bottleneck(seconds: Mapping[str, float], parts: Mapping[str, Mapping[str, float]] | None = None) -> str | None:
    """What :func:`longest` finds, in a line; None of a job of seconds."""
    found = longest(seconds, parts)
    return found.line if found is not None and found.total >= _SHORT_S else None
