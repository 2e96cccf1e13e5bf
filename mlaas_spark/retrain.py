"""A model kept up to date by scheduled jobs: new files, are they as before, train, no worse than the one in service.

The state of a series of trainings lies in ``<runs>/<name>/service/``: ``service.json``, which run is in service and
what was before; ``reference.json``, the specs of all files that were trained on, by file, with quantile bins;
``specs.json``, what the last training was told of them; ``lock/``.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, Self

from mlaas_spark import lock, pipeline, shifts, storage
from mlaas_spark.branch_specs import Specs, SpecsFile, merged
from mlaas_spark.errors import ChunkError, ConfigError, ShiftError, reason

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlaas_spark.config import Config
    from mlaas_spark.runs import Journal
    from mlaas_spark.shifts import Shift

VERSION = 1
_METRICS = ("auc", "accuracy")  # the larger the better; of a model that has neither its loss, the smaller the better
_HISTORY = 50
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Served:
    """A run that is or was in service.

    Attributes:
        run: Its folder.
        archive: Its bundle for TFaaS, a tar.
        time: Since when, ISO 8601.
        files: How many files it was trained on.
    """

    run: str
    archive: str
    time: str
    files: int


@dataclass(frozen=True, slots=True)
class Service:
    """What is in service, and what was before it, newest first."""

    current: Served
    history: tuple[Served, ...] = ()

    def dumps(self) -> bytes:
        """As JSON; :meth:`loads` reads it back."""
        content = {"version": VERSION, "current": asdict(self.current), "history": list(map(asdict, self.history))}
        return json.dumps(content, indent=1).encode()

    @classmethod
    def loads(cls, text: bytes, source: str) -> Self:
        """The content of service.json.

        Raises:
            ChunkError: It is none, or of another version.
        """
        try:
            content = json.loads(text)
            if content["version"] != VERSION:
                msg = f"{source} has version {content['version']}, this program reads {VERSION}"
                raise ChunkError(msg)
            return cls(Served(**content["current"]), tuple(Served(**served) for served in content["history"]))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            msg = f"{source} does not say what is in service ({reason(error)}): remove its folder to begin anew"
            raise ChunkError(msg) from error


@dataclass(frozen=True, slots=True)
class Retrained:
    """What came of a job.

    Attributes:
        what: ``nothing new``, ``promoted`` or ``kept``, which leaves the run before in service.
        new: Files that were not there the last time.
        run: Folder of the new run, None where nothing was trained.
        archive: Its bundle, None where nothing was trained.
        metric: What the runs were compared by, "" where there was nothing to compare.
        score: Of the new run on its test events.
        before: Of the run in service on the same events.
        shifts: Of the new files from those before, the worrying ones first.
    """

    what: Literal["nothing new", "promoted", "kept"]
    new: int
    run: str | None = None
    archive: str | None = None
    metric: str = ""
    score: float | None = None
    before: float | None = None
    shifts: tuple[Shift, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def retrain(config: Config, journal: Journal, command: str = "", *, always: bool = False) -> Retrained:
    """Train again if there are new files, and let the new run into service if it is not worse than the one there.

    Both are judged on the test events of the new run: an event's split is that of its hash, so that these are no
    training events of either. The same again, after a kill too, does what is left to do.

    Args:
        config: The resolved config; ``config.retrain`` has the limits.
        journal: Told of each stage.
        command: What the user typed, for run.json and the report.
        always: Train where there is no new file as well.

    Raises:
        LockedError: Another job of this name is at work.
        ShiftError: With ``retrain.drift: fail``, new files that are not as those before. Nothing was trained.
        MlaasSparkError: One of its kinds for whatever else a user can mend.
    """
    if config.chunks.layout == "dense":
        msg = "retrain compares two models on the same chunks, and dense ones fit one: set chunks.layout to compact"
        raise ConfigError(msg)
    home = storage.join(storage.absolute(config.runs), config.name, "service")
    with lock.held(storage.join(home, "lock")):
        return _retrain(config, journal, command, home, always=always)


def _retrain(config: Config, journal: Journal, command: str, home: str, *, always: bool) -> Retrained:
    service, known = in_service(home), _reference(home)
    made = pipeline.reference(config, known, journal)
    before = known.by_file if known and service else {}
    new = sorted(made.by_file.keys() - before.keys())
    if service and not new and not always:
        journal.say(f"nothing new: {service.current.run} stays in service")
        return Retrained("nothing new", 0)
    found = _looked_at(config, journal, made, before, new) if service else ()
    # as specs made elsewhere, which do not say of which files they are: they are not read again
    specs = storage.join(home, "specs.json")
    storage.write_atomic(specs, SpecsFile(made.specs).dumps().encode())
    told = config.model_copy(update={"features": config.features.model_copy(update={"specs": specs})})
    result = pipeline.train(told, journal, command)
    served = Served(result.folder, result.archive, _now(), len(made.by_file))
    metric = next((name for name in _METRICS if result.metrics.get(name) is not None), "loss")
    score = result.metrics[metric]
    outcome = Retrained("promoted", len(new), result.folder, result.archive, metric, score, None, found)
    if service:
        old = pipeline.judge(service.current.run, result.chunks, str(result.metrics["split"]), journal)[metric]
        outcome = replace(outcome, before=old)
        if not _as_good(metric, score, old, config.retrain.margin):
            outcome = replace(outcome, what="kept")
    journal.say(_said(outcome))
    if outcome.what == "promoted":
        history = (service.current, *service.history)[:_HISTORY] if service else ()
        storage.write_atomic(_service(home), Service(served, history).dumps())
    # last: until it is there, the files count as new
    storage.write_atomic(storage.join(home, "reference.json"), made.dumps().encode())
    return outcome


def _looked_at(
    config: Config, journal: Journal, made: SpecsFile, before: Mapping[str, Specs], new: list[str]
) -> tuple[Shift, ...]:
    """How far new files are from those before; the policy says what comes of it."""
    limits = config.retrain
    if limits.drift == "off" or not new:
        return ()
    training = merged(before[key] for key in sorted(before))
    found = shifts.between(
        training, merged(made.by_file[key] for key in new), shifts.Limits(limits.psi, limits.ks, limits.missing)
    )
    if worries := shifts.worrying(found):
        for row in shifts.rows(found)[:_SHOWN]:
            journal.say(f"  shift of {row[0]}: {row[-1]}")
        if limits.drift == "fail":
            raise ShiftError(worries)
    return tuple(found)


def _as_good(metric: str, score: float, before: float, margin: float) -> bool:
    """Not worse by more than the margin; NaN is never good."""
    return score <= before + margin if metric == "loss" else score >= before - margin


def _said(outcome: Retrained) -> str:
    if outcome.before is None:
        return f"first in service: {outcome.run}, {outcome.metric} {outcome.score:.4f}"
    compared = f"{outcome.metric} {outcome.score:.4f}, that in service {outcome.before:.4f} on the same events"
    return f"promoted: {compared}" if outcome.what == "promoted" else f"not promoted: {compared}"


def in_service(home: str) -> Service | None:
    """What is in service; None before the first training."""
    try:
        return Service.loads(storage.read_bytes(_service(home)), _service(home))
    except FileNotFoundError:
        return None


def _service(home: str) -> str:
    return storage.join(home, "service.json")


def _reference(home: str) -> SpecsFile | None:
    path = storage.join(home, "reference.json")
    try:
        return SpecsFile.loads(storage.read_bytes(path), path)
    except FileNotFoundError:
        return None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
