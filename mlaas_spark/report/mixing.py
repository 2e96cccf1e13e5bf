"""How well the chunks are mixed: the files and classes in each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mlaas_spark.manifest import Manifest


@dataclass(frozen=True, slots=True)
class Chunk:
    """One chunk.

    Attributes:
        number: From 0.
        events: Of all splits.
        splits: Events of each split.
        labels: Events of each label; {} of a regression.
        files: How many input files its events are from.
    """

    number: int
    events: int
    splits: Mapping[str, int]
    labels: Mapping[str, int]
    files: int

    def share(self, label: str) -> float:
        """Of its events that have the label."""
        return self.labels.get(label, 0) / self.events if self.events else 0.0


def chunks(manifest: Manifest) -> list[Chunk]:
    """All of them, by number."""
    of_chunk: dict[int, Chunk] = {}
    inputs: dict[int, set[int]] = {}
    for file in manifest.files:
        before = of_chunk.get(file.chunk, Chunk(file.chunk, 0, {}, {}, 0))
        inputs.setdefault(file.chunk, set()).update(index for index, start, stop in file.ranges if stop > start)
        of_chunk[file.chunk] = Chunk(
            file.chunk,
            before.events + file.rows,
            {**before.splits, file.split: before.splits.get(file.split, 0) + file.rows},
            {key: before.labels.get(key, 0) + file.labels.get(key, 0) for key in {*before.labels, *file.labels}},
            len(inputs[file.chunk]),
        )
    return [of_chunk[number] for number in sorted(of_chunk)]


@dataclass(frozen=True, slots=True)
class Spread:
    """The share of a label in all events, and the smallest and the largest in a chunk."""

    label: str
    share: float
    least: float
    most: float


def spreads(found: Sequence[Chunk]) -> list[Spread]:
    """Of each label, sorted; [] of a regression."""
    events = sum(chunk.events for chunk in found)
    made = []
    for label in sorted({label for chunk in found for label in chunk.labels}):
        shares = [chunk.share(label) for chunk in found if chunk.events]
        whole = sum(chunk.labels.get(label, 0) for chunk in found) / events
        made.append(Spread(label, whole, min(shares), max(shares)))
    return made
