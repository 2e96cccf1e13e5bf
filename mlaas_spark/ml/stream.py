"""Stream of a chunk data set: training batches in a known order, to Python and to TensorFlow. No row-wise path."""

from __future__ import annotations

import itertools
import math
import time
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pyarrow as pa

from mlaas_spark import manifest as manifests
from mlaas_spark import storage
from mlaas_spark.errors import ChunkError, MlaasSparkError, SpecsMismatchError, hint
from mlaas_spark.manifest import FEATURES, LABEL, MASK, WEIGHT, Manifest, label_columns
from mlaas_spark.memory import Buffers
from mlaas_spark.mixing import SPLITS
from mlaas_spark.ml.meter import DECODED, KERNEL, READ, WAITED, Meter
from mlaas_spark.transform import FeatureTransform

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Mapping

    import numpy.typing as npt

    from mlaas_spark.memory import Empty

PREFETCH = 2  # batches that tf.data has ready
_LONG_ENOUGH_S, _SOME = 0.5, 8_192


@dataclass(frozen=True, slots=True)
class Batch:
    """Events as training takes them.

    Attributes:
        matrix: float32, shape (n, W).
        mask: uint8, shape (n, W); 1 = real value, 0 = padding or missing.
        label: float32, shape (n,); of a regression with T > 1 targets (n, T).
        weight: float32, shape (n,).
    """

    matrix: npt.NDArray[np.float32]
    mask: npt.NDArray[np.uint8]
    label: npt.NDArray[np.float32]
    weight: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.label)

    def take(self, rows: slice | npt.NDArray[np.int64]) -> Batch:
        """Some of the events; a slice copies nothing."""
        return Batch(self.matrix[rows], self.mask[rows], self.label[rows], self.weight[rows])

    @classmethod
    def join(cls, parts: Iterable[Batch], empty: Empty = np.empty) -> Self:
        """The events of all parts, at least one, in arrays that ``empty`` makes."""
        batches = list(parts)
        n, width = sum(len(batch) for batch in batches), batches[0].matrix.shape[1]
        return cls(
            np.concatenate([batch.matrix for batch in batches], out=empty((n, width), np.float32)),
            np.concatenate([batch.mask for batch in batches], out=empty((n, width), np.uint8)),
            np.concatenate([batch.label for batch in batches]),
            np.concatenate([batch.weight for batch in batches]),
        )


@dataclass(frozen=True, slots=True)
class Share:
    """What a shard has of a pass: the events [start, stop) of its order, ``size`` of them in a batch."""

    start: int
    stop: int
    size: int

    @property
    def batches(self) -> int:
        """How many it has; the last may be shorter."""
        return math.ceil((self.stop - self.start) / self.size)


