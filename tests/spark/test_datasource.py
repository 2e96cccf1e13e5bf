from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import awkward as ak
import numpy as np
import pytest
import uproot
from pyspark.errors import AnalysisException, PythonException
from pyspark.sql import functions as F  # noqa: N812 - the name Spark's own documentation uses

import mlaas_spark
from mlaas_spark.errors import (
    BranchNotFoundError,
    ConfigError,
    FilesetError,
    MlaasSparkError,
    SpecsError,
    TreeNotFoundError,
    UnreadableInputError,
)
from mlaas_spark.spark.session import received

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pyspark.sql import DataFrame, SparkSession

    from mlaas_spark.spark.ingest import Events
    from tests.spark.conftest import Event, Sample

KEYS = ["event", "luminosityBlock", "run"]
PLACE = ["__file", "__entry"]


@pytest.fixture(scope="module")
def load(spark: SparkSession) -> Callable[..., DataFrame]:
    """``load(paths, schema=None, **options)`` by the format ``root``."""
    mlaas_spark.register(spark)

    def run(paths: str | list[str], schema: Any = None, **options: Any) -> DataFrame:
        reader = spark.read.format("root").options(**options)
        return (reader if schema is None else reader.schema(schema)).load(paths)

    return run


@pytest.fixture
def same_frames(
    collected: Callable[[DataFrame], list[Event]], same_values: Callable[[Any, Any], bool]
) -> Callable[[DataFrame, DataFrame], None]:
    """Asserts equal columns, types and values; NaN equal to NaN."""

    def check(one: DataFrame, two: DataFrame) -> None:
        assert one.dtypes == two.dtypes
        rows, others = collected(one), collected(two)
        for name in one.columns:
            assert same_values([row[name] for row in rows], [row[name] for row in others]), name

    return check


def partitions_of(frame: DataFrame) -> list[tuple[int, int, int]]:
    """(file, first entry, last entry) of each partition."""
    rows = frame.groupBy(F.spark_partition_id().alias("id"), "__file").agg(F.min("__entry"), F.max("__entry")).collect()
    assert len({row["id"] for row in rows}) == len(rows)
    return sorted((row[1], row[2], row[3]) for row in rows)


def one_line(error: MlaasSparkError) -> str:
    """The message, checked to be one line without a stack trace."""
    text = str(error)
    assert "\n" not in text
    assert "Traceback" not in text
    return text


# --- values -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("entries", [None, 150, 20])
def test_columns_and_values_are_those_of_the_main_path(
    load: Callable[..., DataFrame],
    opened: Callable[..., Events],
    sample: Sample,
    same_frames: Callable[[DataFrame, DataFrame], None],
    entries: int | None,
) -> None:
    options = {} if entries is None else {"entries_per_partition": entries}
    frame = load(sample.paths(), tree="Events", **options)
    same_frames(frame, opened(sample.paths()).dataframe())


def test_every_value_is_what_was_written(
    load: Callable[..., DataFrame],
    sample: Sample,
    collected: Callable[[DataFrame], list[Event]],
    same_values: Callable[[Any, Any], bool],
) -> None:
    rows = collected(load(sample.paths(), entries_per_partition=200))
    assert {(row["__file"], row["__entry"]) for row in rows} == set(sample.events)
    for row in rows:
        written = sample.events[row["__file"], row["__entry"]]
        assert row.keys() == {*written, *PLACE}
        assert all(same_values(row[name], value) for name, value in written.items())


def test_unsigned_integers_come_a_size_up(load: Callable[..., DataFrame], tmp_path: Path) -> None:
    values = {f"u{bits}": np.array([2**bits - 1, 0], f"uint{bits}") for bits in (8, 16, 32)}
    values["u64"] = np.array([2**63 - 1, 0], np.uint64)
    with uproot.recreate(tmp_path / "unsigned.root") as file:
        file.mkrntuple("T", {**values, "l": ak.values_astype(ak.Array([[2**32 - 1], []]), np.uint32)})
    frame = load(str(tmp_path / "unsigned.root"))
    assert dict(frame.drop(*PLACE).dtypes) == {
        "u8": "smallint",
        "u16": "int",
        "u32": "bigint",
        "u64": "bigint",
        "l": "array<bigint>",
    }
    first = frame.where("__entry = 0").drop(*PLACE).collect()[0].asDict()
    assert first == {"u8": 2**8 - 1, "u16": 2**16 - 1, "u32": 2**32 - 1, "u64": 2**63 - 1, "l": [2**32 - 1]}


def test_count_is_the_number_of_entries(load: Callable[..., DataFrame], sample: Sample) -> None:
    assert load(sample.paths()).count() == 1280


