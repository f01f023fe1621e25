"""Large sends and checksums in software give what a network card would."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vmbus.devices.network.backend import Offload
from vmbus.devices.network.errors import MalformedMessage
from vmbus.devices.network.segmentation import finished
from vmbus.inet.checksum import checksum, pseudo_header, word_sum
from vmbus.inet.frame import OutgoingFrame
from vmbus.inet.host import InetHost
from vmbus.inet.pattern import pattern
from vmbus.inet.segment import SegmentBuilder
from vmbus.loop import Loop
from vmbus.wire.inet import Ipv4, Tcp

MAC = b"\2\0\0\0\0\1"
HERE, THERE = bytes((10, 0, 0, 1)), bytes((10, 0, 0, 2))
LARGE = Offload(34, True, segment_size=1000, fill_ipv4=True)


def large_frame(payload: bytes, flags: int = 0x19) -> bytes:
    loop = Loop()
    host = InetHost(loop, MAC, HERE, len)
    host.neighbours[THERE] = MAC
    builder = SegmentBuilder(host, THERE, 80, 5000)
    builder.prepare()
    frame = builder.build(0xFFFFFF00, 7, flags, 100, payload, b"", 100)
    loop.close()
    return frame.frame


def is_sound(frame: bytes) -> bool:
    """Whether both checksums of a TCP frame hold."""
    tcp = frame[34:]
    return word_sum(frame[14:34]) == 0 and (pseudo_header(HERE, THERE, 6, len(tcp)) + word_sum(tcp)) % 65535 == 0


@pytest.mark.parametrize("size", [1, 1000, 1001, 60_000])
def test_segments_carry_all_bytes_with_sound_headers(size: int) -> None:
    payload = pattern(1, size)
    segments = list(finished(large_frame(payload), LARGE))
    assert b"".join(segment[54:] for segment in segments) == payload
    assert all(is_sound(segment) for segment in segments)
    assert [Ipv4.parse(segment, 14).total_length for segment in segments] == [len(s) - 14 for s in segments]


def test_sequence_numbers_wrap_and_fin_stands_in_the_last_segment_only() -> None:
    segments = [Tcp.parse(segment, 34) for segment in finished(large_frame(bytes(2500)), LARGE)]
    assert [segment.sequence for segment in segments] == [0xFFFFFF00, 744, 1744]
    assert [int(segment.flags) for segment in segments] == [0x10, 0x10, 0x19]


def test_a_length_that_linux_leaves_at_zero_is_filled_in() -> None:
    frame = bytearray(large_frame(bytes(2000)))
    frame[16:18] = frame[24:26] = b"\0\0"
    assert all(is_sound(segment) for segment in finished(frame, LARGE))


def test_a_single_checksum_is_filled_in() -> None:
    frame = bytearray(large_frame(b"x" * 50))
    frame[50:52] = b"\x12\x34"
    (done,) = finished(frame, Offload(34, True))
    assert is_sound(done)


def test_headers_that_are_not_there_are_an_error() -> None:
    with pytest.raises(MalformedMessage):
        list(finished(bytes(60), Offload(50, True, segment_size=100)))


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_a_checksum_makes_the_sum_vanish(data: bytes) -> None:
    even = data + b"\0" * (len(data) % 2)
    found = checksum(word_sum(even))
    assert (word_sum(even) + found) % 65535 == 0


def test_the_builder_leaves_large_segments_to_the_carrier() -> None:
    out: deque[OutgoingFrame] = deque()
    loop = Loop()
    host = InetHost(loop, MAC, HERE, len)
    host.neighbours[THERE] = MAC
    builder = SegmentBuilder(host, THERE, 80, 5000)
    builder.prepare()
    out.append(builder.build(1, 2, 0x10, 100, bytes(3000), b"", 1460))
    assert out[0].segment_size == 1460
    loop.close()
