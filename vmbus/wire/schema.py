"""The vocabulary in which every format on the wire is declared, once.

A format is a class; each field is an annotated attribute whose default says how it lies on the wire::

    class PacketDescriptor(Format):
        '''Heads every ring packet.  Source: openvmm vmbus_ring/src/lib.rs.'''

        packet_type: PacketType = u16(PacketType)
        data_offset8: int = u16(unit="8 bytes", doc="where the payload starts")
        length8: int = u16(unit="8 bytes")
        flags: PacketFlags = u16(PacketFlags)
        transaction_id: int = u64()

The class is slotted and has ``parse``, ``build``, ``SIZE`` and a keyword-only constructor that type checkers
understand.  Everything else (construct, numpy, scapy, Wireshark, documentation) is derived from ``FIELDS``.

A format is a fixed-size *head* and then, if need be, a variable *tail*.  Head fields: integers, ``bits``, ``guid``,
``raw``, ``pad``, ``array``, ``nested``.  Tail fields, in wire order, each taking up where the last one ended:
``items`` (a counted list), ``blob`` (bytes of a computed length), ``variant`` (a body chosen by a tag), ``rest`` (all
that is left).  ``located`` names bytes of the format by offset and length without storing them twice.

Integers are little-endian unless the name starts with ``be``.  Counts, lengths and offsets are small arithmetic
expressions over fields that stand earlier in the same format (``header.length`` reads a field of a nested one), so that
every derived face can translate them, e.g. ``count="(byte_offset + byte_count + 4095) // 4096"``.

Building writes what it is given: it does not compute counts, lengths or offsets, so that wrong ones can be made too.
"""

from __future__ import annotations

from dataclasses import replace
from struct import Struct
from typing import Any, ClassVar, Self, dataclass_transform
from uuid import UUID

from vmbus.errors import VmbusError
from vmbus.wire.enums import OpenEnum, OpenFlags
from vmbus.wire.expression import reader
from vmbus.wire.fields import (
    Field,
    Kind,
    Values,
    array,
    be16,
    be24,
    be32,
    be64,
    bits,
    blob,
    guid,
    i8,
    i16,
    i32,
    i64,
    items,
    located,
    nested,
    pad,
    raw,
    rest,
    u8,
    u16,
    u32,
    u64,
    variant,
)

__all__ = [
    "NIL_GUID", "Buffer", "Field", "Format", "FormatMeta", "Kind", "Truncated", "Values", "WireError",
    "array", "be16", "be24", "be32", "be64", "bits", "blob", "guid", "i8", "i16", "i32", "i64", "items", "located",
    "nested", "pad", "raw", "rest", "u8", "u16", "u32", "u64", "variant",
]  # fmt: skip

Buffer = bytes | bytearray | memoryview

NIL_GUID = UUID(int=0)


class WireError(VmbusError, ValueError):
    """Bytes that are not the format they should be, or values that do not fit the format."""


class Truncated(WireError):
    """The bytes end before the format does."""


@dataclass_transform(
    kw_only_default=True,
    eq_default=True,
    field_specifiers=(
        u8, u16, u32, u64, i8, i16, i32, i64, be16, be24, be32, be64,
        bits, guid, raw, pad, array, nested, items, blob, variant, rest,
    ),
)  # fmt: skip
class FormatMeta(type):
    """Turns a class body of field specifiers into a slotted class with a codec."""

    FIELDS: tuple[Field, ...]

    def __new__(mcls, name: str, bases: tuple[type, ...], namespace: dict[str, Any]) -> FormatMeta:
        inherited: tuple[Field, ...] = ()
        for base in bases:
            inherited += getattr(base, "FIELDS", ())
        own = [replace(value, name=key) for key, value in namespace.items() if isinstance(value, Field)]
        for field in own:
            del namespace[field.name]
        fields = _laid_out(name, (*inherited, *own))
        namespace["__slots__"] = tuple(field.name for field in own if field.is_stored)
        namespace["FIELDS"] = fields
        namespace["SIZE"] = sum(field.size for field in fields if field.is_head)
        namespace["IS_FIXED"] = all(field.is_head or not field.is_stored for field in fields)
        for field in own:
            if not field.is_stored:
                namespace[field.name] = _located_property(field)
        cls = super().__new__(mcls, name, bases, namespace)
        if bases:
            from vmbus.wire.codec import install_codec

            install_codec(cls)
        return cls


