"""client: the routes as methods, what is refused before it is sent, and what a user reads of what a server does."""

from __future__ import annotations

import json
import shutil
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest

from mlaas_spark.errors import NoAnswerError, ServingError
from mlaas_spark.serving import http
from mlaas_spark.serving.served import Served
from tests.serving.conftest import NAME, WEIGHTS, Made, client_of
from tests.serving.server import Faults, Handler

if TYPE_CHECKING:
    import numpy.typing as npt

    from mlaas_spark.serving.client import Form
    from tests.serving.conftest import Naps, Start
    from tests.serving.server import ContractServer


def events(n: int, seed: int = 0) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(n, 4)).astype(np.float32)


def expected(x: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Scores by plain sums."""
    return np.array([[sum(w * float(v) for w, v in zip(row, event, strict=True)) for row in WEIGHTS] for event in x])


# predictions


@pytest.mark.parametrize("form", ["json", "proto"])
def test_scores_are_those_of_the_model_in_the_order_of_the_events(form: Form, server: ContractServer) -> None:
    client = client_of(server)
    x = events(200)
    assert client.predict(client.served(NAME), x, form) == pytest.approx(expected(x), abs=1e-5)
    assert server.requests[f"POST /predict/{form}"] == 200


def test_both_forms_give_the_same_float32(server: ContractServer) -> None:
    client = client_of(server)
    model, x = client.served(NAME), events(20)
    assert np.array_equal(client.predict(model, x, "json"), client.predict(model, x, "proto"))


def test_several_requests_are_under_way_and_no_more_than_allowed(server: ContractServer) -> None:
    client = client_of(server, concurrency=4)
    client.predict(client.served(NAME), events(300))
    assert 1 < server.most_at_once <= 4
    assert server.connections <= 4


def test_scores_come_as_soon_as_they_are_there(server: ContractServer) -> None:
    """Of a long file the first scores are there before the last events are sent."""
    client = client_of(server, concurrency=1)
    scores = client.stream(client.served(NAME), events(1000))
    next(scores)
    assert server.requests["POST /predict/json"] < 100
    scores.close()  # type: ignore[attr-defined] # a generator


def test_who_stops_reading_stops_the_requests(start: Start) -> None:
    """Two threads have sent 16 events each, and do not send the rest of their next 16."""

    def slow(x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        time.sleep(0.1)
        return x[:, :2]

    server = start(load=lambda _: slow)
    Made().put(server.models)
    client = client_of(server, concurrency=2)
    scores = client.stream(client.served(NAME), events(2000))
    next(scores)
    scores.close()  # type: ignore[attr-defined] # a generator
    assert server.requests["POST /predict/json"] < 45


def test_a_prediction_is_asked_for_again(server: ContractServer, naps: Naps) -> None:
    client = client_of(server, naps, concurrency=1)
    model = client.served(NAME)
    for kind in ("drop", "reset", "503", "429"):
        server.faults = Faults(kind, times=1, path="/predict")
        assert client.predict(model, events(1)).shape == (1, 2)


@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/1.0"])
def test_an_answer_may_take_longer_than_to_connect(version: str, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the server closes each connection."""
    monkeypatch.setattr(http, "_CONNECT_S", 0.5)
    monkeypatch.setattr(Handler, "protocol_version", version)

    def slow(x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        time.sleep(1)
        return x[:, :2]

    server = start(load=lambda _: slow)
    Made().put(server.models)
    client = client_of(server, retries=0, concurrency=1)
    assert client.predict(client.served(NAME), events(2)).shape == (2, 2)


def test_no_events_have_no_scores(server: ContractServer) -> None:
    client = client_of(server)
    assert not client.predict(client.served(NAME), events(0)).size


@pytest.mark.parametrize("width", [3, 5])
def test_another_width_is_refused_and_not_sent(width: int, server: ContractServer) -> None:
    client = client_of(server)
    with pytest.raises(ServingError, match=rf"2 x {width} values, model {NAME} takes \(n, 4\): not sent"):
        client.predict(client.served(NAME), np.zeros((2, width), np.float32))
    assert not server.requests["POST /predict/json"]


def test_nan_is_refused_and_not_sent_unless_the_bundle_documents_a_number(server: ContractServer) -> None:
    Made("raw_0123456789ab", ours={"inputs": "raw", "missing": -4.0}).put(server.models)
    client = client_of(server)
    x = np.array([[1, np.nan, 2, 3]], np.float32)
    with pytest.raises(ServingError, match=r"event 0 has nan for 'nJet'.*mlaas_spark\.missing"):
        client.predict(client.served(NAME), x)
    assert not server.requests["POST /predict/json"]
    sent = np.array([[1, -4, 2, 3]], np.float32)
    assert client.predict(client.served("raw_0123456789ab"), x) == pytest.approx(expected(sent), abs=1e-5)


# answers that are none


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("500", r"answers 500 to POST /predict/json of model higgs_0123456789ab: told to fail; its log tells more"),
        ("nan", r"answers a prediction with b'', which is no list of scores: the score is NaN"),
        ("html", r"answers a prediction with b'<html>"),
        ("429", r"answers 429 \(too many requests\) to POST /predict/json, tried 3 times"),
    ],
)
def test_an_answer_that_has_no_scores_is_told(kind: str, says: str, server: ContractServer, naps: Naps) -> None:
    client = client_of(server, naps)
    model = client.served(NAME)
    server.faults = Faults(kind, path="/predict")
    with pytest.raises(ServingError, match=says):
        client.predict(model, events(3))


