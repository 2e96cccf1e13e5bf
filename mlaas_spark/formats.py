"""The formats of input files, a line for each. It names modules and imports none; ``readers`` finds them."""

from __future__ import annotations

from enum import StrEnum
from typing import Self


class Format(StrEnum):
    """Formats of input files, each with its name, what file names end with, and the module that reads it.

    Attributes:
        suffixes: Ends of file names, in lower case.
        module: Module of this package whose ``READER`` executors read by; "" for those of Spark's own readers.
    """

    ROOT = "root", (".root",), "root_io"
    PARQUET = "parquet", (".parquet",), "parquet_io"
    ARROW = "arrow", (".arrow", ".feather"), "arrow_io"
    JSON = "json", (".json", ".jsonl", ".ndjson"), ""
    CSV = "csv", (".csv",), ""

    _value_: str
    suffixes: tuple[str, ...]
    module: str

    def __new__(cls, name: str, suffixes: tuple[str, ...] = (), module: str = "") -> Self:
        """A format; without suffixes, the one of that name."""
        made = str.__new__(cls, name)
        made._value_ = name
        made.suffixes = suffixes
        made.module = module
        return made

    @classmethod
    def by_suffix(cls) -> dict[str, Format]:
        """The format of each suffix."""
        return {suffix: kind for kind in cls for suffix in kind.suffixes}
