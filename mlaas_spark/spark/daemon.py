"""Spark's daemon of Python workers, with what they import there before it forks them: the first tasks start warm.

Named by ``spark.python.daemon.module``; Spark runs it as ``python -m mlaas_spark.spark.daemon pyspark.worker``.
"""

from __future__ import annotations

import gc
import os

import pandas as pd  # noqa: F401 - Spark's worker imports it for the first task of Arrow batches
from pyspark import daemon
from pyspark.sql.pandas import serializers  # noqa: F401

from mlaas_spark import kernels, parquet_io, root_io  # noqa: F401
from mlaas_spark.spark import chunks, convert, specs  # noqa: F401

os.environ.setdefault("POLARS_MAX_THREADS", "1")  # read when the first worker writes: a task has a core

if __name__ == "__main__":
    gc.freeze()  # what is here is no garbage: no worker looks it through, nor copies its pages by doing so
    daemon.manager()  # type: ignore[no-untyped-call] # of pyspark
