"""specs: merging is exact whatever the partitioning; statistics against math, fractions and statistics."""

from __future__ import annotations

import json
import math
import statistics
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlaas_spark import branch_specs as specs_module
from mlaas_spark.branch_specs import BranchStats, Specs, SpecsFile, from_rows, merged, to_rows
from mlaas_spark.errors import BranchNotFoundError, SpecsError, SpecsMismatchError

Row = tuple[str, str, int, int, float | None, float | None]

NAMES = ("Jet_pt", "MET", "nJet")
QUANTILES = ("Jet_pt", "MET")
SCHEMA = pa.schema([("MET", pa.float64()), ("nJet", pa.int32()), ("Jet_pt", pa.list_(pa.float32()))])

event = st.fixed_dictionaries(
    {
        "MET": st.none() | st.floats() | st.sampled_from([0.0, -0.0]),
        "nJet": st.integers(-(2**31), 2**31 - 1),
        "Jet_pt": st.none() | st.lists(st.none() | st.floats(width=32), max_size=4),
    }
)
events_strategy = st.lists(event, max_size=12)


def specs_of(events: list[dict[str, Any]]) -> Specs:
    return Specs.of(pa.RecordBatch.from_pylist(events, SCHEMA), NAMES, QUANTILES)


def text(specs: Specs) -> str:
    return SpecsFile(specs).dumps()


@given(events_strategy, st.data())
def test_specs_of_any_partition_in_any_order_equal_one_shot(events: list[dict[str, Any]], data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(events)), max_size=4)))
    parts = [events[a:b] for a, b in zip([0, *cuts], [*cuts, len(events)], strict=True)]
    shuffled = data.draw(st.permutations(parts))
    whole = specs_of(events)
    together = merged(specs_of(part) for part in shuffled)
    assert together == whole
    assert text(together) == text(whole)


@given(events_strategy, events_strategy, events_strategy)
def test_merge_is_associative_and_commutative(
    one: list[dict[str, Any]], two: list[dict[str, Any]], three: list[dict[str, Any]]
) -> None:
    a, b, c = specs_of(one), specs_of(two), specs_of(three)
    assert text(a.merge(b)) == text(b.merge(a))
    assert text(a.merge(b).merge(c)) == text(a.merge(b.merge(c)))
    assert a.merge(Specs()) == a == Specs().merge(a)


def merged_by_key(rows: list[Row]) -> list[Row]:
    """Those of equal (branch, stat, index) as one: sum, min, max; nulls are left out of min and max."""
    groups: dict[tuple[str, str, int], list[Row]] = {}
    for row in rows:
        groups.setdefault(row[:3], []).append(row)
    result = []
    for key, some in groups.items():
        number = sum(row[3] for row in some)
        assert abs(number) < 2**63
        low = min((row[4] for row in some if row[4] is not None), default=None)
        high = max((row[5] for row in some if row[5] is not None), default=None)
        result.append((*key, number, low, high))
    return result


@given(st.lists(events_strategy, min_size=1, max_size=4), st.randoms())
def test_rows_merged_by_key_give_the_merged_specs(parts: list[list[dict[str, Any]]], rng: Any) -> None:
    rows = merged_by_key([row for part in parts for row in to_rows(specs_of(part))])
    rng.shuffle(rows)
    assert text(from_rows(rows)) == text(merged(specs_of(part) for part in parts))


@given(events_strategy)
def test_rows_read_back_and_fit_in_64_bits(events: list[dict[str, Any]]) -> None:
    rows = to_rows(specs_of(events))
    assert len({row[:3] for row in rows}) == len(rows)
    # room for 2**31 partials
    assert all(abs(row[3]) < 2**32 and abs(row[2]) < 2**31 for row in rows)
    assert from_rows(rows) == specs_of(events)


def finite(values: list[float | None]) -> list[float]:
    return [value for value in values if value is not None and math.isfinite(value)]


@given(events_strategy)
def test_counts_limits_and_lengths_equal_a_loop_over_events(events: list[dict[str, Any]]) -> None:
    specs = specs_of(events)
    assert specs.events == len(events)
    jets = [value for event in events for value in event["Jet_pt"] or []]
    for name, values in (("MET", [event["MET"] for event in events]), ("Jet_pt", jets)):
        stats = specs[name]
        good = finite(values)
        assert stats.count == len(values)
        assert stats.nan == sum(value is None or math.isnan(value) for value in values)
        assert stats.inf == sum(value is not None and math.isinf(value) for value in values)
        assert stats.zero == good.count(0.0)
        assert stats.finite == len(good)
        assert (stats.minimum, stats.maximum) == (min(good, default=None), max(good, default=None))
        assert sum(stats.bins.values()) == len(good)
    lengths = [len(event["Jet_pt"] or []) for event in events]
    dim = max(lengths, default=0)
    assert specs["Jet_pt"].dim == dim
    assert list(specs["Jet_pt"].lengths) == [lengths.count(length) for length in range(dim + bool(events))]
    assert (specs["MET"].dim, specs["MET"].lengths) == (1, ())


