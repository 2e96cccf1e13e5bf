"""Where a run's time went."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from mlaas_spark.bottleneck import TRAIN, Streamed

if TYPE_CHECKING:
    from collections.abc import Mapping


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


def streamed(run: Mapping[str, Any]) -> Streamed | None:
    """What the training of a run did meanwhile; None of runs that have not measured it."""
    told = run.get("streamed")
    return Streamed(**told) if told else None


def training(run: Mapping[str, Any]) -> list[Timing]:
    """The parts of the stage ``train``, with their shares of it; [] where they were not measured."""
    of = next((stage["seconds"] for stage in run["stages"] if stage["name"] == TRAIN), 0.0)
    found = streamed(run)
    if found is None or not of:
        return []
    return [Timing(name, seconds, seconds / of, None, None) for name, seconds in found.parts(of).items()]
