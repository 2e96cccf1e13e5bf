"""Machine learning as a service for high energy physics, native to Apache Spark."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from mlaas_spark.api import chunks, convert, fileset, predict, specs, train

__all__ = ["__version__", "chunks", "convert", "fileset", "predict", "register", "specs", "train"]

__version__ = "1.0.0"


def __getattr__(name: str) -> object:
    """The functions of :mod:`mlaas_spark.api`, loaded with all that they need at the first use of one."""
    if name.startswith("_") or name not in __all__:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    from mlaas_spark import api

    return getattr(api, name)


def register(spark: SparkSession) -> None:
    """Make ``spark.read.format("root")`` known to a session.

    Its options, errors and limits are those of :class:`mlaas_spark.spark.datasource.RootSource`::

        mlaas_spark.register(spark)
        spark.read.format("root").option("tree", "Events").option("branches", "Jet_*").load("data/*.root")
    """
    from mlaas_spark.spark.datasource import RootSource

    spark.dataSource.register(RootSource)
