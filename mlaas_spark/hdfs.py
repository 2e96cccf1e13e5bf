"""HDFS for fsspec: hdfs_native's file system with errors that Python knows, and URLs as Spark spells them.

Known to fsspec, and so to uproot, once ``storage`` is imported. Imports nothing of ours.
"""

from __future__ import annotations

import errno
import io
import os
import re
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

from hdfs_native import FileReader
from hdfs_native.fsspec import HdfsFileSystem as _HdfsFileSystem

if TYPE_CHECKING:
    from collections.abc import Callable

_REMOTE = re.compile(r'\w*RPCError\("(?:[\w$]+\.)*([\w$]+)", "(.*)"\)', re.DOTALL)
_STACK = re.compile(r"(?:\n|\\n)\s*(?:\t|\\t)at .*", re.DOTALL)
_NO_NAME_NODE = "no NameNode is known by this name: write hdfs://host:port/..., or have HADOOP_CONF_DIR name it"
_NOT_YET = ("SafeModeException", "RetriableException", "StandbyException")  # of one that starts: nothing was done
_NOT_YET_WAITS = (1, 2, 4, 8, 15, 15, 15)  # seconds: it refuses to write for half a minute
_CUT = "RPC listener disconnected"  # the NameNode went while it was asked: hdfs_native does not ask again
_REPEATABLE = ("get_file_info", "list_status", "glob_status", "read", "mkdirs", "create", "get_content_summary")
_LINES = 1 << 20  # bytes that are read at once where lines are wanted

_clients: list[Any] = []
"""Every client of this process, for good. fsspec frees its file systems in each fork of the process, also in the one
that becomes Spark's JVM; a client that is freed waits for its threads, which a fork has not: it would wait for ever."""


def absolute(url: str) -> str:
    """An HDFS URL with its NameNode, in lower case, and single slashes: as Spark spells it in ``_metadata``.

    ``hdfs:///path`` is one in the default file system of Hadoop's configuration, as in Hadoop.

    Raises:
        LookupError: No NameNode in the URL, and no ``fs.defaultFS`` that is an HDFS in the configuration.
    """
    authority, _, path = url.partition("://")[2].partition("/")
    return f"hdfs://{authority.lower() or _default_name_node()}/" + re.sub("/+", "/", path).lstrip("/")


def _default_name_node() -> str:
    """Host and port, or the name service, of ``fs.defaultFS`` in the core-site.xml that hdfs_native reads."""
    home = os.environ.get("HADOOP_HOME")
    folder = os.environ.get("HADOOP_CONF_DIR") or (f"{home}/etc/hadoop" if home else "")
    path = Path(folder) / "core-site.xml"
    try:
        properties = ET.parse(path).getroot().iter("property") if folder else ()  # noqa: S314 - Hadoop's own file
    except (OSError, ET.ParseError) as error:
        msg = f"cannot read {path}: {error}"
        raise LookupError(msg) from error
    found = [entry.findtext("value", "").strip() for entry in properties if entry.findtext("name") == "fs.defaultFS"]
    scheme, _, authority = found[-1].rstrip("/").partition("://") if found else ("", "", "")
    if scheme != "hdfs" or not authority:
        given = f"fs.defaultFS in {path} is {found[-1]}" if found else "no core-site.xml of HADOOP_CONF_DIR names one"
        msg = f"the URL names no NameNode, and {given}: write hdfs://host:port/..."
        raise LookupError(msg)
    return authority.lower()


