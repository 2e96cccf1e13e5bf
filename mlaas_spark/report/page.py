"""Pages from the templates: escaped, with all they need inside; a policy of their own forbids them to load anything."""

from __future__ import annotations

import base64
import hashlib
from typing import TYPE_CHECKING, Any

from mlaas_spark.shown import visible

if TYPE_CHECKING:
    from collections.abc import Mapping

_DIGITS = 5


def fill(template: str, values: Mapping[str, Any]) -> str:
    """A page from the template of that name; every value is escaped, equal values give equal text.

    The page runs our script alone, known by its digest, and loads nothing: a name that broke out of its place
    could neither run nor fetch anything.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    loader = PackageLoader("mlaas_spark")
    environment = Environment(
        loader=loader,
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        # control codes in names are spelled out; what is markup is ours
        finalize=lambda value: visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value,
    )
    environment.filters.update(short=short, count=count, percent=percent, seconds=seconds)
    style, script = (loader.get_source(environment, name)[0] for name in ("page.css", "page.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    # both are files of ours, in which no value of a run is put
    trusted = {"style": Markup(style), "script": Markup(script)}  # noqa: S704
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    return environment.get_template(template).render({**values, **trusted, "policy": policy})


def short(value: float | None) -> str:
    """A number in at most five digits; - for None and NaN."""
    return "-" if value is None or value != value else f"{value:.{_DIGITS}g}"  # noqa: PLR0124 - NaN is not itself


def count(value: int | None) -> str:
    """A whole number with its thousands apart; - for None."""
    return "-" if value is None else f"{value:,}"


def percent(share: float | None) -> str:
    """A share in percent, which is 0 % or 100 % only if it is nothing or all; - for None."""
    if share is None:
        return "-"
    if 0 < share < 0.0005:
        return "< 0.1 %"
    return "> 99.9 %" if 0.9995 <= share < 1 else f"{100 * share:.1f} %"


def seconds(value: float) -> str:
    """A time as people say it: 0.4 s, 12 s, 3 min 20 s, 2 h 5 min."""
    if value < 10:
        return f"{value:.1f} s"
    whole = round(value)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def data_address(svg: bytes) -> str:
    """An image as an address that holds it."""
    return f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}"
