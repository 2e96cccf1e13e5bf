"""Row groups of Parquet files through petastorm's Reader, in a fixed order. The only importer of petastorm.

petastorm gives the threads and hands out row groups; what becomes of a row group is up to the caller's ``decode``.
Two habits of petastorm 0.13 are kept away from here: it unpickles metadata that it finds (issue #741), so it is shown
nothing but the files listed; and it forgets row groups in a race of its ventilator, so they are counted.
"""

from __future__ import annotations

import threading
import warnings
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from mlaas_spark.checksums import crc32, span
from mlaas_spark.errors import ChunkError, MlaasSparkError, reason

with warnings.catch_warnings():
    # pyarrow 14 deprecates the file system interface that petastorm 0.13 is built on; both are pinned
    warnings.filterwarnings("ignore", "pyarrow.*deprecated", FutureWarning)
    from petastorm.reader import Reader
    from petastorm.workers_pool import EmptyResultError
    from petastorm.workers_pool.thread_pool import ThreadPool
    from petastorm.workers_pool.worker_base import WorkerBase
    from pyarrow.filesystem import FileSystem

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence
    from contextlib import AbstractContextManager

    from mlaas_spark.checksums import Checksums

T = TypeVar("T")

PLANTED_FILES = frozenset({"_common_metadata", "_metadata"})
"""Files whose content petastorm's own entry points unpickle."""

_PLANTED_KEYS = b"dataset-toolkit."  # petastorm's keys: unischema.v1, num_row_groups_per_file.v1, rowgroups_index.v1
_READY_AHEAD = 2  # row groups that a thread may have ready before they are asked for: bounds the memory
_WAIT_S = 0.05  # how often a waiting thread looks whether the stream was closed
_constructing = threading.Lock()  # warnings.catch_warnings is not safe between threads


def check_footer(filesystem: Any, path: str, sums: Checksums = ()) -> tuple[int, ...]:
    """Rows of each row group of a Parquet file, after a look at its footer, which is as ``sums`` say.

    Raises:
        ChunkError: It cannot be read, was changed, or holds metadata that petastorm would unpickle.
    """
    try:
        with _open(filesystem, path) as stream:
            check_piece(stream, sums, -1, f"the footer of {path}")
            metadata = pq.read_metadata(stream)
    except (OSError, pa.ArrowException) as error:
        msg = f"cannot read {path}: {reason(error)}"
        raise ChunkError(msg) from error
    if planted := [key for key in metadata.metadata or {} if key.startswith(_PLANTED_KEYS)]:
        msg = f"{path} holds pickled petastorm metadata ({planted[0].decode()}), which could run code: not opened"
        raise ChunkError(msg)
    return tuple(int(metadata.row_group(number).num_rows) for number in range(metadata.num_row_groups))


def check_piece(stream: Any, sums: Checksums, piece: int, what: str) -> None:
    """A piece of an open file is as it was written; where there are no checksums nothing is said.

    Raises:
        ChunkError: It is not.
    """
    if sums and crc32(stream, *span(sums, piece)) != sums[piece][1]:
        start, stop = span(sums, piece)
        msg = (
            f"{what} is not as it was written: bytes [{start}, {stop}) have another checksum than the manifest says; "
            "remove the data set and make it again, mlaas-spark verify names all that is damaged"
        )
        raise ChunkError(msg)


