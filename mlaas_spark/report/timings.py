"""Where a run's time went, and what to change."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# what helps a stage, by its name in run.json
_ADVICE = {
    "start Spark": "Spark starts once a session: with more events, or in a session that runs already, it counts less",
    "open files": "it reads the headers of all files: more cores (spark.master), or fewer and larger files",
    "specs": "it reads and decompresses every event: more cores (spark.master), fewer branches (input.branches), or "
    "the specs of an earlier run (features.specs)",
    "count events": "it reads what the selection needs of every event: more cores (spark.master)",
    "chunks": "it reads, mixes and writes every event: more cores or executors (spark.master); a second run with the "
    "same input and settings takes the chunks that are there",
    "build model": "most of it is the import of the model's library",
    "train": "fewer epochs (train.epochs), larger batches (train.batch_size), more workers (train.workers) or a "
    "smaller model make it shorter",
    "evaluate": "a smaller evaluate.importance_events, evaluate.bootstrap or evaluate.train_events makes it shorter",
    "export": "most of it is the check that the bundle scores as the model does",
}
_NO_ADVICE = "mlaas-spark plan --explain tells what takes how long"


@dataclass(frozen=True, slots=True)
class Timing:
    """A stage.

    Attributes:
        name: As in run.json.
        seconds: How long it took.
        share: Of the run.
        events: That went through, or None.
        khz: Thousand of them a second, or None.
    """

    name: str
    seconds: float
    share: float
    events: int | None
    khz: float | None


def timings(run: Mapping[str, Any]) -> list[Timing]:
    """The stages of run.json in their order, and what lies between them if it is a hundredth of the run."""
    total = elapsed(run)
    stages = [
        Timing(stage["name"], stage["seconds"], stage["seconds"] / total, stage["events"], stage["khz"])
        for stage in run["stages"]
    ]
    rest = total - sum(stage.seconds for stage in stages)
    between = [Timing("between the stages", rest, rest / total, None, None)] if rest > 0.01 * total else []
    return [*stages, *between]


def elapsed(run: Mapping[str, Any]) -> float:
    """Seconds from the run's beginning to its end; those of all stages if these are more."""
    began, ended = (datetime.fromisoformat(run[key]) for key in ("started", "finished"))
    stages = sum(stage["seconds"] for stage in run["stages"])
    return max((ended - began).total_seconds(), stages) or 1.0


def bottleneck(found: Sequence[Timing]) -> tuple[Timing, str] | None:
    """The longest stage and what makes it shorter; None of a run without stages."""
    if not found:
        return None
    longest = max(found, key=lambda stage: stage.seconds)
    return longest, _ADVICE.get(longest.name, _NO_ADVICE)
