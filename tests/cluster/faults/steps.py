"""Faults at the steps of a process: its n-th change of a file system is where it dies, is lied to, or stops.

Run as ``python -m tests.cluster.faults.steps``, it forks a process for each order that it reads from its input.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

STEPS = ("fsync", "link", "mkdir", "replace", "rmdir", "unlink")
"""Functions of ``os`` that change what others see of a file system."""


@dataclass(frozen=True)
class Fault:
    """What befalls a process.

    Attributes:
        step: At which of its steps, from 1; 0 only tells of them.
        what: ``before`` and ``after``: kill -9 on that side of the step; ``lost``: the step is done, and an error is
            raised; ``stop``: SIGSTOP after it.
        only: The kinds of steps that count.
        told: A file to which ``fired`` is written, or of 0 a line for each step.
    """

    step: int
    what: str
    told: str
    only: tuple[str, ...] = STEPS

    def arm(self) -> None:
        """Put it in place."""
        count = [0]
        told = os.open(self.told, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for name in self.only:
            setattr(os, name, self._at(getattr(os, name), name, count, told))

    def _at(self, real: Callable[..., Any], name: str, count: list[int], told: int) -> Callable[..., Any]:
        def step(*args: Any, **kwargs: Any) -> Any:
            if self.what == "before":
                count[0] += 1
                if count[0] == self.step:
                    _tell(told, f"fired before {name}\n")
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*args, **kwargs)
            result = real(*args, **kwargs)  # what failed was no step
            count[0] += 1
            if not self.step:
                _tell(told, f"{name} {args}\n")
            if count[0] != self.step:
                return result
            _tell(told, f"fired after {name}\n")
            if self.what == "lost":
                raise OSError(errno.EIO, "no answer")
            os.kill(os.getpid(), signal.SIGKILL if self.what == "after" else signal.SIGSTOP)
            return result

        return step


def _tell(told: int, text: str) -> None:
    os.write(told, text.encode())


def serve() -> None:
    """Do the orders of the input: each a process of its own, whose exit status goes to the output."""
    from tests.cluster.faults import local

    for line in sys.stdin:
        order = json.loads(line)
        children = [_forked(local, one) for one in order]
        statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        sys.stdout.write(json.dumps(statuses) + "\n")
        sys.stdout.flush()


def _forked(local: Any, order: dict[str, Any]) -> int:
    sys.stdout.flush()
    if child := os.fork():
        return child
    try:
        code = _child(local, order)
    except BaseException:  # noqa: BLE001 - whatever it is, the child says it and ends
        traceback.print_exc()
        code = 70
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _child(local: Any, order: dict[str, Any]) -> int:
    with Path(order["out"]).open("w") as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
    if order.get("fault"):
        Fault(**order["fault"]).arm()
    return int(getattr(local, order["do"])(*order["args"]))


if __name__ == "__main__":
    serve()
