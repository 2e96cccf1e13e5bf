"""Bundles for TFaaS: a folder and a tar that the server takes, made, proved and checked again offline.

A bundle of the served name ``NAME`` is a folder ``NAME/`` and beside it ``NAME.tar.gz`` with the same content::

    NAME/saved_model.pb  NAME/fingerprint.pb  NAME/variables/  NAME/assets/   the SavedModel
    NAME/params.json  NAME/labels.txt                                         what the server shows
    NAME/layout.json     columns of the feature matrix, the transform that makes it from events, what is sent
    NAME/check.npz       ``x`` (n, W) as a client sends them and the ``scores`` (n, K) that the model gave them
    NAME/MODEL_CARD.md   for people

A ``raw`` bundle takes events as they are in the file, a ``features`` bundle the normalised vector: docs/bundle.md.
"""

from __future__ import annotations

import io
import json
import shutil
import tempfile
import uuid
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np

from mlaas_spark.errors import ExportError, ServingError, reason
from mlaas_spark.ml import onnx, tfaas
from mlaas_spark.ml.archive import CARD, CHECK, FOLDERS, LAYOUT, MAX_BYTES, unpack, write_tar
from mlaas_spark.ml.card import Facts, Origin, card
from mlaas_spark.ml.digest import content_digest
from mlaas_spark.ml.inputs import InputLayout
from mlaas_spark.ml.model import known_remarks, logger, output_width
from mlaas_spark.ml.savedmodel import (
    of_inputs,
    run_savedmodel,
    takes_events,
    takes_features,
    takes_matrix,
    write_savedmodel,
)
from mlaas_spark.ml.sending import Sending, check_described, described, read, read_layout
from mlaas_spark.ml.stream import ChunkStream
from mlaas_spark.raw import normalised, restored, unscaled, with_missing

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from mlaas_spark.config import ExportConfig
    from mlaas_spark.drift import Ranges
    from mlaas_spark.ml.savedmodel import Graph
    from mlaas_spark.ml.sending import Inputs
    from mlaas_spark.transform import FeatureTransform

KINDS: dict[str, tuple[Inputs, ...]] = {"raw": ("raw",), "features": ("features",), "both": ("raw", "features")}
"""Bundles by the value of ``export.inputs``, the one to be served first."""

