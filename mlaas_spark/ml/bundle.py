"""Bundles for TFaaS: a folder and a tar that the server takes, made, proved and checked again offline.

A bundle of the served name ``NAME`` is a folder ``NAME/`` and beside it ``NAME.tar.gz`` with the same content::

    NAME/saved_model.pb  NAME/fingerprint.pb  NAME/variables/  NAME/assets/   the SavedModel
    NAME/params.json  NAME/labels.txt                                         what the server shows
    NAME/layout.json     columns of the feature matrix, and the transform that makes it from events
    NAME/check.npz       events ``x`` (n, W) and the ``scores`` (n, K) that the model gave them
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
import shutil
import tarfile
import tempfile
import uuid
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from mlaas_spark.errors import ExportError, ServingError, reason
from mlaas_spark.ml import tfaas
from mlaas_spark.ml.inputs import InputLayout
from mlaas_spark.ml.model import known_remarks, output_width
from mlaas_spark.ml.savedmodel import run_savedmodel, write_savedmodel
from mlaas_spark.transform import FeatureTransform

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt

    from mlaas_spark.config import ExportConfig
    from mlaas_spark.ml.stream import ChunkStream

LAYOUT = "layout.json"
CHECK = "check.npz"

_CHECK_EVENTS = 1_000
_TOLERANCE = 1e-6  # of scores up to 1; of larger ones relative to the largest
_MAX_MEMBERS = 1_000
_MAX_BYTES = 8 * 2**30
_FILES = frozenset({tfaas.GRAPH, "fingerprint.pb", tfaas.PARAMS, tfaas.LABELS, LAYOUT, CHECK})
_FOLDERS = (tfaas.ASSETS, tfaas.VARIABLES)
_INNER_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle on disk.

    Attributes:
        name: Served name.
        folder: Its files.
        archive: The same as a tar, to be uploaded.
        width: W.
        outputs: K.
        difference: Largest difference between the served scores and the model's on the check events.
    """

    name: str
    folder: Path
    archive: Path
    width: int
    outputs: int
    difference: float


def write_bundle(
    model: Any, stream: ChunkStream, export: ExportConfig, specs_digest: str, destination: str | Path
) -> Bundle:
    """Export ``model`` for TFaaS below ``destination`` and prove that what is served scores like the model.

    The served name ends in a digest of all that the bundle is made of, so a name never stands for two contents; a
    bundle that is there already under the name is checked and returned.

    Raises:
        ExportError: It cannot be written, or what would be served differs from the model; nothing is left then.
        ChunkError: The check events cannot be read.
    """
    width = stream.width
    outputs = output_width(model, InputLayout.of(stream.transform))
    labels = _labels(export.labels, outputs)
    layout = {"columns": stream.transform.columns, "transform": stream.transform.to_json(), "specs": specs_digest}
    digest = _digest(model, [layout, labels, export.description])
    name = tfaas.served_name(export.name, digest)
    target, archive = Path(destination) / name, Path(destination) / f"{name}.tar.gz"
    work = Path(destination) / f".{name}.{uuid.uuid4().hex}"
    if target.exists():
        return _present(target, archive)
    try:
        folder = work / name
        folder.mkdir(parents=True)
        write_savedmodel(model, width, folder)
        for inner in _FOLDERS:
            (folder / inner).mkdir(exist_ok=True)
        x = _check_events(stream)
        with known_remarks():
            scores = np.asarray(model.predict(x, batch_size=len(x), verbose=0), np.float32)
        (folder / tfaas.PARAMS).write_text(tfaas.Params(name, export.description).dumps(), encoding="utf-8")
        (folder / tfaas.LABELS).write_text("".join(f"{label}\n" for label in labels), encoding="utf-8")
        (folder / LAYOUT).write_text(json.dumps(layout, indent=1) + "\n", encoding="utf-8")
        np.savez_compressed(folder / CHECK, x=x, scores=scores)
        report = _check_folder(folder)
        _write_tar(folder, work / archive.name)
        (work / archive.name).replace(archive)
        folder.rename(target)
    except ServingError as error:
        msg = f"the exported model does not do what the model does, nothing is kept: {error}"
        raise ExportError(msg) from error
    except OSError as error:
        msg = f"cannot write the bundle {target}: {reason(error)}"
        raise ExportError(msg) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return Bundle(name, target, archive, width, outputs, report["difference"])


