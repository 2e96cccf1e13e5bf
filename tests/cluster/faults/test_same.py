"""What data sets are does not depend on partitions, on the order or names of the files; a replaced file is named."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import uproot

from mlaas_spark import demo
from mlaas_spark.config import Config, InputConfig, resolve
from mlaas_spark.errors import UnreadableInputError
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


def of_format(kind: str, folder: Path, seed: int) -> Path:
    """A file of 600 events of the demo, of a seed, in a format."""
    (path, _) = demo.generate(folder / "root", events=1_200, files=2, seed=seed)
    if kind == "root":
        return path
    arrays = uproot.open(f"{path}:Events").arrays()
    table = pa.Table.from_pylist(arrays.to_list())
    made = folder / f"f.{kind}"
    if kind == "parquet":
        pq.write_table(table, made, row_group_size=100)
    elif kind == "json":
        made.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))
    else:
        rows = [",".join(f'"{value}"' for value in row.values()) + "\n" for row in table.to_pylist()]
        made.write_text(",".join(table.column_names) + "\n" + "".join(rows))
    return made


@pytest.mark.parametrize("now", ["another", "empty"])
@pytest.mark.parametrize("kind", ["root", "parquet", "json", "csv"])
def test_a_file_replaced_between_planning_and_reading_is_named(
    spark: SparkSession, tmp_path: Path, kind: str, now: str
) -> None:
    """With as many entries, by a rename; or it has become empty."""
    row = tally.of("input replaced between planning and reading")
    row.tried += 1
    planned, other = of_format(kind, tmp_path / "a", 1), of_format(kind, tmp_path / "b", 2)
    config = InputConfig(files=(str(planned),))
    events = open_events(spark, fileset(config), config, 100)
    if now == "empty":
        other.write_bytes(b"")
    other.replace(planned)
    row.fired += 1
    with pytest.raises(UnreadableInputError) as caught:
        convert(events, str(tmp_path / "out"))
    assert caught.value.path == str(planned)
    if now == "another":
        assert "it was replaced since it was planned (uuid " in caught.value.why
        assert events.plan.files[0].uuid in caught.value.why
    assert not list((tmp_path / "out").rglob("*.parquet"))
    row.same += 1
