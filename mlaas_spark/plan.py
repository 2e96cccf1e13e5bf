"""Plan: the opened files and the entry ranges that executors read. Pure; ranges are half open, [start, stop)."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections import Counter
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from mlaas_spark.errors import FilesetError
from mlaas_spark.formats import Format
from mlaas_spark.mixing import largest_remainder
from mlaas_spark.schema import EventSchema

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


_WHOLE = 4  # targets that a cluster may have and still be one range
_FINER = 8  # boundaries kept in a target


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says of itself.

    Attributes:
        path: The file.
        tree: The tree that was opened, "" for formats without trees.
        uuid: What identifies the content, hexadecimal: ROOT's uuid, else a fingerprint.
        entries: Entries in the tree.
        boundaries: Entry numbers where clusters (or row groups) begin, and the end.
        schema: Its branches.
    """

    path: str
    tree: str
    uuid: str
    entries: int
    boundaries: tuple[int, ...]
    schema: EventSchema


def file_key(uuid: str, tree: str, copy: int) -> str:
    """One text of what identifies a file's content, of its tree, and of which of several copies it is."""
    return f"{uuid}{tree and f':{tree}'}{f'#{copy}' if copy else ''}"


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
        boundaries: Entry numbers where clusters (or row groups, or blocks) begin, and the end: 0, ..., entries; of
            very many small ones some, see :func:`coarse`.
        steps: The only entries to read, as [start, stop); () reads all.
        lacks: Branches of the plan's schema that are missing in all its events.
        clusters: How many clusters it has.
        copy: How many files before it in the plan have its uuid and tree; only copies have another number than 0.
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
    steps: tuple[tuple[int, int], ...] = ()
    lacks: tuple[str, ...] = ()
    clusters: int = 0
    copy: int = 0

    @property
    def key(self) -> str:
        """What tells it from every other file of a plan, wherever it lies: uuid, tree, number of the copy."""
        return file_key(self.uuid, self.tree, self.copy)

    @property
    def spans(self) -> tuple[tuple[int, int], ...]:
        """Entries to read: the steps in order, those that touch as one; without steps all entries."""
        spans: list[tuple[int, int]] = []
        for start, stop in sorted(self.steps) or [(0, self.entries)]:
            spans = [*spans[:-1], (spans[-1][0], stop)] if spans and spans[-1][1] == start else [*spans, (start, stop)]
        return tuple((start, stop) for start, stop in spans if start < stop)

    def __post_init__(self) -> None:
        steps = sorted(self.steps)
        if any(not 0 <= a < b <= self.entries for a, b in steps) or any(a[1] > b[0] for a, b in pairwise(steps)):
            msg = f"{self.path}: its steps overlap, or reach beyond its {self.entries} entries: {list(steps)[:5]}..."
            raise FilesetError(msg)
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
    def twins(self) -> list[int]:
        """How many files before each have its uuid: trees of one file, or copies."""
        seen = Counter[str]()
        numbers = []
        for file in self.files:
            numbers.append(seen[file.uuid])
            seen[file.uuid] += 1
        return numbers

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
    def limits(self) -> dict[str, list[list[int]]]:
        """Spans of entries read of each file, by key, where not all entries of all files are read; else empty."""
        read = self.spans_read()
        whole = all(spans == [[0, file.entries]] for file, spans in zip(self.files, read, strict=True) if file.entries)
        return {} if whole else {file.key: spans for file, spans in zip(self.files, read, strict=True)}

    def spans_read(self) -> list[list[list[int]]]:
        """Spans of entries that the ranges of each file make up."""
        read: list[list[list[int]]] = [[] for _ in self.files]
        for r in self.ranges:
            spans = read[r.file]
            if spans and spans[-1][1] == r.start:
                spans[-1][1] = r.stop
            else:
                spans.append([r.start, r.stop])
        return read

    def without(self, spans: Mapping[int, Sequence[tuple[int, int]]]) -> Self:
        """The same plan without some spans of entries of files, by index; what is left of a range is uncounted."""
        ranges = [
            r if piece == (r.start, r.stop) else EntryRange(r.file, *piece)
            for r in self.ranges
            for piece in _outside((r.start, r.stop), spans.get(r.file, ()))
        ]
        return replace(self, ranges=tuple(ranges))

    def first_ranks(self) -> dict[tuple[int, int], int]:
        """For each range (file, start): number of the file's events that lie before it."""
        ranks: dict[tuple[int, int], int] = {}
        seen = [0] * len(self.files)
        for r in self.ranges:
            ranks[r.file, r.start] = seen[r.file]
            seen[r.file] += r.entries if r.events is None else r.events
        return ranks

    def by_content(self) -> tuple[Self, dict[int, int]]:
        """The plan with its files in an order that is of their content alone, and the new place of each."""
        files = self.files
        order = sorted(range(len(files)), key=lambda index: (files[index].uuid, files[index].tree, files[index].copy))
        places = {old: new for new, old in enumerate(order)}
        moved = (replace(entries, file=places[entries.file]) for entries in self.ranges)
        ranges = tuple(sorted(moved, key=lambda entries: (entries.file, entries.start)))
        return replace(self, files=tuple(files[old] for old in order), ranges=ranges), places

    def digest(self) -> str:
        """SHA-256 over what is read (key, entries, label, weight, schema), not paths, not how it is cut."""
        content = [
            [file.key, file.entries, spans, file.label, file.weight]
            for file, spans in zip(self.files, self.spans_read(), strict=True)
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
            PlannedFile(
                **{
                    **file,
                    "format": Format(file["format"]),
                    "boundaries": tuple(file["boundaries"]),
                    "steps": tuple((start, stop) for start, stop in file["steps"]),
                    "lacks": tuple(file["lacks"]),
                }
            )
            for file in content["files"]
        )
        return cls(
            tuple(files), EventSchema.from_json(content["schema"]), tuple(EntryRange(*r) for r in content["ranges"])
        )


