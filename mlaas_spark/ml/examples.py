"""Events as a model learns from them: inputs, what it should say, and how much each event counts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from mlaas_spark.ml.weights import weighed

if TYPE_CHECKING:
    import numpy.typing as npt

    from mlaas_spark.ml.inputs import InputLayout
    from mlaas_spark.ml.stream import Batch
    from mlaas_spark.ml.weights import ClassTotals

Encode = Callable[["npt.NDArray[np.float32]"], "npt.NDArray[Any]"]


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Examples:
    """How batches become examples.

    Attributes:
        inputs: What the model gets of an event.
        encode: Labels, or targets, as the loss wants them.
        targets: Targets of a regression, 0 where events have classes.
        factors: A factor for the weights of each class; {} for none.
        has_weights: Whether events have weights of their own.
        totals: Of these weights in the training split: by label, and of all events; {} where there are none.
    """

    inputs: InputLayout
    encode: Encode
    targets: int = 0
    factors: Mapping[float, float] = field(default_factory=dict)
    has_weights: bool = False
    totals: Mapping[str, ClassTotals] = field(default_factory=dict)

    @property
    def weighted(self) -> bool:
        """Whether an example has a weight."""
        return self.has_weights or bool(self.factors)

    def weights(self, batch: Batch) -> npt.NDArray[np.float32]:
        """Of the events of a batch, with the factors of their classes, shape (n,)."""
        return weighed(batch.label, batch.weight, self.factors)

    def of(self, batch: Batch) -> tuple[Any, ...]:
        """(x, y) or (x, y, weight)."""
        pair = (self.inputs.arrays(batch.matrix, batch.mask), self.encode(batch.label))
        return (*pair, self.weights(batch)) if self.weighted else pair

    def one(self) -> tuple[Any, ...]:
        """An example (x, y, weight or None) of zeros, for its shapes."""
        width = self.inputs.width
        x = self.inputs.arrays(np.zeros((1, width), np.float32), np.zeros((1, width), np.uint8))
        label = np.zeros((1, self.targets) if self.targets > 1 else 1, np.float32)
        return x, self.encode(label), np.ones(1, np.float32) if self.weighted else None
