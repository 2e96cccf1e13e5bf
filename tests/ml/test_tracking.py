from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from mlaas_spark.errors import ConfigError
from mlaas_spark.ml.tracking import client, flat, log_run

if TYPE_CHECKING:
    from pathlib import Path


def test_parameters_have_dotted_names_and_nothing_empty() -> None:
    given = {"train": {"epochs": 5, "callbacks": [], "model": None, "checkpoint": {"keep": 2}}, "name": "run"}
    assert flat(given) == {"train.epochs": 5, "train.checkpoint.keep": 2, "name": "run"}


def test_without_mlflow_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow.tracking", None)
    with pytest.raises(ConfigError, match=r"mlaas-spark\[mlflow\]"):
        client("mlruns")


@pytest.mark.filterwarnings("ignore::DeprecationWarning:google.protobuf.*")
def test_a_run_is_found_in_a_local_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow", reason="the extra [mlflow] is not installed: it brings 20 packages")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    there = client(str(tmp_path / "mlruns"))
    report = tmp_path / "report.html"
    report.write_text("seen")
    plots = tmp_path / "plots"
    plots.mkdir()
    (plots / "roc.png").write_bytes(b"drawn")
    rows = [{"epoch": 0, "loss": 0.5}, {"epoch": 1, "loss": 0.25}]
    run = log_run(there, "demo", "one", {"train": {"epochs": 2}}, rows, {"auc": 0.9, "roc": None}, [report, plots])
    found = there.get_run(run)
    assert found.data.params == {"train.epochs": "2"}
    assert found.data.metrics == {"epoch": 1.0, "loss": 0.25, "test_auc": 0.9}
    assert [metric.value for metric in there.get_metric_history(run, "loss")] == [0.5, 0.25]
    assert [item.path for item in there.list_artifacts(run)] == ["plots", "report.html"]
    assert [item.path for item in there.list_artifacts(run, "plots")] == ["plots/roc.png"]
    assert found.info.status == "FINISHED"
