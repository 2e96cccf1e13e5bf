"""Spark's daemon of Python workers, with what they import there before it forks them: the first tasks start warm.

Named by ``spark.python.daemon.module``; Spark runs it as ``python -m mlaas_spark.spark.daemon pyspark.worker``.
"""

from __future__ import annotations

import gc
import io
import os
import socket
from typing import IO, TYPE_CHECKING

import pandas as pd  # noqa: F401 - Spark's worker imports it for the first task of Arrow batches
from pyspark import daemon
from pyspark.sql.pandas import serializers  # noqa: F401

from mlaas_spark import kernels, parquet_io, root_io  # noqa: F401
from mlaas_spark.spark import chunks, convert, specs  # noqa: F401

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Buffer

_BUFFER = int(os.environ.get("SPARK_BUFFER_SIZE", "65536"))  # as Spark's own daemon has it
_ACKNOWLEDGE = getattr(socket, "TCP_QUICKACK", None)  # Linux has it


class _Acknowledging(io.RawIOBase):
    """What comes from a socket, acknowledged before more is waited for."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def readable(self) -> bool:
        return True

    def readinto(self, target: Buffer) -> int:
        if _ACKNOWLEDGE is not None:
            self._connection.setsockopt(socket.IPPROTO_TCP, _ACKNOWLEDGE, 1)
        return self._connection.recv_into(target)


def promptly(work: Callable[[IO[bytes], IO[bytes]], None]) -> Callable[[IO[bytes], IO[bytes]], None]:
    """The worker's function, without the 40 ms that each task waits at either end of its connection.

    The JVM sends a task in small pieces, and its kernel holds each back until the one before is acknowledged (Nagle's
    algorithm, which Spark leaves on), which ours puts off for 40 ms in the hope of an answer to send it with.
    """

    def prompt(received: IO[bytes], sent: IO[bytes]) -> None:
        with socket.socket(fileno=os.dup(received.fileno())) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # nothing is in the buffer of ``received``: the JVM sends a task when the answer to the last one has come
            work(io.BufferedReader(_Acknowledging(connection), _BUFFER), sent)

    return prompt


def quietly(worker: Callable[[socket.socket, bool], int]) -> Callable[..., int]:
    """The worker, which ends without a traceback where the JVM has gone before it gave its secret.

    So it does when a job has failed while the worker was being born.
    """

    def quiet(connection: socket.socket, authenticated: bool) -> int:  # noqa: FBT001 - as Spark's daemon calls it
        try:
            return worker(connection, authenticated)
        except (EOFError, ConnectionError):
            if authenticated:
                raise
            return 1

    return quiet


if __name__ == "__main__":
    daemon.worker_main = promptly(daemon.worker_main)
    daemon.worker = quietly(daemon.worker)
    gc.freeze()  # what is here is no garbage: no worker looks it through, nor copies its pages by doing so
    daemon.manager()  # type: ignore[no-untyped-call] # of pyspark
