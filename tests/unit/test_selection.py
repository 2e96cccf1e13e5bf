"""selection: what the language admits and refuses, and its values against plain Python loops."""

from __future__ import annotations

import ast
import math
import pickle
import re
import subprocess
import sys
import time
import tracemalloc
from typing import TYPE_CHECKING, Any

import awkward as ak
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlaas_spark import selection
from mlaas_spark.errors import BranchNotFoundError, ConfigError
from mlaas_spark.selection import Expression

if TYPE_CHECKING:
    from collections.abc import Callable

NAN = math.nan
INF = math.inf
X = [1.0, -2.5, 0.0, 40.0]
N = [3, -7, 0, 12]
FLAG = [True, False, True, False]
PT = [[50.0, 20.0, 35.0], [], [10.0], [31.0, 90.0]]
ETA = [[0.1, -1.2, 2.4], [], [-2.6], [1.9, -0.3]]
ID = [[6, 2, 0], [], [4], [1, 7]]
EVENTS = {"x": X, "n": N, "flag": FLAG, "pt": PT, "eta": ETA, "id": ID}
BATCH = pa.RecordBatch.from_pydict(EVENTS)


def values(text: str, events: Any = BATCH) -> list[Any]:
    found: list[Any] = Expression.parse(text).values(events).tolist()
    return found


def same(found: list[Any], expected: list[Any], tolerance: float = 0.0) -> bool:
    """Equal event by event, in type too, NaN being equal to NaN."""
    return len(found) == len(expected) and all(
        type(a) is type(b) and (a == b or (a != a and b != b) or math.isclose(a, b, rel_tol=tolerance))  # noqa: PLR0124
        for a, b in zip(found, expected, strict=True)
    )


