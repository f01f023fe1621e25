"""How the variable tail of a format is read and written: rest, blobs, counted lists, and bodies chosen by a tag.

Every length and count comes from a peer: each is checked against the bytes there are before it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from vmbus.wire.elements import Split, Writer, list_codec
from vmbus.wire.expression import reader
from vmbus.wire.schema import Field, Format, Kind, Truncated, WireError

Reader = Callable[[Any, Any, int, int], tuple[Any, int]]
Cases = Mapping[int, type[Format] | tuple[type[Format], ...]]


def tail_codec(fmt: type[Format], field: Field) -> tuple[Reader, Writer]:
    """How a tail field is read (``self, data, position, stop -> value, position``) and written."""
    match field.kind:
        case Kind.REST:
            return _read_rest, _bytes_of
        case Kind.BLOB:
            return _blob_reader(fmt, field), _bytes_of
        case Kind.ITEMS:
            split, join = list_codec(field)
            return _items_reader(fmt, field, split), join
        case Kind.VARIANT:
            return _variant_reader(fmt, field), _bytes_of
    raise TypeError(field.kind)  # pragma: no cover - the metaclass lets no other kind into a tail


def _bytes_of(value: Any) -> bytes:
    if type(value) is bytes:
        return value
    if not isinstance(value, (Format, bytes, bytearray, memoryview)):
        raise WireError(f"bytes or a format are wanted, not {value!r}")
    return bytes(value)


def _read_rest(self: Any, data: Any, position: int, stop: int) -> tuple[bytes, int]:
    return bytes(data[position:stop]), stop


def _length_reader(fmt: type[Format], field: Field) -> Callable[[Any, int], int]:
    """``self, room -> length``: the value of a field's length expression, checked against the bytes there are."""
    assert field.length is not None
    length_of = reader(field.length)
    where = f"{fmt.__name__}.{field.name}"

    def read(self: Any, room: int) -> int:
        length = length_of(self)
        if length < 0:
            raise WireError(f"{where}: a length of {length} bytes")
        if length > room:
            raise Truncated(f"{where}: {length} bytes wanted, {room} left")
        return length

    return read


def _blob_reader(fmt: type[Format], field: Field) -> Reader:
    length_of = _length_reader(fmt, field)

    def read(self: Any, data: Any, position: int, stop: int) -> tuple[bytes, int]:
        after = position + length_of(self, stop - position)
        return bytes(data[position:after]), after

    return read


def _items_reader(fmt: type[Format], field: Field, split: Split) -> Reader:
    where = f"{fmt.__name__}.{field.name}"
    element = field.element
    size = element.size if isinstance(element, Field) else element.SIZE if element else 0
    if field.length is not None:
        length_of = _length_reader(fmt, field)

        def read_bounded(self: Any, data: Any, position: int, stop: int) -> tuple[tuple[Any, ...], int]:
            bound = position + length_of(self, stop - position)
            found, after = split(data, position, bound, None)
            if after != bound:
                raise Truncated(f"{where}: {bound - after} bytes are too few for one more element")
            return found, after

        return read_bounded
    if field.count is None:
        return lambda self, data, position, stop: split(data, position, stop, None)
    count_of = reader(field.count)

    def read_counted(self: Any, data: Any, position: int, stop: int) -> tuple[tuple[Any, ...], int]:
        number = count_of(self)
        if number < 0:
            raise WireError(f"{where}: {number} elements")
        if number * size > stop - position:
            raise Truncated(f"{where}: {number} elements in {stop - position} bytes")
        return split(data, position, stop, number)

    return read_counted


def _variant_reader(fmt: type[Format], field: Field) -> Reader:
    assert field.on is not None and field.cases is not None
    tag_of = reader(field.on)
    parsers = {
        tag: [(fmt.SIZE, fmt.parse_prefix) for fmt in _largest_first(found)] for tag, found in field.cases.items()
    }

    def read(self: Any, data: Any, position: int, stop: int) -> tuple[Any, int]:
        room = stop - position
        for size, parse_prefix in parsers.get(tag_of(self), ()):
            if size <= room:
                return parse_prefix(data, position, stop)
        return bytes(data[position:stop]), stop

    if field.length is None:
        return read
    length_of = _length_reader(fmt, field)

    def read_bounded(self: Any, data: Any, position: int, stop: int) -> tuple[Any, int]:
        bound = position + length_of(self, stop - position)
        value, after = read(self, data, position, bound)
        return (value if after == bound else bytes(data[position:bound])), bound

    return read_bounded


def choose(cases: Cases, tag: int, room: int) -> type[Format] | None:
    """The format of a variant for a tag and the bytes there are; None if no case is known or none fits."""
    return next((fmt for fmt in _largest_first(cases.get(tag, ())) if fmt.SIZE <= room), None)


def _largest_first(found: type[Format] | tuple[type[Format], ...]) -> list[type[Format]]:
    candidates = found if isinstance(found, tuple) else (found,)
    return sorted(candidates, key=lambda fmt: -fmt.SIZE)
