from __future__ import annotations

import gzip
import json
import math
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import awkward as ak
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import uproot
from pyspark.sql import functions as F  # noqa: N812 - the name Spark's own documentation uses

from mlaas_spark.config import FeatureConfig, InputConfig
from mlaas_spark.errors import (
    BranchNotFoundError,
    ConfigError,
    FilesetError,
    MlaasSparkError,
    SpecsError,
    TreeNotFoundError,
    UnreadableInputError,
)
from mlaas_spark.filesets import InputFile
from mlaas_spark.formats import Format
from mlaas_spark.spark import specs as spark_specs
from mlaas_spark.spark.features import features
from mlaas_spark.spark.ingest import open_events
from mlaas_spark.transform import FeatureTransform

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pyspark.sql import DataFrame, SparkSession

    from mlaas_spark.spark.ingest import Events
    from tests.spark.conftest import Event, Sample

KINDS = ["root", "parquet", "arrow", "json", "json.gz", "csv"]
FLAT = ["MET_pt", "MET_sum", "const", "flag", "nEle_pt", "nJet"]
JAGGED = ["Ele_pt", "Jet_eta", "Jet_id", "Jet_pt"]
KEYS = ["event", "luminosityBlock", "run"]


def one_line(error: MlaasSparkError) -> str:
    """The message, checked to be one line without a stack trace."""
    text = str(error)
    assert "\n" not in text
    assert "org.apache.spark" not in text
    assert "Traceback" not in text
    return text


# --- ROOT -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("events_per_task", [1, 150, 100_000])
def test_dataframe_of_root_files_has_every_value_that_uproot_reads(
    opened: Callable[..., Events],
    sample: Sample,
    collected: Callable[[DataFrame], list[Event]],
    same_values: Callable[[Any, Any], bool],
    events_per_task: int,
) -> None:
    rows = collected(opened(sample.paths(), events_per_task).dataframe())
    place = 0
    for index, path in enumerate(sample.paths()):
        with uproot.open(path) as file:
            arrays = {name: array.to_list() for name, array in file["Events"].arrays(how=dict).items()}
        of_file = rows[place : place + len(arrays["run"])]
        assert [(row["__file"], row["__entry"]) for row in of_file] == [(index, e) for e in range(len(of_file))]
        assert set(of_file[0]) == {*arrays, "__file", "__entry"} == {*FLAT, *JAGGED, *KEYS, "__file", "__entry"}
        for name, values in arrays.items():
            assert same_values([row[name] for row in of_file], values), name
        place += len(of_file)
    assert place == len(rows) == 1280


def test_dataframe_has_the_types_of_the_file_unsigned_ones_a_size_up(
    opened: Callable[..., Events], sample: Sample
) -> None:
    types = dict(opened(sample.paths()).dataframe().dtypes)
    assert types == {
        "Ele_pt": "array<double>",
        "Jet_eta": "array<double>",
        "Jet_id": "array<int>",
        "Jet_pt": "array<float>",
        "MET_pt": "float",
        "MET_sum": "double",
        "const": "float",
        "event": "bigint",
        "flag": "boolean",
        "luminosityBlock": "bigint",
        "nEle_pt": "int",
        "nJet": "int",
        "run": "bigint",
        "__file": "int",
        "__entry": "bigint",
    }


def test_plan_holds_what_the_headers_say(opened: Callable[..., Events], sample: Sample) -> None:
    plan = opened(sample.paths()).plan
    assert [file.path for file in plan.files] == sample.paths()
    assert [file.entries for file in plan.files] == [700, 450, 130]
    assert [file.uuid for file in plan.files] == [f"{index:032x}" for index in (1, 2, 3)]
    assert {file.tree for file in plan.files} == {"Events"}
    assert [file.boundaries for file in plan.files] == [
        (0, 100, 200, 300, 400, 500, 600, 700),
        (0, 64, 128, 192, 256, 320, 384, 448, 450),
        (0, 130),
    ]


@pytest.fixture
def unlike(tmp_path: Path) -> list[str]:
    """Three files of a tree: the second lacks two branches of the others and has one more."""
    content = {
        "x": np.arange(5.0),
        "n": np.arange(5, dtype=np.int32),
        "v": ak.Array([[1.0], [], [2.0, 3.0], [], [4.0]]),
    }
    paths = []
    for index in range(3):
        branches = {"x": content["x"] + 10, "y": content["x"]} if index == 1 else content
        paths.append(str(tmp_path / f"{index}.root"))
        with uproot.recreate(paths[-1]) as file:
            file.mkrntuple("T", branches)
    return paths