FLAT: list[tuple[str, Callable[[float, int, bool], float | bool]]] = [
    ("x + n * 2 - 1", lambda x, n, _: x + n * 2 - 1),
    ("-x", lambda x, _n, _f: -x),
    ("+n", lambda _x, n, _f: float(n)),
    ("n % 5", lambda _x, n, _f: float(n % 5)),
    ("n // 5", lambda _x, n, _f: float(n // 5)),
    ("x // 2 + x % 3", lambda x, _n, _f: x // 2 + x % 3),
    ("(x - 1) ** 2", lambda x, _n, _f: (x - 1) ** 2),
    ("2 ** -1 + x", lambda x, _n, _f: 0.5 + x),
    ("flag + flag", lambda _x, _n, f: float(f + f)),
    ("-2.5 <= x < 1.5", lambda x, _n, _f: -2.5 <= x < 1.5),
    ("n == 3 or x == 40", lambda x, n, _f: n == 3 or x == 40),
    ("n != 3", lambda _x, n, _f: n != 3),
    ("not flag", lambda _x, _n, f: not f),
    ("~flag", lambda _x, _n, f: not f),
    ("!flag", lambda _x, _n, f: not f),
    ("!n", lambda _x, n, _f: not n),
    ("!n==0", lambda _x, n, _f: (not n) == 0),
    ("x>0&&n<10", lambda x, n, _f: x > 0 and n < 10),
    ("x<0||n<10&&flag", lambda x, n, f: x < 0 or (n < 10 and f)),
    ("(x > 0) & flag | (n == -7)", lambda x, n, f: (x > 0 and f) or n == -7),
    ("n & 4", lambda _x, n, _f: float(n & 4)),
    ("n | 1", lambda _x, n, _f: float(n | 1)),
    ("flag & 1", lambda _x, _n, f: float(f)),
    ("x and n", lambda x, n, _f: bool(x and n)),
    ("where(flag, x, n)", lambda x, n, f: x if f else float(n)),
    ("where(n > 0, flag, x > 0)", lambda x, n, f: f if n > 0 else x > 0),
    ("minimum(x, 2) + maximum(x, n)", lambda x, n, _f: min(x, 2) + max(x, n)),
    ("1 < 2", lambda _x, _n, _f: True),
    ("True", lambda _x, _n, _f: True),
    ("7", lambda _x, _n, _f: 7.0),
    ("  x\n  > 0 &&\n\tflag ", lambda x, _n, f: x > 0 and f),
]


@pytest.mark.parametrize(("text", "oracle"), FLAT, ids=[text for text, _ in FLAT])
def test_flat_expressions_equal_a_loop_over_events(text: str, oracle: Callable[[float, int, bool], Any]) -> None:
    assert same(values(text), [oracle(*event) for event in zip(X, N, FLAG, strict=True)])


JAGGED: list[tuple[str, Callable[[float, list[float], list[float], list[int]], float | bool]]] = [
    ("sum(pt)", lambda _x, pt, _e, _i: float(sum(pt))),
    ("sum(pt * eta + x)", lambda x, pt, eta, _i: float(sum(p * e + x for p, e in zip(pt, eta, strict=True)))),
    ("sum(pt > 30)", lambda _x, pt, _e, _i: float(sum(p > 30 for p in pt))),
    ("count(pt)", lambda _x, pt, _e, _i: float(len(pt))),
    ("count(pt[pt > 30])", lambda _x, pt, _e, _i: float(len([p for p in pt if p > 30]))),
    ("mean(pt)", lambda _x, pt, _e, _i: sum(pt) / len(pt) if pt else NAN),
    ("min(pt)", lambda _x, pt, _e, _i: min(pt, default=NAN)),
    ("max(id)", lambda _x, _p, _e, i: float(max(i, default=NAN))),
    ("max(pt) > 35", lambda _x, pt, _e, _i: bool(pt) and max(pt) > 35),
    ("max(pt) != 50", lambda _x, pt, _e, _i: bool(pt) and max(pt) != 50),
    ("any(pt > 30)", lambda _x, pt, _e, _i: any(p > 30 for p in pt)),
    ("all(pt > 15)", lambda _x, pt, _e, _i: all(p > 15 for p in pt)),
    (
        "any(30 < pt < 60 && !(abs(eta) > 2))",
        lambda _x, pt, eta, _i: any(30 < p < 60 and abs(e) <= 2 for p, e in zip(pt, eta, strict=True)),
    ),
    ("any(pt > x)", lambda x, pt, _e, _i: any(p > x for p in pt)),
    ("pt[0]", lambda _x, pt, _e, _i: pt[0] if pt else NAN),
    ("pt[1] > 25", lambda _x, pt, _e, _i: len(pt) > 1 and pt[1] > 25),
    ("pt[abs(eta) < 2][0]", lambda _x, pt, eta, _i: next((p for p, e in zip(pt, eta, strict=True) if abs(e) < 2), NAN)),
    (
        "max(eta[pt > 30]) - min(eta)",
        lambda _x, pt, eta, _i: (
            max((e for p, e in zip(pt, eta, strict=True) if p > 30), default=NAN) - min(eta, default=NAN)
        ),
    ),
    ("id[0] & 4", lambda _x, _p, _e, i: float(i[0] & 4) if i else NAN),
    ("count(pt[(id & 2) != 0])", lambda _x, _p, _e, i: float(sum(j & 2 != 0 for j in i))),
    ("sum(where(pt > 30, 1, 0))", lambda _x, pt, _e, _i: float(sum(p > 30 for p in pt))),
    ("not (max(pt) > 30)", lambda _x, pt, _e, _i: not any(p > 30 for p in pt)),
    ("isnan(pt[2])", lambda _x, pt, _e, _i: len(pt) < 3),
]


@pytest.mark.parametrize(("text", "oracle"), JAGGED, ids=[text for text, _ in JAGGED])
def test_jagged_expressions_equal_a_loop_over_events(text: str, oracle: Callable[..., Any]) -> None:
    assert same(values(text), [oracle(*event) for event in zip(X, PT, ETA, ID, strict=True)])


_SAME_IN_MATH = ["sqrt", "exp", "log", "log10", "sin", "cos", "tan", "sinh", "cosh", "tanh", "isnan", "isfinite"]
FUNCTIONS: list[tuple[str, Callable[..., float | bool]]] = [
    *((name, getattr(math, name)) for name in _SAME_IN_MATH),
    ("abs", abs),
    ("floor", lambda x: float(math.floor(x))),
    ("ceil", lambda x: float(math.ceil(x))),
]


@pytest.mark.parametrize(("name", "oracle"), FUNCTIONS, ids=[name for name, _ in FUNCTIONS])
def test_functions_of_one_value_equal_the_math_module(name: str, oracle: Callable[..., float | bool]) -> None:
    points = [0.25, 1.0, 1.75, 3.5]
    assert same(values(f"{name}(a)", {"a": points}), [oracle(a) for a in points], tolerance=1e-14)


def test_functions_of_two_values_take_y_before_x() -> None:
    events = {"a": [1.0, -3.0], "b": [-2.0, 4.0]}
    assert same(values("arctan2(a, b)", events), [math.atan2(1, -2), math.atan2(-3, 4)], tolerance=1e-14)
    assert same(values("hypot(a, b)", events), [math.sqrt(5), 5.0], tolerance=1e-14)


def test_the_module_documents_every_function_and_the_message_lists_it() -> None:
    several = ["arctan2", "hypot", "minimum", "maximum", "where", "sum", "mean", "min", "max", "any", "all", "count"]
    names = [name for name, _ in FUNCTIONS] + several
    with pytest.raises(ConfigError) as caught:
        Expression.parse("nothing(x)")
    allowed = str(caught.value).rsplit("functions ", 1)[1].split()
    assert sorted(allowed) == sorted(names)
    documented = (selection.__doc__ or "").replace("``", " ").replace("(", " ").split()
    assert set(names) <= set(documented)


HOSTILE = [
    ("__import__('os')", "__import__"),
    ("().__class__", "Attribute"),
    ("().__class__.__bases__[0].__subclasses__()", "call of Attribute"),
    ("9**9**9", "exponent"),
    ("x ** n", "exponent"),
    ("x ** 17", "exponent"),
    ("x ** -16.5", "exponent"),
    ("x ** True", "exponent"),
    ("x ** --2", "exponent"),
    ("lambda: 0", "Lambda"),
    ("[x for x in y]", "ListComp"),
    ("{x for x in y}", "SetComp"),
    ("{x: 1 for x in y}", "DictComp"),
    ("any(x for x in y)", "GeneratorExp"),
    ("f'{x}'", "JoinedStr"),
    ("'text'", "str literals"),
    ("'a' && 'b'", "str literals"),
    ("b'bytes'", "bytes literals"),
    ("x == 'a'", "str literals"),
    ("a if b else c", "IfExp"),
    ("x.y", "Attribute"),
    ("open('f')", "'open'"),
    ("eval(x)", "'eval'"),
    ("exec(x)", "'exec'"),
    ("getattr(x, y)", "'getattr'"),
    ("(lambda: x)()", "call of Lambda"),
    ("abs(x)(y)", "call of Call"),
    ("pt[0](x)", "call of Subscript"),
    ("__builtins__", "__builtins__"),
    ("__entry > 3", "__entry"),
    ("(x := 3)", "NamedExpr"),
    ("x = 3", "invalid syntax"),
    ("import os", "invalid syntax"),
    ("x; y", "invalid syntax"),
    ("x > 1 # && y", "comments"),
    ("abs(*x)", "Starred"),
    ("abs(x=1)", "abs takes 1 argument, without names"),
    ("abs(**x)", "abs takes 1 argument, without names"),
    ("abs(x, y)", "abs takes 1 argument, without names"),
    ("where(x, y)", "where takes 3 arguments, without names"),
    ("max(x, y)", "of two values take maximum"),
    ("pt[0:2]", "Slice"),
    ("pt[0, 1]", "Tuple"),
    ("pt[-1]", "an index must be"),
    ("pt[1.0]", "an index must be"),
    ("pt[...]", "ellipsis literals"),
    ("count(pt > 30)", r"sum\(condition\)"),
    ("x @ y", "MatMult"),
    ("x << 9", "LShift"),
    ("x >> 9", "RShift"),
    ("x ^ y", "BitXor"),
    ("x in y", "operator In"),
    ("x is y", "operator Is"),
    ("None", "NoneType literals"),
    ("1j", "complex literals"),
    ("9" * 400, "64 bits"),
    ("[1, 2]", "List"),
    ("(1, 2)", "Tuple"),
    ("{}", "Dict"),
    ("await x", "Await"),
    ("yield x", "syntax"),
    ("(yield x)", "Yield"),
    ("print(x)", "'print'"),
    ("", "nothing there"),
    ("  \n", "nothing there"),
    ("x >", "invalid syntax"),
    ("(x", "never closed"),
    ("x) + (y", "unmatched"),
    ("x \\\n+ y", "line continuation"),
    ("a\0b", "null bytes|syntax"),
    ("-" * 60 + "x", "50 levels deep"),
    ("-" * 1999 + "x", "50 levels deep|cannot be read"),
    ("(" * 900 + "x" + ")" * 900, "nested parentheses"),
    ("x" + "[0]" * 600, "50 levels deep"),
    ("||".join("x" * 501), "500 operands"),
    ("x + " * 600 + "x", "longer than 2000"),
    # from published ways out of Python's sandboxes
    ("x.__class__.__mro__[1].__subclasses__()", "call of Attribute"),
    ("(0).__class__.__base__", "Attribute"),
    ("abs.__globals__['np']", "str literals|Attribute"),
    ("abs.__init__.__globals__", "Attribute"),
    ("''.join(x)", "call of Attribute"),
    ("'{0.__class__}'.format(x)", "call of Attribute"),
    ("f'{x.__class__}'", "JoinedStr"),
    ("f'{x!r:>99999999}'", "JoinedStr|f-string"),
    ("'%99999999d' % x", "str literals"),
    ("'a' * 999999999", "str literals"),
    ("(lambda f: f(f))(lambda f: f(f))", "call of Lambda"),
    ("[c for c in ().__class__.__base__.__subclasses__()]", "ListComp"),
    ("(c for c in x).gi_frame.f_back", "Attribute"),
    ("x if x else __import__('os').system('id')", "IfExp"),
    ("__builtins__['eval']", "str literals|__builtins__"),
    ("_\uff3fimport_\uff3f('os')", "__import__"),  # which Python reads as __import__
    ("_\uff3fclass_\uff3f", "__class__"),
    ("eval\u200b(x)", "non-printable character"),
    ("globals()", "'globals'"),
    ("vars(x)", "'vars'"),
    ("type(x)", "'type'"),
    ("input()", "'input'"),
    ("breakpoint()", "'breakpoint'"),
    ("help(x)", "'help'"),
    ("compile(x, y, z)", "'compile'"),
    ("memoryview(x)", "'memoryview'"),
    ("sum(sum)(x)", "call of Call"),
    ("abs[abs]()", "call of Subscript"),
    ("(abs)(x=1)", "without names"),
    ("any(*x)", "Starred"),
    ("x[(y := 3)]", "NamedExpr"),
    ("x[lambda: 0]", "Lambda"),
    ("x[::1]", "Slice"),
    ("2 ** 9999999", "exponent"),
    ("2 ** 2 ** 2 ** 2 ** 9", "exponent"),
    ("(2 ** 16) ** (2 ** 16)", "exponent"),
    ("x ** 1e999", "exponent"),
    ("x ** (1 + 1)", "exponent"),
    ("1 << 99999999999", "LShift"),
    ("9" * 1999, "64 bits"),
    ("0x" + "f" * 1990, "64 bits"),
    ("[" * 300 + "]" * 300, "List|nested parentheses|cannot be read"),
    ("abs(" * 199 + "x" + ")" * 199, "50 levels deep|nested parentheses"),
    ("~" * 1999 + "x", "50 levels deep|cannot be read"),
    ("x[" * 199 + "0" + "]" * 199, "50 levels deep|nested parentheses"),
    ("+".join("x" * 260), "50 levels deep"),
    ("x" * 2001, "longer than 2000"),
    ("x" + " " * 10_000_000, "longer than 2000"),
    ("x\n" * 900, "invalid syntax"),
    ("x\\", "line continuation"),
    ("\ud800", "cannot be read"),
    ("x\x1b[2J", "non-printable|invalid"),
    ("!" * 1500 + "x", "50 levels deep|cannot be read"),
    ("&&" * 190, "invalid syntax|unexpected indent"),
    ("async x", "invalid syntax"),
    ("print(x) or x", "'print'"),
    ("assert x", "invalid syntax"),
    ("del x", "invalid syntax"),
    ("x: int", "invalid syntax"),
    ("*x", "Starred|invalid syntax"),
    ("match(x)", "'match'"),
    ("{**x}", "Dict"),
    ("{x}", "Set"),
    ("x.real", "Attribute"),
    ("True.real", "Attribute"),
]


@pytest.mark.parametrize(("text", "named"), HOSTILE, ids=[repr(text[:40]) for text, _ in HOSTILE])
def test_everything_else_is_refused_by_name(text: str, named: str) -> None:
    with pytest.raises(ConfigError, match=rf"character \d+: .*({named})"):
        Expression.parse(text)


@pytest.mark.parametrize(
    ("text", "position"),
    [("x.y > 1", 1), ("a&&b||x.y", 7), ("!a && (b if c else d)", 8), ("µ_pt > 1 && open(x)", 13), ("  a ==\n b.c", 9)],
)
def test_errors_give_the_position_in_the_text_as_written(text: str, position: int) -> None:
    with pytest.raises(ConfigError, match=rf"character {position}:"):
        Expression.parse(text)


def test_there_are_as_many_attacks_as_is_promised() -> None:
    assert len({text for text, _ in HOSTILE}) == len(HOSTILE) >= 60


def test_all_of_them_are_refused_in_bounded_time_and_memory() -> None:
    slowest, most = 0.0, 0
    for text, _ in HOSTILE:
        tracemalloc.start()
        began = time.process_time()
        with pytest.raises(ConfigError) as caught:
            Expression.parse(text)
        slowest = max(slowest, time.process_time() - began)
        most = max(most, tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert len(str(caught.value)) < 1500
    assert slowest < 1
    assert most < 4 << 20


ALLOWED_NODES = (
    *(ast.Expression, ast.Constant, ast.Name, ast.Load, ast.UnaryOp, ast.BinOp, ast.BoolOp, ast.Compare, ast.Call),
    *(ast.Subscript, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.Pow, ast.BitAnd, ast.BitOr),
    *(ast.USub, ast.UAdd, ast.Not, ast.Invert, ast.And, ast.Or, ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Eq, ast.NotEq),
)
"""The language as its module describes it: nothing with an attribute, a text or a function of Python's."""

KNOWN_FUNCTIONS = {name for name, _ in FUNCTIONS} | {
    *("arctan2", "hypot", "minimum", "maximum", "where", "sum", "mean", "min", "max", "any", "all", "count")
}
WORDS = ["x", "pt", "1", "2.5", "True", "abs", "sum", "where", "__class__", "eval", "'a'", "lambda", "for", "in", "if"]
MARKS = ["(", ")", "[", "]", ".", ",", "+", "-", "*", "**", "%", "&", "|", "^", "~", "!", "&&", "==", "<", "and", ":"]
PYTHON = st.recursive(
    st.sampled_from(["x", "pt", "1", "2.5", "True", "'a'", "None", "__x"]),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["+", "**", "&", "<", "and", "in", "@", "<<", "||"]), inner).map(" ".join),
        st.tuples(st.sampled_from(["abs", "sum", "eval", "x.y", "(lambda: 0)"]), inner).map("{0[0]}({0[1]})".format),
        st.tuples(inner, inner).map("{0[0]}[{0[1]}]".format),
        st.sampled_from(["{}.__class__", "[{0} for x in {0}]", "f'{{{}}}'", "({})", "-{}"]).flatmap(
            lambda form: inner.map(form.format)
        ),
    ),
    max_leaves=6,
)
"""Expressions of Python, of which some are of the language."""


@settings(max_examples=300)
@given(
    st.one_of(
        st.lists(st.sampled_from(WORDS + MARKS), min_size=1, max_size=12).map(" ".join),
        st.lists(st.sampled_from(WORDS + MARKS), min_size=1, max_size=12).map("".join),
        st.text(max_size=30),
        PYTHON,
    )
)
def test_what_is_accepted_has_only_nodes_of_the_language(text: str) -> None:
    try:
        expression = Expression.parse(text)
    except ConfigError:
        return
    python = re.sub(r"!(?!=)", "~", text.replace("&&", " and ").replace("||", " or "))
    nodes = list(ast.walk(ast.parse(" ".join(python.split()), mode="eval")))
    assert [node for node in nodes if not isinstance(node, ALLOWED_NODES)] == []
    calls = [node for node in nodes if isinstance(node, ast.Call)]
    assert {call.func.id for call in calls if isinstance(call.func, ast.Name)} <= KNOWN_FUNCTIONS
    assert all(isinstance(call.func, ast.Name) and not call.keywords for call in calls)
    assert not any(name.startswith("__") for name in expression.branches)
    assert all(isinstance(node.value, bool | int | float) for node in nodes if isinstance(node, ast.Constant))


def test_the_limits_themselves_are_allowed() -> None:
    assert same(values("-" * 49 + "x"), [-x for x in X])
    assert same(values(" or ".join(["x"] * 399)), [bool(x) for x in X])
    assert same(values("x" + " " * 1999), X)
    assert same(values("(x - 1) ** 16", {"x": [3.0]}), [65536.0])


def test_an_unknown_function_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"'sqr' is not part of the language; nearest: sqrt"):
        Expression.parse("sqr(x) > 2")


