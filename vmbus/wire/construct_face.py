"""The construct face: a format as a ``construct.Struct``, to compose and read in the library that people know.

Built on demand and never used at run time: it is a hundred times slower than the codec, which makes it a good,
independent oracle in the tests.  Values come back as construct knows them: plain integers, ``bytes``, lists, and
``uuid.UUID`` for GUIDs.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any
from uuid import UUID

import construct as c

from vmbus.wire.expression import reader
from vmbus.wire.schema import Field, Format, FormatMeta, Kind


class _Guid(c.Adapter):  # type: ignore[misc]
    def _decode(self, obj: bytes, context: Any, path: str) -> UUID:
        return UUID(bytes_le=obj)

    def _encode(self, obj: UUID, context: Any, path: str) -> bytes:
        return obj.bytes_le


@cache
def construct_of(fmt: type[Format]) -> Any:
    """The ``construct.Struct`` of a format; fields keep their names, bit groups become one ``BitStruct`` each.

    A bit group is a member ``_bits_FIRST`` named after its first field.
    """
    members: list[Any] = []
    fields = list(fmt.FIELDS)
    while fields:
        field = fields.pop(0)
        if field.kind is Kind.BITS:
            group = [field]
            while fields and fields[0].kind is Kind.BITS and not fields[0].size:
                group.append(fields.pop(0))
            members.append(f"_bits_{field.name}" / _bit_group(group))
        elif field.is_stored:
            members.append(field.name / _member(field))
    return c.Struct(*members)


def _integer(field: Field) -> Any:
    return c.BytesInteger(field.size, signed=field.signed, swapped=not field.big)


def _bit_group(group: list[Field]) -> Any:
    first = group[0]
    if first.big:
        return c.BitStruct(*(f.name / c.BitsInteger(f.width) for f in group))
    drawn = c.BitStruct(*(f.name / c.BitsInteger(f.width) for f in reversed(group)))
    return c.ByteSwapped(drawn) if first.container > 1 else drawn


def _element(element: Field | type[Format] | None) -> Any:
    if isinstance(element, FormatMeta):
        return construct_of(element)
    assert isinstance(element, Field)
    return _member(element)


class _Names:
    """A construct context under the names of the declaration: bit fields and nested formats by attribute."""

    def __init__(self, context: Any) -> None:
        for key, value in context.items():
            if not str(key).startswith("_"):
                setattr(self, str(key), _Names(value) if isinstance(value, dict) else value)
            elif str(key).startswith("_bits_"):
                self.__dict__.update(value)


def _computed(text: str) -> Callable[[Any], int]:
    value_of = reader(text)
    return lambda context: value_of(_Names(context))


def _member(field: Field) -> Any:
    match field.kind:
        case Kind.INT:
            return _integer(field)
        case Kind.GUID:
            return _Guid(c.Bytes(16))
        case Kind.RAW | Kind.PAD:
            return c.Bytes(field.size)
        case Kind.NESTED:
            return _element(field.element)
        case Kind.ARRAY:
            return c.Array(field.number, _element(field.element))
        case Kind.ITEMS if field.count is not None:
            return c.Array(_computed(field.count), _element(field.element))
        case Kind.ITEMS:
            return _bounded(field, c.GreedyRange(_element(field.element)))
        case Kind.BLOB:
            assert field.length is not None
            return c.Bytes(_computed(field.length))
        case Kind.VARIANT:
            return _bounded(field, _variant(field))
        case _:
            return c.GreedyBytes


def _bounded(field: Field, subcon: Any) -> Any:
    return subcon if field.length is None else c.FixedSized(_computed(field.length), subcon)


def _variant(field: Field) -> Any:
    assert field.on is not None and field.cases is not None
    cases = {}
    for tag, found in field.cases.items():
        candidates = found if isinstance(found, tuple) else (found,)
        bodies = [construct_of(fmt) for fmt in sorted(candidates, key=lambda fmt: -fmt.SIZE)]
        if field.length is not None:
            bodies = [c.FocusedSeq("body", "body" / body, c.Terminated) for body in bodies]
        cases[tag] = c.Select(*bodies, c.GreedyBytes)
    return c.Switch(_computed(field.on), cases, default=c.GreedyBytes)