def test_files_of_unlike_branches_are_refused_by_default(opened: Callable[..., Events], unlike: list[str]) -> None:
    with pytest.raises(SpecsError, match=r"branch 'n' is in .*0\.root:T but not in .*1\.root:T"):
        opened(unlike)


def test_intersect_reads_what_all_files_have(opened: Callable[..., Events], unlike: list[str]) -> None:
    events = opened(unlike, schema_policy="intersect")
    assert events.plan.schema.names == ("x",)
    assert {item.name for item in events.plan.schema.omitted} == {"n", "v", "y"}
    with pytest.raises(BranchNotFoundError, match="'n'"):
        opened(unlike, schema_policy="intersect", selection="n > 1")


def test_fill_reads_all_branches_missing_where_a_file_lacks_them(
    opened: Callable[..., Events], unlike: list[str]
) -> None:
    events = opened(unlike, 2, schema_policy="fill")
    rows = [tuple(row)[:-2] for row in events.dataframe().orderBy("__file", "__entry").collect()]
    first = [(0, [1.0], 0.0, None), (1, [], 1.0, None), (2, [2.0, 3.0], 2.0, None), (3, [], 3.0, None)]
    first.append((4, [4.0], 4.0, None))
    assert rows == [*first, *((None, None, x + 10.0, float(x)) for x in range(5)), *first]
    specs = spark_specs.compute(events, events.plan.schema.names)[0].specs
    assert {name: (specs[name].count, specs[name].nan) for name in ("n", "x", "y")} == {
        "n": (15, 5),
        "x": (15, 0),
        "y": (15, 10),
    }
    assert specs["v"].lengths == (4 + 5, 4, 2)
    assert opened(unlike, schema_policy="fill", selection="n >= 0 || y > 3").counted().plan.events_by_file() == [
        5,
        1,
        5,
    ]


def test_derived_branches_are_computed_from_those_of_the_file(opened: Callable[..., Events], sample: Sample) -> None:
    derive = {"HT": "sum(Jet_pt)", "two": "2 * MET_sum"}
    events = opened(sample.paths(), 100, derive=derive, branches=("nJet",), selection="HT > 50")
    rows = events.dataframe().select("__file", "__entry", "HT", "two", "nJet").collect()
    totals = {place: sum(np.float64(x) for x in event["Jet_pt"]) for place, event in sample.events.items()}
    expected = {place: total for place, total in totals.items() if total > 50}
    assert [(row["__file"], row["__entry"]) for row in rows] == list(expected)
    assert [row["HT"] for row in rows] == pytest.approx(list(expected.values()))
    specs = spark_specs.compute(events, ["HT"])[0].specs
    assert specs.events == len(expected)
    assert specs["HT"].maximum == pytest.approx(max(expected.values()))


def test_derived_branch_that_hides_one_of_the_file_is_refused(opened: Callable[..., Events], sample: Sample) -> None:
    with pytest.raises(ConfigError, match=r"'nJet' is a branch of .*give what is derived another name"):
        opened(sample.paths(), derive={"nJet": "MET_sum + 1"})


@pytest.mark.parametrize("kind", ["parquet", "json", "csv"])
def test_derived_branches_of_other_formats_are_the_same(
    opened: Callable[..., Events], sample: Sample, kind: str
) -> None:
    derive = {"HT": "sum(Jet_pt)"}
    of_root, other = (opened(paths, derive=derive) for paths in (sample.paths(), sample.paths(kind)))
    one, two = (spark_specs.compute(events, ["HT"])[0].specs["HT"] for events in (of_root, other))
    assert (one.count, one.total) == (two.count, two.total)


def fileset_of(path: str, target: Path, **about: Any) -> str:
    target.write_text(json.dumps({"data": {"files": {path: {"object_path": "Events", **about}}}}))
    return str(target)


