"""spark.progress: the share of the tasks of a running job, from Spark's status."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest

from mlaas_spark.spark.progress import share_done

if TYPE_CHECKING:
    from pathlib import Path

    from pyspark.sql import SparkSession

pytestmark = pytest.mark.spark


def test_share_grows_with_the_tasks_that_are_done(spark: SparkSession, tmp_path: Path) -> None:
    share, gate = share_done(spark), str(tmp_path / "gate")
    assert share() is None  # no job runs

    def wait(number: int) -> int:
        from pathlib import Path

        while number >= 2 and not Path(gate).exists():
            time.sleep(0.05)
        return number

    work = threading.Thread(target=lambda: spark.sparkContext.parallelize(range(4), 4).map(wait).collect())
    work.start()
    until, seen = time.monotonic() + 60, set[float | None]()
    while 0.5 not in seen and time.monotonic() < until:
        seen.add(share())
        time.sleep(0.02)
    (tmp_path / "gate").touch()
    work.join()
    assert 0.5 in seen  # two of four tasks are done, two wait
    assert seen <= {None, 0.0, 0.25, 0.5}
