"""Parquet files of whatever pyarrow writes, read range by range, against the values that were written."""

from __future__ import annotations

import datetime as dt
import decimal
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlaas_spark import parquet_io
from mlaas_spark.errors import BranchNotFoundError, UnreadableInputError
from mlaas_spark.parquet_io import read_compressed, read_header, read_ranges
from mlaas_spark.schema import ENTRY, FILE, Branch, EventSchema

N = 1000


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, list[Any]]]:
    """A file of row groups of 1, 299, 300, 300 and 100 events, an empty one among them; and its values."""
    random = np.random.default_rng(5)
    values: dict[str, list[Any]] = {
        "x": [None if i % 7 == 3 else float(i) for i in range(N)],
        "l": [None if i % 11 == 5 else list(range(i % 4)) for i in range(N)],
        "u": [int(number) for number in random.integers(0, 2**63, N)],
        "s": [f"é{i}" for i in range(N)],
        "b": [i % 3 == 0 for i in range(N)],
    }
    kinds = [pa.float32(), pa.list_(pa.int16()), pa.uint64(), pa.string(), pa.bool_()]
    table = pa.table(
        [pa.array(column, kind) for column, kind in zip(values.values(), kinds, strict=True)], list(values)
    )
    path = str(tmp_path_factory.mktemp("plain") / "plain.parquet")
    with pq.ParquetWriter(path, table.schema) as writer:
        for start, stop in [(0, 1), (1, 300), (300, 300), (300, 600), (600, 900), (900, N)]:
            writer.write_table(table.slice(start, stop - start))
    return path, values


def read(path: str, ranges: list[tuple[int, int]], schema: EventSchema | None = None, **how: Any) -> list[pa.Table]:
    """What each range has, as one table."""
    wanted = schema or read_header(path).schema
    batches: list[list[pa.RecordBatch]] = [[] for _ in ranges]
    for number, batch in read_ranges(path, wanted, ranges, 3, **how):
        batches[number].append(batch)
    return [pa.Table.from_batches(of_range) for of_range in batches]


def test_header_has_types_entries_and_row_groups(plain: tuple[str, dict[str, list[Any]]]) -> None:
    header = read_header(plain[0])
    assert (header.entries, header.tree, len(header.uuid)) == (N, "", 32)
    assert header.boundaries == (0, 1, 300, 600, 900, N)
    assert {branch.name: branch.describes for branch in header.schema.branches} == {
        "x": "float32",
        "l": "list<int16>",
        "u": "uint64",
        "s": "string",
        "b": "bool",
    }


