"""What of the input is skipped because it is damaged: the record of it, how much may be, and how it is told. Pure."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from mlaas_spark.errors import SkipLimitError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

FILE = "skipped.json"
"""Name of the file, in a data set or a run folder, that says what was skipped."""

_TOLD = 5  # lines of a message


@dataclass(frozen=True, slots=True)
class Skipped:
    """Entries [start, stop) of a file that are damaged, or a file that could not be opened.

    Attributes:
        path: The file.
        reason: What is wrong with it.
        tree: Its tree, "" where it has none or it is not known.
        key: What tells the file from others (uuid, tree, copy), "" for one that could not be opened.
        start: First entry.
        stop: One past the last; 0 for a file that could not be opened: how many entries it has is not known.
    """

    path: str
    reason: str
    tree: str = ""
    key: str = ""
    start: int = 0
    stop: int = 0

    @property
    def entries(self) -> int | None:
        """How many entries; None where that is not known."""
        return self.stop - self.start if self.key else None

    def to_json(self) -> dict[str, Any]:
        """As plain values; :meth:`from_json` reads them back."""
        return {**asdict(self), "entries": self.entries}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """The record that :meth:`to_json` wrote."""
        texts = (content["path"], content["reason"], content["tree"], content["key"])
        start, stop = content["start"], content["stop"]
        if not all(isinstance(text, str) for text in texts) or type(start) is not int or type(stop) is not int:
            msg = "a record of what was skipped has another type"
            raise TypeError(msg)
        return cls(*texts, start, stop)

    def __str__(self) -> str:
        tree = f", tree {self.tree}" if self.tree else ""
        entries = f", entries [{self.start}, {self.stop})" if self.key else ", all of it (how many entries: not known)"
        return f"{self.path}{tree}{entries}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Spare:
    """How much may be skipped of what was asked for.

    Attributes:
        limit: Share of the entries, 0 to 1.
        entries: Entries that the files that could be opened have.
        files: How many files that are.
        limits: Spans of entries that were asked for, as :attr:`mlaas_spark.plan.Plan.limits`.
    """

    limit: float
    entries: int
    files: int
    limits: Mapping[str, list[list[int]]]

    def check(self, skipped: Collection[Skipped]) -> None:
        """SkipLimitError where more is skipped than may be.

        A file that could not be opened counts with as many entries as the others have in the mean: what it has is not
        known.
        """
        unread = {item.path for item in skipped if item.entries is None}
        mean = self.entries / self.files if self.files else 0.0
        lost = sum(item.entries or 0 for item in skipped) + mean * len(unread)
        everything = self.entries + mean * len(unread)
        share = lost / everything if everything else 1.0
        if skipped and share > self.limit:
            about = "about " if unread else ""
            msg = (
                f"{about}{share:.2%} of the entries would be skipped, and at most {self.limit:.2%} may be: mend these "
                f"files, leave them out, or raise input.skip_limit; {told(skipped)}"
            )
            raise SkipLimitError(msg)


def ordered(skipped: Iterable[Skipped]) -> tuple[Skipped, ...]:
    """Each once, by file and entry."""
    return tuple(sorted(set(skipped), key=lambda item: (item.path, item.tree, item.start, item.stop, item.reason)))


def joined(skipped: Iterable[Skipped]) -> tuple[Skipped, ...]:
    """As :func:`ordered`, ranges that touch and have one reason as one: a damaged basket spans many ranges."""
    made: list[Skipped] = []
    for item in ordered(skipped):
        last = made[-1] if made else None
        if last and item.key and replace(item, start=last.start, stop=last.stop) == last and item.start <= last.stop:
            made[-1] = replace(last, stop=max(item.stop, last.stop))
        else:
            made.append(item)
    return tuple(made)


def told(skipped: Iterable[Skipped]) -> str:
    """The first few, and how many more there are."""
    items = joined(skipped)
    more = f"; and {len(items) - _TOLD} more" if len(items) > _TOLD else ""
    return "; ".join(map(str, items[:_TOLD])) + more


def summary(skipped: Sequence[Skipped]) -> str:
    """What was skipped, in one line."""
    known = [item for item in skipped if item.entries is not None]
    unread = {item.path for item in skipped if item.entries is None}
    parts = []
    if known:
        entries = sum(item.entries or 0 for item in known)
        ranges = _number(len(joined(known)), "range")
        parts.append(f"{entries:,} entries in {ranges} of {_number(len({item.path for item in known}), 'file')}")
    if unread:
        parts.append(f"{_number(len(unread), 'file')} that could not be opened, whose entries nobody has counted")
    return "skipped: " + " and ".join(parts) if parts else "nothing was skipped"


def _number(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def counts(skipped: Iterable[Skipped]) -> dict[str, int]:
    """For a ledger: entries that were skipped, and files whose entries are not known; without zeros."""
    items = list(skipped)
    entries = sum(item.entries or 0 for item in items)
    unread = len({item.path for item in items if item.entries is None})
    return {**({"skipped": entries} if entries else {}), **({"unread_files": unread} if unread else {})}


def dumps(skipped: Sequence[Skipped]) -> str:
    """The text of a data set's skipped.json."""
    return json.dumps({"files": [item.to_json() for item in skipped], **counts(skipped)}, indent=1)
