"""A token bucket that keeps a client within the requests that a server allows an address. Knows no HTTP."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_BURSTS = 20  # a burst is this part of what is allowed in a second


class TokenBucket:
    """Lets so many requests through a second, whoever asks; threads may share it.

    What was saved up while nobody asked and what comes in later are together at most ``rate`` in any second (of a
    rate below 20 one more), for the server counts by seconds too.
    """

    def __init__(
        self,
        rate: float | None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        burst = max(1.0, float(int(rate / _BURSTS))) if rate else 1.0
        self._interval = 1 / (rate - burst if rate >= _BURSTS else rate) if rate else 0.0
        self._saved = (burst - 1) * self._interval
        self._clock, self._sleep = clock, sleep
        self._lock = threading.Lock()
        self._next = self._paused = float("-inf")

    def take(self) -> None:
        """Wait for a token."""
        with self._lock:
            now = self._clock()
            at = max(self._next - self._saved, now)
            self._next = max(self._next, at) + self._interval
        while (wait := max(at, self._paused) - self._clock()) > 0:
            self._sleep(wait)

    def pause(self, seconds: float) -> None:
        """Nobody gets a token for so long: the server said so."""
        with self._lock:
            self._paused = max(self._paused, self._clock() + seconds)