ANY_FLOATS = st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=30)
OFFSET = st.builds(
    lambda base, steps: [base + step for step in steps],
    st.sampled_from([1e9, -1e9, 1e15, 1e-300, 0.1]),
    st.lists(st.floats(-1e-3, 1e-3), min_size=2, max_size=30),
)


@given(ANY_FLOATS | OFFSET)
def test_mean_is_the_nearest_float_to_the_exact_mean(values: list[float]) -> None:
    exact = sum(map(Fraction, values)) / len(values)
    assert BranchStats.of(np.array(values)).mean == float(exact)


@given(ANY_FLOATS | OFFSET)
def test_variance_is_exact_but_for_the_rounding_of_each_square(values: list[float]) -> None:
    fractions = [Fraction(value) for value in values]
    squares = sum(value * value for value in fractions) / len(values)
    exact = squares - (sum(fractions) / len(values)) ** 2
    std = BranchStats.of(np.array(values)).std
    slack = squares * Fraction(1, 2**53)  # each square is rounded to 53 bits: half a unit in the last place of 2**-52
    low, high = max(exact - slack, Fraction(0)), exact + slack
    tolerance = Fraction(1, 2**50)
    smallest = Fraction(1, 2**1070)
    assert low * (1 - tolerance) - smallest <= Fraction(std) ** 2 <= high * (1 + tolerance) + smallest


@pytest.mark.parametrize("offset", [0.0, 1e3, 1e6, 1e9])
def test_std_of_float32_values_is_exact_with_any_offset(offset: float) -> None:
    values = (np.random.default_rng(3).normal(offset, 300.0, 5000)).astype(np.float32)
    stats = BranchStats.of(values)
    assert stats.std == pytest.approx(statistics.pstdev(map(Fraction, values.tolist())), rel=1e-14)
    assert stats.mean == pytest.approx(math.fsum(values.tolist()) / 5000, rel=1e-15)


def test_std_of_integers_up_to_2_to_the_26_is_exact() -> None:
    values = [2**26 - 3, 2**26 - 2, 2**26 - 1]
    assert BranchStats.of(np.array(values)).std == pytest.approx(math.sqrt(2 / 3), rel=1e-15)


def test_branch_near_the_largest_number_has_mean_and_std_and_can_be_written() -> None:
    largest = np.finfo(np.float64).max
    stats = BranchStats.of(np.array([largest, largest, -largest, 0.0]))
    assert stats.mean == largest / 4
    assert stats.std == pytest.approx(largest * (math.sqrt(11) / 4), rel=1e-14)
    assert json.loads(SpecsFile(Specs(4, {"x": stats})).dumps())["maxv"] == {"x": largest}


def test_no_finite_value_means_no_limits_and_nan_for_the_moments() -> None:
    stats = BranchStats.of(np.array([math.nan, math.inf]))
    assert (stats.minimum, stats.maximum, stats.finite) == (None, None, 0)
    assert math.isnan(stats.mean)
    assert math.isnan(stats.std)


def test_sign_of_zero_does_not_show() -> None:
    for values in ([0.0, -0.0], [-0.0, 0.0], [-0.0]):
        stats = BranchStats.of(np.array(values))
        assert (str(stats.minimum), str(stats.maximum)) == ("0.0", "0.0")


@pytest.mark.parametrize("q", [0.0, 0.01, 0.25, 0.5, 0.75, 0.99, 1.0])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", ["lognormal", "normal", "negative"])
def test_quantiles_are_within_four_per_mille(q: float, dtype: str, shape: str) -> None:
    rng = np.random.default_rng(11)
    values = {
        "lognormal": rng.lognormal(3, 2, 4001),
        "normal": rng.normal(0, 5, 4001),
        "negative": -rng.lognormal(-3, 2, 4001),
    }[shape].astype(dtype)
    exact = sorted(values.tolist())[max(math.ceil(q * 4001) - 1, 0)]
    stats = BranchStats.of(np.append(values, [math.nan, math.inf]).astype(dtype), quantiles=True)
    assert stats.quantile(q) == pytest.approx(exact, rel=0.004)


def test_quantile_of_a_constant_is_the_constant() -> None:
    stats = BranchStats.of(np.full(10, 3.3), quantiles=True)
    assert [stats.quantile(q) for q in (0.0, 0.25, 0.5, 1.0)] == [3.3] * 4


