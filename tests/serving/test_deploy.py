"""deploy: nothing stays at a server that was not proved, and no name ever stands for two contents."""

from __future__ import annotations

import hashlib
import io
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from mlaas_spark.errors import NoAnswerError, ServingError
from mlaas_spark.serving import deploy
from mlaas_spark.serving.deploy import Archive
from tests.serving.conftest import NAME, WEIGHTS, Made, client_of, tar_of
from tests.serving.server import Faults

if TYPE_CHECKING:
    from pathlib import Path

    from tests.serving.conftest import Naps, Start
    from tests.serving.server import ContractServer


@pytest.fixture
def empty(start: Start) -> ContractServer:
    return start()


def archive(folder: Path, made: Made | None = None) -> Archive:
    return Archive.read((made or Made()).write(folder))


def stored(server: ContractServer) -> dict[str, bytes]:
    return {
        path.relative_to(server.models).as_posix(): path.read_bytes()
        for path in server.models.rglob("*")
        if path.is_file()
    }


# a bundle's tar


def test_an_archive_names_its_files_by_digest(tmp_path: Path) -> None:
    made = archive(tmp_path)
    content = Made().content()
    assert made.name == NAME
    assert made.files == {path: hashlib.sha256(held).hexdigest() for path, held in sorted(content.items())}
    assert made.x.shape == (40, 4)
    assert made.scores == pytest.approx(made.x @ np.array(WEIGHTS, np.float32).T)


def test_its_digest_is_that_of_the_files_however_packed(tmp_path: Path) -> None:
    other = tmp_path / "other.tar.gz"
    other.write_bytes(tar_of(NAME, dict(reversed(Made().content().items())), folders=False))
    assert Archive.read(other).digest == archive(tmp_path).digest
    assert archive(tmp_path, replace(Made(), files={"labels.txt": b"x\ny\n"})).digest != archive(tmp_path).digest


@pytest.mark.parametrize("name", ["higgs", "higgs_0123456789a", "higgs_0123456789aX", "higgs_0123456789abc"])
def test_a_name_without_a_digest_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ServingError, match="12 digits of a digest"):
        archive(tmp_path, Made(name))


@pytest.mark.parametrize("content", [None, b"", b"no tar", Made().tar()[:200]])
def test_what_is_no_tar_is_refused(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "b.tar.gz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ServingError, match=r"b\.tar\.gz"):
        Archive.read(path)


@pytest.mark.parametrize("check", [None, b"", b"no zip"])
def test_a_bundle_without_check_events_is_refused(check: bytes | None, tmp_path: Path) -> None:
    with pytest.raises(ServingError, match="no check events"):
        archive(tmp_path, Made(files={"check.npz": check}))


def test_check_events_of_other_shapes_are_refused() -> None:
    packed = io.BytesIO()
    np.savez(packed, x=np.zeros((3, 2)), scores=np.zeros((2, 1)))
    with pytest.raises(ServingError, match=r"x is \(3, 2\), scores \(2, 1\)"):
        deploy.recorded(packed.getvalue(), "b")


# upload


def test_an_upload_is_read_back_and_scored(empty: ContractServer, tmp_path: Path) -> None:
    made = archive(tmp_path)
    proof = deploy.upload(client_of(empty), made)
    assert stored(empty) == {f"{NAME}/{path}": held for path, held in Made().content().items()}
    assert (proof.name, proof.digest, proof.files, proof.events, proof.found) == (NAME, made.digest, 6, 40, False)
    assert proof.difference <= 1e-6
    assert empty.requests["POST /upload"] == 1
    assert empty.requests["POST /predict/json"] == 40


def test_of_many_check_events_a_thousand_are_scored(empty: ContractServer, tmp_path: Path) -> None:
    x = np.random.default_rng(2).normal(size=(1200, 4)).astype(np.float32)
    assert deploy.upload(client_of(empty), archive(tmp_path, Made(x=x))).events == 1000


def test_what_is_there_already_is_proved_and_not_sent_again(server: ContractServer, tmp_path: Path) -> None:
    assert deploy.upload(client_of(server), archive(tmp_path)).found
    assert not server.requests["POST /upload"]


def test_a_name_that_has_other_content_is_refused_and_left_alone(server: ContractServer, tmp_path: Path) -> None:
    before = stored(server)
    other = archive(tmp_path, Made(weights=[[1, 1, 1, 1], [0, 0, 0, 1]]))
    with pytest.raises(ServingError, match=rf"has a model {NAME} with other content \(check\.npz.*never used for two"):
        deploy.upload(client_of(server), other)
    assert stored(server) == before
    assert not {request.split()[0] for request in server.requests} & {"POST", "DELETE"}


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("stores", r"does not store what was sent: variables/variables\.index is 5 bytes of SHA-256"),
        ("loses", r"does not store what was sent: variables/variables\.index is missing"),
        ("wrong", r"scores higgs_0123456789ab otherwise than the model did: by up to 0\.1"),
        ("nan", r"the score is NaN if it is empty"),
    ],
)
def test_an_upload_that_went_wrong_is_deleted_again(
    kind: str, says: str, empty: ContractServer, tmp_path: Path
) -> None:
    empty.faults = Faults(kind)
    with pytest.raises(ServingError, match=rf"the upload of {NAME} .*{says}.*it was deleted again"):
        deploy.upload(client_of(empty), archive(tmp_path))
    assert stored(empty) == {}


