"""A Parquet data set on disk: its manifest, its ledger of entry ranges, and the commit protocol.

Layout of a folder::

    manifest.json                     the newest manifest; readers trust it alone
    _manifests/000001.json            each version, put only if absent: of two writers one wins
                                      (a converted data set gets a new one when its inputs change)
    _staging/<request>/               what a job has written and not yet committed
    _staging/<request>/ledger/<task>.json   one record a finished task: a rerun skips that task
    events/*.parquet                  files that the manifest lists: of a converted data set
    scores/*.parquet                  of predictions; as friend trees they are <input>.scores.root in the folder itself
    train/, validation/, test/        of chunks
                                      (the manifest is in no folder of Parquet files, whose readers would stumble on it)

Executors write files under unique names into the staging folder and record them in the ledger. The driver publishes a
version, which says where each of them is to lie: that is the commit. Then it moves them there and puts the version
into manifest.json. Who loses the version to another writer has moved nothing. A crash at any point leaves a valid
manifest, and whoever writes next does what is left to do of a version that was published; a rerun of the same request
goes on where it stopped. See docs/decisions/0024-commit-and-staging.md.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mlaas_spark import drift, skipping, storage
from mlaas_spark.drift import Drift
from mlaas_spark.errors import (
    ChunkError,
    ConflictError,
    MlaasSparkError,
    UnreadableInputError,
    UnwritableOutputError,
)
from mlaas_spark.filesets import MANIFEST
from mlaas_spark.lease import is_lease
from mlaas_spark.plan import file_key
from mlaas_spark.schema import EventSchema, buffers
from mlaas_spark.skipping import Skipped

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from mlaas_spark.checksums import Checksums
    from mlaas_spark.plan import Plan

VERSION = 1
VERSIONS = "_manifests"
STAGING = "_staging"

LABEL = "__label"
WEIGHT = "__weight"
FEATURES = "__features"
MASK = "__mask"
"""Columns of chunks: float32 label, or first target (:func:`label_columns`), and float32 weight; in dense chunks the
matrix row (4 W bytes, little-endian float32) and the mask row (W bits, numpy.packbits)."""


def label_columns(targets: int) -> list[str]:
    """The float32 columns of so many targets of a regression; of a classification, 0, that of the label."""
    return [LABEL, *(f"{LABEL}_{number}" for number in range(1, targets))]


@dataclass(frozen=True, slots=True)
class DataFile:
    """One file of a data set: Parquet, or the friend tree of an input.

    Attributes:
        path: Relative to the folder.
        rows: Events in it.
        bytes: Size.
        ranges: Entries it was made from: (input index, start, stop).
        digest: SHA-256 over its values, see :func:`value_digest`.
        chunk: Number of its chunk; 0 in a converted data set.
        split: ``train``, ``validation`` or ``test``; "" in a converted data set.
        labels: Events of each label.
        drift: Of scores, what was not as in training, by branch.
        selected: Of scores, events in it that pass the selection; None where all rows are such events.
        checksums: Of chunks and friend trees, see :mod:`mlaas_spark.checksums`; () of others, and of older ones.
    """

    path: str
    rows: int
    bytes: int
    ranges: tuple[tuple[int, int, int], ...]
    digest: str
    chunk: int = 0
    split: str = ""
    labels: Mapping[str, int] = field(default_factory=dict)
    drift: Mapping[str, Drift] = field(default_factory=dict)
    selected: int | None = None
    checksums: Checksums = ()

    @property
    def events(self) -> int:
        """Events in it that pass the selection."""
        return self.rows if self.selected is None else self.selected

    def to_json(self) -> dict[str, Any]:
        """As plain values; without drift and checksums if there are none, without ``selected`` where all are."""
        content = asdict(self)
        if not self.drift:
            del content["drift"]
        if self.selected is None:
            del content["selected"]
        if not self.checksums:
            del content["checksums"]
        return content

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """The file that :meth:`to_json` wrote."""
        path = str(content["path"])
        if "://" in path or {"", ".", ".."} & set(path.split("/")) or "\0" in path:
            msg = f"a manifest names the file {path!r}, which is not below its folder"
            raise ChunkError(msg)
        ranges = tuple((int(i), int(a), int(b)) for i, a, b in content["ranges"])
        of_branches = {name: Drift(*counts) for name, counts in content.get("drift", {}).items()}
        sums = tuple((int(end), int(crc)) for end, crc in content.get("checksums", ()))
        return cls(**{**content, "path": path, "ranges": ranges, "drift": of_branches, "checksums": sums})


@dataclass(frozen=True, slots=True)
class Input:
    """A file that a data set was made from, and what became of its events.

    Attributes:
        path: Where it was.
        uuid: What identifies its content.
        tree: Tree, "" for formats without trees.
        entries: Entries that were asked for.
        events: Entries that passed the selection.
        label: Label of all its events, if it has one.
        weight: Weight of all its events.
        copy: How many inputs before it have its uuid and tree.
        skipped: Those of its entries that were skipped because they are damaged.
    """

    path: str
    uuid: str
    tree: str
    entries: int
    events: int
    label: float | None
    weight: float
    copy: int = 0
    skipped: int = 0

    @property
    def key(self) -> str:
        """As :attr:`mlaas_spark.plan.PlannedFile.key`."""
        return file_key(self.uuid, self.tree, self.copy)

    @property
    def identity(self) -> tuple[str, str, int, int]:
        """What its events depend on, and which of several copies it is: uuid, tree, entries, copy."""
        return self.uuid, self.tree, self.entries, self.copy

    @property
    def content(self) -> list[Any]:
        """All but where it was."""
        content = [self.uuid, self.tree, self.entries, self.events, self.label, self.weight]
        return (
            [*content, self.copy, *([self.skipped] if self.skipped else [])] if self.copy or self.skipped else content
        )

    def to_json(self) -> dict[str, Any]:
        """As plain values; without ``skipped`` where nothing was."""
        return {name: value for name, value in asdict(self).items() if name != "skipped" or value}


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a data set is and holds.

    Attributes:
        layout: ``events`` (a converted data set), ``scores`` (predictions), ``compact`` or ``dense`` (chunks).
        request: Digest of what was asked for. Of chunks it covers inputs, config and seed: equal requests give equal
            data sets. Of converted events and of scores it leaves out the inputs, which may come and go.
        schema: Branches of the events.
        inputs: Input files, in the plan's order.
        files: Data files, sorted by (chunk, split, path).
        keys: Identifier branches kept beside the features.
        digests: SHA-256 of ``plan``, ``config`` and, for chunks, ``specs`` and ``transform``.
        transform: For dense chunks the transform their features were made with.
        targets: Of chunks for a regression, the expression of each target; () where events have classes.
        weight: Of chunks, the expression that events are weighted by, beside the weight of their input.
        version: Counts the manifests of this folder from 1.
        skipped: What of the inputs was damaged and is left out; the files that could not be opened are no inputs.
    """

    layout: str
    request: str
    schema: EventSchema
    inputs: tuple[Input, ...]
    files: tuple[DataFile, ...]
    keys: tuple[str, ...] = ()
    digests: Mapping[str, str] = field(default_factory=dict)
    transform: Mapping[str, Any] | None = None
    targets: tuple[str, ...] = ()
    weight: str = ""
    version: int = 1
    skipped: tuple[Skipped, ...] = ()

    @property
    def rows(self) -> int:
        """Events in all files."""
        return sum(file.rows for file in self.files)

    @property
    def chunks(self) -> int:
        """Number of chunks."""
        return max((file.chunk for file in self.files), default=-1) + 1

    @property
    def ledger(self) -> dict[str, int]:
        """``entries`` asked for = ``events`` written + entries that failed the ``selection`` + ``skipped`` ones.

        Scores have a row for each entry that was read: those less the skipped = ``rows`` = ``events`` scored + entries
        marked as not selected. ``skipped`` is there if some were; ``unread_files`` is the number of files that could
        not be opened: how many entries these have is not known, they count nowhere.
        """
        entries = sum(item.entries for item in self.inputs)
        counts = {
            "entries": entries,
            "events": sum(file.events for file in self.files),
            "selection": entries - sum(item.events + item.skipped for item in self.inputs),
            **skipping.counts(self.skipped),
        }
        return {**counts, "rows": self.rows} if self.layout == "scores" else counts

    @property
    def drift(self) -> dict[str, Drift]:
        """Of scores, what was not as in training, by branch, in all files."""
        return drift.merged(file.drift for file in self.files)

    def of(self, split: str, chunk: int | None = None) -> tuple[DataFile, ...]:
        """The files of a split, of one chunk or of all."""
        return tuple(file for file in self.files if file.split == split and chunk in {None, file.chunk} and file.rows)

    def counts(self) -> dict[str, dict[str, int]]:
        """Events of each split and label."""
        totals: dict[str, dict[str, int]] = {}
        for file in self.files:
            for label, rows in file.labels.items():
                of_split = totals.setdefault(file.split, {})
                of_split[label] = of_split.get(label, 0) + rows
        return {split: dict(sorted(labels.items())) for split, labels in sorted(totals.items())}

    def events(self) -> dict[str, int]:
        """Events of each split."""
        totals: dict[str, int] = {}
        for file in self.files:
            totals[file.split] = totals.get(file.split, 0) + file.rows
        return dict(sorted(totals.items()))

    @property
    def content_digest(self) -> str:
        """SHA-256 over schema, inputs and values: not over names and order of inputs, files, partitions or time."""
        return self._digest(sorted(range(len(self.inputs)), key=lambda place: json.dumps(self.inputs[place].content)))

    def _digest(self, order: Sequence[int]) -> str:
        """The content digest with the inputs in an order."""
        place = {old: new for new, old in enumerate(order)}
        inputs = [self.inputs[old].content for old in order]
        files = sorted(
            [f.chunk, f.split, f.rows, sorted((place.get(i, i), a, b) for i, a, b in f.ranges), f.digest]
            for f in self.files
        )
        content: list[Any] = [self.layout, self.schema.digest(), inputs, files]
        if spans := sorted([item.key, item.start, item.stop] for item in self.skipped if item.key):
            content.append(spans)
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """As plain values; :meth:`from_json` reads them back."""
        return {
            "mlaas_spark": VERSION,
            "version": self.version,
            "layout": self.layout,
            "request": self.request,
            "content_digest": self.content_digest,
            "digests": dict(sorted(self.digests.items())),
            "ledger": self.ledger,
            "counts": self.counts(),
            "keys": list(self.keys),
            "schema": self.schema.to_json(),
            "transform": self.transform,
            **({"targets": list(self.targets)} if self.targets else {}),
            **({"weight": self.weight} if self.weight else {}),
            **({"skipped": [item.to_json() for item in self.skipped]} if self.skipped else {}),
            "inputs": [item.to_json() for item in self.inputs],
            "files": [file.to_json() for file in self.files],
        }

    @classmethod
    def from_json(cls, content: Any, source: str = MANIFEST) -> Self:
        """The manifest that :meth:`to_json` wrote.

        Raises:
            ChunkError: Not a manifest, another version, or its digest does not fit its content.
        """
        try:
            if content["mlaas_spark"] != VERSION:
                msg = f"{source} has format version {content['mlaas_spark']}, this program reads {VERSION}"
                raise ChunkError(msg)
            manifest = cls(
                layout=content["layout"],
                request=content["request"],
                schema=EventSchema.from_json(content["schema"]),
                inputs=tuple(Input(**item) for item in content["inputs"]),
                files=tuple(DataFile.from_json(file) for file in content["files"]),
                keys=tuple(content["keys"]),
                digests=content["digests"],
                transform=content["transform"],
                targets=tuple(content.get("targets", ())),
                weight=content.get("weight", ""),
                version=content["version"],
                skipped=tuple(map(Skipped.from_json, content.get("skipped", ()))),
            )
            _check_types(manifest)
            recorded = content["content_digest"]
            # older versions had the digest of the inputs in the order in which they were named
            found = {manifest.content_digest, manifest._digest(range(len(manifest.inputs)))}
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            msg = f"{source} is no manifest of a data set: {type(error).__name__} {error}"
            raise ChunkError(msg) from error
        if not isinstance(recorded, str) or recorded not in found:
            msg = f"{source} was changed: its content digest {str(recorded)[:12]} is not that of its content"
            raise ChunkError(msg)
        return manifest


