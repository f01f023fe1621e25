"""Per-packet information: what an RNDIS data message says about its frame besides the frame itself.

Each item is a head of 12 bytes and a value of 4. Type 0 (checksums) means one thing on the way to the host, "fill
these in", and another on the way to the guest, "these were checked", so there are two formats for an item.

Sources: Linux 6.12 ``drivers/net/hyperv/hyperv_net.h`` (``rndis_per_packet_info``, ``ndis_per_pkt_info_type`` and the
structures after it); openvmm ``netvsp/src/rndisprot.rs``.
"""

from __future__ import annotations

from typing import Final

from vmbus.wire.enums import OpenEnum, OpenFlags
from vmbus.wire.schema import Format, bits, blob, u8, u16, u32, variant


class PpiType(OpenEnum):
    """What an item is about. The high bit marks those that only the two ends of VMBus know."""

    TCP_IP_CHECKSUM = 0
    IPSEC = 1
    LARGE_SEND = 2
    CLASSIFICATION_HANDLE = 3
    RESERVED = 4
    SG_LIST = 5
    IEEE_8021Q = 6
    ORIGINAL_PACKET = 7
    HASH_VALUE = 8
    ORIGINAL_NET_BUFFER_LIST = 9
    CACHED_NET_BUFFER_LIST = 10
    SHORT_PACKET_PADDING = 11
    PACKET_ID = 0x80000001


class ChecksumRequest(Format):
    """To the host: which checksums it is to fill in."""

    is_ipv4: int = bits(1, of=32, default=0)
    is_ipv6: int = bits(1, default=0)
    tcp_checksum: int = bits(1, default=0)
    udp_checksum: int = bits(1, default=0)
    ip_header_checksum: int = bits(1, default=0)
    reserved: int = bits(11, default=0)
    tcp_header_offset: int = bits(10, default=0, unit="bytes", doc="from the start of the frame")
    reserved2: int = bits(6, default=0)


class ChecksumResult(Format):
    """To the guest: what checking the checksums gave."""

    tcp_checksum_failed: int = bits(1, of=32, default=0)
    udp_checksum_failed: int = bits(1, default=0)
    ip_checksum_failed: int = bits(1, default=0)
    tcp_checksum_succeeded: int = bits(1, default=0)
    udp_checksum_succeeded: int = bits(1, default=0)
    ip_checksum_succeeded: int = bits(1, default=0)
    loopback: int = bits(1, default=0)
    tcp_checksum_value_invalid: int = bits(1, default=0, doc="good, but the bytes of the checksum are not")
    ip_checksum_value_invalid: int = bits(1, default=0)
    reserved: int = bits(23, default=0)


class LargeSend(Format):
    """The frame is to be cut into TCP segments (LSO version 2)."""

    mss: int = bits(20, of=32, unit="bytes", doc="TCP payload of each segment")
    tcp_header_offset: int = bits(10, unit="bytes", doc="from the start of the frame")
    lso_type: int = bits(1, default=1, doc="0: LSO version 1, 1: version 2")
    ip_version: int = bits(1, default=0, doc="0: IPv4, 1: IPv6")


class VlanTag(Format):
    """The 802.1Q tag that was taken out of the frame, or that is to be put in."""

    priority: int = bits(3, of=32, default=0)
    drop_eligible_indicator: int = bits(1, default=0)
    vlan_id: int = bits(12)
    reserved: int = bits(16, default=0)


class HashValue(Format):
    """The hash by which the frame's queue was chosen."""

    hash_value: int = u32()


class OpaqueValue(Format):
    """A handle or pointer of the end that sent it."""

    value: int = u32()


class PacketIdFlags(OpenFlags):
    """Pieces of one frame that came in several suballocations (receive segment coalescing)."""

    MULTI_SUBALLOCATION = 1
    FIRST_FRAGMENT = 2
    LAST_FRAGMENT = 4


class PacketId(Format):
    """Which piece of which coalesced frame this is."""

    version: int = u8(default=1)
    flags: PacketIdFlags = u8(PacketIdFlags)
    packet_id: int = u16(default=0)


_VALUES: Final[dict[int, type[Format]]] = {
    **dict.fromkeys(range(12), OpaqueValue),
    PpiType.LARGE_SEND: LargeSend,
    PpiType.IEEE_8021Q: VlanTag,
    PpiType.HASH_VALUE: HashValue,
    PpiType.PACKET_ID: PacketId,
}

PPI_TO_HOST: Final[dict[int, type[Format]]] = {**_VALUES, PpiType.TCP_IP_CHECKSUM: ChecksumRequest}
"""Value by item type in what a guest sends."""

PPI_TO_GUEST: Final[dict[int, type[Format]]] = {**_VALUES, PpiType.TCP_IP_CHECKSUM: ChecksumResult}
"""Value by item type in what a host sends."""


class PerPacketInfo(Format):
    """An item in a data message to the host."""

    size: int = u32(default=16, unit="bytes", doc="head and value: where the next item starts")
    info_type: PpiType = u32(PpiType)
    per_packet_information_offset: int = u32(default=12, unit="bytes", doc="of the value, from the item's start")
    gap: bytes = blob(length="per_packet_information_offset - 12", default=b"")
    value: Format | bytes = variant(on="info_type", cases=PPI_TO_HOST, length="size - per_packet_information_offset")


class ReceivedPacketInfo(Format):
    """An item in a data message to the guest."""

    size: int = u32(default=16, unit="bytes", doc="head and value: where the next item starts")
    info_type: PpiType = u32(PpiType)
    per_packet_information_offset: int = u32(default=12, unit="bytes", doc="of the value, from the item's start")
    gap: bytes = blob(length="per_packet_information_offset - 12", default=b"")
    value: Format | bytes = variant(on="info_type", cases=PPI_TO_GUEST, length="size - per_packet_information_offset")
