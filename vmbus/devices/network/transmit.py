"""Frames out of what a guest sends: RNDIS packet messages behind each other, and what they want done to each frame.

Every number is read from shared memory once and checked as read; the frames themselves stay where they are.

Sources: openvmm ``netvsp/src/lib.rs`` (``handle_rndis_packet_message``); Linux 6.12 ``drivers/net/hyperv/netvsc_drv.c``
(``netvsc_xmit``).
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from vmbus.devices.network.backend import Buffer, GuestFrame, Offload
from vmbus.devices.network.errors import MalformedMessage, UnexpectedMessage
from vmbus.wire.rndis import HEADER_SIZE, PACKET_SIZE, RndisMessageType
from vmbus.wire.rndis_ppi import PerPacketInfo, PpiType

_PACKET: Final = Struct("<11I")  # wire.rndis.RndisMessage with a RndisPacket
_INFO: Final = Struct("<III")  # wire.rndis_ppi.PerPacketInfo
_VALUE: Final = Struct("<I")
_TYPE: Final = int(RndisMessageType.PACKET)
_CHECKSUM, _LARGE_SEND, _VLAN = int(PpiType.TCP_IP_CHECKSUM), int(PpiType.LARGE_SEND), int(PpiType.IEEE_8021Q)

MIN_FRAME: Final = 14
_MOST_KNOWN: Final = 4096
_LONGEST_KNOWN: Final = 64
"""How much per-packet information is remembered, and bytes of the longest: three items have 48."""


Wish = tuple[Offload | None, int | None]
"""What per-packet information asks for: an offload, and the value of an 802.1Q tag to put in."""


class PacketParser:
    """Reads packet messages. It remembers per-packet information by its bytes: a flow's is always the same."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[bytes, Wish] = {}

    def parse(self, data: memoryview, frames: list[GuestFrame]) -> list[memoryview]:
        """Add the frames of all messages in ``data`` to ``frames``; return the messages, each as a slice."""
        messages: list[memoryview] = []
        at, end = 0, len(data)
        while at < end:
            if end - at < _PACKET.size:
                raise MalformedMessage(f"{end - at} bytes are left for an RNDIS packet message of at least 44")
            kind, length, offset, size, oob_at, oob_size, oob_count, info_at, info_size, handle, _ = (
                _PACKET.unpack_from(data, at)
            )
            if kind != _TYPE:
                raise UnexpectedMessage(f"RNDIS message {kind:#x} comes behind a packet message")
            room = length - HEADER_SIZE
            if not PACKET_SIZE <= room <= end - at - HEADER_SIZE:
                raise MalformedMessage(f"an RNDIS packet message of {length} bytes in {end - at} bytes")
            if offset < PACKET_SIZE or offset + size > room or size < MIN_FRAME:
                raise MalformedMessage(f"a frame of {size} bytes at {offset} of an RNDIS message of {length} bytes")
            if oob_at or oob_size or oob_count or handle:
                raise UnexpectedMessage("an RNDIS packet message has out-of-band data or a handle, which VMBus has not")
            start = at + HEADER_SIZE
            frame: Buffer = data[start + offset : start + offset + size]
            offload = None
            if info_size:
                if info_at < PACKET_SIZE or info_at + info_size > room:
                    raise MalformedMessage(f"{info_size} bytes of per-packet information at {info_at} of {length}")
                info = start + info_at
                offload, tag = self._wish(bytes(data[info : info + info_size]))
                if offload is not None and max(offload.transport_offset, 34) >= size:
                    raise MalformedMessage(f"a transport header at {offload.transport_offset} of {size} bytes")
                if tag is not None:
                    frame, offload = _tagged(frame, tag, offload)
            frames.append((frame, offload))
            messages.append(data if length == end else data[at : at + length])
            at += length
        return messages

    def _wish(self, info: bytes) -> Wish:
        """What the items of per-packet information in ``info``, a copy, ask for."""
        known = self._known.get(info)
        if known is None:
            known = _parsed(info)
            if len(info) <= _LONGEST_KNOWN:
                if len(self._known) >= _MOST_KNOWN:
                    self._known.clear()
                self._known[info] = known
        return known


def _parsed(info: bytes) -> Wish:
    offload: Offload | None = None
    tag: int | None = None
    at, end = 0, len(info)
    while at < end:
        if end - at < PerPacketInfo.SIZE:
            raise MalformedMessage(f"{end - at} bytes are left for an item of per-packet information")
        size, kind, offset = _INFO.unpack_from(info, at)
        if not PerPacketInfo.SIZE <= offset <= size <= end - at:
            raise MalformedMessage(f"an item of per-packet information of {size} bytes with its value at {offset}")
        if kind in (_CHECKSUM, _LARGE_SEND, _VLAN):
            if size - offset < _VALUE.size:
                raise MalformedMessage(f"{size - offset} bytes of value in per-packet information {kind}")
            (value,) = _VALUE.unpack_from(info, at + offset)
            if kind == _VLAN:
                tag = value
            elif kind == _LARGE_SEND:
                offload = _large_send(value)
            elif offload is None:
                offload = _checksums(value)
        at += size
    return offload, tag


def _large_send(value: int) -> Offload:
    segment_size, offset = value & 0xFFFFF, value >> 20 & 0x3FF
    if not segment_size:
        raise MalformedMessage("a large send with segments of 0 bytes")
    is_ipv6 = bool(value >> 31)
    return Offload(offset, True, is_ipv6, True, not is_ipv6, segment_size)


def _checksums(value: int) -> Offload:
    is_ipv4, is_ipv6 = value & 1, value >> 1 & 1
    tcp, udp, ip = value >> 2 & 1, value >> 3 & 1, value >> 4 & 1
    fill = bool((tcp or udp) and (is_ipv4 or is_ipv6))
    return Offload(value >> 16 & 0x3FF, bool(tcp), bool(is_ipv6 and not is_ipv4), fill, bool(ip and is_ipv4))


def _tagged(frame: Buffer, value: int, offload: Offload | None) -> GuestFrame:
    """The frame with an 802.1Q tag; the item has priority, drop eligibility and id in other places than the tag."""
    tag = (value & 7) << 13 | (value >> 3 & 1) << 12 | value >> 4 & 0xFFF
    if offload is not None and offload.transport_offset:
        offload = offload._replace(transport_offset=offload.transport_offset + 4)
    return bytes(frame[:12]) + b"\x81\x00" + tag.to_bytes(2, "big") + bytes(frame[12:]), offload
