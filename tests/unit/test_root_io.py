"""root_io: small files written by uproot read back as they were; damaged ones raise one kind of error."""

from __future__ import annotations

import re
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import awkward as ak
import numpy as np
import pytest
import uproot

from mlaas_spark import root_io
from mlaas_spark.errors import BranchNotFoundError, TreeNotFoundError, UnreadableInputError
from mlaas_spark.root_io import read_contents, read_header, read_headers, read_ranges
from mlaas_spark.schema import ENTRY, FILE, Branch

if TYPE_CHECKING:
    import pyarrow as pa

    from mlaas_spark.plan import Header

N = 100
BASKETS = (30, 30, 40)


def content() -> dict[str, Any]:
    """Branches of a hundred entries, flat, jagged and of fixed size."""
    rng = np.random.default_rng(4)
    counts = rng.integers(0, 4, N)
    return {
        "MET": rng.normal(50, 9, N).astype(np.float32),
        "run": np.full(N, 297050, np.uint32),
        "event": np.arange(N, dtype=np.int64) + 2**40,
        "good": rng.random(N) < 0.5,
        "cov": rng.normal(size=(N, 3)),
        "Jet_pt": ak.unflatten(rng.exponential(30, counts.sum()).astype(np.float32), counts),
        "Jet_id": ak.unflatten(rng.integers(0, 9, counts.sum()).astype(np.int16), counts),
        "matrix": rng.normal(size=(N, 2, 2)),
    }


CONTENT = content()
READABLE = sorted(CONTENT)


def write_ttree(path: Path, name: str = "Events", branches: dict[str, Any] = CONTENT) -> Path:
    """A TTree with a counter for the jagged branches and a basket for each part."""
    jets = {name: branches[name] for name in branches if name.startswith("Jet_")}
    others = {name: values for name, values in branches.items() if name not in jets}
    with uproot.recreate(path) as file:
        start = 0
        for part, stop in enumerate(np.cumsum(BASKETS)):
            some: dict[str, Any] = {key: values[start:stop] for key, values in others.items()}
            if jets:
                some["Jet"] = ak.zip({key[4:]: values[start:stop] for key, values in jets.items()})
            if part:
                file[name].extend(some)
            else:
                types = {
                    key: values.type if isinstance(values, ak.Array) else np.dtype((values.dtype, values.shape[1:]))
                    for key, values in some.items()
                }
                types = {
                    key: kind.content if isinstance(kind, ak.types.ArrayType) else kind for key, kind in types.items()
                }
                file.mktree(name, types)
                file[name].extend(some)
            start = stop
    return path


