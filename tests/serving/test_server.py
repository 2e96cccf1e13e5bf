"""The contract server itself, against the words of design.md section 4, asked without our client."""

from __future__ import annotations

import http.client
import json
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.serving.conftest import NAME, Made, tar_of
from tests.serving.server import ContractServer

if TYPE_CHECKING:
    from pathlib import Path

    from tests.serving.conftest import Start

TAR = {"Content-Encoding": "gzip", "Content-Type": "application/octet-stream"}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


def ask(
    server: ContractServer, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def row(model: str = NAME, values: Any = (1, 2, 3, 4)) -> bytes:
    return json.dumps({"keys": [], "values": values, "model": model}).encode()


def test_an_uploaded_tar_is_served_and_comes_back_file_by_file(start: Start) -> None:
    server = start()
    assert ask(server, "POST", "/upload", Made().tar(), TAR)[0] == 200
    assert ask(server, "GET", f"/download/{NAME}/variables/variables.index") == (200, b"index")
    assert [params["name"] for params in json.loads(ask(server, "GET", "/models")[1])] == [NAME]
    assert json.loads(ask(server, "POST", "/predict/json", row())[1]) == pytest.approx([8.625, 5.5])


def test_an_upload_answers_200_whatever_it_unpacked(start: Start) -> None:
    server = start()
    for body in (b"no tar", tar_of(NAME, Made().content(), folders=False)):
        assert ask(server, "POST", "/upload", body, TAR)[0] == 200
    assert not any(path.is_file() for path in server.models.rglob("*"))


def test_an_upload_that_names_a_place_outside_writes_nothing_there(start: Start) -> None:
    server = start()
    ask(server, "POST", "/upload", tar_of("../outside", {"x": b"x"}), TAR)
    assert not (server.models.parent / "outside").exists()


def test_without_valid_params_no_model_is_listed(server: ContractServer) -> None:
    (server.models / "broken").mkdir()
    assert ask(server, "GET", "/models")[0] == 500
    assert ask(server, "GET", f"/params/{NAME}")[0] == 200


@pytest.mark.parametrize("path", ["/params/a-b", "/params/a.b", "/delete/a-b", "/delete/", "/nothing"])
def test_names_and_paths_that_are_none_are_404(path: str, server: ContractServer) -> None:
    assert ask(server, "DELETE" if "delete" in path else "GET", path)[0] == 404


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/upload"), ("POST", "/models"), ("GET", "/predict/json"), ("GET", f"/delete/{NAME}")]
)
def test_other_methods_are_405(method: str, path: str, server: ContractServer) -> None:
    assert ask(server, method, path)[0] == 405


@pytest.mark.parametrize(
    ("path", "body", "headers"),
    [
        (f"/delete/{NAME}", None, {}),
        ("/delete", f"model={NAME}".encode(), FORM),
        (
            "/delete",
            f'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\n{NAME}\r\n--b--\r\n'.encode(),
            {"Content-Type": "multipart/form-data; boundary=b"},
        ),
    ],
)
def test_delete_takes_the_name_in_the_path_or_in_a_form(
    path: str, body: bytes | None, headers: dict[str, str], server: ContractServer
) -> None:
    assert ask(server, "DELETE", path, body, headers)[0] == 200
    assert ask(server, "GET", f"/download/{NAME}/params.json")[0] == 404


@pytest.mark.parametrize("body", [row("unknown"), row(values=[1, 2]), row(values=[])])
def test_an_unknown_model_and_a_wrong_width_drop_the_connection(body: bytes, server: ContractServer) -> None:
    with pytest.raises((ConnectionError, http.client.RemoteDisconnected)):
        ask(server, "POST", "/predict/json", body)
    assert ask(server, "POST", "/predict/json", row())[0] == 200


@pytest.mark.parametrize("body", [b"", b"{", row(values=[float("nan"), 0, 0, 0])])
def test_what_is_no_row_is_500(body: bytes, server: ContractServer) -> None:
    assert ask(server, "POST", "/predict/json", body) == (500, b'{"error": "unable to unmarshal Row"}\n')


def test_short_forms_are_the_same(server: ContractServer) -> None:
    assert ask(server, "POST", "/json", row()) == ask(server, "POST", "/predict/json", row())
    body = b"\x12\x10" + b"\x00\x00\x80\x3f" * 4 + b"\x1a" + bytes([len(NAME)]) + NAME.encode()
    assert ask(server, "POST", "/proto", body) == ask(server, "POST", "/predict/proto", body)


def test_an_address_has_so_many_requests_in_a_second_and_429_after_that(start: Start) -> None:
    server, began = start(limit=3), int(time.time())
    answers = [ask(server, "GET", "/status") for _ in range(40)]
    allowed = sum(status == 200 for status, _ in answers)
    assert 3 <= allowed <= 3 * (int(time.time()) - began + 1)
    assert {status for status, _ in answers} == {200, 429}


def test_the_limit_is_a_hundred_unless_told_otherwise(tmp_path: Path) -> None:
    server = ContractServer(tmp_path / "models")
    assert [server.within_limit("address") for _ in range(300)].count(True) in {100, 200}  # of one second, or two
    server.server_close()


def test_a_model_is_kept_in_memory_whatever_is_uploaded_later(start: Start) -> None:
    server = start()
    ask(server, "POST", "/upload", Made().tar(), TAR)
    before = ask(server, "POST", "/predict/json", row())
    ask(server, "POST", "/upload", Made(weights=[[1, 1, 1, 1], [0, 0, 0, 1]]).tar(), TAR)
    assert b"1.0" in ask(server, "GET", f"/download/{NAME}/saved_model.pb")[1]
    assert ask(server, "POST", "/predict/json", row()) == before
