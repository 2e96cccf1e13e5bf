"""The verb verify: data sets and runs against what was recorded of them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from mlaas_spark import manifest as manifests
from mlaas_spark import storage
from mlaas_spark.branch_specs import SpecsFile
from mlaas_spark.errors import ChunkError, ModelContractError, ServingError
from mlaas_spark.pipeline import preparing

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from mlaas_spark.verify import Finding, Verified


def verify(path: str, *, deep: bool = False) -> Verified:
    """A data set, or a finished run with its bundles and chunks, against what was recorded when it was written.

    Args:
        path: Folder of a converted data set, of scores or chunks, or a run folder: a path or URL.
        deep: Whether all values are read, and of a run the model is loaded for its digest.

    Raises:
        ChunkError: It is neither, or its manifest or run.json is not whole.
    """
    from mlaas_spark import verify as verifying
    from mlaas_spark.filesets import MANIFEST

    place = storage.absolute(path)
    names = storage.children(place)
    if verifying.RECORD in names:
        return _verify_run(place, deep=deep)
    if MANIFEST in names or not names:
        return verifying.data_set(place, deep=deep)
    msg = (
        f"{path} is neither a data set nor a run folder: it has no {MANIFEST} and no {verifying.RECORD}, but "
        f"{', '.join(names[:5])}; was the job that writes it interrupted?"
    )
    raise ChunkError(msg)


def _verify_run(place: str, *, deep: bool) -> Verified:
    from mlaas_spark import verify as verifying
    from mlaas_spark.verify import Finding

    told = verifying.run_record(place)
    findings, notes = verifying.run_files(place, told)
    damaged = {finding.path for finding in findings}
    with storage.local_copy(place) as folder:
        findings += verifying.run_digests(told, _run_digests(folder, damaged))
        for name in told["bundles"].values():
            findings += _verify_bundle(folder, name, damaged)
        if deep and not findings:
            findings += _verify_model(folder, told, notes)
    chunks_at = told["chunks"]
    if storage.exists(storage.join(chunks_at, "manifest.json")):
        of_chunks = verifying.data_set(chunks_at, deep=deep)
        findings += [
            Finding(of.kind, storage.join(chunks_at, of.path) if of.path else "", of.text) for of in of_chunks.findings
        ]
        content = {"content": manifests.read(chunks_at).content_digest}
        findings += verifying.run_digests(told, content)
        notes += of_chunks.notes
    else:
        notes.append(f"its chunks are not in {chunks_at} any more")
    size = sum(of["bytes"] for of in told["files"].values())
    return verifying.Verified(place, "run", deep, len(told["files"]), size, {}, tuple(findings), tuple(notes))


def _run_digests(folder: Path, damaged: set[str]) -> dict[str, str]:
    """Of the config, plan and specs of a run, as far as their files are as they were."""
    from mlaas_spark.config import read, resolve
    from mlaas_spark.plan import Plan

    found = {}
    if "config.yaml" not in damaged:
        found["config"] = resolve(read(folder / "config.yaml"), str(folder / "config.yaml")).digest()
    if "plan.json" not in damaged:
        plan, _ = Plan.from_json(json.loads((folder / "plan.json").read_bytes())).by_content()  # as chunks have it
        found["plan"] = plan.digest()
    if "specs.json" not in damaged:
        found["specs"] = preparing.digest_of(
            SpecsFile.loads((folder / "specs.json").read_bytes(), str(folder / "specs.json"))
        )
    return found


def _verify_bundle(folder: Path, name: str, damaged: set[str]) -> list[Finding]:
    """A bundle's folder and its tar are whole, have the same content, and that name."""
    from mlaas_spark.ml.bundle import read_bundle
    from mlaas_spark.verify import Finding

    of_bundle = f"bundle/{name}"
    if any(path.startswith((f"{of_bundle}/", f"{of_bundle}.tar.gz")) for path in damaged):
        return []  # which is said already
    try:
        one, other = read_bundle(folder / "bundle" / name), read_bundle(folder / "bundle" / f"{name}.tar.gz")
    except ServingError as error:
        return [Finding("unreadable", of_bundle, str(error))]
    if one != other or one.name != name:
        return [Finding("digest", of_bundle, f"its folder and its tar differ, or it is not {name}")]
    return []


def _verify_model(folder: Path, told: Mapping[str, Any], notes: list[str]) -> list[Finding]:
    """The digests in the names of the bundles are those of model.keras; no code of the run folder is run."""
    from mlaas_spark.ml.bundle import bundle_name
    from mlaas_spark.ml.model import load_saved_model
    from mlaas_spark.verify import Finding

    try:
        model = load_saved_model(folder / "model.keras", None)
    except ModelContractError as error:
        notes.append(
            f"model.keras cannot be loaded without the classes of its file, its digest is not checked: {error}"
        )
        return []
    return [
        Finding("digest", "model.keras", f"its weights and architecture are not those that {name} is named by: {found}")
        for name in told["bundles"].values()
        if (found := bundle_name(model, folder / "bundle" / name)) != name
    ]