def _laid_out(name: str, fields: tuple[Field, ...]) -> tuple[Field, ...]:
    """The fields with bit groups resolved: container, shift and byte order; the first of a group carries its size."""
    result: list[Field] = []
    container = used = 0
    big = tail = False
    for field in fields:
        if field.kind is not Kind.BITS and used:
            raise TypeError(f"{name}.{field.name}: the bit group before it is not full")
        if field.is_head and tail:
            raise TypeError(f"{name}.{field.name}: a head field cannot follow a tail field")
        tail = tail or (field.is_stored and not field.is_head)
        if field.kind is Kind.BITS:
            first = not used
            if first:
                if not field.container:
                    raise TypeError(f"{name}.{field.name}: the first bit field of a group says of=")
                container, big = field.container, field.big
            shift = container * 8 - used - field.width if big else used
            used += field.width
            if used > container * 8:
                raise TypeError(f"{name}.{field.name}: the bit group is wider than its integer")
            field = replace(field, container=container, big=big, shift=shift, size=container if first else 0)
            if used == container * 8:
                used = 0
        result.append(field)
    if used:
        raise TypeError(f"{name}: the last bit group is not full")
    return tuple(result)


def _located_property(field: Field) -> property:
    assert field.offset is not None and field.length is not None
    offset, length, element = reader(field.offset), reader(field.length), field.element

    def get(self: Format) -> Any:
        start, size = offset(self), length(self)
        data = self.build()
        if start < 0 or size < 0 or start + size > len(data):
            raise WireError(f"{type(self).__name__}.{field.name}: bytes {start} to {start + size} of {len(data)}")
        found = data[start : start + size]
        if element is None:
            return found
        assert isinstance(element, FormatMeta)
        parsed: list[Any] = []
        position = 0
        while size - position >= max(element.SIZE, 1):
            item, position = element.parse_prefix(found, position)
            parsed.append(item)
        return tuple(parsed)

    return property(get, doc=field.doc or None)


class Format(metaclass=FormatMeta):
    """Base of every declared format.  Subclasses get the members below from their fields."""

    FIELDS: ClassVar[tuple[Field, ...]]
    """The fields in wire order, inherited ones first."""
    SIZE: ClassVar[int]
    """Bytes of the fixed-size head."""
    IS_FIXED: ClassVar[bool]
    """Whether the head is the whole format."""
    STRUCT: ClassVar[Struct]
    """The head as one ``struct.Struct``, for hot paths; None where the head is of more than one."""

    @classmethod
    def parse(cls, data: Buffer, offset: int = 0, end: int | None = None) -> Self:
        """Read one from ``data[offset:end]``; bytes after it are left alone.

        Raises ``Truncated`` if the bytes end too early and ``WireError`` if a count or length is impossible.
        """
        return cls.parse_prefix(data, offset, end)[0]

    @classmethod
    def parse_prefix(cls, data: Buffer, offset: int = 0, end: int | None = None) -> tuple[Self, int]:
        """Read one and tell where it ended."""
        raise NotImplementedError

    def build(self) -> bytes:
        """The bytes on the wire; ``WireError`` if a value does not fit its field."""
        raise NotImplementedError

    def __bytes__(self) -> bytes:
        return self.build()

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed."""
        values = {field.name: getattr(self, field.name) for field in self.FIELDS if field.is_stored}
        return type(self)(**{**values, **changes})

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return all(getattr(self, field.name) == getattr(other, field.name) for field in self.FIELDS if field.is_stored)

    def __hash__(self) -> int:
        return hash((type(self), self.build()))

    def __repr__(self) -> str:
        shown = (f"{f.name}={_shown(getattr(self, f.name))}" for f in self.FIELDS if f.is_stored)
        return f"{type(self).__name__}({', '.join(shown)})"


def _shown(value: object) -> str:
    if isinstance(value, (OpenEnum, OpenFlags)):
        return str(value)
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, (bytes, memoryview)) and len(value) > 32:
        return f"<{len(value)} bytes>"
    return repr(value)
