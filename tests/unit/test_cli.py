"""cli: exit codes, one message an error, options into the config, names shown as they are."""

from __future__ import annotations

import dataclasses
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from mlaas_spark import errors, pipeline
from mlaas_spark.cli import main, show
from mlaas_spark.cli.options import journal
from mlaas_spark.cli.show import within
from mlaas_spark.drift import Drift
from mlaas_spark.errors import MlaasSparkError
from mlaas_spark.manifest import DataFile, Input, Manifest
from mlaas_spark.runs import Journal
from mlaas_spark.schema import Branch, EventSchema, Omitted
from mlaas_spark.xrootd import Patience

KINDS: dict[type[MlaasSparkError], tuple[Any, ...]] = {
    errors.ConfigError: ("no",),
    errors.UnwritableOutputError: ("out", "no"),
    errors.FilesetError: ("no",),
    errors.TreeNotFoundError: ("T", "f.root", ("Tree",)),
    errors.BranchNotFoundError: ("x", ("y",)),
    errors.UnreadableInputError: ("f.root", "no"),
    errors.DamagedInputError: ("f.root", "no"),
    errors.SkipLimitError: ("no",),
    errors.SpecsError: ("no",),
    errors.SpecsMismatchError: ("no",),
    errors.ChunkError: ("no",),
    errors.ConflictError: ("out/versions/2.json",),
    errors.LockedError: ("runs/lock", "process 1 of bob on node"),
    errors.ShiftError: ({"x": ("PSI 0.3 > 0.2",)},),
    errors.ModelContractError: ("no",),
    errors.ExportError: ("no",),
    errors.ServingError: ("no",),
    errors.NoAnswerError: ("http://host", "no"),
}


def failing(error: BaseException) -> Any:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_exit_code_and_message_are_those_of_the_error(
    kind: type[MlaasSparkError], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    error = kind(*KINDS[kind])
    monkeypatch.setattr(pipeline, "serve_check", failing(error))
    assert main(["serve-check", "bundle"]) == kind.exit_code
    assert capsys.readouterr().err.strip() == f"error: {error}"


def test_every_error_of_ours_is_tried_above() -> None:
    assert set(KINDS) == set(errors.all_kinds()) - {MlaasSparkError}


def test_interruption_ends_with_7_and_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pipeline, "serve_check", failing(KeyboardInterrupt()))
    assert main(["serve-check", "bundle"]) == 7
    assert "run the same command again" in capsys.readouterr().err


def test_what_a_job_tells_is_shown_once_with_v_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def told(*_: object, **__: object) -> None:
        journal().say("8 chunks")
        Journal().say("9 chunks")
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "serve_check", told)
    assert main(["-v", "serve-check", "bundle"]) == 7
    assert capsys.readouterr().err.splitlines()[:2] == ["8 chunks", "INFO: 9 chunks"]