_TYPES: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("path", "uuid", "tree", "digest", "split", "layout", "request"), (str,)),
    **dict.fromkeys(("entries", "events", "copy", "skipped", "rows", "bytes", "chunk", "version"), (int,)),
    "label": (int, float, type(None)),
    "selected": (int, type(None)),
}


def _check_types(manifest: Manifest) -> None:
    """TypeError where a value of the manifest, or of its inputs and files, has not the type it should have."""
    items: list[Input | DataFile] = [*manifest.inputs, *manifest.files]
    for item in items:
        for name in (each.name for each in fields(item)):
            value = getattr(item, name)
            if name in _TYPES and type(value) not in _TYPES[name]:
                msg = f"{name} is {str(value)[:40]!r}"
                raise TypeError(msg)
    weights = [item.weight for item in manifest.inputs]
    counts = [rows for file in manifest.files for rows in file.labels.values()]
    texts = [manifest.layout, manifest.request, manifest.weight, *manifest.keys, *manifest.targets]
    texts += [*manifest.digests, *manifest.digests.values()]
    odd = [
        *(value for value in weights if type(value) not in {int, float}),
        *(value for value in (*counts, manifest.version) if type(value) is not int),
        *(value for value in texts if type(value) is not str),
    ]
    if odd or not isinstance(manifest.transform, dict | None):
        msg = f"{str((odd or [manifest.transform])[0])[:40]!r} is in the place of something else"
        raise TypeError(msg)


