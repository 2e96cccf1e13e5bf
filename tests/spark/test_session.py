from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd  # noqa: TC002 - Spark reads the annotations of a pandas UDF when it is made
import pytest
from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import functions as F  # noqa: N812 - the name Spark's own documentation uses
from pyspark.sql.pandas.functions import pandas_udf

from mlaas_spark import interrupts
from mlaas_spark.config import SparkConfig
from mlaas_spark.errors import (
    BranchNotFoundError,
    ChunkError,
    MlaasSparkError,
    SpecsMismatchError,
    TreeNotFoundError,
    UnreadableInputError,
)
from mlaas_spark.spark.session import on_executor, received, session

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import pyarrow as pa
    from pyspark.sql import SparkSession

ERRORS: list[MlaasSparkError] = [
    UnreadableInputError("/data/a b.root", 'damaged: "x]"\nand [more]', "Events", (10, 20)),
    TreeNotFoundError("Event", "root://host//f.root", ("Events", "Runs")),
    BranchNotFoundError("Jet_pT", ["Jet_pt", "π"], "tree Events"),
    SpecsMismatchError("width 3 ≠ 4"),
    ChunkError(""),
]


def by_rdd(spark: SparkSession, error: MlaasSparkError) -> None:
    def fail(_: int) -> int:
        with on_executor():
            raise error

    spark.sparkContext.parallelize([1], 1).map(fail).collect()


def by_map_in_arrow(spark: SparkSession, error: MlaasSparkError) -> None:
    def fail(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        with on_executor():
            for _ in batches:
                raise error
            yield from ()

    spark.range(3).mapInArrow(fail, "id long").collect()


def by_pandas_udf(spark: SparkSession, error: MlaasSparkError) -> None:
    def fail(_: pd.Series) -> pd.Series:
        with on_executor():
            raise error

    # Spark's overloads name pandas types that its own runtime check accepts more widely
    made: Any = pandas_udf(fail, "long")  # type: ignore[call-overload]
    spark.range(3).select(made(F.col("id"))).collect()


@pytest.mark.parametrize("way", [by_rdd, by_map_in_arrow, by_pandas_udf])
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_error_of_ours_on_an_executor_arrives_as_itself(
    spark: SparkSession, way: Callable[[SparkSession, MlaasSparkError], None], error: MlaasSparkError
) -> None:
    with pytest.raises(type(error)) as caught, received():
        way(spark, error)
    assert type(caught.value) is type(error)
    assert str(caught.value) == str(error)
    assert {**vars(caught.value)} == {**vars(error)}


def test_another_error_on_an_executor_is_not_taken_for_one_of_ours(spark: SparkSession) -> None:
    def divide(number: int) -> float:
        with on_executor():
            return 1 / number

    with pytest.raises(Py4JJavaError, match="ZeroDivisionError"), received():
        spark.sparkContext.parallelize([0], 1).map(divide).collect()


GONE = {
    "refused": "java.net.ConnectException: Call From vm/127.0.1.1 to nn:9000 failed on connection exception: "
    "java.net.ConnectException: Connection refused; For more details see: http://wiki.apache.org/hadoop/x",
    "cut off": 'java.io.EOFException: End of File Exception between local host is: "vm/127.0.1.1"; dest: "nn"',
    "unknown": "java.net.UnknownHostException: Invalid host name: local host is: (unknown); destination host is: nn",
}


@pytest.mark.parametrize("said", GONE.values(), ids=GONE.keys())
def test_what_hadoop_says_of_a_server_that_is_gone_is_named(said: str) -> None:
    error = PySparkException(f"Job aborted.\n{said}\n\tat org.apache.hadoop.ipc.Client.call(Client.java:1)")
    with pytest.raises(UnreadableInputError) as caught, received("hdfs://nn:9000/f.json"):
        raise error
    told = said.partition(": ")[2].partition(";")[0]
    assert str(caught.value) == (
        f"cannot read hdfs://nn:9000/f.json: its server does not answer ({told}): run it again when it is there"
    )


def test_an_error_of_ours_on_the_driver_passes_unchanged() -> None:
    error = ChunkError("as it was")
    with pytest.raises(ChunkError) as caught, received():
        raise error
    assert caught.value is error


def test_the_session_that_is_active_is_used_whatever_the_config_says(spark: SparkSession) -> None:
    assert session(SparkConfig(master="local[7]"), "another") is spark
    assert spark.sparkContext.master == "local[2,2]"
    assert spark.sparkContext.appName == "tests"


def test_our_defaults_hold_and_the_config_goes_before_them(spark: SparkSession) -> None:
    assert spark.conf.get("spark.sql.session.timeZone") == "UTC"
    assert spark.conf.get("spark.sql.shuffle.partitions") == "3"


INTERRUPTED = """
import sys
from mlaas_spark import interrupts
from mlaas_spark.config import SparkConfig
from mlaas_spark.spark.session import session

sys.exit(interrupts.program(lambda: (session(SparkConfig(), "never there") and 0, ""), print, "interrupted"))
"""


def test_a_jvm_that_still_starts_ends_with_the_program_that_is_interrupted(tmp_path: Path) -> None:
    started = tmp_path / "started"
    submit = tmp_path / "bin" / "spark-submit"
    submit.parent.mkdir()
    submit.write_text(f"#!/bin/sh\necho $$ > {started}.part && mv {started}.part {started}\nexec sleep 600\n")
    submit.chmod(0o755)
    program = subprocess.Popen(  # noqa: S603 - our own program
        [sys.executable, "-c", INTERRUPTED], env={**os.environ, "SPARK_HOME": str(tmp_path)}, stderr=subprocess.PIPE
    )
    try:
        until(started.exists)
        jvm = Path("/proc") / started.read_text().strip()
        assert b"sleep" in (jvm / "cmdline").read_bytes()
        program.send_signal(signal.SIGTERM)
        assert program.wait(60) == interrupts.EXIT_CODE
        until(lambda: not jvm.exists())
    finally:
        program.kill()
        program.communicate()


def until(done: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end
        time.sleep(0.05)
