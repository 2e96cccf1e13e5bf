"""Data sets and runs against what was recorded when they were written: what is missing, too many, or not as it was.

Reads only, and changes nothing. Quick: names, sizes, footers, the ledger. Deep: every byte against the checksums, every
value against the digests. Of a run the files are read whole either way.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mlaas_spark import friend, storage
from mlaas_spark import manifest as manifests
from mlaas_spark.checksums import crc32, span
from mlaas_spark.errors import ChunkError, MlaasSparkError, UnreadableInputError, reason
from mlaas_spark.filesets import MANIFEST
from mlaas_spark.manifest import value_digest
from mlaas_spark.schema import FILE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from mlaas_spark.manifest import DataFile, Manifest

Kind = Literal["missing", "extra", "size", "unreadable", "rows", "bytes", "values", "ledger", "digest"]

RECORD = "run.json"
_NOT_RECORDED = frozenset({RECORD, "log"})  # the log goes on after the record

_OURS = re.compile(r"specs\.json|_manifests/\d{6}\.json")  # beside the files of a data set
_UNDER_WAY = re.compile(r"_staging/|_training-[0-9a-f]+/|(.*/)?\.[^/]*\.tmp$")  # of a job that runs or was killed
_LATER = re.compile(r"evaluation-\w+/|bundle/")  # what evaluate and export put into a run


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it was recorded.

    Attributes:
        kind: What is wrong.
        path: The file, relative to the folder; "" for the whole.
        text: In words.
    """

    kind: Kind
    path: str
    text: str

    def __str__(self) -> str:
        return f"{self.path}: {self.text}" if self.path else self.text


@dataclass(frozen=True)
class Verified:
    """What was looked at, and what is not as it was recorded.

    Attributes:
        folder: Where.
        what: ``run``, or the layout of a data set: ``events``, ``scores``, ``compact``, ``dense``.
        deep: Whether all values were read.
        files: How many are recorded.
        bytes: Of these.
        ledger: Of a data set.
        findings: What is wrong, () if nothing is.
        notes: What is no fault.
    """

    folder: str
    what: str
    deep: bool
    files: int
    bytes: int
    ledger: Mapping[str, int] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {**asdict(self), "ok": not self.findings}


# --- data sets


def data_set(folder: str, *, deep: bool) -> Verified:
    """A data set against its manifest.

    Args:
        folder: Path or URL.
        deep: Whether to read all of it.

    Raises:
        ChunkError: There is no manifest, or it is not whole itself.
    """
    manifest = manifests.read(folder)
    recorded = json.loads(storage.read_bytes(storage.join(folder, MANIFEST)))
    there = storage.names_below(folder)
    extra, notes = _extra(there, {MANIFEST, *(file.path for file in manifest.files)})
    findings = [*ledger(manifest, recorded), *_version(folder, manifest, recorded)]
    rows: Counter[int] = Counter()
    for file in manifest.files:
        if file.path not in there:
            findings.append(Finding("missing", file.path, f"it is listed in {MANIFEST} and not there"))
        else:
            findings += _of_file(folder, file, rows if deep else None)
    findings += extra
    if deep and not findings and manifest.layout in {"compact", "dense"}:
        findings += [
            Finding("ledger", "", f"{rows[index]:,} events of {item.path} are in the files, {item.events:,} should be")
            for index, item in enumerate(manifest.inputs)
            if rows[index] != item.events
        ]
    size = sum(file.bytes for file in manifest.files)
    return Verified(
        folder, manifest.layout, deep, len(manifest.files), size, manifest.ledger, tuple(findings), tuple(notes)
    )


