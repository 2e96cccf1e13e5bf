"""What plan --explain measures: samples of the plan's ranges, of any format, and what workers hold."""

from __future__ import annotations

import itertools
import mmap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mlaas_spark.config import ConvertConfig
from mlaas_spark.errors import FilesetError
from mlaas_spark.manifest import read as read_manifest
from mlaas_spark.plan import EntryRange
from mlaas_spark.spark import probe
from mlaas_spark.spark.chunks import build, trial
from mlaas_spark.spark.convert import convert
from mlaas_spark.spark.probe import Samples, free_disk, measured, memory_text, only, workers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import pyarrow as pa
    from pyspark.sql import SparkSession

    from mlaas_spark.spark.chunks import ChunkRequest
    from mlaas_spark.spark.ingest import Events
    from tests.spark.conftest import Sample

ONE_BRANCH = {"branches": ["MET_pt"], "identifiers": []}


def test_the_small_sample_is_a_cluster_for_each_core_and_larger_ones_are_ranges_of_the_plan(
    opened: Callable[..., Events], sample: Sample
) -> None:
    events = opened(sample.paths(), events_per_task=300)  # clusters of 100, 64 and 130 entries
    samples = Samples.of(events)
    assert samples.cores == 2
    assert samples.small == (EntryRange(0, 600, 700), EntryRange(2, 0, 130))  # of the two shortest ranges
    ranges = events.plan.ranges
    for count, phase in itertools.product((1, 2, 4, 50), (0.0, 1 / 3, 2 / 3)):
        larger = samples.larger(count, phase)
        assert len(set(larger)) == len(larger) == min(count, len(ranges))
        assert set(larger) <= set(ranges)
        assert max(r.entries for r in larger) == max(r.entries for r in ranges)


@pytest.mark.parametrize("kind", ["json", "csv"])
def test_of_what_spark_reads_a_sample_is_of_whole_files(
    opened: Callable[..., Events], sample: Sample, kind: str
) -> None:
    events = opened(sample.paths(kind), **ONE_BRANCH)
    samples = Samples.of(events)
    assert {r.file for r in samples.small} == {1, 2}  # the two shortest
    some = only(events, samples.small)
    assert sum(r.events or 0 for r in some.counted().plan.ranges) == 450 + 130
    read = some.source.rows(some.spark, some.plan).select("__path").distinct().collect()
    assert {Path(row[0]).name for row in read} == {f"part1.{kind}", f"part2.{kind}"}


