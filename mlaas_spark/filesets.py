"""Which files: paths, globs, folders, ``path.root:Tree``, lists of files, labelled groups, coffea's filesets.

Looks up names, opens no data.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from pydantic import BaseModel, TypeAdapter, ValidationError

from mlaas_spark import confidential, storage
from mlaas_spark.errors import FilesetError, nearest, reason
from mlaas_spark.formats import Format

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlaas_spark.config import InputConfig
    from mlaas_spark.xrootd import Patience

MANIFEST = "manifest.json"
"""File in a folder that names the files of a data set of ours; it alone says what is in it."""

_SUFFIXES = Format.by_suffix()
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
        steps: The only entries to read, as [start, stop); () reads all.
        uuid: What its uuid must be, "" if nothing is known of it.
    """

    path: str
    format: Format
    tree: str | None = None
    label: float | None = None
    weight: float = 1.0
    group: str = ""
    steps: tuple[tuple[int, int], ...] = ()
    uuid: str = ""


def fileset(config: InputConfig) -> tuple[InputFile, ...]:
    """The files of a config, in the order named, globs expanded in sorted order.

    Raises:
        FilesetError: Nothing named, a file missing, a glob that matches nothing, a file named twice.
        UnreadableInputError: An XRootD server does not say what is in a folder.
    """
    source = _Source(config.format, config.redirector, config.patience)
    if config.fileset:
        files = _from_fileset(config.fileset, source, config.tree)
    elif config.groups:
        files = [
            replace(file, label=group.label, weight=group.weight, group=group.name or f"group{number}")
            for number, group in enumerate(config.groups)
            for file in _expand(group.files, source, config.tree)
        ]
    else:
        files = _expand(config.files, source, config.tree)
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


def redirected(name: str, redirector: str | None) -> str:
    """A logical name with its redirector before it; a URL or a name of something local as it is.

    Logical are names in ``/store``, and in another top folder that this machine has not, of which nothing is here.
    """
    if redirector is None or not name.startswith("/"):
        return name
    here = storage.expand(name) if storage.has_glob(name) else Path(name).exists()
    if here or (not name.startswith("/store/") and Path(*Path(name).parts[:2]).exists()):
        return name
    return f"{redirector.rstrip('/')}/{name}"


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


@dataclass(frozen=True, slots=True)
class _Source:
    """How all names are taken: a format for all, a server for logical names, patience with servers."""

    kind: Format | None
    redirector: str | None
    patience: Patience


class _Described(BaseModel):
    object_path: str | None = None
    steps: tuple[tuple[int, int], ...] | None = None
    uuid: str | None = None


class _Metadata(BaseModel):
    label: float | None = None
    weight: float = 1.0


class _Dataset(BaseModel):
    files: dict[str, str | _Described | None] | tuple[str, ...]
    metadata: _Metadata | None = None


_COFFEA = TypeAdapter(dict[str, _Dataset | tuple[str, ...]])


def _from_fileset(path: Path, source: _Source, tree: str | None) -> list[InputFile]:
    """The files of a fileset as coffea has them (JSON or YAML), as they are or preprocessed; a group a data set.

    ``{dataset: {files: {path: tree}}}``, ``{dataset: {files: {path: {object_path, steps, uuid}}}}``,
    ``{dataset: {files: [path, ...]}}`` or ``{dataset: [path, ...]}``; ``metadata`` may give ``label`` and ``weight``.
    Source: coffea.dataset_tools.filespec.
    """
    try:
        content = _COFFEA.validate_python(yaml.safe_load(path.read_text(encoding="utf-8")))  # JSON is YAML
    except (OSError, UnicodeDecodeError) as error:
        msg = f"cannot read the fileset {path}: {error.strerror if isinstance(error, OSError) else 'it is no text'}"
        raise FilesetError(msg) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # pydantic's is a ValueError
        why = f"see {error.errors()[0]['loc'][:1]}" if isinstance(error, ValidationError) else reason(error)
        msg = f"{path} is no fileset ({why}): write {{data set: {{files: {{path: tree}}, metadata: {{label: 1}}}}}}"
        raise FilesetError(msg) from error
    files: list[InputFile] = []
    for name, given in content.items():
        data = given if isinstance(given, _Dataset) else _Dataset(files=given)
        about = data.metadata or _Metadata()
        places = data.files if isinstance(data.files, dict) else dict.fromkeys(data.files)
        files += [
            replace(file, label=about.label, weight=about.weight, group=name)
            for place, described in places.items()
            for file in _described(place, described, source, tree)
        ]
    return files


