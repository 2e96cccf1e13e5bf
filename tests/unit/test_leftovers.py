"""leftovers: what dead writers left goes, what live ones hold and what a published version needs stays."""

from __future__ import annotations

import json
import os
import socket
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mlaas_spark import leftovers, storage
from mlaas_spark.cli import main
from mlaas_spark.errors import FilesetError
from mlaas_spark.lease import Lease, held
from mlaas_spark.leftovers import complete, find, sweep, told
from mlaas_spark.manifest import DataFile, Manifest, commit, read, request_digest, stage
from mlaas_spark.schema import Branch, EventSchema

if TYPE_CHECKING:
    from mlaas_spark.manifest import Staging

REQUEST = request_digest(["one"])
ELSEWHERE = replace(Lease.mine(0), machine="another boot", host="node7")


def staged(folder: Path, name: str = "a") -> Staging:
    staging = stage(str(folder), request_digest([name]))
    Path(staging.url, "data.parquet").write_text("x" * 10)
    return staging


def leave(staging: Staging, lease: Lease, name: str = "writer-00000000-1-1-00000000.json") -> None:
    Path(staging.url, name).write_text(json.dumps(asdict(lease)))


def committed(folder: Path) -> Manifest:
    """A data set of one file; its commit dies where ``storage`` was told to."""
    staging = staged(folder)
    made = DataFile("data.parquet", 3, 10, ((0, 0, 3),), "d")
    schema = EventSchema.of([Branch("x", "x", "int64", jagged=False)])
    return commit(staging, Manifest("events", REQUEST, schema, (), ()), [(made, "events/one.parquet")])


def test_staging_of_a_writer_that_died_here_is_removed_and_the_empty_folder_with_it(tmp_path: Path) -> None:
    staging = staged(tmp_path / "out")
    leave(staging, replace(Lease.mine(time.time()), pid=99_999_999))
    (item,) = find(str(tmp_path / "out"))
    assert (item.path, item.files, item.stays) == (staging.url, 2, False)
    assert item.why == f"process 99999999 of {Lease.mine(0).user} on {socket.gethostname()} died"
    assert sweep([item]) == [item]
    assert list(tmp_path.iterdir()) == []


def test_staging_of_a_live_writer_stays_and_that_of_a_dead_one_beside_it_goes(tmp_path: Path) -> None:
    alive, dead = staged(tmp_path, "alive"), staged(tmp_path, "dead")
    leave(dead, replace(Lease.mine(time.time()), pid=99_999_999))
    with held(alive.url):
        found = {item.path: item for item in find(str(tmp_path), silent=0)}
        assert {path: item.stays for path, item in found.items()} == {alive.url: True, dead.url: False}
        assert "writes it, last heard of" in found[alive.url].why
        sweep(found.values())
    assert Path(alive.url, "data.parquet").exists()
    assert not Path(dead.url).exists()


def test_one_live_writer_of_several_holds_the_staging(tmp_path: Path) -> None:
    staging = staged(tmp_path)
    leave(staging, replace(Lease.mine(time.time() + 50), pid=99_999_999))
    with held(staging.url):
        assert [item.stays for item in find(str(tmp_path))] == [True]


def test_a_writer_elsewhere_is_dead_when_it_was_silent_for_long(tmp_path: Path) -> None:
    staging = staged(tmp_path)
    leave(staging, replace(ELSEWHERE, renewed=time.time() - 3000))
    assert [item.stays for item in find(str(tmp_path))] == [True]
    assert [item.stays for item in find(str(tmp_path), silent=2900)] == [False]


def test_staging_whose_job_ended_with_an_error_is_said_so(tmp_path: Path) -> None:
    staging = staged(tmp_path)
    with held(staging.url):
        pass
    (item,) = find(str(tmp_path))
    assert not item.stays
    assert item.why.endswith("ended without finishing it")


def test_staging_without_a_lease_goes_by_its_last_change(tmp_path: Path) -> None:
    staging = staged(tmp_path)
    (item,) = find(str(tmp_path))
    assert (item.stays, item.why) == (True, "no writer is known, and it was changed in the last 60 minutes")
    os.utime(Path(staging.url, "data.parquet"), (0, time.time() - 7300))
    (item,) = find(str(tmp_path))
    assert not item.stays
    assert item.age == pytest.approx(7300, abs=60)
    assert "2 hours old" in str(item)