class HdfsFileSystem(_HdfsFileSystem):
    """HDFS whose failures are ``OSError``: PermissionError, FileNotFoundError, ConnectionError and so on.

    hdfs_native waits about three minutes for a NameNode that does not answer, see ``dfs.client.failover.*`` of Hadoop's
    configuration; one that answers that it is starting, or in safe mode, is waited for here.
    """

    def __init__(self, host: str | None = None, port: int | None = None, **options: Any) -> None:
        try:
            super().__init__(host, port, **options)
        except RuntimeError as error:
            raise OSError(errno.EINVAL, _NO_NAME_NODE, host) from error
        _clients.append(self.client.inner)
        self.client.inner = _Named(self.client.inner)  # type: ignore[assignment] # which has all that it has

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        # not through urllib, to which a ? of a glob is the beginning of a query
        inner = "/" + path.partition("://")[2].partition("/")[2] if "://" in path else path
        return re.sub("/+", "/", inner) or str(cls.root_marker)

    def isdir(self, path: str) -> bool:
        """Whether there is a folder; unlike fsspec's it does not take a server that is down for a no."""
        return self._type(path) == "directory"

    def isfile(self, path: str) -> bool:
        """Whether there is a file; as :meth:`isdir`."""
        return self._type(path) == "file"

    def exists(self, path: str, **_: Any) -> bool:
        """Whether there is a file or folder; as :meth:`isdir`."""
        return self._type(path) is not None

    def _type(self, path: str) -> str | None:
        try:
            return str(self.info(path)["type"])
        except (FileNotFoundError, NotADirectoryError):
            return None

    def walk(self, path: str, *args: Any, on_error: Any = "raise", **kwargs: Any) -> Iterator[Any]:
        """As fsspec's, but a folder that cannot be listed is an error, not an empty one; one that is gone is none."""
        try:
            yield from super().walk(path, *args, on_error=on_error, **kwargs)
        except FileNotFoundError:
            return

    def _open(self, path: str, mode: str = "rb", *args: Any, **options: Any) -> Any:
        path = self._strip_protocol(path)
        if mode == "rb":
            return _Reader(_Named(self.client.inner.read(path), path))  # type: ignore[arg-type] # as above
        writer = super()._open(path, mode, *args, **options)
        writer.inner = _Named(writer.inner, path)
        return writer


class _Reader(FileReader):
    """hdfs_native's open file, which iterates over blocks of bytes, as Python's: over lines."""

    def readinto(self, buffer: Any) -> int:
        content = self.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)

    def __iter__(self) -> Iterator[bytes]:
        return iter(io.BufferedReader(self, _LINES))


class _Named:
    """A client or an open file of hdfs_native whose methods raise ``OSError`` alone, with the path."""

    def __init__(self, inner: Any, path: str = "") -> None:
        self._inner = inner
        self._path = path

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return partial(called, getattr(self._inner, name), self._path)


def called(method: Callable[..., Any], path: str, *args: Any) -> Any:
    """What the method returns, a list in place of an iterator.

    A NameNode that is starting is asked again; so is one that went while it was asked what may be asked twice.
    """
    where = path or str(args[0])
    again = (*_NOT_YET, _CUT) if _repeatable(method, *args) else _NOT_YET
    for wait in (*_NOT_YET_WAITS, None):
        try:
            result = method(*args)
            return list(result) if isinstance(result, Iterator) else result
        except (OSError, RuntimeError, ValueError) as error:
            if wait is None or not any(name in str(error) for name in again):
                raise _as_os_error(error, where) from error
        time.sleep(wait)
    return None


def _repeatable(method: Callable[..., Any], *args: Any) -> bool:
    """Whether the NameNode may be asked twice: a file that is created must replace the one of the first time."""
    name = getattr(method, "__name__", "")
    return name in _REPEATABLE and (name != "create" or bool(args[1].overwrite))


def _as_os_error(error: Exception, path: str) -> OSError:
    """What hdfs_native raised, a RuntimeError with a Java exception and its stack for most, as Python's own error."""
    remote = _REMOTE.match(str(error))
    kind, told = remote.groups() if remote else ("", str(error))
    text = _STACK.sub("", told).replace('\\"', '"').strip()
    if isinstance(error, FileNotFoundError):
        return FileNotFoundError(errno.ENOENT, text, path)
    if isinstance(error, FileExistsError):
        return FileExistsError(errno.EEXIST, text, path)
    if isinstance(error, OSError):
        return ConnectionError(errno.ECONNABORTED, f"its server does not answer ({text})", path)
    if kind == "AccessControlException":
        return PermissionError(errno.EACCES, text, path)
    if kind == "ParentNotDirectoryException":
        return NotADirectoryError(errno.ENOTDIR, text, path)
    return OSError(errno.EIO, f"{kind}: {text}" if kind else text, path)
