"""verify: whatever is done to a data set after it was written is named; a sound one has no findings."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import random
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlaas_spark import friend, parquet, storage, verify
from mlaas_spark.checksums import checksums, crc32, span
from mlaas_spark.cli import main
from mlaas_spark.errors import ChunkError
from mlaas_spark.friend import Friend
from mlaas_spark.manifest import DataFile, Input, Manifest, begin, commit, request_digest, value_digest
from mlaas_spark.schema import FILE, Branch, EventSchema, of_size

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SCHEMA = EventSchema.of([Branch("x", "x", "int64", jagged=False), Branch("j", "j", "float32", jagged=True)])
ROWS = 40


def table_of(part: int) -> pa.Table:
    """Numbers, lists, nested lists, text and missing values, as converted data sets have them."""
    rng = random.Random(part)  # noqa: S311 - bytes and bits to change
    lists = [[float(np.float32(rng.random())) for _ in range(rng.randrange(4))] for _ in range(ROWS)]
    return pa.table(
        {
            "x": pa.array(range(part * ROWS, (part + 1) * ROWS), pa.int64()),
            "j": pa.array(lists, pa.list_(pa.float32())),
            "jj": pa.array([[of[:1], of[1:]] for of in lists], pa.list_(pa.list_(pa.float32()))),
            "text": pa.array([rng.choice(["", "é", None, "mu"]) for _ in range(ROWS)]),
            "texts": pa.array([["a"] * len(of) for of in lists], pa.list_(pa.string())),
            "missing": pa.array([rng.choice([None, 1.5]) for _ in range(ROWS)], pa.float32()),
            "yes": pa.array([rng.random() < 0.5 for _ in range(ROWS)]),
            FILE: pa.array([0] * ROWS, pa.int32()),
        }
    )


def write(folder: Path, layout: str = "compact", checked: bool = True) -> Manifest:  # noqa: FBT001, FBT002 - a switch
    """Three files of 40 events of one input of 150 entries."""
    staging = begin(str(folder), request_digest([layout]))
    assert not isinstance(staging, Manifest)
    staged = []
    for part in range(3):
        table, url = table_of(part), staging.new_file()
        size, sums = parquet.write_checked(table, url, 16)
        file = DataFile(
            path=url.rsplit("/", 1)[-1],
            rows=ROWS,
            bytes=size,
            ranges=((0, part * 50, part * 50 + 50),),
            digest=value_digest(table),
            chunk=part,
            split="train" if layout == "compact" else "",
            labels={"0": 10, "1": 30} if layout == "compact" else {},
            checksums=sums if checked else (),
        )
        place = "train" if layout == "compact" else "events"
        staged.append((file, f"{place}/{part:06d}.parquet"))
    inputs = (Input("/data/f.root", "ab" * 16, "Events", 150, 3 * ROWS, 1.0, 1.0),)
    return commit(staging, Manifest(layout, staging.request, SCHEMA, inputs, ()), staged)


def found(folder: Path, *, deep: bool = True) -> list[tuple[str, str]]:
    return [(of.kind, of.path) for of in verify.data_set(str(folder), deep=deep).findings]


def flip(path: Path, at: int, bit: int = 0) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1 << bit
    path.write_bytes(content)


@pytest.mark.parametrize("layout", ["compact", "events"])
@pytest.mark.parametrize("deep", [False, True])
def test_a_sound_data_set_has_no_findings(tmp_path: Path, layout: str, deep: bool) -> None:  # noqa: FBT001
    write(tmp_path / "data", layout)
    (tmp_path / "data" / "specs.json").write_text("{}")  # which chunks have beside them
    told = verify.data_set(str(tmp_path / "data"), deep=deep)
    assert (told.findings, told.notes, told.files) == ((), (), 3)
    assert told.ledger == {"entries": 150, "events": 120, "selection": 30}
    assert told.to_json()["ok"] is True


def test_every_flipped_bit_is_named_with_its_place(tmp_path: Path) -> None:
    made = write(tmp_path / "data")
    rng = random.Random(5)  # noqa: S311 - bytes and bits to change
    seen = {"row group": 0, "footer": 0}
    for _ in range(60):
        file = rng.choice(made.files)
        path = tmp_path / "data" / file.path
        before, at = path.read_bytes(), rng.randrange(file.bytes)
        flip(path, at, rng.randrange(8))
        told = verify.data_set(str(tmp_path / "data"), deep=True).findings
        assert {of.path for of in told} == {file.path}
        (text,) = [of.text for of in told if of.kind == "bytes"]
        in_footer = at >= file.checksums[-2][0]
        assert ("footer" in text) == in_footer
        seen["footer" if in_footer else "row group"] += 1
        path.write_bytes(before)
    assert min(seen.values()) > 5, seen


def test_values_are_compared_where_there_are_no_checksums(tmp_path: Path) -> None:
    made = write(tmp_path / "data", "events", checked=False)
    path = tmp_path / "data" / made.files[1].path
    other = table_of(1).to_pylist()
    other[7]["j"] = [7.0, *other[7]["j"][1:]]
    other[7]["j"] = other[7]["j"] or [7.0]
    size = parquet.write(pa.Table.from_pylist(other, table_of(1).schema), str(path), 16)
    files = tuple(replace(f, bytes=size) if f.path == made.files[1].path else f for f in made.files)
    for name in ("manifest.json", "_manifests/000001.json"):
        (tmp_path / "data" / name).write_text(json.dumps(replace(made, files=files).to_json()))
    assert found(tmp_path / "data", deep=False) == []
    assert found(tmp_path / "data") == [("values", made.files[1].path)]


@pytest.mark.parametrize("deep", [False, True])
def test_missing_short_and_extra_files_are_named(tmp_path: Path, deep: bool) -> None:  # noqa: FBT001
    made = write(tmp_path / "data")
    first, second, third = (tmp_path / "data" / file.path for file in made.files)
    first.unlink()
    second.write_bytes(second.read_bytes()[:-1])
    third.with_name("more.parquet").write_bytes(third.read_bytes())
    (tmp_path / "data" / "_SUCCESS").touch()
    assert found(tmp_path / "data", deep=deep) == [
        ("missing", made.files[0].path),
        ("size", made.files[1].path),
        ("extra", "_SUCCESS"),
        ("extra", "train/more.parquet"),
    ]


def test_a_file_that_is_no_parquet_any_more_is_unreadable(tmp_path: Path) -> None:
    made = write(tmp_path / "data", checked=False)
    (tmp_path / "data" / made.files[0].path).write_bytes(bytes(made.files[0].bytes))
    assert found(tmp_path / "data", deep=False) == [("unreadable", made.files[0].path)]


def test_what_is_under_way_is_a_note(tmp_path: Path) -> None:
    write(tmp_path / "data")
    staged = tmp_path / "data" / "_staging" / "0123" / "x.parquet"
    staged.parent.mkdir(parents=True)
    staged.touch()
    told = verify.data_set(str(tmp_path / "data"), deep=False)
    assert told.findings == ()
    assert told.notes == ("_staging is of a job that runs, or that was killed and can go on",)


def broken(made: Manifest, change: Callable[[Manifest], Manifest]) -> list[str]:
    changed = change(made)
    return [of.text for of in verify.ledger(changed, changed.to_json())]


def test_a_ledger_that_does_not_add_up_is_found(tmp_path: Path) -> None:
    made, of_events = write(tmp_path / "chunks"), write(tmp_path / "events", "events")
    (item,), (first, *rest) = made.inputs, made.files
    lost = broken(made, lambda m: replace(m, inputs=(replace(item, events=121),)))
    assert lost == ["the files have 120 events, 121 of the inputs should be in them"]
    assert "151 events of 150 entries" in broken(made, lambda m: replace(m, inputs=(replace(item, events=151),)))[1]
    labels = broken(made, lambda m: replace(m, files=(replace(first, labels={"0": 39}), *rest)))
    assert labels == ["39 labels for 40 events"]
    nowhere = broken(made, lambda m: replace(m, files=(replace(first, ranges=((1, 0, 50),)), *rest)))
    assert nowhere == ["it has the range (1, 0, 50) of inputs, of which there are none such"]
    twice = replace(of_events.files[0], ranges=((0, 25, 75),))
    assert broken(of_events, lambda m: replace(m, files=(twice, *of_events.files[1:]))) == [
        "/data/f.root: entries [50, 75) are in two files"
    ]


def test_sums_in_the_manifest_are_those_of_what_it_lists(tmp_path: Path) -> None:
    made = write(tmp_path / "data")
    told = {**made.to_json(), "ledger": {"entries": 150, "events": 119, "selection": 31}}
    (finding,) = verify.ledger(made, told)
    assert (finding.kind, finding.path) == ("ledger", "manifest.json")


def test_events_of_an_input_that_were_swapped_are_found_by_reading_them(tmp_path: Path) -> None:
    made = write(tmp_path / "data")
    two = dataclasses.replace(
        made,
        inputs=(
            replace(made.inputs[0], events=60),
            replace(made.inputs[0], uuid="cd" * 16, path="/data/g.root", events=60),
        ),
    )
    for name in ("manifest.json", "_manifests/000001.json"):
        (tmp_path / "data" / name).write_text(json.dumps(two.to_json()))
    assert found(tmp_path / "data", deep=False) == []
    told = [of.text for of in verify.data_set(str(tmp_path / "data"), deep=True).findings]
    assert told == [
        "120 events of /data/f.root are in the files, 60 should be",
        "0 events of /data/g.root are in the files, 60 should be",
    ]


@pytest.mark.parametrize("change", ["gone", "cut", "other"])
def test_the_published_version_is_compared(tmp_path: Path, change: str) -> None:
    write(tmp_path / "data")
    path = tmp_path / "data" / "_manifests" / "000001.json"
    if change == "gone":
        path.unlink()
    else:
        path.write_text(path.read_text()[:-9] if change == "cut" else path.read_text().replace("0.5", "1"))
        if change == "other":
            path.write_text(json.dumps({**json.loads(path.read_text()), "keys": ["x"]}))
    kinds = {"gone": "missing", "cut": "unreadable", "other": "digest"}
    assert found(tmp_path / "data") == [(kinds[change], "_manifests/000001.json")]


def test_a_folder_without_a_manifest_is_none(tmp_path: Path) -> None:
    with pytest.raises(ChunkError, match=r"has no manifest\.json"):
        verify.data_set(str(tmp_path), deep=False)


# friend trees


def friends(folder: Path) -> Path:
    """Scores as friend trees, as executors make them of the Parquet files of ranges."""
    branches = (Branch("x", "x", "int64", jagged=False), Branch("j", "j", "float32", jagged=True))
    kept = (
        *branches,
        Branch("missing", "missing", "float32", jagged=False),
        Branch("yes", "yes", "bool", jagged=False),
    )
    names = [branch.name for branch in kept]
    staging = begin(str(folder), request_digest(["friends"]))
    assert not isinstance(staging, Manifest)
    parts = io.BytesIO()
    pq.write_table(pa.concat_tables([table_of(part).select(names) for part in range(2)]), parts)
    batches = list(of_size(pq.ParquetFile(parts).iter_batches(7), friend.BASKET))
    digests = [value_digest(batch) for batch in batches]
    url = staging.new_file(".root")
    sums = friend.write(batches, Friend("Events", "scores", kept), url)
    rows = 2 * ROWS
    made = DataFile(url.rsplit("/", 1)[-1], rows, sums[0][0], ((0, 0, rows),), request_digest(digests), checksums=sums)
    inputs = (Input("/data/f.root", "ab" * 16, "Events", rows, rows, None, 1.0),)
    commit(staging, Manifest("scores", staging.request, SCHEMA, inputs, ()), [(made, "f.scores.root")])
    return folder / "f.scores.root"


def test_friend_trees_are_read_back(tmp_path: Path) -> None:
    path = friends(tmp_path / "data")
    assert found(tmp_path / "data", deep=False) == found(tmp_path / "data") == []
    rng, size = random.Random(3), path.stat().st_size  # noqa: S311 - bytes and bits to change
    named = 0
    for _ in range(40):
        before = path.read_bytes()
        flip(path, rng.randrange(size), rng.randrange(8))
        named += bool(found(tmp_path / "data"))
        path.write_bytes(before)
    assert named == 40


# the command line


def test_the_verb_names_what_differs_and_ends_with_4(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = write(tmp_path / "data")
    assert main(["verify", str(tmp_path / "data"), "--deep"]) == 0
    told = capsys.readouterr().out
    assert "150 entries in = 120 events out + 30 not selected" in told
    assert "all is as recorded; 3 files" in told
    flip(tmp_path / "data" / made.files[1].path, 50)
    assert main(["verify", str(tmp_path / "data")]) == 0  # sizes and footers are right
    capsys.readouterr()
    assert main(["verify", str(tmp_path / "data"), "--deep"]) == 4
    assert capsys.readouterr().out.splitlines()[0].startswith(f"bytes: {made.files[1].path}: row group 0, bytes [0, ")
    assert main(["verify", str(tmp_path / "data"), "--deep", "--json"]) == 4
    found = json.loads(capsys.readouterr().out)
    assert (found["ok"], [of["kind"] for of in found["findings"]]) == (False, ["bytes"])


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ([], "no data set, or the job that writes it has not finished"),
        (["x.parquet"], "is neither a data set nor a run folder"),
        (["run.json"], r"run.json cannot be read"),
    ],
)
def test_what_is_neither_a_data_set_nor_a_run_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], names: list[str], says: str
) -> None:
    for name in names:
        (tmp_path / name).touch()
    assert main(["runs", "verify", str(tmp_path)]) == 4
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert says in line


# checksums


def test_pieces_tile_a_file_and_are_those_of_zlib(tmp_path: Path) -> None:
    import zlib

    path = tmp_path / "x.parquet"
    size, sums = parquet.write_checked(table_of(0), str(path), 16)
    content = path.read_bytes()
    assert len(content) == size == sums[-1][0]
    assert len(sums) == pq.read_metadata(path).num_row_groups + 1 == 4
    for piece, (_, crc) in enumerate(sums):
        start, stop = span(sums, piece)
        assert zlib.crc32(content[start:stop]) == crc
    assert b"".join(content[slice(*span(sums, piece))] for piece in range(4)) == content
    assert span(sums, -1) == span(sums, 3)
    with path.open("rb") as stream:
        assert checksums(stream) == checksums(pa.OSFile(str(path), "rb")) == sums
        assert crc32(stream, 0, size + 100) == zlib.crc32(content)


def test_an_empty_file_has_a_footer(tmp_path: Path) -> None:
    _, sums = parquet.write_checked(table_of(0).slice(0, 0), str(tmp_path / "x.parquet"), 16)
    assert sums[-1][0] == (tmp_path / "x.parquet").stat().st_size


def test_checksums_survive_the_manifest(tmp_path: Path) -> None:
    made = write(tmp_path / "data")
    again = Manifest.from_json(json.loads(json.dumps(made.to_json())))
    assert again == made
    assert made.files[0].checksums


# runs


def run_of(folder: Path) -> dict[str, Any]:
    (folder / "bundle").mkdir(parents=True)
    for name in ("config.yaml", "bundle/b.tar.gz"):
        (folder / name).write_bytes(name.encode())
    (folder / "log").write_text("so far")
    files = {
        name: {"bytes": len(name), "sha256": hashlib.sha256(name.encode()).hexdigest()}
        for name in ("config.yaml", "bundle/b.tar.gz")
    }
    record = {"files": files, "digests": {"config": "a" * 64}, "bundles": {}, "chunks": "/c"}
    (folder / "run.json").write_text(json.dumps(record))
    return record


def test_files_of_a_run_are_compared_with_its_record(tmp_path: Path) -> None:
    run_of(tmp_path / "run")
    told = verify.run_record(str(tmp_path / "run"))
    assert verify.run_files(str(tmp_path / "run"), told) == ([], [])
    (tmp_path / "run" / "config.yaml").write_bytes(b"config.yamL")
    (tmp_path / "run" / "bundle" / "b.tar.gz").unlink()
    (tmp_path / "run" / "evaluation-test").mkdir()
    (tmp_path / "run" / "evaluation-test" / "metrics.json").touch()
    (tmp_path / "run" / "notes.txt").touch()
    findings, notes = verify.run_files(str(tmp_path / "run"), told)
    assert [(of.kind, of.path) for of in findings] == [
        ("bytes", "config.yaml"),
        ("missing", "bundle/b.tar.gz"),
        ("extra", "notes.txt"),
    ]
    assert notes == ["evaluation-test/metrics.json was put there after the run"]


def test_digests_of_a_run_are_compared_by_name() -> None:
    told = {"digests": {"config": "a" * 64, "plan": "b" * 64}}
    assert verify.run_digests(told, {"config": "a" * 64}) == []
    (finding,) = verify.run_digests(told, {"config": "a" * 64, "plan": "c" * 64})
    assert str(finding) == f"the plan has the digest {'c' * 12}, run.json says {'b' * 12}"


@pytest.mark.parametrize("content", [None, "{", "[]", "{}", '{"files": 1, "digests": {}, "bundles": {}, "chunks": ""}'])
def test_a_record_that_is_none_is_refused(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    with pytest.raises(ChunkError, match=r"run\.json"):
        verify.run_record(str(tmp_path))


def test_names_below_are_relative(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c").touch()
    assert storage.names_below(str(tmp_path)) == storage.names_below(f"file://{tmp_path}") == {"a/b/c"}
    assert storage.sha256(str(tmp_path / "a" / "b" / "c")) == hashlib.sha256(b"").hexdigest()