@pytest.mark.parametrize("kind", ["root", "parquet", "arrow"])
def test_steps_of_a_fileset_alone_are_read(
    opened: Callable[..., Events], sample: Sample, tmp_path: Path, kind: str
) -> None:
    path = sample.paths(kind)[0]
    uuid = opened([path]).plan.files[0].uuid if kind == "root" else "of whoever wrote the fileset"
    given = fileset_of(path, tmp_path / "f.json", steps=[[30, 150], [150, 310], [640, 700]], uuid=uuid)
    events = opened([], 100, fileset=given)
    rows = events.dataframe().select("__entry", "event").collect()
    expected = [*range(30, 310), *range(640, 700)]
    assert [row["__entry"] for row in rows] == expected
    assert [row["event"] for row in rows] == [sample.files[0][entry]["event"] for entry in expected]


def test_file_that_is_not_the_one_of_the_fileset_is_refused(
    opened: Callable[..., Events], sample: Sample, tmp_path: Path
) -> None:
    given = fileset_of(sample.paths()[0], tmp_path / "f.json", uuid="0" * 32)
    with pytest.raises(UnreadableInputError, match=r"not the file that the fileset describes \(uuid "):
        opened([], 100, fileset=given)


@pytest.mark.parametrize(
    ("events_per_task", "expected"),
    [
        (250, [(0, 200), (200, 400), (400, 600), (600, 700)]),
        (25, [(start, start + 100) for start in range(0, 700, 100)]),
        (700, [(0, 700)]),
    ],
)
@pytest.mark.parametrize("kind", ["root", "parquet", "arrow"])
def test_ranges_tile_the_file_along_its_clusters_or_row_groups(
    opened: Callable[..., Events], sample: Sample, kind: str, events_per_task: int, expected: list[tuple[int, int]]
) -> None:
    plan = opened(sample.paths(kind)[:1], events_per_task).plan
    assert [(r.start, r.stop) for r in plan.ranges] == expected


def test_number_of_events_is_taken_from_each_file_in_proportion(
    opened: Callable[..., Events], sample: Sample, collected: Callable[[DataFrame], list[Event]]
) -> None:
    rows = collected(opened(sample.paths(), events=128).dataframe())
    assert [(row["__file"], row["__entry"]) for row in rows] == [
        *((0, entry) for entry in range(70)),
        *((1, entry) for entry in range(45)),
        *((2, entry) for entry in range(13)),
    ]
    assert [row["event"] for row in rows] == [sample.events[row["__file"], row["__entry"]]["event"] for row in rows]


def test_globs_choose_branches_and_the_rest_is_listed(opened: Callable[..., Events], sample: Sample) -> None:
    schema = opened(sample.paths(), branches=("Jet_*", "MET*"), exclude=("Jet_id",)).plan.schema
    assert schema.names == ("Jet_eta", "Jet_pt", "MET_pt", "MET_sum", *KEYS)
    assert {"Ele_pt", "Jet_id", "const", "flag"} <= {omitted.name for omitted in schema.omitted}


@pytest.mark.parametrize(
    ("settings", "nearest"),
    [
        ({"branches": ("Jet_pT",)}, "'Jet_pT'.*nearest: Jet_pt"),
        ({"exclude": ("jet_id",)}, "'jet_id'.*nearest: Jet_id"),
        ({"selection": "met_pt > 3"}, "'met_pt'.*nearest: MET_pt"),
        ({"label": "Flag"}, "'Flag'.*nearest: flag"),
    ],
)
def test_unknown_branch_names_the_nearest(
    opened: Callable[..., Events], sample: Sample, settings: dict[str, Any], nearest: str
) -> None:
    with pytest.raises(BranchNotFoundError, match=nearest) as caught:
        opened(sample.paths(), **settings)
    one_line(caught.value)


@pytest.mark.parametrize("kind", ["root", "json"])
def test_selection_keeps_the_events_that_numpy_keeps(
    opened: Callable[..., Events], sample: Sample, collected: Callable[[DataFrame], list[Event]], kind: str
) -> None:
    events = opened(sample.paths(kind), selection="MET_pt > 30 && nJet >= 2", branches=("Jet_pt",))
    rows = collected(events.dataframe())
    met, jets = np.array(sample.columns("MET_pt")), np.array(sample.columns("nJet"))
    places = [place for place, kept in zip(sample.events, (met > 30) & (jets >= 2), strict=True) if kept]
    assert 100 < len(places) < 1000
    assert [(row["__file"], row["__entry"]) for row in rows] == places
    counted = events.counted().plan
    assert counted.events_by_file() == [sum(file == index for file, _ in places) for index in range(3)]
    for entries in counted.ranges:
        inside = [entry for file, entry in places if file == entries.file and entries.start <= entry < entries.stop]
        assert entries.events == len(inside)