def read_row_groups(
    filesystem: Any,
    paths: Sequence[str],
    columns: Sequence[str],
    decode: Callable[[pa.RecordBatch, int, int], T],
    threads: int,
    wanted: Callable[[int, int], bool] | None = None,
    timed: Callable[[], AbstractContextManager[None]] = nullcontext,
    check: Callable[[Any, int, int], None] | None = None,
) -> Generator[T, None, None]:
    """``decode(events, file index, row group)`` of every row group, in the order of ``paths``, whatever the threads.

    Closing the generator stops the threads and waits for them.

    Args:
        filesystem: fsspec filesystem of the paths.
        paths: Files, as paths of that filesystem; no other file is opened.
        columns: Columns to read.
        decode: Called in worker threads.
        threads: Worker threads.
        wanted: ``wanted(file index, row group)``: whether to read it; None reads all.
        timed: A row group is read and decompressed within what it makes.
        check: ``check(open file, file index, row group)`` is called before a row group is read, in worker threads.

    Raises:
        ChunkError: A row group cannot be read or decoded; file and row group are named.
    """
    if not paths:
        return
    job = _Job(tuple(columns), decode, wanted, timed, check)
    with _constructing, _quiet_constructor():
        try:
            reader = Reader(
                _ListedFiles(filesystem, paths),
                list(paths),
                shuffle_row_groups=False,
                num_epochs=1,
                reader_pool=_CountedPool(threads),
                worker_class=job,
                is_batched_reader=True,
            )
        except (OSError, pa.ArrowException) as error:
            msg = f"cannot read the files of a chunk data set, {paths[0]} and others: {reason(error)}"
            raise ChunkError(msg) from error
    early: dict[int, _Outcome[T]] = {}
    due = 0
    try:
        for outcome in reader:
            early[outcome.piece] = outcome
            while due in early:
                current = early.pop(due)
                due += 1
                if current.error is not None:
                    raise current.error
                yield from current.values
                current.taken.release()
                del current  # a row group may be tens of MB: do not hold it while waiting for the next
    finally:
        job.closed.set()
        reader.stop()  # not ``with reader``, which prints when it is left
        reader.join()


@dataclass(frozen=True, slots=True)
class _Outcome(Generic[T]):
    """What became of a row group: one value, or an error to be raised by the consumer."""

    piece: int
    values: tuple[T, ...]
    error: BaseException | None
    taken: threading.Semaphore


@dataclass(frozen=True, slots=True)
class _Job:
    """What petastorm takes for a worker class: makes the workers and reads their results."""

    columns: tuple[str, ...]
    decode: Callable[[pa.RecordBatch, int, int], Any]
    wanted: Callable[[int, int], bool] | None = None
    timed: Callable[[], AbstractContextManager[None]] = nullcontext
    check: Callable[[Any, int, int], None] | None = None
    closed: threading.Event = field(default_factory=threading.Event)

    def __call__(self, worker_id: int, publish: Callable[[Any], None], args: Sequence[Any]) -> _Worker:
        return _Worker(worker_id, publish, args, self)

    def new_results_queue_reader(self) -> _Results:
        return _Results()


class _Results:
    """Takes outcomes from the pool until every row group has come."""

    batched_output = True

    def __init__(self) -> None:
        self._received = 0

    def read_next(self, pool: Any, *_: Any) -> _Outcome[Any]:
        while True:
            try:
                outcome: _Outcome[Any] = pool.get_results()
            except EmptyResultError:
                # the pool may say so while its ventilator is handing out the last row group
                if self._received >= pool.row_groups:
                    raise StopIteration from None
            else:
                self._received += 1
                return outcome


class _CountedPool(ThreadPool):  # type: ignore[misc] # petastorm has no types
    """petastorm's thread pool, which also knows how many row groups there are."""

    row_groups = 0

    def start(self, worker_class: Any, worker_args: Any = None, ventilator: Any = None) -> None:
        self.row_groups = len(worker_args[4])
        super().start(worker_class, worker_args, ventilator)

    def current_worker_done(self, worker_id: int) -> bool:
        """As petastorm has it, which asks while it waits; a thread that died will never be done, and is named."""
        done = bool(super().current_worker_done(worker_id))
        if not done and not self._workers[worker_id].is_alive() and self._results_queues[worker_id].empty():
            if self._stop_event.is_set() or super().current_worker_done(worker_id):
                return done
            msg = f"reading thread {worker_id} has died, row groups that it had to read will not come: train again"
            raise ChunkError(msg)
        return done


