"""bottleneck: the longest stage, and of a training its part, is named from measured seconds, with what to change."""

from __future__ import annotations

from dataclasses import fields

import pytest

from mlaas_spark.bottleneck import (
    DECOMPRESSING,
    FIT,
    HAND_OVER,
    KERNEL,
    READING,
    REST,
    SCORING,
    WORKED,
    WRITING,
    Streamed,
    bottleneck,
    cure,
    of_executors,
)
from mlaas_spark.ml import meter


def test_longest_stage_is_named_with_its_seconds_and_a_cure() -> None:
    told = bottleneck({"start Spark": 4.0, "specs": 30.0, "chunks": 20.0})
    assert told is not None
    assert told.startswith("bottleneck: specs, 30 of 54 s; to shorten it: more cores")


def test_stage_without_a_cure_is_named_alone() -> None:
    assert bottleneck({"tell MLflow": 30.0}) == "bottleneck: tell MLflow, 30 of 30 s"


def test_nothing_is_said_of_a_job_of_seconds() -> None:
    assert bottleneck({"specs": 3.0, "chunks": 4.0}) is None
    assert bottleneck({}) is None


@pytest.mark.parametrize(
    ("streamed", "says", "cures"),
    [
        (Streamed(waited=10, kernel=90, read=90, handed=12, fit=85), "fit, 85", "batch_size"),
        (Streamed(waited=60, kernel=100, read=20, handed=60, fit=38), "kernel, 50", "chunks.layout=dense"),
        (Streamed(waited=60, kernel=20, read=90, decoded=10, handed=62, fit=3), "reading, 45", "train.threads"),
        (Streamed(waited=60, kernel=20, read=10, decoded=90, handed=62, fit=30), "decompressing, 45", "input.branches"),
        (Streamed(waited=5, kernel=90, read=90, handed=60, fit=30), "hand-over to TensorFlow, 55", "features.caps"),
        (Streamed(waited=5, kernel=9, handed=6, first=50, fit=30), "first step, 50", "compiles"),
        (Streamed(waited=5, kernel=9, handed=6, fit=30, together=50), "other workers, 50", "fewer train.workers"),
        (Streamed(waited=5, kernel=9, measured=False), "fit, 95", "batch_size"),
        (Streamed(waited=5, kernel=9, handed=6, fit=30), "train, 100", "train.epochs"),  # 64 s are none of these
    ],
)
def test_training_waits_for_the_fit_the_hand_over_the_kernel_or_the_files(
    streamed: Streamed, says: str, cures: str
) -> None:
    told = bottleneck({"chunks": 20.0, "train": 100.0}, {"chunks": {"kernel": 20.0}, "train": streamed.parts(100.0)})
    assert told is not None
    assert told.startswith(f"bottleneck: {says} of ")
    assert cures in told


def test_parts_of_a_training_add_up_to_its_time() -> None:
    # tf.data waited 50 s for the threads, most of them while the training was busy: it waited 20 s for its batches
    streamed = Streamed(waited=50, kernel=30, read=10, decoded=20, handed=20, first=3, fit=70)
    parts = streamed.parts(100)
    assert sum(parts.values()) == pytest.approx(100)
    assert (parts["kernel"], parts[HAND_OVER], parts[FIT], parts[REST]) == pytest.approx((10, 0, 70, 7))
    assert sum(Streamed(waited=20, measured=False).parts(100).values()) == pytest.approx(100)


def test_what_a_meter_counts_are_the_fields_it_is_read_by() -> None:
    names = (
        meter.WAITED,
        meter.KERNEL,
        meter.READ,
        meter.DECODED,
        meter.HANDED,
        meter.FIRST,
        meter.FIT,
        meter.TOGETHER,
    )
    assert {*names, "measured"} == {one.name for one in fields(Streamed)}
    made = Streamed.of({name: float(place) for place, name in enumerate(names, 1)})
    assert (made.waited, made.together, made.measured) == (1.0, 8.0, True)
    assert not Streamed.of({"waited": 1.0}).measured


def test_seconds_of_tasks_are_dealt_to_the_cores_and_add_up_to_the_time_of_the_stage() -> None:
    spent = {WORKED: 150.0, READING: 30.0, DECOMPRESSING: 60.0, WRITING: 20.0}
    parts = of_executors(spent, 2, 100)
    assert parts == {READING: 15, DECOMPRESSING: 30, WRITING: 10, KERNEL: 20, REST: 25}
    # more tasks at once than there were cores when it was asked for
    assert of_executors(spent, 1, 100) == pytest.approx(
        {READING: 20, DECOMPRESSING: 40, WRITING: 40 / 3, KERNEL: 80 / 3, REST: 0}
    )
    assert of_executors({}, 2, 100) == {}
    told = bottleneck({"start Spark": 9.0, "convert": 100.0}, {"convert": parts})
    assert told is not None
    assert told.startswith(
        "bottleneck: decompressing, 30 of the 100 s of convert (109 s in all); to shorten it: more c"
    )
    idle = bottleneck({"specs": 100.0}, {"specs": of_executors({WORKED: 10.0}, 2, 100)})
    assert idle is not None
    assert idle.startswith("bottleneck: specs, 100 of 100 s; to shorten it: more cores")


def test_every_part_has_a_cure() -> None:
    training = Streamed(waited=1, kernel=1, read=1, decoded=1, handed=1, fit=1, together=1).parts(9)
    executors = of_executors(dict.fromkeys((WORKED, READING, DECOMPRESSING, SCORING, WRITING), 1.0), 1, 9)
    assert all(cure("train", part) for part in training if part != REST)
    assert all(cure("predict", part) for part in executors if part != REST)
    assert not cure("predict", FIT)
