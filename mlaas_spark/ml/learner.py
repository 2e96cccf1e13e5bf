"""What trains: a model that takes batches of events, whatever library it is of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from mlaas_spark.errors import ModelContractError

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