def read(folder: str) -> Manifest:
    """The newest manifest of a data set.

    Raises:
        ChunkError: There is none, or it cannot be read.
    """
    url = storage.join(folder, MANIFEST)
    try:
        content = json.loads(storage.read_bytes(url))
    except FileNotFoundError as error:
        msg = f"{folder} has no {MANIFEST}: it is no data set, or the job that writes it has not finished"
        raise ChunkError(msg) from error
    except (ValueError, RecursionError) as error:
        msg = f"cannot read {url}: {error}"
        raise ChunkError(msg) from error
    return Manifest.from_json(content, url)


def value_digest(events: pa.Table | pa.RecordBatch) -> str:
    """SHA-256 over names, types and values in row order; the same however the rows are cut into batches or files."""
    digest = hashlib.sha256()
    for name in events.schema.names:
        column = events.column(name)
        column = column.combine_chunks() if hasattr(column, "combine_chunks") else column
        digest.update(f"{name}:{column.type}:{len(column)};".encode())
        _add_values(digest, column)
    return digest.hexdigest()


def _add_values(digest: hashlib._Hash, column: pa.Array) -> None:
    kind = column.type
    if pa.types.is_fixed_size_binary(kind):  # features and masks of dense chunks
        start, stop = (edge * kind.byte_width for edge in (column.offset, column.offset + len(column)))
        digest.update(column.buffers()[1][start:stop])
    elif pa.types.is_list(kind) and (pa.types.is_list(kind.value_type) or pa.types.is_string(kind.value_type)):
        offsets = column.fill_null([]).offsets.to_numpy() if column.null_count else column.offsets.to_numpy()
        digest.update(np.diff(offsets).astype("<i4").tobytes())
        _add_values(digest, column.values[offsets[0] : offsets[-1]])
    elif pa.types.is_string(kind):
        lengths = pc.binary_length(column).fill_null(-1)
        digest.update(lengths.to_numpy(zero_copy_only=False).astype("<i4").tobytes())
        whole = pa.ListArray.from_arrays([0, len(column)], column.fill_null(""))
        digest.update(pc.binary_join(whole, "")[0].as_buffer())
    else:
        values, offsets = buffers(column)
        if offsets is not None:
            digest.update(np.diff(offsets).astype("<i4").tobytes())
            values = values[offsets[0] : offsets[-1]] if len(offsets) else values
        digest.update(np.ascontiguousarray(values).data if values.dtype.isnative else values.tobytes())