def test_any_other_error_is_named_a_bug_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pipeline, "serve_check", failing(ZeroDivisionError("by zero")))
    assert main(["serve-check", "bundle"]) == 1
    shown = capsys.readouterr().err
    assert "bug" in shown
    assert "ZeroDivisionError: by zero" in shown
    assert "Traceback" not in shown
    assert main(["--debug", "serve-check", "bundle"]) == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (["specs", "--branchs", "x"], "--branches"),
        (["convert", "f.root"], "--out"),
        (["trian"], "train"),
        (["specs", "f.root", "--set", "x"], "--set takes key=value"),
        (["specs", "f.root", "--set", "input.tre=x"], "nearest: tree"),
        (["train", "--labels", "1,0"], "go with --files"),
        (["train", "f.root", "--files", "f.txt"], "leave out"),
        (["demo", "--files", "3"], "must be even"),
        (["predict", "f.root", "--run", "r"], "--out"),
        (["predict", "f.root", "--out", "o"], "name one model"),
        (["predict", "f.root", "--out", "o", "--run", "r", "--bundle", "b"], "name one model"),
        (["inspect", "f.root", "--headers", "--events", "5"], "reads no event"),
    ],
)
def test_mistake_on_the_command_line_ends_with_2_and_names_what_is_meant(
    line: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(line) == 2
    shown = capsys.readouterr().err
    assert says in shown
    assert shown.count("error:") == 1


def test_options_win_over_the_config_file_and_settings_over_both(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "c.yaml").write_text("input: {files: [x.root], tree: A, branches: [p]}\ntrain: {epochs: 3}\n")
    seen = []

    def look(config: Any, *_: object, **__: object) -> None:
        seen.append(config)
        message = "seen"
        raise errors.ConfigError(message)

    monkeypatch.setattr(pipeline, "convert", look)
    given = ["--config", str(tmp_path / "c.yaml"), "--tree", "B", "--set", "input.tree=C", "--exclude", "a,b*"]
    assert main(["convert", *given, "--out", "o"]) == 2
    (config,) = seen
    assert (config.input.tree, config.input.files, config.input.branches) == ("C", ("x.root",), ("p",))
    assert (config.input.exclude, config.train.epochs) == (("a", "b*"), 3)


@pytest.mark.parametrize("verb", ["inspect", "plan", "convert", "specs", "chunks", "train", "predict"])
def test_options_for_servers_mean_the_same_in_each_verb(
    verb: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "c.yaml").write_text("input: {files: [x.root], timeout: 5, retries: 4, allow_copies: true}\n")
    seen = []

    def look(config: Any, *_: object, **__: object) -> None:
        seen.append(config.input)
        message = "seen"
        raise errors.ConfigError(message)

    monkeypatch.setattr(pipeline, verb, look)
    given = ["--config", str(tmp_path / "c.yaml"), "--retries", "0", "--redirector", "root://host:1094"]
    out = ["--out", "o"] if verb in {"convert", "chunks", "predict"} else []
    out += ["--run", "r"] if verb == "predict" else []
    assert main([verb, *given, "--timeout", "7", *out]) == 2
    (section,) = seen
    assert (section.patience, section.redirector) == (Patience(timeout=7, retries=0), "root://host:1094")
    assert section.allow_copies  # as the config says, for the command line does not


def test_files_on_the_command_line_replace_the_groups_of_the_config(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "c.yaml").write_text("input: {groups: [{files: x.root, label: 1}]}\n")
    seen = []

    def look(config: Any, *_: object, **__: object) -> None:
        seen.append(config.input)
        message = "seen"
        raise errors.ConfigError(message)

    monkeypatch.setattr(pipeline, "convert", look)
    assert main(["convert", "y.root", "--config", str(tmp_path / "c.yaml"), "--out", "o"]) == 2
    assert (seen[0].files, seen[0].groups) == (("y.root",), ())


@pytest.mark.parametrize(
    ("section", "line"),
    [
        ("input", ["convert", "x.root", "--out", "o"]),
        ("convert", ["convert", "--compression", "zstd", "--out", "o"]),
        ("features", ["predict", "--model", "m.keras", "--specs", "s.json", "--out", "o"]),
        ("serve", ["models", "--url", "http://host:1"]),
    ],
)
def test_value_in_the_place_of_a_section_is_named_with_its_file(
    section: str, line: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c.yaml").write_text(f"{section}: 3\n")
    assert main([*line, "--config", str(tmp_path / "c.yaml")]) == 2
    assert f"c.yaml: {section} is a int, not a section" in capsys.readouterr().err


def test_prediction_is_told_model_folder_and_what_is_kept_and_shows_drift(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c.yaml").write_text("predict: {keep: [a], batch_size: 5}\n")
    seen = []

    def look(config: Any, model: str, folder: str, _: object, **__: object) -> Manifest:
        seen.append((config.predict.keep, config.predict.batch_size, model, folder))
        drift = {"Jet_pt": Drift(below=1, above=23_456), "MET": Drift(cut=7)}
        files = [DataFile(f"scores/{name}.parquet", 4, 10, ((0, 0, 5),), "d", drift=drift) for name in "ab"]
        schema = EventSchema.of([Branch("score", "score", "float32", jagged=False)])
        return Manifest("scores", "r", schema, (Input("f", "u", "T", 10, 8, None, 1.0),), tuple(files))

    monkeypatch.setattr(pipeline, "predict", look)
    given = ["predict", "f.root", "--config", str(tmp_path / "c.yaml"), "--out", "o"]
    assert main([*given, "--run", "r", "--keep", "MET_*,Jet_pt"]) == 0
    shown = capsys.readouterr().out
    assert "10 entries in = 8 rows out: 8 events scored + 2 not selected" in shown
    (jets,) = (line for line in shown.splitlines() if line.startswith("Jet_pt"))
    assert jets.split() == ["Jet_pt", "2", "46,912", "0", "0"]
    assert "o/scores" in shown
    assert main([*given, "--bundle", "b.tar.gz"]) == 0
    assert seen == [(("MET_*", "Jet_pt"), 5, "r", "o"), (("a",), 5, "b.tar.gz", "o")]


def test_names_with_markup_are_shown_as_they_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pipeline, "serve_check", failing(errors.ServingError("[red]x[/red].tar.gz [/] is none")))
    assert main(["serve-check", "x"]) == 6
    assert "[red]x[/red].tar.gz [/] is none" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("paths", "folder", "names"),
    [
        (["/a/b/x.root"], "/a/b", ["x.root"]),
        (["/a/b/x.root", "/a/c/x.root"], "/a", ["b/x.root", "c/x.root"]),
        (["root://h:1//d/x.root", "root://h:1//d/y.root"], "root://h:1//d", ["x.root", "y.root"]),
        (["/x.root", "hdfs://h/x.root"], "", ["/x.root", "hdfs://h/x.root"]),
        (["/a/b/x.root", "/a/bc/x.root"], "/a", ["b/x.root", "bc/x.root"]),
    ],
)
def test_paths_are_shown_from_the_folder_that_all_are_in(paths: list[str], folder: str, names: list[str]) -> None:
    assert within(paths) == (folder, names)


@pytest.mark.parametrize(
    "verb", ["inspect", "plan", "convert", "specs", "chunks", "train", "evaluate", "export", "serve-check", "demo"]
)
def test_help_of_each_verb_has_an_example(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "--help"]) == 0
    assert f"Example: mlaas-spark {verb}" in capsys.readouterr().out