def test_an_unknown_branch_names_the_nearest_and_the_selection() -> None:
    with pytest.raises(BranchNotFoundError) as caught:
        Expression.parse("Jet_pT > 3").passes(pa.RecordBatch.from_pydict({"Jet_pt": [1.0]}))
    assert str(caught.value) == "branch 'Jet_pT' not found in selection 'Jet_pT > 3'; nearest: Jet_pt"


def test_branches_are_the_names_that_are_not_functions() -> None:
    assert Expression.parse("max(pt[eta > 2]) > max && abs(x) < 3").branches == {"pt", "eta", "max", "x"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pt > 30", r"a list in each event.*any\(\.\.\.\)"),
        ("pt", "a list in each event"),
        ("sum(x)", r"character 1: sum\(\.\.\.\) needs a jagged branch"),
        ("1 + x[0]", r"character 5: \[\.\.\.\] needs a jagged branch"),
        ("count(pt[id])", "a jagged condition"),
        ("count(pt[flag])", "a jagged condition"),
        ("sum(pt + tau)", "differ in how many elements"),
        ("sum(pt[tau > 1])", "differs in how many elements"),
        ("(x + 0.3) & n", "whole numbers"),
        ("n & -18446744073709551615", "whole numbers"),
        ("~n & 4", "do not mix a boolean with a number"),
        ("name == 1", "neither numbers nor lists of numbers: values of type string"),
        ("max(deep) > 1", "values of type list"),
    ],
)
def test_operations_that_do_not_fit_their_branches_are_refused(text: str, message: str) -> None:
    events = {**EVENTS, "tau": [[1.0], [], [], []], "name": list("abcd"), "deep": [[[1.0]], [], [], []]}
    with pytest.raises(ConfigError, match=message):
        Expression.parse(text).values(pa.RecordBatch.from_pydict(events))


