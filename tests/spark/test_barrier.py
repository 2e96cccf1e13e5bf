from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

import pytest

from mlaas_spark.errors import ConfigError, ModelContractError
from mlaas_spark.spark.barrier import check_slots, together

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from mlaas_spark.spark.barrier import BarrierMember

pytestmark = pytest.mark.spark


def test_tasks_run_at_once_and_hear_each_other(spark: SparkSession) -> None:
    def work(member: BarrierMember) -> tuple[int, int, list[str], list[str]]:
        return member.rank, member.cpus, member.hosts, member.gather(f"I am {member.rank}")

    made = together(spark, 2, work)
    assert [(rank, cpus, said) for rank, cpus, _, said in made] == [
        (0, 1, ["I am 0", "I am 1"]),
        (1, 1, ["I am 0", "I am 1"]),
    ]
    assert made[0][2] == made[1][2]
    assert all(host and ":" not in host for host in made[0][2])


def test_an_error_of_one_is_raised_as_itself_while_the_others_wait(spark: SparkSession) -> None:
    def work(member: BarrierMember) -> None:
        if member.rank == 1:
            msg = "the loss is not a number"
            raise ModelContractError(msg)
        threading.Event().wait(300)  # Spark ends it

    with pytest.raises(ModelContractError, match=r"^the loss is not a number$"):
        together(spark, 2, work)


def test_a_task_whose_process_dies_is_a_lost_worker(spark: SparkSession) -> None:
    def work(member: BarrierMember) -> list[str]:
        if member.rank == 1:
            os._exit(7)
        return member.gather("there")

    with pytest.raises(ModelContractError, match=r"was lost \(.*\); --resume goes on"):
        together(spark, 2, work)


def test_more_tasks_than_there_is_room_for_are_refused_at_once(spark: SparkSession) -> None:
    with pytest.raises(ConfigError, match="3 workers must run at once, Spark has room for 2: ask for more executors"):
        check_slots(spark, 3)


def test_dynamic_allocation_is_refused(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(spark.conf), "get", lambda _, key, default: "true" if "dynamic" in key else default)
    with pytest.raises(ConfigError, match=r"spark\.dynamicAllocation\.enabled: switch it off"):
        check_slots(spark, 2)
