"""Arrow IPC files, read range by range: the same as the same events in Parquet, and what no reader may follow."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from mlaas_spark import arrow_io, parquet_io, storage
from mlaas_spark.arrow_io import read_header
from mlaas_spark.errors import BranchNotFoundError, DamagedInputError, UnreadableInputError
from mlaas_spark.formats import Format
from mlaas_spark.plan import PlannedFile
from mlaas_spark.readers import How, reader_of
from mlaas_spark.schema import ENTRY, Branch, EventSchema

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

N = 1000
EDGES = (0, 1, 300, 300, 600, 900, N)


def events() -> pa.Table:
    """Flat and jagged values with nulls and NaN, text in a dictionary, records, times, and what is no branch."""
    random = np.random.default_rng(5)
    return pa.table(
        {
            "x": pa.array([None if i % 7 == 3 else (float("nan") if i % 7 == 4 else i / 3) for i in range(N)]),
            "l": pa.array([None if i % 11 == 5 else list(range(i % 4)) for i in range(N)], pa.list_(pa.int16())),
            "large": pa.array([[i / 7] * (i % 3) for i in range(N)], pa.large_list(pa.float64())),
            "u": pa.array(random.integers(0, 2**63, N), pa.uint64()),
            "s": pa.array([f"é{i % 5}" for i in range(N)]).dictionary_encode(),
            "b": pa.array([i % 3 == 0 for i in range(N)]),
            "jets": pa.array([[{"pt": i + 0.5, "id": i}] * (i % 3) for i in range(N)]),
            "t": pa.array(range(N), pa.timestamp("ms")),
            "p": pa.array([{"x": i} if i % 5 else None for i in range(N)]),
            "deep": pa.array([[[i]] * (i % 2) for i in range(N)]),
            "raw": pa.array([b"x"] * N),
        }
    )


def write(path: Path, table: pa.Table, edges: Sequence[int] = EDGES, compression: str | None = None) -> str:
    options = pa.ipc.IpcWriteOptions(compression=compression)
    whole = table.combine_chunks().to_batches()
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema, options=options) as writer:
        for start, stop in itertools.pairwise(edges):
            writer.write_batch(
                whole[0].slice(start, stop - start) if whole else pa.RecordBatch.from_pylist([], table.schema)
            )
    return str(path)


def read(
    path: str, ranges: list[tuple[int, int]], schema: EventSchema | None = None, kind: Format = Format.ARROW
) -> list[pa.Table]:
    """What each range has, as one table."""
    reader = reader_of(kind)
    (header,) = reader.headers(path, None, How())
    file = PlannedFile(path, kind, "", header.uuid, header.entries, None, 1.0, "", header.boundaries)
    batches: list[list[pa.RecordBatch]] = [[] for _ in ranges]
    for number, batch in reader.batches(file, 3, schema or header.schema, ranges, How()):
        batches[number].append(batch)
    return [pa.Table.from_batches(of_range) for of_range in batches]


@pytest.fixture(scope="module", params=[None, "lz4", "zstd"])
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """The same events in record batches and in row groups of the same sizes."""
    folder, table = tmp_path_factory.mktemp("both"), events()
    path = str(folder / "events.parquet")
    with pq.ParquetWriter(path, table.schema) as writer:
        for start, stop in itertools.pairwise(EDGES):
            writer.write_table(table.slice(start, stop - start))
    return write(folder / "events.arrow", table, compression=request.param), path


def test_header_is_that_of_the_same_events_in_parquet(both: tuple[str, str]) -> None:
    header, other = read_header(both[0]), parquet_io.read_header(both[1])
    assert (header.entries, header.tree, len(header.uuid)) == (N, "", 32)
    assert header.boundaries == (0, 1, 300, 600, 900, N) == other.boundaries
    assert header.schema == other.schema
    assert header.schema.digest() == other.schema.digest()
    assert {item.name for item in header.schema.omitted} == {"raw"}


@pytest.mark.parametrize(
    "ranges", [[(0, N)], [(0, 300), (300, 600), (600, N)], [(0, 1), (17, 18), (250, 905)], [(299, 301), (999, N)]]
)
@pytest.mark.parametrize("size", [1 << 16, 64])
def test_ranges_have_the_values_that_they_have_in_parquet(
    both: tuple[str, str], ranges: list[tuple[int, int]], size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrow_io, "_BATCH_EVENTS", size)
    arrow, parquet = read(both[0], ranges), read(both[1], ranges, kind=Format.PARQUET)
    for (start, stop), found, expected in zip(ranges, arrow, parquet, strict=True):
        assert found[ENTRY].to_pylist() == list(range(start, stop))
        assert found.schema == expected.schema
        assert found.drop(["x"]).equals(expected.drop(["x"]))
        assert repr(found["x"].to_pylist()) == repr(expected["x"].to_pylist())  # in which NaN is NaN


def test_feather_as_pandas_writes_it_is_read(tmp_path: Path) -> None:
    table = events()
    pyarrow.feather.write_feather(table.to_pandas(), str(tmp_path / "f.feather"), chunksize=400)
    header = read_header(str(tmp_path / "f.feather"))
    assert header.boundaries == (0, 400, 800, N)
    (found,) = read(header.path, [(0, N)], header.schema.keep({"u", "l"}))
    assert (found["u"].to_pylist(), found["l"].to_pylist()) == (table["u"].to_pylist(), table["l"].to_pylist())


def test_file_without_events_and_range_without_branches(tmp_path: Path, both: tuple[str, str]) -> None:
    for name, edges in (("none", ()), ("empty", (0, 0, 0))):
        header = read_header(write(tmp_path / f"{name}.arrow", events().slice(0, 0), edges))
        assert (header.entries, header.boundaries) == (0, (0,))
        assert "jets_pt" in header.schema
    (table,) = read(both[0], [(5, 310)], EventSchema(()))
    assert table[ENTRY].to_pylist() == list(range(5, 310))


def test_files_elsewhere_are_read_as_local_ones(both: tuple[str, str]) -> None:
    path, url = both[0], "memory://elsewhere/events.arrow"
    with fsspec.open(url, "wb") as stream:
        stream.write(Path(path).read_bytes())
    assert replace(read_header(url), path=path) == read_header(path)
    assert read(url, [(0, 400), (400, N)], EventSchema.of([Branch("l", "l", "int16", jagged=True)], [])) == read(
        path, [(0, 400), (400, N)], EventSchema.of([Branch("l", "l", "int16", jagged=True)], [])
    )


class _Counted:
    """A file that counts the bytes which are read of it."""

    def __init__(self, path: str) -> None:
        self._file, self.bytes = Path(path).open("rb"), 0  # noqa: SIM115 - whoever opened it closes it
        self.closed = False

    def read(self, size: int = -1) -> bytes:
        content = self._file.read(size)
        self.bytes += len(content)
        return content

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def test_events_are_counted_without_being_read_and_one_branch_without_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = pa.table({f"x{i}": np.arange(50_000.0) for i in range(20)})
    path = write(tmp_path / "large.arrow", large, (0, 20_000, 50_000))
    opened: list[_Counted] = []

    class Files:
        def open(self, place: str, _: str) -> _Counted:
            opened.append(_Counted(place))
            return opened[-1]

    monkeypatch.setattr(storage, "filesystem", lambda path: (Files(), path))
    header = read_header(path)
    assert (header.entries, sum(file.bytes for file in opened) < 50_000) == (50_000, True)
    opened.clear()
    read(path, [(0, 100), (100, 20_000)], header.schema.keep({"x3"}))
    assert 160_000 <= sum(file.bytes for file in opened) < 300_000  # the first record batch of x3, once; 8 MB is all


def _flipped(path: str, target: Path, change: Callable[[bytearray], None]) -> str:
    content = bytearray(Path(path).read_bytes())
    change(content)
    target.write_bytes(content)
    return str(target)


def test_list_that_leads_out_of_its_values_is_refused_with_its_entries(tmp_path: Path) -> None:
    table = pa.table({"l": pa.array([[1.5]] * 600), "x": np.arange(600.0)})
    path = write(tmp_path / "whole.arrow", table, (0, 200, 400, 600))
    offsets = np.arange(201, dtype="<i4").tobytes()

    def lie(content: bytearray) -> None:
        place = content.index(offsets, content.index(offsets) + 1)  # of the second record batch
        content[place + 400 : place + 404] = (1 << 20).to_bytes(4, "little")

    damaged = _flipped(path, tmp_path / "damaged.arrow", lie)
    schema = read_header(damaged).schema
    with pytest.raises(DamagedInputError, match=r"entries \[200, 400\): record batch 1 is damaged") as caught:
        read(damaged, [(0, 200), (200, 600)], schema)
    assert (caught.value.path, caught.value.entries) == (damaged, (200, 400))
    assert read(damaged, [(0, 600)], schema.keep({"x"})) == read(path, [(0, 600)], schema.keep({"x"}))


def test_cut_file_is_named_wherever_it_is_cut(both: tuple[str, str], tmp_path: Path) -> None:
    content, cut = Path(both[0]).read_bytes(), tmp_path / "cut.arrow"
    for size in (6, 8, 15, 16, len(content) // 3, len(content) - 100, len(content) - 1):
        cut.write_bytes(content[:size])
        with pytest.raises(DamagedInputError, match=r"cut\.arrow: it is cut short"):
            read_header(str(cut))


def test_what_is_no_arrow_file_is_named(tmp_path: Path) -> None:
    stream, old = tmp_path / "stream.arrow", tmp_path / "old.feather"
    with pa.OSFile(str(stream), "wb") as sink, pa.ipc.new_stream(sink, events().schema) as writer:
        writer.write_table(events())
    with pytest.raises(UnreadableInputError, match=r"it is an Arrow stream, .*pyarrow\.ipc\.new_file"):
        read_header(str(stream))
    pyarrow.feather.write_feather(pa.table({"x": [1.5]}), str(old), version=1)
    with pytest.raises(UnreadableInputError, match="it is Feather of version 1: write it anew"):
        read_header(str(old))
    (tmp_path / "no.arrow").write_bytes(b"PAR1 nothing of the kind PAR1")
    with pytest.raises(DamagedInputError, match=r"no\.arrow: it is no arrow file"):
        read_header(str(tmp_path / "no.arrow"))
    with pytest.raises(UnreadableInputError, match="no such file"):
        read_header(str(tmp_path / "gone.arrow"))


def test_file_that_was_replaced_or_lacks_a_branch_is_refused(both: tuple[str, str]) -> None:
    header = read_header(both[0])
    file = PlannedFile(header.path, Format.ARROW, "", "0" * 32, N, None, 1.0, "", header.boundaries)
    with pytest.raises(UnreadableInputError, match="replaced since it was planned"):
        next(iter(arrow_io.READER.batches(file, 0, header.schema, [(0, 1)], How())))
    with pytest.raises(BranchNotFoundError, match=r"'sx' not found in .*events\.arrow; nearest: "):
        read(both[0], [(0, 1)], EventSchema((Branch("sx", "sx", "float32", jagged=False),)))


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    twice = pa.Table.from_arrays([pa.array([1.0]), pa.array([2.0])], names=["x", "x"])
    with pytest.raises(UnreadableInputError, match="it has 'x' twice"):
        read_header(write(tmp_path / "twice.arrow", twice, (0, 1)))
