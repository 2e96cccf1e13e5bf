"""Types that Parquet, JSON and CSV have and ROOT has not, missing values, and files that Spark would misread."""

from __future__ import annotations

import bz2
import csv
import datetime as dt
import gzip
import json
import math
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import awkward as ak
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import uproot

from mlaas_spark.errors import BranchNotFoundError, ConfigError, SpecsError, UnreadableInputError
from mlaas_spark.filesets import MANIFEST
from mlaas_spark.manifest import DataFile, Manifest
from mlaas_spark.schema import EventSchema
from mlaas_spark.spark import specs as spark_specs
from mlaas_spark.spark.convert import convert

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyspark.sql import DataFrame, SparkSession

    from mlaas_spark.spark.ingest import Events
    from tests.spark.conftest import Event

TIME = dt.datetime(2020, 1, 2, 3, 4, 5, 250000, tzinfo=dt.UTC)
DAY = dt.date(2021, 3, 4)
DAY_IN_SECONDS = 1614816000.0


def column(rows: list[Event], name: str) -> list[Any]:
    return [row[name] for row in rows]


# --- times ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("zone", [None, "UTC", "Europe/Rome"])
@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
def test_times_of_parquet_are_seconds_since_the_epoch(
    opened: Callable[..., Events],
    tmp_path: Path,
    collected: Callable[[DataFrame], list[Event]],
    unit: str,
    zone: str | None,
) -> None:
    kind = pa.timestamp(unit, zone)
    time = TIME if zone else TIME.replace(tzinfo=None)
    table = pa.table(
        {
            "time": pa.array([time, None, time], kind),
            "times": pa.array([[time, None], [], None], pa.list_(kind)),
            "day": pa.array([DAY, DAY, None]),
            "in": pa.array([{"time": time}, {"time": None}, None], pa.struct([("time", kind)])),
            "number": pa.array([1, 2, 3]),
        }
    )
    pq.write_table(table, tmp_path / "times.parquet", coerce_timestamps=None, version="2.6")
    events = opened([str(tmp_path / "times.parquet")])
    assert {b.name: b.describes for b in events.plan.schema.branches} == {
        "time": "float64",
        "times": "list<float64>",
        "day": "float64",
        "in_time": "float64",
        "number": "int64",
    }
    rows = collected(events.dataframe())
    seconds = TIME.timestamp()
    assert column(rows, "time") == [seconds, None, seconds]
    assert column(rows, "times") == [[seconds, None], [], None]
    assert column(rows, "day") == [DAY_IN_SECONDS, DAY_IN_SECONDS, None]
    assert column(rows, "in_time") == [seconds, None, None]


def test_times_and_days_of_csv_are_seconds_since_the_epoch_and_a_time_of_the_day_is_text(
    opened: Callable[..., Events], tmp_path: Path, collected: Callable[[DataFrame], list[Event]]
) -> None:
    path = tmp_path / "times.csv"
    path.write_text(
        "space,letter,zone,nine,day,clock\n"
        "2020-01-02 03:04:05.25,2020-01-02T03:04:05.25,2020-01-02T04:04:05.25+01:00,"
        "2020-01-02T03:04:05.250000000Z,2021-03-04,12:30:00\n"
        "2020-01-02 03:04,2020-01-02T03:04:00,2020-01-02T03:04:00Z,,,12:31:00\n"
    )
    events = opened([str(path)])
    assert {item.name: item.reason for item in events.plan.schema.omitted} == {"clock": "strings are not numbers"}
    rows = collected(events.dataframe())
    whole = math.floor(TIME.timestamp()) - 5
    for name in ("space", "letter", "zone"):
        assert column(rows, name) == [TIME.timestamp(), whole], name
    assert column(rows, "nine") == [TIME.timestamp(), None]
    assert column(rows, "day") == [DAY_IN_SECONDS, None]


def test_times_of_json_stay_text(opened: Callable[..., Events], tmp_path: Path) -> None:
    path = tmp_path / "times.json"
    path.write_text('{"x": 1, "time": "2020-01-02T03:04:05Z", "day": "2021-03-04"}\n')
    schema = opened([str(path)]).plan.schema
    assert schema.names == ("x",)
    assert {item.name for item in schema.omitted} == {"time", "day"}


