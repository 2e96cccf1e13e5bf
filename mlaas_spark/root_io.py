"""ROOT files through uproot: one header -> schema and clusters, one entry range -> one Arrow batch. No Spark.

The only module that reads by uproot; what that does not check, ``root_integrity`` does. Whatever uproot raises leaves
here as an error that names file, tree and entries.
"""

from __future__ import annotations

import logging
import lzma
import os
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from fnmatch import fnmatchcase
from functools import wraps
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import awkward as ak
import cramjam
import deflate
import numpy as np
import pyarrow as pa
import uproot

from mlaas_spark import root_integrity, storage, xrootd
from mlaas_spark.errors import BranchNotFoundError, DamagedInputError, TreeNotFoundError, UnreadableInputError, reason
from mlaas_spark.plan import Header
from mlaas_spark.readers import Contents, How, Reader
from mlaas_spark.schema import ENTRY, FILE, HALF, NUMERIC, STRING, Branch, EventSchema, Omitted, column_name
from mlaas_spark.xrootd import PATIENCE, Patience, RemoteFile, XRootDError

if TYPE_CHECKING:
    import queue
    from collections.abc import Iterator, Mapping, Sequence

    import numpy.typing as npt

    from mlaas_spark.plan import PlannedFile

_log = logging.getLogger(__name__)


_LARGEST_OFFSET = 2**31 - 1  # of Arrow's lists

# What uproot, its decompressors and the file layer raise on damaged input; uproot has no common base class.
_FAILURES = (
    OSError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    AssertionError,
    NameError,  # uproot's decompress, of a name that damage left unset
    NotImplementedError,
    ArithmeticError,
    MemoryError,
    RuntimeError,
    StopIteration,
    EOFError,
    struct.error,
    deflate.DeflateError,
    uproot.interpretation.objects.CannotBeAwkward,
    uproot.interpretation.identify.UnknownInterpretation,
    zlib.error,
    lzma.LZMAError,
    cramjam.DecompressionError,
    uproot.deserialization.DeserializationError,
)


def read_header(path: str, tree: str | None = None, patience: Patience = PATIENCE) -> Header:
    """Schema, entries and clusters of a tree; reads no events.

    Args:
        path: Local path or URL.
        tree: Name of the tree; None for the only one.
        patience: With an XRootD server.

    Raises:
        TreeNotFoundError: No such tree, or several and none named.
        UnreadableInputError: The file cannot be opened or is damaged.
    """
    with _open(path, patience) as file:
        return _header(file, path, _tree_name(file, path, tree))


def read_headers(path: str, tree: str | None = None, patience: Patience = PATIENCE) -> list[Header]:
    """As :func:`read_header`; where ``tree`` is a glob, of every tree that it matches, by name.

    ``*`` matches ``/`` too. A name is also itself, whatever characters it has.
    """
    with _open(path, patience) as file:
        return [_header(file, path, name) for name in _matching_trees(file, path, tree)]


def _header(file: Any, path: str, name: str) -> Header:
    with _named(path, name):
        opened = file[name]
        entries = int(opened.num_entries)
        root_integrity.check_tree(opened, entries, path, name)
        return Header(path, name, file.file.uuid.hex, entries, _clusters(opened, entries), _schema(opened))


def read_contents(path: str, tree: str, patience: Patience = PATIENCE) -> Contents:
    """All trees of a file, and what the branches of ``tree`` take on disk; reads no events.

    Raises:
        UnreadableInputError: The file cannot be opened or is damaged.
    """
    with _open(path, patience) as file, _named(path, tree):
        trees = {name: int(file[name].num_entries) for name in _tree_names(file)}
        return Contents(trees, _compressed(file[tree]))


def read_ranges(
    path: str,
    tree: str,
    schema: EventSchema,
    ranges: Sequence[tuple[int, int]],
    file_index: int,
    uuid: str | None = None,
    patience: Patience = PATIENCE,
) -> Iterator[pa.RecordBatch]:
    """One batch for each entry range [start, stop): the branches of ``schema``, file index and entry number.

    The file is opened once.

    Raises:
        BranchNotFoundError: A branch of the schema is not in the tree.
        UnreadableInputError: The entries cannot be read, a list has not as many values as its counter says, or the
            file is not the one with ``uuid``.
    """
    with _open(path, patience) as file:
        if uuid is not None and file.file.uuid.hex != uuid:
            raise UnreadableInputError(
                path, f"it was replaced since it was planned (uuid {file.file.uuid.hex}, not {uuid})", tree
            )
        with _named(path, tree):
            opened = file[tree]
            present = set(opened.keys(recursive=True))
        if missing := [branch.source for branch in schema.branches if branch.source not in present]:
            raise BranchNotFoundError(missing[0], present, f"tree {tree} of {path}")
        with _named(path, tree):
            counters = _counters(opened, schema)
        for start, stop in ranges:
            with _named(path, tree, (start, stop)):
                batch, odd = _read(opened, schema, counters, start, stop, file_index)
            if odd is not None:
                entry, why = odd
                raise DamagedInputError(path, why, tree, (entry, entry + 1))
            yield batch


