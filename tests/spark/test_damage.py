"""What is wrong with a line of JSON or CSV is told with file, line, entry and the line, and nothing is passed over."""

from __future__ import annotations

import bz2
import gzip
from typing import TYPE_CHECKING

import pytest

from mlaas_spark.errors import UnreadableInputError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mlaas_spark.spark.ingest import Events

BROKEN = [
    (
        "a.json",
        '{"x": 1}\n\n{"x": 2\n{"x": 3}\n',
        (1, 2),
        r"line 3 is no JSON record \(.*column 8\): '{\"x\": 2'; mend it",
    ),
    ("a.json", '{"x": 1}\n{"x":', (1, 2), r"line 2 is no JSON record \(Expecting value, column 6\)"),
    ("a.json", '[\n{"x": 1},\n{"x": 2}\n]\n', (0, 1), r"line 1 is no JSON record .*: '\['; mend it"),
    ("a.json", '{"x": 1}\n5\n', (1, 2), r"line 2 is a number, not a JSON record: '5'; mend it"),
    ("a.json", '{"x": 1}\nnull\n', (1, 2), r"line 2 is null, not a JSON record"),
    ("a.json", '{"x": 1}\n{"x": "\udcff"}\n', (1, 2), r"line 2 is no UTF-8 text"),
    ("a.json", '{"x": 1}{"x": 2}\n{"x": 3}\n', (0, 1), r"line 1 is no JSON record \(Extra data, column 9\)"),
    ("a.json", '{"x": 1}\n{"x": 2} , {"x": 3}\n', (1, 2), r"line 2 is no JSON record \(Extra data, column 10\)"),
    ("a.json", '{"x": NaN},{"x": 2}\n', (0, 1), r"line 1 is no JSON record \(Extra data, column 11\)"),
    ("a.json", '{"x": 1}\r\n{"x": 2} and more\r\n', (1, 2), r"line 2 is no JSON record \(Extra data, column 10\)"),
    ("a.json", '{"x": 1}\n' + '{"x": [' + "1, " * 99, (1, 2), r"line 2 .*: '{\"x\": \[1, 1.*…'; mend it"),
    ("a.csv", "x,y\n1,2\n\n3\n5,6\n", (1, 2), r"line 4 has 1 field for 2 columns: '3'; mend it"),
    ("a.csv", 'x,y\n1,"[2, 3]"\n3,4,5\n', (1, 2), r"line 3 has 3 fields for 2 columns: '3,4,5'; mend it"),
]


@pytest.mark.parametrize(("name", "text", "entries", "says"), BROKEN)
def test_broken_line_is_told_with_file_and_number(
    opened: Callable[..., Events], tmp_path: Path, name: str, text: str, entries: tuple[int, int], says: str
) -> None:
    path = tmp_path / name
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UnreadableInputError, match=says) as caught:
        opened([str(path)])
    assert caught.value.path == str(path)
    assert caught.value.entries == entries
    assert caught.value.exit_code == 3
    assert len(caught.value.why) < 200


@pytest.mark.parametrize(("suffix", "compress"), [("gz", gzip.compress), ("bz2", bz2.compress)])
@pytest.mark.parametrize(("name", "text", "line"), [("a.json", '{"x": 1}\n{"x"\n', 2), ("a.csv", "x,y\n1,2\n3\n", 3)])
def test_broken_line_of_a_compressed_file_is_told_as_well(
    opened: Callable[..., Events],
    tmp_path: Path,
    name: str,
    text: str,
    line: int,
    suffix: str,
    compress: Callable[[bytes], bytes],
) -> None:
    path = tmp_path / f"{name}.{suffix}"
    path.write_bytes(compress(text.encode()))
    with pytest.raises(UnreadableInputError, match=rf"{path}, entries \[1, 2\): line {line} "):
        opened([str(path)])


@pytest.mark.parametrize(
    ("suffix", "good", "bad"), [("json", '{"x": %d}\n', '{"x": \n'), ("csv", "x,y\n%d,1\n", "x,y\n1\n")]
)
def test_broken_file_is_found_among_good_ones(
    opened: Callable[..., Events], tmp_path: Path, suffix: str, good: str, bad: str
) -> None:
    paths = [tmp_path / f"part {number}.{suffix}" for number in range(4)]
    for number, path in enumerate(paths):
        path.write_text(bad if number == 2 else good % number)
    with pytest.raises(UnreadableInputError) as caught:
        opened([str(path) for path in paths])
    assert caught.value.path == str(paths[2])


@pytest.mark.parametrize("suffix", ["json", "csv"])
def test_file_cut_short_is_told_with_the_last_line_there_is(
    opened: Callable[..., Events], tmp_path: Path, suffix: str
) -> None:
    line = '{"x": %d}\n' if suffix == "json" else "%d,1\n"
    head = "" if suffix == "json" else "x,y\n"
    content = gzip.compress((head + "".join(line % (x * x) for x in range(9999))).encode())
    path = tmp_path / f"cut.{suffix}.gz"
    path.write_bytes(content[: len(content) // 5])
    with pytest.raises(UnreadableInputError, match=r"cannot be read after line \d\d+ \(EOFError") as caught:
        opened([str(path)])
    assert caught.value.path == str(path)


def test_lines_that_only_look_like_two_records_are_read(opened: Callable[..., Events], tmp_path: Path) -> None:
    path = tmp_path / "text.json"
    lines = [
        '{"x": 1, "s": "a} b"}',
        '{"x": 2, "s": "{} {}", "o": [{"a": 1} , {"a": 2}]}  ',
        '{"x": NaN, "s": "}, {", "o": [{"a": 1},{"a": 2}]}',
        "",
        '[{"x": 3}, {"x": 4}]',
    ]
    path.write_text("\n".join(lines))
    assert opened([str(path)]).plan.entries == 5
