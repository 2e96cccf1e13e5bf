"""A bundle's way to a server: uploaded once, read back, proved by its check events, or deleted again.

A served name stands for one content for ever, for a server keeps the model that it once loaded. The bundle has been
checked offline (``ml.bundle.serve_check``) before it comes here.
"""

from __future__ import annotations

import hashlib
import io
import logging
import re
import tarfile
import zipfile
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mlaas_spark.errors import MlaasSparkError, NoAnswerError, ServingError, reason
from mlaas_spark.ml import tfaas
from mlaas_spark.ml.archive import CHECK, LAYOUT
from mlaas_spark.serving.served import Served

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy.typing as npt

    from mlaas_spark.serving.client import Client

_log = logging.getLogger(__name__)

CHECK_EVENTS = 1_000
TOLERANCE = 1e-6
"""Of scores up to 1; of larger ones relative to the largest. As for ``ml.bundle``."""

_IMMUTABLE = re.compile(r"[a-zA-Z0-9_]+_[0-9a-f]{12}")
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Archive:
    """A bundle's tar, and what is in it.

    Attributes:
        content: The tar as it is sent.
        name: Served name.
        files: SHA-256 of each file, by its path below the name.
        served: As a server would describe it.
        x: Check events (n, W).
        scores: The model's own scores of them (n, K).
    """

    content: bytes
    name: str
    files: Mapping[str, str]
    served: Served
    x: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]

    @classmethod
    def read(cls, tar: Path) -> Archive:
        """Open a bundle's tar.

        Raises:
            ServingError: It is no tar of a bundle, or its name has no digest.
        """
        try:
            content = tar.read_bytes()
            with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
                members = [member for member in archive if member.isfile()]
                read = {member.name: _bytes(archive, member) for member in members}
        except (OSError, tarfile.TarError, EOFError, zlib.error) as error:
            msg = f"cannot read the bundle {tar}: {reason(error)}; mlaas-spark export writes it"
            raise ServingError(msg) from error
        name = next(iter(read), "").split("/")[0]
        if not _IMMUTABLE.fullmatch(name):
            msg = (
                f"{tar} is of {name!r}: a name that is uploaded ends in _ and the 12 digits of a digest, so that it "
                "never stands for two models; mlaas-spark export gives such names"
            )
            raise ServingError(msg)
        inner = {path.removeprefix(f"{name}/"): held for path, held in read.items()}
        x, scores = recorded(inner.get(CHECK, b""), str(tar))
        described = Served.of(name, inner.get(tfaas.PARAMS, b""), inner.get(LAYOUT), inner.get(tfaas.LABELS), str(tar))
        digests = {path: hashlib.sha256(held).hexdigest() for path, held in sorted(inner.items())}
        return cls(content, name, digests, described, x, scores)

    @property
    def digest(self) -> str:
        """SHA-256 over the files, however they are packed."""
        lines = "".join(f"{path} {digest}\n" for path, digest in self.files.items())
        return hashlib.sha256(lines.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Proof:
    """That a server has a bundle, and scores as its model does.

    Attributes:
        name: Served name.
        url: The server.
        digest: SHA-256 over the files.
        files: How many were compared; 0 where there was no bundle to compare with.
        events: How many were scored.
        difference: Largest difference between the server's scores and the model's.
        found: The server had it already.
    """

    name: str
    url: str
    digest: str
    files: int
    events: int
    difference: float
    found: bool = False

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        names = ("name", "url", "digest", "files", "events", "difference", "found")
        return {name: getattr(self, name) for name in names}


def upload(client: Client, archive: Archive) -> Proof:
    """Send a bundle, and prove that the server has it and scores as the model does; else it is deleted again.

    One that the server has already, with equal files, is not sent again, only proved.

    Raises:
        ServingError: The name is taken by other content, or what came of it differs; nothing is left then unless the
            message says so.
    """
    if (
        client.download(archive.name, tfaas.PARAMS) is not None
        or client.download(archive.name, tfaas.GRAPH) is not None
    ):
        if differing := _differing(client, archive):
            msg = (
                f"{client.url} has a model {archive.name} with other content ({_some(differing)}): a name is never "
                "used for two models, as servers keep the one that they loaded; export the model under another name "
                f"(export.name), or, if that was an upload that broke off: mlaas-spark delete {archive.name}"
            )
            raise ServingError(msg)
        return _proved(client, archive, found=True)
    try:
        _send(client, archive)
        if differing := _differing(client, archive):
            msg = f"it does not store what was sent: {_some(differing)}"
            raise ServingError(msg)
        return _proved(client, archive, found=False)
    except (MlaasSparkError, KeyboardInterrupt) as error:
        if isinstance(error, NoAnswerError) and not error.sent:
            raise  # nobody was there to take it
        outcome = _deleted(client, archive.name)
        if not isinstance(error, ServingError):
            raise
        msg = f"the upload of {archive.name} to {client.url} is not what it should be: {error}; {outcome}"
        raise ServingError(msg) from error


def check(client: Client, archive: Archive) -> Proof:
    """Prove that a server has a bundle, and scores as its model does; changes nothing.

    Raises:
        ServingError: It does not.
    """
    if client.download(archive.name, tfaas.PARAMS) is None:
        client.params(archive.name)  # says what there is
    if differing := _differing(client, archive):
        msg = f"{client.url} has a model {archive.name} with other content: {_some(differing)}"
        raise ServingError(msg)
    return _proved(client, archive, found=True)


def check_served(client: Client, name: str) -> Proof | None:
    """Prove that a server scores as the model did, by the check events that it stores; None if it has none.

    Raises:
        ServingError: No such model, or it scores otherwise.
    """
    served = client.served(name)
    content = client.download(name, CHECK)
    if content is None:
        return None
    x, scores = recorded(content, f"{name} at {client.url}")
    difference = _difference(client, served, x[:CHECK_EVENTS], scores[:CHECK_EVENTS])
    return Proof(name, client.url, "", 0, len(x[:CHECK_EVENTS]), difference, found=True)


def recorded(content: bytes, source: str) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Events and scores of a bundle's check.npz.

    Raises:
        ServingError: It holds none.
    """
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            x, scores = arrays["x"], arrays["scores"]
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        msg = f"{source}: {CHECK} holds no check events: {reason(error)}"
        raise ServingError(msg) from error
    if x.ndim != 2 or scores.ndim != 2 or len(x) != len(scores) or not len(x):
        msg = f"{source}: {CHECK} holds no check events: x is {x.shape}, scores {scores.shape}"
        raise ServingError(msg)
    return x.astype(np.float32), scores.astype(np.float32)


def _bytes(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    content = archive.extractfile(member)
    return content.read() if content else b""


def _send(client: Client, archive: Archive) -> None:
    """Upload once; where no answer came, what the server stores tells whether it arrived."""
    try:
        client.upload(archive.content)
    except NoAnswerError as error:
        if not error.sent or _differing(client, archive):
            raise
        _log.info("%s: no answer to the upload, but it arrived whole", archive.name)


def _differing(client: Client, archive: Archive) -> list[str]:
    """Files that the server does not have as the bundle has them, with what is wrong."""
    differing = []
    for path, digest in archive.files.items():
        stored = client.download(archive.name, path)
        if stored is None:
            differing.append(f"{path} is missing")
        elif (found := hashlib.sha256(stored).hexdigest()) != digest:
            differing.append(f"{path} is {len(stored)} bytes of SHA-256 {found[:12]}, not {digest[:12]}")
    return differing


def _proved(client: Client, archive: Archive, *, found: bool) -> Proof:
    x, scores = archive.x[:CHECK_EVENTS], archive.scores[:CHECK_EVENTS]
    difference = _difference(client, archive.served, x, scores)
    return Proof(archive.name, client.url, archive.digest, len(archive.files), len(x), difference, found)


def _difference(client: Client, served: Served, x: npt.NDArray[np.float32], scores: npt.NDArray[np.float32]) -> float:
    """The largest difference between a server's scores and recorded ones, if it is small."""
    told = client.predict(served, x)
    if told.shape != scores.shape:
        msg = f"it gives scores of shape {told.shape}, the model gave {scores.shape}"
        raise ServingError(msg)
    difference = float(np.abs(told - scores).max())
    if not difference <= TOLERANCE * max(1.0, float(np.abs(scores).max())):  # also where it is NaN
        event = int(np.abs(told - scores).max(axis=1).argmax())
        msg = (
            f"{client.url} scores {served.name} otherwise than the model did: by up to {difference:.3g}, as at check "
            f"event {event}: {told[event].tolist()}, not {scores[event].tolist()}"
        )
        raise ServingError(msg)
    return difference


def _deleted(client: Client, name: str) -> str:
    """Delete what was uploaded; what came of that, in words."""
    try:
        client.remove(name)
    except ServingError as error:
        return f"it could not be deleted, and may be there still: {error}"
    return "it was deleted again"


def _some(differing: list[str]) -> str:
    more = f" and {len(differing) - _SHOWN} more" if len(differing) > _SHOWN else ""
    return "; ".join(differing[:_SHOWN]) + more