def test_columns_of_unequal_length_are_refused() -> None:
    with pytest.raises(ConfigError, match="branch b has 2 events, a has 3"):
        values("a + b", {"a": [1, 2, 3], "b": [1, 2]})


def test_missing_values_pass_through_arithmetic_and_fail_every_comparison() -> None:
    events = pa.RecordBatch.from_pydict({"a": [1.0, None, NAN], "n": [1, None, 2], "f": [True, None, False]})
    assert same(values("a + 1", events), [2.0, NAN, NAN])
    assert same(values("n", events), [1.0, NAN, 2.0])
    assert same(values("f", events), [1.0, NAN, 0.0])
    assert same(values("n & 1", events), [1.0, NAN, 0.0])
    for comparison in ("a < 9", "a <= 9", "a > 0", "a >= 0", "a == 1", "a != 9"):
        assert same(values(comparison, events), [True, False, False]), comparison
    assert same(values("minimum(a, 0)", events), [0.0, NAN, NAN])


@pytest.mark.parametrize("text", ["a", "f", "a && f", "f && n == 1", "a == 1"])
def test_a_missing_value_does_not_pass(text: str) -> None:
    events = pa.RecordBatch.from_pydict({"a": [1.0, None, NAN], "n": [1, None, None], "f": [True, None, None]})
    passed = Expression.parse(text).passes(events)
    assert passed.dtype == bool
    assert passed.tolist() == [True, False, False]


