"""A trained model with what it was made by: opened from its run, judged on chunks, written as bundles."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from mlaas_spark import storage
from mlaas_spark.branch_specs import SpecsFile
from mlaas_spark.errors import ConfigError
from mlaas_spark.pipeline import preparing
from mlaas_spark.transform import FeatureTransform

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from mlaas_spark.config import Config
    from mlaas_spark.ml.bundle import Bundle
    from mlaas_spark.ml.card import Origin
    from mlaas_spark.ml.inputs import InputLayout
    from mlaas_spark.ml.stream import ChunkStream

_log = logging.getLogger(__name__)

MODEL_FILE = "train.model"
"""Key of the user's file with the model."""


@dataclass(frozen=True)
class Trained:
    """A Keras model, and the config, specs and transform of its training."""

    config: Config
    specs: SpecsFile
    transform: FeatureTransform
    model: Any

    @classmethod
    def read(cls, run: str, folder: Path, settings: Sequence[str] = ()) -> Self:
        """From a run folder, of which ``folder`` is a local copy; ``settings`` are put into its config."""
        from mlaas_spark.config import override, read, resolve
        from mlaas_spark.ml.model import load_saved_model

        config = resolve(override(read(folder / "config.yaml"), settings), str(folder / "config.yaml"))
        made = SpecsFile.loads((folder / "specs.json").read_bytes(), str(folder / "specs.json"))
        model = load_saved_model(folder / "model.keras", _model_file(run, config, settings))
        return cls(config, made, FeatureTransform.of(made.specs, config.features), model)

    @property
    def inputs(self) -> InputLayout:
        """What the model takes of matrix and mask."""
        from mlaas_spark.ml.inputs import InputLayout

        return InputLayout.of(self.transform, self.config.train.inputs)

    def stream(self, chunks: str) -> ChunkStream:
        """The events of a chunk data set as the model takes them."""
        from mlaas_spark.ml.stream import ChunkStream

        return ChunkStream.open(chunks, self.transform, self.config.train.batch_size, self.config.train.threads)

    def metrics(self, stream: ChunkStream, split: str, history: Sequence[Mapping[str, float]] = ()) -> dict[str, Any]:
        """How well the model does on a split."""
        from mlaas_spark.ml import evaluate as evaluating

        judged = evaluating.Judged.of(self.model, self.inputs)
        names = class_names(self.config)
        return evaluating.evaluate(judged, stream, split, self.config.evaluate, names=names, history=history)

    def write_bundles(self, stream: ChunkStream, folder: Path, origin: Origin) -> dict[str, Bundle]:
        """Its bundles by what they take, ``raw`` or ``features``, below a folder."""
        from mlaas_spark.ml.bundle import write_bundles

        digest = preparing.digest_of(self.specs)
        return write_bundles(self.model, stream, self.config.export, digest, folder, origin=origin, inputs=self.inputs)


def class_names(config: Config) -> tuple[str, ...]:
    """Names of the classes 0, 1, ...: those of the export, or the groups of each label; () where there are none."""
    if config.input.targets:
        return ()
    if len(config.export.labels) > 1:
        return config.export.labels
    of_label: dict[float, list[str]] = {}
    for group in config.input.groups:
        if not group.name or group.label is None:
            return ()
        of_label.setdefault(group.label, []).append(group.name)
    if sorted(of_label) != list(range(len(of_label))):
        return ()
    return tuple(", ".join(of_label[label]) for label in sorted(of_label))


def check_run(run: str) -> None:
    """The folder is that of a finished run; ConfigError if it is not."""
    there = set(storage.children(storage.absolute(run)))
    if lacking := sorted({"config.yaml", "model.keras", "run.json", "specs.json"} - there):
        msg = f"{run} is no run folder: it has no {' and '.join(lacking)}; see mlaas-spark train"
        raise ConfigError(msg)


def _model_file(run: str, config: Config, settings: Sequence[str]) -> Path | None:
    """The user's file of a run's model: that which is named now, else the run's own if this user has written the run.

    A run folder of another user could name any file, which would run with our rights.
    """
    named = config.train.model
    if named is None or any(setting.strip().startswith(f"{MODEL_FILE}=") for setting in settings):
        return named
    if storage.is_own(storage.join(run, "config.yaml")):
        return named
    _log.warning(
        "%s is of another user: %s, which its config names, is not run; if the model needs it and you trust it: "
        "--set %s=%s",
        run,
        named,
        MODEL_FILE,
        named,
    )
    return None
