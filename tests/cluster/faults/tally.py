"""Which faults fired in this run of the tests, by kind."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Row:
    """Faults of one kind.

    Attributes:
        tried: How many were asked for.
        fired: How many took place.
        same: After how many of those the result was the same.
    """

    tried: int = 0
    fired: int = 0
    same: int = 0


_rows: dict[str, Row] = {}


def of(kind: str) -> Row:
    """The row of a kind, which the test counts in."""
    return _rows.setdefault(kind, Row())


def table() -> str:
    """All rows, a line each; "" if there are none."""
    if not _rows:
        return ""
    width = max(map(len, _rows))
    lines = [
        f"{'fault':{width}}  tried  fired  same",
        *(_line(kind, row, width) for kind, row in sorted(_rows.items())),
    ]
    kills = [row for kind, row in _rows.items() if "random" in kind]
    lines.append(f"random kills: {sum(row.fired for row in kills)} fired, {sum(row.same for row in kills)} same")
    return "\n".join(lines) + "\n"


def _line(kind: str, row: Row, width: int) -> str:
    return f"{kind:{width}}  {row.tried:5}  {row.fired:5}  {row.same:4}"