def _outside(span: tuple[int, int], holes: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """What is left of a span, in order."""
    pieces = [span]
    for low, high in holes:
        cut = [((start, min(stop, low)), (max(start, high), stop)) for start, stop in pieces]
        pieces = [(start, stop) for pair in cut for start, stop in pair if start < stop]
    return pieces


def copy_numbers(files: Iterable[tuple[str, str, str]], *, allowed: bool) -> list[int]:
    """How many files before each, given as (path, uuid, tree), have its uuid and tree.

    Raises:
        FilesetError: A path and tree come twice; or two files are copies and these are not ``allowed``.
    """
    paths: dict[tuple[str, str], list[str]] = {}
    numbers = []
    for path, uuid, tree in files:
        others = paths.setdefault((uuid, tree), [])
        if path in others:
            named = f"tree {tree} of {path}" if tree else path
            msg = f"{named} is named twice: its events would count twice; name it once"
            raise FilesetError(msg)
        if others and not allowed:
            same = f"uuid {uuid}" if tree else "content"
            msg = (
                f"{path} is a copy of {others[0]} (same {same}): its events would count twice; name one, or give "
                "--allow-copies to read both"
            )
            raise FilesetError(msg)
        numbers.append(len(others))
        others.append(path)
    return numbers


def align(
    boundaries: Sequence[int], start: int, stop: int, target: int | None, whole: float = _WHOLE
) -> list[tuple[int, int]]:
    """Tile [start, stop) with ranges of about ``target`` entries that begin and end at cluster boundaries.

    A cluster larger than the target is a range of its own, unless it is larger than ``whole`` targets: then it is cut
    into equal parts of at most two, so that one core does not work long after the others (a basket that a cut goes
    through is decompressed on both sides). The ends of [start, stop) may lie inside a cluster. Without a target each
    cluster is a range.
    """
    inside = [edge for edge in boundaries if start < edge < stop]
    edges = sorted({start, *inside, stop}) if start < stop else [start]
    if target is None:
        return list(pairwise(edges))
    return _joined((piece for cluster in pairwise(edges) for piece in _cut(*cluster, target, whole)), target)


def coarse(boundaries: Sequence[int], target: int) -> tuple[int, ...]:
    """Those boundaries that ranges of about ``target`` entries need, an eighth of it apart.

    A file may have a cluster for each hundred entries; what the driver keeps of it is not to grow with them.
    """
    return (0, *(last for _, last in _joined(pairwise(boundaries), max(target // _FINER, 1))))


def recut(plan: Plan, targets: Mapping[int, int]) -> tuple[EntryRange, ...]:
    """The ranges of a plan with those of some files made anew: of about ``targets[file]`` entries, about equal."""
    spans = plan.spans_read()
    ranges: list[EntryRange] = []
    for index, of_file in itertools.groupby(plan.ranges, key=lambda r: r.file):
        if index not in targets:
            ranges += of_file
            continue
        for start, stop in spans[index]:
            parts = max(1, round((stop - start) / targets[index]))
            target = -(-(stop - start) // parts)
            file = plan.files[index]
            cut = align(file.boundaries, start, stop, target, _whole(file))
            if len(cut) > 1 and 2 * (stop - cut[-1][0]) < target:  # a small rest goes to the one before
                cut[-2:] = [(cut[-2][0], stop)]
            ranges += [EntryRange(index, first, last) for first, last in cut]
    return tuple(ranges)


def _joined(pieces: Iterable[tuple[int, int]], target: int) -> list[tuple[int, int]]:
    """Neighbours joined while they have at most ``target`` entries together."""
    ranges: list[tuple[int, int]] = []
    for first, last in pieces:
        if ranges and last - ranges[-1][0] <= target:
            ranges[-1] = (ranges[-1][0], last)
        else:
            ranges.append((first, last))
    return ranges


def _whole(file: PlannedFile) -> float:
    """How many targets a cluster of the file may have and still be one range.

    Of Parquet any number: a row group is read from its beginning, wherever in it a range begins.
    """
    return _WHOLE if file.format is Format.ROOT else math.inf


def _cut(start: int, stop: int, target: int, whole: float) -> list[tuple[int, int]]:
    """A cluster as it is, or in equal parts if it is very large."""
    length = stop - start
    parts = -(-length // (2 * target)) if length > whole * target else 1
    return list(pairwise(start + length * part // parts for part in range(parts + 1)))


def _first(spans: Sequence[tuple[int, int]], entries: int) -> list[tuple[int, int]]:
    """The spans up to so many entries."""
    cut = []
    for start, stop in spans:
        if entries > 0:
            cut.append((start, min(stop, start + entries)))
        entries -= stop - start
    return cut


def make_plan(files: Sequence[PlannedFile], schema: EventSchema, target: int | None, events: int | None = None) -> Plan:
    """Cut the files into ranges of about ``target`` entries.

    Args:
        files: Opened files.
        schema: Their common schema, with the branches that are to be read.
        target: Entries in a range; None makes each cluster a range.
        events: Read only so many entries, from each file in proportion to its entries; None reads all.

    Raises:
        FilesetError: There is not one entry.
    """
    entries = [sum(stop - start for start, stop in file.spans) for file in files]
    if not sum(entries):
        names = ", ".join(file.path for file in files[:3])
        msg = f"zero entries in all {len(files)} input files ({names}): nothing to read"
        raise FilesetError(msg)
    wanted = largest_remainder(np.array(entries), min(events, sum(entries))) if events else entries
    ranges = [
        EntryRange(index, start, stop)
        for index, file in enumerate(files)
        for span in _first(file.spans, int(wanted[index]))
        for start, stop in align(file.boundaries, *span, target, _whole(file))
    ]
    return Plan(tuple(files), schema, tuple(ranges))
