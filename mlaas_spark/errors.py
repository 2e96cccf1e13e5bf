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
│   └── ConflictError             4   two writers of one data set
├── LockedError                   4   another job is at work
├── ShiftError                    4   new data that are not as those of the training
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
    from collections.abc import Iterable, Mapping

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
    """Base of all named errors; ``exit_code`` is what the command line returns.

    Cause: It is never raised itself; exit code 1 is an error that nobody foresaw.
    Cure: Report it, with what ``mlaas-spark --debug VERB ...`` shows.
    """

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
    """A config key, an option or an expression that cannot be used.

    Cause: A name that is misspelt, a value of a wrong kind or out of range, two settings that exclude each other.
    Cure: The message names the key and the nearest there are; all keys are in conf/local.yaml, all options in --help.
    """

    exit_code = 2


class UnwritableOutputError(ConfigError):
    """An output folder or file that cannot be written: no permission, no space, its server gone.

    Cause: What the file system said, in the message: Permission denied, No space left on device, a server that is gone.
    Cure: Choose another folder (``--out``, ``--set runs=...``), make room or get permission, and run the same again.

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
    """Input files that are missing, empty, or do not fit together.

    Cause: A path or glob that matches nothing, no events at all, a file named twice, files whose branches differ.
    Cure: See what is there by ``mlaas-spark inspect``; ``--schema intersect`` or ``fill`` where branches differ.
    """

    exit_code = 3


class TreeNotFoundError(FilesetError):
    """The tree is not in the file.

    Cause: A misspelt ``--tree``, a file without trees, or several trees and none named.
    Cure: Take one of the trees that the message names: ``--tree NAME``, or ``path.root:NAME``.

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

    Cause: A misspelt name in ``--branches``, ``--selection``, ``--label``, or a file that lacks it.
    Cure: Take one of the nearest that the message names; ``mlaas-spark inspect FILE --headers`` lists them all.

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

    Cause: A transfer that broke off, a disk's error, a suffix that is not the format's, a server that does not answer.
    Cure: Copy the file again or leave it out; ``--format`` where the suffix misleads; ``--timeout``, ``--retries``.

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
    """A file whose content is wrong: what ``input.bad_files: skip`` passes over. Servers, permissions are no damage.

    Cause: Content that is not what its format says: a broken transfer, a disk's error.
    Cure: Copy the file again, or ``--set input.bad_files=skip``, see docs/bad-files.md.
    """

    def __str__(self) -> str:
        return f"{super().__str__()}; mend it or copy it again, or pass over it with --set input.bad_files=skip"


class SkipLimitError(MlaasSparkError):
    """More of the input is damaged than ``input.skip_limit`` lets be skipped.

    Cause: Too many entries or files are damaged.
    Cure: Mend or leave out the files that are named, or raise ``input.skip_limit``.
    """

    exit_code = 3


class SpecsError(MlaasSparkError):
    """Specs or a schema that cannot be made or used.

    Cause: No branch can be a feature, all events fail the selection, or a specs.json is none.
    Cure: See branches and what was left out by ``mlaas-spark inspect``; make the specs again by ``mlaas-spark specs``.
    """

    exit_code = 4


class SpecsMismatchError(SpecsError):
    """Specs, schema or chunks that do not belong together.

    Cause: New files lack a branch of the training or have it as another kind, or specs were made with other branches.
    Cure: Take the specs, run or bundle that belong to the files, or make specs and chunks of these files anew.
    """


class ChunkError(MlaasSparkError):
    """A chunk data set that is missing, incomplete, foreign or in conflict.

    Cause: A folder that holds something else, files that are gone or were changed, or the data of another request.
    Cure: Run the command again, which makes what is missing; choose another folder where another request's data is.
    """

    exit_code = 4


class ConflictError(ChunkError):
    """Another job has written other data to the same data set in the meantime; nothing of either is lost.

    Cause: Another job published other data in the same folder meanwhile.
    Cure: Run the command again, or choose another ``--out``.

    Args:
        version: The version of the manifest that it has published.
    """

    def __init__(self, version: str) -> None:
        super().__init__(version)
        self.version = version

    def __str__(self) -> str:
        return (
            f"another job has written other data meanwhile, see {self.version}: "
            "run this one again, or choose another folder"
        )


class LockedError(MlaasSparkError):
    """Another job holds the lock; nothing was begun.

    Cause: A scheduled job that is still at work, or one on another machine that died less than an hour ago.
    Cure: Wait until it is done; the lock of a dead job is taken over.

    Args:
        folder: Of the lock.
        holder: Who holds it.
    """

    exit_code = 4

    def __init__(self, folder: str, holder: str) -> None:
        super().__init__(folder, holder)
        self.folder = folder
        self.holder = holder

    def __str__(self) -> str:
        return f"{self.holder} is at work here ({self.folder}): wait until it is done; a dead job's lock is taken over"


class ShiftError(MlaasSparkError):
    """New data are not as those that the model in service was trained on.

    Cause: A detector, a simulation or a conversion that has changed; files of another process.
    Cure: Look at the branches that are named; ``retrain --drift warn`` goes on, or leave the files out.

    Args:
        branches: Why to look at each branch.
    """

    exit_code = 4

    def __init__(self, branches: Mapping[str, Iterable[str]]) -> None:
        super().__init__({name: tuple(whys) for name, whys in branches.items()})
        self.branches: dict[str, tuple[str, ...]] = self.args[0]

    def __str__(self) -> str:
        shown = [f"{name} ({', '.join(whys)})" for name, whys in list(self.branches.items())[:_NEAREST]]
        more = f" and {len(self.branches) - _NEAREST} more" if len(self.branches) > _NEAREST else ""
        return (
            f"the new files are not as those of the training: {', '.join(shown)}{more}; look at them, and go on with "
            "--drift warn if they are right"
        )


class ModelContractError(MlaasSparkError):
    """A model file or model that does not keep the contract of ``model(idim)``, or a training that cannot go on.

    Cause: No function ``model``, inputs or outputs of wrong shapes, a loss that is not a number, a worker that is lost.
    Cure: Mend the model file (docs/models.md); after a crash ``--resume`` goes on from the last checkpoint.
    """

    exit_code = 5


class ExportError(MlaasSparkError):
    """A bundle that cannot be written, or does not do what the model does.

    Cause: A layer that has no counterpart, scores of the bundle unlike the model's, a library that is missing.
    Cure: The message names the layer or the library; ``mlaas-spark export RUN`` makes a run's bundles again.
    """

    exit_code = 6


class ServingError(MlaasSparkError):
    """A bundle or server that does not keep the TFaaS contract.

    Cause: A bundle that lacks a part, a model that the server does not have, an answer that is none.
    Cure: ``mlaas-spark serve-check BUNDLE`` for the bundle, ``mlaas-spark models --url URL`` for the server.
    """

    exit_code = 6


class NoAnswerError(ServingError):
    """A server that is not reached, or whose answer does not come.

    Cause: Nothing listens at the URL, TLS is refused, the server panicked, or it is too slow.
    Cure: What the message says; docs/serving.md has a table of messages. ``serve.timeout``, ``serve.retries``.

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
