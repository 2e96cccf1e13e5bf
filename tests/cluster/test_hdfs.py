"""Files on a real HDFS: read, converted to, chunked and streamed from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from mlaas_spark import manifest as manifests
from mlaas_spark import storage
from mlaas_spark.config import ChunkConfig, FeatureConfig
from mlaas_spark.errors import UnreadableInputError
from mlaas_spark.ml.stream import ChunkStream
from mlaas_spark.selection import Expression
from mlaas_spark.spark import chunks, inspection, specs
from mlaas_spark.spark.convert import convert
from mlaas_spark.transform import FeatureTransform
from tests.cluster import servers

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mlaas_spark.manifest import Manifest
    from mlaas_spark.spark.ingest import Events

LABEL = Expression.parse("PV_npvs >= 24")

pytestmark = [pytest.mark.cluster, pytest.mark.tensorflow]


@pytest.mark.parametrize("kind", ["root", "parquet", "json", "csv"])
def test_specs_of_files_there_are_those_of_local_ones(
    specs_of: Callable[..., Any], hdfs: str, local: Path, kind: str
) -> None:
    assert specs_of(f"{hdfs}/data/{kind}") == specs_of(str(local / kind))


@pytest.mark.parametrize("kind", ["root", "parquet", "json", "csv"])
def test_inspect_shows_there_what_it_shows_of_local_files(
    opened: Callable[..., Events], hdfs: str, local: Path, kind: str
) -> None:
    there, here = opened(f"{hdfs}/data/{kind}", events=500), opened(str(local / kind), events=500)
    assert inspection.on_disk(there) == inspection.on_disk(here)
    assert inspection.read(there)[0] == inspection.read(here)[0]


def test_globs_are_expanded_there(opened: Callable[..., Events], hdfs: str) -> None:
    assert [file.path for file in opened(f"{hdfs}/data/*/signal*.root").plan.files] == [
        f"{hdfs}/data/root/signal_0.root"
    ]


def test_conversion_to_hdfs_is_that_to_a_disk(
    opened: Callable[..., Events], hdfs: str, converted: Manifest, local: Path
) -> None:
    made = convert(opened(str(local / "root")), f"{hdfs}/out/converted")
    assert made.content_digest == converted.content_digest == manifests.read(f"{hdfs}/out/converted").content_digest
    manifests.check_files(f"{hdfs}/out/converted", made)
    assert storage.children(f"{hdfs}/out/converted") == ["_manifests", "events", "manifest.json"]
    left = [f"events/{name}" for name in storage.children(f"{hdfs}/out/converted/events")]
    assert left == sorted(file.path for file in made.files)
    fs, path = storage.filesystem(f"{hdfs}/out/converted/{made.files[0].path}")
    with fs.open(path, "rb") as file:
        assert pq.read_table(file).num_rows == made.files[0].rows
    again = convert(opened(str(local / "root")), f"{hdfs}/out/converted")
    assert again == made


def test_a_set_on_hdfs_is_brought_up_to_date(
    opened: Callable[..., Events], hdfs: str, converted: Manifest, local: Path
) -> None:
    one, two = sorted(str(path) for path in (local / "root").iterdir())
    convert(opened(one), f"{hdfs}/out/grows")
    made = convert(opened(one, two), f"{hdfs}/out/grows")
    assert (made.version, made.content_digest) == (2, converted.content_digest)
    first = convert(opened(one), f"{hdfs}/out/grows")
    left = [f"events/{name}" for name in storage.children(f"{hdfs}/out/grows/events")]
    assert left == sorted(file.path for file in first.files)


def test_chunks_on_hdfs_stream_the_matrices_of_local_ones(
    opened: Callable[..., Events], hdfs: str, local: Path, tmp_path: Path
) -> None:
    events = opened(str(local / "root"))
    made, counted = specs.compute(
        events, [name for name in events.plan.schema.names if name not in {"event", "PV_npvs"}]
    )
    transform = FeatureTransform.of(made.specs, FeatureConfig())
    request = chunks.ChunkRequest(ChunkConfig(size=500), transform, ("event",), LABEL, 64, "specs")
    folders = [f"{hdfs}/out/chunks", str(tmp_path / "chunks")]
    digests = {chunks.build(counted, request, folder).content_digest for folder in folders}
    assert len(digests) == 1
    remote, here = (list(ChunkStream.open(folder, transform, 64, 2).batches("train")) for folder in folders)
    assert sum(len(batch.matrix) for batch in here) > 500
    for one, other in zip(remote, here, strict=True):
        np.testing.assert_array_equal(one.matrix, other.matrix)
        np.testing.assert_array_equal(one.label, other.label)


def test_file_that_is_not_there_is_named(opened: Callable[..., Events], hdfs: str) -> None:
    for path in (f"{hdfs}/data/root/none.root", f"{hdfs}/data/parquet/none.parquet", f"{hdfs}/data/json/none.json"):
        with pytest.raises(UnreadableInputError, match=r"none.*no such file") as caught:
            opened(path)
        assert path in str(caught.value)


@pytest.mark.parametrize("host", ["no-such-host.invalid:9000", "localhost:{port}"], ids=["unknown", "down"])
def test_name_node_that_does_not_answer_is_named(opened: Callable[..., Events], host: str) -> None:
    url = f"hdfs://{host.format(port=servers.free_port())}/data/x.root"
    with pytest.raises(UnreadableInputError, match="its server does not answer") as caught:
        opened(url)
    assert url in str(caught.value)
