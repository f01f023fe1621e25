"""Pipe framing in message mode and in byte mode, and what a pipe does not accept."""

from __future__ import annotations

import struct

import pytest

from vmbus.ring import COMPLETION, IN_BAND, RingPacket
from vmbus.ring.pipe import BYTE_CHUNK, MAX_PIPE_PAYLOAD, InvalidPipePacket, frame, frame_stream, unframe


def received(packet):
    packet_type, flags, tid, extension, payload = packet
    return RingPacket(packet_type, flags, tid, extension, payload + bytes(-len(payload) % 8), 0)


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 2048, MAX_PIPE_PAYLOAD])
def test_a_message_keeps_its_exact_length(size):
    content = (bytes(range(256)) * 64)[:size]
    assert unframe(received(frame(content))) == content


def test_a_message_that_is_too_long_is_refused_when_it_is_sent():
    with pytest.raises(InvalidPipePacket):
        frame(bytes(MAX_PIPE_PAYLOAD + 1))


def test_a_stream_is_cut_into_pieces_and_comes_together_again():
    content = bytes(range(256)) * 33
    packets = list(frame_stream(content))
    assert len(packets) == -(-len(content) // BYTE_CHUNK)
    assert b"".join(unframe(received(packet)) for packet in packets) == content
    assert list(frame_stream(b"")) == []


@pytest.mark.parametrize(
    ("packet_type", "payload", "message"),
    [
        (COMPLETION, struct.pack("<II", 1, 0), "type 11"),
        (IN_BAND, b"", "no room"),
        (IN_BAND, struct.pack("<II", 2, 0), "type 2"),
        (IN_BAND, struct.pack("<II", 1, 1), "1 bytes, 0 are there"),
        (IN_BAND, struct.pack("<II", 1, 0xFFFFFFFF), "0 are there"),
        (IN_BAND, struct.pack("<II", 1, MAX_PIPE_PAYLOAD + 1) + bytes(MAX_PIPE_PAYLOAD + 8), "16385 bytes"),
    ],
)
def test_what_is_no_pipe_data_is_refused(packet_type, payload, message):
    with pytest.raises(InvalidPipePacket, match=message):
        unframe(RingPacket(packet_type, 0, 0, b"", payload, 0))
