"""Verbs of serving: bundles checked, uploaded and proved; models of a server, and which of them clients use."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from mlaas_spark import storage
from mlaas_spark.errors import ConfigError, ServingError, UnreadableInputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlaas_spark.config import Config
    from mlaas_spark.runs import Journal
    from mlaas_spark.serving.alias import Alias
    from mlaas_spark.serving.client import Client, Form
    from mlaas_spark.serving.deploy import Archive, Proof


def serve_check(path: str) -> dict[str, Any]:
    """Load a bundle as the server does and compare its scores with the model's.

    Raises:
        ServingError: It does not keep the contract, or is not there.
    """
    from mlaas_spark.ml.bundle import serve_check as check

    bundle = storage.absolute(path)
    if not storage.exists(bundle):
        msg = f"cannot read the bundle {path}: no such file"
        raise ServingError(msg)
    with storage.local_copy(bundle) as copy:
        return check(copy)


def upload(config: Config, bundle: str, journal: Journal, alias: str | None = None) -> tuple[Proof, Alias | None]:
    """Check a bundle offline, send it to the server, prove what came of it; with ``alias`` let clients use it.

    Args:
        config: Of it counts ``serve``.
        bundle: Its tar, or its folder with the tar beside it: a path or URL.
        journal: Told of each stage.
        alias: The alias file, by path, URL or name; None leaves clients with what they have.

    Raises:
        ServingError: The bundle, the server or what it made of the bundle does not keep the contract; then it is
            deleted from the server again.
    """
    from mlaas_spark.serving import alias as aliases
    from mlaas_spark.serving import deploy
    from mlaas_spark.serving.client import Client

    client = Client(config.serve)
    before = aliases.current(alias) if alias else None  # what is no alias file is known before anything is sent
    with journal.stage("check the bundle offline"):
        archive = _archive(bundle)
    with journal.stage("upload and prove") as stage:
        proof = deploy.upload(client, archive)
        stage.events = proof.events
    if alias is None:
        return proof, None
    entry = aliases.Entry(proof.name, config.serve.url or "", proof.digest, aliases.stamp(datetime.now(UTC)))
    return proof, aliases.promote(alias, entry, before)


def uploadable(config: Config, bundle: str, journal: Journal, alias: str | None = None) -> dict[str, Any]:
    """What :func:`upload` would do, checked as far as it can be without sending; errors are those of it."""
    from mlaas_spark.serving import alias as aliases

    before = aliases.current(alias) if alias else None
    client = _client(config)
    with journal.stage("check the bundle offline"):
        archive = _archive(bundle)
    served = any(model["name"] == archive.name for model in client.models())
    used = {"alias": alias, "before": before and before.current.name}
    return {"name": archive.name, "url": client.url, "files": sorted(archive.files), "served": served, **used}


def _archive(bundle: str) -> Archive:
    """The tar of a bundle, checked offline."""
    from mlaas_spark.serving.deploy import Archive

    place = storage.absolute(bundle.rstrip("/"))
    tar = f"{place}.tar.gz" if storage.is_folder(place) else place
    if not storage.exists(tar):
        msg = f"cannot read the bundle {bundle}: no such file as {tar}; mlaas-spark export writes it"
        raise ServingError(msg)
    from mlaas_spark.ml.bundle import serve_check as check

    with storage.local_copy(tar) as copy:
        check(copy)
        return Archive.read(copy)


def rollback(config: Config, alias: str) -> Alias:
    """Let clients of an alias use the model before; errors are those of :func:`rolled_back`."""
    from mlaas_spark.serving import alias as aliases

    changed = rolled_back(config, alias)
    aliases.put(alias, changed)
    return changed


def rolled_back(config: Config, alias: str) -> Alias:
    """What an alias would be after a rollback: the model before, which its server must still have.

    Raises:
        ServingError: There was none before, or its server does not have it.
    """
    from mlaas_spark.serving import alias as aliases

    changed = aliases.read(alias).rolled_back(aliases.stamp(datetime.now(UTC)))
    _client(config, changed.current.url).params(changed.current.name)
    return changed


def models(config: Config) -> list[dict[str, Any]]:
    """The params.json of each model of the server."""
    return _client(config).models()


def params(config: Config, name: str) -> dict[str, Any]:
    """The params.json of a model of the server."""
    return _client(config).params(name)


def delete(config: Config, name: str) -> None:
    """Remove a model from the server.

    Raises:
        ServingError: No such model, or clients use it by the alias of the config.
    """
    _check_unused(config, name)
    _client(config).delete(name)


def deletable(config: Config, name: str) -> None:
    """:func:`delete` would remove a model; errors are those of it."""
    _check_unused(config, name)
    _client(config).params(name)


def _check_unused(config: Config, name: str) -> None:
    """Clients do not use the model by the alias of the config."""
    from mlaas_spark.serving import alias as aliases

    if (place := config.serve.alias) and (used := aliases.current(place)) and used.current.name == name:
        msg = (
            f"{name} is what the alias {place} means now: mlaas-spark rollback --alias {place}, or promote another one"
        )
        raise ServingError(msg)


@dataclass(frozen=True)
class Asking:
    """What a server is asked for.

    Attributes:
        model: Served name; None for that of the alias.
        alias: Alias file; None for that of the config.
        events: So many of the file; None for all.
        tree: Of a ROOT file with several.
        form: ``json`` or ``proto``.
    """

    model: str | None = None
    alias: str | None = None
    events: int | None = None
    tree: str | None = None
    form: Form = "json"


def predict_remote(config: Config, file: str, asking: Asking) -> Iterator[list[float]]:
    """Scores of a file's events by the server, in their order, as they come.

    Raises:
        ServingError: No such model, events that are not what it takes (nothing is sent then), or no answer.
        MlaasSparkError: One of its kinds for a file that cannot be read.
    """
    from mlaas_spark.serving import inputs

    client, name = _served(config, asking)
    model = client.served(name)
    x = inputs.read(file, model, asking.events, asking.tree)
    return client.stream(model, x, asking.form)


def predict_image(config: Config, file: str, asking: Asking) -> list[tuple[str, float]]:
    """The likeliest labels of an image, PNG or JPEG, with their scores."""
    client, name = _served(config, asking)
    try:
        image = storage.read_bytes(storage.absolute(file))
    except FileNotFoundError as error:
        raise UnreadableInputError(file, "no such file") from error
    return client.predict_image(name, image)


def serve_check_remote(config: Config, bundle: str | None, asking: Asking, journal: Journal) -> list[Proof]:
    """Prove that the server has a bundle and scores as its model does; without a bundle, by the check events it has.

    Raises:
        ServingError: It does not, or there is nothing to check.
    """
    from mlaas_spark.ml.archive import CHECK
    from mlaas_spark.serving import deploy

    if bundle is not None:
        with journal.stage("check the bundle offline"):
            archive = _archive(bundle)
        with journal.stage("check the server") as stage:
            proof = deploy.check(_client(config), archive)
            stage.events = proof.events
        return [proof]
    if asking.model or asking.alias:
        client, name = _served(config, asking)
        names = [name]
    else:
        client = _client(config)
        names = [str(of["name"]) for of in client.models()]
    proofs: list[Proof] = []
    with journal.stage("check the server") as stage:
        for name in names:
            if (of_model := deploy.check_served(client, name)) is None:
                journal.say(f"  {name} has no {CHECK}: not checked")
                continue
            proofs.append(of_model)
            stage.events = sum(proof.events for proof in proofs)
    if not proofs:
        msg = f"{client.url} has no model with {CHECK} to check: mlaas-spark upload sends it with the model"
        raise ServingError(msg)
    return proofs


def _client(config: Config, url: str | None = None) -> Client:
    from mlaas_spark.serving.client import Client

    return Client(config.serve.model_copy(update={"url": url}) if url else config.serve)


def _served(config: Config, asking: Asking) -> tuple[Client, str]:
    """Server and model that are asked for, by name or by alias; the URL of the config goes before the alias' own."""
    from mlaas_spark.serving import alias as aliases

    if asking.model:
        return _client(config), asking.model
    if not (place := asking.alias or config.serve.alias):
        msg = "name the model: --model NAME, or --alias FILE of one that was promoted"
        raise ConfigError(msg)
    current = aliases.read(place).current
    return _client(config, config.serve.url or current.url), current.name
