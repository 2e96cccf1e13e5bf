"""Options that several verbs have, declared once, and the config of a command line.

A verb takes groups of them by :func:`takes`. An option is named as the key that it puts into the config.
"""

from __future__ import annotations

import functools
import inspect
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from mlaas_spark.cli import show
from mlaas_spark.errors import ConfigError
from mlaas_spark.formats import Format

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from mlaas_spark.config import Config
    from mlaas_spark.runs import Journal


def _titled(title: str, options: dict[str, Any]) -> dict[str, Any]:
    """The options, under a title in a verb's help."""
    for kind in options.values():
        get_args(kind)[1].rich_help_panel = title
    return options


CONFIG = _titled(
    "Config",
    {
        "config": Annotated[
            Path | None, typer.Option("--config", "-c", help="YAML config; see conf/local.yaml for every key.")
        ],
        "settings": Annotated[
            list[str] | None, typer.Option("--set", help="A config key: --set spark.master=local[2]; repeatable.")
        ],
    },
)
"""A config file, and keys of it."""

RetrySkipped = Annotated[
    bool, typer.Option("--retry-skipped", help="Read only what an earlier run has skipped, see docs/bad-files.md.")
]
"""Of verbs whose output can be brought up to date."""

INPUT = _titled(
    "Input",
    {
        "files": Annotated[
            list[str] | None,
            typer.Argument(help="Input: paths, globs, folders, path.root:Tree, lists in .txt files.", metavar="FILES"),
        ],
        "fileset": Annotated[
            Path | None, typer.Option("--fileset", help="In place of FILES: a fileset as coffea's, in JSON or YAML.")
        ],
        "tree": Annotated[
            str | None,
            typer.Option(
                "--tree", help="Tree to read, or a glob of trees: 'Events*'; may be left out if a file has only one."
            ),
        ],
        "format": Annotated[str | None, typer.Option("--format", help=f"{', '.join(Format)}; default: by file name.")],
        "columns": Annotated[
            str | None,
            typer.Option("--columns", help="Names of the columns of CSV that has no header line, comma separated."),
        ],
        "schema_policy": Annotated[
            str | None, typer.Option("--schema", help="Files of unlike branches: strict (refused), intersect or fill.")
        ],
        "events": Annotated[
            int | None, typer.Option("--events", help="Read only so many entries, from each file in proportion.")
        ],
        "preproc": Annotated[
            str | None,
            typer.Option(
                "--preproc", help="Python file with preprocessing_batch(batch) or preprocessing(rec); JSON, CSV."
            ),
        ],
        "allow_copies": Annotated[
            bool,
            typer.Option(
                "--allow-copies", help="Read files of one uuid, or of equal content, all; else they are refused."
            ),
        ],
        "redirector": Annotated[
            str | None,
            typer.Option(
                "--redirector", help="root://host:port before logical names (/store/...) that are no local files."
            ),
        ],
        "timeout": Annotated[
            int | None, typer.Option("--timeout", help="Seconds within which an XRootD server answers a request.")
        ],
        "retries": Annotated[
            int | None, typer.Option("--retries", help="Further tries where an XRootD server does not answer.")
        ],
    },
)
"""Which events, and how they are read."""

BRANCHES = _titled(
    "Input",
    {
        "branches": Annotated[
            str | None, typer.Option("--branches", help="Branches to read, globs, comma separated: MET_*,Jet_pt.")
        ],
        "exclude": Annotated[
            str | None, typer.Option("--exclude", help="Branches to leave out, globs, comma separated.")
        ],
    },
)
"""Which branches of them."""

SELECTION = _titled(
    "Input",
    {
        "selection": Annotated[
            str | None, typer.Option("--selection", help="Keep events that pass: 'nMuon >= 2 && MET_pt > 20'.")
        ],
        "derive": Annotated[
            list[str] | None, typer.Option("--derive", help="A branch made of others: 'HT=sum(Jet_pt)'; repeatable.")
        ],
    },
)
"""Which of the events, and what is made of their branches."""

LABEL = _titled(
    "Input",
    {
        "label": Annotated[str | None, typer.Option("--label", help="Label: a branch or an expression.")],
    },
)
"""What is to be learned."""

SERVER = _titled(
    "Server",
    {
        "url": Annotated[
            str | None, typer.Option("--url", help="The TFaaS server: http://HOST:PORT, https://HOST/PATH.")
        ],
    },
)
"""Which server."""

ALIAS = _titled(
    "Server",
    {
        "alias": Annotated[
            str | None,
            typer.Option("--alias", help="Alias file: a path or URL that ends in .json; NAME for NAME.json."),
        ],
    },
)
"""Which model of it, by the name that clients use."""