@pytest.mark.parametrize("batch", [None, 1, 64])
@pytest.mark.parametrize(
    "ranges", [[(0, N)], [(0, 300), (300, 600), (600, N)], [(0, 1), (17, 18), (250, 905)], [(299, 301), (999, N)]]
)
def test_ranges_have_the_values_of_their_entries_wherever_they_lie(
    plain: tuple[str, dict[str, list[Any]]],
    ranges: list[tuple[int, int]],
    batch: int | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path, values = plain
    if batch:
        monkeypatch.setattr(parquet_io, "_BATCH_EVENTS", batch)
    for (start, stop), table in zip(ranges, read(path, ranges), strict=True):
        assert table[ENTRY].to_pylist() == list(range(start, stop))
        assert set(table[FILE].to_pylist()) == {3}
        assert {name: table[name].to_pylist() for name in values} == {n: v[start:stop] for n, v in values.items()}


def test_small_row_groups_come_together_and_large_ones_in_pieces_of_bounded_size(
    plain: tuple[str, dict[str, list[Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = plain
    schema = read_header(path).schema
    assert [batch.num_rows for _, batch in read_ranges(path, schema, [(0, N)], 0)] == [N]
    monkeypatch.setattr(parquet_io, "_BATCH_BYTES", 2000)
    sizes = [batch.num_rows for _, batch in read_ranges(path, schema, [(0, N)], 0)]
    assert (sum(sizes), max(sizes) < 200) == (N, True)
    monkeypatch.setattr(parquet_io, "_LARGE", 1)  # as are those of a very large row group
    assert [batch.num_rows for _, batch in read_ranges(path, schema, [(0, N)], 0)] == sizes


def test_files_elsewhere_are_read_as_local_ones(plain: tuple[str, dict[str, list[Any]]]) -> None:
    path, _ = plain
    url = "memory://elsewhere/plain.parquet"
    with fsspec.open(url, "wb") as stream:
        stream.write(Path(path).read_bytes())
    assert replace(read_header(url), path=path) == read_header(path)
    assert read(url, [(0, 400), (400, N)]) == read(path, [(0, 400), (400, N)])


def test_no_other_column_is_decoded(plain: tuple[str, dict[str, list[Any]]], tmp_path: Path) -> None:
    path, values = plain
    chunk = pq.read_metadata(path).row_group(3).column(2)
    content = bytearray(Path(path).read_bytes())
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    content[start : start + chunk.total_compressed_size] = bytes(chunk.total_compressed_size)
    damaged = tmp_path / "damaged.parquet"
    damaged.write_bytes(content)
    schema = read_header(str(damaged)).schema
    (table,) = read(str(damaged), [(0, N)], schema.keep({"x", "s", "b", "l"}))
    assert table["x"].to_pylist() == values["x"]
    with pytest.raises(UnreadableInputError, match=r"entries \[300, 600\): row group 3 is damaged") as caught:
        read(str(damaged), [(0, N)], schema.keep({"x", "u"}))
    assert (caught.value.path, caught.value.entries) == (str(damaged), (300, 600))


def test_range_without_columns_has_its_entries(plain: tuple[str, dict[str, list[Any]]]) -> None:
    (table,) = read(plain[0], [(5, 310)], EventSchema(()))
    assert table[ENTRY].to_pylist() == list(range(5, 310))


def test_file_that_was_replaced_or_lacks_a_branch_is_refused(plain: tuple[str, dict[str, list[Any]]]) -> None:
    with pytest.raises(UnreadableInputError, match=r"replaced since it was planned \(1000 entries, not 999\)"):
        read(plain[0], [(0, 999)], entries=999)
    other = EventSchema((Branch("sx", "sx", "float32", jagged=False),))
    with pytest.raises(BranchNotFoundError, match=r"'sx' not found in .*plain\.parquet; nearest: "):
        read(plain[0], [(0, 1)], other)


def test_lists_and_texts_are_the_same_however_arrow_keeps_them(tmp_path: Path) -> None:
    lists, texts = [[1.5, 2.5], None, [], [3.5, None]], ["a", None, "b", "a"]
    pairs = [[1, 2], [3, 4], [5, 6], [7, 8]]
    table = pa.table(
        {
            "list": pa.array(lists),
            "large": pa.array(lists, pa.large_list(pa.float64())),
            "fixed": pa.array(pairs, pa.list_(pa.int8(), 2)),
            "text": pa.array(texts, pa.large_string()),
            "kind": pa.array(texts).dictionary_encode(),
            "deep": pa.array([[[1]], [], None, [[2, 3], []]], pa.large_list(pa.large_list(pa.int32()))),
        }
    )
    path = str(tmp_path / "kept.parquet")
    pq.write_table(table, path)
    assert {branch.name: branch.describes for branch in read_header(path).schema.branches} == {
        "list": "list<float64>",
        "large": "list<float64>",
        "fixed": "list<int8>",
        "text": "string",
        "kind": "string",
        "deep": "list<list<int32>>",
    }
    (found,) = read(path, [(1, 4)])
    assert {name: found[name].to_pylist() for name in table.column_names} == {
        name: table[name].to_pylist()[1:] for name in table.column_names
    }
    assert found.schema.field("large").type == pa.list_(pa.float64())


def test_values_of_records_and_of_lists_of_records_are_branches(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"p": {"x": 1.5, "in": {"y": [1, 2]}}, "p.x": 7, "jets": [{"pt": 1.0, "id": 3, "p4": {"m": 9}}, None]},
        {"p": None, "p.x": 8, "jets": []},
        {"p": {"x": None, "in": None}, "p.x": 9, "jets": None},
        {"p": {"x": 4.5, "in": {"y": []}}, "p.x": 10, "jets": [{"pt": None, "id": 5, "p4": None}]},
    ]
    path = str(tmp_path / "records.parquet")
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=2)
    schema = read_header(path).schema
    assert {branch.name: branch.source for branch in schema.branches} == {
        "p_x": "p.x",
        "p_in_y": "p.in.y",
        "jets_pt": "jets.pt",
        "jets_id": "jets.id",
        "jets_p4_m": "jets.p4.m",
    }
    assert [item.name for item in schema.omitted] == ["p.x"]  # which has the name of a value in a record before it
    (found,) = read(path, [(0, 4)])
    assert {name: found[name].to_pylist() for name in schema.names} == {
        "p_x": [1.5, None, None, 4.5],
        "p_in_y": [[1, 2], None, None, []],
        "jets_pt": [[1.0, None], [], None, [None]],
        "jets_id": [[3, None], [], None, [5]],
        "jets_p4_m": [[9, None], [], None, [None]],
    }
    (one,) = read(path, [(1, 4)], schema.keep({"jets_id"}))
    assert one["jets_id"].to_pylist() == [[], None, [5]]
    assert set(read_compressed(path)) == {"p.x", "p.in.y", "jets.pt", "jets.id", "jets.p4.m"}


TIMES = [dt.datetime(2020, 7, 2, 3, 4, 5, 250_001), None, dt.datetime(1950, 1, 2, 3, 4, 5)]  # noqa: DTZ001 - no zone
IN_UTC = [time.replace(tzinfo=dt.UTC).timestamp() if time else None for time in TIMES]
IN_ROME = [1593651845.250001, None, IN_UTC[2] - 3600 if IN_UTC[2] else None]  # two hours ahead in summer, one in winter


@pytest.mark.parametrize(
    ("kind", "how", "zone", "expected"),
    [
        (pa.timestamp("us"), {}, "UTC", IN_UTC),
        (pa.timestamp("ns"), {}, "UTC", IN_UTC),
        (pa.timestamp("us"), {}, "Europe/Rome", IN_ROME),
        (pa.timestamp("ns"), {}, "Europe/Rome", IN_ROME),
        (pa.timestamp("us"), {}, "+02:30", [time - 9000 if time is not None else None for time in IN_UTC]),
        (pa.timestamp("ns"), {}, "GMT-3", [time + 10800 if time is not None else None for time in IN_UTC]),
        (pa.timestamp("ns"), {}, "Z", IN_UTC),
        (pa.timestamp("us", "America/New_York"), {}, "Europe/Rome", IN_UTC),  # which are instants
        (pa.timestamp("ns"), {"use_deprecated_int96_timestamps": True}, "Europe/Rome", IN_UTC),  # as these are
    ],
)
def test_times_are_seconds_of_the_zone_they_are_in(
    tmp_path: Path, kind: pa.DataType, how: dict[str, Any], zone: str, expected: list[float | None]
) -> None:
    path = str(tmp_path / "times.parquet")
    pq.write_table(
        pa.table({"t": pa.array(TIMES, kind), "l": pa.array([TIMES, [], None], pa.list_(kind))}), path, **how
    )
    (found,) = read(path, [(0, 3)], zone=zone)
    assert found["t"].to_pylist() == expected
    assert found["l"].to_pylist() == [expected, [], None]


def test_dates_are_their_midnight_in_the_zone(tmp_path: Path) -> None:
    path = str(tmp_path / "days.parquet")
    pq.write_table(pa.table({"d": [dt.date(2021, 3, 4), None]}), path)
    assert read(path, [(0, 2)])[0]["d"].to_pylist() == [1614816000.0, None]
    assert read(path, [(0, 2)], zone="Europe/Rome")[0]["d"].to_pylist() == [1614812400.0, None]


def test_decimals_are_the_nearest_numbers_and_those_of_sparks_uint64_are_whole(tmp_path: Path) -> None:
    texts = ["0.1", "123456789012345678.9", "-2.675", None]
    table = pa.table(
        {
            "d": pa.array([decimal.Decimal(text) if text else None for text in texts], pa.decimal128(25, 4)),
            "u": pa.array([decimal.Decimal(2**64 - 1), None, 0, 1], pa.decimal128(20, 0)),
        }
    )
    path = str(tmp_path / "decimals.parquet")
    pq.write_table(table, path)
    (found,) = read(path, [(0, 4)])
    assert found["d"].to_pylist() == [float(text) if text else None for text in texts]
    assert found["u"].to_pylist() == [2**64 - 1, None, 0, 1]
    pq.write_table(pa.table({"u": pa.array([decimal.Decimal(1), decimal.Decimal(-1)], pa.decimal128(20, 0))}), path)
    with pytest.raises(UnreadableInputError, match=r"entries \[0, 2\): branch 'u' has a value that is no uint64"):
        read(path, [(0, 2)])


def test_what_is_neither_number_nor_text_is_listed_with_its_reason(tmp_path: Path) -> None:
    table = pa.table(
        {
            "x": [1],
            "clock": pa.array([dt.time(12, 30)]),
            "raw": [b"a"],
            "map": pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int32())),
            "raws": [[b"a"]],
            "none": pa.nulls(1),
            "nones": pa.array([[]], pa.list_(pa.null())),
            "deep": [[[{"a": 1}]]],
            "__entry": [7],
        }
    )
    path = str(tmp_path / "odd.parquet")
    pq.write_table(table, path)
    schema = read_header(path).schema
    assert schema.names == ("x",)
    reasons = {item.name: item.reason for item in schema.omitted}
    assert reasons.pop("map").startswith("values of type map<string, int32")
    assert reasons == {
        "clock": "values of type time64[us]",
        "raw": "values of type binary",
        "raws": "lists of values of type binary",
        "none": "no value in any event",
        "nones": "no value in any event",
        "deep": "nested lists (more than one jagged dimension)",
        "__entry": "names with __ are kept for columns like __entry",
    }
    assert read(path, [(0, 1)])[0]["x"].to_pylist() == [1]


def test_text_that_is_no_utf8_is_refused(tmp_path: Path) -> None:
    path = str(tmp_path / "text.parquet")
    text = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.array([0, 2], pa.int32()).buffers()[1], pa.py_buffer(b"\xff\xfe")]
    )
    pq.write_table(pa.table({"s": text}), path)
    with pytest.raises(UnreadableInputError, match=r"branch 's' has a value that is no string \(.*UTF8"):
        read(path, [(0, 1)])


def test_what_is_no_parquet_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "no.parquet"
    for content, says in ((None, "no such file"), (b"", r"empty \(0 bytes\)"), (b"PAR1 of the kind PAR1", "it is no ")):
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(UnreadableInputError, match=says) as caught:
            read_header(str(path))
        assert caught.value.path == str(path)
    path.write_bytes(b"PARE" + bytes(20) + b"PARE")
    with pytest.raises(UnreadableInputError, match=r"it is no parquet file \(.*encrypt"):
        read_header(str(path))


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    path = str(tmp_path / "twice.parquet")
    pq.write_table(pa.table([[1], [2]], names=["x", "x"]), path)
    with pytest.raises(UnreadableInputError, match="it has 'x' twice"):
        read_header(path)
