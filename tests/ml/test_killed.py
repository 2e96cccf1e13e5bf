"""Trainings killed by the system at random steps, and in the middle of a checkpoint: resumed they learn the same.

Every event is known by a number that is one of its features. A child writes down which events it has learned, batch by
batch; the chain of children that were killed must have learned what one that was never killed has, in its order.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests.ml.conftest import events_of, write_chunks

if TYPE_CHECKING:
    from tests.ml.conftest import Chunks

REPOSITORY = Path(__file__).parents[2]
EPOCHS, BATCH, STEPS = 3, 16, 3  # a checkpoint every third batch
WATCHDOG_S = 900

pytestmark = pytest.mark.tensorflow

CHILD = """
    import json, os, signal, sys
    from pathlib import Path

    import numpy as np

    job = json.loads(sys.argv[1])

    from mlaas_spark.config import TrainConfig
    from mlaas_spark.ml import checkpoint
    from mlaas_spark.ml.callbacks import of_config
    from mlaas_spark.ml.fit import fit
    from mlaas_spark.ml.inputs import InputLayout
    from mlaas_spark.ml.model import load_user_model
    from mlaas_spark.ml.stream import ChunkStream
    from tests.ml.conftest import TRANSFORM
    import keras

    def die():
        os.kill(os.getpid(), signal.SIGKILL)

    plain, written = checkpoint._write_through, [0]

    def torn(path, content):
        written[0] += path.name == "state.npz"
        if written[0] == job["torn"]:
            path.write_bytes(content[: len(content) // 2])
            die()
        plain(path, content)

    checkpoint._write_through = torn
    read = {}

    class Recorded(ChunkStream):
        def batches(self, split, *, chunk=None, seed=None, epoch=0, start=0):
            every = super().batches(split, chunk=chunk, seed=seed, epoch=epoch, start=start)
            for number, batch in enumerate(every, start):
                if split == "train":
                    met = TRANSFORM.layout.span("MET")
                    read[epoch, number] = np.rint(batch.matrix[:, met.start] / 0.1 + 10).astype(int).tolist()
                yield batch

    class Learned(keras.callbacks.Callback):
        step = 0

        def on_epoch_begin(self, epoch, logs=None):
            self.epoch = epoch

        def on_train_batch_end(self, batch, logs=None):
            with open(job["learned"], "a") as stream:
                stream.write(json.dumps([self.epoch, batch, read[self.epoch, batch]]) + "\\n")
            Learned.step += 1
            if Learned.step == job["die_at"]:
                die()

    config = TrainConfig.model_validate(job["config"])
    stream = Recorded.open(job["chunks"], TRANSFORM, config.batch_size, config.threads)
    model = load_user_model(job["model"], InputLayout.of(stream.transform), seed=config.seed)
    keeper = checkpoint.Keeper.of(job["checkpoints"], {"data": "x"}, config.checkpoint, resume=job["resume"])
    fit(model, stream, config, callbacks=[Learned()], keeper=keeper)
    np.savez(job["weights"], *model.get_weights())
"""

MODEL = """
import keras

def model(idim):
    L = keras.layers
    net = keras.Sequential([L.Input((idim,)), L.Dense(8, "relu"), L.Dropout(0.3), L.BatchNormalization(), L.Dense(1)])
    net.compile(loss=keras.losses.BinaryCrossentropy(from_logits=True), optimizer="adam", metrics=["accuracy"])
    return net
"""

Learned = dict[tuple[int, int], list[int]]
"""Numbers of the events of each batch, by epoch and batch."""


@pytest.fixture(scope="module")
def numbered(tmp_path_factory: pytest.TempPathFactory) -> Chunks:
    """Three chunks of 351 training events, whose MET is the number of the event."""
    numbers = iter(range(1_000))
    sizes = {"train": (150, 131, 70), "validation": (20, 11, 9)}
    events = {
        (chunk, split): [
            {**event, "MET": float(next(numbers))} for event in events_of(counts[chunk], seed=chunk + len(split))
        ]
        for split, counts in sizes.items()
        for chunk in range(3)
    }
    return write_chunks(tmp_path_factory.mktemp("numbered") / "chunks", events)


class Trainings:
    """Children that train, in one folder."""

    def __init__(self, folder: Path, chunks: Chunks) -> None:
        folder.mkdir()
        self.folder, self.chunks = folder, chunks
        (folder / "child.py").write_text(textwrap.dedent(CHILD))
        (folder / "mine.py").write_text(MODEL)

    def run(self, *, die_at: int = 0, torn: int = 0, resume: bool = False) -> tuple[int, Learned]:
        """How it ended, and what it has learned, which must be batches in a row."""
        learned = self.folder / "learned"
        learned.unlink(missing_ok=True)
        checkpoint = {"steps": STEPS, "seconds": None}
        job = {
            "die_at": die_at,
            "torn": torn,
            "resume": resume,
            "chunks": str(self.chunks.folder),
            "model": str(self.folder / "mine.py"),
            "checkpoints": str(self.folder / "checkpoints"),
            "learned": str(learned),
            "weights": str(self.folder / "weights.npz"),
            "config": {"epochs": EPOCHS, "batch_size": BATCH, "threads": 2, "checkpoint": checkpoint},
        }
        done = subprocess.run(  # noqa: S603 - our own code
            [sys.executable, str(self.folder / "child.py"), json.dumps(job)],
            env={
                **os.environ,
                "PYTHONPATH": str(REPOSITORY),
                "TF_NUM_INTRAOP_THREADS": "1",
                "TF_NUM_INTEROP_THREADS": "1",
            },
            capture_output=True,
            text=True,
            check=False,
            timeout=WATCHDOG_S,
        )
        assert done.returncode in {0, -signal.SIGKILL}, done.stderr
        lines = [json.loads(line) for line in learned.read_text().splitlines()] if learned.exists() else []
        steps = [epoch * self.per_epoch + batch for epoch, batch, _ in lines]
        assert steps == list(range(steps[0], steps[0] + len(steps))) if steps else True
        return done.returncode, {(epoch, batch): ids for epoch, batch, ids in lines}

    @property
    def per_epoch(self) -> int:
        return -(-351 // BATCH)

    @property
    def weights(self) -> list[Any]:
        with np.load(self.folder / "weights.npz") as arrays:
            return [arrays[name] for name in arrays.files]


@pytest.fixture(scope="module")
def never_killed(numbered: Chunks, tmp_path_factory: pytest.TempPathFactory) -> tuple[Trainings, Learned]:
    trainings = Trainings(tmp_path_factory.mktemp("never") / "killed", numbered)
    code, learned = trainings.run()
    assert code == 0
    assert len(learned) == EPOCHS * trainings.per_epoch
    for epoch in range(EPOCHS):
        ids = [number for (of, _), numbers in learned.items() if of == epoch for number in numbers]
        assert len(set(ids)) == len(ids) == 351
    assert learned[0, 0] != learned[1, 0]  # another order in each epoch
    return trainings, learned


def kills(count: int, seed: int) -> list[dict[str, int]]:
    """How each child of a chain dies: at a step after its start, or in a checkpoint after its start."""
    rng = random.Random(seed)  # noqa: S311 - moments
    made = [
        {"die_at": rng.randrange(1, 9)} if rng.random() < 0.7 else {"torn": rng.randrange(1, 3)} for _ in range(count)
    ]
    made[0], made[-1] = {"die_at": rng.randrange(4, 15)}, {"torn": 2}  # whatever the seed, both kinds
    return made


@pytest.mark.parametrize(
    ("count", "seed"), [(3, 1), pytest.param(20, 2, marks=pytest.mark.soak)], ids=["3 kills", "20 kills"]
)
def test_killed_at_random_steps_and_in_checkpoints_it_learns_the_same(
    numbered: Chunks, never_killed: tuple[Trainings, Learned], tmp_path: Path, count: int, seed: int
) -> None:
    reference, expected = never_killed
    chain = Trainings(tmp_path / "chain", numbered)
    learned: Learned = {}
    starts: list[tuple[int, int]] = []
    for number, how in enumerate(kills(count, seed)):
        code, of_child = chain.run(**how, resume=number > 0)
        assert code == -signal.SIGKILL, f"child {number} was to die: {how}"  # the fault has fired
        for place, ids in of_child.items():
            assert ids == expected[place], f"child {number}, epoch and batch {place}"
        starts.append(min(of_child, default=(0, 0)))
        learned |= of_child
    code, of_child = chain.run(resume=True)
    assert code == 0
    learned |= of_child
    assert learned == expected
    assert any(start > (0, 0) for start in [*starts, min(of_child)])  # it did go on, and not begin anew
    assert all(np.array_equal(one, other) for one, other in zip(chain.weights, reference.weights, strict=True))
