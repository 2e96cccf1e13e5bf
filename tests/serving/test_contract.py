"""The client against a server that loads SavedModels by their op names: the contract server, and a real TFaaS.

Set TFAAS_URL to a server whose models may be added to: the tests add one model and remove it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from mlaas_spark.cli import main
from mlaas_spark.config import ExportConfig
from mlaas_spark.errors import NoAnswerError, ServingError
from mlaas_spark.serving import alias as aliases
from mlaas_spark.serving.client import Client, Form
from mlaas_spark.serving.served import Served
from tests.ml.conftest import three_chunks, write_chunks
from tests.serving.conftest import serve_config

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

pytestmark = pytest.mark.tensorflow

EXAMPLE = Path(__file__).parents[2] / "examples" / "tfaas_client.py"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tar of a small Keras model's bundle."""
    import keras

    from mlaas_spark.ml.bundle import write_bundle

    keras.utils.set_random_seed(7)
    net = keras.Sequential([keras.layers.Input((5,)), keras.layers.Dense(4, "relu"), keras.layers.Dense(2, "softmax")])
    net.compile(loss="categorical_crossentropy", optimizer="sgd")
    folder = tmp_path_factory.mktemp("contract")
    chunks = write_chunks(folder / "chunks", three_chunks())
    return write_bundle(net, chunks.stream(), ExportConfig(name="contract"), "ab" * 32, folder).archive


def files_of(bundle: Path) -> int:
    with tarfile.open(bundle) as archive:
        return sum(member.isfile() for member in archive)


def recorded(bundle: Path) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    with np.load(bundle.parent / bundle.name.removesuffix(".tar.gz") / "check.npz") as arrays:
        return arrays["x"], arrays["scores"]


@pytest.fixture
def served(bundle: Path, url: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Iterator[tuple[str, str]]:
    """The server, and the name of the model uploaded to it and promoted."""
    alias = tmp_path / "contract.json"
    assert main(["upload", str(bundle), "--url", url, "--promote", "--alias", str(alias)]) == 0
    assert f"{files_of(bundle)} files equal, 119 events scored" in capfd.readouterr().out
    name = bundle.name.removesuffix(".tar.gz")
    yield url, name
    if name in [params["name"] for params in Client(serve_config(url)).models()]:
        Client(serve_config(url)).delete(name)


def test_from_upload_to_scores_to_deletion(
    served: tuple[str, str], bundle: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    url, name = served
    x, scores = recorded(bundle)
    assert main(["models", "--url", url, "--json"]) == 0
    assert name in [params["name"] for params in json.loads(capfd.readouterr().out)]
    assert main(["params", name, "--url", url]) == 0
    assert json.loads(capfd.readouterr().out)["input_node"] == "serving_default_inputs_input"
    np.savez(tmp_path / "events.npz", x=x)
    for form in ([], ["--proto"]):
        line = ["predict-remote", str(tmp_path / "events.npz"), "--alias", str(tmp_path / "contract.json"), *form]
        assert main([*line, "--events", "20"]) == 0
        told = [json.loads(text) for text in capfd.readouterr().out.splitlines()]
        assert np.array(told) == pytest.approx(scores[:20], abs=1e-6)
    assert main(["serve-check", "--url", url, "--model", name]) == 0
    assert main(["serve-check", str(bundle), "--url", url, "--json"]) == 0
    (proof,) = json.loads(capfd.readouterr().out.split("\n", 1)[1])
    assert (proof["name"], proof["files"]) == (name, files_of(bundle))
    assert proof["difference"] <= 1e-6
    assert main(["delete", name, "--url", url]) == 0
    assert main(["params", name, "--url", url]) == 6
    assert f"no model '{name}'" in capfd.readouterr().err


@pytest.mark.parametrize("form", ["json", "proto"])
def test_a_wrong_width_or_model_that_is_sent_all_the_same_gets_no_scores(served: tuple[str, str], form: Form) -> None:
    """What we refuse to send: the server answers 500 or drops the connection."""
    url, name = served
    client = Client(serve_config(url, retries=0))
    for model, width in ((Served(name), 3), (Served("contract_000000000000"), 5)):
        with pytest.raises((NoAnswerError, ServingError), match=r"dropped the connection|answers 500"):
            client.predict(model, np.zeros((1, width), np.float32), form)
    assert client.predict(client.served(name), np.zeros((1, 5), np.float32), form).shape == (1, 2)


def test_the_example_client_needs_nothing_but_python(served: tuple[str, str], bundle: Path, tmp_path: Path) -> None:
    url, name = served
    x, scores = recorded(bundle)
    columns = Client(serve_config(url)).served(name).columns
    lines = "".join(json.dumps(dict(zip(columns, row, strict=True))) + "\n" for row in x[:120].tolist())
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-I", "-S", str(EXAMPLE), str(tmp_path / "contract.json")],
        input=lines,
        capture_output=True,
        text=True,
        check=True,
        env={},
    )
    assert np.array([json.loads(line) for line in done.stdout.splitlines()]) == pytest.approx(scores[:120], abs=1e-6)


def test_the_example_client_has_at_most_forty_lines() -> None:
    assert len(EXAMPLE.read_text().splitlines()) <= 40


def test_a_damaged_bundle_is_not_sent(url: str, bundle: Path, tmp_path: Path) -> None:
    damaged = tmp_path / bundle.name
    damaged.write_bytes(bundle.read_bytes()[:-200])
    assert main(["upload", str(damaged), "--url", url]) == 6
    assert main(["upload", str(tmp_path / "none.tar.gz"), "--url", url]) == 6
    assert bundle.name.removesuffix(".tar.gz") not in [of["name"] for of in Client(serve_config(url)).models()]


def test_a_folder_stands_for_the_tar_beside_it(
    served: tuple[str, str], bundle: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    url, name = served
    assert main(["upload", str(bundle.parent / name), "--url", url]) == 0
    assert "it had it already" in capfd.readouterr().out


def test_the_alias_names_model_server_and_digest(served: tuple[str, str], tmp_path: Path) -> None:
    url, name = served
    current = aliases.read(str(tmp_path / "contract.json")).current
    assert (current.name, current.url) == (name, url)
    assert len(current.digest) == 64
