"""Alias files: which model clients use now, and which ones before. One owner of the format; whole at any time.

{"alias": "higgs", "name": "higgs_0123456789ab", "url": "https://...", "digest": "...", "time": "...",
 "history": [{"name": ..., "url": ..., "digest": ..., "time": ...}, ...]}     newest first
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Self

from mlaas_spark import storage
from mlaas_spark.errors import ServingError, reason
from mlaas_spark.ml import tfaas

if TYPE_CHECKING:
    from datetime import datetime

SUFFIX = ".json"


@dataclass(frozen=True, slots=True)
class Entry:
    """A model at a server.

    Attributes:
        name: Served name.
        url: The server.
        digest: SHA-256 over the bundle's files.
        time: When it was promoted, ISO 8601.
    """

    name: str
    url: str
    digest: str
    time: str

    @classmethod
    def of(cls, content: Any) -> Self:
        """From plain values; TypeError or KeyError if they are others."""
        values = [content[key] for key in ("name", "url", "digest", "time")]
        if not all(isinstance(value, str) for value in values):
            msg = f"{values} are not all text"
            raise TypeError(msg)
        tfaas.check_name(values[0])
        return cls(*values)


@dataclass(frozen=True, slots=True)
class Alias:
    """An alias file: what is current, and what was before it, newest first."""

    alias: str
    current: Entry
    history: tuple[Entry, ...] = ()

    def promoted(self, entry: Entry) -> Alias:
        """With another model as the current one; the same again changes nothing."""
        if (entry.name, entry.url, entry.digest) == (self.current.name, self.current.url, self.current.digest):
            return self
        return Alias(self.alias, entry, (self.current, *self.history))

    def rolled_back(self, time: str) -> Alias:
        """With the one before as the current one.

        Raises:
            ServingError: There was none before.
        """
        if not self.history:
            msg = f"the alias {self.alias} has no model before {self.current.name}: nothing to go back to"
            raise ServingError(msg)
        before, *rest = self.history
        return Alias(self.alias, Entry(before.name, before.url, before.digest, time), tuple(rest))

    def dumps(self) -> bytes:
        """As JSON; :meth:`loads` reads it back."""
        content = {"alias": self.alias, **asdict(self.current), "history": [asdict(entry) for entry in self.history]}
        return (json.dumps(content, indent=1) + "\n").encode()

    @classmethod
    def loads(cls, content: bytes, source: str) -> Self:
        """The alias of a JSON text.

        Raises:
            ServingError: It is none.
        """
        try:
            told = json.loads(content)
            return cls(str(told["alias"]), Entry.of(told), tuple(Entry.of(entry) for entry in told["history"]))
        except (ValueError, KeyError, TypeError, RecursionError, ServingError) as error:
            msg = f"{source} is no alias file: {reason(error)}; mlaas-spark upload --promote writes them"
            raise ServingError(msg) from error


def place_of(alias: str) -> str:
    """The file of an alias: a path or URL that ends in .json, or a name, whose file is NAME.json."""
    return storage.absolute(alias if alias.endswith(SUFFIX) else f"{alias}{SUFFIX}")


def name_of(place: str) -> str:
    """What an alias is called, from its file."""
    return place.rsplit("/", 1)[-1].removesuffix(SUFFIX)


def read(alias: str) -> Alias:
    """The alias of a file.

    Raises:
        ServingError: No such file, or it is none.
    """
    place = place_of(alias)
    try:
        return Alias.loads(storage.read_bytes(place), place)
    except FileNotFoundError as error:
        msg = f"no alias file {place}: mlaas-spark upload BUNDLE --promote --alias {alias} writes it"
        raise ServingError(msg) from error


def current(alias: str) -> Alias | None:
    """As :func:`read`; None if there is no such file."""
    return read(alias) if storage.exists(place_of(alias)) else None


def promote(alias: str, entry: Entry, before: Alias | None) -> Alias:
    """Let an alias mean another model; its file is whole at any time.

    Args:
        alias: Path, URL or name.
        entry: The model.
        before: What the file says; None if there is none.
    """
    made = before.promoted(entry) if before else Alias(name_of(place_of(alias)), entry)
    put(alias, made)
    return made


def put(alias: str, content: Alias) -> None:
    """Write an alias file."""
    storage.write_atomic(place_of(alias), content.dumps())


def stamp(now: datetime) -> str:
    """Time as alias files have it."""
    return now.isoformat(timespec="seconds")