def test_where_the_file_system_does_not_tell_times_staging_without_a_lease_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    staged(tmp_path)
    monkeypatch.setattr(storage, "modified", lambda _: None)
    (item,) = find(str(tmp_path), silent=0)
    assert (item.stays, item.age, item.why) == (True, None, "nothing is known of its writer")
    assert "of unknown age" in str(item)


def test_empty_staging_is_removed(tmp_path: Path) -> None:
    stage(str(tmp_path / "out"), REQUEST)
    (tmp_path / "other" / "_staging").mkdir(parents=True)
    sweep(find(str(tmp_path)))
    assert list(tmp_path.iterdir()) == []


def test_a_finished_data_set_has_nothing_left_over(tmp_path: Path) -> None:
    committed(tmp_path / "out")
    assert find(str(tmp_path)) == []


@pytest.mark.parametrize("dies_in", ["move", "write_atomic"])
def test_what_a_published_version_needs_stays_and_is_completed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dies_in: str
) -> None:
    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(storage, dies_in, dies)
        with pytest.raises(KeyboardInterrupt):
            committed(tmp_path / "out")
    (item,) = find(str(tmp_path), silent=0)
    assert (item.stays, item.why) == (True, "its data set is committed but not yet in place")
    complete(str(tmp_path))
    assert find(str(tmp_path)) == []
    assert read(str(tmp_path / "out")).files[0].path == "events/one.parquet"
    assert (tmp_path / "out" / "events" / "one.parquet").read_text() == "x" * 10
    assert not (tmp_path / "out" / "_staging").exists()


def test_data_sets_below_are_looked_at_and_other_files_left_alone(tmp_path: Path) -> None:
    staging = staged(tmp_path / "chunks" / "abc")
    leave(staging, replace(Lease.mine(time.time()), pid=99_999_999))
    (tmp_path / "thesis.tex").write_text("mine")
    sweep(find(str(tmp_path)))
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == ["chunks", "thesis.tex"]


def test_unfinished_runs_and_temporary_files_of_the_dead_go(tmp_path: Path) -> None:
    mine, gone, elsewhere = (
        tmp_path / f".unfinished-{host}-{pid}-18a"
        for host, pid in (
            (socket.gethostname(), os.getpid()),
            (socket.gethostname(), 99_999_999),
            ("node-7.cern.ch", 5),
        )
    )
    for run in (mine, gone, elsewhere):
        run.mkdir()
        (run / "log").write_text("began")
    part = tmp_path / f".manifest.json.{'0' * 32}.tmp"
    part.write_text("{")
    stays = {item.path: item.stays for item in find(str(tmp_path))}
    assert stays == {str(mine): True, str(gone): False, str(elsewhere): True, str(part): True}
    os.utime(part, (0, 0))
    os.utime(elsewhere / "log", (0, 0))
    sweep(find(str(tmp_path)))
    assert list(tmp_path.iterdir()) == [mine]


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FilesetError, match=r"no folder .*nothing"):
        find(str(tmp_path / "nothing"))


def test_the_command_says_what_it_would_remove_then_removes_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    staging = staged(tmp_path / "out")
    leave(staging, replace(Lease.mine(time.time()), pid=99_999_999))
    assert main(["clean", str(tmp_path / "out"), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"would remove {staging.url} (2 files, ")
    assert "s old): process 99999999 of " in said
    assert main(["clean", str(tmp_path / "out"), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert [item["path"] for item in content["removed"]] == [staging.url]
    assert (content["kept"], content["dry_run"]) == ([], False)
    assert list(tmp_path.iterdir()) == []
    assert main(["clean", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"nothing is left over in {tmp_path}\n"
    assert main(["clean", str(tmp_path / "out")]) == FilesetError.exit_code


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0 s"), (0.4, "0 s"), (119, "119 s"), (120, "2 minutes"), (7200, "2 hours"), (200_000, "2 days")],
)
def test_times_are_told_in_the_unit_that_fits(seconds: float, text: str) -> None:
    assert told(seconds) == text
    assert leftovers.told(seconds) == text
