"""friend: what is written is what plain uproot reads, in entry order, however the rows came."""

from __future__ import annotations

import os
import uuid
from typing import TYPE_CHECKING, Any

import awkward as ak
import numpy as np
import pyarrow as pa
import pytest
import uproot
from hypothesis import given
from hypothesis import strategies as st

from mlaas_spark import friend, storage
from mlaas_spark.errors import ConfigError, SpecsError, UnwritableOutputError
from mlaas_spark.friend import Friend, write
from mlaas_spark.schema import Branch

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy.typing as npt


def branch(name: str, dtype: str, *, jagged: bool = False) -> Branch:
    return Branch(name, name, dtype, jagged)


BRANCHES = (
    branch("run", "uint32"),
    branch("event", "uint64"),
    branch("Jet_pt", "float32", jagged=True),
    branch("Jet_id", "int16", jagged=True),
    branch("selected", "bool"),
    branch("score", "float32"),
    branch("HT", "float64"),
)
FRIEND = Friend("Events", "scores of m_1", BRANCHES)


def rows(n: int) -> pa.RecordBatch:
    """Events whose every number tells where it belongs; each third has no score."""
    rng = np.random.default_rng(n)
    lengths = rng.integers(0, 4, n)
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
    owner = np.repeat(np.arange(n), lengths)
    scores = rng.random(n).astype(np.float32)
    return pa.RecordBatch.from_arrays(
        [
            pa.array(np.full(n, 2**32 - 1, np.uint32)),
            pa.array(np.arange(n, dtype=np.uint64) + 2**63),
            pa.ListArray.from_arrays(offsets, pa.array((owner + 0.5).astype(np.float32))),
            pa.ListArray.from_arrays(offsets, pa.array((-owner).astype(np.int16))),
            pa.array(np.arange(n) % 3 > 0),
            pa.array(scores, mask=np.arange(n) % 3 == 0),
            pa.array(rng.normal(size=n)),
        ],
        schema=pa.schema([(b.name, b.arrow_type) for b in BRANCHES]),
    )


def in_pieces(batch: pa.RecordBatch, lengths: list[int]) -> Iterator[pa.RecordBatch]:
    start = 0
    for length in (*lengths, batch.num_rows):
        yield batch.slice(start, length)
        start = min(start + length, batch.num_rows)


def same(found: ak.Array, column: pa.Array) -> bool:
    """Whether uproot's array is the column of Arrow, missing numbers as NaN."""
    expected = [np.nan if value is None else value for value in column.to_pylist()]
    if found.ndim > 1:
        return bool(found.to_list() == expected)
    numbers: npt.NDArray[Any] = np.asarray(ak.to_numpy(found))
    return numbers.dtype == column.type.to_pandas_dtype() and np.array_equal(
        numbers, np.array(expected, numbers.dtype), equal_nan=numbers.dtype.kind == "f"
    )


