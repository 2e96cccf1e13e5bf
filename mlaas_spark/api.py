"""What notebooks and scripts use: ``import mlaas_spark as mls``. Each step takes what the steps before it returned.

A step is what the command line's verb of its name is, with the keys of one section of the config as keyword arguments
(conf/local.yaml explains each); ``config`` takes those of other sections. A result knows where it lies on disk, shows
itself in a notebook, and draws itself with ``plot()``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from os import PathLike
from typing import TYPE_CHECKING, Any

import pandas as pd

from mlaas_spark import overview, pipeline, storage
from mlaas_spark.config import ChunkConfig, FeatureConfig, InputConfig, resolve
from mlaas_spark.errors import ConfigError
from mlaas_spark.evaluation.tables import tables
from mlaas_spark.filesets import fileset as files_of
from mlaas_spark.plots import draw
from mlaas_spark.runs import Journal
from mlaas_spark.transform import FeatureTransform

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pyspark.sql import DataFrame, SparkSession

    from mlaas_spark.branch_specs import SpecsFile
    from mlaas_spark.filesets import InputFile
    from mlaas_spark.manifest import Manifest
    from mlaas_spark.overview import Gallery

    Announce = Callable[[str], None]

_SHOWN = 20  # rows of a table in a notebook


class _Shown:
    """What shows itself in a notebook as the table that ``frame()`` gives."""

    def frame(self) -> pd.DataFrame:
        """As a table."""
        raise NotImplementedError

    def _repr_html_(self) -> str:
        table: str = self.frame().to_html(max_rows=_SHOWN, border=0, na_rep="")
        return f"<p>{escape(str(self))}</p>{table}"


@dataclass(frozen=True)
class Dataset(_Shown):
    """Files that are read as one sequence of events.

    Attributes:
        input: The section ``input`` of a config.
        files: The files, in order; found, not yet opened.
    """

    input: InputConfig
    files: tuple[InputFile, ...] = field(repr=False)

    def __str__(self) -> str:
        return f"{len(self.files):,} files of {self.files[0].format.value}"

    def frame(self) -> pd.DataFrame:
        """A row for each file."""
        rows = [(file.path, file.group, file.tree, file.label, file.weight) for file in self.files]
        return pd.DataFrame(rows, columns=["path", "group", "tree", "label", "weight"])

    def events(self, spark: SparkSession, per_task: int = 25_000) -> DataFrame:
        """The selected events: a column for each branch, and ``__file`` and ``__entry``, where each comes from."""
        from mlaas_spark.spark.ingest import open_events

        return open_events(_running(spark), self.files, self.input, per_task, text=True).dataframe()


@dataclass(frozen=True)
class DatasetSpecs(_Shown):
    """Ranges, jagged dimensions and statistics of the branches of a data set.

    Attributes:
        path: Of specs.json.
        content: What is in it.
        features: How branches become columns.
    """

    path: str
    content: SpecsFile = field(repr=False)
    features: FeatureConfig = field(default_factory=FeatureConfig)

    def __str__(self) -> str:
        specs = self.content.specs
        return f"{len(specs.branches)} branches of {specs.events:,} events, W = {self.transform.width} ({self.path})"

    @property
    def transform(self) -> FeatureTransform:
        """From events to the (n, W) matrix."""
        return FeatureTransform.of(self.content.specs, self.features)

    def frame(self) -> pd.DataFrame:
        """A row for each branch, in the order of the columns."""
        specs = self.content.specs
        rows = {
            name: {
                "kind": "jagged" if specs[name].jagged else "flat",
                "columns": dim,
                "longest": specs[name].dim,
                "min": specs[name].minimum,
                "max": specs[name].maximum,
                "mean": specs[name].mean,
                "std": specs[name].std,
                "NaN": specs[name].nan,
                "inf": specs[name].inf,
            }
            for name, dim in self.transform.layout.dims
        }
        return pd.DataFrame.from_dict(rows, orient="index")

    def plot(self) -> Gallery:
        """How long the lists of jagged branches are, and where the values of branches lie."""
        return overview.of_specs(self.content.specs, self.transform)


@dataclass(frozen=True)
class ChunkSet(_Shown):
    """Events mixed into chunks, on disk.

    Attributes:
        folder: Where they are.
        manifest: What is in them.
        dataset: Whose events they are.
        specs: Of the features.
        chunks: The section ``chunks`` of the config.
        batch_size: Of the training they were laid out for: their row groups hold whole batches.
    """

    folder: str
    manifest: Manifest = field(repr=False)
    dataset: Dataset = field(repr=False)
    specs: DatasetSpecs = field(repr=False)
    chunks: ChunkConfig = field(repr=False)
    batch_size: int = 256

    def __str__(self) -> str:
        return f"{self.manifest.rows:,} events in {self.manifest.chunks} chunks ({self.folder})"

    def frame(self) -> pd.DataFrame:
        """Events of each split and label."""
        return pd.DataFrame(self.manifest.counts()).T.rename_axis(index="split", columns="label")

    def plot(self) -> Gallery:
        """The share of each label in each chunk."""
        return overview.of_chunks(self.manifest)


@dataclass(frozen=True)
class TrainedRun(_Shown):
    """A finished training.

    Attributes:
        folder: The run folder, with report.html.
        archive: The bundle for TFaaS, a tar.gz.
        metrics: Content of metrics.json.
    """

    folder: str
    archive: str
    metrics: Mapping[str, Any] = field(repr=False)

    def __str__(self) -> str:
        found = ", ".join(f"{key} {self.metrics[key]:.4f}" for key in ("auc", "accuracy", "loss") if self._has(key))
        return f"{found} ({self.folder})"

    def _has(self, key: str) -> bool:
        return isinstance(self.metrics.get(key), float)

    def frame(self) -> pd.DataFrame:
        """The metrics on the events of the test."""
        summary = tables(self.metrics)[0]
        return pd.DataFrame(summary.rows, columns=list(summary.header)).set_index(summary.header[0])

    def plot(self) -> Gallery:
        """The plots of the run: ROC, scores, learning curves, what the model has."""
        return overview.Gallery(tuple(draw(self.metrics)))


@dataclass(frozen=True)
class Converted(_Shown):
    """Events as Parquet.

    Attributes:
        folder: Of the data set.
        manifest: What is in it.
    """

    folder: str
    manifest: Manifest = field(repr=False)

    def __str__(self) -> str:
        ledger = self.manifest.ledger
        return (
            f"{ledger['events']:,} of {ledger['entries']:,} entries in {len(self.manifest.files)} files ({self.folder})"
        )

    def frame(self) -> pd.DataFrame:
        """A row for each input."""
        rows = [(item.path, item.tree, item.entries, item.events) for item in self.manifest.inputs]
        return pd.DataFrame(rows, columns=["path", "tree", "entries", "events"])


@dataclass(frozen=True)
class Predictions(_Shown):
    """Scores of events, on disk.

    Attributes:
        folder: Of the data set of scores.
        manifest: What is in it.
    """

    folder: str
    manifest: Manifest = field(repr=False)

    def __str__(self) -> str:
        ledger = self.manifest.ledger
        return f"{ledger['events']:,} of {ledger['entries']:,} entries scored ({self.folder})"

    def frame(self, rows: int | None = _SHOWN) -> pd.DataFrame:
        """The first rows, or all of them with None; of predictions in Parquet."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        parts: list[pa.Table] = []
        for file in self.manifest.files:
            with storage.local_copy(storage.join(self.folder, file.path)) as path:
                parts.append(pq.read_table(path))
            if rows is not None and sum(map(len, parts)) >= rows:
                break
        table = pa.concat_tables(parts)
        shown: pd.DataFrame = (table if rows is None else table.slice(0, rows)).to_pandas()
        return shown

    def plot(self) -> Gallery:
        """How many events have which score."""
        return overview.of_scores(self.frame(rows=None))


