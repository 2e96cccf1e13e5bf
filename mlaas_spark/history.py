"""Past runs: what they were of, how well they did, in what they differ. Reads run folders, writes nothing."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import yaml

from mlaas_spark import storage
from mlaas_spark.errors import ConfigError, MlaasSparkError, UnreadableInputError, reason

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_RECORD = "run.json"
_METRICS = ("loss", "accuracy", "auc", "auc_weighted")
_INNER = (("auc_interval", "std"), ("calibration", "brier"), ("calibration", "ece"))
_RESIDUALS = ("rmse", "bias", "r2")
_DATA_DIGESTS = ("content", "plan", "specs", "transform")


@dataclass(frozen=True, slots=True)
class Run:
    """A finished run, as its folder tells.

    Attributes:
        folder: Path or URL.
        name: Of the training, and below it the folder's own: ``demo/20260101T000000Z-0123456789ab``.
        started: ISO 8601, UTC.
        command: What the user typed.
        split: Which events the metrics are of.
        metrics: Those that are one number.
        seconds: Of each stage.
        parts: Of the stages whose parts were measured, the seconds of these.
        events: Events by what became of them: entries, events, train, validation, test.
        settings: The resolved config, ``section.key``: value.
        data: Digests of chunks, plan, specs and transform; the input's files with uuid and entries.
        code: Versions of packages, and the digest of the model file where the run has it.
        curves: ``learning_curves`` of its metrics: the history of the training; {} where there is none.
    """

    folder: str
    name: str
    started: str
    command: str
    split: str
    metrics: dict[str, float]
    seconds: dict[str, float]
    parts: dict[str, dict[str, float]]
    events: dict[str, int]
    settings: dict[str, Any]
    data: dict[str, str]
    code: dict[str, str]
    curves: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class Found:
    """Runs of a folder, oldest first, and the folders that look like runs and cannot be read, with why."""

    runs: tuple[Run, ...]
    broken: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Runs side by side: each row has a name and a value for each run, None where it has none.

    Attributes:
        runs: Their names.
        metrics: All that any of them has.
        seconds: Of the stages.
        settings: Keys of the config that differ.
        data: Digests, files and numbers of events that differ.
        code: Versions and digests that differ.
    """

    runs: tuple[str, ...]
    metrics: dict[str, tuple[Any, ...]]
    seconds: dict[str, tuple[Any, ...]]
    settings: dict[str, tuple[Any, ...]]
    data: dict[str, tuple[Any, ...]]
    code: dict[str, tuple[Any, ...]]

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {name: getattr(self, name) for name in self.__slots__}


def find(home: str) -> Found:
    """All runs below a folder of runs, ``home/<name>/<run>/``; of a name's folder, its runs.

    Raises:
        ConfigError: There is no such folder.
    """
    place = storage.absolute(home)
    if not storage.is_folder(place):
        msg = f"no folder of runs at {home}: name it, as runs of the config does, or train first (mlaas-spark train)"
        raise ConfigError(msg)
    runs, broken = [], []
    for folder in _folders(place):
        try:
            runs.append(read(folder))
        except MlaasSparkError as error:
            broken.append((folder, str(error)))
    return Found(tuple(sorted(runs, key=lambda run: run.started)), tuple(broken))


def _folders(place: str, depth: int = 2) -> list[str]:
    names = storage.children(place)
    if _RECORD in names:
        return [place]
    inner = [storage.join(place, name) for name in names if not name.startswith(".")] if depth else []
    return [found for folder in inner if storage.is_folder(folder) for found in _folders(folder, depth - 1)]