def test_selection_that_keeps_nothing_is_an_error(opened: Callable[..., Events], sample: Sample) -> None:
    with pytest.raises(FilesetError, match="keeps none of 1280 events") as caught:
        opened(sample.paths(), selection="MET_pt < 0").counted()
    one_line(caught.value)


def test_copy_of_a_root_file_is_refused(opened: Callable[..., Events], sample: Sample, tmp_path: Path) -> None:
    copy = tmp_path / "copy.root"
    copy.write_bytes(Path(sample.paths()[1]).read_bytes())
    with pytest.raises(FilesetError, match="is a copy of") as caught:
        opened([*sample.paths(), str(copy)])
    assert str(copy) in one_line(caught.value)
    assert sample.paths()[1] in str(caught.value)


@pytest.mark.parametrize("suffix", ["json", "csv", "parquet"])
def test_copy_of_another_file_is_refused(
    opened: Callable[..., Events], sample: Sample, tmp_path: Path, suffix: str
) -> None:
    copy = tmp_path / f"copy.{suffix}"
    copy.write_bytes(Path(sample.paths(suffix)[2]).read_bytes())
    with pytest.raises(FilesetError, match="is a copy of"):
        opened([*sample.paths(suffix), str(copy)])


@pytest.fixture
def two_schemas(
    write: Callable[..., str], make_events: Callable[[int, int, int], list[Event]], tmp_path: Path
) -> tuple[str, str]:
    """Two ROOT files: the second lacks ``flag``, and ``MET_pt`` is of another type in it."""
    types = {"event": "uint64", "MET_pt": "float32", "flag": "bool", "const": "float32"}
    one = write(tmp_path / "one.root", make_events(20, 1, 1), types=types)
    others = {"event": "uint64", "MET_pt": "float64", "const": "float32"}
    two = write(tmp_path / "two.root", make_events(30, 2, 2), types=others)
    return one, two


@pytest.mark.parametrize(
    ("exclude", "message"),
    [
        ((), "'MET_pt' is float32 in .*float64 in"),
        (("MET_pt",), "'flag' is in .*one.root:Events but not in .*two.root:Events"),
    ],
)
def test_root_files_of_different_schema_are_refused_by_name(
    opened: Callable[..., Events], two_schemas: tuple[str, str], exclude: tuple[str, ...], message: str
) -> None:
    with pytest.raises(SpecsError, match=message) as caught:
        opened(two_schemas, exclude=exclude)
    text = one_line(caught.value)
    assert all(path in text for path in two_schemas)


@pytest.mark.parametrize("settings", [{"exclude": ("flag", "MET_pt")}, {"branches": ("const",)}])
def test_files_need_to_agree_only_on_the_branches_that_are_read(
    opened: Callable[..., Events],
    two_schemas: tuple[str, str],
    collected: Callable[[DataFrame], list[Event]],
    settings: dict[str, Any],
) -> None:
    rows = collected(opened(two_schemas, **settings).dataframe())
    assert [row["event"] for row in rows] == [*range(1000, 1020), *range(2000, 2030)]
    assert set(rows[0]) == {"event", "const", "__file", "__entry"}


def test_labels_and_weights_of_groups_reach_the_plan(opened: Callable[..., Events], sample: Sample) -> None:
    plan = opened(sample.paths(), labels=[1, 0, 0], weights=[2.0, 0.5, 1.0]).plan
    assert [(file.label, file.weight, file.group) for file in plan.files] == [
        (1.0, 2.0, "g0"),
        (0.0, 0.5, "g1"),
        (0.0, 1.0, "g2"),
    ]


# --- every format -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS[1:])
def test_events_are_the_same_in_every_format(
    opened: Callable[..., Events],
    sample: Sample,
    collected: Callable[[DataFrame], list[Event]],
    same_values: Callable[[Any, Any], bool],
    kind: str,
) -> None:
    rows = collected(opened(sample.paths(kind)).dataframe())
    assert [(row["__file"], row["__entry"]) for row in rows] == list(sample.events)
    assert set(rows[0]) == {*FLAT, *JAGGED, *KEYS, "__file", "__entry"}
    for name in (*FLAT, *JAGGED, *KEYS):
        assert same_values([row[name] for row in rows], sample.columns(name)), name


