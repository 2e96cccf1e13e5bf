from __future__ import annotations

import dataclasses
import itertools
import math
import pickle
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from petastorm.workers_pool import EmptyResultError

from mlaas_spark.checksums import Checksums, checksums
from mlaas_spark.errors import ChunkError, SpecsMismatchError
from mlaas_spark.layout import FeatureLayout
from mlaas_spark.manifest import MASK
from mlaas_spark.ml import _petastorm as petastorm_reading
from mlaas_spark.ml import stream as stream_module
from mlaas_spark.ml._petastorm import _ListedFiles, _Results, read_row_groups
from mlaas_spark.ml.stream import Batch, ChunkStream, shares
from mlaas_spark.storage import filesystem
from mlaas_spark.transform import FeatureTransform

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from tests.ml.conftest import Chunks, MakeChunks


def whole(batches: Iterable[Batch]) -> Batch:
    return Batch.join(batches)


def same(a: Batch, b: Batch) -> bool:
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in ("matrix", "mask", "label", "weight"))


def sorted_rows(batch: Batch) -> list[tuple[float, ...]]:
    return sorted(map(tuple, np.column_stack([batch.matrix, batch.mask, batch.label]).tolist()))


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_matrix_and_mask_are_those_of_plain_python(chunks: Chunks, split: str) -> None:
    matrix, mask = chunks.expected(split)
    streamed = whole(chunks.stream().batches(split))
    np.testing.assert_allclose(streamed.matrix, matrix, rtol=1e-6, atol=1e-6)
    assert np.array_equal(streamed.mask, mask)
    assert streamed.label.tolist() == [event["label"] for event in chunks.of(split)]
    assert (streamed.weight == 1.0).all()


def test_types_are_those_of_the_contract(chunks: Chunks) -> None:
    batch = next(chunks.stream().batches("train"))
    assert [a.dtype.name for a in (batch.matrix, batch.mask, batch.label, batch.weight)] == [
        "float32",
        "uint8",
        "float32",
        "float32",
    ]


def test_dense_chunks_give_bit_equal_batches(chunks: Chunks, dense_chunks: Chunks) -> None:
    pairs = zip(chunks.stream().batches("train"), dense_chunks.stream().batches("train"), strict=True)
    assert all(same(a, b) for a, b in pairs)


@pytest.mark.parametrize("batch_size", [1, 7, 32, 100, 1000])
def test_all_batches_but_the_last_are_full(chunks: Chunks, batch_size: int) -> None:
    sizes = [len(batch) for batch in chunks.stream(batch_size).batches("train")]
    assert sum(sizes) == len(chunks.of("train"))
    assert all(size == batch_size for size in sizes[:-1])


def test_without_a_seed_batches_come_in_the_manifests_order_of_files(make_chunks: MakeChunks) -> None:
    # names sort against the order of the chunks
    chunks = make_chunks()
    files = tuple(
        dataclasses.replace(file, path=f"z{9 - file.chunk}-{file.split}.parquet") for file in chunks.manifest.files
    )
    for old, new in zip(chunks.manifest.files, files, strict=True):
        (chunks.folder / old.path).rename(chunks.folder / new.path)
    chunks.publish(dataclasses.replace(chunks.manifest, files=files))
    labels = whole(chunks.stream().batches("train")).label
    assert labels.tolist() == [event["label"] for event in chunks.of("train")]


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_order_depends_on_seed_and_epoch_whatever_the_threads(chunks: Chunks, threads: int) -> None:
    one = whole(chunks.stream(threads=1).batches("train", seed=3, epoch=2))
    many = whole(chunks.stream(threads=threads).batches("train", seed=3, epoch=2))
    assert same(one, many)