@pytest.mark.parametrize(("q", "expected"), [(0.25, 1.0), (0.26, 2.0), (0.5, 2.0), (0.75, 4.0), (1.0, 8.0)])
def test_quantile_is_the_first_value_that_reaches_the_share(q: float, expected: float) -> None:
    stats = BranchStats.of(np.array([8.0, 4.0, 2.0, 1.0]), quantiles=True)
    assert stats.quantile(q) == pytest.approx(expected, rel=0.004)


def test_quantiles_that_were_not_asked_for_are_refused() -> None:
    with pytest.raises(SpecsError, match="these specs hold no quantiles"):
        BranchStats.of(np.array([1.0, 2.0])).quantile(0.5)


@pytest.mark.parametrize(("share", "expected"), [(0.0, 0), (0.4, 0), (0.41, 1), (0.9, 1), (0.91, 3), (1.0, 3)])
def test_cap_is_the_smallest_length_that_leaves_the_share_uncut(share: float, expected: int) -> None:
    offsets = np.cumsum([0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 3])
    assert BranchStats.of(np.ones(8), offsets).cap(share) == expected


@given(events_strategy, st.integers(0, 12), st.integers(0, 12))
def test_specs_of_a_slice_are_those_of_its_events(events: list[dict[str, Any]], start: int, length: int) -> None:
    part = pa.RecordBatch.from_pylist(events, SCHEMA).slice(min(start, len(events)), length)
    assert Specs.of(part, NAMES, QUANTILES) == specs_of(events[start : start + length])


def test_buffer_that_does_not_begin_at_its_first_offset() -> None:
    values = np.array([99.0, 1.0, 2.0, 3.0, 99.0])
    stats = BranchStats.of(values, np.array([1, 3, 4]))
    assert (stats.count, stats.minimum, stats.maximum, stats.lengths) == (3, 1.0, 3.0, (0, 1, 1))


def test_branch_that_is_flat_in_one_part_and_jagged_in_another_is_refused() -> None:
    with pytest.raises(SpecsError, match="flat in one part of the input and jagged in another"):
        BranchStats.of(np.ones(2)).merge(BranchStats.of(np.ones(2), np.array([0, 2])))


def test_specs_of_other_branches_do_not_merge() -> None:
    one, two = Specs(1, {"a": BranchStats.of(np.ones(1))}), Specs(1, {"b": BranchStats.of(np.ones(1))})
    with pytest.raises(SpecsError, match="a, b only on one side"):
        one.merge(two)


def test_branch_without_specs_is_named_with_the_nearest() -> None:
    with pytest.raises(BranchNotFoundError, match=r"'Jet_pT' not found in the specs; nearest: Jet_pt"):
        specs_of([])["Jet_pT"]


limb_numbers = st.integers() | st.builds(lambda a, b: a << b, st.integers(), st.integers(0, 4000))


@given(limb_numbers)
def test_limbs_add_up_and_carry_the_sign(number: int) -> None:
    limbs = list(specs_module._limbs(number))  # noqa: SLF001 - the one place where the width matters
    assert sum(limb << (32 * place) for place, limb in limbs) == number
    assert all(0 < abs(limb) < 2**32 and (limb > 0) == (number > 0) for _, limb in limbs)
    places = [place for place, _ in limbs]
    assert places == sorted(set(places))


def test_only_limbs_that_are_not_zero_become_rows() -> None:
    assert list(specs_module._limbs(-(5 << 3200))) == [(100, -5)]  # noqa: SLF001
    assert list(specs_module._limbs(0)) == []  # noqa: SLF001


EVENTS = [
    {"MET": 1.0, "nJet": 2, "Jet_pt": [30.0, 20.0]},
    {"MET": -3.0, "nJet": 0, "Jet_pt": []},
    {"MET": math.nan, "nJet": 1, "Jet_pt": [25.0]},
]


def test_keys_of_mlaas4hep_are_on_top() -> None:
    one, two = specs_of(EVENTS[:1]), specs_of(EVENTS[1:])
    content = json.loads(
        SpecsFile(one.merge(two), {"u1": one, "u2": two}, {"u1": "/data/1.root", "u2": "/data/2.root"}).dumps()
    )
    ours = content.pop("mlaas_spark")
    assert content == {
        "fkeys": ["MET", "nJet"],
        "jkeys": ["Jet_pt"],
        "jdim": {"Jet_pt": 2},
        "minv": {"Jet_pt": 20.0, "MET": -3.0, "nJet": 0.0},
        "maxv": {"Jet_pt": 30.0, "MET": 1.0, "nJet": 2.0},
        "nans": {"Jet_pt": -2.0, "MET": 0.75, "nJet": 0.0},
        "events": {"/data/1.root": 1, "/data/2.root": 2, "total": 3},
    }
    assert ours["version"] == 1
    assert ours["branches"]["MET"]["mean"] == -1.0
    assert sorted(ours["files"]) == ["u1", "u2"]


