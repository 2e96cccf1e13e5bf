from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from mlaas_spark.config import TrainConfig
from mlaas_spark.errors import MlaasSparkError, ModelContractError
from mlaas_spark.ml import fit as fitting
from mlaas_spark.ml import parallel
from mlaas_spark.ml.inputs import InputLayout
from mlaas_spark.ml.model import load_user_model
from mlaas_spark.usercode import UserFile

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mlaas_spark.ml.checkpoint import Keeper
    from mlaas_spark.ml.train import History
    from mlaas_spark.ml.worker import Launch
    from tests.ml.conftest import Chunks, MakeChunks

pytestmark = pytest.mark.tensorflow


@dataclass(frozen=True)
class Member:
    """A task without Spark: a thread that knows of the others."""

    rank: int
    hosts: list[str]
    met: threading.Barrier
    said: dict[int, str]
    cpus: int = 1

    def gather(self, said: str) -> list[str]:
        self.said[self.rank] = said
        self.met.wait(120)
        return [self.said[rank] for rank in range(len(self.hosts))]


def together(workers: int, launch: Launch) -> list[str]:
    """As the barrier stage: the first error ends it."""
    hosts, met, said = ["127.0.0.1"] * workers, threading.Barrier(workers), {}
    with ThreadPoolExecutor(workers) as pool:
        running = [pool.submit(launch, Member(rank, hosts, met, said)) for rank in range(workers)]
    return [future.result() for future in running]


def config(**settings: Any) -> TrainConfig:
    return TrainConfig.model_validate({"epochs": 3, "batch_size": 16, "threads": 1, "patience": 120, **settings})


def trained(chunks: Chunks, path: Path, settings: TrainConfig, keeper: Keeper | None = None) -> tuple[History, Any]:
    stream = chunks.stream(settings)
    model = load_user_model(path, InputLayout.of(stream.transform), settings, seed=settings.seed)
    if settings.workers == 1:
        return fitting.fit(model, stream, settings, keeper=keeper), model
    file = UserFile.read(path, ModelContractError)
    return parallel.fit(model, stream, settings, file, together, keeper=keeper), model
