"""On PYTHONPATH of a process under test, Spark's Python workers too: what MLAAS_FAULTS orders befalls our storage.

``{"wait": 60.0, "told": FILE}``: each record of an attempt is told in a line of FILE: stage and partition, attempt. The
first attempt at a stage's second task has written its files and waits with its record until another attempt at that
task is so far too, for so many seconds at the most: both are there at the same moment.
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
_PARTITION = 1  # of two executors the second one begins with it


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
        _duplicated(module, self._orders)


def _duplicated(storage: Any, orders: dict[str, Any]) -> None:
    publish = storage.publish

    def told_first(url: str, *args: Any) -> bool:
        from pyspark import TaskContext

        if (task := TaskContext.get()) is not None:
            name = f"{task.stageId()}.{task.partitionId()}"
            with open(orders["told"], "a", encoding="ascii") as told:  # noqa: PTH123 - appends whole lines
                told.write(f"{name} {task.attemptNumber()}\n")
            if task.attemptNumber() == 0 and task.partitionId() == _PARTITION:
                _wait(f"{name} 1\n", orders)
        return bool(publish(url, *args))

    storage.publish = told_first


def _wait(line: str, orders: dict[str, Any]) -> None:
    end = time.monotonic() + orders["wait"]
    while time.monotonic() < end:
        with open(orders["told"], encoding="ascii") as told:  # noqa: PTH123 - this runs before all else
            if line in told.readlines():
                return
        time.sleep(0.002)


if text := os.environ.get("MLAAS_FAULTS"):
    sys.meta_path.insert(0, _Patching(json.loads(text)))
