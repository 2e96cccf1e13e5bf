"""Selection: cuts and derived values over events, in a small language of its own. Nothing is executed as Python.

Values: numbers, ``True``, ``False`` and branches by name. A flat branch has one value an event, a jagged one a list;
an operation with a jagged operand works on its elements, a flat operand being repeated for them.

=====================================  ================================================================================
``+ - * / // % **``                    arithmetic in float64 (``//`` and ``%`` of integers stay integers); an exponent
                                       is a literal number of at most 16 either way; x / 0 is inf or NaN, no error
``< <= > >= == !=``, ``1 < x < 3``     comparisons, exact between integers
``and or not``, ``&& || !``, ``~``     logic; a number counts as true unless it is 0 or missing
``& |``                                logic of two booleans, otherwise bits of whole numbers: ``Jet_jetId[0] & 4``
``Jet_pt[0]``                          the element at a literal position, missing where the event has fewer
``Jet_pt[Jet_eta < 2]``                the elements for which a jagged condition holds
``abs sqrt exp log log10``             of one value; ``log`` is the natural one
``sin cos tan sinh cosh tanh``         of one value, in radians
``floor ceil isnan isfinite``          of one value
``arctan2(y, x) hypot(x, y)``          angle in (-pi, pi] and distance from the origin
``minimum(a, b) maximum(a, b)``        the smaller and the larger of two values; missing if one of them is
``where(condition, a, b)``             a where the condition holds, otherwise b
``sum mean min max any all count``     of the elements of a jagged value in each event; ``count`` counts all of them;
                                       mean, min and max of none are missing, sum and count 0, any False, all True
=====================================  ================================================================================

A missing value (null, NaN, no such element) is NaN: it passes through arithmetic, and every comparison with it is
False, ``!=`` included. Precedence is Python's, but for C++'s ``!``, which binds as tightly as ``~`` and as in C++.
"""

from __future__ import annotations

import ast
import functools
import itertools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from mlaas_spark.errors import BranchNotFoundError, ConfigError, hint

if TYPE_CHECKING:
    import pyarrow as pa

_Array: TypeAlias = npt.NDArray[Any]

_LONGEST_TEXT = 2000
_DEEPEST = 50
_MOST_NODES = 500
_LARGEST_EXPONENT = 16
_LARGEST_INTEGER = 2**64 - 1


@dataclass(frozen=True, slots=True)
class Expression:
    """An expression of the selection language, checked when it is made; only its text is pickled.

    Raises:
        ConfigError: The text is not in the language; tells where, what, and what is allowed.
    """

    text: str

    def __post_init__(self) -> None:
        _program(self.text)

    @classmethod
    def parse(cls, text: str) -> Self:
        """The expression ``text``; ConfigError if it is not in the language."""
        return cls(text)

    @property
    def branches(self) -> frozenset[str]:
        """Names of the branches it uses."""
        return _program(self.text).branches

    def values(self, events: Mapping[str, Any] | pa.RecordBatch) -> _Array:
        """One value an event, shape (n,), bool or float64, missing as NaN.

        Args:
            events: A batch, or columns by name: NumPy, Arrow or awkward arrays, or (nested) lists, all of n events.

        Raises:
            BranchNotFoundError: ``events`` lacks a branch that is used.
            ConfigError: The result is a list an event, or an operation does not fit its branches.
        """
        program = _program(self.text)
        rows, columns = self._columns(events, program.branches)
        with np.errstate(all="ignore"):
            result = program.step(columns)
        if isinstance(result, _Jagged):
            msg = (
                f"selection {self.text!r} gives a list in each event, not one value: "
                "use any(...), all(...), sum(...), count(...), max(...) or an index such as [0]"
            )
            raise ConfigError(msg)
        flat = np.asarray(result)
        return np.array(np.broadcast_to(flat, rows), dtype=bool if flat.dtype.kind == "b" else np.float64)

    def passes(self, batch: Mapping[str, Any] | pa.RecordBatch) -> _Array:
        """Which events it holds for, bool, shape (n,): where the value is neither 0 nor missing; raises as values."""
        return np.asarray(_truth(self.values(batch)))

    def _columns(self, events: Mapping[str, Any] | pa.RecordBatch, wanted: frozenset[str]) -> tuple[int, _Columns]:
        names = list(events) if isinstance(events, Mapping) else events.schema.names
        for name in sorted(wanted.difference(names)):
            raise BranchNotFoundError(name, available=names, where=f"selection {self.text!r}")
        rows = len(next(iter(events.values()), ())) if isinstance(events, Mapping) else events.num_rows
        columns: dict[str, _Value] = {}
        for name in sorted(wanted):
            if len(events[name]) != rows:
                msg = f"selection {self.text!r}: branch {name} has {len(events[name])} events, {names[0]} has {rows}"
                raise ConfigError(msg)
            try:
                columns[name] = _column(events[name])
            except (TypeError, ValueError, NotImplementedError) as error:  # pyarrow's errors are of these
                msg = f"selection {self.text!r}: branch {name} is neither numbers nor lists of numbers: {error}"
                raise ConfigError(msg) from error
        return rows, columns


