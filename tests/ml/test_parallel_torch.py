"""Several workers train a torch module by DistributedDataParallel over gloo, each a process of its own."""

from __future__ import annotations

import os
import socket
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from mlaas_spark.errors import ModelContractError
from mlaas_spark.ml.checkpoint import Keeper
from mlaas_spark.ml.gloo import interface
from tests.ml.test_parallel import IDENTITY, Trained, config, same_curve, trained, weighted_chunks

if TYPE_CHECKING:
    from pathlib import Path

    from tests.ml.conftest import Chunks

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what an old torch says of a newer setuptools while it is imported
    torch: Any = pytest.importorskip("torch", reason="torch is not installed: see tests/cluster/test_torch.py")

pytestmark = pytest.mark.tensorflow

# with weights that many parts of batches do not use, and a way for one of its processes to be killed
MODEL = """
import os, signal
import torch
from torch import nn

FLAG = {flag!r}

class Net(nn.Module):
    def __init__(self, idim):
        super().__init__()
        self.first, self.rare, self.last = nn.Linear(idim, 8), nn.Linear(idim, 8), nn.Linear(8, 1)
        {layers}
        self.batches = 0

    def forward(self, x):
        if self.training and FLAG:
            self.batches += 1
            if self.batches > 28:
                self.end()
        hidden = self.first(x)
        rare = x[:, 0] > 1.5
        if rare.any():
            hidden = hidden.index_add(0, rare.nonzero()[:, 0], self.rare(x[rare]))
        return self.last({hidden})

    def end(self):
        try:
            os.close(os.open(FLAG, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return
        os.kill(os.getpid(), signal.SIGKILL)

def model(idim):
    return Net(idim)
"""

SETTINGS: dict[str, Any] = {
    "class_weight": "balanced",
    "loss": "BCEWithLogitsLoss",
    "optimizer": {"Adam": {"lr": 0.02, "weight_decay": 0.01}},
    "callbacks": [
        {"ReduceLROnPlateau": {"monitor": "loss", "patience": 1, "min_delta": 1.0}},
        {"EarlyStopping": {"patience": 9, "restore_best_weights": True}},
    ],
    "checkpoint": {"steps": 4},
    "patience": 60,
}


RELU = ("pass", "torch.relu(hidden)")
NORMALISED = ("self.norm, self.drop = nn.BatchNorm1d(8), nn.Dropout(0.3)", "self.drop(self.norm(hidden))")


def write_model(folder: Path, flag: Path | None = None, parts: tuple[str, str] = RELU) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "mine.py"
    path.write_text(MODEL.format(flag=str(flag or ""), layers=parts[0], hidden=parts[1]))
    return path


def state(made: Trained) -> dict[str, Any]:
    return {name: value.numpy() for name, value in made.model.module.state_dict().items()}


@pytest.fixture(scope="module")
def weighted(tmp_path_factory: pytest.TempPathFactory) -> Chunks:
    return weighted_chunks(tmp_path_factory.mktemp("weighted") / "chunks")


def test_two_workers_go_through_what_one_does_with_the_same_batches(weighted: Chunks, tmp_path: Path) -> None:
    together = trained(weighted, write_model(tmp_path), config(workers=2, **SETTINGS))
    alone = trained(weighted, write_model(tmp_path), config(**SETTINGS))
    assert {"loss", "accuracy", "val_loss", "val_accuracy", "learning_rate"} <= alone.history.rows[0].keys()
    assert same_curve(alone.history, together.history)
    assert together.history.rows[-1]["learning_rate"] < 0.02  # the callback had something to do
    for name, value in state(alone).items():
        np.testing.assert_allclose(value, state(together)[name], rtol=0, atol=1e-4)
    moments = [item["exp_avg_sq"].numpy() for item in together.model.optimizer.state_dict()["state"].values()]
    expected = [item["exp_avg_sq"].numpy() for item in alone.model.optimizer.state_dict()["state"].values()]
    for one, other in zip(moments, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-4)


def test_a_killed_worker_is_named_and_resumed_it_ends_as_if_nobody_had_been(weighted: Chunks, tmp_path: Path) -> None:
    # a batch of 97 in 3 shards on 2 workers: the last batches are short, or none of a worker's
    given = {**SETTINGS, "shards": 3, "batch_size": 97, "mode": "chunks", "epochs": 12}
    to_the_last_epoch = {"EarlyStopping": {"patience": 24, "restore_best_weights": True}}
    given["callbacks"] = [SETTINGS["callbacks"][0], to_the_last_epoch]
    settings = config(**given, workers=2)
    whole = trained(weighted, write_model(tmp_path / "whole", parts=NORMALISED), settings)
    assert len(whole.history.rows) == 24
    assert np.abs(state(whole)["norm.running_mean"]).max() > 0
    path = write_model(tmp_path / "parts", tmp_path / "flag", parts=NORMALISED)
    keeper = Keeper.of(str(tmp_path / "checkpoints"), IDENTITY, settings.checkpoint, resume=False)
    with pytest.raises(ModelContractError, match=r"worker \d on 127\.0\.0\.1 is gone.*--resume"):
        trained(weighted, path, settings, keeper)
    keeper = Keeper.of(str(tmp_path / "checkpoints"), IDENTITY, settings.checkpoint, resume=True)
    assert keeper.resumed is not None
    assert keeper.resumed.position.turn > 1
    resumed = trained(weighted, path, settings, keeper)
    assert same_curve(resumed.history, whole.history)
    for name, value in state(whole).items():
        assert np.array_equal(value, state(resumed)[name]), name


def test_the_interface_of_an_address_of_this_machine_is_found() -> None:
    found = interface("127.0.0.1")
    assert found in {name for _, name in socket.if_nameindex()}
    assert interface("192.0.2.1") is None  # RFC 5737: nobody's
    assert os.environ.get("GLOO_SOCKET_IFNAME") is None  # of the workers' own processes alone