@pytest.mark.parametrize(("seed", "epoch"), [(3, 3), (4, 2)])
def test_another_seed_or_epoch_is_another_order_of_the_same_events(chunks: Chunks, seed: int, epoch: int) -> None:
    one = whole(chunks.stream().batches("train", seed=3, epoch=2))
    other = whole(chunks.stream().batches("train", seed=seed, epoch=epoch))
    assert not same(one, other)
    assert sorted_rows(one) == sorted_rows(other) == sorted_rows(whole(chunks.stream().batches("train")))


def test_one_file_of_one_row_group_is_still_shuffled(make_chunks: MakeChunks, make_events: Callable[..., Any]) -> None:
    stream = make_chunks({(0, "train"): make_events(50, seed=1)}, row_group=64).stream()
    first, second = (whole(stream.batches("train", seed=1, epoch=epoch)) for epoch in (0, 1))
    assert not same(first, second)


def test_arrays_hold_the_events_of_one_chunk(chunks: Chunks) -> None:
    part = chunks.stream().arrays("train", 1)
    start, stop = len(chunks.events[0, "train"]), len(chunks.events[0, "train"]) + len(chunks.events[1, "train"])
    assert same(part, whole(chunks.stream().batches("train")).take(slice(start, stop)))


def test_a_split_without_events_has_no_batches(chunks: Chunks) -> None:
    assert chunks.stream().events("nothing") == 0
    assert list(chunks.stream().batches("nothing")) == []


def test_fifty_files_open_and_stream_in_reasonable_time(
    make_chunks: MakeChunks, make_events: Callable[..., Any]
) -> None:
    stream = make_chunks({(chunk, "train"): make_events(20, seed=chunk) for chunk in range(50)}).stream()
    start = time.perf_counter()
    assert sum(len(batch) for batch in stream.batches("train", seed=1)) == 1000
    assert time.perf_counter() - start < 5.0


def threads_left() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread is not threading.main_thread()}


def test_chunks_on_another_file_system_stream_alike(chunks: Chunks) -> None:
    memory, _ = filesystem("memory://chunks")
    memory.put(str(chunks.folder), "/chunks", recursive=True)
    try:
        stream = ChunkStream.open("memory://chunks", chunks.transform, 16)
        assert same(whole(stream.batches("train", seed=1)), whole(chunks.stream().batches("train", seed=1)))
    finally:
        memory.rm("/chunks", recursive=True)


def test_a_pool_that_says_too_early_that_it_is_done_is_asked_again() -> None:
    # petastorm's ventilator may hand out the last row group between the pool's two questions
    answers: list[Any] = ["first", EmptyResultError(), "second", EmptyResultError()]

    class HastyPool:
        row_groups = 2

        def get_results(self) -> Any:
            answer = answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer

    results, pool = _Results(), HastyPool()
    got: list[Any] = [results.read_next(pool), results.read_next(pool)]
    assert got == ["first", "second"]
    with pytest.raises(StopIteration):
        results.read_next(pool)


def test_stopping_early_leaves_no_threads(chunks: Chunks) -> None:
    before = threads_left()
    batches = chunks.stream(batch_size=4, threads=3).batches("train")
    next(batches)
    assert threads_left() > before
    batches.close()
    assert threads_left() == before


def test_a_slow_consumer_is_not_run_ahead_of(chunks: Chunks) -> None:
    decoded: list[int] = []

    def count(events: Any, file: int, row_group: int) -> int:
        decoded.append(row_group)
        return file + len(events) * 0

    paths = [str(chunks.folder / file.path) for file in chunks.manifest.of("train")]
    row_groups = read_row_groups(filesystem(paths[0])[0], paths, ["MET"], count, threads=1)
    next(row_groups)
    time.sleep(0.3)
    ahead = len(decoded)
    row_groups.close()
    assert ahead <= 3