@dataclass(frozen=True, slots=True)
class _Jagged:
    """Elements of all events, one after the other, and how many each event has; ``content`` has no others."""

    content: _Array
    counts: _Array

    @property
    def starts(self) -> _Array:
        """Position in ``content`` of each event's first element."""
        return np.asarray(np.cumsum(self.counts) - self.counts)

    @property
    def owners(self) -> _Array:
        """Number of the event, for each element."""
        return np.repeat(np.arange(len(self.counts)), self.counts)

    def at(self, position: int) -> _Array:
        """Element at ``position`` in each event, NaN where there is none."""
        found = np.full(len(self.counts), np.nan)
        enough = self.counts > position
        found[enough] = self.content[self.starts[enough] + position]
        return found

    def where(self, mask: _Jagged) -> _Jagged:
        """The elements for which ``mask``, of equal counts, is True."""
        return _Jagged(self.content[mask.content], np.bincount(self.owners[mask.content], minlength=len(self.counts)))


_Value: TypeAlias = "_Array | np.generic | float | _Jagged"  # float: also int and bool, the literals
_Columns: TypeAlias = Mapping[str, _Value]
_Step: TypeAlias = Callable[[_Columns], _Value]


def _column(column: Any) -> _Value:
    """A branch as bool, int64 (uint64 where it must) or float64 with nulls as NaN; a null list is an empty one."""
    import pyarrow as pa
    import pyarrow.compute as pc

    array = column if isinstance(column, pa.Array) else pa.array(column)
    kind = array.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        counts = pc.list_value_length(array).fill_null(0).to_numpy(zero_copy_only=False)
        return _Jagged(_numbers(array.flatten()), counts.astype(np.int64))
    return _numbers(array)


def _numbers(array: pa.Array) -> _Array:
    import pyarrow as pa

    known = ("boolean", "integer", "floating", "decimal", "null")
    if not any(getattr(pa.types, f"is_{kind}")(array.type) for kind in known):
        msg = f"values of type {array.type}"
        raise TypeError(msg)
    values: _Array = array.to_numpy(zero_copy_only=False)
    if values.dtype.kind == "b" or (values.dtype == np.uint64 and values.max(initial=0) > np.iinfo(np.int64).max):
        return values
    return values.astype(np.int64 if values.dtype.kind in "iu" else np.float64, copy=False)


def _elements(value: _Value, counts: _Array) -> _Value:
    """One value for each of all the elements; a single number stays one."""
    if isinstance(value, _Jagged):
        return value.content
    return np.repeat(value, counts) if np.ndim(value) else value