@pytest.fixture(scope="module")
def ttree(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file with one TTree."""
    return str(write_ttree(tmp_path_factory.mktemp("ttree") / "f.root"))


@pytest.fixture(scope="module")
def rntuple(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file with one RNTuple of several clusters."""
    path = tmp_path_factory.mktemp("rntuple") / "f.root"
    branches = {name: CONTENT[name] for name in ("MET", "run", "event", "Jet_pt", "Jet_id")}
    with uproot.recreate(path) as file:
        file.mkrntuple("Events", {name: values[: BASKETS[0]] for name, values in branches.items()})
        for start, stop in pairwise(np.cumsum(BASKETS)):
            file["Events"].extend({name: values[start:stop] for name, values in branches.items()})
    return str(path)


def read(path: str, *ranges: tuple[int, int], names: list[str] | None = None) -> list[pa.RecordBatch]:
    header = read_header(path)
    schema = header.schema if names is None else header.schema.keep(names)
    return list(read_ranges(path, header.tree, schema, ranges or [(0, header.entries)], 7, header.uuid))


def expected(name: str, start: int, stop: int) -> list[Any]:
    values: list[Any] = CONTENT[name][start:stop].tolist()
    return values


@pytest.mark.parametrize("kind", ["ttree", "rntuple"])
def test_values_read_back_as_they_were_written(kind: str, request: pytest.FixtureRequest) -> None:
    path = request.getfixturevalue(kind)
    (batch,) = read(path)
    names = set(batch.schema.names) & set(CONTENT)
    assert names == (set(READABLE) if kind == "ttree" else {"MET", "run", "event", "Jet_pt", "Jet_id"})
    for name in names:
        assert batch.column(name).to_pylist() == expected(name, 0, N), name
    assert batch.column(FILE).to_pylist() == [7] * N
    assert batch.column(ENTRY).to_pylist() == list(range(N))


@pytest.mark.parametrize("kind", ["ttree", "rntuple"])
def test_batches_have_the_types_that_the_schema_says(kind: str, request: pytest.FixtureRequest) -> None:
    path = request.getfixturevalue(kind)
    (batch,) = read(path)
    assert batch.schema.equals(read_header(path).schema.arrow())


RANGES = [(0, 30), (29, 61), (5, 6), (30, 60), (60, 100), (99, 100), (0, 100)]


@pytest.mark.parametrize("kind", ["ttree", "rntuple"])
def test_ranges_are_half_open_and_need_not_be_aligned(kind: str, request: pytest.FixtureRequest) -> None:
    batches = read(request.getfixturevalue(kind), *RANGES, names=["Jet_pt", "MET"])
    assert len(batches) == len(RANGES)
    for (start, stop), batch in zip(RANGES, batches, strict=True):
        assert batch.num_rows == stop - start
        assert batch.column("Jet_pt").to_pylist() == expected("Jet_pt", start, stop)
        assert batch.column("MET").to_pylist() == expected("MET", start, stop)
        assert batch.column(ENTRY).to_pylist() == list(range(start, stop))


def test_no_branches_still_give_file_and_entry(ttree: str) -> None:
    (batch,) = read(ttree, (10, 13), names=[])
    assert batch.to_pydict() == {FILE: [7] * 3, ENTRY: [10, 11, 12]}


@pytest.mark.parametrize("kind", ["ttree", "rntuple"])
def test_header_gives_entries_clusters_and_the_uuid(kind: str, request: pytest.FixtureRequest) -> None:
    path = request.getfixturevalue(kind)
    header = read_header(path)
    assert (header.path, header.tree, header.entries) == (path, "Events", N)
    assert header.boundaries == (0, 30, 60, 100)
    with uproot.open(path) as file:
        assert header.uuid == file.file.uuid.hex
    assert re.fullmatch("[0-9a-f]{32}", header.uuid)


def test_schema_of_a_ttree_and_what_is_no_feature(ttree: str) -> None:
    schema = read_header(ttree).schema
    kinds = {branch.name: branch.describes for branch in schema.branches}
    assert kinds == {
        "MET": "float32",
        "run": "uint32",
        "event": "int64",
        "good": "bool",
        "nJet": "int32",
        "cov": "list<float64>",
        "Jet_pt": "list<float32>",
        "Jet_id": "list<int16>",
        "matrix": "list<list<float64>>",
    }
    left_out = schema.features().omitted
    assert [(item.name, item.reason.split(" (")[0]) for item in left_out] == [("matrix", "nested lists")]


def test_text_and_nested_lists_are_read_and_no_features(tmp_path: Path) -> None:
    content = {
        "x": np.arange(3.0),
        "words": ak.Array(["a", "bć", ""]),
        "nested": ak.Array([[[1.0], []], [], [[2.0, 3.0]]]),
        "names": ak.Array([["mu", "e"], [], [""]]),
    }
    with uproot.recreate(tmp_path / "f.root") as file:
        file.mkrntuple("T", content)
    schema = read_header(str(tmp_path / "f.root")).schema
    (batch,) = read_ranges(str(tmp_path / "f.root"), "T", schema, [(0, 3)], 0)
    assert batch.select(schema.names).to_pydict() == {name: list(content[name].tolist()) for name in schema.names}
    assert {branch.name: str(branch.arrow_type) for branch in schema.branches} == {
        "x": "double",
        "words": "string",
        "nested": "list<item: list<item: double>>",
        "names": "list<item: string>",
    }
    assert schema.features().names == ("x",)
    assert {item.name: item.reason.split(" (")[0] for item in schema.features().omitted} == {
        "words": "strings are not numbers",
        "names": "strings are not numbers",
        "nested": "nested lists",
    }


OBJECTS: list[dict[str, Any]] = [
    {"met": {"pt": 1.5, "at": {"run": 7, "bits": [1, 2]}}, "jets": [{"pt": 1.0, "tags": [3]}, {"pt": 2.0, "tags": []}]},
    {"met": {"pt": -2.0, "at": {"run": 8, "bits": []}}, "jets": []},
    {"met": {"pt": 0.0, "at": {"run": 9, "bits": [5]}}, "jets": [{"pt": 4.0, "tags": [6, 7]}]},
]


def test_members_of_objects_of_an_rntuple_are_branches(tmp_path: Path) -> None:
    path = str(tmp_path / "f.root")
    with uproot.recreate(path) as file:
        file.mkrntuple("T", {name: ak.Array([event[name] for event in OBJECTS]) for name in ("met", "jets")})
    schema = read_header(path).schema
    assert {branch.source: branch.describes for branch in schema.branches} == {
        "met.pt": "float64",
        "met.at.run": "int64",
        "met.at.bits": "list<int64>",
        "jets.pt": "list<float64>",
        "jets.tags": "list<list<int64>>",
    }
    assert [omitted.name for omitted in schema.omitted] == ["jets", "met", "met.at"]
    for names in (schema.names, ("jets_tags",), ("met_at_run",)):
        (batch,) = read_ranges(path, "T", schema.keep(names), [(1, 3)], 0)
        expected: dict[str, list[Any]] = {
            "met_pt": [-2.0, 0.0],
            "met_at_run": [8, 9],
            "met_at_bits": [[], [5]],
            "jets_pt": [[], [4.0]],
            "jets_tags": [[], [[6, 7]]],
        }
        assert {name: batch.column(name).to_pylist() for name in names} == {name: expected[name] for name in names}


def test_half_precision_floats_are_read_as_float32_of_equal_value(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # uproot reads such columns (Real16, number 0x0b in RNTuple's format) and writes none of its own accord
    writing = vars(import_module("uproot.writing._cascadentuple"))
    monkeypatch.setitem(writing["_ak_primitive_to_typename_dict"], "float16", "float")
    monkeypatch.setitem(writing["_ak_primitive_to_num_dict"], "float16", 0x0B)
    halves = np.array([1.5, -0.1, 65504, np.inf], np.float16)
    path = str(tmp_path / "f.root")
    with uproot.recreate(path) as file:
        file.mkrntuple("T", {"h": halves, "l": ak.unflatten(halves, [0, 3, 0, 1])})
    schema = read_header(path).schema
    assert [branch.describes for branch in schema.branches] == ["float16", "list<float16>"]
    (batch,) = read_ranges(path, "T", schema, [(0, 4)], 0)
    assert [str(batch.column(name).type) for name in "hl"] == ["float", "list<item: float>"]
    assert batch.column("h").to_pylist() == halves.tolist()
    assert batch.column("l").to_pylist() == [[], halves[:3].tolist(), [], [np.inf]]


def test_second_branch_of_one_name_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "f.root"
    with uproot.recreate(path, compression=None) as file:
        file.mktree("T", {"aa": "f8", "ab": "f4"})
        file["T"].extend({"aa": np.arange(3.0), "ab": np.arange(3, dtype=np.float32)})
    path.write_bytes(path.read_bytes().replace(b"\x02ab", b"\x02aa"))
    with uproot.open(path) as opened:
        assert opened["T"].keys() == ["aa", "aa"]
    schema = read_header(str(path)).schema
    assert schema.names == ("aa",)
    assert [(omitted.name, omitted.reason) for omitted in schema.omitted] == [("aa", "another branch has its name")]
    (batch,) = read_ranges(str(path), "T", schema, [(0, 3)], 0)
    assert batch.column("aa").to_pylist() == [0.0, 1.0, 2.0]


def test_strings_of_a_ttree_are_read(tmp_path: Path) -> None:
    with uproot.recreate(tmp_path / "f.root") as file:
        file.mktree("T", {"x": np.dtype("f8"), "words": "string"})
        file["T"].extend({"x": np.arange(2.0), "words": ["a", "bc"]})
    schema = read_header(str(tmp_path / "f.root")).schema
    (batch,) = read_ranges(str(tmp_path / "f.root"), "T", schema, [(1, 2)], 0)
    assert batch.column("words").to_pylist() == ["bc"]


def test_names_with_dots_read_back_under_their_column_name(tmp_path: Path) -> None:
    with uproot.recreate(tmp_path / "f.root") as file:
        file.mktree("T", {"met.pt": np.dtype("f8")})
        file["T"].extend({"met.pt": np.arange(3.0)})
    path = str(tmp_path / "f.root")
    assert read_header(path).schema.branches == (Branch("met_pt", "met.pt", "float64", jagged=False),)
    (batch,) = read(path)
    assert batch.column("met_pt").to_pylist() == [0.0, 1.0, 2.0]


def test_tree_without_entries_has_a_header(tmp_path: Path) -> None:
    with uproot.recreate(tmp_path / "f.root") as file:
        file.mktree("T", {"x": np.dtype("f8")})
    header = read_header(str(tmp_path / "f.root"))
    assert (header.entries, header.boundaries, header.schema.names) == (0, (0,), ("x",))


@pytest.fixture
def several(tmp_path: Path) -> str:
    """A file with two trees, one in a directory, and a histogram."""
    with uproot.recreate(tmp_path / "several.root") as file:
        file.mktree("Events", {"x": np.dtype("f8")})
        file["Events"].extend({"x": np.arange(3.0)})
        file.mktree("meta/Runs", {"y": np.dtype("i4")})
        file["meta/Runs"].extend({"y": np.arange(2, dtype=np.int32)})
        file["h"] = np.histogram([1.0, 2.0])
    return str(tmp_path / "several.root")


def test_trees_are_listed_with_their_entries(several: str) -> None:
    assert read_contents(several, "meta/Runs").trees == {"Events": 3, "meta/Runs": 2}


def test_size_of_a_branch_is_that_of_its_baskets_as_their_own_keys_have_it(ttree: str) -> None:
    with uproot.open(ttree) as file:
        branches = file["Events"].items()
        expected = {name: sum(b.basket_key(i).fNbytes for i in range(b.num_baskets)) for name, b in branches}
    assert read_contents(ttree, "Events").compressed == expected
    assert {"nJet", *READABLE} == expected.keys()
    assert min(expected.values()) > 100


def test_size_of_a_field_of_an_rntuple_is_that_of_its_pages_with_those_of_its_members(tmp_path: Path) -> None:
    lists = ak.Array([[1.0, 2.0], [], [3.0]])
    fields = {"x": np.arange(3.0), "jagged": lists, "record": ak.zip({"a": lists, "b": lists}, depth_limit=1)}
    with uproot.recreate(tmp_path / "f.root", compression=None) as file:
        file.mkrntuple("Events", fields)
        file["Events"].extend(fields)
    sizes = read_contents(str(tmp_path / "f.root"), "Events").compressed
    # of float64 and of offsets of 8 bytes, twice
    assert sizes == {"x": 48, "jagged": 96, "record": 0, "record.a": 96, "record.b": 96}


def test_one_of_several_trees_must_be_named(several: str) -> None:
    with pytest.raises(TreeNotFoundError, match=r"has several trees \(Events, meta/Runs\): name one with --tree"):
        read_header(several)
    assert read_header(several, "meta/Runs").schema.names == ("y",)


@pytest.mark.parametrize(
    ("glob", "names"),
    [
        ("*", ["Events", "meta/Runs"]),
        ("*/Runs", ["meta/Runs"]),
        ("E*s", ["Events"]),
        ("[EF]vents", ["Events"]),
        ("Events", ["Events"]),
    ],
)
def test_glob_of_trees_gives_each_tree_that_it_matches(several: str, glob: str, names: list[str]) -> None:
    assert read_headers(several, glob) == [read_header(several, name) for name in names]


def test_glob_that_matches_no_tree_says_which_there_are(several: str) -> None:
    with pytest.raises(TreeNotFoundError, match=r"tree 'Runs\*' not found in .*several\.root; .*: .*meta/Runs"):
        read_headers(several, "Runs*")


def test_tree_with_characters_of_a_glob_in_its_name_is_that_tree(tmp_path: Path) -> None:
    with uproot.recreate(tmp_path / "f.root") as file:
        for name in ("T[1]", "T1"):
            file.mktree(name, {"x": np.dtype("f8")})
    assert [header.tree for header in read_headers(str(tmp_path / "f.root"), "T[1]")] == ["T[1]"]


@pytest.mark.parametrize("kind", ["mktree", "mkrntuple"])
def test_newest_of_several_cycles_is_read(tmp_path: Path, kind: str) -> None:
    path = str(tmp_path / "f.root")
    with uproot.recreate(path) as file:
        for values in ([1.0], [2.0, 3.0]):
            getattr(file, kind)("T", {"x": np.array(values)} if kind == "mkrntuple" else {"x": np.dtype("f8")})
            if kind == "mktree":
                file["T"].extend({"x": np.array(values)})
    with uproot.open(path) as file:
        assert set(file.keys()) == {"T;1", "T;2"}
    for header in (read_header(path), *read_headers(path, "*")):
        assert (header.tree, header.entries) == ("T", 2)
        (batch,) = read_ranges(path, header.tree, header.schema, [(0, 2)], 0)
        assert batch.column("x").to_pylist() == [2.0, 3.0]


@pytest.mark.parametrize("name", ["Event", "h", "meta", "runs"])
def test_tree_that_is_not_there_is_named_with_the_nearest(several: str, name: str) -> None:
    with pytest.raises(TreeNotFoundError, match=rf"tree '{name}' not found in .*several\.root; (nearest|there are): "):
        read_header(several, name)


def test_file_without_trees_says_so(tmp_path: Path) -> None:
    with uproot.recreate(tmp_path / "f.root") as file:
        file["h"] = np.histogram([1.0, 2.0])
    with pytest.raises(TreeNotFoundError, match=r"no tree in .*f\.root"):
        read_header(str(tmp_path / "f.root"))


def test_branch_that_the_file_lacks_is_named(ttree: str, several: str) -> None:
    schema = read_header(ttree).schema.keep(["MET"])
    with pytest.raises(BranchNotFoundError, match=r"branch 'MET' not found in tree Events of .*several\.root"):
        list(read_ranges(several, "Events", schema, [(0, 1)], 0))


def test_file_that_was_replaced_since_it_was_planned_is_refused(tmp_path: Path) -> None:
    path = write_ttree(tmp_path / "f.root")
    header = read_header(str(path))
    write_ttree(path)
    with pytest.raises(UnreadableInputError, match=r"tree Events: it was replaced since it was planned \(uuid "):
        list(read_ranges(str(path), "Events", header.schema, [(0, 1)], 0, header.uuid))


def test_tree_that_is_gone_when_entries_are_read_is_unreadable_input(ttree: str) -> None:
    with pytest.raises(UnreadableInputError, match="tree Gone"):
        list(read_ranges(ttree, "Gone", read_header(ttree).schema, [(0, 1)], 0))


COUNTS = np.array([3, 0, 2, 5, 1, 4, 0, 7, 2, 6], np.int32)


@pytest.fixture
def miscounted(tmp_path: Path) -> str:
    """A file without compression whose counter nJet says 9 in entry 7, where there are 7 jets."""
    path = tmp_path / "miscounted.root"
    values = ak.unflatten(np.arange(COUNTS.sum(), dtype=np.float32), COUNTS)
    with uproot.recreate(path, compression=None) as file:
        file.mktree("Events", {"Jet_pt": "var * float32", "MET": "f4"}, counter_name=lambda _: "nJet")
        file["Events"].extend({"Jet_pt": values, "MET": np.zeros(10, np.float32), "nJet": COUNTS})
    right, wrong = COUNTS.astype(">i4"), COUNTS.astype(">i4")
    wrong[7] = 9
    content = path.read_bytes()
    assert content.count(right.tobytes()) == 1
    path.write_bytes(content.replace(right.tobytes(), wrong.tobytes()))
    return str(path)


def test_list_that_has_not_as_many_values_as_its_counter_says_is_refused(miscounted: str) -> None:
    message = (
        rf"cannot read {miscounted}, tree Events, entries \[7, 8\): "
        r"branch 'Jet_pt' has 7 values where its counter 'nJet' says 9; mend it"
    )
    for names in (["Jet_pt", "nJet"], ["Jet_pt"]):
        for ranges in ([(0, 10)], [(0, 5), (5, 10)]):
            with pytest.raises(UnreadableInputError, match=message):
                read(miscounted, *ranges, names=names)


def test_entries_whose_counter_agrees_and_branches_without_one_are_read(miscounted: str) -> None:
    (batch,) = read(miscounted, (0, 7), names=["Jet_pt"])
    assert [len(jets) for jets in batch.column("Jet_pt").to_pylist()] == COUNTS[:7].tolist()
    assert "nJet" not in batch.schema.names
    assert read(miscounted, names=["MET", "nJet"])[0].column("nJet").to_pylist()[7] == 9


NOT_ROOT = [
    (b"", r"the file is empty \(0 bytes\); mend it"),
    (b"x", r"damaged or cut short|is not a ROOT file"),
    (b"PAR1 this is something else altogether" * 50, "it is not a ROOT file; mend it"),
    (b"\x00" * 5000, "it is not a ROOT file; mend it"),
    (b"root", "damaged or cut short"),
    (b"root" + b"\xff" * 5000, "damaged or cut short"),
]


@pytest.mark.parametrize(("raw", "message"), NOT_ROOT)
def test_what_is_no_root_file_is_refused_by_name(tmp_path: Path, raw: bytes, message: str) -> None:
    path = tmp_path / "f.root"
    path.write_bytes(raw)
    for call in (read_header, lambda name: read_contents(name, "Events")):
        with pytest.raises(UnreadableInputError, match=message) as caught:
            call(str(path))
        assert caught.value.path == str(path)


def test_file_that_is_not_there_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UnreadableInputError, match=r"none\.root: no such file"):
        read_header(str(tmp_path / "none.root"))
    with pytest.raises(UnreadableInputError, match="cannot read"):
        read_header(str(tmp_path))


def read_all(path: Path, planned: Header) -> list[pa.RecordBatch]:
    """What a job does: headers on one executor, entries on another."""
    read_header(str(path), planned.tree)
    ranges = [*pairwise(planned.boundaries)]
    return list(read_ranges(str(path), planned.tree, planned.schema, ranges, 7, planned.uuid))


def is_refused(path: Path, planned: Header) -> bool:
    """Whether reading ends in an error of ours, which names the file on one line; any other error is a failure.

    Damage that no checksum covers cannot be seen.
    """
    message, found = "", []
    try:
        found = read_all(path, planned)
    except (UnreadableInputError, TreeNotFoundError, BranchNotFoundError) as error:
        message = str(error)
    if not message:
        assert sum(batch.num_rows for batch in found) == planned.entries
        return False
    assert str(path) in message
    assert "\n" not in message
    return True


@pytest.mark.parametrize("kind", ["ttree", "rntuple"])
def test_file_cut_short_anywhere_is_refused(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    raw = Path(request.getfixturevalue(kind)).read_bytes()
    planned = read_header(request.getfixturevalue(kind))
    path = tmp_path / "cut.root"
    for size in sorted({1, 4, 60, 99, 300, *range(500, len(raw), len(raw) // 20), len(raw) // 2, len(raw) - 1}):
        path.write_bytes(raw[:size])
        refused = is_refused(path, planned)
        assert refused or size > 0.9 * len(raw), f"cut to {size} of {len(raw)} bytes and nothing was said"


@pytest.mark.parametrize("kind", ["ttree", "rntuple"])
@pytest.mark.parametrize("filler", [0, 255])
def test_damage_in_the_middle_raises_no_other_error(
    kind: str, filler: int, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    raw = Path(request.getfixturevalue(kind)).read_bytes()
    planned = read_header(request.getfixturevalue(kind))
    path, length, refused = tmp_path / "damaged.root", 64, 0
    places = range(0, len(raw) - length, max(length, len(raw) // 40))
    for place in places:
        path.write_bytes(raw[:place] + bytes([filler]) * length + raw[place + length :])
        refused += is_refused(path, planned)
    assert refused > len(places) // 4


def test_zeroed_basket_is_refused_with_file_tree_and_entries(tmp_path: Path) -> None:
    # compressed, so that damage cannot pass for values
    path = tmp_path / "f.root"
    values = np.random.default_rng(1).integers(0, 9, 20_000)
    with uproot.recreate(path, compression=uproot.ZLIB(1)) as file:
        file.mktree("T", {"x": np.dtype("i8")})
        for part in np.split(values, 2):
            file["T"].extend({"x": part})
    header = read_header(str(path))
    raw = bytearray(path.read_bytes())
    with uproot.open(path) as file:
        second = int(file["T"]["x"].member("fBasketSeek")[1])
    raw[second + 100 : second + 1100] = bytes(1000)
    path.write_bytes(raw)
    batches = read_ranges(str(path), "T", header.schema, [(0, 10_000), (10_000, 20_000)], 0)
    assert next(batches).column("x").to_pylist() == values[:10_000].tolist()
    with pytest.raises(
        UnreadableInputError, match=r"f\.root, tree T, entries \[10000, 20000\): it is damaged"
    ) as caught:
        next(batches)
    assert caught.value.entries == (10_000, 20_000)


@pytest.mark.parametrize("kind", [StopIteration, UnboundLocalError, ZeroDivisionError, RecursionError, AssertionError])
def test_whatever_the_layer_below_raises_becomes_unreadable_input(
    ttree: str, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    """All of these come out of uproot on damaged files."""
    header = read_header(ttree)

    def broken(*_args: Any, **_options: Any) -> None:
        raise kind

    monkeypatch.setattr("uproot.behaviors.TBranch.HasBranches.arrays", broken)
    with pytest.raises(
        UnreadableInputError, match=rf"entries \[0, 5\): it is damaged or cut short \({kind.__name__}\)"
    ):
        list(read_ranges(ttree, "Events", header.schema, [(0, 5)], 0))


@pytest.mark.real_data
def test_split_members_of_real_files_are_read_and_text_is_no_feature(data_folder: Path) -> None:
    header = read_header(str(data_folder / "uproot-Zmumu.root"))
    assert header.entries == 2304
    left_out = header.schema.features().omitted
    assert [(item.name, item.reason) for item in left_out] == [("Type", "strings are not numbers")]
    with uproot.open(data_folder / "uproot-Zmumu.root") as file:
        plain = file["events"].arrays(header.schema.features().names, library="np", entry_start=100, entry_stop=900)
    (batch,) = read(str(data_folder / "uproot-Zmumu.root"), (100, 900))
    for name, values in plain.items():
        np.testing.assert_array_equal(batch.column(name).to_numpy(), values)


@pytest.mark.parametrize(
    ("offsets", "says"),
    [([0, 2, 3], r"\[0, 3\)"), ([-430_948_243, 0, 1], r"\[-430948243, 1\)"), ([1, 3, 0], r"\[1, 0\)")],
)
def test_a_basket_with_other_values_than_its_counters_say_is_refused(offsets: list[int], says: str) -> None:
    lists = root_io._Lists(uproot.AsDtype(">f4"))  # noqa: SLF001 - no file that uproot writes is so
    basket = SimpleNamespace(offsets=np.array(offsets, np.int32), content=np.ones(1, ">f4"))
    with pytest.raises(ValueError, match=f"1 values where its offsets or counters say {says}"):
        lists.final_array({0: basket}, 0, 2, [0, 2])


def test_of_what_a_file_says_and_has_not_nothing_is_read(tmp_path: Path) -> None:
    place = tmp_path / "short.root"
    place.write_bytes(bytes(range(100)))
    with root_io._LocalReads(str(place), use_threads=True, num_workers=1) as source:  # noqa: SLF001 - as uproot opens it
        read = [source.chunk(start, stop)._future.result() for start, stop in [(90, 1 << 45), (200, 1 << 45), (0, 3)]]  # noqa: SLF001
    assert read == [bytes(range(90, 100)), b"", bytes(range(3))]


def test_a_branch_whose_name_is_not_utf_8_is_left_out(tmp_path: Path) -> None:
    place = tmp_path / "latin.root"
    with uproot.recreate(place, compression=None) as file:
        file.mktree("Events", {"energie_in_e": "f4", "y": "f4"})
        file["Events"].extend({"energie_in_e": np.ones(3, "f4"), "y": np.ones(3, "f4")})
    place.write_bytes(place.read_bytes().replace(b"energie_in_e", b"\xe9nergie_in_\xff"))
    schema = read_header(str(place)).schema
    assert schema.names == ("y",)
    assert [(item.name, item.reason) for item in schema.omitted] == [(r"\xe9nergie_in_\xff", "its name is not UTF-8")]


def test_fields_of_an_rntuple_are_those_that_uproot_finds(tmp_path: Path) -> None:
    path, jets = (
        tmp_path / "nested.root",
        ak.Array([[{"pt": 1.0, "of": {"eta": 2.0}}], [], [{"pt": 3.0, "of": {"eta": 4.0}}]]),
    )
    with uproot.recreate(path) as file:
        file.mkrntuple("Events", {"x": np.arange(3.0), "Jet": jets, "lists": ak.Array([[[1, 2]], [], [[], [3]]])})

    def found(fields: Any, node: Any) -> list[Any]:
        return [(field.path, found(fields, field)) for field in fields(node)]

    ours = type(uproot.open(path)["Events"]).fields.fget
    with uproot.open(path) as quick, uproot.open(path) as plain:
        assert found(ours, quick["Events"]) == found(ours.__wrapped__, plain["Events"])
        assert quick["Events"].keys() == plain["Events"].keys()
        assert len(found(ours, quick["Events"])) == 3
