from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlaas_spark.config import FeatureConfig
from mlaas_spark.errors import BranchNotFoundError, SpecsError
from mlaas_spark.manifest import FEATURES as FEATURE_COLUMN
from mlaas_spark.manifest import MASK as MASK_COLUMN
from mlaas_spark.spark import chunks
from mlaas_spark.spark.features import features, mask, normalize, pad
from mlaas_spark.spark.session import received
from mlaas_spark.spark.specs import compute
from mlaas_spark.transform import FeatureTransform

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy.typing as npt
    from pyspark.sql import DataFrame, SparkSession

    from mlaas_spark.manifest import Manifest
    from mlaas_spark.spark.chunks import ChunkRequest
    from mlaas_spark.spark.ingest import Events
    from tests.spark.conftest import Event, Sample

Place = tuple[int, int]


@pytest.fixture(scope="module")
def frame(opened: Callable[..., Events], sample: Sample) -> DataFrame:
    """The sample's events, kept in memory."""
    return opened(sample.paths()).dataframe().cache()


@pytest.fixture(scope="module")
def expected(
    sample: Sample, transform: FeatureTransform, plain_matrix: Callable[..., Any]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
    """Matrix and mask of the sample by plain Python."""
    made: tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]] = plain_matrix(list(sample.events.values()), transform)
    return made


def bits(values: Any) -> bytes:
    return np.asarray(values, np.float32).tobytes()


def test_the_sample_has_what_this_is_about(
    transform: FeatureTransform, expected: tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]
) -> None:
    matrix, marks = expected
    dims = dict(transform.layout.dims)
    assert (dims["Jet_id"], dims["MET_pt"]) == (2, 1)
    assert dims["Jet_pt"] > 5
    assert transform.width == matrix.shape[1] == 6 + sum(dims[name] for name in dims if name.startswith(("Jet", "Ele")))
    assert 0.1 < marks.mean() < 0.9
    assert (matrix[marks == 0] == 0).all()


@pytest.mark.parametrize("branch", ["MET_pt", "MET_sum", "const", "flag", "nJet"])
def test_normalize_gives_a_number_for_a_flat_branch(
    frame: DataFrame,
    transform: FeatureTransform,
    expected: tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]],
    collected: Callable[[DataFrame], list[Event]],
    branch: str,
) -> None:
    rows = collected(frame.select("__file", "__entry", normalize(transform, branch).alias("x")))
    assert bits([row["x"] for row in rows]) == bits(expected[0][:, transform.layout.span(branch)][:, 0])


@pytest.mark.parametrize("branch", ["Jet_pt", "Jet_eta", "Jet_id", "Ele_pt"])
def test_normalize_gives_a_jagged_branch_its_own_lengths_up_to_the_cap(
    frame: DataFrame,
    transform: FeatureTransform,
    expected: tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]],
    sample: Sample,
    collected: Callable[[DataFrame], list[Event]],
    branch: str,
) -> None:
    rows = collected(frame.select("__file", "__entry", normalize(transform, branch).alias("x")))
    columns = expected[0][:, transform.layout.span(branch)]
    dim = columns.shape[1]
    for row, values, numbers in zip(rows, sample.columns(branch), columns, strict=True):
        assert bits(row["x"]) == bits(numbers[: min(len(values), dim)])


@pytest.mark.parametrize("branch", ["MET_pt", "Jet_pt", "Jet_id", "Ele_pt"])
def test_pad_and_mask_give_the_columns_of_the_branch(
    frame: DataFrame,
    transform: FeatureTransform,
    expected: tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]],
    collected: Callable[[DataFrame], list[Event]],
    branch: str,
) -> None:
    rows = collected(
        frame.select("__file", "__entry", pad(transform, branch).alias("x"), mask(transform, branch).alias("m"))
    )
    span = transform.layout.span(branch)
    assert bits([row["x"] for row in rows]) == bits(expected[0][:, span])
    assert np.array_equal([row["m"] for row in rows], expected[1][:, span])


def test_features_give_all_branches_in_one_pass(
    frame: DataFrame,
    transform: FeatureTransform,
    expected: tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]],
    collected: Callable[[DataFrame], list[Event]],
) -> None:
    rows = collected(frame.select("__file", "__entry", features(transform).alias("made")))
    assert b"".join(row["made"]["features"] for row in rows) == expected[0].astype("<f4").tobytes()
    packed = np.frombuffer(b"".join(row["made"]["mask"] for row in rows), np.uint8).reshape(len(rows), -1)
    assert np.array_equal(np.unpackbits(packed, axis=1)[:, : transform.width], expected[1])


def test_columns_that_are_null_are_missing(
    spark: SparkSession, transform: FeatureTransform, plain_matrix: Callable[..., Any]
) -> None:
    names = transform.layout.branches
    nothing = dict.fromkeys(names)
    event = {name: [1.0, 2.0] if is_jagged else 3.0 for name, is_jagged in zip(names, transform.jagged, strict=True)}
    empty: Event = {
        name: [] if is_jagged else float("nan") for name, is_jagged in zip(names, transform.jagged, strict=True)
    }
    kinds = ", ".join(
        f"{name} {'array<double>' if is_jagged else 'double'}"
        for name, is_jagged in zip(names, transform.jagged, strict=True)
    )
    rows = [tuple(row[name] for name in names) for row in (nothing, event, nothing)]
    made = spark.createDataFrame(rows, kinds).coalesce(1).select(features(transform).alias("made")).collect()
    matrix, marks = plain_matrix([empty, event, empty], transform)
    assert b"".join(bytes(row.made.features) for row in made) == matrix.tobytes()
    for row, expected_marks in zip(made, marks, strict=True):
        found = np.unpackbits(np.frombuffer(bytes(row.made.mask), np.uint8))[: transform.width]
        assert np.array_equal(found, expected_marks)


