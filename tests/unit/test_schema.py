"""schema: column names, what is selected and left out, and the buffers of Arrow columns against to_pylist."""

from __future__ import annotations

import hashlib
import json
import math
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlaas_spark.errors import BranchNotFoundError, ConfigError, SpecsError
from mlaas_spark.schema import (
    ENTRY,
    EXCLUDED,
    FILE,
    NO_VALUE,
    NUMERIC,
    Branch,
    EventSchema,
    Omitted,
    buffers,
    codes,
    column_name,
    common,
)


def flat(name: str, dtype: str = "float32", source: str | None = None) -> Branch:
    return Branch(column_name(name), source or name, dtype, jagged=False)


def jagged(name: str, dtype: str = "float32") -> Branch:
    return Branch(column_name(name), name, dtype, jagged=True)


SCHEMA = EventSchema.of(
    [jagged("Jet.pt"), flat("MET/pt"), flat("MET_phi"), jagged("Jet.eta"), flat("nJet", "uint32")],
    [Omitted("Type", "strings are not numbers")],
)


def test_column_names_have_no_dots_and_slashes() -> None:
    assert column_name("a.b/c.d") == "a_b_c_d"
    assert column_name("Jet_pt[4]") == "Jet_pt[4]"


def test_branches_are_sorted_by_column_name() -> None:
    assert SCHEMA.names == ("Jet_eta", "Jet_pt", "MET_phi", "MET_pt", "nJet")
    assert SCHEMA.flat == ("MET_phi", "MET_pt", "nJet")
    assert SCHEMA.jagged == ("Jet_eta", "Jet_pt")


def test_second_branch_of_one_column_name_is_left_out_by_name() -> None:
    for order in ([0, 1, 2], [2, 1, 0]):
        all_three = [flat("a.b", "int32"), flat("a/b"), flat("c")]
        schema = EventSchema.of(all_three[index] for index in order)
        assert [branch.source for branch in schema.branches] == ["a.b", "c"]
        assert schema.omitted == (Omitted("a/b", "its column name 'a_b' is taken by 'a.b'"),)


def test_branch_by_name_and_the_nearest_for_a_name_there_is_not() -> None:
    assert SCHEMA["Jet_pt"] == jagged("Jet.pt")
    assert "Jet_pt" in SCHEMA
    assert "Jet.pt" not in SCHEMA
    with pytest.raises(BranchNotFoundError, match=r"'Jet_pT' not found in the schema; nearest: Jet_pt"):
        SCHEMA["Jet_pT"]


SELECTED = [
    ([], [], ["Jet_eta", "Jet_pt", "MET_phi", "MET_pt", "nJet"]),
    (["*"], [], ["Jet_eta", "Jet_pt", "MET_phi", "MET_pt", "nJet"]),
    (["Jet_*", "nJet"], [], ["Jet_eta", "Jet_pt", "nJet"]),
    (["Jet.pt"], [], ["Jet_pt"]),
    (["M?T_p*"], ["MET_phi"], ["MET_pt"]),
    ([], ["Jet.*", "MET/pt"], ["MET_phi", "nJet"]),
    ([], ["*"], []),
    (["Type", "nJet"], [], ["nJet"]),
    ([], ["Type"], ["Jet_eta", "Jet_pt", "MET_phi", "MET_pt", "nJet"]),
]


@pytest.mark.parametrize(("branches", "exclude", "expected"), SELECTED)
def test_globs_select_and_exclude_by_column_name_or_name_in_the_file(
    branches: list[str], exclude: list[str], expected: list[str]
) -> None:
    chosen = SCHEMA.select(branches, exclude)
    assert list(chosen.names) == expected
    left_out = {omitted.name for omitted in chosen.omitted if "excluded" in omitted.reason}
    assert left_out == set(SCHEMA.names) - set(expected)
    assert Omitted("Type", "strings are not numbers") in chosen.omitted