def serve_check(path: str | Path) -> dict[str, Any]:
    """Check a bundle, a folder or its tar, as the server will use it: without the model, without a server.

    Returns:
        ``name``, ``width`` (W), ``outputs`` (K), ``labels``, ``events`` that were scored, ``difference`` (the largest
        from the recorded scores).

    Raises:
        ServingError: It does not keep the contract; nothing outside a temporary folder was written.
    """
    source = Path(path)
    if source.is_dir():
        return _check_folder(source)
    with tempfile.TemporaryDirectory(prefix="mlaas_spark_") as temporary:
        return _check_folder(_unpack(source, Path(temporary)))


@dataclass(frozen=True, slots=True)
class Contents:
    """What a bundle says of itself, and the files of its SavedModel.

    Attributes:
        name: Served name, one name for one model with its transform.
        transform: Makes the features from events.
        labels: A name for each output.
        files: Content of each file of the SavedModel by its path in the bundle, sorted.
    """

    name: str
    transform: FeatureTransform
    labels: tuple[str, ...]
    files: tuple[tuple[str, bytes], ...]


def read_bundle(path: str | Path) -> Contents:
    """Read a bundle, a folder or its tar; needs no TensorFlow, and runs nothing of it.

    Raises:
        ServingError: It is none, or not whole.
    """
    source = Path(path)
    if source.is_dir():
        return _contents(source)
    with tempfile.TemporaryDirectory(prefix="mlaas_spark_") as temporary:
        return _contents(_unpack(source, Path(temporary)))


def _contents(folder: Path) -> Contents:
    params, labels, transform = _described(folder)
    paths = [folder / tfaas.GRAPH, *(path for inner in _FOLDERS for path in sorted((folder / inner).iterdir()))]
    files = tuple((path.relative_to(folder).as_posix(), _read(path)) for path in paths)
    return Contents(params.name, transform, labels, files)


def _present(target: Path, archive: Path) -> Bundle:
    """The bundle that an earlier export left, if it is whole."""
    try:
        report, of_archive = serve_check(target), serve_check(archive)
    except ServingError as error:
        msg = f"an earlier export of this model is damaged, remove {target} and {archive.name}: {error}"
        raise ExportError(msg) from error
    if of_archive != report:
        msg = f"{target} and {archive.name} of an earlier export differ: remove both"
        raise ExportError(msg)
    return Bundle(report["name"], target, archive, report["width"], report["outputs"], report["difference"])


def _labels(given: Sequence[str], outputs: int) -> list[str]:
    """A name for each output; of two given for one output the second, whose probability it is."""
    if not given:
        return ["1"] if outputs == 1 else [str(number) for number in range(outputs)]
    labels = list(given[1:] if outputs == 1 and len(given) == 2 else given)
    if len(labels) != outputs:
        msg = f"export.labels has {len(given)} labels ({', '.join(given)}), the model has {outputs} outputs"
        raise ExportError(msg)
    if bad := [label for label in labels if not label.strip() or label.splitlines() != [label]]:
        msg = f"export.labels: {bad[0]!r} is not one line of text"
        raise ExportError(msg)
    return labels


def _check_events(stream: ChunkStream) -> npt.NDArray[np.float32]:
    """Up to 1,000 events: of the test split if it has any, else of the next that has."""
    parts: list[npt.NDArray[np.float32]] = []
    split = next((split for split in ("test", "validation", "train") if stream.events(split)), "test")
    missing = _CHECK_EVENTS
    for batch in stream.batches(split):
        parts.append(batch.matrix[:missing].copy())
        missing -= len(parts[-1])
        if not missing:
            break
    if not parts:
        msg = f"{stream.folder} has no events to check the export with"
        raise ExportError(msg)
    return np.concatenate(parts)


