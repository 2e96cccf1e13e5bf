"""ROOT files that are damaged, lie, or are strange: the right values or a named error, in bounded time and memory."""

from __future__ import annotations

import json
import lzma
import os
import struct
import subprocess
import sys
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import awkward as ak
import cramjam
import numpy as np
import pytest
import uproot
import xxhash

from mlaas_spark import root_integrity, root_io
from mlaas_spark.config import InputConfig
from mlaas_spark.errors import DamagedInputError, FilesetError, MlaasSparkError, UnreadableInputError
from mlaas_spark.filesets import fileset
from mlaas_spark.root_io import read_header, read_headers, read_ranges
from mlaas_spark.schema import Branch, EventSchema, common

RUNNER = Path(__file__).with_name("bad_root.py")
CODECS = ("ZLIB", "LZ4", "ZSTD", "LZMA", "none")


def run(
    kind: str, cases: int, folder: Path, seed: int = 1, codecs: tuple[str, ...] = CODECS
) -> dict[str, dict[str, Any]]:
    """What became of ``cases`` damaged files of each codec, two codecs at a time."""

    def of(codec: str) -> dict[str, Any]:
        place = folder / codec
        place.mkdir()
        asked = {"kind": kind, "codec": codec, "cases": cases, "seed": seed, "folder": str(place)}
        done = subprocess.run(  # noqa: S603 - our own program
            [sys.executable, str(RUNNER), json.dumps(asked)],
            check=True,
            stdout=subprocess.PIPE,
            timeout=900,
            env={**os.environ, "MALLOC_ARENA_MAX": "2"},
        )
        result: dict[str, Any] = json.loads(done.stdout)
        return result

    with ThreadPoolExecutor(2) as pool:
        found = dict(zip(codecs, pool.map(of, codecs), strict=True))
    for codec, result in found.items():
        sys.stdout.write(f"{kind} of {codec}: {json.dumps(result['counts'], sort_keys=True)}\n")
    return found


def check(found: dict[str, dict[str, Any]], cases: int) -> None:
    assert [bug for result in found.values() for bug in result["bugs"]] == []
    assert {sum(result["counts"].values()) for result in found.values()} == {cases}


def test_file_cut_at_200_offsets_is_refused_or_whole(tmp_path: Path) -> None:
    found = run("cuts", 40, tmp_path)
    check(found, 40)
    assert sum(result["counts"].get("unseen", 0) for result in found.values()) == 0
    assert sum(result["counts"]["refused"] for result in found.values()) >= 180


def test_thousand_flipped_bits_are_the_right_values_or_a_named_error_or_where_no_check_is(tmp_path: Path) -> None:
    found = run("flips", 200, tmp_path)
    check(found, 200)
    unseen = {codec: result["counts"].get("unseen", 0) for codec, result in found.items()}
    # these have checksums of the values; unseen are names, and baskets too small to be packed
    assert unseen["ZLIB"] + unseen["LZ4"] + unseen["LZMA"] <= 18
    assert sum(result["counts"]["refused"] for result in found.values()) > 100


def test_flipped_bits_of_rntuples_are_the_right_values_or_a_named_error_or_where_no_check_is(tmp_path: Path) -> None:
    """Uproot writes pages without checksums, ROOT with: most that is unseen here is in pages."""
    found = run("flips", 150, tmp_path, codecs=("RNTuple ZSTD", "RNTuple none"))
    check(found, 150)
    assert sum(result["counts"]["refused"] for result in found.values()) > 40
    assert found["RNTuple ZSTD"]["counts"]["unseen"] < found["RNTuple none"]["counts"]["unseen"]


def test_lengths_that_lie_take_no_memory(tmp_path: Path) -> None:
    found = run("lies", 40, tmp_path)
    check(found, 40)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(2, 12))
@pytest.mark.parametrize("kind", ["cuts", "flips", "lies"])
def test_many_more_damaged_files(kind: str, seed: int, tmp_path: Path) -> None:
    check(run(kind, 400, tmp_path, seed), 400)


# --- what is packed ---------------------------------------------------------------------------------------------------


def packed(codec: str, content: bytes, says: int) -> bytes:
    """A block of ROOT's, whose header says that ``content`` unpacks to so many bytes."""
    size = len(content) + (8 if codec == "L4" else 0)
    header = codec.encode() + b"\1" + size.to_bytes(3, "little") + says.to_bytes(3, "little")
    if codec == "L4":
        header += struct.pack(">Q", xxhash.xxh64(content).intdigest())
    return header + content


def unpack(block: bytes, says: int) -> bytes:
    chunk = uproot.source.chunk.Chunk.wrap(None, np.frombuffer(block, np.uint8))
    cursor = uproot.source.cursor.Cursor(0)
    made = uproot.compression.decompress(chunk, cursor, {}, len(block), says)
    return bytes(made.raw_data)