@pytest.mark.parametrize(("branches", "exclude"), [(["Jet_pT"], []), (["Mu*"], []), ([], ["Jet_pT"])])
def test_pattern_that_matches_nothing_is_refused(branches: list[str], exclude: list[str]) -> None:
    with pytest.raises(BranchNotFoundError, match=r"not found in tree T of f\.root"):
        SCHEMA.select(branches, exclude, where="tree T of f.root")


def test_name_with_brackets_selects_itself() -> None:
    schema = EventSchema.of([flat("m[4]"), flat("m4")])
    assert schema.select(["m[4]"]).names == ("m4", "m[4]")
    assert EventSchema.of([flat("m[4][4]")]).select(["m[4][4]"]).names == ("m[4][4]",)


def test_keep_drops_the_others_without_listing_them() -> None:
    assert SCHEMA.keep(["nJet", "Jet_pt", "none"]) == EventSchema(
        (jagged("Jet.pt"), flat("nJet", "uint32")), SCHEMA.omitted
    )


@pytest.mark.parametrize("dtype", NUMERIC)
def test_arrow_types_are_those_of_numpy_but_for_half_precision(dtype: str) -> None:
    expected = pa.float32() if dtype == "float16" else pa.array(np.zeros(1, dtype)).type
    assert flat("x", dtype).arrow_type == expected
    assert jagged("x", dtype).arrow_type == pa.list_(expected)


def test_types_that_are_neither_numbers_nor_text_are_refused() -> None:
    for dtype in ("object", "str", "datetime64[ns]", "complex64"):
        with pytest.raises(SpecsError, match="not a type that branches have"):
            flat("x", dtype)


def test_arrow_schema_ends_with_file_and_entry() -> None:
    schema = SCHEMA.keep(["Jet_pt", "nJet"]).arrow()
    assert schema.names == ["Jet_pt", "nJet", FILE, ENTRY]
    assert schema.types == [pa.list_(pa.float32()), pa.uint32(), pa.int32(), pa.int64()]


def test_schema_reads_back_from_json() -> None:
    again = EventSchema.from_json(json.loads(json.dumps(SCHEMA.to_json())))
    assert again == SCHEMA
    assert again.digest() == SCHEMA.digest()


def test_digest_sees_names_and_types_and_not_what_is_left_out() -> None:
    digests = {
        EventSchema.of(branches).digest()
        for branches in ([flat("a")], [flat("b")], [jagged("a")], [flat("a", "float64")], [flat("a"), flat("b")])
    }
    assert len(digests) == 5
    assert EventSchema.of([flat("a")], [Omitted("s", "strings")]).digest() in digests


def test_common_schema_of_equal_files_lists_what_any_left_out() -> None:
    one = EventSchema.of([flat("a")], [Omitted("s", "strings")])
    two = EventSchema.of([flat("a")], [Omitted("s", "strings"), Omitted("t", "objects")])
    assert common([("1.root", one), ("2.root", two)]) == EventSchema.of(
        [flat("a")], [Omitted("s", "strings"), Omitted("t", "objects")]
    )


def test_branch_that_one_file_lacks_is_refused_naming_both_files() -> None:
    one, two = EventSchema.of([flat("a"), flat("b")]), EventSchema.of([flat("a")])
    message = r"branch 'b' is in 1\.root but not in 2\.root: leave it out with --exclude b"
    with pytest.raises(SpecsError, match=message):
        common([("1.root", one), ("3.root", one), ("2.root", two)])
    with pytest.raises(SpecsError, match=message):
        common([("2.root", two), ("1.root", one)])


@pytest.mark.parametrize(("other", "described"), [(flat("a", "float64"), "float64"), (jagged("a"), "list<float32>")])
def test_branch_of_two_types_is_refused_naming_both_files(other: Branch, described: str) -> None:
    with pytest.raises(SpecsError) as caught:
        common([("1.root", EventSchema.of([flat("a")])), ("2.root", EventSchema.of([other]))])
    assert f"branch 'a' is float32 in 1.root but {described} in 2.root" in str(caught.value)


# --- categories -------------------------------------------------------------------------------------------------------