@dataclass(frozen=True, slots=True)
class Staging:
    """Where a job writes before it commits. Crosses to executors; holds names only."""

    folder: str
    request: str

    @property
    def url(self) -> str:
        """The staging folder of this request."""
        return storage.join(self.folder, STAGING, self.name)

    @property
    def name(self) -> str:
        """Its name among those of other requests."""
        return self.request[:16]

    def _record(self, task: str) -> str:
        return storage.join(self.url, "ledger", f"{task}.json")

    def new_file(self, suffix: str = ".parquet") -> str:
        """A name no other attempt uses."""
        return storage.join(self.url, f"{uuid.uuid4().hex}{suffix}")

    def finished(self, task: str) -> list[DataFile] | None:
        """The staged files of a task that an earlier attempt finished; None if none did."""
        try:
            content = json.loads(storage.read_bytes(self._record(task)))
        except FileNotFoundError:
            return None
        return [DataFile.from_json(file) for file in content]

    def finish(self, task: str, files: Sequence[DataFile]) -> list[DataFile]:
        """Record the staged files of a task; if another attempt was first, its files count and are returned."""
        content = json.dumps([file.to_json() for file in files]).encode()
        try:
            if storage.publish(self._record(task), content):
                return list(files)
        except UnwritableOutputError:  # it may have happened, and the answer was lost: what is there tells
            if self.finished(task) is None:
                raise
        first = self.finished(task)
        if first is None:
            msg = f"the record of {task} in {self.url} is gone: another job has committed it, run this one again"
            raise ChunkError(msg)
        theirs = {file.path for file in first}
        for file in files:
            if file.path not in theirs:  # else the record is ours
                storage.remove(storage.join(self.url, file.path))
        return first