def fileset(files: str | PathLike[str] | Sequence[str] | Mapping[str, Mapping[str, Any]], **settings: Any) -> Dataset:
    """The files of a data set.

    Args:
        files: Paths, URLs, globs, folders; or for each group by its name ``files``, ``label`` and ``weight``.
        settings: Keys of the section ``input``: ``tree``, ``branches``, ``selection``, ``label``, ...

    Raises:
        FilesetError: A file is missing, or named twice.
        ConfigError: An unknown key.

    Example::

        mls.fileset({"signal": {"files": "s*.root", "label": 1}, "background": {"files": "b*.root", "label": 0}})
    """
    named: dict[str, Any]
    if isinstance(files, Mapping):
        named = {"groups": [{"name": name, **group} for name, group in files.items()]}
    else:
        named = {"files": [str(files)] if isinstance(files, str | PathLike) else [str(file) for file in files]}
    section = resolve({"input": {**named, **settings}}, "fileset").input
    return Dataset(section, files_of(section))


def convert(
    spark: SparkSession, dataset: Dataset, folder: str, *, announce: Announce = print, **settings: Any
) -> Converted:
    """The selected events as a Parquet data set; what an earlier conversion wrote there is brought up to date.

    Args:
        spark: The session.
        dataset: Whose events.
        folder: Where to write: a path or URL.
        announce: Told of each stage.
        settings: Keys of the section ``convert``: ``compression``, ``sort_keys``, ``target_size``.
    """
    _running(spark)
    config = resolve({"input": dataset.input, "convert": settings}, "convert")
    return Converted(storage.absolute(folder), pipeline.convert(config, folder, Journal(announce)))