CHANNELS = {"ee": 0, "mumu": 1, "": 7}


@given(st.data())
def test_text_becomes_the_number_of_its_category_and_what_is_missing_stays_missing(data: st.DataObject) -> None:
    texts = st.none() | st.sampled_from(sorted(CHANNELS))
    is_jagged = data.draw(st.booleans())
    values = data.draw(st.lists(st.none() | st.lists(texts, max_size=3) if is_jagged else texts, max_size=8))
    branch = Branch("c", "c", "string", is_jagged).categorised(CHANNELS)
    column = pa.array(values, branch.stored.arrow_type)
    start = data.draw(st.integers(0, len(values)))
    found = codes(column.slice(start), branch)
    assert isinstance(found, pa.Array)
    assert found.type == branch.arrow_type
    numbers: dict[Any, Any] = {None: None, **CHANNELS}
    assert found.to_pylist() == [
        (None if value is None else [numbers[text] for text in value]) if is_jagged else numbers[value]
        for value in values[start:]
    ]


@pytest.mark.parametrize(
    ("values", "expected"),
    [(["ee", None, "tau", "e"], ("tau", 2)), ([["ee"], None, [], [None, "mumu", "tau"], ["e"]], ("tau", 3))],
)
def test_text_that_is_no_category_is_told_with_its_place(values: list[Any], expected: tuple[str, int]) -> None:
    branch = Branch("c", "c", "string", isinstance(values[0], list)).categorised(CHANNELS)
    assert codes(pa.array(values).slice(1), branch) == (expected[0], expected[1] - 1)


def test_categories_are_whole_numbers_if_all_are_and_text_in_the_file() -> None:
    schema = EventSchema.of([flat("c", "string"), jagged("l", "string"), flat("x")])
    made = schema.categorised({"c": CHANNELS, "l": {"a": 0.5, "b": 1}})
    assert [(b.name, b.describes) for b in made.branches] == [("c", "int64"), ("l", "list<float64>"), ("x", "float32")]
    assert made.features().branches == made.branches
    assert made.stored() == schema
    assert made.digest() != schema.categorised({"c": {**CHANNELS, "ee": 5}, "l": {"a": 0.5, "b": 1}}).digest()
    assert EventSchema.from_json(json.loads(json.dumps(made.to_json()))) == made
    with pytest.raises(ConfigError, match="categories are for text, and branch 'x' is float32"):
        schema.categorised({"x": CHANNELS})


def test_schema_without_categories_has_the_digest_that_it_had_before_there_were_any() -> None:
    content = [{"name": "a_b", "source": "a.b", "dtype": "float32", "jagged": False}]
    assert EventSchema.of([flat("a.b")]).digest() == hashlib.sha256(json.dumps(content).encode()).hexdigest()


def test_name_of_what_is_left_out_is_refused_with_the_reason_and_a_glob_is_not() -> None:
    schema = EventSchema.of([flat("x")], [Omitted("in.t", "strings are not numbers"), Omitted("y", EXCLUDED)])
    schema.refuse_omitted(["in*", "x", "y"])
    for name in ("in.t", "in_t"):
        with pytest.raises(
            ConfigError, match=r"'in\.t' of f\.json cannot be read as a feature: strings are not numbers"
        ):
            schema.refuse_omitted(["x", name], "f.json")


def test_what_one_file_has_as_a_number_and_another_as_something_else_is_no_missing_branch() -> None:
    one = EventSchema.of([flat("a")])
    for reason, is_filled in (("strings are not numbers", False), (NO_VALUE, True)):
        schemas = [("1.root", one), ("2.root", EventSchema.of([], [Omitted("a", reason)]))]
        with pytest.raises(SpecsError, match=rf"'a' is in 1\.root but not in 2\.root \({reason}\)"):
            common(schemas)
        if is_filled:
            assert common(schemas, "fill").names == ("a",)
        else:
            with pytest.raises(SpecsError, match=reason):
                common(schemas, "fill")


