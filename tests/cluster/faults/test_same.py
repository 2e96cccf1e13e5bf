"""What data sets are does not depend on partitions, on the order or names of the files; a replaced file is named."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mlaas_spark import demo
from mlaas_spark.config import Config, resolve
from mlaas_spark.filesets import fileset
from mlaas_spark.spark import chunks, session, specs
from mlaas_spark.spark.convert import convert
from mlaas_spark.spark.ingest import open_events
from mlaas_spark.transform import FeatureTransform
from tests.cluster.faults import tally

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyspark.sql import SparkSession


pytestmark = pytest.mark.spark


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return demo.generate(tmp_path_factory.mktemp("sample"), events=1_500, files=4, seed=3)


def config_of(paths: Sequence[Path]) -> Config:
    groups = [
        {"name": path.name, "files": str(path), "label": float("signal" in path.parent.name or "signal" in path.name)}
        for path in paths
    ]
    return resolve({"input": {"groups": groups}, "chunks": {"size": 400}, "spark": {"events_per_task": 100}})


def digests_of(spark: SparkSession, config: Config, out: Path) -> dict[str, str]:
    """Content digests of all that is made of the files."""
    events = open_events(spark, fileset(config.input), config.input, config.spark.events_per_task)
    names = [name for name in events.plan.schema.names if name not in config.input.identifiers]
    made, counted = specs.compute(events, names, quantiles=["MET_pt"])
    transform = FeatureTransform.of(made.specs, config.features)
    request = chunks.ChunkRequest(config.chunks, transform, config.input.identifiers, None, 64, "specs")
    return {
        "specs": repr(made.specs),
        "chunks": chunks.build(counted, request, str(out / "chunks")).content_digest,
        "convert": convert(events, str(out / "convert")).content_digest,
    }


@pytest.fixture(scope="module")
def expected(spark: SparkSession, sample: list[Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return digests_of(spark, config_of(sample), tmp_path_factory.mktemp("expected"))


@pytest.mark.parametrize("count", [1, 2, 7, 64])
def test_partitions_make_no_difference(
    spark: SparkSession,
    sample: list[Path],
    expected: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    count: int,
) -> None:
    asked: list[int] = []

    def partitions(_: SparkSession, items: int) -> int:
        asked.append(items)
        return count

    monkeypatch.setattr(session, "partitions", partitions)
    assert digests_of(spark, config_of(sample), tmp_path) == expected
    assert asked
    row = tally.of("1, 2, 7, 64 partitions")
    row.tried, row.fired, row.same = row.tried + 1, row.fired + 1, row.same + 1


def test_order_and_names_of_the_files_make_no_difference(
    spark: SparkSession, sample: list[Path], expected: dict[str, str], tmp_path: Path
) -> None:
    row = tally.of("shuffled order, other names of the inputs")
    order = list(enumerate(sample))
    random.Random(5).shuffle(order)  # noqa: S311 - a shuffle, no secret
    assert [index for index, _ in order] != sorted(index for index, _ in order)
    renamed = []
    for place, (_, path) in enumerate(order):
        folder = tmp_path / ("signal" if "signal" in path.name else "noise")
        folder.mkdir(exist_ok=True)
        renamed.append(Path(shutil.copy(path, folder / f"{9 - place}.root")))
    assert digests_of(spark, config_of(renamed), tmp_path) == expected
    row.tried, row.fired, row.same = row.tried + 1, row.fired + 1, row.same + 1
