"""Event schema: which branches there are, flat or jagged, of which type, and which are left out and why. Pure."""

from __future__ import annotations

import bisect
import hashlib
import json
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mlaas_spark.errors import BranchNotFoundError, ConfigError, SpecsError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    import numpy.typing as npt

    from mlaas_spark.config import SchemaPolicy

FILE = "__file"
ENTRY = "__entry"
"""Columns beside the branches: index of the file in the plan (int32), entry number in it (int64)."""

_RESERVED = "__"

NUMERIC = (
    "bool",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "float16",
    "float32",
    "float64",
)
"""numpy names of the types that a feature may have."""

HALF = "float16"
"""Type of a branch whose column is float32, with equal values: neither Spark nor this Parquet has it."""

STRING = "string"
NESTED = "nested lists (more than one jagged dimension)"
EXCLUDED = "excluded by --branches or --exclude"
NO_VALUE = "no value in any event"
"""Why a branch that is null everywhere is left out: it has no type."""

_LIST = "list<"


def column_name(branch: str) -> str:
    """Name of a branch's column: ``.`` and ``/`` of the file's name replaced by ``_``."""
    return branch.replace(".", "_").replace("/", "_")


@dataclass(frozen=True, slots=True)
class Branch:
    """A branch that can be read.

    Attributes:
        name: Its column's name.
        source: Its name in the file; of a derived branch ``=`` and the expression that gives it.
        dtype: Type of a value: a name of :data:`NUMERIC`, or what is data and no feature: ``string``, ``list<...>``.
        jagged: Whether an event has a list of values.
        categories: Text in the file and the number that it is read as; () for what is read as it is.
    """

    name: str
    source: str
    dtype: str
    jagged: bool
    categories: tuple[tuple[str, float], ...] = ()

    def __post_init__(self) -> None:
        if _innermost(self.dtype) not in {*NUMERIC, STRING}:
            msg = f"branch {self.name!r}: {self.dtype} is not a type that branches have"
            raise SpecsError(msg)

    @property
    def arrow_type(self) -> pa.DataType:
        """Type of its column: a number or text, or a list."""
        value = _arrow_type(self.dtype)
        return pa.list_(value) if self.jagged else value

    @property
    def stored(self) -> Branch:
        """The branch as it is in the file, where categories are text."""
        return replace(self, dtype=STRING, categories=()) if self.categories else self

    @property
    def derived(self) -> bool:
        """Whether it is made of others by an expression."""
        return self.source.startswith("=")

    @property
    def why_no_feature(self) -> str | None:
        """Why it cannot be a feature; None if it can."""
        if _innermost(self.dtype) == STRING:
            return "strings are not numbers"
        return NESTED if self.dtype.startswith(_LIST) else None

    @property
    def describes(self) -> str:
        """``float32`` or ``list<float32>``, for messages."""
        return f"list<{self.dtype}>" if self.jagged else self.dtype

    def categorised(self, numbers: Mapping[str, float]) -> Branch:
        """The branch of text with a number for each category; of whole numbers if all are.

        Raises:
            ConfigError: The branch is no text, nor lists of text.
        """
        if self.dtype != STRING:
            msg = f"categories are for text, and branch {self.name!r} is {self.describes}: take it out of them"
            raise ConfigError(msg)
        whole = all(isinstance(number, int) for number in numbers.values())
        return replace(self, dtype="int64" if whole else "float64", categories=tuple(sorted(numbers.items())))

    def to_json(self) -> dict[str, Any]:
        """As plain values; without categories if there are none."""
        content = asdict(self)
        if not self.categories:
            del content["categories"]
        return content

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """The branch that :meth:`to_json` wrote."""
        categories = tuple((text, number) for text, number in content.get("categories", ()))
        return cls(**{**content, "categories": categories})


def _innermost(dtype: str) -> str:
    return _innermost(dtype.removeprefix(_LIST).removesuffix(">")) if dtype.startswith(_LIST) else dtype


