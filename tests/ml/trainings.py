"""Trainings of a user's file on the chunks of a test, and how they die."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlaas_spark.config import TrainConfig
from mlaas_spark.ml.callbacks import of_config
from mlaas_spark.ml.checkpoint import Keeper
from mlaas_spark.ml.fit import fit
from mlaas_spark.ml.inputs import InputLayout
from mlaas_spark.ml.model import load_user_model

if TYPE_CHECKING:
    from pathlib import Path

    from mlaas_spark.ml.train import History
    from tests.ml.conftest import Chunks


class Killed(BaseException):
    """As a process that dies: nothing catches it."""


def config(**settings: Any) -> TrainConfig:
    """Settings of a training of seconds."""
    return TrainConfig.model_validate({"epochs": 3, "batch_size": 16, "threads": 1, **settings})


def keeper_of(folder: Path, settings: TrainConfig, die_at: int | None = None, *, resume: bool = False) -> Keeper:
    """A keeper of checkpoints; the training dies once it has kept one of the step ``die_at`` or of a later one."""
    keeper = Keeper.of(str(folder), {"data": "x"}, settings.checkpoint, resume=resume)
    if die_at is not None:
        keep = keeper.keep

        def dying(position: Any, rows: Any, state: Any) -> None:
            keep(position, rows, state)
            if position.step >= die_at:
                raise Killed

        keeper.keep = dying  # type: ignore[method-assign] # the test's own death
    return keeper


def loaded(path: Path, chunks: Chunks, settings: TrainConfig | None = None) -> Any:
    """The model of a user's file."""
    settings = settings or config()
    return load_user_model(path, InputLayout.of(chunks.transform, settings.inputs), settings, seed=settings.seed)


def trained(
    chunks: Chunks, path: Path, settings: TrainConfig, folder: Path, die_at: int | None = None, *, resume: bool = False
) -> tuple[Any, History]:
    """The model of a user's file, trained; its checkpoints are in the folder."""
    model = loaded(path, chunks, settings)
    called, keeper = of_config(settings.callbacks, folder, model), keeper_of(folder, settings, die_at, resume=resume)
    return model, fit(model, chunks.stream(threads=1), settings, callbacks=called, keeper=keeper)
