"""http: what is tried again and what never, time limits, TLS, and what a user reads of each failure."""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from typing import TYPE_CHECKING, Any

import pytest

from mlaas_spark.errors import ConfigError, NoAnswerError, ServingError
from mlaas_spark.serving.http import Connection
from tests.serving.conftest import serve_config
from tests.serving.server import Faults, Handler

if TYPE_CHECKING:
    from pathlib import Path

    from tests.serving.conftest import Certificates, Naps, Start
    from tests.serving.server import ContractServer


def connection(url: str, naps: Naps | None = None, **settings: Any) -> Connection:
    serve = serve_config(url, **settings)
    return Connection(serve, naps.clock, naps.sleep) if naps else Connection(serve)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


# what is tried again


@pytest.mark.parametrize("kind", ["drop", "reset", "503", "429"])
def test_a_get_is_tried_again_until_it_succeeds(kind: str, server: ContractServer, naps: Naps) -> None:
    server.faults = Faults(kind, times=2)
    assert connection(server.url, naps).request("GET", "/models").status == 200
    assert server.requests["GET /models"] == 3
    assert naps.taken == pytest.approx([0.1, 0.2])


@pytest.mark.parametrize("kind", ["drop", "reset", "503"])
@pytest.mark.parametrize(("method", "path"), [("POST", "/upload"), ("DELETE", "/delete/x")])
def test_what_changes_the_server_is_sent_once(
    kind: str, method: str, path: str, server: ContractServer, naps: Naps
) -> None:
    server.faults = Faults(kind)
    asked = connection(server.url, naps)
    if kind == "503":
        assert asked.request(method, path, b"x").status == 503
    else:
        with pytest.raises(NoAnswerError, match="dropped the connection") as told:
            asked.request(method, path, b"x")
        assert told.value.sent
    assert server.requests[f"{method} {path}"] == 1
    assert naps.taken == []


def test_what_the_limiter_refused_was_not_done_and_is_sent_again(server: ContractServer, naps: Naps) -> None:
    server.faults = Faults("429", times=1)
    assert connection(server.url, naps).request("DELETE", "/delete/x").status == 200
    assert server.requests["DELETE /delete/x"] == 2


def test_an_answer_of_the_server_itself_is_final(server: ContractServer, naps: Naps) -> None:
    server.faults = Faults("500")
    answer = connection(server.url, naps).request("GET", "/models")
    assert (answer.status, answer.text) == (500, "told to fail")
    assert server.requests["GET /models"] == 1


# 429


@pytest.mark.parametrize(("headers", "waits"), [({"Retry-After": "3"}, 3), ({}, 0.1)])
def test_waits_as_long_as_the_server_says(
    headers: dict[str, str], waits: float, server: ContractServer, naps: Naps
) -> None:
    server.faults = Faults("429", times=1, headers=headers)
    connection(server.url, naps).request("GET", "/status")
    assert naps.taken == pytest.approx([waits])


def test_retry_after_may_be_a_date_and_the_limiters_reset_a_time(server: ContractServer, naps: Naps) -> None:
    for headers in (
        {"Retry-After": formatdate(time.time() + 9, usegmt=True)},
        {"X-RateLimit-Reset": str(int(time.time()) + 9)},
    ):
        server.faults = Faults("429", times=1, headers=headers)
        naps.taken.clear()
        connection(server.url, naps).request("GET", "/status")
        assert sum(naps.taken) == pytest.approx(9, abs=2)


def test_429_without_end_is_told_with_what_to_set(server: ContractServer, naps: Naps) -> None:
    server.faults = Faults("429")
    with pytest.raises(ServingError, match=r"429 \(too many requests\) to GET /models, tried 3 times.*serve\.rate"):
        connection(server.url, naps).request("GET", "/models")


def test_a_wait_of_an_hour_is_not_waited_for(server: ContractServer, naps: Naps) -> None:
    server.faults = Faults("429", headers={"Retry-After": "3600"})
    with pytest.raises(ServingError, match="to come again in 3600 s"):
        connection(server.url, naps).request("GET", "/models")
    assert naps.taken == []


def test_the_default_rate_stays_within_the_servers_limit(start: Start) -> None:
    server = start(limit=100)
    asked = connection(server.url, rate=100, retries=5)
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: asked.request("GET", "/status").status, range(150)))
    assert answers == [200] * 150
    assert server.requests["GET /status"] < 170  # a thread that the machine held up may be refused, and comes again