def _read(
    tree: Any, schema: EventSchema, counters: Mapping[str, str], start: int, stop: int, file_index: int
) -> tuple[pa.RecordBatch, tuple[int, str] | None]:
    """The events, and the first entry in which a list is not as long as its counter says, if there is one."""
    sources = sorted({*(branch.source for branch in schema.branches), *counters.values()})
    plain = {source: kind for source in sources if (kind := _plain_numbers(tree[source])) is not None}
    # members of an RNTuple's objects one by one: asked for together, uproot gives the objects that they are of
    members = [] if hasattr(tree, "tree") else [source for source in sources if "." in source]
    together = [source for source in sources if source not in plain and source not in members]
    # a range is read once: uproot need not keep it
    given = {"entry_start": start, "entry_stop": stop, "array_cache": None}
    arrays = tree.arrays(plain, library="np", how=dict, **given) if plain else {}
    arrays |= tree.arrays(together, how=dict, **given) if together else {}
    arrays |= {source: tree[source].array(**given) for source in members}
    columns = [_to_arrow(arrays[branch.source], branch, stop - start) for branch in schema.branches]
    columns.append(pa.array(np.full(stop - start, file_index, np.int32)))
    columns.append(pa.array(np.arange(start, stop, dtype=np.int64)))
    batch = pa.RecordBatch.from_arrays(columns, names=[*schema.names, FILE, ENTRY])
    return batch, _miscounted(batch, arrays, counters, start)


class _Lists(root_integrity.Lists):
    """Jagged numbers as an Arrow array: the values of each basket are copied once, to their place."""

    def final_array(
        self,
        basket_arrays: Mapping[int, Any],
        entry_start: int,
        entry_stop: int,
        entry_offsets: Sequence[int],
        *_: Any,
    ) -> pa.ListArray:
        parts = [
            (basket_arrays[number].offsets[max(entry_start - first, 0) : entry_stop - first + 1], basket_arrays[number])
            for number, (first, last) in enumerate(pairwise(entry_offsets))
            if first < entry_stop and entry_start < last
        ]
        for edges, basket in parts:  # before memory is taken for as many
            first, last = int(edges[0]), int(edges[-1])
            if not 0 <= first <= last <= len(basket.content):
                msg = f"a basket has {len(basket.content)} values where its offsets or counters say [{first}, {last})"
                raise ValueError(msg)
        total = sum(int(edges[-1]) - int(edges[0]) for edges, _ in parts)
        if total > _LARGEST_OFFSET:
            msg = f"{total} values of a branch in one range are too many: make spark.events_per_task smaller"
            raise ValueError(msg)
        offsets, values = np.zeros(entry_stop - entry_start + 1, np.int32), np.empty(total, self.content.to_dtype)
        row = place = 0
        for edges, basket in parts:
            first, last = int(edges[0]), int(edges[-1])
            values[place : place + last - first] = basket.content[first:last]
            offsets[row + 1 : row + len(edges)] = edges[1:] - first + place
            row, place = row + len(edges) - 1, place + last - first
        if (offsets[1:] < offsets[:-1]).any():
            msg = "a basket has offsets that go back"
            raise ValueError(msg)
        return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values))


def _plain_numbers(branch: Any) -> Any:
    """How to read a TTree's branch of numbers, flat or jagged, without awkward; None for every other kind."""
    kind: Any = getattr(branch, "interpretation", None)
    numbers: Any = kind.content if type(kind) is uproot.AsJagged else kind
    # of this class alone: Double32_t and others derive from it
    if type(numbers) is not uproot.AsDtype or numbers.inner_shape or numbers.to_dtype.name not in NUMERIC:
        return None
    if numbers is kind:
        return root_integrity.Numbers(kind.from_dtype, kind.to_dtype)
    return _Lists(numbers, kind.header_bytes, kind.typename)