def test_times_are_those_of_the_sessions_time_zone(
    spark: SparkSession, opened: Callable[..., Events], tmp_path: Path, collected: Callable[[DataFrame], list[Event]]
) -> None:
    path = tmp_path / "times.csv"
    path.write_text("day,time\n2021-03-04,2021-03-04 01:00:00\n")
    rome = spark.newSession()
    rome.conf.set("spark.sql.session.timeZone", "Europe/Rome")
    (row,) = collected(opened([str(path)], on=rome).dataframe())
    assert (row["day"], row["time"]) == (DAY_IN_SECONDS - 3600, DAY_IN_SECONDS)
    (row,) = collected(opened([str(path)]).dataframe())
    assert (row["day"], row["time"]) == (DAY_IN_SECONDS, DAY_IN_SECONDS + 3600)


@pytest.mark.parametrize("function", ["preprocessing(rec):", "preprocessing_batch(rec):"])
def test_times_that_preprocessing_leaves_are_seconds_as_well(
    opened: Callable[..., Events], tmp_path: Path, collected: Callable[[DataFrame], list[Event]], function: str
) -> None:
    path, code = tmp_path / "times.csv", tmp_path / "preproc.py"
    path.write_text("day,time\n2021-03-04,2020-01-02 03:04:05.25\n")
    code.write_text(f"def {function}\n    return rec\n")
    (row,) = collected(opened([str(path)], preproc=code).dataframe())
    assert (row["day"], row["time"]) == (DAY_IN_SECONDS, TIME.timestamp())


def test_time_of_the_day_of_parquet_is_listed_with_the_reason(opened: Callable[..., Events], tmp_path: Path) -> None:
    path = tmp_path / "clock.parquet"
    pq.write_table(pa.table({"clock": [TIME.time()], "x": [1]}), path)
    schema = opened([str(path)]).plan.schema
    assert schema.names == ("x",)
    assert [(item.name, item.reason) for item in schema.omitted] == [("clock", "values of type time64[us]")]


# --- missing values, truth values, numbers in text --------------------------------------------------------------------

VALUES: dict[str, list[Any]] = {
    "i": [1, None, 3, None],
    "f": [1.5, 2.5, None, 4.5],
    "b": [True, None, False, True],
    "l": [[1.5, None], None, [], [2.5]],
}


def as_parquet(path: Path) -> None:
    pq.write_table(pa.table(VALUES), path)


def as_json(path: Path) -> None:
    rows: list[dict[str, Any]] = [dict(zip(VALUES, row, strict=True)) for row in zip(*VALUES.values(), strict=True)]
    del rows[1]["i"], rows[1]["l"]  # what is not there is missing as what is null
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def as_csv(path: Path) -> None:
    path.write_text('i,f,b,l\n1,1.5,true,"[1.5, NaN]"\n,2.5,,\n3,,False,[]\n"",4.5,TRUE,[2.5]\n')


@pytest.mark.parametrize("writer", [as_parquet, as_json, as_csv])
def test_nulls_are_missing_and_counted_as_nan(
    opened: Callable[..., Events], tmp_path: Path, writer: Callable[[Path], None]
) -> None:
    path = tmp_path / f"nulls.{writer.__name__.removeprefix('as_')}"
    writer(path)
    events = opened([str(path)])
    assert {b.name: (b.dtype.rstrip("3264"), b.jagged) for b in events.plan.schema.branches} == {
        "i": ("int", False),
        "f": ("float", False),
        "b": ("bool", False),
        "l": ("float", True),
    }
    found = spark_specs.compute(events, list(VALUES))[0].to_json()["mlaas_spark"]["branches"]
    assert {name: (found[name]["count"], found[name]["nan"]) for name in VALUES} == {
        "i": (4, 2),
        "f": (4, 1),
        "b": (4, 1),
        "l": (3, 1),
    }
    assert {name: (found[name]["min"], found[name]["max"], found[name]["mean"]) for name in VALUES} == {
        "i": (1, 3, 2),
        "f": (1.5, 4.5, pytest.approx(8.5 / 3)),
        "b": (0, 1, pytest.approx(2 / 3)),
        "l": (1.5, 2.5, 2),
    }
    assert found["l"]["lengths"] == [2, 1, 1]  # a list that is missing is an empty one


