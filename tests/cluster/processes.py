"""Processes of a test, by Linux' own account of them."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_EXECUTOR = b"org.apache.spark.executor.CoarseGrainedExecutorBackend"


def below(process: int) -> Iterator[int]:
    """The process and all that it has started."""
    yield process
    with suppress(OSError):  # it may end while we look
        for children in Path(f"/proc/{process}/task").glob("*/children"):
            for child in children.read_text().split():
                yield from below(int(child))


def words(process: int) -> list[bytes]:
    """Its command line; [] of one that has ended."""
    with suppress(OSError):
        return Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")
    return []


def executors(process: int) -> list[int]:
    """JVMs of Spark's executors that a process has started."""
    lines = ((pid, words(pid)) for pid in below(process))
    return [pid for pid, line in lines if _EXECUTOR in line and line[0].endswith(b"java")]
