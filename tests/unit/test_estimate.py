"""What a job would take: figures reckoned by hand, what more cores and more events do, and each warning."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlaas_spark.estimate import (
    Asked,
    Held,
    Memory,
    Probe,
    Room,
    Streaming,
    Timing,
    busiest,
    estimate,
    evenly,
    straddling,
)
from mlaas_spark.formats import Format
from mlaas_spark.plan import EntryRange, Plan, PlannedFile, make_plan
from mlaas_spark.schema import Branch, EventSchema

GB = 10**9
SCHEMA = EventSchema.of([Branch("pt", "pt", "float32", jagged=False)])
TARGET = 1_000


def plan_of(*files: tuple[int, ...], target: int | None = TARGET) -> Plan:
    """A plan of files with such boundaries."""
    planned = [
        PlannedFile(f"/d/{i}.root", Format.ROOT, "Events", f"{i:032x}", edges[-1], 0.0, 1.0, "", edges, clusters=1)
        for i, edges in enumerate(files)
    ]
    return make_plan(planned, SCHEMA, target)


PLAN = plan_of((0, 1_000, 2_000, 3_000), (0, 1_000))  # four ranges of 1,000 events

PROBE = Probe(
    cores=2,
    start=3.0,
    opened=1.0,
    convert=Timing(first=2.5, again=0.5, whole=0.9, small=100, large=500),  # 1 ms an event, 0.4 s a job, 2 s cold
    specs=Timing(first=0.75, again=0.25, whole=0.45, small=100, large=500),  # 0.5 ms, 0.2 s, 0.5 s
    chunks=Timing(first=1.0, again=1.0, whole=1.8, small=100, large=500),  # 2 ms, 0.8 s, 0 s
    stream=Streaming(first=1.5, again=0.5, events=1_000),  # 0.5 ms an event, and 1 s at first
    kept=0.5,
    in_memory=40.0,
    converted=10.0,
    compact=11.0,
    dense=20.0,
    width=10,
    partials=100,
    entries=1_000,
    memory=Memory(base=1_000_000, convert=Held(1_200_000, 20_000), chunks=Held(1_160_000, 20_000), jvm=7_000_000),
    room=Room(2, GB, "this machine", GB, GB, GB),
)

ASKED = Asked(
    cores=2,
    target=TARGET,
    part=500,
    chunk=500,
    layout="compact",
    whole_chunks=False,
    training=0.8,
    epochs=3,
    ready=300,
)

BY_HAND = {
    "files": 2,
    "input.bytes": 700,
    "entries": 4_000,
    "events": 2_000,  # one half is selected
    "clusters": 2,
    "ranges": 4,
    "range.entries": 1_000,
    "tasks": 4,
    "convert.bytes": 20_000,
    "compact.bytes": 22_000,
    "dense.bytes": 40_000,
    "spill.bytes": 80_000,
    "partials.bytes": 400,
    "range.bytes": 40_000,
    "convert.task.memory": 1_400_000,  # 1 MB + 10 bytes for each of 40,000
    "chunks.task.memory": 1_320_000,  # a range is more than 500 events of a chunk: 1 MB + 8 for each of 40,000
    "executor.memory": 9_800_000,  # 7 MB + 2 tasks of 1.4 MB
    "train.memory": 300 * (10 * 5 + 8),
    "start.seconds": 3.0,
    "open.seconds": 1.0,
    "convert.seconds": 4.4,  # 2 s cold + 0.4 s + 2,000 entries of a core of two
    "specs.seconds": 3.7,  # 2 s + 0.5 s cold + 0.2 s + 1 s
    "chunks.seconds": 4.8,
    "stream.seconds": 1.8,  # 1,600 of the 2,000 events
    "job.convert.seconds": 8.4,
    "job.specs.seconds": 7.7,
    "job.chunks.seconds": 12.5,
    "job.train.seconds": 17.9,
}


def test_figures_are_those_reckoned_by_hand() -> None:
    found = estimate(PLAN, [300, 400], PROBE, ASKED)
    assert {figure.name: figure.value for figure in found.figures} == pytest.approx(BY_HAND)
    assert found.warnings == ()


def test_every_figure_has_a_unit_and_says_from_what_it_is() -> None:
    content = estimate(PLAN, [300, 400], PROBE, ASKED).to_json()["figures"]
    assert {figure["unit"] for figure in content.values()} == {
        "files", "events", "clusters", "ranges", "tasks", "B", "s",
    }  # fmt: skip
    assert all(figure["from"] for figure in content.values())
    assert content["convert.bytes"]["from"] == "10.0 B an event, written by convert from a sample, x 2,000 events"


def test_a_file_of_several_trees_has_its_bytes_once() -> None:
    twice = replace(PLAN, files=(PLAN.files[0], replace(PLAN.files[1], path=PLAN.files[0].path, tree="Runs")))
    found = estimate(twice, [300, 300], PROBE, ASKED)
    assert (found["files"], found["input.bytes"]) == (1, 300)


def test_without_a_system_that_tells_there_is_no_memory_of_executors() -> None:
    found = estimate(PLAN, [300, 400], replace(PROBE, memory=None), ASKED)
    assert {f.name for f in found.figures} == BY_HAND.keys() - {
        "convert.task.memory", "chunks.task.memory", "executor.memory",
    }  # fmt: skip


def test_a_sample_that_is_all_there_is_takes_what_it_took() -> None:
    timing = Timing(first=2.0, again=0.5, whole=0.7, small=100, large=100)
    assert (timing.per_entry, timing.seconds(100)) == (0.0, 0.5)


def test_a_noisy_clock_gives_no_negative_time() -> None:
    timing = Timing(first=0.4, again=0.5, whole=0.3, small=100, large=200)
    assert (timing.cold, timing.per_entry, timing.seconds(10_000)) == (0.0, 0.0, 0.5)


def test_training_by_chunks_holds_the_events_of_a_chunk_and_of_all_those_of_all() -> None:
    by_chunk = replace(ASKED, whole_chunks=True)
    each = 10 * 5 + 8
    assert estimate(PLAN, [1, 1], PROBE, by_chunk)["train.memory"] == 400 * each  # of 500 four fifths
    assert estimate(PLAN, [1, 1], PROBE, replace(by_chunk, chunk=None))["train.memory"] == 1_600 * each


# --- the busiest core -------------------------------------------------------------------------------------------------

sizes = st.lists(st.integers(1, 50), min_size=1, max_size=30)


def test_ranges_go_to_the_core_that_is_free_first() -> None:
    assert busiest([5, 1, 1, 1, 4], 2) == 7  # 5 | 1, 1, 1, 4
    assert busiest([5], 8) == 5


@given(sizes, st.integers(1, 20))
def test_the_busiest_core_has_at_least_its_share_and_at_most_one_range_more(entries: list[int], cores: int) -> None:
    assert max(*entries, sum(entries) / cores) <= busiest(entries, cores) <= sum(entries) / cores + max(entries)


def with_entries(entries: list[int]) -> Plan:
    """A file with a range for each number."""
    return plan_of(tuple(itertools.accumulate(entries, initial=0)), target=None)


@given(sizes, st.integers(1, 20))
def test_another_core_makes_nothing_slower(entries: list[int], cores: int) -> None:
    plan = with_entries(entries)
    fewer, more = (estimate(plan, [1], PROBE, replace(ASKED, cores=n)) for n in (cores, cores + 1))
    assert all(more[f.name] <= fewer[f.name] for f in fewer.figures if f.unit == "s")


@given(sizes, st.integers(1, 50), st.data())
def test_more_events_make_nothing_less(entries: list[int], added: int, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(entries)))
    longer = [*entries, added] if place == len(entries) else entries
    longer = [n + added * (i == place) for i, n in enumerate(longer)] if place < len(entries) else longer
    before, after = (estimate(with_entries(some), [1], PROBE, ASKED) for some in (entries, longer))
    assert all(after[f.name] >= f.value for f in before.figures)


# --- samples ----------------------------------------------------------------------------------------------------------


@given(st.integers(1, 60), st.integers(1, 80), st.floats(0, 1, exclude_max=True))
def test_a_sample_is_of_different_items_from_all_over(items: int, count: int, phase: float) -> None:
    taken = evenly(range(items), count, phase)
    assert len(set(taken)) == len(taken) == min(items, count)
    gaps = [b - a for a, b in itertools.pairwise(taken)]
    assert all(items // len(taken) <= gap <= -(-items // len(taken)) for gap in gaps)


def test_another_phase_is_another_sample() -> None:
    assert evenly(range(9), 3, 0.0) == (0, 3, 6)
    assert evenly(range(9), 3, 1 / 3) == (1, 4, 7)


# --- warnings ---------------------------------------------------------------------------------------------------------


def warned(plan: Plan = PLAN, probe: Probe = PROBE, **asked: Any) -> dict[str, str]:
    found = estimate(plan, [1] * len(plan.files), probe, replace(ASKED, **asked))
    return {warning.kind: warning.text for warning in found.warnings}


def room(**what: Any) -> Probe:
    return replace(PROBE, room=replace(PROBE.room, **what))


def test_an_executor_is_warned_of_as_soon_as_it_does_not_fit() -> None:
    assert warned(probe=room(memory=9_800_000)) == {}
    assert "this machine" in warned(probe=room(memory=9_799_999))["executor memory"]


def test_the_disk_is_warned_of_as_soon_as_it_is_too_small_for_a_verb() -> None:
    assert warned(probe=room(disk=102_000)) == {}  # 80,000 put aside and 22,000 of chunks
    assert warned(probe=room(disk=101_999)).keys() == {"disk of chunks"}
    assert warned(probe=room(disk=19_999)).keys() == {"disk of convert", "disk of chunks"}
    assert warned(probe=room(disk=102_000), layout="dense").keys() == {"disk of chunks"}  # and 40,000 of dense ones
    assert warned(probe=room(disk=None)) == {}


def test_partial_specs_beyond_what_the_driver_takes_are_warned_of() -> None:
    assert warned(probe=room(results=400)) == {}
    assert warned(probe=room(results=399)).keys() == {"driver results"}
    assert warned(probe=room(results=None)) == {}


def test_a_chunk_or_all_events_held_in_memory_are_warned_of() -> None:
    assert warned(probe=room(driver=23_200), whole_chunks=True) == {}
    assert "holds a chunk in memory" in warned(probe=room(driver=23_199), whole_chunks=True)["training memory"]
    assert "all events" in warned(probe=room(driver=92_799), whole_chunks=True, chunk=None)["training memory"]
    assert warned(probe=room(driver=92_799), chunk=None) == {}  # streamed


def test_fewer_ranges_than_cores_are_warned_of_with_the_size_that_would_do() -> None:
    assert warned(cores=4) == {}
    assert "spark.events_per_task to 200," in warned(cores=5)["few ranges"]  # 4,000 events, four ranges a core


def test_very_small_files_are_warned_of_where_there_are_many() -> None:
    many = plan_of(*[(0, 50)] * 9)
    assert warned(many).keys() == {"small files"}
    assert "9 of 9 files are very small, 50 events each" in warned(many)["small files"]
    assert warned(plan_of(*[(0, 50)] * 8)) == {}  # four for each core
    assert warned(plan_of(*[(0, 100)] * 9)) == {}


def test_ranges_that_begin_or_end_inside_a_cluster_are_warned_of() -> None:
    cut = plan_of((0, 5_000), (0, 1_000))  # a cluster of more than four targets is cut
    inside = [r for r in cut.ranges if r.file == 0]
    assert straddling(cut) == inside
    assert "[0, 1666) of /d/0.root" in warned(cut)["straddle"]
    assert straddling(plan_of((0, 4_000))) == []
    assert straddling(replace(PLAN, ranges=(EntryRange(0, 0, 1_000), EntryRange(0, 1_000, 1_999)))) == [
        EntryRange(0, 1_000, 1_999)
    ]
