"""The words of the vocabulary: a specifier for each way in which a field lies on the wire, and what a face knows of it.

``vmbus.wire.schema`` says how they make a format, and gives them all under one name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from vmbus.wire.enums import OpenEnum, OpenFlags

if TYPE_CHECKING:
    from vmbus.wire.schema import Format


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