ZEROS = bytes(1 << 24)
BOMBS = {
    "ZL": zlib.compress(ZEROS),
    "ZS": bytes(cramjam.zstd.compress(ZEROS)),
    "XZ": lzma.compress(ZEROS),
    "L4": bytes(cramjam.lz4.compress_block(ZEROS, store_size=False)),
}


@pytest.mark.parametrize("codec", sorted(BOMBS))
def test_block_gives_what_its_header_says_and_never_more(codec: str) -> None:
    assert root_io.__name__  # which makes uproot so
    small = {
        "ZL": zlib.compress(b"abc" * 99),
        "ZS": bytes(cramjam.zstd.compress(b"abc" * 99)),
        "XZ": lzma.compress(b"abc" * 99),
        "L4": bytes(cramjam.lz4.compress_block(b"abc" * 99, store_size=False)),
    }[codec]
    assert unpack(packed(codec, small, 297), 297) == b"abc" * 99
    for says in (1, 296, 298, 1 << 20):
        with pytest.raises(root_io._FAILURES):  # noqa: SLF001 - what becomes a named error
            unpack(packed(codec, small, says), says)
    with pytest.raises(root_io._FAILURES):  # noqa: SLF001
        unpack(packed(codec, BOMBS[codec], 1000), 1000)


def test_many_small_blocks_that_say_they_are_gigabytes_are_a_bomb() -> None:
    block = packed("ZS", BOMBS["ZS"], (1 << 24) - 1)
    with pytest.raises(ValueError, match="a bomb, or damage"):
        unpack(block * 100, 100 * ((1 << 24) - 1))


@pytest.mark.parametrize(("first", "says"), [(297, 400), (297, 296), (200, 297)])
def test_blocks_that_are_not_together_what_was_announced_are_refused(first: int, says: int) -> None:
    block = packed("ZS", bytes(cramjam.zstd.compress(b"abc" * 99)), first)
    with pytest.raises(ValueError, match="compressed blocks have"):
        unpack(block, says)


# --- strange files ----------------------------------------------------------------------------------------------------


def flat(path: Path, branches: dict[str, Any], name: str = "Events") -> str:
    with uproot.recreate(path) as file:
        file.mktree(name, {key: values.dtype for key, values in branches.items()})
        file[name].extend(branches)
    return str(path)


class NoBranches:
    """A tree as uproot gives one; it writes none without branches."""

    def itervalues(self, *, recursive: bool) -> list[Any]:
        assert recursive
        return []


def test_tree_without_branches_has_no_entries_or_is_damaged() -> None:
    root_integrity.check_tree(NoBranches(), 0, "f.root", "Events")
    with pytest.raises(DamagedInputError, match="no branch has more than 0"):
        root_integrity.check_tree(NoBranches(), 1 << 60, "f.root", "Events")
    with pytest.raises(DamagedInputError, match="it has -1 entries"):
        root_integrity.check_tree(NoBranches(), -1, "f.root", "Events")


def test_basket_without_entries_gives_no_events(tmp_path: Path) -> None:
    path = str(tmp_path / "empty.root")
    lists = ak.Array([[1.0, 2.0], [], [3.0]])
    with uproot.recreate(path) as file:
        file.mktree("Events", {"x": "f4", "Jet": ak.zip({"pt": lists}).type.content})
        for part in (slice(0, 0), slice(0, 2), slice(2, 2), slice(2, 3), slice(3, 3)):
            file["Events"].extend({"x": np.arange(3, dtype="f4")[part], "Jet": ak.zip({"pt": lists[part]})})
    header = read_header(path)
    (batch,) = read_ranges(path, "Events", header.schema, [(0, 3)], 0)
    assert batch.column("x").to_pylist() == [0, 1, 2]
    assert batch.column("Jet_pt").to_pylist() == [[1, 2], [], [3]]


@pytest.mark.soak
def test_all_of_twenty_thousand_branches_are_found_and_one_is_read(tmp_path: Path) -> None:
    path = tmp_path / "wide.root"
    with uproot.recreate(path) as file:  # of a TTree uproot would write an hour
        file.mkrntuple("Events", {f"b{number:05d}": np.arange(2, dtype="f4") for number in range(20_000)})
    header = read_header(str(path))
    assert len(header.schema.branches) == 20_000
    (batch,) = read_ranges(str(path), "Events", header.schema.keep({"b19999"}), [(0, 2)], 0)
    assert batch.column("b19999").to_pylist() == [0, 1]


def test_schemas_of_twenty_thousand_branches_are_compared_in_a_moment() -> None:
    schema = EventSchema.of(
        Branch(f"b{number:05d}", f"b{number:05d}", "float32", jagged=False) for number in range(20_000)
    )
    began = time.process_time()
    assert common([("a", schema), ("b", schema)]) == schema
    assert schema["b19999"].name in schema
    assert time.process_time() - began < 5.0  # a look at all branches for each takes a minute


