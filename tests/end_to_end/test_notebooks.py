"""The notebooks run from the first cell to the last, and what they print is right."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import nbformat
import numpy as np
import pytest
import uproot
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

from mlaas_spark.demo import generate

if TYPE_CHECKING:
    from tests.serving.server import ContractServer

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"


class ThisPython(AsyncKernelManager):
    """A kernel of the Python that runs the tests, wherever kernels are installed."""

    @property
    def kernel_spec(self) -> KernelSpec:
        return KernelSpec(argv=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"])


def printed(name: str, folder: Path) -> str:
    """Run a notebook in a folder; what its cells wrote."""
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)  # type: ignore[no-untyped-call]
    assert all(not cell.get("outputs") for cell in notebook.cells)  # committed without outputs
    client = NotebookClient(
        notebook, timeout=300, kernel_manager_class=ThisPython, resources={"metadata": {"path": str(folder)}}
    )
    client.execute()
    assert not list(folder.glob("runs")), "a notebook writes into its temporary folder alone"
    return "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))


def test_every_notebook_has_a_test() -> None:
    tested = {"quickstart", "root-to-parquet", "specs-and-features", "training-and-serving", "large-data"}
    assert {path.stem for path in NOTEBOOKS.glob("*.ipynb")} == tested


def test_quickstart_ends_with_a_trained_model_and_a_score_for_each_event(tmp_path: Path) -> None:
    found = re.search(r"test AUC (0\.\d+), 8000 rows of scores", printed("quickstart", tmp_path))
    assert found is not None
    assert 0.6 < float(found.group(1)) < 0.99


def test_conversion_keeps_the_selected_events_and_adds_those_of_new_files(tmp_path: Path) -> None:
    text = printed("root-to-parquet", tmp_path)
    paths = [*generate(tmp_path / "data", 8000, 4, seed=1), *generate(tmp_path / "more", 2000, 2, seed=2)]
    selected = sum(int(np.sum(uproot.open(path)["Events"]["nJet"].array(library="np") >= 2)) for path in paths)
    assert f"{selected} events in Parquet" in text


def test_specs_show_what_caps_save(tmp_path: Path) -> None:
    found = re.search(r"W (\d+) -> (\d+)", printed("specs-and-features", tmp_path))
    assert found is not None
    assert int(found.group(2)) < int(found.group(1))


def test_serving_gets_the_same_score_by_either_client(
    server: ContractServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TFAAS_URL", server.url)
    text = printed("training-and-serving", tmp_path)
    assert "20 scores from the server" in text
    found = re.search(r"the same event: (\S+) and (\S+)", text)
    assert found is not None
    assert float(found.group(1)) == pytest.approx(float(found.group(2)), abs=2e-6)


def test_large_data_learns_linearly_and_goes_on_after_an_interruption(tmp_path: Path) -> None:
    text = printed("large-data", tmp_path)
    assert text.index("interrupted\n") < text.index("goes on after 20 batches")
    found = re.search(r"test AUC (0\.\d+) linear, test AUC (0\.\d+) network", text)
    assert found is not None
    assert min(map(float, found.groups())) > 0.6
