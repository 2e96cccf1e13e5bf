"""What the module of a format gives: functions that open a file and read its entry ranges, wherever they are called.

A format that executors read by themselves is a module with a ``READER``, and a line of
:class:`mlaas_spark.formats.Format`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import pyarrow as pa

from mlaas_spark.plan import Header, PlannedFile
from mlaas_spark.schema import EventSchema
from mlaas_spark.xrootd import PATIENCE, Patience

if TYPE_CHECKING:
    from mlaas_spark.formats import Format


UTC = "UTC"


@dataclass(frozen=True, slots=True)
class How:
    """What reading depends on beside the file.

    Attributes:
        patience: With the servers of files.
        zone: Time zone of times that have none of their own.
    """

    patience: Patience = PATIENCE
    zone: str = UTC


@dataclass(frozen=True, slots=True)
class Contents:
    """What lies in a file.

    Attributes:
        trees: Trees and their entries; of several cycles the newest; empty for formats without trees.
        compressed: Bytes on disk of each branch of one tree, by its name in the file: its baskets (RNTuple: its pages;
            Parquet: its column chunks). None, or no item, where the format does not tell.
    """

    trees: dict[str, int]
    compressed: dict[str, int | None]


Headers: TypeAlias = Callable[[str, str | None, How], list[Header]]
Batches: TypeAlias = Callable[
    [PlannedFile, int, EventSchema, Sequence[tuple[int, int]], How], Iterator[tuple[int, pa.RecordBatch]]
]
Inside: TypeAlias = Callable[[str, str, How], Contents]


@dataclass(frozen=True, slots=True)
class Reader:
    """How the files of a format are read. Whatever its functions raise is of ``errors``, and names the file.

    Attributes:
        headers: (path, tree or None) -> what the file says of itself, for each tree that is meant; no event is read.
            Raises UnreadableInputError, of what is not of the format or cut short DamagedInputError.
        batches: (file, its index in the plan, branches, entry ranges [start, stop)) -> the ranges in order, each in one
            or more batches, with its number: branches, ``__file`` and ``__entry``. A file that is not the planned one,
            which its uuid tells, is refused; damage is a DamagedInputError with the entries.
        inside: (path, tree) -> what lies in the file, for inspect.
        xrootd: Whether it reads files on XRootD servers.
        uuids: Whether files of the format have a uuid of their own, which a fileset may demand.
        zoned: Whether times of files may lack a time zone; the session's is then taken.
    """

    headers: Headers
    batches: Batches
    inside: Inside
    xrootd: bool = False
    uuids: bool = False
    zoned: bool = True


def reader_of(kind: Format) -> Reader:
    """The reader of a format that has one; its module, and the library it stands on, are imported now."""
    reader: Reader = importlib.import_module(f"mlaas_spark.{kind.module}").READER
    return reader
