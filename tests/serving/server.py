"""A TFaaS server to test clients against: the contract of design.md section 4 over real HTTP, in Python's own library.

    python -m tests.serving.server --port 8083 --models /tmp/models

It loads models as the real one does (tf.compat.v1's loader, feed and fetch by op name), keeps them for good, panics by
dropping the connection, limits an address to 100 requests a second, and answers 200 to an upload whatever it unpacked.
What a test asks for goes wrong: :class:`Faults`. Beyond the contract it never writes outside its model folder.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import re
import shutil
import socket
import struct
import tarfile
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from email.parser import BytesParser
from email.policy import HTTP
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np

if TYPE_CHECKING:
    import ssl
    from email.message import Message

    import numpy.typing as npt

Scorer = Callable[["npt.NDArray[np.float32]"], "npt.NDArray[np.float32]"]
"""One event (1, W), or an image (1, height, width, 3), to its scores (1, K); anything it raises is a panic."""

INPUT, OUTPUT, TAG = "serving_default_inputs_input", "StatefulPartitionedCall", "serve"
LIMIT = 100
NAME = re.compile(r"[a-zA-Z0-9_]+")
KEYS = ("name", "model", "labels", "options", "input_name", "output_name", "input_node", "output_node", "description")
TOP = 5


class Panic(Exception):  # noqa: N818 - Go's word
    """The server's handler panics: the connection is dropped without an answer."""


@dataclass
class Faults:
    """What goes wrong, and for how many requests (of those that ``path`` is found in).

    ``kind``: ``slow`` (no answer in time), ``500``, ``503``, ``429``, ``reset`` (in mid-body), ``drop`` (no answer),
    ``html`` (another server's answer), ``wrong`` (scores off by 0.1), ``nan`` (empty answer, as Go's JSON of NaN),
    ``stores`` (an upload is stored with one byte changed), ``loses`` (an upload is stored without one file),
    ``deaf`` (the answer to an upload is lost, which has arrived).
    """

    kind: str = ""
    times: int = 10**9
    path: str = "/"
    headers: dict[str, str] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def strikes(self, kind: str, path: str) -> bool:
        """Whether this request goes wrong so."""
        with self._lock:
            if self.kind != kind or self.path not in path or self.times < 1:
                return False
            self.times -= 1
            return True


