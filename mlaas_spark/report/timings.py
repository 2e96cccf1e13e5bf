"""Where a run's time went."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

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


def parts(run: Mapping[str, Any]) -> dict[str, list[Timing]]:
    """Of the stages whose parts were measured, the parts with their shares of it."""
    return {
        stage["name"]: [
            Timing(name, seconds, seconds / (stage["seconds"] or 1.0), None, None)
            for name, seconds in stage["parts"].items()
        ]
        for stage in run["stages"]
        if stage.get("parts")
    }
