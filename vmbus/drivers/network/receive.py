"""Frames out of what a host sends: RNDIS packet messages, and the pieces of a coalesced frame put together again.

All pieces of a frame travel in one transfer-page packet, in order (Linux 6.12 ``drivers/net/hyperv/rndis_filter.c``,
``rndis_filter_receive_data``). What is read here is a copy that the host cannot change any more.
"""

from __future__ import annotations

from collections.abc import Iterable
from struct import Struct
from typing import Final, NamedTuple

from vmbus.drivers.errors import DriverError
from vmbus.wire.rndis import HEADER_SIZE
from vmbus.wire.rndis_ppi import PacketIdFlags, PpiType, ReceivedPacketInfo

_HEAD: Final = Struct("<11I")  # wire.rndis.RndisReceivedMessage with a RndisReceivedPacket
_INFO: Final = Struct("<III")  # wire.rndis_ppi.ReceivedPacketInfo
_VALUE: Final = Struct("<I")
_CHECKSUM, _PACKET_ID = int(PpiType.TCP_IP_CHECKSUM), int(PpiType.PACKET_ID)
_SUCCEEDED: Final = 1 << 3 | 1 << 4  # wire.rndis_ppi.ChecksumResult: TCP, UDP
_PIECE, _FIRST, _LAST = (
    int(flag) << 8  # wire.rndis_ppi.PacketId
    for flag in (PacketIdFlags.MULTI_SUBALLOCATION, PacketIdFlags.FIRST_FRAGMENT, PacketIdFlags.LAST_FRAGMENT)
)


class ReceivedFrame(NamedTuple):
    """A frame that arrived."""

    frame: bytes
    is_checked: bool
    """The host says that its TCP or UDP checksum is right; what stands in the frame need not be."""


def frames_of(messages: Iterable[bytes]) -> list[ReceivedFrame]:
    """The frames of the packet messages of one transfer-page packet; :class:`DriverError` if they make no sense."""
    frames: list[ReceivedFrame] = []
    pieces: list[bytes] = []
    is_checked = False
    for message in messages:
        frame, checksum, piece = _parsed(message)
        if not piece & _PIECE:
            frames.append(ReceivedFrame(frame, checksum & _SUCCEEDED != 0))
            continue
        if piece & _FIRST:
            pieces, is_checked = [], checksum & _SUCCEEDED != 0
        elif not pieces:
            raise DriverError("the host sent a piece of a coalesced frame, and not its first one before")
        pieces.append(frame)
        if piece & _LAST:
            frames.append(ReceivedFrame(b"".join(pieces), is_checked))
            pieces = []
    if pieces:
        raise DriverError("the host sent a coalesced frame without its last piece")
    return frames


def _parsed(message: bytes) -> tuple[bytes, int, int]:
    """The frame, and the values of its checksum and piece items, 0 where there is none."""
    if len(message) < _HEAD.size:
        raise DriverError(f"the host sent an RNDIS packet message of {len(message)} bytes")
    _, _, at, size, _, _, _, info_at, info_size, _, _ = _HEAD.unpack_from(message)
    room = len(message) - HEADER_SIZE
    if at + size > room:
        raise DriverError(f"the host sent a frame of {size} bytes at {at} of {len(message)} bytes")
    if info_at + info_size > room:
        raise DriverError(f"the host sent {info_size} bytes of per-packet information at {info_at} of {len(message)}")
    values = {_CHECKSUM: 0, _PACKET_ID: 0}
    item, end = HEADER_SIZE + info_at, HEADER_SIZE + info_at + info_size
    while item < end:
        length, kind, offset = _INFO.unpack_from(message, item) if end - item >= _INFO.size else (0, 0, 0)
        if not ReceivedPacketInfo.SIZE <= offset <= length <= end - item:
            raise DriverError(f"the host sent an item of per-packet information of {length} bytes")
        if kind in values and length - offset >= _VALUE.size:
            (values[kind],) = _VALUE.unpack_from(message, item + offset)
        item += length
    start = HEADER_SIZE + at
    return message[start : start + size], values[_CHECKSUM], values[_PACKET_ID]