def _in_floats(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *values: function(*(np.asarray(value, dtype=np.float64) for value in values))


def _in_integers(function: np.ufunc) -> Callable[[Any, Any], Any]:
    """``//`` or ``%``: in integers if both are and no divisor is 0, otherwise in floats."""

    def apply(*values: Any) -> Any:
        sides = [np.asarray(value) for value in values]
        if any(side.dtype.kind == "f" for side in sides) or not sides[1].all():
            return _in_floats(function)(*sides)
        return function(*(side.astype(np.int64) if side.dtype.kind == "b" else side for side in sides))

    return apply


def _in_bits(function: np.ufunc) -> Callable[[Any, Any], Any]:
    """``&`` or ``|``: logic of two booleans, otherwise bits of whole numbers, missing where one side is."""

    def apply(*values: Any) -> Any:
        sides = [np.asarray(value) for value in values]
        logical = [side.dtype.kind == "b" for side in sides]
        if all(logical):
            return function(*sides)
        missing = np.isnan(sides[0]) | np.isnan(sides[1])
        known = [np.where(missing, 0, side) for side in sides]
        if any(np.any((side != np.floor(side)) | (abs(side) >= 2.0**63)) for side in known if side.dtype.kind == "f"):
            msg = "& and | take booleans or whole numbers: write `and`, `or`"
            raise ConfigError(msg)
        if any(logical) and any(np.any((side < 0) | (side > 1)) for side in known):  # such as ~flags & 4
            msg = "& and | do not mix a boolean with a number other than 0 and 1: write `and`, `or`, or compare first"
            raise ConfigError(msg)
        bits = function(*(side.astype(np.int64) for side in known))
        return np.where(missing, np.nan, bits) if missing.any() else bits

    return apply


def _differ(left: Any, right: Any) -> Any:
    return np.less(left, right) | np.greater(left, right)  # unlike not_equal: False for NaN


def _truth(value: Any) -> Any:
    return value if np.asarray(value).dtype.kind == "b" else _differ(value, 0)


def _all_true(*values: Any) -> Any:
    return functools.reduce(np.logical_and, map(_truth, values))


def _any_true(*values: Any) -> Any:
    return functools.reduce(np.logical_or, map(_truth, values))


def _total(jagged: _Jagged) -> _Array:
    return np.bincount(jagged.owners, weights=jagged.content.astype(np.float64), minlength=len(jagged.counts))


def _true_count(jagged: _Jagged) -> _Array:
    return _total(_Jagged(_truth(jagged.content), jagged.counts))


def _extreme(function: np.ufunc) -> Callable[[_Jagged], _Array]:
    def reduce(jagged: _Jagged) -> _Array:
        found = np.full(len(jagged.counts), np.nan)
        some = jagged.counts > 0
        if some.any():
            found[some] = function.reduceat(jagged.content, jagged.starts[some])
        return found

    return reduce


_OPERATORS: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Add: _in_floats(np.add),
    ast.Sub: _in_floats(np.subtract),
    ast.Mult: _in_floats(np.multiply),
    ast.Div: _in_floats(np.divide),
    ast.Pow: _in_floats(np.power),
    ast.FloorDiv: _in_integers(np.floor_divide),
    ast.Mod: _in_integers(np.remainder),
    ast.BitAnd: _in_bits(np.bitwise_and),
    ast.BitOr: _in_bits(np.bitwise_or),
    ast.USub: _in_floats(np.negative),
    ast.UAdd: _in_floats(np.positive),
    ast.Not: lambda value: np.logical_not(_truth(value)),
    ast.Invert: lambda value: np.logical_not(_truth(value)),
    ast.Lt: np.less,
    ast.LtE: np.less_equal,
    ast.Gt: np.greater,
    ast.GtE: np.greater_equal,
    ast.Eq: np.equal,
    ast.NotEq: _differ,
}
_ANGULAR = (np.sin, np.cos, np.tan, np.sinh, np.cosh, np.tanh)
_OF_ONE = (np.sqrt, np.exp, np.log, np.log10, *_ANGULAR, np.floor, np.ceil, np.isnan, np.isfinite)
_FUNCTIONS: dict[str, tuple[int, Callable[..., Any]]] = {  # with how many arguments each takes
    "abs": (1, _in_floats(np.abs)),
    **{ufunc.__name__: (1, _in_floats(ufunc)) for ufunc in _OF_ONE},
    "arctan2": (2, _in_floats(np.arctan2)),
    "hypot": (2, _in_floats(np.hypot)),
    "minimum": (2, np.minimum),
    "maximum": (2, np.maximum),
    "where": (3, lambda condition, a, b: np.where(_truth(condition), a, b)),
}
_REDUCTIONS: dict[str, Callable[[_Jagged], _Array]] = {
    "sum": _total,
    "mean": lambda jagged: np.asarray(_total(jagged) / jagged.counts),
    "min": _extreme(np.minimum),
    "max": _extreme(np.maximum),
    "any": lambda jagged: np.asarray(_true_count(jagged) > 0),
    "all": lambda jagged: np.asarray(_true_count(jagged) == jagged.counts),
    "count": lambda jagged: jagged.counts,
}
_ALLOWED = (
    "allowed are numbers, True, False, branch names, + - * / // % **, comparisons, and or not & | ~ && || !, "
    f"X[0], X[condition] and the functions {' '.join([*_FUNCTIONS, *_REDUCTIONS])}"
)
_SPELLING = {"&&": " and ", "||": " or ", "!": "~"}


class _Program(NamedTuple):
    step: _Step
    branches: frozenset[str]


@functools.lru_cache(maxsize=256)
def _program(text: str) -> _Program:
    builder = _Builder(text)
    return _Program(builder.build(builder.tree()), frozenset(builder.branches))


