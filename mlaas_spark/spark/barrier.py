"""Tasks that run at the same time and know of each other: Spark's barrier mode."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from py4j.protocol import Py4JError
from pyspark import BarrierTaskContext

from mlaas_spark.errors import ConfigError, ModelContractError
from mlaas_spark.spark.session import on_executor, received

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from pyspark.sql import SparkSession

R = TypeVar("R")

_WAIT_S, _LOOK_S = 60.0, 0.5
_LOST = re.compile(r"(Executor\w*Lost\w*|executor \S+ exited|exited caused by|worker exited|Python worker)[^\n]*")
_LONGEST = 300


@dataclass(frozen=True)
class BarrierMember:
    """One of the tasks, as it sees itself.

    Attributes:
        rank: Its number.
        cpus: Cores that it has (spark.task.cpus).
        hosts: Where all of them run, in the order of their numbers.
    """

    rank: int
    cpus: int
    hosts: list[str]

    def gather(self, said: str) -> list[str]:
        """What each task says, in the order of their numbers; waits for all, and fails with them."""
        return BarrierTaskContext.get().allGather(said)


def together(spark: SparkSession, tasks: int, work: Callable[[BarrierMember], R]) -> list[R]:
    """What ``work`` returns in each of so many tasks, all of which run at the same time.

    When one of them fails, all do: nothing is tried again here.

    Raises:
        ConfigError: There are not so many cores for tasks.
        ModelContractError: An executor is lost.
        MlaasSparkError: What ``work`` has raised.
    """
    check_slots(spark, tasks)

    def run(numbers: Iterable[int]) -> Iterator[R]:
        del numbers
        with on_executor():
            context = BarrierTaskContext.get()
            hosts = [info.address.rpartition(":")[0] or info.address for info in context.getTaskInfos()]
            yield work(BarrierMember(context.partitionId(), context.cpus(), hosts))

    try:
        with received():
            made: list[R] = spark.sparkContext.parallelize(range(tasks), tasks).barrier().mapPartitions(run).collect()
    except Py4JError as error:
        if found := _LOST.search(str(error)):
            msg = (
                f"an executor of the {tasks} workers was lost ({found.group(0)[:_LONGEST]}); --resume goes on from the "
                "last checkpoint"
            )
            raise ModelContractError(msg) from error
        raise
    return made


def check_slots(spark: SparkSession, tasks: int) -> None:
    """So many tasks can run at once; executors that are still starting are waited for.

    Raises:
        ConfigError: They cannot.
    """
    if spark.conf.get("spark.dynamicAllocation.enabled", "false") == "true":
        msg = (
            f"{tasks} workers must run at once, which Spark does not do with spark.dynamicAllocation.enabled: switch "
            "it off and name spark.executor.instances"
        )
        raise ConfigError(msg)
    context = spark.sparkContext._jsc.sc()  # noqa: SLF001 - pyspark has no name for it
    profile = context.resourceProfileManager().defaultResourceProfile()
    local = re.match(r"local(\[|$)", spark.sparkContext.master or "")
    deadline = time.monotonic() + (0 if local else _WAIT_S)
    while (slots := int(context.maxNumConcurrentTasks(profile))) < tasks:
        if time.monotonic() >= deadline:
            msg = (
                f"{tasks} workers must run at once, Spark has room for {slots}: ask for more executors or cores "
                "(spark.executor.instances, spark.executor.cores, local[N]), or set train.workers lower"
            )
            raise ConfigError(msg)
        time.sleep(_LOOK_S)
