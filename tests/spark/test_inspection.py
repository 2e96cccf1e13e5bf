"""What inspect finds on executors: sizes out of headers, statistics and speed of a sample, in every format."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import uproot

from mlaas_spark.errors import UnreadableInputError
from mlaas_spark.spark.inspection import on_disk, read

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlaas_spark.spark.ingest import Events
    from tests.spark.conftest import Event, Sample

KINDS = ["root", "parquet", "json", "csv"]


@pytest.mark.parametrize("kind", KINDS)
def test_statistics_are_those_of_the_events_asked_for(opened: Callable[..., Events], sample: Sample, kind: str) -> None:
    specs, readings = read(opened(sample.paths(kind), events=640))
    taken: list[Event] = [e for events, n in zip(sample.files, (350, 225, 65), strict=True) for e in events[:n]]
    assert specs.events == sum(r.entries.events or 0 for r in readings) == 640
    for name in ("MET_pt", "MET_sum", "nJet", "Jet_pt", "Jet_eta", "Ele_pt"):
        jagged = isinstance(taken[0][name], list)
        values = np.array([v for event in taken for v in (event[name] if jagged else [event[name]])], np.float64)
        stats, finite = specs[name], values[np.isfinite(values)]
        assert (stats.minimum, stats.maximum) == (finite.min(), finite.max())
        assert (stats.nan, stats.inf) == (np.isnan(values).sum(), np.isinf(values).sum())
        assert (stats.count, stats.zero) == (len(values), (values == 0).sum())
        assert stats.dim == (max(len(event[name]) for event in taken) if jagged else 1)


@pytest.mark.parametrize("kind", KINDS)
def test_ranges_that_were_read_are_those_of_the_plan_with_the_bytes_of_their_values(
    opened: Callable[..., Events], sample: Sample, kind: str
) -> None:
    events = opened(sample.paths(kind), branches=["MET_sum", "Jet_eta"], identifiers=[])
    _, readings = read(events)
    assert [(r.entries.file, r.entries.start, r.entries.stop) for r in readings] == [
        (r.file, r.start, r.stop) for r in events.plan.ranges
    ]
    for reading in readings:
        entries = reading.entries
        part = sample.files[entries.file][entries.start : entries.stop]
        assert entries.events == len(part)
        values = len(part) + sum(len(event["Jet_eta"]) for event in part)
        assert reading.bytes == 8 * values + 4 * len(part)  # pyarrow counts an offset for each list
        assert 0 < reading.seconds < math.inf


def test_sizes_and_trees_of_root_files_are_those_in_their_headers(
    opened: Callable[..., Events], sample: Sample
) -> None:
    files, sizes = on_disk(opened(sample.paths()))
    expected: dict[str, int] = {}
    for path in sample.paths():
        with uproot.open(path) as file:
            for name, branch in file["Events"].items():
                size = sum(branch.basket_key(i).fNbytes for i in range(branch.num_baskets))
                expected[name] = expected.get(name, 0) + size
    assert sizes == expected
    assert [file.trees for file in files] == [{"Events": 700}, {"Events": 450}, {"Events": 130}]
    assert [file.bytes for file in files] == [Path(path).stat().st_size for path in sample.paths()]


def test_sizes_of_parquet_are_those_of_its_column_chunks(opened: Callable[..., Events], sample: Sample) -> None:
    files, sizes = on_disk(opened(sample.paths("parquet")))
    assert sizes == {
        name: size
        for name in sample.files[0][0]
        if (size := sum(_chunks(path).get(name, 0) for path in sample.paths("parquet")))
    }
    assert [(file.bytes, file.trees) for file in files] == [
        (Path(path).stat().st_size, {}) for path in sample.paths("parquet")
    ]


def test_columns_of_parquet_below_a_branch_are_its_own(opened: Callable[..., Events], tmp_path: Path) -> None:
    columns: dict[str, pa.Array] = {
        "point": pa.array([{"x": 1.0, "inner": {"y": [1, 2]}}, {"x": 2.0, "inner": {"y": []}}]),
        "tracks": pa.array([[{"pt": 1.0, "hits": [1]}], []]),
        "words": pa.array([[("a", 1)], []], pa.map_(pa.string(), pa.int32())),
        "fixed": pa.array([[1.0, 2.0], [3.0, 4.0]], pa.list_(pa.float64(), 2)),
        "kind": pa.array(["a", "b"]).dictionary_encode(),
        "last": pa.array([1, 2]),
    }
    path = str(tmp_path / "f.parquet")
    pq.write_table(pa.table(columns), path)
    events = opened([path])
    found, chunks = on_disk(events)[1], _chunks(path)
    assert set(found) == {"point.x", "point.inner.y", "tracks.pt", "tracks.hits", "words", "fixed", "kind", "last"}
    assert set(found) >= {b.source for b in events.plan.schema.branches} | {
        item.name for item in events.plan.schema.omitted
    }
    assert found["last"] == chunks["last"]
    assert found["point.x"] + found["point.inner.y"] == chunks["point"]  # type: ignore[operator]
    assert found["tracks.pt"] + found["tracks.hits"] == chunks["tracks"]  # type: ignore[operator]
    assert all(found[name] == chunks[name] for name in ("words", "fixed", "kind"))


def _chunks(path: str) -> dict[str, int]:
    """Bytes of all column chunks of each column of a table, by the first name of their paths."""
    footer, sizes = pq.read_metadata(path), dict[str, int]()
    for group in range(footer.num_row_groups):
        for column in range(footer.num_columns):
            chunk = footer.row_group(group).column(column)
            name = chunk.path_in_schema.split(".")[0]
            sizes[name] = sizes.get(name, 0) + chunk.total_compressed_size
    return sizes


@pytest.mark.parametrize("kind", ["json", "csv"])
def test_formats_of_text_tell_bytes_of_files_alone(opened: Callable[..., Events], sample: Sample, kind: str) -> None:
    files, sizes = on_disk(opened(sample.paths(kind)))
    assert sizes == {}
    assert [file.bytes for file in files] == [Path(path).stat().st_size for path in sample.paths(kind)]


@pytest.mark.parametrize("kind", KINDS)
def test_file_that_is_gone_since_it_was_opened_is_named(
    opened: Callable[..., Events], write: Callable[..., str], make_events: Callable[..., Any], tmp_path: Path, kind: str
) -> None:
    path = write(tmp_path / f"gone.{kind}", make_events(20, 1, 1))
    events = opened([path])
    Path(path).unlink()
    with pytest.raises(UnreadableInputError, match=rf"gone\.{kind}") as caught:
        on_disk(events)
    assert caught.value.path == path
