"""What --help shows: verbs in the order of the work, options by what they are about."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperCommand, TyperGroup

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

ORDER: Mapping[str, tuple[str, ...]] = {
    "Begin": ("demo", "doctor"),
    "Look at files, convert them": ("inspect", "plan", "convert"),
    "Prepare features": ("specs", "chunks"),
    "Train and judge": ("train", "evaluate", "runs"),
    "Serve and predict": (
        "export",
        "serve-check",
        "upload",
        "models",
        "params",
        "delete",
        "rollback",
        "predict",
        "predict-remote",
    ),
    "Look after": ("verify", "clean", "throughput"),
    "Jobs that nobody watches": ("scheduled", "retrain"),
}
"""Verbs by what they are for, in the order of the work."""

ANYWHERE = {
    "-v, --verbose": "Show what Spark and TensorFlow say too.",
    "--debug": "Show tracebacks, and all of their messages.",
}
"""Options that may stand before a verb or after it."""

_OTHERS = "Others"
_SENTENCE = 1000  # characters; the first sentence of a docstring is shown whole
_PLACES = {name: (section, place) for section, names in ORDER.items() for place, name in enumerate(names)}


class Verbs(TyperGroup):
    """The verbs, in the order of the work."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Names of the verbs, in that order."""
        order = [name for names in ORDER.values() for name in names]
        there = super().list_commands(ctx)
        return sorted(there, key=lambda name: order.index(name) if name in order else len(order))

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write a section for each part of the work."""
        names = self.list_commands(ctx)
        sections: dict[str, list[tuple[str, str]]] = {}
        for name in names:
            command = self.get_command(ctx, name)
            if command is not None and not command.hidden:
                section = _PLACES.get(name, (_OTHERS, 0))[0]
                sections.setdefault(section, []).append(
                    (name.ljust(max(map(len, names))), command.get_short_help_str(_SENTENCE))
                )
        for title, rows in sections.items():
            with formatter.section(title):
                formatter.write_dl(rows)


class Verb(TyperCommand):
    """A verb, whose options are shown by their ``rich_help_panel``."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write a section for the arguments, one for the verb's own options, one for each panel."""
        sections: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": list(ANYWHERE.items())}
        for parameter in self.get_params(ctx):
            if (record := parameter.get_help_record(ctx)) is not None:
                own = "Arguments" if parameter.param_type_name == "argument" else "Options"
                sections.setdefault(getattr(parameter, "rich_help_panel", None) or own, []).append(record)
        common = len(ANYWHERE)
        sections["Options"] = sections["Options"][common:-1] + sections["Options"][:common] + sections["Options"][-1:]
        for title, rows in sections.items():
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)


class Application(typer.Typer):
    """A typer application of such verbs."""

    def command(self, name: str | None = None, **settings: Any) -> Callable[[Any], Any]:
        """Register a verb."""
        return super().command(name, **{"cls": Verb, **settings})
