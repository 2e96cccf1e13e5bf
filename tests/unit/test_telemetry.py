"""What machines are told of a job: JSON lines, Prometheus' text format read by its own parser, a program called."""

from __future__ import annotations

import json
import logging
import sys
from typing import TYPE_CHECKING

import pytest

from mlaas_spark.errors import ConfigError, UnwritableOutputError
from mlaas_spark.runs import Journal
from mlaas_spark.telemetry import Done, Outcome, Stages, json_lines, notify, textfile, write_textfile

if TYPE_CHECKING:
    from pathlib import Path

OUTCOME = Outcome(
    "convert",
    'night "1"\n',
    0,
    1_000.0,
    12.5,
    stages=(Done("open files", 1.0, 80), Done("open files", 0.5), Done("x", 2.0)),
)


def _samples(text: str) -> dict[str, float]:
    """Value by the text before it, of lines that are no remark."""
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}


def test_the_textfile_has_each_sample_once_with_its_labels_escaped() -> None:
    text = textfile(OUTCOME)
    labels = r'verb="convert",name="night \"1\"\n"'
    found = _samples(text)
    assert found[f"mlaas_spark_last_exit_code{{{labels}}}"] == 0
    assert found[f"mlaas_spark_last_success_timestamp_seconds{{{labels}}}"] == 1_012.5
    assert found[f'mlaas_spark_stage_duration_seconds{{{labels},stage="open files"}}'] == 1.5
    assert found[f'mlaas_spark_stage_events{{{labels},stage="open files"}}'] == 80
    assert len(found) == len([line for line in text.splitlines() if not line.startswith("#")])
    assert all(line.startswith(("# HELP ", "# TYPE ", "mlaas_spark_")) for line in text.splitlines())


def test_a_failure_keeps_the_time_of_the_last_success(tmp_path: Path) -> None:
    path = tmp_path / "job.prom"
    write_textfile(path, OUTCOME)
    write_textfile(path, Outcome("convert", "", 3, 2_000.0, 1.0, "no such file"))
    found = {key.partition("{")[0]: value for key, value in _samples(path.read_text()).items()}
    assert found["mlaas_spark_last_exit_code"] == 3
    assert found["mlaas_spark_last_success_timestamp_seconds"] == 1_012.5
    assert found["mlaas_spark_last_run_timestamp_seconds"] == 2_001


def test_what_a_job_says_is_json_and_its_stages_are_kept(tmp_path: Path) -> None:
    path, stages = tmp_path / "new" / "log.jsonl", Stages()
    logger = logging.getLogger("mlaas_spark")
    handlers = [json_lines(path), stages]
    for handler in handlers:
        logger.addHandler(handler)
    before = logger.level
    logger.setLevel(logging.INFO)
    try:
        journal = Journal()
        journal.say('a "line"')
        with journal.stage("specs") as stage:
            stage.events = 7
            stage.deal = lambda seconds: {"reading": seconds}
    finally:
        logger.setLevel(before)
        for handler in handlers:
            logger.removeHandler(handler)
            handler.close()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines[0]["message"] == 'a "line"'
    assert lines[-1]["stage"] == "specs"
    assert lines[-1]["events"] == 7
    assert lines[-1]["parts"] == {"reading": lines[-1]["seconds"]}
    assert [(done.stage, done.events) for done in stages.done] == [("specs", 7)]


def test_a_log_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnwritableOutputError, match="cannot write"):
        json_lines(tmp_path)


def test_a_program_gets_the_outcome_on_its_standard_input(tmp_path: Path) -> None:
    script = tmp_path / "hook.py"
    script.write_text("import sys, pathlib; pathlib.Path(sys.argv[1]).write_text(sys.stdin.read())")
    assert notify(f"{sys.executable} {script} {tmp_path / 'got'}", OUTCOME) == ""
    got = json.loads((tmp_path / "got").read_text())
    assert (got["verb"], got["code"], got["began"]) == ("convert", 0, "1970-01-01T00:16:40.000+00:00")


def test_a_program_that_fails_or_is_not_there_is_told_and_harms_nothing(tmp_path: Path) -> None:
    assert "ended with 1: no mail" in notify(f"{sys.executable} -c 'import sys; sys.exit(\"no mail\")'", OUTCOME)
    assert "failed" in notify(str(tmp_path / "nothing"), OUTCOME)
    with pytest.raises(ConfigError, match="No closing quotation"):
        notify("mail 'x", OUTCOME)
