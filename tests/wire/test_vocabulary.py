"""What each word of the vocabulary means on the wire, and what it refuses."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from types import SimpleNamespace
from uuid import UUID

import pytest

from vmbus.testing.formats import unheard_of
from vmbus.wire.enums import OpenEnum, OpenFlags
from vmbus.wire.expression import evaluate, expression, reader
from vmbus.wire.schema import (
    Format,
    Truncated,
    WireError,
    array,
    be16,
    be24,
    be32,
    bits,
    blob,
    guid,
    items,
    located,
    nested,
    raw,
    rest,
    u8,
    u16,
    u32,
    u64,
    variant,
)  # fmt: skip
from vmbus.wire.tree import show, walk


class Colour(OpenEnum):
    RED = 1
    BLUE = 2


class Marks(OpenFlags):
    BOLD = 1
    WIDE = 4


class Point(Format):
    x: int = u16()
    colour: Colour = u16(Colour, default=Colour.RED)


class Head(Format):
    kind: int = u8()
    size: int = u8(default=0)


class Mixed(Format):
    a: int = u8()
    b: int = be32()
    c: int = be24()
    low: int = bits(3, of=8)
    high: Marks = bits(5, Marks)
    d: int = u64()


class Lists(Format):
    triples: tuple[int, ...] = array(be24(), 2)
    owners: tuple[UUID, ...] = array(guid(), 1)
    points: tuple[Point, ...] = array(Point, 2)
    colours: tuple[Colour, ...] = array(u8(Colour), 2)
    names: tuple[bytes, ...] = array(raw(2), 2)
    more: tuple[UUID, ...] = items(guid())


class Chosen(Format):
    head: Head = nested(Head)
    body: object = variant(on="head.kind", cases={1: Point, 2: (Head, Point)}, length="head.size")
    trailing: bytes = rest()


class Named(Format):
    offset: int = u16()
    length: int = u16()
    rest: bytes = rest()
    name: bytes = located(offset="offset", length="length", text="utf-16-le")
    points: tuple[Point, ...] = located(offset="4", length="length", element=Point)


class Bounded(Format):
    length: int = u8()
    points: tuple[Point, ...] = items(Point, length="length - 1")
    text: bytes = blob(length="length & 3")


class GreyBit(Format):
    bit: int = bits(1, of=8, msb=True)
    others: int = bits(7)


def test_byte_orders_and_bit_groups_mix_in_one_head() -> None:
    value = Mixed(a=1, b=2, c=3, low=5, high=Marks.BOLD | Marks.WIDE, d=4)
    assert value.build().hex() == "01" + "00000002" + "000003" + "2d" + "0400000000000000"
    assert Mixed.parse(value.build()) == value


def test_bits_are_drawn_from_either_end() -> None:
    assert GreyBit(bit=1, others=2).build() == b"\x82"
    assert Mixed.parse(bytes(8) + b"\xff" + bytes(8)).low == 7


def test_arrays_hold_24_bit_integers_guids_formats_enumerations_and_bytes() -> None:
    nil = UUID(int=0)
    value = Lists(
        triples=(1, 2), owners=(nil,), points=(Point(x=1), Point(x=2)), colours=(1, 9), names=(b"a", b"bc"), more=(nil,)
    )
    assert Lists.SIZE == 6 + 16 + 8 + 2 + 4
    again = Lists.parse(value.build())
    assert again.triples == (1, 2) and again.colours[0] is Colour.RED and again.names == (b"a\0", b"bc")


def test_an_expression_reads_a_nested_head_and_bounds_the_body() -> None:
    value = Chosen.parse(bytes([1, 4, 7, 0, 2, 0]) + b"tail")
    assert value.body == Point(x=7, colour=Colour.BLUE) and value.trailing == b"tail"


def test_a_body_that_does_not_fill_its_length_stays_bytes() -> None:
    value = Chosen.parse(bytes([1, 5, 7, 0, 2, 0, 9]))
    assert value.body == bytes([7, 0, 2, 0, 9])


def test_of_several_formats_the_largest_that_fits_is_taken() -> None:
    assert Chosen.parse(bytes([2, 4, 0, 0, 0, 0])).body == Point(x=0, colour=0)
    assert Chosen.parse(bytes([2, 2, 0, 0, 0, 0])).body == Head(kind=0)


def test_located_bytes_are_sliced_and_never_stored_twice() -> None:
    wire = bytes([6, 0, 4, 0]) + b"\1\0\2\0h\0i\0"
    value = Named.parse(wire)
    assert value.name == b"\2\0h\0" and value.points == (Point(x=1, colour=2),)
    assert value.build() == wire
    assert show(walk(Named, wire)[0].find("name").value, Named.FIELDS[3]) == repr("\2h")


def test_located_bytes_outside_the_format_are_refused() -> None:
    value = Named(offset=60, length=4)
    with pytest.raises(WireError, match="bytes 60 to 64 of 4"):
        value.name


def test_a_list_bounded_by_a_length_fills_it_exactly() -> None:
    assert Bounded.parse(b"\x05" + bytes(4) + b"x").points == (Point(x=0, colour=0),)
    with pytest.raises(Truncated, match="too few for one more"):
        Bounded.parse(b"\x04" + bytes(40))
    with pytest.raises(WireError, match="-1 bytes"):
        Bounded.parse(b"\x00" + bytes(40))


class Counted(Format):
    number: int = u32()
    pages: tuple[int, ...] = items(u64(), count="number")
    points: tuple[Named, ...] = items(Named, count="number * 1000")


def test_a_hostile_count_costs_nothing() -> None:
    tracemalloc.start()
    with pytest.raises(Truncated):
        Counted.parse(b"\xff" * 4 + bytes(64))
    assert walk(Counted, b"\xff" * 4 + bytes(64))[0].problems()
    assert tracemalloc.get_traced_memory()[1] < 200_000
    tracemalloc.stop()


def test_only_constants_divide_or_shift_so_that_no_peer_makes_an_expression_explode() -> None:
    assert evaluate(expression("(a + 4095) // 4096 << 2"), {"a": 1}) == 4
    assert evaluate(expression("max(a - 36, 0)"), {"a": 1}) == 0 == reader("max(a - 36, 0)")(SimpleNamespace(a=1))
    for text in ("1 << a", "a // b", "a % 0", "a ** b", "a if b else c", "f(a)", "max(a)", "a[0]"):
        with pytest.raises(TypeError):
            expression(text)


def test_enumerations_survive_unknown_values_and_keep_none() -> None:
    before = len(Colour._value2member_map_)
    for value in unheard_of(Colour):
        point = Point.parse(Point(x=0, colour=value).build())
        assert point.colour == value and not point.colour.is_known
        assert str(point.colour) == f"UNKNOWN_{value:#x}"
    assert len(Colour._value2member_map_) == before
    assert Point.parse(bytes([0, 0, 1, 0])).colour is Colour.RED


def test_flags_survive_unknown_bits_and_keep_no_combination() -> None:
    before = len(Marks._value2member_map_)
    for value in range(256):
        marks = Marks(value)
        assert int(marks) == value and marks.unknown == value & ~5
        assert int(marks & ~Marks.BOLD) == value & ~1
    assert str(Marks(0x15)) == "BOLD|WIDE|0x10" and str(Marks(0)) == "0"
    assert len(Marks._value2member_map_) == before


@pytest.mark.parametrize("changes", [{"x": 1 << 16}, {"x": -1}, {"x": None}, {"x": "1"}])
def test_a_value_that_does_not_fit_is_a_wire_error(changes: dict[str, object]) -> None:
    with pytest.raises(WireError):
        Point(x=0).replace(**changes).build()


def test_a_body_must_be_bytes_or_a_format() -> None:
    for body in (5, None, "text"):
        with pytest.raises(WireError):
            Chosen(head=Head(kind=1, size=0), body=body).build()


def test_a_declaration_that_cannot_work_is_refused_when_it_is_made() -> None:
    with pytest.raises(TypeError, match="not full"):
        type(Format)("Gap", (Format,), {"a": bits(3, of=8), "b": u8()})
    with pytest.raises(TypeError, match="cannot follow a tail"):
        type(Format)("Late", (Format,), {"a": rest(), "b": u8()})
    with pytest.raises(TypeError, match="variable tail"):
        nested(Named)
    with pytest.raises(TypeError, match="variable tail"):
        array(Named, 2)


def test_a_subclass_continues_where_its_base_ended() -> None:
    class Further(Head):
        extra: int = be16()

    assert Further(kind=1, size=2, extra=3).build() == bytes([1, 2, 0, 3])
    assert isinstance(Further.parse(bytes(4)), Head)


def test_importing_the_formats_pulls_in_no_library() -> None:
    program = (
        "import sys, vmbus.wire.protocols; print([m for m in ('construct', 'numpy', 'scapy', 'hypothesis') "
        "if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert found.stdout.strip() == "[]"
