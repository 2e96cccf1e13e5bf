"""Damaged ROOT files, seeded, read one by one in a process of its own with bounded memory and a watchdog.

``python bad_root.py '{"kind": "flips", "codec": "ZSTD", "cases": 200, "seed": 1, "folder": "/tmp/x"}'`` prints counts
of what came out, as JSON: ``right`` values, ``refused`` by a DamagedInputError or another named error, ``unseen``
(other values than were written: no check of the format covers them), and in ``bugs`` whatever else happened.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
import traceback
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import awkward as ak
import numpy as np
import pyarrow as pa
import uproot

from mlaas_spark.errors import FilesetError, UnreadableInputError
from mlaas_spark.root_io import read_header, read_ranges

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mlaas_spark.plan import Header

CODECS = {
    "ZLIB": uproot.ZLIB(1),
    "LZ4": uproot.LZ4(1),
    "ZSTD": uproot.ZSTD(1),
    "LZMA": uproot.LZMA(1),
    "none": None,
}
RNTUPLE = "RNTuple "  # before the name of a codec: an RNTuple of the same values, whose pages have checksums
SECONDS = 30.0  # for a case
ROOM = 1 << 30  # bytes that a case may take beside what the process has
PARTS, EVENTS = 3, 120  # baskets of a branch, events of each


class HangError(BaseException):
    """The case took too long; not an Exception, so that nothing on the way takes it for one of the file's."""


def write(path: Path, codec: str) -> None:
    """Flat and jagged branches of several baskets, or clusters of an RNTuple; values that a codec can pack."""
    kind, codec = ("RNTuple", codec.removeprefix(RNTUPLE)) if codec.startswith(RNTUPLE) else ("TTree", codec)
    rng = np.random.default_rng(3)
    with uproot.recreate(path, compression=CODECS[codec]) as file:
        for part in range(PARTS):
            counts = rng.integers(0, 5, EVENTS)
            pt = rng.exponential(30, counts.sum()).round(1).astype("f4")
            branches: dict[str, Any] = {
                "x": rng.normal(50, 9, EVENTS).round(1).astype("f4"),
                "id": np.arange(EVENTS, dtype="i8") + part * EVENTS,
                "Jet": ak.zip({"pt": ak.unflatten(pt, counts)}),
            }
            if kind == "RNTuple":
                branches = {"x": branches["x"], "id": branches["id"], "Jet_pt": ak.unflatten(pt, counts)}
                if not part:
                    file.mkrntuple("Events", branches)
                    continue
            elif not part:
                file.mktree("Events", {"x": "f4", "id": "i8", "Jet": branches["Jet"].type.content})
            file["Events"].extend(branches)


def read(path: Path) -> tuple[Header, pa.Table]:
    """Header and all values, a range a cluster, as a job reads them."""
    header = read_header(str(path))
    spans = list(pairwise(header.boundaries))
    if header.entries > 10_000:
        msg = f"{header.entries} entries were believed"
        raise RuntimeError(msg)
    batches = read_ranges(str(path), header.tree, header.schema, spans, 0, header.uuid)
    return header, pa.Table.from_batches(batches, header.schema.arrow())


def cuts(raw: bytes, rng: np.random.Generator, cases: int) -> Iterator[tuple[str, bytes]]:
    """The beginning of the file, of every length alike."""
    for stop in sorted({0, 1, 3, 4, len(raw) - 1, *rng.integers(0, len(raw), cases).tolist()})[-cases:]:
        yield f"cut at {stop}", raw[:stop]


def flips(raw: bytes, rng: np.random.Generator, cases: int) -> Iterator[tuple[str, bytes]]:
    """One bit another way."""
    for place in rng.integers(0, 8 * len(raw), cases).tolist():
        damaged = bytearray(raw)
        damaged[place // 8] ^= 1 << place % 8
        yield f"bit {place % 8} of byte {place // 8}", bytes(damaged)


def lies(raw: bytes, rng: np.random.Generator, cases: int) -> Iterator[tuple[str, bytes]]:
    """A word that says a very large number, or a negative one: lengths and counts are such words somewhere."""
    words = [b"\x7f\xff\xff\xff", b"\xff\xff\xff\xff", b"\x0f" + bytes(7), b"\x00\xff\xff\xff", b"\xff" * 9]
    start, stop = _headers(raw)
    places = [*rng.integers(0, 300, cases // 4), *rng.integers(start, stop, cases - cases // 4)]
    for number, place in enumerate(places):
        word = words[number % len(words)]
        yield f"{word.hex()} at {place}", raw[:place] + word + raw[place + len(word) :]


def _headers(raw: bytes) -> tuple[int, int]:
    """Where the tree's header lies: the branches, their baskets and lengths; and the head of the first basket."""
    place = raw.index(b"TTree", 200)
    return place - 30, min(place + 4_000, len(raw) - 16)


KINDS: dict[str, Callable[[bytes, np.random.Generator, int], Iterator[tuple[str, bytes]]]] = {
    "cuts": cuts,
    "flips": flips,
    "lies": lies,
}


def outcome(path: Path, expected: tuple[Header, pa.Table]) -> str:
    """What reading a damaged file comes to."""
    try:
        header, values = read(path)
    except (UnreadableInputError, FilesetError) as error:
        text = str(error)
        if "do not fit into memory" in text or str(path) not in text or len(text) > 1_000:
            return f"bug: {text[:300]}"
        return f"refused: {type(error).__name__}"
    same_header = (header.entries, header.tree, header.schema) == (
        expected[0].entries,
        expected[0].tree,
        expected[0].schema,
    )
    return "right" if same_header and values.equals(expected[1]) else "unseen"


def main(asked: dict[str, Any]) -> dict[str, Any]:
    """Run the cases; see the module."""
    whole, damaged = Path(asked["folder"]) / "whole.root", Path(asked["folder"]) / "damaged.root"
    write(whole, asked["codec"])
    expected = read(whole)
    cases = KINDS[asked["kind"]](whole.read_bytes(), np.random.default_rng(asked["seed"]), asked["cases"])
    now = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + ROOM, now + ROOM))

    def ring(*_: object) -> None:
        raise HangError

    signal.signal(signal.SIGALRM, ring)
    counts, bugs = Counter[str](), []
    for name, content in cases:
        damaged.write_bytes(content)
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        try:
            found = outcome(damaged, expected)
        except BaseException:  # noqa: BLE001 - whatever it is, it is what the test looks for
            found = f"bug: {traceback.format_exc()[-800:]}"
        signal.setitimer(signal.ITIMER_REAL, 0)
        if found.startswith("bug"):
            bugs.append(f"{name}: {found}")
        counts[found.partition(":")[0]] += 1
    return {"counts": dict(counts), "bugs": bugs}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(json.loads(sys.argv[1]))))
