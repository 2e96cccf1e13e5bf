"""The reference of the documentation, made of what the program says of itself.

Keys: types, defaults and limits are those of the pydantic models, descriptions the comments of conf/local.yaml. Verbs:
the command line's own help. Errors: the docstrings of errors.py, with their ``Cause:`` and ``Cure:``. Text in, Markdown
out; starts no Spark and no TensorFlow.
"""

from __future__ import annotations

import inspect
import json
import pathlib
import re
from dataclasses import dataclass
from enum import Enum
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin

import typer
import yaml
from pydantic import BaseModel

from mlaas_spark import errors
from mlaas_spark.cli import app
from mlaas_spark.config import Config, GroupConfig

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic.fields import FieldInfo

    from mlaas_spark.errors import MlaasSparkError

GROUPS = "input.groups[]"
_NAMES = {
    str: "text",
    int: "whole number",
    float: "number",
    bool: "true or false",
    pathlib.Path: "path",
    Any: "value",
    NoneType: "null",
}
_LIMITS = (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<"))

_TABLE, _END = '<div class="entries" markdown>\n', "\n</div>\n"  # which a phone shows without columns
_CONFIG = """\
# Config

Every key, made of the program itself. A config is a YAML file (`--config`); `--set section.key=value` changes one key
on the command line. An unknown key is an error that names the nearest one. `conf/local.yaml` has them all with their
defaults, to copy from.
"""
_VERBS = """\
# Verbs

Every verb and option, made of `mlaas-spark --help`. The same option means the same in every verb; `--debug`, before
the verb, shows tracebacks and Spark's own messages. [Exit codes](errors.md) tell what went wrong.
"""
_ERRORS = """\
# Errors

An error is one line on standard error, which names what, where, what is near and how to mend it; its class decides
the exit code. Classes and words are those of `mlaas_spark/errors.py`.
"""
_DECISIONS = """\
# Decisions

Why it is as it is: context, choice, what was refused, consequences. A record is superseded by a later one, not
rewritten.
"""


class MissingWordsError(Exception):
    """Something of the program that says nothing of itself where the reference looks for it."""


@dataclass(frozen=True, slots=True)
class Key:
    """A key of the config.

    Attributes:
        name: With its sections: ``chunks.split.train``.
        kind: Its type in words.
        default: As YAML writes it; "" where it must be given.
        allowed: Values or limits; "" where the type says all.
        description: One or more sentences.
    """

    name: str
    kind: str
    default: str
    allowed: str
    description: str


@dataclass(frozen=True, slots=True)
class Failure:
    """An error class: what it is, why it comes, what mends it."""

    name: str
    exit_code: int
    what: str
    cause: str
    cure: str


def keys(local_yaml: str) -> list[Key]:
    """Every key of the config, in the order of its models; ``local_yaml`` is the text of conf/local.yaml.

    Raises:
        MissingWordsError: A key has no comment there.
    """
    said = comments(local_yaml)
    found = list(_keys_of(Config, "", said)) + list(_keys_of(GroupConfig, f"{GROUPS}.", said))
    if silent := [key.name for key in found if not key.description]:
        msg = f"conf/local.yaml says nothing of {', '.join(silent)}: put a comment behind the key"
        raise MissingWordsError(msg)
    return found


def _keys_of(model: type[BaseModel], above: str, said: dict[str, str]) -> Iterator[Key]:
    for name, field in model.model_fields.items():
        where = above + name
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _keys_of(field.annotation, f"{where}.", said)
        else:
            kind, allowed = _kind(field.annotation), _allowed(field)
            yield Key(where, kind, _default(field), allowed, said.get(where, ""))


def _kind(of: Any) -> str:
    origin, arguments = get_origin(of), get_args(of)
    words = [_kind(argument) for argument in arguments if argument is not Ellipsis and origin is not Literal]
    if inspect.isclass(of) and issubclass(of, Enum):
        return "choice"
    if inspect.isclass(of) and issubclass(of, BaseModel):
        return "sections"
    if origin is Literal:
        return "choice" if len(arguments) > 1 else f"`{arguments[0]}`"
    of_origin = {
        tuple: "list of {0}",
        dict: "map of {0} to {1}",
        Union: " or ".join(words),
        UnionType: " or ".join(words),
    }
    if of not in _NAMES and origin not in of_origin:
        msg = f"no words for the type {of}"
        raise MissingWordsError(msg)
    return _NAMES[of] if of in _NAMES else of_origin[origin].format(*words)


def _allowed(field: FieldInfo) -> str:
    parts = [f"`{value}`" for value in _choices(field.annotation)]
    for limit in field.metadata:
        parts += [f"{sign} {getattr(limit, name)}" for name, sign in _LIMITS if getattr(limit, name, None) is not None]
        if pattern := getattr(limit, "pattern", None):
            parts.append(f"`{pattern}`")
    return ", ".join(parts)


def _choices(of: Any) -> list[Any]:
    if inspect.isclass(of) and issubclass(of, Enum):
        return [member.value for member in of]
    if get_origin(of) is Literal:
        return list(get_args(of)) if len(get_args(of)) > 1 else []
    return [choice for argument in get_args(of) for choice in _choices(argument)]


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return ""
    value = field.get_default(call_default_factory=True)
    return json.dumps(list(value) if isinstance(value, tuple) else value, default=str)


def comments(text: str) -> dict[str, str]:
    """What the comments of a YAML file say of its keys: behind the key, and below, beginning in the same column.

    A list of mappings that is shown commented out, as ``input.groups`` is, counts as keys ``input.groups[].name``.
    """
    lines = text.splitlines()
    found: dict[str, str] = {}
    root = yaml.compose(text)
    if isinstance(root, yaml.MappingNode):
        for where, end_line, end_column in _places(root, ""):
            column = lines[end_line].find("#", end_column)
            if column >= 0:
                found[where] = _sentence([lines[end_line][column:], *_below(lines[end_line + 1 :], column)])
    found |= _commented_out(lines)
    return found


def _places(node: yaml.MappingNode, above: str) -> Iterator[tuple[str, int, int]]:
    """Each key with the line and the column where its value, or for a section its colon, ends."""
    for key, value in node.value:
        where = above + key.value
        if isinstance(value, yaml.MappingNode) and not value.flow_style:
            yield where, key.end_mark.line, key.end_mark.column
            yield from _places(value, f"{where}.")
        else:
            yield where, value.end_mark.line, value.end_mark.column


def _below(lines: list[str], column: int) -> Iterator[str]:
    for line in lines:
        if line.find("#") != column or line[:column].strip():
            return
        yield line[column:]


def _sentence(parts: list[str]) -> str:
    return " ".join(" ".join(part.lstrip("#").split()) for part in parts)


def _commented_out(lines: list[str]) -> dict[str, str]:
    shown = "\n".join(line.replace("#", "", 1) for line in lines if re.match(r" +#( +- | {4,})\w+:", line))
    entries = yaml.compose(shown) if shown else None
    if not isinstance(entries, yaml.SequenceNode):
        return {}
    text = shown.splitlines()
    return {
        f"{GROUPS}.{where}": _sentence([text[line][text[line].find("#", column) :]])
        for where, line, column in _places(entries.value[0], "")
        if text[line].find("#", column) >= 0
    }


def config_page(local_yaml: str) -> str:
    """Every key as a page."""
    sections: dict[str, list[Key]] = {"": [], "input": [], GROUPS: []}
    for key in keys(local_yaml):
        section = key.name.split(".", maxsplit=1)[0] if "." in key.name else ""
        sections.setdefault(GROUPS if key.name.startswith(GROUPS) else section, []).append(key)
    parts = [
        _CONFIG,
    ]
    for section, of_section in sections.items():
        title = f"`{section}`" if section else "Top level"
        parts.append(f"## {title}\n")
        if model := _model(section):
            parts.append(f"{_escaped(_paragraphs(model)[0])}\n")
        parts += [_TABLE, "| key | default | |", "| --- | --- | --- |"]
        parts += [*(_key_row(key) for key in of_section), _END]
    return "\n".join(parts)


def _key_row(key: Key) -> str:
    default = f"`{key.default}`" if key.default else "must be given"
    kind = f"{key.kind}: {key.allowed}" if key.allowed else key.kind
    anchor = key.name.replace("[]", "")
    cells = (f'<a id="{anchor}"></a>`{key.name}`<br>{kind}', default, _escaped(key.description.rstrip(":")))
    return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"


def _model(section: str) -> type[BaseModel] | None:
    if section == GROUPS:
        return GroupConfig
    annotation = Config.model_fields[section].annotation if section in Config.model_fields else None
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def verbs() -> dict[str, Any]:
    """The verbs' commands by name, in the order of the help; those of a group by both: ``runs list``."""
    group: Any = typer.main.get_command(app)
    found: dict[str, Any] = {}
    for name in group.list_commands(typer.Context(group)):
        verb = group.commands[name]
        found |= {f"{name} {part}": one for part, one in getattr(verb, "commands", {}).items()} or {name: verb}
    return found


def verbs_page() -> str:
    """Every verb as a page: what it does, its example, its options.

    Raises:
        MissingWordsError: A verb has no help or no example, or an option no help.
    """
    parts = [
        _VERBS,
    ]
    return "\n".join([*parts, *(part for name, command in verbs().items() for part in _verb(name, command))])


def _verb(name: str, command: Any) -> list[str]:
    what, examples = [], []
    for paragraph in re.split(r"\n\s*\n", command.help or ""):
        flat = " ".join(paragraph.split())
        label, colon, example = flat.partition(": mlaas-spark ")
        if colon:
            examples.append((label, f"mlaas-spark {example}"))
        else:
            what.append(_escaped(flat))
    if not what or not examples:
        msg = f"verb {name}: its docstring says {'no example' if what else 'nothing'}"
        raise MissingWordsError(msg)
    context = typer.Context(command, info_name=f"mlaas-spark {name}")
    usage = command.get_usage(context).removeprefix("Usage: ")
    parts = [f"## {name}\n", "\n\n".join(what) + "\n", "```bash", " ".join(usage.split()), "```\n"]
    parts += [f"{label}:\n\n```bash\n{example}\n```\n" for label, example in examples]
    parts += [_TABLE, "| option | |", "| --- | --- |"]
    for parameter in command.params:
        record = parameter.get_help_record(context)
        if not record or not record[1]:
            msg = f"verb {name}: {parameter.name} has no help"
            raise MissingWordsError(msg)
        parts.append("| {} | {} |".format(f"`{record[0]}`".replace("|", "\\|"), _escaped(record[1])))
    return [*parts, _END]


def failures() -> list[Failure]:
    """Every error class, the base first.

    Raises:
        MissingWordsError: One has no ``Cause:`` or no ``Cure:`` in its docstring.
    """
    return [_failure(kind) for kind in errors.all_kinds()]


def _failure(kind: type[MlaasSparkError]) -> Failure:
    what, *others = _paragraphs(kind)
    said = {label: text for part in others for label, text in re.findall(r"(Cause|Cure): (.*?)(?= Cure: |$)", part)}
    if missing := [label for label in ("Cause", "Cure") if label not in said]:
        msg = f"errors.{kind.__name__}: its docstring has no '{missing[0]}: ...'"
        raise MissingWordsError(msg)
    return Failure(kind.__name__, kind.exit_code, what, said["Cause"], said["Cure"])


def _paragraphs(of: object) -> list[str]:
    return [" ".join(paragraph.split()) for paragraph in re.split(r"\n\s*\n", inspect.getdoc(of) or "")]


def errors_page() -> str:
    """Exit codes and every error class as a page."""
    codes = {
        0: "done",
        1: "a bug of mlaas_spark: please report it, with what `mlaas-spark --debug VERB ...` shows",
        2: "usage or config",
        3: "input: which files, what is in them",
        4: "data that does not fit: specs, schema, chunks, drift",
        5: "the model or its training",
        6: "export or serving",
        7: "interrupted: the same command again goes on, finished work is kept",
    }
    parts = [
        _ERRORS,
        "## Exit codes\n\n| code | |\n| --- | --- |",
        *(f"| {code} | {meaning} |" for code, meaning in codes.items()),
        "",
    ]
    for failure in failures():
        parts += [
            f"## {failure.name}\n",
            f"Exit code {failure.exit_code}. {_escaped(failure.what)}\n",
            f"**Cause:** {_escaped(failure.cause)}\n",
            f"**Cure:** {_escaped(failure.cure)}\n",
        ]
    return "\n".join(parts)


def decisions(folder: pathlib.Path) -> list[tuple[str, str, str]]:
    """(file, title, status) of each decision record, by number."""
    found = []
    for path in sorted(folder.glob("[0-9]*.md")):
        text = path.read_text(encoding="utf-8")
        title, status = re.search(r"^# (.+)$", text, re.MULTILINE), re.search(r"^Status: (.+)$", text, re.MULTILINE)
        if not title or not status:
            msg = f"{path}: a decision begins with '# N. Title' and 'Status: ...'"
            raise MissingWordsError(msg)
        found.append((path.name, title[1], status[1]))
    return found


def decisions_page(folder: pathlib.Path) -> str:
    """The list of decision records as a page."""
    rows = [f"| [{title}]({name}) | {status} |" for name, title, status in decisions(folder)]
    return "\n".join(
        [
            _DECISIONS,
            "| decision | status |",
            "| --- | --- |",
            *rows,
            "",
        ]
    )


def _escaped(text: str) -> str:
    """Plain text as Markdown: stars and angle brackets stand for themselves, double backticks are code."""
    pieces = re.split(r"(``[^`]+``|`[^`]+`)", text)
    plain = [
        re.sub(r"([*_\[\]|])", r"\\\1", piece).replace("<", "&lt;").replace("{", "&#123;") for piece in pieces[::2]
    ]
    code = [f"`{piece.strip('`')}`".replace("|", "\\|") for piece in pieces[1::2]]
    return "".join(part for pair in zip(plain, [*code, ""], strict=True) for part in pair)
