"""``mlaas-spark evaluate``: a finished run judged again, into a folder that is whole or as it was."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mlaas_spark import manifest as manifests
from mlaas_spark import pipeline
from mlaas_spark.config import resolve
from mlaas_spark.runs import Journal
from tests.end_to_end.conftest import MODEL

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from tests.end_to_end.conftest import Command

PLOTS = {"roc", "scores", "confusion", "calibration", "significance", "importance", "learning_curves"}


@pytest.fixture(scope="module")
def trained(spark: SparkSession, sample: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run folder."""
    assert spark.version
    folder = tmp_path_factory.mktemp("trained")
    (folder / "model.py").write_text(MODEL)
    groups = [
        {"name": "QCD", "files": str(sample / "background_*.root"), "label": 0, "weight": 2.0},
        {"name": "Higgs", "files": str(sample / "signal_*.root"), "label": 1, "weight": 0.5},
    ]
    content = {
        "runs": str(folder / "runs"),
        "input": {"groups": groups},
        "train": {"model": str(folder / "model.py"), "epochs": 2, "batch_size": 64},
        "evaluate": {"bootstrap": 50, "importance_events": 300},
    }
    return pipeline.train(resolve(content), Journal()).folder


@pytest.fixture
def run_folder(trained: str, tmp_path: Path) -> Path:
    """A copy of the run that a test may change."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def metrics_in(folder: Path | str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((Path(folder) / "metrics.json").read_text())
    return found


def test_a_run_has_weighted_metrics_and_plots_and_shows_them(trained: str) -> None:
    metrics = metrics_in(trained)
    events = metrics["labels"]
    assert metrics["weights"]["sum"] == pytest.approx(2 * events["0"] + 0.5 * events["1"])
    assert sum(map(sum, metrics["confusion"]["sum"])) == pytest.approx(metrics["weights"]["sum"])
    assert metrics["class_names"] == {"0": "QCD", "1": "Higgs"}
    assert metrics["importance"]["events"] == 300
    assert metrics["auc_interval"]["replicas"] == 50
    assert len(metrics["learning_curves"]["fits"]) == 2
    assert {path.stem for path in (Path(trained) / "plots").glob("*.png")} == PLOTS
    page = (Path(trained) / "report.html").read_text()
    assert page.count("data:image/svg+xml;base64,") == len(PLOTS)
    assert "1 (Higgs)" in page


def test_evaluated_again_a_run_has_the_metrics_it_had(run: Command, run_folder: Path) -> None:
    done = run("evaluate", str(run_folder))
    assert done.code == 0, done.err
    assert "Spark" not in done.err
    target = run_folder / "evaluation-test"
    assert {path.name for path in target.iterdir()} == {"metrics.json", "plots"}
    assert {path.stem for path in (target / "plots").iterdir()} == PLOTS
    before, after = metrics_in(run_folder), metrics_in(target)
    assert after["auc"] == pytest.approx(before["auc"], abs=1e-9)
    assert after["learning_curves"] == before["learning_curves"]
    assert [row["branch"] for row in after["importance"]["branches"]] == [
        row["branch"] for row in before["importance"]["branches"]
    ]
    assert f"{after['auc']:.4f}" in done.out
    assert "1 (Higgs)" in done.out
    assert str(target) in done.out


def test_another_split_settings_and_place_and_twice_over(run: Command, run_folder: Path) -> None:
    for bootstrap in (0, 10):
        done = run(
            *("evaluate", str(run_folder), "--split", "validation", "--out", "mine", "--json"),
            *("--set", f"evaluate.bootstrap={bootstrap}", "--set", "evaluate.importance_events=0"),
        )
        assert done.code == 0, done.err
        metrics = metrics_in("mine")
        assert json.loads(done.out) == metrics
        assert (metrics["split"], metrics["importance"]) == ("validation", None)
        assert (metrics["auc_interval"] is None) == (bootstrap == 0)
        assert not (Path("mine") / "plots" / "importance.png").exists()
    assert [path.name for path in Path.cwd().iterdir() if path.name != "run"] == ["mine"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nowhere"], 2, "nowhere is no run folder: it has no config.yaml and model.keras and run.json and specs.json"),
        (["run", "--split", "tset"], 2, "no split 'tset': there are train, validation, test"),
        (["run", "--set", "features.nan=error"], 2, "only keys of evaluate can be changed"),
        (["run", "--set", "evaluate.boot=3"], 2, "unknown key 'evaluate.boot'; nearest: bootstrap"),
        (["run", "--out", "run"], 2, "it is no earlier evaluation, it holds bundle"),
        (["run", "--out", "run/run.json"], 2, "there is a file of this name"),
        (["run", "--out", "photos"], 2, "it is no earlier evaluation, it has no metrics.json"),
    ],
)
def test_what_cannot_be_done_is_said_and_changes_nothing(
    arguments: list[str], code: int, message: str, run: Command, run_folder: Path
) -> None:
    (Path("photos") / "plots").mkdir(parents=True)
    before = sorted(str(path) for path in Path.cwd().rglob("*"))
    done = run("evaluate", *arguments)
    assert (done.code, len(done.messages)) == (code, 1)
    assert message in done.messages[0]
    assert sorted(str(path) for path in Path.cwd().rglob("*")) == before
    assert run_folder.exists()


def test_chunks_that_were_made_again_are_refused(run: Command, run_folder: Path) -> None:
    told = json.loads((run_folder / "run.json").read_text())
    told["digests"]["content"] = "0" * 64
    (run_folder / "run.json").write_text(json.dumps(told))
    done = run("evaluate", str(run_folder))
    assert done.code == 4
    assert "are not those that" in done.messages[0]
    assert not (run_folder / "evaluation-test").exists()


def test_chunks_that_are_gone_are_named(run: Command, run_folder: Path, tmp_path: Path) -> None:
    told = json.loads((run_folder / "run.json").read_text())
    assert manifests.read(told["chunks"]).rows > 0
    (run_folder / "run.json").write_text(json.dumps({**told, "chunks": str(tmp_path / "gone")}))
    done = run("evaluate", str(run_folder))
    assert done.code == 4
    assert str(tmp_path / "gone") in done.messages[0]


@pytest.mark.parametrize("name", ["run.json", "model.keras", "specs.json", "config.yaml"])
def test_a_broken_part_of_a_run_is_an_error_of_ours(name: str, run: Command, run_folder: Path) -> None:
    (run_folder / name).write_text("{cut sh")
    done = run("evaluate", str(run_folder))
    assert done.code in {2, 3, 4, 5}, done.err
    assert len(done.messages) == 1
    assert "bug" not in done.messages[0]
    assert name in done.messages[0]
    assert not (run_folder / "evaluation-test").exists()
