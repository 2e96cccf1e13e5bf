"""Files by URL, through fsspec: expand globs, open, write atomically, publish if absent. Knows no file format.

What keeps a file from being read or written leaves here as UnreadableInputError or UnwritableOutputError, which name
it; a file that is not there is a FileNotFoundError, of which callers make what it means to them.
"""

from __future__ import annotations

import errno
import getpass
import hashlib
import os
import shutil
import socket
import stat
import tempfile
import time
import uuid
from contextlib import contextmanager, suppress
from functools import lru_cache, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Concatenate, ParamSpec, TypeGuard, TypeVar
from urllib.parse import urlsplit

import fsspec
import pyarrow as pa
from fsspec.implementations.local import LocalFileSystem

from mlaas_spark import xrootd
from mlaas_spark.confidential import check_url
from mlaas_spark.errors import ConfigError, DamagedInputError, UnreadableInputError, UnwritableOutputError, reason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from contextlib import AbstractContextManager

    from mlaas_spark.xrootd import Patience

P = ParamSpec("P")
T = TypeVar("T")

fsspec.register_implementation("hdfs", "mlaas_spark.hdfs.HdfsFileSystem", clobber=True)

_GLOB = frozenset("*?[")

_PORTS = {"root": 1094, "xroot": 1094}
_CONNECT_S = 15.0
_WAITS = (0.5, 1.0, 2.0)  # seconds between tries to reach a server
_SAMPLE = 1 << 20  # bytes of head and tail that identify a file
_COPIED = 1 << 22  # bytes of a file in memory while it is copied
_TRIES = 10  # where another process removes folders as this one makes them
_VANISHED = (FileNotFoundError, FileExistsError)
"""What making a folder ends in where another process removes it, or the empty one above it, at the same moment:
``exist_ok`` finds that it is there, and then that it is no folder."""


