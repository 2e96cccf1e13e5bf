"""Contract servers, and bundles whose model is a matrix in JSON: what needs no TensorFlow has none."""

from __future__ import annotations

import gzip
import io
import json
import os
import subprocess
import tarfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from mlaas_spark.config import ServeConfig
from mlaas_spark.layout import FeatureLayout
from mlaas_spark.ml.tfaas import Params
from mlaas_spark.serving.client import Client
from mlaas_spark.serving.http import Connection
from mlaas_spark.transform import FeatureTransform
from tests.serving.server import ContractServer

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

TRANSFORM = FeatureTransform(
    layout=FeatureLayout.of(["MET", "nJet"], {"Jet_pt": 2}),
    jagged=(False, False, True),
    center=(10.0, 0.0, 5.0),
    scale=(0.1, 0.5, 0.2),
)
COLUMNS = ["MET", "nJet", "Jet_pt_0", "Jet_pt_1"]
WEIGHTS = [[0.5, 0.25, -0.125, 2.0], [-0.5, 0.0, 1.0, 0.75]]
NAME = "higgs_0123456789ab"


def linear(folder: Path) -> Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]]:
    """The model of a bundle made here: a matrix, which another width does not fit."""
    weights = np.array(json.loads((folder / "saved_model.pb").read_text()), np.float32)
    return lambda x: x @ weights.T


@dataclass(frozen=True)
class Made:
    """A bundle of a linear model, file by file, as upload sends it."""

    name: str = NAME
    weights: Any = None
    ours: Any = None
    files: Any = None
    x: Any = None
    columns: tuple[str, ...] = tuple(COLUMNS)
    transform: FeatureTransform | None = TRANSFORM

    def content(self) -> dict[str, bytes]:
        weights = np.array(self.weights or WEIGHTS, np.float32)
        x = (
            np.random.default_rng(1).normal(size=(40, weights.shape[1])).astype(np.float32)
            if self.x is None
            else self.x
        )
        packed = io.BytesIO()
        np.savez_compressed(packed, x=x, scores=x @ weights.T)
        params = {
            **json.loads(Params(self.name, "for people").dumps()),
            **({"mlaas_spark": self.ours} if self.ours else {}),
        }
        transform = {"transform": self.transform.to_json()} if self.transform else {}
        made = {
            "saved_model.pb": json.dumps(weights.tolist()).encode(),
            "variables/variables.index": b"index",
            "params.json": json.dumps(params).encode(),
            "labels.txt": b"".join(b"class %d\n" % number for number in range(len(weights))),
            "layout.json": json.dumps({"columns": list(self.columns), **transform}).encode(),
            "check.npz": packed.getvalue(),
        }
        return {path: held for path, held in {**made, **(self.files or {})}.items() if held is not None}

    def tar(self) -> bytes:
        return tar_of(self.name, self.content())

    def write(self, folder: Path) -> Path:
        path = folder / f"{self.name}.tar.gz"
        path.write_bytes(self.tar())
        return path

    def put(self, models: Path) -> None:
        """Lay it into a server's folder by hand."""
        for path, held in self.content().items():
            (models / self.name / path).parent.mkdir(parents=True, exist_ok=True)
            (models / self.name / path).write_bytes(held)


def tar_of(name: str, files: dict[str, bytes], *, folders: bool = True) -> bytes:
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", mtime=0) as zipped, tarfile.open(fileobj=zipped, mode="w") as archive:
        for folder in (name, f"{name}/assets", f"{name}/variables") if folders else ():
            member = tarfile.TarInfo(folder)
            member.type, member.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(member)
        for path, held in files.items():
            member = tarfile.TarInfo(f"{name}/{path}")
            member.size = len(held)
            archive.addfile(member, io.BytesIO(held))
    return packed.getvalue()


Start = Callable[..., ContractServer]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """``start(**settings)`` starts a contract server of linear models, without a limit unless it is given one."""
    started: list[tuple[ContractServer, threading.Thread]] = []

    def go(**settings: Any) -> ContractServer:
        folder = tmp_path / f"models{len(started)}"
        server = ContractServer(folder, **{"load": linear, "limit": None, **settings})
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        started.append((server, thread))
        return server

    yield go
    for server, thread in started:
        server.shut()
        thread.join()


@pytest.fixture
def server(start: Start) -> ContractServer:
    """A contract server that has one model."""
    made = start()
    Made().put(made.models)
    return made


class Naps:
    """Sleeps that take no time, and are remembered; time passes by them alone."""

    def __init__(self) -> None:
        self.taken: list[float] = []
        self.now = 1_000.0

    def sleep(self, seconds: float) -> None:
        self.taken.append(seconds)
        self.now += seconds

    def clock(self) -> float:
        return self.now


@pytest.fixture
def naps() -> Naps:
    return Naps()


def serve_config(url: str, **settings: Any) -> ServeConfig:
    return ServeConfig(url=url, **{"timeout": 5, "retries": 2, "rate": None, **settings})


def client_of(server: ContractServer, naps: Naps | None = None, **settings: Any) -> Client:
    """A client without waits where it is given naps."""
    serve = serve_config(**{"url": server.url, **settings})
    return Client(serve, Connection(serve, naps.clock, naps.sleep) if naps else None)


@pytest.fixture(params=["contract", "real"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A contract server that loads SavedModels, and the real server at TFAAS_URL."""
    if request.param == "real":
        given = os.environ.get("TFAAS_URL")
        if not given:
            pytest.skip("no real server: set TFAAS_URL to one whose models may be added to")
        yield given
        return
    server = ContractServer(tmp_path / "served")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server.url
    server.shut()
    thread.join()


@dataclass(frozen=True)
class Certificates:
    """Files of a CA, and what it signed: for a server at 127.0.0.1, and for a client."""

    folder: Path
    hashed: str

    @property
    def ca(self) -> Path:
        return self.folder / "ca.pem"

    def __getitem__(self, name: str) -> Path:
        return self.folder / name


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Made by openssl."""
    folder = tmp_path_factory.mktemp("certificates")
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]

    def openssl(*arguments: str) -> str:
        done = subprocess.run(["openssl", *arguments], check=True, cwd=folder, capture_output=True, text=True)  # noqa: S603, S607
        return done.stdout.strip()

    ca = ["-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=Test CA"]
    signed = ["-CA", "ca.pem", "-CAkey", "ca.key"]
    try:
        openssl("req", "-x509", *curve, "-nodes", "-days", "2", *ca)
    except FileNotFoundError:
        pytest.skip("no openssl to make certificates with")
    for name, subject in (
        ("server", "IP:127.0.0.1"),
        ("other", "DNS:elsewhere.example"),
        ("client", "email:a@b.example"),
    ):
        extension = ["-addext", f"subjectAltName={subject}", "-addext", "basicConstraints=CA:FALSE"]
        key = ["-keyout", f"{name}.key", "-out", f"{name}.pem", "-subj", f"/CN={name}", "-days", "2"]
        openssl("req", "-x509", *curve, "-nodes", *key, *signed, *extension)
    openssl("ec", "-in", "client.key", "-aes256", "-passout", "pass:secret", "-out", "locked.key")
    (folder / "proxy.pem").write_text((folder / "client.pem").read_text() + (folder / "client.key").read_text())
    return Certificates(folder, f"{openssl('x509', '-hash', '-noout', '-in', 'ca.pem')}.0")
