"""One digest for one model: over its architecture and weights, and not over how it was compiled or named."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator


def content_digest(model: Any, content: list[Any]) -> str:
    """SHA-256 over architecture and weights of the model, and over the plain values of ``content``."""
    digest = hashlib.sha256(json.dumps([_architecture(model), content], sort_keys=True).encode())
    for weight in model.get_weights():
        digest.update(f"{weight.dtype}{weight.shape}".encode())
        digest.update(np.ascontiguousarray(weight).tobytes())
    return digest.hexdigest()


def _architecture(model: Any) -> Any:
    """The model's config without what does not change its scores: how it is compiled, automatic names."""
    try:
        config = json.loads(model.to_json())
    except (NotImplementedError, TypeError, ValueError, RuntimeError):
        return type(model).__name__  # a subclassed model without a config: its weights must do
    names = dict.fromkeys(_layer_names(config))
    return _neutral(config, {name: f"layer_{index}" for index, name in enumerate(names)})


def _layer_names(config: Any) -> Iterator[str]:
    """Names of the layers in a model's config, in its order."""
    if isinstance(config, dict):
        inner = config.get("config")
        if isinstance(inner, dict) and isinstance(inner.get("name"), str) and config.get("class_name") != "DTypePolicy":
            yield inner["name"]
    values = config.values() if isinstance(config, dict) else config if isinstance(config, list) else ()
    for value in values:
        yield from _layer_names(value)


def _neutral(config: Any, names: dict[str, str]) -> Any:
    if isinstance(config, dict):
        dropped = {"compile_config", "build_config"}
        return {key: _neutral(value, names) for key, value in config.items() if key not in dropped}
    if isinstance(config, list):
        return [_neutral(value, names) for value in config]
    return names.get(config, config) if isinstance(config, str) else config