def begin(folder: str, request: str) -> Staging | Manifest:
    """Start to write a data set, go on with one that was begun, or return it if it is there already.

    Raises:
        ChunkError: The folder holds another data set, or something else.
    """
    found = present(folder)
    if found is None:
        return stage(folder, request)
    if found.request != request:
        msg = (
            f"{folder} holds a data set made from other inputs, specs or config (request {found.request[:12]}, "
            f"not {request[:12]}): choose another folder, or remove this one"
        )
        raise ChunkError(msg)
    return found


def present(folder: str) -> Manifest | None:
    """The newest manifest of a folder; None if there is no data set yet, or one that was begun.

    Raises:
        ChunkError: The folder holds something else.
        UnwritableOutputError: Its server does not answer, or lets us not in.
    """
    with storage.to_be_written(folder):
        names = storage.children(folder)
        if MANIFEST in names:
            return _settled(folder, read(folder))
        if VERSIONS in names and (first := _version(folder, 1)):  # its writer died before it was in force
            return _settled(folder, first, in_force=False)
    if {*names} - {VERSIONS} and STAGING not in names:
        msg = f"{folder} holds something else ({', '.join(names[:3])}): choose an empty or a new folder"
        raise ChunkError(msg)
    return None


def pending(folder: str) -> str | None:
    """Name of the staging folder of a version that is published but not in force; None if the newest one is.

    Raises:
        ChunkError: A manifest cannot be read.
    """
    in_force = read(folder).version if storage.exists(storage.join(folder, MANIFEST)) else 0
    waiting = _version(folder, in_force + 1)
    return waiting.staging if waiting else None


def stage(folder: str, request: str) -> Staging:
    """The staging folder of a request, made if it is not there."""
    staging = Staging(folder, request)
    storage.make_folder(storage.join(staging.url, "ledger"))
    return staging


def commit(staging: Staging, manifest: Manifest, staged: Sequence[tuple[DataFile, str]]) -> Manifest:
    """Publish the manifest and move the staged files to their final names.

    Args:
        staging: Where the files are.
        manifest: The manifest; its ``files`` are those that lie in place already.
        staged: Each staged file (its path in the staging folder) and its final path in the data set, which no version
            before has had.

    Returns:
        The manifest that is now in force: ours, or that of another writer of the same who was first.

    Raises:
        ConflictError: A writer of other data was first; nothing of theirs is touched.
        ChunkError: A staged file is gone; then all of the staging is removed, so that a rerun makes it anew.
        UnwritableOutputError: It cannot be written, or whether it was written is not known; nothing is removed.
    """
    folder = staging.folder
    for _, path in staged:
        check_inside(folder, path)
    if (
        _published(folder, manifest) is None
        and (gone := _gone(staging, staged))
        and _published(folder, manifest) is None  # who published ours meanwhile has moved them
    ):
        clean(staging)
        msg = f"{storage.join(staging.url, gone[0])} is gone before its commit: run the job again"
        raise ChunkError(msg)
    files = [*(replace(file, path=path) for file, path in staged), *manifest.files]
    complete = replace(manifest, files=tuple(sorted(files, key=lambda file: (file.chunk, file.split, file.path))))
    version = _Version(complete, staging.name, {path: file.path for file, path in staged})
    if not _put(folder, version) and (first := _published(folder, manifest)):
        version = first
    return _settled(folder, version, in_force=False)


