"""The arithmetic that counts, lengths, offsets and tags are made of: expressions over the fields of a format.

They are text in a declaration, so that every derived face can translate them (construct, Lua, documentation).
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from functools import cache
from types import CodeType
from typing import Any

_NODES = (
    ast.Expression, ast.BinOp, ast.Name, ast.Attribute, ast.Load, ast.Constant, ast.Add, ast.Sub, ast.Mult,
    ast.FloorDiv, ast.Mod, ast.BitAnd, ast.LShift, ast.RShift, ast.Call,
)  # fmt: skip
_FUNCTIONS: dict[str, Any] = {"__builtins__": {}, "max": max, "min": min}


def expression_tree(text: str) -> ast.Expression:
    """An arithmetic expression over field names, parsed.

    It has ``+ - * // % & << >>``, ``max(a, b)`` and ``min(a, b)``, names, dots and integers.  What divides or shifts is
    a constant, so that no peer can make an expression fail or its value explode.
    """
    tree = ast.parse(text, mode="eval")
    for node in ast.walk(tree):
        if not isinstance(node, _NODES):
            raise TypeError(f"{text!r}: {type(node).__name__} has no place in a format's expression")
        if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.FloorDiv, ast.Mod, ast.LShift, ast.RShift)):
            right = node.right.value if isinstance(node.right, ast.Constant) else None
            if not isinstance(right, int) or not 0 < right < 1 << 32:
                raise TypeError(f"{text!r}: only a positive constant divides or shifts")
        if isinstance(node, ast.Call) and not (_is_function(node.func) and len(node.args) == 2 and not node.keywords):
            raise TypeError(f"{text!r}: only max and min of two values are called")
    return tree


def _is_function(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id in ("max", "min")


def names_in(text: str) -> set[str]:
    """The fields that an expression reads, by their own names (of ``header.length``, ``header``)."""
    names = {node.id for node in ast.walk(expression_tree(text)) if isinstance(node, ast.Name)}
    return names - {"max", "min"}


@cache
def expression(text: str) -> CodeType:
    """An expression compiled for :func:`evaluate`."""
    return compile(expression_tree(text), "<format>", "eval")


def evaluate(code: CodeType, scope: Mapping[str, Any]) -> int:
    """The value of a compiled expression over the fields in ``scope``."""
    return int(eval(code, _FUNCTIONS, scope))  # noqa: S307  (the names and operators are checked above)


class _OnSelf(ast.NodeTransformer):
    """Turns each name of an expression into an attribute of ``_self``."""

    def visit_Name(self, node: ast.Name) -> ast.AST:
        if _is_function(node):
            return node
        owner = ast.Name("_self", ast.Load())
        return ast.copy_location(ast.Attribute(owner, node.id, ast.Load()), node)


@cache
def reader(text: str) -> Callable[[Any], int]:
    """An expression as a function of the object whose attributes it reads: a format, or what looks like one."""
    body = _OnSelf().visit(expression_tree(text)).body
    source = f"lambda _self: {ast.unparse(body)}"
    function: Callable[[Any], int] = eval(source, dict(_FUNCTIONS))  # noqa: S307  (as above)
    return function