@pytest.mark.parametrize("writer", [as_parquet, as_json, as_csv])
def test_missing_values_are_nulls_after_a_conversion_too(
    opened: Callable[..., Events], tmp_path: Path, writer: Callable[[Path], None]
) -> None:
    path, folder = tmp_path / f"nulls.{writer.__name__.removeprefix('as_')}", tmp_path / "made"
    writer(path)
    convert(opened([str(path)]), str(folder))
    found = pq.read_table(next(folder.rglob("*.parquet"))).to_pydict()
    inside = found["l"][0].pop()
    assert inside is None or (path.suffix == ".csv" and math.isnan(inside))  # a list in CSV has NaN, it has no null
    assert {name: found[name] for name in VALUES} == {**VALUES, "l": [[1.5], None, [], [2.5]]}
    stats = [spark_specs.compute(opened([str(place)]), list(VALUES))[0].specs for place in (path, folder)]
    assert [[(of[name].count, of[name].nan) for name in VALUES] for of in stats] == [
        [(4, 2), (4, 1), (4, 1), (3, 1)]
    ] * 2


@pytest.mark.parametrize(("suffix", "compress"), [("gz", gzip.compress), ("bz2", bz2.compress)])
@pytest.mark.parametrize(
    ("kind", "texts"),
    [("json", ('{"x": 1, "l": [2]}\n{"x": 3}\n', '{"x": 5}\n')), ("csv", ("x,l\n1,[2]\n3,\n", "l,x\n,5\n"))],
)
def test_compressed_text_is_read_as_it_is_uncompressed(
    opened: Callable[..., Events],
    tmp_path: Path,
    collected: Callable[[DataFrame], list[Event]],
    kind: str,
    texts: tuple[str, str],
    suffix: str,
    compress: Callable[[bytes], bytes],
) -> None:
    paths = [tmp_path / f"{number}.{kind}.{suffix}" for number in range(2)]
    for path, text in zip(paths, texts, strict=True):
        path.write_bytes(compress(text.encode()))
    rows = collected(opened([str(path) for path in paths], schema_policy="fill").dataframe())
    assert [(row["__file"], row["x"], row["l"]) for row in rows] == [(0, 1, [2]), (0, 3, None), (1, 5, None)]


def test_names_with_dots_and_quotes_are_names(
    opened: Callable[..., Events], tmp_path: Path, collected: Callable[[DataFrame], list[Event]]
) -> None:
    paths, code = [tmp_path / "a.csv", tmp_path / "b.csv"], tmp_path / "preproc.py"
    for path, text in zip(paths, ("jet.pt,c d\n1,3\n", "a`b,c d,jet.pt\n2,6,4\n"), strict=True):
        path.write_text(text)
    for function in ("preprocessing(rec):", "preprocessing_batch(rec):", ""):
        code.write_text(f"def {function}\n    return rec\n" if function else "")
        events = opened([str(path) for path in paths], preproc=code if function else None, schema_policy="fill")
        rows = collected(events.dataframe())
        assert [(row["jet_pt"], row["a`b"], row["c d"]) for row in rows] == [(1, None, 3), (4, 2, 6)]


def test_numbers_in_quotes_and_between_blanks_are_numbers_in_csv(
    opened: Callable[..., Events], tmp_path: Path, collected: Callable[[DataFrame], list[Event]]
) -> None:
    path = tmp_path / "text.csv"
    path.write_text('a,b,c,d\n"1.5","2", 7,+1e3\n"-3e2","40",8 ,.5\n')
    rows = collected(opened([str(path)]).dataframe())
    assert [(row["a"], row["b"], row["c"], row["d"]) for row in rows] == [(1.5, 2, 7, 1000), (-300, 40, 8, 0.5)]


@pytest.mark.parametrize(("name", "text"), [("a.json", '{"x": 1, "n": null}\n'), ("a.csv", "x,n\n1,\n2,\n")])
def test_column_without_any_value_is_listed_as_such(
    opened: Callable[..., Events], tmp_path: Path, name: str, text: str
) -> None:
    path = tmp_path / name
    path.write_text(text)
    schema = opened([str(path)]).plan.schema
    assert schema.names == ("x",)
    assert [(item.name, item.reason) for item in schema.omitted] == [("n", "no value in any event")]


# --- lists of records, text -------------------------------------------------------------------------------------------