def test_numbers_pass_unless_zero() -> None:
    assert Expression.parse("a").passes(pa.RecordBatch.from_pydict({"a": [0.0, 0.5, -INF]})).tolist() == [
        False,
        True,
        True,
    ]


def test_null_lists_are_empty_and_null_elements_missing() -> None:
    events = pa.RecordBatch.from_pydict({"a": [[1, None], None, [], [4]]})
    assert same(values("count(a)", events), [2.0, 0.0, 0.0, 1.0])
    assert same(values("a[1]", events), [NAN] * 4)
    assert same(values("sum(a > 0)", events), [1.0, 0.0, 0.0, 1.0])
    assert same(values("max(a)", events), [NAN, NAN, NAN, 4.0])


def test_division_by_zero_gives_inf_or_nan_without_a_warning() -> None:
    events = {"a": np.array([1, -1, 0])}
    assert same(values("a / 0", events), [INF, -INF, NAN])
    assert same(values("a // 0", events), [INF, -INF, NAN])
    assert same(values("a % 0", events), [NAN, NAN, NAN])
    assert same(values("1 / 0 + a", events), [INF, INF, INF])
    assert same(values("sqrt(a)", events), [1.0, NAN, 0.0])
    assert same(values("log(a)", events), [0.0, NAN, -INF])


