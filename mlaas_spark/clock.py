"""What work is timed by: seconds of each part of it. Who keeps them says where they go."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from contextlib import AbstractContextManager

T = TypeVar("T")


class Clock(ABC):
    """Seconds of the parts of some work, by name."""

    @abstractmethod
    def spent(self, seconds: Mapping[str, float]) -> None:
        """Add seconds that were measured, by part."""

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Add what is done within to a part of the work."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.spent({part: time.perf_counter() - began})

    @contextmanager
    def timed_apart(self, waiting: str, working: str) -> Iterator[None]:
        """Add what is done within to two parts: what its thread computes, and what it waits.

        It waits for a disk, a network, or a core that is free.
        """
        began, busy = time.perf_counter(), time.thread_time()
        try:
            yield
        finally:
            computed = time.thread_time() - busy
            waited = time.perf_counter() - began - computed
            self.spent({working: computed, waiting: max(waited, 0.0)})

    def waiting(self, part: str, source: Iterable[T]) -> Iterator[T]:
        """What the source gives; the time until it does is added to a part of the work."""
        return _each(source, partial(self.timed, part))

    def waiting_apart(self, waiting: str, working: str, source: Iterable[T]) -> Iterator[T]:
        """As :meth:`waiting`, to two parts as :meth:`timed_apart` does."""
        return _each(source, partial(self.timed_apart, waiting, working))


def _each(source: Iterable[T], timed: Callable[[], AbstractContextManager[None]]) -> Iterator[T]:
    iterator = iter(source)
    while True:
        with timed():
            try:
                item = next(iterator)
            except StopIteration:
                return
        yield item
        del item  # it may be large: not held while the next is waited for