@pytest.mark.parametrize("kind", ["drop", "reset"])
def test_a_dropped_prediction_is_told(kind: str, server: ContractServer, naps: Naps) -> None:
    client = client_of(server, naps)
    model = client.served(NAME)
    server.faults = Faults(kind, path="/predict")
    with pytest.raises(NoAnswerError, match=r"dropped the connection at POST /predict/json \(3 tries\)"):
        client.predict(model, events(3))


def test_no_protobuf_for_an_answer_is_told(server: ContractServer) -> None:
    client = client_of(server)
    model = client.served(NAME)
    server.faults = Faults("html", path="/predict")
    with pytest.raises(ServingError, match="no Predictions of protobuf"):
        client.predict(model, events(1), "proto")


def test_another_number_of_scores_than_labels_is_told(server: ContractServer) -> None:
    Made("odd_0123456789ab", files={"labels.txt": b"one\n"}).put(server.models)
    client = client_of(server)
    with pytest.raises(ServingError, match=r"gives 2 scores of odd_0123456789ab, which has 1"):
        client.predict(client.served("odd_0123456789ab"), events(1))


# models


def test_models_are_listed_by_name(server: ContractServer) -> None:
    Made("a_0123456789ab").put(server.models)
    client = client_of(server)
    assert [params["name"] for params in client.models()] == ["a_0123456789ab", NAME]
    assert client.params(NAME)["description"] == "for people"
    assert client.status()["NGo"] > 0


def test_a_server_without_models_lists_none(start: Start) -> None:
    assert client_of(start()).models() == []


def test_an_unknown_name_is_told_with_the_nearest(server: ContractServer) -> None:
    client = client_of(server)
    for ask in (client.served, client.params, client.delete):
        with pytest.raises(ServingError, match=rf"no model 'higs_0123456789ab' at {server.url}; nearest: {NAME}"):
            ask("higs_0123456789ab")
    assert not any(request.startswith("DELETE") for request in server.requests)


def test_an_unknown_name_at_an_empty_server_is_told(start: Start) -> None:
    with pytest.raises(ServingError, match=r"no model 'x' at .*; it has none"):
        client_of(start()).served("x")


@pytest.mark.parametrize("name", ["a-b", "a.b", "../x", "a/b", ""])
def test_a_name_that_the_server_cannot_address_is_not_sent(name: str, server: ContractServer) -> None:
    client = client_of(server)
    for ask in (client.served, client.params, client.delete):
        with pytest.raises(ServingError, match="no name for a served model"):
            ask(name)
    assert not server.requests


