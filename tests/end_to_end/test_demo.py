"""The demo's way on a smaller sample: spark-submit, the run folder, the bundle, and what a second run takes up."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from mlaas_spark import manifest
from mlaas_spark.branch_specs import SpecsFile
from mlaas_spark.config import read, resolve
from mlaas_spark.plan import Plan
from tests.end_to_end.conftest import EVENTS

if TYPE_CHECKING:
    from tests.end_to_end.conftest import Command

REPOSITORY = Path(__file__).parents[2]
RUN_FILES = {
    "config.yaml",
    "plan.json",
    "specs.json",
    "model.keras",
    "bundle",
    "metrics.json",
    "plots",
    "history.csv",
    "skipped.json",
    "run.json",
    "report.html",
    "log",
}


def settings(sample: Path, runs: Path) -> list[str]:
    groups = [
        {"name": "signal", "files": [str(sample / "signal_*.root")], "label": 1},
        {"name": "background", "files": [str(sample / "background_*.root")], "label": 0},
    ]
    values = {
        "input.groups": groups,
        "runs": str(runs),
        "chunks.size": 1000,
        "train.epochs": 3,
        "train.batch_size": 64,
        "train.model": str(REPOSITORY / "conf" / "demo_model.py"),
    }
    return [part for key, value in values.items() for part in ("--set", f"{key}={json.dumps(value)}")]


def run_folder(runs: Path) -> Path:
    (folder,) = (path for path in (runs / "demo").iterdir() if path.name[:2] == "20")
    return folder


@pytest.fixture(scope="module")
def submitted(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """``spark-submit jobs/train.py --config conf/demo.yaml`` in a process of its own; its runs folder and output."""
    import pyspark

    runs = tmp_path_factory.mktemp("submitted")
    home = Path(pyspark.__file__).parent
    environment = {
        **os.environ,
        "PYSPARK_PYTHON": sys.executable,
        "PYSPARK_DRIVER_PYTHON": sys.executable,
        "SPARK_HOME": str(home),
        "SPARK_CONF_DIR": str(REPOSITORY / "conf" / "spark"),
        "SPARK_LOCAL_IP": "127.0.0.1",
    }
    command = [str(home / "bin" / "spark-submit"), "--master", "local[2]", "jobs/train.py"]
    done = subprocess.run(  # noqa: S603 - our own job
        [*command, "--config", "conf/demo.yaml", *settings(sample, runs)],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return runs, done.stdout + done.stderr


def test_summary_names_events_auc_folder_bundle_and_what_to_try(submitted: tuple[Path, str]) -> None:
    runs, shown = submitted
    for part in (f"{EVENTS:,} in", "test AUC", str(run_folder(runs)), ".tar.gz", "serve-check", "train done in"):
        assert part in shown
    assert "Traceback" not in shown


def test_run_folder_has_every_file_and_they_agree(submitted: tuple[Path, str]) -> None:
    folder = run_folder(submitted[0])
    assert {path.name for path in folder.iterdir()} == RUN_FILES
    run = json.loads((folder / "run.json").read_text())
    metrics = json.loads((folder / "metrics.json").read_text())
    plan = Plan.from_json(json.loads((folder / "plan.json").read_text()))
    specs = SpecsFile.loads((folder / "specs.json").read_text())
    rows = list(csv.DictReader((folder / "history.csv").read_text().splitlines()))
    config = resolve(read(folder / "config.yaml"))
    assert run["events"]["entries"] == run["events"]["events"] == plan.entries == specs.specs.events == EVENTS
    assert sum(run["events"][split] for split in ("train", "validation", "test")) == EVENTS
    assert metrics["events"] == run["events"]["test"]
    assert 0.6 < metrics["auc"] < 0.99
    assert len(rows) == config.train.epochs == 3
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])
    assert [stage["name"] for stage in run["stages"]][-4:] == ["chunks", "train", "evaluate", "export"]
    assert run["digests"]["content"] == manifest.read(run["chunks"]).content_digest
    assert "train done in" in (folder / "log").read_text()
    report = (folder / "report.html").read_text()
    assert f"{metrics['auc']:.4f}" in report
    assert report.count('<svg class="small"') == 14 + 9  # values of each branch, lengths of the jagged ones
    assert f"are of {run['events']['train']:,} training events, each class to the same area" in report
    assert f"{folder}/config.yaml" in report
    assert json.loads((folder / "skipped.json").read_text()) == {
        "branches": [],
        "files": [],
        "events": {"selection": 0},
    }


def test_bundle_serves_the_models_scores_and_can_be_written_again(submitted: tuple[Path, str], run: Command) -> None:
    folder = run_folder(submitted[0])
    verified = run("verify", str(folder))
    assert verified.code == 0, verified.out
    archives = sorted((folder / "bundle").glob("*.tar.gz"))
    checked = [run("serve-check", str(archive), "--json") for archive in archives]
    assert [outcome.code for outcome in checked] == [0, 0]
    reports = [json.loads(outcome.out) for outcome in checked]
    assert max(report["difference"] for report in reports) <= 1e-6
    assert {report["inputs"]: report["name"] for report in reports} == json.loads((folder / "run.json").read_text())[
        "bundles"
    ]
    again = run("export", str(folder), "--out", "again")
    assert again.code == 0, again.err
    assert sorted(path.name for path in Path("again").glob("*.tar.gz")) == [path.name for path in archives]
    for path in archives:  # the same run gives the same card, whenever it is exported
        card = f"{path.name.removesuffix('.tar.gz')}/MODEL_CARD.md"
        assert (Path("again") / card).read_bytes() == (path.parent / card).read_bytes()
    raw = run("export", str(folder), "--out", "alone", "--set", "export.inputs=raw")
    assert raw.code == 0, raw.err
    (alone,) = Path("alone").glob("*.tar.gz")
    assert "takes events" in raw.out
    assert alone.name.removesuffix(".tar.gz") == json.loads((folder / "run.json").read_text())["bundle"]


def train(run: Command, sample: Path, runs: Path, *more: str) -> dict[str, Any]:
    """A run in this process: its metrics, history and run.json."""
    config = str(REPOSITORY / "conf" / "demo.yaml")
    outcome = run("train", "--config", config, *settings(sample, runs), *more)
    assert outcome.code == 0, outcome.err
    folder = run_folder(runs)
    return {
        "metrics": json.loads((folder / "metrics.json").read_text()),
        "history": (folder / "history.csv").read_text(),
        "run": json.loads((folder / "run.json").read_text()),
    }


def test_equal_runs_give_equal_digests_and_dense_chunks_train_like_compact_ones(
    run: Command, sample: Path, tmp_path: Path, submitted: tuple[Path, str]
) -> None:
    first = json.loads((run_folder(submitted[0]) / "run.json").read_text())
    compact = train(run, sample, tmp_path / "compact")
    dense = train(run, sample, tmp_path / "dense", "--set", "chunks.layout=dense")
    assert compact["run"]["digests"]["content"] == first["digests"]["content"]
    assert dense["history"] == compact["history"]
    assert dense["metrics"]["auc"] == compact["metrics"]["auc"]


@pytest.mark.parametrize(("mode", "size", "fits"), [("chunks", 1000, 9), ("chunks", "all", 3), ("epochs", "all", 3)])
def test_every_mode_and_chunk_size_trains(
    mode: str, size: int | str, fits: int, run: Command, sample: Path, tmp_path: Path
) -> None:
    done = train(run, sample, tmp_path / "runs", "--set", f"train.mode={mode}", "--set", f"chunks.size={size}")
    rows = list(csv.DictReader(done["history"].splitlines()))
    assert len(rows) == fits
    assert done["metrics"]["auc"] > 0.6


def test_second_run_takes_the_chunks_that_are_there(run: Command, sample: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    first = train(run, sample, runs)
    folder = Path(first["run"]["chunks"])
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.parquet")}
    outcome = run("train", "--config", str(REPOSITORY / "conf" / "demo.yaml"), *settings(sample, runs))
    assert outcome.code == 0, outcome.err
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.parquet")} == before
    assert len([path for path in (runs / "demo").iterdir() if path.name != "chunks"]) == 2


def test_selected_and_capped_events_add_up(run: Command, sample: Path, tmp_path: Path) -> None:
    done = train(
        run, sample, tmp_path / "runs", "--selection", "nJet >= 2", "--set", "features.caps={Jet_pt: 2, Jet_eta: 1}"
    )
    import uproot

    kept = 0
    for path in sorted(sample.glob("*.root")):
        with uproot.open(path) as file:
            kept += int(np.sum(file["Events"]["nJet"].array(library="np") >= 2))
    events = done["run"]["events"]
    assert (events["events"], events["selection"]) == (kept, EVENTS - kept)
    log = (run_folder(tmp_path / "runs") / "log").read_text()
    assert "Jet_pt" in log
    assert "are cut at 2 an event" in log
