"""Files by URL, through fsspec: expand globs, open, write atomically, publish if absent. Knows no file format."""

from __future__ import annotations

import errno
import os
import socket
import time
import uuid
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import fsspec
import pyarrow as pa
from fsspec.implementations.local import LocalFileSystem

from mlaas_spark import xrootd
from mlaas_spark.errors import UnreadableInputError, reason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mlaas_spark.xrootd import Patience

_GLOB = frozenset("*?[")

_PORTS = {"root": 1094, "xroot": 1094}
_CONNECT_S = 15.0
_WAITS = (0.5, 1.0, 2.0)  # seconds between tries to reach a server


def check_server(url: str) -> None:
    """See that somebody listens where an XRootD or HDFS URL points, once a process.

    Of a server that is down XRootD's client may never call back, and HDFS' tries for minutes. A name without a port is
    left to HDFS, where it may stand for several servers.

    Raises:
        UnreadableInputError: Nobody does, after some tries.
    """
    place = urlsplit(url)
    port = place.port or _PORTS.get(place.scheme)
    if place.scheme in {*_PORTS, "hdfs"} and place.hostname and port:
        try:
            _reach(place.hostname, port)
        except OSError as error:
            why = f"its server does not answer ({reason(error)}), tried {len(_WAITS) + 1} times"
            raise UnreadableInputError(url, why) from error


@lru_cache  # which keeps no exception: a server that was down is tried again
def _reach(host: str, port: int) -> None:
    for wait in _WAITS:
        try:
            return socket.create_connection((host, port), _CONNECT_S).close()
        except OSError:
            time.sleep(wait)
    return socket.create_connection((host, port), _CONNECT_S).close()


def filesystem(url: str, patience: Patience | None = None) -> tuple[Any, str]:
    """The fsspec filesystem of ``url`` and the path in it; with patience, what is on an XRootD server is looked up so.

    Raises:
        UnreadableInputError: As :func:`check_server`.
    """
    if xrootd.is_url(url):
        xrootd.prepare_client()
        if patience is not None:
            return xrootd.Folders(url, patience), xrootd.split(url)[1]
    check_server(url)
    fs, path = fsspec.core.url_to_fs(url)
    return fs, path


def join(base: str, *parts: str) -> str:
    """``base/part/...``, for local paths and URLs alike."""
    return "/".join((base.rstrip("/"), *parts))


def absolute(path: str) -> str:
    """A path that means the same in every process: local ones made absolute, URLs as they are."""
    return path if "://" in path else str(Path(path).absolute())


def has_glob(path: str) -> bool:
    """Whether ``path`` is a pattern."""
    return bool(_GLOB & set(path))


def expand(pattern: str, patience: Patience | None = None) -> list[str]:
    """Files that a glob matches, sorted; with the protocol of the pattern."""
    fs, path = filesystem(pattern, patience)
    matches = sorted(str(match) for match in fs.glob(path))
    return matches if isinstance(fs, LocalFileSystem) else [fs.unstrip_protocol(match) for match in matches]


def exists(url: str, patience: Patience | None = None) -> bool:
    """Whether there is a file or folder at ``url``."""
    fs, path = filesystem(url, patience)
    return bool(fs.exists(path))


def is_folder(url: str, patience: Patience | None = None) -> bool:
    """Whether there is a folder at ``url``."""
    fs, path = filesystem(url, patience)
    return bool(fs.isdir(path))


def below(url: str, patience: Patience | None = None) -> list[str]:
    """All files in a folder and the folders in it, sorted; with the protocol of ``url``."""
    fs, path = filesystem(url, patience)
    found = sorted(str(file) for file in fs.find(path))
    return found if isinstance(fs, LocalFileSystem) else [fs.unstrip_protocol(file) for file in found]


def size(url: str, patience: Patience | None = None) -> int:
    """Bytes of a file."""
    fs, path = filesystem(url, patience)
    return int(fs.size(path))


