"""The typer application; a command line run; what ends one told in a line and an exit code."""

from __future__ import annotations

import logging
import os
import shlex
import sys
import traceback
from typing import TYPE_CHECKING, Annotated

import typer
from typer.exceptions import TyperException

from mlaas_spark import interrupts
from mlaas_spark.cli import show
from mlaas_spark.errors import MlaasSparkError, reason

if TYPE_CHECKING:
    from collections.abc import Sequence

_EXIT_USAGE = 2
_EXIT_BUG = 1
_TYPER_INTERRUPTED = 130  # what typer makes of Ctrl-C, as a shell does

app = typer.Typer(
    name="mlaas-spark",
    help="Machine learning as a service for high energy physics, native to Apache Spark.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.callback()
def _common(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks and Spark's own messages.")] = False,
) -> None:
    handler = logging.StreamHandler()
    handler.setLevel(logging.DEBUG if debug else logging.WARNING)
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("mlaas_spark").setLevel(logging.DEBUG if debug else logging.INFO)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; the exit code.

    0 done, 2 usage or config, 3 input, 4 data mismatch, 5 training, 6 export or serving, 7 interrupted; 1 is a bug.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if arguments is None or "PYSPARK_GATEWAY_PORT" in os.environ:  # the process is ours alone
        at_first = None if "--debug" in given else _silence
        return interrupts.program(lambda: _ended(given), _interrupted(given), at_first=at_first)
    return _ended(given)


def _silence() -> None:
    """Of what an interruption breaks, py4j's connection to the JVM first of all, no library has to tell."""
    for handler in logging.getLogger().handlers:
        handler.setLevel(logging.CRITICAL + 1)


def _ended(given: list[str]) -> int:
    """Run a command line; whatever stops it is told, and makes the exit code."""
    try:
        return _run(given)
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - the last line of defence
        if "--debug" in given:
            traceback.print_exception(error)
        code, text = _told(error, given)
        show.remark(text)
        return code


def _told(error: BaseException, given: Sequence[str]) -> tuple[int, str]:
    """Exit code and message of whatever stopped a command."""
    if isinstance(error, MlaasSparkError):
        return error.exit_code, f"error: {error}"
    if isinstance(error, (KeyboardInterrupt, typer.Abort)):
        return interrupts.EXIT_CODE, _interrupted(given)
    if isinstance(error, TyperException):
        return _EXIT_USAGE, f"error: {error.format_message()}; see mlaas-spark {_verb(given)}--help"
    return _EXIT_BUG, f"error: this is a bug in mlaas_spark, please report it: {reason(error)}; see --debug"


def _interrupted(given: Sequence[str]) -> str:
    """How to go on after an interruption."""
    command = shlex.join(["mlaas-spark", *given])
    resumed = "; with --resume the training goes on from its last checkpoint, if it has written one"
    training = "train" in given and "--resume" not in given
    return f"interrupted: run the same command again, finished work is kept{resumed if training else ''}: {command}"


def _run(given: list[str]) -> int:
    command = typer.main.get_command(app)
    result = command.main(given, prog_name="mlaas-spark", standalone_mode=False, obj=given[1:])
    if result == _TYPER_INTERRUPTED:
        raise KeyboardInterrupt
    return result if isinstance(result, int) else 0


def _verb(given: Sequence[str]) -> str:
    verbs = {
        command.name or (command.callback.__name__ if command.callback else "") for command in app.registered_commands
    }
    return next((f"{word} " for word in given if word in verbs), "")
