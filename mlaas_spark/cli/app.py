"""The typer application; a command line run; what ends one told in a line and an exit code."""

from __future__ import annotations

import logging
import os
import shlex
import sys
from typing import TYPE_CHECKING, Annotated

import typer
from typer.exceptions import TyperException

from mlaas_spark import __version__, interrupts
from mlaas_spark.cli import show
from mlaas_spark.cli.help import ANYWHERE, Application, Verbs
from mlaas_spark.confidential import hide_arguments
from mlaas_spark.errors import MlaasSparkError, reason
from mlaas_spark.shown import LineFormatter

if TYPE_CHECKING:
    from collections.abc import Sequence

_EXIT_USAGE = 2
_EXIT_BUG = 1
_TYPER_INTERRUPTED = 130  # what typer makes of Ctrl-C, as a shell does

app = Application(
    name="mlaas-spark",
    cls=Verbs,
    help="Machine learning as a service for high energy physics, native to Apache Spark.",
    epilog="mlaas-spark VERB --help shows a verb's options and an example.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"max_content_width": 100, "help_option_names": ["-h", "--help"]},
)


def _show_version(asked: bool) -> None:  # noqa: FBT001 - what typer calls
    if asked:
        show.line(f"mlaas-spark {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help=ANYWHERE["-v, --verbose"])] = False,
    debug: Annotated[bool, typer.Option("--debug", help=ANYWHERE["--debug"])] = False,
    version: Annotated[  # noqa: ARG001 - its callback is called
        bool, typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    handler = logging.StreamHandler()
    handler.setLevel(logging.DEBUG if debug else logging.INFO if verbose else logging.WARNING)
    handler.setFormatter(LineFormatter("%(levelname)s: %(message)s"))
    handler.addFilter(lambda record: not getattr(record, "shown", False))  # by a journal
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("mlaas_spark").setLevel(logging.DEBUG if debug else logging.INFO)
    # by its level the session knows whether Spark may speak
    logging.getLogger("mlaas_spark.spark.session").setLevel(logging.DEBUG if verbose or debug else logging.NOTSET)
    if verbose or debug:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "0")  # before anything imports TensorFlow


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; the exit code.

    0 done, 2 usage or config, 3 input, 4 data mismatch, 5 training, 6 export or serving, 7 interrupted; 1 is a bug.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if arguments is None or "PYSPARK_GATEWAY_PORT" in os.environ:  # the process is ours alone
        at_first = None if "--debug" in given else _silence
        return interrupts.program(lambda: attempt(given), show.remark, _interrupted(given), at_first=at_first)
    return _ended(given)


def _silence() -> None:
    """Of what an interruption breaks, py4j's connection to the JVM first of all, no library has to tell."""
    for handler in logging.getLogger().handlers:
        handler.setLevel(logging.CRITICAL + 1)


def _ended(given: Sequence[str]) -> int:
    """Run a command line; whatever stops it is told, and makes the exit code."""
    code, text = attempt(given)
    if text:
        show.remark(text)
    return code


def attempt(arguments: Sequence[str]) -> tuple[int, str]:
    """Run a command line; the exit code as of :func:`main`, and what is to be said of a failure, "" of a success."""
    anywhere, given = _apart(arguments)
    try:
        return _run(anywhere, given), ""
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - the last line of defence
        if "--debug" in anywhere:
            show.trace(error)
        return _told(error, given)


def _apart(given: Sequence[str]) -> tuple[list[str], list[str]]:
    """A command line's options that may stand anywhere, and what is left without them."""
    anywhere = {option for names in ANYWHERE for option in names.split(", ")}
    end = given.index("--") if "--" in given else len(given)
    found = [word for word in given[:end] if word in anywhere]
    return found, [*(word for word in given[:end] if word not in anywhere), *given[end:]]


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
    command = shlex.join(["mlaas-spark", *hide_arguments(given)])
    resumed = "; with --resume the training goes on from its last checkpoint, if it has written one"
    training = "train" in given and "--resume" not in given
    return f"interrupted: run the same command again, finished work is kept{resumed if training else ''}: {command}"


def _run(anywhere: list[str], given: list[str]) -> int:
    command = typer.main.get_command(app)
    if not given or (len(given) == 1 and hasattr(command.commands.get(given[0]), "commands")):  # type: ignore[attr-defined]
        given = [*given, "--help"]
    result = command.main([*anywhere, *given], prog_name="mlaas-spark", standalone_mode=False, obj=given[1:])
    if result == _TYPER_INTERRUPTED:
        raise KeyboardInterrupt
    return result if isinstance(result, int) else 0


def _verb(given: Sequence[str]) -> str:
    verbs = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    return next((f"{word} " for word in given if word in verbs), "")
