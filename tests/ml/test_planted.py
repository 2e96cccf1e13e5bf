"""Chunks with planted pickles and code: none of it runs, whether the stream refuses the folder or reads past it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from mlaas_spark import manifest as manifests
from mlaas_spark.errors import ChunkError, MlaasSparkError
from mlaas_spark.ml._petastorm import PLANTED_FILES
from tests.planted import BESIDE, IN_FILE, PETASTORMS, payload

if TYPE_CHECKING:
    from pathlib import Path

    from tests.ml.conftest import MakeChunks


@pytest.mark.filterwarnings("ignore:pickle-based deserialization of pyarrow")  # that it is off is what is wanted
@pytest.mark.filterwarnings("ignore:pyarrow.PyExtensionType is deprecated")
@pytest.mark.parametrize("name", IN_FILE)
def test_a_pickle_in_the_footer_of_a_chunk_does_not_run(name: str, make_chunks: MakeChunks, tmp_path: Path) -> None:
    chunks, marker = make_chunks(), tmp_path / "ran"
    path = chunks.folder / "train-000.parquet"
    IN_FILE[name](path, marker)
    chunks.relist(path.name)
    if name in PETASTORMS:
        with pytest.raises(ChunkError, match="pickled petastorm metadata"):
            chunks.stream()
    else:
        events, said = 0, ""
        try:
            events = sum(len(batch) for batch in chunks.stream().batches("train"))
        except MlaasSparkError as error:
            said = str(error)
        assert said or events == len(chunks.of("train"))  # both are good; no event may be lost
        assert not said or "train-000.parquet" in said
    assert not marker.exists()


@pytest.mark.parametrize("name", BESIDE)
@pytest.mark.parametrize("below", ["", "train"])
def test_what_lies_beside_chunks_does_not_run(name: str, below: str, make_chunks: MakeChunks, tmp_path: Path) -> None:
    chunks, marker = make_chunks(), tmp_path / "ran"
    place = chunks.folder / below
    place.mkdir(exist_ok=True)
    BESIDE[name](place, marker)
    if not below and name.split(",", maxsplit=1)[0] in PLANTED_FILES:
        with pytest.raises(ChunkError, match="could run code"):
            chunks.stream()
    else:
        assert sum(len(batch) for batch in chunks.stream().batches("train")) == len(chunks.of("train"))
    assert not marker.exists()
    assert not [path for path in sys.path if path.startswith(str(tmp_path))]


def test_a_manifest_that_is_a_pickle_does_not_run(make_chunks: MakeChunks, tmp_path: Path) -> None:
    chunks, marker = make_chunks(), tmp_path / "ran"
    for protocol in range(6):
        (chunks.folder / "manifest.json").write_bytes(payload(marker, protocol))
        with pytest.raises(ChunkError, match="cannot read"):
            chunks.stream()
    assert not marker.exists()


def test_a_chunk_file_that_is_a_pickle_does_not_run(make_chunks: MakeChunks, tmp_path: Path) -> None:
    chunks, marker = make_chunks(), tmp_path / "ran"
    path = chunks.folder / "train-000.parquet"
    path.write_bytes(payload(marker).ljust(path.stat().st_size))
    with pytest.raises(ChunkError, match="cannot read"):
        chunks.stream()
    assert not marker.exists()


def test_a_chunk_file_that_leads_elsewhere_is_refused(make_chunks: MakeChunks, tmp_path: Path) -> None:
    chunks = make_chunks()
    path, outside = chunks.folder / "train-000.parquet", tmp_path / "outside.parquet"
    shutil.move(path, outside)
    path.symlink_to(outside)
    with pytest.raises(ChunkError, match=r"train-000\.parquet leads out of its folder by a symbolic link"):
        chunks.stream()
    path.unlink()
    shutil.move(outside, chunks.folder / "inside")
    path.symlink_to("inside")
    assert sum(len(batch) for batch in chunks.stream().batches("train")) == len(chunks.of("train"))
    assert manifests.read(str(chunks.folder)).files


def test_there_are_as_many_payloads_as_is_promised() -> None:
    assert len(IN_FILE) + len(BESIDE) >= 20


def test_pyarrow_would_run_an_extension_type_so_these_tests_can_fail(make_chunks: MakeChunks, tmp_path: Path) -> None:
    path, marker = make_chunks().folder / "train-000.parquet", tmp_path / "ran"
    IN_FILE["Arrow's extension type"](path, marker)
    code = (
        "import sys, pyarrow as pa, pyarrow.parquet as pq; pa.PyExtensionType.set_auto_load(True)\n"
        f"pq.read_schema({str(path)!r})"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=False, capture_output=True)  # noqa: S603 - ours
    assert marker.exists()
