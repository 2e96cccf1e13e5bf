"""What trains: a model that takes batches of events, whatever library it is of."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np

from mlaas_spark.errors import MlaasSparkError, ModelContractError, reason
from mlaas_spark.ml.meter import FIT, HANDED, Meter

if TYPE_CHECKING:
    import numpy.typing as npt

    from mlaas_spark.ml.stream import Batch

Logs = Mapping[str, float]
"""The loss and the metrics by name."""

State = dict[str, "npt.NDArray[Any]"]
"""All that a model needs to go on learning from where it is, as arrays of numbers by name."""

AfterBatch = Callable[[int, Logs], None]
"""Told the number of a batch of the pass and the metrics of the pass so far."""


class Learner(Protocol):
    """A model in training."""

    @property
    def stopped(self) -> bool:
        """Whether it asks for no further passes."""

    def begin(self, epochs: int) -> None:
        """Before the first batch."""

    def restore(self, state: State) -> None:
        """Go on from a :meth:`state` that a model of the same kind had; after :meth:`begin`.

        Raises:
            ModelContractError: It is of another model.
        """

    def learn(self, epoch: int, batches: Iterator[Batch], first: int, count: int, after: AfterBatch) -> Logs:
        """Learn from the batches ``first`` up to ``count`` of an epoch; the metrics of the epoch.

        Where ``first`` is not 0 the metrics go on from those of the restored state.

        Raises:
            ModelContractError: The model fails.
        """

    def judge(self, batches: Iterable[Batch]) -> Logs:
        """Loss and metrics on batches that it does not learn from."""

    def end_epoch(self, epoch: int, row: dict[str, float]) -> None:
        """After the epoch's row of the history is known, that of validation too."""

    def end(self) -> None:
        """After the last epoch."""

    def state(self) -> State:
        """What :meth:`restore` takes."""


