"""The grammar of filters, and its syntax tree.  Parsing is lark's; what names mean is for ``fields``."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any
from uuid import UUID

from lark import Lark, Token, Transformer
from lark.exceptions import UnexpectedEOF, UnexpectedInput

from dissectors.filters.errors import FilterError

GRAMMAR = r"""
start: either
either: both (OR both)*
both: term (AND term)*
?term: NOT term                                   -> negation
     | "(" either ")"
     | field OPERATOR value                       -> comparison
     | field MATCHES STRING                       -> matching
     | field CONTAINS value                       -> containing
     | field IN "{" choice ("," choice)* "}"      -> membership
     | field                                      -> presence
choice: value [".." value]
field: NAME
value: GUID | BYTES | QUANTITY | STRING | NAME

OR.3: /\|\||or\b/
AND.3: /&&|and\b/
NOT.3: /!(?![=~])|not\b/
IN.3: /in\b/
CONTAINS.3: /contains\b/
MATCHES.3: /~|matches\b/
OPERATOR.3: /==|!=|<=|>=|<|>/
GUID.4: /\{?[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\}?/
BYTES.4: /[0-9a-fA-F]{2}(:[0-9a-fA-F]{2})+/
QUANTITY.2: /-?0[xX][0-9a-fA-F]+|-?\d+(\.\d+)?(ns|us|ms|s|KiB|MiB|GiB)?(?![\w])/
STRING: /"([^"\\]|\\.)*"/
NAME.1: /[A-Za-z_]\w*(\.[A-Za-z_]\w*)*/

%import common.WS
%ignore WS
"""

UNITS = {"ns": 1, "us": 1_000, "ms": 1_000_000, "s": 1_000_000_000, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
TIME_UNITS = frozenset({"ns", "us", "ms", "s"})


@dataclass(frozen=True)
class Name:
    """A dotted name; ``column`` counts from 1."""

    text: str
    column: int


@dataclass(frozen=True)
class Literal:
    """A value as it was written."""

    value: int | float | str | bytes | UUID | Name
    column: int
    unit: str = ""


@dataclass(frozen=True)
class Comparison:
    """``field OPERATOR literal``; ``~`` and ``contains`` are operators too."""

    field: Name
    operator: str
    literal: Literal


@dataclass(frozen=True)
class Membership:
    """``field in {1, 3..5}``: pairs of first and last."""

    field: Name
    choices: tuple[tuple[Literal, Literal], ...]


@dataclass(frozen=True)
class Presence:
    """A field, or a protocol, that is there."""

    field: Name


@dataclass(frozen=True)
class Not:
    term: Expression


@dataclass(frozen=True)
class All:
    terms: tuple[Expression, ...]


@dataclass(frozen=True)
class Any_:  # noqa: N801 - the name that fits is taken
    terms: tuple[Expression, ...]


Expression = Comparison | Membership | Presence | Not | All | Any_


class _Tree(Transformer[Token, Any]):
    """Turns lark's tree into ours."""

    def start(self, children: list[Any]) -> Expression:
        (expression,) = children
        return expression  # type: ignore[no-any-return]

    def either(self, children: list[Any]) -> Expression:
        terms = tuple(child for child in children if not isinstance(child, Token))
        return terms[0] if len(terms) == 1 else Any_(terms)

    def both(self, children: list[Any]) -> Expression:
        terms = tuple(child for child in children if not isinstance(child, Token))
        return terms[0] if len(terms) == 1 else All(terms)

    def negation(self, children: list[Any]) -> Expression:
        return Not(children[1])

    def comparison(self, children: list[Any]) -> Expression:
        return Comparison(children[0], str(children[1]), children[2])

    def matching(self, children: list[Any]) -> Expression:
        return Comparison(children[0], "~", _literal(children[2]))

    def containing(self, children: list[Any]) -> Expression:
        return Comparison(children[0], "contains", children[2])

    def membership(self, children: list[Any]) -> Expression:
        return Membership(children[0], tuple(children[2:]))

    def presence(self, children: list[Any]) -> Expression:
        return Presence(children[0])

    def choice(self, children: list[Any]) -> tuple[Literal, Literal]:
        first, last = children
        return first, first if last is None else last

    def field(self, children: list[Any]) -> Name:
        return Name(str(children[0]), children[0].column)

    def value(self, children: list[Any]) -> Literal:
        return _literal(children[0])


def _literal(token: Token) -> Literal:
    text, column = str(token), token.column or 1
    match token.type:
        case "GUID":
            return Literal(UUID(text), column)
        case "BYTES":
            return Literal(bytes.fromhex(text.replace(":", "")), column)
        case "STRING":
            return Literal(text[1:-1].replace('\\"', '"'), column)
        case "QUANTITY":
            return _quantity(text, column)
    return Literal(Name(text, column), column)


def _quantity(text: str, column: int) -> Literal:
    if text.lower().lstrip("-").startswith("0x"):
        return Literal(int(text, 16), column)
    digits = text.rstrip("nusmKMGiB")
    unit = text[len(digits) :]
    number: int | float = float(digits) if "." in digits else int(digits)
    scaled = number * UNITS.get(unit, 1)
    return Literal(int(scaled) if unit else scaled, column, unit)


@cache
def _parser() -> Lark:
    return Lark(GRAMMAR, parser="lalr", maybe_placeholders=True)


_EXPECTED = {
    "OPERATOR": "a comparison", "NAME": "a name", "QUANTITY": "a number", "STRING": "a string", "GUID": "a GUID",
    "BYTES": "bytes", "RPAR": "')'", "LPAR": "'('", "AND": "'&&'", "OR": "'||'", "RBRACE": "'}'", "LBRACE": "'{'",
    "COMMA": "','", "NOT": "'!'",
}  # fmt: skip


def parse(text: str) -> Expression:
    """The syntax tree of a filter; ``FilterError`` says where it stops making sense."""
    try:
        tree = _parser().parse(text)
    except UnexpectedEOF as error:
        raise FilterError(f"the filter ends too early; {_wanted(error.expected)}", text, len(text) + 1) from None
    except UnexpectedInput as error:
        expected = getattr(error, "accepts", None) or getattr(error, "expected", None) or getattr(error, "allowed", ())
        token = getattr(error, "token", None)
        if token is not None and token.type == "$END":
            raise FilterError(f"the filter ends too early; {_wanted(expected)}", text, len(text) + 1) from None
        column = error.column if error.column and error.column > 0 else len(text) + 1
        raise FilterError(f"{_wanted(expected)} is wanted here", text, column) from None
    return _Tree().transform(tree)  # type: ignore[no-any-return]


def _wanted(expected: Any) -> str:
    names = sorted({_EXPECTED[name] for name in expected or () if name in _EXPECTED})
    return " or ".join([", ".join(names[:-1]), names[-1]] if len(names) > 2 else names) or "something else"
