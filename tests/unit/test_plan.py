"""plan: ranges tile the entries, keep clusters whole, and the digest sees what is read, not how."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlaas_spark.errors import FilesetError
from mlaas_spark.formats import Format
from mlaas_spark.plan import EntryRange, Plan, PlannedFile, align, coarse, copy_numbers, make_plan, recut
from mlaas_spark.schema import Branch, EventSchema

SCHEMA = EventSchema.of([Branch("MET", "MET", "float32", jagged=False)])


def planned(index: int, boundaries: list[int]) -> PlannedFile:
    return PlannedFile(
        path=f"/data/{index}.root",
        format=Format.ROOT,
        tree="Events",
        uuid=f"{index:032x}",
        entries=boundaries[-1],
        label=float(index % 2),
        weight=1.0,
        group="",
        boundaries=tuple(boundaries),
    )


# cluster sizes of each file, an empty file among them
clusters = st.lists(st.lists(st.integers(1, 60), max_size=12), min_size=1, max_size=5)


def files_of(sizes: list[list[int]]) -> list[PlannedFile]:
    return [planned(index, [0, *(sum(some[: k + 1]) for k in range(len(some)))]) for index, some in enumerate(sizes)]


@given(clusters, st.integers(1, 150))
def test_ranges_tile_each_file_exactly_once_in_order(sizes: list[list[int]], target: int) -> None:
    files = files_of(sizes)
    if not sum(map(sum, sizes)):
        return
    plan = make_plan(files, SCHEMA, target)
    read = [(r.file, entry) for r in plan.ranges for entry in range(r.start, r.stop)]
    assert read == [(index, entry) for index, file in enumerate(files) for entry in range(file.entries)]
    assert plan.entries == len(read)
    assert plan.events_by_file() == [file.entries for file in files]


@given(clusters, st.integers(1, 150))
def test_ranges_never_split_a_cluster_that_is_not_longer_than_four_of_them(sizes: list[list[int]], target: int) -> None:
    files = files_of(sizes)
    if sum(map(sum, sizes)):
        for r in make_plan(files, SCHEMA, target).ranges:
            long = [(a, b) for a, b in pairwise(files[r.file].boundaries) if b - a > 4 * target]
            for edge in (r.start, r.stop):
                assert edge in files[r.file].boundaries or any(a < edge < b for a, b in long)


@pytest.mark.parametrize("boundaries", [[0, 1_000_000], list(range(0, 1_000_001, 100))], ids=["one", "10000"])
def test_ranges_of_one_cluster_and_of_ten_thousand_are_balanced_within_a_fifth(boundaries: list[int]) -> None:
    sizes = [r.entries for r in make_plan([planned(0, boundaries)], SCHEMA, 25_000).ranges]
    assert len(sizes) >= 20
    assert max(sizes) <= 1.2 * sum(sizes) / len(sizes)


@given(st.lists(st.integers(1, 60), max_size=30), st.integers(1, 400))
def test_coarse_boundaries_are_boundaries_an_eighth_of_the_target_apart(sizes: list[int], target: int) -> None:
    edges = tuple(sum(sizes[:k]) for k in range(len(sizes) + 1))
    kept = coarse(edges, target)
    assert set(kept) <= set(edges)
    assert (kept[0], kept[-1]) == (0, edges[-1])
    assert all(c - a > target // 8 for a, c in zip(kept, kept[2:], strict=False))
    for a, b in pairwise(kept):
        assert b - a <= max(target // 8, 1) or not any(a < edge < b for edge in edges)


def test_ten_thousand_clusters_are_kept_as_few_boundaries_and_ranges_are_balanced_all_the_same() -> None:
    kept = coarse(range(0, 1_000_001, 100), 25_000)
    assert len(kept) <= 1_000_000 / (25_000 / 8 - 100) + 2
    sizes = [r.entries for r in make_plan([planned(0, list(kept))], SCHEMA, 25_000).ranges]
    assert max(sizes) <= 1.2 * sum(sizes) / len(sizes)


@given(clusters, st.integers(1, 150), st.integers(1, 300))
def test_ranges_cut_anew_tile_the_same_entries_and_are_about_as_large_as_asked(
    sizes: list[list[int]], target: int, asked: int
) -> None:
    files = files_of(sizes)
    if not sum(map(sum, sizes)):
        return
    plan = make_plan(files, SCHEMA, target)
    again = replace(plan, ranges=recut(plan, {0: asked}))
    assert again.spans_read() == plan.spans_read()
    assert [r for r in again.ranges if r.file] == [r for r in plan.ranges if r.file]
    mine = [r for r in again.ranges if r.file == 0]
    largest = max(sizes[0], default=0)
    for r in mine:
        assert r.entries <= max(2 * asked, largest) + largest
        assert 4 * r.entries >= asked or len(mine) == 1 or largest > asked // 4


def test_files_and_steps_are_cut_anew_by_hand() -> None:
    files = [replace(planned(0, list(range(0, 101, 10))), steps=((0, 60), (80, 100))), planned(1, [0, 30])]
    plan = make_plan(files, SCHEMA, 10)
    cut = [(r.file, r.start, r.stop) for r in recut(plan, {0: 30, 1: 1000})]
    assert cut == [(0, 0, 30), (0, 30, 60), (0, 80, 100), (1, 0, 30)]
    # 100 entries in 3 parts of 34: clusters of 10 allow 30, and the 10 that are left go to the last
    whole = make_plan([planned(0, list(range(0, 101, 10)))], SCHEMA, 10)
    assert [(r.start, r.stop) for r in recut(whole, {0: 33})] == [(0, 30), (30, 60), (60, 100)]


def test_steps_alone_are_read() -> None:
    file = replace(planned(0, [0, 10, 20, 30]), steps=((15, 20), (2, 8), (20, 30)))
    assert file.spans == ((2, 8), (15, 30))
    plan = make_plan([file], SCHEMA, 12)
    assert [(r.start, r.stop) for r in plan.ranges] == [(2, 8), (15, 20), (20, 30)]
    assert plan.limits == {file.key: [[2, 8], [15, 30]]}
    assert [(r.start, r.stop) for r in make_plan([file], SCHEMA, 50, events=9).ranges] == [(2, 8), (15, 18)]
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


@pytest.mark.parametrize("steps", [((0, 31),), ((3, 3),), ((0, 5), (4, 8)), ((-1, 4),)])
def test_steps_that_overlap_or_lie_outside_are_refused(steps: tuple[tuple[int, int], ...]) -> None:
    with pytest.raises(FilesetError, match="steps overlap, or reach beyond its 30 entries"):
        replace(planned(0, [0, 30]), steps=steps)


@given(clusters, st.integers(1, 150))
def test_ranges_are_as_near_the_target_as_clusters_allow(sizes: list[list[int]], target: int) -> None:
    files = files_of(sizes)
    if not sum(map(sum, sizes)):
        return
    ranges = make_plan(files, SCHEMA, target).ranges
    for r in ranges:
        inside = [edge for edge in files[r.file].boundaries if r.start < edge < r.stop]
        assert r.entries <= target or not inside  # above the target only as one cluster, or a part of it
    for one, two in pairwise(ranges):
        if one.file == two.file:  # and the next cluster would not have fitted
            following = next(edge for edge in files[two.file].boundaries if edge > two.start)
            assert min(following, two.stop) - one.start > target


@given(clusters, st.integers(1, 150), st.integers(1, 2000))
def test_limit_reads_the_first_entries_of_each_file_within_one_of_proportion(
    sizes: list[list[int]], target: int, limit: int
) -> None:
    files = files_of(sizes)
    everything = sum(map(sum, sizes))
    if not everything:
        return
    plan = make_plan(files, SCHEMA, target, events=limit)
    wanted = min(limit, everything)
    assert plan.entries == wanted
    by_file = plan.events_by_file()
    for index, file in enumerate(files):
        assert abs(by_file[index] * everything - file.entries * wanted) < everything
        mine = [r for r in plan.ranges if r.file == index]
        assert [entry for r in mine for entry in range(r.start, r.stop)] == list(range(by_file[index]))
        if all(b - a <= 4 * target for a, b in pairwise(file.boundaries)):
            assert all(r.stop in {*file.boundaries, by_file[index]} for r in mine)


ALIGNED = [
    ([0, 10, 20, 30], 30, 20, [(0, 20), (20, 30)]),
    ([0, 10, 20, 30], 30, 19, [(0, 10), (10, 20), (20, 30)]),
    ([0, 10, 20, 30], 30, 1000, [(0, 30)]),
    ([0, 40], 40, 10, [(0, 40)]),
    ([0, 41], 41, 10, [(0, 13), (13, 27), (27, 41)]),
    ([0, 5, 45, 50], 50, 10, [(0, 5), (5, 45), (45, 50)]),
    ([0, 5, 9], 9, None, [(0, 5), (5, 9)]),
    ([0, 10, 20, 30], 25, 20, [(0, 20), (20, 25)]),
    ([0, 10, 20, 30], 10, 3, [(0, 10)]),
    ([0, 10, 10, 20], 20, 10, [(0, 10), (10, 20)]),
    ([0, 10], 0, 5, []),
]


@pytest.mark.parametrize(("boundaries", "stop", "target", "expected"), ALIGNED)
def test_align_by_hand(boundaries: list[int], stop: int, target: int | None, expected: list[tuple[int, int]]) -> None:
    assert align(boundaries, 0, stop, target) == expected


def test_zero_entries_in_all_files_are_refused_by_name() -> None:
    with pytest.raises(FilesetError, match=r"zero entries in all 2 input files \(/data/0\.root, /data/1\.root\)"):
        make_plan([planned(0, [0]), planned(1, [0])], SCHEMA, 10)


@pytest.mark.parametrize("boundaries", [(), (0,), (1, 30), (0, 29), (0, 20, 10, 30), (0, 31)])
def test_boundaries_that_do_not_tile_the_entries_are_refused(boundaries: tuple[int, ...]) -> None:
    with pytest.raises(FilesetError, match="do not tile"):
        replace(planned(0, [0, 30]), boundaries=boundaries)


@pytest.mark.parametrize(("start", "stop"), [(-1, 3), (3, 3), (4, 3)])
def test_range_that_is_empty_or_reversed_cannot_exist(start: int, stop: int) -> None:
    with pytest.raises(FilesetError, match="0 <= start < stop"):
        EntryRange(0, start, stop)


def test_first_ranks_count_the_events_before_each_range_of_its_file() -> None:
    files = (planned(0, [0, 10, 30]), planned(1, [0, 5]))
    uncounted = Plan(files, SCHEMA, (EntryRange(0, 0, 10), EntryRange(0, 10, 30), EntryRange(1, 0, 5)))
    assert not uncounted.counted
    assert uncounted.first_ranks() == {(0, 0): 0, (0, 10): 10, (1, 0): 0}
    counted = Plan(files, SCHEMA, (EntryRange(0, 0, 10, 4), EntryRange(0, 10, 30, 0), EntryRange(1, 0, 5, 5)))
    assert counted.counted
    assert counted.first_ranks() == {(0, 0): 0, (0, 10): 4, (1, 0): 0}
    assert counted.events_by_file() == [4, 5]
    assert counted.entries == 35


FILES = [planned(0, [0, 10, 30]), planned(1, [0, 20])]


def test_row_group_of_parquet_stays_whole_however_large() -> None:
    file = planned(0, [0, 100, 1000, 1004])
    assert [(r.start, r.stop) for r in make_plan([replace(file, format=Format.PARQUET)], SCHEMA, 10).ranges] == [
        (0, 100),
        (100, 1000),
        (1000, 1004),
    ]
    assert len(make_plan([file], SCHEMA, 10).ranges) > 40  # of ROOT it is cut


def test_digest_does_not_depend_on_paths_cutting_and_counting() -> None:
    plan = make_plan(FILES, SCHEMA, 10)
    moved = [replace(file, path="root://elsewhere/" + file.path, group="g") for file in FILES]
    finer = [replace(file, boundaries=tuple(range(file.entries + 1))) for file in moved]
    assert make_plan(finer, SCHEMA, 3).digest() == plan.digest()
    counted = replace(plan, ranges=tuple(replace(r, events=1) for r in plan.ranges))
    assert counted.digest() == plan.digest()


def test_digest_sees_everything_that_changes_what_is_read() -> None:
    other_schema = EventSchema.of([Branch("MET", "MET", "float64", jagged=False)])
    plans = [
        make_plan(FILES, SCHEMA, 10),
        make_plan(FILES[::-1], SCHEMA, 10),
        make_plan(FILES[:1], SCHEMA, 10),
        make_plan(FILES, other_schema, 10),
        make_plan(FILES, SCHEMA, 10, events=49),
        *(
            make_plan([replace(FILES[0], **change), FILES[1]], SCHEMA, 10)
            for change in ({"uuid": "f" * 32}, {"tree": "T"}, {"copy": 1}, {"label": None}, {"weight": 2.0})
        ),
    ]
    assert len({plan.digest() for plan in plans}) == len(plans)


def test_trees_and_copies_of_one_file_are_told_from_each_other() -> None:
    file = planned(0, [0, 30])
    others = [replace(file, tree="Runs"), replace(file, copy=1), replace(file, tree="Runs", copy=1)]
    assert len({each.key for each in (file, *others)}) == 4
    assert replace(file, path="/else/where.root", label=None).key == file.key
    plan = make_plan([file, planned(1, [0, 30]), *others], SCHEMA, 10, events=50)
    assert plan.limits == {each.key: [[0, 10]] for each in plan.files}
    assert plan.twins == [0, 0, 1, 2, 3]


FOUND = [("/a.root", "1f", "T"), ("/b.root", "1f", "T"), ("/a.root", "1f", "U"), ("/c.root", "1f", "T")]


def test_copies_are_numbered_where_they_are_allowed() -> None:
    assert copy_numbers(FOUND, allowed=True) == [0, 1, 0, 2]
    assert copy_numbers([FOUND[0], FOUND[2]], allowed=False) == [0, 0]


def test_copies_are_refused_and_both_named() -> None:
    with pytest.raises(FilesetError, match=r"^/b\.root is a copy of /a\.root \(same uuid 1f\).*--allow-copies"):
        copy_numbers(FOUND, allowed=False)


def test_one_tree_twice_is_refused_even_where_copies_are_allowed() -> None:
    with pytest.raises(FilesetError, match=r"^tree T of /a\.root is named twice"):
        copy_numbers([*FOUND, FOUND[0]], allowed=True)


@given(clusters, st.integers(1, 150))
def test_plan_reads_back_from_json(sizes: list[list[int]], target: int) -> None:
    if sum(map(sum, sizes)):
        plan = make_plan(files_of(sizes), SCHEMA, target)
        plan = replace(plan, ranges=tuple(replace(r, events=r.entries // 2) for r in plan.ranges))
        again = Plan.from_json(json.loads(json.dumps(plan.to_json())))
        assert again == plan
        assert again.digest() == plan.digest()
