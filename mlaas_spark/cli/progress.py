"""Progress of long work: a line that is renewed on a terminal, elsewhere a line every half minute."""

from __future__ import annotations

import threading
import time
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mlaas_spark.cli import show

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mlaas_spark.runs import Stage

_RENEWED_S = 1.0
_EVERY_S = 30.0
_FEW_S = 2.0  # of so little nothing is foretold
_WINDOW_S = 60.0  # speed is that of the last minute


@contextmanager
def ticking(stage: Stage) -> Iterator[None]:
    """Tell, from a thread, how far a stage is until it ends."""
    with show.renewed() as renew:
        ended = threading.Event()
        every = _EVERY_S if renew is None else _RENEWED_S
        thread = threading.Thread(
            target=_tick, args=(stage, ended, every, renew or show.remark), name="progress", daemon=True
        )
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


def _tick(stage: Stage, ended: threading.Event, every: float, tell: Callable[[str], None]) -> None:
    began, pace = time.perf_counter(), Pace(max(_WINDOW_S, 2 * every))
    while not ended.wait(every):
        now = time.perf_counter()
        share = stage.measure() if stage.measure else None
        rate = pace.at(now, share)
        tell(since(stage.name, now - began) if share is None else far(stage.name, share, rate, stage.total, stage.size))


class Pace:
    """How fast a share grows, from looks at it.

    What comes before the first share that is known, and where none is, does not count: a library that compiles, Spark
    between two jobs.

    Args:
        window: Seconds; looks that are older do not count, but two do always.
    """

    def __init__(self, window: float) -> None:
        self._window = window
        self._looks: deque[tuple[float, float]] = deque()

    def at(self, now: float, share: float | None) -> float | None:
        """The growth a second, after a look; None where it is not known yet, or nothing grows."""
        if share is None:
            self._looks.clear()
            return None
        self._looks.append((now, share))
        while len(self._looks) > 2 and self._looks[0][0] < now - self._window:
            self._looks.popleft()
        seconds, more = now - self._looks[0][0], share - self._looks[0][1]
        return more / seconds if seconds >= _FEW_S and more > 0 else None


def since(name: str, seconds: float) -> str:
    """Of a stage that cannot tell how far it is, how long it takes."""
    return f"  {name}: {_time(seconds)} so far"


def far(name: str, share: float, rate: float | None, events: int | None, size: int | None) -> str:
    """How far a stage is.

    Args:
        name: Of the stage.
        share: Of it that is done, 0 to 1.
        rate: By which the share grows in a second, None if that is not known.
        events: In all of it, None if that is not known.
        size: Bytes in all of it, None if that is not known.
    """
    told = [f"  {name}: {100 * share:.0f} %"]
    if events:
        told.append(f"{round(share * events):,} of {events:,} events")
    if events and rate:
        told.append(f"{rate * events / 1e3:.3g} kHz")
    if size and rate:
        told.append(f"{rate * size / 1e6:.3g} MB/s")
    if rate and share < 1:
        told.append(f"{_time((1 - share) / rate)} left")
    return ", ".join(told)


def _time(seconds: float) -> str:
    """As people say it."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