@given(
    n=st.integers(1, 120), lengths=st.lists(st.integers(0, 60), max_size=8), basket=st.sampled_from([5, 17, 50, 999])
)
def test_uproot_reads_back_the_values_in_entry_order(
    tmp_path_factory: pytest.TempPathFactory, n: int, lengths: list[int], basket: int
) -> None:
    batch, path = rows(n), tmp_path_factory.mktemp("friend") / "f.root"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(friend, "BASKET", basket)
        ((size, _),) = write(in_pieces(batch, lengths), FRIEND, str(path))
    assert size == path.stat().st_size
    with uproot.open(path) as file:
        tree = file["Events"]
        assert type(tree).__name__ == "Model_TTree_v20"
        assert tree.num_entries == n
        assert tree.title == "scores of m_1"
        assert [name for name in tree.keys() if not name.startswith("n")] == [b.name for b in BRANCHES]  # noqa: SIM118
        for b in BRANCHES:
            assert same(tree[b.name].array(), batch.column(b.name)), b.name
        assert tree["nJet_pt"].array().to_list() == [len(jets) for jets in batch.column("Jet_pt").to_pylist()]
        assert tree["score"].num_baskets == -(-n // basket)


def test_tree_lies_in_the_folders_of_its_name(tmp_path: Path) -> None:
    path = tmp_path / "f.root"
    write([rows(5)], Friend("ntuples/reco/Events", "t", BRANCHES), str(path))
    with uproot.open(path) as file:
        assert file["ntuples/reco/Events"].num_entries == 5


def test_values_are_compressed_as_every_root_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "f.root"
    write([rows(2_000)], FRIEND, str(path))
    with uproot.open(path) as file:
        assert repr(file.file.compression) == "ZLIB(1)"
        assert file["Events"]["run"].compressed_bytes < file["Events"]["run"].uncompressed_bytes / 10


def test_events_are_written_while_they_come(tmp_path: Path) -> None:
    path, sizes = tmp_path / "f.root", []
    batch = rows(friend.BASKET)

    def arriving() -> Iterator[pa.RecordBatch]:
        for _ in range(8):
            sizes.append(os.path.getsize(path))  # noqa: PTH202 - as the file system says now
            yield batch

    write(arriving(), FRIEND, str(path))
    steps = np.diff(sizes)
    assert (steps[1:] > 0.8 * path.stat().st_size / 8).all()


def test_counters_have_names_of_their_own(tmp_path: Path) -> None:
    branches = (branch("nJet", "int64"), branch("Jet", "float32", jagged=True))
    batch = pa.RecordBatch.from_arrays(
        [pa.array([70, 80]), pa.array([[1.0], []], pa.list_(pa.float32()))], names=["nJet", "Jet"]
    )
    write([batch], Friend("t", "", branches), str(tmp_path / "f.root"))
    with uproot.open(tmp_path / "f.root") as file:
        assert file["t"]["nJet"].array().to_list() == [70, 80]
        assert file["t"]["nJet"].array().ndim == 1
        assert file["t"]["nnJet"].array().to_list() == [1, 0]
        assert file["t"]["Jet"].array().to_list() == [[1.0], []]


def test_missing_lists_are_empty_and_missing_elements_nan(tmp_path: Path) -> None:
    batch = pa.RecordBatch.from_arrays([pa.array([[1.0, None], None, [2.0]], pa.list_(pa.float32()))], names=["x"])
    write(
        [batch.slice(0, 1), batch.slice(1)],
        Friend("t", "", (branch("x", "float32", jagged=True),)),
        str(tmp_path / "f"),
    )
    with uproot.open(tmp_path / "f") as file:
        first, *rest = file["t"]["x"].array().to_list()
    assert first[0] == 1.0
    assert np.isnan(first[1])
    assert rest == [[], [2.0]]


@pytest.mark.parametrize(
    ("column", "dtype"),
    [
        (pa.array([1, None, 3], pa.int64()), "int64"),
        (pa.array([True, None]), "bool"),
        (pa.array([[1], [None]], pa.list_(pa.int32())), "int32"),
    ],
)
def test_missing_whole_number_is_refused(tmp_path: Path, column: pa.Array, dtype: str) -> None:
    batch = pa.RecordBatch.from_arrays([column], names=["x"])
    asked = (branch("x", dtype, jagged=pa.types.is_list(column.type)),)
    with pytest.raises(
        SpecsError, match=f"'x' has no value in some of the rows, and ROOT has none for a missing {dtype}"
    ):
        write([batch], Friend("t", "", asked), str(tmp_path / "f.root"))


def test_text_and_nested_lists_are_refused_by_name() -> None:
    odd = (branch("a", "float32"), branch("name", "string"), branch("b", "list<float32>", jagged=True))
    with pytest.raises(ConfigError, match=r"not name \(string\), b \(list<list<float32>>\)"):
        friend.refuse_unwritable(odd)
    friend.refuse_unwritable(BRANCHES)


def test_file_on_a_server_is_that_on_a_disk(tmp_path: Path) -> None:
    batch, url = rows(50), f"memory://{uuid.uuid4().hex}/f.root"
    ((size, _),) = write([batch], FRIEND, url)
    (tmp_path / "f.root").write_bytes(storage.read_bytes(url))
    assert size == storage.size(url)
    with uproot.open(tmp_path / "f.root") as file:
        for b in BRANCHES:
            assert same(file["Events"][b.name].array(), batch.column(b.name)), b.name


def test_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    url = str(tmp_path / "file" / "f.root")
    with pytest.raises(UnwritableOutputError, match="cannot write"):
        write([rows(3)], FRIEND, url)