NAMES = [
    "a b",
    "Jet/pt",
    "энергия",
    'say "pt"',
    "it's",
    "two\nlines",
    "tab\there",
    "`q`",
    "a,b",
    "[0]",
    "*",
    "%s{}",
    "\x1b[31m",
]


def test_branches_of_any_name_are_read_or_told_of(tmp_path: Path) -> None:
    path = flat(tmp_path / "names.root", {name: np.arange(3, dtype="i4") + at for at, name in enumerate(NAMES)})
    header = read_header(path)
    read = {branch.source for branch in header.schema.branches}
    assert read | {item.name for item in header.schema.omitted} == set(NAMES)
    (batch,) = read_ranges(path, "Events", header.schema, [(0, 3)], 0)
    for branch in header.schema.branches:
        at = NAMES.index(branch.source)
        assert batch.column(branch.name).to_pylist() == [at, at + 1, at + 2], branch
    assert len(read) >= len(NAMES) - 1


@pytest.mark.parametrize(
    "name", ["with space.root", "quo'te\".root", "two\nlines.root", "файл.root", "a:b.root", "#%20.root"]
)
def test_files_of_any_name_are_read(name: str, tmp_path: Path) -> None:
    path = flat(tmp_path / name, {"x": np.arange(3, dtype="f4")})
    (file,) = fileset(InputConfig(files=(path,)))
    assert read_headers(file.path, file.tree)[0].entries == 3


def test_pipe_is_refused_and_nobody_waits(tmp_path: Path) -> None:
    for name in ("pipe.root", "pipe.parquet", "pipe.arrow", "pipe.json"):
        os.mkfifo(tmp_path / name)
    program = """
import sys
from mlaas_spark import arrow_io, parquet_io, root_io, storage
readers = {"root": root_io.read_header, "parquet": parquet_io.read_header, "json": storage.fingerprint}
readers["arrow"] = arrow_io.read_header
for name, read in readers.items():
    try:
        read(f"{sys.argv[1]}/pipe.{name}")
    except root_io.UnreadableInputError as error:
        print(error)
"""
    done = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-c", program, str(tmp_path)], check=True, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.count("it is a pipe, socket or device, not a file") == 4


def test_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "f.root").mkdir()
    with pytest.raises(UnreadableInputError, match="it is a folder, not a file"):
        read_header(str(tmp_path / "f.root"))


def test_links_that_lead_in_circles_end(tmp_path: Path) -> None:
    flat(tmp_path / "a.root", {"x": np.arange(3, dtype="f4")})
    (tmp_path / "again").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "self.root").symlink_to(tmp_path / "self.root")
    (tmp_path / "self.root").unlink()
    assert [Path(file.path).name for file in fileset(InputConfig(files=(str(tmp_path),)))] == ["a.root"]


def test_link_to_itself_is_named(tmp_path: Path) -> None:
    (tmp_path / "self.root").symlink_to(tmp_path / "self.root")
    with pytest.raises(MlaasSparkError, match=r"self\.root"):
        read_header(fileset(InputConfig(files=(str(tmp_path / "self.root"),)))[0].path)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a user that may become another one")
def test_file_without_permission_is_named(tmp_path: Path) -> None:
    path = Path(flat(tmp_path / "mine.root", {"x": np.arange(3, dtype="f4")}))
    path.chmod(0o000)
    for folder in (tmp_path, *tmp_path.parents):
        if folder.owner() == "root" and folder.is_relative_to("/tmp"):  # noqa: S108 - pytest's
            folder.chmod(folder.stat().st_mode | 0o055)
    program = """
import os, sys
from mlaas_spark import root_integrity, root_io
os.setgid(65534), os.setuid(65534)
try:
    root_io.read_header(sys.argv[1])
except root_io.DamagedInputError:
    print("taken for damage")
except root_io.UnreadableInputError as error:
    print(error)
"""
    done = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-c", program, str(path)], check=True, capture_output=True, text=True, timeout=120
    )
    assert "Permission denied; ask its owner for access" in done.stdout


def test_tree_that_says_it_has_more_entries_than_any_branch_is_refused(tmp_path: Path) -> None:
    path = Path(flat(tmp_path / "more.root", {"x": np.arange(777, dtype="f4")}))
    raw, said = path.read_bytes(), struct.pack(">q", 777)
    place = raw.index(said, raw.index(b"TTree", 200))
    path.write_bytes(raw[:place] + struct.pack(">q", 1 << 60) + raw[place + 8 :])
    with pytest.raises(DamagedInputError, match=r"has 1152921504606846976 entries, and no branch has more than 777"):
        read_header(str(path))
    assert issubclass(DamagedInputError, UnreadableInputError)
    assert not issubclass(DamagedInputError, FilesetError)
