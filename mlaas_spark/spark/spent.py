"""What executors spend their time on: seconds of the parts of their work, added up at the driver."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from pyspark.accumulators import AccumulatorParam

from mlaas_spark.bottleneck import DECOMPRESSING, READING, WORKED, of_executors
from mlaas_spark.clock import Clock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from pyspark.accumulators import Accumulator
    from pyspark.sql import SparkSession

T = TypeVar("T")


class _Sum(AccumulatorParam[dict[str, float]]):
    """Seconds by name, added up."""

    def zero(self, value: dict[str, float]) -> dict[str, float]:
        """Nothing yet."""
        del value
        return {}

    def addInPlace(self, value1: dict[str, float], value2: dict[str, float]) -> dict[str, float]:  # noqa: N802 - Spark's
        """Both together."""
        return {part: value1.get(part, 0.0) + value2.get(part, 0.0) for part in {**value1, **value2}}


class Spent(Clock):
    """Seconds of all tasks of a session's jobs, by part; picklable. Tasks that fail do not count.

    Args:
        spark: The session; without one nothing is counted.
    """

    def __init__(self, spark: SparkSession | None = None) -> None:
        self._sum: Accumulator[dict[str, float]] | None = None
        if spark is not None:
            self._sum = spark.sparkContext.accumulator({}, _Sum())

    def spent(self, seconds: Mapping[str, float]) -> None:
        """Add seconds that were measured; on executors."""
        if self._sum is not None:
            self._sum.add(dict(seconds))

    def parts(self) -> dict[str, float]:
        """Seconds of all parts so far; at the driver."""
        return {} if self._sum is None else dict(self._sum.value)

    def dealing(self, spark: SparkSession) -> Callable[[float], dict[str, float]]:
        """Deals the seconds of a stage that begins now, once it is done, to what executors did in it; at the driver."""
        before, cores = self.parts(), spark.sparkContext.defaultParallelism

        def deal(seconds: float) -> dict[str, float]:
            spent = {part: more - before.get(part, 0.0) for part, more in self.parts().items()}
            return of_executors(spent, cores, seconds)

        return deal

    def working(self, made: Iterable[T]) -> Iterator[T]:
        """What a task makes, whose time until it does is the whole of its work; what is timed within is part of it."""
        return self.waiting(WORKED, made)

    def reading(self, source: Iterable[T]) -> Iterator[T]:
        """What a task reads: waiting is for its bytes, or a free core; computing is decompressing and unpacking."""
        return self.waiting_apart(READING, DECOMPRESSING, source)
