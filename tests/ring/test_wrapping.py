"""Packets that start anywhere in the ring, and go around its end anywhere."""

from __future__ import annotations

import pytest

from vmbus.ring import GPA_DIRECT, IN_BAND

PATTERN = bytes(range(251)) * 20


@pytest.mark.parametrize("size", [0, 5, 24, 1000])
def test_a_packet_survives_at_every_offset_of_the_ring(make_ends, size):
    ends = make_ends()
    for position in range(0, 4096, 8):
        ends.memory.words[0] = ends.memory.words[1] = position
        outgoing, incoming = reopened(ends.outgoing), reopened(ends.incoming)
        outgoing.write(GPA_DIRECT, 0, position, PATTERN[8:24], PATTERN[:size])
        outgoing.write(IN_BAND, 1, position + 1, b"", b"next")
        outgoing.commit()
        first, second = incoming.read_batch()
        assert first == (GPA_DIRECT, 0, position, PATTERN[8:24], PATTERN[:size] + bytes(-size % 8), position)
        assert second.payload == b"next\0\0\0\0"


def reopened(end):
    """Open an end of a ring again, as the same implementation, where its index stands now."""
    return type(end)(end.memory, pure=end._port is end._reference)


def test_the_largest_packet_fits_at_every_page_and_word_of_a_ring(make_ends):
    for position in [*range(0, 4096, 520), 8, 16, 24, 4072, 4080, 4088]:
        ends = make_ends(position=position)
        content = PATTERN[: ends.outgoing.largest_packet - 24]
        ends.outgoing.write(IN_BAND, 0, 0, b"", content)
        ends.outgoing.commit()
        assert ends.incoming.read().payload == content
