"""``preprocessing_batch`` gives what ``preprocessing`` gives; errors of user code say where."""

from __future__ import annotations

import json
import textwrap
from typing import TYPE_CHECKING, Any

import pytest

from mlaas_spark.errors import ConfigError, MlaasSparkError, SpecsError, UnreadableInputError
from mlaas_spark.spark import specs as spark_specs

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pyspark.sql import DataFrame, SparkSession

    from mlaas_spark.spark.ingest import Events
    from tests.spark.conftest import Event, Sample

BY_RECORD = """
    def preprocessing(rec):
        rec["target"] = int(rec["nJet"] >= 2)
        rec["met_gev"] = rec["MET_pt"] / 1000
        rec["Jet_pt"] = [pt / 1000 for pt in rec["Jet_pt"]]
        del rec["flag"]
        return rec
"""

BY_BATCH = """
    def preprocessing_batch(batch):
        batch["target"] = (batch["nJet"] >= 2).astype(int)
        batch["met_gev"] = batch["MET_pt"] / 1000
        batch["Jet_pt"] = [pt / 1000 for pt in batch["Jet_pt"]]
        return batch.drop(columns="flag").sample(frac=1, random_state=1).sort_index()
"""


@pytest.fixture
def preproc(tmp_path: Path) -> Callable[[str], Path]:
    """Writes a user's preproc.py."""

    def write_file(text: str) -> Path:
        path = tmp_path / "preproc.py"
        path.write_text(textwrap.dedent(text))
        return path

    return write_file


@pytest.fixture
def few(tmp_path: Path) -> str:
    """A JSON file of five records."""
    path = tmp_path / "few.json"
    path.write_text("".join(f'{{"x": {x}}}\n' for x in range(5)))
    return str(path)


def test_batches_give_the_events_and_specs_that_records_give(
    opened: Callable[..., Events],
    preproc: Callable[[str], Path],
    sample: Sample,
    collected: Callable[[DataFrame], list[Event]],
    same_values: Callable[[Any, Any], bool],
) -> None:
    made = []
    for text in (BY_RECORD, BY_BATCH):
        events = opened(sample.paths("json"), preproc=preproc(text))
        names = ["MET_pt", "Jet_pt", "met_gev", "target", "MET_sum"]
        stats = spark_specs.compute(events, names)[0].to_json()["mlaas_spark"]["branches"]
        made.append((collected(events.dataframe()), stats))
    (by_record, stats_by_record), (by_batch, stats_by_batch) = made
    assert stats_by_batch == stats_by_record
    assert len(by_batch) == len(sample.events)
    assert set(by_batch[0]) == set(by_record[0])
    for name in sorted(set(by_batch[0]) - {"MET_pt", "met_gev", "Jet_pt", "Jet_eta", "MET_sum"}):
        assert same_values([row[name] for row in by_batch], [row[name] for row in by_record]), name
    expected = [len(event["Jet_pt"]) >= 2 for event in sample.events.values()]
    assert [row["target"] for row in by_batch] == expected


def test_batch_function_is_used_where_there_are_both_and_gets_records_of_one_file(
    opened: Callable[..., Events],
    preproc: Callable[[str], Path],
    tmp_path: Path,
    collected: Callable[[DataFrame], list[Event]],
) -> None:
    paths = []
    for number in range(3):
        path = tmp_path / f"{number}.json"
        path.write_text("".join(json.dumps({"x": x, "file": number}) + "\n" for x in range(4)))
        paths.append(str(path))
    made = preproc("""
        def preprocessing(rec):
            raise AssertionError

        def preprocessing_batch(batch):
            assert batch["file"].nunique() == 1
            return batch.assign(y=batch["x"] * 2, word="a")[::1].reset_index()
    """)
    events = opened(paths, preproc=made)
    assert set(events.plan.schema.names) == {"file", "index", "x", "y"}
    assert [(row["file"], row["x"], row["y"]) for row in collected(events.dataframe())] == [
        (file, x, 2 * x) for file in range(3) for x in range(4)
    ]


def test_batches_of_unlike_numbers_get_the_wider_type_and_missing_columns_are_null(
    spark: SparkSession,
    opened: Callable[..., Events],
    preproc: Callable[[str], Path],
    few: str,
    collected: Callable[[DataFrame], list[Event]],
) -> None:
    made = preproc("""
        import numpy as np

        def preprocessing_batch(batch):
            batch["l"] = [np.arange(x) for x in batch["x"]]
            batch["kind"] = batch["x"].astype("category")
            batch["when"] = np.datetime64("2020-01-01T00:00:01.5", "ns")
            batch["many"] = np.uint64(2**63)
            if batch["x"].iloc[0] < 2:
                return batch
            return batch.assign(x=batch["x"] + 0.5, extra=True)
    """)
    small = spark.newSession()
    small.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", "2")
    events = opened([few], preproc=made, on=small, exclude=("many",))
    assert events.plan.schema["x"].dtype == "float64"
    rows = collected(events.dataframe())
    assert [row["x"] for row in rows] == [0, 1, 2.5, 3.5, 4.5]
    assert [row["extra"] for row in rows] == [None, None, True, True, True]
    assert [row["l"] for row in rows] == [list(range(x)) for x in range(5)]
    assert [row["kind"] for row in rows] == list(range(5))


@pytest.mark.parametrize(
    ("body", "kind", "message"),
    [
        (
            "batch['y'] = [1 / x for x in batch['x'] - 3]\nreturn batch",
            UnreadableInputError,
            "line 4: ZeroDivisionError",
        ),
        ("return batch.iloc[1:]", UnreadableInputError, r"returned \d rows for \d records"),
        ("return None", UnreadableInputError, r"returned NoneType, not a pandas\.DataFrame"),
        ("return batch.set_axis([3], axis=1)", UnreadableInputError, "returned a column named 3"),
        ("return batch.assign(y=[1, 'a'][:len(batch)])", UnreadableInputError, "mixed types.*column y"),
        ("return batch.assign(y=1 if batch['x'].iloc[0] else 'a')", SpecsError, r"unlike types .*y.*set the type with"),
    ],
)
def test_failure_of_preprocessing_batch_names_function_file_and_records(
    spark: SparkSession,
    opened: Callable[..., Events],
    preproc: Callable[[str], Path],
    few: str,
    body: str,
    kind: type[MlaasSparkError],
    message: str,
) -> None:
    small = spark.newSession()
    small.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", "2")
    made = preproc("\n\ndef preprocessing_batch(batch):\n" + textwrap.indent(body, "    "))
    with pytest.raises(kind, match=message) as caught:
        opened([few], preproc=made, on=small)
    text = str(caught.value)
    assert "\n" not in text
    assert str(made) in text
    assert "preprocessing_batch" in text
    if kind is UnreadableInputError:
        assert few in text
        assert "(records 3 to 4)" in text if "line 4" in message else "(record" in text


def test_preproc_without_either_function_is_refused(
    opened: Callable[..., Events], preproc: Callable[[str], Path], few: str
) -> None:
    made = preproc("def preprocess(rec):\n    return rec\n")
    with pytest.raises(ConfigError, match=r"no function 'preprocessing_batch' or 'preprocessing'; nearest: preprocess"):
        opened([few], preproc=made)