@pytest.mark.parametrize("job", ["inspect", "convert", "specs", "train"])
def test_each_job_is_a_few_lines_that_run_its_verb(job: str) -> None:
    text = (Path(__file__).parents[2] / "jobs" / f"{job}.py").read_text()
    assert f'main(["{job}", *sys.argv[1:]])' in text
    assert len(text.splitlines()) <= 40


def converted(omitted: list[Omitted]) -> Manifest:
    return Manifest("events", "", EventSchema((), tuple(omitted)), (), (DataFile("events/a.parquet", 3, 9, (), ""),))


def test_convert_tells_what_was_left_out_and_why_and_where_the_parquet_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = converted([Omitted("T[1]", "objects of type T"), Omitted("a", "no type"), Omitted("b", "no type")])
    monkeypatch.setattr(pipeline, "convert", lambda *_, **__: made)
    assert main(["convert", "f.root", "--out", "out"]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert {"Left out", "objects of type T 1 T[1]", "no type 2 a, b"} <= set(lines)
    assert lines[-1] == "to read as plain Parquet: out/events"


def test_convert_tells_which_branches_have_another_type_in_parquet(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    branches = [
        Branch(name, name, dtype, jagged=False)
        for name, dtype in (("h", "float16"), ("l", "list<float16>"), ("x", "bool"))
    ]
    made = dataclasses.replace(converted([]), schema=EventSchema.of(branches))
    monkeypatch.setattr(pipeline, "convert", lambda *_, **__: made)
    assert main(["convert", "f.root", "--out", "out"]) == 0
    assert "float16 is float32 in Parquet, with equal values: h, l\n" in capsys.readouterr().out


def test_convert_with_nothing_left_out_says_nothing_of_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pipeline, "convert", lambda *_, **__: converted([]))
    assert main(["convert", "f.root", "--out", "out"]) == 0
    assert "Left out" not in capsys.readouterr().out


def test_very_many_that_were_left_out_are_counted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    many = [Omitted(f"n{i:03}", "excluded") for i in range(300)]
    odd = [Omitted(f"m{i:03}", f"is in {i} but not in {i + 1}") for i in range(50)]
    monkeypatch.setattr(pipeline, "convert", lambda *_, **__: converted([*many, *odd]))
    assert main(["convert", "f.root", "--out", "out"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "excluded 300 n000, n001, " in told
    assert "n019, ... (all in manifest.json)" in told
    assert "n020" not in told
    assert "is in 18 but not in 19 1 m018 other reasons, see manifest.json 31 ..." in told


HOSTILE_NAME = "Jet\x1b]0;owned\x07\x1b[2J\u202e_pt\nerror: all is well\r"


def test_names_that_steer_a_terminal_are_spelled_out_in_errors(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failure = errors.BranchNotFoundError(HOSTILE_NAME, [HOSTILE_NAME], HOSTILE_NAME)
    monkeypatch.setattr(pipeline, "serve_check", failing(failure))
    assert main(["serve-check", HOSTILE_NAME]) == 3
    check_harmless(capsys.readouterr(), lines=1)


def test_names_that_steer_a_terminal_are_spelled_out_in_usage_errors(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([HOSTILE_NAME]) == 2
    assert main(["inspect", f"--{HOSTILE_NAME}"]) == 2
    check_harmless(capsys.readouterr(), lines=2)


def test_names_that_steer_a_terminal_are_spelled_out_with_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pipeline, "serve_check", failing(errors.ServingError(HOSTILE_NAME)))
    assert main(["--debug", "serve-check", "x"]) == 6
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert not [one for one in said if one != "\n" and unicodedata.category(one) in {"Cc", "Cf"}]


def test_names_that_steer_a_terminal_are_spelled_out_in_tables_lines_and_logs(
    capsys: pytest.CaptureFixture[str],
) -> None:
    show.table(HOSTILE_NAME, [HOSTILE_NAME], [[HOSTILE_NAME], [3]])
    show.pairs([(HOSTILE_NAME, HOSTILE_NAME)])
    show.line(HOSTILE_NAME)
    show.remark(HOSTILE_NAME)
    journal().say(HOSTILE_NAME)
    check_harmless(capsys.readouterr())


def check_harmless(said: Any, lines: int | None = None) -> None:
    """Nothing but text, and no line that a name has made."""
    for text in (said.out, said.err):
        assert not [one for one in text if one != "\n" and unicodedata.category(one) in {"Cc", "Cf"}]
        assert not any(line.startswith("error: all is well") for line in text.splitlines())
    assert "\\x1b" in said.out + said.err
    assert lines is None or len(said.err.splitlines()) == lines
