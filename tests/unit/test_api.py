"""The public API: its names and arguments are a promise, and results show themselves."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import pytest

import mlaas_spark
from mlaas_spark import api
from mlaas_spark.errors import ConfigError, FilesetError

if TYPE_CHECKING:
    from pathlib import Path

SIGNATURES = {
    "fileset": "(files, **settings)",
    "convert": "(spark, dataset, folder, *, announce, **settings)",
    "specs": "(spark, dataset, path, *, announce, **features)",
    "chunks": "(spark, dataset, specs, folder, *, batch_size, announce, **settings)",
    "train": "(spark, chunks, model, *, name, runs, config, resume, announce, **settings)",
    "predict": "(spark, model, dataset, folder, *, announce, **settings)",
}


def _plain(function: Any) -> str:
    signature = inspect.signature(function)
    bare = [p.replace(annotation=inspect.Parameter.empty, default=inspect.Parameter.empty) for p in _ordered(signature)]
    return str(signature.replace(parameters=bare, return_annotation=inspect.Signature.empty))


def _ordered(signature: inspect.Signature) -> list[inspect.Parameter]:
    return list(signature.parameters.values())


@pytest.mark.parametrize("name", SIGNATURES)
def test_what_users_write_stays_valid(name: str) -> None:
    assert _plain(getattr(api, name)) == SIGNATURES[name]


@pytest.mark.parametrize("name", SIGNATURES)
def test_the_package_has_it_by_its_name(name: str) -> None:
    assert name in mlaas_spark.__all__
    assert getattr(mlaas_spark, name) is getattr(api, name)


def test_what_the_package_does_not_have_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'trian'"):
        _ = mlaas_spark.trian


@pytest.mark.parametrize("name", SIGNATURES)
def test_every_argument_is_documented(name: str) -> None:
    function = getattr(api, name)
    documented = inspect.getdoc(function) or ""
    assert all(f"{argument}: " in documented for argument in inspect.signature(function).parameters)


def _files(folder: Path, *names: str) -> list[str]:
    for name in names:
        (folder / name).touch()
    return [str(folder / name) for name in names]


def test_groups_have_labels_and_weights(tmp_path: Path) -> None:
    signal, background = _files(tmp_path, "s.root", "b.root")
    dataset = api.fileset(
        {"signal": {"files": signal, "label": 1}, "background": {"files": [background], "label": 0, "weight": 2}},
        tree="Events",
    )
    assert dataset.frame().to_dict("list") == {
        "path": [signal, background],
        "group": ["signal", "background"],
        "tree": ["Events", "Events"],
        "label": [1.0, 0.0],
        "weight": [1.0, 2.0],
    }
    assert str(dataset) == "2 files of root"


@pytest.mark.parametrize("kind", [str, list, "path"])
def test_files_are_a_glob_a_list_or_a_path(kind: Any, tmp_path: Path) -> None:
    (path,) = _files(tmp_path, "s.root")
    given: Any = {str: f"{tmp_path}/*.root", list: [path], "path": tmp_path / "s.root"}[kind]
    assert [file.path for file in api.fileset(given).files] == [path]


def test_what_is_not_there_or_not_known_is_said(tmp_path: Path) -> None:
    with pytest.raises(FilesetError, match=r"none\.root"):
        api.fileset(tmp_path / "none.root")
    (path,) = _files(tmp_path, "s.root")
    with pytest.raises(ConfigError, match=r"selecton.*nearest: selection"):
        api.fileset(path, selecton="x > 1")


def test_a_result_in_a_notebook_is_a_table_whose_names_are_escaped(tmp_path: Path) -> None:
    dataset = api.fileset({"<script>": {"files": _files(tmp_path, "s.root")}})
    html = dataset._repr_html_()
    assert "<td>&lt;script&gt;</td>" in html
    assert "<script>" not in html


def test_a_run_shows_its_metrics() -> None:
    run = api.TrainedRun("runs/a", "runs/a/x.tar.gz", {"auc": 0.75, "loss": 0.5, "accuracy": None, "split": "test"})
    assert str(run) == "auc 0.7500, loss 0.5000 (runs/a)"
    assert run.frame().loc["AUC", "value"] == "0.7500"


class _Stopped:
    class sparkContext:  # noqa: N801 - as Spark calls it
        _jsc = None


def test_a_session_that_was_stopped_is_named(tmp_path: Path) -> None:
    dataset = api.fileset(_files(tmp_path, "s.root"))
    with pytest.raises(ConfigError, match="was stopped"):
        api.specs(_Stopped, dataset)  # type: ignore[arg-type]