def _gone(staging: Staging, staged: Sequence[tuple[DataFile, str]]) -> list[str]:
    """Staged files that are not there."""
    there = set(storage.children(staging.url))
    return [
        file.path
        for file, path in staged
        # in place already: by a version of this program that moved before it published, and died then
        if file.path not in there and not storage.exists(storage.join(staging.folder, path))
    ]


def _published(folder: str, ours: Manifest) -> _Version | None:
    """What is published as our version, if something is.

    Raises:
        ConflictError: It is of other data than ours.
    """
    if (found := _version(folder, ours.version)) is None:
        return None
    theirs = found.manifest
    if theirs.request != ours.request or [i.content for i in theirs.inputs] != [i.content for i in ours.inputs]:
        raise ConflictError(_version_url(folder, ours.version))
    return found


def remove_superseded(folder: str, manifest: Manifest) -> None:
    """Remove the files that the version before listed and this one does not: who reads the folder sees no old rows."""
    if (before := _version(folder, manifest.version - 1)) is None:
        return
    for path in {file.path for file in before.manifest.files} - {file.path for file in manifest.files}:
        check_inside(folder, path)
        storage.remove(storage.join(folder, path))


def clean(staging: Staging) -> None:
    """Remove the staging folder of this request, and nothing of others.

    The leases go last: of what a writer that dies here leaves it is known who left it.
    """
    _remove_staging(staging.folder, staging.url)


def _remove_staging(folder: str, url: str) -> None:
    with suppress(FileNotFoundError):  # another writer, who has completed the same version, removes it too
        for name in storage.children(url):
            if not is_lease(name):
                storage.remove(storage.join(url, name))
    storage.remove(url)
    storage.remove_empty(storage.join(folder, STAGING))


@contextmanager
def discarded_if_empty(staging: Staging) -> Iterator[None]:
    """On one of our errors leave no trace, unless some task has finished: its work is there for a rerun.

    Where the place itself cannot be written nobody knows what is there: nothing is removed.
    """
    try:
        yield
    except UnwritableOutputError:
        raise
    except MlaasSparkError:
        with suppress(UnreadableInputError, UnwritableOutputError):  # the first error says more than one of its like
            if not any(storage.size(name) > len("[]") for name in _records(staging)):
                discard(staging)
        raise


def discard(staging: Staging) -> None:
    """Give up what was staged, and the folder if nothing else is in it."""
    clean(staging)
    storage.remove_empty(staging.folder)


def _records(staging: Staging) -> list[str]:
    ledger = storage.join(staging.url, "ledger")
    return [storage.join(ledger, name) for name in storage.children(ledger) if name.endswith(".json")]


def check_files(folder: str, manifest: Manifest) -> None:
    """Every listed file is there, in the folder itself, with the size the manifest gives.

    Raises:
        ChunkError: One is not.
    """
    for file in manifest.files:
        url = storage.join(folder, file.path)
        if not storage.exists(url):
            msg = f"{url} is listed in {MANIFEST} and missing"
            raise ChunkError(msg)
        check_inside(folder, file.path)
        if (size := storage.size(url)) != file.bytes:
            msg = f"{url} has {size} bytes, {MANIFEST} says {file.bytes}"
            raise ChunkError(msg)


def check_inside(folder: str, path: str) -> None:
    """A file that a manifest lists does not lie elsewhere, behind a symbolic link in the folder.

    Raises:
        ChunkError: It does.
    """
    if not storage.is_inside(folder, path):
        msg = f"{storage.join(folder, path)} leads out of its folder by a symbolic link: put the file there itself"
        raise ChunkError(msg)


def inputs_of(plan: Plan, skipped: Iterable[Skipped] = ()) -> tuple[Input, ...]:
    """The inputs a plan reads; what was skipped of them was asked for too, whether the plan's ranges have it or not."""
    spans: dict[str, list[tuple[int, int]]] = {}
    for item in skipped:
        spans.setdefault(item.key, []).append((item.start, item.stop))
    read = [0] * len(plan.files)
    beside = [sum(stop - start for start, stop in spans.get(file.key, ())) for file in plan.files]
    lost = list(beside)
    for r in plan.ranges:
        read[r.file] += r.entries
        for start, stop in spans.get(plan.files[r.file].key, ()):
            beside[r.file] -= max(0, min(stop, r.stop) - max(start, r.start))
    return tuple(
        Input(f.path, f.uuid, f.tree, entries + more, events, f.label, f.weight, f.copy, without)
        for f, entries, more, events, without in zip(plan.files, read, beside, plan.events_by_file(), lost, strict=True)
    )


