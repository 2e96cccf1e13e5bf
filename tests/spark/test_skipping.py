"""``input.bad_files: skip``: damage is left out, told of and counted, the same for all stages of a job; and retried."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import uproot

from mlaas_spark import manifest as manifests
from mlaas_spark import pipeline, storage
from mlaas_spark.branch_specs import SpecsFile
from mlaas_spark.config import resolve
from mlaas_spark.errors import ChunkError, DamagedInputError, SkipLimitError, UnreadableInputError
from mlaas_spark.runs import Journal
from mlaas_spark.spark import specs as spark_specs
from mlaas_spark.spark.chunks import build
from mlaas_spark.spark.convert import convert

from .conftest import FEATURES, TREE, Sample

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlaas_spark.manifest import Manifest
    from mlaas_spark.spark.chunks import ChunkRequest
    from mlaas_spark.spark.ingest import Events

BAD = (200, 300)  # entries of the damaged cluster of part0, a range of 100
SKIP: dict[str, Any] = {"bad_files": "skip", "skip_limit": 0.5}


def spoil(path: str, branch: str = "MET_sum", entry: int = BAD[0]) -> bytes:
    """Zero the basket of a branch that has an entry; the file as it was."""
    whole = Path(path).read_bytes()
    with uproot.open(path) as file:
        found = file[TREE][branch]
        number = int(np.searchsorted(found.entry_offsets, entry, side="right")) - 1
        start = int(found.member("fBasketSeek")[number])
    Path(path).write_bytes(whole[:start] + bytes(200) + whole[start + 200 :])
    return whole


@pytest.fixture
def parts(sample: Sample, tmp_path: Path) -> list[str]:
    """Copies of the sample's files, part0 with a damaged cluster; and one that is cut in its header."""
    paths = [str(shutil.copy(path, tmp_path / Path(path).name)) for path in sample.paths()]
    spoil(paths[0])
    return paths


@pytest.fixture
def cut(sample: Sample, tmp_path: Path) -> str:
    path = tmp_path / "cut.root"
    path.write_bytes(Path(sample.paths()[1]).read_bytes()[:5000])
    return str(path)


def rows_of(folder: Path, manifest: Manifest) -> list[tuple[int, float]]:
    tables = [pq.read_table(folder / file.path).to_pylist() for file in manifest.files]
    return sorted((row["run"], row["__entry"]) for table in tables for row in table)


def expected(sample: Sample, *, without: tuple[int, int] = BAD) -> list[tuple[int, int]]:
    every = [(event["run"], entry) for events in sample.files for entry, event in enumerate(events)]
    return sorted(pair for pair in every if not (pair[0] == 1 and without[0] <= pair[1] < without[1]))


def test_by_default_damage_is_an_error(opened: Callable[..., Events], parts: list[str], tmp_path: Path) -> None:
    with pytest.raises(DamagedInputError, match=r"part0.root, tree Events, entries \[200, 300\)"):
        convert(opened(parts, 100), str(tmp_path / "out"))


def test_convert_skips_the_damaged_range_alone_and_the_ledger_accounts_for_it(
    opened: Callable[..., Events], parts: list[str], sample: Sample, tmp_path: Path
) -> None:
    made = convert(opened(parts, 100, **SKIP), str(tmp_path / "out"))
    assert rows_of(tmp_path / "out", made) == expected(sample)
    assert made.ledger == {"entries": 1280, "events": 1180, "selection": 0, "skipped": 100}
    (item,) = made.skipped
    assert (item.path, item.tree, item.start, item.stop, item.entries) == (parts[0], TREE, *BAD, 100)
    assert "damaged" in item.reason
    assert manifests.read(str(tmp_path / "out")) == made
    # and with a selection: events in = out + selected away + skipped
    some = convert(opened(parts, 100, selection="nJet > 1", **SKIP), str(tmp_path / "some"))
    ledger = some.ledger
    assert ledger["entries"] == ledger["events"] + ledger["selection"] + ledger["skipped"] == 1280
    assert ledger["selection"] > 0