def test_an_error_in_a_worker_names_file_and_row_group_and_prints_nothing(
    make_chunks: MakeChunks, capfd: pytest.CaptureFixture[str]
) -> None:
    chunks = make_chunks()
    stream = chunks.stream()
    path = chunks.folder / "train-001.parquet"
    data = bytearray(path.read_bytes())
    offset = pq.ParquetFile(path).metadata.row_group(2).column(0).data_page_offset
    data[offset : offset + 60] = b"\xff" * 60
    path.write_bytes(data)
    before = threads_left()
    with pytest.raises(ChunkError, match=r"train-001\.parquet, row group 2"):
        list(stream.batches("train"))
    assert threads_left() == before
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""


def checked(chunks: Chunks) -> Chunks:
    """The chunks with checksums in their manifest, as they are written with."""

    def of(name: str) -> Checksums:
        with (chunks.folder / name).open("rb") as stream:
            return checksums(stream)

    files = tuple(dataclasses.replace(file, checksums=of(file.path)) for file in chunks.manifest.files)
    chunks.publish(dataclasses.replace(chunks.manifest, files=files))
    return chunks


@pytest.mark.parametrize("layout", ["compact", "dense"])
def test_no_flipped_bit_comes_into_training(make_chunks: MakeChunks, layout: str) -> None:
    chunks = checked(make_chunks(layout=layout))
    path = chunks.folder / "train-001.parquet"
    before = path.read_bytes()
    rng, refused = np.random.default_rng(3), Counter[str]()
    assert sum(map(len, chunks.stream().batches("train"))) == 351
    for at in rng.integers(0, len(before), 40).tolist():
        data = bytearray(before)
        data[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(data)
        with pytest.raises(ChunkError, match=r"train-001\.parquet.* not as it was written: bytes \[\d+") as error:
            list(chunks.stream().batches("train", seed=1))
        refused["footer" if "the footer" in str(error.value) else "row group"] += 1
    assert set(refused) == {"footer", "row group"}


def test_each_row_group_is_checked_once_in_a_process(make_chunks: MakeChunks, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = checked(make_chunks()).stream()
    counted = Counter[int]()
    plain = petastorm_reading.check_piece

    def count(stream: Any, sums: Checksums, piece: int, what: str) -> None:
        counted[piece] += 1
        plain(stream, sums, piece, what)

    monkeypatch.setattr(petastorm_reading, "check_piece", count)
    for epoch in range(2):
        list(stream.whole().batches("train", seed=1, epoch=epoch))
    assert counted == {0: 3, 1: 3, 2: 3, 3: 2, 4: 2}  # row groups of 32 in files of 150, 131 and 70 events


def test_a_file_that_nobody_has_listed_is_refused(make_chunks: MakeChunks) -> None:
    chunks = make_chunks()
    (chunks.folder / "train-003.parquet").write_bytes((chunks.folder / "train-000.parquet").read_bytes())
    with pytest.raises(ChunkError, match=r"train-003\.parquet is not listed in the manifest"):
        chunks.stream()


class Panic(BaseException):
    """As libraries in Rust raise it: no Exception."""


# that it dies of something is what is tried
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("dies", ["panic", "thread"])
def test_a_reading_thread_that_dies_ends_the_pass(chunks: Chunks, monkeypatch: pytest.MonkeyPatch, dies: str) -> None:
    stream = chunks.stream()
    before, ended = threads_left(), list[BaseException]()

    def die(*_: object) -> None:
        raise Panic

    if dies == "panic":
        monkeypatch.setattr(stream_module, "_compact", die)
    else:
        monkeypatch.setattr(petastorm_reading._Worker, "process", lambda *_, **__: sys.exit())  # noqa: SLF001

    def read() -> None:
        try:
            list(stream.batches("train"))
        except BaseException as error:  # noqa: BLE001 - looked at below
            ended.append(error)

    watched = threading.Thread(target=read, daemon=True)
    watched.start()
    watched.join(300)  # the watchdog
    assert not watched.is_alive(), "it hangs"
    (error,) = ended
    if dies == "panic":
        assert isinstance(error, Panic)
    else:
        assert re.search("reading thread [01] has died", str(error))
    assert threads_left() == before


def test_missing_values_that_the_config_forbids_are_named_with_their_place(chunks: Chunks) -> None:
    strict = dataclasses.replace(chunks.transform, nan="error")
    with pytest.raises(ChunkError, match=r"train-000\.parquet, row group 0: branch 'MET' has 1 NaN"):
        list(ChunkStream.open(str(chunks.folder), strict, 16).batches("train"))


def test_a_file_that_shrank_is_refused_when_opened(make_chunks: MakeChunks) -> None:
    chunks = make_chunks()
    path = chunks.folder / "train-000.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ChunkError, match=r"train-000\.parquet has \d+ bytes"):
        chunks.stream()


def test_a_file_that_is_not_parquet_is_refused_when_opened(make_chunks: MakeChunks) -> None:
    chunks = make_chunks()
    path = chunks.folder / "train-000.parquet"
    path.write_bytes(b"x" * path.stat().st_size)
    with pytest.raises(ChunkError, match=r"cannot read .*train-000\.parquet"):
        chunks.stream()


def test_a_file_with_other_rows_than_listed_is_refused(make_chunks: MakeChunks) -> None:
    chunks = make_chunks()
    path = chunks.folder / "train-000.parquet"
    pq.write_table(pq.read_table(path).slice(0, 10), path)
    chunks.relist(path.name)
    with pytest.raises(ChunkError, match="has 10 events, the manifest says 150"):
        chunks.stream()


def test_weights_that_the_manifest_does_not_know_of_are_refused(
    make_chunks: MakeChunks, make_events: Callable[..., Any]
) -> None:
    events = [{**event, "weight": 2.0} for event in make_events(20, seed=1)]
    with pytest.raises(ChunkError, match="weight other than 1"):
        list(make_chunks({(0, "train"): events}).stream().batches("train"))


def test_dense_chunks_of_another_transform_are_refused(dense_chunks: Chunks) -> None:
    other = dataclasses.replace(dense_chunks.transform, scale=(0.1, 0.5, 0.3))
    with pytest.raises(SpecsMismatchError, match="made with other specs"):
        ChunkStream.open(str(dense_chunks.folder), other, 16)


def test_compact_chunks_that_lack_a_branch_are_refused_naming_the_nearest(chunks: Chunks) -> None:
    other = FeatureTransform(FeatureLayout.of(["nJets"], {}), (False,), (0.0,), (1.0,))
    with pytest.raises(SpecsMismatchError, match=r"'nJets'.*nearest: nJet"):
        ChunkStream.open(str(chunks.folder), other, 16)


def test_a_branch_of_another_kind_is_refused(chunks: Chunks) -> None:
    other = FeatureTransform(FeatureLayout.of([], {"MET": 2}), (True,), (0.0,), (1.0,))
    with pytest.raises(SpecsMismatchError, match="'MET' is jagged in the specs, flat in the chunks"):
        ChunkStream.open(str(chunks.folder), other, 16)


def test_a_converted_data_set_is_no_chunk_data_set(make_chunks: MakeChunks) -> None:
    chunks = make_chunks()
    chunks.publish(dataclasses.replace(chunks.manifest, layout="events"))
    with pytest.raises(ChunkError, match="holds events, not chunks"):
        chunks.stream()


def test_dense_columns_of_another_width_are_refused(dense_chunks: Chunks) -> None:
    wider = FeatureTransform(
        FeatureLayout.of(["MET", "nJet"], {"Jet_pt": 9}), (False, False, True), (0.0,) * 3, (1.0,) * 3
    )
    stream = dataclasses.replace(dense_chunks.stream(), transform=wider)
    with pytest.raises(ChunkError, match="not 44 bytes an event"):
        next(stream.batches("train"))


class Planted:
    """What petastorm would unpickle: it touches a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return eval, (f"open({str(self.marker)!r}, 'w').close()",)


def planted_schema(path: Path, marker: Path) -> Any:
    return pq.read_table(path).replace_schema_metadata({b"dataset-toolkit.unischema.v1": pickle.dumps(Planted(marker))})


@pytest.mark.parametrize("name", ["_common_metadata", "_metadata"])
def test_planted_metadata_files_are_refused_and_do_not_run(make_chunks: MakeChunks, tmp_path: Path, name: str) -> None:
    chunks, marker = make_chunks(), tmp_path / "ran"
    table = planted_schema(chunks.folder / "train-000.parquet", marker)
    pq.write_metadata(table.schema, chunks.folder / name)
    with pytest.raises(ChunkError, match=f"has a file {name}"):
        chunks.stream()
    assert not marker.exists()


def test_a_planted_pickle_in_a_listed_file_is_refused_and_does_not_run(make_chunks: MakeChunks, tmp_path: Path) -> None:
    chunks, marker = make_chunks(), tmp_path / "ran"
    path = chunks.folder / "train-000.parquet"
    pq.write_table(planted_schema(path, marker), path)
    chunks.relist(path.name)
    with pytest.raises(ChunkError, match="pickled petastorm metadata"):
        chunks.stream()
    assert not marker.exists()


def test_metadata_planted_after_the_check_is_not_opened(make_chunks: MakeChunks, tmp_path: Path) -> None:
    chunks, marker = make_chunks(), tmp_path / "ran"
    stream = chunks.stream()
    table = planted_schema(chunks.folder / "train-000.parquet", marker)
    pq.write_metadata(table.schema, chunks.folder / "_common_metadata")
    assert sum(len(batch) for batch in stream.batches("train")) == len(chunks.of("train"))
    assert not marker.exists()


def test_petastorm_does_run_what_is_planted_so_these_tests_can_fail(tmp_path: Path) -> None:
    from petastorm.etl.dataset_metadata import depickle_legacy_package_name_compatible

    marker = tmp_path / "ran"
    depickle_legacy_package_name_compatible(pickle.dumps(Planted(marker)))
    assert marker.exists()


def test_only_listed_files_are_opened(chunks: Chunks) -> None:
    files = _ListedFiles(filesystem(str(chunks.folder))[0], [str(chunks.folder / "train-000.parquet")])
    with pytest.raises(ChunkError, match="not listed"):
        files.open(str(chunks.folder / "test-000.parquet"))


def test_importing_the_modules_imports_no_tensorflow() -> None:
    code = (
        "import sys; from mlaas_spark.ml import stream, _petastorm, bundle, evaluate, model, savedmodel, tfaas, train; "
        "sys.exit(any(name in sys.modules for name in ('tensorflow', 'keras')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0  # noqa: S603 - our own code


def test_masks_of_dense_chunks_are_packed_bits(dense_chunks: Chunks) -> None:
    column = pq.read_table(dense_chunks.folder / "train-000.parquet").column(MASK)
    assert column.type.byte_width == 1


@pytest.mark.tensorflow
class TestTensorFlow:
    def test_each_iterator_is_the_next_epoch(self, chunks: Chunks) -> None:
        stream = chunks.stream()
        dataset = stream.dataset("train", seed=5)
        for epoch in (0, 1):
            x = np.concatenate([x.numpy() for x, _ in dataset])
            assert np.array_equal(x, whole(stream.batches("train", seed=5, epoch=epoch)).matrix)

    def test_its_length_is_known(self, chunks: Chunks) -> None:
        assert len(chunks.stream(batch_size=16).dataset("train")) == 22  # 351 events

    def test_weights_are_given_where_there_are_some(
        self, make_chunks: MakeChunks, make_events: Callable[..., Any]
    ) -> None:
        events = [{**event, "weight": 0.5} for event in make_events(20, seed=1)]
        stream = make_chunks({(0, "train"): events}, weight=0.5).stream()
        (_, _, weight), *_ = stream.dataset("train")
        assert weight.numpy().tolist() == [0.5] * 16

    def test_errors_of_the_stream_can_be_had(self, make_chunks: MakeChunks) -> None:
        chunks = make_chunks()
        stream = chunks.stream()
        (chunks.folder / "train-001.parquet").unlink()
        failures: list[Any] = []
        with pytest.raises(Exception, match="train-001"):
            list(stream.dataset("train", failures=failures))
        assert isinstance(failures[0], ChunkError)

    def test_an_abandoned_iterator_stops_its_threads(self, chunks: Chunks) -> None:
        before = threads_left()
        iterator = iter(chunks.stream(batch_size=4).dataset("train"))
        next(iterator)
        del iterator
        deadline = time.monotonic() + 120

        def ours() -> set[str]:  # TensorFlow's own threads stay
            return {name for name in threads_left() - before if not name.startswith("Dummy")}

        while ours() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert ours() == set()


@given(events=st.integers(0, 400), batch_size=st.integers(1, 70), shards=st.integers(1, 9))
def test_shares_cover_every_event_once_and_end_together(events: int, batch_size: int, shards: int) -> None:
    batch_size = max(batch_size, shards)
    dealt = shares(events, batch_size, shards)
    assert [number for share in dealt for number in range(share.start, share.stop)] == list(range(events))
    assert sum(share.size for share in dealt) == batch_size
    assert max(share.size for share in dealt) - min(share.size for share in dealt) <= 1
    assert max(share.batches for share in dealt) - math.ceil(events / batch_size) in {0, 1}
    assert max(share.batches for share in dealt) - min(share.batches for share in dealt) <= 1


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shards=st.integers(1, 5),
    workers=st.integers(1, 5),
    batch_size=st.integers(5, 40),
    epoch=st.integers(0, 3),
    start=st.integers(0, 12),
)
def test_batches_of_all_workers_together_are_those_of_one(
    chunks: Chunks, shards: int, workers: int, batch_size: int, epoch: int, start: int
) -> None:
    workers = min(workers, shards)
    stream = replace(chunks.stream(batch_size), shards=shards)
    alone = list(stream.batches("train", seed=3, epoch=epoch))
    assert len(alone) == stream.steps("train")
    assert sorted_rows(whole(alone)) == sorted_rows(whole(chunks.stream().batches("train")))
    of_workers = [
        list(stream.of_worker(worker, workers).batches("train", seed=3, epoch=epoch, start=start))
        for worker in range(workers)
    ]
    together = itertools.zip_longest(*of_workers)
    for parts, batch in zip(together, alone[start:], strict=True):
        assert sorted_rows(whole(part for part in parts if part is not None)) == sorted_rows(batch)


def test_a_worker_reads_the_row_groups_of_its_share_alone(chunks: Chunks, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[tuple[str, int]] = []
    before = pq.ParquetFile.read_row_group

    def counted(file: Any, row_group: int, *args: Any, **kwargs: Any) -> Any:
        read.append((str(file.metadata.num_rows), row_group))  # the files differ in their events
        return before(file, row_group, *args, **kwargs)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", counted)
    stream = replace(chunks.stream(), shards=3)
    for worker in range(3):
        list(stream.of_worker(worker, 3).batches("train"))
    # of 16 events in a batch the shards have 6, 5 and 5: of 351 in all [0, 131), [131, 241), [241, 351). Row groups are
    # of 32; the two in which a border lies, event 131 of the first file and 91 of the second, are read by both sides
    every = [(rows, number) for rows, groups in (("150", 5), ("131", 5), ("70", 3)) for number in range(groups)]
    assert sorted(set(read)) == sorted(every)
    assert sorted(group for group in set(read) if read.count(group) > 1) == [("131", 2), ("150", 4)]
    assert len(read) == 15
