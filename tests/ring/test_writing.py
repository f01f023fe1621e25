"""What a sender can put into a ring, and what it cannot."""

from __future__ import annotations

import struct
from array import array
from collections import namedtuple
from pickle import PickleBuffer

import pytest

from vmbus import ring
from vmbus.memory import MemoryInUse
from vmbus.ring import GPA_DIRECT, IN_BAND


def test_the_bytes_in_the_ring_are_descriptor_extension_payload_padding_and_footer(make_ends):
    ends = make_ends(position=4072)
    ends.outgoing.write(GPA_DIRECT, 1, 0x1122334455667788, b"extended", b"abc")
    ends.outgoing.commit()
    expected = (
        struct.pack("<HHHHQ", 9, 3, 4, 1, 0x1122334455667788) + b"extendedabc\0\0\0\0\0" + struct.pack("<II", 0, 4072)
    )
    assert ends.memory.read(4072, 40) == expected
    assert ends.memory.words[0] == 4072 + 40 - 4096


def test_nothing_is_seen_before_the_commit_and_nothing_after_a_revert(ends):
    ends.outgoing.write(IN_BAND, 0, 1)
    assert ends.incoming.read_batch() == []
    ends.outgoing.revert()
    assert not ends.outgoing.commit()
    ends.outgoing.write(IN_BAND, 0, 2)
    ends.outgoing.commit()
    assert [packet.transaction_id for packet in ends.incoming.read_batch()] == [2]


class Bytes(bytes):
    """Bytes of a type of their own."""


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, Bytes])
def test_payload_and_extension_may_be_any_bytes(ends, kind):
    ends.outgoing.write(IN_BAND, 0, 1, kind(b"eight..."), kind(b"payload"))
    ends.outgoing.commit()
    packet = ends.incoming.read()
    assert (packet.extension, packet.payload) == (b"eight...", b"payload\0")


def test_a_packet_may_be_a_named_tuple(ends):
    packet_type = namedtuple("Packet", "packet_type flags transaction_id extension payload")
    assert ends.outgoing.write_batch([packet_type(IN_BAND, 0, tid, b"", b"named...") for tid in range(3)]) == 3
    ends.outgoing.commit()
    assert [packet.transaction_id for packet in ends.incoming.read_batch()] == [0, 1, 2]


def test_a_batch_may_be_a_list_or_a_tuple_or_empty(ends):
    packets = [(IN_BAND, 0, tid, b"", b"x") for tid in range(3)]
    assert ends.outgoing.write_batch(packets) == 3
    assert ends.outgoing.write_batch(tuple(packets)) == 3
    assert ends.outgoing.write_batch([]) == ends.outgoing.write_batch(()) == 0
    assert not ends.outgoing.waiting


def test_the_largest_packet_leaves_eight_bytes_and_a_larger_one_is_refused(ends):
    largest = bytes(ends.outgoing.largest_packet - 24)
    ends.outgoing.write(IN_BAND, 0, 0, b"", largest)
    assert ends.outgoing.free == 0
    ends.outgoing.commit()
    assert len(ends.incoming.read().payload) == len(largest)
    ends.incoming.commit()
    with pytest.raises(ring.InvalidMessageLength):
        ends.outgoing.write(IN_BAND, 0, 0, b"", largest + b"x")
    assert not ends.outgoing.waiting


def test_a_descriptor_cannot_say_more_than_sixteen_bits_of_eight_bytes(make_ends):
    ends = make_ends(size=1 << 19)
    ends.outgoing.write(IN_BAND, 0, 0, b"", bytes(0x7FFF * 8 - 16))
    ends.outgoing.revert()
    ends = make_ends(size=(1 << 20) - 8192)
    ends.outgoing.write(IN_BAND, 0, 0, b"", bytes(0xFFFF * 8 - 16))
    with pytest.raises(ring.InvalidMessageLength, match="524288 bytes at most"):
        ends.outgoing.write(IN_BAND, 0, 0, b"", bytes(0xFFFF * 8 - 15))