def test_rerun_does_not_read_what_was_skipped_and_retry_reads_only_that(
    opened: Callable[..., Events], parts: list[str], sample: Sample, tmp_path: Path
) -> None:
    out, whole = str(tmp_path / "out"), Path(sample.paths()[0]).read_bytes()
    first = convert(opened(parts, 100, **SKIP), out)
    assert convert(opened(parts, 100, **SKIP), out) == first
    assert convert(opened(parts, 100, **SKIP), out, retry=True) == first  # still damaged: nothing changes
    Path(parts[0]).write_bytes(whole)
    assert convert(opened(parts, 100, **SKIP), out).ledger["skipped"] == 100
    made = convert(opened(parts, 700, **SKIP), out, retry=True)  # ranges are those of then, not of now
    assert rows_of(tmp_path / "out", made) == expected(sample, without=(0, 0))
    assert made.ledger == {"entries": 1280, "events": 1280, "selection": 0}
    assert made.skipped == ()
    assert {file.path for file in first.files} < {file.path for file in made.files}
    assert len(made.files) == len(first.files) + 1


def test_where_damage_is_an_error_a_rerun_reads_what_was_skipped(
    opened: Callable[..., Events], parts: list[str], sample: Sample, tmp_path: Path
) -> None:
    out = str(tmp_path / "out")
    convert(opened(parts, 100, **SKIP), out)
    with pytest.raises(DamagedInputError):
        convert(opened(parts, 100), out)
    Path(parts[0]).write_bytes(Path(sample.paths()[0]).read_bytes())
    assert convert(opened(parts, 100), out).ledger == {"entries": 1280, "events": 1280, "selection": 0}


def test_file_that_cannot_be_opened_is_skipped_and_its_entries_are_not_known(
    opened: Callable[..., Events], sample: Sample, cut: str, tmp_path: Path
) -> None:
    made = convert(opened([*sample.paths(), cut], 250, **SKIP), str(tmp_path / "out"))
    assert made.ledger == {"entries": 1280, "events": 1280, "selection": 0, "unread_files": 1}
    (item,) = made.skipped
    assert (item.path, item.entries, item.key) == (cut, None, "")
    assert "not known" in str(item)
    assert len(made.inputs) == 3


def test_more_than_the_limit_is_an_error_that_names_the_files(
    opened: Callable[..., Events], parts: list[str], sample: Sample, cut: str, tmp_path: Path
) -> None:
    with pytest.raises(
        SkipLimitError, match=r"7\.81% of the entries .* at most 1\.00% may be.*part0\.root.*\[200, 300\)"
    ):
        convert(opened(parts, 100, bad_files="skip"), str(tmp_path / "out"))
    assert not manifests.present(str(tmp_path / "out"))
    with pytest.raises(SkipLimitError, match=r"about 25\.00%.*cut\.root.*not known"):
        opened([*sample.paths(), cut], bad_files="skip", skip_limit=0.2)
    with pytest.raises(DamagedInputError, match=r"cut\.root"):
        opened([cut], **SKIP)


def test_what_is_no_damage_is_never_skipped(opened: Callable[..., Events], sample: Sample, tmp_path: Path) -> None:
    gone = tmp_path / "gone.root"
    shutil.copy(sample.paths()[0], gone)
    events = opened([*sample.paths()[1:], str(gone)], **SKIP)
    gone.unlink()
    with pytest.raises(UnreadableInputError, match="no such file"):
        convert(events, str(tmp_path / "out"))
    shutil.copy(sample.paths()[0], gone)
    events = opened([*sample.paths()[1:], str(gone)], **SKIP)
    shutil.copy(sample.paths()[1], gone)
    with pytest.raises(UnreadableInputError, match="replaced since"):
        convert(events, str(tmp_path / "other"))
    with pytest.raises(UnreadableInputError, match="does not answer"):
        opened(["root://127.0.0.1:9//no.root"], retries=0, timeout=2, **SKIP)


def test_specs_and_chunks_of_a_job_skip_the_same(
    opened: Callable[..., Events], parts: list[str], request_of: Callable[..., ChunkRequest], tmp_path: Path
) -> None:
    # the damaged branch is a key, no feature: specs alone would not read it
    whole = spoil(parts[1], "event", 70)
    events = opened(parts, 100, labels=[0, 1, 0], **SKIP)
    specs, left = spark_specs.compute(events, FEATURES, also=("event",))
    assert [(item.path, item.start, item.stop) for item in left.skipped] == [(parts[0], *BAD), (parts[1], 64, 128)]
    assert specs.specs.events == left.plan.entries == 1280 - 100 - 64
    made = build(left, request_of(), str(tmp_path / "out"))
    assert made.ledger == {"entries": 1280, "events": 1116, "selection": 0, "skipped": 164}
    assert made.rows == 1116
    assert specs.skipped == made.skipped == left.skipped
    # what would be damaged only now was decided before: an error
    Path(parts[1]).write_bytes(whole)
    spoil(parts[2], "event", 3)
    with pytest.raises(DamagedInputError, match=r"part2"):
        build(left, request_of(seed=2), str(tmp_path / "two"))