JETS: list[dict[str, Any]] = [
    {
        "jets": [
            {"pt": 1.5, "p4": {"eta": 0.5}, "tag": "b", "hits": [{"e": 1.0}], "id": 3},
            {"pt": None, "p4": None, "tag": None, "hits": [], "id": 4},
        ]
    },
    {"jets": []},
    {"jets": None},
    {"jets": [None, {"pt": 4.5, "p4": {"eta": -1.0}, "tag": "c", "hits": None, "id": 5}]},
]


def jets_as_json(path: Path) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in JETS))


def jets_as_parquet(path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(JETS), path)


@pytest.mark.parametrize("writer", [jets_as_json, jets_as_parquet])
def test_lists_of_records_become_a_jagged_branch_for_each_of_their_values(
    opened: Callable[..., Events],
    tmp_path: Path,
    collected: Callable[[DataFrame], list[Event]],
    writer: Callable[[Path], None],
) -> None:
    path = tmp_path / f"jets.{writer.__name__.removeprefix('jets_as_')}"
    writer(path)
    events = opened([str(path)])
    assert {b.name: (b.source, b.describes) for b in events.plan.schema.branches} == {
        "jets_id": ("jets.id", "list<int64>"),
        "jets_p4_eta": ("jets.p4.eta", "list<float64>"),
        "jets_pt": ("jets.pt", "list<float64>"),
    }
    assert {item.name: item.reason for item in events.plan.schema.omitted} == {
        "jets.hits": "nested lists (more than one jagged dimension)",
        "jets.tag": "strings are not numbers",
    }
    rows = collected(events.dataframe())
    assert column(rows, "jets_pt") == [[1.5, None], [], None, [None, 4.5]]
    assert column(rows, "jets_p4_eta") == [[0.5, None], [], None, [None, -1.0]]
    assert column(rows, "jets_id") == [[3, 4], [], None, [None, 5]]


@pytest.mark.parametrize("suffix", ["json", "parquet"])
def test_text_and_nested_lists_are_data_where_no_features_are_asked_for(
    opened: Callable[..., Events], tmp_path: Path, collected: Callable[[DataFrame], list[Event]], suffix: str
) -> None:
    path = tmp_path / f"text.{suffix}"
    content: list[dict[str, Any]] = [
        {"s": "a", "l": ["b"], "deep": [[1], [2, 3]], "x": 1},
        {"s": None, "l": [], "deep": None, "x": 2},
    ]
    if suffix == "json":
        path.write_text("".join(json.dumps(row) + "\n" for row in content))
    else:
        pq.write_table(pa.Table.from_pylist(content), path)
    assert opened([str(path)]).plan.schema.names == ("x",)
    rows = collected(opened([str(path)], text=True).dataframe())
    assert [{name: row[name] for name in content[0]} for row in rows] == content


# --- categories -------------------------------------------------------------------------------------------------------

CHANNEL = {"ee": 0, "mumu": 1, "7": 2}
TAGS = {"b": 1.5, "c": 0}


def write_channels(path: Path, last: str) -> None:
    """Four events of a channel and, but in CSV, tags; the last channel is ``last``."""
    rows: list[dict[str, Any]] = [
        {"channel": "ee", "tags": ["b", "c"], "x": 1},
        {"channel": None, "tags": None, "x": 2},
        {"channel": "7", "tags": [], "x": 3},
        {"channel": last, "tags": ["c", None], "x": 4},
    ]
    if path.suffix == ".root":
        text = ak.Array([row["channel"] or "mumu" for row in rows])
        with uproot.recreate(path) as file:
            file.mkrntuple("Events", {"channel": text, "x": np.arange(1, 5)})
    elif path.suffix == ".csv":
        path.write_text("channel,x\n" + "".join(f"{row['channel'] or ''},{row['x']}\n" for row in rows))
    else:
        write_rows(path, rows)