def test_integers_beyond_the_floats_compare_and_divide_exactly() -> None:
    big = 2**53
    events = {"event": np.array([big, big + 1], dtype=np.uint64), "other": np.array([big + 1, big + 1])}
    assert same(values("event == 9007199254740993", events), [False, True])
    assert same(values("event < other", events), [True, False])
    assert same(values("event % 10", events), [float(big % 10), float((big + 1) % 10)])
    assert same(values("event // 2 == 4503599627370496", events), [True, True])
    assert same(values("a == -9007199254740993", {"a": np.array([-big, -big - 1])}), [False, True])
    assert same(values("a > -18446744073709551615", {"a": np.array([-big, 3])}), [True, True])
    huge = {"event": np.array([2**64 - 1, 5], dtype=np.uint64), "other": np.array([-1, 5])}
    assert same(values("event == other", huge), [False, True])
    assert same(values("event == 18446744073709551615", huge), [True, False])


def test_small_types_do_not_wrap_around() -> None:
    events = {"a": np.array([200, 3], dtype=np.uint8), "b": np.array([100, -100], dtype=np.int8)}
    assert same(values("a + a - b", events), [300.0, 106.0])
    assert same(values("-a", events), [-200.0, -3.0])
    assert same(values("abs(b) % 7", events), [2.0, 2.0])
    assert same(values("a % 300 > -1", events), [True, True])