def test_specs_of_a_file_with_a_damaged_range_are_not_taken_for_those_of_the_whole_file(
    opened: Callable[..., Events], parts: list[str], sample: Sample
) -> None:
    made, _ = spark_specs.compute(opened(parts, 100, **SKIP), FEATURES)
    again = SpecsFile.loads(made.dumps())
    assert again == made
    Path(parts[0]).write_bytes(Path(sample.paths()[0]).read_bytes())
    whole, counted = spark_specs.compute(opened(parts, 100, **SKIP), FEATURES, known=again)
    straight, _ = spark_specs.compute(opened(sample.paths(), 100), FEATURES)
    assert whole.specs == straight.specs
    assert counted.skipped == ()


@pytest.mark.parametrize("kind", ["parquet", "arrow", "json", "csv"])
def test_damage_of_other_formats_is_skipped(
    kind: str, opened: Callable[..., Events], sample: Sample, tmp_path: Path
) -> None:
    paths = [str(shutil.copy(path, tmp_path / Path(path).name)) for path in sample.paths(kind)]
    raw = bytearray(Path(paths[1]).read_bytes())
    if kind == "parquet":
        metadata = pq.read_metadata(paths[1])
        start = metadata.row_group(2).column(0).data_page_offset
        raw[start : start + 30] = bytes(30)
    else:
        raw = raw[: len(raw) * 2 // 3]
    Path(paths[1]).write_bytes(raw)
    with pytest.raises(DamagedInputError, match="part1"):
        convert(opened(paths, 64), str(tmp_path / "none"))
    made = convert(opened(paths, 64, **SKIP), str(tmp_path / "out"))
    lost = {"skipped": 64} if kind == "parquet" else {"unread_files": 1}
    assert {key: made.ledger.get(key) for key in lost} == lost
    assert made.ledger["events"] == (1280 - 64 if kind == "parquet" else 830)
    assert [item.path for item in made.skipped] == [paths[1]]


def config_of(paths: list[str], **settings: Any) -> Any:
    return resolve({"input": {"files": paths, **settings}, "spark": {"events_per_task": 100}})


@pytest.mark.usefixtures("spark")
def test_the_verb_says_what_it_skipped_and_writes_skipped_json(
    parts: list[str], sample: Sample, cut: str, tmp_path: Path
) -> None:
    out, said = str(tmp_path / "out"), list[str]()
    pipeline.convert(config_of([*parts, cut], **SKIP), out, Journal(said.append))
    assert any("skipped: 100 entries in 1 range of 1 file and 1 file that could not be opened" in line for line in said)
    content = json.loads(storage.read_bytes(f"{out}/skipped.json"))
    assert [(item["path"], item["start"], item["stop"], item["entries"]) for item in content["files"]] == [
        (cut, 0, 0, None),
        (parts[0], *BAD, 100),
    ]
    assert (content["skipped"], content["unread_files"]) == (100, 1)
    # mended, and a new file beside: the retry takes up only what was skipped
    Path(parts[0]).write_bytes(Path(sample.paths()[0]).read_bytes())
    Path(cut).unlink()
    new = tmp_path / "new.root"
    with uproot.recreate(new) as file:
        file.mktree(TREE, {"x": "f4"})
    said.clear()
    with pytest.raises(ChunkError, match="no data set"):
        pipeline.convert(config_of(parts, **SKIP), str(tmp_path / "no"), Journal(), retry_skipped=True)
    made = pipeline.convert(config_of([*parts, str(new)], **SKIP), out, Journal(said.append), retry_skipped=True)
    assert made.ledger == {"entries": 1280, "events": 1280, "selection": 0}
    assert any("1 new files are left for a run without --retry-skipped" in line for line in said)
    assert json.loads(storage.read_bytes(f"{out}/skipped.json")) == {"files": []}


@pytest.mark.usefixtures("spark")
def test_specs_verb_keeps_what_it_skipped_until_it_is_told_to_try_again(
    parts: list[str], sample: Sample, tmp_path: Path
) -> None:
    target, config = str(tmp_path / "specs.json"), config_of(parts, **SKIP)
    first = pipeline.specs(config, target, Journal())
    assert first.specs.events == 1180
    Path(parts[0]).write_bytes(Path(sample.paths()[0]).read_bytes())
    assert pipeline.specs(config, target, Journal()) == first
    made = pipeline.specs(config, target, Journal(), retry_skipped=True)
    assert made.specs.events == 1280
    assert made.skipped == ()