TLS = _titled(
    "Server",
    {
        "certificate": Annotated[
            Path | None,
            typer.Option("--certificate", help="X.509 certificate for TLS, PEM; a grid proxy has its key in it."),
        ],
        "key": Annotated[Path | None, typer.Option("--key", help="The certificate's key, PEM.")],
        "ca": Annotated[
            Path | None, typer.Option("--ca", help="Who vouches for the server: a PEM file, or a folder of them.")
        ],
    },
)
"""How a server knows us, and we it."""

DRY = {
    "dry_run": Annotated[bool, typer.Option("--dry-run", help="Say what would be read and written; write nothing.")],
}
"""For verbs that write."""

ModelName = Annotated[str | None, typer.Option("--model", help="Served name; see mlaas-spark models.")]
AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable result on standard output.")]

_INPUT = {**INPUT, **BRANCHES, **SELECTION, **LABEL}
_SERVE = {**SERVER, **ALIAS, **TLS}
_SOURCES = {"files", "groups", "fileset"}  # where the files are named: one of them


def takes(options: Mapping[str, Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Let a verb have the options too, after its own; what is given is in its context's params.

    The verb itself is called with the parameters that it declares. One of the options that the verb declares too is as
    the verb declares it.
    """

    def taking(verb: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(verb, eval_str=True)

        @functools.wraps(verb)
        def called(**given: Any) -> None:
            verb(**{name: given[name] for name in own.parameters})

        further = [_parameter(name, kind) for name, kind in options.items() if name not in own.parameters]
        parameters = [*(one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in own.parameters.values()), *further]
        # what typer asks for a function's parameters
        called.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
        called.__annotations__ = {one.name: one.annotation for one in parameters}
        return called

    return taking


def _parameter(name: str, kind: Any) -> inspect.Parameter:
    default = False if get_args(kind)[0] is bool else None
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)


def given(context: typer.Context) -> dict[str, Any]:
    """The keys of the section ``input`` that the command line gives."""
    return _given({key: context.params.get(key) for key in _INPUT})


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the options that are given: 0 is, what is empty or false is not."""
    return {key: value for key, value in options.items() if value or (value == 0 and value is not False)}


def content(context: typer.Context, **sections: Mapping[str, Any]) -> dict[str, Any]:
    """The config file's mapping with the options of the command line put in.

    Args:
        context: Of the verb.
        sections: What the verb's own options are in the config, by section and key; None and "" are not given.

    Raises:
        ConfigError: The file has something else in the place of a section.
    """
    read, options = _read(context), given(context)
    if options.keys() & _SOURCES and isinstance(named := read.get("input"), dict):
        read = {**read, "input": {key: value for key, value in named.items() if key not in _SOURCES}}
    return _put(context, read, {"input": options, **sections})


def _read(context: typer.Context) -> dict[str, Any]:
    """The mapping of the config file; {} without one."""
    from mlaas_spark import config as configs

    path = context.params.get("config")
    return configs.read(path) if path else {}


def _put(context: typer.Context, read: dict[str, Any], sections: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """A mapping with the options put into its sections."""
    for name, options in sections.items():
        if not (known := _given(options)):
            continue
        section = read.get(name) or {}
        if not isinstance(section, dict):
            msg = f"{context.params.get('config')}: {name} is a {type(section).__name__}, not a section"
            raise ConfigError(msg)
        read = {**read, name: {**section, **known}}
    return read


def resolved(context: typer.Context, mapping: dict[str, Any] | None = None) -> Config:
    """The config of a command line: its file, its options, its --set; ``mapping`` in place of file and options."""
    from mlaas_spark import config as configs

    settings: Sequence[str] = context.params.get("settings") or ()
    source = str(context.params.get("config") or "options")
    return configs.resolve(configs.override(content(context) if mapping is None else mapping, settings), source)


def serving(context: typer.Context) -> Config:
    """The config of a verb that speaks to a server."""
    paths = {key: context.params.get(key) for key in _SERVE}
    options = {key: str(value) for key, value in paths.items() if value is not None}
    return resolved(context, _put(context, _read(context), {"serve": options}))


def journal(context: typer.Context | None = None) -> Journal:
    """Tells the terminal of progress.

    Not of a verb with --json under spark-submit, which makes one stream of both outputs, where JSON must be alone.
    """
    from mlaas_spark.cli.progress import ticking
    from mlaas_spark.runs import Journal

    alone = context and context.params.get("as_json") and "PYSPARK_GATEWAY_PORT" in os.environ
    return Journal() if alone else Journal(announce=show.remark, ticking=ticking)