@pytest.fixture(scope="module")
def of_root(opened: Callable[..., Events], sample: Sample) -> dict[str, Any]:
    """Specs of the sample's ROOT files, as JSON."""
    return spark_specs.compute(opened(sample.paths()), [*FLAT, *JAGGED], quantiles=["MET_pt"])[0].to_json()


@pytest.mark.parametrize("kind", KINDS[1:])
def test_specs_and_features_are_the_same_in_every_format_to_the_bit(
    opened: Callable[..., Events],
    sample: Sample,
    of_root: dict[str, Any],
    plain_matrix: Callable[..., Any],
    kind: str,
) -> None:
    events = opened(sample.paths(kind))
    specs, _ = spark_specs.compute(events, [*FLAT, *JAGGED], quantiles=["MET_pt"])
    found = specs.to_json()
    for key in ("jdim", "minv", "maxv", "fkeys", "jkeys", "nans"):
        assert found[key] == of_root[key]
    assert found["mlaas_spark"]["branches"] == of_root["mlaas_spark"]["branches"]
    assert [found["events"][path] for path in sample.paths(kind)] == [700, 450, 130]

    transform = FeatureTransform.of(specs.specs, FeatureConfig())
    frame = events.dataframe().select("__file", "__entry", features(transform).alias("made"))
    made = {(row["__file"], row["__entry"]): row["made"] for row in frame.toArrow().to_pylist()}
    matrix, mask = plain_matrix(list(sample.events.values()), transform)
    for place, row, bits in zip(sample.events, matrix, mask, strict=True):
        assert made[place]["features"] == row.astype("<f4").tobytes()
        assert np.array_equal(np.unpackbits(np.frombuffer(made[place]["mask"], np.uint8))[: transform.width], bits)


@pytest.mark.parametrize("kind", ["json", "csv"])
def test_entries_are_numbered_as_in_the_file_when_spark_cuts_it_into_blocks(
    spark: SparkSession,
    opened: Callable[..., Events],
    sample: Sample,
    collected: Callable[[DataFrame], list[Event]],
    kind: str,
) -> None:
    small = spark.newSession()
    small.conf.set("spark.sql.files.maxPartitionBytes", "30000")
    small.conf.set("spark.sql.files.openCostInBytes", "1")
    events = opened(sample.paths(kind), on=small)
    assert [len(file.boundaries) > 3 for file in events.plan.files[:2]] == [True, True]
    assert [file.entries for file in events.plan.files] == [700, 450, 130]
    # whoever changes the settings now does not change the blocks that were counted
    small.conf.set("spark.sql.files.maxPartitionBytes", "50000")
    rows = collected(events.dataframe())
    assert [(row["__file"], row["__entry"]) for row in rows] == list(sample.events)
    assert [row["event"] for row in rows] == [event["event"] for event in sample.events.values()]


def test_number_of_events_ends_inside_a_block(
    opened: Callable[..., Events], sample: Sample, collected: Callable[[DataFrame], list[Event]]
) -> None:
    rows = collected(opened(sample.paths("csv"), events=128).dataframe())
    assert [(row["__file"], row["__entry"]) for row in rows] == [
        (file, entry) for file, entries in enumerate((70, 45, 13)) for entry in range(entries)
    ]


def test_unsigned_integers_of_parquet_stay_integers(opened: Callable[..., Events], tmp_path: Path) -> None:
    values = [2**64 - 1, 2**53 + 1, 0]
    lists = [[2**64 - 3], [], [1, 2**63]]
    table = pa.table({"x": pa.array(values, pa.uint64()), "l": pa.array(lists, pa.list_(pa.uint64()))})
    pq.write_table(table, tmp_path / "x.parquet")
    events = opened([str(tmp_path / "x.parquet")])
    assert [(b.name, b.dtype, b.jagged) for b in events.plan.schema.branches] == [
        ("l", "uint64", True),
        ("x", "uint64", False),
    ]

    def write_down(batches: Iterable[Any]) -> Iterable[pa.RecordBatch]:
        for _, batch, _ in batches:
            yield pa.RecordBatch.from_arrays(
                [pa.array([str(x) for x in batch.column(name).to_pylist()]) for name in ("x", "l")], names=["x", "l"]
            )

    rows = events.map_ranges(write_down, "x string, l string").collect()
    assert [int(row.x) for row in rows] == values
    assert [json.loads(row.l) for row in rows] == lists