@pytest.mark.parametrize("suffix", ["parquet", "json", "csv", "root"])
def test_text_becomes_numbers_by_the_map_of_the_config(
    opened: Callable[..., Events], tmp_path: Path, collected: Callable[[DataFrame], list[Event]], suffix: str
) -> None:
    path = tmp_path / f"channels.{suffix}"
    write_channels(path, "mumu")
    categories = {"channel": CHANNEL, **({"tags": TAGS} if suffix in {"parquet", "json"} else {})}
    events = opened([str(path)], categories=categories, derive={"twice": "2 * channel"})
    rows = collected(events.dataframe())
    missing = 1 if suffix == "root" else None
    assert column(rows, "channel") == [0, missing, 2, 1]
    assert column(rows, "twice")[::2] == [0, 4]
    if "tags" in categories:
        assert column(rows, "tags") == [[1.5, 0], None, [], [0, None]]
    assert {b.name: b.describes for b in events.plan.schema.branches}["channel"] == "int64"
    found = spark_specs.compute(events, ["channel"])[0].specs["channel"]
    assert (found.count, found.nan, found.maximum) == (4, missing is None, 2)
    chosen = opened([str(path)], categories=categories, selection="channel == 1 && x > 2")
    assert column(collected(chosen.dataframe()), "x") == [4]


@pytest.mark.parametrize("suffix", ["parquet", "json", "csv", "root"])
def test_value_that_is_no_category_is_told_with_file_entry_and_the_nearest(
    opened: Callable[..., Events], tmp_path: Path, suffix: str
) -> None:
    paths = [tmp_path / f"{number}.{suffix}" for number in range(2)]
    for path, last in zip(paths, ("mumu", "mumo"), strict=True):
        write_channels(path, last)
    events = opened([str(path) for path in paths], categories={"channel": CHANNEL}, branches=["channel"])
    message = r"branch 'channel' has 'mumo', which is none of its categories; nearest: mumu; see input\.categories"
    with pytest.raises(UnreadableInputError, match=message) as caught:
        spark_specs.compute(events, ["channel"])
    assert (caught.value.path, caught.value.entries) == (str(paths[1]), (3, 4))


def test_categories_of_what_is_no_text_or_is_not_there_are_refused(
    opened: Callable[..., Events], tmp_path: Path
) -> None:
    path = tmp_path / "a.parquet"
    write_rows(path, [{"channel": "ee", "x": 1}])
    with pytest.raises(ConfigError, match="categories are for text, and branch 'x' is int64"):
        opened([str(path)], categories={"x": CHANNEL})
    with pytest.raises(BranchNotFoundError, match=r"'chanel' not found .*nearest: channel"):
        opened([str(path)], categories={"chanel": CHANNEL})


def test_branch_that_is_named_and_cannot_be_a_feature_is_refused_with_the_reason(
    opened: Callable[..., Events], tmp_path: Path
) -> None:
    path = tmp_path / "a.json"
    write_rows(path, [{"x": 1, "name": "a", "in": {"deep": [[1]]}}])
    with pytest.raises(ConfigError, match=r"branch 'name' of .*a\.json cannot be read as a feature: strings are not"):
        opened([str(path)], branches=["x", "name"])
    with pytest.raises(ConfigError, match=r"'in\.deep' .* nested lists"):
        opened([str(path)], branches=["x", "in_deep"])
    assert opened([str(path)], branches=["x", "n*"]).plan.schema.names == ("x",)
    assert opened([str(path)], branches=["x", "name"], text=True).plan.schema.names == ("name", "x")


# --- CSV without a header line ----------------------------------------------------------------------------------------


def test_csv_without_a_header_line_has_the_columns_that_are_named(
    opened: Callable[..., Events], tmp_path: Path, collected: Callable[[DataFrame], list[Event]]
) -> None:
    paths = [tmp_path / "0.csv", tmp_path / "1.csv.gz"]
    paths[0].write_text('1,"[1, 2]",0.5\n0,[],1.5\n')
    paths[1].write_bytes(gzip.compress(b"1,[3],2\n"))
    rows = collected(opened([str(path) for path in paths], columns=["label", "Jet.pt", "x"]).dataframe())
    assert [(row["__file"], row["__entry"]) for row in rows] == [(0, 0), (0, 1), (1, 0)]
    assert [(row["label"], row["Jet_pt"], row["x"]) for row in rows] == [(1, [1, 2], 0.5), (0, [], 1.5), (1, [3], 2)]


