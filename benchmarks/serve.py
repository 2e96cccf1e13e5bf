"""Both ends of a process that answers requests, a JSON line each: what is measured runs apart from who measures.

Imports nothing but Python's own library, for it is used in the environment of the peers as well.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import IO, TYPE_CHECKING, Any, Self, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

_SHOWN = 4_000  # characters of the log of a process that died


def timed(work: Callable[[], Any]) -> float:
    """Seconds that ``work`` takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def serve(commands: Mapping[str, Callable[..., Any]]) -> None:
    """Answer ``{"do": command, argument: value, ...}`` until standard input ends.

    Standard output is the answers' alone: whatever else is printed, by the JVM too, goes to standard error.
    """
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)
        for line in sys.stdin:
            request = json.loads(line)
            answer = commands[request.pop("do")](**request)
            answers.write(json.dumps(answer) + "\n")
            answers.flush()


class Served:
    """A process that answers requests; it starts at once, and is ready when it first answers."""

    def __init__(self, command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None) -> None:
        self._log = log
        with log.open("wb") as errors:
            self._process = subprocess.Popen(  # noqa: S603 - our own
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=environment and dict(environment),
            )
        self._requests = cast("IO[str]", self._process.stdin)
        self._answers = cast("IO[str]", self._process.stdout)

    @property
    def pid(self) -> int:
        """Number of the process."""
        return self._process.pid

    def send(self, do: str, **arguments: Any) -> None:
        """Ask, and do not wait."""
        self._requests.write(json.dumps({"do": do, **arguments}) + "\n")
        self._requests.flush()

    def receive(self) -> Any:
        """The answer to the oldest request that has none.

        Raises:
            RuntimeError: The process has died; the end of what it said is in the message.
        """
        if not (line := self._answers.readline()):
            self._process.wait()  # until then it may not have said all
            said = self._log.read_text(encoding="utf-8", errors="replace")[-_SHOWN:]
            msg = f"{' '.join(map(str, self._process.args))} died:\n{said}"  # type: ignore[arg-type]
            raise RuntimeError(msg)
        return json.loads(line)

    def ask(self, do: str, **arguments: Any) -> Any:
        """Ask, and wait for the answer."""
        self.send(do, **arguments)
        return self.receive()

    def close(self) -> None:
        """Have it end, and wait."""
        self._requests.close()
        self._process.wait()
        self._answers.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
