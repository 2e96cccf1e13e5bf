"""Friend trees of scored inputs: the Parquet files of an input's ranges become one TTree, an executor's task an input.

So the ranges of a large file are scored by many cores, and what one task joins are the columns of the output alone,
a basket's entries at a time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, TypeAlias

import pyarrow.parquet as pq

from mlaas_spark import drift, friend, storage
from mlaas_spark.errors import ChunkError, FilesetError, UnreadableInputError
from mlaas_spark.filesets import format_of
from mlaas_spark.friend import BASKET, Friend
from mlaas_spark.manifest import DataFile, request_digest, value_digest
from mlaas_spark.schema import of_size
from mlaas_spark.spark.convert import Parts
from mlaas_spark.spark.session import spread

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

    import pyarrow as pa

    from mlaas_spark.manifest import Staging
    from mlaas_spark.plan import PlannedFile
    from mlaas_spark.schema import Branch

TREE = "Events"
"""Name of the friend tree of an input that has no trees."""

SUFFIX = ".scores.root"

Gather: TypeAlias = Callable[[Parts], list[tuple[DataFile, str]]]


@dataclass(frozen=True, slots=True)
class _Job:
    """An input whose friend tree is to be made.

    Attributes:
        task: Name in the ledger.
        friend: The tree.
        parts: Files of its ranges, in entry order.
        input: Its place among the inputs.
    """

    task: str
    friend: Friend
    parts: tuple[DataFile, ...]
    input: int


def gather(title: str, branches: Sequence[Branch]) -> Gather:
    """The function that makes a friend tree for each input out of the files of its ranges.

    A friend file is named after its input, see :func:`names`. It is not made again if an earlier try has made it.

    Raises:
        UnreadableInputError: An input has given fewer rows than it has entries.
        UnwritableOutputError: A file cannot be written.
    """
    return partial(_gathered, title, tuple(branches))


def _gathered(title: str, branches: tuple[Branch, ...], parts: Parts) -> list[tuple[DataFile, str]]:
    files, staging = parts.events.plan.files, parts.staging
    of_inputs: dict[int, list[DataFile]] = {}
    for entries in sorted(parts.files, key=lambda entries: (entries.file, entries.start)):
        of_inputs.setdefault(entries.file, []).extend(parts.files[entries])
    jobs = [
        _Job(f"{index:06d}-friend", Friend(files[index].tree or TREE, title, branches), tuple(of_input), index)
        for index, of_input in of_inputs.items()
    ]
    for job in jobs:
        _refuse_short(files[job.input], job.parts)
    if missing := [job for job in jobs if staging.finished(job.task) is None]:
        spread(parts.events.spark, missing, partial(_written, staging))
    made = names([files[job.input] for job in jobs], parts.taken)
    return [
        (file, name) for job, name in zip(jobs, made, strict=True) for file in staging.finished(job.task) or _gone(job)
    ]


def _refuse_short(file: PlannedFile, parts: Sequence[DataFile]) -> None:
    if (rows := sum(part.rows for part in parts)) != file.entries:
        why = f"it gave {rows} of {file.entries} entries: it was changed while it was read, run the job again"
        raise UnreadableInputError(file.path, why, file.tree or None)


def _gone(job: _Job) -> list[DataFile]:
    msg = f"the record of {job.task} is gone: another job has committed it, run this one again"
    raise ChunkError(msg)


def _written(staging: Staging, jobs: Iterator[_Job]) -> Iterator[int]:
    for job in jobs:
        digests: list[str] = []
        url = staging.new_file(".root")
        sums = friend.write(_digested(_rows(staging, job.parts), digests), job.friend, url)
        rows = sum(part.rows for part in job.parts)
        selected = sum(part.events for part in job.parts)
        made = DataFile(
            path=url.rsplit("/", 1)[-1],
            rows=rows,
            bytes=sums[-1][0],
            ranges=((job.input, 0, rows),),
            digest=request_digest(digests),
            drift=drift.merged(part.drift for part in job.parts),
            selected=None if selected == rows else selected,
            checksums=sums,
        )
        staging.finish(job.task, [made])
        yield rows


def _rows(staging: Staging, parts: Iterable[DataFile]) -> Iterator[pa.RecordBatch]:
    for part in parts:
        url = storage.join(staging.url, part.path)
        try:
            with storage.open_mapped(url) as content, pq.ParquetFile(content) as file:
                yield from file.iter_batches(BASKET)
        except FileNotFoundError as error:
            msg = f"{url} is gone before it was joined: run the job again"
            raise ChunkError(msg) from error


def _digested(batches: Iterable[pa.RecordBatch], digests: list[str]) -> Iterator[pa.RecordBatch]:
    """The rows in batches of a basket, whose values' digests are added: they do not depend on the ranges."""
    for batch in of_size(batches, BASKET):
        digests.append(value_digest(batch))
        yield batch


def names(files: Sequence[PlannedFile], taken: Collection[str] = ()) -> list[str]:
    """Names for the friend files of inputs.

    ``<input>.scores.root``; with several trees of one file ``<input>.<tree>.scores.root``. A name that an input before
    it has, or that the folder's manifest lists, is not given again: then it is ``<input>-<digits>.scores.root``, eight
    digits that are of the input's content (uuid, tree, number of the copy) alone.
    """
    trees = Counter(file.path for file in files)
    used, found = set(taken), []
    for file in files:
        stem = _stem(file.path)
        if trees[file.path] > 1:
            stem = f"{stem}.{file.tree.replace('/', '_')}"
        name = f"{stem}{SUFFIX}"
        if name in used:
            name = f"{stem}-{request_digest([file.key])[:8]}{SUFFIX}"
        used.add(name)
        found.append(name)
    return found


def _stem(path: str) -> str:
    """Name of a file without what says its format: ``f`` of ``/data/f.json.gz``."""
    name = PurePosixPath(path).name
    while suffix := PurePosixPath(name).suffix:
        try:
            format_of(name)
        except FilesetError:
            break
        name = name.removesuffix(suffix)
    return name
