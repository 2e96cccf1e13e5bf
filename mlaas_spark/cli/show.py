"""What the terminal is told: lines, tables, JSON on standard output, remarks on standard error.

Names come from files and servers: what would steer the terminal, or look like another line, is spelled out.
"""

from __future__ import annotations

import itertools
import json
import os
import shlex
import shutil
import sys
import traceback
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from mlaas_spark.shown import one_line, visible

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from mlaas_spark.manifest import Manifest
    from mlaas_spark.schema import Omitted
    from mlaas_spark.serving.alias import Alias
    from mlaas_spark.serving.deploy import Proof

LISTED = 20
"""Of very many names, reasons or files so many are shown."""

_LONG_S = 600  # from where on minutes are told
_WIDTH = None if sys.stdout.isatty() else 10_000  # in a pipe or a log a row is a line, however long its paths are
# without markup and emoji: names of the user are shown as they are
_out = Console(width=_WIDTH, soft_wrap=True, highlight=False, markup=False, emoji=False)
_err = Console(stderr=True, soft_wrap=True, highlight=False, markup=False, emoji=False)


def line(text: str = "") -> None:
    """A line of the result."""
    _out.print(one_line(text))


def remark(text: str) -> None:
    """A line beside the result: progress, notes, errors."""
    _err.print(one_line(text))


def trace(error: BaseException) -> None:
    """Where an error came from, for --debug."""
    sys.stderr.write(visible("".join(traceback.format_exception(error))))


@contextmanager
def renewed() -> Iterator[Callable[[str], None] | None]:
    """A line on standard error that is replaced by what the function is given; None where that is no terminal."""
    if not _err.is_terminal or _err.is_dumb_terminal:
        yield None
        return
    with _err.status("", spinner="dots") as status:
        yield status.update


def as_json(value: Any) -> None:
    """The result, machine-readable."""
    sys.stdout.write(json.dumps(value, indent=1) + "\n")


def as_lines(lines: Iterable[str]) -> None:
    """The result, a line at a time as it comes; who reads may have enough of it, as head does."""
    try:
        for text in lines:
            sys.stdout.write(f"{text}\n")
        sys.stdout.flush()
    except BrokenPipeError:  # what Python still holds goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table; whole numbers with commas at the thousands, other values as they are."""
    shown = Table(title=one_line(title), title_justify="left", box=None, padding=(0, 2, 0, 0))
    for column in columns:
        shown.add_column(one_line(column), overflow="fold")
    for row in rows:
        shown.add_row(*map(_cell, row))
    _out.print(shown)


def pairs(rows: Iterable[tuple[str, str]]) -> None:
    """Names and what they are, without a title."""
    told = [(one_line(name), one_line(value)) for name, value in rows]
    wide = max((len(name) for name, _ in told), default=0)
    for name, value in told:  # a terminal wraps a long path, and still copies it whole; a table would cut it
        _out.print(f"{name:{wide}}  {value}")


def _cell(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else one_line(str(value))


def number(value: float | None) -> str:
    """Six digits; - for none."""
    return "-" if value is None or value != value else f"{value:.6g}"  # noqa: PLR0124 - NaN is not itself


def mb(size: int) -> str:
    """Bytes as MB, without the unit."""
    return f"{size / 1e6:,.1f}"


def kb(size: int | None) -> str:
    """Bytes as kB, without the unit; - for none."""
    return "-" if size is None else f"{size / 1e3:,.1f}"


def amount(value: float, unit: str) -> str:
    """A figure with its unit; B and s as what is read best."""
    if unit == "B":
        return f"{value / 1e9:,.2f} GB" if value >= 1e9 else f"{value / 1e6:,.2f} MB"
    if unit == "s":
        return f"{value:,.1f} s" if value < _LONG_S else f"{value / 60:,.1f} min"
    return f"{value:,} {unit}"


def within(paths: Sequence[str]) -> tuple[str, list[str]]:
    """The folder that all paths are in, and the paths from there on."""
    parts = [path.split("/") for path in paths]
    levels = zip(*(path[:-1] for path in parts), strict=False)
    shared = sum(1 for _ in itertools.takewhile(lambda level: len({*level}) == 1, levels))
    return "/".join(parts[0][:shared]), ["/".join(path[shared:]) for path in parts]


def program() -> str:
    """How to call this program from here: its name if the shell finds it, else where it lies."""
    if shutil.which("mlaas-spark"):
        return "mlaas-spark"
    path = Path(sys.executable).parent / "mlaas-spark"
    return shlex.quote(str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path))


def ledger(entries: dict[str, int]) -> None:
    """What came in is what went out, what was not selected, and what was skipped."""
    line(
        f"{entries['entries']:,} entries in = {entries['events']:,} events out + {entries['selection']:,} not selected"
        + skipped(entries)
    )


def skipped(entries: dict[str, int]) -> str:
    """The end of a ledger's line: what is damaged and was left out."""
    known = f" + {entries['skipped']:,} skipped" if "skipped" in entries else ""
    unread = entries.get("unread_files")
    return known + (f"; {unread} files could not be opened, their entries are not known" if unread else "")


def data_set(out: str, manifest: Manifest) -> None:
    """What was written where."""
    size = sum(file.bytes for file in manifest.files)
    line(f"{len(manifest.files)} files, {size / 1e6:.1f} MB in {out}, digest {manifest.content_digest[:12]}")


def manifest_json(out: str, manifest: Manifest) -> None:
    """What was written where, machine-readable; all of it is in the manifest."""
    as_json(
        {
            "out": out,
            "digest": manifest.content_digest,
            "entries": manifest.ledger,
            "files": len(manifest.files),
            "bytes": sum(file.bytes for file in manifest.files),
            "chunks": manifest.chunks,
            "counts": manifest.counts(),
            "omitted": [{"name": item.name, "reason": item.reason} for item in manifest.schema.omitted],
            "drift": {name: dict(zip(drift._fields, drift, strict=True)) for name, drift in manifest.drift.items()},
        }
    )


def folders(out: str, manifest: Manifest) -> None:
    """Folders of a data set that hold its Parquet files."""
    found = sorted({file.path.rpartition("/")[0] for file in manifest.files})
    line(f"to read as plain Parquet: {', '.join(f'{out}/{place}' for place in found)}")


def left_out(omitted: Sequence[Omitted]) -> None:
    """The branches that are not in the output, by reason; of very many the first."""
    from mlaas_spark.filesets import MANIFEST

    by_reason: dict[str, list[str]] = {}
    for item in omitted:
        by_reason.setdefault(item.reason, []).append(item.name)
    rows: list[tuple[object, ...]] = []
    for reason, names in list(by_reason.items())[:LISTED]:
        more = f", ... (all in {MANIFEST})" if len(names) > LISTED else ""
        rows.append((reason, len(names), ", ".join(names[:LISTED]) + more))
    if len(by_reason) > LISTED:
        rest = sum(len(names) for names in list(by_reason.values())[LISTED:])
        rows.append((f"other reasons, see {MANIFEST}", rest, "..."))
    table("Left out", ("why", "branches", "names"), rows)


def proof(found: Proof) -> None:
    """That a server has a bundle and scores as its model does."""
    had = " (it had it already)" if found.found and found.files else ""
    files = f"{found.files} files equal{had}, " if found.files else ""
    line(
        f"{found.name} at {found.url}: {files}{found.events:,} events scored, largest difference {found.difference:.3g}"
    )


def alias(found: Alias) -> None:
    """Which model clients use now."""
    before = f", before it {found.history[0].name}" if found.history else ""
    line(f"alias {found.alias}: {found.current.name} at {found.current.url}{before}")