def test_frame_is_a_table_of_sql(load: Callable[..., DataFrame], spark: SparkSession, sample: Sample) -> None:
    load(sample.paths(), branches="nJet").createOrReplaceTempView("events_of_root")
    (row,) = spark.sql("SELECT sum(nJet) AS jets, count(*) AS n FROM events_of_root WHERE nJet >= 2").collect()
    selected = [jets for jets in sample.columns("nJet") if jets >= 2]
    assert (row["jets"], row["n"]) == (sum(selected), len(selected))


@pytest.mark.usefixtures("load")
def test_sql_alone_makes_a_view_of_files(spark: SparkSession, sample: Sample) -> None:
    path = sample.paths()[2]
    spark.sql(
        f"CREATE OR REPLACE TEMPORARY VIEW of_sql USING root OPTIONS (path '{path}', branches 'MET_*', tree 'Events')"
    )
    assert spark.table("of_sql").columns == ["MET_pt", "MET_sum", *KEYS, *PLACE]
    assert spark.table("of_sql").count() == 130


# --- which files, which entries, which branches -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["part*.root", "part[12].root:Events", ""])
def test_glob_tree_after_the_name_and_folder_are_read(
    load: Callable[..., DataFrame], sample: Sample, tmp_path: Path, name: str
) -> None:
    for path in sample.paths()[1:]:
        shutil.copy(path, tmp_path)
    counts = load(str(tmp_path / name), branches="run").groupBy("__file", "run").count().orderBy("__file").collect()
    assert [tuple(row) for row in counts] == [(0, 2, 450), (1, 3, 130)]


def test_partitions_are_ranges_of_whole_clusters(load: Callable[..., DataFrame], sample: Sample) -> None:
    frame = load(sample.paths(), branches="run", entries_per_partition=250)
    assert partitions_of(frame) == [
        (0, 0, 199),
        (0, 200, 399),
        (0, 400, 599),
        (0, 600, 699),
        (1, 0, 191),
        (1, 192, 383),
        (1, 384, 449),
        (2, 0, 129),
    ]


@pytest.mark.parametrize(("entries", "count"), [(100, 7 + 7 + 1), (700, 3), (None, 3)])
def test_entries_per_partition_sets_the_number_of_partitions(
    load: Callable[..., DataFrame], sample: Sample, entries: int | None, count: int
) -> None:
    options = {} if entries is None else {"entries_per_partition": entries}
    assert load(sample.paths(), **options).rdd.getNumPartitions() == count


def test_branches_and_exclude_mean_what_they_mean_everywhere(
    load: Callable[..., DataFrame],
    opened: Callable[..., Events],
    sample: Sample,
    same_frames: Callable[[DataFrame, DataFrame], None],
) -> None:
    frame = load(sample.paths(), branches="Jet_*, MET_pt", exclude="Jet_id")
    assert frame.columns == ["Jet_eta", "Jet_pt", "MET_pt", *KEYS, *PLACE]
    same_frames(frame, opened(sample.paths(), branches=("Jet_*", "MET_pt"), exclude=("Jet_id",)).dataframe())


def test_excluded_branch_may_differ_between_the_files(load: Callable[..., DataFrame], tmp_path: Path) -> None:
    for index, dtype in enumerate((np.float32, np.float64)):
        with uproot.recreate(tmp_path / f"{index}.root") as file:
            file.mkrntuple("T", {"x": np.arange(3, dtype=np.int32), "y": np.arange(3, dtype=dtype)})
    with pytest.raises(SpecsError, match=r"'y' is float32 in .*0\.root but float64 in .*1\.root"), received():
        load(str(tmp_path / "*.root"))
    assert load(str(tmp_path / "*.root"), exclude="y").columns == ["x", *PLACE]
    assert load(str(tmp_path / "*.root"), schema="x int").agg(F.sum("x")).collect() == [(6,)]


def test_users_schema_selects_the_columns_in_its_order(
    load: Callable[..., DataFrame],
    sample: Sample,
    same_values: Callable[[Any, Any], bool],
) -> None:
    frame = load(sample.paths(), schema="nJet int NOT NULL, __entry bigint, __file int, Jet_pt array<float>")
    assert frame.columns == ["nJet", "__entry", "__file", "Jet_pt"]
    rows = frame.orderBy("__file", "__entry").collect()
    assert [row["nJet"] for row in rows] == sample.columns("nJet")
    assert same_values([row["Jet_pt"] for row in rows], sample.columns("Jet_pt"))