def _digest(model: Any, content: list[Any]) -> str:
    """SHA-256 over architecture and weights of the model, and over the plain values of ``content``."""
    digest = hashlib.sha256(json.dumps([_architecture(model), content], sort_keys=True).encode())
    for weight in model.get_weights():
        digest.update(f"{weight.dtype}{weight.shape}".encode())
        digest.update(np.ascontiguousarray(weight).tobytes())
    return digest.hexdigest()


def _architecture(model: Any) -> Any:
    """The model's config without what does not change its scores: how it is compiled, automatic names."""
    try:
        config = json.loads(model.to_json())
    except (NotImplementedError, TypeError, ValueError, RuntimeError):
        return type(model).__name__  # a subclassed model without a config: its weights must do
    names = dict.fromkeys(_layer_names(config))
    return _neutral(config, {name: f"layer_{index}" for index, name in enumerate(names)})


def _layer_names(config: Any) -> Iterator[str]:
    """Names of the layers in a model's config, in its order."""
    if isinstance(config, dict):
        inner = config.get("config")
        if isinstance(inner, dict) and isinstance(inner.get("name"), str) and config.get("class_name") != "DTypePolicy":
            yield inner["name"]
    values = config.values() if isinstance(config, dict) else config if isinstance(config, list) else ()
    for value in values:
        yield from _layer_names(value)


def _neutral(config: Any, names: dict[str, str]) -> Any:
    if isinstance(config, dict):
        dropped = {"compile_config", "build_config"}
        return {key: _neutral(value, names) for key, value in config.items() if key not in dropped}
    if isinstance(config, list):
        return [_neutral(value, names) for value in config]
    return names.get(config, config) if isinstance(config, str) else config