def _miscounted(
    batch: pa.RecordBatch, arrays: Mapping[str, Any], counters: Mapping[str, str], start: int
) -> tuple[int, str] | None:
    for name, counter in counters.items():
        lengths, counted = np.diff(batch.column(name).offsets.to_numpy()), np.asarray(arrays[counter])
        if (differs := np.flatnonzero(lengths != counted)).size:
            at = int(differs[0])
            why = f"branch {name!r} has {lengths[at]} values where its counter {counter!r} says {counted[at]}"
            return start + at, why
    return None


def _counters(tree: Any, schema: EventSchema) -> dict[str, str]:
    """For each jagged branch the one of whole numbers that counts its values, where a TTree has such.

    uproot takes the lengths of lists from the baskets and does not look at the counter.
    """
    counters = {}
    for branch in schema.branches:
        counter = getattr(tree[branch.source], "count_branch", None) if branch.jagged else None
        if counter is not None and counter.parent is tree and _counts(counter):
            counters[branch.name] = counter.name
    return counters


def _counts(branch: Any) -> bool:
    kind = branch.interpretation
    return isinstance(kind, uproot.AsDtype) and kind.to_dtype.kind in "iu" and not branch.branches


def _to_arrow(array: ak.Array | npt.NDArray[Any] | pa.Array, branch: Branch, entries: int) -> pa.Array:
    """An array as the column type of its branch; no copy where the buffers fit."""
    if len(array) != entries:
        msg = f"branch {branch.name!r} has {len(array)} values for {entries} entries"
        raise ValueError(msg)
    column = _of_awkward(array, branch) if isinstance(array, ak.Array) else pa.array(array)
    column = column if column.type == branch.arrow_type else column.cast(branch.arrow_type)
    if branch.why_no_feature:
        column.validate(full=True)  # text that is not UTF-8 is refused here, not by who reads the Parquet file
    return column


def _of_awkward(array: ak.Array, branch: Branch) -> pa.Array:
    if array.fields:  # a member of the objects in a list
        array = array[array.fields[0]]
    if HALF in branch.dtype:
        array = ak.values_astype(array, np.float32)
    return _plain(ak.to_arrow(array, list_to32=True, string_to32=True, extensionarray=False))


def _plain(column: pa.Array) -> pa.Array:
    """Lists named and nullable as everywhere else, whatever awkward says of their content; fixed sizes as lists."""
    if pa.types.is_fixed_size_list(column.type):
        column = column.cast(pa.list_(column.type.value_type))
    return pa.ListArray.from_arrays(column.offsets, _plain(column.values)) if pa.types.is_list(column.type) else column


def _schema(tree: Any) -> EventSchema:
    branches, omitted = [], []
    for source, branch in tree.items(recursive=True):
        if (name := _printable(source)) != source:
            omitted.append(Omitted(name, "its name is not UTF-8"))
            continue
        kind = _kind(source, branch) if _is_found(tree, source, branch) else "another branch has its name"
        if isinstance(kind, str):
            omitted.append(Omitted(source, kind))
        else:
            dtype, jagged = kind
            branches.append(Branch(column_name(source), source, dtype, jagged))
    return EventSchema.of(branches, omitted)


def _printable(name: str) -> str:
    """The name as it is where it is UTF-8, else with its bytes spelled out."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _is_found(tree: Any, source: str, branch: Any) -> bool:
    """Whether the branch is what its name finds: a TTree may have several of one name."""
    try:
        return not hasattr(branch, "interpretation") or tree[source] is branch
    except KeyError:
        return False


def _kind(source: str, branch: Any) -> tuple[str, bool] | str:
    """(numpy type, jagged) of a branch, or the reason it cannot be a feature."""
    if len(getattr(branch, "branches", ())):
        return "a group of branches; its members are branches of their own"
    try:
        form = _form(branch)
    except _FAILURES as error:
        return f"uproot cannot read its type ({reason(error)})"
    return _kind_of_form(form, source)


def _form(branch: Any) -> ak.forms.Form:
    """Awkward form of a TTree's branch or an RNTuple's field."""
    if hasattr(branch, "interpretation"):
        return branch.interpretation.awkward_form(branch.file)
    record, _ = branch.to_akform()
    return record.contents[0] if record.is_record else record


def _kind_of_form(form: ak.forms.Form, source: str) -> tuple[str, bool] | str:
    depth, member = 0, source.rpartition(".")[2]
    while form.parameter("__array__") is None and (form.is_list or _holds_alone(form, member, source)):
        depth, form = (depth + 1, form.content) if form.is_list else (depth, form.contents[0])
    if form.parameter("__array__") == STRING:
        dtype = STRING
    elif form.parameter("__array__") in {"bytestring", "bytes", "byte", "char"}:
        return "bytes are neither numbers nor text"
    elif form.parameter("__array__") is not None or not form.is_numpy:  # C++'s set, map and bitset; classes
        return f"objects of type {form.type}"
    else:
        depth += len(getattr(form, "inner_shape", ()))
        dtype = form.primitive
        if dtype not in NUMERIC:
            return f"values of type {dtype}"
    inner = max(depth - 1, 0)
    return "list<" * inner + dtype + ">" * inner, depth > 0


def _holds_alone(form: ak.forms.Form, member: str, source: str) -> bool:
    """Whether it is what uproot makes of a member of the objects in an RNTuple's list: objects of that one member."""
    return form.is_record and form.fields == [member] and member != source