def test_json_records_in_records_become_branches_with_joined_names(
    opened: Callable[..., Events], tmp_path: Path, collected: Callable[[DataFrame], list[Event]]
) -> None:
    path = tmp_path / "nested.json"
    records = [
        {"id": 1, "data": {"met": 1.5, "jet": {"pt": [1.0, 2.0]}}},
        {"id": 2, "data": {"met": None, "jet": {"pt": []}}},
        {"id": 3},
    ]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    events = opened([str(path)])
    assert {b.name: b.source for b in events.plan.schema.branches} == {
        "data_jet_pt": "data.jet.pt",
        "data_met": "data.met",
        "id": "id",
    }
    rows = collected(events.dataframe())
    assert [(row["id"], row["data_met"], row["data_jet_pt"]) for row in rows] == [
        (1, 1.5, [1.0, 2.0]),
        (2, None, []),
        (3, None, None),
    ]


def test_what_cannot_be_a_feature_is_listed_with_its_reason(opened: Callable[..., Events], tmp_path: Path) -> None:
    path = tmp_path / "odd.json"
    path.write_text('{"x": 1, "name": "a", "list": ["b"], "deep": [[1]], "maps": {}, "void": [], "digits": "12"}\n')
    schema = opened([str(path)]).plan.schema
    assert schema.names == ("x",)
    assert {omitted.name: omitted.reason for omitted in schema.omitted} == {
        "deep": "nested lists (more than one jagged dimension)",
        "digits": "strings are not numbers",
        "void": "no value in any event",
        "list": "strings are not numbers",
        "name": "strings are not numbers",
    }


def test_csv_text_column_is_listed_and_numpys_nan_and_inf_are_numbers(
    opened: Callable[..., Events],
    tmp_path: Path,
    collected: Callable[[DataFrame], list[Event]],
    same_values: Callable[[Any, Any], bool],
) -> None:
    path = tmp_path / "odd.csv"
    path.write_text('x,y,name,l\n1.5,-inf,a,[]\nnan,2e3,4,"[1, NaN, -Infinity]"\n,7,b,[2]\n')
    events = opened([str(path)])
    assert {omitted.name: omitted.reason for omitted in events.plan.schema.omitted} == {
        "name": "strings are not numbers"
    }
    rows = collected(events.dataframe())
    assert rows[2]["x"] is None
    assert same_values([row["x"] for row in rows[:2]], [1.5, math.nan])
    assert same_values([row["y"] for row in rows], [-math.inf, 2000.0, 7.0])
    assert same_values([row["l"] for row in rows], [[], [1.0, math.nan, -math.inf], [2.0]])


# --- preprocessing ----------------------------------------------------------------------------------------------------


@pytest.fixture
def preproc(tmp_path: Path) -> Callable[[str], Path]:
    """Writes a user's preproc.py."""

    def write_file(body: str) -> Path:
        path = tmp_path / "preproc.py"
        path.write_text(
            "import numpy as np\n\n\ndef preprocessing(rec):\n" + textwrap.indent(textwrap.dedent(body), "    ")
        )
        return path

    return write_file


def test_preprocessing_of_mlaas4heps_records_makes_the_label(
    opened: Callable[..., Events],
    preproc: Callable[[str], Path],
    sample: Sample,
    tmp_path: Path,
    collected: Callable[[DataFrame], list[Event]],
    same_values: Callable[[Any, Any], bool],
) -> None:
    path = tmp_path / "records.json.gz"
    lines = (json.dumps({"data": event, "meta": "text"}) + "\n" for event in sample.files[1])
    path.write_bytes(gzip.compress("".join(lines).encode()))
    made = preproc("""
        rec = rec["data"]
        rec["target"] = np.int64(rec["nJet"] >= 2)
        rec["sum_pt"] = np.float64(np.nansum(rec["Jet_pt"]))
        del rec["flag"]
        return rec
    """)
    events = opened([str(path)], preproc=made, label="target")
    rows = collected(events.dataframe())
    assert [row["__entry"] for row in rows] == list(range(450))
    assert "flag" not in rows[0]
    for row, event in zip(rows, sample.files[1], strict=True):
        assert row["target"] == (len(event["Jet_pt"]) >= 2)
        assert row["sum_pt"] == float(np.nansum(event["Jet_pt"]))
        for name in ("MET_pt", "MET_sum", "Jet_pt", "Jet_eta", "Ele_pt"):
            assert same_values(row[name], event[name])


