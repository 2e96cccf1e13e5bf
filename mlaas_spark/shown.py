"""Text from files and servers as it may be shown: what would steer a terminal or hide a name is spelled out.

Imports nothing of ours.
"""

from __future__ import annotations

import logging
import re

# control characters (ECMA-48's C0 and C1), Unicode's invisible and direction-changing ones (UTS 39, UTS 55), and bytes
# of file names that are no UTF-8, which Python has as lone surrogates; tabs and line ends are left
_STEERING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)
_BETWEEN_LINES = re.compile("[\t\n]")


def visible(text: str) -> str:
    r"""The text with what cannot be seen as Python spells it, such as ``\x1b``; tabs and line ends stay.

    >>> print(visible("MET\x1b[2J"))
    MET\x1b[2J
    """
    return _STEERING.sub(_spelled, text)


def one_line(text: str) -> str:
    r"""As :func:`visible`, of what is one line: a name cannot look like another message."""
    return _BETWEEN_LINES.sub(_spelled, visible(text))


def _spelled(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode("ascii")


class LineFormatter(logging.Formatter):
    """A formatter of log lines whose messages stay one visible line; a traceback has lines of its own."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the base class names it
        """The line without a traceback."""
        return one_line(super().formatMessage(record))