def ledger(manifest: Manifest, recorded: Mapping[str, Any]) -> Iterator[Finding]:
    """Events in = events out + those accounted for: of the whole, and of each input.

    Args:
        manifest: The manifest.
        recorded: Its JSON, which has sums beside what they are of.
    """
    for name, found in (("ledger", manifest.ledger), ("counts", manifest.counts())):
        if recorded.get(name) != found:
            yield Finding("ledger", MANIFEST, f"it says {name} {recorded.get(name)}, its files add up to {found}")
    files, inputs = manifest.files, manifest.inputs
    if (out := sum(file.events for file in files)) != (due := sum(item.events for item in inputs)):
        yield Finding("ledger", "", f"the files have {out:,} events, {due:,} of the inputs should be in them")
    for item in inputs:
        if not 0 <= item.events <= item.entries:
            yield Finding("ledger", "", f"{item.path}: {item.events:,} events of {item.entries:,} entries")
    for file in files:
        beyond = [r for r in file.ranges if not (0 <= r[0] < len(inputs) and 0 <= r[1] <= r[2])]
        if beyond:
            yield Finding("ledger", file.path, f"it has the range {beyond[0]} of inputs, of which there are none such")
        if file.labels and sum(file.labels.values()) != file.rows:
            yield Finding("ledger", file.path, f"{sum(file.labels.values()):,} labels for {file.rows:,} events")
    if manifest.layout in {"events", "scores"}:
        yield from _of_inputs(manifest)


def _of_inputs(manifest: Manifest) -> Iterator[Finding]:
    """Of files that have one input each: no entry is in two of them, and each input has its events."""
    ranges: dict[int, list[tuple[int, int]]] = {}
    events: Counter[int] = Counter()
    for file in manifest.files:
        events[file.ranges[0][0]] += file.events
        ranges.setdefault(file.ranges[0][0], []).extend((start, stop) for _, start, stop in file.ranges)
    for index, item in enumerate(manifest.inputs):
        if events[index] != item.events:
            yield Finding("ledger", "", f"{item.path}: {events[index]:,} events are in the files, not {item.events:,}")
        for one, other in pairwise(sorted(ranges.get(index, ()))):
            if other[0] < one[1]:
                yield Finding("ledger", "", f"{item.path}: entries [{other[0]}, {one[1]}) are in two files")


def _version(folder: str, manifest: Manifest, recorded: Mapping[str, Any]) -> Iterator[Finding]:
    """The manifest is the newest one that was published."""
    name = f"_manifests/{manifest.version:06d}.json"
    url = storage.join(folder, name)
    if not storage.exists(url):
        yield Finding("missing", name, f"{MANIFEST} is of version {manifest.version}, which was not published")
        return
    try:
        published = json.loads(storage.read_bytes(url))
    except ValueError as error:
        yield Finding("unreadable", name, reason(error))
        return
    if not isinstance(published, dict) or {key: published.get(key) for key in recorded} != recorded:
        yield Finding("digest", name, f"it is not the version {manifest.version} that {MANIFEST} has")


def _of_file(folder: str, file: DataFile, rows: Counter[int] | None) -> Iterator[Finding]:
    url = storage.join(folder, file.path)
    if (size := storage.size(url)) != file.bytes:
        yield Finding("size", file.path, f"it has {size:,} bytes, {MANIFEST} says {file.bytes:,}")
        return
    try:
        if file.path.endswith(".root"):
            yield from _of_tree(url, file, deep=rows is not None)
        else:
            yield from _of_parquet(url, file, rows)
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        yield Finding("unreadable", file.path, reason(error))
    except MlaasSparkError as error:
        yield Finding("unreadable", file.path, str(error))


def _of_parquet(url: str, file: DataFile, rows: Counter[int] | None) -> Iterator[Finding]:
    filesystem, path = storage.filesystem(url)
    with storage.reading(url), filesystem.open(path, "rb") as stream:
        pieces = range(len(file.checksums)) if rows is not None else range(len(file.checksums))[-1:]
        bad = [piece for piece in pieces if crc32(stream, *span(file.checksums, piece)) != file.checksums[piece][1]]
        for piece in bad:
            what = "the footer" if piece == len(file.checksums) - 1 else f"row group {piece}"
            start, stop = span(file.checksums, piece)
            yield Finding("bytes", file.path, f"{what}, bytes [{start}, {stop}), is not as it was written")
        stream.seek(0)
        opened = pq.ParquetFile(stream)
        if opened.metadata.num_rows != file.rows:
            yield Finding("rows", file.path, f"it has {opened.metadata.num_rows:,} rows, not {file.rows:,}")
        elif rows is not None and not bad:
            table = as_written(opened.read(use_threads=False))
            if value_digest(table.combine_chunks()) != file.digest:
                yield Finding("values", file.path, "its values are not those that were written")
            if FILE in table.column_names:
                rows.update({of["values"]: of["counts"] for of in pc.value_counts(table.column(FILE)).to_pylist()})