def shares(events: int, batch_size: int, shards: int) -> list[Share]:
    """A pass over so many events, dealt to shards: each has its part of a batch, and as large a part of the pass.

    ``batch_size`` is at least ``shards``; parts of a batch differ by one event at the most.
    """
    sizes = [(batch_size + shards - 1 - shard) // shards for shard in range(shards)]
    edges = [events * before // batch_size for before in itertools.accumulate(sizes, initial=0)]
    return [Share(start, stop, size) for start, stop, size in zip(edges, edges[1:], sizes, strict=False)]


@dataclass(frozen=True)
class ChunkStream:
    """A chunk data set as it is given to training.

    Attributes:
        folder: The data set.
        manifest: Its manifest.
        transform: From events to the feature matrix.
        batch_size: Events in a batch; only the last batch of a pass may have fewer.
        threads: Threads that read and transform. The order of events does not depend on them.
        buffers: Where matrices come from; what one epoch let go of, the next uses.
        row_groups: Events of each row group of each file, by its path.
        shards: In how many parts each pass and each of its batches is dealt, see :func:`shares`.
        mine: The shards that this process reads; None for all of them.
        meter: Counts what is read, and the time it takes.
        checked: Row groups, (file, number), whose bytes this process has checked: it does so when it first reads them.
    """

    folder: str
    manifest: Manifest
    transform: FeatureTransform
    batch_size: int
    threads: int = 2
    buffers: Buffers = field(default_factory=Buffers, repr=False, compare=False)
    row_groups: Mapping[str, tuple[int, ...]] = field(default_factory=dict, repr=False)
    shards: int = 1
    mine: tuple[int, ...] | None = None
    meter: Meter = field(default_factory=Meter, repr=False, compare=False)
    checked: set[tuple[str, int]] = field(default_factory=set, repr=False, compare=False)

    @classmethod
    def open(cls, folder: str, transform: FeatureTransform, batch_size: int, threads: int = 2, shards: int = 1) -> Self:
        """The chunk data set in ``folder``, its files checked against the manifest.

        Raises:
            ChunkError: No manifest, no chunks, files missing, changed or too many, or metadata that petastorm would
                unpickle.
            SpecsMismatchError: Dense chunks that another transform made; compact chunks without a branch it needs.
        """
        manifest = manifests.read(folder)
        if manifest.layout not in {"compact", "dense"}:
            msg = f"{folder} holds {manifest.layout}, not chunks: make them with mlaas-spark chunks"
            raise ChunkError(msg)
        manifests.check_files(folder, manifest)
        row_groups = _check_not_planted(folder, manifest)
        _check_transform(folder, manifest, transform)
        return cls(folder, manifest, transform, batch_size, threads, row_groups=row_groups, shards=shards)

    def of_worker(self, worker: int, workers: int) -> Self:
        """As one of several workers reads it, which have the shards between them."""
        return replace(self, mine=tuple(range(worker, self.shards, workers)))

    def whole(self) -> Self:
        """As one worker alone reads it."""
        return replace(self, mine=None)

    @property
    def width(self) -> int:
        """W, the number of columns."""
        return self.transform.width

    @property
    def weighted(self) -> bool:
        """Whether some event may have a weight other than 1."""
        return bool(self.manifest.weight) or any(item.weight != 1.0 for item in self.manifest.inputs)

    def events(self, split: str, chunk: int | None = None) -> int:
        """Events of a split, in one chunk or in all."""
        return sum(file.rows for file in self.manifest.of(split, chunk))

    def own_events(self, split: str, chunk: int | None = None) -> int:
        """Those of them that this process reads."""
        every = shares(self.events(split, chunk), self.batch_size, self.shards)
        return sum(
            every[shard].stop - every[shard].start for shard in (range(self.shards) if self.mine is None else self.mine)
        )

    def steps(self, split: str, chunk: int | None = None) -> int:
        """Batches of a pass; as long as one shard has events, there is one more."""
        return max(share.batches for share in shares(self.events(split, chunk), self.batch_size, self.shards))

    def batches(
        self, split: str, *, chunk: int | None = None, seed: int | None = None, epoch: int = 0, start: int = 0
    ) -> Generator[Batch, None, None]:
        """Every event of the split (or of one of its chunks) once, in batches of ``batch_size``.

        Without a seed in the manifest's order. With one, files are in an order that depends on (seed, epoch) alone,
        and so are the events within each row group. This order is dealt to the shards; a batch holds the part of each
        shard that is ``mine``, and where these have no events any more the batches end.

        Args:
            split: ``train``, ``validation`` or ``test``.
            chunk: Of one chunk only.
            seed: Of the order.
            epoch: Of the order.
            start: Batches of the pass that are left out; files that hold no others are not read.

        Raises:
            ChunkError: A file cannot be read, has lost events, or has weights that the manifest does not know of.
        """
        files = self.manifest.of(split, chunk)
        order = list(range(len(files)))
        if seed is not None:
            order = [int(index) for index in np.random.default_rng([seed, epoch]).permutation(len(files))]
        rows = [files[index].rows for index in order]
        every = shares(sum(rows), self.batch_size, self.shards)
        mine = every if self.mine is None else [every[shard] for shard in self.mine]
        shuffle = None if seed is None else (seed, epoch)
        seen = 0
        with ExitStack() as opened:
            parts = []
            for share in mine:
                first = min(share.start + start * share.size, share.stop)
                seen += first - share.start
                events = self._events([files[index].path for index in order], order, (first, share.stop), shuffle)
                parts.append(_cut(opened.enter_context(closing(events)), share.size, self.buffers.empty))
            while found := self._next_of(parts):
                batch = found[0] if len(found) == 1 else Batch.join(found, self.buffers.empty)
                seen += len(batch)
                if not self.weighted and not (batch.weight == 1.0).all():
                    msg = f"{self.folder} has events with a weight other than 1, its manifest says that all are 1"
                    raise ChunkError(msg)
                self.meter.add(split, len(batch))
                yield batch
        if seen != (expected := sum(share.stop - share.start for share in mine)):
            msg = f"{self.folder}: {seen} {split} events were read, the manifest says {expected}"
            raise ChunkError(msg)

    def _next_of(self, parts: Iterable[Iterator[Batch]]) -> list[Batch]:
        """The next batch of each part that has one, and the time it was waited for."""
        with self.meter.timed(WAITED):
            return [batch for part in parts if (batch := next(part, None)) is not None]

    def answers(self, split: str) -> Generator[tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]], None, None]:
        """Labels, shape (n,) or (n, T), and weights, shape (n,), of each row group of a split; no features are read."""
        from mlaas_spark.ml._petastorm import read_row_groups

        filesystem, _ = storage.filesystem(self.folder)
        paths = [storage.filesystem(storage.join(self.folder, file.path))[1] for file in self.manifest.of(split)]
        columns = [*label_columns(len(self.manifest.targets)), WEIGHT]

        def decode(
            events: pa.RecordBatch, file: int, row_group: int
        ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
            del file, row_group
            return _answers(events), _numbers(events, WEIGHT)

        yield from read_row_groups(filesystem, paths, columns, decode, self.threads)

    def arrays(self, split: str, chunk: int) -> Batch:
        """All events of a split in one chunk, in the manifest's order; raises as :meth:`batches`."""
        n, width = self.events(split, chunk), self.width
        targets = len(self.manifest.targets)
        whole = Batch(
            np.empty((n, width), np.float32),
            np.empty((n, width), np.uint8),
            np.empty((n, targets) if targets > 1 else n, np.float32),
            np.empty(n, np.float32),
        )
        start = 0
        for batch in self.batches(split, chunk=chunk):
            part = whole.take(slice(start, start + len(batch)))
            part.matrix[:], part.mask[:], part.label[:], part.weight[:] = (
                batch.matrix,
                batch.mask,
                batch.label,
                batch.weight,
            )
            start += len(batch)
        return whole

    def dataset(
        self,
        split: str,
        *,
        seed: int | None = None,
        failures: list[MlaasSparkError] | None = None,
    ) -> Any:
        """A ``tf.data.Dataset`` of (x, y) batches, or (x, y, weight) if the chunks have weights.

        Args:
            split: ``train``, ``validation`` or ``test``.
            seed: As in :meth:`batches`; each new iterator of the data set is the next epoch.
            failures: Errors of the stream are put here: TensorFlow passes on their text alone.
        """
        import tensorflow as tf

        epochs, targets = itertools.count(), len(self.manifest.targets)

        def one_epoch() -> Iterator[tuple[npt.NDArray[Any], ...]]:
            try:
                with closing(self.batches(split, seed=seed, epoch=next(epochs))) as batches:
                    for batch in batches:
                        pair = (batch.matrix, batch.label)
                        yield (*pair, batch.weight) if self.weighted else pair
            except MlaasSparkError as error:
                if failures is not None:
                    failures.append(error)
                raise

        signature = [
            tf.TensorSpec((None, self.width), tf.float32),
            tf.TensorSpec((None, targets) if targets > 1 else (None,), tf.float32),
            tf.TensorSpec((None,), tf.float32),
        ]
        dataset = dataset_of(one_epoch, signature[: 3 if self.weighted else 2])
        return dataset.apply(tf.data.experimental.assert_cardinality(self.steps(split))).prefetch(PREFETCH)

    def _events(
        self, paths: list[str], numbers: list[int], span: tuple[int, int], shuffle: tuple[int, int] | None
    ) -> Generator[Batch, None, None]:
        """The events [start, stop) of files one after the other, a row group at a time; no other row group is read."""
        start, stop = span
        begins = 0  # of a row group in that order
        first: int | None = None  # where the first one that is read begins
        files: dict[int, int] = {}
        wanted = set()
        for number, path in zip(numbers, paths, strict=True):
            for row_group, events in enumerate(self.row_groups[path]):
                if begins < stop and begins + events > start:
                    first = begins if first is None else first
                    wanted.add((files.setdefault(number, len(files)), row_group))
                begins += events
        if first is None:
            return
        path_of = dict(zip(numbers, paths, strict=True))
        with closing(self._read([path_of[number] for number in files], list(files), shuffle, wanted)) as row_groups:
            yield from _between(row_groups, start - first, stop - first)

    def _read(
        self, paths: list[str], numbers: list[int], shuffle: tuple[int, int] | None, wanted: set[tuple[int, int]]
    ) -> Generator[Batch, None, None]:
        """Row groups of files, whose numbers in the manifest's order seed the order of their events."""
        from mlaas_spark.ml._petastorm import check_piece, read_row_groups

        filesystem, _ = storage.filesystem(self.folder)
        sums = {file.path: file.checksums for file in self.manifest.files}
        columns = [FEATURES, MASK] if self.manifest.layout == "dense" else list(self.transform.layout.branches)
        decode = _dense if self.manifest.layout == "dense" else _compact

        def one_row_group(events: pa.RecordBatch, file: int, row_group: int) -> Batch:
            order = np.arange(events.num_rows)
            if shuffle is not None:
                order = np.random.default_rng([*shuffle, numbers[file], row_group]).permutation(events.num_rows)
            with self.meter.timed(KERNEL):
                return decode(events, self.transform, order, self.buffers)

        def check(stream: Any, file: int, row_group: int) -> None:
            if (place := (paths[file], row_group)) not in self.checked:
                check_piece(stream, sums[paths[file]], row_group, "it")
                self.checked.add(place)

        return read_row_groups(
            filesystem,
            [storage.filesystem(storage.join(self.folder, path))[1] for path in paths],
            [*columns, *label_columns(len(self.manifest.targets)), WEIGHT],
            one_row_group,
            self.threads,
            lambda file, row_group: (file, row_group) in wanted,
            timed=partial(self.meter.timed_apart, READ, DECODED),
            check=check,
        )


def dataset_of(arrays: Callable[[], Iterator[tuple[Any, ...]]], signature: Iterable[Any]) -> Any:
    """A ``tf.data.Dataset`` of what a function's iterators give; a new iterator is a new call of it."""
    import tensorflow as tf

    options = tf.data.Options()
    options.autotune.enabled = False  # there is nothing to tune, and its thread ends 0.3 s after every other epoch
    return tf.data.Dataset.from_generator(arrays, output_signature=tuple(signature)).with_options(options)


def passes(stream: ChunkStream, seed: int | None) -> tuple[float, float, Batch]:
    """Seconds of a first pass over all events and of a further one, and some of the events, about a row group's.

    Further passes are made for half a second; the mean counts.
    """
    times = [_pass(stream, seed)]
    while sum(times[1:]) < _LONG_ENOUGH_S:
        times.append(_pass(stream, seed))
    batches = itertools.chain.from_iterable(stream.batches(split) for split in SPLITS)
    some = Batch.join(itertools.islice(batches, max(_SOME // stream.batch_size, 1)))
    return times[0], sum(times[1:]) / (len(times) - 1), some


def _pass(stream: ChunkStream, seed: int | None) -> float:
    began = time.perf_counter()
    for split in SPLITS:
        for _ in stream.batches(split, seed=seed):
            pass
    return time.perf_counter() - began


def _check_not_planted(folder: str, manifest: Manifest) -> dict[str, tuple[int, ...]]:
    """Events of each row group of each file; nothing that petastorm would unpickle lies beside or in the files."""
    from mlaas_spark.ml._petastorm import PLANTED_FILES, check_footer

    filesystem, _ = storage.filesystem(folder)
    listed = {storage.join(folder, file.path) for file in manifest.files}
    for place in sorted({folder, *(url.rsplit("/", 1)[0] for url in listed)}):
        names = storage.children(place)
        if planted := sorted(PLANTED_FILES.intersection(names)):
            msg = f"{place} has a file {planted[0]}, which could run code when petastorm reads it: remove it"
            raise ChunkError(msg)
        urls = (storage.join(place, name) for name in names if name.endswith(".parquet") and not name.startswith("."))
        if extra := sorted(set(urls) - listed):
            msg = f"{extra[0]} is not listed in the manifest, somebody has put it among the chunks: remove it"
            raise ChunkError(msg)
    row_groups = {}
    for file in manifest.files:
        url = storage.join(folder, file.path)
        row_groups[file.path] = check_footer(filesystem, storage.filesystem(url)[1], file.checksums)
        if (rows := sum(row_groups[file.path])) != file.rows:
            msg = f"{url} has {rows} events, the manifest says {file.rows}"
            raise ChunkError(msg)
    return row_groups


def _check_transform(folder: str, manifest: Manifest, transform: FeatureTransform) -> None:
    """The transform fits the chunks."""
    if manifest.layout == "dense":
        if manifest.transform is None or FeatureTransform.from_json(manifest.transform) != transform:
            msg = f"the dense chunks in {folder} were made with other specs or feature settings: make them again"
            raise SpecsMismatchError(msg)
        return
    jagged = dict(zip(transform.layout.branches, transform.jagged, strict=True))
    for name, is_jagged in jagged.items():
        if name not in manifest.schema:
            msg = f"the specs have a branch {name!r}, the chunks in {folder} lack it{hint(name, manifest.schema.names)}"
            raise SpecsMismatchError(msg)
        if manifest.schema[name].jagged != is_jagged:
            kinds = ("jagged", "flat") if is_jagged else ("flat", "jagged")
            msg = f"branch {name!r} is {kinds[0]} in the specs, {kinds[1]} in the chunks in {folder}"
            raise SpecsMismatchError(msg)


def _compact(
    events: pa.RecordBatch, transform: FeatureTransform, order: npt.NDArray[np.int64], buffers: Buffers
) -> Batch:
    """Normalise, pad and mask branches; row i is event ``order[i]``."""
    rows = np.empty_like(order)
    rows[order] = np.arange(len(order))
    features = transform.matrix(events, rows, buffers.empty)
    return Batch(features.matrix, features.mask, _answers(events)[order], _numbers(events, WEIGHT)[order])


def _dense(
    events: pa.RecordBatch, transform: FeatureTransform, order: npt.NDArray[np.int64], buffers: Buffers
) -> Batch:
    """Unpack matrix and mask that were made when the chunks were written; row i is event ``order[i]``."""
    width = transform.width
    stored = _fixed_rows(events, FEATURES, 4 * width).view("<f4")
    matrix = buffers.empty(stored.shape, np.float32)
    np.take(stored, order, axis=0, out=matrix, mode="clip")  # "raise" would copy
    mask = np.unpackbits(_fixed_rows(events, MASK, math.ceil(width / 8))[order], axis=1, count=width)
    return Batch(matrix, mask, _answers(events)[order], _numbers(events, WEIGHT)[order])


def _answers(events: pa.RecordBatch) -> npt.NDArray[np.float32]:
    """Labels, shape (n,), or several targets, shape (n, T)."""
    columns = [_numbers(events, name) for name in events.schema.names if name.startswith(LABEL)]
    return columns[0] if len(columns) == 1 else np.column_stack(columns)


def _between(row_groups: Iterable[Batch], start: int, stop: int) -> Iterator[Batch]:
    """The events [start, stop) of row groups."""
    for row_group in row_groups:
        if start < stop and (some := row_group.take(slice(start, stop))):
            yield some
        start, stop = max(start - len(row_group), 0), stop - len(row_group)


def _numbers(events: pa.RecordBatch, name: str) -> npt.NDArray[np.float32]:
    column = _column(events, name)
    numbers: npt.NDArray[np.float32] = column.to_numpy(zero_copy_only=False).astype(np.float32, copy=False)
    return numbers


def _fixed_rows(events: pa.RecordBatch, name: str, length: int) -> npt.NDArray[np.uint8]:
    """The bytes of a fixed-size binary column, shape (n, length), not copied."""
    column = _column(events, name)
    if not pa.types.is_fixed_size_binary(column.type) or column.type.byte_width != length:
        msg = f"column {name} is {column.type}, not {length} bytes an event"
        raise ChunkError(msg)
    data = np.frombuffer(column.buffers()[1], np.uint8, len(column) * length, column.offset * length)
    return data.reshape(len(column), length)


def _column(events: pa.RecordBatch, name: str) -> pa.Array:
    if name not in events.schema.names or events.column(name).null_count:
        msg = f"column {name} is missing or has missing values: these are no chunks of ours"
        raise ChunkError(msg)
    return events.column(name)


def _cut(row_groups: Iterable[Batch], size: int, empty: Empty) -> Iterator[Batch]:
    """Batches of ``size`` events from row groups; only where a batch spans two of them is it copied."""
    waiting: list[Batch] = []
    missing = size
    for row_group in row_groups:
        start = 0
        while len(row_group) - start >= missing:
            part = row_group.take(slice(start, start + missing))
            yield Batch.join([*waiting, part], empty) if waiting else part
            waiting, start, missing = [], start + missing, size
        if start < len(row_group):
            waiting.append(row_group.take(slice(start, len(row_group))))
            missing -= len(row_group) - start
    if waiting:
        yield Batch.join(waiting, empty)