def test_an_extension_that_is_no_multiple_of_eight_is_refused(ends):
    with pytest.raises(ring.InvalidMessageLength, match="multiple of 8"):
        ends.outgoing.write(IN_BAND, 0, 0, b"123", b"")


@pytest.mark.parametrize(("limit", "expected"), [(0, 1), (1, 1), (128, 1), (129, 2), (256, 2), (10000, 5)])
def test_a_sender_may_write_a_portion_of_a_batch_and_at_least_one_packet(ends, limit, expected):
    batch = [(IN_BAND, 0, tid, b"", bytes(100)) for tid in range(5)]  # 128 bytes each in the ring
    assert ends.outgoing.write_batch(batch, limit) == expected
    assert not ends.outgoing.waiting


def test_an_impossible_packet_stops_a_batch_and_raises_when_it_is_first(ends):
    batch = [(IN_BAND, 0, 0, b"", b""), (IN_BAND, 0, 0, b"odd", b"")]
    assert ends.outgoing.write_batch(batch) == 1
    with pytest.raises(ring.InvalidMessageLength):
        ends.outgoing.write_batch(batch[1:])


def test_a_full_ring_takes_what_fits_then_asks_for_a_signal(ends):
    batch = [(IN_BAND, 0, tid, b"", bytes(1000)) for tid in range(6)]
    assert ends.outgoing.write_batch(batch) == 3
    assert not ends.outgoing.waiting  # nothing is asked for while something is not committed
    assert ends.outgoing.write_batch(batch[3:]) == 0 and not ends.outgoing.waiting
    ends.outgoing.commit()
    assert ends.outgoing.write_batch(batch[3:]) == 0
    assert ends.outgoing.waiting and ends.outgoing.full == 1
    with pytest.raises(ring.RingFull) as full:
        ends.outgoing.write(*batch[3])
    assert full.value.needed == 1024
    assert not isinstance(full.value, ring.RingError)


def test_a_bad_read_index_is_found_by_the_sender(ends):
    ends.memory.words[1] = 4096
    with pytest.raises(ring.InvalidRingPointer, match="read index"):
        ends.outgoing.write(IN_BAND, 0, 0, b"", b"x")
    ends.memory.words[1] = 4
    with pytest.raises(ring.InvalidRingPointer, match="read index"):
        _ = ends.outgoing.free


@pytest.mark.parametrize("odd", [(IN_BAND, 1 << 16, 0, b"", b""), (IN_BAND, 0, -1, b"", b""), ("6", 0, 0, b"", b"")])
def test_numbers_that_do_not_fit_are_the_callers_mistake(ends, odd):
    with pytest.raises(struct.error):
        ends.outgoing.write_batch([odd])
    assert ends.outgoing.position == 0


def test_memory_that_is_not_made_of_bytes_is_the_callers_mistake(ends):
    words = memoryview(array("I", [1, 2]))
    with pytest.raises((ValueError, TypeError)):
        ends.outgoing.write(IN_BAND, 0, 0, b"", words)


@pytest.mark.parametrize("sizes", [(0, 0), (100, 100), (4096, 6000), (1 << 31, 1 << 31)])
def test_only_whole_pages_can_be_a_ring(sizes):
    size, length = sizes
    data = memoryview(bytearray(min(length, 8192)))
    with pytest.raises(ring.InvalidRingMemory):
        ring.RingMemory(memoryview(bytearray(4096)), data, size)
    with pytest.raises(ring.InvalidRingMemory):
        ring.RingMemory.from_view(memoryview(bytearray(4096)), mirrored=False)


def test_released_rings_let_their_memory_go_and_say_so_when_they_cannot(pure):
    memory = ring.RingMemory.private(4096)
    outgoing = ring.OutgoingRing(memory, pure=pure)
    kept = PickleBuffer(memory.control)
    with pytest.raises(MemoryInUse):
        outgoing.release()
    kept.release()
    outgoing.release()
    with pytest.raises(ValueError, match="released"):
        outgoing.write(IN_BAND, 0, 0)
