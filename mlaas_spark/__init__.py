"""Machine learning as a service for high energy physics, native to Apache Spark."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

__all__ = ["__version__", "register"]

__version__ = "0.1.0"


def register(spark: SparkSession) -> None:
    """Make ``spark.read.format("root")`` known to a session.

    Its options, errors and limits are those of :class:`mlaas_spark.spark.datasource.RootSource`::

        mlaas_spark.register(spark)
        spark.read.format("root").option("tree", "Events").option("branches", "Jet_*").load("data/*.root")
    """
    from mlaas_spark.spark.datasource import RootSource

    spark.dataSource.register(RootSource)
