"""What a stream of chunks is doing: events delivered, seconds waited, read and decoded. Counted by several threads."""

from __future__ import annotations

import threading
import time
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class Meter:
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

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Add what is done within to a part of the work."""
        began = time.perf_counter()
        try:
            yield
        finally:
            with self._lock:
                self._seconds[part] = self._seconds.get(part, 0.0) + time.perf_counter() - began
