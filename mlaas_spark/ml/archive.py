"""The tar of a bundle: written as the server unpacks it, and unpacked as if whoever made it meant harm."""

from __future__ import annotations

import gzip
import io
import re
import shutil
import tarfile
import zlib
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from mlaas_spark.errors import ServingError, reason
from mlaas_spark.ml import tfaas

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LAYOUT = "layout.json"
CHECK = "check.npz"
CARD = "MODEL_CARD.md"
FOLDERS = (tfaas.ASSETS, tfaas.VARIABLES)
MAX_BYTES = 8 * 2**30
"""That a bundle unpacks to."""

_MAX_MEMBERS = 1_000
MAX_RATIO, SMALL = 100, 1 << 26
"""Weights hardly get smaller by packing: what unpacks to 64 MiB and 100 times its own size is a bomb."""
_HEADERS = 1 << 17
"""Bytes of headers before a member; tarfile takes long names, pax records and sparse maps of any size into memory."""
_FILES = frozenset({tfaas.GRAPH, "fingerprint.pb", tfaas.PARAMS, tfaas.LABELS, LAYOUT, CHECK, CARD})
_INNER_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


def write_tar(folder: Path, target: Path) -> None:
    """A gzipped tar of ``folder`` under its name: folders before their files, sorted, without owners or times."""
    with (
        target.open("wb") as stream,
        gzip.GzipFile(filename="", mode="wb", fileobj=stream, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as archive,
    ):
        for path in [folder, *sorted(folder.rglob("*"), key=lambda path: path.relative_to(folder).parts)]:
            member = tarfile.TarInfo(PurePosixPath(path.relative_to(folder.parent)).as_posix())
            if path.is_dir():
                member.type, member.mode = tarfile.DIRTYPE, 0o755
                archive.addfile(member)
                continue
            member.size, member.mode = path.stat().st_size, 0o644
            with path.open("rb") as content:
                archive.addfile(member, content)


def unpack(source: Path, target: Path) -> Path:
    """Write a bundle's files out of a tar below ``target``, each looked at before; its folder.

    Raises:
        ServingError: It is no tar, holds what is no part of a bundle, or folders come after their files.
    """
    try:
        with _Bounded(source) as unpacked, tarfile.open(fileobj=unpacked, mode="r:") as archive:
            for member, inner in _members(archive, source, unpacked):
                place = target.joinpath(*inner.parts)
                if member.isdir():
                    place.mkdir(exist_ok=True)
                    continue
                content = archive.extractfile(member)
                if content is None or not place.parent.is_dir():
                    msg = f"{source}: the folder of {member.name} does not come before it, the server would fail"
                    raise ServingError(msg)
                with content, place.open("xb") as stream:
                    shutil.copyfileobj(content, stream)
    except (OSError, EOFError, tarfile.TarError, zlib.error, ValueError, OverflowError, RecursionError) as error:
        # the last three are what tarfile makes of headers that lie
        msg = f"cannot read the bundle {source}: {reason(error)}"
        raise ServingError(msg) from error
    folders = [path for path in target.iterdir() if path.is_dir()]
    if len(folders) != 1:
        msg = f"{source} holds no model"
        raise ServingError(msg)
    return folders[0]


class _Bounded(gzip.GzipFile):
    """What tarfile reads of a packed tar, with a bound on what it reads at a time and before each member."""

    def __init__(self, source: Path) -> None:
        super().__init__(source, "rb")
        self._source = source
        self.allow(0)

    def allow(self, content: int) -> None:
        """Let so many bytes of content be read, and headers of a member after them."""
        self._left = content + _HEADERS

    def read(self, size: int | None = -1) -> bytes:
        """As of any file, of a size that is given."""
        self._left -= size or 0
        if size is None or size < 0 or self._left < 0:
            msg = f"{self._source} is not safe to read: it has headers of more than {_HEADERS} bytes"
            raise ServingError(msg)
        return super().read(size)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Forward only: back would unpack all again."""
        if whence == io.SEEK_SET and offset < self.tell():
            msg = f"{self._source} is not safe to read: its headers point backwards"
            raise ServingError(msg)
        return super().seek(offset, whence)


def _members(
    archive: tarfile.TarFile, source: Path, stream: _Bounded
) -> Iterator[tuple[tarfile.TarInfo, PurePosixPath]]:
    """The members of a bundle's tar, refused at the first that a bundle does not have."""
    seen: set[PurePosixPath] = set()
    size, most = 0, min(MAX_BYTES, SMALL + MAX_RATIO * source.stat().st_size)
    for member in archive:
        inner = PurePosixPath(member.name)
        size += member.size
        if not (member.isreg() or member.isdir()):
            why = "is neither a file nor a folder"
        elif member.issparse():
            why = "is a sparse file"
        elif inner in seen:
            why = "comes twice"
        elif not _belongs(inner, folder=member.isdir()):
            why = "is no part of a bundle"
        elif seen and inner.parts[0] != next(iter(seen)).parts[0]:
            why = "is of another model"
        elif len(seen) >= _MAX_MEMBERS or member.size < 0 or size > most:
            why = "makes it too large"
        else:
            seen.add(inner)
            stream.allow(member.size)
            yield member, inner
            continue
        msg = f"{source} is not safe to read: {member.name!r} {why}"
        raise ServingError(msg)


def _belongs(inner: PurePosixPath, *, folder: bool) -> bool:
    """Whether a bundle has this member: NAME/, NAME/file, NAME/assets|variables/, NAME/assets|variables/file."""
    name, *rest = inner.parts or ("",)
    if not re.fullmatch(r"[a-zA-Z0-9_]+", name):
        return False
    if folder:
        return not rest or (len(rest) == 1 and rest[0] in FOLDERS)
    if len(rest) == 1:
        return rest[0] in _FILES
    return len(rest) == 2 and rest[0] in FOLDERS and bool(_INNER_NAME.fullmatch(rest[1]))
