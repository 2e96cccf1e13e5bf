from __future__ import annotations

import dataclasses
import itertools
import json
import math
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from mlaas_spark import manifest as manifests
from mlaas_spark.errors import BranchNotFoundError, ChunkError, ConfigError, FilesetError, SpecsMismatchError
from mlaas_spark.spark import chunks
from mlaas_spark.spark.chunks import ChunkRequest, build, row_group_events
from mlaas_spark.spark.records import Records

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlaas_spark.manifest import Manifest
    from mlaas_spark.spark.ingest import Events
    from mlaas_spark.transform import FeatureTransform
    from tests.spark.conftest import CrashAt, Ended, Event, Sample

Row = dict[str, Any]
FEATURES = ["Ele_pt", "Jet_eta", "Jet_id", "Jet_pt", "MET_pt", "MET_sum", "const", "flag", "nEle_pt", "nJet"]
LABELS = [1.0, 0.0, 0.0]


def rows_of(folder: Path, manifest: Manifest) -> list[Row]:
    """Every row with its chunk and split, files in the manifest's order."""
    rows = []
    for file in manifest.files:
        of_file = pq.read_table(folder / file.path).to_pylist()
        rows += [{**row, "chunk": file.chunk, "split": file.split} for row in of_file]
    return rows


def place(row: Row) -> tuple[int, int]:
    return row["__file"], row["__entry"]


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of change of each file below a folder."""
    found = {}
    for path in folder.rglob("*"):
        if path.is_file():
            stat = path.stat()
            found[str(path.relative_to(folder))] = (stat.st_ino, stat.st_mtime_ns)
    return found


@pytest.fixture(scope="module")
def events(opened: Callable[..., Events], sample: Sample) -> Events:
    return opened(sample.paths(), labels=LABELS, weights=[1.0, 2.0, 0.5])


@pytest.fixture(scope="module")
def built(
    events: Events, request_of: Callable[..., ChunkRequest], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Manifest]:
    """Chunks of 300 events, seed 1, that no test changes."""
    folder = tmp_path_factory.mktemp("chunks") / "built"
    return folder, build(events, request_of(), str(folder))


@pytest.fixture(scope="module")
def rows(built: tuple[Path, Manifest]) -> list[Row]:
    return rows_of(*built)


# --- what is in them --------------------------------------------------------------------------------------------------


def test_every_event_is_there_exactly_once_with_its_values(
    rows: list[Row], sample: Sample, same_values: Callable[[Any, Any], bool]
) -> None:
    assert sorted(map(place, rows)) == sorted(sample.events)
    for row in rows:
        event = sample.events[place(row)]
        assert all(same_values(row[name], event[name]) for name in (*FEATURES, "run", "luminosityBlock", "event"))


def test_each_chunk_has_each_files_share_within_one_event(rows: list[Row]) -> None:
    sizes = np.bincount([row["chunk"] for row in rows])
    assert sizes.tolist() == [300, 300, 300, 300, 80]
    for chunk, size in enumerate(sizes):
        counts = np.bincount([row["__file"] for row in rows if row["chunk"] == chunk], minlength=3)
        for count, entries in zip(counts, (700, 450, 130), strict=True):
            assert abs(count - size * entries / 1280) < 1


def test_events_of_the_files_are_mixed_and_out_of_order(rows: list[Row]) -> None:
    train = [row for row in rows if (row["chunk"], row["split"]) == (0, "train")]
    files = [row["__file"] for row in train]
    changes = sum(a != b for a, b in itertools.pairwise(files))
    assert changes > len(files) / 4  # about 0.58 of neighbours differ in a random order
    entries = [row["__entry"] for row in train if row["__file"] == 0]
    rises = sum(a < b for a, b in itertools.pairwise(entries))
    assert 0.3 < rises / len(entries) < 0.7


def test_manifest_tells_rows_bytes_ranges_and_labels_of_each_file(built: tuple[Path, Manifest]) -> None:
    folder, manifest = built
    assert manifests.read(str(folder)) == manifest
    listed = {file.path for file in manifest.files}
    assert listed == {str(path.relative_to(folder)) for path in folder.rglob("*.parquet")}
    assert {file.split for file in manifest.files} == {"train", "validation", "test"}
    for file in manifest.files:
        of_file = pq.read_table(folder / file.path).to_pylist()
        assert (file.rows, file.bytes) == (len(of_file), (folder / file.path).stat().st_size)
        for index, start, stop in file.ranges:
            entries = [row["__entry"] for row in of_file if row["__file"] == index]
            assert (start, stop) == (min(entries), max(entries) + 1)
        assert {index for index, _, _ in file.ranges} == {row["__file"] for row in of_file}
        ones = sum(row["__label"] == 1 for row in of_file)
        assert file.labels == {label: n for label, n in (("0", file.rows - ones), ("1", ones)) if n}
    assert not (folder / "_staging").exists()


def test_manifest_tells_inputs_schema_and_ledger(built: tuple[Path, Manifest], sample: Sample) -> None:
    _, manifest = built
    assert [(i.path, i.entries, i.events, i.label, i.weight) for i in manifest.inputs] == [
        (path, n, n, label, weight)
        for path, n, label, weight in zip(sample.paths(), (700, 450, 130), LABELS, (1.0, 2.0, 0.5), strict=True)
    ]
    assert manifest.schema.names == tuple(sorted([*FEATURES, "event", "luminosityBlock", "run"]))
    assert manifest.ledger == {"entries": 1280, "events": 1280, "selection": 0}
    assert sum(n for labels in manifest.counts().values() for n in labels.values()) == 1280
    assert (manifest.layout, manifest.keys) == ("compact", ("run", "luminosityBlock", "event"))


@pytest.mark.parametrize(("batch_size", "expected"), [(1, 8192), (32, 8192), (3000, 6000), (8192, 8192), (9000, 9000)])
def test_row_groups_hold_whole_batches(batch_size: int, expected: int) -> None:
    assert row_group_events(batch_size) == expected


def test_row_groups_on_disk_hold_whole_batches(
    opened: Callable[..., Events],
    write: Callable[..., str],
    make_events: Callable[..., list[Event]],
    request_of: Callable[..., ChunkRequest],
    tmp_path: Path,
) -> None:
    types = {"event": "uint64", "MET_pt": "float32", "flag": "bool"}
    path = write(tmp_path / "f.root", make_events(9_500, 1, 1), cluster=5_000, types=types)
    events = opened([path], label="flag")
    request = request_of(
        size="all", batch_size=3000, keys=("event",), label="flag", features=request_of().transform.only("MET_pt"),
        split={"train": 0.8, "validation": 0.0, "test": 0.2},
    )  # fmt: skip
    manifest = build(events, request, str(tmp_path / "c"))
    groups = {}
    for file in manifest.files:
        parquet = pq.ParquetFile(tmp_path / "c" / file.path)
        groups[file.split] = [parquet.metadata.row_group(i).num_rows for i in range(parquet.num_row_groups)]
        assert sum(groups[file.split]) == file.rows
    assert [rows == 6000 for rows in groups["train"]] == [True, False]


# --- what they depend on ----------------------------------------------------------------------------------------------


def test_same_seed_same_content_however_the_files_are_cut(
    opened: Callable[..., Events],
    sample: Sample,
    built: tuple[Path, Manifest],
    rows: list[Row],
    request_of: Callable[..., ChunkRequest],
    tmp_path: Path,
) -> None:
    for events_per_task in (1, 100_000):
        events = opened(sample.paths(), events_per_task, labels=LABELS, weights=[1.0, 2.0, 0.5])
        folder = tmp_path / str(events_per_task)
        manifest = build(events, request_of(), str(folder))
        assert manifest.content_digest == built[1].content_digest
        assert [(place(row), row["chunk"], row["split"]) for row in rows_of(folder, manifest)] == [
            (place(row), row["chunk"], row["split"]) for row in rows
        ]


def test_other_seed_is_another_order_of_the_same_chunks(
    events: Events,
    built: tuple[Path, Manifest],
    rows: list[Row],
    request_of: Callable[..., ChunkRequest],
    tmp_path: Path,
) -> None:
    manifest = build(events, request_of(seed=2), str(tmp_path / "c"))
    others = rows_of(tmp_path / "c", manifest)
    assert manifest.content_digest != built[1].content_digest
    assert [place(row) for row in others] != [place(row) for row in rows]
    assert {place(row): (row["chunk"], row["split"]) for row in others} == {
        place(row): (row["chunk"], row["split"]) for row in rows
    }


def test_split_of_an_event_stays_in_other_chunks_of_all_under_another_seed(
    events: Events, rows: list[Row], request_of: Callable[..., ChunkRequest], tmp_path: Path
) -> None:
    manifest = build(events, request_of(size="all", seed=5), str(tmp_path / "c"))
    others = rows_of(tmp_path / "c", manifest)
    assert {row["chunk"] for row in others} == {0}
    assert manifest.chunks == 1
    assert {place(row): row["split"] for row in others} == {place(row): row["split"] for row in rows}
    counts = [sum(row["split"] == split for row in rows) for split in ("train", "validation", "test")]
    for count, share in zip(counts, (0.64, 0.16, 0.2), strict=True):
        assert abs(count - 1280 * share) < 4 * math.sqrt(1280 * share * (1 - share))


def test_split_without_keys_is_by_file_and_entry(
    events: Events, request_of: Callable[..., ChunkRequest], rows: list[Row], tmp_path: Path
) -> None:
    one = rows_of(tmp_path / "one", build(events, request_of(keys=()), str(tmp_path / "one")))
    two = rows_of(tmp_path / "two", build(events, request_of(keys=(), size=70, seed=9), str(tmp_path / "two")))
    splits = {place(row): row["split"] for row in one}
    assert splits == {place(row): row["split"] for row in two}
    assert splits != {place(row): row["split"] for row in rows}
    assert "event" not in one[0]


def test_split_is_of_the_event_not_of_the_file_it_lies_in(
    opened: Callable[..., Events],
    write: Callable[..., str],
    sample: Sample,
    rows: list[Row],
    request_of: Callable[..., ChunkRequest],
    tmp_path: Path,
) -> None:
    """The events of two files, the other way round in one: whoever joins files leaks nothing from test to train."""
    joined = [*reversed(sample.files[1]), *sample.files[0]]
    path = write(tmp_path / "joined.root", joined, cluster=200)
    events = opened([path], label="flag")
    made = rows_of(
        tmp_path / "c", build(events, request_of(label="flag", features=_without_flag(request_of)), str(tmp_path / "c"))
    )
    before = {(row["run"], row["event"]): row["split"] for row in rows}
    assert len(made) == 1150
    assert all(before[row["run"], row["event"]] == row["split"] for row in made)


def _without_flag(request_of: Callable[..., ChunkRequest]) -> FeatureTransform:
    transform: FeatureTransform = request_of().transform
    return transform.only("MET_pt")


def test_shares_of_the_split_are_those_of_the_config(
    events: Events, request_of: Callable[..., ChunkRequest], tmp_path: Path
) -> None:
    request = request_of(split={"train": 0.5, "validation": 0.0, "test": 0.5}, size="all")
    manifest = build(events, request, str(tmp_path / "c"))
    totals = {split: sum(labels.values()) for split, labels in manifest.counts().items()}
    assert set(totals) == {"train", "test"}
    assert abs(totals["train"] - 640) < 4 * math.sqrt(320)


# --- labels and weights -----------------------------------------------------------------------------------------------


def test_labels_and_weights_of_groups_are_those_of_their_files(rows: list[Row]) -> None:
    assert {(row["__file"], row["__label"], row["__weight"]) for row in rows} == {
        (0, 1.0, 1.0),
        (1, 0.0, 2.0),
        (2, 0.0, 0.5),
    }


@pytest.mark.parametrize(
    ("label", "oracle"),
    [
        ("flag", lambda event: event["flag"]),
        ("nJet >= 2 && MET_pt > 20", lambda event: event["nJet"] >= 2 and event["MET_pt"] > 20),
        ("minimum(nEle_pt, 2)", lambda event: min(event["nEle_pt"], 2)),
    ],
)
def test_label_is_a_branch_or_an_expression(
    opened: Callable[..., Events],
    sample: Sample,
    request_of: Callable[..., ChunkRequest],
    tmp_path: Path,
    label: str,
    oracle: Callable[[Event], float],
) -> None:
    transform = request_of().transform.only("Jet_pt")
    events = opened(sample.paths(), label=label, branches=("Jet_pt",))
    made = rows_of(tmp_path / "c", build(events, request_of(label=label, features=transform), str(tmp_path / "c")))
    assert len(made) == 1280
    assert all(row["__label"] == float(oracle(sample.events[place(row)])) for row in made)
    # the branches of the label are read for it, and do not stay
    assert not {"flag", "nJet", "MET_pt", "nEle_pt"} & set(made[0])


@pytest.mark.parametrize("layout", ["compact", "dense"])
def test_targets_and_weights_are_expressions_too(
    opened: Callable[..., Events],
    sample: Sample,
    request_of: Callable[..., ChunkRequest],
    tmp_path: Path,
    layout: str,
) -> None:
    targets, weight = (
        ("nJet * 2.0", "nJet - 3 * nEle_pt"),
        "1 - 2 * (nEle_pt > 1)",
    )  # some weights are negative, as a generator's
    answers = ("nJet", "nEle_pt")
    events = opened(sample.paths(), branches=("Jet_pt", *answers), labels=LABELS, weights=[1.0, 2.0, 0.5])
    request = request_of(
        targets=targets, weight=weight, features=request_of().transform.only("Jet_pt"), layout=layout, batch_size=32
    )
    manifest = build(events, request, str(tmp_path / "c"))
    made = rows_of(tmp_path / "c", manifest)
    assert (manifest.targets, manifest.weight, manifest.counts()) == (targets, weight, {})
    assert sum(manifest.events().values()) == len(made) == 1280
    assert manifests.read(str(tmp_path / "c")) == manifest
    for row in made:
        event = sample.events[place(row)]
        assert row["__label"] == event["nJet"] * 2.0
        assert row["__label_1"] == event["nJet"] - 3 * event["nEle_pt"]
        assert row["__weight"] == [1.0, 2.0, 0.5][row["__file"]] * (-1 if event["nEle_pt"] > 1 else 1)
    assert not {*answers} & set(made[0])


def test_each_event_is_a_test_event_of_one_fold_and_nothing_else_there(
    opened: Callable[..., Events],
    events: Events,
    sample: Sample,
    request_of: Callable[..., ChunkRequest],
    tmp_path: Path,
) -> None:
    """Across folds, other chunk sizes and more files, an event changes sides only where its own fold is the test."""
    sides: dict[tuple[int, int], list[str]] = {}
    fewer = opened(sample.paths()[:2], labels=LABELS[:2])
    for fold in range(3):
        split = {"folds": 3, "fold": fold}
        made = rows_of(tmp_path / f"{fold}", build(events, request_of(split=split), str(tmp_path / f"{fold}")))
        of_fold = {place(row): row["split"] for row in made}
        for event, side in of_fold.items():
            sides.setdefault(event, []).append(side)
        other = tmp_path / f"other-{fold}"
        again = rows_of(other, build(fewer, request_of(split=split, size=70, seed=9), str(other)))
        assert all(of_fold[place(row)] == row["split"] for row in again)
    assert len(sides) == 1280
    assert all(of_event.count("test") == 1 for of_event in sides.values())
    # where it is no test event, it is on one and the same side
    assert all(len(set(of_event)) == 2 for of_event in sides.values())


def test_branch_of_the_label_is_no_feature(
    opened: Callable[..., Events], sample: Sample, request_of: Callable[..., ChunkRequest], tmp_path: Path
) -> None:
    with pytest.raises(SpecsMismatchError, match=r"'nJet'.*read the answer"):
        build(opened(sample.paths(), label="nJet > 2"), request_of(label="nJet > 2"), str(tmp_path / "c"))
    assert not (tmp_path / "c").exists()


def test_label_that_is_missing_for_an_event_is_an_error(
    opened: Callable[..., Events], sample: Sample, request_of: Callable[..., ChunkRequest], tmp_path: Path
) -> None:
    transform = request_of().transform.only("Jet_pt")
    with pytest.raises(ConfigError, match="'MET_pt' is missing or infinite"):
        build(
            opened(sample.paths(), label="MET_pt"), request_of(label="MET_pt", features=transform), str(tmp_path / "c")
        )
    assert not (tmp_path / "c").exists()


def test_files_without_any_label_are_refused(
    opened: Callable[..., Events], sample: Sample, request_of: Callable[..., ChunkRequest], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"no label for .*part0\.root and others"):
        build(opened(sample.paths()), request_of(), str(tmp_path / "c"))
    assert not (tmp_path / "c").exists()


def test_one_class_alone_is_refused_and_nothing_is_left(
    opened: Callable[..., Events], sample: Sample, request_of: Callable[..., ChunkRequest], tmp_path: Path
) -> None:
    with pytest.raises(ChunkError, match="only one class in training: every event has label 1"):
        build(opened(sample.paths(), labels=[1, 1, 1]), request_of(), str(tmp_path / "c"))
    assert not (tmp_path / "c").exists()


# --- selection --------------------------------------------------------------------------------------------------------


def test_selected_events_alone_are_mixed_and_the_ledger_adds_up(
    opened: Callable[..., Events], sample: Sample, request_of: Callable[..., ChunkRequest], tmp_path: Path
) -> None:
    events = opened(sample.paths(), 100, labels=LABELS, selection="nJet > 1")
    manifest = build(events, request_of(size=100), str(tmp_path / "c"))
    made = rows_of(tmp_path / "c", manifest)
    kept = [place for place, event in sample.events.items() if event["nJet"] > 1]
    assert sorted(map(place, made)) == sorted(kept)
    assert manifest.ledger == {"entries": 1280, "events": len(kept), "selection": 1280 - len(kept)}
    of_file = [sum(file == index for file, _ in kept) for index in range(3)]
    assert [item.events for item in manifest.inputs] == of_file
    for chunk in range(len(kept) // 100):
        for index, entries in enumerate(of_file):
            count = sum((row["chunk"], row["__file"]) == (chunk, index) for row in made)
            assert abs(count - 100 * entries / len(kept)) < 1


def test_selection_that_keeps_nothing_leaves_nothing(
    opened: Callable[..., Events], sample: Sample, request_of: Callable[..., ChunkRequest], tmp_path: Path
) -> None:
    events = opened(sample.paths(), labels=LABELS, selection="nJet > 1000")
    with pytest.raises(FilesetError, match="keeps none"):
        build(events, request_of(), str(tmp_path / "c"))
    assert not (tmp_path / "c").exists()


def test_range_that_comes_in_several_batches_is_taken_whole(
    opened: Callable[..., Events], sample: Sample, request_of: Callable[..., ChunkRequest], tmp_path: Path
) -> None:
    """Spark cuts a block of JSON into batches, and the selection thins each of them out."""
    made = {}
    for rows_a_batch in ("37", "10000"):
        events = opened(sample.paths("json"), labels=LABELS, selection="nJet > 0")
        assert isinstance(events.source, Records)
        events.source.frame.sparkSession.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", rows_a_batch)
        folder = tmp_path / rows_a_batch
        manifest = build(events, request_of(size=150), str(folder))
        made[rows_a_batch] = rows_of(folder, manifest)
    kept = [place for place, event in sample.events.items() if event["nJet"] > 0]
    # files are numbered as the manifest lists them, by content
    named = [sample.paths("json").index(item.path) for item in manifest.inputs]
    assert sorted((named[file], entry) for file, entry in map(place, made["37"])) == kept
    assert [(place(row), row["chunk"]) for row in made["37"]] == [(place(row), row["chunk"]) for row in made["10000"]]


# --- folders, reruns, crashes -----------------------------------------------------------------------------------------


def test_folder_with_other_chunks_is_refused_and_stays(
    events: Events, built: tuple[Path, Manifest], request_of: Callable[..., ChunkRequest]
) -> None:
    folder, _ = built
    before = snapshot(folder)
    with pytest.raises(ChunkError, match=r"made from other inputs, specs or config.*choose another folder"):
        build(events, request_of(seed=3), str(folder))
    assert snapshot(folder) == before


def test_folder_with_something_else_is_refused_and_stays(
    events: Events, request_of: Callable[..., ChunkRequest], tmp_path: Path
) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ChunkError, match=r"holds something else \(thesis\.tex\)"):
        build(events, request_of(), str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def without_inputs(events: Events) -> Events:
    """The same events of files that are gone: whoever reads one fails."""
    gone = tuple(dataclasses.replace(file, path=f"/gone{file.path}") for file in events.plan.files)
    return dataclasses.replace(events, plan=dataclasses.replace(events.plan, files=gone))


def without_spills(folder: Path) -> None:
    """Take away what the first stage put aside: whoever begins a finished task of the second one again fails."""
    (spills,) = folder.glob("_staging/*/spill")
    shutil.rmtree(spills)


def test_request_that_is_there_already_is_kept_without_work(
    events: Events, built: tuple[Path, Manifest], request_of: Callable[..., ChunkRequest]
) -> None:
    folder, manifest = built
    before = snapshot(folder)
    assert build(without_inputs(events), request_of(), str(folder)) == manifest
    assert snapshot(folder) == before


def test_crash_before_the_manifest_leaves_work_that_a_rerun_uses(
    events: Events,
    built: tuple[Path, Manifest],
    request_of: Callable[..., ChunkRequest],
    tmp_path: Path,
    crash_at: CrashAt,
) -> None:
    folder = tmp_path / "c"
    with crash_at(chunks, "commit"):
        build(events, request_of(), str(folder))
    assert not (folder / "manifest.json").exists()
    with pytest.raises(ChunkError, match=r"no manifest\.json"):
        manifests.read(str(folder))
    staged = {inode for name, (inode, _) in snapshot(folder).items() if name.endswith(".parquet")}
    without_spills(folder)
    manifest = build(without_inputs(events), request_of(), str(folder))
    assert manifest.content_digest == built[1].content_digest
    assert {inode for name, (inode, _) in snapshot(folder).items() if name.endswith(".parquet")} == staged


@pytest.mark.parametrize("layout", ["compact", "dense"])
def test_rerun_does_only_the_tasks_that_had_not_finished(
    events: Events,
    request_of: Callable[..., ChunkRequest],
    tmp_path: Path,
    crash_at: CrashAt,
    layout: str,
) -> None:
    whole = build(events, request_of(layout=layout), str(tmp_path / "whole"))
    folder = tmp_path / "c"
    with crash_at(chunks, "commit"):
        build(events, request_of(layout=layout), str(folder))
    # as if it had crashed before the last task of the first stage, and of the second one where there is one
    (ledger,) = (folder / "_staging").glob("*/ledger")
    unfinished = [ledger / "part-000002.json", *sorted(ledger.glob("dense-000002-*"))]
    lost = {file["path"] for record in unfinished for file in json.loads(record.read_text())}
    for record in unfinished:
        record.unlink()
    kept = {
        inode
        for name, (inode, _) in snapshot(folder).items()
        if name.endswith(".parquet") and Path(name).name not in lost
    }
    manifest = build(events, request_of(layout=layout), str(folder))
    assert manifest.content_digest == whole.content_digest
    after = {file.path: (folder / file.path).stat().st_ino for file in manifest.files}
    again = {path for path, inode in after.items() if inode not in kept}
    assert again == {file.path for file in manifest.files if file.chunk == 2}


def test_rerun_that_cuts_the_files_elsewhere_loses_no_event(
    opened: Callable[..., Events],
    sample: Sample,
    built: tuple[Path, Manifest],
    request_of: Callable[..., ChunkRequest],
    tmp_path: Path,
    crash_at: CrashAt,
) -> None:
    """What a first attempt has put aside for ranges of 100 events does not pass for the ranges of a second."""
    folder = tmp_path / "c"

    def events(events_per_task: int) -> Events:
        return opened(sample.paths(), events_per_task, labels=LABELS, weights=[1.0, 2.0, 0.5])

    with crash_at(chunks, "commit"):
        build(events(1), request_of(), str(folder))
    for record in (folder / "_staging").glob("*/ledger/*.json"):
        record.unlink()
    manifest = build(events(100_000), request_of(), str(folder))
    assert manifest.content_digest == built[1].content_digest


KILLED = """
    import json, os, signal, sys

    from mlaas_spark.config import ChunkConfig, InputConfig, SparkConfig
    from mlaas_spark.filesets import fileset
    from mlaas_spark.spark import chunks
    from mlaas_spark.spark.ingest import open_events
    from mlaas_spark.spark.session import session
    from mlaas_spark.transform import FeatureTransform

    job = json.loads({job!r})
    spark = session(SparkConfig(master="local[2]", conf={{"spark.sql.shuffle.partitions": "3"}}), "killed")
    config = InputConfig.model_validate(job["input"])
    events = open_events(spark, fileset(config), config, 250)
    request = chunks.ChunkRequest(
        ChunkConfig(size=300), FeatureTransform.from_json(job["transform"]), tuple(job["keys"]), None, 32, "specs"
    )
    chunks.commit = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    chunks.build(events, request, job["folder"])
