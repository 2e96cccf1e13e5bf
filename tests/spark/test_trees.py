"""Several trees of a file, and copies of a file: each is an input of its own, in every stage."""

from __future__ import annotations

import dataclasses
import shutil
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import uproot

from mlaas_spark.errors import FilesetError, SpecsError, TreeNotFoundError
from mlaas_spark.spark.chunks import build
from mlaas_spark.spark.convert import Changes, convert
from mlaas_spark.spark.specs import compute

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlaas_spark.manifest import Manifest
    from mlaas_spark.spark.chunks import ChunkRequest
    from mlaas_spark.spark.ingest import Events
    from mlaas_spark.transform import FeatureTransform
    from tests.spark.conftest import Sample

N = 60
X = np.arange(N, dtype=np.float64)


@pytest.fixture
def systematics(tmp_path: Path) -> str:
    """A file with the trees Events_nominal and Events_copy of equal values, Events_up with a branch more, and Runs."""
    path = tmp_path / "f.root"
    with uproot.recreate(path) as file:
        trees = {"nominal": {"x": X}, "copy": {"x": X}, "up": {"x": -X[:40], "z": X[:40]}}
        for name, branches in trees.items():
            tree = file.mktree(f"Events_{name}", dict.fromkeys(branches, np.dtype("f8")))
            for start in range(0, len(branches["x"]), 20):
                tree.extend({branch: values[start : start + 20] for branch, values in branches.items()})
        file.mktree("dir/Runs", {"run": np.dtype("i4")})
        file["dir/Runs"].extend({"run": np.arange(3, dtype=np.int32)})
    return str(path)


def rows(folder: Path, manifest: Manifest) -> dict[str, list[tuple[int, float]]]:
    """(entry, x) of each tree or copy, in order."""
    found: dict[str, list[tuple[int, float]]] = {}
    for file in sorted(manifest.files, key=lambda file: file.ranges):
        source = manifest.inputs[file.ranges[0][0]]
        table = pq.read_table(folder / file.path)
        found.setdefault(f"{Path(source.path).stem}:{source.tree}", []).extend(
            zip(table["__entry"].to_pylist(), table["x"].to_pylist(), strict=True)
        )
    return found


EXPECTED = {
    "f:Events_copy": list(enumerate(X)),
    "f:Events_nominal": list(enumerate(X)),
    "f:Events_up": list(enumerate(-X[:40])),
}


def test_every_tree_that_a_glob_matches_is_converted(
    opened: Callable[..., Events], systematics: str, tmp_path: Path
) -> None:
    events = opened([systematics], 20, tree="Events_*", schema_policy="intersect")
    assert [file.tree for file in events.plan.files] == ["Events_copy", "Events_nominal", "Events_up"]
    manifest = convert(events, str(tmp_path / "out"))
    assert rows(tmp_path / "out", manifest) == EXPECTED
    assert len({file.path for file in manifest.files}) == len(manifest.files) == 8
    assert convert(events, str(tmp_path / "out")) == manifest


def test_a_tree_that_is_left_out_takes_its_rows_with_it(
    opened: Callable[..., Events], systematics: str, tmp_path: Path
) -> None:
    first = convert(opened([systematics], 20, tree="Events_[cn]*"), str(tmp_path / "out"))
    manifest = convert(opened([systematics], 20, tree="Events_nominal"), str(tmp_path / "out"))
    assert rows(tmp_path / "out", manifest) == {"f:Events_nominal": EXPECTED["f:Events_nominal"]}
    assert {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.parquet")} == {
        file.path for file in manifest.files
    }
    changes = Changes.between(first.inputs, manifest.inputs)
    assert str(changes) == f"1 removed ({systematics}:Events_copy), 1 kept"


def test_trees_of_unlike_branches_follow_the_schema_policy(opened: Callable[..., Events], systematics: str) -> None:
    with pytest.raises(SpecsError, match=r"'z' is in .*f\.root:Events_up but not in .*f\.root:Events_copy: .*--schema"):
        opened([systematics], tree="Events_*")
    assert opened([systematics], tree="Events_*", schema_policy="intersect").plan.schema.names == ("x",)
    filled = opened([systematics], tree="Events_*", schema_policy="fill")
    assert filled.plan.schema.names == ("x", "z")
    missing = Counter((row["__file"], row["z"] is None) for row in filled.dataframe().collect())
    assert missing == {(0, True): N, (1, True): N, (2, False): 40}


def test_tree_named_outright_and_by_a_glob_is_named_twice(opened: Callable[..., Events], systematics: str) -> None:
    with pytest.raises(FilesetError, match=r"tree Events_up of .*f\.root is named twice"):
        opened([f"{systematics}:*_up", f"{systematics}:Events_up"], allow_copies=True)


def test_glob_that_matches_no_tree_names_file_and_trees(opened: Callable[..., Events], systematics: str) -> None:
    with pytest.raises(TreeNotFoundError, match=r"'Event' not found in .*f\.root; nearest: .*Events_up"):
        opened([systematics], tree="Event")
    with pytest.raises(TreeNotFoundError, match=r"'Q\*' not found in .*f\.root; there are: Events_copy, "):
        opened([systematics], tree="Q*")


