"""What a receiver accepts, and what it calls each thing that it does not."""

from __future__ import annotations

import struct

import pytest

from vmbus import ring
from vmbus.ring import COMPLETION, GPA_DIRECT, IN_BAND, TRANSFER_PAGES


def place(ends, packet_type=IN_BAND, start=16, length=24, flags=0, tid=7, extension=b"", announce=None):
    """Write a descriptor by hand at offset 0, and say that ``announce`` bytes are there."""
    data = struct.pack("<HHHHQ", packet_type, start // 8, length // 8, flags, tid) + extension
    ends.memory.write(0, data.ljust(length, b"."))
    ends.memory.words[0] = length + 8 if announce is None else announce


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 2000, 4096 - 32])
def test_a_packet_arrives_as_it_was_sent_padded_to_eight_bytes(ends, size):
    payload = bytes(range(256)) * 16
    ends.outgoing.write(IN_BAND, 1, 2**64 - 1, b"", payload[:size])
    ends.outgoing.commit()
    packet = ends.incoming.read()
    assert packet == (IN_BAND, 1, 2**64 - 1, b"", payload[:size] + bytes(-size % 8), 0)
    assert packet.ring_size == ring.packet_size(size) == ends.outgoing.position - packet.offset or size == 4096 - 32


@pytest.mark.parametrize("packet_type", [IN_BAND, COMPLETION, TRANSFER_PAGES, GPA_DIRECT])
def test_every_packet_type_keeps_its_extension_apart_from_its_payload(ends, packet_type):
    extension = struct.pack("<IIQ", 0, 1, 99)
    ends.outgoing.write(packet_type, 0, 5, extension, b"payload!")
    ends.outgoing.commit()
    packet = ends.incoming.read()
    assert (packet.packet_type, packet.extension, packet.payload) == (packet_type, extension, b"payload!")


def test_a_packet_says_whether_it_wants_a_completion(ends):
    ends.outgoing.write(IN_BAND, ring.COMPLETION_REQUESTED, 1)
    ends.outgoing.write(IN_BAND, 0, 2)
    ends.outgoing.commit()
    assert [packet.wants_completion for packet in ends.incoming.read_batch()] == [True, False]


def test_packets_of_either_implementation_are_the_same_to_use(ends):
    ends.outgoing.write(IN_BAND, 1, 2, bytes(8), b"abcdefgh")
    ends.outgoing.commit()
    peeked, taken = ends.incoming.peek(), ends.incoming.read()
    assert peeked == taken and taken == peeked and hash(peeked) == hash(taken) and repr(peeked) == repr(taken)
    packet_type, flags, tid, extension, payload, offset = taken
    assert (packet_type, flags, tid, extension, payload, offset) == tuple(peeked)
    assert taken != (1, 2, 3) and taken != "packet"


@pytest.mark.parametrize(
    ("error", "bad"),
    [
        (ring.InvalidDescriptorLengths, {"start": 8}),
        (ring.InvalidDescriptorLengths, {"start": 32}),
        (ring.InvalidDescriptorLengths, {"length": 16, "announce": 16}),
        (ring.InvalidDescriptorLengths, {"length": 2048, "announce": 2048}),
        (ring.InvalidDescriptorLengths, {"packet_type": TRANSFER_PAGES}),
        (ring.InvalidDescriptorLengths, {"packet_type": GPA_DIRECT}),
        (ring.InvalidDescriptorFlags, {"flags": 2}),
        (ring.InvalidDescriptorFlags, {"flags": 0x8001}),
        (ring.InvalidDescriptorType, {"packet_type": 0}),
        (ring.InvalidDescriptorType, {"packet_type": 8}),
        (ring.InvalidDescriptorType, {"packet_type": 0xFFFF, "start": 24}),
        (ring.InvalidGpaDirectRangeCount, {"packet_type": GPA_DIRECT, "start": 24, "extension": bytes(8)}),
        (ring.InvalidDataAvailable, {"announce": 8}),
        (ring.InvalidRingPointer, {"announce": 4096}),
        (ring.InvalidRingPointer, {"announce": 44}),
        (ring.InvalidRingPointer, {"announce": 0xFFFFFFF8}),
    ],
)
def test_each_broken_rule_has_its_error_and_leaves_the_position_alone(ends, error, bad):
    place(ends, **bad)
    for attempt in (ends.incoming.read_batch, ends.incoming.read, ends.incoming.peek):
        with pytest.raises(error) as caught:
            attempt()
        assert "\n" not in str(caught.value)
    assert ends.incoming.position == 0 and ends.incoming.uncommitted == 0