@pytest.mark.parametrize("kind", ["500", "429", "drop"])
def test_an_upload_that_is_refused_leaves_nothing(kind: str, empty: ContractServer, tmp_path: Path, naps: Naps) -> None:
    empty.faults = Faults(kind, path="/upload")
    with pytest.raises(ServingError, match=rf"the upload of {NAME}.*deleted again"):
        deploy.upload(client_of(empty, naps), archive(tmp_path))
    assert stored(empty) == {}
    assert empty.requests["POST /upload"] == (3 if kind == "429" else 1)


def test_an_upload_whose_answer_was_lost_is_looked_at_and_not_repeated(empty: ContractServer, tmp_path: Path) -> None:
    empty.faults = Faults("deaf")
    assert deploy.upload(client_of(empty), archive(tmp_path)).events == 40
    assert empty.requests["POST /upload"] == 1


def test_a_server_that_takes_predictions_no_more_has_the_upload_deleted(
    empty: ContractServer, tmp_path: Path, naps: Naps
) -> None:
    empty.faults = Faults("drop", path="/predict")
    with pytest.raises(ServingError, match=r"dropped the connection at POST /predict/json.*deleted again"):
        deploy.upload(client_of(empty, naps), archive(tmp_path))
    assert stored(empty) == {}


def test_that_it_could_not_be_deleted_is_told(
    empty: ContractServer, tmp_path: Path, naps: Naps, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty.faults = Faults("wrong")
    client = client_of(empty, naps)

    def gone(_: str) -> None:
        raise NoAnswerError(client.url, "it went down")

    monkeypatch.setattr(client, "remove", gone)
    with pytest.raises(ServingError, match=r"otherwise than.*could not be deleted, and may be there still.*went down"):
        deploy.upload(client, archive(tmp_path))


def test_a_server_that_is_down_is_told_as_such(tmp_path: Path, naps: Naps, empty: ContractServer) -> None:
    client = client_of(empty, naps, url="http://127.0.0.1:1")
    with pytest.raises(NoAnswerError, match="nobody answers"):
        deploy.upload(client, archive(tmp_path))


def test_an_interruption_leaves_nothing(empty: ContractServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = client_of(empty)

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(client, "predict", interrupted)
    with pytest.raises(KeyboardInterrupt):
        deploy.upload(client, archive(tmp_path))
    assert stored(empty) == {}


def test_a_model_that_the_server_kept_from_before_is_noticed(server: ContractServer, tmp_path: Path) -> None:
    """A name used for two contents, against the rule: the server answers by what it has in memory."""
    client = client_of(server)
    client.predict(client.served(NAME), np.zeros((1, 4), np.float32))
    client.delete(NAME)
    with pytest.raises(ServingError, match="otherwise than the model did"):
        deploy.upload(client, archive(tmp_path, Made(weights=[[1, 1, 1, 1], [0, 0, 0, 1]])))


# serve-check


def test_a_server_is_checked_by_a_bundle(server: ContractServer, tmp_path: Path) -> None:
    assert deploy.check(client_of(server), archive(tmp_path)).files == 6
    (server.models / NAME / "labels.txt").write_text("a\nb\n")
    with pytest.raises(ServingError, match=r"other content: labels\.txt is 4 bytes"):
        deploy.check(client_of(server), archive(tmp_path))


def test_a_bundle_that_the_server_has_not_is_told(empty: ContractServer, tmp_path: Path) -> None:
    with pytest.raises(ServingError, match=f"no model '{NAME}'"):
        deploy.check(client_of(empty), archive(tmp_path))


def test_a_server_is_checked_by_the_events_that_it_stores(server: ContractServer) -> None:
    proof = deploy.check_served(client_of(server), NAME)
    assert proof is not None
    assert (proof.events, proof.files) == (40, 0)
    server.faults = Faults("wrong")
    with pytest.raises(ServingError, match=r"otherwise than the model did: by up to 0\.1, as at check event \d+: \["):
        deploy.check_served(client_of(server), NAME)


def test_a_model_of_others_cannot_be_checked(server: ContractServer) -> None:
    Made("theirs", files={"check.npz": None}).put(server.models)
    assert deploy.check_served(client_of(server), "theirs") is None


def test_nothing_of_a_check_changes_the_server(server: ContractServer, tmp_path: Path) -> None:
    deploy.check(client_of(server), archive(tmp_path))
    kinds = {request.split()[0] for request in server.requests if "/predict" not in request}
    assert kinds == {"GET"}
