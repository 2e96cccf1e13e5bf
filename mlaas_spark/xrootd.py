"""Files on XRootD servers: vector reads, an end to every wait, another try where that may help. Knows no ROOT.

The only importer of XRootD's client, which is asked with callbacks alone: of a call that waits inside the client the
client alone says when it ends, and a thread that waits there cannot be called back.
"""

from __future__ import annotations

import bisect
import importlib
import logging
import os
import queue
import random
import sys
import threading
import time
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Self, TypeVar

from fsspec.spec import AbstractFileSystem

from mlaas_spark.errors import ConfigError, UnreadableInputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from types import TracebackType

    from XRootD.client import File
    from XRootD.client.responses import XRootDStatus

_log = logging.getLogger(__name__)

_SCHEMES = ("root://", "xroot://", "roots://", "xroots://")

# The client's own settings. Without them it waits minutes to connect and half an hour for an answer, looks but every
# 15 s whether a time is up, and for half an hour after a failed connection repeats the failure without a try.
_SETTINGS = {
    "XRD_CONNECTIONWINDOW": "15",
    "XRD_CONNECTIONRETRY": "1",
    "XRD_REQUESTTIMEOUT": "120",
    "XRD_STREAMTIMEOUT": "60",
    "XRD_STREAMERRORWINDOW": "0",
    "XRD_TIMEOUTRESOLUTION": "1",
}

_GRACE_S = 10  # beyond its time limit, in which the client should have said so
_CLOSE_S = 5
_FIRST_WAIT_S, _WAITS_GROW, _LONGEST_WAIT_S = 1.0, 4.0, 60.0
_REQUEST_BYTES = 8 << 20  # a request of so much fits into any time limit that makes sense
_GAP_BYTES = 4096
_LOCATE_FOLDER = 0x0001 | 0x0100 | 0x0400  # of XProtocol.hh: kXR_compress, kXR_prefname, kXR_4dirlist, as xrdfs asks
_ELEMENTS, _ELEMENT_BYTES = 1024, 2_097_136  # of a vector read, in the protocol; a server may have limits of its own

# Codes of XrdClStatus.hh and XProtocol.hh
_NOT_FOUND, _SAID_BY_SERVER = 304, 400
_MAY_PASS = frozenset({1, *range(101, 110), 201, 202, 206, 207, 301, 303})  # retry, sockets, handshake, time limits
_REFUSED = frozenset({203, 204})  # login, authentication
_SERVER_NOT_FOUND = 3011
_SERVER_REFUSED = frozenset({3010, 3028, 3030})
_SERVER_MAY_PASS = frozenset({3004, 3008, 3012, 3014, 3017, 3020, 3024, 3034, 3035})  # handle lost, busy, cancelled

T = TypeVar("T")


class XRootDError(Exception):
    """What an XRootD server or its client said; the text is a reason that a user understands.

    No OSError, which uproot and fsspec may take for something else than a file that cannot be read.
    """


class _PassingError(XRootDError):
    """A failure that may pass: no answer in time, a lost connection, a server that is busy."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait for a server and how often to try again.

    Attributes:
        timeout: Seconds within which a server answers one request.
        retries: Tries after the first one; before them are waits of about 1, 4, 16 ... seconds, a minute at most.
    """

    timeout: int = 60
    retries: int = 3

    def waits(self) -> Iterator[float]:
        """Seconds before each further try; by chance up to half as long, so that not all clients come at once."""
        for number in range(self.retries):
            wait = min(_FIRST_WAIT_S * _WAITS_GROW**number, _LONGEST_WAIT_S)
            yield wait * random.uniform(0.5, 1.0)  # noqa: S311 - no secret


PATIENCE = Patience()
"""Of whoever says nothing else."""


def is_url(path: str) -> bool:
    """Whether a path names a file on an XRootD server."""
    return path.startswith(_SCHEMES)


def split(url: str) -> tuple[str, str]:
    """The server and the path on it, whatever letters the path has.

    >>> split("root://host:1094//store/f?.root")
    ('root://host:1094', '//store/f?.root')
    """
    scheme, _, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host}", slash + path


