"""Who writes into a folder, and whether it still lives: a small file that the writer renews while it works.

On the machine where the writer runs its process tells; elsewhere what it has written last, see
docs/decisions/0024-commit-and-staging.md. Knows nothing of data sets.
"""

from __future__ import annotations

import getpass
import hashlib
import json
import logging
import os
import re
import socket
import threading
import time
import uuid
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from mlaas_spark import storage
from mlaas_spark.errors import UnreadableInputError, UnwritableOutputError

if TYPE_CHECKING:
    from collections.abc import Iterator

_log = logging.getLogger(__name__)

RENEWED_S = 60.0
"""Seconds between two signs of life of a writer."""

SILENT_S = 3600.0
"""Seconds without one after which a writer on another machine counts as dead: clocks may differ by less than that."""

_NAME = re.compile(r"\.?writer-(?P<machine>[0-9a-f]{8})-(?P<pid>\d+)-(?P<started>\d+)-[0-9a-f]{8}\.json(?P<part>\..+)?")
"""Of the file of a lease, hidden and with a part more until it is whole."""

_START_TIME = 19  # place of starttime in /proc/PID/stat, counted from the field after the name


@dataclass(frozen=True, slots=True)
class Lease:
    """A writer.

    Attributes:
        host: Its machine, as people call it.
        machine: Boot and process namespace in which ``pid`` means it; "" where the system does not say.
        pid: Its process.
        started: When that was started, in ticks of the machine's clock: pids are used again.
        user: Whose it is.
        began: When it began to write, in seconds since the epoch.
        renewed: Its last sign of life.
        ended: Whether it has come to its end, by an error for one.
    """

    host: str
    machine: str
    pid: int
    started: int
    user: str
    began: float
    renewed: float
    ended: bool = False

    @classmethod
    def mine(cls, now: float) -> Lease:
        """That of this process."""
        pid = os.getpid()
        try:
            user = getpass.getuser()
        except (KeyError, OSError):  # a uid that has no name, in a container
            user = str(os.getuid())
        return cls(socket.gethostname(), _machine(), pid, _started(pid) or 0, user, now, now)

    def alive(self, now: float, silent: float = SILENT_S) -> bool:
        """Whether the writer lives: it runs on this machine, or has been heard of in the last ``silent`` seconds."""
        if self.ended:
            return False
        if self.machine and self.machine == _machine():
            return _started(self.pid) == self.started
        return now - self.renewed < silent

    def dumps(self) -> bytes:
        """As JSON; :func:`read` reads it back."""
        return json.dumps(asdict(self)).encode()

    def __str__(self) -> str:
        return f"process {self.pid} of {self.user} on {self.host}"


@contextmanager
def held(folder: str, renew: float = RENEWED_S) -> Iterator[None]:
    """Show in ``folder`` that this process writes there, renewed every ``renew`` seconds by a thread of its own.

    At the end the lease stays, marked as ended, if the folder is still there: it tells who has left it.

    Raises:
        UnwritableOutputError: It cannot be written.
    """
    lease = Lease.mine(time.time())
    # by the name alone the writer is known before it has written anything
    name = f"writer-{_short(lease.machine)}-{lease.pid}-{lease.started}-{uuid.uuid4().hex[:8]}.json"
    url = storage.join(folder, name)
    _write(url, lease)
    with kept(url, lease, renew):
        yield


@contextmanager
def kept(url: str, lease: Lease, renew: float = RENEWED_S) -> Iterator[None]:
    """Renew the lease that is written at ``url``, and mark it as ended at the end."""
    done = threading.Event()
    thread = threading.Thread(target=_renew, args=(url, lease, done, renew), name="lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        _rewrite(url, replace(lease, renewed=time.time(), ended=True))


def is_lease(name: str) -> bool:
    """Whether a file of that name is the lease of a writer."""
    return _NAME.fullmatch(name) is not None


def leases(folder: str) -> list[Lease]:
    """The writers that have shown themselves in a folder, or were about to."""
    found = []
    for name in storage.children(folder):
        if of := _NAME.fullmatch(name):
            url = storage.join(folder, name)
            with suppress(FileNotFoundError):  # gone meanwhile
                found.append(_half_written(of, url) if of["part"] else read(url) or _half_written(of, url))
    return found


def read(url: str) -> Lease | None:
    """The lease at ``url``; None if it is none."""
    try:
        return Lease(**json.loads(storage.read_bytes(url)))
    except (ValueError, TypeError):
        return None


def _half_written(of: re.Match[str], url: str) -> Lease:
    here = of["machine"] == _short(_machine())
    seen = storage.modified(url) or 0.0
    host, machine = (socket.gethostname(), _machine()) if here else ("another machine", of["machine"])
    return Lease(host, machine, int(of["pid"]), int(of["started"]), "an unknown user", seen, seen)


def runs_here(host: str, pid: int) -> bool | None:
    """Whether a process of a machine runs; None if that cannot be told from here."""
    if host != socket.gethostname() or not _machine():
        return None
    return _started(pid) is not None


def _renew(url: str, lease: Lease, done: threading.Event, renew: float) -> None:
    while not done.wait(renew):
        _rewrite(url, replace(lease, renewed=time.time()))


def _rewrite(url: str, lease: Lease) -> None:
    try:
        if storage.exists(url):  # else the folder was committed or cleaned
            _write(url, lease)
    except (UnreadableInputError, UnwritableOutputError) as error:  # the work itself will say it, if it lasts
        _log.warning("%s is not renewed: %s", url, error.why)


def _write(url: str, lease: Lease) -> None:
    storage.write_atomic(url, lease.dumps())


def _short(machine: str) -> str:
    return hashlib.sha256(machine.encode()).hexdigest()[:8]


@lru_cache
def _machine() -> str:
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    return ""


def _started(pid: int) -> int | None:
    """When a process of this machine was started, in clock ticks since its boot; None if it does not run."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in {"Z", "X"} else int(fields[_START_TIME])
