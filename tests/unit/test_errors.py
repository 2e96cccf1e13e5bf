"""errors: what survives the way from executor to driver, exit codes, and what is near a wrong name."""

from __future__ import annotations

import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlaas_spark import errors
from mlaas_spark.errors import (
    BranchNotFoundError,
    DamagedInputError,
    LockedError,
    MlaasSparkError,
    NoAnswerError,
    ShiftError,
    TreeNotFoundError,
    UnreadableInputError,
    UnwritableOutputError,
    all_kinds,
    from_text,
    hint,
    nearest,
    reason,
    to_text,
)

EXIT_CODES = {
    "MlaasSparkError": 1,
    "ConfigError": 2,
    "UnwritableOutputError": 2,
    "FilesetError": 3,
    "TreeNotFoundError": 3,
    "BranchNotFoundError": 3,
    "UnreadableInputError": 3,
    "DamagedInputError": 3,
    "SkipLimitError": 3,
    "SpecsError": 4,
    "SpecsMismatchError": 4,
    "ChunkError": 4,
    "ConflictError": 4,
    "LockedError": 4,
    "ShiftError": 4,
    "ModelContractError": 5,
    "ExportError": 6,
    "ServingError": 6,
    "NoAnswerError": 6,
}
SPECIAL = [
    TreeNotFoundError("Event", "/data/f.root", ("Events", "Runs")),
    TreeNotFoundError("", "/data/f.root", ("Events", "Runs")),
    TreeNotFoundError("Events", "/data/f.root"),
    BranchNotFoundError("Jet_pT", ["Jet_pt", "MET"], "tree Events of f.root"),
    BranchNotFoundError("Jet_pT"),
    UnreadableInputError("/data/f.root", "cut short", "Events", (0, 25000)),
    UnreadableInputError("/data/f.root", "cut short"),
    DamagedInputError("/data/f.root", "cut short", "Events", (0, 25000)),
    UnwritableOutputError("hdfs://nn:9000/out", "Permission denied: user=bob"),
    LockedError("runs/higgs/lock", "process 12 of bob on node7"),
    ShiftError({"MET_pt": ["PSI 0.31 > 0.2"]}),
    NoAnswerError("http://host:8083", "nobody answers", sent=False, temporary=True),
    NoAnswerError("http://host:8083", "TLS refused", sent=False, temporary=False),
]
ONE_OF_EACH = [
    *SPECIAL,
    *(kind("key 'lable' — nearest: label\nsecond line") for kind in all_kinds() if kind not in map(type, SPECIAL)),
]


def test_exit_codes_are_those_of_the_design() -> None:
    assert {kind.__name__: kind.exit_code for kind in all_kinds()} == EXIT_CODES


def test_one_of_each_class_is_tried_below() -> None:
    assert {type(error).__name__ for error in ONE_OF_EACH} == set(EXIT_CODES)


@pytest.mark.parametrize("error", ONE_OF_EACH, ids=lambda error: type(error).__name__)
def test_every_error_survives_pickle_and_text(error: MlaasSparkError) -> None:
    for copy in (pickle.loads(pickle.dumps(error)), from_text(to_text(error))):  # noqa: S301 - our own bytes
        assert type(copy) is type(error)
        assert str(copy) == str(error)
        assert str(error)
        assert vars(copy) == vars(error)
        assert copy.exit_code == error.exit_code


@given(st.text(), st.text(), st.lists(st.text(), max_size=4))
def test_any_names_survive_the_way_as_text(name: str, path: str, available: list[str]) -> None:
    for error in (TreeNotFoundError(name, path, tuple(available)), BranchNotFoundError(name, available, path)):
        copy = from_text(to_text(error))
        assert (type(copy), str(copy), copy.args) == (type(error), str(error), error.args)


@pytest.mark.parametrize("name", ["OSError", "SystemExit", "nearest", "hint", "json", "__builtins__", "", "object"])
def test_text_cannot_name_anything_but_our_errors(name: str) -> None:
    with pytest.raises(KeyError):
        from_text(json.dumps([name, ["x"]]))


def test_unreadable_input_names_file_tree_and_entries() -> None:
    text = str(UnreadableInputError("root://h//f.root", "cut short", "Events", (0, 25000)))
    assert text == "cannot read root://h//f.root, tree Events, entries [0, 25000): cut short"


def test_tree_not_found_tells_which_trees_there_are() -> None:
    assert "nearest: Events" in str(TreeNotFoundError("Event", "f.root", ("Events", "Meta")))
    assert "several trees (Events, Meta): name one with --tree" in str(
        TreeNotFoundError("", "f.root", ("Events", "Meta"))
    )
    assert "no tree in f.root" in str(TreeNotFoundError("Events", "f.root"))


def test_nearest_ignores_case_and_keeps_the_spelling_of_what_there_is() -> None:
    assert nearest("jet_PT", ["MET", "Jet_pt", "Jet_eta"])[0] == "Jet_pt"
    assert nearest("zzz", ["MET", "Jet_pt"]) == []
    assert nearest("x", []) == []


@given(st.text(max_size=8), st.lists(st.text(max_size=8), max_size=12))
def test_nearest_gives_at_most_three_names_that_there_are(name: str, available: list[str]) -> None:
    found = nearest(name, available)
    assert len(found) <= 3
    assert set(found) <= set(available)
    assert len(set(found)) == len(found)


def test_hint_names_the_nearest_or_else_the_first_few_there_are() -> None:
    assert hint("lable", ["label", "files"]) == "; nearest: label"
    assert hint("qqq", ["b", "a"]) == "; there are: a, b"
    assert hint("qqq", list("gfedcba")) == "; there are: a, b, c, d, e and 2 more"
    assert hint("qqq", []) == ""


def test_reason_is_one_short_line_with_the_kind_of_error() -> None:
    assert reason(ValueError("\n  first \nsecond")) == "ValueError: first"
    assert reason(ValueError()) == "ValueError"
    long = reason(ValueError("x" * 1000))
    assert len(long) == len("ValueError: ") + 300
    assert long.endswith("x…")


def test_module_docstring_shows_every_class_with_its_exit_code() -> None:
    lines = (errors.__doc__ or "").splitlines()
    for name, code in EXIT_CODES.items():
        assert any(name in line.split() and str(code) in line.split() for line in lines), name
