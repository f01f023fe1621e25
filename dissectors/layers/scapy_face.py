"""The scapy face of a format: a ``Packet`` class whose ``fields_desc`` is derived from the format's ``FIELDS``.

Fields keep their names; one that scapy's ``Packet`` already uses (``payload``, ``name``, ``time`` ...) gets a trailing
underscore.  A count or length that is exactly one earlier field is filled in when it is left out, as scapy users
expect.  Bytes that the format does not take up are the layer's payload in scapy's sense.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from scapy.fields import (
    EnumField,
    FieldLenField,
    FieldListField,
    FlagsField,
    LEThreeBytesField,
    PacketField,
    PacketLenField,
    PacketListField,
    StrField,
    StrFixedLenField,
    StrLenField,
    ThreeBytesField,
    UUIDField,
    XStrFixedLenField,
)  # fmt: skip
from scapy.fields import (
    Field as ScapyField,
)
from scapy.packet import Packet

from dissectors.layers.fields import BodyField, GroupBitsEnumField, GroupBitsField, PacketClass
from vmbus.wire.enums import OpenFlags
from vmbus.wire.expression import reader
from vmbus.wire.rndis import RndisPacket, RndisReceivedPacket
from vmbus.wire.schema import NIL_GUID, Field, Format, FormatMeta, Kind, Values
from vmbus.wire.tail import choose

_LETTERS = {1: "B", 2: "H", 4: "I", 8: "Q"}
MAX_ITEMS = 1 << 16
"""The most elements of one list: more than any packet or message can carry."""
MAX_FUZZED = 200
"""Bytes that ``fuzz`` puts into a field of computed length at most, so that one-byte lengths can say so."""


def scapy_name(name: str) -> str:
    """The name of a field on the layer: the declared one unless ``Packet`` has an attribute of that name."""
    return f"{name}_" if hasattr(Packet, name) else name


@cache
def layer_of(fmt: type[Format]) -> PacketClass:
    """The layer of a format; what follows the format is its payload, or the outer layer's when it is a field of one."""

    def extract_padding(self: Any, s: bytes) -> tuple[bytes, bytes | None]:
        return (s, None) if self.parent is None else (b"", s)

    return _layer(fmt, fmt.__name__, {"extract_padding": extract_padding})


def _layer(fmt: type[Format], name: str, extra: dict[str, Any]) -> PacketClass:
    title = fmt.__name__
    namespace: dict[str, Any] = {
        "name": title,
        "__doc__": fmt.__doc__,
        "__module__": __name__,
        "format": fmt,
        "fields_desc": _fields_desc(fmt),
        **extra,
    }
    for field in fmt.FIELDS:
        if field.kind is Kind.LOCATED:
            namespace[scapy_name(field.name)] = _located(field)
    made: PacketClass = type(Packet)(name, (Packet,), namespace)
    return made


class _Values:
    """A packet's fields as an expression reads them: declared names, plain integers, 0 for what is not filled in."""

    def __init__(self, pkt: Any) -> None:
        self._pkt = pkt

    def __getattr__(self, name: str) -> Any:
        value = self._pkt.getfieldval(scapy_name(name))
        return _Values(value) if isinstance(value, Packet) else int(value or 0)


def _computed(text: str) -> Callable[[Any], int]:
    read = reader(text)

    def value(pkt: Any) -> int:
        return max(read(_Values(pkt)), 0)

    return value


def _fields_desc(fmt: type[Format]) -> list[Any]:
    counted = {f.count: f.name for f in fmt.FIELDS if f.kind is Kind.ITEMS and f.count}
    measured = {f.length: f.name for f in fmt.FIELDS if f.kind is Kind.BLOB and f.length}
    described: list[Any] = []
    fields = fmt.FIELDS
    for index, field in enumerate(fields):
        name = scapy_name(field.name)
        if field.kind is Kind.LOCATED:
            continue
        if field.kind is Kind.BITS:
            after = fields[index + 1] if index + 1 < len(fields) else None
            is_last = after is None or after.kind is not Kind.BITS or bool(after.size)
            described.append(_bits(field, name, is_last))
        elif field.kind is Kind.INT and field.default is None and field.values is None and field.name in counted:
            described.append(FieldLenField(name, None, count_of=scapy_name(counted[field.name]), fmt=_format(field)))
        elif field.kind is Kind.INT and field.default is None and field.values is None and field.name in measured:
            described.append(FieldLenField(name, None, length_of=scapy_name(measured[field.name]), fmt=_format(field)))
        elif (fmt, field.name) in _embedded():
            assert field.length is not None
            described.append(PacketLenField(name, None, _embedded()[fmt, field.name], _computed(field.length)))
        else:
            described.append(_field(field, name))
    return described