def _described(place: str, about: str | _Described | None, source: _Source, tree: str | None) -> list[InputFile]:
    about = _Described(object_path=about) if isinstance(about, str) else about or _Described()
    uuid = (about.uuid or "").replace("-", "").lower()
    found = _expand((place,), source, about.object_path or tree)
    return [replace(file, steps=about.steps or (), uuid=uuid) for file in found]


def _expand(names: Sequence[str], source: _Source, tree: str | None) -> list[InputFile]:
    files: list[InputFile] = []
    for name in names:
        if name.endswith(".txt"):
            files += _expand(read_list(name), source, tree)
            continue
        confidential.check_url(name)
        pattern, own_tree = split_tree(name)
        for path in _paths(storage.absolute(redirected(pattern, source.redirector)), source):
            files.append(InputFile(path, source.kind or format_of(path), own_tree or tree))
    return files


def _paths(pattern: str, source: _Source) -> Sequence[str]:
    if storage.has_glob(pattern) and not storage.exists(pattern, source.patience):
        matches = storage.expand(pattern, source.patience)
        if not matches:
            msg = f"no file matches {pattern}"
            raise FilesetError(msg)
        return matches
    # a file on a remote server is looked up by the executors that open it
    if "://" not in pattern and not Path(pattern).exists():
        raise _missing(Path(pattern))
    # Spark and HDFS have folders that are named like files: out.parquet
    if _has_suffix(pattern) and not ("://" not in pattern and Path(pattern).is_dir()):
        return [pattern]
    return _in_folder(pattern, source) if storage.is_folder(pattern, source.patience) else [pattern]


def _in_folder(folder: str, source: _Source) -> list[str]:
    """Data files below a folder; of a data set of ours those that its manifest lists."""
    if MANIFEST in storage.children(folder, source.patience):
        return sorted(storage.join(folder, path) for path in _listed(storage.join(folder, MANIFEST), source.patience))
    found = [path for path in storage.below(folder, source.patience) if not _is_hidden(path.removeprefix(folder))]
    chosen = [path for path in found if source.kind is not None or _has_suffix(path)]
    if not chosen:
        kinds = ", ".join(_SUFFIXES)
        msg = f"{folder} is a folder with no data file in it ({kinds}): name its files, for example '{folder}/*'"
        raise FilesetError(msg)
    return chosen


def _listed(manifest: str, patience: Patience) -> list[str]:
    try:
        paths = [str(file["path"]) for file in json.loads(storage.read_bytes(manifest, patience))["files"]]
    except (ValueError, KeyError, TypeError) as error:
        msg = f"{manifest} does not list the files of a data set: make it again with mlaas-spark convert"
        raise FilesetError(msg) from error
    folder = manifest.rpartition("/")[0]
    if odd := [path for path in paths if not _is_below(folder, path)]:
        msg = f"{manifest} does not list the files of a data set: {odd[0]!r} is not below its folder"
        raise FilesetError(msg)
    return paths


def _is_below(folder: str, path: str) -> bool:
    """Whether a path that a manifest lists stays in its folder, also behind symbolic links."""
    named = "://" not in path and not {"", ".", ".."} & set(path.split("/")) and "\0" not in path
    return named and storage.is_inside(folder, path)


def _is_hidden(path: str) -> bool:
    return any(part.startswith((".", "_")) for part in path.split("/"))


def _has_suffix(path: str) -> bool:
    try:
        format_of(path)
    except FilesetError:
        return False
    return True


def _missing(path: Path) -> FilesetError:
    near = nearest(path.name, [other.name for other in path.parent.iterdir()]) if path.parent.is_dir() else []
    return FilesetError(f"no such file: {path}{'; nearest: ' + ', '.join(near) if near else ''}")
