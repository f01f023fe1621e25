"""RNDIS: how a guest's network driver and the host's card talk, inside NVSP messages.

A message is a type, its length from the first byte of the type, and a body. Offsets inside a body count from the
body's start. Control messages (initialize, query, set, reset, keepalive) are requests with an id and their
completions; indications tell the guest of a change; a packet message carries one Ethernet frame, and several of them
may stand behind each other.

Sources: MS-RNDIS 2.2; openvmm ``netvsp/src/rndisprot.rs``; Linux 6.12 ``drivers/net/hyperv/hyperv_net.h`` and
``include/linux/rndis.h``. Older hosts leave the status buffer out of an indication's length
(``netvsc_linkstatus_callback``). Connection-oriented (CoNDIS) messages never travel on VMBus and are left out.
Per-packet information stands before the frame, as every known peer sends it; RNDIS itself would allow another order.
``(length + 0xffffffff) >> 32`` is 1 where there are any bytes and 0 where there are none: an offset to nothing means
nothing.
"""

from __future__ import annotations

from typing import Final

from vmbus.wire.enums import OpenEnum, OpenFlags
from vmbus.wire.ndis import NdisStatus
from vmbus.wire.rndis_oid import Medium, Oid
from vmbus.wire.rndis_oid_formats import OFFLOADS, OID_QUERIES, OID_SETS, Formats
from vmbus.wire.rndis_ppi import PerPacketInfo, ReceivedPacketInfo
from vmbus.wire.schema import Format, blob, items, rest, u32, variant

HEADER_SIZE: Final = 8
"""Bytes of type and length."""

PACKET_SIZE: Final = 36
"""Bytes of a packet message's body before its per-packet information and frame."""

MAJOR_VERSION: Final = 1
MINOR_VERSION: Final = 0


def _gap(difference: str) -> str:
    """The expression for the bytes in front of what an offset names; an offset to nothing is often 0."""
    return f"max({difference}, 0)"


_BEFORE_INFO: Final = _gap("per_packet_info_offset - 36")


class RndisMessageType(OpenEnum):
    """What a message is; the high bit marks completions."""

    PACKET = 0x00000001
    INITIALIZE = 0x00000002
    HALT = 0x00000003
    QUERY = 0x00000004
    SET = 0x00000005
    RESET = 0x00000006
    INDICATE_STATUS = 0x00000007
    KEEPALIVE = 0x00000008
    SET_EX = 0x00000009
    INITIALIZE_COMPLETE = 0x80000002
    QUERY_COMPLETE = 0x80000004
    SET_COMPLETE = 0x80000005
    RESET_COMPLETE = 0x80000006
    KEEPALIVE_COMPLETE = 0x80000008
    SET_EX_COMPLETE = 0x80000009
    BUS = 0xFF000001


class DeviceFlags(OpenFlags):
    """What kind of device it is."""

    CONNECTIONLESS = 1
    CONNECTION_ORIENTED = 2
    RAW_DATA = 4


class RndisInitialize(Format):
    """The guest's first message."""

    request_id: int = u32()
    major_version: int = u32(default=MAJOR_VERSION)
    minor_version: int = u32(default=MINOR_VERSION)
    max_transfer_size: int = u32(unit="bytes")


class RndisInitializeComplete(Format):
    """What the host can take."""

    request_id: int = u32()
    status: NdisStatus = u32(NdisStatus)
    major_version: int = u32(default=MAJOR_VERSION)
    minor_version: int = u32(default=MINOR_VERSION)
    device_flags: DeviceFlags = u32(DeviceFlags)
    medium: Medium = u32(Medium)
    max_packets_per_message: int = u32(doc="packet messages that may stand behind each other")
    max_transfer_size: int = u32(unit="bytes")
    packet_alignment_factor: int = u32(doc="each of them starts at a multiple of 2 to this power")
    af_list_offset: int = u32(default=0)
    af_list_size: int = u32(default=0)


class RndisHalt(Format):
    """The guest stops. There is no completion."""

    request_id: int = u32()


