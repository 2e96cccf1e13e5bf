"""A disk that is full while a data set is staged, or spilled: a named error, the old one valid, a rerun the same."""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from mlaas_spark import demo
from mlaas_spark.config import resolve
from mlaas_spark.errors import UnwritableOutputError
from mlaas_spark.filesets import fileset
from mlaas_spark.manifest import check_files, read
from mlaas_spark.spark import chunks, specs
from mlaas_spark.spark.convert import convert
from mlaas_spark.spark.ingest import open_events
from mlaas_spark.transform import FeatureTransform
from tests.cluster.faults import tally

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pyspark.sql import SparkSession

    from mlaas_spark.config import Config
    from mlaas_spark.manifest import Manifest

pytestmark = pytest.mark.spark


@contextmanager
def disk(place: Path, kilobytes: int) -> Iterator[None]:
    """A file system of its own, of so many kilobytes."""
    if os.geteuid() or not shutil.which("mount"):
        pytest.skip("only root can make a disk that is full")
    place.mkdir()
    mounted = _mount("-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(place))
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted: {mounted.stderr}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(place)], check=True)  # noqa: S603, S607 - a system's program


def grown(place: Path, kilobytes: int) -> None:
    """Make the disk larger."""
    assert not _mount("-o", f"remount,size={kilobytes}k", str(place)).returncode


def _mount(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["mount", *options], check=False, capture_output=True, text=True)  # noqa: S603, S607 - as above


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return demo.generate(tmp_path_factory.mktemp("sample"), events=4_000, files=4, seed=4)


def config_of(paths: list[Path]) -> Config:
    groups = [{"name": p.name, "files": str(p), "label": float("signal" in p.name)} for p in paths]
    return resolve({"input": {"groups": groups}, "chunks": {"size": 500}, "spark": {"events_per_task": 200}})


def converted(spark: SparkSession, paths: list[Path], out: Path) -> Manifest:
    config = config_of(paths)
    return convert(open_events(spark, fileset(config.input), config.input, 200), str(out))


def chunked(spark: SparkSession, paths: list[Path], out: Path) -> Manifest:
    config = config_of(paths)
    events = open_events(spark, fileset(config.input), config.input, 200)
    names = [name for name in events.plan.schema.names if name not in config.input.identifiers]
    made, counted = specs.compute(events, names)
    transform = FeatureTransform.of(made.specs, config.features)
    request = chunks.ChunkRequest(config.chunks, transform, config.input.identifiers, None, 64, "specs")
    return chunks.build(counted, request, str(out))


def kilobytes(folder: Path) -> int:
    """What its files take on such a disk, which has pages."""
    return sum(-(-path.stat().st_size // 4096) * 4 for path in folder.rglob("*") if path.is_file())


def assert_no_space(error: UnwritableOutputError, out: Path) -> None:
    assert error.exit_code == 2
    assert str(error).startswith(f"cannot write {out}/"), error
    assert "No space left on device" in str(error)


def test_full_while_a_data_set_grows(spark: SparkSession, sample: list[Path], tmp_path: Path) -> None:
    row = tally.of("disk full in staging")
    row.tried += 1
    undisturbed = converted(spark, sample, tmp_path / "whole")
    before = converted(spark, sample[:1], tmp_path / "first")
    room = (kilobytes(tmp_path / "first") + kilobytes(tmp_path / "whole")) // 2
    out = tmp_path / "disk" / "out"
    with disk(tmp_path / "disk", room):
        assert converted(spark, sample[:1], out).content_digest == before.content_digest
        with pytest.raises(UnwritableOutputError) as caught:
            converted(spark, sample, out)
        assert_no_space(caught.value, out)
        row.fired += 1
        assert read(str(out)).content_digest == before.content_digest
        check_files(str(out), read(str(out)))
        grown(tmp_path / "disk", room * 10)
        assert converted(spark, sample, out).content_digest == undisturbed.content_digest
        check_files(str(out), read(str(out)))
        assert not (out / "_staging").exists()
    row.same += 1


def test_full_while_events_are_spilled(spark: SparkSession, sample: list[Path], tmp_path: Path) -> None:
    row = tally.of("disk full in spill")
    row.tried += 1
    undisturbed = chunked(spark, sample, tmp_path / "whole")
    room = kilobytes(tmp_path / "whole") // 2
    out = tmp_path / "disk" / "out"
    with disk(tmp_path / "disk", room):
        with pytest.raises(UnwritableOutputError) as caught:
            chunked(spark, sample, out)
        assert_no_space(caught.value, out)
        assert "/spill/" in str(caught.value)
        row.fired += 1
        assert not (out / "manifest.json").exists()
        grown(tmp_path / "disk", room * 20)
        assert chunked(spark, sample, out).content_digest == undisturbed.content_digest
        check_files(str(out), read(str(out)))
        assert not (out / "_staging").exists()
    row.same += 1
