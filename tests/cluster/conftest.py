"""Files on real servers."""

from __future__ import annotations

import csv
import gzip
import json
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlaas_spark import demo
from mlaas_spark.config import InputConfig
from mlaas_spark.filesets import fileset
from mlaas_spark.spark import specs
from mlaas_spark.spark.convert import convert
from mlaas_spark.spark.ingest import open_events
from tests.cluster import servers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pyspark.sql import SparkSession

    from mlaas_spark.branch_specs import Specs
    from mlaas_spark.manifest import Manifest
    from mlaas_spark.spark.ingest import Events


@pytest.fixture(scope="session")
def opened(spark: SparkSession) -> Callable[..., Events]:
    """``opened(paths, **input settings)``: the events of files, in ranges of about 300."""

    def run(*paths: str, **settings: Any) -> Events:
        config = InputConfig(files=paths, **settings)
        return open_events(spark, fileset(config), config, 300)

    return run


@pytest.fixture(scope="session")
def specs_of(opened: Callable[..., Events]) -> Callable[..., dict[str, Specs]]:
    """``specs_of(paths)``: the specs of each file, by uuid."""

    def run(*paths: str) -> dict[str, Specs]:
        events = opened(*paths)
        return dict(specs.compute(events, events.plan.schema.names)[0].by_file)

    return run


@pytest.fixture(scope="session")
def local(tmp_path_factory: pytest.TempPathFactory, opened: Callable[..., Events]) -> Path:
    """A folder of the same 1,200 events as two files each in ``root``, ``parquet``, ``json`` and ``csv``."""
    folder = tmp_path_factory.mktemp("local")
    of_root = demo.generate(folder / "root", events=1_200, files=2, seed=5)
    for kind in ("parquet", "json", "csv"):
        (folder / kind).mkdir()
    for index, path in enumerate(of_root):
        made = convert(opened(str(path)), str(folder / f"converted{index}"))
        parts = [pq.read_table(folder / f"converted{index}" / file.path) for file in made.files]
        table = pa.concat_tables(parts).sort_by("__entry").drop_columns(["__entry"])
        pq.write_table(table, folder / "parquet" / f"{index}.parquet")
        rows = table.to_pylist()
        with gzip.open(folder / "json" / f"{index}.json.gz", "wt", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
        with (folder / "csv" / f"{index}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(table.column_names)
            writer.writerows([[str(value) for value in row.values()] for row in rows])
    return folder


@pytest.fixture(scope="session")
def converted(opened: Callable[..., Events], local: Path, tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """The ROOT files converted on the local disk."""
    return convert(opened(str(local / "root")), str(tmp_path_factory.mktemp("converted") / "out"))


@pytest.fixture(scope="session")
def xrootd(local: Path) -> Iterator[str]:
    """URL of a folder of an XRootD server with the ROOT files."""
    with servers.xrootd(local / "root") as server:
        yield f"{server.url}/store"


@pytest.fixture(scope="session")
def hadoop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Hadoop]:
    """An HDFS and a YARN."""
    with servers.hadoop(tmp_path_factory.mktemp("hadoop")) as running:
        yield running


@pytest.fixture(scope="session")
def hdfs(local: Path, hadoop: servers.Hadoop) -> str:
    """URL of an HDFS with a folder of each kind of files below ``/data``."""
    from mlaas_spark import storage

    for kind in ("root", "parquet", "json", "csv"):
        for path in sorted((local / kind).iterdir()):
            storage.write_atomic(f"{hadoop.url}/data/{kind}/{path.name}", path.read_bytes())
    return hadoop.url
