"""Ctrl-C and SIGTERM end a program within seconds, whatever it is doing, and a second one ends it at once.

The first is a KeyboardInterrupt in the main thread, so that what is under way is left in order. Python can raise it
only between two steps of that thread, which may be in TensorFlow, in a library that is being imported, or waiting for
another: the kernel's own notice (``signal.set_wakeup_fd``) reaches another thread at once, which ends the process if
the main thread has not done so in time. The JVM, its Python workers and what they have started end with the process:
each holds the other end of a pipe of the one that started it.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

EXIT_CODE = 7
PATIENCE_S = 6.0
"""From the first signal on: what the main thread has to end in order."""

_SIGNALS = frozenset({signal.SIGINT, signal.SIGTERM})


def program(
    work: Callable[[], int],
    last_words: str,
    patience: float = PATIENCE_S,
    at_first: Callable[[], object] | None = None,
) -> int:
    """The exit code of ``work``, which tells itself of a KeyboardInterrupt and gives :data:`EXIT_CODE` then.

    After a signal it does not return: the process ends without waiting for threads, which may be in the middle of
    anything, and is gone after ``patience`` seconds whatever it was doing.

    Args:
        work: What the program does, in the main thread.
        last_words: Written to standard error where the main thread does not come to say anything.
        patience: Seconds.
        at_first: Called at the first signal, between two steps of the main thread.
    """
    heard, written = socket.socketpair()
    written.setblocking(False)  # noqa: FBT003 - as socket has it
    signal.set_wakeup_fd(written.fileno(), warn_on_full_buffer=False)
    first = _First(at_first)
    for number in _SIGNALS:
        signal.signal(number, first)

    def watch() -> None:
        _await(heard)
        heard.settimeout(patience)
        _await(heard)
        _gone(EXIT_CODE, last_words)

    threading.Thread(target=watch, name="interrupts", daemon=True).start()
    try:
        code = work()
    except KeyboardInterrupt:  # before it could, or while it was telling of one
        _gone(EXIT_CODE, last_words)
    if first.came:
        sys.stdout.flush()
        # what has not been stopped is done; an error that came of the interruption does not say how to go on
        _gone(code and EXIT_CODE, "" if code in {0, EXIT_CODE} else last_words)
    return code


def keep_handler(before: object) -> None:
    """Put back the handler of Ctrl-C that ``before`` was, if it is ours and somebody has replaced it."""
    if isinstance(before, _First):
        signal.signal(signal.SIGINT, before)


def handler() -> object:
    """The handler of Ctrl-C, for :func:`keep_handler`."""
    return signal.getsignal(signal.SIGINT)


class _First:
    """What Python does of a signal between two steps of the main thread."""

    def __init__(self, at_first: Callable[[], object] | None) -> None:
        self.came = False
        self._at_first = at_first

    def __call__(self, number: int, frame: FrameType | None) -> NoReturn:
        del number, frame
        self.came = True
        if self._at_first:
            self._at_first()
        raise KeyboardInterrupt


def _await(heard: socket.socket) -> None:
    """Wait for one of our signals, or so long as the socket waits."""
    try:
        while not _SIGNALS.intersection(heard.recv(1)):
            pass
    except TimeoutError:
        return


def _gone(code: int, last_words: str) -> NoReturn:
    if last_words:
        os.write(2, f"{last_words}\n".encode())
    os._exit(code)
