"""Specs: what the feature matrix needs to know of each branch, in a form that merges exactly.

Counts and sums are integers (sums in fixed point, see ``kernels``), so that merging is associative and commutative
to the last bit: any partitioning of the events gives the same specs.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from mlaas_spark.errors import BranchNotFoundError, SpecsError
from mlaas_spark.kernels import SQUARES_UNIT, TOTAL_UNIT, histogram_of_halves, histogram_of_lengths, tally
from mlaas_spark.schema import buffers
from mlaas_spark.skipping import Skipped

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    import numpy.typing as npt
    import pyarrow as pa

VERSION = 1
_LIMB = 32  # bits of a limb in partial rows: 2**31 partials add up in a signed 64-bit integer
LONGEST = 1 << 16
"""Lists of so many values or more count as one length: what is kept of a branch is not to grow with its longest."""

_BIN_BITS = 16  # quantile bins: the upper half of a float32, 7 bits of mantissa


@dataclass(frozen=True, slots=True)
class BranchStats:
    """Statistics of one branch.

    Attributes:
        jagged: Whether the branch has a list of values an event.
        count: Values seen, missing ones included.
        nan: NaN among them.
        inf: Infinite ones among them.
        zero: Zeros among them.
        minimum: Smallest finite value, None without one.
        maximum: Largest finite value, None without one.
        total: Exact sum of finite values in units of ``2**TOTAL_UNIT``.
        squares: Exact sum of their rounded squares in units of ``2**SQUARES_UNIT``.
        lengths: For a jagged branch, number of events with 0, 1, 2, ... values, those with :data:`LONGEST` or more
            together.
        dim: Longest list (1 for a flat branch).
        bins: Counts of finite values by quantile bin, {} unless asked for.
    """

    jagged: bool
    count: int = 0
    nan: int = 0
    inf: int = 0
    zero: int = 0
    minimum: float | None = None
    maximum: float | None = None
    total: int = 0
    squares: int = 0
    lengths: tuple[int, ...] = ()
    dim: int = 0
    bins: Mapping[int, int] = field(default_factory=dict)

    @classmethod
    def of(
        cls, values: npt.NDArray[Any], offsets: npt.NDArray[np.integer[Any]] | None = None, *, quantiles: bool = False
    ) -> Self:
        """Statistics of one buffer of values and, for a jagged branch, the offsets into it, shape (n + 1,)."""
        if offsets is not None:
            values = values[offsets[0] : offsets[-1]]
        seen = tally(values)
        lengths, dim = ((), 1) if offsets is None else _lengths(offsets)
        return cls(
            jagged=offsets is not None,
            count=seen.count,
            nan=seen.nan,
            inf=seen.inf,
            zero=seen.zero,
            # + 0.0 makes -0.0 to 0.0: which of them came first must not show
            minimum=None if seen.minimum is None else seen.minimum + 0.0,
            maximum=None if seen.maximum is None else seen.maximum + 0.0,
            total=seen.total,
            squares=seen.squares,
            lengths=lengths,
            dim=dim,
            bins=_bin_counts(values) if quantiles else {},
        )

    def merge(self, other: Self) -> Self:
        """Statistics of both sets of events together."""
        if self.jagged != other.jagged:
            msg = "a branch is flat in one part of the input and jagged in another"
            raise SpecsError(msg)
        minima = [value for value in (self.minimum, other.minimum) if value is not None]
        maxima = [value for value in (self.maximum, other.maximum) if value is not None]
        return type(self)(
            jagged=self.jagged,
            count=self.count + other.count,
            nan=self.nan + other.nan,
            inf=self.inf + other.inf,
            zero=self.zero + other.zero,
            minimum=min(minima, default=None),
            maximum=max(maxima, default=None),
            total=self.total + other.total,
            squares=self.squares + other.squares,
            lengths=tuple(a + b for a, b in zip_longest(self.lengths, other.lengths, fillvalue=0)),
            dim=max(self.dim, other.dim),
            bins={key: self.bins.get(key, 0) + other.bins.get(key, 0) for key in sorted({*self.bins, *other.bins})},
        )

    @property
    def finite(self) -> int:
        """Values that are neither NaN nor infinite."""
        return self.count - self.nan - self.inf

    @property
    def mean(self) -> float:
        """Mean of finite values; NaN without one."""
        # one division of integers: the nearest float64, and no overflow on the way
        return self.total / (self.finite << -TOTAL_UNIT) if self.finite else math.nan

    @property
    def std(self) -> float:
        """Standard deviation of finite values (of the population); NaN without one.

        The difference of sum of squares and squared sum is taken in integers, so it does not cancel; what remains is
        the rounding of each square to 53 bits.
        """
        if not self.finite:
            return math.nan
        # n * sum(x^2) - sum(x)^2 in units of 2**SQUARES_UNIT
        spread = self.finite * self.squares - (self.total * self.total >> (SQUARES_UNIT - 2 * TOTAL_UNIT))
        # the root too in integers, SQUARES_UNIT being odd; 128 more bits than the unit has keep it exact to a float64
        root = math.isqrt(max(spread, 0) << 129)
        return root / (self.finite << ((129 - SQUARES_UNIT) // 2))

    def quantile(self, q: float) -> float:
        """Value below which a share ``q`` of the finite values lies, to 0.4 % of the value.

        Raises:
            SpecsError: The specs were made without quantiles.
        """
        total = sum(self.bins.values())
        if not total or self.minimum is None or self.maximum is None:
            msg = "these specs hold no quantiles: make them with normalise 'robust' in the config"
            raise SpecsError(msg)
        below = 0
        for key in sorted(self.bins):
            below += self.bins[key]
            if below >= q * total:
                return min(max(_bin_centre(key), self.minimum), self.maximum)
        return self.maximum

    def cut(self, dim: int) -> int:
        """How many of its values lie beyond the first ``dim`` of each event, for a ``dim`` below :data:`LONGEST`."""
        if not self.jagged:
            return 0
        return self.count - sum(min(length, dim) * events for length, events in enumerate(self.lengths))

    def cap(self, share: float) -> int:
        """Smallest length that leaves at least ``share`` of the events uncut."""
        reached = np.cumsum(self.lengths)
        return int(np.searchsorted(reached, share * reached[-1])) if len(reached) else self.dim

    def to_json(self) -> dict[str, Any]:
        """As plain values; :meth:`from_json` reads them back. The exact sums are hexadecimal strings."""
        return {
            "jagged": self.jagged,
            "count": self.count,
            "nan": self.nan,
            "inf": self.inf,
            "zero": self.zero,
            "min": self.minimum,
            "max": self.maximum,
            "mean": None if math.isnan(self.mean) else self.mean,
            "std": None if math.isnan(self.std) else self.std,
            "total": hex(self.total),
            "squares": hex(self.squares),
            "lengths": list(self.lengths),
            "dim": self.dim,
            "bins": {str(key): count for key, count in sorted(self.bins.items())},
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """The statistics that :meth:`to_json` wrote.

        Raises:
            KeyError, TypeError, ValueError, AttributeError: It wrote no such thing.
        """
        if not isinstance(content["jagged"], bool):
            msg = f"jagged is {content['jagged']!r}, not true or false"
            raise TypeError(msg)
        count = whole(content["count"])
        return cls(
            jagged=content["jagged"],
            count=count,
            nan=whole(content["nan"]),
            inf=whole(content["inf"]),
            zero=whole(content["zero"]),
            minimum=_limit(content["min"]),
            maximum=_limit(content["max"]),
            # no more than so many of the largest float64 add up to
            total=_exact(content["total"], 1024 - TOTAL_UNIT + count.bit_length()),
            squares=_exact(content["squares"], 2048 - SQUARES_UNIT + count.bit_length()),
            lengths=tuple(map(whole, content["lengths"])),
            dim=whole(content["dim"]),
            bins={int(key): whole(number) for key, number in content["bins"].items()},
        )


@dataclass(frozen=True, slots=True)
class Specs:
    """Number of events and the statistics of each branch over them."""

    events: int = 0
    branches: Mapping[str, BranchStats] = field(default_factory=dict)

    @classmethod
    def of(cls, batch: pa.RecordBatch, names: Collection[str], quantiles: Collection[str] = ()) -> Self:
        """Specs of the named branches of one batch of events, quantile bins for those in ``quantiles``."""
        return cls(
            batch.num_rows,
            {name: BranchStats.of(*buffers(batch.column(name)), quantiles=name in quantiles) for name in sorted(names)},
        )

    def merge(self, other: Self) -> Self:
        """Specs of both sets of events together."""
        names = sorted({*self.branches, *other.branches})
        if self.events and other.events and (odd := set(self.branches) ^ set(other.branches)):
            msg = f"specs of different branches cannot be merged: {', '.join(sorted(odd)[:5])} only on one side"
            raise SpecsError(msg)
        merged = {
            name: self.branches[name].merge(other.branches[name])
            if name in self.branches and name in other.branches
            else (self.branches.get(name) or other.branches[name])
            for name in names
        }
        return type(self)(self.events + other.events, merged)

    def __getitem__(self, branch: str) -> BranchStats:
        if branch not in self.branches:
            raise BranchNotFoundError(branch, self.branches, "the specs")
        return self.branches[branch]

    @property
    def flat(self) -> tuple[str, ...]:
        """Names of the flat branches, sorted."""
        return tuple(name for name in sorted(self.branches) if not self.branches[name].jagged)

    @property
    def jagged(self) -> tuple[str, ...]:
        """Names of the jagged branches, sorted."""
        return tuple(name for name in sorted(self.branches) if self.branches[name].jagged)

    @property
    def ranges(self) -> dict[str, tuple[float, float]]:
        """Smallest and largest finite value of each branch that has one."""
        return {
            name: (stats.minimum, stats.maximum)
            for name, stats in self.branches.items()
            if stats.minimum is not None and stats.maximum is not None
        }


def _lengths(offsets: npt.NDArray[np.integer[Any]]) -> tuple[tuple[int, ...], int]:
    """Events of each length, and the largest."""
    counts = histogram_of_lengths(offsets)
    dim = max(len(counts) - 1, 0)
    if dim > LONGEST:
        counts = np.append(counts[:LONGEST], counts[LONGEST:].sum())
    return tuple(counts.tolist()), dim


def merged(parts: Iterable[Specs]) -> Specs:
    """All parts as one."""
    result = Specs()
    for part in parts:
        result = result.merge(part)
    return result


def to_rows(specs: Specs) -> list[tuple[str, str, int, int, float | None, float | None]]:
    """Partial rows (branch, stat, index, number, low, high) that can be merged anywhere.

    Rows of equal (branch, stat, index) merge by the sum of ``number``, the minimum of ``low``, the maximum of ``high``.
    """
    rows: list[tuple[str, str, int, int, float | None, float | None]] = [("", "events", 0, specs.events, None, None)]
    for name, stats in specs.branches.items():
        kind = 1 if stats.jagged else 0
        rows.append((name, "range", kind, 0, stats.minimum, stats.maximum))
        rows.append((name, "dim", 0, 0, None, float(stats.dim)))
        rows += [(name, stat, 0, getattr(stats, stat), None, None) for stat in ("count", "nan", "inf", "zero")]
        for stat in ("total", "squares"):
            rows += [(name, stat, index, limb, None, None) for index, limb in _limbs(getattr(stats, stat))]
        rows += [(name, "lengths", length, events, None, None) for length, events in enumerate(stats.lengths) if events]
        rows += [(name, "bins", key, values, None, None) for key, values in stats.bins.items()]
    return rows


def from_rows(rows: Iterable[tuple[str, str, int, int, float | None, float | None]]) -> Specs:
    """The specs whose (merged) partial rows these are; the reverse of :func:`to_rows`."""
    events = 0
    numbers: dict[str, dict[str, dict[int, int]]] = {}
    limits: dict[str, tuple[bool, float | None, float | None]] = {}
    dims: dict[str, int] = {}
    for name, stat, index, number, low, high in rows:
        if stat == "events":
            events += number
        elif stat == "range":
            limits[name] = (bool(index), low, high)
        elif stat == "dim":
            dims[name] = int(high or 0)
        else:
            numbers.setdefault(name, {}).setdefault(stat, {})[index] = number
    branches = {}
    for name, (jagged, minimum, maximum) in sorted(limits.items()):
        found = numbers.get(name, {})
        seen = found.get("lengths", {})
        lengths = tuple(seen.get(length, 0) for length in range(max(seen, default=-1) + 1))
        branches[name] = BranchStats(
            jagged=jagged,
            count=found["count"][0],
            nan=found["nan"][0],
            inf=found["inf"][0],
            zero=found["zero"][0],
            minimum=minimum,
            maximum=maximum,
            total=sum(limb << (_LIMB * index) for index, limb in found.get("total", {}).items()),
            squares=sum(limb << (_LIMB * index) for index, limb in found.get("squares", {}).items()),
            lengths=lengths,
            dim=dims[name],
            bins=dict(sorted(found.get("bins", {}).items())),
        )
    return Specs(events, branches)


@dataclass(frozen=True, slots=True)
class SpecsFile:
    """Content of specs.json.

    Attributes:
        specs: Specs of all files together.
        by_file: Specs of each file, by the key of the plan's file (uuid, tree); empty if read from MLaaS4HEP.
        paths: Path of each, with the tree where several of one file are read, for people and for MLaaS4HEP's key
            ``events``.
        request: Digest of what else the specs depend on (branches, selection, quantiles): partials are reused
            only where it agrees.
        skipped: What of the files was damaged and is not in the specs.
    """

    specs: Specs
    by_file: Mapping[str, Specs] = field(default_factory=dict)
    paths: Mapping[str, str] = field(default_factory=dict)
    request: str = ""
    skipped: tuple[Skipped, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """MLaaS4HEP's keys on top, ours under ``mlaas_spark``."""
        specs = self.specs
        low = {name: _or_zero(stats.minimum) for name, stats in sorted(specs.branches.items())}
        high = {name: _or_zero(stats.maximum) for name, stats in sorted(specs.branches.items())}
        return {
            "jdim": {name: specs[name].dim for name in specs.jagged},
            "minv": low,
            "maxv": high,
            "fkeys": list(specs.flat),
            "jkeys": list(specs.jagged),
            # what MLaaS4HEP's global specs keep here: where 0 lies after normalisation
            "nans": {
                name: high[name] if high[name] == low[name] else -low[name] / (high[name] - low[name]) for name in low
            },
            "events": {
                **{self.paths.get(key, key): part.events for key, part in self.by_file.items()},
                "total": specs.events,
            },
            "mlaas_spark": {
                "version": VERSION,
                "request": self.request,
                "events": specs.events,
                **({"skipped": [item.to_json() for item in self.skipped]} if self.skipped else {}),
                "branches": {name: stats.to_json() for name, stats in sorted(specs.branches.items())},
                "files": {
                    key: {
                        "path": self.paths.get(key, ""),
                        "events": part.events,
                        "branches": {name: stats.to_json() for name, stats in sorted(part.branches.items())},
                    }
                    for key, part in sorted(self.by_file.items())
                },
            },
        }

    def dumps(self) -> str:
        """specs.json as text; equal specs give equal text."""
        return json.dumps(self.to_json(), indent=1, sort_keys=True, allow_nan=False)

    @classmethod
    def from_json(cls, content: Any, source: str = "specs.json") -> Self:
        """The specs of specs.json, ours or MLaaS4HEP's own.

        Raises:
            SpecsError: Keys are missing or of a wrong type, or the version is not known.
        """
        try:
            if "mlaas_spark" not in content:
                return cls(_from_mlaas4hep(content))
            ours = content["mlaas_spark"]
            if ours["version"] != VERSION:
                msg = f"{source} has version {ours['version']}, this program reads {VERSION}: make the specs again"
                raise SpecsError(msg)
            return cls(
                _specs_from_json(ours),
                {key: _specs_from_json(part) for key, part in ours["files"].items()},
                {key: _text(part["path"]) for key, part in ours["files"].items()},
                _text(ours["request"]),
                tuple(map(Skipped.from_json, ours.get("skipped", ()))),
            )
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            msg = f"{source} is no specs file: {type(error).__name__} {error}; make it with mlaas-spark specs"
            raise SpecsError(msg) from error

    @classmethod
    def loads(cls, text: str | bytes, source: str = "specs.json") -> Self:
        """The specs of a JSON text; SpecsError as :meth:`from_json`."""
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            msg = f"{source} is not JSON: {error}; make it with mlaas-spark specs"
            raise SpecsError(msg) from error
        return cls.from_json(content, source)