class _Worker(WorkerBase):  # type: ignore[misc] # petastorm has no types
    """Reads one row group at a time with pyarrow; an error is a result, so that petastorm prints no traceback."""

    def __init__(self, worker_id: int, publish: Callable[[Any], None], args: Sequence[Any], job: _Job) -> None:
        super().__init__(worker_id, publish, args)
        self._files, self._pieces = args[0], args[4]
        self._job = job
        self._slots = threading.Semaphore(_READY_AHEAD)
        self._open: tuple[str, Any, pq.ParquetFile] | None = None

    def process(self, piece_index: int, **_: Any) -> None:
        while not self._slots.acquire(timeout=_WAIT_S):
            if self._job.closed.is_set():
                return
        piece = self._pieces[piece_index]
        where = f"{piece.path}, row group {piece.row_group}"
        values: tuple[Any, ...] = ()
        failure: BaseException | None = None
        try:
            values = self._read(piece.path, piece.row_group)
        except MlaasSparkError as error:
            failure = _caused(ChunkError(f"{where}: {error}"), error)
        except (OSError, pa.ArrowException) as error:
            failure = _caused(ChunkError(f"cannot read {where}: {reason(error)}"), error)
        except BaseException as error:  # noqa: BLE001 - whatever it is, a panic of polars too, must reach the consumer
            failure = error
        self.publish_func(_Outcome(piece_index, values, failure, self._slots))

    def _read(self, path: str, row_group: int) -> tuple[Any, ...]:
        file = self._files.paths.index(path)
        if self._job.wanted is not None and not self._job.wanted(file, row_group):
            return ()
        if self._open is None or self._open[0] != path:
            stream = self._files.open(path)
            self._open = (path, stream, pq.ParquetFile(stream))
        _, stream, opened = self._open
        if self._job.check is not None:
            self._job.check(stream, file, row_group)
        with self._job.timed():
            table = opened.read_row_group(row_group, columns=list(self._job.columns), use_threads=False)
        return tuple(self._job.decode(batch, file, row_group) for batch in table.combine_chunks().to_batches())


class _ListedFiles(FileSystem):  # type: ignore[misc] # pyarrow has no types
    """The part of pyarrow's old file system interface that petastorm needs, over fsspec, for listed files alone."""

    def __init__(self, filesystem: Any, paths: Sequence[str]) -> None:
        self.filesystem = filesystem
        self.paths = list(paths)

    def isdir(self, path: str) -> bool:
        """Never: no folder is listed, so none is searched for metadata."""
        del path
        return False

    def isfile(self, path: str) -> bool:
        """Whether it is one of ours and there."""
        return path in self.paths and bool(self.filesystem.isfile(path))

    def open(self, path: str, mode: str = "rb") -> Any:
        """A listed file for reading."""
        if path not in self.paths or mode != "rb":
            msg = f"{path} is not listed in the manifest: not opened"
            raise ChunkError(msg)
        return _open(self.filesystem, path)


def _open(filesystem: Any, path: str) -> Any:
    """Local files by pyarrow itself, which needs no lock of Python's to read."""
    return pa.OSFile(path, "rb") if isinstance(filesystem, LocalFileSystem) else filesystem.open(path, "rb")


def _caused(error: ChunkError, cause: Exception) -> ChunkError:
    error.__cause__ = cause
    return error


@contextmanager
def _quiet_constructor() -> Iterator[None]:
    """Without the warnings that petastorm's use of pyarrow gives while a Reader is made."""
    with warnings.catch_warnings():
        # the data set classes of pyarrow that petastorm 0.13 uses are deprecated; both are pinned
        warnings.filterwarnings("ignore", category=FutureWarning)
        # petastorm makes a schema of its own, which we do not use, and which lacks unsigned types
        warnings.filterwarnings("ignore", "Column .* has an unsupported field", UserWarning)
        yield