_CHECK_EVENTS = 1_000
_TOLERANCE = 1e-6  # of scores up to 1; of larger ones relative to the largest
_NAMED = 5  # branches in a message


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
        inputs: ``raw`` or ``features``.
    """

    name: str
    folder: Path
    archive: Path
    width: int
    outputs: int
    difference: float
    inputs: Inputs = "features"


def write_bundle(
    model: Any,
    stream: ChunkStream,
    export: ExportConfig,
    specs_digest: str,
    destination: str | Path,
    *,
    kind: Inputs = "features",
    origin: Origin | None = None,
    inputs: InputLayout | None = None,
) -> Bundle:
    """One bundle, as :func:`write_bundles`."""
    one = export.model_copy(update={"inputs": kind, "onnx": False})
    return write_bundles(model, stream, one, specs_digest, destination, origin=origin, inputs=inputs)[kind]


def write_bundles(
    model: Any,
    stream: ChunkStream,
    export: ExportConfig,
    specs_digest: str,
    destination: str | Path,
    *,
    origin: Origin | None = None,
    inputs: InputLayout | None = None,
) -> dict[str, Bundle]:
    """Export ``model`` for TFaaS below ``destination`` and prove that what is served scores like the model.

    A served name ends in a digest of all that the bundle is made of, so a name never stands for two contents; a bundle
    that is there already under the name is checked and kept.

    Args:
        model: A Keras model.
        stream: The chunks it was trained on, of which come the events of the check.
        export: Which bundles, their name and labels, and whether model.onnx is written too.
        specs_digest: Of the specs.
        destination: Folder of the bundles.
        origin: Of the model.
        inputs: What the model takes of matrix and mask; None for the matrix alone.

    Returns:
        The bundles by ``raw`` and ``features``, in the order of :data:`KINDS`.

    Raises:
        ExportError: One cannot be written, or what would be served differs from the model; nothing is left then.
        ChunkError: The check events cannot be read.
    """
    if export.onnx:
        onnx.check_installed()
    target = Path(destination)
    work = target / f".{uuid.uuid4().hex}"
    layout = inputs or InputLayout.of(stream.transform)
    source = _Source.of(model, stream, export, specs_digest, origin or Origin(), layout)
    try:
        work.mkdir(parents=True)
        made: dict[str, Bundle] = {kind: source.bundle(kind, target, work) for kind in KINDS[export.inputs]}
        if export.onnx:
            source.onnx(work / onnx.NAME)
        _publish(work, target)
    except ServingError as error:
        msg = f"the exported model does not do what the model does, nothing is kept: {error}"
        raise ExportError(msg) from error
    except OSError as error:
        msg = f"cannot write the bundle below {target}: {reason(error)}"
        raise ExportError(msg) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return made


def _publish(work: Path, target: Path) -> None:
    """Move all that was made to its place, or none of it; a folder is there when its tar is."""
    moved: list[Path] = []
    try:
        for path in sorted(work.iterdir(), key=lambda path: (path.is_dir(), path.name)):
            path.replace(target / path.name)
            moved.append(target / path.name)
    except OSError:
        for path in moved:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        raise


@dataclass(frozen=True, slots=True)
class _Sample:
    """Events of the check as the kernel has them.

    Attributes:
        matrix: Features.
        mask: Theirs.
        values: Values as they are in the file, 0 where the mask is 0.
        exact: Whether these are all digits that the file has; else they come from the features.
    """

    matrix: npt.NDArray[np.float32]
    mask: npt.NDArray[np.uint8]
    values: npt.NDArray[np.float32]
    exact: bool

    @classmethod
    def of(cls, stream: ChunkStream) -> Self:
        """Up to 1,000 events: of the test split if it has any, else of the next that has."""
        matrix, mask = _first_events(stream)
        if stream.manifest.layout == "dense":
            return cls(matrix, mask, restored(matrix, stream.transform), exact=False)
        plain = ChunkStream.open(stream.folder, unscaled(stream.transform), stream.batch_size, stream.threads)
        return cls(matrix, mask, _first_events(plain)[0], exact=True)


def _first_events(stream: ChunkStream) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
    """Matrix and mask of the events of the check."""
    parts = []
    split = next((split for split in ("test", "validation", "train") if stream.events(split)), "test")
    lacking = _CHECK_EVENTS
    for batch in stream.batches(split):
        parts.append((batch.matrix[:lacking].copy(), batch.mask[:lacking].copy()))
        lacking -= len(parts[-1][0])
        if not lacking:
            break
    if not parts:
        msg = f"{stream.folder} has no events to check the export with"
        raise ExportError(msg)
    return np.concatenate([matrix for matrix, _ in parts]), np.concatenate([mask for _, mask in parts])


@dataclass(frozen=True, slots=True)
class _Source:
    """What bundles of one model are made of."""

    model: Any
    stream: ChunkStream
    export: ExportConfig
    specs: str
    origin: Origin
    inputs: InputLayout
    labels: list[str]
    sample: _Sample

    @classmethod
    def of(
        cls,
        model: Any,
        stream: ChunkStream,
        export: ExportConfig,
        specs: str,
        origin: Origin,
        inputs: InputLayout,
    ) -> Self:
        labels = labels_of(export.labels, output_width(model, inputs))
        return cls(model, stream, export, specs, origin, inputs, labels, _Sample.of(stream))

    @property
    def masked(self) -> bool:
        """Whether the model looks at the mask."""
        return self.inputs.kind != "matrix"

    def bundle(self, kind: Inputs, target: Path, work: Path) -> Bundle:
        """Make one bundle in ``work`` for ``target``, where it may be already."""
        transform = self.stream.transform
        sending = Sending.of(kind, transform, self.origin.ranges, self.export.missing, mask=self.masked)
        layout = {
            "columns": transform.columns,
            "transform": transform.to_json(),
            "specs": self.specs,
            **sending.to_json(),
        }
        name = tfaas.served_name(
            self.export.name, content_digest(self.model, [layout, self.labels, self.export.description])
        )
        if (target / name).exists():
            return _present(target / name, target / f"{name}.tar.gz")
        folder = work / name
        folder.mkdir()
        write_savedmodel(self.model, transform.width, folder, self.graph(sending))
        for inner in FOLDERS:
            (folder / inner).mkdir(exist_ok=True)
        x, scores, rounding = self.checks(sending)
        ours = {
            **described(sending, transform, self.labels, self.specs),
            "schema": [[name, self._types[name]] for name in transform.layout.branches],
            "rounding": rounding,
        }
        texts = {
            tfaas.PARAMS: tfaas.Params(name, self.export.description, ours=ours).dumps(),
            tfaas.LABELS: "".join(f"{label}\n" for label in self.labels),
            LAYOUT: json.dumps(layout, indent=1) + "\n",
            CARD: card(self._facts(name, sending, x[0], scores[0])),
        }
        for file, text in texts.items():
            (folder / file).write_text(text, encoding="utf-8")
        np.savez_compressed(folder / CHECK, x=x, scores=scores)
        report = _check_folder(folder)
        archive = f"{name}.tar.gz"
        write_tar(folder, work / archive)
        return Bundle(
            name, target / name, target / archive, transform.width, len(self.labels), report["difference"], kind
        )

    def graph(self, sending: Sending) -> Graph:
        """What is done with that which a client sends."""
        if sending.inputs == "raw":
            return takes_events(of_inputs(self.model, self.inputs), self.stream.transform, sending.missing)
        return _features_graph(self.model, self.inputs, sending)

    def checks(self, sending: Sending) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], float | None]:
        """The events as they are sent, the model's scores, and what rounding to float32 changes in them at most."""
        sample, transform = self.sample, self.stream.transform
        if sending.inputs == "features":
            x = with_missing(sample.matrix, sample.mask, sending.missing) if sending.mask else sample.matrix
            return x, self.predict(sample.matrix, sample.mask), 0.0
        x = with_missing(sample.values, sample.mask, sending.missing)
        features = normalised(x, transform, sending.missing)
        scores = self.predict(features.matrix, features.mask)
        if not sample.exact:
            return x, scores, None
        # a number, as params.json has no other: scores that are no numbers fail the check
        rounding = float(np.nan_to_num(np.abs(scores - self.predict(sample.matrix, sample.mask)).max()))
        if rounding > _TOLERANCE * max(1.0, float(np.abs(scores).max())):
            changed = np.abs(features.matrix - sample.matrix).max(axis=0)
            worst = {name: changed[transform.layout.span(name)].max(initial=0) for name in transform.layout.branches}
            names = sorted((name for name in worst if worst[name] > 0), key=lambda name: -worst[name])[:_NAMED]
            logger.warning(
                "raw bundle: %s have more digits than float32, which is all that the server takes: scores differ by up "
                "to %.2g from those of a features bundle, of predict and of training",
                ", ".join(names),
                rounding,
            )
        return x, scores, rounding

    def predict(self, matrix: npt.NDArray[np.float32], mask: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """The model's own scores."""
        x = self.inputs.arrays(matrix, mask)
        with known_remarks():
            return np.asarray(self.model.predict(x, batch_size=len(matrix), verbose=0), np.float32)

    def onnx(self, path: Path) -> None:
        """Write model.onnx, which takes what a features bundle takes, if it scores like the model."""
        sending = Sending.of("features", self.stream.transform, self.origin.ranges, None, mask=self.masked)
        x, scores, _ = self.checks(sending)
        onnx.write_onnx(self.graph(sending), self.stream.width, path)
        difference = float(np.abs(onnx.run_onnx(path, x) - scores).max())
        if not difference <= _TOLERANCE * max(1.0, float(np.abs(scores).max())):
            msg = f"{path.name} gives other scores than the model, they differ by up to {difference:.3g}: not written"
            raise ExportError(msg)

    @property
    def _types(self) -> dict[str, str]:
        schema, transform = self.stream.manifest.schema, self.stream.transform
        kinds = zip(transform.layout.branches, transform.jagged, strict=True)
        return {
            name: schema[name].describes if name in schema else "list<float32>" if jagged else "float32"
            for name, jagged in kinds
        }

    def _facts(
        self, name: str, sending: Sending, row: npt.NDArray[np.float32], scores: npt.NDArray[np.float32]
    ) -> Facts:
        manifest = self.stream.manifest
        return Facts(
            name=name,
            description=self.export.description,
            inputs=sending.inputs,
            missing=sending.missing,
            mask=sending.mask,
            labels=self.labels,
            transform=self.stream.transform,
            types=self._types,
            events=manifest.counts() if not manifest.targets else {name: {} for name in manifest.events()},
            totals=manifest.events(),
            targets=manifest.targets,
            files=manifest.inputs,
            digests={"specs": self.specs, "config": self.origin.config, "training events": manifest.content_digest},
            origin=self.origin,
            row=row,
            scores=scores,
        )


def serve_check(path: str | Path) -> dict[str, Any]:
    """Check a bundle, a folder or its tar, as the server will use it: without the model, without a server.

    Returns:
        ``name``, ``inputs`` (``raw`` or ``features``), ``width`` (W), ``outputs`` (K), ``labels``, ``events`` that were
        scored, ``difference`` (the largest from the recorded scores).

    Raises:
        ServingError: It does not keep the contract; nothing outside a temporary folder was written.
    """
    source = Path(path)
    if source.is_dir():
        return _check_folder(source)
    with tempfile.TemporaryDirectory(prefix="mlaas_spark_") as temporary:
        return _check_folder(unpack(source, Path(temporary)))


@dataclass(frozen=True, slots=True)
class Contents:
    """What a bundle says of itself, and the files of its SavedModel.

    Attributes:
        name: Served name, one name for one model with its transform.
        transform: Makes the features from events.
        labels: A name for each output.
        files: Content of each file of the SavedModel by its path in the bundle, sorted.
        sending: What a client sends.
    """

    name: str
    transform: FeatureTransform
    labels: tuple[str, ...]
    files: tuple[tuple[str, bytes], ...]
    sending: Sending = field(default_factory=Sending)

    @property
    def takes(self) -> FeatureTransform:
        """Makes of events the matrix that the model takes: the features, or of a raw bundle the values as they are.

        It goes with a mask to :class:`mlaas_spark.ml.predict.SavedModel`, or to :func:`mlaas_spark.raw.with_missing`.
        """
        return unscaled(self.transform) if self.sending.inputs == "raw" else self.transform


def read_bundle(path: str | Path) -> Contents:
    """Read a bundle, a folder or its tar; needs no TensorFlow, and runs nothing of it.

    Raises:
        ServingError: It is none, or not whole.
    """
    source = Path(path)
    if source.is_dir():
        return _contents(source)
    with tempfile.TemporaryDirectory(prefix="mlaas_spark_") as temporary:
        return _contents(unpack(source, Path(temporary)))


def bundle_name(model: Any, folder: Path) -> str:
    """What a bundle would be called had it been made of this model, by what it says of itself beside.

    Raises:
        ServingError: It is not whole.
    """
    found = _opened(folder)
    layout = json.loads(read(folder / LAYOUT))
    digest = content_digest(model, [layout, list(found.labels), found.params.description])
    return tfaas.served_name(found.params.name.rpartition("_")[0], digest)


def contents_of(
    model: Any, transform: FeatureTransform, inputs: InputLayout, name: str, labels: Sequence[str], ranges: Ranges
) -> Contents:
    """A Keras model as prediction takes it, without a bundle: its SavedModel takes the features.

    Args:
        model: The model.
        transform: Makes the features that it was trained on.
        inputs: What it takes of them and their mask.
        name: Its name, to which a digest is put.
        labels: A name for each output, () for numbers.
        ranges: Values of the branches in training.

    Raises:
        ModelContractError: The model does not take the inputs, or does not give (n, K).
        ExportError: Labels that do not fit; TensorFlow cannot write it.
    """
    named = labels_of(labels, output_width(model, inputs))
    sending = Sending.of("features", transform, ranges, None, mask=inputs.kind != "matrix")
    digest = content_digest(model, [transform.to_json(), named, inputs.kind])
    with tempfile.TemporaryDirectory(prefix="mlaas_spark_") as temporary:
        folder = Path(temporary)
        write_savedmodel(model, transform.width, folder, _features_graph(model, inputs, sending))
        files = _savedmodel_files(folder)
    return Contents(tfaas.served_name(name, digest), transform, tuple(named), files, sending)


def _features_graph(model: Any, inputs: InputLayout, sending: Sending) -> Graph:
    scores = of_inputs(model, inputs)
    return takes_features(scores, sending.missing) if sending.mask else takes_matrix(scores)


def _contents(folder: Path) -> Contents:
    found = _opened(folder)
    return Contents(found.params.name, found.transform, found.labels, _savedmodel_files(folder), found.sending)


def _savedmodel_files(folder: Path) -> tuple[tuple[str, bytes], ...]:
    inner = [path for name in FOLDERS if (folder / name).is_dir() for path in sorted((folder / name).iterdir())]
    return tuple((path.relative_to(folder).as_posix(), read(path)) for path in [folder / tfaas.GRAPH, *inner])


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
    return Bundle(
        report["name"],
        target,
        archive,
        report["width"],
        report["outputs"],
        report["difference"],
        report["inputs"],
    )


def labels_of(given: Sequence[str], outputs: int) -> list[str]:
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


class _Opened(NamedTuple):
    """What a bundle says of itself."""

    params: tfaas.Params
    labels: tuple[str, ...]
    transform: FeatureTransform
    sending: Sending


def _opened(folder: Path) -> _Opened:
    """Params, labels and layout of a bundle that has the server's folders; they say the same."""
    for inner in FOLDERS:
        if not (folder / inner).is_dir():
            msg = f"{folder} has no folder {inner}, which the server needs"
            raise ServingError(msg)
    params = tfaas.Params.loads(read(folder / tfaas.PARAMS), str(folder / tfaas.PARAMS))
    if params.name != folder.name:
        msg = f"{folder / tfaas.PARAMS} is of the model {params.name}, the folder is {folder.name}"
        raise ServingError(msg)
    labels = tuple(read(folder / tfaas.LABELS).decode(errors="replace").splitlines())
    layout = read_layout(folder / LAYOUT)
    if params.ours or layout.current:
        check_described(
            params.ours, described(layout.sending, layout.transform, labels, layout.specs), folder / tfaas.PARAMS
        )
    return _Opened(params, labels, layout.transform, layout.sending)


def _check_folder(folder: Path) -> dict[str, Any]:
    """As :func:`serve_check`, for a folder."""
    params, labels, transform, sending = _opened(folder)
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
        "inputs": sending.inputs,
        "width": transform.width,
        "outputs": scores.shape[1],
        "labels": list(labels),
        "events": len(x),
        "difference": difference,
    }


def _recorded(path: Path) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Events and scores of check.npz."""
    content = read(path)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as packed:
            size = sum(entry.file_size for entry in packed.infolist())
        if size > MAX_BYTES:
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
