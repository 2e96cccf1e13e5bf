"""manifest: commits, half-commits, two writers, foreign folders, tampering, and digests over values."""

from __future__ import annotations

import json
import math
import os
import pickle
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlaas_spark import manifest as manifests
from mlaas_spark import parquet, storage
from mlaas_spark.config import resolve
from mlaas_spark.errors import (
    ChunkError,
    ConfigError,
    ConflictError,
    FilesetError,
    UnreadableInputError,
    UnwritableOutputError,
)
from mlaas_spark.filesets import MANIFEST, fileset
from mlaas_spark.formats import Format
from mlaas_spark.manifest import (
    DataFile,
    Input,
    Manifest,
    Staging,
    begin,
    check_files,
    clean,
    commit,
    discarded_if_empty,
    inputs_of,
    read,
    request_digest,
    value_digest,
)
from mlaas_spark.plan import EntryRange, Plan, PlannedFile
from mlaas_spark.schema import Branch, EventSchema

SCHEMA = EventSchema.of([Branch("x", "x", "int64", jagged=False)])
REQUEST, OTHER = request_digest(["one"]), request_digest(["other"])
TASKS = ("part-000000", "part-000001", "part-000002")


class Crash(BaseException):
    """Stands for a process that dies: nobody catches it."""


def table_of(part: int) -> pa.Table:
    return pa.table({"x": np.arange(part * 10, part * 10 + 5 + part)})


def write_task(staging: Staging, part: int) -> list[DataFile]:
    """What an executor does for one task, unless an earlier attempt has finished it."""
    if (done := staging.finished(TASKS[part])) is not None:
        return done
    table, url = table_of(part), staging.new_file()
    made = DataFile(
        path=url.rsplit("/", 1)[-1],
        rows=table.num_rows,
        bytes=parquet.write(table, url, 4),
        ranges=((0, part * 10, part * 10 + 10),),
        digest=value_digest(table),
        chunk=part,
        split="train" if part else "test",
        labels={"0": 2, "1": table.num_rows - 2},
    )
    return staging.finish(TASKS[part], [made])


def manifest_of(request: str) -> Manifest:
    events = sum(table_of(part).num_rows for part in range(3))
    return Manifest(
        layout="compact",
        request=request,
        schema=SCHEMA,
        inputs=(Input("/data/f.root", "ab" * 16, "Events", 30, events, 1.0, 0.5),),
        files=(),
        keys=("event",),
        digests={"plan": "p", "config": "c"},
    )


def write(folder: Path, request: str = REQUEST) -> Manifest:
    """The whole job."""
    staging = begin(str(folder), request)
    if isinstance(staging, Manifest):
        return staging
    return finish(staging, request)


def finish(staging: Staging, request: str = REQUEST) -> Manifest:
    files = [file for part in range(3) for file in write_task(staging, part)]
    staged = [(file, f"{file.split}/{file.chunk:06d}-{file.digest[:8]}.parquet") for file in files]
    return commit(staging, manifest_of(request), staged)


def staging_of(folder: Path, request: str = REQUEST) -> Staging:
    staging = begin(str(folder), request)
    assert isinstance(staging, Staging)
    return staging


def paths_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def assert_complete(folder: Path) -> None:
    """The data set has the values of all tasks once, its manifest is sound, and nothing is left over."""
    found = read(str(folder))
    check_files(str(folder), found)
    for file in found.files:
        table = pq.read_table(folder / file.path)
        assert table.equals(table_of(file.chunk))
        assert value_digest(table) == file.digest
    assert [file.chunk for file in found.files] == [0, 1, 2]
    assert paths_below(folder) == sorted([MANIFEST, "_manifests/000001.json", *(file.path for file in found.files)])