def _from_mlaas4hep(content: Mapping[str, Any]) -> Specs:
    """Ranges and dimensions only: MLaaS4HEP keeps no counts."""
    low, high = content["minv"], content["maxv"]
    jagged = {str(name): whole(int(dim)) for name, dim in content["jdim"].items()}
    branches = {
        str(name): BranchStats(
            jagged=name in jagged,
            minimum=_limit(float(low[name])),
            maximum=_limit(float(high[name])),
            dim=jagged.get(name, 1),
        )
        for name in [*content["fkeys"], *content["jkeys"]]
    }
    events = content.get("events", {})
    return Specs(whole(int(events.get("total", 0))) if isinstance(events, dict) else 0, branches)


def _specs_from_json(content: Mapping[str, Any]) -> Specs:
    branches = {name: BranchStats.from_json(stats) for name, stats in content["branches"].items()}
    return Specs(whole(content["events"]), branches)


def whole(value: Any) -> int:
    """A count as JSON gives it.

    Raises:
        TypeError: It is none.
    """
    if type(value) is not int or not 0 <= value < 1 << 63:
        msg = f"{str(value)[:40]!r} is no count"
        raise TypeError(msg)
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        msg = f"{str(value)[:40]!r} is no text"
        raise TypeError(msg)
    return value


