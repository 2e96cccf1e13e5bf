"""storage: atomic writes and put-if-absent, on local files and on an fsspec filesystem without os."""

from __future__ import annotations

import errno
import os
import re
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from mlaas_spark import storage
from mlaas_spark.errors import UnreadableInputError, UnwritableOutputError


@pytest.fixture(params=["local", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty folder, local or in fsspec's memory filesystem."""
    return str(tmp_path) if request.param == "local" else f"memory://{uuid.uuid4().hex}"


def test_write_atomic_replaces_the_content_and_leaves_nothing_beside_it(folder: str) -> None:
    url = storage.join(folder, "deep", "er", "f.json")
    storage.write_atomic(url, b"one")
    storage.write_atomic(url, b"two")
    assert storage.read_bytes(url) == b"two"
    assert storage.children(storage.join(folder, "deep", "er")) == ["f.json"]


def test_write_that_fails_leaves_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = str(tmp_path / "f.json")
    storage.write_atomic(url, b"old")

    def broken(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(UnwritableOutputError, match=r"cannot write .*f\.json: No space left"):
        storage.write_atomic(url, b"new")
    assert storage.read_bytes(url) == b"old"


def test_publish_refuses_a_taken_name_and_leaves_the_first_content(tmp_path: Path) -> None:
    url = str(tmp_path / "versions" / "000001.json")
    assert storage.publish(url, b"first") is True
    assert storage.publish(url, b"second") is False
    assert storage.read_bytes(url) == b"first"
    assert storage.children(str(tmp_path / "versions")) == ["000001.json"]


def test_of_writers_that_race_exactly_one_publishes(tmp_path: Path) -> None:
    writers = 8
    with ThreadPoolExecutor(writers) as pool:
        for turn in range(20):
            url, barrier = str(tmp_path / f"{turn}.json"), Barrier(writers)

            def write(writer: int, url: str = url, barrier: Barrier = barrier) -> bool:
                barrier.wait()
                return storage.publish(url, b"%d" % writer * 1000)

            won = list(pool.map(write, range(writers)))
            assert won.count(True) == 1
            assert storage.read_bytes(url) == b"%d" % won.index(True) * 1000
    assert len(list(tmp_path.iterdir())) == 20


class _Unsure(MemoryFileSystem):  # type: ignore[misc] # fsspec has no types
    """Refuses to rename onto a name that is taken, as HDFS does, and may lose its answers.

    Attributes:
        lost: ``answers`` to what was done, or ``requests``, which are not done then; "" loses nothing.
    """

    protocol = "unsure"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    lost = ""

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return "/" + path.removeprefix("unsure://").strip("/")

    def mv(self, path1: str, path2: str, **_: Any) -> None:
        if self.lost != "requests":
            if self.exists(path2):
                raise FileExistsError(17, "it exists", path2)
            for path in [path for path in self.store if path == path1 or path.startswith(f"{path1}/")]:
                self.store[path2 + path.removeprefix(path1)] = self.store.pop(path)
            self.pseudo_dirs[:] = [path.replace(path1, path2) for path in self.pseudo_dirs]
        if self.lost:
            raise ConnectionError(103, "its server does not answer", path1)


@pytest.fixture
def unsure(monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder on a server that may lose requests or answers."""
    fsspec.register_implementation("unsure", _Unsure, clobber=True)
    monkeypatch.setattr(_Unsure, "store", {})
    monkeypatch.setattr(_Unsure, "pseudo_dirs", [""])
    return "unsure://a"


def test_put_whose_answer_was_lost_is_done(unsure: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_Unsure, "lost", "answers")
    assert storage.publish(f"{unsure}/f", b"ours") is True
    assert storage.read_bytes(f"{unsure}/f") == b"ours"
    assert storage.children(unsure) == ["f"]


def test_put_on_a_name_that_is_taken_changes_nothing_whatever_is_lost(
    unsure: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.publish(f"{unsure}/f", b"theirs")
    for lost in ("", "answers", "requests"):
        monkeypatch.setattr(_Unsure, "lost", lost)
        assert storage.publish(f"{unsure}/f", b"ours") is False
        assert storage.read_bytes(f"{unsure}/f") == b"theirs"
        assert storage.children(unsure) == ["f"]


def test_put_that_was_not_done_is_an_error_that_removes_nothing(unsure: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_Unsure, "lost", "requests")
    with pytest.raises(UnwritableOutputError, match="cannot write unsure://a/f: its server does not answer"):
        storage.publish(f"{unsure}/f", b"ours")
    (left,) = storage.children(unsure)
    assert storage.read_bytes(f"{unsure}/{left}") == b"ours"
    assert left.startswith(".f.")


@pytest.mark.parametrize("kind", ["local", "elsewhere"])
def test_folder_is_published_whole_and_never_onto_another(kind: str, unsure: str, tmp_path: Path) -> None:
    home = str(tmp_path) if kind == "local" else unsure
    run = f"{home}/run"
    for name, text in (("one", b"1"), ("two", b"2")):
        storage.write_atomic(f"{home}/.{name}/inner/f", text)
    storage.publish_folder(run, f"{home}/.one")
    with pytest.raises(UnwritableOutputError, match=f"cannot write {run}: (Directory not empty|File exists)"):
        storage.publish_folder(run, f"{home}/.two")
    assert storage.read_bytes(f"{run}/inner/f") == b"1"
    assert storage.children(home) == [".two", "run"]


@pytest.mark.parametrize("kind", ["local", "elsewhere"])
def test_a_folder_is_replaced_with_all_that_was_in_it(kind: str, unsure: str, tmp_path: Path) -> None:
    home = str(tmp_path) if kind == "local" else unsure
    for files in ({"a": b"1", "plots/b.png": b"2"}, {"a": b"3", "plots/c.png": b"4"}):
        storage.replace_folder(f"{home}/made", files)
        assert storage.children(home) == ["made"]
        assert storage.children(f"{home}/made/plots") == [next(name for name in files if "/" in name)[6:]]
        assert storage.read_bytes(f"{home}/made/a") == files["a"]


@pytest.mark.parametrize("step", [1, 2])
def test_a_folder_that_cannot_be_replaced_stays_as_it_was(
    step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = str(tmp_path / "made")
    storage.replace_folder(url, {"a": b"old"})
    replace, calls = os.replace, []

    def failing(source: str, target: str) -> None:
        calls.append(target)
        if len(calls) == step:
            raise OSError(errno.ENOSPC, "No space left on device", target)
        replace(source, target)

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(UnwritableOutputError, match="No space left"):
        storage.replace_folder(url, {"a": b"new"})
    assert storage.read_bytes(f"{url}/a") == b"old"
    assert storage.children(str(tmp_path)) == ["made"]


def test_a_folder_whose_files_cannot_all_be_written_stays_as_it_was(tmp_path: Path) -> None:
    url = str(tmp_path / "made")
    storage.replace_folder(url, {"a": b"old"})
    with pytest.raises(UnwritableOutputError):
        storage.replace_folder(url, {"a": b"new", "a/b": b"a is no folder"})
    assert storage.read_bytes(f"{url}/a") == b"old"
    assert storage.children(str(tmp_path)) == ["made"]


def test_copy_of_what_lies_elsewhere_is_what_was_uploaded(tmp_path: Path) -> None:
    (tmp_path / "bundle" / "assets").mkdir(parents=True)
    (tmp_path / "bundle" / "x.bin").write_bytes(bytes(range(256)) * 50)
    url = f"memory://{uuid.uuid4().hex}/bundle"
    storage.upload(tmp_path / "bundle", url)
    with storage.local_copy(url) as copy:
        assert copy.name == "bundle"
        assert {path.name for path in copy.iterdir()} == {"assets", "x.bin"}
        assert (copy / "x.bin").read_bytes() == (tmp_path / "bundle" / "x.bin").read_bytes()
        assert (copy / "assets").is_dir()
    assert not copy.exists()


def test_local_files_are_used_where_they_lie(tmp_path: Path) -> None:
    with storage.local_copy(str(tmp_path)) as copy, storage.local_place(f"file://{tmp_path}") as place:
        assert copy == place == tmp_path


def test_what_is_written_to_a_place_elsewhere_is_uploaded_and_folders_there_stay(unsure: str) -> None:
    for text in ("first", "second"):
        with storage.local_place(unsure) as place:
            (place / "NAME").mkdir()
            (place / "NAME" / "f").write_text(text)
            (place / "NAME.tar").write_text(text)
    assert storage.read_bytes(f"{unsure}/NAME.tar") == b"second"
    assert storage.read_bytes(f"{unsure}/NAME/f") == b"first"
    assert storage.children(unsure) == ["NAME", "NAME.tar"]


def test_what_may_not_be_read_or_written_is_named(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "f")

    fs, _ = storage.filesystem(folder)
    url = storage.join(folder, "f")
    monkeypatch.setattr(type(fs), "cat_file", denied)
    monkeypatch.setattr(type(fs), "makedirs", denied)
    with pytest.raises(UnreadableInputError) as caught:
        storage.read_bytes(url)
    assert str(caught.value) == f"cannot read {url}: Permission denied; ask its owner for access, or name another place"
    with pytest.raises(UnwritableOutputError, match=f"cannot write {re.escape(url)}: Permission denied; ask its owner"):
        storage.make_folder(url)


def test_move_makes_the_folder_and_replaces_the_target(folder: str) -> None:
    source, target = storage.join(folder, "a"), storage.join(folder, "sub", "b")
    storage.write_atomic(target, b"old")
    storage.write_atomic(source, b"new")
    storage.move(source, target)
    assert storage.read_bytes(target) == b"new"
    assert not storage.exists(source)


def test_move_of_a_missing_file_is_file_not_found_and_keeps_the_target(folder: str) -> None:
    target = storage.join(folder, "b")
    storage.write_atomic(target, b"old")
    with pytest.raises(FileNotFoundError):
        storage.move(storage.join(folder, "gone"), target)
    assert storage.read_bytes(target) == b"old"


def test_children_are_names_in_order_and_none_where_there_is_no_folder(folder: str) -> None:
    for name in ("b", "a", "sub/c"):
        storage.write_atomic(storage.join(folder, name), b"x")
    assert storage.children(folder) == ["a", "b", "sub"]
    assert storage.children(folder + "/") == ["a", "b", "sub"]
    assert storage.children(storage.join(folder, "none")) == []


@pytest.mark.parametrize("length", [0, 1, 4, 10, 50])
def test_head_and_tail_are_the_ends_of_the_file(folder: str, length: int) -> None:
    url, content = storage.join(folder, "f"), b"0123456789"
    storage.write_atomic(url, content)
    tail = content[-length:] if length else b""
    assert storage.head_and_tail(url, length) == (10, content[:length], tail)


def test_remove_takes_folders_too_and_minds_nothing_that_is_gone(folder: str) -> None:
    storage.write_atomic(storage.join(folder, "sub", "deep", "f"), b"x")
    storage.write_atomic(storage.join(folder, "g"), b"x")
    storage.remove(storage.join(folder, "sub"))
    storage.remove(storage.join(folder, "sub"))
    assert storage.children(folder) == ["g"]


def test_sizes_are_bytes_and_add_up(folder: str) -> None:
    urls = [storage.join(folder, name) for name in ("a", "b")]
    for url, content in zip(urls, (b"12345", b"123"), strict=True):
        storage.write_atomic(url, content)
    assert [storage.size(url) for url in urls] == [5, 3]
    assert storage.total_size(urls) == 8


def test_expand_gives_what_a_glob_matches_sorted_and_in_the_form_of_the_pattern(folder: str) -> None:
    for name in ("b.root", "a.root", "c.txt", "sub/d.root"):
        storage.write_atomic(storage.join(folder, name), b"x")
    assert storage.expand(f"{folder}/*.root") in (
        [f"{folder}/a.root", f"{folder}/b.root"],
        [f"{folder}/a.root".replace("://", ":///"), f"{folder}/b.root".replace("://", ":///")],
    )
    assert [path.rsplit("/", 1)[1] for path in storage.expand(f"{folder}/**/d.root")] == ["d.root"]
    assert storage.expand(f"{folder}/*.csv") == []


def test_a_file_is_ones_own_if_nobody_else_can_change_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("a: 1")
    path.chmod(0o644)
    assert storage.is_own(str(path))
    path.chmod(0o646)
    assert not storage.is_own(str(path))
    path.chmod(0o600)
    tmp_path.chmod(0o777)
    assert not storage.is_own(str(path))
    tmp_path.chmod(0o700)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert not storage.is_own(str(path))


def test_a_server_that_tells_no_owner_is_not_believed() -> None:
    with fsspec.open("memory://of/config.yaml", "wb") as stream:
        stream.write(b"a: 1")
    assert not storage.is_own("memory://of/config.yaml")


def test_absolute_leaves_urls_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert storage.absolute("a/f.root") == f"{tmp_path}/a/f.root"
    assert storage.absolute("/a/f.root") == "/a/f.root"
    assert storage.absolute("root://host//a/f.root") == "root://host//a/f.root"


@pytest.mark.parametrize(
    ("path", "glob"), [("a*.root", True), ("a?.root", True), ("a[12].root", True), ("root://host//a.root", False)]
)
def test_patterns_are_told_from_names(path: str, *, glob: bool) -> None:
    assert storage.has_glob(path) is glob


def test_join_knows_one_slash_between_parts() -> None:
    assert storage.join("hdfs://host/a/", "b", "c.json") == "hdfs://host/a/b/c.json"
    assert storage.join("/a", "b") == "/a/b"


def test_make_folder_makes_those_above_and_keeps_one_that_is_there(folder: str) -> None:
    url = storage.join(folder, "a", "b")
    storage.make_folder(url)
    storage.write_atomic(storage.join(url, "f"), b"x")
    storage.make_folder(url)
    assert storage.children(url) == ["f"]


def test_streamed_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    url = str(tmp_path / "deep" / "x.bin")

    def half(stream: Any) -> None:
        stream.write(b"half")
        message = "disk full"
        raise OSError(message)

    with pytest.raises(UnwritableOutputError, match=r"cannot write .*x\.bin: OSError: disk full"):
        storage.write_stream(url, half)
    assert not Path(url).exists()
    storage.write_stream(url, lambda stream: stream.write(b"whole"))
    assert Path(url).read_bytes() == b"whole"


def test_mapped_file_is_read_at_random(tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(bytes(range(100)))
    with storage.open_mapped(str(tmp_path / "x.bin")) as file:
        file.seek(40)
        assert file.read(3) == bytes([40, 41, 42])


def test_a_folder_that_another_process_removes_as_it_is_found_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = os.mkdir
    removed: list[Path] = []

    def mkdir(path: Path, mode: int = 0o777) -> None:
        if Path(path) not in removed:  # it was there, and is no longer when it is looked at
            removed.append(Path(path))
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        made(path, mode)

    monkeypatch.setattr(os, "mkdir", mkdir)
    storage.write_atomic(f"{tmp_path}/set/manifest.json", b"{}", f"{tmp_path}/set/staging")
    storage.make_folder(f"{tmp_path}/other")
    assert {tmp_path / "set" / "staging", tmp_path / "other"} <= {*removed}
    assert (tmp_path / "set" / "manifest.json").read_bytes() == b"{}"
    assert (tmp_path / "other").is_dir()


def test_a_file_in_the_place_of_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "set").write_text("")
    with pytest.raises(UnwritableOutputError, match=r"set/manifest\.json"):
        storage.write_atomic(f"{tmp_path}/set/manifest.json", b"{}")
