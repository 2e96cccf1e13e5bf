"""mixing: proportions, permutations and splits as functions of identity and seed."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mlaas_spark.errors import ChunkError
from mlaas_spark.mixing import chunk_counts, event_hash, hash64, largest_remainder, shuffle_order, split_of, uuid_key

MASK = 2**64 - 1


def check_counts(events: list[int], chunk_size: int) -> None:
    counts = chunk_counts(events, chunk_size).tolist()
    total = sum(events)
    full, rest = divmod(total, chunk_size)
    assert [sum(row) for row in counts] == [chunk_size] * full + [rest] * bool(rest)
    assert [sum(column) for column in zip(*counts, strict=True)] == events
    for row in counts:
        for count, of_file in zip(row, events, strict=True):
            assert count >= 0
            # |count - size * of_file / total| < 1, in integers
            assert abs(count * total - sum(row) * of_file) < total


@given(st.lists(st.integers(0, 400), min_size=1, max_size=9), st.integers(1, 300))
def test_chunks_are_full_use_each_event_once_and_are_within_one_of_proportion(
    events: list[int], chunk_size: int
) -> None:
    assume(sum(events))
    check_counts(events, chunk_size)


@given(st.lists(st.integers(0, 10**10), min_size=1, max_size=6), st.integers(1, 40), st.integers(0, 10**6))
def test_proportions_hold_for_huge_inputs(events: list[int], chunks: int, odd: int) -> None:
    assume(sum(events) > chunks)
    check_counts(events, sum(events) // chunks + odd)


def test_proportions_hold_for_many_more_files_than_a_chunk_has_events() -> None:
    check_counts([1] * 97 + [500], 7)


def test_chunk_of_all_events_takes_all_of_every_file() -> None:
    assert chunk_counts([3, 0, 5], 8).tolist() == [[3, 0, 5]]
    assert chunk_counts([3, 0, 5], 100).tolist() == [[3, 0, 5]]


def test_no_events_make_no_chunks() -> None:
    assert chunk_counts([0, 0], 5).shape == (0, 2)


@pytest.mark.parametrize("size", [0, -1])
def test_chunks_without_events_are_refused(size: int) -> None:
    with pytest.raises(ChunkError, match="at least one event"):
        chunk_counts([3], size)


@given(st.lists(st.integers(0, 10**12), min_size=1, max_size=9), st.integers(0, 10**12))
def test_largest_remainder_adds_up_and_is_within_one_of_proportion(weights: list[int], total: int) -> None:
    assume(sum(weights))
    shares = [int(share) for share in largest_remainder(np.array(weights), total)]
    assert sum(shares) == total
    for share, weight in zip(shares, weights, strict=True):
        assert abs(share * sum(weights) - weight * total) < sum(weights)


@pytest.mark.parametrize(
    ("weights", "total", "expected"),
    # the last but one is the textbook's case of Hamilton's method
    [
        ([1, 1, 1], 2, [1, 1, 0]),
        ([1, 1, 1], 4, [2, 1, 1]),
        ([0, 5], 3, [0, 3]),
        ([0, 0], 3, [0, 0]),
        ([47000, 16000, 15800, 12000, 6100, 3100], 10, [5, 2, 1, 1, 1, 0]),
        ([3, 3, 2], 8, [3, 3, 2]),
    ],
)
def test_largest_remainder_by_hand_ties_to_the_first(weights: list[int], total: int, expected: list[int]) -> None:
    assert largest_remainder(np.array(weights), total).tolist() == expected


def splitmix64(state: int) -> int:
    """The reference generator's next output, in Python's integers (https://prng.di.unimi.it/splitmix64.c)."""
    z = (state + 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


@given(st.lists(st.integers(0, MASK), min_size=1))
def test_hash_is_splitmix64(values: list[int]) -> None:
    assert [int(x) for x in hash64(np.array(values, np.uint64))] == [splitmix64(value) for value in values]


def test_hash_of_published_seed_is_the_published_number() -> None:
    # first outputs for seed 1234567, as in the test vectors of many implementations
    assert int(hash64(np.array([1234567], np.uint64))[0]) == 6457827717110365317


@given(
    st.lists(st.tuples(st.integers(-(2**63), 2**63 - 1), st.integers(0, 2**32 - 1)), min_size=1), st.integers(0, MASK)
)
def test_event_hash_is_a_fold_over_the_key_columns(keys: list[tuple[int, int]], salt: int) -> None:
    columns: list[npt.NDArray[Any]] = [
        np.array([key[0] for key in keys], np.int64),
        np.array([key[1] for key in keys], np.uint32),
    ]
    expected = []
    for key in keys:
        state = salt
        for part in key:
            state = splitmix64(state ^ splitmix64(part & MASK))
        expected.append(state)
    assert [int(x) for x in event_hash(columns, salt)] == expected


def test_hashes_stay_what_they_were_in_the_first_release() -> None:
    """Splits and order of data sets that exist depend on these numbers."""
    keys = [np.array([1, 1, 297050]), np.array([1, 2, 14]), np.array([1, 1, 5552])]
    assert hashlib.sha256(event_hash(keys, 7).astype("<u8").tobytes()).hexdigest()[:16] == "ecbb8b955614de0c"
    entries = np.arange(10)
    assert shuffle_order(np.full(10, uuid_key("0" * 31 + "1")), entries, 1).tolist() == [3, 2, 7, 5, 4, 1, 8, 6, 9, 0]
    split = split_of([np.ones(24, np.int64), np.ones(24, np.int64), np.arange(24)], (0.5, 0.25, 0.25))
    assert "".join("tve"[index] for index in split) == "ttvetttteveevettvtttvvte"


@pytest.mark.parametrize("uuid", ["fedcba98-7654-3210-fedc-ba9876543210", "fedcba9876543210fedcba9876543210"])
def test_uuid_key_is_the_first_fifteen_digits(uuid: str) -> None:
    assert uuid_key(uuid) == 0xFEDCBA987654321
    assert uuid_key("f" * 32) < 2**63


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 10**6)), unique=True), st.integers(0, 2**63 - 1), st.randoms()
)
def test_shuffle_depends_on_seed_uuid_and_entry_and_not_on_arrival(
    events: list[tuple[int, int]], seed: int, rng: object
) -> None:
    def shuffled(some: list[tuple[int, int]]) -> list[tuple[int, int]]:
        uuids = np.array([uuid for uuid, _ in some], np.int64)
        entries = np.array([entry for _, entry in some], np.int64)
        return [some[place] for place in shuffle_order(uuids, entries, seed)]

    order = shuffled(events)
    assert sorted(order) == sorted(events)
    again = list(events)
    rng.shuffle(again)  # type: ignore[attr-defined]
    assert shuffled(again) == order
    # and a part keeps the order that it has in the whole
    part = events[::2]
    assert shuffled(part) == [event for event in order if event in set(part)]


