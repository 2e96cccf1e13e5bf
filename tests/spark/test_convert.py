from __future__ import annotations

import dataclasses
import glob
import json
import shutil
from collections import Counter
from typing import TYPE_CHECKING, Any

import awkward as ak
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
import uproot

from mlaas_spark import manifest as manifests
from mlaas_spark.config import ConvertConfig, InputConfig
from mlaas_spark.errors import BranchNotFoundError, ChunkError, ConfigError, FilesetError
from mlaas_spark.filesets import fileset
from mlaas_spark.selection import Expression
from mlaas_spark.spark import convert as converting
from mlaas_spark.spark.convert import Changes, convert
from mlaas_spark.spark.ingest import open_events

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy.typing as npt
    from pyspark.sql import SparkSession

    from mlaas_spark.manifest import Manifest
    from mlaas_spark.spark.ingest import Events
    from tests.spark.conftest import CrashAt, Ended, Sample

TYPES = {
    "Ele_pt": pa.list_(pa.float64()),
    "Jet_eta": pa.list_(pa.float64()),
    "Jet_id": pa.list_(pa.int32()),
    "Jet_pt": pa.list_(pa.float32()),
    "MET_pt": pa.float32(),
    "MET_sum": pa.float64(),
    "const": pa.float32(),
    "event": pa.uint64(),
    "flag": pa.bool_(),
    "luminosityBlock": pa.uint32(),
    "nEle_pt": pa.int32(),
    "nJet": pa.int32(),
    "run": pa.uint32(),
    "__entry": pa.int64(),
}


def listed(folder: Path, manifest: Manifest) -> pa.Table:
    """The rows of all listed files in the order of inputs and entries, ``__file`` from the manifest's ranges."""
    tables = [
        (file.ranges, pq.read_table(folder / file.path)) for file in sorted(manifest.files, key=lambda f: f.ranges)
    ]
    return pa.concat_tables(
        table.append_column("__file", pa.array([ranges[0][0]] * len(table), pa.int32())) for ranges, table in tables
    )


def parquet_files(folder: Path) -> dict[str, int]:
    """Inode of each Parquet file below a folder."""
    return {str(path.relative_to(folder)): path.stat().st_ino for path in folder.rglob("*.parquet")}


def without_inputs(events: Events) -> Events:
    """The same events of files that are gone: whoever reads one fails."""
    gone = tuple(dataclasses.replace(file, path=f"/gone{file.path}") for file in events.plan.files)
    return dataclasses.replace(events, plan=dataclasses.replace(events.plan, files=gone))


@pytest.fixture(scope="module")
def converted(
    opened: Callable[..., Events], sample: Sample, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Manifest]:
    """The sample's ROOT files in ranges of at most 200 events; no test changes them."""
    folder = tmp_path_factory.mktemp("convert") / "out"
    return folder, convert(opened(sample.paths(), 200), str(folder))


def test_every_value_and_type_is_that_of_uproot(
    converted: tuple[Path, Manifest], sample: Sample, same_values: Callable[[Any, Any], bool]
) -> None:
    folder, manifest = converted
    table = listed(folder, manifest)
    assert {field.name: field.type for field in table.schema if field.name != "__file"} == TYPES
    start = 0
    for index, path in enumerate(sample.paths()):
        with uproot.open(path) as file:
            arrays = file["Events"].arrays(how=dict)
        n = len(arrays["run"])
        part = table.slice(start, n)
        assert part["__file"].to_pylist() == [index] * n
        assert part["__entry"].to_pylist() == list(range(n))
        for name, values in arrays.items():
            assert same_values(part[name].to_pylist(), values.to_list()), name
        start += n
    assert start == table.num_rows == 1280


def by_pandas(folder: str, _: SparkSession) -> list[int]:
    return list(pd.read_parquet(folder)["event"])


def by_dataset(folder: str, _: SparkSession) -> list[int]:
    return list(pyarrow.dataset.dataset(folder).to_table()["event"].to_pylist())


def by_glob(folder: str, _: SparkSession) -> list[int]:
    return list(pq.ParquetDataset(glob.glob(f"{folder}/*.parquet")).read()["event"].to_pylist())  # noqa: PTH207


def by_spark(folder: str, spark: SparkSession) -> list[int]:
    return [row["event"] for row in spark.read.parquet(folder).collect()]


