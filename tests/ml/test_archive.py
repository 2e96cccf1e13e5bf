"""Tars of bundles as whoever means harm makes them: refused by name, in bounded memory, and nothing outside is written.

Each is made of raw 512-byte blocks or by tarfile's writer; none of it is what ``write_tar`` gives.
"""

from __future__ import annotations

import gzip
import io
import os
import subprocess
import sys
import tarfile
import time
import tracemalloc
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from mlaas_spark.errors import ServingError
from mlaas_spark.ml import archive
from mlaas_spark.ml.archive import unpack, write_tar

if TYPE_CHECKING:
    from pathlib import Path

BLOCK = 512
GIB = 1 << 30


def header(name: str, kind: bytes = tarfile.REGTYPE, size: int = 0, link: str = "") -> bytes:
    """One header block."""
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = kind, size, link
    return info.tobuf(tarfile.GNU_FORMAT)[-BLOCK:] if len(name) <= 100 else info.tobuf(tarfile.GNU_FORMAT)


def padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % BLOCK)


def file(name: str, content: bytes = b"x") -> bytes:
    return header(name, size=len(content)) + padded(content)


def folder(name: str) -> bytes:
    return header(name, tarfile.DIRTYPE)


def extended(records: dict[str, str], kind: bytes = tarfile.XHDTYPE) -> bytes:
    """A pax header with these records, as POSIX 1003.1-2001 spells them."""
    body = b""
    for key, value in records.items():
        rest = f" {key}={value}\n".encode()
        length = len(rest) + len(str(len(rest)))
        body += str(length + (len(str(length)) > len(str(len(rest))))).encode() + rest
    return header("pax", kind, len(body)) + padded(body)


def long_name(name: bytes, kind: bytes = tarfile.GNUTYPE_LONGNAME) -> bytes:
    return header("././@LongLink", kind, len(name)) + padded(name)


def checked(block: bytearray) -> bytes:
    """A header block with the sum that its bytes need."""
    block[148:156] = b" " * 8
    block[148:156] = f"{sum(block):06o}\0 ".encode()
    return bytes(block)


def with_size(name: str, field: bytes, kind: bytes = tarfile.REGTYPE) -> bytes:
    """A header whose size is spelled so: in base 256 it may be anything, also negative."""
    block = bytearray(header(name, kind))
    block[124:136] = field.rjust(12, b"\0")
    return checked(block)


def sparse(name: str, blocks: int) -> bytes:
    """An old GNU sparse file whose map goes on for so many blocks."""
    block = bytearray(header(name, tarfile.GNUTYPE_SPARSE))
    block[482] = 1
    more = bytearray(BLOCK)
    more[504] = 1
    return checked(block) + bytes(more) * blocks


ROOT = folder("m")
VARIABLES = folder("m/variables")
Tar = bytes | Callable[[], bytes]