def prepare_client() -> None:
    """Import the client with its settings, which it reads then; those set already (``spark.executorEnv.XRD_...``) stay.

    TensorFlow shows all the process the OpenSSL that it contains, and the client dies of it where it is loaded later,
    unless its libraries look first among themselves.

    Raises:
        ConfigError: It is not installed.
    """
    if "XRootD.client" in sys.modules:
        return
    for key, value in _SETTINGS.items():
        os.environ.setdefault(key, value)
    flags = sys.getdlopenflags()
    sys.setdlopenflags(flags | os.RTLD_DEEPBIND)
    try:
        importlib.import_module("XRootD.client")
    except ImportError as error:
        msg = f"root:// needs XRootD's client ({error}): pip install 'mlaas-spark[xrootd]'"
        raise ConfigError(msg) from error
    finally:
        sys.setdlopenflags(flags)


class Folders(AbstractFileSystem):  # type: ignore[misc] # fsspec has no types
    """What is on a server, or on all those behind a redirector, for fsspec to walk and match; to be read only.

    fsspec leaves out a folder whose listing fails with an OSError, and takes what it cannot look at for no folder;
    what comes out of here is no OSError, but where there is nothing of that name.

    Raises:
        UnreadableInputError: A server refuses to say what it has, or has not answered in the end.
    """

    cachable = False
    root_marker = "/"

    def __init__(self, url: str, patience: Patience) -> None:
        super().__init__()
        self._server, self._patience = split(url)[0], patience

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        path = split(path)[1] if is_url(path) else path
        return "/" + path.strip("/")

    def unstrip_protocol(self, name: str) -> str:
        """The URL of a path."""
        return f"{self._server}/{name}"

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """Name, size in bytes and type."""
        path = self._strip_protocol(path)
        found = self._asked(self._server, path, lambda files, **how: files.stat(path, **how))
        return _described(path, found)

    def exists(self, path: str, **_: Any) -> bool:
        """Whether there is something of that name; fsspec's own takes any failure for a no."""
        try:
            self.info(path)
        except FileNotFoundError:
            return False
        return True

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:  # noqa: FBT001, FBT002 - fsspec's
        """What is in a folder, of every server that has it: a redirector would send on to one of them."""
        from XRootD.client.flags import DirListFlags

        path = self._strip_protocol(path)
        places = self._asked(
            self._server, path, lambda files, **how: files.deeplocate(f"*{path}", _LOCATE_FOLDER, **how)
        )
        found: dict[str, dict[str, Any]] = {}
        for address in sorted({place.address for place in places}):
            listed = self._asked(
                f"{self._server.partition('://')[0]}://{address}",
                path,
                lambda files, **how: files.dirlist(path, DirListFlags.STAT, **how),
            )
            for entry in listed:
                name = f"{path.rstrip('/')}/{entry.name}"
                found.setdefault(name, _described(name, entry.statinfo))
        return list(found.values()) if detail else list(found)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        """Content of a file."""
        url = self.unstrip_protocol(self._strip_protocol(path))
        try:
            with RemoteFile(url, self._patience) as file:
                return file.read(start or 0, end or file.size or 0)
        except XRootDError as error:
            raise UnreadableInputError(url, str(error)) from error

    def _asked(self, server: str, path: str, ask: Callable[..., XRootDStatus]) -> Any:
        prepare_client()
        from XRootD.client import FileSystem

        files, timeout = FileSystem(server), self._patience.timeout

        def tried() -> Any:
            return _answer(lambda reply: ask(files, timeout=timeout, callback=reply), timeout)

        try:
            return _patiently(tried, self._patience, time.sleep)
        except XRootDError as error:
            raise UnreadableInputError(self.unstrip_protocol(path), str(error)) from error


def _described(name: str, about: Any) -> dict[str, Any]:
    from XRootD.client.flags import StatInfoFlags

    kind = "directory" if about.flags & StatInfoFlags.IS_DIR else "file"
    return {"name": name, "size": about.size, "type": kind}


