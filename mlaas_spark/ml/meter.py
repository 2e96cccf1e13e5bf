"""What a training and its stream are doing: events delivered, seconds of each part. Counted by several threads."""

from __future__ import annotations

import threading
from collections import Counter
from typing import TYPE_CHECKING

from mlaas_spark.clock import Clock

if TYPE_CHECKING:
    from collections.abc import Mapping

WAITED, KERNEL, READ, DECODED = "waited", "kernel", "read", "decoded"
"""Parts of a stream: who takes its batches waits for its threads; threads make batches of row groups, wait for the
bytes of row groups, decompress them."""

HANDED, FIRST, FIT, TOGETHER = "handed", "first", "fit", "together"
"""Parts of a training: it waits for its next batch, what the stream waits included; it makes its first step, which its
library compiles; it learns from batches and judges them; workers wait for each other and add up."""


class Meter(Clock):
    """Counters of a stream, by name: events of a split, seconds of a part of the work."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._events: Counter[str] = Counter()
        self._seconds: dict[str, float] = {}

    def add(self, split: str, events: int) -> None:
        """So many events of the split were delivered."""
        with self._lock:
            self._events[split] += events

    def events(self, split: str) -> int:
        """Events of the split so far."""
        return self._events[split]

    def seconds(self, part: str) -> float:
        """Seconds of a part of the work so far, of all threads."""
        return self._seconds.get(part, 0.0)

    def parts(self) -> dict[str, float]:
        """Seconds of all parts so far."""
        with self._lock:
            return dict(self._seconds)

    def spent(self, seconds: Mapping[str, float]) -> None:
        """Add seconds that were measured, by part."""
        with self._lock:
            for part, more in seconds.items():
                self._seconds[part] = self._seconds.get(part, 0.0) + more
