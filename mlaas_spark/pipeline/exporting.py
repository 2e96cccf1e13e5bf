"""The verb export: a finished run's bundles, written again."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from mlaas_spark import storage
from mlaas_spark.pipeline import serving
from mlaas_spark.pipeline.trained import Trained, check_run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlaas_spark.runs import Journal


def export(run: str, destination: str | None, journal: Journal, settings: Sequence[str] = ()) -> dict[str, str]:
    """Write the bundles of a finished run again, from its model, specs and chunks.

    Args:
        run: The run folder.
        destination: Folder of the bundles; None for ``bundle/`` of the run.
        journal: Told of the stage.
        settings: ``key=value`` that are put into the run's config, such as ``export.onnx=true``.

    Returns:
        Their tars by what they take, ``raw`` or ``features``.

    Raises:
        ConfigError: The folder is no run, or a setting that cannot be.
        ExportError: A bundle cannot be written.
    """
    place = storage.absolute(run)
    target = storage.absolute(destination) if destination else storage.join(place, "bundle")
    check_run(run)
    from mlaas_spark.ml.card import Origin

    with storage.local_copy(place) as folder, storage.local_place(target) as bundles:
        trained = Trained.read(place, folder, settings)
        told = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        origin = Origin(
            ranges=trained.specs.specs.ranges,
            trained=told["started"],
            config=told["digests"]["config"],
            metrics=json.loads((folder / "metrics.json").read_text(encoding="utf-8")),
            versions=told["versions"],
        )
        with journal.stage("export"):
            written = trained.write_bundles(trained.stream(told["chunks"]), bundles, origin)
    archives = {kind: storage.join(target, bundle.archive.name) for kind, bundle in written.items()}
    if storage.local_path(target) is None:
        for archive in archives.values():
            serving.serve_check(archive)  # what lies there, an earlier export perhaps
    return archives
