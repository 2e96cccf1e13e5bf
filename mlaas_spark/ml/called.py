"""What callbacks have counted, as arrays of a training's state; files of what a model has learned. Imports no Keras."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlaas_spark.ml.learner import State

WRITTEN = ".weights.h5"
"""What Keras wants at the end of the name of a file of weights; the file that is written has its name without it."""

_SET_ANEW = ("params", "min_delta")  # of callbacks; Keras turns the sign of min_delta when it first looks at a metric
_Plain = (bool, int, float, str, type(None), np.integer, np.floating)


def callback_state(callbacks: Sequence[Any]) -> State:
    """Their plain attributes, and the best weights that some keep."""
    arrays: State = {}
    for number, callback in enumerate(callbacks):
        for name, value in vars(callback).items():
            if name.startswith("_") or name in _SET_ANEW:
                continue
            place = f"callback/{number}/{name}"
            if isinstance(value, _Plain):
                arrays[place] = np.array("" if value is None else value)
            elif name == "best_weights" and value is not None:
                arrays.update({f"{place}/{index}": np.asarray(weight) for index, weight in enumerate(value)})
    return arrays


def restore_callbacks(callbacks: Sequence[Any], state: State) -> None:
    """Give them what :func:`callback_state` has taken."""
    for number, callback in enumerate(callbacks):
        prefix = f"callback/{number}/"
        for name in [name for name in state if name.startswith(prefix) and name.count("/") == 2]:
            value = state[name].item()
            setattr(callback, name.removeprefix(prefix), None if isinstance(value, str) and not value else value)
        if weights := [name for name in state if name.startswith(f"{prefix}best_weights/")]:
            weights.sort(key=lambda name: int(name.rpartition("/")[2]))
            callback.best_weights = [state[name] for name in weights]


def write_npz(filepath: str, arrays: State) -> None:
    """Write arrays where ModelCheckpoint says, whole or not at all."""
    target = Path(filepath.removesuffix(WRITTEN))
    unfinished = target.with_name(f".{target.name}")
    with unfinished.open("wb") as stream:
        np.savez(stream, **arrays)
    unfinished.replace(target)