def test_schema_of_one_frame_reads_another(load: Callable[..., DataFrame], sample: Sample) -> None:
    one, two, _ = sample.paths()
    schema = load(one, branches="MET_pt").schema
    frame = load(two, schema=schema)
    assert frame.schema == schema
    assert frame.count() == 450


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"tree": "Event"}, TreeNotFoundError, r"tree 'Event' not found in .*part0\.root; nearest: Events"),
        ({"branches": "Jet_pT"}, BranchNotFoundError, r"branch 'Jet_pT' not found in .*part0\.root; nearest: Jet_pt"),
        ({"exclude": "Jet_pT"}, BranchNotFoundError, r"branch 'Jet_pT' not found in .*part0\.root; nearest: Jet_pt"),
        ({"branch": "Jet_pt"}, ConfigError, "unknown option 'branch' of format root; nearest: branches"),
        ({"entries_per_partition": "many"}, ConfigError, "'entries_per_partition' is 'many': give a whole number"),
        ({"timeout": "soon"}, ConfigError, "options of format root: input.timeout: .*valid integer"),
        ({"entries_per_partition": 0}, ConfigError, "'entries_per_partition' is '0': give a whole number"),
    ],
)
def test_option_that_does_not_fit_is_named_when_it_is_loaded(
    load: Callable[..., DataFrame], sample: Sample, options: dict[str, Any], kind: type[MlaasSparkError], message: str
) -> None:
    with pytest.raises(kind, match=message) as caught, received():
        load(sample.paths()[0], **options)
    one_line(caught.value)


def test_error_has_our_sentence_on_a_line_where_nobody_receives_it(
    load: Callable[..., DataFrame], sample: Sample
) -> None:
    path = sample.paths()[0]
    with pytest.raises(AnalysisException) as caught:
        load(path, tree="Event")
    assert f"RuntimeError: {TreeNotFoundError('Event', path, ('Events',))}" in str(caught.value).splitlines()


def test_missing_file_names_the_nearest(load: Callable[..., DataFrame], sample: Sample) -> None:
    sample.paths()
    path = str(sample.folder / "part00.root")
    with pytest.raises(FilesetError, match=r"no such file: .*part00\.root; nearest: part0\.root") as caught, received():
        load(path)
    one_line(caught.value)


def test_glob_without_a_match_and_no_path_are_named(
    load: Callable[..., DataFrame], spark: SparkSession, tmp_path: Path
) -> None:
    with pytest.raises(FilesetError, match=r"no file matches .*\*\.root"), received():
        load(str(tmp_path / "*.root"))
    with pytest.raises(ConfigError, match="no path"), received():
        spark.read.format("root").load()


def test_file_that_is_not_of_root_is_named(load: Callable[..., DataFrame], tmp_path: Path) -> None:
    (tmp_path / "no.root").write_text("no file of ROOT")
    with pytest.raises(UnreadableInputError, match=r"no\.root: it is not a ROOT file"), received():
        load(str(tmp_path / "no.root"))


def test_copy_of_a_file_is_refused(load: Callable[..., DataFrame], sample: Sample, tmp_path: Path) -> None:
    path = sample.paths()[0]
    copy = shutil.copy(path, tmp_path / "copy.root")
    with pytest.raises(FilesetError, match=r"copy\.root is a copy of .*part0\.root"), received():
        load([path, str(copy)])


@pytest.mark.parametrize(
    ("schema", "kind", "message"),
    [
        ("Jet_pT array<float>", BranchNotFoundError, r"branch 'Jet_pT' not found in .*nearest: Jet_pt"),
        ("nJet int, MET_pt double", SpecsError, "branch 'MET_pt' is read as float, not double"),
    ],
)
def test_users_schema_that_does_not_fit_is_named_by_the_first_action(
    load: Callable[..., DataFrame], sample: Sample, schema: str, kind: type[MlaasSparkError], message: str
) -> None:
    frame = load(sample.paths()[0], schema=schema)
    with pytest.raises(kind, match=message) as caught, received():
        frame.count()
    one_line(caught.value)


def test_users_schema_is_told_why_a_branch_is_no_column(load: Callable[..., DataFrame], tmp_path: Path) -> None:
    with uproot.recreate(tmp_path / "text.root") as file:
        file.mkrntuple("T", {"x": np.arange(2), "name": ak.Array(["a", "b"])})
    path = str(tmp_path / "text.root")
    assert load(path).columns == ["x", *PLACE]
    with pytest.raises(ConfigError, match=r"branch 'name' of .*text\.root cannot be a column: strings"), received():
        load(path, schema="name string").count()


def test_value_too_large_is_an_error_of_ours(load: Callable[..., DataFrame], tmp_path: Path) -> None:
    with uproot.recreate(tmp_path / "large.root") as file:
        file.mkrntuple("T", {"x": np.array([2**63, 1], np.uint64)})
    frame = load(str(tmp_path / "large.root"))
    with pytest.raises(PythonException, match="branch 'x' does not fit into a DataFrame as int64"):
        frame.collect()
    with pytest.raises(SpecsError, match="branch 'x' does not fit into a DataFrame as int64"), received():
        frame.collect()


def test_file_replaced_since_it_was_loaded_is_refused(
    load: Callable[..., DataFrame], sample: Sample, tmp_path: Path
) -> None:
    one, two, _ = sample.paths()
    path = shutil.copy(one, tmp_path / "same_name.root")
    frame = load(str(path))
    shutil.copy(two, path)
    with pytest.raises(UnreadableInputError, match=r"same_name\.root, tree Events: it was replaced"), received():
        frame.count()
