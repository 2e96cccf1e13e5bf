"""mlaas4hep: what an MLaaS4HEP command line means here."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from mlaas_spark.config import resolve
from mlaas_spark.errors import ConfigError
from mlaas_spark.mlaas4hep import Options, Translation, place, translate

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def translated(tmp_path: Path) -> Any:
    """``translated(params={...}, **options)`` for two files with labels 1 and 0."""

    def run(params: dict[str, Any] | None = None, **options: Any) -> Translation:
        path = tmp_path / "params.json"
        path.write_text(json.dumps(params or {}))
        return translate(Options(**{"files": "a.root,b.root", "labels": "1,0", "params": str(path), **options}))

    return run


def test_every_key_is_understood_or_named_with_its_reason(translated: Any) -> None:
    params = {
        "nevts": 5000,
        "shuffle": False,
        "chunk_size": 700,
        "epochs": 3,
        "batch_size": 20,
        "identifier": "",
        "branch": "tree",
        "selected_branches": "x,y",
        "exclude_branches": ["z"],
        "hist": "pdfs",
        "redirector": "",
        "verbose": 5,
        "split": 0.1,
        "nan": -1,
    }
    translation = translated(params)
    config = resolve(translation.content)
    assert (config.input.events, config.input.tree, config.input.identifiers) == (5000, "tree", ())
    assert (config.input.branches, config.input.exclude) == (("x", "y"), ("z",))
    assert (config.chunks.size, config.train.epochs, config.train.batch_size) == (700, 3, 20)
    assert (config.train.shuffle, config.train.verbose, config.train.mode) == (False, 2, "chunks")
    assert [note.split()[1] for note in translation.notes] == ["hist", "split", "nan"]
    assert all("has no effect: " in note for note in translation.notes)


def test_defaults_are_those_of_mlaas4hep(translated: Any) -> None:
    config = resolve(translated().content)
    assert (config.train.epochs, config.train.batch_size, config.chunks.size) == (10, 50, 1000)
    assert (config.input.tree, config.input.events) == ("Events", None)


def test_minus_one_event_means_all(translated: Any) -> None:
    assert resolve(translated({"nevts": -1}).content).input.events is None


@pytest.mark.parametrize("value", ["many", 1.5, True])
def test_number_of_events_of_a_wrong_kind_is_refused(value: object, translated: Any) -> None:
    with pytest.raises(ConfigError, match="nevts is a whole number"):
        translated({"nevts": value})


def test_unknown_key_is_named_with_the_nearest(translated: Any) -> None:
    (note,) = translated({"chunksize": 3}).notes
    assert note.startswith("params.json: unknown key 'chunksize' has no effect; nearest: chunk_size")


def test_redirector_is_the_configs(translated: Any) -> None:
    assert resolve(translated({"redirector": "root://host.example.org/"}).content).input.redirector == (
        "root://host.example.org/"
    )
    assert resolve(translated({"redirector": ""}).content).input.redirector is None


def test_labels_of_a_file_a_list_and_a_column(translated: Any, tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("# two\n0\n1\n")
    of_file = translated(labels=str(tmp_path / "labels.txt")).content["input"]["groups"]
    assert [group["label"] for group in of_file] == [0.0, 1.0]
    of_column = translated(labels="activity").content["input"]
    assert (of_column["label"], of_column["files"]) == ("activity", ["a.root", "b.root"])


def test_words_are_classes_in_sorted_order(translated: Any) -> None:
    translation = translated(labels="signal,background")
    assert [group["label"] for group in translation.content["input"]["groups"]] == [1.0, 0.0]
    assert resolve(translation.content).export.labels == ("background", "signal")


def test_other_number_of_labels_than_files_is_refused(translated: Any) -> None:
    with pytest.raises(ConfigError, match="3 labels for 2 files"):
        translated(labels="1,0,1")


def test_no_labels_are_refused(translated: Any) -> None:
    with pytest.raises(ConfigError, match="no labels"):
        translated(labels="")


def test_unsupported_data_type_is_refused(translated: Any) -> None:
    with pytest.raises(ConfigError, match="--dtype avro is not supported"):
        translated(dtype="avro")


@pytest.mark.parametrize(("content", "says"), [("[1]", "not a JSON object"), ("{", "is not JSON")])
def test_params_that_are_no_object_are_refused(content: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text(content)
    with pytest.raises(ConfigError, match=says):
        translate(Options(files="a.root", labels="1,0", params=str(tmp_path / "p.json")))


@pytest.mark.parametrize(
    ("fout", "where", "save_as"),
    [
        (None, {}, None),
        ("out", {"runs": "out"}, None),
        ("/d/my model.h5", {"runs": "/d", "name": "my_model"}, "/d/my model.h5"),
        ("/d/m.pb", {"runs": "/d", "name": "m"}, "/d/m.pb"),
    ],
)
def test_fout_is_a_folder_or_a_model_file(fout: str | None, where: dict[str, str], save_as: str | None) -> None:
    assert place(fout) == (where, save_as)
