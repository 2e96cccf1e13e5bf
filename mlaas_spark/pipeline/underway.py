"""A training under way: what it learns from, and the run folder that it will become."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlaas_spark import manifest as manifests
from mlaas_spark import storage

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from mlaas_spark.branch_specs import SpecsFile
    from mlaas_spark.config import Config
    from mlaas_spark.manifest import Manifest
    from mlaas_spark.plan import Plan
    from mlaas_spark.runs import Journal, Work
    from mlaas_spark.transform import FeatureTransform


@dataclass(frozen=True)
class Place:
    """Where a run is written, who asked for it and when."""

    work: Work
    command: str
    save_as: str | None
    started: datetime
    resume: bool

    @property
    def began(self) -> str:
        """When it was started, ISO 8601."""
        return self.started.isoformat(timespec="seconds")


@dataclass(frozen=True)
class Prepared:
    """What the Spark side leaves for training.

    Attributes:
        plan: Of the input.
        specs: Of the features.
        transform: Specs as they are applied.
        manifest: Of the chunks.
        folder: Of the chunks.
        model: Digest of the user's file.
    """

    plan: Plan
    specs: SpecsFile
    transform: FeatureTransform
    manifest: Manifest
    folder: str
    model: str


@dataclass(frozen=True)
class Underway:
    """What all steps of a training are told."""

    config: Config
    journal: Journal
    data: Prepared
    place: Place

    @property
    def work(self) -> Path:
        """Where the files of the run are written until it is published."""
        return self.place.work.path

    @property
    def name(self) -> str:
        """Of the run folder: when, and of what."""
        digest = manifests.request_digest([self.config.digest(), self.data.plan.digest()])
        return f"{self.place.started:%Y%m%dT%H%M%SZ}-{digest[:12]}"

    @property
    def folder(self) -> str:
        """The run folder, once it is published."""
        return storage.join(self.place.work.home, self.name)