def test_float32_branches_are_compared_in_double() -> None:
    assert same(values("a > 0.1", {"a": np.array([0.1, 0.2], dtype=np.float32)}), [True, True])


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.float32()), pa.large_list(pa.int16()), pa.list_(pa.int8(), 2)], ids=["list", "large", "fixed"]
)
def test_all_kinds_of_lists_and_their_slices_are_jagged(kind: pa.DataType) -> None:
    batch = pa.RecordBatch.from_arrays([pa.array([[9, 9], [1, 2], None, [3, 5]], kind)], ["a"]).slice(1)
    assert same(values("sum(a)", batch), [3.0, 0.0, 8.0])
    assert same(values("a[1]", batch), [2.0, NAN, 5.0])


def test_columns_may_be_numpy_arrow_awkward_or_lists() -> None:
    events = {"a": ak.Array(PT), "b": np.array(X), "c": pa.array(N), "d": FLAG}
    assert same(values("sum(a) + b + c + d", events), [105.0 + 1 + 3 + 1, -9.5, 10.0 + 0 + 0 + 1, 121.0 + 40 + 12])


@pytest.mark.parametrize("text", ["a > 1", "max(b) > 1", "sum(b)", "b[0]", "any(b > 1)", "count(b[b > 1])", "True"])
def test_no_events_give_no_values(text: str) -> None:
    batch = pa.RecordBatch.from_arrays([pa.array([], pa.int32()), pa.array([], pa.list_(pa.float32()))], ["a", "b"])
    assert Expression.parse(text).values(batch).shape == (0,)
    assert Expression.parse(text).passes(batch).dtype == bool


