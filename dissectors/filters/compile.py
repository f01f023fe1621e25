"""From a syntax tree to a predicate over decoded records, with every name and value checked first.

A comparison with a field is true if any field of that name in the record satisfies it, as in Wireshark; ``!=`` is true
if there is such a field and none equals the value.  Fields of the record itself cost little; fields of formats need the
tree, which is not built when no layer of the record can hold them.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any
from uuid import UUID

from dissectors.engine.decoded import Decoded
from dissectors.engine.formats import reachable
from dissectors.engine.names import module_name, snake
from dissectors.filters.errors import FilterError
from dissectors.filters.fields import (
    RECORD_FIELDS,
    Type,
    WireField,
    name_suggestion,
    protocol_names,
    suggestion,
    wire_fields,
)
from dissectors.filters.grammar import (
    TIME_UNITS,
    All,
    Any_,
    Comparison,
    Expression,
    Literal,
    Membership,
    Name,
    Not,
    Presence,
)  # fmt: skip
from vmbus.wire.capture import RecordKind
from vmbus.wire.schema import Format
from vmbus.wire.tree import Node

Predicate = Callable[[Decoded], bool]
Test = Callable[[Any], bool]
Values = Callable[[Decoded], Iterator[Any]]

_ORDERS: dict[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def compile_filter(expression: Expression, text: str) -> Predicate:
    """The predicate of a filter; ``text`` is for errors."""
    return _Compiler(text).compile(expression)


class _Compiler:
    def __init__(self, text: str) -> None:
        self._text = text

    def compile(self, expression: Expression) -> Predicate:
        match expression:
            case Not(term):
                inner = self.compile(term)
                return lambda item: not inner(item)
            case All(terms):
                every = [self.compile(term) for term in terms]
                return lambda item: all(predicate(item) for predicate in every)
            case Any_(terms):
                some = [self.compile(term) for term in terms]
                return lambda item: any(predicate(item) for predicate in some)
            case Presence(name):
                return self._presence(name)
            case Comparison(name, symbol, literal):
                return self._comparison(name, symbol, literal)
            case Membership(name, choices):
                return self._membership(name, choices)

    def _error(self, message: str, column: int) -> FilterError:
        return FilterError(message, self._text, column)

    def _presence(self, name: Name) -> Predicate:
        if name.text in protocol_names() and name.text not in RECORD_FIELDS:
            return _speaks(name.text)
        values, _, _ = self._resolve(name)
        return lambda item: next(values(item), None) is not None

    def _comparison(self, name: Name, symbol: str, literal: Literal) -> Predicate:
        values, kind, fields = self._resolve(name)
        if symbol == "~":
            return self._matching(name, values, kind, literal)
        if symbol == "contains":
            return self._containing(name, values, kind, fields, literal)
        if isinstance(literal.value, Name) and kind is not Type.TEXT:
            return _member_comparison(values, symbol, self._members(name, kind, fields, literal.value))
        wanted = self._value(name, kind, fields, literal)
        if isinstance(wanted, str) and symbol not in ("==", "!="):
            raise self._error(f"text is compared with ==, != or ~, not with {symbol}", literal.column)
        if symbol == "!=":
            return _none_equals(values, wanted)
        test = _ORDERS[symbol]
        return lambda item: any(test(value, wanted) for value in values(item))

    def _matching(self, name: Name, values: Values, kind: Type, literal: Literal) -> Predicate:
        if kind is not Type.TEXT:
            raise self._error(f"{name.text} is {kind.value}; only text is matched with ~", name.column)
        try:
            found = re.compile(str(literal.value), re.IGNORECASE).search
        except re.error as error:
            raise self._error(f"not a regular expression: {error}", literal.column) from None
        return lambda item: any(found(value) is not None for value in values(item))

    def _containing(
        self, name: Name, values: Values, kind: Type, fields: tuple[WireField, ...], literal: Literal
    ) -> Predicate:
        part = literal.value
        if kind is Type.NUMBER and isinstance(part, Name):
            members = self._members(name, kind, fields, part)
            return lambda item: any(type(v) in members and v & members[type(v)] for v in values(item))
        if kind is Type.TEXT and isinstance(part, str):
            return lambda item: any(part in value for value in values(item))
        if kind is Type.BYTES and isinstance(part, (bytes, str)):
            raw = part.encode() if isinstance(part, str) else part
            return lambda item: any(raw in value for value in values(item))
        raise self._error(f"{name.text} is {kind.value}: it does not contain such a thing", literal.column)

    def _membership(self, name: Name, choices: tuple[tuple[Literal, Literal], ...]) -> Predicate:
        values, kind, fields = self._resolve(name)
        ranges = [
            (self._value(name, kind, fields, first), self._value(name, kind, fields, last)) for first, last in choices
        ]
        return lambda item: any(first <= value <= last for value in values(item) for first, last in ranges)

    # Names

    def _resolve(self, name: Name) -> tuple[Values, Type, tuple[WireField, ...]]:
        record = RECORD_FIELDS.get(name.text)
        if record is not None:
            read = record.read

            def values(item: Decoded) -> Iterator[Any]:
                value = read(item)
                if value is not None:
                    yield value

            return values, record.type, ()
        fields = wire_fields(name.text)
        if not fields:
            raise self._error(f"there is no field {name.text}{name_suggestion(name.text)}", name.column)
        kinds = {field.type for field in fields}
        kind = kinds.pop() if len(kinds) == 1 else Type.GROUP
        if kind is Type.GROUP and kinds:
            kind = _widest(field.type for field in fields)
        return _tree_values(name.text, kind), kind, fields

    # Values

    def _value(self, name: Name, kind: Type, fields: tuple[WireField, ...], literal: Literal) -> Any:
        value, column = literal.value, literal.column
        if isinstance(value, Name):
            return value.text if kind is Type.TEXT else next(iter(self._members(name, kind, fields, value).values()))
        if literal.unit in TIME_UNITS and kind is not Type.DURATION:
            raise self._error(f"{name.text} is {kind.value}, not a duration", column)
        match kind:
            case Type.NUMBER if isinstance(value, (int, float)):
                return value
            case Type.DURATION if isinstance(value, (int, float)):
                if not literal.unit:
                    raise self._error(f"{name.text} is a duration: write {value}us or {value}ms", column)
                return value
            case Type.TEXT if isinstance(value, str):
                return value
            case Type.TEXT if isinstance(value, int) and name.text == "channel":
                raise self._error("channel is text; write channel.id for the number", column)
            case Type.GUID if isinstance(value, UUID):
                return value
            case Type.BYTES if isinstance(value, bytes):
                return value
            case Type.BYTES if isinstance(value, str):
                return value.encode()
            case Type.GROUP:
                raise self._error(f"{name.text} is a group of fields: name one of them", name.column)
        raise self._error(f"{name.text} is {kind.value}; {_written(value)} is not", column)

    def _members(self, name: Name, kind: Type, fields: tuple[WireField, ...], written: Name) -> dict[type, int]:
        """What a bare word stands for: a member of each enumeration that has it and that the field can be of."""
        enumerations = {field.field.values for field in fields if field.field.values is not None}
        found = {
            values: int(values.__members__[written.text])
            for values in enumerations
            if written.text in values.__members__
        }
        if found:
            return dict(found)
        if not enumerations:
            raise self._error(f"{name.text} is {kind.value}; it has no named values", written.column)
        known = [label for values in enumerations for label in values.__members__]
        raise self._error(f"{written.text} is no value of {name.text}{suggestion(written.text, known)}", written.column)


def _written(value: object) -> str:
    if isinstance(value, str):
        return f'"{value}"'
    return value.hex(":") if isinstance(value, bytes) else str(value)


def _widest(kinds: Iterator[Type]) -> Type:
    """Of fields of one name and different types, the type that people compare: a number before a group."""
    found = set(kinds)
    return next((kind for kind in (Type.NUMBER, Type.TEXT, Type.GUID, Type.BYTES) if kind in found), Type.GROUP)


def _none_equals(values: Values, wanted: Any) -> Predicate:
    def predicate(item: Decoded) -> bool:
        found = list(values(item))
        return bool(found) and wanted not in found

    return predicate


def _member_comparison(values: Values, symbol: str, members: dict[type, int]) -> Predicate:
    """Compares only with values of the enumerations that have the member."""
    test = _ORDERS[symbol]

    def predicate(item: Decoded) -> bool:
        found = [value for value in values(item) if type(value) in members]
        if symbol == "!=":
            return bool(found) and all(value != members[type(value)] for value in found)
        return any(test(value, members[type(value)]) for value in found)

    return predicate


def _speaks(name: str) -> Predicate:
    if name == "vmbus":
        return lambda item: True

    def names(fmt: type[Format]) -> bool:
        return name in (module_name(fmt), snake(fmt.__name__))

    @cache
    def can_hold(fmt: type[Format]) -> bool:
        return any(names(found) for found in formats_below(fmt))

    def predicate(item: Decoded) -> bool:
        if item.protocol == name:
            return True
        layers = [layer for layer in item.layers if layer.format is not None]
        if not any(layer.within or can_hold(layer.format) for layer in layers if layer.format is not None):
            return False
        return any(node.format is not None and names(node.format) for node in item.tree)

    return predicate


@cache
def formats_below(fmt: type[Format]) -> frozenset[type[Format]]:
    """A format and all that it can hold."""
    return frozenset(reachable([fmt]))


def _tree_values(name: str, kind: Type) -> Values:
    """The values of all fields of a record that a dotted name means.

    A completion has the fields of its request as well, where it has none of that name: the code of a command and the
    time it took are then found in one record.
    """
    *way, last = name.split(".")
    wanted = _TESTS[kind]

    @cache
    def can_hold(fmt: type[Format]) -> bool:
        return any(field.name == last for found in formats_below(fmt) for field in found.FIELDS)

    def values(item: Decoded) -> Iterator[Any]:
        has_own = False
        for value in own_values(item):
            has_own = True
            yield value
        if not has_own and item.request is not None and item.kind == RecordKind.PACKET:
            yield from own_values(item.request)

    def own_values(item: Decoded) -> Iterator[Any]:
        layers = item.layers
        within = any(layer.within for layer in layers)
        if not within and not any(layer.format is not None and can_hold(layer.format) for layer in layers):
            return
        for layer in item.tree.children:
            if layer.format is not None:
                own = ("vmbus", item.protocol, module_name(layer.format), snake(layer.format.__name__))
                yield from _search(layer, own, way, last, wanted)

    return values


def _search(node: Node, path: tuple[str, ...], way: list[str], last: str, wanted: Test) -> Iterator[Any]:
    for child in node.children:
        if child.name == last and _is_on(path, way):
            yield from (_shown(found) for found in _leaves(child) if wanted(found.value))
        if child.children:
            below = (*path, child.name)
            if child.format is not None:
                below = (*below, module_name(child.format), snake(child.format.__name__))
            yield from _search(child, below, way, last, wanted)


def _leaves(node: Node) -> Iterator[Node]:
    """A field, or the elements of a list of numbers."""
    if node.value is None and node.children and node.children[0].name == "[0]":
        yield from node.children
    else:
        yield node


def _shown(node: Node) -> Any:
    """A value as filters compare it: text without its padding."""
    if node.field is not None and node.field.text and isinstance(node.value, bytes):
        return node.value.decode(node.field.text, "replace").split("\0")[0]
    return node.value


def _is_on(path: tuple[str, ...], way: list[str]) -> bool:
    position = 0
    for part in way:
        try:
            position = path.index(part, position) + 1
        except ValueError:
            return False
    return True


_TESTS: dict[Type, Test] = {
    Type.NUMBER: lambda value: isinstance(value, int),
    Type.DURATION: lambda value: isinstance(value, int),
    Type.TEXT: lambda value: isinstance(value, bytes),
    Type.BYTES: lambda value: isinstance(value, bytes),
    Type.GUID: lambda value: isinstance(value, UUID),
    Type.GROUP: lambda value: True,
}
