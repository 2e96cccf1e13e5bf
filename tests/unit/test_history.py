"""history: runs are found, read and compared by what their folders say; what cannot be read is named, not skipped."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from mlaas_spark import history
from mlaas_spark.cli import main
from mlaas_spark.errors import ConfigError, UnreadableInputError

if TYPE_CHECKING:
    from pathlib import Path

CLASSIFIED = {
    "split": "test",
    "auc": 0.8,
    "loss": 0.5,
    "accuracy": None,
    "calibration": {"ece": 0.01},
    "residuals": None,
}


def write(home: Path, name: str, started: str = "2026-01-01T00:00:00+00:00", epochs: int = 3, **digests: str) -> Path:
    folder = home / name
    folder.mkdir(parents=True)
    told = {
        "started": started,
        "command": f"mlaas-spark train --set train.epochs={epochs}",
        "stages": [
            {"name": "specs", "seconds": 4.0},
            {"name": "train", "seconds": 2.5, "parts": {"reading": 0.01, "kernel": 0.5, "fit": 1.99}},
        ],
        "events": {"entries": 10, "train": 8, "weighted": None},
        "digests": {"content": "c" * 64, "config": "x", "model": "e" * 64, **digests},
        "versions": {"python": "3.11.9"},
    }
    texts = {
        "run.json": json.dumps(told),
        "metrics.json": json.dumps({**CLASSIFIED, "auc": 0.8 + epochs / 100}),
        "config.yaml": yaml.safe_dump({"name": "a", "train": {"epochs": epochs, "batch_size": 64}, "input": {}}),
        "plan.json": json.dumps({"files": [{"path": "/a.root", "uuid": "u", "entries": 10}]}),
    }
    for file, text in texts.items():
        (folder / file).write_text(text)
    return folder


def test_a_run_is_shown_with_what_its_stages_spent_their_time_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["runs", "show", str(write(tmp_path, "a/1"))]) == 0
    said = capsys.readouterr().out
    rows = [
        line.rstrip().split(maxsplit=2) for line in said[said.index("Stages") : said.index("Events")].splitlines()[2:]
    ]
    assert rows == [["specs", "4.0"], ["train", "2.5", "fit 2.0, kernel 0.5"]]


def test_runs_of_all_names_are_found_oldest_first(tmp_path: Path) -> None:
    write(tmp_path, "b/20260102T000000Z-1", "2026-01-02T00:00:00+00:00")
    write(tmp_path, "a/20260101T000000Z-2", "2026-01-01T00:00:00+00:00")
    (tmp_path / "a" / "chunks" / "0123").mkdir(parents=True)
    write(tmp_path, "a/.unfinished-host-1")
    found = history.find(str(tmp_path))
    assert [run.name for run in found.runs] == ["a/20260101T000000Z-2", "b/20260102T000000Z-1"]
    assert [run.name for run in history.find(str(tmp_path / "a")).runs] == ["a/20260101T000000Z-2"]
    assert found.broken == ()


def test_run_that_cannot_be_read_is_named_with_why(tmp_path: Path) -> None:
    folder = write(tmp_path, "a/1")
    (folder / "metrics.json").unlink()
    write(tmp_path, "a/2")
    found = history.find(str(tmp_path))
    assert [run.name for run in found.runs] == ["a/2"]
    ((where, why),) = found.broken
    assert where == str(folder)
    assert "metrics.json" in why


@pytest.mark.parametrize("file", ["run.json", "metrics.json", "config.yaml", "plan.json"])
def test_damaged_file_of_a_run_is_an_error_of_ours(tmp_path: Path, file: str) -> None:
    folder = write(tmp_path, "a/1")
    (folder / file).write_text("[1")
    with pytest.raises(UnreadableInputError, match="not as a run writes it"):
        history.read(str(folder))


def test_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no folder of runs"):
        history.find(str(tmp_path / "runs"))


def test_run_is_named_by_its_folder_its_name_or_the_beginning(tmp_path: Path) -> None:
    one = write(tmp_path, "a/20260101T000000Z-2")
    write(tmp_path, "b/20260102T000000Z-3")
    for named in (str(one), "a/20260101T000000Z-2", "a/", "20260101"):
        assert history.of_name(named, str(tmp_path)) == str(one)
    with pytest.raises(ConfigError, match=r"may be a/20260101T000000Z-2, b/20260102T000000Z-3"):
        history.of_name("2026", str(tmp_path))
    with pytest.raises(ConfigError, match="no run of"):
        history.of_name("c", str(tmp_path))


def test_metrics_are_those_that_are_one_number() -> None:
    assert history.numbers(CLASSIFIED) == {"auc": 0.8, "loss": 0.5, "calibration.ece": 0.01}
    of_regression = {"loss": 1.0, "residuals": {"mass": {"rmse": 2.0, "bias": -0.5, "r2": None}}}
    assert history.numbers(of_regression) == {"loss": 1.0, "mass.rmse": 2.0, "mass.bias": -0.5}


def test_comparison_has_all_metrics_and_of_the_rest_what_differs(tmp_path: Path) -> None:
    runs = [
        history.read(str(write(tmp_path, "a/1", epochs=3))),
        history.read(str(write(tmp_path, "a/2", epochs=5, content="d" * 64))),
    ]
    compared = history.compare(runs)
    assert compared.metrics["auc"] == pytest.approx((0.83, 0.85))
    assert compared.metrics["loss"] == (0.5, 0.5)
    assert compared.settings == {"train.epochs": (3, 5)}
    assert compared.data == {"content": ("c" * 64, "d" * 64)}
    assert compared.code == {}


def test_what_only_one_run_has_differs() -> None:
    assert history._differing([{"a": 1}, {"a": 1, "b": None}, {"a": 1, "b": 2}]) == {"b": (None, None, 2)}  # noqa: SLF001


def test_verbs_show_runs_and_tell_machines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, "a/1", epochs=3)
    write(tmp_path, "a/2", "2026-01-02T00:00:00+00:00", epochs=5)
    (tmp_path / "a" / "3").mkdir()
    (tmp_path / "a" / "3" / "run.json").write_text("{}")

    def said(*words: str) -> str:
        assert main(["runs", *words]) == 0
        return capsys.readouterr().out

    assert [run["name"] for run in json.loads(said("list", str(tmp_path), "--json"))["runs"]] == ["a/1", "a/2"]
    assert "2 runs" in said("list", "--set", f"runs={tmp_path}")
    shown = said("show", "a/2", "--runs", str(tmp_path))
    assert "mlaas-spark train --set train.epochs=5" in shown
    assert "cccccccccccc " in shown
    compared: dict[str, Any] = json.loads(said("compare", "a/1", "a/2", "--runs", str(tmp_path), "--json"))
    assert compared["settings"] == {"train.epochs": [3, 5]}
    page = tmp_path / "pages" / "compared.html"
    text = said("compare", "a/1", "a/2", "--runs", str(tmp_path), "--out", str(page))
    assert re.search(
        r"train\.epochs</th><td class=\"path\"><code>3</code></td><td class=\"path\"><code>5", page.read_text()
    )
    assert [line.split() for line in text.splitlines() if line.startswith("train.epochs")] == [
        ["train.epochs", "3", "5"]
    ]
    assert "the data are the same" in text


def test_one_run_is_not_compared(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", "compare", "a"]) == 2
    assert "two runs or more" in capsys.readouterr().err


def test_the_group_alone_shows_its_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs"]) == 0
    shown = capsys.readouterr().out
    assert all(verb in shown for verb in ("list", "show", "compare"))


def test_a_run_has_its_learning_curves_and_is_named_where_these_do_not_fit_together(tmp_path: Path) -> None:
    folder = write(tmp_path, "a/1")
    assert history.read(str(folder)).curves == {}
    curves = {"fits": [1, 2], "series": {"loss": [0.5, 0.25]}, "best": None}
    (folder / "metrics.json").write_text(json.dumps({**CLASSIFIED, "learning_curves": curves}))
    assert history.read(str(folder)).curves == {"fits": [1, 2], "series": {"loss": [0.5, 0.25]}}
    (folder / "metrics.json").write_text(json.dumps({**CLASSIFIED, "learning_curves": {**curves, "fits": [1]}}))
    with pytest.raises(UnreadableInputError, match="learning curves have values of other fits"):
        history.read(str(folder))
