"""On PYTHONPATH of a process under test, Spark's Python workers too: what MLAAS_FAULTS orders befalls our storage.

``{"slow": 3.0, "told": FILE}``: the first attempt at each third task waits so many seconds before it records its work;
each record of an attempt is told in a line of FILE: partition, attempt.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import json
import os
import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

_TARGET = "mlaas_spark.storage"
_EVERY = 3


class _Patching(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Loads the module as ever, and changes it when it is there."""

    def __init__(self, orders: dict[str, Any]) -> None:
        self._orders = orders
        self._real: Any = None

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        del path, target
        if name != _TARGET:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is None:
            return None
        self._real, spec.loader = spec.loader, self
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._real.create_module(spec)  # type: ignore[no-any-return]

    def exec_module(self, module: ModuleType) -> None:
        self._real.exec_module(module)
        _slow(module, self._orders)


def _slow(storage: Any, orders: dict[str, Any]) -> None:
    publish = storage.publish

    def slow(url: str, *args: Any) -> bool:
        from pyspark import TaskContext

        if (task := TaskContext.get()) is not None:
            with open(orders["told"], "a", encoding="ascii") as told:  # noqa: PTH123 - appends whole lines
                told.write(f"{task.partitionId()} {task.attemptNumber()}\n")
            if task.attemptNumber() == 0 and task.partitionId() % _EVERY == 0:
                time.sleep(orders["slow"])
        return bool(publish(url, *args))

    storage.publish = slow


if text := os.environ.get("MLAAS_FAULTS"):
    sys.meta_path.insert(0, _Patching(json.loads(text)))
