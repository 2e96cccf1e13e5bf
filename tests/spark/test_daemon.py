"""The daemon of Python workers: what workers have when they start, and how they read."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING

import pytest

from mlaas_spark.spark.daemon import promptly, quietly
from mlaas_spark.spark.session import gathered, spread

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyspark.sql import SparkSession


def test_workers_are_forked_by_our_daemon_with_the_imports_done(spark: SparkSession) -> None:
    def look(_: Iterator[int]) -> Iterator[tuple[str, bool]]:
        started = sys.modules["__main__"].__spec__
        yield started.name if started else "", "pyspark.worker" in Path(f"/proc/{os.getppid()}/cmdline").read_text()

    assert spread(spark, [0], look) == [("mlaas_spark.spark.daemon", True)]


def test_jobs_of_both_kinds_have_the_same_daemon(spark: SparkSession) -> None:
    def look(_: Iterator[object]) -> Iterator[int]:
        yield os.getppid()

    assert spread(spark, [0], look) == gathered(spark.range(0, 1, 1, 1), look)


@pytest.fixture
def connected() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends of a TCP connection."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as one:
        other, _ = server.accept()
        with other:
            yield one, other


def test_a_task_is_read_to_its_end_and_answered(connected: tuple[socket.socket, socket.socket]) -> None:
    jvm, worker = connected
    task = bytes(range(256)) * 1000
    found: list[bytes] = []

    def work(received: IO[bytes], sent: IO[bytes]) -> None:
        found.extend((received.read(4), received.read(len(task) - 4), received.read(1)))
        sent.write(b"done")
        sent.flush()

    jvm.sendall(task[:4])
    jvm.sendall(task[4:])
    jvm.shutdown(socket.SHUT_WR)
    with os.fdopen(os.dup(worker.fileno()), "rb") as received, os.fdopen(os.dup(worker.fileno()), "wb") as sent:
        promptly(work)(received, sent)
        assert b"".join(found) == task
        assert jvm.recv(4) == b"done"
        assert not received.closed  # Spark's own, of which ours is a copy
    assert worker.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@pytest.mark.skipif(not hasattr(socket, "TCP_QUICKACK"), reason="only Linux puts acknowledgements off by request")
def test_what_has_come_is_acknowledged_before_more_is_waited_for(
    connected: tuple[socket.socket, socket.socket],
) -> None:
    jvm, worker = connected
    at_work: list[int] = []

    def work(received: IO[bytes], _: IO[bytes]) -> None:
        worker.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)
        received.read(1)
        at_work.append(worker.getsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK))

    jvm.sendall(b"x")
    with os.fdopen(os.dup(worker.fileno()), "rb") as received, os.fdopen(os.dup(worker.fileno()), "wb") as sent:
        promptly(work)(received, sent)
    assert at_work == [1]


@pytest.mark.parametrize("gone", [EOFError, ConnectionResetError])
def test_a_worker_that_the_jvm_leaves_ends_without_a_word_only_before_it_has_work(
    gone: type[Exception], connected: tuple[socket.socket, socket.socket]
) -> None:
    def work(_: socket.socket, authenticated: bool) -> int:  # noqa: FBT001 - as Spark's daemon calls it
        raise gone(authenticated)

    assert quietly(work)(connected[1], authenticated=False) == 1
    with pytest.raises(gone):
        quietly(work)(connected[1], authenticated=True)
