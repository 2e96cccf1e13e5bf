"""doctor: what is wrong with a machine is found, and each finding says how to mend it."""

from __future__ import annotations

import json
import os
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mlaas_spark import doctor, storage
from mlaas_spark.cli import main
from mlaas_spark.doctor import Check, Needs
from mlaas_spark.errors import UnwritableOutputError

if TYPE_CHECKING:
    from collections.abc import Sequence

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(("found", "state"), [((3, 11, 9), "ok"), ((3, 12, 0), "fail"), ((3, 10, 1), "fail")])
def test_python_is_the_one_that_the_packages_are_for(found: tuple[int, ...], state: str) -> None:
    assert doctor.python(found).state == state


@pytest.mark.parametrize(
    ("says", "state", "shown"),
    [
        ('openjdk version "17.0.15" 2025-04-15', "ok", "17.0.15"),
        ('openjdk version "21" 2023-09-19', "warn", '"21"'),
        ('openjdk version "11.0.2" 2019-01-15', "fail", "11.0.2"),
        ('java version "1.8.0_202"', "fail", "1.8.0_202"),
        ("Segmentation fault", "fail", "Segmentation fault"),
        (None, "fail", "none"),
    ],
)
def test_java_is_judged_by_what_it_says(says: str | None, state: str, shown: str) -> None:
    check = doctor.java(None, lambda _: says)
    assert (check.state, shown in check.found) == (state, True)
    assert bool(check.mend) == (state != "ok")


def test_java_home_goes_before_the_path() -> None:
    asked: list[Sequence[str]] = []
    check = doctor.java("/opt/java", asked.append)
    assert asked == [["/opt/java/bin/java", "-version"]]
    assert "unset JAVA_HOME" in check.mend


def test_packages_out_of_range_and_missing_ones_are_named_and_extras_are_not_asked_for() -> None:
    there = {"numpy": "2.1.0", "pandas": "2.2.0"}
    wanted = ["numpy<2,>=1.26", "pandas>=2.2", "awkward>=2", 'torch>=1; extra == "torch"']
    found = doctor.packages(wanted, there.get)
    assert [(check.name, check.state, check.found) for check in found] == [
        ("package numpy", "fail", "2.1.0"),
        ("package awkward", "fail", "not installed"),
    ]
    assert "pip install 'numpy<2,>=1.26'" in found[0].mend
    assert doctor.packages(wanted[1:2], there.get)[0].state == "ok"


@pytest.mark.parametrize(("limit", "cores"), [("150000 100000", 1.5), ("max 100000", None), ("odd", None)])
def test_cores_are_those_that_the_control_group_grants(tmp_path: Path, limit: str, cores: float | None) -> None:
    (tmp_path / "cpu.max").write_text(limit)
    allowed = len(os.sched_getaffinity(0))
    assert doctor.available_cores(tmp_path) == (min(cores, allowed) if cores else allowed)


def test_little_memory_and_one_core_are_warned_of() -> None:
    assert [doctor.memory(gb << 30).state for gb in (2, 8)] == ["warn", "ok"]
    assert [doctor.cores(count).state for count in (1, 2)] == ["warn", "ok"]


def test_folder_that_is_not_there_yet_is_judged_by_the_one_it_would_be_made_in(tmp_path: Path) -> None:
    check = doctor.writable(str(tmp_path / "a" / "b"))
    assert check.state in {"ok", "warn"}  # by how much room there is here
    assert f"made in {tmp_path}" in check.found
    assert list(tmp_path.iterdir()) == []


def test_folder_in_place_of_which_is_a_file_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("")
    assert doctor.writable(str(tmp_path / "f" / "runs")).state == "fail"


def test_folder_of_others_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anywhere
    check = doctor.writable(str(tmp_path))
    assert (check.state, check.found) == ("fail", f"you may not write in {tmp_path}")


SITE = "<configuration><property><name>fs.defaultFS</name><value>hdfs://nn:8020</value></property></configuration>"


def test_folder_that_is_tried_is_left_as_it_was(tmp_path: Path) -> None:
    check = doctor.written(str(tmp_path / "a" / "b"))
    assert (check.state, list(tmp_path.iterdir())) == ("ok", [])
    assert f"was written and removed, in {tmp_path}: the folder itself is not there yet" in check.found
    assert "GB free" in check.found