def test_nan_that_must_not_be_is_an_error_of_ours(opened: Callable[..., Events], sample: Sample) -> None:
    events = opened(sample.paths())
    specs, _ = compute(events, ["MET_pt"])
    strict = FeatureTransform.of(specs.specs, FeatureConfig(nan="error"))
    with pytest.raises(SpecsError, match=r"'MET_pt' has \d+ NaN or infinite"), received():
        events.dataframe().select(features(strict)).collect()


def test_unknown_branch_is_refused_before_a_job_starts(transform: FeatureTransform) -> None:
    for function in (normalize, pad, mask):
        with pytest.raises(BranchNotFoundError, match=r"'Jet_pT'.*nearest: Jet_pt"):
            function(transform, "Jet_pT")


# --- the same through chunks ------------------------------------------------------------------------------------------


def rows_of(folder: Path, manifest: Manifest) -> dict[tuple[int, str], pa.Table]:
    """Rows of each chunk and split, in order."""
    found: dict[tuple[int, str], list[pa.Table]] = {}
    for file in manifest.files:
        found.setdefault((file.chunk, file.split), []).append(pq.read_table(folder / file.path))
    return {key: pa.concat_tables(tables) for key, tables in found.items()}


def places(table: pa.Table) -> list[Place]:
    return list(zip(table["__file"].to_pylist(), table["__entry"].to_pylist(), strict=True))


@pytest.fixture(scope="module")
def both(
    opened: Callable[..., Events],
    sample: Sample,
    request_of: Callable[..., ChunkRequest],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, dict[tuple[int, str], pa.Table]]:
    """The same chunks, compact and dense."""
    events = opened(sample.paths(), labels=[1, 0, 0], weights=[1.0, 2.0, 0.5])
    folder = tmp_path_factory.mktemp("both")
    return {
        layout: rows_of(folder / layout, chunks.build(events, request_of(layout=layout), str(folder / layout)))
        for layout in ("compact", "dense")
    }


def test_dense_chunks_and_compact_chunks_padded_later_are_equal_to_the_bit(
    both: dict[str, dict[tuple[int, str], pa.Table]],
    sample: Sample,
    transform: FeatureTransform,
    expected: tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]],
) -> None:
    number = {place: row for row, place in enumerate(sample.events)}
    assert both["dense"].keys() == both["compact"].keys()
    seen: list[Place] = []
    for key, dense in both["dense"].items():
        compact = both["compact"][key]
        assert places(dense) == places(compact)
        (batch,) = compact.combine_chunks().to_batches()
        made = transform.matrix(batch)
        assert b"".join(dense[FEATURE_COLUMN].to_pylist()) == made.matrix.astype("<f4").tobytes()
        packed = np.frombuffer(b"".join(dense[MASK_COLUMN].to_pylist()), np.uint8).reshape(dense.num_rows, -1)
        assert np.array_equal(np.unpackbits(packed, axis=1)[:, : transform.width], made.mask)
        # and neither is wrong in the same way as the other
        rows = [number[place] for place in places(dense)]
        assert made.matrix.tobytes() == expected[0][rows].tobytes()
        assert np.array_equal(made.mask, expected[1][rows])
        seen += places(dense)
    assert sorted(seen) == sorted(sample.events)


def test_dense_chunks_keep_keys_label_and_weight_of_each_event(
    both: dict[str, dict[tuple[int, str], pa.Table]], transform: FeatureTransform
) -> None:
    for key, dense in both["dense"].items():
        compact = both["compact"][key]
        for name in ("run", "luminosityBlock", "event", "__label", "__weight"):
            assert dense[name].equals(compact[name]), name
        assert dense.schema.field(FEATURE_COLUMN).type == pa.binary(4 * transform.width)
        assert dense.schema.field(MASK_COLUMN).type == pa.binary((transform.width + 7) // 8)
        assert not {*transform.layout.branches} & {*dense.column_names}


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "uint64", "int8", "int16"])
def test_dense_chunks_hold_features_of_every_integer_type(
    opened: Callable[..., Events],
    write: Callable[..., str],
    make_events: Callable[..., list[Event]],
    request_of: Callable[..., ChunkRequest],
    tmp_path: Path,
    dtype: str,
) -> None:
    largest = int(np.iinfo(dtype).max)
    events = [
        {**e, "MET_pt": largest - n * (largest // 100), "Ele_pt": [largest, n % 50][: n % 3]}
        for n, e in enumerate(make_events(60, 1, 1))
    ]
    types = {"event": "uint64", "MET_pt": dtype, "Ele_pt": dtype, "flag": "bool"}
    read = opened([write(tmp_path / "f.root", events, types=types)], label="flag")
    transform = FeatureTransform.of(compute(read, ["MET_pt", "Ele_pt"])[0].specs, FeatureConfig())
    request = request_of(layout="dense", label="flag", keys=("event",), features=transform, size="all")
    rows = rows_of(tmp_path / "chunks", chunks.build(read, request, str(tmp_path / "chunks")))
    low = min(event["MET_pt"] for event in events)
    for table in rows.values():
        for entry, row in zip(table["__entry"].to_pylist(), table[FEATURE_COLUMN].to_pylist(), strict=True):
            met = events[entry]["MET_pt"]
            spread = float(largest) - float(low)
            assert np.frombuffer(row, "<f4")[0] == pytest.approx((float(met) - float(low)) / spread if spread else 0.0)
            electrons = [float(x) / float(largest) for x in events[entry]["Ele_pt"]]
            assert np.frombuffer(row, "<f4")[1:].tolist() == pytest.approx([*electrons, 0.0, 0.0][:2])