def test_branch_without_a_finite_value_has_zeros_on_top_and_null_below() -> None:
    content = json.loads(text(specs_of([])))
    assert (content["minv"]["MET"], content["maxv"]["MET"], content["nans"]["MET"]) == (0.0, 0.0, 0.0)
    assert content["mlaas_spark"]["branches"]["MET"]["min"] is None


@given(events_strategy, events_strategy)
def test_specs_file_reads_back(one: list[dict[str, Any]], two: list[dict[str, Any]]) -> None:
    a, b = specs_of(one), specs_of(two)
    made = SpecsFile(a.merge(b), {"u1": a, "u2": b}, {"u1": "/1.root", "u2": "/2.root"}, "digest")
    assert SpecsFile.loads(made.dumps()) == made
    assert SpecsFile.loads(made.dumps()).dumps() == made.dumps()


def test_equal_specs_give_equal_text_whatever_order_branches_came_in() -> None:
    a, b = BranchStats.of(np.array([1.0, 2.0])), BranchStats.of(np.array([3.0]), np.array([0, 1, 1]))
    specs = Specs(2, {"x": a, "y": b})
    assert text(specs) == text(Specs(2, {"y": b, "x": a}))
    one, two = SpecsFile(specs, {"u1": specs, "u2": Specs()}), SpecsFile(specs, {"u2": Specs(), "u1": specs})
    assert one.dumps() == two.dumps()


MLAAS4HEP: dict[str, Any] = {
    "jdim": {"Jet_pt": 5, "Muon_pt": 2},
    "minv": {"MET": 0.5, "nJet": 0, "Jet_pt": 15.0, "Muon_pt": 3.0},
    "maxv": {"MET": 500.5, "nJet": 9, "Jet_pt": 900.0, "Muon_pt": 300.0},
    "fkeys": ["MET", "nJet"],
    "jkeys": ["Jet_pt", "Muon_pt"],
    "nans": {"MET": 0.0, "nJet": 0.0, "Jet_pt": 0.0, "Muon_pt": 0.0},
}


@pytest.mark.parametrize(("events", "total"), [({}, 0), ({"events": {"f.root": 10, "total": 10}}, 10)])
def test_specs_file_of_mlaas4hep_gives_limits_and_dimensions(events: dict[str, Any], total: int) -> None:
    specs = SpecsFile.loads(json.dumps({**MLAAS4HEP, **events})).specs
    assert specs.events == total
    assert specs.flat == ("MET", "nJet")
    assert {name: specs[name].dim for name in specs.jagged} == MLAAS4HEP["jdim"]
    assert {name: (stats.minimum, stats.maximum) for name, stats in specs.branches.items()} == {
        "MET": (0.5, 500.5),
        "nJet": (0.0, 9.0),
        "Jet_pt": (15.0, 900.0),
        "Muon_pt": (3.0, 300.0),
    }
    assert specs["MET"].count == 0


GARBAGE = [
    ("{", "is not JSON"),
    (b"\xff\xfe\x00x", "is not JSON"),
    ("[]", "is no specs file"),
    ("3", "is no specs file"),
    ("null", "is no specs file"),
    ("{}", "is no specs file"),
    ('{"mlaas_spark": 3}', "is no specs file"),
    ('{"mlaas_spark": {"version": 1}}', "is no specs file"),
    (json.dumps({**MLAAS4HEP, "minv": {}}), "is no specs file"),
    (json.dumps({**MLAAS4HEP, "minv": dict.fromkeys(MLAAS4HEP["minv"], "low")}), "is no specs file"),
    (json.dumps({**MLAAS4HEP, "jdim": [1]}), "is no specs file"),
    (json.dumps({**MLAAS4HEP, "fkeys": 7}), "is no specs file"),
]


@pytest.mark.parametrize(("content", "message"), GARBAGE)
def test_what_is_no_specs_file_is_refused_by_name(content: str | bytes, message: str) -> None:
    with pytest.raises(SpecsError, match=rf"^my\.json {message}.*make it with mlaas-spark specs$"):
        SpecsFile.loads(content, "my.json")


def test_version_that_is_not_known_is_refused() -> None:
    content = json.loads(text(specs_of(EVENTS)))
    content["mlaas_spark"]["version"] = 2
    with pytest.raises(SpecsError, match=r"my\.json has version 2, this program reads 1") as caught:
        SpecsFile.from_json(content, "my.json")
    assert not isinstance(caught.value, SpecsMismatchError)