def test_preprocessing_runs_for_records_of_csv(
    opened: Callable[..., Events],
    preproc: Callable[[str], Path],
    tmp_path: Path,
    collected: Callable[[DataFrame], list[Event]],
) -> None:
    path = tmp_path / "few.csv"
    path.write_text("x,when\n1.5,2020-01-02\n2.5,2021-03-04\n")
    made = preproc("""
        assert isinstance(rec["x"], float)
        return {"double": 2 * rec["x"]}
    """)
    rows = collected(opened([str(path)], preproc=made).dataframe())
    assert [(row["double"], row["__entry"]) for row in rows] == [(3.0, 0), (5.0, 1)]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ('rec["y"] = 1 / (rec["x"] - 2)\nreturn rec', r"preprocessing\(record 3\).*line 5: ZeroDivisionError"),
        ('return rec if rec["x"] < 2 else None', r"preprocessing\(record 3\).*returned NoneType, not a dict"),
        ('return {"x": object() if rec["x"] == 2 else 1}', r"preprocessing\(record 3\).*no JSON"),
    ],
)
def test_failure_of_preprocessing_names_function_file_and_record(
    opened: Callable[..., Events], preproc: Callable[[str], Path], tmp_path: Path, body: str, message: str
) -> None:
    path = tmp_path / "few.json"
    path.write_text("".join(f'{{"x": {x}}}\n' for x in range(5)))
    made = preproc(body)
    with pytest.raises(UnreadableInputError, match=message) as caught:
        opened([str(path)], preproc=made)
    text = one_line(caught.value)
    assert str(path) in text
    assert str(made) in text


def test_preproc_without_its_function_is_refused(opened: Callable[..., Events], sample: Sample, tmp_path: Path) -> None:
    path = tmp_path / "preproc.py"
    path.write_text("def preprocess(rec):\n    return rec\n")
    with pytest.raises(ConfigError, match=r"no function .*'preprocessing'; nearest: preprocess"):
        opened(sample.paths("json"), preproc=path)


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_preproc_is_refused_for_files_of_columns(
    opened: Callable[..., Events], preproc: Callable[[str], Path], sample: Sample, kind: str
) -> None:
    with pytest.raises(ConfigError, match=f"JSON and CSV; {kind} has columns"):
        opened(sample.paths(kind), preproc=preproc("return rec"))


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", list(Format))
def test_missing_file_is_named(spark: SparkSession, tmp_path: Path, kind: Format) -> None:
    path = str(tmp_path / f"gone.{kind}")
    with pytest.raises(UnreadableInputError, match="no such file") as caught:
        open_events(spark, [InputFile(path, kind)], InputConfig(files=(path,)), 10)
    assert path in one_line(caught.value)


@pytest.mark.parametrize("kind", list(Format))
def test_empty_file_is_named(opened: Callable[..., Events], tmp_path: Path, kind: Format) -> None:
    path = tmp_path / f"empty.{kind}"
    path.touch()
    with pytest.raises(UnreadableInputError, match=r"empty \(0 bytes\)") as caught:
        opened([str(path)])
    assert str(path) in one_line(caught.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("broken.json", b'{"x": 1}\n{"x": 2\n{"x": 3}\n'),
        ("cut.json", b'{"x": 1}\n{"x": 2}\n{"x":'),
        ("no.json.gz", b"this is not gzip"),
        ("cut.json.gz", gzip.compress(b"".join(b'{"x": %d}\n' % (x * x) for x in range(9999)))[:-5000]),
        ("no.csv.gz", b"this is not gzip"),
        ("no.parquet", b"PAR1 nothing of the kind PAR1"),
        ("no.arrow", b"ARROW1 nothing of the kind ARROW1"),
        ("no.root", b"no file of ROOT"),
        ("cut.root", b"root\x00\x00\xf7\x7f" + bytes(20)),
    ],
)
def test_damaged_file_is_named(opened: Callable[..., Events], tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UnreadableInputError) as caught:
        opened([str(path)])
    assert str(path) in one_line(caught.value)