class RemoteFile:
    """An open file of an XRootD server, opened again when the connection is lost; its requests go one at a time.

    A try is an open, if need be, and the request: four answers, each of which has ``timeout`` seconds. So a request
    ends after at most ``1 + retries`` tries and the waits between them, whatever the server does.

    Raises:
        FileNotFoundError: The server has no such file.
        XRootDError: The server refuses it, or has not answered in the end.
    """

    def __init__(self, url: str, patience: Patience) -> None:
        self._url = url
        self._patience = patience
        self._closing = threading.Event()
        self._in_turn = threading.Lock()
        self._opened: _Opened | None = None
        self.size: int | None = None
        self.size = self._asked(lambda opened: opened.size)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def read(self, start: int, stop: int) -> bytes:
        """Bytes [start, stop), fewer at the end of the file."""
        return self._asked(lambda opened: opened.read(start, stop))

    def read_many(self, ranges: Sequence[tuple[int, int]]) -> list[memoryview]:
        """Bytes of several ranges [start, stop), in as few vector reads as the server's limits allow."""
        return self._asked(lambda opened: opened.read_many(ranges))

    def close(self) -> None:
        """Close the file; a request that waits for its next try gives up."""
        self._closing.set()
        with self._in_turn:
            self._drop()

    def _asked(self, request: Callable[[_Opened], T]) -> T:
        def tried() -> T:
            try:
                return request(self._current())
            except _PassingError:
                self._drop()
                raise

        with self._in_turn:
            return _patiently(tried, self._patience, self._pause)

    def _pause(self, wait: float) -> None:
        if self._closing.wait(wait):
            msg = "it was closed"
            raise XRootDError(msg)

    def _current(self) -> _Opened:
        if self._opened is None:
            opened = _Opened.open(self._url, self._patience.timeout)
            if self.size not in {None, opened.size}:
                _abandon(opened.handle)
                msg = f"it was replaced while it was read ({opened.size} bytes, not {self.size})"
                raise XRootDError(msg)
            self._opened = opened
        return self._opened

    def _drop(self) -> None:
        opened, self._opened = self._opened, None
        if opened is not None:
            _abandon(opened.handle)


def batches(ranges: Iterable[tuple[int, int]]) -> Iterator[list[tuple[int, int]]]:
    """Byte ranges in the order of the file, in groups that make a request of a moderate size.

    >>> list(batches([(90, 95), (0, 10)]))
    [[(0, 10), (90, 95)]]
    """
    batch: list[tuple[int, int]] = []
    size = 0
    for start, stop in sorted(ranges):
        if batch and size + stop - start > _REQUEST_BYTES:
            yield batch
            batch, size = [], 0
        batch.append((start, stop))
        size += stop - start
    if batch:
        yield batch