def _clusters(tree: Any, entries: int) -> tuple[int, ...]:
    """Entries where baskets of all branches begin together, and the end.

    TTree does not keep its clusters where uproot reads them; the baskets' common boundaries are the same thing.
    """
    if hasattr(tree, "common_entry_offsets"):
        edges = {int(edge) for edge in tree.common_entry_offsets()}
    else:
        edges = {int(cluster.num_first_entry) for cluster in tree.cluster_summaries}
    return tuple(sorted({0, entries} | {edge for edge in edges if 0 < edge < entries}))


def _compressed(tree: Any) -> dict[str, int | None]:
    named = tree.items(recursive=True)
    if hasattr(tree, "page_link_list"):
        return {**_bytes_of_pages(tree, {field.field_id: name for name, field in named})}
    return {name: None if branch.embedded_baskets else int(branch.compressed_bytes) for name, branch in named}


def _bytes_of_pages(ntuple: Any, names: dict[int, str]) -> dict[str, int]:
    """Bytes of the pages of each named field of an RNTuple; each page counts for one field."""
    sizes = dict.fromkeys(names.values(), 0)
    owners = [_owner(ntuple.field_records, column.field_id, names) for column in ntuple.column_records]
    for cluster in ntuple.page_link_list:
        for owner, column in zip(owners, cluster, strict=False):  # a cluster may be older than the last columns
            sizes[owner] += sum(page.locator.num_bytes for page in column.pages)
    return sizes


def _owner(fields: Sequence[Any], number: int, names: dict[int, str]) -> str:
    """Name of an RNTuple's field; the elements of a list have none, theirs is that of the list."""
    while number not in names:
        number = fields[number].parent_field_id
    return names[number]


def _tree_names(file: Any) -> list[str]:
    kinds = ("TTree", "TNtuple", "TNtupleD", "ROOT::RNTuple", "ROOT::Experimental::RNTuple")
    return list(file.keys(recursive=True, cycle=False, filter_classname=lambda kind: kind in kinds))


def _tree_name(file: Any, path: str, tree: str | None) -> str:
    with _named(path, tree):
        names = tuple(dict.fromkeys(_tree_names(file)))
    if tree is None and len(names) == 1:
        return names[0]
    if tree is None or tree not in names:
        raise TreeNotFoundError(tree or "", path, names)
    return tree


def _matching_trees(file: Any, path: str, tree: str | None) -> list[str]:
    if tree is not None and storage.has_glob(tree):
        with _named(path, tree):
            names = sorted(set(_tree_names(file)))
        if tree not in names and (found := [name for name in names if fnmatchcase(name, tree)]):
            return found
    return [_tree_name(file, path, tree)]


class _Within(uproot.source.file.FileResource):  # type: ignore[misc] # uproot has no types
    """A local file of which nothing is read that it has not: to read takes memory for all that was asked for."""

    def get(self, start: int, stop: int) -> bytes:
        end = min(stop, os.fstat(self._file.fileno()).st_size)
        content: bytes = super().get(start, max(start, end))
        return content


class _LocalReads(uproot.MultithreadedFileSource):  # type: ignore[misc]
    """A local file, read by one thread beside that which unpacks."""

    def _open(self) -> None:
        self._executor = uproot.source.futures.ResourceThreadPoolExecutor([_Within(self._file_path)])
        self._num_bytes = Path(self._file_path).stat().st_size