def request_digest(parts: Iterable[str]) -> str:
    """One digest of several."""
    return hashlib.sha256(json.dumps(list(parts)).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class _Version:
    """A version that is published, or is to be.

    Attributes:
        manifest: What it holds.
        staging: Name of the staging folder of its writer; "" of versions whose files lay in place before.
        staged: Name there of each file that is to be moved, by its final path.
    """

    manifest: Manifest
    staging: str = ""
    staged: Mapping[str, str] = field(default_factory=dict)

    def dumps(self) -> bytes:
        moves = {"staging": self.staging, "staged": dict(self.staged)} if self.staging else {}
        return json.dumps({**self.manifest.to_json(), **moves}, indent=1).encode()

    @classmethod
    def loads(cls, content: bytes, url: str) -> Self:
        try:
            found = json.loads(content)
            manifest = Manifest.from_json(found, url)
            staging, staged = str(found.get("staging", "")), dict(found.get("staged", {}))
        except ValueError as error:
            msg = f"cannot read {url}: {error}"
            raise ChunkError(msg) from error
        if any("/" in name or name in {".", ".."} for name in (staging, *staged.values())) or not (
            staged.keys() <= {file.path for file in manifest.files}
        ):
            msg = f"{url} names staged files that are not in the staging folder, or that it does not list"
            raise ChunkError(msg)
        return cls(manifest, staging, staged)


def _version_url(folder: str, version: int) -> str:
    return storage.join(folder, VERSIONS, f"{version:06d}.json")


def _version(folder: str, number: int) -> _Version | None:
    """A version that is published; None if there is none of that number."""
    url = _version_url(folder, number)
    try:
        return _Version.loads(storage.read_bytes(url), url)
    except FileNotFoundError:
        return None


def _put(folder: str, version: _Version) -> bool:
    """Publish a version; False if another has its number.

    Raises:
        UnwritableOutputError: It cannot be written, or there is no answer; then what is there tells, unless that
            cannot be read either.
    """
    url, content = _version_url(folder, version.manifest.version), version.dumps()
    try:
        return storage.publish(url, content, storage.join(folder, STAGING, version.staging))
    except UnwritableOutputError as error:
        try:
            if storage.exists(url):  # it happened and the answer was lost, or somebody else was first
                return storage.read_bytes(url) == content
        except UnreadableInputError:
            why = f"{error.why}; whether it was committed is not known: run the job again, which looks"
            raise UnwritableOutputError(url, why) from error
        raise


def _settled(folder: str, version: Manifest | _Version, *, in_force: bool = True) -> Manifest:
    """What is left to do of the newest version that is published, done: its files moved, manifest.json written.

    Its writer may have died on the way, or be on it now: each step may be done by several.

    Args:
        folder: Of the data set.
        version: The newest that is known.
        in_force: Whether manifest.json has it.

    Returns:
        The newest manifest.
    """
    now = version if isinstance(version, _Version) else _Version(version)
    while True:
        if newer := _version(folder, now.manifest.version + 1):
            now, in_force = newer, False
        elif in_force:
            return now.manifest
        else:
            if _moved(folder, now):
                content = json.dumps(now.manifest.to_json(), indent=1).encode()
                within = storage.join(folder, STAGING, now.staging) if now.staging else None
                storage.write_atomic(storage.join(folder, MANIFEST), content, within)
                if within:
                    _remove_staging(folder, within)
            # who wrote a newer one meanwhile may have been overtaken by this: look again
            in_force = True


def _moved(folder: str, version: _Version) -> bool:
    """Move what is staged to its place; False if a newer version has done away with it meanwhile.

    Raises:
        ChunkError: A file is neither staged nor in place.
    """
    for path, name in version.staged.items():
        source, target = storage.join(folder, STAGING, version.staging, name), storage.join(folder, path)
        try:
            storage.move(source, target)
        except FileNotFoundError as error:
            if storage.exists(target):  # an earlier try has moved it, or another process
                continue
            if storage.exists(_version_url(folder, version.manifest.version + 1)):
                return False
            msg = (
                f"{source} is gone: version {version.manifest.version} of {folder} cannot be completed, remove {folder}"
            )
            raise ChunkError(msg) from error
    return True