def test_a_model_without_params_is_named_as_what_hides_all_models(server: ContractServer) -> None:
    (server.models / NAME / "params.json").unlink()
    client = client_of(server)
    with pytest.raises(ServingError, match=rf"{NAME} at .* has no params\.json.*mlaas-spark delete {NAME}"):
        client.served(NAME)
    with pytest.raises(ServingError, match=r"cannot list its models \(500: Unable to get TF models\).*params\.json"):
        client.models()


def test_delete_removes_a_model_also_a_broken_one(server: ContractServer) -> None:
    client = client_of(server)
    (server.models / NAME / "params.json").unlink()
    client.delete(NAME)
    assert client.models() == []


def test_a_delete_that_does_nothing_is_told(server: ContractServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)
    with pytest.raises(ServingError, match=rf"said that it deleted {NAME}, and still has its params\.json"):
        client_of(server).delete(NAME)


@pytest.mark.parametrize("path", ["/status", "/models"])
def test_another_server_than_tfaas_is_told(path: str, server: ContractServer) -> None:
    server.faults = Faults("html", path=path)
    client = client_of(server)
    with pytest.raises(ServingError, match=r"answers as no TFaaS server does: '<html>Welcome.*is the URL right"):
        client.status() if path == "/status" else client.models()


def test_a_path_that_the_server_has_not_is_told(start: Start) -> None:
    server = start(base="/tfaas")
    with pytest.raises(ServingError, match=r"answers 404 to GET /models: 404 page not found; is serve\.url"):
        client_of(server, url=server.url.removesuffix("/tfaas")).models()


def test_a_model_of_others_is_asked_without_knowing_its_columns(server: ContractServer) -> None:
    Made("theirs", files={"layout.json": None, "check.npz": None}).put(server.models)
    client = client_of(server)
    model, x = client.served("theirs"), events(2)
    assert model == Served("theirs", (), ("class 0", "class 1"))
    assert client.predict(model, x) == pytest.approx(expected(x), abs=1e-5)


def test_params_of_the_server_are_json(server: ContractServer) -> None:
    content = client_of(server).download(NAME, "params.json")
    assert content is not None
    assert json.loads(content)["name"] == NAME


# images


PNG = b"\x89PNG\r\n\x1a\n"


@pytest.mark.tensorflow
@pytest.mark.parametrize("kind", ["png", "jpg"])
def test_an_image_model_is_asked_by_a_form(kind: str, start: Start) -> None:
    import tensorflow as tf

    pixels = np.full((4, 4, 3), (200, 0, 100), np.uint8)
    encoded = tf.io.encode_png(pixels) if kind == "png" else tf.io.encode_jpeg(pixels, quality=100)
    server = start(load=lambda _: lambda x: x.mean(axis=(1, 2)) / 255)
    Made("image_0123456789ab", files={"labels.txt": b"red\ngreen\nblue\n"}).put(server.models)
    found = client_of(server).predict_image("image_0123456789ab", encoded.numpy())
    assert [label for label, _ in found] == ["red", "blue", "green"]
    assert [score for _, score in found] == pytest.approx([200 / 255, 100 / 255, 0], abs=0.02)


@pytest.mark.tensorflow
def test_an_image_that_is_broken_is_told(server: ContractServer) -> None:
    with pytest.raises(ServingError, match=r"answers 400 to POST /predict/image.*Invalid image"):
        client_of(server).predict_image(NAME, PNG + b"cut short")


def test_what_is_no_image_is_not_sent(server: ContractServer) -> None:
    with pytest.raises(ServingError, match="neither a PNG nor a JPEG"):
        client_of(server).predict_image(NAME, b"GIF89a")
    assert not server.requests


def test_an_image_for_an_unknown_model_is_not_sent(server: ContractServer) -> None:
    with pytest.raises(ServingError, match="no model 'x'"):
        client_of(server).predict_image("x", PNG)
    assert not server.requests["POST /predict/image"]
