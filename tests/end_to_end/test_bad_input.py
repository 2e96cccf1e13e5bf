"""Whatever is wrong with the input: one message that names it, the exit code of its kind, and nothing left behind."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import awkward as ak
import numpy as np
import pytest
import uproot

if TYPE_CHECKING:
    from collections.abc import Callable

    from .conftest import Command


@dataclass(frozen=True)
class Place:
    """Where a case is prepared: the good sample, a good model, and an empty folder."""

    sample: Path
    model: Path
    folder: Path

    def write(self, name: str, content: bytes | str) -> str:
        path = self.folder / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(path)

    @property
    def good(self) -> str:
        return str(self.sample / "signal_0.root")


@dataclass(frozen=True)
class Case:
    """Arguments of ``train`` beside --fout, the exit code, and what the message must say."""

    arguments: Callable[[Place], list[str]]
    code: int
    says: str


def labelled(place: Place, path: str, *more: str) -> list[str]:
    return [path, "--label", "nMuon > 1", "--model", str(place.model), *more]


def damaged(place: Place, change: Callable[[bytearray], bytes | bytearray]) -> list[str]:
    content = bytearray(Path(place.good).read_bytes())
    return labelled(place, place.write("damaged.root", bytes(change(content))))


def zeroed(content: bytearray) -> bytearray:
    middle = len(content) // 2
    content[middle : middle + 6000] = bytes(6000)
    return content


def without_entries(place: Place) -> list[str]:
    path = place.folder / "zero.root"
    with uproot.recreate(path) as file:
        file.mktree("Events", {"nMuon": np.dtype("int32"), "x": np.dtype("float32")})
    return labelled(place, str(path))


def model_of(text: str) -> Callable[[Place], list[str]]:
    def arguments(place: Place) -> list[str]:
        return [place.good, "--label", "nMuon > 1", "--model", place.write("bad_model.py", text)]

    return arguments


KERAS = "from keras import Sequential, layers\n"

CASES = {
    "missing file": Case(
        lambda p: labelled(p, str(p.sample / "signal_7.root")), 3, r"no such file: .*signal_7\.root; nearest: .*signal_"
    ),
    "empty glob": Case(lambda p: labelled(p, str(p.sample / "none_*.root")), 3, r"no file matches .*none_\*\.root"),
    "not a ROOT file": Case(
        lambda p: labelled(p, p.write("text.root", "hello\n" * 50)),
        3,
        r"cannot read .*text\.root: it is not a ROOT file",
    ),
    "empty file": Case(lambda p: labelled(p, p.write("empty.root", "")), 3, r"empty\.root: the file is empty"),
    "truncated file": Case(
        lambda p: damaged(p, lambda content: content[: len(content) // 2]), 3, r"damaged\.root.*damaged or cut short"
    ),
    "corrupted bytes in the middle": Case(
        lambda p: damaged(p, zeroed), 3, r"damaged\.root, tree Events, entries \[\d+, \d+\): .*damaged or cut short"
    ),
    "broken line of JSON": Case(
        lambda p: labelled(p, p.write("broken.json", '{"nMuon": 1}\n{"nMuon": 2\n')),
        3,
        r"cannot read .*broken\.json, entries \[1, 2\): line 2 is no JSON record \(.*\): '{\"nMuon\": 2'; mend it",
    ),
    "ragged line of CSV": Case(
        lambda p: labelled(p, p.write("ragged.csv", "nMuon,x\n1,2\n2\n")),
        3,
        r"cannot read .*ragged\.csv, entries \[1, 2\): line 3 has 1 field for 2 columns: '2'; mend it or copy it again",
    ),
    "tree missing": Case(
        lambda p: labelled(p, p.good, "--tree", "Event"),
        3,
        r"tree 'Event' not found in .*signal_0\.root; nearest: Events",
    ),
    "branch missing": Case(
        lambda p: labelled(p, p.good, "--branches", "MET_pT,nMuon"), 3, r"branch 'MET_pT' not found.*nearest: MET_pt"
    ),
    "label branch missing": Case(
        lambda p: [p.good, "--label", "nMuons > 1", "--model", str(p.model)], 3, r"branch 'nMuons' not found.*nMuon"
    ),
    "zero entries": Case(without_entries, 3, r"zero entries in .*zero\.root"),
    "selection that keeps nothing": Case(
        lambda p: labelled(p, p.good, "--selection", "nMuon > 999"),
        3,
        r"selection 'nMuon > 999' keeps none of 600 events",
    ),
    "expression that is not allowed": Case(
        lambda p: labelled(p, p.good, "--selection", "__import__('os').system('true')"), 2, r"selection .*__import__"
    ),
    "unknown config key": Case(
        lambda p: labelled(p, p.good, "--set", "train.epoch=3"), 2, r"unknown key 'train\.epoch'; nearest: epochs"
    ),
    "wrong type in config": Case(
        lambda p: labelled(p, p.good, "--set", "train.epochs=many"), 2, r"train\.epochs: .*integer.*'many'"
    ),
    "no config file": Case(lambda p: ["--config", str(p.folder / "no.yaml")], 2, r"cannot read config .*no\.yaml"),
    "labels and files of different number": Case(
        lambda p: [
            "--files",
            f"{p.good},{p.sample / 'background_0.root'}",
            "--labels",
            "1,0,1",
            "--model",
            str(p.model),
        ],
        2,
        r"3 labels for 2 files",
    ),
    "no label": Case(lambda p: [p.good, "--model", str(p.model)], 2, r"no label for .*signal_0\.root"),
    "no model": Case(lambda p: [p.good, "--label", "nMuon > 1"], 2, r"no model"),
    "model file missing": Case(
        lambda p: [p.good, "--label", "nMuon > 1", "--model", "absent.py"], 5, r"cannot read absent\.py"
    ),
    "model file without model": Case(
        model_of("def modle(idim):\n    return None\n"), 5, r"bad_model\.py has no function 'model'; nearest: modle"
    ),
    "model file that is no Python": Case(model_of("def model(idim:\n"), 5, r"bad_model\.py, line 1"),
    "model file that raises": Case(
        model_of("import keras\nraise OSError('no licence')\n"), 5, r"bad_model\.py, line 2: OSError: no licence"
    ),
    "model that raises": Case(
        model_of("def model(idim):\n    return {}['mine']\n"),
        5,
        r"model\(\d+\) failed: .*bad_model\.py, line 2: KeyError: 'mine'",
    ),
    "model whose input does not fit": Case(
        model_of(
            KERAS + "def model(idim):\n"
            "    m = Sequential([layers.Input((idim + 1,)), layers.Dense(1, activation='sigmoid')])\n"
            "    m.compile('adam', 'binary_crossentropy')\n    return m\n"
        ),
        5,
        r"bad_model\.py takes input of shape \(None, (\d+)\), the events have W = \d+ columns",
    ),
    "model whose output does not fit": Case(
        model_of(
            KERAS + "def model(idim):\n"
            "    m = Sequential([layers.Input((idim,)), layers.Reshape((idim, 1))])\n"
            "    m.compile('adam', 'mse')\n    return m\n"
        ),
        5,
        r"bad_model\.py.*output",
    ),
    "only one class in training": Case(
        lambda p: [p.good, "--label", "nMuon >= 0", "--model", str(p.model)], 4, r"only one class in training"
    ),
    "only one class by files": Case(
        lambda p: ["--files", f"{p.good},{p.sample / 'signal_1.root'}", "--labels", "1,1", "--model", str(p.model)],
        4,
        r"only one class in training",
    ),
    "weights that are no numbers": Case(
        lambda p: labelled(p, p.good, "--set", "input.weight=nMuon / 0"),
        2,
        r"weight 'nMuon / 0' is missing or infinite for 600 events",
    ),
    "specs file missing": Case(
        lambda p: labelled(p, p.good, "--specs", "absent.json"), 4, r"no such specs file: absent\.json"
    ),
    "specs file of something else": Case(
        lambda p: labelled(p, p.good, "--specs", p.write("specs.json", '{"jdim": 3}')),
        4,
        r"specs\.json is no specs file",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_train_says_what_is_wrong_and_leaves_nothing(
    name: str, run: Command, sample: Path, model_file: Path, tmp_path: Path
) -> None:
    case, folder = CASES[name], tmp_path / "input"
    folder.mkdir()
    before = digests(sample)
    arguments = case.arguments(Place(sample, model_file, folder))
    outcome = run("train", *arguments, "--fout", str(tmp_path / "out" / "runs"))
    assert outcome.code == case.code, outcome.err
    assert len(outcome.messages) == 1, outcome.err
    assert re.search(case.says, outcome.messages[0]), outcome.messages[0]
    assert "Traceback" not in outcome.err + outcome.out
    assert not (tmp_path / "out").exists(), sorted((tmp_path / "out").rglob("*"))
    assert digests(sample) == before


LOST = KERAS + (
    "import keras\ndef model(idim):\n    m = Sequential([layers.Input((idim,)), layers.Dense(1)])\n"
    "    m.compile(keras.optimizers.SGD(1e38), 'mse')\n    return m\n"
)

LATER = {
    "labels outside the classes": Case(
        lambda p: [p.good, "--label", "nMuon", "--model", str(p.model)],
        5,
        r"the labels are 0, 1, 2.*, a model of one output with binary_crossentropy takes labels from 0 to 1",
    ),
    "weights that are all 0": Case(
        lambda p: labelled(p, p.good, "--set", "input.weight=nMuon * 0"), 5, r"add up to 0, so nothing can be learned"
    ),
    "loss that is no number": Case(
        model_of(LOST),
        5,
        r"the loss is not a number in epoch 0, batch \d+ .*largest feature values are \w+",
    ),
}


@pytest.mark.parametrize("name", LATER)
def test_what_training_finds_out_only_with_the_chunks_made_leaves_no_run(
    name: str, run: Command, sample: Path, model_file: Path, tmp_path: Path
) -> None:
    case, folder = LATER[name], tmp_path / "input"
    folder.mkdir()
    arguments = case.arguments(Place(sample, model_file, folder))
    outcome = run("train", *arguments, "--fout", str(tmp_path / "out"), "--set", "train.batch_size=32")
    assert outcome.code == case.code, outcome.err
    assert len(outcome.messages) == 1, outcome.err
    assert re.search(case.says, outcome.messages[0]), outcome.messages[0]
    assert "Traceback" not in outcome.err + outcome.out
    left = {path.name for path in (tmp_path / "out").glob("*/*")}
    assert left == {"chunks"}, left  # which the next training uses


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def tree_file(place: Place, name: str, tree: str = "Events", **branches: str) -> str:
    """A ROOT file with one tree of four entries, a branch for each name and type."""
    path = place.folder / name
    with uproot.recreate(path) as file:
        file.mktree(tree, branches)
        file[tree].extend({branch: np.arange(4, dtype=dtype) for branch, dtype in branches.items()})
    return str(path)


def unlike(place: Place, *options: str) -> list[str]:
    """Files in which x changes its type and y is lacking."""
    return [
        tree_file(place, "a.root", x="f4", y="f4", z="f4"),
        tree_file(place, "b.root", x="f8", z="f4"),
        *options,
    ]


def miscounted(place: Place) -> list[str]:
    """A file whose counter of jets says 9 for entry 2, which has two."""
    counts = np.array([5, 1, 2, 4], np.int32)
    path = place.folder / "miscounted.root"
    with uproot.recreate(path, compression=None) as file:
        file.mktree("Events", {"Jet_pt": "var * float32"}, counter_name=lambda _: "nJet")
        file["Events"].extend({"Jet_pt": ak.unflatten(np.arange(12, dtype=np.float32), counts), "nJet": counts})
    right, wrong = counts.astype(">i4").tobytes(), np.array([5, 1, 9, 4], ">i4").tobytes()
    path.write_bytes(path.read_bytes().replace(right, wrong))
    return [str(path)]


def trees(place: Place, *options: str) -> list[str]:
    return [tree_file(place, "a.root", "Events", x="f4"), tree_file(place, "b.root", "Runs", x="f4"), *options]


def copied(place: Place) -> list[str]:
    return [place.good, str(shutil.copy(place.good, place.folder / "copy.root"))]


OF_INPUT = {
    "files with different trees, one named": Case(
        lambda p: trees(p, "--tree", "Events"), 3, r"tree 'Events' not found in .*b\.root; there are: Runs"
    ),
    "glob that matches a tree of one file alone": Case(
        lambda p: trees(p, "--tree", "Ev*"), 3, r"tree 'Ev\*' not found in .*b\.root; there are: Runs"
    ),
    "type that changes": Case(
        unlike, 4, r"branch 'x' is float32 in .*a\.root:Events but float64 in .*b\.root:Events: .*--exclude x.*--schema"
    ),
    "branch that one file lacks": Case(
        lambda p: unlike(p, "--exclude", "x"), 4, r"branch 'y' is in .*a\.root:Events but not in .*b\.root:Events"
    ),
    "type that changes, to be filled": Case(
        lambda p: unlike(p, "--schema", "fill"),
        4,
        r"'x' is float32 in .*a\.root:Events but float64 in .*b\.root:Events",
    ),
    "counter that disagrees": Case(
        miscounted,
        3,
        r"cannot read .*miscounted\.root, tree Events, entries \[2, 3\): "
        r"branch 'Jet_pt' has 2 values where its counter 'nJet' says 9; mend it",
    ),
    "file named twice": Case(lambda p: [p.good, p.good], 3, r"signal_0\.root is named twice: .*name it once"),
    "tree named twice": Case(
        lambda p: [f"{p.good}:Events", f"{p.good}:Ev*"], 3, r"tree Events of .*signal_0\.root is named twice"
    ),
    "copy of a file": Case(
        copied, 3, r"copy\.root is a copy of .*signal_0\.root \(same uuid [0-9a-f]{32}\): .*--allow-copies"
    ),
    "target size of another format": Case(
        lambda p: [p.write("e.json", '{"x": 1}\n'), "--target-size", "1MB"], 2, r"target_size is not for JSON"
    ),
    "target size that is none": Case(
        lambda p: [p.good, "--target-size", "big"], 2, r"convert\.target_size: give bytes, or a number with KB, .*'big'"
    ),
}


@pytest.mark.parametrize("name", OF_INPUT)
def test_convert_says_what_is_wrong_with_its_input_and_leaves_nothing(
    name: str, run: Command, sample: Path, tmp_path: Path
) -> None:
    case, folder = OF_INPUT[name], tmp_path / "input"
    folder.mkdir()
    outcome = run("convert", *case.arguments(Place(sample, sample, folder)), "--out", str(tmp_path / "out"))
    assert outcome.code == case.code, outcome.err
    assert len(outcome.messages) == 1, outcome.err
    assert re.search(case.says, outcome.messages[0]), outcome.messages[0]
    assert "Traceback" not in outcome.err + outcome.out
    assert not (tmp_path / "out").exists()


def test_branches_that_change_are_left_out_by_intersect_and_listed(run: Command, sample: Path, tmp_path: Path) -> None:
    given = unlike(Place(sample, sample, tmp_path), "--schema", "intersect")
    outcome = run("convert", *given, "--out", str(tmp_path / "out"))
    assert outcome.code == 0, outcome.err
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert [branch["name"] for branch in manifest["schema"]["branches"]] == ["z"]
    assert [omitted["name"] for omitted in manifest["schema"]["omitted"]] == ["x", "y"]
    for omitted in manifest["schema"]["omitted"]:
        assert re.search(rf"{re.escape(omitted['reason'])} +1 +{omitted['name']}", outcome.out)


def test_copies_are_converted_both_if_that_is_wanted(run: Command, sample: Path, tmp_path: Path) -> None:
    given = [*copied(Place(sample, sample, tmp_path)), "--allow-copies"]
    assert "1,200 entries in = 1,200 events out" in run("convert", *given, "--out", str(tmp_path / "out")).out


@pytest.mark.parametrize("verb", ["convert", "chunks"])
def test_output_folder_that_holds_something_else_is_refused_and_untouched(
    verb: str, run: Command, sample: Path, tmp_path: Path
) -> None:
    out = tmp_path / "thesis"
    out.mkdir()
    (out / "chapter1.tex").write_text("words")
    label = ["--label", "nMuon > 1"] if verb == "chunks" else []
    outcome = run(verb, str(sample / "signal_0.root"), *label, "--out", str(out))
    assert outcome.code == 4
    assert re.search(r"error: .*thesis holds something else \(chapter1\.tex\)", outcome.err)
    assert [path.name for path in out.iterdir()] == ["chapter1.tex"]


def test_chunk_folder_of_other_specs_is_refused_and_untouched(run: Command, sample: Path, tmp_path: Path) -> None:
    out = tmp_path / "chunks"
    given = [str(sample / "signal_0.root"), "--label", "nMuon > 1", "--out", str(out)]
    assert run("chunks", *given).code == 0
    before = (out / "manifest.json").read_bytes()
    outcome = run("chunks", *given, "--exclude", "Jet_*")
    assert outcome.code == 4
    assert re.search(r"error: .*chunks holds a data set made from other inputs, specs or config", outcome.err)
    assert (out / "manifest.json").read_bytes() == before


def test_convert_of_a_damaged_file_leaves_no_folder(run: Command, sample: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.root"
    bad.write_bytes(bytes(zeroed(bytearray((sample / "signal_0.root").read_bytes()))))
    outcome = run("convert", str(bad), "--out", str(tmp_path / "out"))
    assert outcome.code == 3
    assert not (tmp_path / "out").exists()


def test_bundle_that_is_none_is_refused(run: Command, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    outcome = run("serve-check", str(tmp_path / "b"))
    assert outcome.code == 6
    assert len(outcome.messages) == 1


def test_folder_that_is_no_run_is_refused(run: Command, tmp_path: Path) -> None:
    outcome = run("export", str(tmp_path))
    assert outcome.code == 2
    assert "is no run folder" in outcome.err


def test_sample_is_what_the_cases_think(sample: Path) -> None:
    # the truncation and the zeroed bytes must hit data, not the end of the header
    assert (sample / "signal_0.root").stat().st_size > 60_000
    assert shutil.disk_usage(sample).free > 0
