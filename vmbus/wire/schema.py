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

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, ClassVar, Self, dataclass_transform
from uuid import UUID

from vmbus.errors import VmbusError
from vmbus.wire.enums import OpenEnum, OpenFlags
from vmbus.wire.expression import reader

Buffer = bytes | bytearray | memoryview

NIL_GUID = UUID(int=0)


class WireError(VmbusError, ValueError):
    """Bytes that are not the format they should be, or values that do not fit the format."""


class Truncated(WireError):
    """The bytes end before the format does."""


class Kind(Enum):
    """How a field lies on the wire."""

    INT = "integer"
    BITS = "bits of an integer"
    GUID = "GUID, Microsoft byte order"
    RAW = "bytes"
    PAD = "padding"
    ARRAY = "array"
    NESTED = "format"
    ITEMS = "counted list"
    BLOB = "bytes of a computed length"
    VARIANT = "body chosen by a tag"
    REST = "all that is left"
    LOCATED = "bytes found by offset and length"


HEAD_KINDS = frozenset({Kind.INT, Kind.BITS, Kind.GUID, Kind.RAW, Kind.PAD, Kind.ARRAY, Kind.NESTED})

Values = type[OpenEnum] | type[OpenFlags]
"""The enumeration or flags whose members an integer field holds."""


@dataclass(frozen=True, slots=True)
class Field:
    """One declared field: everything that a derived face needs to know about it."""

    kind: Kind
    name: str = ""
    size: int = 0
    """Bytes in the head; 0 for tail fields and for all bit fields of a group but the first."""
    big: bool = False
    signed: bool = False
    values: Values | None = None
    unit: str = ""
    doc: str = ""
    default: Any = None
    width: int = 0
    """Bits of a bit field."""
    shift: int = 0
    """Where a bit field's lowest bit lies in its container."""
    container: int = 0
    """Bytes of the integer that holds a bit field."""
    element: Field | type[Format] | None = None
    """What an array, nested, items or located field is made of."""
    number: int = 0
    """Elements of an array."""
    count: str | None = None
    """Elements of ``items``, as an expression; None means as many as there is room for."""
    length: str | None = None
    """Bytes of a ``blob`` or ``located``, and of ``items`` and ``variant`` that do not go to the end; an expression."""
    offset: str | None = None
    """Where a ``located`` field starts, from the start of its format, as an expression."""
    on: str | None = None
    """The tag of a variant, as an expression."""
    cases: Mapping[int, type[Format] | tuple[type[Format], ...]] | None = None
    text: str = ""
    """Encoding, when bytes are text to show."""
    payload: bool = False
    """The bytes belong to the user of the protocol (disk or network data), not to the protocol."""

    @property
    def is_head(self) -> bool:
        return self.kind in HEAD_KINDS

    @property
    def is_stored(self) -> bool:
        """Whether an instance has a slot for it."""
        return self.kind is not Kind.LOCATED


def u8(values: Values | None = None, *, default: Any = None, unit: str = "", doc: str = "") -> Any:
    """An unsigned byte."""
    return Field(Kind.INT, size=1, values=values, default=default, unit=unit, doc=doc)


def u16(values: Values | None = None, *, default: Any = None, unit: str = "", doc: str = "") -> Any:
    """A 16-bit little-endian unsigned integer."""
    return Field(Kind.INT, size=2, values=values, default=default, unit=unit, doc=doc)


def u32(values: Values | None = None, *, default: Any = None, unit: str = "", doc: str = "") -> Any:
    """A 32-bit little-endian unsigned integer."""
    return Field(Kind.INT, size=4, values=values, default=default, unit=unit, doc=doc)


def u64(values: Values | None = None, *, default: Any = None, unit: str = "", doc: str = "") -> Any:
    """A 64-bit little-endian unsigned integer."""
    return Field(Kind.INT, size=8, values=values, default=default, unit=unit, doc=doc)


def i8(*, default: Any = None, unit: str = "", doc: str = "") -> Any:
    """A signed byte."""
    return Field(Kind.INT, size=1, signed=True, default=default, unit=unit, doc=doc)


def i16(*, default: Any = None, unit: str = "", doc: str = "") -> Any:
    """A 16-bit little-endian signed integer."""
    return Field(Kind.INT, size=2, signed=True, default=default, unit=unit, doc=doc)


def i32(*, default: Any = None, unit: str = "", doc: str = "") -> Any:
    """A 32-bit little-endian signed integer."""
    return Field(Kind.INT, size=4, signed=True, default=default, unit=unit, doc=doc)


def i64(*, default: Any = None, unit: str = "", doc: str = "") -> Any:
    """A 64-bit little-endian signed integer."""
    return Field(Kind.INT, size=8, signed=True, default=default, unit=unit, doc=doc)


def be16(values: Values | None = None, *, default: Any = None, unit: str = "", doc: str = "") -> Any:
    """A 16-bit big-endian unsigned integer."""
    return Field(Kind.INT, size=2, big=True, values=values, default=default, unit=unit, doc=doc)


def be24(values: Values | None = None, *, default: Any = None, unit: str = "", doc: str = "") -> Any:
    """A 24-bit big-endian unsigned integer."""
    return Field(Kind.INT, size=3, big=True, values=values, default=default, unit=unit, doc=doc)


