"""How values and trees show themselves, compare, and travel."""

from __future__ import annotations

import pickle
from uuid import UUID

import pytest

from vmbus.wire.control import OpenChannel
from vmbus.wire.dynamic_memory import MemoryMessageType
from vmbus.wire.ring import GpaRange, PacketDescriptor, PacketFlags, PacketType
from vmbus.wire.schema import Field, Format, Kind, WireError, array, be24, guid, items, raw, u16, u32
from vmbus.wire.tree import show, walk


class Pieces(Format):
    sizes: tuple[int, ...] = array(be24(), 2, default=(0, 0))
    owner: UUID = guid(default=UUID(int=0))
    tail: tuple[int, ...] = items(u16())


def descriptor(**changes: int) -> PacketDescriptor:
    values = {"packet_type": 6, "data_offset8": 2, "length8": 3, "flags": 1, "transaction_id": 7}
    return PacketDescriptor(**{**values, **changes})  # type: ignore[arg-type]


def test_values_of_a_format_compare_and_hash_by_their_fields() -> None:
    assert descriptor() == descriptor() and hash(descriptor()) == hash(descriptor())
    assert descriptor() != descriptor(flags=0) and descriptor() != b"" and bytes(descriptor()) == descriptor().build()


def test_a_value_shows_its_fields_by_name_with_long_bytes_summed_up() -> None:
    assert repr(descriptor()) == (
        "PacketDescriptor(packet_type=IN_BAND, data_offset8=2, length8=3, flags=COMPLETION_REQUESTED, transaction_id=7)"
    )
    message = OpenChannel(channel_id=1, ring_gpadl_id=2, downstream_page_offset=3)
    assert "user_data=<120 bytes>" in repr(message)
    assert "owner=00000000-0000-0000-0000-000000000000" in repr(Pieces())


def test_replace_makes_a_copy_with_some_fields_changed() -> None:
    first = descriptor()
    assert first.replace(length8=9).length8 == 9 and first.length8 == 3


def test_a_format_has_no_other_attributes() -> None:
    with pytest.raises(AttributeError):
        descriptor().typo = 1  # type: ignore[attr-defined]


def test_enumerations_and_flags_pickle_as_what_they_are_known_or_not() -> None:
    for value in (PacketType.IN_BAND, PacketType(77), PacketFlags(0), PacketFlags(9)):
        again = pickle.loads(pickle.dumps(value))
        assert again == value and type(again) is type(value)
    assert pickle.loads(pickle.dumps(PacketType.IN_BAND)) is PacketType.IN_BAND


def test_an_enumeration_takes_integers_only() -> None:
    with pytest.raises(ValueError):
        PacketType("IN_BAND")
    with pytest.raises(ValueError):
        PacketFlags("x")


@pytest.mark.parametrize(
    ("value", "field", "expected"),
    [
        (MemoryMessageType.BALLOON_REQUEST, None, "BALLOON_REQUEST (0x6)"),
        (MemoryMessageType(99), None, "unknown (0x63)"),
        (PacketFlags(3), None, "COMPLETION_REQUESTED|0x2 (0x3)"),
        (12, Field(Kind.INT, unit="bytes"), "12 bytes"),
        (4096, Field(Kind.INT, unit="bytes"), "4096 (0x1000) bytes"),
        (b"h\0i\0\0\0x\0", Field(Kind.RAW, text="utf-16-le"), "'hi'"),
        (bytes(4), None, "00000000"),
        (bytes(60), None, "00000000 " * 9 + "00000000 ... (60 bytes)"),
        (UUID(int=1), None, "00000000-0000-0000-0000-000000000001"),
        (None, None, ""),
    ],
)
def test_a_tree_shows_values_as_people_read_them(value: object, field: Field | None, expected: str) -> None:
    assert show(value, field) == expected


def test_a_tree_tells_where_each_field_came_from() -> None:
    wire = bytes(3) + GpaRange(byte_count=4096, byte_offset=8, pfns=(5, 6)).build()
    node, end = walk(GpaRange, wire, 3, name="range")
    assert node.name == "range" and (node.offset, end) == (3, len(wire))
    assert [(n.name, n.value, n.offset, n.size) for n in node.find("pfns").children] == [
        ("[0]", 5, 11, 8),
        ("[1]", 6, 19, 8),
    ]


def test_a_tree_of_bytes_cut_short_shows_what_is_there_and_says_what_is_missing() -> None:
    node, _ = walk(PacketDescriptor, descriptor().build()[:5])
    assert [child.name for child in node.children] == ["packet_type", "data_offset8", "length8"]
    assert node.problems() == ["PacketDescriptor is cut short: length8 needs 2 bytes, 1 are left"]
    node, _ = walk(GpaRange, GpaRange(byte_count=8192, byte_offset=0, pfns=(5,)).build())
    assert node.problems() == ["pfns: 2 elements wanted, 1 are there"]


@pytest.mark.parametrize(
    "changes", [{"sizes": (1,)}, {"sizes": (1 << 24, 0)}, {"owner": "no"}, {"tail": (1 << 16,)}, {"sizes": None}]
)
def test_lists_refuse_elements_that_do_not_fit(changes: dict[str, object]) -> None:
    with pytest.raises(WireError):
        Pieces(**changes).build()  # type: ignore[arg-type]


def test_bytes_too_long_for_their_field_are_refused_and_shorter_ones_filled_up() -> None:
    class Name(Format):
        text: bytes = raw(4)
        after: int = u32(default=0)

    assert Name(text=b"ab").build() == b"ab" + bytes(6)
    with pytest.raises(WireError, match="5 bytes do not fit a field of 4"):
        Name(text=b"abcde").build()
