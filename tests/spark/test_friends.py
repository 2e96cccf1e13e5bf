"""spark.friends: friend trees by plain uproot, beside the files that they are friends of and the Parquet scores."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import TYPE_CHECKING, Any

import awkward as ak
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import uproot

from mlaas_spark import manifest as manifests
from mlaas_spark.errors import ConfigError, SpecsError
from mlaas_spark.formats import Format
from mlaas_spark.plan import PlannedFile
from mlaas_spark.spark import convert as converting
from mlaas_spark.spark import friends
from mlaas_spark.spark.friends import names
from mlaas_spark.spark.predict import PredictRequest, predict

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from mlaas_spark.manifest import Manifest
    from mlaas_spark.spark.ingest import Events
    from mlaas_spark.transform import FeatureTransform
    from tests.spark.conftest import CrashAt, Event, Sample

KEYS = ("run", "luminosityBlock", "event")
SELECTION = "nJet >= 2 && MET_sum > 0"


def request_of(transform: FeatureTransform, kind: str = "root", **settings: Any) -> PredictRequest:
    """A linear model with two outputs, by numpy."""
    weights = np.random.default_rng(5).normal(size=(transform.width, 2)).astype(np.float32)
    scorer = partial(partial, np.einsum, "wk,nw,nw->nk", weights)
    names = ("score_a", "score_b")
    return PredictRequest(
        "linear_1", transform, {}, scorer, names, KEYS, batch_size=64, format=Format(kind), **settings
    )


def parquet_of(folder: Path, manifest: Manifest, source: int) -> pa.Table:
    """The rows of an input, in entry order."""
    files = sorted((f for f in manifest.files if f.ranges[0][0] == source), key=lambda file: file.ranges)
    return pa.concat_tables(pq.read_table(folder / file.path) for file in files)


def friend_of(folder: Path, manifest: Manifest, source: int) -> Path:
    (file,) = (file for file in manifest.files if file.ranges[0][0] == source)
    return folder / file.path


@pytest.mark.parametrize("kind", ["root", "parquet", "json", "csv"])
def test_friend_has_the_entries_of_its_input_in_order_and_the_scores_of_parquet(
    opened: Callable[..., Events], sample: Sample, transform: FeatureTransform, tmp_path: Path, kind: str
) -> None:
    events = opened(sample.paths(kind), 200, selection=SELECTION)
    keep = ("Jet_pt", "MET_pt", "flag")
    made = predict(events, request_of(transform, keep=keep), str(tmp_path / "root"))
    scores = predict(events, request_of(transform, "parquet", keep=keep), str(tmp_path / "parquet"))
    assert [file.path for file in made.files] == [f"part{index}.scores.root" for index in range(3)]
    assert made.ledger == scores.ledger
    assert 0 < made.ledger["events"] < 1280
    assert made.drift == scores.drift
    for index, of_file in enumerate(sample.files):
        table = parquet_of(tmp_path / "parquet", scores, index)
        with uproot.open(friend_of(tmp_path / "root", made, index)) as file:
            tree = file["Events"]
            assert tree.keys() == [*KEYS, "nJet_pt", "Jet_pt", "MET_pt", "flag", "selected", "score_a", "score_b"]
            assert tree.num_entries == len(of_file)
            found = tree.arrays()
        assert found["event"].to_list() == [event["event"] for event in of_file]
        expected = ak.Array([event["Jet_pt"] for event in of_file])
        assert ak.array_equal(ak.values_astype(found["Jet_pt"], np.float64), expected, equal_nan=True)
        assert found["selected"].to_list() == table["__selected"].to_pylist()
        for name in ("score_a", "score_b"):
            column = table[name].fill_null(np.nan).to_numpy()
            assert np.array_equal(found[name].to_numpy(), column, equal_nan=True)
            assert np.isnan(column).tolist() == [not passes for passes in table["__selected"].to_pylist()]


def test_friend_lies_in_the_place_of_its_input_in_a_chain(
    opened: Callable[..., Events], sample: Sample, transform: FeatureTransform, tmp_path: Path
) -> None:
    """Two chains side by side, as ROOT joins friends: by the number of the entry alone."""
    made = predict(opened(sample.paths(), 100), request_of(transform), str(tmp_path))
    inputs = [f"{path}:Events" for path in sample.paths()]
    paths = [f"{friend_of(tmp_path, made, index)}:Events" for index in range(3)]
    both = zip(uproot.iterate(inputs, step_size=97), uproot.iterate(paths, step_size=97), strict=True)
    assert all(ak.all(theirs["event"] == ours["event"]) for theirs, ours in both)


def test_several_trees_of_a_file_have_a_friend_each(
    opened: Callable[..., Events],
    transform: FeatureTransform,
    make_events: Callable[[int, int, int], list[Event]],
    write: Callable[..., str],
    tmp_path: Path,
) -> None:
    path = write(tmp_path / "one.root", make_events(50, 1, 8))
    with uproot.open(path) as file, uproot.recreate(tmp_path / "two.root") as target:
        arrays = file["Events"].arrays(filter_name=lambda name: not name.startswith("nJet"))
        for name, part in (("ana/A", arrays[:20]), ("ana/B", arrays[20:])):
            data = {field: part[field] for field in part.fields if not field.startswith("Jet_")}
            data["Jet"] = ak.zip({f.removeprefix("Jet_"): part[f] for f in part.fields if f.startswith("Jet_")})
            tree = target.mktree(name, {field: values.type.content for field, values in data.items()})
            tree.extend(data)
    made = predict(opened([str(tmp_path / "two.root")], tree="ana/*"), request_of(transform), str(tmp_path / "out"))
    assert [file.path for file in made.files] == ["two.ana_A.scores.root", "two.ana_B.scores.root"]
    for index, (name, events) in enumerate((("ana/A", slice(0, 20)), ("ana/B", slice(20, 50)))):
        with uproot.open(friend_of(tmp_path / "out", made, index)) as file:
            assert file[name]["event"].array().to_list() == arrays["event"][events].to_list()


def test_friend_of_an_rntuple_is_a_ttree_of_its_name(
    opened: Callable[..., Events], sample: Sample, transform: FeatureTransform, tmp_path: Path
) -> None:
    with uproot.open(sample.paths()[2]) as file, uproot.recreate(tmp_path / "n.root") as target:
        arrays = file["Events"].arrays()
        target["Events"] = {name: arrays[name] for name in arrays.fields}
    with uproot.open(tmp_path / "n.root") as file:
        assert file.classname_of("Events") == "ROOT::RNTuple"
    made = predict(opened([str(tmp_path / "n.root")]), request_of(transform), str(tmp_path / "out"))
    of_tree = predict(opened(sample.paths()[2:]), request_of(transform), str(tmp_path / "of_tree"))
    assert [file.digest for file in made.files] == [file.digest for file in of_tree.files]
    with uproot.open(friend_of(tmp_path / "out", made, 0)) as file:
        assert file.classname_of("Events") == "TTree"
        assert file["Events"]["event"].array().to_list() == [event["event"] for event in sample.files[2]]


def test_files_of_one_name_from_two_folders_have_names_of_their_own(
    opened: Callable[..., Events],
    transform: FeatureTransform,
    make_events: Callable[[int, int, int], list[Event]],
    write: Callable[..., str],
    tmp_path: Path,
) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    paths = [write(tmp_path / d / "f.root", make_events(30 + n, n, n), identity=90 + n) for n, d in enumerate("ab")]
    made = predict(opened(paths), request_of(transform), str(tmp_path / "out"))
    found = sorted(path.name for path in (tmp_path / "out").glob("*.root"))
    assert "f.scores.root" in found
    assert len(found) == 2
    for index in range(2):
        with uproot.open(friend_of(tmp_path / "out", made, index)) as file:
            assert file["Events"].num_entries == 30 + index


def test_set_is_brought_up_to_date(
    opened: Callable[..., Events],
    transform: FeatureTransform,
    make_events: Callable[[int, int, int], list[Event]],
    write: Callable[..., str],
    tmp_path: Path,
) -> None:
    def files() -> dict[str, int]:
        return {path.name: path.stat().st_ino for path in (tmp_path / "out").glob("*.root")}

    a = write(tmp_path / "a.root", make_events(60, 1, 1), identity=71)
    b = write(tmp_path / "b.root", make_events(70, 2, 2), identity=72)
    request, out = request_of(transform), str(tmp_path / "out")
    first = predict(opened([a]), request, out)
    before = files()
    assert predict(opened([a]), request, out) == first
    assert files() == before
    both = predict(opened([a, b]), request, out)
    assert (both.version, both.rows) == (2, 130)
    assert before.items() < files().items()
    # a file of the same name with other events: its friend has another name, and the old one is gone
    write(tmp_path / "b.root", make_events(80, 3, 3), identity=73)
    changed = predict(opened([a, b]), request, out)
    assert (changed.version, changed.rows) == (3, 140)
    assert before.items() < files().items()
    assert {*files()} == {file.path for file in changed.files}
    assert "b.scores.root" not in files()
    assert {path.name for path in (tmp_path / "out").iterdir()} == {*files(), "manifest.json", "_manifests"}
    manifests.check_files(out, changed)


def test_rerun_after_a_crash_takes_up_the_friends_that_are_made(
    opened: Callable[..., Events],
    sample: Sample,
    transform: FeatureTransform,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    crash_at: CrashAt,
) -> None:
    def crash(*_: Any) -> Manifest:
        raise KeyboardInterrupt

    events, request, out = opened(sample.paths(), 200), request_of(transform), str(tmp_path / "out")
    with crash_at(converting, "commit"):
        predict(events, request, out)
    assert not (tmp_path / "out" / "manifest.json").exists()
    with monkeypatch.context() as patched:
        patched.setattr(friends, "spread", crash)  # who would make one again fails
        made = predict(events, request, out)
    assert made.content_digest == predict(events, request, str(tmp_path / "other")).content_digest


def test_friend_of_a_part_of_the_entries_is_refused(
    opened: Callable[..., Events], sample: Sample, transform: FeatureTransform, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"not all 700 of .*part0\.root are read: leave out --events"):
        predict(opened(sample.paths(), events=500), request_of(transform), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_what_a_tree_cannot_have_is_refused(
    opened: Callable[..., Events], sample: Sample, transform: FeatureTransform, tmp_path: Path
) -> None:
    texts = [{**event, "channel": "ee", "n": None if event["event"] % 7 == 3 else 1} for event in sample.files[2]]
    table = pa.Table.from_pylist(texts)
    pq.write_table(table, tmp_path / "f.parquet")
    events = opened([str(tmp_path / "f.parquet")], text=True)
    with pytest.raises(ConfigError, match=r"not channel \(string\): leave them out of predict\.keep"):
        predict(events, request_of(transform, keep=("channel",)), str(tmp_path / "out"))
    with pytest.raises(SpecsError, match=r"'n' has no value in some of entries \[0, 130\) of .*f\.parquet"):
        predict(events, request_of(transform, keep=("n",)), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_kept_branch_named_as_the_mark_is_refused(
    opened: Callable[..., Events], sample: Sample, transform: FeatureTransform, tmp_path: Path
) -> None:
    events = opened(sample.paths()[2:], derive={"selected": "MET_pt > 3"})
    with pytest.raises(ConfigError, match="'selected' is a branch that is kept and the name that says which"):
        predict(events, request_of(transform, keep=("selected",)), str(tmp_path / "out"))
    kept = predict(events, request_of(transform, "parquet", keep=("selected",)), str(tmp_path / "out"))
    assert kept.rows == 130


def planned(paths: Sequence[str], trees: Sequence[str] | None = None) -> list[PlannedFile]:
    return [
        PlannedFile(path, Format.ROOT, trees[n] if trees else "Events", f"{n:032x}", 5, None, 1.0, "", (0, 5))
        for n, path in enumerate(paths)
    ]


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/data/f.root", "f.scores.root"),
        ("root://host//store/f_v1.2.root", "f_v1.2.scores.root"),
        ("/data/f.json.gz", "f.scores.root"),
        ("hdfs://host/x/part-0.parquet", "part-0.scores.root"),
        ("/data/named_by_format.dat", "named_by_format.dat.scores.root"),
    ],
)
def test_friend_is_named_after_its_input(path: str, name: str) -> None:
    assert names(planned([path])) == [name]


def test_names_that_clash_get_digits_of_the_input_alone() -> None:
    files = planned(["/a/f.root", "/b/f.root", "/c/f.root"])
    first, second, third = names(files)
    assert first == "f.scores.root"
    assert len({first, second, third}) == 3
    # wherever it lies and whatever is beside it; only that the plain name is taken counts
    moved = dataclasses.replace(files[1], path="/elsewhere/f.root")
    assert names([moved], {"f.scores.root"}) == [second]
    assert names([files[1]]) == ["f.scores.root"]
