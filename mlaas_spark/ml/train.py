"""Training: a model learns from a stream of chunks, pass by pass, and can go on from any batch of any pass."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from mlaas_spark.errors import ModelContractError
from mlaas_spark.ml.checkpoint import Position

if TYPE_CHECKING:
    import numpy.typing as npt

    from mlaas_spark.config import TrainConfig
    from mlaas_spark.ml.checkpoint import Keeper
    from mlaas_spark.ml.learner import Learner, Logs
    from mlaas_spark.ml.stream import ChunkStream
    from mlaas_spark.ml.weights import ClassTotals
    from mlaas_spark.transform import FeatureTransform

TRAIN, VALIDATION = "train", "validation"

Row = dict[str, float]
Progress = Callable[[int, int, Mapping[str, float]], None]
"""Told after each pass: how many are done, how many there are, the newest row of the history."""

_NAMED_BRANCHES = 3


@dataclass(frozen=True, slots=True)
class History:
    """What training went through.

    Attributes:
        rows: One for each epoch (of each chunk, numbers from 0): chunk, epoch, loss and the model's metrics, those of
            the validation split with ``val_`` before their name. No chunk is given where an epoch covers all.
        weights: Totals of the weights of the training events, by label, and of all; {} where they have none.
    """

    rows: tuple[Row, ...]
    weights: Mapping[str, ClassTotals] = field(default_factory=dict)

    def to_csv(self) -> str:
        """As CSV with a header; a metric that a row lacks is empty."""
        names = list(dict.fromkeys(name for row in self.rows for name in ("chunk", "epoch", *row)))
        text = io.StringIO()
        writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        return text.getvalue()


@dataclass(frozen=True, slots=True)
class Pass:
    """Once over all training events, or over those of a chunk.

    Attributes:
        epoch: Its number; in mode chunks the number of the epoch of that chunk.
        chunk: The chunk, None for all.
    """

    epoch: int
    chunk: int | None = None

    @property
    def name(self) -> str:
        """For messages."""
        return f"epoch {self.epoch}" + ("" if self.chunk is None else f" of chunk {self.chunk}")

    @property
    def place(self) -> Row:
        """Its columns in the history."""
        return {"epoch": self.epoch} if self.chunk is None else {"chunk": self.chunk, "epoch": self.epoch}


def passes(stream: ChunkStream, config: TrainConfig) -> list[Pass]:
    """The passes of a training: an epoch over all events each, or in mode chunks so many over each chunk in turn."""
    if config.mode != "chunks":
        return [Pass(epoch) for epoch in range(config.epochs)]
    chunks = [chunk for chunk in range(stream.manifest.chunks) if stream.events(TRAIN, chunk)]
    return [Pass(epoch, chunk) for chunk in chunks for epoch in range(config.epochs)]


def events_before(stream: ChunkStream, config: TrainConfig, position: Position) -> int:
    """Training events that all passes before a position had, one counted as often as it was learned from."""
    turns = passes(stream, config)
    whole = sum(stream.events(TRAIN, turn.chunk) for turn in turns[: position.turn])
    if position.turn == len(turns):
        return whole
    return whole + min(position.batch * stream.batch_size, stream.events(TRAIN, turns[position.turn].chunk))


def events_learned(stream: ChunkStream, rows: Sequence[Mapping[str, float]]) -> int:
    """Training events of the epochs that a history has; where it tells of the last epoch alone, of those before too."""
    epochs: dict[int | None, int] = {}
    for row in rows:
        chunk = int(row["chunk"]) if "chunk" in row else None
        epochs[chunk] = max(epochs.get(chunk, 0), int(row["epoch"]) + 1)
    return sum(stream.events(TRAIN, chunk) * count for chunk, count in epochs.items())


def train(
    learner: Learner,
    stream: ChunkStream,
    config: TrainConfig,
    progress: Progress | None = None,
    keeper: Keeper | None = None,
) -> History:
    """Let the learner learn from the training split.

    The order of the events depends on chunks and seed alone; the same seed, chunks and machine give the same weights
    with one thread of the library, and so does a training that went on from a checkpoint.

    Args:
        learner: The model.
        stream: The chunks.
        config: Mode, epochs, seed.
        progress: Told after each pass.
        keeper: Writes checkpoints; goes on from the one that it has.

    Raises:
        ModelContractError: The model fails, or the loss is not a number any more.
        ChunkError: The chunks cannot be read.
    """
    report = progress or nobody_looks
    start = keeper.resumed.position if keeper and keeper.resumed else Position()
    rows: list[Row] = list(keeper.resumed.rows) if keeper and keeper.resumed else []
    turns = passes(stream, config)
    learner.begin(len(turns))
    if keeper and keeper.resumed:
        learner.restore(keeper.resumed.state)
    step = start.step
    for turn, current in list(enumerate(turns))[start.turn :]:
        first = start.batch if turn == start.turn else 0
        order = {"chunk": current.chunk, "seed": config.seed if config.shuffle else None, "epoch": turn}
        count = stream.steps(TRAIN, current.chunk)

        def after(batch: int, logs: Logs, turn: int = turn, order: dict[str, int | None] = order) -> None:
            nonlocal step
            step += 1
            if not finite(logs):
                refuse_nan(logs, f"{turns[turn].name}, batch {batch}", stream.transform, _matrix(stream, order, batch))
            if keeper and keeper.due(step):
                _keep(keeper, Position(turn, batch + 1, step), rows, learner)

        row = dict(
            learner.learn(turn, stream.batches(TRAIN, start=first, **order), first, count, after)  # type: ignore[arg-type]
        )
        if stream.events(VALIDATION, current.chunk):
            judged = learner.judge(stream.batches(VALIDATION, chunk=current.chunk))
            row |= {f"val_{name}": value for name, value in judged.items()}
        learner.end_epoch(turn, row)
        rows.append({**current.place, **{name: float(value) for name, value in row.items()}})
        if not finite(rows[-1]):
            refuse_nan(rows[-1], current.name, stream.transform, _matrix(stream, order, 0))
        report(turn + 1, len(turns), rows[-1])
        if learner.stopped:
            break
        if keeper and keeper.due(step):
            _keep(keeper, Position(turn + 1, 0, step), rows, learner)
    learner.end()
    return History(tuple(rows))


def _keep(keeper: Keeper, position: Position, rows: list[Row], learner: Learner) -> None:
    """Write a checkpoint; not over one that is good if weights are no numbers any more, which the next batch shows."""
    state = learner.state()
    weights = (array for name, array in state.items() if name.startswith("model/") and array.dtype.kind == "f")
    if not any(np.isnan(array).any() for array in weights):
        keeper.keep(position, tuple(rows), state)


def refuse_nan(row: Logs, where: str, transform: FeatureTransform, matrix: npt.NDArray[np.float32]) -> None:
    """Raise what there is to say of a loss that is not a number, where the model had these features last."""
    losses = ", ".join(f"{name} {value:g}" for name, value in row.items() if name.endswith("loss"))
    msg = (
        f"the loss is not a number in {where} ({losses}); the largest feature values are "
        f"{largest_values(transform, matrix)}: normalise them, or lower the learning rate"
    )
    raise ModelContractError(msg)


def finite(row: Logs) -> bool:
    """Whether all losses of a history row are numbers."""
    return all(math.isfinite(value) for name, value in row.items() if name.endswith("loss"))


def _matrix(stream: ChunkStream, order: Mapping[str, int | None], batch: int) -> npt.NDArray[np.float32]:
    """The features of a batch of a pass, read again; those that other workers had too."""
    return next(stream.whole().batches(TRAIN, start=batch, **order)).matrix  # type: ignore[arg-type] # chunk, seed, epoch


def largest_values(transform: FeatureTransform, matrix: npt.NDArray[np.float32]) -> str:
    """The branches with the largest absolute values in a feature matrix, and those values."""
    top = {
        name: float(np.abs(matrix[:, transform.layout.span(name)]).max(initial=0)) for name in transform.layout.branches
    }
    worst = sorted(top, key=lambda name: (-top[name], name))[:_NAMED_BRANCHES]
    return ", ".join(f"{name} ({top[name]:.3g})" for name in worst)


def nobody_looks(done: int, total: int, row: Mapping[str, float]) -> None:
    """Progress that nobody asked for."""