def _of_tree(url: str, file: DataFile, *, deep: bool) -> Iterator[Finding]:
    """A friend tree."""
    with storage.local_copy(url) as path:
        if (found := friend.entries(path)) != file.rows:
            yield Finding("rows", file.path, f"it has {found:,} entries, not {file.rows:,}")
        if deep and file.checksums:
            with path.open("rb") as stream:
                if crc32(stream, *span(file.checksums, 0)) != file.checksums[0][1]:
                    yield Finding("bytes", file.path, "its bytes are not those that were written")


def as_written(table: pa.Table) -> pa.Table:
    """The table with lists named as we name them: Parquet's readers call the values of a list otherwise."""
    return table.cast(pa.schema([pa.field(of.name, _named(of.type)) for of in table.schema]))


def _named(kind: pa.DataType) -> pa.DataType:
    return pa.list_(_named(kind.value_type)) if pa.types.is_list(kind) else kind


def _extra(there: Iterable[str], listed: set[str]) -> tuple[list[Finding], list[str]]:
    others = sorted(name for name in there if name not in listed and not _OURS.fullmatch(name))
    under_way = sorted({name.split("/")[0] for name in others if _UNDER_WAY.match(name)})
    notes = [f"{name} is of a job that runs, or that was killed and can go on" for name in under_way]
    text = f"it is not listed in {MANIFEST}: nobody reads it, remove it"
    return [Finding("extra", name, text) for name in others if not _UNDER_WAY.match(name)], notes


# --- runs


def run_record(folder: str) -> dict[str, Any]:
    """What run.json says.

    Raises:
        ChunkError: It cannot be read, or is of a run from before its files were recorded.
    """
    url = storage.join(folder, RECORD)
    try:
        told = json.loads(storage.read_bytes(url))
        if not all(isinstance(told[key], kind) for key, kind in _RUN.items()):
            msg = f"{url} is no record of a run"
            raise ChunkError(msg)
    except (ValueError, TypeError, UnreadableInputError) as error:
        msg = f"{url} cannot be read: {reason(error)}"
        raise ChunkError(msg) from error
    except (FileNotFoundError, KeyError) as error:
        msg = f"{url} says nothing of {error}: it is no run of ours, or one from before its files were recorded"
        raise ChunkError(msg) from error
    return dict(told)


_RUN = {"files": dict, "digests": dict, "bundles": dict, "chunks": str}


def run_files(folder: str, told: Mapping[str, Any]) -> tuple[list[Finding], list[str]]:
    """The files of a run against its record; and notes of what was put there later."""
    there, findings = storage.names_below(folder), []
    for name, of in told["files"].items():
        if name not in there:
            findings.append(Finding("missing", name, f"it is recorded in {RECORD} and not there"))
        elif (size := storage.size(storage.join(folder, name))) != of["bytes"]:
            findings.append(Finding("size", name, f"it has {size:,} bytes, {RECORD} says {of['bytes']:,}"))
        elif storage.sha256(storage.join(folder, name)) != of["sha256"]:
            findings.append(Finding("bytes", name, "its bytes are not those that were written"))
    extra = sorted(there - set(told["files"]) - _NOT_RECORDED)
    later = sorted({"/".join(name.split("/")[:2]) for name in extra if _LATER.match(name)})
    findings += [Finding("extra", name, f"it is not recorded in {RECORD}") for name in extra if not _LATER.match(name)]
    return findings, [f"{name} was put there after the run" for name in later]


def run_digests(told: Mapping[str, Any], found: Mapping[str, str]) -> list[Finding]:
    """Digests of what is in a run's files against those that its record has of them.

    Args:
        told: The record.
        found: The digests, ``config``, ``plan`` and so on.
    """
    return [
        Finding("digest", "", f"the {name} has the digest {digest[:12]}, {RECORD} says {str(recorded)[:12]}")
        for name, digest in found.items()
        if (recorded := told["digests"].get(name)) != digest
    ]
