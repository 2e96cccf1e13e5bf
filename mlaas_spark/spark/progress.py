"""How far the job that Spark is running now is, from Spark's own status."""

from __future__ import annotations

from typing import TYPE_CHECKING

from py4j.protocol import Py4JError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyspark.sql import SparkSession


def share_done(spark: SparkSession) -> Callable[[], float | None]:
    """A function that tells which share of the tasks of the running jobs is done; None while none runs.

    It may be called from a thread of its own. A job of several stages has as many tasks as all of them.
    """
    tracker = spark.sparkContext.statusTracker()

    def share() -> float | None:
        try:
            jobs = [tracker.getJobInfo(number) for number in tracker.getActiveJobsIds()]
            stages = [tracker.getStageInfo(number) for job in jobs if job for number in job.stageIds]
        except Py4JError:  # Spark is going, or a job ended while it was asked for
            return None
        tasks = sum(stage.numTasks for stage in stages if stage)
        return sum(stage.numCompletedTasks for stage in stages if stage) / tasks if tasks else None

    return share