def test_root_file_cut_in_its_events_is_named_with_the_entries(
    opened: Callable[..., Events], write: Callable[..., str], make_events: Callable[..., list[Event]], tmp_path: Path
) -> None:
    path = Path(write(tmp_path / "damaged.root", make_events(600, 1, 1), cluster=200))
    with uproot.open(path) as file:
        basket = file["Events"]["luminosityBlock"].basket_key(1)
        start, size = basket.fSeekKey + basket.fKeylen, basket.fNbytes - basket.fKeylen
    content = bytearray(path.read_bytes())
    content[start : start + size] = b"\xff" * size
    path.write_bytes(content)
    assert size < 200 * 4  # compressed: in plain numbers no reader can see damage
    events = opened([str(path)], 200)
    with pytest.raises(UnreadableInputError, match=r"entries \[200, 400\)") as caught:
        spark_specs.compute(events, ["luminosityBlock"])
    assert str(path) in one_line(caught.value)


def test_parquet_file_damaged_in_its_events_is_named_with_entries_and_row_group(
    opened: Callable[..., Events], write: Callable[..., str], make_events: Callable[..., list[Event]], tmp_path: Path
) -> None:
    path = Path(write(tmp_path / "damaged.parquet", make_events(600, 1, 1), cluster=200))
    groups = pq.read_metadata(path)
    chunk = next(c for c in map(groups.row_group(1).column, range(99)) if c.path_in_schema == "MET_sum")
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    content = bytearray(path.read_bytes())
    content[start : start + chunk.total_compressed_size] = b"\xff" * chunk.total_compressed_size
    path.write_bytes(content)
    with pytest.raises(UnreadableInputError, match=r"entries \[200, 400\): row group 1 is damaged") as caught:
        spark_specs.compute(opened([str(path)], 600), ["MET_sum"])
    assert str(path) in one_line(caught.value)
    assert spark_specs.compute(opened([str(path)], 600), ["MET_pt"])[0].specs.events == 600


def test_csv_line_with_a_cell_too_few_is_an_error_of_the_input(opened: Callable[..., Events], tmp_path: Path) -> None:
    path = tmp_path / "short.csv"
    path.write_text("x,y\n1,10\n2\n3,30\n")
    with pytest.raises(UnreadableInputError) as caught:
        spark_specs.compute(opened([str(path)]), ["x", "y"])
    assert str(path) in one_line(caught.value)


def test_unknown_tree_names_the_nearest(opened: Callable[..., Events], sample: Sample) -> None:
    with pytest.raises(TreeNotFoundError, match=r"'Event' not found.*nearest: Events") as caught:
        opened(sample.paths(), tree="Event")
    one_line(caught.value)


def test_no_entry_in_any_file_is_an_error(opened: Callable[..., Events], tmp_path: Path) -> None:
    path = tmp_path / "none.root"
    with uproot.recreate(path) as file:
        file.mktree("Events", {"x": np.float32})
    with pytest.raises(FilesetError, match=r"zero entries.*none\.root") as caught:
        opened([str(path)])
    one_line(caught.value)


def test_parquet_files_of_spark_and_of_pyarrow_fit_together(
    spark: SparkSession, opened: Callable[..., Events], tmp_path: Path, collected: Callable[[DataFrame], list[Event]]
) -> None:
    """They name the elements of a list differently."""
    pq.write_table(pa.table({"l": [[1.5, 2.5], []]}), tmp_path / "arrow.parquet", use_compliant_nested_type=False)
    spark.range(1).select(F.array(F.lit(3.5)).alias("l")).coalesce(1).write.parquet(str(tmp_path / "made"))
    (made,) = (tmp_path / "made").glob("*.parquet")
    rows = collected(opened([str(tmp_path / "arrow.parquet"), str(made)]).dataframe())
    assert [row["l"] for row in rows] == [[1.5, 2.5], [], [3.5]]


def test_unsigned_value_too_large_for_a_dataframe_is_an_error_of_ours(
    opened: Callable[..., Events], tmp_path: Path
) -> None:
    path = tmp_path / "large.root"
    with uproot.recreate(path) as file:
        tree = file.mktree("Events", {"x": np.uint64, "l": ak.types.from_datashape("var * float32", highlevel=False)})
        tree.extend({"x": np.array([2**63, 1], np.uint64), "l": ak.Array([[1.0], []])})
    frame = opened([str(path)]).dataframe()
    with pytest.raises(Exception, match=r"SpecsError.*branch 'x' does not fit into a DataFrame as int64"):
        frame.collect()
