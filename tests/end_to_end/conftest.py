"""Whole commands in this process on one Spark session, on small samples of the demo's events."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mlaas_spark.cli import main
from mlaas_spark.demo import generate
from tests.serving.server import ContractServer

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

EVENTS = 2_400

MODEL = """
from keras.models import Sequential
from keras.layers import Dense, Activation

def model(idim):
    "As MLaaS4HEP's users write it."
    network = Sequential([Dense(16, input_shape=(idim,)), Activation("relu"), Dense(1), Activation("sigmoid")])
    network.compile(optimizer="adam", loss="binary_crossentropy", metrics=["accuracy"])
    return network
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker("spark")
            item.add_marker("tensorflow")


@dataclass(frozen=True)
class Outcome:
    """What a command gave: exit code, standard output, standard error."""

    code: int
    out: str
    err: str

    @property
    def messages(self) -> list[str]:
        """The lines of standard error that tell of an error."""
        return [line for line in self.err.splitlines() if line.startswith("error:")]


Command = Callable[..., Outcome]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ContractServer]:
    """A server that keeps TFaaS' contract, without its limit of requests."""
    made = ContractServer(tmp_path / "models", limit=None)
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield made
    made.shut()
    thread.join()


@pytest.fixture
def run(
    spark: SparkSession, capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Command:
    """Run a command line in this process, in an empty folder of its own."""
    assert spark.version
    monkeypatch.chdir(tmp_path)

    def command(*arguments: str) -> Outcome:
        capfd.readouterr()
        code = main(list(arguments))
        captured = capfd.readouterr()
        return Outcome(code, captured.out, captured.err)

    return command


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with signal_0, signal_1, background_0 and background_1.root."""
    folder = tmp_path_factory.mktemp("sample")
    generate(folder, EVENTS, files=4, seed=3)
    return folder


@pytest.fixture
def model_file(tmp_path: Path) -> Path:
    """A user's model.py."""
    path = tmp_path / "model.py"
    path.write_text(MODEL)
    return path
