"""A training finished as a run: trained, judged, exported, told in a report, published as a folder."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from mlaas_spark import plots, runs, skipping, storage
from mlaas_spark.pipeline import fitting, telling
from mlaas_spark.pipeline.trained import Trained
from mlaas_spark.report import RunReport, render

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mlaas_spark.config import Config
    from mlaas_spark.ml.bundle import Bundle
    from mlaas_spark.ml.checkpoint import Keeper
    from mlaas_spark.ml.stream import ChunkStream
    from mlaas_spark.ml.train import History
    from mlaas_spark.pipeline.fitting import Fitted, Fitting
    from mlaas_spark.pipeline.underway import Underway
    from mlaas_spark.plots import Plot
    from mlaas_spark.report.histograms import Histogram
    from mlaas_spark.runs import Journal

_SAMPLED = 20_000  # events of the small histograms of the report
_SAMPLED_CELLS = 40_000_000  # of the matrix, which with very many columns are fewer events


@dataclass(frozen=True)
class RunResult:
    """A finished training run; its folder, bundle and the bundle's tar by path or URL.

    ``archives`` has the tars of all bundles by what they take, ``raw`` or ``features``; ``bundle`` and ``archive`` are
    the first, which is to be served.
    """

    folder: str
    bundle: str
    archive: str
    metrics: dict[str, Any]
    entries: int
    events: int
    width: int
    left_out: int
    chunks: str
    saved: str | None = None
    archives: Mapping[str, str] = field(default_factory=dict)


def fit_and_publish(run: Underway, wanted: Fitting) -> RunResult:
    """Train a model; what came of it appears whole as the run folder, or not at all.

    Raises:
        MlaasSparkError: One of its kinds for whatever a user can mend.
    """
    from mlaas_spark.ml import tracking

    config, journal, manifest = run.config, run.journal, run.data.manifest
    # a server of MLflow that cannot be had is known before the training
    tracked = tracking.client(config.train.mlflow) if config.train.mlflow else None
    fitted = fitting.fit(run, wanted)
    trained = Trained(config, run.data.specs, run.data.transform, fitted.model)
    metrics, drawn = _judge(run, trained, fitted)
    bundles = _export(run, trained, fitted.stream, metrics)
    record = _record(run, fitted, bundles, wanted.keeper)
    texts = _texts(run, metrics, fitted.history)
    texts["report.html"] = _report(run, record, metrics, drawn, fitted.stream)
    wanted.move_files(run.work)
    folder = runs.publish(run.place.work, run.name, texts, record)
    telling.say_bottleneck(journal)
    wanted.keeper.checkpoints.remove()
    telling.say_skipped(manifest.skipped, storage.join(folder, skipping.FILE), journal)
    if config.train.mlflow:
        _tell_mlflow(tracked, config, journal, folder, metrics, fitted.history)
    return _result(run, folder, metrics, bundles)


def _judge(run: Underway, trained: Trained, fitted: Fitted) -> tuple[dict[str, Any], list[Plot]]:
    """The metrics of the test split and their plots, which are written too."""
    stream = fitted.stream
    split = _judged_split(stream, run.journal)
    with run.journal.stage("evaluate") as stage:
        metrics = trained.metrics(stream, split, fitted.history.rows)
        drawn = plots.draw(metrics)
        with storage.writing(str(run.work)):
            for file, content in plots.files(drawn).items():
                (run.work / file).parent.mkdir(exist_ok=True)
                (run.work / file).write_bytes(content)
        stage.events = stream.events(split)
    return metrics, drawn


def _judged_split(stream: ChunkStream, journal: Journal) -> str:
    """What the model is evaluated on: test, or where it is empty another, which is said."""
    split = next((name for name in ("test", "validation") if stream.events(name)), "train")
    if split != "test":
        journal.say(f"no events are in the test split: the model is evaluated on {split}")
    return split


def _export(run: Underway, trained: Trained, stream: ChunkStream, metrics: Mapping[str, Any]) -> dict[str, Bundle]:
    """Write model.keras, the bundles, and the model where the user wants it too."""
    from mlaas_spark.ml import savedmodel
    from mlaas_spark.ml.card import Origin

    with run.journal.stage("export"):
        with storage.writing(str(run.work)):
            trained.model.save(run.work / "model.keras")
        origin = Origin(
            ranges=trained.specs.specs.ranges,
            trained=run.place.began,
            config=trained.config.digest(),
            metrics=metrics,
            versions=runs.versions(),
        )
        made = trained.write_bundles(stream, run.work / "bundle", origin)
        if run.place.save_as:
            where, _, file = run.place.save_as.rpartition("/")
            with storage.local_place(where) as local:
                savedmodel.save_as(trained.model, trained.transform.width, local / file)
    return made


def _record(run: Underway, fitted: Fitted, bundles: Mapping[str, Bundle], keeper: Keeper) -> dict[str, Any]:
    """Content of run.json, but for the files."""
    config, data, manifest = run.config, run.data, run.data.manifest
    return {
        "name": config.name,
        "command": run.place.command,
        "started": run.place.began,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "stages": run.journal.to_json(),
        "events": {**manifest.ledger, **manifest.events()},
        "labels": manifest.counts(),
        "weights": {name: asdict(of) for name, of in fitted.history.weights.items()},
        "width": data.transform.width,
        "chunks": data.folder,
        "bundle": _first(bundles).name,
        "bundles": {inputs: one.name for inputs, one in bundles.items()},
        "resumed": keeper.resumed and asdict(keeper.resumed.position),
        "digests": {
            **manifest.digests,
            "config": config.digest(),
            "content": manifest.content_digest,
            "model": data.model,
        },
        "versions": runs.versions(),
    }


def _first(bundles: Mapping[str, Bundle]) -> Bundle:
    """The bundle that is to be served."""
    return next(iter(bundles.values()))


def _texts(run: Underway, metrics: Mapping[str, Any], history: History) -> dict[str, str]:
    """The text files of the run by their names, but for the report."""
    data, manifest = run.data, run.data.manifest
    skipped = {
        "branches": [{"name": item.name, "reason": item.reason} for item in data.plan.schema.omitted],
        "files": [item.to_json() for item in manifest.skipped],
        "events": {"selection": manifest.ledger["selection"], **skipping.counts(manifest.skipped)},
    }
    return {
        "config.yaml": run.config.to_yaml(),
        "plan.json": json.dumps(data.plan.to_json(), indent=1),
        "specs.json": data.specs.dumps(),
        "metrics.json": json.dumps(metrics, indent=1),
        "history.csv": history.to_csv(),
        skipping.FILE: json.dumps(skipped, indent=1),
    }


def _report(
    run: Underway, record: Mapping[str, Any], metrics: Mapping[str, Any], drawn: Sequence[Plot], stream: ChunkStream
) -> str:
    """The page of the run."""
    data = run.data
    histograms, sampled = _histograms(stream, run.config.evaluate.seed)
    return render(
        RunReport(
            name=run.config.name,
            config_yaml=run.config.to_yaml(),
            command=run.place.command,
            run=record,
            manifest=data.manifest,
            specs=data.specs.specs,
            transform=data.transform,
            plan=data.plan,
            metrics=metrics,
            bundle=storage.join(run.folder, "bundle", f"{record['bundle']}.tar.gz"),
            folder=run.folder,
            plots=drawn,
            histograms=histograms,
            sampled=sampled,
        )
    )


def _histograms(stream: ChunkStream, seed: int) -> tuple[dict[str, Histogram], int]:
    """Histograms of the branches in some training events, by label where events have classes; how many events."""
    import numpy as np

    from mlaas_spark.evaluation.events import label_text
    from mlaas_spark.ml import evaluate as evaluating
    from mlaas_spark.report.histograms import histograms

    most = min(_SAMPLED, max(1, _SAMPLED_CELLS // stream.width))
    sample = evaluating.some(stream, "train", most, seed)
    labels = np.unique(sample.label) if not stream.manifest.targets else np.empty(0)
    classes = {label_text(label): sample.label == label for label in labels} or {"": np.ones(len(sample), bool)}
    return histograms(sample.matrix, sample.mask, stream.transform, classes), len(sample)


def _tell_mlflow(
    tracked: Any, config: Config, journal: Journal, folder: str, metrics: Mapping[str, Any], history: History
) -> None:
    from mlaas_spark.ml import tracking

    name = folder.rpartition("/")[2]
    with journal.stage("tell MLflow"), storage.local_copy(folder) as copy:
        files = [copy / part for part in ("config.yaml", "metrics.json", "report.html", "plots")]
        there = [file for file in files if file.exists()]
        tracking.log_run(tracked, config.name, name, config.public(), history.rows, metrics, there)


def _result(run: Underway, folder: str, metrics: dict[str, Any], bundles: Mapping[str, Bundle]) -> RunResult:
    manifest, first = run.data.manifest, _first(bundles)
    archives = {inputs: storage.join(folder, "bundle", one.archive.name) for inputs, one in bundles.items()}
    return RunResult(
        folder=folder,
        bundle=storage.join(folder, "bundle", first.name),
        archive=storage.join(folder, "bundle", first.archive.name),
        metrics=metrics,
        entries=manifest.ledger["entries"],
        events=manifest.rows,
        width=run.data.transform.width,
        left_out=len(run.data.plan.schema.omitted),
        chunks=run.data.folder,
        saved=run.place.save_as,
        archives=archives,
    )
