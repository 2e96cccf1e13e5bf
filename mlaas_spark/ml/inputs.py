"""What a model gets of an event: the matrix, the matrix with its mask, or a tensor for each group of branches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

if TYPE_CHECKING:
    from mlaas_spark.config import InputKind
    from mlaas_spark.transform import FeatureTransform

FLAT = "flat"
"""Name of the group of all flat branches."""

Stack = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class BranchGroup:
    """Branches of one kind of object: jagged ones whose names begin alike up to the first ``_``, or all flat ones.

    Attributes:
        name: What their names begin with, :data:`FLAT` for the flat ones.
        branches: In column order.
        spans: First and one past the last column of each.
        dim: Objects an event: the largest number of columns of a branch; 0 of flat branches.
    """

    name: str
    branches: tuple[str, ...]
    spans: tuple[tuple[int, int], ...]
    dim: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Of an event: (branches,) of flat ones, (dim, branches) of jagged ones."""
        return (self.dim, len(self.branches)) if self.dim else (len(self.branches),)


@dataclass(frozen=True, slots=True)
class InputLayout:
    """How the feature matrix becomes the inputs of a model; what ``model(layout, config)`` is given.

    Attributes:
        kind: ``matrix``; ``matrix+mask``, two inputs of shape (n, W); or ``groups``: for each group an input of its
            name and, if it is jagged, one of its name with ``_mask``.
        width: W.
        columns: A name for each column of the matrix.
        groups: The branches by kind of object, :data:`FLAT` first, then by name.
    """

    kind: InputKind
    width: int
    columns: tuple[str, ...]
    groups: dict[str, BranchGroup]

    @classmethod
    def of(cls, transform: FeatureTransform, kind: InputKind = "matrix") -> Self:
        """The inputs that a transform's matrix can give."""
        members: dict[str, list[str]] = {}
        for branch, jagged in zip(transform.layout.branches, transform.jagged, strict=True):
            members.setdefault(branch.split("_")[0] if jagged else FLAT, []).append(branch)
        groups = {}
        for name in sorted(members, key=lambda name: (name != FLAT, name)):
            spans = [transform.layout.span(branch) for branch in members[name]]
            dim = 0 if name == FLAT else max(span.stop - span.start for span in spans)
            edges = tuple((span.start, span.stop) for span in spans)
            groups[name] = BranchGroup(name, tuple(members[name]), edges, dim)
        return cls(kind, transform.width, tuple(transform.columns), groups)

    @classmethod
    def matrix(cls, width: int) -> Self:
        """A matrix of so many columns of which no more is known."""
        return cls("matrix", width, tuple(f"column_{number}" for number in range(width)), {})

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each input, of one event, by name; all are float32."""
        if self.kind == "matrix":
            return {"matrix": (self.width,)}
        if self.kind == "matrix+mask":
            return {"matrix": (self.width,), "mask": (self.width,)}
        shapes = {}
        for name, group in self.groups.items():
            shapes[name] = group.shape
            if group.dim:
                shapes[f"{name}_mask"] = (group.dim,)
        return shapes

    def arrays(self, matrix: Any, mask: Any) -> Any:
        """The inputs of events: an array, a pair of them, or a dict of them.

        Args:
            matrix: float32, shape (n, W).
            mask: uint8, shape (n, W).
        """
        if self.kind == "matrix":
            return matrix
        return self._made(matrix, mask.astype(np.float32), np.stack, _padded, np.maximum)

    def tensors(self, matrix: Any, mask: Any) -> Any:
        """As :meth:`arrays`, of float32 TensorFlow tensors, in a graph too."""
        import tensorflow as tf

        def padded(columns: Any, missing: int) -> Any:
            return tf.pad(columns, [[0, 0], [0, missing]]) if missing else columns

        return matrix if self.kind == "matrix" else self._made(matrix, mask, tf.stack, padded, tf.maximum)

    def _made(self, matrix: Any, mask: Any, stack: Stack, padded: Callable[[Any, int], Any], larger: Stack) -> Any:
        if self.kind == "matrix+mask":
            return matrix, mask
        made = {}
        for name, group in self.groups.items():
            if not group.dim:
                made[name] = stack([matrix[:, start] for start, _ in group.spans], axis=1)
                continue
            parts = [(slice(start, stop), group.dim - (stop - start)) for start, stop in group.spans]
            made[name] = stack([padded(matrix[:, span], missing) for span, missing in parts], axis=2)
            there = [padded(mask[:, span], missing) for span, missing in parts]
            whole = there[0]
            for other in there[1:]:
                whole = larger(whole, other)  # an object is there if one of its branches is
            made[f"{name}_mask"] = whole
        return made

    def keras_inputs(self) -> dict[str, Any]:
        """A ``keras.Input`` of each input, by name, for a functional model."""
        import keras

        return {name: keras.Input(shape, name=name) for name, shape in self.shapes.items()}


def _padded(columns: Any, missing: int) -> Any:
    return np.pad(columns, [(0, 0), (0, missing)]) if missing else columns