def test_without_a_rate_the_limit_is_met_and_kept_by_waiting(start: Start) -> None:
    server = start(limit=20)
    asked = connection(server.url, retries=5)
    answers = [asked.request("GET", "/status").status for _ in range(30)]
    assert answers == [200] * 30
    assert server.requests["GET /status"] > 30


# connections


def test_one_connection_is_kept_for_many_requests(server: ContractServer) -> None:
    asked = connection(server.url)
    for _ in range(20):
        assert asked.request("GET", "/status").status == 200
    assert server.connections == 1


def test_threads_have_no_more_connections_than_allowed(server: ContractServer) -> None:
    asked = connection(server.url, concurrency=3)
    with ThreadPoolExecutor(12) as threads:
        list(threads.map(lambda _: asked.request("GET", "/status"), range(60)))
    assert server.connections <= 3
    assert server.most_at_once <= 3


def test_a_kept_connection_that_the_server_closed_is_made_anew(start: Start, naps: Naps) -> None:
    server = start()
    asked = connection(server.url, naps)
    asked.request("GET", "/status")
    server.faults = Faults("drop", times=1)
    assert asked.request("GET", "/status").status == 200


def test_a_connection_that_was_interrupted_is_not_used_again(
    server: ContractServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = connection(server.url, concurrency=1)

    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(http.client.HTTPConnection, "getresponse", interrupted)
        with pytest.raises(KeyboardInterrupt):
            asked.request("GET", "/status")
    assert asked.request("DELETE", "/delete/x").status == 200
    assert server.connections == 2


def test_a_connection_that_the_server_closes_is_made_anew_with_its_time_limit(
    server: ContractServer, naps: Naps, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Handler, "protocol_version", "HTTP/1.0")
    asked = connection(server.url, naps, timeout=1)
    assert [asked.request("GET", "/status").status for _ in range(3)] == [200] * 3
    assert server.connections == 3
    server.faults = Faults("slow")
    with pytest.raises(NoAnswerError, match=r"within 1 s"):
        asked.request("GET", "/status")


def test_a_server_below_a_path_is_asked_there(start: Start) -> None:
    server = start(base="/tfaas")
    assert connection(server.url + "/").request("GET", "/models").status == 200
    assert server.requests["GET /tfaas/models"] == 1


# no answer


def test_a_server_that_is_down_is_named_with_what_to_look_at(naps: Naps) -> None:
    port = free_port()
    with pytest.raises(
        NoAnswerError, match=rf"127\.0\.0\.1:{port}: nobody answers.*Connection refused \(3 tries\)"
    ) as told:
        connection(f"http://127.0.0.1:{port}", naps).request("GET", "/models")
    assert not told.value.sent
    assert told.value.exit_code == 6


def test_even_an_upload_is_tried_again_where_nobody_took_it(naps: Naps) -> None:
    with pytest.raises(NoAnswerError, match=r"3 tries"):
        connection(f"http://127.0.0.1:{free_port()}", naps).request("POST", "/upload", b"x")


def test_a_host_that_does_not_exist_is_named(naps: Naps) -> None:
    with pytest.raises(NoAnswerError, match=r"nowhere\.invalid: nobody answers"):
        connection("http://nowhere.invalid", naps).request("GET", "/models")


def test_a_slow_server_is_given_up_after_the_time_limit(server: ContractServer, naps: Naps) -> None:
    server.faults = Faults("slow")
    began = time.monotonic()
    with pytest.raises(NoAnswerError, match=r"no answer to GET /models within 0\.2 s \(3 tries\); serve\.timeout"):
        connection(server.url, naps, timeout=0.2).request("GET", "/models")
    assert time.monotonic() - began < 60


@pytest.mark.parametrize("kind", ["drop", "reset"])
def test_a_dropped_connection_says_when_tfaas_does_so(kind: str, server: ContractServer, naps: Naps) -> None:
    server.faults = Faults(kind)
    with pytest.raises(NoAnswerError, match=r"dropped the connection at GET /models \(3 tries\).*unknown model"):
        connection(server.url, naps).request("GET", "/models")


@pytest.mark.parametrize(
    ("url", "says"),
    [
        (None, "no server: name it by serve.url"),
        ("localhost:8083", "no address of a server"),
        ("ftp://host", "no address of a server"),
        ("http://", "no address of a server"),
        ("http://host:port", "serve.url"),
        ("http://host/?x=1", "no address of a server"),
    ],
)
def test_an_url_that_is_none_is_refused(url: str | None, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Connection(serve_config(url or "http://x").model_copy(update={"url": url}))


# TLS


@pytest.fixture
def secure(start: Start, certificates: Certificates) -> ContractServer:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates["server.pem"], certificates["server.key"])
    return start(tls=context)


@pytest.fixture
def strict(start: Start, certificates: Certificates) -> ContractServer:
    """A server that wants to see a certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates["server.pem"], certificates["server.key"])
    context.load_verify_locations(certificates.ca)
    context.verify_mode = ssl.CERT_REQUIRED
    return start(tls=context)


def test_a_server_is_trusted_by_the_ca_that_is_given(secure: ContractServer, certificates: Certificates) -> None:
    assert connection(secure.url, ca=certificates.ca).request("GET", "/status").status == 200


@pytest.mark.parametrize("name", ["ca.pem", "hashed"])
def test_a_ca_may_be_a_folder(name: str, secure: ContractServer, certificates: Certificates, tmp_path: Path) -> None:
    folder = tmp_path / "certificates"
    folder.mkdir()
    (folder / "x.signing_policy").write_text("not a certificate")
    if name == "hashed":  # as grid sites have them
        name = certificates.hashed
    (folder / name).write_text(certificates.ca.read_text())
    assert connection(secure.url, ca=folder).request("GET", "/status").status == 200


def test_a_server_that_nobody_vouches_for_is_refused_at_once(secure: ContractServer, naps: Naps) -> None:
    with pytest.raises(NoAnswerError, match=r"TLS refused: the server's certificate is not trusted.*serve\.ca"):
        connection(secure.url, naps).request("GET", "/status")
    assert naps.taken == []
    assert not secure.requests


def test_a_certificate_for_another_host_is_refused(start: Start, certificates: Certificates, naps: Naps) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates["other.pem"], certificates["other.key"])
    with pytest.raises(NoAnswerError, match=r"TLS refused:.*127\.0\.0\.1.*use the name"):
        connection(start(tls=context).url, naps, ca=certificates.ca).request("GET", "/status")


@pytest.mark.parametrize("names", [("client.pem", "client.key"), ("proxy.pem", None)])
def test_the_clients_certificate_is_shown(
    names: tuple[str, str | None], strict: ContractServer, certificates: Certificates
) -> None:
    certificate, key = names
    shown: dict[str, Any] = {"certificate": certificates[certificate], "key": certificates[key] if key else None}
    assert connection(strict.url, ca=certificates.ca, **shown).request("GET", "/status").status == 200


def test_a_server_that_wants_a_certificate_says_so(
    strict: ContractServer, certificates: Certificates, naps: Naps
) -> None:
    with pytest.raises(NoAnswerError, match=r"certificate: serve\.certificate|certificate by serve\.certificate"):
        connection(strict.url, naps, ca=certificates.ca).request("GET", "/status")
    assert not strict.requests


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"certificate": "nothing.pem"}, "nothing.pem is no certificate"),
        ({"certificate": "client.pem"}, "client.pem is no certificate with its key"),
        ({"certificate": "client.pem", "key": "other.key"}, "is no certificate with its key"),
        ({"certificate": "client.pem", "key": "locked.key"}, "encrypted"),
        ({"ca": "nothing.pem"}, "nothing.pem holds no certificates"),
        ({"ca": "client.key"}, "client.key holds no certificates"),
        ({"ca": "empty"}, "neither names by openssl rehash"),
    ],
)
def test_certificates_that_cannot_be_used_are_named(
    given: dict[str, str], says: str, certificates: Certificates
) -> None:
    (certificates.folder / "empty").mkdir(exist_ok=True)
    paths: dict[str, Any] = {key: certificates[name] for key, name in given.items()}
    with pytest.raises(ConfigError, match=says):
        connection("https://127.0.0.1:1", **paths)


def test_a_server_without_tls_is_told(server: ContractServer, certificates: Certificates, naps: Naps) -> None:
    with pytest.raises(NoAnswerError, match=r"TLS refused|dropped the connection"):
        connection(server.url.replace("http", "https"), naps, ca=certificates.ca).request("GET", "/status")


def test_no_thread_is_left_waiting_after_a_failure(server: ContractServer, naps: Naps) -> None:
    server.faults = Faults("drop", path="/status")
    asked, before = connection(server.url, naps, concurrency=1), threading.active_count()
    for _ in range(3):
        with pytest.raises(NoAnswerError):
            asked.request("GET", "/status")
    assert asked.request("GET", "/models").status == 200
    assert threading.active_count() <= before + 3
