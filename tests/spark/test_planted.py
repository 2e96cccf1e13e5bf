"""Parquet files of others with planted pickles and code, through specs and convert: none of it runs."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlaas_spark import pipeline
from mlaas_spark.config import resolve
from mlaas_spark.errors import MlaasSparkError
from mlaas_spark.runs import Journal
from tests.planted import BESIDE, IN_FILE

if TYPE_CHECKING:
    from pathlib import Path

    from pyspark.sql import SparkSession

PLANTED = [*((name, "footer") for name in IN_FILE), *((name, "beside") for name in BESIDE)]


@pytest.fixture(scope="module")
def outcomes(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], tuple[str, bool]]:
    """Of each payload what specs said, "" if it was done, and whether it ran; the harmless ones are converted too."""
    assert spark.version
    found: dict[tuple[str, str], tuple[str, bool]] = {}
    home, good = tmp_path_factory.mktemp("planted"), []
    for number, (name, where) in enumerate(PLANTED):
        folder, marker = home / str(number), home / f"ran-{number}"
        folder.mkdir()
        pq.write_table(pa.table({"x": [float(number), 2.0], "y": [[1.0], []]}), folder / "a.parquet")
        if where == "footer":
            IN_FILE[name](folder / "a.parquet", marker)
        else:
            BESIDE[name](folder, marker)
        said = ""
        try:
            pipeline.specs(_config(folder / "a.parquet"), str(home / f"{number}.json"), Journal())
            good.append(folder / "a.parquet")
        except MlaasSparkError as error:
            said = str(error)
        found[name, where] = (said, marker.exists())
    manifest = pipeline.convert(_config(*good), str(home / "converted"), Journal())
    assert manifest.rows == 2 * len(good)
    return {key: (said, ran or (home / f"ran-{PLANTED.index(key)}").exists()) for key, (said, ran) in found.items()}


def _config(*paths: Path) -> Any:
    return resolve({"input": {"files": [str(path) for path in paths]}})


@pytest.mark.parametrize(("name", "where"), PLANTED)
def test_a_planted_pickle_does_not_run(
    name: str, where: str, outcomes: dict[tuple[str, str], tuple[str, bool]]
) -> None:
    said, ran = outcomes[name, where]
    assert not ran
    if name.startswith("_common_metadata"):
        assert "petastorm would unpickle" in said
    elif said:
        assert "a.parquet" in said


def test_most_of_them_are_read_past(outcomes: dict[tuple[str, str], tuple[str, bool]]) -> None:
    refused = [key for key, (said, _) in outcomes.items() if said]
    assert len(refused) < len(PLANTED) / 2, refused


def test_workers_import_nothing_out_of_the_current_folder(spark: SparkSession) -> None:
    """Spark starts them by ``python -m``, which would look there first."""
    safe, paths = spark.sparkContext.parallelize([0], 1).map(lambda _: (sys.flags.safe_path, sys.path)).first()
    assert safe
    assert "" not in paths
