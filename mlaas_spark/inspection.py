"""What inspect shows, as values: the files by their headers, the branches by the events read, the speed. Pure."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from mlaas_spark.layout import FeatureLayout
from mlaas_spark.schema import column_name

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from mlaas_spark.branch_specs import Specs
    from mlaas_spark.plan import EntryRange, Plan
    from mlaas_spark.schema import Branch


@dataclass(frozen=True, slots=True)
class OnDisk:
    """What one file is: its bytes, and its trees with their entries (ROOT; other formats have none)."""

    bytes: int
    trees: dict[str, int]


@dataclass(frozen=True, slots=True)
class Headers:
    """What the files say of themselves.

    Attributes:
        plan: Files, branches, and the ranges that are (to be) read.
        files: Each file of the plan.
        compressed: Bytes on disk, in all files, of each branch by its name in the file; None where a file does not
            tell, no branch of a format that never does (JSON, CSV).
        identifiers: Branches that name an event.
    """

    plan: Plan
    files: tuple[OnDisk, ...]
    compressed: Mapping[str, int | None]
    identifiers: tuple[str, ...]

    @property
    def entries(self) -> int:
        """Entries of all files: those of a sample and the rest."""
        return sum(stop - start for file in self.plan.files for start, stop in file.spans)

    def to_json(self) -> dict[str, Any]:
        """As plain values; sizes are bytes, None where the format does not tell."""
        schema = self.plan.schema
        # some that are left out are known by the names of their columns
        sizes = {**{column_name(name): size for name, size in self.compressed.items()}, **self.compressed}
        return {
            "files": [
                {
                    "path": file.path,
                    "format": file.format.value,
                    "tree": file.tree,
                    "trees": on_disk.trees,
                    "uuid": file.uuid,
                    "entries": file.entries,
                    "clusters": file.clusters,
                    "bytes": on_disk.bytes,
                }
                for file, on_disk in zip(self.plan.files, self.files, strict=True)
            ],
            "entries": self.entries,
            # of a file with several of the trees once
            "bytes": sum({f.path: d.bytes for f, d in zip(self.plan.files, self.files, strict=True)}.values()),
            "compressed": _sum(self.compressed.values()),
            "flat": len(schema.flat),
            "jagged": len(schema.jagged),
            "identifiers": list(self.identifiers),
            "branches": [{**b.to_json(), "compressed": self.compressed.get(b.source)} for b in schema.branches],
            "omitted": [{**asdict(item), "compressed": sizes.get(item.name)} for item in schema.omitted],
        }


def added(parts: Iterable[Mapping[str, int | None]]) -> dict[str, int | None]:
    """Bytes of each branch in several files; None where one of them does not tell."""
    total: dict[str, int | None] = {}
    for part in parts:
        for name, size in part.items():
            total[name] = _sum((total.get(name, 0), size))
    return total


def _sum(sizes: Collection[int | None]) -> int | None:
    told = [size for size in sizes if size is not None]
    return sum(told) if told and len(told) == len(sizes) else None


@dataclass(frozen=True, slots=True)
class Reading:
    """One entry range that was read.

    Attributes:
        entries: The range; its ``events`` are those that came.
        bytes: Size of the values of its branches in memory, as Arrow.
        seconds: How long the executor waited for them; Spark's readers of JSON and CSV work ahead.
    """

    entries: EntryRange
    bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Speed:
    """So much in so many seconds."""

    events: int
    bytes: int
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """As plain values; rates are None where no time passed."""
        return {
            "entries": self.events,
            "bytes": self.bytes,
            "seconds": self.seconds,
            "mb_per_second": self.bytes / self.seconds / 1e6 if self.seconds else None,
            "khz": self.events / self.seconds / 1e3 if self.seconds else None,
        }


@dataclass(frozen=True, slots=True)
class Inspection:
    """The headers, and what was found in the ranges of their plan.

    Attributes:
        headers: What the files say of themselves.
        specs: Statistics of each branch.
        features: Branches that become features: no identifiers, no labels.
        readings: The ranges that were read.
        elapsed: Seconds from the beginning of reading to the end of the statistics.
    """

    headers: Headers
    specs: Specs
    features: tuple[str, ...]
    readings: tuple[Reading, ...]
    elapsed: float

    @property
    def width(self) -> int:
        """W, the number of attributes: a column for each flat feature, those of the longest list for a jagged one."""
        flat = [name for name in self.specs.flat if name in self.features]
        jagged = {name: self.specs[name].dim for name in self.specs.jagged if name in self.features}
        return FeatureLayout.of(flat, jagged).width

    def to_json(self) -> dict[str, Any]:
        """As plain values: those of the headers, with statistics of each branch and the speed of each chunk."""
        content = self.headers.to_json()
        files, schema = self.headers.plan.files, self.headers.plan.schema
        events, size = self.specs.events, sum(reading.bytes for reading in self.readings)
        branches = zip(content["branches"], schema.branches, strict=True)
        return {
            **content,
            "attributes": self.width,
            "branches": [{**shown, **self._statistics(branch)} for shown, branch in branches],
            "read": {
                "entries": events,
                "of": self.headers.entries,
                "branches": len(schema.branches),
                "reading": Speed(events, size, sum(reading.seconds for reading in self.readings)).to_json(),
                "elapsed": Speed(events, size, self.elapsed).to_json(),
                "chunks": [
                    {
                        "path": files[reading.entries.file].path,
                        "start": reading.entries.start,
                        "stop": reading.entries.stop,
                        **Speed(reading.entries.events or 0, reading.bytes, reading.seconds).to_json(),
                    }
                    for reading in self.readings
                ],
            },
        }

    def _statistics(self, branch: Branch) -> dict[str, Any]:
        stats = self.specs[branch.name]
        return {
            "min": stats.minimum,
            "max": stats.maximum,
            "dim": stats.dim,
            "count": stats.count,
            "nan": stats.nan,
            "inf": stats.inf,
            "zero": stats.zero,
            "zero_share": stats.zero / stats.count if stats.count else None,
        }
