"""runs: a folder that appears whole or not at all, and stages that are timed and told."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from mlaas_spark.runs import Journal, Stage, publish, versions, working_folder


def test_published_folder_has_the_texts_and_the_log(tmp_path: Path) -> None:
    home = tmp_path / "runs" / "demo"
    with working_folder(str(home)) as work:
        logging.getLogger("mlaas_spark.somewhere").info("reading %d files", 3)
        assert publish(work, "first", {"run.json": "{}"}) == str(home / "first")
    assert {path.name for path in (home / "first").iterdir()} == {"run.json", "log"}
    assert "INFO mlaas_spark.somewhere: reading 3 files" in (home / "first" / "log").read_text()
    assert [path.name for path in home.iterdir()] == ["first"]


def test_a_run_folder_is_for_its_user_alone_from_the_beginning(tmp_path: Path) -> None:
    with working_folder(str(tmp_path / "home")) as work:
        assert work.path.stat().st_mode & 0o777 == 0o700
        folder = publish(work, "run", {})
    assert Path(folder).stat().st_mode & 0o777 == 0o700


def test_lines_of_the_log_stay_lines(tmp_path: Path) -> None:
    with working_folder(str(tmp_path / "home")) as work:
        Journal().say("a\x1b[2J\nERROR b")
        said = (work.path / "log").read_text()
    assert said.count("\n") == 1
    assert said.endswith("a\\x1b[2J\\nERROR b\n")


def test_what_fails_leaves_nothing_not_even_the_folders_above(tmp_path: Path) -> None:
    def fail() -> None:
        with working_folder(str(tmp_path / "runs" / "demo")) as work:
            (work.path / "half.json").write_text("{")
            message = "no"
            raise ValueError(message)

    with pytest.raises(ValueError, match="no"):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_folders_that_were_there_stay(tmp_path: Path) -> None:
    with working_folder(str(tmp_path)):
        pass
    assert tmp_path.is_dir()


def test_logging_is_as_before_when_a_run_is_over(tmp_path: Path) -> None:
    logger = logging.getLogger("mlaas_spark")
    before = (logger.level, list(logger.handlers))
    with working_folder(str(tmp_path / "home")):
        assert len(logger.handlers) == len(before[1]) + 1
    assert (logger.level, list(logger.handlers)) == before


def test_journal_tells_and_keeps_each_finished_stage() -> None:
    told: list[str] = []
    journal = Journal(told.append)
    with journal.stage("specs") as stage:
        stage.events = 3000
        stage.remark = "fine"
    assert told[0] == "specs ..."
    assert told[1].startswith("specs done in ")
    assert told[1].endswith(": fine")
    (kept,) = journal.to_json()
    assert (kept["name"], kept["events"]) == ("specs", 3000)


def test_stage_that_fails_is_not_listed() -> None:
    journal = Journal()

    def fail() -> None:
        with journal.stage("chunks"):
            message = "disk full"
            raise OSError(message)

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert journal.stages == []


def test_rate_is_thousand_events_a_second() -> None:
    assert Stage("train", seconds=2.0, events=5000).khz == 2.5
    assert Stage("train", seconds=2.0).khz is None


def test_versions_name_what_results_depend_on() -> None:
    assert {"pyspark", "uproot", "numpy", "tensorflow", "python"} <= set(versions())
