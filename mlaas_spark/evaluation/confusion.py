"""Which class events are taken for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mlaas_spark.evaluation.events import Scored, label_text

if TYPE_CHECKING:
    import numpy.typing as npt


def predicted(scores: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Class of each event: of one output whether the score is above 0.5, of more the largest."""
    return (scores[:, 0] > 0.5).astype(np.int64) if scores.shape[1] == 1 else scores.argmax(axis=1)


def confusion(scored: Scored) -> dict[str, Any]:
    """``labels``, and for each true label a row over the predicted ones.

    ``sum`` of the weights, ``error`` (root of the sum of their squares), ``events`` without weights, and ``share``,
    each row of ``sum`` over its total; None in rows whose weights add up to 0 or less.
    """
    classes = max(scored.outputs, 2)
    cell = scored.labels.astype(np.int64) * classes + predicted(scored.scores)
    weights = scored.weights.astype(np.float64)
    shape = (classes, classes)
    total = np.bincount(cell, weights, classes**2).reshape(shape)
    squares = np.bincount(cell, weights**2, classes**2).reshape(shape)
    rows = total.sum(axis=1)
    return {
        "labels": [label_text(label) for label in range(classes)],
        "events": np.bincount(cell, minlength=classes**2).reshape(shape).tolist(),
        "sum": total.tolist(),
        "error": np.sqrt(squares).tolist(),
        "share": [(row / of).tolist() if of > 0 else None for row, of in zip(total, rows, strict=True)],
    }
