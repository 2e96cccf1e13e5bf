"""Progress of long work: a line that is renewed on a terminal, elsewhere a line every half minute."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mlaas_spark.cli import show

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mlaas_spark.runs import Stage

_RENEWED_S = 1.0
_EVERY_S = 30.0
_FEW_S = 2.0  # of so little nothing is foretold


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
    began = time.perf_counter()
    while not ended.wait(every):
        if (share := stage.measure() if stage.measure else None) is not None:
            tell(far(stage.name, share, time.perf_counter() - began, stage.total, stage.size))


def far(name: str, share: float, seconds: float, events: int | None, size: int | None) -> str:
    """How far a stage is.

    Args:
        name: Of the stage.
        share: Of it that is done, 0 to 1.
        seconds: It has taken so far.
        events: In all of it, None if that is not known.
        size: Bytes in all of it, None if that is not known.
    """
    told = [f"  {name}: {100 * share:.0f} %"]
    if events:
        told.append(f"{int(share * events):,} of {events:,} events")
    if events and share:
        told.append(f"{share * events / seconds / 1e3:.1f} kHz")
    if size and share:
        told.append(f"{share * size / seconds / 1e6:.1f} MB/s")
    if 0 < share < 1 and seconds >= _FEW_S:
        left = seconds * (1 - share) / share
        told.append(f"{left:.0f} s left" if left < 120 else f"{left / 60:.0f} min left")
    return ", ".join(told)
