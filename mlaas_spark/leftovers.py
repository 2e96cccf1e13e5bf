"""What writers that died have left in a folder: staging of data sets, unfinished runs; found, and removed.

What a live writer holds stays; so does what is needed to complete a version that is published.
"""

from __future__ import annotations

import re
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from mlaas_spark import lease, storage
from mlaas_spark.errors import FilesetError
from mlaas_spark.manifest import STAGING, VERSIONS, pending, present

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_DEPTH = 2  # below the folder that is named: runs/chunks/<digest>
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{32}\.tmp")  # as storage names what is not yet whole
_UNFINISHED = re.compile(r"\.unfinished-(?P<host>.+)-(?P<pid>\d+)-[0-9a-f]+")  # as runs does


@dataclass(frozen=True, slots=True)
class Leftover:
    """Something that a writer has not finished.

    Attributes:
        path: A folder or file.
        files: How many files it has.
        bytes: Of them together.
        age: Seconds since the last of them was changed; None where the file system does not say.
        stays: Whether it is needed.
        why: What is known of its writer.
    """

    path: str
    files: int
    bytes: int
    age: float | None
    stays: bool
    why: str

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)

    def __str__(self) -> str:
        age = "of unknown age" if self.age is None else f"{told(self.age)} old"
        return f"{self.path} ({self.files} file{'s' * (self.files != 1)}, {self.bytes:,} bytes, {age}): {self.why}"


def told(seconds: float) -> str:
    """A time span in the unit that people would use."""
    for unit, length in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def find(folder: str, silent: float = lease.SILENT_S) -> list[Leftover]:
    """What is left in a folder, and in those below it to the depth of ``runs/chunks/<digest>``.

    Args:
        folder: A data set, a folder of data sets, or one of runs.
        silent: Seconds after which a writer on another machine, or of which nothing is known, counts as dead if
            nothing was heard of it.

    Raises:
        FilesetError: There is no such folder.
        ChunkError: A manifest in it cannot be read.
    """
    if not storage.is_folder(folder):
        msg = f"no folder {folder}"
        raise FilesetError(msg)
    now = time.time()
    return list(_below(folder.rstrip("/") or "/", _DEPTH, now, silent))


def sweep(found: Iterable[Leftover]) -> list[Leftover]:
    """Remove what :func:`find` has found and nobody needs; what was removed.

    Raises:
        UnwritableOutputError: Something cannot be removed.
    """
    removed = [item for item in found if not item.stays]
    for item in removed:
        storage.remove(item.path)
        above, _, name = item.path.rpartition("/")
        if above.endswith(f"/{STAGING}"):
            storage.remove_empty(above)
            above, name = above.rpartition("/")[0], STAGING
        if name == STAGING:
            storage.remove_empty(above)  # of a data set that never was
    return removed


def complete(folder: str) -> None:
    """Do what is left to do of versions that were published in data sets that :func:`find` would look at.

    Raises:
        ChunkError: It cannot be done.
    """
    for place in _folders(folder.rstrip("/") or "/", _DEPTH):
        if VERSIONS in storage.children(place) and pending(place) is not None:
            present(place)


def _folders(folder: str, depth: int) -> Iterator[str]:
    yield folder
    if depth:
        for name in storage.children(folder):
            below = storage.join(folder, name)
            if not name.startswith((".", "_")) and storage.is_folder(below):
                yield from _folders(below, depth - 1)


def _below(folder: str, depth: int, now: float, silent: float) -> Iterator[Leftover]:
    for place in _folders(folder, depth):
        names = storage.children(place)
        yield from _parts(place, names, now, silent)
        if VERSIONS in names:
            versions = storage.join(place, VERSIONS)
            yield from _parts(versions, storage.children(versions), now, silent)
        if STAGING in names:
            yield from _stagings(place, now, silent, pending(place) if VERSIONS in names else None)


def _parts(place: str, names: Iterable[str], now: float, silent: float) -> Iterator[Leftover]:
    """Runs and files that are not yet whole."""
    for name in names:
        if unfinished := _UNFINISHED.fullmatch(name):
            yield _run(storage.join(place, name), unfinished["host"], int(unfinished["pid"]), now, silent)
        elif _TEMPORARY.fullmatch(name):
            yield _of_age(storage.join(place, name), now, silent)


def _stagings(place: str, now: float, silent: float, needed: str | None) -> Iterator[Leftover]:
    above = storage.join(place, STAGING)
    if not (names := storage.children(above)):
        yield _leftover(above, now, "it is empty", stays=False)
    for name in names:
        yield _staging(storage.join(above, name), now, silent, needed=name == needed)


def _staging(url: str, now: float, silent: float, *, needed: bool) -> Leftover:
    if needed:
        return _leftover(url, now, "its data set is committed but not yet in place", stays=True)
    if not (writers := lease.leases(url)):
        # a writer that has only made the folder would make it again
        return _of_age(url, now, silent) if storage.below(url) else _leftover(url, now, "it is empty", stays=False)
    last = max(writers, key=lambda writer: (writer.alive(now, silent), writer.renewed))
    if last.alive(now, silent):
        heard = told(now - last.renewed)
        return _leftover(url, now, f"{last} writes it, last heard of {heard} ago", stays=True)
    how = "ended without finishing it" if last.ended else "died"
    return _leftover(url, now, f"{last} {how}", stays=False)


def _run(url: str, host: str, pid: int, now: float, silent: float) -> Leftover:
    if (runs := lease.runs_here(host, pid)) is None:
        return _of_age(url, now, silent)
    return _leftover(url, now, f"process {pid} on {host} {'writes it' if runs else 'died'}", stays=runs)


def _of_age(url: str, now: float, silent: float) -> Leftover:
    """What no writer is known of: the last change tells."""
    found = _leftover(url, now, "", stays=True)
    if found.age is None:
        why, stays = "nothing is known of its writer", True
    else:
        stays = found.age < silent
        why = f"no writer is known, and it was {'changed' if stays else 'not changed'} in the last {told(silent)}"
    return Leftover(url, found.files, found.bytes, found.age, stays, why)


def _leftover(url: str, now: float, why: str, *, stays: bool) -> Leftover:
    files, total, changed = 0, 0, []
    for file in storage.below(url):
        try:
            total += storage.size(file)
            changed.append(storage.modified(file))
        except FileNotFoundError:  # its writer lives
            continue
        files += 1
    if not files:
        changed = [storage.modified(url)] if storage.exists(url) else [None]
    known = [moment for moment in changed if moment is not None]
    return Leftover(url, files, total, now - max(known) if known else None, stays, why)