def be32(values: Values | None = None, *, default: Any = None, unit: str = "", doc: str = "") -> Any:
    """A 32-bit big-endian unsigned integer."""
    return Field(Kind.INT, size=4, big=True, values=values, default=default, unit=unit, doc=doc)


def be64(values: Values | None = None, *, default: Any = None, unit: str = "", doc: str = "") -> Any:
    """A 64-bit big-endian unsigned integer."""
    return Field(Kind.INT, size=8, big=True, values=values, default=default, unit=unit, doc=doc)


def bits(
    width: int,
    values: Values | None = None,
    *,
    of: int = 0,
    msb: bool = False,
    default: Any = None,
    unit: str = "",
    doc: str = "",
) -> Any:
    """``width`` bits of an integer that this and the following bit fields share.

    The first of a group says how many bits the integer has (``of``: 8, 16, 32 or 64) and whether the group is
    declared from the most significant bit (``msb=True``, as SCSI draws it; the integer is then big-endian) or
    from the least significant one (as C bit fields lie; little-endian).  A group must fill its integer.
    """
    return Field(
        Kind.BITS,
        width=width,
        container=of // 8,
        big=msb,
        values=values,
        default=default,
        unit=unit,
        doc=doc,
    )


def guid(*, default: Any = None, doc: str = "") -> Any:
    """A GUID of 16 bytes, its first three parts little-endian; a ``uuid.UUID`` in Python."""
    return Field(Kind.GUID, size=16, default=default, doc=doc)


def raw(size: int, *, default: Any = None, text: str = "", payload: bool = False, doc: str = "") -> Any:
    """Exactly ``size`` bytes; with ``text`` they are shown as NUL-terminated text of that encoding.

    A shorter value is padded with zeros when built.
    """
    return Field(Kind.RAW, size=size, default=default, text=text, payload=payload, doc=doc)


def pad(size: int, *, default: Any = b"", doc: str = "") -> Any:
    """``size`` bytes that mean nothing, kept so that a rebuild is identical.  Write ``default=b""`` for mypy."""
    return Field(Kind.PAD, size=size, default=default, doc=doc)


def array(element: Any, number: int, *, default: Any = None, doc: str = "") -> Any:
    """``number`` elements (an integer, ``guid()``, ``raw(n)``, or a fixed-size format): a tuple in Python."""
    if not isinstance(element, Field) and not element.IS_FIXED:
        raise TypeError(f"{element.__name__} has a variable tail: only fixed-size formats make an array")
    size = (element.size if isinstance(element, Field) else element.SIZE) * number
    return Field(Kind.ARRAY, size=size, element=element, number=number, default=default, doc=doc)


def nested(element: type[Format], *, default: Any = None, doc: str = "") -> Any:
    """Another fixed-size format, in place."""
    if not element.IS_FIXED:
        raise TypeError(f"{element.__name__} has a variable tail: only fixed-size formats nest in a head")
    return Field(Kind.NESTED, size=element.SIZE, element=element, default=default, doc=doc)


def items(
    element: Any, *, count: str | None = None, length: str | None = None, default: Any = (), doc: str = ""
) -> Any:
    """A list of integers, GUIDs or formats, a tuple in Python.

    ``count`` says how many, or ``length`` how many bytes they fill exactly; without either there are as many as fit,
    and bytes too few for one more are left to the next field.
    """
    if count is not None and length is not None:
        raise TypeError("items have a count or a length, not both")
    return Field(Kind.ITEMS, element=element, count=count, length=length, default=default, doc=doc)


def blob(*, length: str, default: Any = b"", text: str = "", payload: bool = False, doc: str = "") -> Any:
    """Bytes, as many as the expression ``length`` says."""
    return Field(Kind.BLOB, length=length, default=default, text=text, payload=payload, doc=doc)


def variant(
    *,
    on: str,
    cases: Mapping[int, type[Format] | tuple[type[Format], ...]],
    length: str | None = None,
    default: Any = b"",
    doc: str = "",
) -> Any:
    """A body whose format is chosen by the expression ``on``; of several formats, the largest head that fits.

    A tag without a case, and bytes too few for any case, stay ``bytes`` up to the end.  With ``length`` the body has
    exactly that many bytes; should the chosen format not fill them, they stay ``bytes`` too, so a format that may
    grow ends with ``rest()``.
    """
    return Field(Kind.VARIANT, on=on, cases=cases, length=length, default=default, doc=doc)


def rest(*, default: Any = b"", text: str = "", payload: bool = False, doc: str = "") -> Any:
    """All bytes that are left."""
    return Field(Kind.REST, default=default, text=text, payload=payload, doc=doc)


def located(
    *,
    offset: str,
    length: str,
    element: type[Format] | None = None,
    text: str = "",
    payload: bool = False,
    doc: str = "",
) -> Any:
    """Bytes of this format found by offset and length fields; they are stored in the tail field that holds them.

    With ``element`` the bytes are a sequence of that format.  Reading the attribute slices; it cannot be set.
    """
    return Field(Kind.LOCATED, offset=offset, length=length, element=element, text=text, payload=payload, doc=doc)


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