"""


def test_process_killed_before_the_manifest_is_resumed_to_the_same_content(
    events: Events,
    sample: Sample,
    built: tuple[Path, Manifest],
    request_of: Callable[..., ChunkRequest],
    transform: FeatureTransform,
    run_python: Callable[[str], Ended],
    tmp_path: Path,
) -> None:
    folder = tmp_path / "c"
    groups = [
        {"files": [path], "label": label, "weight": weight}
        for path, label, weight in zip(sample.paths(), LABELS, (1.0, 2.0, 0.5), strict=True)
    ]
    job = {
        "input": {"groups": groups},
        "transform": transform.to_json(),
        "keys": request_of().keys,
        "folder": str(folder),
    }
    ended = run_python(KILLED.format(job=json.dumps(job)))
    assert ended.returncode == -9, ended.stderr
    assert not (folder / "manifest.json").exists()
    staged = {inode for name, (inode, _) in snapshot(folder).items() if name.endswith(".parquet")}
    without_spills(folder)
    manifest = build(without_inputs(events), request_of(), str(folder))
    assert manifest.content_digest == built[1].content_digest
    assert manifests.read(str(folder)) == manifest
    assert {(folder / file.path).stat().st_ino for file in manifest.files} == staged
    assert not (folder / "_staging").exists()


def test_feature_that_the_events_lack_is_an_error_of_ours(
    opened: Callable[..., Events], sample: Sample, request_of: Callable[..., ChunkRequest], tmp_path: Path
) -> None:
    events = opened(sample.paths(), labels=LABELS, exclude=("Jet_eta",))
    with pytest.raises(BranchNotFoundError, match="'Jet_eta'"):
        build(events, request_of(), str(tmp_path / "c"))
    assert not (tmp_path / "c").exists()