def specs(
    spark: SparkSession, dataset: Dataset, path: str = "specs.json", *, announce: Announce = print, **features: Any
) -> DatasetSpecs:
    """Ranges, jagged dimensions and statistics of all branches, in one pass over the files.

    Args:
        spark: The session.
        dataset: Whose events.
        path: Of the specs.json to write; files that are in it already are not read again.
        announce: Told of each stage.
        features: Keys of the section ``features``: ``normalise``, ``caps``, ...
    """
    _running(spark)
    config = resolve({"input": dataset.input, "features": features}, "specs")
    made = pipeline.specs(config, path, Journal(announce))
    return DatasetSpecs(storage.absolute(path), made, config.features)


def chunks(
    spark: SparkSession,
    dataset: Dataset,
    specs: DatasetSpecs,
    folder: str = "chunks",
    *,
    batch_size: int = 256,
    announce: Announce = print,
    **settings: Any,
) -> ChunkSet:
    """Events mixed into chunks: in proportion to the files, and split for training, validation and test.

    Args:
        spark: The session.
        dataset: Whose events.
        specs: Of its branches.
        folder: Where to write; chunks that are there already and were made of the same are used.
        batch_size: Of the training they are for: their row groups hold whole batches.
        announce: Told of each stage.
        settings: Keys of the section ``chunks``: ``size``, ``split``, ``seed``, ...
    """
    _running(spark)
    content = {"input": dataset.input, "features": _features(specs), "chunks": settings}
    config = resolve({**content, "train": {"batch_size": batch_size}}, "chunks")
    manifest = pipeline.chunks(config, folder, Journal(announce))
    return ChunkSet(storage.absolute(folder), manifest, dataset, specs, config.chunks, batch_size)


def train(
    spark: SparkSession,
    chunks: ChunkSet,
    model: str | PathLike[str],
    *,
    name: str = "run",
    runs: str = "runs",
    config: Mapping[str, Any] | None = None,
    resume: bool = False,
    announce: Announce = print,
    **settings: Any,
) -> TrainedRun:
    """Train the model of a Python file on chunks; a run folder with metrics, report and a bundle for TFaaS.

    Args:
        spark: The session.
        chunks: What it learns from.
        model: The file, with ``model(idim)``.
        name: Of the run.
        runs: Folder of all runs.
        config: Other sections of the config: ``evaluate``, ``export``, ...
        resume: Go on from the newest checkpoint of a training of this name that was interrupted.
        announce: Told of each stage.
        settings: Keys of the section ``train``: ``epochs``, ``callbacks``, ``learning_rate``, ...
    """
    _running(spark)
    content = {
        **(config or {}),
        "name": name,
        "runs": runs,
        "input": chunks.dataset.input,
        "features": _features(chunks.specs),
        "chunks": chunks.chunks.model_copy(update={"folder": chunks.folder}),
        "train": {"model": str(model), "batch_size": chunks.batch_size, **settings},
    }
    done = pipeline.train(resolve(content, "train"), Journal(announce), resume=resume)
    return TrainedRun(done.folder, done.archive, done.metrics)


def predict(
    spark: SparkSession,
    model: TrainedRun | str | PathLike[str],
    dataset: Dataset,
    folder: str = "scores",
    *,
    announce: Announce = print,
    **settings: Any,
) -> Predictions:
    """Scores of all events of a data set, a row for each entry.

    Args:
        spark: The session.
        model: A run, a bundle, or a ``.keras`` file.
        dataset: Whose events.
        folder: Where to write; an earlier prediction there is brought up to date.
        announce: Told of each stage.
        settings: Keys of the section ``predict``: ``keep``, ``beside``, ``format``, ...
    """
    _running(spark)
    place = model.folder if isinstance(model, TrainedRun) else str(model)
    config = resolve({"input": dataset.input, "predict": settings}, "predict")
    manifest = pipeline.predict(config, place, folder, Journal(announce))
    return Predictions(storage.absolute(folder), manifest)


def _features(specs: DatasetSpecs) -> FeatureConfig:
    return specs.features.model_copy(update={"specs": specs.path})


def _running(spark: SparkSession) -> SparkSession:
    """The session, if it can still be used: the verbs find it as that of the process."""
    if spark.sparkContext._jsc is None:  # noqa: SLF001 - Spark says it in no other way
        msg = "the Spark session was stopped: make a new one with SparkSession.builder.getOrCreate()"
        raise ConfigError(msg)
    return spark