@cache
def _embedded() -> dict[tuple[type[Format], str], PacketClass]:
    """Fields of bytes that are packets of a protocol that scapy knows."""
    from scapy.layers.l2 import Ether

    return {(RndisPacket, "frame"): Ether, (RndisReceivedPacket, "frame"): Ether}


def _format(field: Field) -> str:
    letter = _LETTERS[field.size]
    return (">" if field.big else "<") + (letter.lower() if field.signed else letter)


def _names(values: Values) -> dict[int, str]:
    return {int(member): name for name, member in values.__members__.items()}


def _default(field: Field) -> int:
    return int(field.default or 0)


def _bits(field: Field, name: str, is_last: bool) -> Any:
    order = "big" if field.big else "little"
    place = (field.width, field.shift, field.container, order, is_last)
    if field.values is None:
        return GroupBitsField(name, _default(field), *place)
    return GroupBitsEnumField(name, _default(field), *place, _names(field.values))


def _integer(field: Field, name: str) -> Any:
    if field.size == 3:
        return (ThreeBytesField if field.big else LEThreeBytesField)(name, _default(field))
    if field.values is None:
        return ScapyField(name, _default(field), fmt=_format(field))
    if issubclass(field.values, OpenFlags):
        masks = {mask: label for mask, label in _names(field.values).items() if mask and mask & (mask - 1) == 0}
        return FlagsField(name, _default(field), field.size * (8 if field.big else -8), masks)
    return EnumField(name, _default(field), _names(field.values), fmt=_format(field))


def _field(field: Field, name: str) -> Any:
    match field.kind:
        case Kind.INT:
            return _integer(field, name)
        case Kind.GUID:
            return UUIDField(name, field.default, uuid_fmt=UUIDField.FORMAT_LE)
        case Kind.RAW | Kind.PAD:
            kind = StrFixedLenField if field.text else XStrFixedLenField
            return kind(name, field.default or b"", length=field.size)
        case Kind.NESTED:
            assert isinstance(field.element, FormatMeta)
            inner = layer_of(field.element)
            return PacketField(name, inner(), inner)
        case Kind.ARRAY:
            number = field.number
            return _list(field, name, lambda pkt: number)
        case Kind.ITEMS:
            return _list(field, name, _computed(field.count) if field.count else None)
        case Kind.BLOB:
            assert field.length is not None
            return StrLenField(name, field.default, length_from=_computed(field.length), max_length=MAX_FUZZED)
        case Kind.VARIANT:
            length = _computed(field.length) if field.length else None
            return BodyField(name, field.default, _chooser(field), length)
        case Kind.REST:
            return StrField(name, field.default)
    raise TypeError(field.kind)  # pragma: no cover - every kind is above


def _list(field: Field, name: str, count: Callable[[Any], int] | None) -> Any:
    element = field.element
    length = _computed(field.length) if field.length else None
    limits = {"count_from": count, "length_from": length, "max_count": MAX_ITEMS}
    if isinstance(element, FormatMeta):
        inner = layer_of(element)
        layers = [inner() for _ in range(field.number)] if field.kind is Kind.ARRAY else []
        return PacketListField(name, layers, inner, **limits)
    assert isinstance(element, Field)
    one = _element(element, name)
    return FieldListField(name, [one.default] * field.number if field.kind is Kind.ARRAY else [], one, **limits)


def _element(element: Field, name: str) -> Any:
    if element.kind is Kind.GUID:
        return UUIDField(name, NIL_GUID, uuid_fmt=UUIDField.FORMAT_LE)
    if element.kind is Kind.RAW:
        return XStrFixedLenField(name, bytes(element.size), length=element.size)
    return _integer(element, name)


def _chooser(field: Field) -> Callable[[Any, int], PacketClass | None]:
    assert field.on is not None
    tag, cases = reader(field.on), field.cases or {}

    def chosen(pkt: Any, room: int) -> PacketClass | None:
        found = choose(cases, tag(_Values(pkt)), room)
        return None if found is None else layer_of(found)

    return chosen


def _located(field: Field) -> property:
    assert field.offset is not None and field.length is not None
    offset, length = _computed(field.offset), _computed(field.length)

    def get(self: Any) -> bytes:
        start = offset(self)
        return bytes(self.self_build()[start : start + length(self)])

    return property(get, doc=field.doc or None)