@contextmanager
def reading(url: str) -> Iterator[None]:
    """Raise what keeps ``url`` from being read as UnreadableInputError; FileNotFoundError goes on as it is."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UnreadableInputError(url, why(error)) from error


@contextmanager
def writing(url: str) -> Iterator[None]:
    """Raise what keeps ``url`` from being written as UnwritableOutputError."""
    try:
        yield
    except OSError as error:
        raise UnwritableOutputError(url, why(error)) from error


@contextmanager
def to_be_written(url: str) -> Iterator[None]:
    """Raise that a place cannot be read, where it is a place to write to, as UnwritableOutputError."""
    try:
        yield
    except UnreadableInputError as error:
        raise UnwritableOutputError(url, error.why) from error


def is_trouble(error: BaseException) -> TypeGuard[OSError]:
    """Whether it is of the operating system or of a server, which says nothing of what is in the file.

    What a reader raises of a file's content has no error number.
    """
    return isinstance(error, OSError) and (error.errno is not None or isinstance(error, ConnectionError | TimeoutError))


def why(error: OSError) -> str:
    """What a user reads of an error of the operating system or of a server."""
    if isinstance(error, PermissionError):
        return f"{error.strerror or 'permission denied'}; ask its owner for access, or name another place"
    if isinstance(error, ConnectionError) and error.strerror:
        return error.strerror
    return f"{error.strerror or reason(error)}"


def _reads(function: Callable[Concatenate[str, P], T]) -> Callable[Concatenate[str, P], T]:
    """A function that reads what its first argument names."""
    return _within(reading, function)


def _writes(function: Callable[Concatenate[str, P], T]) -> Callable[Concatenate[str, P], T]:
    """A function that writes what its first argument names."""
    return _within(writing, function)


def _within(
    context: Callable[[str], AbstractContextManager[None]], function: Callable[Concatenate[str, P], T]
) -> Callable[Concatenate[str, P], T]:
    @wraps(function)
    def run(url: str, /, *args: P.args, **kwargs: P.kwargs) -> T:
        with context(url):
            return function(url, *args, **kwargs)

    return run


@_reads
def check_server(url: str) -> None:
    """See that somebody listens where an XRootD or HDFS URL points, once a process.

    Of a server that is down XRootD's client may never call back, and HDFS' tries for minutes. A name without a port is
    left to HDFS, where it may stand for several servers.

    Raises:
        UnreadableInputError: Nobody does, after some tries.
    """
    _check_server(url)


def _check_server(url: str) -> None:
    place = urlsplit(url)
    port = place.port or _PORTS.get(place.scheme)
    if place.scheme in {*_PORTS, "hdfs"} and place.hostname and port:
        try:
            _reach(place.hostname, port)
        except OSError as error:
            why = f"its server does not answer ({reason(error)}), tried {len(_WAITS) + 1} times"
            raise ConnectionError(errno.EHOSTUNREACH, why, url) from error


@lru_cache  # which keeps no exception: a server that was down is tried again
def _reach(host: str, port: int) -> None:
    for wait in _WAITS:
        try:
            return socket.create_connection((host, port), _CONNECT_S).close()
        except OSError:
            time.sleep(wait)
    return socket.create_connection((host, port), _CONNECT_S).close()


@_reads
def filesystem(url: str, patience: Patience | None = None) -> tuple[Any, str]:
    """The fsspec filesystem of ``url`` and the path in it; with patience, what is on an XRootD server is looked up so.

    Raises:
        UnreadableInputError: As :func:`check_server`.
    """
    return _filesystem(url, patience)


def _filesystem(url: str, patience: Patience | None = None) -> tuple[Any, str]:
    if xrootd.is_url(url):
        xrootd.prepare_client()
        if patience is not None:
            return xrootd.Folders(url, patience), xrootd.split(url)[1]
    _check_server(url)
    fs, path = fsspec.core.url_to_fs(url)
    return fs, path


def join(base: str, *parts: str) -> str:
    """``base/part/...``, for local paths and URLs alike."""
    return "/".join((base.rstrip("/"), *parts))


def absolute(path: str) -> str:
    """A path that means the same in every process: local ones made absolute, HDFS' with the NameNode.

    Raises:
        ConfigError: An HDFS URL without a NameNode, where Hadoop's configuration names none either; a URL with a
            password or token in it.
    """
    check_url(path)
    if path.lower().startswith("hdfs://"):
        from mlaas_spark import hdfs  # local jobs start without it

        try:
            return hdfs.absolute(path)
        except LookupError as error:
            msg = f"{path}: {error}"
            raise ConfigError(msg) from error
    return path if "://" in path else str(Path(path).absolute())


def local_path(path: str) -> Path | None:
    """Where it lies in the file system of this machine; None for what lies elsewhere."""
    plain = path.removeprefix("file://")
    return None if "://" in plain else Path(plain)


def is_inside(folder: str, path: str) -> bool:
    """Whether ``folder/path`` lies below the folder, wherever symbolic links lead; servers have none."""
    if (place := local_path(folder)) is None:
        return True
    return (place / path).resolve().is_relative_to(place.resolve())


def is_own(url: str) -> bool:
    """Whether a file belongs to who runs this process, and only its owner can change it or what lies in its place.

    Of a server it is asked whether it says so; one that tells no owners is not believed.
    """
    fs, path = _filesystem(url)
    if isinstance(fs, LocalFileSystem):
        found = [Path(path).resolve().stat(), Path(path).resolve().parent.stat()]
        return all(of.st_uid == os.geteuid() and not of.st_mode & stat.S_IWOTH for of in found)
    owner = str(fs.info(path).get("owner") or "")
    return owner == (os.environ.get("HADOOP_USER_NAME") or getpass.getuser())


def has_glob(path: str) -> bool:
    """Whether ``path`` is a pattern."""
    return bool(_GLOB & set(path))


@_reads
def expand(pattern: str, patience: Patience | None = None) -> list[str]:
    """Files that a glob matches, sorted; with the protocol of the pattern."""
    fs, path = _filesystem(pattern, patience)
    matches = sorted(str(match) for match in fs.glob(path))
    return matches if isinstance(fs, LocalFileSystem) else [fs.unstrip_protocol(match) for match in matches]


@_reads
def exists(url: str, patience: Patience | None = None) -> bool:
    """Whether there is a file or folder at ``url``."""
    fs, path = _filesystem(url, patience)
    return bool(fs.exists(path))


@_reads
def is_folder(url: str, patience: Patience | None = None) -> bool:
    """Whether there is a folder at ``url``."""
    fs, path = _filesystem(url, patience)
    return bool(fs.isdir(path))


@_reads
def below(url: str, patience: Patience | None = None) -> list[str]:
    """All files in a folder and the folders in it, sorted; with the protocol of ``url``."""
    fs, path = _filesystem(url, patience)
    found = sorted(str(file) for file in fs.find(path))
    return found if isinstance(fs, LocalFileSystem) else [fs.unstrip_protocol(file) for file in found]


def names_below(folder: str) -> set[str]:
    """All files in a folder and the folders in it, by their path from there."""
    top = filesystem(folder)[1].rstrip("/")
    return {filesystem(url)[1].removeprefix(top).lstrip("/") for url in below(folder)}


@_reads
def sha256(url: str) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    fs, path = _filesystem(url)
    digest = hashlib.sha256()
    with fs.open(path, "rb") as stream:
        while part := stream.read(_COPIED):
            digest.update(part)
    return digest.hexdigest()


@_reads
def size(url: str, patience: Patience | None = None) -> int:
    """Bytes of a file."""
    fs, path = _filesystem(url, patience)
    return int(fs.size(path))


@_reads
def modified(url: str) -> float | None:
    """When a file was last changed, in seconds since the epoch; None where the file system does not say."""
    fs, path = _filesystem(url)
    try:
        moment = fs.modified(path)
    except NotImplementedError:
        return None
    return float(moment.timestamp())


@_reads
def children(url: str, patience: Patience | None = None) -> list[str]:
    """Names in a folder, sorted; empty if there is no folder."""
    fs, path = _filesystem(url, patience)
    if not fs.isdir(path):
        return []
    return sorted(str(child).rstrip("/").rsplit("/", 1)[-1] for child in fs.ls(path, detail=False))


@_reads
def read_bytes(url: str, patience: Patience | None = None) -> bytes:
    """Content of a file."""
    fs, path = _filesystem(url, patience)
    content: bytes = fs.cat_file(path)
    return content


@_reads
def head_and_tail(url: str, length: int) -> tuple[int, bytes, bytes]:
    """Size of a file in bytes, its first and its last ``length`` bytes."""
    fs, path = _filesystem(url)
    if isinstance(fs, LocalFileSystem) and not (stat.S_ISREG(mode := Path(path).stat().st_mode)):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe, socket or device"
        raise UnreadableInputError(url, f"it is {kind}, not a file")  # to open a pipe waits for who writes it
    total = int(fs.size(path))
    with fs.open(path, "rb") as stream:
        head = stream.read(length)
        stream.seek(max(0, total - length))
        return total, head, stream.read(length)


def fingerprint(url: str) -> str:
    """What identifies the content of a file: 32 hexadecimal digits over size, first and last mebibyte.

    Raises:
        UnreadableInputError: No such file, or an empty one.
    """
    try:
        total, head, tail = head_and_tail(url, _SAMPLE)
    except FileNotFoundError as error:
        raise UnreadableInputError(url, "no such file") from error
    if not total:
        raise DamagedInputError(url, "the file is empty (0 bytes)")
    return hashlib.sha256(b"%d;" % total + head + tail).hexdigest()[:32]


def refuse_replaced(url: str, planned: str) -> None:
    """Refuse a file that is not the planned one, of which this was the :func:`fingerprint`.

    Raises:
        UnreadableInputError: It is another one, is gone or empty.
    """
    if (now := fingerprint(url)) != planned:
        raise UnreadableInputError(url, f"it was replaced since it was planned (uuid {now}, not {planned})")


@_writes
def make_folder(url: str) -> None:
    """Make a folder and those above it; one that is there stays."""
    fs, path = _filesystem(url)
    for _ in range(_TRIES):
        with suppress(*_VANISHED):
            fs.makedirs(path, exist_ok=True)
            return
    fs.makedirs(path, exist_ok=True)


@_writes
def remove(url: str) -> None:
    """Remove a file or folder and all below it; one that is not there is no error, nor one that others remove too."""
    fs, path = _filesystem(url)
    for last in (*[False] * _TRIES, True):
        try:
            if fs.exists(path):
                fs.rm(path, recursive=True)
        except OSError as error:  # gone, or something has come into it, while it was looked through
            if last or error.errno not in {errno.ENOENT, errno.ENOTEMPTY}:
                raise
        else:
            return


@_writes
def remove_empty(url: str) -> None:
    """Remove a folder that has nothing in it; any other stays."""
    fs, path = _filesystem(url)
    if fs.exists(path) and not fs.ls(path, detail=False):
        with suppress(OSError):  # something has come into it
            fs.rmdir(path)


def move(source: str, target: str) -> None:
    """Rename a file within one filesystem; an existing target is replaced.

    Raises:
        FileNotFoundError: No such source; the target stays as it is.
    """
    try:
        _move(source, target)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UnwritableOutputError(target, why(error)) from error


def _move(source: str, target: str) -> None:
    fs, path = _filesystem(source)
    _, target_path = _filesystem(target)
    if isinstance(fs, LocalFileSystem):
        Path(target_path).parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, target_path)  # noqa: PTH105 - atomic, also over an existing file
        return
    fs.makedirs(target_path.rsplit("/", 1)[0], exist_ok=True)
    if fs.protocol == "hdfs":
        fs.mv(path, target_path, overwrite=True)
        return
    if fs.exists(target_path):
        if not fs.exists(path):  # a target that an earlier try moved into place stays
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), source)
        fs.rm_file(target_path)
    fs.mv(path, target_path)


@_writes
def write_atomic(url: str, content: bytes, within: str | None = None) -> None:
    """Write a file so that readers see the old content or the new one, never a part.

    Args:
        url: The file.
        content: What it is to hold.
        within: A folder of the same filesystem where it lies until it is whole; None is that of the file.
    """
    temporary = _beside(url, within)
    _write(temporary, content)
    _put(temporary, url)


@_writes
def write_stream(url: str, write: Callable[[Any], None]) -> None:
    """Write a file by a function that is given the open stream; the file appears whole, an old one is replaced."""
    temporary = _beside(url)
    fs, path = _filesystem(temporary)
    fs.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
    with fs.open(path, "wb") as stream:
        write(stream)
    _put(temporary, url)


def _beside(url: str, within: str | None = None) -> str:
    """A name in the same folder, or in another, that nobody else uses, and that Spark and we pass over."""
    folder, _, name = url.rpartition("/")
    folder = folder if within is None else within
    return f"{folder}/.{name}.{uuid.uuid4().hex}.tmp" if folder else f".{name}.{uuid.uuid4().hex}.tmp"


def _put(temporary: str, url: str) -> None:
    """Give a file that is there, and that nobody else knows, its name."""
    try:
        move(temporary, url)
    except FileNotFoundError:
        if not exists(url):  # else it was renamed, and the server's answer to that was lost
            raise


@_reads
def open_mapped(url: str) -> Any:
    """A file to read at random: mapped into memory if it is local."""
    fs, path = _filesystem(url)
    return pa.memory_map(path) if isinstance(fs, LocalFileSystem) else fs.open(path, "rb")


@_writes
def publish(url: str, content: bytes, within: str | None = None) -> bool:
    """Put a file if nothing has its name; False, with nothing changed, if something has.

    Args:
        url: The file.
        content: What it is to hold.
        within: As :func:`write_atomic` has it.
    """
    fs, path = _filesystem(url)
    temporary = _beside(url, within)
    _write(temporary, content)
    _, temporary_path = _filesystem(temporary)
    if isinstance(fs, LocalFileSystem):
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            os.link(temporary_path, path)  # unlike rename, link refuses a name that is taken
        except OSError as error:
            if error.errno != errno.EEXIST:
                raise
            return False
        finally:
            Path(temporary_path).unlink(missing_ok=True)
        return True
    fs.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
    if not (won := _renamed(fs, temporary_path, path)):
        fs.rm_file(temporary_path)
    return won


def _renamed(fs: Any, source: str, target: str) -> bool:
    """Rename on a server that refuses a name that is taken (HDFS); False if it is.

    The server's answer may be lost, and the client may have asked twice: what is there then tells what was done.
    """
    try:
        fs.mv(source, target)
    except OSError:
        if not fs.exists(target):
            raise
        return not fs.exists(source)
    return True


@_writes
def publish_folder(url: str, unfinished: str) -> None:
    """Give the folder ``unfinished`` its name; all or nothing.

    Raises:
        UnwritableOutputError: The name is taken, the server refuses, or has not answered.
    """
    fs, path = _filesystem(unfinished)
    _rename_folder(fs, path, _filesystem(url)[1])


def _rename_folder(fs: Any, source: str, target: str) -> None:
    if isinstance(fs, LocalFileSystem):
        os.replace(source, target)  # noqa: PTH105 - a rename within one folder, all or nothing
    elif not _renamed(fs, source, target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target)


@_writes
def replace_folder(url: str, files: Mapping[str, bytes]) -> None:
    """Write a folder with these files, by their path below it; one that is there goes, with all that is in it.

    The new folder is written whole under another name first: readers find the old one, for the moment between two
    renames none, then the new one, and never a part. An error leaves the old one as it was.

    Raises:
        UnwritableOutputError: It cannot be written.
    """
    unfinished, old = _beside(url), _beside(url)
    fs, path = _filesystem(url)
    new_path, old_path = _filesystem(unfinished)[1], _filesystem(old)[1]
    try:
        for name, content in files.items():
            _write(join(unfinished, name), content)
        if before := fs.exists(path):
            _rename_folder(fs, path, old_path)
        try:
            _rename_folder(fs, new_path, path)
        except OSError:
            if before:
                _rename_folder(fs, old_path, path)
            raise
    finally:
        if fs.exists(new_path):
            fs.rm(new_path, recursive=True)
        if fs.exists(old_path) and fs.exists(path):  # else it is all that is left
            fs.rm(old_path, recursive=True)


def upload(source: Path, url: str) -> None:
    """Copy what is in a local folder, or one local file, to ``url``."""
    if source.is_dir():
        make_folder(url)
        for child in sorted(source.iterdir()):
            upload(child, join(url, child.name))
        return
    with source.open("rb") as content:
        write_stream(url, lambda stream: shutil.copyfileobj(content, stream, _COPIED))


@contextmanager
def local_copy(url: str) -> Iterator[Path]:
    """A file or folder as a local one of the same name: itself, or a copy that is removed at the end.

    Raises:
        FileNotFoundError: There is none.
    """
    if (path := local_path(url)) is not None:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="mlaas_spark_") as folder:
        copy = Path(folder) / url.rstrip("/").rsplit("/", 1)[-1]
        _download(url, copy)
        yield copy


@contextmanager
def local_place(url: str) -> Iterator[Path]:
    """A local folder to write into what shall lie in ``url``: itself, or one whose content is uploaded at the end.

    A file that is there is replaced, a folder that is there stays.

    Raises:
        UnwritableOutputError: It cannot be uploaded; the files and folders that lie there are whole.
    """
    if (path := local_path(url)) is not None:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="mlaas_spark_") as folder:
        yield Path(folder)
        for made in sorted(Path(folder).iterdir(), key=Path.is_file):  # folders first
            target = join(url, made.name)
            if made.is_file():
                upload(made, target)
            elif not exists(target):
                unfinished = join(url, f".unfinished-{uuid.uuid4().hex}")
                upload(made, unfinished)
                publish_folder(target, unfinished)


def _download(url: str, target: Path) -> None:
    if is_folder(url):
        target.mkdir()
        for name in children(url):
            _download(join(url, name), target / name)
        return
    with reading(url):
        fs, path = _filesystem(url)
        with fs.open(path, "rb") as content, target.open("wb") as stream:
            shutil.copyfileobj(content, stream, _COPIED)


def total_size(urls: Iterable[str]) -> int:
    """Bytes of several files together."""
    return sum(size(url) for url in urls)


def _write(url: str, content: bytes) -> None:
    fs, path = _filesystem(url)
    if isinstance(fs, LocalFileSystem):
        with _made(Path(path)) as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        return
    fs.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
    with fs.open(path, "wb") as stream:
        stream.write(content)


def _made(path: Path) -> BinaryIO:
    """A new file, open, in a folder that is made; again if another process has removed the empty folder meanwhile."""
    for _ in range(_TRIES):
        with suppress(*_VANISHED):
            path.parent.mkdir(parents=True, exist_ok=True)
            return path.open("wb")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("wb")
