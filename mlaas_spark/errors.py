"""Every failure a caller can act on, one class each, with its exit code.

MlaasSparkError                   1   (never raised itself; an exit code 1 is a bug of ours)
├── ConfigError                   2   config, options, expressions
│   └── UnwritableOutputError     2   an output folder or file
├── FilesetError                  3   which files
│   ├── TreeNotFoundError         3
│   └── BranchNotFoundError       3
├── UnreadableInputError          3   a file that is there but cannot be read
│   └── DamagedInputError         3   whatever is tried: its content is not what its format says
├── SkipLimitError                3   more of the input is damaged than may be skipped
├── SpecsError                    4   specs, schema
│   └── SpecsMismatchError        4
├── ChunkError                    4   chunk data sets and their manifests
├── ModelContractError            5   the user's model
├── ExportError                   6
└── ServingError                  6   bundles, and servers of them
    └── NoAnswerError             6   a server that is not reached or does not answer

Fields go to ``super().__init__`` by position, so that every error survives the pickle between executor and driver.
"""

from __future__ import annotations

import difflib
import json
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Iterable

_NEAREST = 3
_LONGEST_REASON = 300


def nearest(name: str, available: Iterable[str]) -> list[str]:
    """The names in ``available`` most like ``name``, best first, at most three."""
    by_folded = {candidate.lower(): candidate for candidate in sorted(available, reverse=True)}
    return [by_folded[match] for match in difflib.get_close_matches(name.lower(), by_folded, n=_NEAREST, cutoff=0.5)]


def hint(name: str, available: Iterable[str]) -> str:
    """``; nearest: a, b`` for the names most like ``name``, or the first few there are."""
    known = sorted(available)
    if close := nearest(name, known):
        return f"; nearest: {', '.join(close)}"
    if known:
        more = f" and {len(known) - 5} more" if len(known) > 5 else ""
        return f"; there are: {', '.join(known[:5])}{more}"
    return ""


def reason(error: BaseException) -> str:
    """First line of an error's text, short enough for one message."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    text = text if len(text) <= _LONGEST_REASON else text[: _LONGEST_REASON - 1] + "…"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


class MlaasSparkError(Exception):
    """Base of all named errors; ``exit_code`` is what the command line returns."""

    exit_code: ClassVar[int] = 1


def to_text(error: MlaasSparkError) -> str:
    """An error as JSON, to cross from an executor to the driver inside another error's message."""
    return json.dumps([type(error).__name__, error.args])


def from_text(text: str) -> MlaasSparkError:
    """The error that :func:`to_text` wrote; only the classes of this module can come out."""
    name, args = json.loads(text)
    kinds = {kind.__name__: kind for kind in all_kinds()}
    return kinds[name](*args)


def all_kinds() -> list[type[MlaasSparkError]]:
    """Every error class, the base first."""
    kinds = [MlaasSparkError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    return kinds


class ConfigError(MlaasSparkError):
    """A config key, an option or an expression that cannot be used."""

    exit_code = 2


class UnwritableOutputError(ConfigError):
    """An output folder or file that cannot be written: no permission, no space, its server gone.

    Args:
        path: The folder or file.
        why: What the file system said.
    """

    def __init__(self, path: str, why: str) -> None:
        super().__init__(path, why)
        self.path = path
        self.why = why

    def __str__(self) -> str:
        return f"cannot write {self.path}: {self.why}"


class FilesetError(MlaasSparkError):
    """Input files that are missing, empty, or do not fit together."""

    exit_code = 3


class TreeNotFoundError(FilesetError):
    """The tree is not in the file.

    Args:
        tree: Name that was asked for; "" where none was and the file has several.
        path: The file.
        available: Trees the file has.
    """

    def __init__(self, tree: str, path: str, available: tuple[str, ...] = ()) -> None:
        super().__init__(tree, path, tuple(available))
        self.tree = tree
        self.path = path
        self.available = tuple(available)

    def __str__(self) -> str:
        if not self.available:
            return f"no tree in {self.path}; see: mlaas-spark inspect {self.path}"
        if not self.tree:
            return f"{self.path} has several trees ({', '.join(self.available)}): name one with --tree"
        return f"tree {self.tree!r} not found in {self.path}{hint(self.tree, self.available)}; give it with --tree"


class BranchNotFoundError(FilesetError):
    """A branch (or a glob of branches) matches nothing.

    Args:
        branch: Name that was asked for.
        available: Branches there are.
        where: File, tree and entry range, or the place that lacks it.
    """

    def __init__(self, branch: str, available: Iterable[str] = (), where: str = "the input") -> None:
        super().__init__(branch, tuple(available), where)
        self.branch = branch
        self.available = tuple(self.args[1])
        self.where = where

    def __str__(self) -> str:
        return f"branch {self.branch!r} not found in {self.where}{hint(self.branch, self.available)}"


class UnreadableInputError(MlaasSparkError):
    """A file that exists and cannot be read: not of its format, cut short, damaged.

    Args:
        path: The file.
        why: What the reader said, or what is wrong.
        tree: Tree, if known.
        entries: Entry range [start, stop), if known.
    """

    exit_code = 3

    def __init__(self, path: str, why: str, tree: str | None = None, entries: tuple[int, int] | None = None) -> None:
        entries = (int(entries[0]), int(entries[1])) if entries else None
        super().__init__(path, why, tree, entries)
        self.path = path
        self.why = why
        self.tree = tree
        self.entries = entries

    def __str__(self) -> str:
        tree = f", tree {self.tree}" if self.tree else ""
        entries = f", entries [{self.entries[0]}, {self.entries[1]})" if self.entries else ""
        return f"cannot read {self.path}{tree}{entries}: {self.why}"


class DamagedInputError(UnreadableInputError):
    """A file whose content is wrong: what ``input.bad_files: skip`` passes over. Servers, permissions are no damage."""


class SkipLimitError(MlaasSparkError):
    """More of the input is damaged than ``input.skip_limit`` lets be skipped."""

    exit_code = 3


class SpecsError(MlaasSparkError):
    """Specs or a schema that cannot be made or used."""

    exit_code = 4


class SpecsMismatchError(SpecsError):
    """Specs, schema or chunks that do not belong together."""


class ChunkError(MlaasSparkError):
    """A chunk data set that is missing, incomplete, foreign or in conflict."""

    exit_code = 4


class ModelContractError(MlaasSparkError):
    """A model file or model that does not keep the contract of ``model(idim)``, or a training that cannot go on."""

    exit_code = 5


class ExportError(MlaasSparkError):
    """A bundle that cannot be written, or does not do what the model does."""

    exit_code = 6


class ServingError(MlaasSparkError):
    """A bundle or server that does not keep the TFaaS contract."""

    exit_code = 6


class NoAnswerError(ServingError):
    """A server that is not reached, or whose answer does not come.

    Args:
        url: The server.
        why: What happened, and how to mend it.
        sent: Whether it may have seen the request.
        temporary: Whether another try may end otherwise.
    """

    def __init__(self, url: str, why: str, sent: bool = True, temporary: bool = True) -> None:  # noqa: FBT001, FBT002 - by position through pickle
        super().__init__(url, why, sent, temporary)
        self.url = url
        self.why = why
        self.sent = sent
        self.temporary = temporary

    def __str__(self) -> str:
        return f"no answer from {self.url}: {self.why}"
