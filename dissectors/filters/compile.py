"""From a syntax tree to a predicate over decoded records, with every name and value checked first.

A comparison with a field is true if any field of that name in the record satisfies it, as in Wireshark; ``!=`` is true
if there is such a field and none equals the value. Each term also gets its masks over columns (``narrow``), so that
most records need not be decoded, and the values of fields come from ``getters``.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Any, NamedTuple
from uuid import UUID

from dissectors.engine.decoded import Decoded
from dissectors.engine.names import module_name, snake
from dissectors.engine.span import Span
from dissectors.filters import narrow
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
from dissectors.filters.getters import Getter, formats_below
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
from dissectors.filters.narrow import Narrow, Verdict
from vmbus.wire.schema import Format

Predicate = Callable[[Decoded], bool]
Test = Callable[[Any], Any]
"""Of one value, or of an array of numbers."""

_ORDERS: dict[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


class Term(NamedTuple):
    """A part of a filter, or all of it."""

    predicate: Predicate
    narrow: Narrow


class _Source(NamedTuple):
    """Where the values of a name come from."""

    values: Callable[[Decoded], Iterable[Any]]
    type: Type
    fields: tuple[WireField, ...] = ()
    read: Callable[[Span], narrow.Column] | None = None
    """The column that has them, if there is one."""
    where: Narrow = narrow.undecided
    """Which records can have some."""

    def any(self, test: Test) -> Term:
        """One of the values passes."""
        values = self.values
        by_columns = self.where if self.read is None else narrow.by_column(self.read, test)
        return Term(lambda item: any(test(value) for value in values(item)), by_columns)

    def where_some(self, predicate: Callable[[list[Any]], bool]) -> Term:
        """There are values, and all of them together pass."""
        values = self.values
        return Term(lambda item: bool(found := list(values(item))) and predicate(found), self.where)


def compile_filter(expression: Expression, text: str) -> Term:
    """The predicate of a filter, and its masks; ``text`` is for errors."""
    return _Compiler(text).compile(expression)


class _Compiler:
    def __init__(self, text: str) -> None:
        self._text = text

    def compile(self, expression: Expression) -> Term:
        match expression:
            case Not(term):
                inner, by_columns = self.compile(term)
                return Term(lambda item: not inner(item), narrow.negated(by_columns))
            case All(terms):
                every = [self.compile(term) for term in terms]
                predicates = [term.predicate for term in every]
                return Term(
                    lambda item: all(predicate(item) for predicate in predicates),
                    narrow.all_of([term.narrow for term in every]),
                )
            case Any_(terms):
                some = [self.compile(term) for term in terms]
                alternatives = [term.predicate for term in some]
                return Term(
                    lambda item: any(predicate(item) for predicate in alternatives),
                    narrow.any_of([term.narrow for term in some]),
                )
            case Presence(name):
                return self._presence(name)
            case Comparison(name, symbol, literal):
                return self._comparison(name, symbol, literal)
            case Membership(name, choices):
                return self._membership(name, choices)

    def _error(self, message: str, column: int) -> FilterError:
        return FilterError(message, self._text, column)

    def _presence(self, name: Name) -> Term:
        if name.text in protocol_names() and name.text not in RECORD_FIELDS:
            return _speaks(name.text)
        source = self._resolve(name)
        values = source.values
        by_columns = source.where if source.read is None else narrow.by_column(source.read, _anything)
        return Term(lambda item: next(iter(values(item)), None) is not None, by_columns)

    def _comparison(self, name: Name, symbol: str, literal: Literal) -> Term:
        source = self._resolve(name)
        kind, fields = source.type, source.fields
        if symbol == "~":
            return self._matching(name, source, literal)
        if symbol == "contains":
            return self._containing(name, source, literal)
        if isinstance(literal.value, Name) and kind is not Type.TEXT:
            return _member_comparison(source, symbol, self._members(name, kind, fields, literal.value))
        wanted = self._value(name, kind, fields, literal)
        if isinstance(wanted, str) and symbol not in ("==", "!="):
            raise self._error(f"text is compared with ==, != or ~, not with {symbol}", literal.column)
        if symbol == "!=" and source.read is None:
            return source.where_some(lambda found: wanted not in found)
        test = _ORDERS[symbol]
        return source.any(lambda value: test(value, wanted))

    def _matching(self, name: Name, source: _Source, literal: Literal) -> Term:
        if source.type is not Type.TEXT:
            raise self._error(f"{name.text} is {source.type.value}; only text is matched with ~", name.column)
        try:
            found = re.compile(str(literal.value), re.IGNORECASE).search
        except re.error as error:
            raise self._error(f"not a regular expression: {error}", literal.column) from None
        return source.any(lambda value: found(value) is not None)

    def _containing(self, name: Name, source: _Source, literal: Literal) -> Term:
        part, kind = literal.value, source.type
        if kind is Type.NUMBER and isinstance(part, Name):
            members = self._members(name, kind, source.fields, part)
            return source.any(lambda value: bool(type(value) in members and value & members[type(value)]))
        if kind is Type.TEXT and isinstance(part, str):
            return source.any(lambda value: part in value)
        if kind is Type.BYTES and isinstance(part, (bytes, str)):
            raw = part.encode() if isinstance(part, str) else part
            return source.any(lambda value: raw in value)
        raise self._error(f"{name.text} is {kind.value}: it does not contain such a thing", literal.column)

    def _membership(self, name: Name, choices: tuple[tuple[Literal, Literal], ...]) -> Term:
        source = self._resolve(name)
        ranges = [
            (self._value(name, source.type, source.fields, first), self._value(name, source.type, source.fields, last))
            for first, last in choices
        ]

        def holds(value: Any) -> Any:
            found: Any = False
            for first, last in ranges:
                found = found | ((first <= value) & (value <= last))
            return found

        return source.any(holds)

    # Names

    def _resolve(self, name: Name) -> _Source:
        record = RECORD_FIELDS.get(name.text)
        if record is not None:
            read = record.read

            def values(item: Decoded) -> Iterator[Any]:
                value = read(item)
                if value is not None:
                    yield value

            return _Source(values, record.type, read=record.column)
        fields = wire_fields(name.text)
        if not fields:
            raise self._error(f"there is no field {name.text}{name_suggestion(name.text)}", name.column)
        kinds = {field.type for field in fields}
        kind = kinds.pop() if len(kinds) == 1 else Type.GROUP
        if kind is Type.GROUP and kinds:
            kind = _widest(field.type for field in fields)
        getter = Getter(name.text, kind)
        return _Source(getter.values, kind, fields, where=narrow.by_formats(getter.can_be_in))

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


def _anything(value: Any) -> Any:
    """Whatever is there, text or an array of numbers, is there."""
    return True if isinstance(value, str) else value == value


def _member_comparison(source: _Source, symbol: str, members: dict[type, int]) -> Term:
    """Compares only with values of the enumerations that have the member."""
    test = _ORDERS[symbol]
    if symbol != "!=":
        return source.any(lambda value: type(value) in members and test(value, members[type(value)]))

    def none_is(found: list[Any]) -> bool:
        of_those = [value for value in found if type(value) in members]
        return bool(of_those) and all(value != members[type(value)] for value in of_those)

    return source.where_some(none_is)


def _speaks(name: str) -> Term:
    """The record has something of a protocol, or of a format."""
    if name == "vmbus":
        return Term(lambda item: True, _always)

    def names(fmt: type[Format]) -> bool:
        return name in (module_name(fmt), snake(fmt.__name__))

    @cache
    def can_hold(fmt: type[Format]) -> bool:
        return any(names(found) for found in formats_below(fmt))

    def predicate(item: Decoded) -> bool:
        if item.protocol == name:
            return True
        layers = [layer for layer in item.layers if layer.format is not None]
        if any(names(layer.format) for layer in layers if layer.format is not None):
            return True
        if not any(layer.within or can_hold(layer.format) for layer in layers if layer.format is not None):
            return False
        return any(node.format is not None and names(node.format) for node in item.tree)

    return Term(predicate, narrow.by_formats(lambda fmt, _: can_hold(fmt), name))


def _always(span: Span) -> Verdict:
    may, _ = narrow.undecided(span)
    return Verdict(may, may)