def test_only_the_branches_that_are_used_need_be_numbers() -> None:
    assert same(values("x > 0", {"s": list("abcd"), "x": X}), [x > 0 for x in X])


def test_the_input_is_left_as_it_was() -> None:
    column = np.array(X)
    found = Expression.parse("x").values({"x": column})
    found[:] = 7
    assert column.tolist() == X


def test_an_expression_survives_pickle_and_is_its_text() -> None:
    expression = Expression.parse("any(pt > 30) && !flag")
    copy = pickle.loads(pickle.dumps(expression))  # noqa: S301 - our own bytes
    assert copy == expression
    assert copy.passes(BATCH).tolist() == [False, False, False, True]
    assert b"any(pt > 30) && !flag" in pickle.dumps(expression)


def test_an_expression_is_checked_however_it_is_made() -> None:
    with pytest.raises(ConfigError, match="Attribute"):
        Expression("x.y")


def test_the_import_loads_neither_arrow_awkward_spark_nor_tensorflow() -> None:
    heavy = "{'pyarrow', 'awkward', 'pyspark', 'tensorflow'}"
    program = (
        f"import sys; import mlaas_spark.selection as s; s.Expression.parse('a > 1'); print({heavy} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)  # noqa: S603
    assert done.stdout.strip() == "set()"


_BINARY: list[type[ast.operator]] = [ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod]
_LEAVES = st.one_of(
    st.sampled_from("abc").map(lambda name: ast.Name(name, ast.Load())),
    st.floats(0, 1e6).map(ast.Constant),
)
_TREES = st.recursive(
    _LEAVES,
    lambda inner: st.one_of(
        st.builds(lambda left, op, right: ast.BinOp(left, op(), right), inner, st.sampled_from(_BINARY), inner),
        st.builds(lambda operand: ast.UnaryOp(ast.USub(), operand), inner),
    ),
    max_leaves=12,
)
_NUMBERS = st.floats(-1e6, 1e6)


@given(tree=_TREES, events=st.lists(st.tuples(_NUMBERS, _NUMBERS, _NUMBERS), min_size=1, max_size=5))
def test_arithmetic_equals_pythons_own(tree: ast.expr, events: list[tuple[float, float, float]]) -> None:
    text = ast.unparse(tree)  # with no more parentheses than precedence asks for
    columns = dict(zip("abc", map(list, zip(*events, strict=True)), strict=True))
    for event, found in zip(events, values(text, columns), strict=True):
        try:
            expected = eval(text, {"__builtins__": {}}, dict(zip("abc", event, strict=True)))  # noqa: S307 - our text
        except ZeroDivisionError:  # has its own test
            continue
        assert same([found], [expected])


@given(base=st.floats(-1e3, 1e3), exponent=st.integers(0, 16))
def test_powers_equal_pythons_own(base: float, exponent: int) -> None:
    assert same(values(f"a ** {exponent}", {"a": [base]}), [base**exponent], tolerance=1e-14)


@given(lists=st.lists(st.lists(st.integers(-99, 99), max_size=4), min_size=1, max_size=6), cut=st.integers(-99, 99))
def test_a_cut_on_elements_equals_a_filter_of_each_list(lists: list[list[int]], cut: int) -> None:
    found = values(f"sum(a[a > {cut}])", {"a": pa.array(lists, pa.list_(pa.int64()))})
    assert found == [sum(element for element in elements if element > cut) for elements in lists]


@given(st.text(st.sampled_from("ab1.+-*/%&|!~<>=()[], '\"\\#\nµ_"), max_size=30) | st.text(max_size=30))
def test_any_text_is_parsed_or_refused_with_a_config_error(text: str) -> None:
    try:
        expression = Expression.parse(text)
    except ConfigError as error:
        assert "character" in str(error)  # noqa: PT017 - either outcome is right
    else:
        assert Expression.parse(expression.text) == expression