def _write_tar(folder: Path, target: Path) -> None:
    """A gzipped tar of ``folder`` under its name: folders before their files, sorted, without owners or times."""
    with (
        target.open("wb") as stream,
        gzip.GzipFile(filename="", mode="wb", fileobj=stream, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as archive,
    ):
        for path in [folder, *sorted(folder.rglob("*"), key=lambda path: path.relative_to(folder).parts)]:
            member = tarfile.TarInfo(PurePosixPath(path.relative_to(folder.parent)).as_posix())
            if path.is_dir():
                member.type, member.mode = tarfile.DIRTYPE, 0o755
                archive.addfile(member)
                continue
            member.size, member.mode = path.stat().st_size, 0o644
            with path.open("rb") as content:
                archive.addfile(member, content)


def _unpack(source: Path, target: Path) -> Path:
    """The bundle's files out of a tar, each looked at before it is written; nothing else of the tar is."""
    try:
        with tarfile.open(source, "r:gz") as archive:
            for member, inner in _members(archive, source):
                place = target.joinpath(*inner.parts)
                if member.isdir():
                    place.mkdir(exist_ok=True)
                    continue
                content = archive.extractfile(member)
                if content is None or not place.parent.is_dir():
                    msg = f"{source}: the folder of {member.name} does not come before it, the server would fail"
                    raise ServingError(msg)
                with content, place.open("xb") as stream:
                    shutil.copyfileobj(content, stream)
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        msg = f"cannot read the bundle {source}: {reason(error)}"
        raise ServingError(msg) from error
    folders = [path for path in target.iterdir() if path.is_dir()]
    if len(folders) != 1:
        msg = f"{source} holds no model"
        raise ServingError(msg)
    return folders[0]


def _members(archive: tarfile.TarFile, source: Path) -> Iterator[tuple[tarfile.TarInfo, PurePosixPath]]:
    """The members of a bundle's tar, refused at the first that a bundle does not have."""
    seen: set[PurePosixPath] = set()
    size = 0
    for member in archive:
        inner = PurePosixPath(member.name)
        size += member.size
        if not (member.isreg() or member.isdir()):
            why = "is neither a file nor a folder"
        elif member.issparse():
            why = "is a sparse file"
        elif inner in seen:
            why = "comes twice"
        elif not _belongs(inner, folder=member.isdir()):
            why = "is no part of a bundle"
        elif seen and inner.parts[0] != next(iter(seen)).parts[0]:
            why = "is of another model"
        elif len(seen) >= _MAX_MEMBERS or size > _MAX_BYTES:
            why = "makes it too large"
        else:
            seen.add(inner)
            yield member, inner
            continue
        msg = f"{source} is not safe to read: {member.name!r} {why}"
        raise ServingError(msg)


def _belongs(inner: PurePosixPath, *, folder: bool) -> bool:
    """Whether a bundle has this member: NAME/, NAME/file, NAME/assets|variables/, NAME/assets|variables/file."""
    name, *rest = inner.parts or ("",)
    if not re.fullmatch(r"[a-zA-Z0-9_]+", name):
        return False
    if folder:
        return not rest or (len(rest) == 1 and rest[0] in _FOLDERS)
    if len(rest) == 1:
        return rest[0] in _FILES
    return len(rest) == 2 and rest[0] in _FOLDERS and bool(_INNER_NAME.fullmatch(rest[1]))


def _described(folder: Path) -> tuple[tfaas.Params, tuple[str, ...], FeatureTransform]:
    """Params, labels and transform of a bundle that has the server's folders."""
    for inner in _FOLDERS:
        if not (folder / inner).is_dir():
            msg = f"{folder} has no folder {inner}, which the server needs"
            raise ServingError(msg)
    params = tfaas.Params.loads(_read(folder / tfaas.PARAMS), str(folder / tfaas.PARAMS))
    if params.name != folder.name:
        msg = f"{folder / tfaas.PARAMS} is of the model {params.name}, the folder is {folder.name}"
        raise ServingError(msg)
    labels = _read(folder / tfaas.LABELS).decode(errors="replace").splitlines()
    return params, tuple(labels), _layout(folder / LAYOUT)


def _check_folder(folder: Path) -> dict[str, Any]:
    """As :func:`serve_check`, for a folder."""
    params, labels, transform = _described(folder)
    x, scores = _recorded(folder / CHECK)
    if x.shape[1] != transform.width:
        msg = f"{folder}: {CHECK} has {x.shape[1]} columns, {LAYOUT} {transform.width}: they do not belong together"
        raise ServingError(msg)
    if len(labels) != scores.shape[1]:
        msg = f"{folder}: {tfaas.LABELS} names {len(labels)} outputs, the model has {scores.shape[1]}"
        raise ServingError(msg)
    served = run_savedmodel(folder, x)
    if served.shape != scores.shape:
        msg = f"{folder} gives scores of shape {served.shape}, recorded were {scores.shape}"
        raise ServingError(msg)
    difference = float(np.abs(served - scores).max())
    if not difference <= _TOLERANCE * max(1.0, float(np.abs(scores).max())):  # also where it is NaN
        msg = f"{folder} gives other scores than the model did: they differ by up to {difference:.3g}"
        raise ServingError(msg)
    return {
        "name": params.name,
        "width": transform.width,
        "outputs": scores.shape[1],
        "labels": list(labels),
        "events": len(x),
        "difference": difference,
    }


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        msg = f"cannot read {path}: {error.strerror or error}"
        raise ServingError(msg) from error


def _layout(path: Path) -> FeatureTransform:
    """Transform of layout.json, whose column names are its own."""
    try:
        content = json.loads(_read(path))
        transform = FeatureTransform.from_json(content["transform"])
        columns = [str(name) for name in content["columns"]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        msg = f"{path} does not describe a feature layout: {reason(error)}"
        raise ServingError(msg) from error
    if columns != transform.columns:
        msg = f"{path}: the columns are not those of its transform"
        raise ServingError(msg)
    return transform


def _recorded(path: Path) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Events and scores of check.npz."""
    content = _read(path)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as packed:
            size = sum(entry.file_size for entry in packed.infolist())
        if size > _MAX_BYTES:
            msg = f"{path} unpacks to {size} bytes: not read"
            raise ServingError(msg)
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            x, scores = arrays["x"], arrays["scores"]
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        msg = f"{path} holds no check events: {reason(error)}"
        raise ServingError(msg) from error
    if not all(a.dtype == np.float32 and a.ndim == 2 and a.size for a in (x, scores)) or len(x) != len(scores):
        msg = f"{path} holds no check events: x is {x.dtype} {x.shape}, scores {scores.dtype} {scores.shape}"
        raise ServingError(msg)
    return x, scores