class RndisQuery(Format):
    """What is the value of an OID?"""

    request_id: int = u32()
    oid: Oid = u32(Oid)
    information_buffer_length: int = u32(default=0, unit="bytes")
    information_buffer_offset: int = u32(default=20, unit="bytes")
    device_vc_handle: int = u32(default=0)
    gap: bytes = blob(length=_gap("information_buffer_offset - 20"), default=b"")
    information: Format | bytes = variant(on="oid", cases=OID_QUERIES, length="information_buffer_length", default=b"")
    padding: bytes = rest(default=b"")


class RndisQueryComplete(Format):
    """The value. Which OID it is of, only the request says (``OID_ANSWERS``)."""

    request_id: int = u32()
    status: NdisStatus = u32(NdisStatus)
    information_buffer_length: int = u32(default=0, unit="bytes")
    information_buffer_offset: int = u32(default=16, unit="bytes")
    gap: bytes = blob(length=_gap("information_buffer_offset - 16"), default=b"")
    information: bytes = blob(length="information_buffer_length", default=b"")
    padding: bytes = rest(default=b"")


class RndisSet(Format):
    """Give an OID a value."""

    request_id: int = u32()
    oid: Oid = u32(Oid)
    information_buffer_length: int = u32(unit="bytes")
    information_buffer_offset: int = u32(default=20, unit="bytes")
    device_vc_handle: int = u32(default=0)
    gap: bytes = blob(length=_gap("information_buffer_offset - 20"), default=b"")
    information: Format | bytes = variant(on="oid", cases=OID_SETS, length="information_buffer_length")
    padding: bytes = rest(default=b"")


class RndisSetComplete(Format):
    """How a set went."""

    request_id: int = u32()
    status: NdisStatus = u32(NdisStatus)


class RndisSetExComplete(Format):
    """How a set went that has an answer."""

    request_id: int = u32()
    status: NdisStatus = u32(NdisStatus)
    information_buffer_length: int = u32(default=0, unit="bytes")
    information_buffer_offset: int = u32(default=16, unit="bytes")
    gap: bytes = blob(length=_gap("information_buffer_offset - 16"), default=b"")
    information: bytes = blob(length="information_buffer_length", default=b"")


class RndisReset(Format):
    """Start over. It has no request id."""

    reserved: int = u32(default=0)


class RndisResetComplete(Format):
    """How the reset went."""

    status: NdisStatus = u32(NdisStatus)
    addressing_reset: int = u32(doc="not 0: the guest has to set multicast addresses and packet filter again")


class LinkSpeedChange(Format):
    """Status buffer of LINK_SPEED_CHANGE."""

    speed: int = u32(unit="100 bit/s")


_STATUS_BUFFERS: Final[dict[int, Formats]] = {
    NdisStatus.LINK_SPEED_CHANGE: LinkSpeedChange,
    NdisStatus.TASK_OFFLOAD_CURRENT_CONFIG: OFFLOADS,
}


class RndisIndicateStatus(Format):
    """Something changed: the cable, the speed, the network, the offloads."""

    status: NdisStatus = u32(NdisStatus)
    status_buffer_length: int = u32(default=0, unit="bytes")
    status_buffer_offset: int = u32(default=0, unit="bytes")
    gap: bytes = blob(length=_gap("status_buffer_offset - 12"), default=b"")
    status_buffer: Format | bytes = variant(
        on="status", cases=_STATUS_BUFFERS, length="status_buffer_length", default=b""
    )


class RndisKeepalive(Format):
    """Are you there?"""

    request_id: int = u32()


class RndisKeepaliveComplete(Format):
    """Yes."""

    request_id: int = u32()
    status: NdisStatus = u32(NdisStatus)


