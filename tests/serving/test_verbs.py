"""The verbs that speak to a server: exit codes, what they print and refuse. Linear models; no check offline."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mlaas_spark.cli import main
from tests.serving.conftest import NAME, Made
from tests.serving.server import Faults

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.serving.conftest import Certificates, Start
    from tests.serving.server import ContractServer

SECOND = "higgs_abcdef012345"


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run a command line in an empty folder, with short waits: exit code, standard output, standard error."""
    from mlaas_spark.ml import bundle

    monkeypatch.setattr(bundle, "serve_check", lambda _: {})
    monkeypatch.chdir(tmp_path)

    def command(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        told = capsys.readouterr()
        return code, told.out, told.err

    return command


@pytest.fixture
def config(server: ContractServer, tmp_path: Path) -> Path:
    path = tmp_path / "serving.yaml"
    path.write_text(f"serve: {{url: '{server.url}', retries: 0, timeout: 5, rate: null, alias: higgs.json}}\n")
    return path


def content(path: str) -> Any:
    return json.loads(Path(path).read_text())


def test_upload_promote_and_rollback(run: Any, server: ContractServer, config: Path, tmp_path: Path) -> None:
    first, second = Made().write(tmp_path), Made(SECOND, weights=[[1, 1, 1, 1], [0, 0, 0, 1]]).write(tmp_path)
    code, out, _ = run("upload", first, "--config", config, "--promote")
    assert code == 0
    assert f"{NAME} at {server.url}: 6 files equal (it had it already), 40 events scored" in out
    assert f"alias higgs: {NAME} at {server.url}" in out
    assert run("upload", second, "--config", config, "--promote")[0] == 0
    assert [content("higgs.json")["name"], content("higgs.json")["history"][0]["name"]] == [SECOND, NAME]
    code, out, _ = run("rollback", "--alias", "higgs")
    assert (code, out) == (0, f"alias higgs: {NAME} at {server.url}\n")
    assert content("higgs.json")["name"] == NAME
    code, _, err = run("rollback", "--config", config)
    assert code == 6
    assert f"error: the alias higgs has no model before {NAME}" in err


def test_without_promote_no_alias_is_written(run: Any, config: Path, tmp_path: Path) -> None:
    assert run("upload", Made().write(tmp_path), "--config", config)[0] == 0
    assert not (tmp_path / "higgs.json").exists()


def test_an_alias_without_a_name_is_called_as_the_bundle(run: Any, server: ContractServer, tmp_path: Path) -> None:
    assert run("upload", Made().write(tmp_path), "--url", server.url, "--promote", "--set", "serve.rate=null")[0] == 0
    assert content("higgs.json")["alias"] == "higgs"


def test_an_upload_that_fails_promotes_nothing(run: Any, start: Start, config: Path, tmp_path: Path) -> None:
    server = start()
    server.faults = Faults("wrong")
    code, _, err = run("upload", Made().write(tmp_path), "--config", config, "--url", server.url, "--promote")
    assert code == 6
    assert "it was deleted again" in err
    assert not (tmp_path / "higgs.json").exists()


FAULTS = ["down", "slow", "500", "503", "429", "reset", "drop", "html", "wrong", "nan", "stores", "loses"]


@pytest.mark.parametrize("kind", FAULTS)
def test_whatever_a_server_does_wrong_clients_keep_their_model(
    run: Any, start: Start, config: Path, tmp_path: Path, kind: str
) -> None:
    server = start()
    asked = ("--config", config, "--url", server.url, "--promote")
    assert run("upload", Made().write(tmp_path), *asked)[0] == 0
    before = (tmp_path / "higgs.json").read_bytes()
    if kind == "down":
        server.shut()
    server.faults = Faults(kind)
    second = Made(SECOND, weights=[[1, 1, 1, 1], [0, 0, 0, 1]]).write(tmp_path)
    code, out, err = run("upload", second, *asked, "--set", "serve.timeout=1")
    errors = [line for line in err.splitlines() if line.startswith("error:")]
    assert (code, len(errors), out) == (6, 1, ""), err
    assert "bug" not in errors[0]
    assert (tmp_path / "higgs.json").read_bytes() == before


def test_what_is_no_alias_file_is_known_before_anything_is_sent(
    run: Any, start: Start, config: Path, tmp_path: Path
) -> None:
    server = start()
    (tmp_path / "higgs.json").write_text("[]")
    code, _, err = run("upload", Made().write(tmp_path), "--config", config, "--url", server.url, "--promote")
    assert code == 6
    assert "is no alias file" in err
    assert not server.requests


def test_rollback_to_a_model_that_is_gone_is_refused(
    run: Any, server: ContractServer, config: Path, tmp_path: Path
) -> None:
    run("upload", Made().write(tmp_path), "--config", config, "--promote")
    run("upload", Made(SECOND).write(tmp_path), "--config", config, "--promote")
    assert run("delete", NAME, "--config", config)[0] == 0
    code, _, err = run("rollback", "--config", config)
    assert code == 6
    assert f"no model '{NAME}' at {server.url}; nearest: {SECOND}" in err
    assert content("higgs.json")["name"] == SECOND


def test_what_clients_use_is_not_deleted(run: Any, config: Path, tmp_path: Path) -> None:
    run("upload", Made().write(tmp_path), "--config", config, "--promote")
    code, _, err = run("delete", NAME, "--config", config)
    assert code == 6
    assert f"{NAME} is what the alias higgs.json means now" in err
    assert run("models", "--config", config, "--json")[1].count(NAME) >= 1


def test_models_are_listed(run: Any, config: Path) -> None:
    code, out, _ = run("models", "--config", config)
    assert code == 0
    assert NAME in out
    assert "for people" in out


def test_scores_are_printed_event_by_event(run: Any, config: Path, tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_text("[1, 2, 3, 4]\n[0, 0, 0, 1]\n")
    code, out, err = run("predict-remote", "events.jsonl", "--config", config, "--model", NAME)
    assert (code, err) == (0, "")
    assert [json.loads(line) for line in out.splitlines()] == [[8.625, 5.5], [2.0, 0.75]]


def test_the_alias_names_model_and_server(run: Any, config: Path, tmp_path: Path) -> None:
    run("upload", Made().write(tmp_path), "--config", config, "--promote")
    (tmp_path / "events.csv").write_text("MET,nJet,Jet_pt_0,Jet_pt_1\n1,2,3,4\n")
    for line in (["--alias", "higgs"], ["--alias", "higgs.json", "--proto"], ["--config", config]):
        assert run("predict-remote", "events.csv", *line)[:2] == (0, "[8.625, 5.5]\n")


def test_a_reader_that_has_enough_is_no_error(server: ContractServer, tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_text("[1, 2, 3, 4]\n" * 6000)
    command = (
        "import sys; from mlaas_spark.cli import main; "
        f"sys.exit(main(['predict-remote', 'events.jsonl', '--url', '{server.url}', '--model', '{NAME}', "
        "'--set', 'serve.rate=null']))"
    )
    with subprocess.Popen(  # noqa: S603
        [sys.executable, "-c", command], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "[8.625, 5.5]\n"
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait() == 0


def test_an_image_is_sent_as_one(run: Any, config: Path, tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"no image")
    code, _, err = run("predict-remote", "x.png", "--image", "--config", config, "--model", NAME)
    assert code == 6
    assert "neither a PNG nor a JPEG" in err
    assert run("predict-remote", "none.png", "--image", "--config", config, "--model", NAME)[0] == 3


def test_every_model_of_a_server_is_checked(run: Any, server: ContractServer, config: Path) -> None:
    Made("theirs", files={"check.npz": None}).put(server.models)
    code, out, err = run("serve-check", "--config", config, "--url", server.url)
    assert code == 0
    (line,) = out.splitlines()
    assert line.startswith(f"{NAME} at {server.url}: 40 events scored, largest difference ")
    assert "theirs has no check.npz: not checked" in err


def test_a_server_of_others_models_has_nothing_to_check(run: Any, start: Start) -> None:
    server = start()
    code, _, err = run("serve-check", "--url", server.url)
    assert code == 6
    assert "no model with check.npz" in err


@pytest.mark.parametrize(
    ("line", "code", "says"),
    [
        (["models"], 2, "no server: name it by serve.url of the config or --url"),
        (["models", "--url", "localhost:8083"], 2, "no address of a server"),
        (["models", "--url", "http://127.0.0.1:1", "--set", "serve.retries=0"], 6, "nobody answers"),
        (["serve-check"], 2, "name a bundle, or a server by --url"),
        (["serve-check", "b", "--model", "m"], 2, "go with --url"),
        (["serve-check", "none.tar.gz"], 6, "no such file"),
        (["upload", "b", "--url", "http://h", "--alias", "a"], 2, "--alias goes with --promote"),
        (["upload", "none", "--url", "http://h"], 6, "no such file"),
        (["rollback"], 2, "name the alias"),
        (["rollback", "--alias", "none"], 6, "no alias file"),
        (["predict-remote", "e.csv", "--url", "http://h"], 2, "name the model: --model NAME, or --alias FILE"),
        (["predict-remote", "e.csv", "--model", "a", "--alias", "b"], 2, "name one model"),
        (["predict-remote", "e.csv", "--model", "a-b", "--url", "http://h"], 6, "no name for a served model"),
        (["delete", "a-b", "--url", "http://h"], 6, "no name for a served model"),
        (["models", "--url", "http://h", "--key", "k.pem"], 2, "serve.key is given without serve.certificate"),
        (["models", "--set", "serve.urll=x"], 2, "nearest: url"),
    ],
)
def test_a_mistake_is_told_in_one_line(run: Any, line: list[str], code: int, says: str) -> None:
    told = run(*line)
    assert told[0] == code
    errors = [text for text in told[2].splitlines() if text.startswith("error:")]
    assert len(errors) == 1
    assert says in errors[0]


def test_a_password_in_the_url_is_refused_and_never_shown(run: Any) -> None:
    code, out, err = run("--debug", "models", "--url", "https://me:secret@host")
    assert code == 2
    assert "does not belong here" in err
    assert "Traceback" in err
    assert "secret" not in out + err


def test_certificates_come_by_options(run: Any, start: Start, certificates: Certificates) -> None:
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates["server.pem"], certificates["server.key"])
    context.load_verify_locations(certificates.ca)
    context.verify_mode = ssl.CERT_REQUIRED
    server = start(tls=context)
    shown = ["--certificate", certificates["client.pem"], "--key", certificates["client.key"]]
    assert run("models", "--url", server.url, "--ca", certificates.ca, *shown, "--json")[:2] == (0, "[]\n")


def test_a_client_loads_neither_spark_nor_tensorflow() -> None:
    code = (
        "import mlaas_spark.serving.deploy, mlaas_spark.serving.client, mlaas_spark.serving.alias, sys\n"
        "print(*(name for name in sys.modules if '.' not in name))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)  # noqa: S603
    assert {*done.stdout.split()}.isdisjoint({"pyspark", "py4j", "tensorflow", "keras", "torch", "petastorm"})
