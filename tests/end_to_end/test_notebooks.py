"""The notebooks run from the first cell to the last."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import nbformat
import pytest
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))


class ThisPython(AsyncKernelManager):
    """A kernel of the Python that runs the tests, wherever kernels are installed."""

    @property
    def kernel_spec(self) -> KernelSpec:
        return KernelSpec(argv=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_and_ends_with_a_trained_model(path: Path, tmp_path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    assert all(not cell.get("outputs") for cell in notebook.cells)  # committed without outputs
    client = NotebookClient(
        notebook, timeout=300, kernel_manager_class=ThisPython, resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    texts = [output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", [])]
    found = re.search(r"test AUC (0\.\d+)", "".join(texts))
    assert found is not None
    assert 0.6 < float(found.group(1)) < 0.99
