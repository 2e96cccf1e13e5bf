"""bottleneck: the longest stage is named from measured seconds, with what to change."""

from __future__ import annotations

import pytest

from mlaas_spark.bottleneck import Streamed, bottleneck


def test_longest_stage_is_named_with_its_seconds_and_a_cure() -> None:
    told = bottleneck({"start Spark": 4.0, "specs": 30.0, "chunks": 20.0})
    assert told is not None
    assert told.startswith("most time went into specs: 30 of 54 s; to shorten it: ")


def test_stage_without_a_cure_is_named_alone() -> None:
    assert bottleneck({"build model": 30.0}) == "most time went into build model: 30 of 30 s"


def test_nothing_is_said_of_a_job_of_seconds() -> None:
    assert bottleneck({"specs": 3.0, "chunks": 4.0}) is None
    assert bottleneck({}) is None


@pytest.mark.parametrize(
    ("streamed", "says", "cure"),
    [
        (Streamed(waited=10, kernel=90, read=90, threads=2), "90 % of it in the fit", "batch_size"),
        (
            Streamed(waited=60, kernel=100, read=20, threads=2),
            "60 % of it waiting for the kernel",
            "chunks.layout=dense",
        ),
        (Streamed(waited=60, kernel=20, read=100, threads=2), "60 % of it waiting for reading", "than 2"),
    ],
)
def test_training_waits_for_the_fit_the_kernel_or_the_files(streamed: Streamed, says: str, cure: str) -> None:
    told = bottleneck({"chunks": 20.0, "train": 100.0}, streamed)
    assert told is not None
    assert says in told
    assert cure in told