def test_sound_packets_in_front_of_a_bad_one_are_handed_over_first(ends):
    ends.outgoing.write(IN_BAND, 0, 1, b"", b"good")
    ends.outgoing.write(IN_BAND, 0, 2, b"", b"good")
    ends.outgoing.write(99, 0, 3, b"", b"bad.")
    ends.outgoing.commit()
    assert [packet.transaction_id for packet in ends.incoming.read_batch()] == [1, 2]
    with pytest.raises(ring.InvalidDescriptorType, match=r"at 0x40"):
        ends.incoming.read_batch()


def test_a_batch_is_never_larger_than_asked_for_or_than_64(ends):
    for tid in range(100):
        ends.outgoing.write(IN_BAND, 0, tid)
    ends.outgoing.commit()
    assert [len(ends.incoming.read_batch(n)) for n in (0, 1, 30, 1000, 64)] == [0, 1, 30, 64, 5]


def test_revert_puts_back_what_was_not_committed(ends):
    for tid in range(4):
        ends.outgoing.write(IN_BAND, 0, tid)
    ends.outgoing.commit()
    ends.incoming.read()
    ends.incoming.commit()
    assert len(ends.incoming.read_batch()) == 3
    ends.incoming.revert()
    assert [packet.transaction_id for packet in ends.incoming.read_batch()] == [1, 2, 3]
    assert ends.incoming.packets == 1


def test_room_is_given_back_by_the_commit_and_not_before(ends):
    ends.outgoing.write(IN_BAND, 0, 0, b"", bytes(100))
    ends.outgoing.commit()
    before = ends.outgoing.free
    ends.incoming.read()
    assert ends.outgoing.free == before
    ends.incoming.commit()
    assert ends.outgoing.free == 4096 - 8


def test_counters_count_what_was_committed(ends):
    assert ends.incoming.unmask_interrupts() is False
    for _ in range(3):
        ends.outgoing.write(IN_BAND, 0, 0, b"", bytes(8))
    assert ends.outgoing.packets == 0
    ends.outgoing.commit()
    ends.outgoing.commit()
    assert (ends.outgoing.packets, ends.outgoing.bytes, ends.outgoing.signals) == (3, 96, 1)
    assert ends.incoming.available == 96
    ends.incoming.read_batch()
    ends.incoming.commit()
    ends.incoming.commit()
    assert (ends.incoming.packets, ends.incoming.bytes, ends.incoming.signals) == (3, 96, 0)


def test_a_later_change_of_the_ring_does_not_change_a_packet_that_was_read(ends):
    ends.outgoing.write(IN_BAND, 0, 0, b"", b"original")
    ends.outgoing.commit()
    packet = ends.incoming.read()
    ends.memory.write(16, b"modified")
    assert packet.payload == b"original"


def test_packets_that_are_kept_stay_as_they_are_while_others_come_and_go(make_ends):
    ends, kept = make_ends(size=65536), []
    for first in range(0, 1000, 50):
        numbers = range(first, first + 50)
        assert ends.outgoing.write_batch([(IN_BAND, 0, tid, b"", b"%08d" % tid) for tid in numbers]) == 50
        ends.outgoing.commit()
        kept += ends.incoming.read_batch()[:: 1 + first % 3]
        ends.incoming.commit()
        del kept[: first // 100]
    assert len(kept) > 64
    assert all(packet.payload == b"%08d" % packet.transaction_id for packet in kept)


def test_a_ring_with_a_bad_index_cannot_even_be_opened(ends):
    ends.memory.words[1] = 12
    with pytest.raises(ring.InvalidRingPointer, match="read index 0xc"):
        ring.IncomingRing(ends.memory)
    ends.memory.words[0] = 1 << 31
    with pytest.raises(ring.InvalidRingPointer, match="write index"):
        ring.OutgoingRing(ends.memory)