@pytest.mark.parametrize(
    ("text", "columns", "says"),
    [
        ("1.0,2.5\n3,4\n", [], r"line 1 has numbers, not names \(1\.0, \.\.\.\): give --columns"),
        (",[1],2.5\n3,4\n", [], "line 1 has numbers, not names"),
        ("a,b\n1,2\n", ["a", "b"], "line 1 has the names of the columns: leave out --columns"),
        ("1,2\n", ["a"], "line 1 has 2 fields, and 1 columns are named"),
        ("1,2\n3\n", ["a", "b"], r"entries \[1, 2\): line 2 has 1 field for 2 columns: '3'"),
    ],
)
def test_header_line_that_is_none_or_is_not_expected_is_refused(
    opened: Callable[..., Events], tmp_path: Path, text: str, columns: list[str], says: str
) -> None:
    path = tmp_path / "a.csv"
    path.write_text(text)
    with pytest.raises(UnreadableInputError, match=says) as caught:
        opened([str(path)], columns=columns)
    assert caught.value.path == str(path)


def test_numbers_that_pandas_gives_to_columns_are_names(opened: Callable[..., Events], tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    pd.DataFrame([[1.5, 2], [2.5, 3]]).to_csv(path)
    assert opened([str(path)]).plan.schema.names == ("0", "1", "_c0")


def test_columns_are_named_for_csv_alone(opened: Callable[..., Events], tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"x": 1}\n')
    with pytest.raises(ConfigError, match=r"columns are named for CSV .*a\.json is json"):
        opened([str(path)], columns=["x"])


# --- several files ----------------------------------------------------------------------------------------------------


def test_csv_files_with_columns_in_another_order_are_read_by_name(
    opened: Callable[..., Events], tmp_path: Path, collected: Callable[[DataFrame], list[Event]]
) -> None:
    texts = [
        "x,y,flag,late,l\n1,2.5,true,,[1]\n2,3.5,false,,[]\n",
        "l,late,y,x,flag\n[2],7,4,3.25,true\n",  # y is whole here, x is not, and late has its first value
        'x,y,flag,late,l\n5000000000,1,false,nan,"[3, 4]"\n',
    ]
    for number, text in enumerate(texts):
        (tmp_path / f"{number}.csv").write_text(text)
    rows = collected(opened([str(tmp_path / f"{number}.csv") for number in range(3)]).dataframe())
    assert [(row["__file"], row["__entry"]) for row in rows] == [(0, 0), (0, 1), (1, 0), (2, 0)]
    assert column(rows, "x") == [1, 2, 3.25, 5e9]
    assert column(rows, "y") == [2.5, 3.5, 4, 1]
    assert column(rows, "flag") == [True, False, True, False]
    assert column(rows, "l") == [[1], [], [2], [3, 4]]
    assert column(rows, "late")[:3] == [None, None, 7]
    assert math.isnan(rows[3]["late"])


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Rows in the format that the path names; CSV and Parquet have a column for each key of any row."""
    if path.suffix == ".json":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {name: [row.get(name) for row in rows] for name in names}
    if path.suffix == ".parquet":
        pq.write_table(pa.table(columns), path)
    else:
        cells = [[json.dumps(row[name]) if row.get(name) is not None else "" for name in names] for row in rows]
        with path.open("w", newline="") as stream:
            csv.writer(stream).writerows([names, *cells])


@pytest.fixture
def unlike(tmp_path: Path) -> Callable[[str], list[str]]:
    """``unlike(suffix)``: three files, the second of which lacks two branches of the others and has one more."""

    def make(suffix: str) -> list[str]:
        paths = [tmp_path / f"{number}.{suffix}" for number in range(3)]
        for number, path in enumerate(paths):
            rows = [{"x": 2.5, "n": 1, "v": [1.5]}, {"x": 10.5 * number, "n": 2, "v": []}]
            write_rows(path, [{"x": 3.5, "y": 4}, {"x": 4.5, "y": None}] if number == 1 else rows)
        return [str(path) for path in paths]

    return make


SUFFIXES = pytest.mark.parametrize("suffix", ["parquet", "json", "csv"])


@SUFFIXES
def test_files_of_unlike_branches_are_refused_by_default_naming_both(
    opened: Callable[..., Events], unlike: Callable[[str], list[str]], suffix: str
) -> None:
    paths = unlike(suffix)
    with pytest.raises(SpecsError, match=rf"branch 'n' is in {paths[0]} but not in {paths[1]}: leave it out with"):
        opened(paths)
    assert opened(paths, exclude=["n", "v", "y"]).plan.schema.names == ("x",)


@SUFFIXES
def test_intersect_reads_what_all_files_have_and_lists_the_rest(
    opened: Callable[..., Events],
    unlike: Callable[[str], list[str]],
    collected: Callable[[DataFrame], list[Event]],
    suffix: str,
) -> None:
    paths = unlike(suffix)
    events = opened(paths, schema_policy="intersect")
    assert {item.name: item.reason for item in events.plan.schema.omitted} == {
        "n": f"is in {paths[0]} but not in {paths[1]}",
        "v": f"is in {paths[0]} but not in {paths[1]}",
        "y": f"is in {paths[1]} but not in {paths[0]}",
    }
    assert column(collected(events.dataframe()), "x") == [2.5, 0, 3.5, 4.5, 2.5, 21]


@SUFFIXES
def test_fill_reads_all_branches_and_counts_as_missing_what_a_file_lacks(
    opened: Callable[..., Events],
    unlike: Callable[[str], list[str]],
    collected: Callable[[DataFrame], list[Event]],
    suffix: str,
) -> None:
    events = opened(unlike(suffix), schema_policy="fill")
    assert [file.lacks for file in events.plan.files] == [("y",), ("n", "v"), ("y",)]
    rows = collected(events.dataframe())
    assert column(rows, "n") == [1, 2, None, None, 1, 2]
    assert column(rows, "v") == [[1.5], [], None, None, [1.5], []]
    assert column(rows, "y") == [None, None, 4, None, None, None]
    found = spark_specs.compute(events, ["n", "v", "x", "y"])[0].specs
    assert {name: (found[name].count, found[name].nan) for name in ("n", "x", "y")} == {
        "n": (6, 2),
        "x": (6, 0),
        "y": (6, 5),
    }
    assert found["v"].lengths == (4, 2)


@pytest.mark.parametrize("policy", ["strict", "fill"])
@pytest.mark.parametrize(
    ("suffix", "one", "two", "says"),
    [
        ("parquet", 1.5, 2, "'a' is float64 in {} but int64 in {}: leave it out with --exclude a"),
        ("parquet", [1.5], 2.5, "'a' is list<float64> in {} but float64 in {}: leave it out"),
        ("parquet", 1.5, "b", "'a' is in {} but not in {} (strings are not numbers): leave it out"),
        ("json", 1.5, "b", "'a' is in {} but not in {} (strings are not numbers): leave it out"),
        ("json", [1], 2.5, "'a' is list<float64> in {} but float64 in {}: leave it out"),
    ],
)
def test_branch_of_another_type_is_refused_naming_both_files(
    opened: Callable[..., Events], tmp_path: Path, suffix: str, one: Any, two: Any, says: str, policy: str
) -> None:
    paths = [str(tmp_path / f"{name}.{suffix}") for name in ("one", "two")]
    for path, value in zip(paths, (one, two), strict=True):
        write_rows(Path(path), [{"a": value, "x": 1}, {"a": None, "x": 2}])
    with pytest.raises(SpecsError, match=re.escape(says.format(*paths))) as caught:
        opened(paths, schema_policy=policy)
    assert "\n" not in str(caught.value)
    events = opened(paths, schema_policy="intersect")
    assert events.plan.schema.names == ("x",)
    assert {item.name for item in events.plan.schema.omitted} == {"a"}


def test_json_key_that_first_comes_late_or_is_null_is_there(
    opened: Callable[..., Events], tmp_path: Path, collected: Callable[[DataFrame], list[Event]]
) -> None:
    paths = [str(tmp_path / f"{number}.json") for number in range(3)]
    late = [{"x": x} for x in range(100)]
    write_rows(Path(paths[0]), [*late, {"x": 100, "late": 1.5, "in": {"a": 2}}])
    write_rows(Path(paths[1]), [{"x": 0, "late": 2.5, "in": {"a": 3}}])
    write_rows(Path(paths[2]), [{"x": 0, "late": None, "in": {"a": None}}])
    rows = collected(opened(paths).dataframe())
    assert column(rows, "late")[-3:] == [1.5, 2.5, None]
    assert column(rows, "in_a")[-3:] == [2, 3, None]


def test_parquet_column_of_nulls_has_no_type_and_is_filled(
    opened: Callable[..., Events], tmp_path: Path, collected: Callable[[DataFrame], list[Event]]
) -> None:
    paths = [str(tmp_path / f"{number}.parquet") for number in range(2)]
    write_rows(Path(paths[0]), [{"x": 1, "a": 1.5}])
    write_rows(Path(paths[1]), [{"x": 2, "a": None}])
    with pytest.raises(SpecsError, match=r"'a' is in .*0\.parquet but not in .*1\.parquet \(no value in any event\)"):
        opened(paths)
    assert column(collected(opened(paths, schema_policy="fill").dataframe()), "a") == [1.5, None]


def test_names_that_differ_in_case_alone_are_two_branches(
    opened: Callable[..., Events], tmp_path: Path, collected: Callable[[DataFrame], list[Event]]
) -> None:
    for suffix in ("parquet", "json", "csv"):
        path = tmp_path / f"case.{suffix}"
        write_rows(path, [{"Jet": 1, "jet": 2}])
        (row,) = collected(opened([str(path)]).dataframe())
        assert (row["Jet"], row["jet"]) == (1, 2), suffix


@pytest.mark.parametrize("name", ["_a.json", ".a.json"])
def test_file_that_spark_passes_over_is_refused(opened: Callable[..., Events], tmp_path: Path, name: str) -> None:
    for number, path in enumerate((tmp_path / name, tmp_path / "b.json")):
        path.write_text(f'{{"x": {number}}}\n')
    with pytest.raises(UnreadableInputError, match="whose names begin with _ or") as caught:
        opened([str(tmp_path / "b.json"), str(tmp_path / name)])
    assert caught.value.path == str(tmp_path / name)


@pytest.mark.parametrize("kind", ["parquet", "json", "csv"])
def test_file_on_xrootd_that_spark_would_have_to_read_is_refused(opened: Callable[..., Events], kind: str) -> None:
    with pytest.raises(UnreadableInputError, match="know no XRootD, only ROOT files are read from there: copy it"):
        opened([f"root://nobody.invalid//store/events.{kind}"])


@pytest.mark.parametrize("suffix", ["json", "csv", "parquet"])
def test_names_with_signs_of_globs_and_urls_are_names(
    opened: Callable[..., Events], tmp_path: Path, collected: Callable[[DataFrame], list[Event]], suffix: str
) -> None:
    paths = [tmp_path / f"{name}.{suffix}" for name in ("a[1] {b}", "a#1", "a#2", "50%20?", "1 b", "ä")]
    for number, path in enumerate(paths):
        if suffix == "parquet":
            pq.write_table(pa.table({"x": [number]}), path)
        else:
            path.write_text(f'{{"x": {number}}}\n' if suffix == "json" else f"x\n{number}\n")
    rows = collected(opened([str(path) for path in paths]).dataframe())
    assert [(row["__file"], row["x"]) for row in rows] == [(number, number) for number in range(len(paths))]


# --- _common_metadata -------------------------------------------------------------------------------------------------


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    """A folder of Parquet files beside a ``_common_metadata``."""
    folder = tmp_path / "made"
    (folder / "run=7").mkdir(parents=True)
    pq.write_table(pa.table({"x": [1, 2]}), folder / "a.parquet")
    pq.write_table(pa.table({"x": [3]}), folder / "run=7" / "b.parquet")
    pq.write_metadata(pa.schema([("x", pa.int64())]), folder / "_common_metadata")
    return folder


@pytest.mark.parametrize("name", ["", "a.parquet", "run=7/b.parquet", "*.parquet"])
def test_parquet_beside_common_metadata_is_refused(opened: Callable[..., Events], planted: Path, name: str) -> None:
    with pytest.raises(UnreadableInputError, match=r"petastorm would unpickle .*_common_metadata.*run code") as caught:
        opened([str(planted / name)])
    assert caught.value.path.startswith(str(planted))


def test_parquet_of_our_manifest_is_read_beside_common_metadata(opened: Callable[..., Events], planted: Path) -> None:
    shutil.rmtree(planted / "run=7")
    ours = Manifest("events", "r", EventSchema(()), (), (DataFile("a.parquet", 2, 1, (), "d"),))
    (planted / MANIFEST).write_text(json.dumps(ours.to_json()))
    assert opened([str(planted)]).plan.entries == 2
    pq.write_table(pa.table({"x": [3]}), planted / "b.parquet")
    with pytest.raises(UnreadableInputError, match="petastorm"):
        opened([str(planted / "b.parquet")])