def test_other_seed_is_another_order_and_events_end_up_anywhere() -> None:
    uuids, entries = np.full(5000, 7), np.arange(5000)
    one, two = shuffle_order(uuids, entries, 1), shuffle_order(uuids, entries, 2)
    for order in (one, two):
        # Spearman's correlation of a random permutation: standard deviation 1 / sqrt(n - 1)
        assert abs(np.corrcoef(order, entries)[0, 1]) < 4 / np.sqrt(4999)
    assert abs(np.corrcoef(np.argsort(one), np.argsort(two))[0, 1]) < 4 / np.sqrt(4999)


def keys_of(n: int) -> list[npt.NDArray[np.generic]]:
    return [np.full(n, 1, np.uint32), np.arange(n, dtype=np.uint32) // 100, np.arange(n, dtype=np.uint64)]


def test_split_has_the_shares_that_were_asked_for() -> None:
    n, shares = 100_000, (0.64, 0.16, 0.2)
    counts = np.bincount(split_of(keys_of(n), shares), minlength=3)
    for count, share in zip(counts, shares, strict=True):
        assert abs(count - n * share) < 4 * np.sqrt(n * share * (1 - share))


@given(st.integers(2, 1000), st.integers(0, 2**32))
def test_each_event_is_in_one_fold(folds: int, first: int) -> None:
    keys = [np.arange(first, first + 50)]
    tests = sum((split_of(keys, (0.64, 0.16, 0.2), folds, fold) == 2).astype(int) for fold in range(folds))
    assert np.array_equal(tests, np.ones(50))


def test_training_and_validation_share_the_other_folds() -> None:
    counts = np.bincount(split_of(keys_of(100_000), (0.64, 0.16, 0.2), 5, 2), minlength=3)
    assert counts / 100_000 == pytest.approx([0.64, 0.16, 0.2], abs=0.01)


def test_split_of_an_event_does_not_depend_on_the_others() -> None:
    keys = keys_of(20_000)
    whole = split_of(keys, (0.6, 0.2, 0.2))
    order = np.random.default_rng(5).permutation(20_000)[:7_000]
    assert np.array_equal(split_of([key[order] for key in keys], (0.6, 0.2, 0.2)), whole[order])


def test_split_does_not_depend_on_the_integer_type_of_a_key() -> None:
    keys = keys_of(1000)
    assert np.array_equal(
        split_of(keys, (0.6, 0.2, 0.2)), split_of([key.astype(np.int64) for key in keys], (0.6, 0.2, 0.2))
    )


def test_larger_share_keeps_the_events_it_had() -> None:
    keys = keys_of(10_000)
    small, large = split_of(keys, (0.5, 0.25, 0.25)), split_of(keys, (0.7, 0.15, 0.15))
    assert np.all(large[small == 0] == 0)


@pytest.mark.parametrize(
    "shares", [(1.0, 0.0, 0.0), (0.8, 0.2, 0.0), (0.8, 0.0, 0.2), (0.7, 0.3, 0.0), (0.9, 0.1, 0.0)]
)
def test_share_of_zero_gets_nothing(shares: tuple[float, float, float]) -> None:
    found = np.bincount(split_of(keys_of(50_000), shares), minlength=3)
    assert [count > 0 for count in found] == [share > 0 for share in shares]


def test_share_of_zero_gets_nothing_when_the_edges_do_not_reach_one(monkeypatch: pytest.MonkeyPatch) -> None:
    # the largest hash there is lies above an edge of 1 - 2e-16
    largest = np.full(1, MASK, np.uint64)
    monkeypatch.setattr("mlaas_spark.mixing.event_hash", lambda _keys, _salt: largest)
    key = [np.zeros(1, np.int64)]
    short = float(np.nextafter(1, 0)) - 2**-53
    assert split_of(key, (short, 0.0, 0.0)).tolist() == [0]
    assert split_of(key, (short / 2, short / 2, 0.0)).tolist() == [1]
    assert split_of(key, (0.5, 0.25, 0.25)).tolist() == [2]