def match(state: State, name: str, like: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """An array of a state for what is ``like`` it; ModelContractError if it has another shape or is not there."""
    found = state.get(name)
    if found is None or found.shape != np.shape(like):
        shape = "missing" if found is None else f"of shape {found.shape}"
        msg = f"the checkpoint is of another model: {name} is {shape}, the model has {np.shape(like)}"
        raise ModelContractError(msg)
    return found


@dataclass
class Tally:
    """Loss and accuracy of a pass so far, for learners whose library counts none.

    Attributes:
        events: How many.
        loss: Sum of the losses of the events, times their weights.
        right: Events whose class is right; None where there are no classes.
    """

    events: int = 0
    loss: float = 0.0
    right: int | None = None

    def add(self, losses: npt.NDArray[Any], right: npt.NDArray[Any] | None, weights: npt.NDArray[Any] | None) -> None:
        """Count the events of a batch.

        Args:
            losses: Of the events, shape (n,).
            right: Whether the class is right, shape (n,), if there are classes.
            weights: Shape (n,), if they have any: they count in the loss, as in Keras, and not in the accuracy.
        """
        self.events += len(losses)
        self.loss += float(np.sum(losses if weights is None else losses * weights, dtype=np.float64))
        if right is not None:
            self.right = (self.right or 0) + int(np.count_nonzero(right))

    @property
    def logs(self) -> dict[str, float]:
        """``loss`` and, where there are classes, ``accuracy``."""
        if not self.events:
            return {}
        logs = {"loss": self.loss / self.events}
        return logs if self.right is None else {**logs, "accuracy": self.right / self.events}

    def state(self) -> State:
        """For :meth:`of`."""
        right = -1 if self.right is None else self.right
        return {"tally": np.array([self.events, self.loss, right], np.float64)}

    @classmethod
    def of(cls, state: State) -> Self:
        """What :meth:`state` gave; ModelContractError if there is none."""
        events, loss, right = match(state, "tally", np.zeros(3)).tolist()
        return cls(int(events), loss, None if right < 0 else int(right))


class LoopLearner(ABC):
    """The frame of a :class:`Learner` whose library has no loop: batches, their count, callbacks by Keras' names.

    To Keras' callbacks it is the model: they ask it for its weights, its learning rate, and to stop.

    Args:
        callbacks: Keras callbacks that ``ml.callbacks`` has found fit.
        meter: Told what takes how long.
    """

    def __init__(self, callbacks: Sequence[Any] = (), meter: Meter | None = None) -> None:
        self.callbacks = list(callbacks)
        self.meter = meter or Meter()
        self.stop_training = False
        self._tally = Tally()

    # --- of a library

    @abstractmethod
    def _step(self, epoch: int, number: int, batch: Any) -> None:
        """Learn from a batch, and count it in the tally of the pass."""

    @abstractmethod
    def _count(self, tally: Tally, batch: Batch) -> None:
        """Count a batch without learning from it."""

    @abstractmethod
    def get_weights(self) -> list[npt.NDArray[Any]]:
        """Copies of what it has learned."""

    @abstractmethod
    def set_weights(self, weights: Sequence[npt.NDArray[Any]]) -> None:
        """Go back to what :meth:`get_weights` gave."""

    @abstractmethod
    def save_weights(self, filepath: str, *, overwrite: bool) -> None:
        """Write what it has learned, for ModelCheckpoint."""

    @property
    @abstractmethod
    def learning_rate(self) -> float:
        """Of its optimizer."""

    @learning_rate.setter
    @abstractmethod
    def learning_rate(self, rate: float) -> None: ...

    def _batches(self, source: Iterator[Batch], first: int, count: int) -> Iterator[tuple[int, Any]]:
        """The batches ``first`` up to ``count`` with their numbers."""
        return zip(range(first, count), source, strict=False)

    def _without_learning(self) -> AbstractContextManager[Any]:
        """While batches are judged."""
        return nullcontext()

    def _judged(self, tally: Tally) -> Tally:
        """The tally of all batches that were judged, from that of those that were judged here."""
        return tally

    # --- for all of them

    @property
    def optimizer(self) -> Self:
        """Where callbacks look for the learning rate."""
        return self

    @property
    def stopped(self) -> bool:
        """Whether a callback has asked for no further epochs."""
        return self.stop_training

    def begin(self, epochs: int) -> None:
        """Tell the callbacks."""
        del epochs
        self.stop_training = False
        for callback in self.callbacks:
            callback.set_model(self)
            callback.on_train_begin()

    def learn(self, epoch: int, batches: Iterator[Batch], first: int, count: int, after: AfterBatch) -> Logs:
        """Learn from the batches ``first`` up to ``count``; see :class:`Learner`."""
        if not first:
            self._tally = Tally()
        for callback in self.callbacks:
            callback.on_epoch_begin(epoch)
        source: Any = batches
        with closing(source):
            for number, batch in self.meter.waiting(HANDED, self._batches(source, first, count)):
                with self._told(f"epoch {epoch}, batch {number}"), self.meter.timed(FIT):
                    self._step(epoch, number, batch)
                after(number, self._tally.logs)
        return self._tally.logs

    def judge(self, batches: Iterable[Batch]) -> Logs:
        """Loss and accuracy of batches that it does not learn from."""
        tally = Tally()
        source: Any = batches
        with closing(source), self._told("validation"), self._without_learning():
            for batch in self.meter.waiting(HANDED, source):
                with self.meter.timed(FIT):
                    self._count(tally, batch)
            return self._judged(tally).logs

    def end_epoch(self, epoch: int, row: dict[str, float]) -> None:
        """Tell the callbacks, which may add to the row: a learning rate."""
        with self._told(f"a callback after epoch {epoch}"):
            for callback in self.callbacks:
                callback.on_epoch_end(epoch, row)

    def end(self) -> None:
        """Tell the callbacks, which may go back to the best weights."""
        for callback in self.callbacks:
            callback.on_train_end()

    @contextmanager
    def _told(self, where: str) -> Generator[None, None, None]:
        try:
            yield
        except MlaasSparkError:
            raise
        except Exception as error:  # whatever the library or the user's own model raises
            msg = f"the model failed in {where}: {reason(error)}"
            raise ModelContractError(msg) from error
