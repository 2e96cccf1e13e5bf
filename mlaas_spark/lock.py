"""One job at a time: a lock with a lease, in a folder that all jobs see.

A lock is a numbered file. Who takes it publishes the next number, which only one can; it is renewed while its job
works, and marked as ended after it. The newest file stays: a number is never used twice, so that of several jobs that
find the lock of a dead one, one gets it.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mlaas_spark import lease, storage
from mlaas_spark.errors import LockedError

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def held(folder: str, renew: float = lease.RENEWED_S, silent: float = lease.SILENT_S) -> Iterator[None]:
    """Hold the lock of a folder, which is made if it is not there.

    Args:
        folder: Path or URL, of nothing but the lock.
        renew: Seconds between two signs of life.
        silent: Seconds without one after which a job on another machine counts as dead.

    Raises:
        LockedError: A live job holds it, or was first to take over that of a dead one.
        UnwritableOutputError: It cannot be written.
    """
    storage.make_folder(folder)
    names = [name for name in storage.children(folder) if name.endswith(".json") and not name.startswith(".")]
    now = time.time()
    if names and (holder := lease.read(storage.join(folder, names[-1]))) and holder.alive(now, silent):
        raise LockedError(folder, f"{holder}, for {now - holder.began:.0f} s,")
    mine = lease.Lease.mine(now)
    number = int(names[-1].removesuffix(".json")) + 1 if names else 1
    url = storage.join(folder, f"{number:06d}.json")
    if not storage.publish(url, mine.dumps()):
        raise LockedError(folder, str(lease.read(url) or "another job"))
    for name in names:
        storage.remove(storage.join(folder, name))
    with lease.kept(url, mine, renew):
        yield
