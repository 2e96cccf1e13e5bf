"""cli.help: every verb explains itself, has the options that all verbs have, and completes in the shell."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import typer

from mlaas_spark import pipeline
from mlaas_spark.cli import app, main
from mlaas_spark.cli.help import ORDER
from mlaas_spark.formats import Format
from mlaas_spark.pipeline import Planned
from mlaas_spark.plan import EntryRange, Plan, PlannedFile
from mlaas_spark.schema import Branch, EventSchema

if TYPE_CHECKING:
    from pathlib import Path

COMMAND: Any = typer.main.get_command(app)
READ_ONLY = {"inspect", "plan", "models", "params", "serve-check", "predict-remote", "doctor", "throughput", "verify"}


def verbs() -> dict[str, Any]:
    """All commands with their full names, those of groups too."""
    found: dict[str, Any] = {}
    for name, command in COMMAND.commands.items():
        inner = getattr(command, "commands", None)
        found |= {f"{name} {verb}": of for verb, of in inner.items()} if inner else {name: command}
    return found


def options(verb: Any) -> set[str]:
    return {option for parameter in verb.params for option in parameter.opts if option.startswith("-")}


@pytest.mark.parametrize("name", verbs())
def test_example_of_each_verb_parses(name: str) -> None:
    told = re.search(rf"Example: (mlaas-spark {name}\b[^\n]*(?:\n +\S[^\n]*)*)", verbs()[name].help)
    assert told, f"{name} has no example"
    words = shlex.split(told.group(1).split("&&")[0].split("#")[0])
    context = verbs()[name].make_context(name, words[1 + len(name.split()) :])
    assert any(context.params.values())


@pytest.mark.parametrize("name", [name for name in verbs() if name != "scheduled"])  # the verb that it runs does
def test_each_verb_can_tell_a_machine(name: str) -> None:
    assert "--json" in options(verbs()[name])


@pytest.mark.parametrize("name", [name for name in verbs() if name.split()[0] not in READ_ONLY | {"runs", "scheduled"}])
def test_each_verb_that_writes_can_be_tried_dry(name: str) -> None:
    assert "--dry-run" in options(verbs()[name])


def test_verbs_are_listed_in_the_order_of_the_work(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = re.findall(r"^  ([a-z][a-z-]+)  ", capsys.readouterr().out, re.MULTILINE)
    order = [name for names in ORDER.values() for name in names]
    assert shown == [name for name in order if name in COMMAND.commands]


def test_no_words_at_all_are_answered_with_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert "Train and judge:" in capsys.readouterr().out


def test_options_of_a_verb_are_shown_by_what_they_are_about(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", "--help"]) == 0
    sections = dict(re.findall(r"^(\w+):\n((?:  .*\n)+)", capsys.readouterr().out, re.MULTILINE))
    assert "--out" in sections["Options"]
    assert "--help" in sections["Options"].splitlines()[-1]
    assert "--selection" in sections["Input"]
    assert "--set" in sections["Config"]


def test_options_of_all_verbs_may_stand_behind_the_verb(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: object) -> None:
        msg = "by zero"
        raise ZeroDivisionError(msg)

    monkeypatch.setattr(pipeline, "serve_check", fail)
    assert main(["serve-check", "bundle", "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


def completion(**environment: str) -> str:
    given = {**os.environ, **environment}
    code = "import sys; from mlaas_spark.cli import main; sys.exit(main([]))"
    done = subprocess.run([sys.executable, "-c", code], env=given, capture_output=True, text=True, check=False)  # noqa: S603
    assert not done.stderr
    return done.stdout


@pytest.mark.parametrize(("shell", "says"), [("bash", "complete -o"), ("zsh", "#compdef"), ("fish", "complete --")])
def test_completion_of_the_shell_is_a_script_to_source(shell: str, says: str) -> None:
    script = completion(_MLAAS_SPARK_COMPLETE=f"source_{shell}")
    assert says in script
    assert "mlaas-spark" in script


def test_shell_completes_verbs_and_options() -> None:
    asked = {"_MLAAS_SPARK_COMPLETE": "complete_bash"}
    assert completion(**asked, COMP_WORDS="mlaas-spark tr", COMP_CWORD="1").split() == ["train"]
    assert "--selection" in completion(**asked, COMP_WORDS="mlaas-spark convert --sel", COMP_CWORD="2").split()


def planned(*_: object) -> Planned:
    files = (PlannedFile("a.root", Format.ROOT, "T", "u", 10, None, 1.0, "", (0, 6, 10)),)
    schema = EventSchema.of([Branch("x", "x", "float32", jagged=False)])
    return Planned(Plan(files, schema, (EntryRange(0, 0, 6), EntryRange(0, 6, 10))), 2, (2_000_000,))


@pytest.mark.parametrize("verb", ["convert", "specs", "chunks", "predict", "train"])
def test_dry_run_tells_what_would_be_read_and_written_and_does_nothing(
    verb: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        pytest.fail("a dry run has run")

    monkeypatch.setattr(pipeline, verb, fail)
    monkeypatch.setattr(pipeline, "plan", planned)
    (tmp_path / "model.py").write_text("def model(idim): ...\n")
    out = {
        "predict": ["--run", "r", "--out", str(tmp_path / "o")],
        "train": ["--model", str(tmp_path / "model.py"), "--fout", str(tmp_path / "o")],
    }.get(verb, ["--out", str(tmp_path / "o")])
    assert main([verb, "a.root", *out, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "would read 10 entries of 1 file, 2.0 MB, in 2 ranges and 2 partitions" in shown
    assert f"would write {tmp_path}/o" in shown
    assert main([verb, "a.root", *out, "--dry-run", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["reads"]["entries"] == 10
    assert told["writes"][0]["exists"] is False
    assert [path.name for path in tmp_path.iterdir()] == ["model.py"]


def test_dry_run_of_a_training_refuses_a_model_file_that_is_no_python(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(pipeline, "plan", planned)
    (tmp_path / "model.py").write_text("def model(idim:\n")
    assert main(["train", "a.root", "--model", str(tmp_path / "model.py"), "--dry-run"]) == 5
