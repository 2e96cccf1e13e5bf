from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from mlaas_spark.config import CheckpointConfig
from mlaas_spark.errors import ModelContractError
from mlaas_spark.ml.checkpoint import Checkpoint, Checkpoints, Keeper, Position

if TYPE_CHECKING:
    from pathlib import Path

IDENTITY = {"data set": "abc", "train.epochs": "3"}


def checkpoint(step: int) -> Checkpoint:
    state = {"model/0": np.full((2, 3), step, np.float32), "callback/0/best": np.array(np.inf)}
    return Checkpoint(Position(1, 2, step), ({"epoch": 0, "loss": 0.5},), IDENTITY, state)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    there = Checkpoints(str(tmp_path / "checkpoints"))
    there.write(checkpoint(7))
    found = there.newest()
    assert found is not None
    assert (found.position, found.rows, found.identity) == (Position(1, 2, 7), ({"epoch": 0, "loss": 0.5},), IDENTITY)
    assert np.array_equal(found.state["model/0"], np.full((2, 3), 7, np.float32))
    assert found.state["callback/0/best"] == np.inf


def test_the_last_two_are_kept_and_nothing_else_lies_there(tmp_path: Path) -> None:
    there = Checkpoints(str(tmp_path))
    for step in (1, 2, 10):
        there.write(checkpoint(step))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-0000000002", "step-0000000010"]


def test_nothing_is_left_of_a_training_that_is_done(tmp_path: Path) -> None:
    one, other = (Checkpoints(str(tmp_path / "checkpoints" / name)) for name in ("one", "other"))
    for each in (one, other):
        each.write(checkpoint(1))
    one.remove()
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["other"]
    other.remove()
    other.remove()
    assert list(tmp_path.iterdir()) == []


def test_none_is_none(tmp_path: Path) -> None:
    assert Checkpoints(str(tmp_path / "nothing")).newest() is None


@pytest.mark.parametrize("name", ["state.npz", "checkpoint.json"])
@pytest.mark.parametrize("length", [0, 20, -1])
def test_one_that_was_cut_short_is_said_and_the_one_before_is_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, length: int
) -> None:
    there = Checkpoints(str(tmp_path))
    there.write(checkpoint(1))
    there.write(checkpoint(2))
    damaged = tmp_path / "step-0000000002" / name
    damaged.write_bytes(damaged.read_bytes()[:length])
    found = there.newest()
    assert found is not None
    assert found.position.step == 1
    assert "step-0000000002" in caplog.text
    assert "the one" in caplog.text or "before it is used" in caplog.text


def test_a_flipped_byte_is_seen(tmp_path: Path) -> None:
    there = Checkpoints(str(tmp_path))
    there.write(checkpoint(1))
    path = tmp_path / "step-0000000001" / "state.npz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    assert there.newest() is None


def test_one_of_another_training_is_refused_with_all_that_differs(tmp_path: Path) -> None:
    Checkpoints(str(tmp_path)).write(checkpoint(1))
    other = {"data set": "xyz", "train.epochs": "4"}
    with pytest.raises(ModelContractError, match=r"data set: abc -> xyz; train\.epochs: 3 -> 4"):
        Keeper.of(str(tmp_path), other, CheckpointConfig(), resume=True)


def test_one_is_due_after_so_many_batches_or_seconds(tmp_path: Path) -> None:
    now = 0.0
    keeper = Keeper(Checkpoints(str(tmp_path)), IDENTITY, CheckpointConfig(steps=10, seconds=5.0), clock=lambda: now)
    assert [step for step in range(1, 31) if keeper.due(step)] == list(range(10, 31))
    made = checkpoint(10)
    keeper.keep(made.position, made.rows, made.state)
    assert not keeper.due(19)
    assert keeper.due(20)
    now = 4.9
    assert not keeper.due(11)
    now = 5.0
    assert keeper.due(11)


def test_a_new_training_does_not_look_at_what_is_there(tmp_path: Path) -> None:
    Checkpoints(str(tmp_path)).write(replace(checkpoint(1), identity={"data set": "other"}))
    assert Keeper.of(str(tmp_path), IDENTITY, CheckpointConfig(), resume=False).resumed is None
