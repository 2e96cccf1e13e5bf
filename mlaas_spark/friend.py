"""Friend trees: columns of Arrow as a TTree that has the same entries in the same order as an input. No Spark.

Imports uproot to write, as ``root_io`` does to read. A TTree and no RNTuple, since ROOT joins friends of TTrees.
Format: https://root.cern/doc/master/classTTree.html, friends: its method AddFriend.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import awkward as ak
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import uproot

from mlaas_spark import storage
from mlaas_spark.checksums import whole
from mlaas_spark.errors import ConfigError, SpecsError, UnreadableInputError, reason
from mlaas_spark.schema import HALF, of_size

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mlaas_spark.checksums import Checksums
    from mlaas_spark.schema import Branch

BASKET = 32_768
"""Entries of a basket: 128 KiB of float32. A file's baskets do not depend on how its entries came."""

_COMPRESSION = uproot.ZLIB(1)  # which every ROOT reads; scores are noise to all of them, numbers of events are not


@dataclass(frozen=True, slots=True)
class Friend:
    """What a friend tree is called and has.

    Attributes:
        tree: Name of the tree, with its folders: that of its input.
        title: Says what it is, where ROOT lists it.
        branches: Its branches, in order; each a number or a list of numbers.
    """

    tree: str
    title: str
    branches: tuple[Branch, ...]


def refuse_unwritable(branches: Iterable[Branch]) -> None:
    """ConfigError, which names them, if some branches are neither numbers nor lists of numbers."""
    if odd := [branch for branch in branches if branch.why_no_feature]:
        told = ", ".join(f"{branch.name} ({branch.describes})" for branch in odd)
        msg = f"a friend tree has numbers and lists of numbers, not {told}: leave them out of predict.keep"
        raise ConfigError(msg)


def refuse_missing(rows: pa.Table | pa.RecordBatch, branches: Iterable[Branch], where: str) -> None:
    """SpecsError if a whole number or truth value is missing, for which ROOT has no value (NaN is one of floats)."""
    for branch in branches:
        column = rows.column(branch.name)
        values = pc.list_flatten(column) if branch.jagged else column
        if values.null_count and not pa.types.is_floating(values.type):
            msg = (
                f"branch {branch.name!r} has no value in some of {where}, and ROOT has none for a missing "
                f"{branch.dtype}: leave it out (predict.keep, input.identifiers), or write Parquet"
            )
            raise SpecsError(msg)


def write(batches: Iterable[pa.RecordBatch], friend: Friend, url: str) -> Checksums:
    """Write the rows as the entries of a new file's tree; its checksum, with the bytes written.

    One basket's entries are in memory at a time. On a server the file is made on the local disk and uploaded.

    Args:
        batches: Rows in entry order, with a column for each branch; a missing number is written as NaN, a missing
            list as an empty one.
        friend: The tree.
        url: The file, of which nothing is there.

    Raises:
        SpecsError: A whole number or truth value is missing, for which ROOT has no value.
        UnwritableOutputError: No space, no permission, or whatever the file system says.
    """
    if (path := storage.local_path(url)) is not None:
        with storage.writing(url):
            _write(batches, friend, path)
        return whole(path)
    with tempfile.TemporaryDirectory(prefix="mlaas_spark_") as folder:
        copy = Path(folder) / "friend.root"
        with storage.writing(str(copy)):
            _write(batches, friend, copy)
        storage.upload(copy, url)
        return whole(copy)


def _write(batches: Iterable[pa.RecordBatch], friend: Friend, path: Path) -> None:
    counters = _counters(friend.branches)
    with uproot.recreate(path, compression=_COMPRESSION) as file:
        kinds = {branch.name: _kind(branch) for branch in friend.branches}
        tree = file.mktree(friend.tree, kinds, friend.title, counter_name=counters.__getitem__)
        for batch in of_size(batches, BASKET):
            refuse_missing(batch, friend.branches, "the rows")
            tree.extend({branch.name: _values(batch.column(branch.name), branch) for branch in friend.branches})


def entries(path: Path) -> int:
    """Entries of the one tree of a file that :func:`write` has written.

    Raises:
        UnreadableInputError: It cannot be read.
    """
    try:
        with uproot.open(path) as file:
            (name,) = file.keys(filter_classname="TTree", cycle=False)
            return int(file[name].num_entries)
    except Exception as error:  # uproot has no base class for what it raises on damaged input
        raise UnreadableInputError(str(path), reason(error)) from error


def _counters(branches: Sequence[Branch]) -> dict[str, str]:
    """For each jagged branch a name of the branch that counts its values: ``n<name>``, or with more ``n`` if taken."""
    taken = {branch.name for branch in branches}
    counters = {}
    for branch in branches:
        if branch.jagged:
            name = f"n{branch.name}"
            while name in taken:
                name = f"n{name}"
            taken.add(name)
            counters[branch.name] = name
    return counters


def _kind(branch: Branch) -> Any:
    dtype = np.dtype("float32" if branch.dtype == HALF else branch.dtype)
    return ak.types.ListType(ak.types.NumpyType(dtype.name)) if branch.jagged else dtype


def _values(column: pa.Array, branch: Branch) -> Any:
    """The values of some entries, as uproot takes them."""
    if not branch.jagged:
        return _numbers(column)
    column = column.fill_null([]) if column.null_count else column
    offsets = column.offsets.to_numpy()
    content = ak.contents.NumpyArray(_numbers(column.values[offsets[0] : offsets[-1]]))
    return ak.Array(ak.contents.ListOffsetArray(ak.index.Index32(offsets - offsets[0]), content))


def _numbers(values: pa.Array) -> Any:
    values = values.fill_null(float("nan")) if values.null_count else values
    return values.to_numpy(zero_copy_only=False)