def test_server_that_lets_nobody_write_is_found_out_by_trying(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def is_there(url: str) -> bool:
        asked.append(url)
        return url.endswith("/user")

    monkeypatch.setattr(storage, "is_folder", is_there)

    def refuse(url: str, content: bytes) -> None:
        del content
        raise UnwritableOutputError(url, "Permission denied: user=me, access=WRITE")

    monkeypatch.setattr(storage, "write_atomic", refuse)
    removed: list[str] = []
    monkeypatch.setattr(storage, "remove", removed.append)
    check = doctor.written("hdfs://host:8020/user/me/runs")
    assert asked == [f"hdfs://host:8020/user{rest}" for rest in ("/me/runs", "/me", "")]
    assert check.state == "fail"
    assert "Permission denied" in check.found
    assert "right to write" in check.mend
    assert len(removed) == 1
    monkeypatch.setattr(storage, "write_atomic", lambda *_: None)
    assert doctor.written("hdfs://host:8020/user/me").state == "ok"
    assert [url.rpartition("/")[0] for url in removed] == ["hdfs://host:8020/user"] * 2


def test_a_disk_that_takes_no_file_is_found_out_by_trying(tmp_path: Path) -> None:
    # whoever may write everywhere is refused by a folder of the kernel
    check = doctor.written("/proc/self")
    assert (check.state, "/proc/self" in check.found) == ("fail", True)
    assert doctor.written(str(tmp_path)).state != "fail"


def test_hadoop_settings_tell_the_cluster_or_what_is_wrong_with_them(tmp_path: Path) -> None:
    assert doctor.hadoop(None, needed=False).state == "ok"
    assert doctor.hadoop(None, needed=True).state == "warn"
    assert doctor.hadoop(str(tmp_path), needed=True).state == "fail"
    (tmp_path / "core-site.xml").write_text(SITE)
    assert "hdfs://nn:8020" in doctor.hadoop(str(tmp_path), needed=True).found
    (tmp_path / "core-site.xml").write_text("<configuration>")
    assert doctor.hadoop(str(tmp_path), needed=True).state == "fail"


@pytest.mark.parametrize(
    ("good", "needed", "state"),
    [(True, True, "ok"), (False, True, "warn"), (None, True, "warn"), (False, False, "ok"), (None, False, "ok")],
)
def test_kerberos_ticket_matters_where_a_cluster_is_used(good: bool | None, needed: bool, state: str) -> None:  # noqa: FBT001
    assert doctor.kerberos(good, needed=needed).state == state


@pytest.mark.parametrize(("code", "good"), [(0, True), (1, False)])
def test_klist_is_asked_for_the_ticket(tmp_path: Path, code: int, good: bool) -> None:  # noqa: FBT001
    (tmp_path / "klist").write_text(f"#!/bin/sh\ntest $1 = -s && exit {code}\n")
    (tmp_path / "klist").chmod(0o755)
    assert doctor.ticket({"PATH": str(tmp_path)}) is good
    assert doctor.ticket({"PATH": str(tmp_path / "nothing")}) is None


def test_xrootd_client_is_missed_where_it_is_needed() -> None:
    assert doctor.xrootd(lambda _: "5.6", needed=True).state == "ok"
    assert doctor.xrootd(lambda _: None, needed=False).state == "ok"
    assert "mlaas-spark[xrootd]" in doctor.xrootd(lambda _: None, needed=True).mend


@pytest.mark.parametrize(
    ("left", "state", "says"),
    [
        (timedelta(hours=10), "ok", "good for 10.0 h"),
        (timedelta(minutes=30), "warn", "0.5 h"),
        (-timedelta(hours=1), "fail", "was good until 2025-12-31 23:00"),
        (None, "warn", "openssl cannot read"),
    ],
)
def test_proxy_is_judged_by_how_long_it_is_good(tmp_path: Path, left: timedelta | None, state: str, says: str) -> None:
    proxy = tmp_path / "x509"
    proxy.touch(0o600)
    check = doctor.proxy(proxy, lambda _: NOW + left if left else None, NOW, needed=True)
    assert (check.state, says in check.found) == (state, True)


def test_proxy_that_others_can_read_is_refused_as_its_client_would(tmp_path: Path) -> None:
    proxy = tmp_path / "x509"
    proxy.touch(0o644)
    proxy.chmod(0o644)
    assert doctor.proxy(proxy, lambda _: NOW, NOW, needed=True).mend == f"chmod 600 {proxy}"


def test_end_of_a_certificate_is_read_from_its_file(tmp_path: Path) -> None:
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=u", "-days", "2"]
    files = ["-keyout", str(tmp_path / "key"), "-out", str(tmp_path / "cert")]
    subprocess.run([*command, *files], check=True, capture_output=True)  # noqa: S603
    end = doctor.proxy_end(tmp_path / "cert")
    assert end is not None
    assert abs(end - datetime.now(UTC) - timedelta(days=2)) < timedelta(minutes=5)
    (tmp_path / "no").write_text("no certificate")
    assert doctor.proxy_end(tmp_path / "no") is None


def test_proxy_is_looked_for_where_its_client_looks() -> None:
    assert doctor.proxy_file({"X509_USER_PROXY": "/p"}) == Path("/p")
    assert doctor.proxy_file({}, Path("/named")) == Path("/named")
    assert doctor.proxy_file({}) == Path(f"/tmp/x509up_u{os.getuid()}")  # noqa: S108


def test_needs_follow_from_the_places_and_the_master() -> None:
    assert Needs.of(["data/a.root", "/b"], "local[2]") == Needs()
    assert Needs.of(["root://h//x", "hdfs://h/y"], "yarn") == Needs(hdfs=True, yarn=True, xrootd=True)


def test_verb_ends_with_2_where_something_must_be_mended_and_says_how(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    found = [Check("Python", "ok", "3.11"), Check("Java", "fail", "none", "install it")]
    monkeypatch.setattr(doctor, "checks", lambda *_: found)
    assert main(["doctor"]) == 2
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[:3]] == [
        ["ok", "Python", "3.11"],
        ["fail", "Java", "none"],
        ["->", "install", "it"],
    ]
    assert main(["doctor", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)[1]["mend"] == "install it"
    del found[1]
    assert main(["doctor", "--out", str(tmp_path)]) == 0


def test_server_that_does_not_answer_must_be_mended(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "checks", lambda *_: [])
    assert main(["doctor", "--url", "http://localhost:9"]) == 2
    assert "nobody answers" in capsys.readouterr().out
