"""What lies in a ring buffer: the control page, the packets, and the framing of pipes.

Sources: openvmm ``vm/devices/vmbus/vmbus_ring/src/lib.rs`` (``protocol``, ``pipe_protocol``) and ``gparange.rs``;
Linux 6.12 ``include/linux/hyperv.h`` (``hv_ring_buffer``, ``vmpacket_descriptor``, ``vmdata_gpa_direct``) and
``net/vmw_vsock/hyperv_transport.c`` (``vmpipe_proto_header``); mu_msvm ``Include/Vmbus/VmbusPacketFormat.h``.
"""

from __future__ import annotations

from vmbus.wire.enums import OpenEnum, OpenFlags
from vmbus.wire.schema import Format, items, pad, u8, u16, u32, u64


class PacketType(OpenEnum):
    """What a ring packet is. Only 6, 7, 9 and 11 travel; the others are names that Linux keeps
    (``vmbus_packet_type``).
    """

    INVALID = 0
    SYNCH = 1
    ADD_TRANSFER_PAGE_SET = 2
    REMOVE_TRANSFER_PAGE_SET = 3
    ESTABLISH_GPADL = 4
    TEARDOWN_GPADL = 5
    IN_BAND = 6
    TRANSFER_PAGES = 7
    USING_GPADL = 8
    GPA_DIRECT = 9
    CANCEL_REQUEST = 10
    COMPLETION = 11
    USING_ADDITIONAL_PACKETS = 12
    ADDITIONAL_DATA = 13


class PacketFlags(OpenFlags):
    """Flags of a packet descriptor; no other bit is ever set."""

    COMPLETION_REQUESTED = 1


class RingFeatures(OpenFlags):
    """Feature bits of a control page, set by the end that sends on this ring."""

    PENDING_SEND_SIZE = 1


class ControlPage(Format):
    """The used part of the page in front of a ring's data. Indices are byte offsets into the data, multiples of 8."""

    write_index: int = u32(unit="bytes", doc="where the sender puts the next packet ('in')")
    read_index: int = u32(unit="bytes", doc="where the receiver takes the next packet ('out')")
    interrupt_mask: int = u32(doc="not 0: the receiver wants no signal")
    pending_send_size: int = u32(unit="bytes", doc="not 0: the sender waits until more than this many bytes are free")
    reserved: bytes = pad(48, default=b"")
    feature_bits: RingFeatures = u32(RingFeatures)


class PacketDescriptor(Format):
    """Heads every packet."""

    packet_type: PacketType = u16(PacketType)
    data_offset8: int = u16(unit="8 bytes", doc="from the descriptor's start to the payload")
    length8: int = u16(unit="8 bytes", doc="descriptor and payload, without the footer")
    flags: PacketFlags = u16(PacketFlags)
    transaction_id: int = u64()


class PacketFooter(Format):
    """Ends every packet."""

    reserved: int = u32(default=0)
    offset: int = u32(unit="bytes", doc="where in the ring the packet starts")


class TransferPageRange(Format):
    """Bytes in a buffer that both ends know by its GPADL."""

    byte_count: int = u32(unit="bytes")
    byte_offset: int = u32(unit="bytes")


class TransferPageHeader(Format):
    """Between descriptor and payload of a TRANSFER_PAGES packet; only networking sends them."""

    transfer_page_set_id: int = u16()
    sender_owns_set: int = u8(default=0)
    reserved: int = u8(default=0, doc="may hold anything")
    range_count: int = u32()
    ranges: tuple[TransferPageRange, ...] = items(TransferPageRange, count="range_count")


class GpaRange(Format):
    """Guest pages that are to look like one piece of memory."""

    byte_count: int = u32(unit="bytes")
    byte_offset: int = u32(unit="bytes", doc="of the first byte in the first page")
    pfns: tuple[int, ...] = items(u64(), count="(byte_offset + byte_count + 4095) // 4096")


class GpaDirectHeader(Format):
    """Between descriptor and payload of a GPA_DIRECT packet."""

    reserved: int = u32(default=0, doc="may hold anything")
    range_count: int = u32()
    ranges: tuple[GpaRange, ...] = items(GpaRange, count="range_count")


class PipePacketType(OpenEnum):
    """What a pipe packet is."""

    DATA = 1
    PARTIAL = 2
    SETUP_GPA_DIRECT = 3
    TEARDOWN_GPA_DIRECT = 4
    INDICATION_COMPLETE = 5


class PipeHeader(Format):
    """Heads the payload of every packet of a pipe, because ring packets only come in multiples of 8 bytes.

    In a PARTIAL packet, which only its reader ever makes, the high half of ``length`` counts the bytes already read.
    """

    packet_type: PipePacketType = u32(PipePacketType)
    length: int = u32(unit="bytes")
