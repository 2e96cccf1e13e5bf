"""Names that would steer a terminal, as they are shown."""

from __future__ import annotations

import logging
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlaas_spark.shown import LineFormatter, one_line, visible

STEERING = {
    "clears the screen": ("\x1b[2J", r"\x1b[2J"),
    "sets the title": ("\x1b]0;evil\x07", r"\x1b]0;evil\x07"),
    "8-bit control": ("\x9b31m", r"\x9b31m"),
    "backspaces": ("secret\x08\x08", r"secret\x08\x08"),
    "carriage return": ("error\rok", r"error\rok"),
    "right to left": ("gnp.\u202etoor", r"gnp.\u202etoor"),
    "isolate": ("\u2066x\u2069", r"\u2066x\u2069"),
    "zero width": ("Jet\u200b_pt", r"Jet\u200b_pt"),
    "line separator": ("a\u2028b", r"a\u2028b"),
    "no UTF-8": ("caf\udce9.root", r"caf\udce9.root"),
    "NUL": ("a\0b", r"a\x00b"),
    "delete": ("a\x7f", r"a\x7f"),
    "byte order": ("\ufeffa", r"\ufeffa"),
    "tag": ("a\U000e0041", r"a\U000e0041"),
}


@pytest.mark.parametrize("name", STEERING)
def test_what_steers_is_spelled_out(name: str) -> None:
    text, shown = STEERING[name]
    assert visible(text) == shown == one_line(text)


@pytest.mark.parametrize("text", ["Jet_pt", "größe µ 数 🙂", "a\\x1b", "[red]x[/red]", "x < 3 && y", "e\u0301"])
def test_other_text_is_shown_as_it_is(text: str) -> None:
    assert visible(text) == text == one_line(text)


def test_lines_stay_lines_unless_there_is_to_be_one() -> None:
    assert visible("a\n\tb") == "a\n\tb"
    assert one_line("a\n\tb") == r"a\n\tb"


@given(st.text(st.characters(codec=None)))
def test_nothing_is_left_that_a_terminal_would_obey(text: str) -> None:
    shown = one_line(text)
    assert not {"Cc", "Cs", "Zl", "Zp"} & {unicodedata.category(character) for character in shown}
    assert not {"RLO", "LRO", "RLE", "LRE", "PDF", "RLI", "LRI"} & {unicodedata.bidirectional(one) for one in shown}
    shown.encode()  # which fails for lone surrogates
    assert one_line(shown) == shown


def test_log_lines_stay_lines_and_tracebacks_have_theirs() -> None:
    record = logging.LogRecord("n", logging.WARNING, "f", 1, "branch %s", ("a\nERROR: \x1b[2J",), None)
    assert LineFormatter("%(levelname)s: %(message)s").format(record) == r"WARNING: branch a\nERROR: \x1b[2J"
    try:
        raise ValueError("bad")  # noqa: EM101, TRY301 - to have a traceback
    except ValueError as error:
        record.exc_info = (type(error), error, error.__traceback__)
    assert LineFormatter("%(message)s").format(record).splitlines()[-1] == "ValueError: bad"