class _VectorReads(uproot.source.chunk.Source):  # type: ignore[misc] # uproot has no types
    """A file of an XRootD server: the baskets of a range come in a few vector reads, unpacked while the next is read.

    uproot's own sources do so too, but wait for an answer without an end.
    """

    def __init__(self, file_path: str, *, remote: RemoteFile, **_: Any) -> None:
        super().__init__()
        self._file_path, self._remote, self._num_bytes = file_path, remote, remote.size
        self._executor = ThreadPoolExecutor(1)
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._closed = True
        self._executor.shutdown(wait=False, cancel_futures=True)
        self._remote.close()

    @property
    def closed(self) -> bool:
        return self._closed

    def chunk(self, start: int, stop: int) -> Any:
        content = self._remote.read(start, stop)
        return uproot.source.chunk.Chunk(self, start, stop, uproot.source.futures.TrivialFuture(content))

    def chunks(self, ranges: list[tuple[int, int]], notifications: queue.Queue[Any]) -> list[Any]:
        made: dict[tuple[int, int], Any] = {}
        for batch in xrootd.batches(ranges):
            future = self._executor.submit(self._remote.read_many, batch)
            for place, (start, stop) in enumerate(batch):
                part = uproot.source.coalesce.SliceFuture(future, place)
                made[start, stop] = chunk = uproot.source.chunk.Chunk(self, start, stop, part)
                future.add_done_callback(uproot.source.chunk.notifier(chunk, notifications))
        return [made[span] for span in ranges]


@contextmanager
def _open(path: str, patience: Patience) -> Iterator[Any]:
    with ExitStack() as stack:
        with _named(path, None):
            if xrootd.is_url(path):
                remote = stack.enter_context(RemoteFile(path, patience))
                file = uproot.open(path, handler=_VectorReads, remote=remote)
            elif "://" in path:
                storage.check_server(path)
                file = uproot.open(path)
            else:
                _check_magic(path)
                # quicker than fsspec; a memory map is quicker still, but dies of SIGBUS when a file server fails
                file = uproot.open(path, handler=_LocalReads)
        yield stack.enter_context(file)


def _check_magic(path: str) -> None:
    """Every ROOT file begins with the four bytes ``root`` (TFile's format)."""
    _, head, _ = storage.head_and_tail(path, 4)
    if not head:
        raise DamagedInputError(path, "the file is empty (0 bytes)")
    if head != b"root":
        raise DamagedInputError(path, "it is not a ROOT file")


@contextmanager
def _named(path: str, tree: str | None, entries: tuple[int, int] | None = None) -> Iterator[None]:
    """Attach the place to whatever the layer below raises."""
    try:
        yield
    except FileNotFoundError as error:
        raise UnreadableInputError(path, "no such file", tree, entries) from error
    except XRootDError as error:
        raise UnreadableInputError(path, str(error), tree, entries) from error
    except _FAILURES as error:
        _log.debug("reading %s failed", path, exc_info=error)
        if storage.is_trouble(error):  # of the local disk or of HDFS
            raise UnreadableInputError(path, storage.why(error), tree, entries) from error
        if isinstance(error, MemoryError):
            why = "its values do not fit into memory: make spark.events_per_task smaller"
            raise UnreadableInputError(path, why, tree, entries) from error
        raise DamagedInputError(path, _why(error), tree, entries) from error


def _why(error: Exception) -> str:
    text = str(error).lower()
    if "not a root file" in text:
        return "it is not a ROOT file"
    return f"it is damaged or cut short ({reason(error)})"


# uproot looks through all fields for the children of each: of 4,000 that took 50 s, and again for every range.
_RNTUPLE_NODE = uproot.behaviors.RNTuple.HasFields
if not hasattr(_RNTUPLE_NODE.fields.fget, "__wrapped__"):

    @wraps(_RNTUPLE_NODE.fields.fget)
    def _fields(self: Any) -> list[Any]:
        if self._fields is None and not isinstance(self, uproot.behaviors.RNTuple.RNTuple):
            every = self.ntuple.all_fields
            children = [every[number] for number in self.ntuple._related_ids[self._fid]]  # noqa: SLF001 - uproot's own index
            # those of an anonymous field stand for it
            self._fields = [field for child in children for field in (child.fields if child.is_anonymous else [child])]
        found: list[Any] = _fields.__wrapped__(self)
        return found

    _RNTUPLE_NODE.fields = property(_fields)


# --- as a format ------------------------------------------------------------------------------------------------------


def _headers(path: str, tree: str | None, how: How) -> list[Header]:
    return read_headers(path, tree, how.patience)


def _batches(
    file: PlannedFile, index: int, schema: EventSchema, ranges: Sequence[tuple[int, int]], how: How
) -> Iterator[tuple[int, pa.RecordBatch]]:
    return enumerate(read_ranges(file.path, file.tree, schema, ranges, index, file.uuid, how.patience))


def _inside(path: str, tree: str, how: How) -> Contents:
    return read_contents(path, tree, how.patience)


READER = Reader(_headers, _batches, _inside, xrootd=True, uuids=True, zoned=False)
