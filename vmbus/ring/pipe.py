"""Pipes: a header with the exact length in front of every payload, because ring packets are padded to 8 bytes.

In *message mode* a packet is a message. In *byte mode* packets are pieces of a stream, and one of 0 bytes ends it.
This module frames and unframes; it keeps no ring and sends nothing. Sources: openvmm ``vmbus_ring/src/lib.rs``
(``pipe_protocol``) and ``vmbus_async/src/pipe.rs``; Linux 6.12 ``net/vmw_vsock/hyperv_transport.c``
(``hvs_update_recv_data``, ``hvs_stream_enqueue``, ``hvs_shutdown``).
"""

from __future__ import annotations

from collections.abc import Iterator

from vmbus.ring.errors import RingError
from vmbus.ring.packet import IN_BAND, OutgoingPacket, Payload, RingPacket
from vmbus.wire.ring import PipeHeader, PipePacketType

MAX_PIPE_PAYLOAD = 16384
"""The most bytes behind one pipe header."""

BYTE_CHUNK = 2048
"""The bytes per packet in which a stream is written, so that the reader gives room back as it goes; as openvmm
does.
"""

_HEADER = PipeHeader.STRUCT
_DATA = int(PipePacketType.DATA)


class InvalidPipePacket(RingError):
    """A packet in a pipe that is no pipe data, or whose length contradicts the packet around it."""


def frame(content: Payload) -> OutgoingPacket:
    """Make the packet for one message, or for one piece of a stream; empty content ends a stream."""
    if len(content) > MAX_PIPE_PAYLOAD:
        raise InvalidPipePacket(f"a pipe packet of {len(content)} bytes: {MAX_PIPE_PAYLOAD} at most")
    return (IN_BAND, 0, 0, b"", _HEADER.pack(_DATA, len(content)) + content)


def frame_stream(content: Payload) -> Iterator[OutgoingPacket]:
    """Make the packets for bytes of a stream, in pieces of :data:`BYTE_CHUNK`. No bytes, no packets."""
    view = memoryview(content)
    for start in range(0, len(view), BYTE_CHUNK):
        yield frame(view[start : start + BYTE_CHUNK])


def unframe(packet: RingPacket) -> bytes:
    """Return the bytes of a pipe packet, without header and padding; b"" in byte mode means the end of the stream."""
    if packet.packet_type != IN_BAND:
        raise InvalidPipePacket(f"ring packet at {packet.offset:#x}: type {packet.packet_type} has no place in a pipe")
    payload = packet.payload
    if len(payload) < _HEADER.size:
        raise InvalidPipePacket(f"ring packet at {packet.offset:#x}: no room for a pipe header")
    kind, length = _HEADER.unpack_from(payload)
    if kind != _DATA:
        # PARTIAL is made by a reader in its own ring for itself, and never sent.
        raise InvalidPipePacket(f"ring packet at {packet.offset:#x}: pipe packet type {kind} where data was expected")
    held = len(payload) - _HEADER.size
    if length > held or length > MAX_PIPE_PAYLOAD:
        raise InvalidPipePacket(f"ring packet at {packet.offset:#x}: a pipe header of {length} bytes, {held} are there")
    return payload[_HEADER.size : _HEADER.size + length]
