"""Verbs for a TFaaS server and what it serves: serve-check, upload, rollback, models, params, delete."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from mlaas_spark.cli import show
from mlaas_spark.cli.app import app
from mlaas_spark.cli.options import ALIAS, CONFIG, DRY, SERVER, TLS, AsJson, ModelName, journal, serving, takes
from mlaas_spark.errors import ConfigError


@app.command(name="serve-check")
@takes(CONFIG | SERVER | ALIAS | TLS)
def serve_check(
    context: typer.Context,
    bundle: Annotated[str | None, typer.Argument(help="A bundle: its folder or its tar.gz.")] = None,
    model: ModelName = None,
    as_json: AsJson = False,
) -> None:
    """Load a bundle as the TFaaS server does, and compare its scores with the model's. Needs no server.

    With --url the server is checked: that it has the bundle, file by file, and scores as its model does; without BUNDLE
    by the check events that it stores of one model, or of each.

    Example: mlaas-spark serve-check runs/demo/*/bundle/demo_0123456789ab.tar.gz
    """
    from mlaas_spark import pipeline

    url, alias = context.params["url"], context.params["alias"]
    if url is None and (model or alias):
        msg = "--model and --alias go with --url"
        raise ConfigError(msg)
    if url is None and bundle is None:
        msg = "name a bundle, or a server by --url"
        raise ConfigError(msg)
    if url is not None:
        asking = pipeline.Asking(model, alias)
        proofs = pipeline.serve_check_remote(serving(context), bundle, asking, journal(context))
        if as_json:
            show.as_json([proof.to_json() for proof in proofs])
            return
        for proof in proofs:
            show.proof(proof)
        return
    found = pipeline.serve_check(str(bundle))
    if as_json:
        show.as_json(found)
        return
    show.line(", ".join(f"{key} {value}" for key, value in found.items()))


@app.command()
@takes(CONFIG | SERVER | ALIAS | TLS | DRY)
def upload(
    context: typer.Context,
    bundle: Annotated[str, typer.Argument(help="A bundle: its tar.gz, or its folder with the tar beside it.")],
    promote: Annotated[bool, typer.Option("--promote", help="Let clients of the alias use it.")] = False,
    as_json: AsJson = False,
) -> None:
    """Send a bundle to a TFaaS server and prove it: files read back, scores compared; else it is deleted again.

    Example: mlaas-spark upload runs/demo/*/bundle/demo_0123456789ab.tar.gz --url http://localhost:8083
    --promote --alias demo
    """
    from mlaas_spark import pipeline

    alias = context.params["alias"]
    if alias and not promote:
        msg = "--alias goes with --promote"
        raise ConfigError(msg)
    config = serving(context)
    place = (alias or config.serve.alias or _base_name(bundle)) if promote else None
    if context.params["dry_run"]:
        found = pipeline.uploadable(config, bundle, journal(context), place)
        if as_json:
            show.as_json({"dry_run": True, **found})
            return
        show.line(f"would send {found['name']}, {len(found['files'])} files, to {found['url']}")
        if found["served"]:
            show.line("the server has a model of this name: it would be compared, not sent again")
        if place:
            show.line(f"would let clients of {found['alias']} use it")
        show.line("nothing was sent")
        return
    proof, promoted = pipeline.upload(config, bundle, journal(context), place)
    if as_json:
        show.as_json({**proof.to_json(), "alias": promoted and asdict(promoted)})
        return
    show.proof(proof)
    if promoted is not None:
        show.alias(promoted)


def _base_name(bundle: str) -> str:
    """What an alias is called if nobody says: the name of the bundle without the digest."""
    return bundle.rstrip("/").rsplit("/", 1)[-1].removesuffix(".tar.gz").rpartition("_")[0] or "model"


@app.command()
@takes(CONFIG | ALIAS | TLS | DRY)
def rollback(context: typer.Context, as_json: AsJson = False) -> None:
    """Let clients of an alias use the model before.

    Example: mlaas-spark rollback --alias demo
    """
    from mlaas_spark import pipeline

    config = serving(context)
    if (place := context.params["alias"] or config.serve.alias) is None:
        msg = "name the alias: --alias FILE, or serve.alias of the config"
        raise ConfigError(msg)
    trying = context.params["dry_run"]
    found = pipeline.rolled_back(config, place) if trying else pipeline.rollback(config, place)
    if as_json:
        show.as_json({"dry_run": trying, **asdict(found)})
        return
    show.alias(found)
    if trying:
        show.line("this is what it would be: nothing was written")


@app.command()
@takes(CONFIG | SERVER | TLS)
def models(context: typer.Context, as_json: AsJson = False) -> None:
    """List the models of a TFaaS server.

    Example: mlaas-spark models --url http://localhost:8083
    """
    from mlaas_spark import pipeline

    listed = pipeline.models(serving(context))
    if as_json:
        show.as_json(listed)
        return
    rows = [(params["name"], params.get("description", "")) for params in listed]
    show.table("Models", ("name", "description"), rows)


@app.command(name="params")
@takes(CONFIG | SERVER | TLS)
def show_params(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Served name.")],
    as_json: Annotated[bool, typer.Option("--json", help="As it is without: JSON on standard output.")] = False,  # noqa: ARG001
) -> None:
    """Show the params.json of a model of a TFaaS server.

    Example: mlaas-spark params demo_0123456789ab --url http://localhost:8083
    """
    from mlaas_spark import pipeline

    show.as_json(pipeline.params(serving(context), name))


@app.command()
@takes(CONFIG | SERVER | TLS | DRY)
def delete(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Served name.")],
    as_json: AsJson = False,
) -> None:
    """Remove a model from a TFaaS server; refused if it is what serve.alias of the config means now.

    Example: mlaas-spark delete demo_0123456789ab --url http://localhost:8083
    """
    from mlaas_spark import pipeline

    config = serving(context)
    trying = context.params["dry_run"]
    if trying:
        pipeline.deletable(config, name)
    else:
        pipeline.delete(config, name)
    if as_json:
        show.as_json({"dry_run": trying, "name": name, "url": config.serve.url})
    elif trying:
        show.line(f"would delete {name} at {config.serve.url}; nothing was deleted")
    else:
        show.line(f"{name} is deleted at {config.serve.url}; a server may answer for it until it starts anew")
