"""hdfs: URLs as Spark spells them, hdfs_native's failures as Python's errors, a NameNode that starts, forks."""

from __future__ import annotations

import subprocess
import sys
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import fsspec
import pytest

from mlaas_spark import hdfs, storage
from mlaas_spark.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

STACK = (
    "\\n\\tat org.apache.hadoop.hdfs.server.namenode.FSPermissionChecker.check(FSPermissionChecker.java:661)\\n\\tat x"
)
SAFE_MODE = 'RPCError("org.apache.hadoop.hdfs.server.namenode.SafeModeException", "Cannot create /a. Name node is in'
NOT_STARTED = 'RPCError("org.apache.hadoop.ipc.RetriableException", "NameNode still not started")'


def answering(*answers: Any) -> tuple[Callable[..., Any], list[Any]]:
    """A method that returns or raises one answer after the other, and the list of those that are left."""
    left = list(answers)

    def method(*_: Any) -> Any:
        answer = left.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    return method, left


@pytest.mark.parametrize(
    ("raised", "kind", "text"),
    [
        (
            RuntimeError(
                'RPCError("org.apache.hadoop.security.AccessControlException", "Permission denied: user=bob, '
                f'access=READ, inode=\\"/a\\":root:supergroup:----------{STACK}")'
            ),
            PermissionError,
            'Permission denied: user=bob, access=READ, inode="/a":root:supergroup:----------',
        ),
        (
            RuntimeError(
                f'RPCError("org.apache.hadoop.fs.ParentNotDirectoryException", "/a (is no directory){STACK}")'
            ),
            NotADirectoryError,
            "/a (is no directory)",
        ),
        (
            FileNotFoundError("File does not exist: /a\n\tat org.apache.X(X.java:1)"),
            FileNotFoundError,
            "File does not exist: /a",
        ),
        (FileExistsError("/a already exists\n\tat org.apache.X(X.java:1)"), FileExistsError, "/a already exists"),
        (
            OSError("Connection refused (os error 111)"),
            ConnectionError,
            "its server does not answer (Connection refused",
        ),
        (
            RuntimeError('FatalRPCError("org.apache.hadoop.ipc.RpcServerException", "no")'),
            OSError,
            "RpcServerException: no",
        ),
        (RuntimeError('DataTransferError("no data node")'), OSError, 'DataTransferError("no data node")'),
    ],
)
def test_failures_are_pythons_with_path_and_without_javas_stack(
    raised: Exception, kind: type[OSError], text: str
) -> None:
    method, _ = answering(raised)
    with pytest.raises(kind) as caught:
        hdfs.called(method, "", "/a")
    assert type(caught.value) is kind
    assert caught.value.filename == "/a"
    told = str(caught.value.strerror)
    assert told.startswith(text)
    assert "java" not in told


def test_name_node_that_starts_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    method, left = answering(RuntimeError(NOT_STARTED), RuntimeError(SAFE_MODE), "done")
    assert hdfs.called(method, "/a") == "done"
    assert (left, waited) == ([], [1, 2])


def test_name_node_that_stays_in_safe_mode_is_named_at_last(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    method, left = answering(*[RuntimeError(SAFE_MODE)] * 8, "never")
    with pytest.raises(OSError, match="SafeModeException"):
        hdfs.called(method, "/a")
    assert (left, sum(waited)) == (["never"], 60)


CUT = OSError("RPC listener disconnected")


@pytest.mark.parametrize(
    ("name", "args"), [("get_file_info", ("/a",)), ("create", ("/a", SimpleNamespace(overwrite=True)))]
)
def test_name_node_that_went_while_it_was_asked_is_asked_again_for_what_may_be_done_twice(
    monkeypatch: pytest.MonkeyPatch, name: str, args: tuple[Any, ...]
) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)
    method, _ = answering(CUT, "done")
    method.__name__ = name
    assert hdfs.called(method, "/a", *args) == "done"


@pytest.mark.parametrize(
    ("name", "args"),
    [("create", ("/a", SimpleNamespace(overwrite=False))), ("rename", ("/a", "/b")), ("write", (b"",))],
)
def test_what_may_not_be_done_twice_is_not_asked_again(name: str, args: tuple[Any, ...]) -> None:
    method, left = answering(CUT, "done")
    method.__name__ = name
    with pytest.raises(ConnectionError, match="RPC listener disconnected"):
        hdfs.called(method, "/a", *args)
    assert left == ["done"]


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("hdfs://NameNode.cern.ch:9000//store///f?[1].root", "hdfs://namenode.cern.ch:9000/store/f?[1].root"),
        ("HDFS://nn/a", "hdfs://nn/a"),
        ("hdfs://nn", "hdfs://nn/"),
    ],
)
def test_url_has_its_name_node_in_lower_case_and_single_slashes(url: str, expected: str) -> None:
    assert storage.absolute(url) == expected


def core_site(folder: Path, value: str) -> str:
    (folder / "core-site.xml").write_text(
        "<configuration><property><name>other</name><value>hdfs://wrong</value></property>"
        f"<property><name>fs.defaultFS</name><value> {value} </value><final>true</final></property></configuration>"
    )
    return str(folder)


@pytest.mark.parametrize("value", ["hdfs://NN:9000", "hdfs://nn:9000/"])
def test_url_without_a_host_is_in_hadoops_default_file_system(
    value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HADOOP_CONF_DIR", core_site(tmp_path, value))
    assert storage.absolute("hdfs:///data/f.root") == "hdfs://nn:9000/data/f.root"


def test_default_file_system_that_is_no_hdfs_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HADOOP_CONF_DIR", core_site(tmp_path, "file:///"))
    with pytest.raises(ConfigError, match=r"hdfs:///a: the URL names no NameNode, and fs.defaultFS in .* is file:///"):
        storage.absolute("hdfs:///a")


def test_configuration_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HADOOP_CONF_DIR", str(tmp_path))
    with pytest.raises(ConfigError, match=r"hdfs:///a: cannot read .*core-site.xml"):
        storage.absolute("hdfs:///a")
    (tmp_path / "core-site.xml").write_text("<configuration>")
    with pytest.raises(ConfigError, match=r"hdfs:///a: cannot read .*core-site.xml"):
        storage.absolute("hdfs:///a")


def test_question_mark_of_a_glob_belongs_to_the_path() -> None:
    for url, path in {"hdfs://nn:9000//a/f?.root": "/a/f?.root", "hdfs://nn:9000": "/"}.items():
        assert fsspec.core.url_to_fs(url)[1] == path


def test_process_that_has_a_client_can_be_forked() -> None:
    code = (
        "import fsspec, subprocess; from mlaas_spark import storage\n"
        "fsspec.filesystem('hdfs', host='localhost', port=1)\n"
        "subprocess.run(['true'], preexec_fn=lambda: None, check=True)"  # as pyspark starts the JVM
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)  # noqa: S603 - our own code