def _limit(value: Any) -> float | None:
    if value is None or (type(value) in {int, float} and math.isfinite(value)):
        return value  # type: ignore[no-any-return] # it is looked at
    msg = f"{str(value)[:40]!r} is no finite number"
    raise TypeError(msg)


def _exact(text: Any, bits: int) -> int:
    number = int(text, 16)
    if number.bit_length() > bits:
        msg = f"{text[:40]}... is a sum that no float64 numbers have"
        raise ValueError(msg)
    return number


def _or_zero(value: float | None) -> float:
    return 0.0 if value is None else value


def _limbs(number: int) -> Iterable[tuple[int, int]]:
    """The non-zero base 2**32 digits of an integer as (place, digit), each with the integer's sign."""
    sign, rest, place = (-1 if number < 0 else 1), abs(number), 0
    while rest:
        # jump over the zeros below: a fixed-point float has its first digit some thirty places up
        skip = (rest & -rest).bit_length() - 1
        place, rest = place + skip // _LIMB, rest >> (skip // _LIMB * _LIMB)
        if digit := rest & ((1 << _LIMB) - 1):
            yield place, sign * digit
        place, rest = place + 1, rest >> _LIMB


def _bin_counts(values: npt.NDArray[Any]) -> dict[int, int]:
    with np.errstate(over="ignore"):
        numbers = values.astype(np.float32, copy=False)
    if numbers is not values and (beyond := np.isinf(numbers) & np.isfinite(values)).any():
        # what float32 does not hold counts with the largest that it does
        numbers = np.where(beyond, np.copysign(np.finfo(np.float32).max, numbers), numbers).astype(np.float32)
    found, counts = histogram_of_halves(numbers)
    return dict(zip(found.tolist(), counts.tolist(), strict=True))


def _bin_centre(key: int) -> float:
    """Middle of a quantile bin."""
    middle = np.int32((key << _BIN_BITS) | (1 << (_BIN_BITS - 1)))
    bits = middle if middle >= 0 else np.int32(~int(middle) | -0x80000000)
    return float(np.array([bits], np.int32).view(np.float32)[0])