class _Builder:
    """Turns a syntax tree into nested functions over columns; what it has no rule for is refused."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.branches: set[str] = set()
        self.nodes = 0
        self.source = ""  # the text in Python's spelling, on one line
        self.origin: list[int] = []  # position in text, for each character of source
        if len(text) > _LONGEST_TEXT:
            raise self.error(_LONGEST_TEXT, f"longer than {_LONGEST_TEXT} characters: make derived values of its parts")
        indent = len(text) - len(text.lstrip())
        for match in re.compile(r"&&|\|\||!=|\s|.").finditer(text, indent):
            spelled = " " if match[0].isspace() else _SPELLING.get(match[0], match[0])
            self.source += spelled
            self.origin += [match.start()] * len(spelled)

    def error(self, position: int, what: str) -> ConfigError:
        shown = self.text if len(self.text) <= 120 else f"{self.text[:119]}…"
        return ConfigError(f"selection {shown!r}, character {position + 1}: {what}")

    def refuse(self, node: ast.expr, what: str) -> ConfigError:
        start = len(self.source.encode()[: node.col_offset].decode())  # Python counts bytes
        return self.error(self.origin[start], what)

    def tree(self) -> ast.expr:
        if not self.source:
            raise self.error(0, f"nothing there; {_ALLOWED}")
        if "#" in self.source:  # Python would leave out the rest without a word
            raise self.error(self.text.index("#"), f"comments are not part of the language; {_ALLOWED}")
        try:
            return ast.parse(self.source, mode="eval").body
        except SyntaxError as error:
            at = min(max(error.offset or 1, 1), len(self.origin)) - 1
            raise self.error(self.origin[at], f"{error.msg}; {_ALLOWED}") from None
        except (ValueError, RecursionError, MemoryError) as error:  # null bytes, nesting beyond what Python can parse
            raise self.error(0, f"cannot be read ({type(error).__name__}); {_ALLOWED}") from None

    def build(self, node: ast.expr, depth: int = 1) -> _Step:
        self.nodes += 1
        if depth > _DEEPEST or self.nodes > _MOST_NODES:
            limit = f"{_DEEPEST} levels deep" if depth > _DEEPEST else f"{_MOST_NODES} operands and operations"
            raise self.refuse(node, f"more than {limit}: make derived values of its parts")
        rule = _RULES.get(type(node))
        if rule is None:
            raise self.refuse(node, f"{type(node).__name__} is not part of the language; {_ALLOWED}")
        return rule(self, node, depth + 1)

    def lift(self, node: ast.expr, function: Callable[..., Any], *operands: _Step) -> _Step:
        """``function`` of flat operands, or of the elements of jagged ones with flat ones repeated for them."""

        def step(columns: _Columns) -> _Value:
            values = [operand(columns) for operand in operands]
            shapes = [value.counts for value in values if isinstance(value, _Jagged)]
            if any(not np.array_equal(shapes[0], shape) for shape in shapes[1:]):
                raise self.refuse(node, "jagged operands differ in how many elements an event has")
            if shapes:
                values = [_elements(value, shapes[0]) for value in values]
            try:
                result = function(*values)
            except ConfigError as error:
                raise self.refuse(node, str(error)) from None
            return _Jagged(result, shapes[0]) if shapes else result

        return step

    def operator(self, node: ast.expr, token: ast.AST) -> Callable[..., Any]:
        if type(token) not in _OPERATORS:
            raise self.refuse(node, f"operator {type(token).__name__} is not part of the language; {_ALLOWED}")
        return _OPERATORS[type(token)]

    def constant(self, node: ast.Constant, _: int) -> _Step:
        value = node.value
        if not isinstance(value, bool | int | float):
            raise self.refuse(node, f"{type(value).__name__} literals are not part of the language; {_ALLOWED}")
        if value > _LARGEST_INTEGER and isinstance(value, int):
            raise self.refuse(node, "an integer of more than 64 bits: write it as a float, such as 1e20")
        return lambda _: value

    def name(self, node: ast.Name, _: int) -> _Step:
        name = node.id
        if name.startswith("__"):
            raise self.refuse(node, f"name {name!r}: those that begin with __ are not branches; {_ALLOWED}")
        self.branches.add(name)
        return lambda columns: columns[name]

    def unary(self, node: ast.UnaryOp, depth: int) -> _Step:
        function = self.operator(node, node.op)
        operand = self.build(node.operand, depth)
        number = _literal(node)
        return self.lift(node, function, operand) if number is None or number < -(2**63) else lambda _: number

    def binary(self, node: ast.BinOp, depth: int) -> _Step:
        function = self.operator(node, node.op)
        if isinstance(node.op, ast.Pow):
            exponent = _literal(node.right)
            if exponent is None or abs(exponent) > _LARGEST_EXPONENT:
                raise self.refuse(
                    node.right, f"the exponent of ** must be a literal number within ±{_LARGEST_EXPONENT}"
                )
        return self.lift(node, function, self.build(node.left, depth), self.build(node.right, depth))

    def logic(self, node: ast.BoolOp, depth: int) -> _Step:
        function = _all_true if isinstance(node.op, ast.And) else _any_true
        return self.lift(node, function, *(self.build(value, depth) for value in node.values))

    def compare(self, node: ast.Compare, depth: int) -> _Step:
        functions = [self.operator(node, token) for token in node.ops]
        operands = [self.build(operand, depth) for operand in (node.left, *node.comparators)]

        def chain(*values: Any) -> Any:
            pairs = itertools.pairwise(values)
            return _all_true(*(function(*pair) for function, pair in zip(functions, pairs, strict=True)))

        return self.lift(node, chain, *operands)

    def call(self, node: ast.Call, depth: int) -> _Step:
        name = node.func.id if isinstance(node.func, ast.Name) else None
        if name not in _FUNCTIONS and name not in _REDUCTIONS:
            near = hint(name, [*_FUNCTIONS, *_REDUCTIONS]) if name else ""
            called = f"function {name!r}" if name else f"a call of {type(node.func).__name__}"
            raise self.refuse(node, f"{called} is not part of the language{near}; {_ALLOWED}")
        arity, function = _FUNCTIONS.get(name, (1, None))
        if node.keywords or len(node.args) != arity:
            two = f"; of two values take {name}imum" if name in {"min", "max"} else ""
            raise self.refuse(node, f"{name} takes {arity} argument{'s'[: arity - 1]}, without names{two}")
        operands = [self.build(argument, depth) for argument in node.args]
        if function is not None:
            return self.lift(node, function, *operands)
        if name == "count" and isinstance(node.args[0], ast.Compare | ast.BoolOp):
            raise self.refuse(node, "count(condition) would count all elements: sum(condition) counts where it holds")
        return self.reduction(node, name, operands[0])

    def reduction(self, node: ast.Call, name: str, operand: _Step) -> _Step:
        def step(columns: _Columns) -> _Value:
            value = operand(columns)
            if not isinstance(value, _Jagged):
                raise self.refuse(node, f"{name}(...) needs a jagged branch, this has one value an event")
            return _REDUCTIONS[name](value)

        return step

    def subscript(self, node: ast.Subscript, depth: int) -> _Step:
        whole = self.build(node.value, depth)
        position = _literal(node.slice)
        if position is not None and (position < 0 or not isinstance(position, int)):
            raise self.refuse(node.slice, "an index must be a literal integer from 0 on, or a condition")
        mask = self.build(node.slice, depth)

        def step(columns: _Columns) -> _Value:
            value = whole(columns)
            if not isinstance(value, _Jagged):
                raise self.refuse(node, "[...] needs a jagged branch, this has one value an event")
            if isinstance(position, int):
                return value.at(position)
            chosen = mask(columns)
            if not isinstance(chosen, _Jagged) or chosen.content.dtype.kind != "b":
                raise self.refuse(node.slice, "an index must be a literal integer or a jagged condition")
            if not np.array_equal(value.counts, chosen.counts):
                raise self.refuse(node.slice, "the condition differs in how many elements an event has")
            return value.where(chosen)

        return step


_RULES: dict[type[ast.expr], Callable[[_Builder, Any, int], _Step]] = {
    ast.Constant: _Builder.constant,
    ast.Name: _Builder.name,
    ast.UnaryOp: _Builder.unary,
    ast.BinOp: _Builder.binary,
    ast.BoolOp: _Builder.logic,
    ast.Compare: _Builder.compare,
    ast.Call: _Builder.call,
    ast.Subscript: _Builder.subscript,
}


def _literal(node: ast.expr) -> float | None:
    """The number that a literal stands for, with its sign; None for anything else."""
    match node:
        case ast.Constant(value=bool()):
            return None
        case ast.Constant(value=int() | float() as value):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
            return -value
        case _:
            return None
