"""The package: what its import does not load."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

import pytest

import mlaas_spark

HEAVY = ("pyspark", "py4j", "tensorflow", "keras", "torch", "petastorm", "uproot", "pandas", "matplotlib")


def loaded_by(statement: str) -> set[str]:
    """Top-level modules that a fresh interpreter holds after a statement."""
    code = f"{statement}\nimport sys\nprint(*(name for name in sys.modules if '.' not in name))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)  # noqa: S603
    return set(done.stdout.split())


@pytest.mark.parametrize("module", ["mlaas_spark", "mlaas_spark.cli"])
def test_import_starts_no_jvm_and_loads_no_heavy_library(module: str) -> None:
    """A JVM is only started through py4j, so without it there is none."""
    loaded = loaded_by(f"import {module}")
    assert "mlaas_spark" in loaded
    assert loaded.isdisjoint(HEAVY)


PURE = [
    "config",
    "filesets",
    "schema",
    "plan",
    "mixing",
    "selection",
    "layout",
    "branch_specs",
    "transform",
    "manifest",
    "storage",
    "evaluation.summary",
    "evaluation.tables",
    "evaluation.importance",
    "plots",
]


def test_pure_core_loads_neither_spark_nor_a_learning_framework() -> None:
    loaded = loaded_by("import " + ", ".join(f"mlaas_spark.{module}" for module in [*PURE, "root_io", "usercode"]))
    assert loaded.isdisjoint({"pyspark", "py4j", "tensorflow", "keras", "torch", "petastorm"})


def test_version_is_that_of_the_installed_package() -> None:
    assert mlaas_spark.__version__ == version("mlaas-spark")


def test_public_names_are_the_documented_ones() -> None:
    assert mlaas_spark.__all__ == [
        *("__version__", "chunks", "convert", "fileset", "predict", "register", "specs", "train"),
    ]
