"""alias: what clients use, what was before, whole at any time."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from mlaas_spark.errors import ServingError, UnwritableOutputError
from mlaas_spark.serving import alias as aliases
from mlaas_spark.serving.alias import Alias, Entry

if TYPE_CHECKING:
    from pathlib import Path


def entry(number: int, time: str = "2026-01-01T00:00:00+00:00") -> Entry:
    return Entry(f"higgs_{number:012d}", "http://host:8083", f"{number:064d}", time)


def promoted(place: str, number: int) -> Alias:
    return aliases.promote(place, entry(number), aliases.current(place))


def test_the_file_has_the_documented_keys(tmp_path: Path) -> None:
    place = str(tmp_path / "deep" / "higgs.json")
    promoted(place, 1)
    promoted(place, 2)
    assert json.loads((tmp_path / "deep" / "higgs.json").read_text()) == {
        "alias": "higgs",
        "name": "higgs_000000000002",
        "url": "http://host:8083",
        "digest": f"{2:064d}",
        "time": "2026-01-01T00:00:00+00:00",
        "history": [
            {
                "name": "higgs_000000000001",
                "url": "http://host:8083",
                "digest": f"{1:064d}",
                "time": "2026-01-01T00:00:00+00:00",
            }
        ],
    }


def test_rollback_goes_back_step_by_step_and_then_no_further(tmp_path: Path) -> None:
    place = str(tmp_path / "higgs.json")
    for number in (1, 2, 3):
        promoted(place, number)
    for number in (2, 1):
        aliases.put(place, aliases.read(place).rolled_back("2026-02-02"))
        assert aliases.read(place).current == entry(number, "2026-02-02")
    with pytest.raises(ServingError, match="no model before higgs_000000000001"):
        aliases.read(place).rolled_back("2026-02-02")


def test_the_same_model_again_is_no_step(tmp_path: Path) -> None:
    place = str(tmp_path / "higgs.json")
    promoted(place, 1)
    assert aliases.promote(place, entry(1, "later"), aliases.current(place)).history == ()


def test_nothing_but_the_file_is_left(tmp_path: Path) -> None:
    promoted(str(tmp_path / "higgs.json"), 1)
    promoted(str(tmp_path / "higgs.json"), 2)
    assert [path.name for path in tmp_path.iterdir()] == ["higgs.json"]


def test_an_alias_may_lie_on_any_storage() -> None:
    place = "memory://aliases/higgs.json"
    promoted(place, 1)
    assert aliases.read(place).current == entry(1)


def test_a_name_is_a_file_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert aliases.place_of("higgs") == str(tmp_path / "higgs.json")
    assert aliases.place_of("a/b.json") == str(tmp_path / "a" / "b.json")
    assert aliases.name_of("hdfs://host/a/b.json") == "b"


def test_a_missing_alias_says_who_writes_it(tmp_path: Path) -> None:
    assert aliases.current(str(tmp_path / "higgs.json")) is None
    with pytest.raises(ServingError, match=r"no alias file .*higgs\.json.*upload BUNDLE --promote"):
        aliases.read(str(tmp_path / "higgs.json"))


GOOD: dict[str, Any] = json.loads(Alias("a", entry(1), (entry(2),)).dumps())


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        json.dumps(GOOD | {"name": "a/../b"}),
        json.dumps(GOOD | {"url": 3}),
        json.dumps(GOOD | {"history": [{}]}),
    ],
)
def test_a_file_that_is_no_alias_is_left_alone_and_told(content: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(ServingError, match=r"x\.json is no alias file"):
        promoted(str(tmp_path / "x.json"), 1)
    assert (tmp_path / "x.json").read_text() == content


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UnwritableOutputError, match=r"file/higgs\.json"):
        aliases.put(str(tmp_path / "file" / "higgs.json"), Alias("higgs", entry(1)))


def test_time_is_iso_8601() -> None:
    assert aliases.stamp(datetime(2026, 1, 2, 3, 4, 5, 6, UTC)) == "2026-01-02T03:04:05+00:00"
