"""The package: what its import does not load."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

import mlaas_spark

REPOSITORY = Path(__file__).parents[2]
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


BUILD = """
import sys
from setuptools import build_meta
target = sys.argv[1]  # setuptools puts its own words there
build_meta.build_wheel(target)
build_meta.build_sdist(target)
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[set[str], set[str], dict[str, str]]:
    """Names in the wheel and in the sdist that the sources make, and the wheel's metadata."""
    source, dist = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    leave = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("mlaas_spark", "jobs", "examples"):
        shutil.copytree(REPOSITORY / name, source / name, ignore=leave)
    for path in REPOSITORY.iterdir():
        if path.is_file():
            shutil.copy(path, source / path.name)
    program = [sys.executable, "-W", "ignore", "-c", BUILD, str(dist)]
    subprocess.run(program, cwd=source, check=True, capture_output=True, timeout=300)  # noqa: S603 - our own
    (wheel,), (sdist,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as packed:
        inside = {name.removeprefix(f"mlaas_spark-{mlaas_spark.__version__}.") for name in packed.namelist()}
        about = {name: packed.read(name).decode() for name in packed.namelist() if ".dist-info/" in name}
    with tarfile.open(sdist) as unpacked:
        sources = {name.partition("/")[2] for name in unpacked.getnames()}
    return inside, sources, {name.rpartition("/")[2]: text for name, text in about.items()}


def test_wheel_and_sdist_have_every_file_of_the_package(built: tuple[set[str], set[str], dict[str, str]]) -> None:
    wheel, sdist, _ = built
    # os.walk, as Path.rglob passes over conf, which is a link
    folders = os.walk(REPOSITORY / "mlaas_spark", followlinks=True)
    files = {Path(folder, name).relative_to(REPOSITORY).as_posix() for folder, _, names in folders for name in names}
    files = {name for name in files if "__pycache__" not in name}
    assert {"mlaas_spark/py.typed", "mlaas_spark/conf/demo.yaml", "mlaas_spark/conf/schedule/night.sh"} <= files
    assert {name for name in wheel if name.startswith("mlaas_spark/")} == files
    assert files <= sdist
    assert {"README.md", "CHANGELOG.md", "LICENSE", "jobs/train.py", "setup.cfg", "pyproject.toml"} <= sdist


def test_wheel_says_what_it_is_and_gives_the_command(built: tuple[set[str], set[str], dict[str, str]]) -> None:
    _, _, about = built
    assert f"\nVersion: {mlaas_spark.__version__}\n" in about["METADATA"]
    assert "\nRequires-Python: " in about["METADATA"]
    assert "mlaas-spark = mlaas_spark.cli:main" in about["entry_points.txt"]
    changes = (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"\n## {mlaas_spark.__version__}" in changes


def test_public_names_are_the_documented_ones() -> None:
    assert mlaas_spark.__all__ == [
        *("__version__", "chunks", "convert", "fileset", "predict", "register", "specs", "train"),
    ]