def of_name(run: str, home: str) -> str:
    """The folder of a run that is named by its folder, or below ``home`` by its name or the beginning of it.

    Raises:
        ConfigError: There is none, or several begin so.
    """
    if _RECORD in storage.children(storage.absolute(run)):
        return storage.absolute(run)
    place = storage.absolute(home)
    there = _folders(place) if storage.is_folder(place) else []
    fitting = [folder for folder in there if run in (folder, _name(folder)) or _begins(_name(folder), run)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        msg = f"{run} may be {', '.join(map(_name, fitting[:5]))}: name one of them"
        raise ConfigError(msg)
    newest = f"; the newest there: {', '.join(map(_name, there[-3:]))}" if there else ""
    msg = f"{run} is no run folder, and no run of {home} is named so{newest}; see runs list"
    raise ConfigError(msg)


def _begins(name: str, start: str) -> bool:
    return name.startswith(start) or name.rpartition("/")[2].startswith(start)


def _name(folder: str) -> str:
    return "/".join(folder.rstrip("/").split("/")[-2:])


def read(folder: str) -> Run:
    """A run from its folder.

    Raises:
        UnreadableInputError: A file of it is missing or not as a run writes it.
    """
    texts = {}
    for file in (_RECORD, "metrics.json", "config.yaml", "plan.json"):
        try:
            texts[file] = storage.read_bytes(storage.join(folder, file)).decode()
        except (FileNotFoundError, UnicodeDecodeError) as error:
            raise UnreadableInputError(folder, f"its {file} cannot be read ({reason(error)})") from error
    try:
        told, metrics = json.loads(texts[_RECORD]), json.loads(texts["metrics.json"])
        planned, settings = json.loads(texts["plan.json"]), yaml.safe_load(texts["config.yaml"])
        digests = told["digests"]
        model = {"model file": digests["model"]} if "model" in digests else {}
        files = {f"file {one['path']}": f"{one['entries']:,} entries, uuid {one['uuid']}" for one in planned["files"]}
        return Run(
            folder=folder,
            name=_name(folder),
            started=told["started"],
            command=told["command"],
            split=metrics["split"],
            metrics=numbers(metrics),
            seconds={stage["name"]: stage["seconds"] for stage in told["stages"]},
            parts={stage["name"]: dict(stage["parts"]) for stage in told["stages"] if "parts" in stage},
            events={name: count for name, count in told["events"].items() if isinstance(count, int)},
            settings=flat(settings),
            data={**{name: digests[name] for name in _DATA_DIGESTS if name in digests}, **files},
            code={**told["versions"], **model},
            curves=_checked_curves(metrics.get("learning_curves") or {}),
        )
    except (ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise UnreadableInputError(folder, f"it is not as a run writes it ({reason(error)})") from error


def _checked_curves(found: Mapping[str, Any]) -> dict[str, Any]:
    """Curves as plots take them: as many values of each series as there are fits."""
    if not found:
        return {}
    fits, series = list(found["fits"]), {str(name): list(values) for name, values in found["series"].items()}
    if any(len(values) != len(fits) for values in series.values()):
        msg = "its learning curves have values of other fits"
        raise ValueError(msg)
    return {"fits": fits, "series": series}


def numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The metrics that are one number: those of a classification, or for each target those of a regression."""
    found = {name: metrics.get(name) for name in _METRICS}
    found |= {f"{name}.{inner}": (metrics.get(name) or {}).get(inner) for name, inner in _INNER}
    for target, of in (metrics.get("residuals") or {}).items():
        found |= {f"{target}.{name}": of.get(name) for name in _RESIDUALS}
    return {name: value for name, value in found.items() if isinstance(value, (int, float))}


def flat(settings: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """A config's keys as ``section.key``; lists are values."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        found |= flat(value, f"{above}{name}.") if isinstance(value, dict) and value else {f"{above}{name}": value}
    return found


def compare(runs: Sequence[Run]) -> Comparison:
    """Runs side by side: all their metrics and times; of settings, data and code what differs."""
    counts = [{**{f"events {name}": count for name, count in run.events.items()}, **run.data} for run in runs]
    return Comparison(
        runs=tuple(run.name for run in runs),
        metrics=_rows([run.metrics for run in runs]),
        seconds=_rows([run.seconds for run in runs]),
        settings=_differing([run.settings for run in runs]),
        data=_differing(counts),
        code=_differing([run.code for run in runs]),
    )


def _rows(tables: Sequence[Mapping[str, Any]]) -> dict[str, tuple[Any, ...]]:
    names = dict.fromkeys(name for table in tables for name in table)
    return {name: tuple(table.get(name) for table in tables) for name in names}


def _differing(tables: Sequence[Mapping[str, Any]]) -> dict[str, tuple[Any, ...]]:
    return {name: values for name, values in _rows(tables).items() if any(value != values[0] for value in values)}
