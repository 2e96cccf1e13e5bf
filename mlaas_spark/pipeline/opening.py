"""How every job begins: Spark started, the files of the config opened on executors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlaas_spark import manifest as manifests
from mlaas_spark import storage
from mlaas_spark.errors import ConfigError
from mlaas_spark.filesets import fileset
from mlaas_spark.pipeline import choosing
from mlaas_spark.usercode import UserFile

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyspark.sql import SparkSession

    from mlaas_spark.config import Config
    from mlaas_spark.runs import Journal, Stage
    from mlaas_spark.spark.ingest import Events


def start_spark(config: Config, journal: Journal, meanwhile: Callable[[], object] | None = None) -> SparkSession:
    """The session of a config, the running one if there is one; ``meanwhile`` is called while the JVM starts."""
    from mlaas_spark.spark.session import session

    with journal.stage("start Spark") as stage:
        spark = session(config.spark, f"mlaas-spark {config.name}", meanwhile)
        stage.remark = f"Spark {spark.version}, {spark.sparkContext.master}; -v shows what it says"
    return spark


def open_files(
    config: Config,
    journal: Journal,
    *,
    text: bool = False,
    spark: SparkSession | None = None,
    only: set[str] | None = None,
) -> Events:
    """Open the files of a config, or those of ``only`` these paths, on executors.

    With ``text`` also the branches that cannot be features.
    """
    files = fileset(config.input)
    if only is not None and (others := [file for file in files if file.path not in only]):
        files = tuple(file for file in files if file.path in only)
        journal.say(f"{len(others)} new files are left for a run without --retry-skipped, such as {others[0].path}")
    preproc = UserFile.read(config.input.preproc, ConfigError) if config.input.preproc else None
    from mlaas_spark.spark.ingest import open_events

    spark = spark or start_spark(config, journal)
    with journal.stage("open files") as stage:
        expressions = choosing.answers(config)
        events = open_events(spark, files, config.input, config.spark.events_per_task, expressions, preproc, text=text)
        stage.events = events.plan.entries
    return events


def skipped_before(folder: str, journal: Journal) -> set[str]:
    """Paths of the files that a data set has something of, or has skipped.

    Raises:
        ChunkError: There is no data set.
    """
    before = manifests.read(folder)
    if not before.skipped:
        journal.say(f"{folder}: nothing was skipped")
    return {item.path for item in before.inputs} | {item.path for item in before.skipped}


def measure(stage: Stage, events: Events) -> None:
    """Let a stage tell how far it is, as Spark tells, how much it reads, if that costs nothing, and what it spends."""
    from mlaas_spark.spark.progress import share_done

    stage.deal = events.spent.dealing(events.spark)
    stage.total, stage.measure = events.plan.entries, share_done(events.spark)
    paths = {file.path for file in events.plan.files}
    if all(storage.local_path(path) is not None for path in paths):
        stage.size = storage.total_size(paths)
