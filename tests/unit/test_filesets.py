"""fileset: which files a config names, in which order, and what is near a wrong name."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mlaas_spark.config import InputConfig, resolve
from mlaas_spark.errors import FilesetError
from mlaas_spark.filesets import InputFile, fileset, format_of, read_list, split_tree
from mlaas_spark.formats import Format

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def files_of(**options: Any) -> tuple[InputFile, ...]:
    return fileset(resolve({"input": options}).input)


def paths_of(**options: Any) -> list[str]:
    return [file.path for file in files_of(**options)]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with some files."""
    for name in ("b2.root", "a10.root", "a2.root", "notes.md", "sub/c.root", "t.csv", "t.json.gz", "t.parquet"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_files_keep_the_order_in_which_they_are_named(here: Path) -> None:
    assert paths_of(files=["b2.root", "sub/c.root", str(here / "a2.root")]) == [
        f"{here}/b2.root",
        f"{here}/sub/c.root",
        f"{here}/a2.root",
    ]


def test_globs_are_expanded_in_sorted_order(here: Path) -> None:
    assert paths_of(files=["sub/*.root", "*.root"]) == [
        f"{here}/sub/c.root",
        f"{here}/a10.root",
        f"{here}/a2.root",
        f"{here}/b2.root",
    ]


def test_name_with_brackets_is_the_file_of_that_name_if_there_is_one(here: Path) -> None:
    (here / "x[1].root").touch()
    (here / "x1.root").touch()
    assert paths_of(files="x[1].root") == [f"{here}/x[1].root"]
    assert paths_of(files="a[0-9].root") == [f"{here}/a2.root"]


def test_tree_after_a_colon_wins_over_the_config(here: Path) -> None:
    assert [(file.path, file.tree) for file in files_of(files=["a*.root:Events", "b2.root"], tree="T")] == [
        (f"{here}/a10.root", "Events"),
        (f"{here}/a2.root", "Events"),
        (f"{here}/b2.root", "T"),
    ]


SPLITS = [
    ("f.root:Events", ("f.root", "Events")),
    ("f.root:dir/Events", ("f.root", "dir/Events")),
    ("F.ROOT:T", ("F.ROOT", "T")),
    ("f.root", ("f.root", None)),
    ("f.root:", ("f.root:", None)),
    ("root://host:1094//data/f.root", ("root://host:1094//data/f.root", None)),
    ("root://host//data/f.root:Events", ("root://host//data/f.root", "Events")),
    ("root://host//data/*.root:Events", ("root://host//data/*.root", "Events")),
    ("data:x.csv", ("data:x.csv", None)),
    ("my.root://host/f", ("my.root://host/f", None)),
]


@pytest.mark.parametrize(("name", "expected"), SPLITS)
def test_split_tree_takes_what_follows_root_and_a_colon(name: str, expected: tuple[str, str | None]) -> None:
    assert split_tree(name) == expected


@given(
    st.from_regex(r"[a-z/]{1,9}\.root", fullmatch=True), st.from_regex(r"[A-Za-z_][A-Za-z_/0-9]{0,9}", fullmatch=True)
)
def test_split_tree_gives_back_path_and_tree(path: str, tree: str) -> None:
    assert split_tree(f"{path}:{tree}") == (path, tree)
    assert split_tree(f"root://host:1094/{path}:{tree}") == (f"root://host:1094/{path}", tree)


def test_remote_files_are_taken_as_named_and_not_looked_up() -> None:
    url = "root://no.such.host.invalid:1094//store/f.root"
    assert files_of(files=f"{url}:Events") == (InputFile(url, Format.ROOT, "Events"),)


def test_redirector_goes_before_logical_names_and_never_before_what_is_here(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = {"/store", "/store/here.root", "/data", f"{here}/b2.root", "/data/x.root"}
    monkeypatch.setattr("mlaas_spark.filesets.Path.exists", lambda self: str(self) in there)
    files = ["/store/far.root:Events", "/store/here.root", "/eos/y.root", "/data/x.root", "b2.root", "root://h//z.root"]
    found = files_of(files=files, redirector="root://host.example.org:1095/")
    assert [file.path for file in found] == [
        "root://host.example.org:1095//store/far.root",
        "/store/here.root",
        "root://host.example.org:1095//eos/y.root",
        "/data/x.root",
        f"{here}/b2.root",
        "root://h//z.root",
    ]
    assert found[0].tree == "Events"


def test_misspelt_local_file_is_not_looked_for_at_the_redirector(here: Path) -> None:
    with pytest.raises(FilesetError, match=r"no such file: .*/b3.root; nearest: b2.root"):
        files_of(files=[f"{here}/b3.root"], redirector="root://host.example.org")


def test_glob_of_local_files_has_no_redirector(here: Path) -> None:
    paths = paths_of(files=[f"{here}/a*.root"], redirector="root://host.example.org")
    assert paths == [f"{here}/a10.root", f"{here}/a2.root"]


def test_list_in_a_text_file_is_read_without_comments_and_blanks(here: Path) -> None:
    (here / "files.txt").write_text("# signal\n\n  a2.root:T  \n\t# a10.root\nsub/*.root\nroot://host//f.root\n")
    assert [(file.path, file.tree) for file in files_of(files=["files.txt", "b2.root"])] == [
        (f"{here}/a2.root", "T"),
        (f"{here}/sub/c.root", None),
        ("root://host//f.root", None),
        (f"{here}/b2.root", None),
    ]


def test_list_that_names_nothing_or_is_not_there_is_refused(here: Path) -> None:
    (here / "empty.txt").write_text("# nothing\n\n")
    with pytest.raises(FilesetError, match=r"the list empty\.txt names nothing"):
        files_of(files="empty.txt")
    with pytest.raises(FilesetError, match=r"cannot read the list none\.txt: No such file"):
        files_of(files="none.txt")
    (here / "binary.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(FilesetError, match="it is not UTF-8 text"):
        read_list(here / "binary.txt")


def test_groups_give_their_files_label_weight_and_name(here: Path) -> None:
    groups = [
        {"name": "signal", "files": ["a*.root"], "label": 1, "weight": 0.5},
        {"files": "b2.root", "label": 0},
    ]
    assert files_of(groups=groups) == (
        InputFile(f"{here}/a10.root", Format.ROOT, None, 1.0, 0.5, "signal"),
        InputFile(f"{here}/a2.root", Format.ROOT, None, 1.0, 0.5, "signal"),
        InputFile(f"{here}/b2.root", Format.ROOT, None, 0.0, 1.0, "group1"),
    )


@pytest.mark.usefixtures("here")
def test_file_in_two_groups_is_refused() -> None:
    with pytest.raises(FilesetError, match=r"a2\.root is named twice: its events would count twice"):
        files_of(groups=[{"files": "a2.root", "label": 1}, {"files": "a*.root", "label": 0}])


@pytest.mark.usefixtures("here")
def test_file_named_twice_is_refused_however_it_is_written() -> None:
    for other in ("a2.root", "./a2.root", "*2.root", "sub/../a2.root"):
        with pytest.raises(FilesetError, match=r"a2\.root is named twice"):
            files_of(files=["a2.root", other])


def test_two_trees_of_one_file_are_two_inputs(here: Path) -> None:
    assert [(file.path, file.tree) for file in files_of(files=["a2.root:A", "a2.root:B"])] == [
        (f"{here}/a2.root", "A"),
        (f"{here}/a2.root", "B"),
    ]


@pytest.mark.usefixtures("here")
def test_missing_file_is_named_with_the_nearest_ones() -> None:
    with pytest.raises(FilesetError, match=r"no such file: .*/a3\.root; nearest: .*a2\.root"):
        files_of(files="a3.root")
    with pytest.raises(FilesetError, match=r"no such file: .*/nowhere/a3\.root$"):
        files_of(files="nowhere/a3.root")


@pytest.mark.usefixtures("here")
def test_glob_that_matches_nothing_is_refused() -> None:
    with pytest.raises(FilesetError, match=r"no file matches .*/z\*\.root"):
        files_of(files=["a2.root", "z*.root"])


@pytest.mark.usefixtures("here")
def test_a_folder_is_all_data_files_below_it(here: Path) -> None:
    for name in ("sub/deep/d.root", "sub/_staging/x.root", "sub/.hidden.root", "sub/notes.md"):
        (here / name).parent.mkdir(exist_ok=True)
        (here / name).touch()
    assert paths_of(files="sub") == [f"{here}/sub/c.root", f"{here}/sub/deep/d.root"]


def test_a_folder_of_ours_is_what_its_manifest_lists(here: Path) -> None:
    (here / "set.parquet").mkdir()
    for name in ("a.parquet", "b.parquet", "left_over.parquet"):
        (here / "set.parquet" / name).touch()
    listed = json.dumps({"files": [{"path": "b.parquet"}, {"path": "a.parquet"}]})
    (here / "set.parquet" / "manifest.json").write_text(listed)
    assert paths_of(files="set.parquet") == [f"{here}/set.parquet/a.parquet", f"{here}/set.parquet/b.parquet"]


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"files": [{"name": "a.parquet"}]}', '{"files": [{"path": "../b2.root"}]}']
)
def test_a_folder_whose_manifest_is_none_is_refused(here: Path, content: str) -> None:
    (here / "sub" / "manifest.json").write_text(content)
    with pytest.raises(FilesetError, match=r"sub/manifest\.json does not list the files of a data set"):
        files_of(files="sub")


def test_a_folder_without_data_files_is_refused_with_the_kinds_there_are(here: Path) -> None:
    (here / "empty").mkdir()
    with pytest.raises(FilesetError, match=r"empty is a folder with no data file in it \(\.root, \.parquet, "):
        files_of(files="empty")


COFFEA = {
    "signal": {
        "files": {"a2.root": "Events", "b2.root": {"object_path": "T"}},
        "metadata": {"label": 1, "weight": 0.5},
    },
    "data": ["a10.root"],
    "background": {
        "files": {
            "sub/c.root": {
                "object_path": "Events",
                "steps": [[0, 10], [10, 25]],
                "num_entries": 25,
                "uuid": "AAAAAAAA-1111-2222-3333-444444444444",
            }
        },
        "form": None,
        "metadata": {"label": 0},
    },
}


@pytest.mark.parametrize("write", [json.dumps, yaml.safe_dump], ids=["json", "yaml"])
def test_coffeas_fileset_gives_groups_labels_trees_and_steps(here: Path, write: Callable[[object], str]) -> None:
    (here / "fileset").write_text(write(COFFEA))
    found = {file.path.removeprefix(f"{here}/"): file for file in files_of(fileset="fileset", tree="Other")}
    expected = [
        InputFile(f"{here}/a2.root", Format.ROOT, "Events", 1.0, 0.5, "signal"),
        InputFile(f"{here}/b2.root", Format.ROOT, "T", 1.0, 0.5, "signal"),
        InputFile(f"{here}/a10.root", Format.ROOT, "Other", None, 1.0, "data"),
        InputFile(
            f"{here}/sub/c.root",
            Format.ROOT,
            "Events",
            0.0,
            1.0,
            "background",
            ((0, 10), (10, 25)),
            "aaaaaaaa111122223333444444444444",
        ),
    ]
    assert sorted(found.values(), key=str) == sorted(expected, key=str)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is no fileset"),
        ("[1]", "is no fileset"),
        ('{"a": {"file": ["x.root"]}}', r"is no fileset \(see .*'a'"),
        ('{"a": {"files": {"x.root": {"steps": [[1]]}}}}', r"is no fileset \(see .*'a'"),
        ('{"a": ["x.root"]}', r"no such file: .*x\.root"),
    ],
)
def test_what_is_no_fileset_is_refused(here: Path, content: str, message: str) -> None:
    (here / "f.json").write_text(content)
    with pytest.raises(FilesetError, match=message):
        files_of(fileset="f.json")


