"""Which files: paths, globs, ``path.root:Tree``, lists of files, labelled groups. Looks up names, opens no data."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mlaas_spark import storage
from mlaas_spark.config import Format
from mlaas_spark.errors import FilesetError, nearest

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mlaas_spark.config import InputConfig

_SUFFIXES = {
    ".root": Format.ROOT,
    ".parquet": Format.PARQUET,
    ".json": Format.JSON,
    ".jsonl": Format.JSON,
    ".ndjson": Format.JSON,
    ".csv": Format.CSV,
}
_COMPRESSIONS = (".gz", ".bz2")


@dataclass(frozen=True, slots=True)
class InputFile:
    """A file as the user named it: found, not yet opened.

    Attributes:
        path: Absolute path or URL.
        format: Format of its content.
        tree: Tree to read, None where the file's only one is meant.
        label: Label of all its events, None where a branch or expression gives it.
        weight: Weight of all its events.
        group: Name of its group, "" without one.
    """

    path: str
    format: Format
    tree: str | None = None
    label: float | None = None
    weight: float = 1.0
    group: str = ""


def fileset(config: InputConfig) -> tuple[InputFile, ...]:
    """The files of a config, in the order named, globs expanded in sorted order.

    Raises:
        FilesetError: Nothing named, a file missing, a glob that matches nothing, a file named twice.
    """
    if config.groups:
        files = [
            replace(file, label=group.label, weight=group.weight, group=group.name or f"group{number}")
            for number, group in enumerate(config.groups)
            for file in _expand(group.files, config.format, config.tree)
        ]
    else:
        files = _expand(config.files, config.format, config.tree)
    if not files:
        msg = "no input files: name them on the command line or under input.files of the config"
        raise FilesetError(msg)
    seen: set[tuple[str, str | None]] = set()
    for file in files:
        place = file.path if "://" in file.path else str(Path(file.path).resolve())
        if (place, file.tree) in seen:
            msg = f"{file.path} is named twice: its events would count twice; name it once"
            raise FilesetError(msg)
        seen.add((place, file.tree))
    formats = sorted({file.format.value for file in files})
    if len(formats) > 1:
        msg = (
            f"input files of several formats ({', '.join(formats)}): convert them to one first, see mlaas-spark convert"
        )
        raise FilesetError(msg)
    return tuple(files)


def split_tree(name: str) -> tuple[str, str | None]:
    """``path.root:Tree`` as (path, tree); the tree is None where none is named.

    >>> split_tree("root://host:1094//data/f.root:Events")
    ('root://host:1094//data/f.root', 'Events')
    """
    path, colon, tree = name.rpartition(":")
    if colon and path.lower().endswith(".root") and tree and not tree.startswith("//"):
        return path, tree
    return name, None


def read_list(path: str | Path) -> list[str]:
    """Lines of a text file (files.txt, labels.txt) without blanks and ``#`` comments.

    Raises:
        FilesetError: The file cannot be read as text, or has no lines.
    """
    try:
        lines = [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        msg = f"cannot read the list {path}: {error.strerror if isinstance(error, OSError) else 'it is not UTF-8 text'}"
        raise FilesetError(msg) from error
    entries = [line for line in lines if line and not line.startswith("#")]
    if not entries:
        msg = f"the list {path} names nothing"
        raise FilesetError(msg)
    return entries


def format_of(path: str) -> Format:
    """Format by the file's name.

    Raises:
        FilesetError: The name says nothing.
    """
    name = path.lower()
    for compression in _COMPRESSIONS:
        name = name.removesuffix(compression)
    suffix = Path(name).suffix
    if suffix not in _SUFFIXES:
        msg = f"cannot tell the format of {path} from its name: give --format {'|'.join(Format)}"
        raise FilesetError(msg)
    return _SUFFIXES[suffix]


def _expand(names: Sequence[str], kind: Format | None, tree: str | None) -> list[InputFile]:
    files: list[InputFile] = []
    for name in names:
        if name.endswith(".txt"):
            files += _expand(read_list(name), kind, tree)
            continue
        pattern, own_tree = split_tree(name)
        for path in _paths(storage.absolute(pattern)):
            files.append(InputFile(path, kind or format_of(path), own_tree or tree))
    return files


def _paths(pattern: str) -> Iterable[str]:
    if storage.has_glob(pattern) and not storage.exists(pattern):
        matches = storage.expand(pattern)
        if not matches:
            msg = f"no file matches {pattern}"
            raise FilesetError(msg)
        return matches
    # a file on a remote server is looked up by the executors that open it
    if "://" not in pattern:
        _check_local(Path(pattern))
    return [pattern]


def _check_local(path: Path) -> None:
    if path.is_dir():
        msg = f"{path} is a folder: name its files, for example '{path}/*.root'"
        raise FilesetError(msg)
    if not path.exists():
        near = nearest(path.name, [other.name for other in path.parent.iterdir()]) if path.parent.is_dir() else []
        msg = f"no such file: {path}{'; nearest: ' + ', '.join(near) if near else ''}"
        raise FilesetError(msg)
