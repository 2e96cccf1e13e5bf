"""Verbs that judge a finished run's model: evaluate, judge."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlaas_spark import plots, storage
from mlaas_spark.errors import ChunkError, ConfigError, UnreadableInputError, UnwritableOutputError, reason
from mlaas_spark.pipeline.trained import MODEL_FILE, Trained, check_run

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mlaas_spark.runs import Journal


@dataclass(frozen=True)
class Evaluated:
    """Metrics of a run, and the folder they are in, with plots."""

    metrics: dict[str, Any]
    folder: str
    plots: int


def evaluate(
    run: str, split: str, destination: str | None, journal: Journal, settings: Sequence[str] = ()
) -> Evaluated:
    """Judge the model of a finished run again, on a split of its chunks; write metrics.json and plots. Needs no Spark.

    Args:
        run: The run folder.
        split: ``train``, ``validation`` or ``test``.
        destination: Folder to write; one of an earlier evaluation is replaced. None: ``evaluation-<split>`` of the run.
        journal: Told of each stage.
        settings: ``evaluate.key=value`` in place of what the run's config says; ``train.model=FILE`` for the classes
            of a model in a run of another user, whose files are not run otherwise.

    Raises:
        ConfigError: The folder is no run, no such split, a setting of another section.
        UnwritableOutputError: The destination cannot be written, or holds something else.
        ChunkError: The chunks are gone, cannot be read, or are not those of the run.
        MlaasSparkError: One of its kinds for whatever else a user can mend.
    """
    from mlaas_spark.mixing import SPLITS

    if split not in SPLITS:
        msg = f"no split {split!r}: there are {', '.join(SPLITS)}"
        raise ConfigError(msg)
    if odd := [setting for setting in settings if not setting.strip().startswith(("evaluate.", f"{MODEL_FILE}="))]:
        msg = f"--set {odd[0]}: only keys of evaluate can be changed, the rest is as the run had it"
        raise ConfigError(msg)
    place = storage.absolute(run)
    target = storage.absolute(destination) if destination else storage.join(place, f"evaluation-{split}")
    check_run(run)
    _check_replaceable(target)
    from mlaas_spark.ml import evaluate as evaluating

    with storage.local_copy(place) as folder:
        with journal.stage("open run"), storage.reading(run):
            trained = Trained.read(place, folder, settings)
            chunks_at, content = _chunks_of(folder / "run.json")
            history = folder / "history.csv"
            rows = evaluating.read_history(history.read_text(encoding="utf-8")) if history.exists() else []
        stream = trained.stream(chunks_at)
        if stream.manifest.content_digest != content:
            msg = f"the chunks in {chunks_at} are not those that {run} was trained on: they were made again"
            raise ChunkError(msg)
        with journal.stage("evaluate") as stage:
            metrics = trained.metrics(stream, split, rows)
            stage.events = stream.events(split)
    with journal.stage("plots"):
        drawn = plots.draw(metrics)
    texts = {"metrics.json": json.dumps(metrics, indent=1).encode()}
    storage.replace_folder(target, {**texts, **plots.files(drawn)})
    return Evaluated(metrics, target, len(drawn))


def judge(run: str, chunks: str, split: str, journal: Journal) -> dict[str, Any]:
    """Metrics of a finished run's model on a split of chunks that need not be its own: to compare it with another.

    Raises:
        SpecsMismatchError: The chunks lack a branch of the model, or are dense and made for another.
        MlaasSparkError: One of its kinds for whatever else a user can mend.
    """
    quick = ("evaluate.bootstrap=0", "evaluate.train_events=0", "evaluate.importance_events=0")
    place = storage.absolute(run)
    with storage.local_copy(place) as folder:
        with storage.reading(run):
            trained = Trained.read(place, folder, quick)
        stream = trained.stream(chunks)
        with journal.stage(f"judge {run.rstrip('/').rpartition('/')[2]}") as stage:
            stage.events = stream.events(split)
            return trained.metrics(stream, split)


def _chunks_of(run_json: Path) -> tuple[str, str]:
    """Folder and content digest of the chunks that a run was trained on."""
    try:
        told = json.loads(run_json.read_text(encoding="utf-8"))
        return str(told["chunks"]), str(told["digests"]["content"])
    except (ValueError, KeyError, TypeError) as error:
        raise UnreadableInputError(str(run_json), f"it does not say which chunks ({reason(error)})") from error


def _check_replaceable(folder: str) -> None:
    """Nothing is there, or an earlier evaluation; UnwritableOutputError else."""
    with storage.to_be_written(folder):
        there = set(storage.children(folder)) if storage.is_folder(folder) else storage.exists(folder)
    if there is True:
        raise UnwritableOutputError(folder, "there is a file of this name: name a folder for the evaluation")
    if there and (odd := sorted(there - {"metrics.json", "plots"}) or sorted({"metrics.json"} - there)):
        missing = "it has no metrics.json" if odd == ["metrics.json"] else f"it holds {odd[0]}"
        raise UnwritableOutputError(folder, f"it is no earlier evaluation, {missing}: name a new folder")