class ContractServer(ThreadingHTTPServer):
    """The server; ``requests`` counts what it was asked for, by method and path."""

    daemon_threads = True
    request_queue_size = 128
    allow_reuse_address = True

    def __init__(
        self,
        models: Path,
        port: int = 0,
        load: Callable[[Path], Scorer] | None = None,
        limit: int | None = LIMIT,
        tls: ssl.SSLContext | None = None,
        base: str = "",
    ) -> None:
        self.models, self.load, self.limit, self.base = models, load or load_savedmodel, limit, base
        models.mkdir(parents=True, exist_ok=True)
        self.faults = Faults()
        self.requests: Counter[str] = Counter()
        self.connections = 0
        self.most_at_once = 0
        self.over = threading.Event()
        self._under_way = 0
        self._cache: dict[str, tuple[Scorer, list[str]]] = {}
        self._seconds: Counter[tuple[str, int]] = Counter()
        self._lock = threading.RLock()
        super().__init__(("127.0.0.1", port), Handler)
        self.scheme = "https" if tls else "http"
        if tls:
            self.socket = tls.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.server_port}{self.base}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away, and TLS that is refused, are no news."""

    def shut(self) -> None:
        self.over.set()
        self.shutdown()
        self.server_close()

    def entered(self) -> None:
        with self._lock:
            self._under_way += 1
            self.most_at_once = max(self.most_at_once, self._under_way)

    def left(self) -> None:
        with self._lock:
            self._under_way -= 1

    def within_limit(self, address: str) -> bool:
        """Count a request of an address in its second, as ulule/limiter does."""
        with self._lock:
            key = (address, int(time.time()))
            self._seconds[key] += 1
            return self.limit is None or self._seconds[key] <= self.limit

    def model(self, name: str) -> tuple[Scorer, list[str]]:
        """A model and its labels, read from disk once: the cache is never refreshed."""
        with self._lock:
            if name not in self._cache:
                folder = self.models / name
                if not NAME.fullmatch(name) or not folder.is_dir():
                    raise Panic
                params = json.loads((folder / "params.json").read_text())
                labels = (folder / params["labels"]).read_text().splitlines()
                self._cache[name] = (self.load(folder), labels)
            return self._cache[name]


def load_savedmodel(folder: Path) -> Scorer:
    """A SavedModel as TensorFlow's C loader has it: one session, ops by name, whatever params.json says."""
    import tensorflow as tf

    graph = tf.Graph()
    with graph.as_default():
        session = tf.compat.v1.Session()
        tf.compat.v1.saved_model.loader.load(session, [TAG], str(folder))
    score = session.make_callable(
        graph.get_tensor_by_name(f"{OUTPUT}:0"), feed_list=[graph.get_tensor_by_name(f"{INPUT}:0")]
    )
    return lambda x: np.asarray(score(x))


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # head and body of an answer in one packet
    server: ContractServer

    def setup(self) -> None:
        super().setup()
        self.server.connections += 1

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
        """Nothing is told."""

    def do_GET(self) -> None:
        self._handle()

    do_POST = do_DELETE = do_PUT = do_GET  # noqa: N815

    def _handle(self) -> None:
        server = self.server
        path = urlsplit(self.path).path
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        server.requests[f"{self.command} {path}"] += 1
        server.entered()
        try:
            if not path.startswith(server.base + "/"):
                self._answer(404, b"404 page not found\n")
                return
            path = path[len(server.base) :]
            if not self._goes_wrong(path):
                self._route(path, body)
        except Panic:
            self._drop()
        finally:
            server.left()

    def _route(self, path: str, body: bytes) -> None:
        server = self.server
        if path.startswith("/download/"):  # a static route, before the limiter
            self._download(path)
            return
        if not server.within_limit(self.client_address[0]):
            self._limited({"X-RateLimit-Reset": str(int(time.time()) + 1)})
            return
        named = re.fullmatch(r"/(params|delete)/([a-zA-Z0-9_]+)", path)
        routes: dict[str, tuple[str, Callable[[], None]]] = {
            "/upload": ("POST", lambda: self._upload(body)),
            "/models": ("GET", self._models),
            "/status": ("GET", lambda: self._json({"Uptime": time.monotonic(), "NGo": threading.active_count()})),
            "/delete": ("DELETE", lambda: self._delete(self._form(body).get("model", b"").decode())),
        }
        for kind, predict in (("json", self._predict_json), ("proto", self._predict_proto), ("image", self._image)):
            routes[f"/predict/{kind}"] = routes[f"/{kind}"] = ("POST", partial(predict, body))
        if named:
            name = named[2]
            routes[path] = (
                ("GET", lambda: self._params(name)) if named[1] == "params" else ("DELETE", lambda: self._delete(name))
            )
        if path not in routes:
            self._answer(404, b"404 page not found\n")
            return
        method, answer = routes[path]
        if self.command != method:
            self._answer(405, b"")
            return
        answer()

    # the routes

    def _upload(self, body: bytes) -> None:
        kinds = self.headers.get("Content-Encoding"), self.headers.get("Content-Type")
        if kinds != ("gzip", "application/octet-stream"):
            self._error(500, f"cannot take {kinds}")
            return
        with suppress(OSError, EOFError, tarfile.TarError, zlib.error):  # whatever it unpacked, the answer is 200
            self._unpack(body)
        self._answer(200, b"", deaf=self.server.faults.strikes("deaf", "/upload"))

    def _unpack(self, body: bytes) -> None:
        faults = self.server.faults
        changed, lost = faults.strikes("stores", "/upload"), faults.strikes("loses", "/upload")
        with tarfile.open(fileobj=io.BytesIO(gzip.decompress(body))) as archive:
            for member in archive:
                inner = PurePosixPath(member.name)
                if inner.is_absolute() or ".." in inner.parts:
                    msg = "the real server writes it; a test's does not"
                    raise OSError(msg)
                target = self.server.models / inner
                if member.isdir():
                    target.mkdir(exist_ok=True)  # no parents: folders need entries of their own, before their files
                elif (content := archive.extractfile(member)) is not None:
                    held = content.read()
                    if inner.name == "variables.index" and (changed or lost):
                        if lost:
                            continue
                        held = bytes([held[0] ^ 1]) + held[1:]
                    target.write_bytes(held)

    def _models(self) -> None:
        listed = []
        for folder in sorted(self.server.models.iterdir()):
            params = _params_of(folder)
            if params is None:
                self._error(500, "Unable to get TF models")
                return
            listed.append(params)
        self._json(listed)

    def _params(self, name: str) -> None:
        params = _params_of(self.server.models / name)
        if params is None:
            self._error(500, f"unable to read {name} model")
            return
        self._json(params)

    def _delete(self, name: str) -> None:
        if NAME.fullmatch(name):
            shutil.rmtree(self.server.models / name, ignore_errors=True)
        self._answer(200, b"")

    def _download(self, path: str) -> None:
        inner = PurePosixPath(unquote(path.removeprefix("/download/")))
        file = self.server.models / inner
        if self.command != "GET" or ".." in inner.parts or not file.is_file():
            self._answer(404, b"404 page not found\n")
            return
        self._answer(200, file.read_bytes())

    def _predict_json(self, body: bytes) -> None:
        try:
            row = json.loads(body, parse_constant=_refused)
            values, name = [float(value) for value in row["values"]], str(row["model"])
        except (ValueError, KeyError, TypeError):
            self._error(500, "unable to unmarshal Row")
            return
        scores = self._score(name, values)
        if not np.isfinite(scores).all() or self.server.faults.strikes("nan", "/predict"):
            self._answer(200, b"")  # Go's encoder writes nothing of a NaN
            return
        self._json([float(str(score)) for score in scores])

    def _predict_proto(self, body: bytes) -> None:
        from mlaas_spark.serving import proto

        _, values, name = proto.decode_row(body)
        self._answer(200, proto.encode_predictions(self._score(name, values).tolist()))

    def _score(self, name: str, values: list[float]) -> npt.NDArray[np.float32]:
        score, _ = self.server.model(name)
        return self._run(score, np.array([values], np.float32))

    def _run(self, score: Scorer, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        try:
            scores: npt.NDArray[np.float32] = score(x)[0].astype(np.float32)
        except Exception as error:  # whatever TensorFlow says, the server panics
            raise Panic from error
        wrong = self.server.faults.strikes("wrong", self.path)
        return scores + np.float32(0.1) if wrong else scores

    def _image(self, body: bytes) -> None:
        form = self._form(body)
        if "model" not in form or "image" not in form:
            self._error(500, "unable to read image")
            return
        score, labels = self.server.model(form["model"].decode())
        import tensorflow as tf

        decode = tf.io.decode_png if form["image:filename"] == b"png.png" else tf.io.decode_jpeg
        try:
            pixels = decode(form["image"], channels=3).numpy()
        except tf.errors.InvalidArgumentError:
            self._error(400, "Invalid image")
            return
        scores = self._run(score, pixels[None].astype(np.float32))
        pairs = sorted(zip(labels, scores.tolist(), strict=False), key=lambda pair: -pair[1])[:TOP]
        told = [{"label": label, "probability": probability} for label, probability in pairs]
        self._json({"filename": "input", "labels": told})

    def _form(self, body: bytes) -> dict[str, bytes]:
        """Fields of a form; of a file its name too, as ``FIELD:filename``."""
        kind = self.headers.get("Content-Type", "")
        if not kind.startswith("multipart/"):
            return {key: values[0].encode() for key, values in parse_qs(body.decode(errors="replace")).items()}
        parsed: Message = BytesParser(policy=HTTP).parsebytes(b"Content-Type: " + kind.encode() + b"\r\n\r\n" + body)
        fields: dict[str, bytes] = {}
        for part in parsed.walk():
            name = part.get_param("name", header="content-disposition")
            if isinstance(name, str):
                fields[name] = part.get_payload(decode=True)  # type: ignore[assignment] # of a part it is bytes
                if (filename := part.get_filename()) is not None:
                    fields[f"{name}:filename"] = filename.encode()
        return fields

    # answers

    def _json(self, told: Any) -> None:
        self._answer(200, json.dumps(told).encode() + b"\n", {"Content-Type": "application/json"})

    def _error(self, status: int, told: str) -> None:
        self._answer(status, json.dumps({"error": told}).encode() + b"\n", {"Content-Type": "application/json"})

    def _limited(self, headers: dict[str, str]) -> None:
        self._answer(429, b"Limit exceeded\n", headers)

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None, *, deaf: bool = False) -> None:
        if deaf:
            raise Panic
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def _drop(self) -> None:
        """Close with a reset, as a process that has died."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def _goes_wrong(self, path: str) -> bool:
        """Whether a fault has answered in place of a route."""
        faults = self.server.faults
        if faults.strikes("drop", path):
            raise Panic
        if faults.strikes("slow", path):
            self.server.over.wait(30)  # until the test is over
            raise Panic
        if faults.strikes("reset", path):
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"[0.1")
            self.wfile.flush()
            raise Panic
        for status in (500, 503):
            if faults.strikes(str(status), path):
                self._error(status, "told to fail")
                return True
        if faults.strikes("429", path):
            self._limited(faults.headers)
            return True
        if faults.strikes("html", path):
            self._answer(200, b"<html>Welcome to another server</html>")
            return True
        return False


def _params_of(folder: Path) -> dict[str, Any] | None:
    """A model's params.json; None if it has none that is valid."""
    try:
        params = json.loads((folder / "params.json").read_text())
    except (OSError, ValueError):
        return None
    return params if isinstance(params, dict) and isinstance(params.get("name"), str) else None


def _refused(constant: str) -> float:
    raise ValueError(constant)


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8083)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=LIMIT, help="requests a second of an address; 0: no limit")
    arguments = parser.parse_args()
    server = ContractServer(arguments.models, arguments.port, limit=arguments.limit or None)
    print(f"TFaaS' contract at {server.url}, models in {arguments.models}", flush=True)  # noqa: T201
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        server.server_close()


if __name__ == "__main__":
    main()
