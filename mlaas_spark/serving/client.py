"""The HTTP client of a TFaaS server: its routes as methods. Refuses before it sends what would make the server panic.

Source: design.md section 4. Routes that change something are asked for once.
"""

from __future__ import annotations

import json
import uuid
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from threading import Event
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

import numpy as np

from mlaas_spark.errors import ServingError, hint
from mlaas_spark.ml import tfaas
from mlaas_spark.ml.archive import LAYOUT
from mlaas_spark.serving import proto
from mlaas_spark.serving.http import Connection
from mlaas_spark.serving.served import Served

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future

    import numpy.typing as npt

    from mlaas_spark.config import ServeConfig
    from mlaas_spark.serving.http import Answer

Form = Literal["json", "proto"]
"""How events are sent."""

IMAGES = ("png", "jpg")
"""Formats of images that the server decodes."""

_AHEAD = 4  # parts that are under way or wait, for each thread
_TOGETHER = 16  # events of a part, which one thread sends one after the other
_JSON = {"Content-Type": "application/json", "Accept": "application/json"}


class Client:
    """A TFaaS server. Threads may share it.

    Args:
        serve: Server, limits and certificates.
        connection: In place of one made from ``serve``.
    """

    def __init__(self, serve: ServeConfig, connection: Connection | None = None) -> None:
        self._connection = connection or Connection(serve)
        self._threads = serve.concurrency

    @property
    def url(self) -> str:
        """The server."""
        return self._connection.url

    def status(self) -> dict[str, Any]:
        """What the server tells of its machine."""
        told = self._json(self._get("/status"))
        if not isinstance(told, dict):
            raise self._no_tfaas(told)
        return told

    def models(self) -> list[dict[str, Any]]:
        """The params.json of each model, by name.

        Raises:
            ServingError: It cannot list them: one without a valid params.json keeps it from listing any.
        """
        answer = self._connection.request("GET", "/models")
        if answer.status == 500:
            msg = (
                f"{self.url} cannot list its models (500: {answer.text}): the folder of one of them has no valid "
                "params.json; its owner finds it in the server's model folder and removes it (mlaas-spark delete NAME)"
            )
            raise ServingError(msg)
        listed = self._json(self._checked(answer, "GET /models"))
        listed = [] if listed is None else listed  # Go's JSON of a list that nothing was put into
        if not isinstance(listed, list) or not all(isinstance(of, dict) and "name" in of for of in listed):
            raise self._no_tfaas(listed)
        return sorted(listed, key=lambda of: str(of["name"]))

    def params(self, name: str) -> dict[str, Any]:
        """The params.json of a model.

        Raises:
            ServingError: No such model (nearest names), or it has none that can be read.
        """
        tfaas.check_name(name)
        if self.download(name, tfaas.PARAMS) is None:
            raise self._unknown(name)
        told = self._json(self._get(f"/params/{name}"))
        if not isinstance(told, dict):
            raise self._no_tfaas(told)
        return told

    def served(self, name: str) -> Served:
        """What a client must know of a model to send it events.

        Raises:
            ServingError: No such model, or what the server stores of it does not fit together.
        """
        tfaas.check_name(name)
        params = self.download(name, tfaas.PARAMS)
        if params is None:
            raise self._unknown(name)
        return Served.of(name, params, self.download(name, LAYOUT), self.download(name, tfaas.LABELS), self.url)

    def download(self, name: str, file: str) -> bytes | None:
        """A file of a model as the server stores it; None if it has none of this name."""
        tfaas.check_name(name)
        path = f"/download/{name}/{quote(file)}"
        answer = self._connection.request("GET", path)
        return None if answer.status == 404 else self._checked(answer, f"GET {path}").body

    def upload(self, archive: bytes) -> None:
        """Send a bundle's tar, once. What the server made of it is to be read back: it says yes to anything."""
        headers = {"Content-Encoding": "gzip", "Content-Type": "application/octet-stream"}
        self._checked(self._connection.request("POST", "/upload", archive, headers), "POST /upload")

    def delete(self, name: str) -> None:
        """Remove a model, asked for once. The server may go on to answer for it from memory until it starts anew.

        Raises:
            ServingError: No such model, or it is there still.
        """
        tfaas.check_name(name)
        if self.download(name, tfaas.PARAMS) is None and self.download(name, tfaas.GRAPH) is None:
            raise self._unknown(name)
        self.remove(name)

    def remove(self, name: str) -> None:
        """As :meth:`delete`, whatever of the model is there."""
        path = f"/delete/{name}"
        self._checked(self._connection.request("DELETE", path), f"DELETE {path}")
        if left := [file for file in (tfaas.PARAMS, tfaas.GRAPH) if self.download(name, file) is not None]:
            msg = f"{self.url} said that it deleted {name}, and still has its {' and '.join(left)}"
            raise ServingError(msg)

    def predict(self, model: Served, x: npt.NDArray[np.float32], form: Form = "json") -> npt.NDArray[np.float32]:
        """Scores (n, K) of events (n, W), a request each, several at a time.

        Raises:
            ServingError: Another width, a value that is not finite (named), or no such answer as a model gives.
        """
        scores = list(self.stream(model, x, form))
        return np.array(scores, np.float32).reshape(len(scores), len(scores[0]) if scores else len(model.labels))

    def stream(self, model: Served, x: npt.NDArray[np.float32], form: Form = "json") -> Iterator[list[float]]:
        """As :meth:`predict`, event by event in their order, as soon as each is there."""
        rows = model.checked(x)
        encode, path, decode = self._codec(model, form)
        headers = _JSON if form == "json" else {"Content-Type": "application/octet-stream"}

        # of a model without labels as many as the first answer has
        outputs = {"all": len(model.labels)} if model.labels else {}

        def ask(row: npt.NDArray[np.float32]) -> list[float]:
            answer = self._connection.request("POST", path, encode(row), headers, repeatable=True)
            scores = decode(self._checked(answer, f"POST {path} of model {model.name}").body)
            if len(scores) != outputs.setdefault("all", len(scores)) or not scores:
                msg = f"{self.url} gives {len(scores)} scores of {model.name}, which has {outputs['all'] or 'some'}"
                raise ServingError(msg)
            return scores

        size = max(1, min(_TOGETHER, len(rows) // (_AHEAD * self._threads)))
        todo = (rows[start : start + size] for start in range(0, len(rows), size))
        with ThreadPoolExecutor(self._threads, thread_name_prefix="tfaas") as threads:
            waiting: deque[Future[list[list[float]]]] = deque()
            over = Event()

            def submit(parts: int) -> None:
                waiting.extend(
                    threads.submit(lambda part: [ask(row) for row in part if not over.is_set()], part)
                    for part in islice(todo, parts)
                )

            submit(self._threads * _AHEAD)
            try:
                while waiting:
                    yield from waiting.popleft().result()
                    submit(1)
            finally:
                over.set()
                for future in waiting:
                    future.cancel()

    def predict_image(self, name: str, image: bytes) -> list[tuple[str, float]]:
        """The labels that an image model finds likeliest, at most five, with their scores, best first.

        Raises:
            ServingError: The bytes are neither PNG nor JPEG, no such model, or no such answer.
        """
        kind = "png" if image.startswith(b"\x89PNG") else "jpg" if image.startswith(b"\xff\xd8") else None
        if kind is None:
            msg = "neither a PNG nor a JPEG image: the server decodes these"
            raise ServingError(msg)
        tfaas.check_name(name)
        if self.download(name, tfaas.PARAMS) is None:
            raise self._unknown(name)
        # the server takes the format from the file's name before its first dot
        boundary = uuid.uuid4().hex
        parts = (
            f'Content-Disposition: form-data; name="model"\r\n\r\n{name}'.encode(),
            f'Content-Disposition: form-data; name="image"; filename="{kind}.{kind}"\r\n'.encode()
            + f"Content-Type: image/{kind}\r\n\r\n".encode()
            + image,
        )
        body = b"".join(b"--%s\r\n%s\r\n" % (boundary.encode(), part) for part in parts)
        body += f"--{boundary}--\r\n".encode()
        content_type = f"multipart/form-data; boundary={boundary}"
        path = "/predict/image"
        answer = self._connection.request("POST", path, body, {"Content-Type": content_type}, repeatable=True)
        told = self._json(self._checked(answer, f"POST {path} of model {name}"))
        try:
            return [(str(of["label"]), float(of["probability"])) for of in told["labels"]]
        except (KeyError, TypeError, ValueError) as error:
            raise self._no_tfaas(told) from error

    def _codec(
        self, model: Served, form: Form
    ) -> tuple[Callable[[npt.NDArray[np.float32]], bytes], str, Callable[[bytes], list[float]]]:
        """How a row becomes a body, where it goes, how an answer becomes scores."""
        keys = model.columns or [f"f{index}" for index in range(model.width or 0)]
        if form == "proto":
            names = proto.encode_names(keys, model.name)
            return lambda row: names + proto.encode_values(row.tolist()), "/predict/proto", proto.decode_predictions
        before = f'{{"keys": {json.dumps(keys)}, "model": {json.dumps(model.name)}, "values": '.encode()
        return lambda row: before + json.dumps(row.tolist()).encode() + b"}", "/predict/json", self._scores

    def _scores(self, body: bytes) -> list[float]:
        try:
            scores = json.loads(body)
            if isinstance(scores, list) and all(type(score) in {int, float} for score in scores):
                return [float(score) for score in scores]
        except (ValueError, RecursionError, OverflowError):  # too deep, a number beyond float64
            scores = None
        msg = (
            f"{self.url} answers a prediction with {body[:60]!r}, which is no list of scores: the score is NaN "
            "if it is empty; else it may be no TFaaS server"
        )
        raise ServingError(msg)

    def _get(self, path: str) -> Answer:
        return self._checked(self._connection.request("GET", path), f"GET {path}")

    def _checked(self, answer: Answer, asked: str) -> Answer:
        if answer.status == 200:
            return answer
        told = {
            401: "; show it a certificate by serve.certificate and serve.key",
            403: "; it does not know the owner of the certificate (serve.certificate), or asks for one",
            404: "; is serve.url (--url) the server's own, with the path before its routes?",
            500: "; its log tells more",
        }
        where = f" to {answer.headers['location']}" if "location" in answer.headers else ""
        msg = f"{self.url} answers {answer.status}{where} to {asked}: {answer.text}{told.get(answer.status, '')}"
        raise ServingError(msg)

    def _json(self, answer: Answer) -> Any:
        try:
            return json.loads(answer.body)
        except (ValueError, RecursionError) as error:
            raise self._no_tfaas(answer.text) from error

    def _no_tfaas(self, said: object) -> ServingError:
        return ServingError(f"{self.url} answers as no TFaaS server does: {str(said)[:60]!r}; is the URL right?")

    def _unknown(self, name: str) -> ServingError:
        if self.download(name, tfaas.GRAPH) is not None:
            msg = (
                f"the model {name} at {self.url} has no {tfaas.PARAMS}: the server cannot list any model as long as it "
                f"is there; mlaas-spark delete {name} --url {self.url}, and upload it again from its bundle"
            )
            return ServingError(msg)
        names = [str(of["name"]) for of in self.models()]
        return ServingError(f"no model {name!r} at {self.url}{hint(name, names) or '; it has none'}")