def _arrow_type(dtype: str) -> pa.DataType:
    if dtype.startswith(_LIST):
        return pa.list_(_arrow_type(dtype.removeprefix(_LIST).removesuffix(">")))
    if dtype == STRING:
        return pa.string()
    if dtype == HALF:
        return pa.float32()
    return pa.bool_() if dtype == "bool" else pa.from_numpy_dtype(dtype)


@dataclass(frozen=True, slots=True)
class Omitted:
    """A branch that is in the file and not in the schema, and why."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class EventSchema:
    """Branches sorted by name, and those left out."""

    branches: tuple[Branch, ...]
    omitted: tuple[Omitted, ...] = ()

    @classmethod
    def of(cls, branches: Iterable[Branch], omitted: Iterable[Omitted] = ()) -> Self:
        """Sort; left out, by name, are the second of two branches with one column name, and names like ``__entry``.

        They are columns that we made ourselves, where a converted data set is the input.
        """
        kept: dict[str, Branch] = {}
        left_out = list(omitted)
        for branch in sorted(branches, key=lambda branch: (branch.name, branch.source)):
            if branch.name.startswith(_RESERVED):
                left_out.append(Omitted(branch.source, f"names with {_RESERVED} are kept for columns like {ENTRY}"))
            elif branch.name in kept:
                left_out.append(
                    Omitted(branch.source, f"its column name {branch.name!r} is taken by {kept[branch.name].source!r}")
                )
            else:
                kept[branch.name] = branch
        return cls(tuple(kept.values()), tuple(sorted(left_out, key=lambda branch: (branch.name, branch.reason))))

    @property
    def names(self) -> tuple[str, ...]:
        """Column names of all branches."""
        return tuple(branch.name for branch in self.branches)

    @property
    def flat(self) -> tuple[str, ...]:
        """Column names of the flat branches."""
        return tuple(branch.name for branch in self.branches if not branch.jagged)

    @property
    def jagged(self) -> tuple[str, ...]:
        """Column names of the jagged branches."""
        return tuple(branch.name for branch in self.branches if branch.jagged)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._find(name) is not None

    def __getitem__(self, name: str) -> Branch:
        if (branch := self._find(name)) is None:
            raise BranchNotFoundError(name, self.names, "the schema")
        return branch

    def _find(self, name: str) -> Branch | None:
        """The branch, quickly where they are sorted: files of 20,000 are compared branch by branch."""
        place = bisect.bisect_left(self.branches, name, key=lambda branch: branch.name)
        if place < len(self.branches) and self.branches[place].name == name:
            return self.branches[place]
        return next((branch for branch in self.branches if branch.name == name), None)

    def keep(self, names: Collection[str]) -> Self:
        """The same schema with only the named branches; the others are not listed as left out."""
        wanted = frozenset(names)
        return type(self)(tuple(branch for branch in self.branches if branch.name in wanted), self.omitted)

    def stored(self) -> Self:
        """The same schema with only what is in the files, as it is there: no derived branches, categories as text."""
        return type(self)(tuple(branch.stored for branch in self.branches if not branch.derived), self.omitted)

    def categorised(self, categories: Mapping[str, Mapping[str, float]]) -> Self:
        """The same schema with numbers for the text of branches that ``categories`` has by column name.

        Raises:
            ConfigError: One of them is no text.
        """
        return type(self)(
            tuple(b.categorised(categories[b.name]) if b.name in categories else b for b in self.branches), self.omitted
        )

    def features(self) -> Self:
        """The same schema with only what can be a feature; the others are listed as left out."""
        reasons = {branch: branch.why_no_feature for branch in self.branches}
        left_out = [Omitted(branch.source, reason) for branch, reason in reasons.items() if reason]
        return type(self).of((b for b, reason in reasons.items() if not reason), (*self.omitted, *left_out))

    def select(self, branches: Sequence[str] = (), exclude: Sequence[str] = (), where: str = "the input") -> Self:
        """The branches that match a glob of ``branches`` (all, if none is given) and none of ``exclude``.

        Patterns match the column name or the name in the file.

        Raises:
            BranchNotFoundError: A pattern of ``branches``, or a plain name of ``exclude``, matches nothing.
        """
        chosen = (
            {name for pattern in branches for name in self._matching(pattern, where)} if branches else set(self.names)
        )
        for pattern in exclude:
            chosen -= set(self._matching(pattern, where))
        left_out = (Omitted(name, EXCLUDED) for name in self.names if name not in chosen)
        return type(self).of((branch for branch in self.branches if branch.name in chosen), (*self.omitted, *left_out))

    def refuse_omitted(self, names: Sequence[str], where: str = "the input") -> None:
        """ConfigError, with the reason, if one of ``names`` is exactly that of a branch that is left out.

        A glob may match such branches, which are listed with their reasons, as those that are excluded are.
        """
        for item in self.omitted:
            if item.reason != EXCLUDED and {item.name, column_name(item.name)} & ({*names} - {*self.names}):
                msg = f"branch {item.name!r} of {where} cannot be read as a feature: {item.reason}"
                raise ConfigError(msg)

    def _matching(self, pattern: str, where: str) -> list[str]:
        # a name is also itself: ROOT has names like fMatrix[4], where a glob sees a set of characters
        found = [
            b.name
            for b in self.branches
            if pattern in {b.name, b.source} or fnmatchcase(b.name, pattern) or fnmatchcase(b.source, pattern)
        ]
        left_out = {name for item in self.omitted for name in (item.name, column_name(item.name))}
        if not found and pattern != "*" and not any(fnmatchcase(name, pattern) for name in left_out):
            raise BranchNotFoundError(pattern, self.names, where)
        return found

    def arrow(self) -> pa.Schema:
        """Arrow schema of the events: the branches, then file index and entry number."""
        fields = [pa.field(branch.name, branch.arrow_type) for branch in self.branches]
        return pa.schema([*fields, pa.field(FILE, pa.int32()), pa.field(ENTRY, pa.int64())])

    def digest(self) -> str:
        """SHA-256 over names and types."""
        return hashlib.sha256(json.dumps([branch.to_json() for branch in self.branches]).encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """As plain values; :meth:`from_json` reads them back."""
        return {
            "branches": [branch.to_json() for branch in self.branches],
            "omitted": [asdict(branch) for branch in self.omitted],
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """The schema that :meth:`to_json` wrote."""
        return cls(
            tuple(Branch.from_json(branch) for branch in content["branches"]),
            tuple(Omitted(**branch) for branch in content["omitted"]),
        )


def joined(batches: Sequence[pa.RecordBatch]) -> pa.RecordBatch:
    """The events of all batches, at least one, as one; nothing is copied where only one of them has events."""
    filled = [batch for batch in batches if batch.num_rows] or batches[:1]
    return filled[0] if len(filled) == 1 else pa.Table.from_batches(filled).combine_chunks().to_batches()[0]


def of_size(batches: Iterable[pa.RecordBatch], size: int) -> Iterator[pa.RecordBatch]:
    """The same events in batches of ``size``, the last of fewer; only those across two batches are copied.

    How the events were cut before must not show: in another batch the last bit of a score may be another.
    """
    held: list[pa.RecordBatch] = []
    missing = size
    for batch in batches:
        rest = batch
        while rest.num_rows >= missing:
            yield joined([*held, rest.slice(0, missing)])
            rest = rest.slice(missing)
            held, missing = [], size
        if rest.num_rows:
            held.append(rest)
            missing -= rest.num_rows
    if held:
        yield joined(held)


def buffers(column: pa.Array) -> tuple[npt.NDArray[Any], npt.NDArray[np.int32] | None]:
    """Values of a column and, if it is jagged, the offsets into them, shape (n + 1,), not always starting at 0.

    A missing number is NaN; a missing list is empty.
    """
    if not pa.types.is_list(column.type):
        return _numbers(column), None
    if column.null_count:
        column = column.fill_null([])
    return _numbers(column.values), column.offsets.to_numpy()


def _numbers(array: pa.Array) -> npt.NDArray[Any]:
    if array.null_count:
        if pa.types.is_float16(array.type):  # pyarrow neither casts nor fills these
            array = pa.array(array.to_numpy(zero_copy_only=False).astype("float64"), from_pandas=True)
        array = array.cast(pa.float64()).fill_null(float("nan"))
    numbers: npt.NDArray[Any] = array.to_numpy(zero_copy_only=False)
    return numbers


def codes(column: pa.Array, branch: Branch) -> pa.Array | tuple[str, int]:
    """Numbers of the categories of ``branch`` for a column of text or lists of text; what is missing stays missing.

    Returns:
        The numbers; or the first text that is no category, and its place in the column.
    """
    texts = column.flatten() if branch.jagged else column
    numbers = dict(branch.categories)
    encoded = texts.dictionary_encode()
    known = encoded.dictionary.to_pylist()
    if unknown := [text for text in known if text not in numbers]:
        place = pc.index(texts, unknown[0]).as_py()
        return unknown[0], pc.list_parent_indices(column)[place].as_py() if branch.jagged else place
    made = pa.array([numbers[text] for text in known], _arrow_type(branch.dtype)).take(encoded.indices)
    if not branch.jagged:
        return made
    lengths = pc.list_value_length(column).fill_null(0).to_numpy()
    is_missing = np.append(column.is_null().to_numpy(zero_copy_only=False), [False])
    offsets = pa.array(np.append([0], np.cumsum(lengths)).astype(np.int32), mask=is_missing)
    return pa.ListArray.from_arrays(offsets, made)


def common(schemas: Sequence[tuple[str, EventSchema]], policy: SchemaPolicy = "strict") -> EventSchema:
    """The one schema of several files, given as (path, schema).

    Args:
        schemas: Path and schema of each file.
        policy: ``strict`` wants the same branches everywhere; ``intersect`` takes those that all files have, with one
            type, and lists the others as left out; ``fill`` takes all, missing where a file lacks them.

    Raises:
        SpecsError: A branch that one file has and another lacks (strict), or has with another type (strict, fill);
            both files are named.
    """
    first: dict[str, tuple[str, Branch]] = {}
    for path, schema in schemas:
        for branch in schema.branches:
            first.setdefault(branch.name, (path, branch))
    omitted = {(item.name, item.reason): item for _, schema in schemas for item in schema.omitted}
    kept: list[Branch] = []
    for name, (path, branch) in sorted(first.items()):
        differs = _differs(name, path, branch, schemas, lacking=policy != "fill")
        if differs and policy != "intersect":
            msg = f"branch {name!r} {differs}: leave it out with --exclude {name}, or see --schema"
            raise SpecsError(msg)
        if differs:
            omitted[name, differs] = Omitted(branch.source, differs)
        else:
            kept.append(branch)
    return EventSchema.of(kept, omitted.values())


def _differs(
    name: str, path: str, branch: Branch, schemas: Sequence[tuple[str, EventSchema]], *, lacking: bool
) -> str | None:
    """Where a branch is not as in ``path``, if anywhere."""
    for other_path, schema in schemas:
        if name not in schema:
            why = next((item.reason for item in schema.omitted if item.name == branch.source), "")
            if lacking or (why and why != NO_VALUE):
                return f"is in {path} but not in {other_path}{f' ({why})' if why else ''}"
        elif (other := schema[name]).arrow_type != branch.arrow_type:
            return f"is {branch.describes} in {path} but {other.describes} in {other_path}"
    return None