HOSTILE: dict[str, tuple[Tar, str]] = {
    "parent": (ROOT + file("../evil"), "no part of a bundle"),
    "parent inside": (ROOT + file("m/../../evil"), "no part of a bundle"),
    "parent in variables": (ROOT + VARIABLES + file("m/variables/../../evil"), "no part of a bundle"),
    "parent as the model": (folder("..") + file("../params.json"), "no part of a bundle"),
    "absolute file": (ROOT + file("/var/evil"), "no part of a bundle"),
    "absolute folder": (folder("/var/evil"), "no part of a bundle"),
    "dot": (folder(".") + file("./params.json"), "no part of a bundle"),
    "symbolic link": (ROOT + header("m/params.json", tarfile.SYMTYPE, link="/etc/passwd"), "neither a file nor"),
    "symbolic link to a folder": (ROOT + header("m/variables", tarfile.SYMTYPE, link="/var"), "neither a file nor"),
    "model is a link": (header("m", tarfile.SYMTYPE, link="/var") + file("m/params.json"), "neither a file nor"),
    "hard link": (ROOT + header("m/params.json", tarfile.LNKTYPE, link="/etc/passwd"), "neither a file nor"),
    "character device": (ROOT + header("m/params.json", tarfile.CHRTYPE), "neither a file nor"),
    "block device": (ROOT + header("m/params.json", tarfile.BLKTYPE), "neither a file nor"),
    "FIFO": (ROOT + header("m/params.json", tarfile.FIFOTYPE), "neither a file nor"),
    "contiguous file": (ROOT + header("m/.bashrc", tarfile.CONTTYPE), "no part of a bundle"),
    "twice": (ROOT + file("m/params.json") + file("m/params.json", b"other"), "comes twice"),
    "twice, spelled otherwise": (ROOT + file("m/params.json") + file("m//./params.json", b"other"), "comes twice"),
    "file in a folder's place": (ROOT + VARIABLES + file("m/variables"), "comes twice|no part"),
    "two models": (ROOT + folder("n"), "another model"),
    "folder after its file": (ROOT + file("m/variables/variables.index") + VARIABLES, "does not come before"),
    "code": (ROOT + file("m/model.py"), "no part of a bundle"),
    "pickle": (ROOT + file("m/model.pkl"), "no part of a bundle"),
    "hidden file": (ROOT + VARIABLES + file("m/variables/.pth"), "no part of a bundle"),
    "bundle in a bundle": (ROOT + file("m/inner.tar.gz"), "no part of a bundle"),
    "nested folder": (ROOT + VARIABLES + folder("m/variables/deep"), "no part of a bundle"),
    "line end in a name": (folder("m\n"), "no part of a bundle"),
    "control code in a name": (ROOT + VARIABLES + file("m/variables/\x1b[2J"), "no part of a bundle"),
    "pax path": (ROOT + extended({"path": "../../evil"}) + file("m/params.json"), "no part of a bundle"),
    "pax link": (ROOT + extended({"linkpath": "/etc/passwd"}) + header("m/x", tarfile.SYMTYPE, link="y"), "neither"),
    "pax size": (ROOT + extended({"size": str(GIB * 50)}) + file("m/params.json"), "too large"),
    "pax size below 0": (ROOT + extended({"size": "-1024"}) + file("m/params.json"), "too large|backwards|cannot read"),
    "pax for all": (extended({"path": "/var/evil"}, tarfile.XGLTYPE) + ROOT, "no part of a bundle|holds no model"),
    "pax sparse map that is none": (
        ROOT + extended({"GNU.sparse.map": "a,b", "GNU.sparse.size": "1"}) + file("m/params.json"),
        "cannot read|sparse",
    ),
    "pax sparse file": (
        ROOT + extended({"GNU.sparse.map": "0,1", "GNU.sparse.size": str(GIB)}) + file("m/params.json"),
        "sparse|too large",
    ),
    "sparse file": (ROOT + sparse("m/params.json", 0), "sparse|cannot read"),
    "sparse map without end": (lambda: ROOT + sparse("m/params.json", 1 << 15), "headers of more than"),
    "long name of 32 MiB": (lambda: long_name(b"m/" + b"a" * (1 << 25)), "headers of more than"),
    "long link of 32 MiB": (lambda: long_name(b"a" * (1 << 25), tarfile.GNUTYPE_LONGLINK), "headers of more than"),
    "pax record of 32 MiB": (lambda: extended({"comment": "a" * (1 << 25)}) + ROOT, "headers of more than"),
    "long names in long names": (lambda: long_name(b"a") * 5000 + ROOT, "headers of more than|cannot read"),
    "size below 0": (with_size("m/params.json", b"\xff" * 12) + ROOT, "no part|too large|backwards|cannot read"),
    "long name of a size below 0": (
        with_size("././@LongLink", b"\xff" * 12, tarfile.GNUTYPE_LONGNAME) + ROOT,
        "headers of more than|cannot read|no part",
    ),
    "bomb in one file": (lambda: ROOT + header("m/check.npz", size=GIB) + bytes(1 << 20), "too large"),
    "bomb that is there": (lambda: ROOT + file("m/check.npz", bytes(96 << 20)), "too large"),
    "bomb of many files": (
        lambda: ROOT + VARIABLES + b"".join(file(f"m/variables/{n}", bytes(1 << 17)) for n in range(760)),
        "too large",
    ),
    "too many files": (
        lambda: ROOT + VARIABLES + b"".join(file(f"m/variables/{n}") for n in range(1_200)),
        "too large",
    ),
    "cut in a file": (ROOT + file("m/params.json", bytes(4096))[:1024], "cannot read"),
    "no tar": (b"nothing" * 200, "cannot read"),
    "nothing": (b"", "cannot read|holds no model"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_tar_is_refused_and_nothing_outside_is_written(name: str, tmp_path: Path) -> None:
    tar, message = HOSTILE[name]
    content = tar if isinstance(tar, bytes) else tar()
    source, target = tmp_path / "m.tar.gz", tmp_path / "deep" / "er" / "target"
    source.write_bytes(gzip.compress(content + bytes(2 * BLOCK), 6))
    target.mkdir(parents=True)
    began = time.process_time()
    tracemalloc.start()
    try:
        with pytest.raises(ServingError, match=message):
            unpack(source, target)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
    assert time.process_time() - began < 5
    outside = [path for path in tmp_path.rglob("*") if not path.is_relative_to(target)]
    assert sorted(outside) == [tmp_path / "deep", tmp_path / "deep" / "er", source]
    assert not os.path.lexists("/var/evil")  # where these tars would have put it
    assert not any(path.is_symlink() for path in target.rglob("*"))


def test_there_are_as_many_hostile_tars_as_is_promised() -> None:
    assert len(HOSTILE) >= 30


def test_tarfile_itself_does_what_these_tars_want_so_these_tests_can_fail(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with tarfile.open(fileobj=io.BytesIO(ROOT + file("../evil") + bytes(1024))) as opened:
        for member in opened:
            if member.isfile():
                content = opened.extractfile(member)
                assert content is not None
                (tmp_path / "in" / member.name).write_bytes(content.read())
    assert (tmp_path / "evil").read_bytes() == b"x"


def test_a_long_name_and_pax_records_of_a_harmless_tar_are_read(tmp_path: Path) -> None:
    name = "model_" * 12
    made = tmp_path / name
    (made / "variables").mkdir(parents=True)
    (made / "variables" / "variables.data-00000-of-00001").write_bytes(b"w" * 1000)
    (made / "params.json").write_text("{}")
    write_tar(made, tmp_path / "gnu.tar.gz")
    with tarfile.open(tmp_path / "pax.tar.gz", "w:gz", format=tarfile.PAX_FORMAT) as other:
        other.add(made, name)  # with times that need pax records
    for tar in ("gnu", "pax"):
        target = tmp_path / tar
        target.mkdir()
        found = unpack(tmp_path / f"{tar}.tar.gz", target)
        assert (found / "variables" / "variables.data-00000-of-00001").read_bytes() == b"w" * 1000


def test_weights_that_pack_well_are_no_bomb(tmp_path: Path) -> None:
    made = tmp_path / "m"
    made.mkdir()
    (made / "check.npz").write_bytes(bytes(60 << 20))
    write_tar(made, tmp_path / "m.tar.gz")
    assert (tmp_path / "m.tar.gz").stat().st_size < (1 << 20)
    (tmp_path / "t").mkdir()
    assert (unpack(tmp_path / "m.tar.gz", tmp_path / "t") / "check.npz").stat().st_size == 60 << 20


def test_importing_the_module_imports_no_tensorflow() -> None:
    code = f"import sys; import {archive.__name__}; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0  # noqa: S603 - our own code