def joined(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Byte ranges, each as it is or with its neighbours in one: an element of a vector read costs more than a gap.

    >>> joined([(0, 10), (12, 20), (100_000, 100_005)])
    [(0, 20), (100000, 100005)]
    """
    spans: list[tuple[int, int]] = []
    for start, stop in sorted(ranges):
        if spans and start - spans[-1][1] <= _GAP_BYTES:
            spans[-1] = (spans[-1][0], max(spans[-1][1], stop))
        else:
            spans.append((start, stop))
    return spans


@dataclass(frozen=True, slots=True)
class _Opened:
    """A file handle of the client, and how much its server takes in a vector read."""

    handle: File
    timeout: int
    size: int
    elements: int
    element_bytes: int

    @classmethod
    def open(cls, url: str, timeout: int) -> Self:
        prepare_client()
        from XRootD.client import File

        handle = File()
        try:
            _answer(lambda reply: handle.open(url, timeout=timeout, callback=reply), timeout)
            size = int(_answer(lambda reply: handle.stat(timeout=timeout, callback=reply), timeout).size)
            elements, element_bytes = _limits(handle.get_property("DataServer"), timeout)
        except (OSError, XRootDError):
            _abandon(handle)
            raise
        return cls(handle, timeout, size, elements, element_bytes)

    def read(self, start: int, stop: int) -> bytes:
        length = max(0, min(stop, self.size) - start)  # the client takes memory for all that was asked for

        def ask(reply: Callable[..., None]) -> XRootDStatus:
            return self.handle.read(start, length, timeout=self.timeout, callback=reply)

        return bytes(_answer(ask, self.timeout))

    def read_many(self, ranges: Sequence[tuple[int, int]]) -> list[memoryview]:
        spans, size = joined(ranges), self.element_bytes
        pieces = [(place, min(size, stop - place)) for start, stop in spans for place in range(start, stop, size)]
        found = {
            chunk.offset: chunk.buffer
            for first in range(0, len(pieces), self.elements)
            for chunk in self._vector(pieces[first : first + self.elements])
        }
        content = {
            start: memoryview(b"".join(found[place] for place in range(start, stop, size))) for start, stop in spans
        }
        starts = sorted(content)
        inside = [starts[bisect.bisect_right(starts, start) - 1] for start, _ in ranges]
        return [content[span][start - span : stop - span] for span, (start, stop) in zip(inside, ranges, strict=True)]

    def _vector(self, pieces: list[tuple[int, int]]) -> Sequence[Any]:
        def ask(reply: Callable[..., None]) -> XRootDStatus:
            return self.handle.vector_read(pieces, timeout=self.timeout, callback=reply)

        chunks: Sequence[Any] = _answer(ask, self.timeout).chunks
        return chunks


def _answer(ask: Callable[[Callable[..., None]], XRootDStatus], timeout: int) -> Any:
    """The response to a request that is asked with a callback."""
    replies: queue.SimpleQueue[tuple[XRootDStatus, Any]] = queue.SimpleQueue()
    try:
        status, response = ask(lambda status, response, _: replies.put((status, response))), None
    except ValueError as error:  # what its Python side says of a handle that a lost connection has closed
        raise _PassingError(str(error)) from error
    if status.ok:
        try:
            status, response = replies.get(timeout=timeout + _GRACE_S)
        except queue.Empty:
            msg = f"its client has not called back in {timeout + _GRACE_S} s"
            raise _PassingError(msg) from None
    if not status.ok:
        raise _failure(status)
    return response


def _failure(status: XRootDStatus) -> Exception:
    by_server, number, text = status.code == _SAID_BY_SERVER, status.errno, str(status.message).strip()
    if status.code == _NOT_FOUND or (by_server and number == _SERVER_NOT_FOUND):
        return FileNotFoundError(text)
    if status.code in _REFUSED or (by_server and number in _SERVER_REFUSED):
        return XRootDError(f"its server refuses it ({text}): see your proxy or token, and who may read it")
    if status.code in _MAY_PASS or (by_server and number in _SERVER_MAY_PASS):
        return _PassingError(text)
    return XRootDError(f"its server cannot read it ({text})")


def _patiently(action: Callable[[], T], patience: Patience, pause: Callable[[float], object]) -> T:
    began = time.monotonic()
    for wait in patience.waits():
        try:
            return action()
        except _PassingError as error:
            _log.info("no answer (%s): next try in %.1f s", error, wait)
            pause(wait)
    try:
        return action()
    except _PassingError as error:
        tries = f"{patience.retries + 1} times" if patience.retries else "once"
        msg = (
            f"its server does not answer ({error}), tried {tries} in "
            f"{time.monotonic() - began:.0f} s: give it more tries with --retries, or with --timeout more than "
            f"{patience.timeout} s for an answer"
        )
        raise XRootDError(msg) from error


@lru_cache  # which keeps no exception
def _limits(server: str, timeout: int) -> tuple[int, int]:
    """Elements of a vector read and bytes of an element that a data server allows; the protocol's if it says nothing.

    Raises:
        XRootDError: It did not answer.
    """
    from XRootD.client import URL, FileSystem
    from XRootD.client.flags import QueryCode

    place = URL(server)
    files = FileSystem(f"{place.protocol}://{place.hostid}/")
    try:
        said = _answer(
            lambda reply: files.query(QueryCode.CONFIG, "readv_iov_max readv_ior_max", timeout=timeout, callback=reply),
            timeout,
        )
        elements, element_bytes = (int(line) for line in bytes(said).strip(b"\0\n").split(b"\n")[:2])
    except _PassingError:
        raise
    except (ValueError, XRootDError):  # a server that knows of no such setting repeats its name, or says so
        return _ELEMENTS, _ELEMENT_BYTES
    return max(elements, 1), max(element_bytes, 1)


def _abandon(handle: File) -> None:
    """Close a handle without waiting; one left open would be closed, and waited for, when the process ends."""

    def closed(*_: object) -> None:
        _log.debug("closed %s", handle)  # which lives until then

    handle.close(timeout=_CLOSE_S, callback=closed)
