"""Arithmetic as people write it, done exactly: `evaluate("12 * (100 - 25) / 100")` is 9."""

import ast
import functools
import operator
import warnings
from collections.abc import Mapping
from fractions import Fraction

_OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
}
_LONGEST = 200


def evaluate(expression: str, names: Mapping[str, Fraction | int] | None = None) -> Fraction:
    """The value of numbers and names under + - * / // and brackets. Raises ValueError for anything else, and for a
    division by zero."""
    try:
        if len(expression) > _LONGEST:
            raise ValueError
        return _value(_parsed(expression.strip()), names or {})
    except (SyntaxError, KeyError, ZeroDivisionError, RecursionError, MemoryError, ValueError):
        raise ValueError(f"not arithmetic: {expression[:80]!r}") from None


@functools.lru_cache(1024)
def _parsed(expression: str) -> ast.AST:
    with warnings.catch_warnings(action="ignore"):  # of "1if", say
        return ast.parse(expression, mode="eval").body


def _value(node: ast.AST, names: Mapping[str, Fraction | int]) -> Fraction:
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return Fraction(str(node.value))
    if isinstance(node, ast.Name):
        return Fraction(names[node.id])
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        value = _value(node.operand, names)
        return -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return Fraction(_OPERATORS[type(node.op)](_value(node.left, names), _value(node.right, names)))
    raise ValueError


def plain(value: Fraction) -> str:
    """The number as a person writes it: 12, 4.5; a fraction that has no short decimal form to six places."""
    return str(value.numerator) if value.denominator == 1 else f"{float(value):.6f}".rstrip("0").rstrip(".")
