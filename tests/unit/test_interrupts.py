"""interrupts: a program that is sent signals is gone in time, whatever it is doing, and what it said last helps."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Sequence

STUCK = """
import atexit, signal, sys, time, threading, weakref
from mlaas_spark import interrupts

def tell(said):
    print(said, file=sys.stderr, flush=True)

def work():
    try:
        {stuck}
    except KeyboardInterrupt:
        tell("heard")
        {after}
        return 7, "said"
    return {code}, {said!r}

sys.exit(interrupts.program(work, tell, "how to go on", patience={patience}))
"""


HERE = 'print("here", flush=True)'
# as a library does whose code in C asks Python for nothing
NEVER = f"""
        while True:
            try:
                {HERE}
                time.sleep(60)
            except KeyboardInterrupt:
                pass
"""

CAUGHT = f"""
        try:
            {HERE}
            time.sleep(60)
        except KeyboardInterrupt:
            return {{code}}, "an error"
"""

FINALIZER = f"""
        class Thing:
            pass

        def finalize(_):
            {HERE}
            time.sleep(60)

        thing = Thing()
        known = weakref.ref(thing, finalize)
        del thing
        time.sleep(60)
"""

LATE = """
        def late():
            print("here", flush=True)
            time.sleep({seconds})
        atexit.register(late)
"""


def stuck(signals: Sequence[int], **parts: object) -> tuple[int, str, float]:
    """Exit code, standard error and seconds of a program that is sent signals, a tenth of a second between them."""
    given = {"stuck": f"{HERE}; time.sleep(60)", "after": "pass", "code": 0, "said": "", "patience": 1.5, **parts}
    with subprocess.Popen(  # noqa: S603 - our own code
        [sys.executable, "-c", STUCK.format(**given)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "here\n"
        began = time.monotonic()
        for kind in signals:
            process.send_signal(kind)
            time.sleep(0.1)
        return process.wait(30), process.stderr.read(), time.monotonic() - began


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_a_program_that_ends_in_order_says_it_itself(kind: int) -> None:
    code, said, seconds = stuck([kind])
    assert (code, said) == (7, "heard\nsaid\n")
    assert seconds < 1.4


def test_one_that_does_not_end_is_ended_with_last_words() -> None:
    code, said, seconds = stuck([signal.SIGINT], stuck=NEVER, patience=1.0)
    assert (code, said) == (7, "how to go on\n")
    assert 0.9 < seconds < 5


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_it_at_once(second: int) -> None:
    code, said, seconds = stuck([signal.SIGINT, second], after="time.sleep(60)", patience=30)
    assert (code, said.splitlines()) == (7, ["heard", "how to go on"])
    assert seconds < 2


def test_one_that_is_in_a_finalizer_ends_in_order_too() -> None:
    code, said, seconds = stuck([signal.SIGTERM], stuck=FINALIZER)
    assert (code, said) == (7, "heard\nsaid\n")
    assert seconds < 1.4


def test_threads_that_do_not_end_are_not_waited_for() -> None:
    thread = f"{HERE}; threading.Thread(target=time.sleep, args=(60,)).start(); time.sleep(60)"
    code, said, seconds = stuck([signal.SIGINT], stuck=thread)
    assert (code, said) == (7, "heard\nsaid\n")
    assert seconds < 1.4


def test_an_error_that_came_of_the_interruption_is_not_told_but_how_to_go_on() -> None:
    broken = CAUGHT.format(code=1)
    assert stuck([signal.SIGINT], stuck=broken)[:2] == (7, "how to go on\n")


def test_what_is_done_is_done() -> None:
    finished = CAUGHT.replace('"an error"', '""').format(code=0)
    assert stuck([signal.SIGTERM], stuck=finished)[:2] == (0, "")


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(("code", "said"), [(0, ""), (3, "no such file")])
def test_a_signal_after_the_work_lets_the_process_end_as_it_would(kind: int, code: int, said: str) -> None:
    late = LATE.format(seconds=0.5)
    assert stuck([kind], stuck=late, code=code, said=said)[:2] == (code, said and f"{said}\n")


def test_a_process_that_does_not_end_after_its_work_is_ended_too() -> None:
    late = LATE.format(seconds=60)
    code, said, seconds = stuck([signal.SIGTERM], stuck=late, patience=1.0)
    assert (code, said) == (0, "")
    assert 0.9 < seconds < 5
    code, said, seconds = stuck([signal.SIGTERM, signal.SIGINT], stuck=late, patience=30)
    assert (code, said) == (0, "")
    assert seconds < 2