VALUES = {
    "float32": st.floats(width=32, allow_nan=False),
    "float64": st.floats(allow_nan=False),
    "int64": st.integers(-(2**53), 2**53),
    "uint8": st.integers(0, 255),
    "bool": st.booleans(),
}


def missing_as_nan(values: list[Any]) -> list[float]:
    return [math.nan if value is None else float(value) for value in values]


@given(st.data())
def test_buffers_of_flat_columns_are_their_values_with_nan_for_null(data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from(sorted(VALUES)))
    values = data.draw(st.lists(st.none() | VALUES[dtype], max_size=8))
    column = pa.array(values, flat("x", dtype).arrow_type)
    start = data.draw(st.integers(0, len(values)))
    found, offsets = buffers(column.slice(start))
    assert offsets is None
    np.testing.assert_array_equal(found.astype(np.float64), missing_as_nan(values[start:]))


@given(st.data())
def test_buffers_of_jagged_columns_are_their_lists_with_empty_for_null(data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from(sorted(VALUES)))
    lists = data.draw(st.lists(st.none() | st.lists(st.none() | VALUES[dtype], max_size=3), max_size=8))
    column = pa.array(lists, jagged("x", dtype).arrow_type)
    start = data.draw(st.integers(0, len(lists)))
    length = data.draw(st.integers(0, len(lists) - start))
    part = column.slice(start, length)
    found, offsets = buffers(part)
    assert offsets is not None
    assert len(offsets) == length + 1
    for event, expected in enumerate(part.to_pylist()):
        here = found[offsets[event] : offsets[event + 1]].astype(np.float64)
        np.testing.assert_array_equal(here, missing_as_nan(expected or []))


def test_buffers_without_nulls_keep_the_type_and_copy_nothing() -> None:
    numbers = np.arange(6, dtype=np.int64) + 2**60
    column = pa.ListArray.from_arrays(pa.array([0, 2, 6], pa.int32()), pa.array(numbers))
    found, offsets = buffers(column.slice(1))
    assert found.dtype == np.int64
    assert np.shares_memory(found, numbers)
    assert offsets is not None
    assert offsets.tolist() == [2, 6]


def test_values_behind_a_missing_list_are_not_given() -> None:
    # Arrow lets a null list cover values; they are not part of the column
    whole = pa.array([[1.0], [2.0, 3.0], [4.0]])
    validity = pa.py_buffer(bytes([0b101]))
    column = pa.Array.from_buffers(whole.type, 3, [validity, whole.buffers()[1]], children=[whole.values])
    assert column.to_pylist() == [[1.0], None, [4.0]]
    found, offsets = buffers(column)
    assert offsets is not None
    assert [found[a:b].tolist() for a, b in pairwise(offsets)] == [[1.0], [], [4.0]]


def test_float16_columns_may_hold_nulls() -> None:
    found, _ = buffers(pa.array([np.float16(1.5), None], pa.float16()))
    np.testing.assert_array_equal(found, [1.5, math.nan])


UNLIKE = [
    ("1.root", EventSchema.of([flat("a"), flat("b"), flat("t")], [Omitted("s", "strings")])),
    ("2.root", EventSchema.of([flat("a"), jagged("c"), flat("t", "float64")])),
]


def test_intersect_takes_what_all_files_have_and_lists_the_others() -> None:
    assert common(UNLIKE, "intersect") == EventSchema.of(
        [flat("a")],
        [
            Omitted("s", "strings"),
            Omitted("b", "is in 1.root but not in 2.root"),
            Omitted("c", "is in 2.root but not in 1.root"),
            Omitted("t", "is float32 in 1.root but float64 in 2.root"),
        ],
    )


def test_fill_takes_what_any_file_has_and_refuses_a_changed_type() -> None:
    alike = [(path, schema.keep({"a", "b", "c"})) for path, schema in UNLIKE]
    assert common(alike, "fill").branches == (flat("a"), flat("b"), jagged("c"))
    with pytest.raises(SpecsError, match=r"branch 't' is float32 in 1\.root but float64 in 2\.root"):
        common(UNLIKE, "fill")
