"""Ctrl-C and SIGTERM end a program within seconds, whatever it is doing, and a second one ends it at once.

The first is a KeyboardInterrupt in the main thread, so that what is under way is left in order. Python can raise it
only between two steps of that thread, which may be in TensorFlow, in a library that is being imported, or waiting for
another: the kernel's own notice (``signal.set_wakeup_fd``) reaches another thread at once, which ends the process if
the main thread has not done so in time. The JVM, its Python workers and what they have started end with the process:
each holds the other end of a pipe of the one that started it.
"""

from __future__ import annotations

import atexit
import os
import signal
import socket
import sys
import threading
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

EXIT_CODE = 7
PATIENCE_S = 6.0
"""From the first signal on: what the main thread has to end in order."""

_SIGNALS = frozenset({signal.SIGINT, signal.SIGTERM})
_AGAIN = signal.SIGURG  # nobody else sends it; who watches does not count it
_MOMENT_S = 0.05


def program(
    work: Callable[[], tuple[int, str]],
    tell: Callable[[str], object],
    last_words: str,
    patience: float = PATIENCE_S,
    at_first: Callable[[], object] | None = None,
) -> int:
    """The exit code of ``work``, which gives of a KeyboardInterrupt :data:`EXIT_CODE` and how to go on.

    After a signal it does not return: the process ends without waiting for threads, which may be in the middle of
    anything, and is gone after ``patience`` seconds whatever it was doing. A signal that comes when the work is done
    changes nothing of that: the process has so long to end by itself.

    Args:
        work: What the program does, in the main thread: its exit code, and what is to be said of it, if anything.
        tell: Says that.
        last_words: Written to standard error where the main thread does not come to say anything, and in place of an
            error, which came of the interruption.
        patience: Seconds.
        at_first: Called at the first signal, between two steps of the main thread.
    """
    heard, written = socket.socketpair()
    written.setblocking(False)  # noqa: FBT003 - as socket has it
    signal.set_wakeup_fd(written.fileno(), warn_on_full_buffer=False)
    handler = _Handler(at_first, written)
    for number in _SIGNALS:
        signal.signal(number, handler)
    signal.signal(_AGAIN, handler)
    atexit.register(_ignore)  # called after all that is registered later
    sys.unraisablehook = partial(_swallowed, handler, sys.unraisablehook)

    def watch() -> None:
        _await(heard)
        heard.settimeout(patience)
        _await(heard)
        if handler.done is None:
            _gone(EXIT_CODE, last_words)
        _gone(handler.done)

    threading.Thread(target=watch, name="interrupts", daemon=True).start()
    try:
        code, said = work()
        if code == 0 or not handler.came:
            handler.done = code
    except KeyboardInterrupt:  # before it could, or while it was telling of one
        _gone(EXIT_CODE, last_words)
    if handler.came and code not in {0, EXIT_CODE}:
        code, said = EXIT_CODE, last_words
    if said:
        tell(said)
    if handler.came:
        sys.stdout.flush()
        _gone(code)
    return code


def keep_handler(before: object) -> None:
    """Put back the handler of Ctrl-C that ``before`` was, if it is ours and somebody has replaced it."""
    if isinstance(before, _Handler):
        signal.signal(signal.SIGINT, before)


def handler() -> object:
    """The handler of Ctrl-C, for :func:`keep_handler`."""
    return signal.getsignal(signal.SIGINT)


class _Handler:
    """What Python does of a signal between two steps of the main thread.

    Attributes:
        came: Whether one has come while there was something to stop.
        done: The exit code of the work, when that is over.
        wakes: What wakes the thread that watches; open as long as signals come here.
    """

    def __init__(self, at_first: Callable[[], object] | None, wakes: socket.socket) -> None:
        self.came = False
        self.done: int | None = None
        self.wakes = wakes
        self._at_first = at_first

    def __call__(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        if self.done is not None:
            return
        self.came = True
        if self._at_first:
            self._at_first()
        raise KeyboardInterrupt


def _swallowed(handler: _Handler, before: Callable[[Any], object], found: Any) -> None:
    """Of what Python has to ignore, in a finalizer for one.

    An interruption comes again, in a moment. After one nothing else is told: it is what that has broken.
    """
    if not handler.came:
        before(found)
    elif issubclass(found.exc_type, KeyboardInterrupt):
        main = threading.main_thread().ident
        threading.Timer(_MOMENT_S, signal.pthread_kill, [main, _AGAIN]).start()


def _ignore() -> None:
    """For the last moments of the process, in which Python has put its own handlers away."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _await(heard: socket.socket) -> None:
    """Wait for one of our signals, or so long as the socket waits."""
    try:
        while not _SIGNALS.intersection(heard.recv(1)):
            pass
    except TimeoutError:
        return


def _gone(code: int, last_words: str = "") -> NoReturn:
    if last_words:
        os.write(2, f"{last_words}\n".encode())
    os._exit(code)
