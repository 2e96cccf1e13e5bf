"""What a job spent its time on, and what to change: from measured seconds, in a line. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

TRAIN = "train"
_START = "start Spark"
_SHORT_S = 10.0

_CURES = {
    _START: "run several verbs in one session (a notebook, spark-submit), it is paid once",
    "open files": "fewer and larger files, or more cores: headers are read in parallel (spark.master, --num-executors)",
    "convert": "more cores; fewer branches (--branches, --exclude); zstd is slower than lz4 (--compression)",
    "specs": "more cores; keep specs.json (features.specs): only new files are read again",
    "chunks": "more cores; fewer branches; chunks that are there are used again (chunks.folder)",
    "predict": "more cores; fewer branches beside the scores (--keep, --beside)",
    "evaluate": "evaluate.importance and evaluate.bootstrap of the config with fewer repeats",
    "export": "export.inputs=raw alone makes one bundle in place of two",
}


@dataclass(frozen=True, slots=True)
class Streamed:
    """Where a training's time went, in seconds.

    Attributes:
        waited: The training waited for the next batch.
        kernel: Threads normalised, padded and shuffled, added up.
        read: Threads read and decompressed, added up.
        threads: So many of them.
    """

    waited: float
    kernel: float
    read: float
    threads: int


def bottleneck(seconds: Mapping[str, float], streamed: Streamed | None = None) -> str | None:
    """The stage that took longest, with its share and what to change; None of a job of seconds.

    Args:
        seconds: Of each stage.
        streamed: Of the stage ``train``, what it did meanwhile.
    """
    total = sum(seconds.values())
    if total < _SHORT_S:
        return None
    name, longest = max(seconds.items(), key=lambda item: item[1])
    told = f"most time went into {name}: {longest:.0f} of {total:.0f} s"
    if name == TRAIN and streamed is not None:
        return f"{told}, {_of_training(longest, streamed)}"
    return f"{told}; to shorten it: {_CURES[name]}" if name in _CURES else told


def _of_training(seconds: float, streamed: Streamed) -> str:
    """Whether training waited for events or for the model, and of the former for what."""
    share = 100 * streamed.waited / seconds
    if streamed.waited < seconds / 2:
        return (
            f"{100 - share:.0f} % of it in the fit and the hand-over to it; to shorten it: a larger train.batch_size, "
            "a smaller model, train.workers"
        )
    busy = streamed.kernel + streamed.read
    threads = f"more train.threads than {streamed.threads}"
    if streamed.read >= streamed.kernel:
        of = f"reading and decompressing, {streamed.read:.0f} of {busy:.0f} s of its threads"
        return f"{share:.0f} % of it waiting for {of}; to shorten it: chunks on a nearer disk, lz4, {threads}"
    of = f"the kernel that pads and normalises, {streamed.kernel:.0f} of {busy:.0f} s of its threads"
    return f"{share:.0f} % of it waiting for {of}; to shorten it: features.caps, chunks.layout=dense, {threads}"
