"""The verb convert: events as a Parquet data set."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlaas_spark import manifest as manifests
from mlaas_spark import storage
from mlaas_spark.pipeline import opening, telling

if TYPE_CHECKING:
    from mlaas_spark.config import Config
    from mlaas_spark.manifest import Manifest
    from mlaas_spark.runs import Journal


def convert(config: Config, folder: str, journal: Journal, *, retry_skipped: bool = False) -> Manifest:
    """Write the selected events as a Parquet data set with a manifest; or only what an earlier run has skipped."""
    from mlaas_spark.spark import convert as converting

    target = storage.absolute(folder)
    only = opening.skipped_before(target, journal) if retry_skipped else None
    events = opening.open_files(config, journal, text=True, only=only)
    with journal.stage("convert") as stage:
        opening.measure(stage, events)
        before = manifests.present(target)
        manifest = converting.convert(events, target, config.convert, retry=retry_skipped)
        stage.events = manifest.ledger["entries"]
        stage.remark = str(converting.Changes.between(before.inputs if before else (), manifest.inputs))
    telling.say_bottleneck(journal)
    telling.tell_skipped(config, manifest.skipped, target, journal)
    return manifest