@pytest.mark.parametrize("read", [by_pandas, by_dataset, by_glob, by_spark])
def test_folder_of_the_files_is_plain_parquet(
    spark: SparkSession,
    converted: tuple[Path, Manifest],
    sample: Sample,
    read: Callable[[str, SparkSession], list[int]],
) -> None:
    assert sorted(read(str(converted[0] / "events"), spark)) == sorted(sample.columns("event"))


def test_set_whose_files_lie_beside_the_manifest_stays_so(
    opened: Callable[..., Events], copies: list[str], tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    first = convert(opened(copies[:1], 200), str(folder))
    files = tuple(dataclasses.replace(file, path=file.path.removeprefix("events/")) for file in first.files)
    for old, new in zip(first.files, files, strict=True):
        (folder / old.path).rename(folder / new.path)
    content = json.dumps(dataclasses.replace(first, files=files).to_json())
    (folder / "manifest.json").write_text(content)
    (folder / "_manifests" / "000001.json").write_text(content)
    manifest = convert(opened(copies, 200), str(folder))
    assert len(manifest.files) > len(files)
    assert {path.name for path in folder.glob("*.parquet")} == {file.path for file in manifest.files}


def test_sparks_own_reader_reads_the_listed_files(
    spark: SparkSession, converted: tuple[Path, Manifest], sample: Sample
) -> None:
    folder, manifest = converted
    frame = spark.read.parquet(*(str(folder / file.path) for file in manifest.files))
    rows = frame.select("run", "event", "__entry", "nJet", "Jet_id").collect()
    read = Counter((row["event"], row["__entry"], row["nJet"], tuple(row["Jet_id"])) for row in rows)
    assert read == Counter(
        (event["event"], entry, event["nJet"], tuple(event["Jet_id"])) for (_, entry), event in sample.events.items()
    )
    assert len(rows) == 1280


def test_manifest_has_a_file_for_each_range(converted: tuple[Path, Manifest], sample: Sample) -> None:
    folder, manifest = converted
    assert manifests.read(str(folder)) == manifest
    assert sorted(r for file in manifest.files for r in file.ranges) == [
        (0, 0, 200), (0, 200, 400), (0, 400, 600), (0, 600, 700),
        (1, 0, 192), (1, 192, 384), (1, 384, 450),
        (2, 0, 130),
    ]  # fmt: skip
    for file in manifest.files:
        assert len(file.ranges) == 1
        _, start, stop = file.ranges[0]
        assert file.rows == stop - start == pq.ParquetFile(folder / file.path).metadata.num_rows
        assert file.bytes == (folder / file.path).stat().st_size
    assert manifest.layout == "events"
    assert manifest.ledger == {"entries": 1280, "events": 1280, "selection": 0}
    assert [(item.path, item.entries) for item in manifest.inputs] == list(
        zip(sample.paths(), (700, 450, 130), strict=True)
    )
    assert set(parquet_files(folder)) == {file.path for file in manifest.files}
    assert not (folder / "_staging").exists()


def test_text_and_nested_lists_are_kept_though_they_are_no_features(spark: SparkSession, tmp_path: Path) -> None:
    content = {
        "x": np.arange(4.0),
        "word": ak.Array(["a", "", "ć", "long " * 9]),
        "deep": ak.Array([[[1.5], []], [], [[2.0, 3.0]], [[]]]),
        "names": ak.Array([["mu", "e"], [], [""], ["tau"]]),
    }
    with uproot.recreate(tmp_path / "in.root") as file:
        file.mkrntuple("T", content)
    config = InputConfig(files=(str(tmp_path / "in.root"),))
    events = open_events(spark, fileset(config), config, 100, text=True)
    manifest = convert(events, str(tmp_path / "out"))
    table = pa.dataset.dataset([tmp_path / "out" / file.path for file in manifest.files]).to_table()
    assert {name: table[name].to_pylist() for name in content} == {n: v.tolist() for n, v in content.items()}
    assert open_events(spark, fileset(config), config, 100).plan.schema.names == ("x",)
    with pytest.raises(ConfigError, match="'word' cannot be used in an expression: strings are not numbers"):
        open_events(spark, fileset(config), config, 100, [Expression.parse("word > 1")], text=True)


def test_events_of_each_file_are_sorted_by_the_keys_and_compressed_as_told(
    opened: Callable[..., Events], sample: Sample, converted: tuple[Path, Manifest], tmp_path: Path
) -> None:
    config = ConvertConfig(compression="zstd", sort_keys=("nJet", "event"))
    made = convert(opened(sample.paths(), 200), str(tmp_path), config)
    entries = []
    for file in made.files:
        parquet = pq.ParquetFile(tmp_path / file.path)
        assert parquet.metadata.row_group(0).column(0).compression == "ZSTD"
        rows = parquet.read().to_pylist()
        assert rows == sorted(rows, key=lambda row: (row["nJet"], row["event"]))
        entries += [(file.ranges[0][0], row["__entry"]) for row in rows]
    assert sorted(entries) == sorted(sample.events)
    assert convert(opened(sample.paths(), 200), str(tmp_path), config) == made
    with pytest.raises(ChunkError, match="another selection, order or number of events"):
        convert(opened(sample.paths(), 200), str(tmp_path))
    smaller = ConvertConfig(compression="gzip")
    assert convert(opened(sample.paths(), 200), str(converted[0]), smaller) == converted[1]


@pytest.fixture(scope="module")
def large(make_events: Callable[[int, int, int], list[Any]], write: Callable[..., str], tmp_path_factory: Any) -> str:
    """A file of 6,000 events in clusters of 100."""
    return write(tmp_path_factory.mktemp("large") / "large.root", make_events(6_000, 1, 1), cluster=100)


def test_files_are_of_about_the_target_size_and_hold_every_event_once(
    opened: Callable[..., Events], large: str, tmp_path: Path
) -> None:
    target = 40_000
    config = ConvertConfig(target_size=target)
    made = convert(opened([large], 500), str(tmp_path / "out"), config)
    assert len(made.files) > 5
    for file in made.files:
        assert target / 2 < (tmp_path / "out" / file.path).stat().st_size < 2 * target
        assert all(edge % 100 == 0 for _, *edges in file.ranges for edge in edges)
    table = listed(tmp_path / "out", made)
    assert table["event"].to_pylist() == list(range(1_000, 7_000))
    # smaller files where less is kept of an event, cut by the same rule; one file where everything fits
    whole = convert(opened([large], 500), str(tmp_path / "whole"), ConvertConfig(target_size=10**9))
    assert [file.rows for file in whole.files] == [6_000]
    small = convert(opened([large], 500, branches=("nJet",)), str(tmp_path / "small"), config)
    assert len(small.files) < len(made.files)
    # how much is kept changes nothing: the size is before the selection
    selected = convert(opened([large], 500, selection="nJet > 2"), str(tmp_path / "selected"), config)
    assert [file.ranges for file in selected.files] == [file.ranges for file in made.files]


def test_target_size_cuts_a_file_alike_whatever_is_converted_with_it(
    opened: Callable[..., Events], sample: Sample, large: str, tmp_path: Path
) -> None:
    config = ConvertConfig(target_size=40_000)
    convert(opened([large], 500), str(tmp_path / "grown"), config)
    both = [*sample.paths()[:2], large]
    grown = convert(opened(both, 500), str(tmp_path / "grown"), config)
    whole = convert(opened(both, 500), str(tmp_path / "whole"), config)
    assert grown.content_digest == whole.content_digest
    # what is there already is kept whatever the size now
    assert convert(opened(both, 500), str(tmp_path / "grown"), ConvertConfig(target_size=10_000)) == grown


def test_conversion_to_a_target_size_goes_on_where_it_stopped(
    opened: Callable[..., Events],
    large: str,
    tmp_path: Path,
    crash_at: CrashAt,
) -> None:
    config, folder = ConvertConfig(target_size=40_000), tmp_path / "out"
    with crash_at(converting, "commit"):
        convert(opened([large], 500), str(folder), config)
    done = {path.stat().st_ino for path in folder.glob("_staging/*/*.parquet")}
    assert len(done) > 5
    manifest = convert(opened([large], 500), str(folder), config)
    assert {(folder / file.path).stat().st_ino for file in manifest.files} == done


def test_target_size_is_refused_for_formats_that_spark_cuts(
    opened: Callable[..., Events], sample: Sample, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"target_size is not for JSON and CSV.*maxPartitionBytes"):
        convert(opened(sample.paths("json")), str(tmp_path / "out"), ConvertConfig(target_size=10**6))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("key", ["evnt", "Jet_pt"])
def test_a_key_that_is_no_flat_branch_is_refused(
    opened: Callable[..., Events], sample: Sample, tmp_path: Path, key: str
) -> None:
    with pytest.raises(BranchNotFoundError, match=f"'{key}'.*flat branches"):
        convert(opened(sample.paths()), str(tmp_path / "out"), ConvertConfig(sort_keys=(key,)))
    assert not (tmp_path / "out").exists()


def test_unsigned_integers_and_infinities_keep_their_values(opened: Callable[..., Events], tmp_path: Path) -> None:
    values: dict[str, npt.NDArray[Any]] = {
        "u64": np.array([2**64 - 1, 2**63, 2**53 + 1, 0], np.uint64),
        "i64": np.array([-(2**63), 2**63 - 1, 2**53 + 1, 0], np.int64),
        "u8": np.array([255, 128, 1, 0], np.uint8),
        "i8": np.array([-128, 127, -1, 0], np.int8),
        "f32": np.array([np.inf, -np.inf, np.nan, -0.0], np.float32),
        "f64": np.array([5e-324, -1.7976931348623157e308, np.nan, -0.0], np.float64),
    }
    lists = [[2**64 - 1, 0], [], [2**63 + 5], []]
    path = tmp_path / "edges.root"
    with uproot.recreate(path) as file:
        kinds = {name: array.dtype for name, array in values.items()}
        tree = file.mktree("Events", {**kinds, "l": ak.types.from_datashape("var * uint64", highlevel=False)})
        tree.extend({**values, "l": ak.unflatten(np.array([2**64 - 1, 0, 2**63 + 5], np.uint64), [2, 0, 1, 0])})
    manifest = convert(opened([str(path)]), str(tmp_path / "out"))
    (written,) = manifest.files
    table = pq.read_table(tmp_path / "out" / written.path)
    for name, array in values.items():
        assert table.schema.field(name).type == pa.from_numpy_dtype(array.dtype)
        found = table[name].to_numpy()
        assert found.dtype == array.dtype
        assert found.tobytes() == array.tobytes(), name
    assert table["l"].to_pylist() == lists
    assert table.schema.field("l").type == pa.list_(pa.uint64())


@pytest.mark.parametrize("kind", ["json.gz", "csv", "parquet", "arrow"])
def test_other_formats_are_converted_with_equal_values(
    opened: Callable[..., Events],
    sample: Sample,
    tmp_path: Path,
    same_values: Callable[[Any, Any], bool],
    kind: str,
) -> None:
    table = listed(tmp_path / "out", convert(opened(sample.paths(kind)), str(tmp_path / "out")))
    assert list(zip(table["__file"].to_pylist(), table["__entry"].to_pylist(), strict=True)) == list(sample.events)
    for name in TYPES.keys() - {"__entry"}:
        assert same_values(table[name].to_pylist(), sample.columns(name)), name


def test_converted_files_are_input_again(
    opened: Callable[..., Events], converted: tuple[Path, Manifest], sample: Sample
) -> None:
    folder, manifest = converted
    first = [file.path for file in manifest.files if file.ranges[0][0] == 2]
    events = opened([str(folder / path) for path in first])
    assert {omitted.name for omitted in events.plan.schema.omitted} == {"__entry"}
    rows = events.dataframe().collect()
    assert [(row["__file"], row["__entry"]) for row in rows] == [(0, entry) for entry in range(130)]
    assert [row["event"] for row in rows] == [event["event"] for event in sample.files[2]]


def test_selected_events_alone_are_written(opened: Callable[..., Events], sample: Sample, tmp_path: Path) -> None:
    selection = "nJet >= 3 && flag"
    kept = [place for place, event in sample.events.items() if event["nJet"] >= 3 and event["flag"]]
    manifest = convert(opened(sample.paths(), 100, selection=selection), str(tmp_path / "out"))
    table = listed(tmp_path / "out", manifest)
    assert list(zip(table["__file"].to_pylist(), table["__entry"].to_pylist(), strict=True)) == kept
    assert manifest.ledger == {"entries": 1280, "events": len(kept), "selection": 1280 - len(kept)}
    # the stretch without jets is a range of which nothing is left: no file
    assert all(file.rows for file in manifest.files)


def test_selection_that_keeps_nothing_leaves_nothing(
    opened: Callable[..., Events], sample: Sample, tmp_path: Path
) -> None:
    with pytest.raises(FilesetError, match="keeps none of 1280 events"):
        convert(opened(sample.paths(), selection="nJet > 1000"), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_second_run_converts_nothing(
    opened: Callable[..., Events], sample: Sample, converted: tuple[Path, Manifest]
) -> None:
    folder, manifest = converted
    before = parquet_files(folder)
    assert convert(opened(sample.paths(), 200), str(folder)) == manifest
    assert parquet_files(folder) == before


def test_files_that_moved_are_not_converted_again(
    opened: Callable[..., Events], sample: Sample, tmp_path: Path
) -> None:
    events, folder = opened(sample.paths(), 200), tmp_path / "out"
    first = convert(events, str(folder))
    before = parquet_files(folder)
    moved = without_inputs(events)
    again = convert(moved, str(folder))
    assert parquet_files(folder) == before
    assert again.content_digest == first.content_digest
    assert [item.path for item in again.inputs] == [file.path for file in moved.plan.files]


@pytest.fixture
def copies(sample: Sample, tmp_path: Path) -> list[str]:
    """Copies of the sample's files that a test may change."""
    return [str(shutil.copy(path, tmp_path / f"{index}.root")) for index, path in enumerate(sample.paths())]


def unreadable(events: Events, *names: str) -> Events:
    """The same events, but the named files are gone: whoever reads one fails."""
    files = tuple(
        dataclasses.replace(file, path=f"/gone{file.path}") if file.path.endswith(names) else file
        for file in events.plan.files
    )
    return dataclasses.replace(events, plan=dataclasses.replace(events.plan, files=files))


def test_a_new_file_alone_is_converted(opened: Callable[..., Events], copies: list[str], tmp_path: Path) -> None:
    folder, whole = tmp_path / "out", tmp_path / "whole"
    first = convert(opened([copies[2], copies[1]], 200), str(folder))
    before = parquet_files(folder)
    manifest = convert(unreadable(opened(copies, 200), "1.root", "2.root"), str(folder))
    assert manifest.version == 2
    assert before.items() <= parquet_files(folder).items()
    assert set(parquet_files(folder)) == {file.path for file in manifest.files}
    assert manifest.content_digest == convert(opened(copies, 200), str(whole)).content_digest
    rows = manifests.value_digest(listed(folder, manifest))
    assert rows == manifests.value_digest(listed(whole, manifests.read(str(whole))))
    assert str(Changes.between(first.inputs, manifest.inputs)) == "1 new, 2 kept"


def test_a_changed_file_is_converted_again_and_its_old_rows_are_gone(
    opened: Callable[..., Events], copies: list[str], sample: Sample, tmp_path: Path
) -> None:
    folder, whole = tmp_path / "out", tmp_path / "whole"
    first = convert(opened(copies[:2], 200), str(folder))
    kept = {path: inode for path, inode in parquet_files(folder).items() if first.inputs[0].uuid in path}
    shutil.copy(sample.paths()[2], copies[1])
    manifest = convert(unreadable(opened(copies[:2], 200), "0.root"), str(folder))
    assert manifest.content_digest == convert(opened(copies[:2], 200), str(whole)).content_digest
    assert kept.items() <= parquet_files(folder).items()
    assert set(parquet_files(folder)) == {file.path for file in manifest.files}
    assert manifest.rows == 700 + 130
    assert str(Changes.between(first.inputs, manifest.inputs)) == f"1 changed ({copies[1]}), 1 kept"


def test_a_removed_file_takes_its_rows_with_it(
    opened: Callable[..., Events], copies: list[str], tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    first = convert(opened(copies, 200), str(folder))
    manifest = convert(unreadable(opened(copies[1:], 200), "root"), str(folder))
    assert set(parquet_files(folder)) == {file.path for file in manifest.files}
    assert manifest.rows == 450 + 130
    assert sorted({r[0] for file in manifest.files for r in file.ranges}) == [0, 1]
    assert str(Changes.between(first.inputs, manifest.inputs)) == f"1 removed ({copies[0]}), 2 kept"


def test_update_that_died_before_old_files_were_removed_is_cleaned_by_the_next(
    opened: Callable[..., Events],
    copies: list[str],
    tmp_path: Path,
    crash_at: CrashAt,
) -> None:
    folder = tmp_path / "out"
    convert(opened(copies, 200), str(folder))
    with crash_at(converting, "remove_superseded"):
        convert(opened(copies[1:], 200), str(folder))
    manifest = manifests.read(str(folder))
    assert set(parquet_files(folder)) > {file.path for file in manifest.files}
    assert convert(opened(copies[1:], 200), str(folder)) == manifest
    assert set(parquet_files(folder)) == {file.path for file in manifest.files}


@pytest.mark.parametrize("settings", [{"selection": "flag"}, {"exclude": ("Jet_*",)}, {"events": 500}])
def test_folder_of_another_conversion_is_refused_and_stays(
    opened: Callable[..., Events], sample: Sample, converted: tuple[Path, Manifest], settings: dict[str, Any]
) -> None:
    folder, _ = converted
    before = parquet_files(folder)
    with pytest.raises(ChunkError, match="choose another folder"):
        convert(opened(sample.paths(), 200, **settings), str(folder))
    assert parquet_files(folder) == before


def test_rerun_after_a_crash_reads_only_what_had_not_been_written(
    opened: Callable[..., Events],
    sample: Sample,
    converted: tuple[Path, Manifest],
    tmp_path: Path,
    crash_at: CrashAt,
) -> None:
    events, folder = opened(sample.paths(), 200), tmp_path / "out"
    with crash_at(converting, "commit"):
        convert(events, str(folder))
    # as if it had crashed before the last file was written; the others cannot be read any more
    (record,) = folder.glob(f"_staging/*/ledger/{2:06d}-*.json")
    record.unlink()
    *gone, last = without_inputs(events).plan.files
    files = (*gone, dataclasses.replace(last, path=sample.paths()[2]))
    manifest = convert(dataclasses.replace(events, plan=dataclasses.replace(events.plan, files=files)), str(folder))
    assert manifest.content_digest == converted[1].content_digest
    assert set(parquet_files(folder)) == {file.path for file in manifest.files}


KILLED = """
    import json, os, pathlib, signal, threading, time

    from mlaas_spark.config import InputConfig, SparkConfig
    from mlaas_spark.filesets import fileset
    from mlaas_spark.spark.convert import convert
    from mlaas_spark.spark.ingest import open_events
    from mlaas_spark.spark.session import session

    job = json.loads({job!r})
    spark = session(SparkConfig(master="local[2]"), "killed")
    config = InputConfig(files=tuple(job["files"]))
    events = open_events(spark, fileset(config), config, 1)

    def kill_in_the_middle():
        while not list(pathlib.Path(job["folder"]).glob("_staging/*/ledger/*.json")):
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=kill_in_the_middle).start()
    convert(events, job["folder"])
"""


@pytest.fixture
def killed(sample: Sample, run_python: Callable[[str], Ended], tmp_path: Path) -> Path:
    """The folder of a conversion of the sample whose process was killed in the middle."""
    folder = tmp_path / "out"
    ended = run_python(KILLED.format(job=json.dumps({"files": sample.paths(), "folder": str(folder)})))
    assert ended.returncode == -9, ended.stderr
    assert not (folder / "manifest.json").exists()
    return folder


def test_conversion_killed_in_the_middle_goes_on_where_it_stopped(
    opened: Callable[..., Events], sample: Sample, killed: Path, tmp_path: Path
) -> None:
    records = list(killed.glob("_staging/*/ledger/*.json"))
    finished = {file["path"] for record in records for file in json.loads(record.read_text())}
    (staging,) = killed.glob("_staging/*")
    done = {(staging / name).stat().st_ino for name in finished}
    assert done
    events = opened(sample.paths(), 1)
    manifest = convert(events, str(killed))
    assert done <= {(killed / file.path).stat().st_ino for file in manifest.files}
    assert not (killed / "_staging").exists()
    whole = convert(events, str(tmp_path / "whole"))
    assert manifest.content_digest == whole.content_digest


def test_a_finished_conversion_is_kept_however_the_files_are_cut_this_time(
    opened: Callable[..., Events], sample: Sample, tmp_path: Path
) -> None:
    first = convert(opened(sample.paths(), 100), str(tmp_path / "out"))
    assert convert(opened(sample.paths(), 1_000), str(tmp_path / "out")) == first


def test_a_conversion_that_was_killed_may_go_on_with_files_cut_otherwise(
    opened: Callable[..., Events], sample: Sample, killed: Path
) -> None:
    manifest = convert(opened(sample.paths(), 1_000), str(killed))
    table = listed(killed, manifest)
    assert list(zip(table["__file"].to_pylist(), table["__entry"].to_pylist(), strict=True)) == sorted(sample.events)
    assert set(parquet_files(killed)) == {file.path for file in manifest.files}
    assert {path.name for path in killed.iterdir()} == {"events", "manifest.json", "_manifests"}
