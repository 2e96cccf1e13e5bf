"""What a job tells machines: a line of JSON for all that it says, a file for Prometheus, a program that is called.

The lines are those of the package's logger; stages come as records with ``stage``, ``seconds`` and ``events``, see
:class:`mlaas_spark.runs.Journal`. The file is for node_exporter's textfile collector
(https://github.com/prometheus/node_exporter#textfile-collector), in Prometheus' text format 0.0.4.
"""

from __future__ import annotations

import json
import logging
import re
import shlex
import subprocess
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from mlaas_spark import storage
from mlaas_spark.errors import ConfigError, UnwritableOutputError

if TYPE_CHECKING:
    from pathlib import Path

_NOTIFY_S = 60.0
_KEPT = re.compile(r"^mlaas_spark_last_success_timestamp_seconds\{.*\} (\S+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Done:
    """A stage that came to its end."""

    stage: str
    seconds: float
    events: int | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a job ended.

    Attributes:
        verb: What was asked for.
        name: Of the job, as the user calls it; "" without one.
        code: Exit code, 0 for success.
        began: Seconds since the epoch.
        seconds: How long it took.
        message: The error, "" without one.
        stages: Those that came to their end.
    """

    verb: str
    name: str
    code: int
    began: float
    seconds: float
    message: str = ""
    stages: tuple[Done, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {**asdict(self), "began": _time(self.began)}


class JsonLines(logging.Formatter):
    """A line of JSON for each record."""

    def format(self, record: logging.LogRecord) -> str:
        """``{"time": ..., "level": ..., "message": ...}``; of a stage what is known of it: ``stage``, ..."""
        told = record.__dict__
        of_stage = {key: told[key] for key in ("stage", "seconds", "events", "parts") if key in told}
        said = {"time": _time(record.created), "level": record.levelname, "message": record.getMessage()}
        return json.dumps({**said, **of_stage})


class Stages(logging.Handler):
    """Keeps the stages that a logger is told of."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.done: list[Done] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it if it is the end of a stage."""
        told = record.__dict__
        if "stage" in told and told.get("seconds") is not None:
            self.done.append(Done(told["stage"], told["seconds"], told.get("events")))


def json_lines(path: Path) -> logging.Handler:
    """A handler that adds lines to a file, which may be there.

    Raises:
        UnwritableOutputError: It cannot be opened.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(path, encoding="utf-8")
    except OSError as error:
        raise UnwritableOutputError(str(path), storage.why(error)) from error
    handler.setFormatter(JsonLines())
    return handler


def write_textfile(path: Path, outcome: Outcome) -> None:
    """Write a job's outcome for Prometheus, whole at any time; of an earlier one the time of the last success stays.

    Raises:
        UnwritableOutputError: It cannot be written.
    """
    before = path.read_text(encoding="utf-8") if path.is_file() else ""
    storage.write_atomic(str(path.absolute()), textfile(outcome, before).encode())


def textfile(outcome: Outcome, before: str = "") -> str:
    """The outcome in Prometheus' text format; ``before`` is what an earlier one gave."""
    labels = {"verb": outcome.verb, "name": outcome.name}
    ended = outcome.began + outcome.seconds
    kept = _KEPT.search(before)
    success = ended if outcome.code == 0 else float(kept[1]) if kept else 0.0
    lines = [
        *_gauge("last_exit_code", "Exit code of the last job; 0 is success.", [(labels, outcome.code)]),
        *_gauge("last_run_timestamp_seconds", "When the last job ended.", [(labels, round(ended, 3))]),
        *_gauge("last_success_timestamp_seconds", "When the last success ended.", [(labels, round(success, 3))]),
        *_gauge("last_duration_seconds", "How long the last job took.", [(labels, round(outcome.seconds, 3))]),
        *_gauge(
            "stage_duration_seconds",
            "How long each stage of the last job took.",
            [({**labels, "stage": done.stage}, round(done.seconds, 3)) for done in outcome.stages],
        ),
        *_gauge(
            "stage_events",
            "Events that went through a stage of the last job.",
            [({**labels, "stage": done.stage}, done.events) for done in outcome.stages if done.events is not None],
        ),
    ]
    return "\n".join(lines) + "\n"


def _gauge(name: str, text: str, samples: list[tuple[dict[str, str], float]]) -> list[str]:
    if not samples:
        return []
    full = f"mlaas_spark_{name}"
    # stages of one name, as a second "open files", are one sample: their sum
    totals: dict[str, float] = {}
    for labels, value in samples:
        shown = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
        totals[shown] = totals.get(shown, 0) + value
    return [
        f"# HELP {full} {text}",
        f"# TYPE {full} gauge",
        *(f"{full}{{{key}}} {value}" for key, value in totals.items()),
    ]


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def notify(command: str, outcome: Outcome) -> str:
    """Call a program with the outcome as JSON on its standard input; why that failed, "" if it did not.

    Raises:
        ConfigError: The command is no command line.
    """
    try:
        words = shlex.split(command)
    except ValueError as error:
        msg = f"--notify {command!r}: {error}"
        raise ConfigError(msg) from error
    try:
        done = subprocess.run(  # noqa: S603 - the user names the program; no shell is between
            words, input=json.dumps(outcome.to_json()), text=True, timeout=_NOTIFY_S, check=False, capture_output=True
        )
    except (OSError, subprocess.TimeoutExpired, IndexError) as error:
        return f"--notify {command!r} failed: {error}"
    return f"--notify {command!r} ended with {done.returncode}: {done.stderr.strip()[:200]}" if done.returncode else ""


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