def test_larger_samples_grow_until_they_take_a_second_more_or_are_all_there_is(
    opened: Callable[..., Events], sample: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = opened(sample.paths(), events_per_task=64)
    samples = Samples.of(events)

    def seconds_by_calls() -> Iterator[float]:
        now = 0.0
        for took in (3.0, 0.5, 0.6, 1.6):  # fresh, again, too little, enough
            yield now
            now += took
            yield now

    times = seconds_by_calls()
    monkeypatch.setattr("mlaas_spark.spark.probe.time.perf_counter", lambda: next(times))
    seen: list[int] = []
    found = measured(samples, 0.0, lambda ranges: only(events, ranges), lambda some: seen.append(len(some.plan.ranges)))
    assert seen == [2, 2, 4, len(found.ranges)]
    assert len(found.ranges) == min(16, len(events.plan.ranges))
    assert (found.timing.first, found.timing.again, found.timing.whole) == pytest.approx((3.0, 0.5, 1.6))


def test_a_worker_tells_the_most_it_held_since_the_last_look(spark: SparkSession) -> None:
    size = 300 << 20
    workers(spark)

    def hold(rows: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        yield from rows
        with mmap.mmap(-1, size) as held:  # which the worker gives back, unlike what numpy and Arrow take
            for start in range(0, size, 4096):
                held[start] = 1

    spark.range(0, 2, 1, 2).mapInArrow(hold, "id long").collect()
    after, later = (max(worker.peak for worker in workers(spark)) for _ in range(2))
    assert after > size
    assert later < after - size // 2
    assert all(worker.machine > size for worker in workers(spark))


@pytest.mark.parametrize("layout", ["compact", "dense"])
def test_trial_chunks_are_those_of_build_but_for_the_labels(
    opened: Callable[..., Events], sample: Sample, request_of: Callable[..., ChunkRequest], tmp_path: Path, layout: str
) -> None:
    request = request_of(layout=layout)
    real = build(opened(sample.paths(), labels=[0, 1, 0]), request, str(tmp_path / "real"))
    tried = trial(opened(sample.paths()), request, str(tmp_path / "tried"))
    assert [(f.chunk, f.split, f.rows, f.ranges) for f in tried.files] == [
        (f.chunk, f.split, f.rows, f.ranges) for f in real.files
    ]
    assert sum(f.bytes for f in tried.files) == pytest.approx(
        sum(f.bytes for f in real.files), rel=0.05
    )  # labels compress
    assert {label for f in tried.files for label in f.labels} == {"0"}
    assert read_manifest(str(tmp_path / "tried")) == tried


def test_measuring_leaves_what_the_verbs_leave_and_counts_the_selection(
    opened: Callable[..., Events], sample: Sample, tmp_path: Path
) -> None:
    events = opened(sample.paths(), 1_000, selection="nJet >= 2", text=True)  # three ranges, less than a larger sample
    read = probe.read(events, Samples.of(events), str(tmp_path), ConvertConfig(), ["MET_pt", "Jet_pt"], [])
    whole = convert(events, str(tmp_path / "whole"))
    assert read.convert.made.rows == whole.rows == sum(1 for events in sample.files for e in events if e["nJet"] >= 2)
    assert read.convert.entries == read.specs.entries == 1_280
    assert read.specs.made.specs.events == whole.rows
    assert set(read.specs.made.specs.branches) == {"MET_pt", "Jet_pt"}
    assert min(read.base, read.held.peak) > 0
    assert read.held.data == round(read.in_memory * max(r.entries for r in events.plan.ranges))


def test_a_selection_that_keeps_nothing_of_the_sample_is_told_as_such(
    opened: Callable[..., Events], sample: Sample, tmp_path: Path
) -> None:
    events = opened(sample.paths(), selection="event == 1003")  # the fourth of the first file
    with pytest.raises(FilesetError, match=r"keeps none of \d+ events of a sample, so there is nothing to measure"):
        probe.read(events, Samples.of(events), str(tmp_path), ConvertConfig(), ["MET_pt"], [])


def test_bytes_of_an_entry_are_those_of_its_values(
    opened: Callable[..., Events], sample: Sample, tmp_path: Path
) -> None:
    branches = {"branches": ["MET_pt", "MET_sum", "Jet_pt"], "identifiers": []}
    events = opened(sample.paths(), selection="nJet >= 0", **branches)
    samples = Samples.of(events)
    read = probe.read(events, samples, str(tmp_path), ConvertConfig(), ["MET_pt"], [])
    measured_on = [event for r in samples.small for event in sample.files[r.file][r.start : r.stop]]
    jets = sum(len(event["Jet_pt"]) for event in measured_on) / len(measured_on)
    flat = 4 + 8 + 4  # MET_pt, MET_sum, nJet
    assert read.in_memory == pytest.approx(flat + 4 * jets + 4 + 12, rel=0.02)  # offsets, and file and entry


def test_free_disk_is_that_of_the_nearest_folder_and_unknown_on_servers(tmp_path: Path) -> None:
    assert free_disk(str(tmp_path / "not" / "yet")) == pytest.approx(free_disk(str(tmp_path)), rel=0.1)
    assert free_disk("hdfs://host:9000/user") is None


def test_memory_is_read_as_spark_writes_it() -> None:
    texts: dict[tuple[str, str], Any] = {
        ("1g", "m"): 2**30, ("512", "m"): 2**29, ("512mb", "m"): 2**29, ("2048K", "m"): 2**21, ("1t", "k"): 2**40,
    }  # fmt: skip
    assert {key: memory_text(*key) for key in texts} == texts
