"""Passwords, tokens and keys: by which names they are known, and what is kept of a run in their place.

What a config or a command line holds of them goes to Spark and nowhere else: not into config.yaml, report, log, digest
or message. Imports nothing of ours but errors.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from mlaas_spark.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

HIDDEN = "(secret, not kept)"
"""What is written in the place of a secret."""

NAMES = (
    r"(?i)secret|passw|token|(?:access|account|encryption|private|api|signing)[._-]?key|oauth|jaas|authorization|bearer"
)
"""Settings that hold secrets, by their names; Spark's redaction has the same pattern."""

_SECRET = re.compile(NAMES)
_JAVA_OPTION = re.compile(rf"-D[^\s=]*(?:{NAMES.removeprefix('(?i)')})[^\s=]*=", re.IGNORECASE)
_USER = re.compile(r"(?<=://)[^/@\s]*:[^/@\s]*(?=@)")
_IN_QUERY = re.compile(
    r"([?&;](?:[^=&;?\s/]*(?:token|authz|signature|secret|password|credential)[^=&;?\s/]*|sig)=)[^&;\s]+", re.IGNORECASE
)


def is_secret(name: str, value: object = "") -> bool:
    """Whether a setting is a secret, by its name or as one of Java's options in its value: ``-Da.password=x``."""
    return bool(_SECRET.search(name) or (isinstance(value, str) and _JAVA_OPTION.search(value)))


def hidden(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings, nested ones too, with :data:`HIDDEN` for each that is a secret."""
    return {name: _hidden(name, value) for name, value in settings.items()}


def _hidden(name: str, value: Any) -> Any:
    if isinstance(value, dict):
        return hidden(value)
    if isinstance(value, list | tuple):
        return [_hidden(name, item) for item in value]
    return HIDDEN if is_secret(name, value) and value is not None else value


def hide_arguments(arguments: Sequence[str]) -> list[str]:
    """A command line without the values of settings that are secrets, and without credentials in URLs."""
    return [_argument(argument) for argument in arguments]


def _argument(argument: str) -> str:
    setting, equals, value = argument.partition("=")
    return f"{setting}={HIDDEN}" if equals and is_secret(setting, value) else without_credentials(argument)


def without_credentials(text: str) -> str:
    """The text without passwords and tokens in the URLs of it."""
    return _IN_QUERY.sub(r"\1...", _USER.sub("...", text))


def check_url(url: str) -> None:
    """See that a URL, which is written into manifests and reports, holds no password and no token.

    Raises:
        ConfigError: It holds one; the message does not.
    """
    if (shown := without_credentials(url)) != url:
        msg = (
            f"{shown} holds a password or a token, and names of files are kept in manifests and reports: give it by "
            "the environment (BEARER_TOKEN, X509_USER_PROXY, AWS_SECRET_ACCESS_KEY, MLFLOW_TRACKING_PASSWORD) or "
            "by the server's own configuration"
        )
        raise ConfigError(msg)
