"""How the elements of arrays and counted lists are read and written, and the ``struct`` letters of integers."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Literal
from uuid import UUID

from vmbus.wire.schema import Field, FormatMeta, Kind, WireError

UNSIGNED = {1: "B", 2: "H", 4: "I", 8: "Q"}

Writer = Callable[[Any], bytes]
Split = Callable[[Any, int, int, int | None], tuple[tuple[Any, ...], int]]
"""``data, position, stop, number -> values, position``; a ``number`` of None takes as many as fit."""


def list_codec(field: Field) -> tuple[Split, Writer]:
    """How the elements of an ``array`` or ``items`` are read and written."""
    element = field.element
    if isinstance(element, Field):
        return _integer_list(field, element) if has_code(element) else _bytes_list(element)
    assert isinstance(element, FormatMeta)
    parse_prefix = element.parse_prefix
    least = max(element.SIZE, 1)

    def split(data: Any, position: int, stop: int, number: int | None) -> tuple[tuple[Any, ...], int]:
        found: list[Any] = []
        while stop - position >= least if number is None else len(found) < number:
            item, after = parse_prefix(data, position, stop)
            if after <= position:
                raise WireError(f"{field.name}: an element of no size")
            found.append(item)
            position = after
        return tuple(found), position

    return split, lambda values: b"".join([value.build() for value in values])


def has_code(element: Field) -> bool:
    """Whether ``struct`` has a letter for it."""
    return element.kind is Kind.INT and element.size in UNSIGNED


def _integer_list(field: Field, element: Field) -> tuple[Split, Writer]:
    letter, order = integer_code(element)
    order = order or "<"
    size, values = element.size, element.values

    def split(data: Any, position: int, stop: int, number: int | None) -> tuple[tuple[Any, ...], int]:
        if number is None:
            number = (stop - position) // size
        found = struct.unpack_from(f"{order}{number}{letter}", data, position)
        return (tuple(map(values, found)) if values else found), position + number * size

    def join(items: tuple[int, ...]) -> bytes:
        try:
            return struct.pack(f"{order}{len(items)}{letter}", *items)
        except struct.error as error:
            raise WireError(f"{field.name}: {error}") from None

    return split, join


def _bytes_list(element: Field) -> tuple[Split, Writer]:
    """Elements that ``struct`` has no letter for: GUIDs, bytes, 24-bit integers."""
    size = element.size
    read: Callable[[bytes], Any] = _guid_of
    write: Callable[[Any], bytes] = _guid_bytes
    if element.kind is Kind.RAW:
        read, write = bytes, lambda value: fitted(value, size).ljust(size, b"\0")
    elif element.kind is Kind.INT:
        order, values = byte_order(element), element.values or int
        read = lambda raw: values(int.from_bytes(raw, order))  # noqa: E731
        write = lambda value: int(value).to_bytes(size, order)  # noqa: E731

    def split(data: Any, position: int, stop: int, number: int | None) -> tuple[tuple[Any, ...], int]:
        after = position + size * ((stop - position) // size if number is None else number)
        return tuple([read(bytes(data[at : at + size])) for at in range(position, after, size)]), after

    def join(items: tuple[Any, ...]) -> bytes:
        try:
            return b"".join([write(item) for item in items])
        except (OverflowError, AttributeError, TypeError) as error:
            raise WireError(f"an element does not fit: {error}") from None

    return split, join


def _guid_of(raw: bytes) -> Any:
    return UUID(bytes_le=raw)


def _guid_bytes(value: Any) -> bytes:
    found: bytes = value.bytes_le
    return found


def byte_order(field: Field) -> Literal["big", "little"]:
    return "big" if field.big else "little"


def integer_code(field: Field) -> tuple[str, str]:
    code = UNSIGNED[field.size]
    order = "" if field.size == 1 else ">" if field.big else "<"
    return (code.lower() if field.signed else code), order


def fitted(value: bytes, size: int) -> bytes:
    if len(value) > size:
        raise WireError(f"{len(value)} bytes do not fit a field of {size}")
    return bytes(value)