def test_specs_of_each_tree_are_its_own(opened: Callable[..., Events], systematics: str) -> None:
    both = opened([systematics], 20, tree="Events_[nu]*", branches=("x",))
    specs, counted = compute(both, ["x"])
    assert counted.plan.events_by_file() == [N, 40]
    assert [(part.events, part["x"].minimum, part["x"].maximum) for _, part in sorted(specs.by_file.items())] == [
        (N, 0.0, N - 1.0),
        (40, -39.0, 0.0),
    ]
    assert (specs.specs.events, specs.specs["x"].minimum, specs.specs["x"].maximum) == (N + 40, -39.0, N - 1.0)
    assert specs.to_json()["events"] == {
        f"{systematics}:Events_nominal": N,
        f"{systematics}:Events_up": 40,
        "total": N + 40,
    }
    # what is known of one tree is not taken for another of the same file
    up = opened([systematics], 20, tree="Events_up", branches=("x",))
    again, _ = compute(up, ["x"], known=compute(opened([systematics], 20, tree="Events_nominal"), ["x"])[0])
    assert again.specs == compute(up, ["x"])[0].specs
    assert again.specs["x"].minimum == -39.0


@pytest.fixture
def copies(sample: Sample, tmp_path: Path) -> list[str]:
    """A file of 130 events and a copy of it."""
    return [str(shutil.copy(sample.paths()[2], tmp_path / name)) for name in ("a.root", "b.root")]


def test_copies_that_are_allowed_are_read_both(
    opened: Callable[..., Events], copies: list[str], tmp_path: Path
) -> None:
    with pytest.raises(FilesetError, match=r"b\.root is a copy of .*a\.root"):
        opened(copies)
    events = opened(copies, 50, allow_copies=True)
    first = convert(events, str(tmp_path / "out"))
    assert (first.rows, len({file.path for file in first.files})) == (260, len(first.files))
    tables = [pq.read_table(tmp_path / "out" / file.path) for file in first.files]
    assert Counter(pa.concat_tables(tables)["event"].to_pylist()) == Counter(2 * list(range(3000, 3130)))
    assert compute(events, ["nJet"])[0].specs.events == 260
    one = convert(opened(copies[1:], 50), str(tmp_path / "out"))
    assert str(Changes.between(first.inputs, one.inputs)) == f"1 removed ({copies[0]}), 1 kept"
    assert one.rows == 130
    assert one.content_digest == convert(opened(copies[:1], 50), str(tmp_path / "one")).content_digest


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_copies_of_other_formats_that_are_allowed_are_read_both(
    opened: Callable[..., Events], sample: Sample, tmp_path: Path, kind: str
) -> None:
    path = sample.paths(kind)[2]
    copy = shutil.copy(path, tmp_path / f"copy.{kind}")
    manifest = convert(opened([path, str(copy)], allow_copies=True), str(tmp_path / "out"))
    assert [item.events for item in manifest.inputs] == [130, 130]


def test_copies_are_mixed_each_event_of_each_once_and_in_one_split(
    opened: Callable[..., Events],
    copies: list[str],
    request_of: Callable[..., ChunkRequest],
    transform: FeatureTransform,
    tmp_path: Path,
) -> None:
    events = opened(copies, 50, labels=[0, 1], allow_copies=True)
    request = request_of(size=300, keys=(), features=transform)
    manifest = build(events, request, str(tmp_path / "out"))
    splits: dict[int, dict[int, str]] = {0: {}, 1: {}}
    neighbours = 0
    for file in manifest.files:
        table = pq.read_table(tmp_path / "out" / file.path)
        placed = list(zip(table["__file"].to_pylist(), table["__entry"].to_pylist(), strict=True))
        for copy, entry in placed:
            assert entry not in splits[copy]
            splits[copy][entry] = file.split
        neighbours += sum(a[1] == b[1] for a, b in pairwise(placed))
    assert splits[0] == splits[1]
    assert sorted(splits[0]) == list(range(130))
    assert neighbours < 20  # of 130 pairs, were they ordered by uuid and entry alone
    shuffled = dataclasses.replace(request, config=request.config.model_copy(update={"seed": 2}))
    assert build(events, shuffled, str(tmp_path / "two")).content_digest != manifest.content_digest


def test_labels_of_trees_are_those_of_their_groups(opened: Callable[..., Events], systematics: str) -> None:
    groups: list[Any] = [
        {"name": "signal", "files": f"{systematics}:*_up", "label": 1},
        {"name": "background", "files": f"{systematics}:Events_[cn]*", "label": 0},
    ]
    events = opened([], groups=groups, branches=("x",))
    assert [(file.tree, file.label) for file in events.plan.files] == [
        ("Events_up", 1),
        ("Events_copy", 0),
        ("Events_nominal", 0),
    ]
