"""Plan: the opened files and the entry ranges that executors read. Pure; ranges are half open, [start, stop)."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from mlaas_spark.config import Format
from mlaas_spark.errors import FilesetError
from mlaas_spark.mixing import largest_remainder
from mlaas_spark.schema import EventSchema

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """A file that was opened.

    Attributes:
        path: Absolute path or URL.
        format: Format of its content.
        tree: Tree, "" for formats without trees.
        uuid: What identifies the content: ROOT's uuid, else a fingerprint.
        entries: Entries in the tree.
        label: Label of all its events, or None.
        weight: Weight of all its events.
        group: Name of its group.
        boundaries: Entry numbers where clusters (or row groups, or blocks) begin, and the end: 0, ..., entries.
    """

    path: str
    format: Format
    tree: str
    uuid: str
    entries: int
    label: float | None
    weight: float
    group: str
    boundaries: tuple[int, ...]

    def __post_init__(self) -> None:
        edges = self.boundaries
        if edges[:1] != (0,) or edges[-1:] != (self.entries,) or any(a > b for a, b in pairwise(edges)):
            msg = f"{self.path}: cluster boundaries {edges[:5]}... do not tile [0, {self.entries})"
            raise FilesetError(msg)


@dataclass(frozen=True, slots=True)
class EntryRange:
    """Entries [start, stop) of one planned file, and how many of them pass the selection.

    Attributes:
        file: Index of the file in the plan.
        start: First entry.
        stop: One past the last entry.
        events: Entries that pass the selection, None while nobody has counted.
    """

    file: int
    start: int
    stop: int
    events: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.stop:
            msg = f"an entry range needs 0 <= start < stop, got [{self.start}, {self.stop})"
            raise FilesetError(msg)

    @property
    def entries(self) -> int:
        """Entries in the range."""
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class Plan:
    """Files, their common schema, and the ranges that tile each file's first entries once, in order."""

    files: tuple[PlannedFile, ...]
    schema: EventSchema
    ranges: tuple[EntryRange, ...]

    @property
    def entries(self) -> int:
        """Entries in all ranges."""
        return sum(r.entries for r in self.ranges)

    @property
    def counted(self) -> bool:
        """Whether every range knows how many of its entries pass the selection."""
        return all(r.events is not None for r in self.ranges)

    def events_by_file(self) -> list[int]:
        """Events (entries that pass the selection) of each file; entries where nobody has counted."""
        totals = [0] * len(self.files)
        for r in self.ranges:
            totals[r.file] += r.entries if r.events is None else r.events
        return totals

    @property
    def limits(self) -> dict[str, int]:
        """Entries read of each file, by uuid, where not all entries of all files are read; else empty."""
        read = self._entries_read()
        whole = all(entries == file.entries for file, entries in zip(self.files, read, strict=True))
        return {} if whole else {file.uuid: entries for file, entries in zip(self.files, read, strict=True)}

    def _entries_read(self) -> list[int]:
        read = [0] * len(self.files)
        for r in self.ranges:
            read[r.file] += r.entries
        return read

    def first_ranks(self) -> dict[tuple[int, int], int]:
        """For each range (file, start): number of the file's events that lie before it."""
        ranks: dict[tuple[int, int], int] = {}
        seen = [0] * len(self.files)
        for r in self.ranges:
            ranks[r.file, r.start] = seen[r.file]
            seen[r.file] += r.entries if r.events is None else r.events
        return ranks

    def digest(self) -> str:
        """SHA-256 over what is read (uuid, tree, entries, label, weight, schema), not paths, not how it is cut."""
        content = [
            [file.uuid, file.tree, file.entries, entries, file.label, file.weight]
            for file, entries in zip(self.files, self._entries_read(), strict=True)
        ]
        return hashlib.sha256(json.dumps([content, self.schema.digest()]).encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """As plain values; :meth:`from_json` reads them back."""
        return {
            "version": 1,
            "digest": self.digest(),
            "files": [asdict(file) for file in self.files],
            "schema": self.schema.to_json(),
            "ranges": [[r.file, r.start, r.stop, r.events] for r in self.ranges],
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """The plan that :meth:`to_json` wrote."""
        files = (
            PlannedFile(**{**file, "format": Format(file["format"]), "boundaries": tuple(file["boundaries"])})
            for file in content["files"]
        )
        return cls(
            tuple(files), EventSchema.from_json(content["schema"]), tuple(EntryRange(*r) for r in content["ranges"])
        )


def align(boundaries: Sequence[int], stop: int, target: int) -> list[tuple[int, int]]:
    """Tile [0, stop) with ranges of about ``target`` entries that begin and end at cluster boundaries.

    A cluster larger than the target is a range of its own; the last range may end inside a cluster, at ``stop``.
    """
    edges = [edge for edge in boundaries if 0 < edge < stop] + [stop]
    ranges: list[tuple[int, int]] = []
    start = 0
    for edge, following in zip(edges, [*edges[1:], None], strict=True):
        if edge > start and (following is None or following - start > target):
            ranges.append((start, edge))
            start = edge
    return ranges


def make_plan(files: Sequence[PlannedFile], schema: EventSchema, target: int, events: int | None = None) -> Plan:
    """Cut the files into ranges of about ``target`` entries.

    Args:
        files: Opened files.
        schema: Their common schema, with the branches that are to be read.
        target: Entries in a range.
        events: Read only so many entries, from each file in proportion to its entries; None reads all.

    Raises:
        FilesetError: There is not one entry.
    """
    entries = [file.entries for file in files]
    if not sum(entries):
        names = ", ".join(file.path for file in files[:3])
        msg = f"zero entries in all {len(files)} input files ({names}): nothing to read"
        raise FilesetError(msg)
    wanted = largest_remainder(np.array(entries), min(events, sum(entries))) if events else entries
    ranges = [
        EntryRange(index, start, stop)
        for index, file in enumerate(files)
        if wanted[index]
        for start, stop in align(file.boundaries, int(wanted[index]), target)
    ]
    return Plan(tuple(files), schema, tuple(ranges))
