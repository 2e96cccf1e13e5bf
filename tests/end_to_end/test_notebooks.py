"""The notebooks run from the first cell to the last, and what they print is right.

One runs in a kernel, as Jupyter runs it, and starts a Spark session of its own; the others in IPython in this process,
on the session that they find, as in SWAN: a kernel, a JVM and TensorFlow take longer to start than their cells to run.
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nbformat
import numpy as np
import pytest
import uproot
from IPython.core.interactiveshell import InteractiveShell
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from traitlets.config import Config

from mlaas_spark.demo import generate

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyspark.sql import SparkSession

    from tests.serving.server import ContractServer

    Printed = Callable[[str], str]

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"


class ThisPython(AsyncKernelManager):
    """A kernel of the Python that runs the tests, wherever kernels are installed."""

    @property
    def kernel_spec(self) -> KernelSpec:
        return KernelSpec(argv=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"])


def notebook(name: str) -> Any:
    read = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)  # type: ignore[no-untyped-call]
    assert all(not cell.get("outputs") for cell in read.cells)  # committed without outputs
    return read


@pytest.fixture
def printed(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Printed:
    """``printed(name)``: run a notebook in an empty folder, on the session of the tests; what its cells wrote."""
    here, temporary = tmp_path / "here", tmp_path / "temporary"
    here.mkdir()
    temporary.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])  # which the shell puts its own in place of
    quiet = Config({"HistoryManager": {"enabled": False}})

    def run(name: str) -> str:
        shell: Any = InteractiveShell(user_ns={"spark": spark}, config=quiet, ipython_dir=str(temporary))  # type: ignore[no-untyped-call]
        capsys.readouterr()
        for cell in notebook(name).cells:
            if cell.cell_type == "code":
                shell.run_cell(cell.source).raise_error()
        assert not list(here.iterdir()), "a notebook writes into its temporary folder alone"
        return capsys.readouterr().out

    return run


def test_every_notebook_has_a_test() -> None:
    tested = {"quickstart", "root-to-parquet", "specs-and-features", "training-and-serving", "large-data"}
    assert {path.stem for path in NOTEBOOKS.glob("*.ipynb")} == tested


def test_quickstart_in_a_kernel_ends_with_a_trained_model_and_a_score_for_each_event(tmp_path: Path) -> None:
    read = notebook("quickstart")
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(read, timeout=600, kernel_manager_class=ThisPython, resources=resources).execute()
    assert not list(tmp_path.iterdir()), "a notebook writes into its temporary folder alone"
    outputs = [output for cell in read.cells for output in cell.get("outputs", [])]
    found = re.search(r"test AUC (0\.\d+), 8000 rows of scores", "".join(one.get("text", "") for one in outputs))
    assert found is not None
    assert 0.6 < float(found.group(1)) < 0.99
    assert sum("text/html" in one.get("data", {}) for one in outputs) >= 5  # tables and plots


def test_conversion_keeps_the_selected_events_and_adds_those_of_new_files(printed: Printed, tmp_path: Path) -> None:
    text = printed("root-to-parquet")
    paths = [*generate(tmp_path / "data", 8000, 4, seed=1), *generate(tmp_path / "more", 2000, 2, seed=2)]
    selected = sum(int(np.sum(uproot.open(path)["Events"]["nJet"].array(library="np") >= 2)) for path in paths)
    assert f"{selected} events in Parquet" in text


def test_specs_show_what_caps_save(printed: Printed) -> None:
    found = re.search(r"W (\d+) -> (\d+)", printed("specs-and-features"))
    assert found is not None
    assert int(found.group(2)) < int(found.group(1))


def test_serving_gets_the_same_score_by_either_client(
    server: ContractServer, printed: Printed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TFAAS_URL", server.url)
    text = printed("training-and-serving")
    assert "20 scores from the server" in text
    found = re.search(r"the same event: (\S+) and (\S+)", text)
    assert found is not None
    assert float(found.group(1)) == pytest.approx(float(found.group(2)), abs=2e-6)


def test_large_data_learns_linearly_and_goes_on_after_an_interruption(printed: Printed) -> None:
    text = printed("large-data")
    assert text.index("interrupted\n") < text.index("goes on after 20 batches")
    found = re.search(r"test AUC (0\.\d+) linear, test AUC (0\.\d+) network", text)
    assert found is not None
    assert min(map(float, found.groups())) > 0.6