class RndisPacket(Format):
    """An Ethernet frame on its way to the host."""

    data_offset: int = u32(default=PACKET_SIZE, unit="bytes")
    data_length: int = u32(unit="bytes")
    oob_data_offset: int = u32(default=0)
    oob_data_length: int = u32(default=0)
    num_oob_data_elements: int = u32(default=0)
    per_packet_info_offset: int = u32(default=0, unit="bytes")
    per_packet_info_length: int = u32(default=0, unit="bytes")
    vc_handle: int = u32(default=0)
    reserved: int = u32(default=0)
    gap: bytes = blob(length=_BEFORE_INFO, default=b"")
    per_packet_info: tuple[PerPacketInfo, ...] = items(PerPacketInfo, length="per_packet_info_length", default=())
    gap2: bytes = blob(length=_gap(f"data_offset - 36 - per_packet_info_length - {_BEFORE_INFO}"), default=b"")
    frame: bytes = blob(length="data_length", payload=True)
    padding: bytes = rest(default=b"")


class RndisReceivedPacket(Format):
    """An Ethernet frame on its way to the guest."""

    data_offset: int = u32(default=PACKET_SIZE, unit="bytes")
    data_length: int = u32(unit="bytes")
    oob_data_offset: int = u32(default=0)
    oob_data_length: int = u32(default=0)
    num_oob_data_elements: int = u32(default=0)
    per_packet_info_offset: int = u32(default=0, unit="bytes")
    per_packet_info_length: int = u32(default=0, unit="bytes")
    vc_handle: int = u32(default=0)
    reserved: int = u32(default=0)
    gap: bytes = blob(length=_BEFORE_INFO, default=b"")
    per_packet_info: tuple[ReceivedPacketInfo, ...] = items(
        ReceivedPacketInfo, length="per_packet_info_length", default=()
    )
    gap2: bytes = blob(length=_gap(f"data_offset - 36 - per_packet_info_length - {_BEFORE_INFO}"), default=b"")
    frame: bytes = blob(length="data_length", payload=True)
    padding: bytes = rest(default=b"")


_EITHER_WAY: Final[dict[int, type[Format]]] = {
    RndisMessageType.INITIALIZE: RndisInitialize,
    RndisMessageType.HALT: RndisHalt,
    RndisMessageType.QUERY: RndisQuery,
    RndisMessageType.SET: RndisSet,
    RndisMessageType.RESET: RndisReset,
    RndisMessageType.INDICATE_STATUS: RndisIndicateStatus,
    RndisMessageType.KEEPALIVE: RndisKeepalive,
    RndisMessageType.SET_EX: RndisSet,
    RndisMessageType.INITIALIZE_COMPLETE: RndisInitializeComplete,
    RndisMessageType.QUERY_COMPLETE: RndisQueryComplete,
    RndisMessageType.SET_COMPLETE: RndisSetComplete,
    RndisMessageType.RESET_COMPLETE: RndisResetComplete,
    RndisMessageType.KEEPALIVE_COMPLETE: RndisKeepaliveComplete,
    RndisMessageType.SET_EX_COMPLETE: RndisSetExComplete,
}

RNDIS_TO_HOST: Final[dict[int, type[Format]]] = {**_EITHER_WAY, RndisMessageType.PACKET: RndisPacket}
"""Body by message type in what a guest sends."""

RNDIS_TO_GUEST: Final[dict[int, type[Format]]] = {**_EITHER_WAY, RndisMessageType.PACKET: RndisReceivedPacket}
"""Body by message type in what a host sends."""


class RndisMessage(Format):
    """A message to the host. Give its parser ``message_length`` bytes: what is behind them is the next message."""

    message_type: RndisMessageType = u32(RndisMessageType)
    message_length: int = u32(unit="bytes", doc="from the first byte of the type")
    body: Format | bytes = variant(on="message_type", cases=RNDIS_TO_HOST)


class RndisReceivedMessage(Format):
    """A message to the guest. Give its parser ``message_length`` bytes."""

    message_type: RndisMessageType = u32(RndisMessageType)
    message_length: int = u32(unit="bytes", doc="from the first byte of the type")
    body: Format | bytes = variant(on="message_type", cases=RNDIS_TO_GUEST)


def build_message(message_type: RndisMessageType, body: Format) -> bytes:
    """A message with its length filled in."""
    built = body.build()
    head = int(message_type).to_bytes(4, "little") + (HEADER_SIZE + len(built)).to_bytes(4, "little")
    return head + built
