"""The state of a library's own objects as arrays of numbers and a JSON text: nothing is pickled, no class is named.

What comes out is put into objects that are there already, so a state can change numbers and never what runs.
"""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING, Any

import numpy as np

from mlaas_spark.errors import ModelContractError, reason

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlaas_spark.ml.learner import State

_Plain = (bool, int, float, str, type(None))
_KEEP = {"keep": 0}
_ABOUT = "about"


def pack(value: Any, prefix: str, is_part: Callable[[Any], bool] | None = None) -> State:
    """``value`` as arrays whose names begin with ``prefix``: containers, numbers, text, numpy and torch arrays.

    Args:
        value: What to write.
        prefix: Of the names.
        is_part: Whether an object's attributes are part of the state; None: no object's.
    """
    packer = _Packer(prefix, is_part)
    about = json.dumps(packer.node(value))
    return {**packer.arrays, f"{prefix}/{_ABOUT}": np.array(about)}


def unpack(state: State, prefix: str, like: Any) -> Any:
    """What :func:`pack` wrote; objects and random generators in it are those of ``like``, changed in place.

    Raises:
        ModelContractError: It is of something else.
    """
    try:
        return _Unpacker(state, prefix).value(json.loads(state[f"{prefix}/{_ABOUT}"].item()), like)
    except (KeyError, ValueError, AttributeError, TypeError) as error:
        msg = f"the checkpoint is of another model: {prefix} does not fit: {reason(error)}"
        raise ModelContractError(msg) from error


def generators() -> State:
    """The random generators of numpy and Python, which a library may draw from."""
    legacy = np.random.get_state()  # noqa: NPY002 - what scikit-learn draws from where no seed is given
    return {**pack(legacy, "random/numpy"), **pack(random.getstate(), "random/python")}


def restore_generators(state: State) -> None:
    """Put them where they were."""
    np.random.set_state(unpack(state, "random/numpy", None))  # noqa: NPY002 - as above
    random.setstate(unpack(state, "random/python", None))


class _Packer:
    def __init__(self, prefix: str, is_part: Callable[[Any], bool] | None) -> None:
        self.arrays: State = {}
        self._prefix, self._is_part = prefix, is_part
        self._places: dict[tuple[Any, ...], int] = {}
        self._alive: list[Any] = []

    def node(self, part: Any) -> dict[str, Any]:
        """What JSON says of a part; its numbers go to ``arrays``."""
        if (leaf := self._leaf(part)) is not None:
            return leaf
        if isinstance(part, np.random.RandomState):
            return {"random": self.node(part.get_state())}
        if isinstance(part, dict):
            return {"dict": [[self.node(name), self.node(of_name)] for name, of_name in part.items()]}
        if isinstance(part, list | tuple):
            return {"list" if isinstance(part, list) else "tuple": [self.node(item) for item in part]}
        if self._is_part is not None and self._is_part(part):
            return {"object": {name: self.node(attribute) for name, attribute in vars(part).items()}}
        return _KEEP

    def _leaf(self, part: Any) -> dict[str, Any] | None:
        if isinstance(part, np.generic):  # before float, which float64 is too
            return {"number": self._place(np.array(part))}
        if isinstance(part, _Plain):
            return {"plain": part}
        if isinstance(part, np.ndarray):
            return _KEEP if part.dtype.hasobject else {"array": self._place(part), "shape": list(part.shape)}
        if hasattr(part, "detach") and hasattr(part, "numpy"):
            return {"tensor": self._place(part.detach().cpu().numpy()), "shape": list(part.shape)}
        return None

    def _place(self, array: Any) -> int:
        """Its number. Two arrays that are one memory stay so: the averaged weights of an SGD model, for one."""
        key = (array.__array_interface__["data"][0], array.nbytes, array.dtype.str, array.flags.c_contiguous)
        if not array.size or array.ndim == 0 or not array.flags.c_contiguous or key not in self._places:
            self._places[key] = len(self.arrays)
            self._alive.append(array)  # else the next one may lie where it lay
            self.arrays[f"{self._prefix}/{len(self.arrays)}"] = array.copy(order="K")
        return self._places[key]


class _Unpacker:
    def __init__(self, state: State, prefix: str) -> None:
        self._state, self._prefix = state, prefix
        self._made: dict[int, Any] = {}

    def value(self, node: dict[str, Any], like: Any) -> Any:
        """The part that a node tells of."""
        ((kind, content),) = [item for item in node.items() if item[0] != "shape"]
        if kind in {"array", "tensor", "number"}:
            if isinstance(like, np.ndarray) and list(like.shape) != (shape := node.get("shape", [])):
                msg = f"an array is of shape {tuple(shape)}, the model has {like.shape}"
                raise ValueError(msg)
            return self._array(kind, content, node.get("shape"))
        if kind in {"dict", "list", "tuple"}:
            return self._container(kind, content, like)
        if kind == "random":
            like.set_state(self.value(content, None))
        elif kind == "object":
            if foreign := sorted(set(vars(like)) ^ set(content)):
                kind_of = type(like).__name__
                msg = f"it has not the attributes of {kind_of}, only one of the two has {', '.join(foreign[:5])}"
                raise ValueError(msg)
            for name, of in content.items():
                setattr(like, name, self.value(of, getattr(like, name)))
        return content if kind == "plain" else like

    def _array(self, kind: str, number: int, shape: list[int] | None) -> Any:
        array = self._made.setdefault(number, self._state[f"{self._prefix}/{number}"].copy(order="K"))
        if kind == "tensor":
            import torch

            return torch.from_numpy(array).reshape(shape or ())
        if kind == "number":
            return array[()]
        return array if list(array.shape) == shape else array.reshape(shape)

    def _container(self, kind: str, content: list[Any], like: Any) -> Any:
        if kind == "dict":
            known = like if isinstance(like, dict) else {}
            named = [(self.value(name, None), of_name) for name, of_name in content]
            return {name: self.value(of_name, known.get(name)) for name, of_name in named}
        likes = list(like) if isinstance(like, list | tuple) else []
        likes += [None] * (len(content) - len(likes))
        items = [self.value(of, known) for of, known in zip(content, likes, strict=False)]
        return items if kind == "list" else tuple(items)
