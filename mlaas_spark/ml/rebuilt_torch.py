"""The graph of a torch module in Keras' layers, one for one."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from mlaas_spark.errors import ExportError, reason
from mlaas_spark.ml.rebuilt import dense

if TYPE_CHECKING:
    from mlaas_spark.ml.inputs import InputLayout
    from mlaas_spark.ml.torch_learner import TorchModel

Layer = Callable[[Any], Any]

_ACTIVATIONS = {
    "relu": "relu",
    "sigmoid": "sigmoid",
    "tanh": "tanh",
    "silu": "silu",
    "relu6": "relu6",
    "log_sigmoid": "log_sigmoid",
    "logsigmoid": "log_sigmoid",
    "softsign": "softsign",
}
"""Functions and methods of one argument, and layers of the same name in lower case."""
_KEPT = ("Identity", "Dropout", "AlphaDropout")
_KNOWN = (
    "Linear, JaggedArrayLinear, BatchNorm1d, Flatten, Dropout, Identity, Softmax, LogSoftmax, LeakyReLU, ELU, "
    "Softplus, ReLU, Sigmoid, Tanh, SiLU"
)


def outputs(model: TorchModel, inputs: InputLayout, tensors: dict[str, Any]) -> Any:
    """The scores of the module as a Keras tensor.

    Args:
        model: Trained.
        inputs: Its inputs.
        tensors: ``keras.Input`` of each.

    Raises:
        ExportError: A layer or function has no counterpart; it is named.
    """
    import keras
    import torch.fx

    module = model.module
    module.eval()

    class Tracer(torch.fx.Tracer):  # type: ignore[misc] # torch may not be here
        def is_leaf_module(self, m: Any, module_qualified_name: str) -> bool:  # noqa: ARG002 - of the base class
            own = type(m).__name__ == "JaggedArrayLinear" or type(m).__module__.startswith("torch.nn")
            return own and not isinstance(m, torch.nn.Sequential)

    try:
        graph = Tracer().trace(module)
    except Exception as error:  # whatever the user's forward does with what stands for events
        msg = f"the module of {model.name} cannot be rebuilt in Keras: its forward cannot be followed ({reason(error)})"
        raise ExportError(msg) from error
    given = tuple(tensors.values())
    parts = dict(module.named_modules())
    made: dict[Any, Any] = {}
    for node in graph.nodes:
        if node.op == "placeholder":
            made[node] = given[0] if inputs.kind == "matrix" else given if inputs.kind == "matrix+mask" else tensors
        elif node.op == "output":
            result = made.get(node.args[0])
            if not isinstance(result, keras.KerasTensor):
                msg = f"the module of {model.name} cannot be rebuilt in Keras: it does not give one tensor"
                raise ExportError(msg)
            return keras.layers.Activation(model.finish)(result) if model.finish else result
        else:
            made[node] = _step(node, parts, made, model.name)
    msg = f"the module of {model.name} cannot be rebuilt in Keras: it gives nothing"
    raise ExportError(msg)


def _step(node: Any, parts: dict[str, Any], made: dict[Any, Any], name: str) -> Any:
    """What a node of the graph gives, as a Keras tensor."""
    first = made.get(node.args[0]) if node.args and _is_node(node.args[0]) else None
    if node.op == "call_module":
        return _of_layer(parts[node.target], node.target, first, name)
    result = None
    if node.op in {"call_function", "call_method"}:
        target = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
        result = _of_several(node, target, made) if first is None or len(node.args) > 1 else None
        result = _of_one(node, target, first) if result is None and first is not None else result
    if result is None:
        msg = (
            f"the module of {name} cannot be rebuilt in Keras: its forward has {node.format_node()}; layers that can "
            f"be: {_KNOWN}, and their functions, add, cat"
        )
        raise ExportError(msg)
    return result


def _of_several(node: Any, target: str, made: dict[Any, Any]) -> Any:
    """Of a function of several tensors, or a part of the inputs; None if it is neither."""
    import keras

    parts = node.args[0] if target == "cat" else node.args
    tensors: list[Any] = [made.get(part) if _is_node(part) else None for part in parts]
    if node.target is operator.getitem:
        return tensors[0][node.args[1]]
    if not all(isinstance(tensor, keras.KerasTensor) for tensor in tensors):
        return None
    if target == "cat" and _dim(node, 0) in {1, -1}:
        return keras.layers.Concatenate()(tensors)
    return keras.layers.Add()(tensors) if target in {"add", "iadd"} and not node.kwargs else None


def _of_one(node: Any, target: str, tensor: Any) -> Any:
    """Of a function of one tensor; None if Keras has none like it."""
    import keras

    if target in {"dropout", "contiguous"}:
        return tensor
    if target == "flatten" and (node.args[1:], node.kwargs) in (((1,), {}), ((), {"start_dim": 1})):
        return keras.layers.Flatten()(tensor)
    if target in {"softmax", "log_softmax"} and _dim(node, None) in {1, -1}:
        return keras.layers.Activation(target)(tensor)
    return keras.layers.Activation(_ACTIVATIONS[target])(tensor) if target in _ACTIVATIONS else None


def _dim(node: Any, default: int | None) -> int | None:
    found: int | None = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else default)
    return found


def _is_node(value: Any) -> bool:
    import torch.fx

    return isinstance(value, torch.fx.Node)


def _of_layer(layer: Any, place: str, tensor: Any, name: str) -> Any:
    """The Keras layer of a torch layer, called."""
    import keras

    kind = type(layer).__name__
    if kind in {"Linear", "JaggedArrayLinear"}:
        if isinstance(tensor, tuple):
            matrix, mask = tensor
            tensor = keras.layers.Multiply()([matrix, mask])  # the matrix is finite, and 0 where the mask is
        bias = None if layer.bias is None else layer.bias.detach().numpy()
        return dense(tensor, layer.weight.detach().numpy().T, bias, dtype="float32")
    makers: dict[str, Callable[[], Layer]] = {
        "LeakyReLU": lambda: keras.layers.LeakyReLU(negative_slope=layer.negative_slope),
        "ELU": lambda: keras.layers.ELU(alpha=layer.alpha),
        "Flatten": keras.layers.Flatten,
        "Softplus": lambda: keras.layers.Activation("softplus"),
        "Softmax": lambda: keras.layers.Activation("softmax"),
        "LogSoftmax": lambda: keras.layers.Activation("log_softmax"),
    }
    if kind in _KEPT:
        return tensor
    if kind == "BatchNorm1d" and layer.running_mean is not None:
        return _normalised(layer, tensor)
    odd = _unlike(layer, kind)
    if kind.lower() in _ACTIVATIONS:
        return keras.layers.Activation(_ACTIVATIONS[kind.lower()])(tensor)
    if kind in makers and not odd:
        return makers[kind]()(tensor)
    msg = (
        f"the module of {name} cannot be rebuilt in Keras: layer {place or 'itself'} is a {kind}"
        f"{f' with {odd}' if odd else ''}; layers that can be: {_KNOWN}"
    )
    raise ExportError(msg)


def _unlike(layer: Any, kind: str) -> str:
    """What of a layer Keras' has not; "" if nothing."""
    if kind in {"Softmax", "LogSoftmax"} and layer.dim not in {1, -1}:
        return f"dim={layer.dim}"
    if kind == "Softplus" and layer.beta != 1:
        return f"beta={layer.beta}"
    if kind == "Flatten" and (layer.start_dim, layer.end_dim) != (1, -1):
        return f"start_dim={layer.start_dim}, end_dim={layer.end_dim}"
    return ""


def _normalised(layer: Any, tensor: Any) -> Any:
    import keras

    affine = layer.weight is not None
    made = keras.layers.BatchNormalization(epsilon=layer.eps, center=affine, scale=affine)
    result = made(tensor)
    numbers = [layer.running_mean, layer.running_var]
    learned = [layer.weight, layer.bias] if affine else []
    made.set_weights([np.asarray(part.detach().numpy()) for part in (*learned, *numbers)])
    return result