def children(url: str, patience: Patience | None = None) -> list[str]:
    """Names in a folder, sorted; empty if there is no folder."""
    fs, path = filesystem(url, patience)
    if not fs.isdir(path):
        return []
    return sorted(str(child).rstrip("/").rsplit("/", 1)[-1] for child in fs.ls(path, detail=False))


def read_bytes(url: str, patience: Patience | None = None) -> bytes:
    """Content of a file."""
    fs, path = filesystem(url, patience)
    content: bytes = fs.cat_file(path)
    return content


def head_and_tail(url: str, length: int) -> tuple[int, bytes, bytes]:
    """Size of a file in bytes, its first and its last ``length`` bytes."""
    fs, path = filesystem(url)
    total = int(fs.size(path))
    with fs.open(path, "rb") as stream:
        head = stream.read(length)
        stream.seek(max(0, total - length))
        return total, head, stream.read(length)


def make_folder(url: str) -> None:
    """Make a folder and those above it; one that is there stays."""
    fs, path = filesystem(url)
    fs.makedirs(path, exist_ok=True)


def remove(url: str) -> None:
    """Remove a file or folder and all below it; one that is not there is no error."""
    fs, path = filesystem(url)
    if fs.exists(path):
        fs.rm(path, recursive=True)


def move(source: str, target: str) -> None:
    """Rename a file within one filesystem; an existing target is replaced."""
    fs, path = filesystem(source)
    _, target_path = filesystem(target)
    if isinstance(fs, LocalFileSystem):
        Path(target_path).parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, target_path)  # noqa: PTH105 - atomic, also over an existing file
        return
    fs.makedirs(target_path.rsplit("/", 1)[0], exist_ok=True)
    if fs.exists(target_path):
        if not fs.exists(path):  # a target that an earlier try moved into place stays
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), source)
        fs.rm_file(target_path)
    fs.mv(path, target_path)


def write_atomic(url: str, content: bytes) -> None:
    """Write a file so that readers see the old content or the new one, never a part."""
    temporary = f"{url}.{uuid.uuid4().hex}.tmp"
    _write(temporary, content)
    move(temporary, url)


def write_stream(url: str, write: Callable[[Any], None]) -> None:
    """Write a file by a function that is given the open stream; the file appears whole, an old one is replaced."""
    temporary = f"{url}.{uuid.uuid4().hex}.tmp"
    fs, path = filesystem(temporary)
    fs.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
    with fs.open(path, "wb") as stream:
        write(stream)
    move(temporary, url)


def open_mapped(url: str) -> Any:
    """A file to read at random: mapped into memory if it is local."""
    fs, path = filesystem(url)
    return pa.memory_map(path) if isinstance(fs, LocalFileSystem) else fs.open(path, "rb")


def publish(url: str, content: bytes) -> bool:
    """Put a file if nothing has its name; False, with nothing changed, if something has."""
    fs, path = filesystem(url)
    temporary = f"{url}.{uuid.uuid4().hex}.tmp"
    _write(temporary, content)
    _, temporary_path = filesystem(temporary)
    if isinstance(fs, LocalFileSystem):
        try:
            os.link(temporary_path, path)  # unlike rename, link refuses a name that is taken
        except OSError as error:
            if error.errno != errno.EEXIST:
                raise
            return False
        finally:
            Path(temporary_path).unlink(missing_ok=True)
        return True
    # HDFS: a rename onto a file that exists is refused by the name node
    try:
        fs.mv(temporary_path, path)
    except OSError:
        if not fs.exists(path):
            raise
        fs.rm_file(temporary_path)
        return False
    return True


def total_size(urls: Iterable[str]) -> int:
    """Bytes of several files together."""
    return sum(size(url) for url in urls)


def _write(url: str, content: bytes) -> None:
    fs, path = filesystem(url)
    if isinstance(fs, LocalFileSystem):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with Path(path).open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        return
    fs.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
    with fs.open(path, "wb") as stream:
        stream.write(content)