@pytest.fixture(scope="session")
def expected_digest(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Content digest of an undisturbed job."""
    return write(tmp_path_factory.mktemp("reference") / "data").content_digest


def test_committed_data_set_reads_back(tmp_path: Path) -> None:
    made = write(tmp_path / "out")
    assert_complete(tmp_path / "out")
    found = read(str(tmp_path / "out"))
    assert found == made
    assert found.rows == 18
    assert found.chunks == 3
    assert found.ledger == {"entries": 30, "events": 18, "selection": 12}
    assert found.counts() == {"test": {"0": 2, "1": 3}, "train": {"0": 4, "1": 9}}
    assert [file.chunk for file in found.of("train")] == [1, 2]
    assert [file.chunk for file in found.of("train", 2)] == [2]
    assert found.of("validation") == ()


def test_second_run_of_the_same_request_returns_what_is_there(tmp_path: Path) -> None:
    made = write(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert write(tmp_path) == made
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_folder_with_a_data_set_of_another_request_is_refused(tmp_path: Path) -> None:
    write(tmp_path)
    before = paths_below(tmp_path)
    with pytest.raises(ChunkError, match=r"holds a data set made from other inputs, specs or config"):
        begin(str(tmp_path), OTHER)
    assert paths_below(tmp_path) == before


def test_folder_with_something_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(ChunkError, match=r"holds something else \(thesis\.tex\): choose an empty or a new folder"):
        begin(str(tmp_path), REQUEST)
    assert paths_below(tmp_path) == ["thesis.tex"]


def test_staged_files_of_two_attempts_have_other_names(tmp_path: Path) -> None:
    staging = staging_of(tmp_path)
    assert len({staging.new_file() for _ in range(100)}) == 100
    assert pickle.loads(pickle.dumps(staging)) == staging  # noqa: S301 - our own bytes


def crash_at(monkeypatch: pytest.MonkeyPatch, name: str, call: int) -> None:
    """Die instead of the given call (from 1) of a function of storage."""
    real, seen = getattr(storage, name), [0]

    def dying(*args: Any) -> Any:
        seen[0] += 1
        if seen[0] == call:
            raise Crash
        return real(*args)

    monkeypatch.setattr(storage, name, dying)


HALF_COMMITS = [
    ("new_task", 0),
    ("move", 1),
    ("move", 2),
    ("move", 3),
    ("publish", 1),  # files moved, no manifest
    ("write_atomic", 1),  # version published, not named in manifest.json
    ("remove", 1),  # all done but the cleaning
]


@pytest.mark.parametrize(("place", "call"), HALF_COMMITS)
@pytest.mark.parametrize("times", [1, 2])
def test_rerun_after_a_crash_gives_the_same_data_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, call: int, times: int, expected_digest: str
) -> None:
    for _ in range(times):
        staging = begin(str(tmp_path), REQUEST)
        if isinstance(staging, Manifest):
            break
        for part in range(2 if place == "new_task" else 3):
            write_task(staging, part)
        if place == "new_task":
            continue
        with monkeypatch.context() as patched:
            crash_at(patched, place, call)
            with pytest.raises(Crash):
                finish(staging)
        if place != "remove":
            with pytest.raises(ChunkError, match=r"has no manifest\.json"):
                read(str(tmp_path))
    assert write(tmp_path).content_digest == expected_digest
    if place == "remove":  # a finished data set keeps the dead job's staging; what readers see is whole
        check_files(str(tmp_path), read(str(tmp_path)))
    else:
        assert_complete(tmp_path)


def test_half_commit_leaves_no_manifest_and_another_request_does_not_take_it_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    staging = staging_of(tmp_path)
    with monkeypatch.context() as patched:
        crash_at(patched, "write_atomic", 1)
        with pytest.raises(Crash):
            finish(staging)
    with pytest.raises(ChunkError, match="other"):
        write(tmp_path, OTHER)
    assert write(tmp_path).request == REQUEST
    check_files(str(tmp_path), read(str(tmp_path)))


def test_second_writer_of_the_same_request_gets_the_first_ones_manifest(tmp_path: Path) -> None:
    one, two = staging_of(tmp_path), staging_of(tmp_path)
    files = [file for part in range(3) for file in write_task(two, part)]
    first = finish(one)
    staged = [(file, f"{file.split}/{file.chunk:06d}-{file.digest[:8]}.parquet") for file in files]
    late = replace(manifest_of(REQUEST), digests={"plan": "p", "config": "c", "late": "yes"})
    assert commit(two, late, staged) == first
    assert read(str(tmp_path)) == first
    assert_complete(tmp_path)


def test_second_writer_of_another_request_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    one, two = staging_of(tmp_path), staging_of(tmp_path, OTHER)
    url = two.new_file()
    size = parquet.write(pa.table({"x": [1, 2, 3]}), url, 10)
    rival = DataFile(url.rsplit("/", 1)[-1], 3, size, ((0, 0, 3),), "rival")
    first = finish(one)
    with pytest.raises(ChunkError, match=r"another job has written other data meanwhile"):
        # even under the names of the first writer's files
        commit(two, manifest_of(OTHER), [(rival, first.files[0].path)])
    assert read(str(tmp_path)) == first
    check_files(str(tmp_path), first)
    assert pq.read_table(tmp_path / first.files[0].path).equals(table_of(first.files[0].chunk))


def test_staged_file_that_is_gone_stops_the_commit(tmp_path: Path) -> None:
    staging = staging_of(tmp_path)
    files = write_task(staging, 0)
    Path(staging.url, files[0].path).unlink()
    with pytest.raises(ChunkError, match=r"is gone before its commit: run the job again"):
        commit(staging, manifest_of(REQUEST), [(files[0], "test/0.parquet")])
    assert MANIFEST not in os.listdir(tmp_path)  # noqa: PTH208 - names only


def test_of_two_attempts_at_a_task_the_first_counts_and_the_other_leaves_nothing(tmp_path: Path) -> None:
    staging = staging_of(tmp_path)
    attempts = []
    for _ in range(2):
        url = staging.new_file()
        size = parquet.write(table_of(0), url, 10)
        attempts.append(DataFile(url.rsplit("/", 1)[-1], 5, size, ((0, 0, 5),), value_digest(table_of(0))))
    first, second = attempts
    assert staging.finish("part-000000", [first]) == [first]
    assert staging.finish("part-000000", [second]) == [first]
    assert storage.children(staging.url) == sorted([first.path, "ledger"])
    assert staging.finished("part-000000") == [first]
    assert staging.finished("part-000001") is None


def test_attempt_that_loses_to_one_without_files_gives_none(tmp_path: Path) -> None:
    staging = staging_of(tmp_path)
    assert staging.finish("part-000000", []) == []
    url = staging.new_file()
    size = parquet.write(table_of(0), url, 10)
    late = DataFile(url.rsplit("/", 1)[-1], 5, size, ((0, 0, 5),), "d")
    assert staging.finish("part-000000", [late]) == []
    assert storage.children(staging.url) == ["ledger"]


def test_finished_tasks_are_not_done_again(tmp_path: Path) -> None:
    made = write_task(staging_of(tmp_path), 0)
    assert write_task(staging_of(tmp_path), 0) == made
    assert write_task(staging_of(tmp_path, OTHER), 0) != made


def test_clean_touches_only_its_own_staging(tmp_path: Path) -> None:
    mine, other = staging_of(tmp_path), staging_of(tmp_path, OTHER)
    write_task(mine, 0)
    kept = write_task(other, 0)
    clean(mine)
    assert os.listdir(tmp_path / "_staging") == [OTHER[:16]]  # noqa: PTH208 - names only
    assert other.finished(TASKS[0]) == kept
    clean(other)
    assert list(tmp_path.iterdir()) == []


def test_error_of_ours_before_any_task_is_done_leaves_no_trace(tmp_path: Path) -> None:
    staging = staging_of(tmp_path / "out")
    staging.finish(TASKS[0], [])
    with pytest.raises(ConfigError), discarded_if_empty(staging):
        raise ConfigError
    assert list(tmp_path.iterdir()) == []


def test_error_after_a_task_is_done_keeps_it_for_a_rerun(tmp_path: Path) -> None:
    staging = staging_of(tmp_path / "out")
    made = write_task(staging, 0)
    with pytest.raises(ConfigError), discarded_if_empty(staging):
        raise ConfigError
    assert staging.finished(TASKS[0]) == made


def test_folder_without_a_manifest_is_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(ChunkError, match=r"has no manifest\.json: it is no data set"):
        read(str(tmp_path))


GARBAGE = ["", "{", "[]", "3", "null", "{}", '{"mlaas_spark": 1}', '{"mlaas_spark": 1, "files": 3}', "\udcff"]


@pytest.mark.parametrize("text", GARBAGE)
def test_manifest_that_is_none_is_refused_by_name(tmp_path: Path, text: str) -> None:
    (tmp_path / MANIFEST).write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ChunkError, match=r"manifest\.json"):
        read(str(tmp_path))


def tampered(folder: Path, change: Any) -> None:
    content = json.loads((folder / MANIFEST).read_text())
    change(content)
    (folder / MANIFEST).write_text(json.dumps(content))


CHANGES: list[Any] = [
    lambda c: c["files"][0].update(rows=4),
    lambda c: c["files"][0].update(digest="0" * 64),
    lambda c: c["files"][0].update(split="validation"),
    lambda c: c["files"][0].update(chunk=7),
    lambda c: c["files"].pop(),
    lambda c: c["inputs"][0].update(uuid="0" * 32),
    lambda c: c["inputs"][0].update(label=0.0),
    lambda c: c.update(content_digest="0" * 64),
    lambda c: c.update(layout="dense"),
    lambda c: c["schema"]["branches"][0].update(dtype="int32"),
]


@pytest.mark.parametrize("change", CHANGES)
def test_manifest_that_was_changed_is_refused(tmp_path: Path, change: Any) -> None:
    write(tmp_path)
    tampered(tmp_path, change)
    with pytest.raises(ChunkError, match=r"was changed: its content digest"):
        read(str(tmp_path))


@pytest.mark.parametrize(
    "change", [lambda c: c.pop("keys"), lambda c: c["files"][0].update(odd=1), lambda c: c["inputs"][0].pop("uuid")]
)
def test_manifest_with_other_keys_is_refused(tmp_path: Path, change: Any) -> None:
    write(tmp_path)
    tampered(tmp_path, change)
    with pytest.raises(ChunkError, match="is no manifest of a data set"):
        read(str(tmp_path))


def test_manifest_of_another_format_version_is_refused(tmp_path: Path) -> None:
    write(tmp_path)
    tampered(tmp_path, lambda c: c.update(mlaas_spark=2))
    with pytest.raises(ChunkError, match="has format version 2, this program reads 1"):
        read(str(tmp_path))


@pytest.mark.parametrize(
    "path", ["../x", "a/../../x", "/etc/passwd", "file:///etc/passwd", "memory://x", "..", "", "a\0b"]
)
def test_manifest_cannot_name_files_outside_its_folder(tmp_path: Path, path: str) -> None:
    write(tmp_path)
    tampered(tmp_path, lambda c: c["files"][0].update(path=path))
    with pytest.raises(ChunkError, match=r"is not below its folder"):
        read(str(tmp_path))


def linked_out(folder: Path, tmp_path: Path) -> Path:
    """The folder of the files of a data set, moved elsewhere, with a symbolic link in its place."""
    elsewhere = tmp_path / "elsewhere"
    (folder / "train").rename(elsewhere)
    (folder / "train").symlink_to(elsewhere)
    return elsewhere


def test_files_behind_a_link_out_of_the_folder_are_refused(tmp_path: Path) -> None:
    made = write(tmp_path / "set")
    linked_out(tmp_path / "set", tmp_path)
    with pytest.raises(ChunkError, match="leads out of its folder by a symbolic link"):
        check_files(str(tmp_path / "set"), made)
    with pytest.raises(FilesetError, match="not below its folder"):
        fileset(resolve({"input": {"files": [str(tmp_path / "set")]}}).input)


def test_a_link_to_the_folder_itself_is_followed(tmp_path: Path) -> None:
    made = write(tmp_path / "set")
    (tmp_path / "link").symlink_to(tmp_path / "set")
    check_files(str(tmp_path / "link"), made)


def test_nothing_is_removed_behind_a_link_out_of_the_folder(tmp_path: Path) -> None:
    made = write(tmp_path / "set")
    elsewhere = linked_out(tmp_path / "set", tmp_path)
    before = sorted(elsewhere.iterdir())
    with pytest.raises(ChunkError, match="leads out of its folder"):
        manifests.remove_superseded(str(tmp_path / "set"), replace(made, files=(), version=made.version + 1))
    assert sorted(elsewhere.iterdir()) == before != []


def test_ledger_cannot_name_files_outside_its_folder(tmp_path: Path) -> None:
    staging = staging_of(tmp_path)
    files = [asdict(replace(write_task(staging, 0)[0], path="../../x"))]
    Path(staging.url, "ledger", f"{TASKS[1]}.json").write_text(json.dumps(files))
    with pytest.raises(ChunkError, match=r"is not below its folder"):
        staging.finished(TASKS[1])


def test_missing_and_short_files_are_found(tmp_path: Path) -> None:
    made = write(tmp_path)
    victim = tmp_path / made.files[1].path
    content = victim.read_bytes()
    victim.write_bytes(content[:-1])
    with pytest.raises(ChunkError, match=rf"{victim.name} has {len(content) - 1} bytes, manifest\.json says"):
        check_files(str(tmp_path), made)
    victim.unlink()
    with pytest.raises(ChunkError, match=rf"{victim.name} is listed in manifest\.json and missing"):
        check_files(str(tmp_path), made)


def test_content_digest_does_not_see_names_sizes_and_order_of_files(tmp_path: Path) -> None:
    made = write(tmp_path)
    other = replace(
        made,
        files=tuple(replace(file, path=f"z{index}", bytes=1) for index, file in enumerate(reversed(made.files))),
        inputs=tuple(replace(item, path="root://elsewhere//f.root") for item in made.inputs),
        digests={},
        version=9,
    )
    assert other.content_digest == made.content_digest


def test_published_versions_beyond_the_named_one_are_taken_up(tmp_path: Path) -> None:
    made = write(tmp_path)
    newer = replace(made, version=2, digests={"plan": "newer"})
    (tmp_path / "_manifests" / "000002.json").write_text(json.dumps(newer.to_json()))
    assert begin(str(tmp_path), REQUEST) == newer
    assert read(str(tmp_path)) == newer


FLOATS = st.floats(width=32)
rows = st.lists(
    st.fixed_dictionaries(
        {
            "f": st.none() | FLOATS,
            "j": st.none() | st.lists(FLOATS, max_size=3),
            "i": st.integers(-(2**63), 2**63 - 1),
            "b": st.booleans(),
            "k": st.binary(min_size=3, max_size=3),
        }
    ),
    max_size=8,
)
TYPES = pa.schema(
    [
        ("f", pa.float32()),
        ("j", pa.list_(pa.float32())),
        ("i", pa.int64()),
        ("b", pa.bool_()),
        ("k", pa.binary(3)),
    ]
)


@given(rows, st.data())
def test_value_digest_does_not_depend_on_how_rows_are_cut(values: list[dict[str, Any]], data: st.DataObject) -> None:
    whole = pa.RecordBatch.from_pylist(values, TYPES)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(values)), max_size=3)))
    pairs = zip([0, *cuts], [*cuts, len(values)], strict=True)
    cut = pa.Table.from_batches([whole.slice(a, b - a) for a, b in pairs], TYPES)
    padded = pa.Table.from_pylist([dict.fromkeys(TYPES.names) | {"k": b"abc"}, *values], TYPES).slice(1)
    assert value_digest(whole) == value_digest(cut) == value_digest(padded)


BASE = {"f": [1.0, 2.0, 3.0], "j": [[1.0], [], [2.0, 3.0]], "k": [b"abc", b"def", b"ghi"], "i": [1, 2, 3]}


def digest_of(**changes: Any) -> str:
    content = {**BASE, **changes}
    return value_digest(pa.table({name: pa.array(content[name], TYPES.field(name).type) for name in content}))


def test_value_digest_of_text_and_nested_lists_sees_every_value_and_not_the_cut() -> None:
    def table(words: list[str | None], nested: list[list[list[float]]], names: list[list[str]]) -> pa.Table:
        kinds = {"w": pa.string(), "n": pa.list_(pa.list_(pa.float64())), "s": pa.list_(pa.string())}
        return pa.table({key: pa.array(v, kinds[key]) for key, v in zip(kinds, (words, nested, names), strict=True)})

    one = table(["ab", "", None, "ć"], [[[1.0], []], [], [[2.0, 3.0]], []], [["a"], [], ["b", "c"], [""]])
    others = [
        table(["a", "b", None, "ć"], one["n"].to_pylist(), one["s"].to_pylist()),
        table(["ab", None, "", "ć"], one["n"].to_pylist(), one["s"].to_pylist()),
        table(one["w"].to_pylist(), [[[1.0]], [], [[2.0, 3.0]], []], one["s"].to_pylist()),
        table(one["w"].to_pylist(), [[[1.0], []], [], [[2.0, 4.0]], []], one["s"].to_pylist()),
        table(one["w"].to_pylist(), one["n"].to_pylist(), [["a"], [], ["bc", ""], [""]]),
    ]
    assert len({value_digest(one), *map(value_digest, others)}) == 1 + len(others)
    padded = pa.concat_tables([others[0], one, others[0]]).combine_chunks().slice(4, 4)
    assert value_digest(padded) == value_digest(pa.concat_tables([one.slice(0, 1), one.slice(1)])) == value_digest(one)


def test_value_digest_sees_every_value_order_and_name() -> None:
    table = pa.table({name: pa.array(values, TYPES.field(name).type) for name, values in BASE.items()})
    digests = [
        digest_of(),
        digest_of(f=[1.0, 2.0, float(np.nextafter(np.float32(3), np.float32(4)))]),
        digest_of(f=[2.0, 1.0, 3.0]),
        digest_of(f=[1.0, None, 3.0]),
        digest_of(j=[[1.0], [2.0], [3.0]]),
        digest_of(j=[[], [1.0], [2.0, 3.0]]),
        digest_of(k=[b"abc", b"def", b"ghj"]),
        digest_of(i=[1, 2, 4]),
        value_digest(table.rename_columns(["g", "j", "k", "i"])),
        value_digest(table.select(["j", "f", "k", "i"])),
        value_digest(table.slice(0, 2)),
        value_digest(table.take([2, 1, 0])),
        value_digest(table.set_column(3, "i", pa.array([1, 2, 3], pa.int32()))),
    ]
    assert len(set(digests)) == len(digests)


def test_value_digest_tells_a_moved_value_between_columns() -> None:
    one = pa.table({"a": [1, 2], "b": [3] * 2})
    two = pa.table({"a": [1, 3], "b": [2, 3]})
    assert value_digest(one) != value_digest(two)


def test_value_digest_of_nan_is_that_of_nan_and_null() -> None:
    assert digest_of(f=[1.0, math.nan, 3.0]) == digest_of(f=[1.0, math.nan, 3.0])
    assert digest_of(j=[None, [], [1.0]]) == digest_of(j=[[], [], [1.0]])


def test_inputs_count_entries_and_events_of_each_planned_file() -> None:
    files = tuple(
        PlannedFile(f"/{name}.root", Format.ROOT, "T", name * 32, 100, label, 2.0, "g", (0, 40, 100))
        for name, label in (("a", 1.0), ("b", None))
    )
    plan = Plan(files, SCHEMA, (EntryRange(0, 0, 40, 7), EntryRange(0, 40, 100, 0), EntryRange(1, 0, 40, 40)))
    assert inputs_of(plan) == (
        Input("/a.root", "a" * 32, "T", 100, 7, 1.0, 2.0),
        Input("/b.root", "b" * 32, "T", 40, 40, None, 2.0),
    )


def test_request_digest_tells_where_one_part_ends() -> None:
    assert request_digest(["ab", "c"]) != request_digest(["a", "bc"])
    assert request_digest(["a", "b"]) == request_digest(iter(["a", "b"]))
    assert manifests.VERSION == 1


def test_answer_to_a_record_that_was_lost_counts_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    staging = staging_of(tmp_path)
    publish = storage.publish

    def lost(url: str, content: bytes, within: str | None = None) -> bool:
        publish(url, content, within)
        raise UnwritableOutputError(url, "no answer")

    with monkeypatch.context() as patched:
        patched.setattr(storage, "publish", lost)
        made = write_task(staging, 0)
    assert staging.finished(TASKS[0]) == made
    assert Path(staging.url, made[0].path).exists()


def test_a_client_that_asked_twice_and_was_told_no_loses_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    staging = staging_of(tmp_path)
    publish = storage.publish

    def twice(url: str, content: bytes, within: str | None = None) -> bool:
        publish(url, content, within)
        return publish(url, content, within)

    with monkeypatch.context() as patched:
        patched.setattr(storage, "publish", twice)
        made = write_task(staging, 0)
        assert Path(staging.url, made[0].path).exists()
        finish(staging)
    assert_complete(tmp_path)


def test_a_record_that_is_not_there_after_an_error_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    staging = staging_of(tmp_path)

    def fails(url: str, *_: object) -> bool:
        raise UnwritableOutputError(url, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(storage, "publish", fails)
        with pytest.raises(UnwritableOutputError, match="No space left"):
            write_task(staging, 0)
    assert staging.finished(TASKS[0]) is None


def test_an_outcome_that_cannot_be_read_is_said_to_be_unknown_and_nothing_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    staging = staging_of(tmp_path)
    for part in range(3):
        write_task(staging, part)
    publish, exists = storage.publish, storage.exists

    def down(url: str, *_: object) -> bool:
        raise UnreadableInputError(url, "its server does not answer")

    def lost(url: str, content: bytes, within: str | None = None) -> bool:
        publish(url, content, within)
        monkeypatch.setattr(storage, "exists", down)
        raise UnwritableOutputError(url, "no answer")

    monkeypatch.setattr(storage, "publish", lost)
    with pytest.raises(UnwritableOutputError, match="whether it was committed is not known: run the job again"):
        finish(staging)
    monkeypatch.setattr(storage, "publish", publish)
    monkeypatch.setattr(storage, "exists", exists)
    assert len(list(Path(staging.url).glob("*.parquet"))) == 3
    write(tmp_path)
    assert_complete(tmp_path)


def test_a_writer_that_was_overtaken_does_not_put_its_version_over_the_newer_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    staging = staging_of(tmp_path)
    write_atomic = storage.write_atomic
    newer: list[Manifest] = []

    def overtaken(url: str, content: bytes, within: str | None = None) -> None:
        if url.endswith(MANIFEST) and not newer:
            (now,) = [json.loads(path.read_text()) for path in (tmp_path / "_manifests").iterdir()]
            newer.append(replace(Manifest.from_json(now), version=2, digests={"plan": "newer"}))
            (tmp_path / "_manifests" / "000002.json").write_text(json.dumps(newer[0].to_json()))
            write_atomic(url, json.dumps(newer[0].to_json()).encode())
        write_atomic(url, content, within)

    monkeypatch.setattr(storage, "write_atomic", overtaken)
    assert finish(staging) == newer[0]
    assert read(str(tmp_path)) == newer[0]


def test_a_writer_that_loses_the_version_leaves_its_files_in_staging(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = staging_of(tmp_path), staging_of(tmp_path, OTHER)
    write_task(two, 0)
    publish = storage.publish

    def raced(url: str, content: bytes, within: str | None = None) -> bool:
        if url.endswith("000001.json"):
            monkeypatch.setattr(storage, "publish", publish)
            finish(one)
        return publish(url, content, within)

    monkeypatch.setattr(storage, "publish", raced)
    with pytest.raises(ConflictError, match="another job has written other data meanwhile"):
        finish(two, OTHER)
    listed = {file.path for file in read(str(tmp_path)).files}
    assert {path for path in paths_below(tmp_path) if path.startswith(("train/", "test/"))} == listed


def test_a_staged_file_that_is_gone_is_made_again_by_a_rerun(tmp_path: Path) -> None:
    staging = staging_of(tmp_path)
    Path(staging.url, write_task(staging, 0)[0].path).unlink()
    with pytest.raises(ChunkError, match="run the job again"):
        finish(staging)
    write(tmp_path)
    assert_complete(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.update(staging=".."),
        lambda c: c.update(staged={"train/0.parquet": "x"}),
        lambda c: c["staged"].update({next(iter(c["staged"])): "../../etc/passwd"}),
    ],
)
def test_a_version_moves_no_files_but_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Any) -> None:
    with monkeypatch.context() as patched:
        crash_at(patched, "move", 1)
        with pytest.raises(Crash):
            finish(staging_of(tmp_path))
    version = tmp_path / "_manifests" / "000001.json"
    content = json.loads(version.read_text())
    change(content)
    version.write_text(json.dumps(content))
    with pytest.raises(ChunkError, match="names staged files that are not in the staging folder"):
        begin(str(tmp_path), REQUEST)


def test_a_set_with_the_digest_of_older_versions_is_read(tmp_path: Path) -> None:
    made = write(tmp_path)
    other = Input("/data/g.root", "00" * 16, "Events", 30, 18, 1.0, 0.5)
    several = replace(made, inputs=(*made.inputs, other))
    swapped = replace(
        several,
        inputs=several.inputs[::-1],
        files=tuple(replace(f, ranges=tuple((1 - i, a, b) for i, a, b in f.ranges)) for f in several.files),
    )
    assert swapped.content_digest == several.content_digest
    content = several.to_json()
    content["content_digest"] = several._digest(range(2))  # noqa: SLF001 - as it was
    assert content["content_digest"] != several.content_digest
    assert Manifest.from_json(content).inputs == several.inputs
