"""demo: equal seeds give equal files, in the shape of real ones."""

from __future__ import annotations

from pathlib import Path

import awkward as ak
import numpy as np
import pytest
import uproot

from mlaas_spark.config import read, resolve
from mlaas_spark.demo import TREE, generate, write_config
from mlaas_spark.filesets import fileset


def test_equal_seeds_give_equal_files_to_the_uuid_and_others_do_not(tmp_path: Path) -> None:
    one, same, other = (generate(tmp_path / name, 400, 2, seed) for name, seed in (("a", 1), ("b", 1), ("c", 2)))
    for left, right, third in zip(one, same, other, strict=True):
        with uproot.open(left) as a, uproot.open(right) as b, uproot.open(third) as c:
            assert a.file.uuid == b.file.uuid != c.file.uuid
            x, y, z = (file[TREE].arrays() for file in (a, b, c))
            assert ak.array_equal(x, y)
            assert not ak.array_equal(x["MET_pt"], z["MET_pt"])


def test_events_are_shared_among_the_files_and_numbered_once(tmp_path: Path) -> None:
    paths = generate(tmp_path, 1002, 4, seed=5)
    assert [path.name for path in paths] == ["signal_0.root", "signal_1.root", "background_0.root", "background_1.root"]
    numbers = []
    for path in paths:
        with uproot.open(path) as file:
            numbers.append(file[TREE]["event"].array(library="np"))
    assert [len(part) for part in numbers] == [251, 251, 250, 250]
    np.testing.assert_array_equal(np.concatenate(numbers), np.arange(1002))


@pytest.mark.parametrize("name", ["Muon", "Jet"])
def test_collections_have_their_counters(name: str, tmp_path: Path) -> None:
    (path, _) = generate(tmp_path, 300, 2, seed=2)
    with uproot.open(path) as file:
        counter = file[TREE][f"n{name}"].array(library="np")
        assert ak.num(file[TREE][f"{name}_pt"].array()).to_list() == counter.tolist()


def test_classes_differ_and_overlap(tmp_path: Path) -> None:
    signal, background = generate(tmp_path, 8000, 2, seed=1)
    with uproot.open(signal) as s, uproot.open(background) as b:
        x, y = (file[TREE]["MET_pt"].array(library="np") for file in (s, b))
    assert x.mean() > y.mean() + 10
    assert (x < np.median(y)).mean() > 0.1


def test_its_config_names_the_sample_and_a_model_wherever_it_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    made = generate(Path("a b"), 80, 2, seed=1)
    config = resolve(read(write_config(Path("a b"))))
    monkeypatch.chdir("/")
    assert [file.path for file in fileset(config.input)] == [str(tmp_path / path) for path in made]
    assert [file.label for file in fileset(config.input)] == [1, 0]
    assert config.train.model is not None
    assert "def model(idim" in config.train.model.read_text()