@pytest.mark.usefixtures("here")
def test_files_of_several_formats_are_refused() -> None:
    with pytest.raises(FilesetError, match=r"several formats \(csv, root\): convert them to one first"):
        files_of(files=["a2.root", "t.csv"])


def test_nothing_named_is_refused() -> None:
    with pytest.raises(FilesetError, match="no input files"):
        fileset(InputConfig())


FORMATS = [
    ("a.root", Format.ROOT),
    ("A.ROOT", Format.ROOT),
    ("a.parquet", Format.PARQUET),
    ("a.arrow", Format.ARROW),
    ("a.feather", Format.ARROW),
    ("a.json", Format.JSON),
    ("a.JSON.GZ", Format.JSON),
    ("a.jsonl", Format.JSON),
    ("a.ndjson.bz2", Format.JSON),
    ("a.csv.gz", Format.CSV),
    ("hdfs://host/x.y/a.csv", Format.CSV),
]


@pytest.mark.parametrize(("path", "expected"), FORMATS)
def test_format_is_told_by_the_name(path: str, expected: Format) -> None:
    assert format_of(path) is expected


@pytest.mark.parametrize("path", ["a", "a.h5", "a.gz", "root", "a.root.old", "x.root/a"])
def test_unknown_suffix_is_refused_unless_the_format_is_given(path: str) -> None:
    with pytest.raises(
        FilesetError, match=r"cannot tell the format of .*: give --format root\|parquet\|arrow\|json\|csv"
    ):
        format_of(path)


def test_format_of_the_config_wins_over_the_name(here: Path) -> None:
    assert files_of(files="notes.md", format="json") == (InputFile(f"{here}/notes.md", Format.JSON),)
