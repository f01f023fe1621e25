"""NVSP, the protocol between a synthetic network card and its provider; RNDIS messages (``rndis.py``) travel inside it.

Every ring packet of a network channel carries one NVSP message: a 32-bit type and a body. Senders pad it to the size
of the largest message of the negotiated version: 28 bytes, from version 6.1 on 40 (``message_size``); only the
indirection table is longer. Requests travel in-band, RNDIS to the host in-band (send buffer) or GPA direct, RNDIS to
the guest by transfer pages; answers are completion packets. Two types have a different body as a request and as an
answer, so there are two formats for the whole: ``NvspMessage`` and ``NvspCompletion``.

Sources: openvmm ``vm/devices/net/netvsp/src/protocol.rs``; Linux 6.12 ``drivers/net/hyperv/hyperv_net.h``; mu_msvm
``MsvmPkg/NetvscDxe/nvspprotocol.h``. The bodies of the TCP chimney messages (109 to 119, 126, 127), of the VMQ
messages (123, 124) and of 130 were never published and no public implementation sends them: their bytes are
``padding`` here.
"""

from __future__ import annotations

from typing import Final

from vmbus.wire.enums import OpenEnum, OpenFlags
from vmbus.wire.ndis import NdisObjectHeader, NdisStatus
from vmbus.wire.nvsp_pd import NvspPdComplete, NvspPdPostBatch, NvspPdRequest
from vmbus.wire.rndis_oid import Oid
from vmbus.wire.schema import Format, blob, items, nested, rest, u16, u32, u64, variant

NO_SECTION: Final = 0xFFFFFFFF
"""The section index of a message that does not use the send buffer."""

SEND_TABLE_ENTRIES: Final = 16
"""Entries of a send indirection table; Linux accepts no other number."""


class NvspVersion(OpenEnum):
    """Versions of the protocol, major in the high half; the first is older than the scheme."""

    V1 = 0x00002
    V2 = 0x30002
    V4 = 0x40000
    V5 = 0x50000
    V6 = 0x60000
    V61 = 0x60001


class NvspMessageType(OpenEnum):
    """What an NVSP message is. The number says which version brought it."""

    NONE = 0
    INIT = 1
    INIT_COMPLETE = 2
    SEND_NDIS_VERSION = 100
    SEND_RECEIVE_BUFFER = 101
    SEND_RECEIVE_BUFFER_COMPLETE = 102
    REVOKE_RECEIVE_BUFFER = 103
    SEND_SEND_BUFFER = 104
    SEND_SEND_BUFFER_COMPLETE = 105
    REVOKE_SEND_BUFFER = 106
    SEND_RNDIS_PACKET = 107
    SEND_RNDIS_PACKET_COMPLETE = 108
    SEND_CHIMNEY_DELEGATED_BUFFER = 109
    SEND_CHIMNEY_DELEGATED_BUFFER_COMPLETE = 110
    REVOKE_CHIMNEY_DELEGATED_BUFFER = 111
    RESUME_CHIMNEY_RX_INDICATION = 112
    TERMINATE_CHIMNEY = 113
    TERMINATE_CHIMNEY_COMPLETE = 114
    INDICATE_CHIMNEY_EVENT = 115
    SEND_CHIMNEY_PACKET = 116
    SEND_CHIMNEY_PACKET_COMPLETE = 117
    POST_CHIMNEY_RECV_REQUEST = 118
    POST_CHIMNEY_RECV_REQUEST_COMPLETE = 119
    ALLOCATE_RECEIVE_BUFFER = 120
    ALLOCATE_RECEIVE_BUFFER_COMPLETE = 121
    FREE_RECEIVE_BUFFER = 122
    SEND_VMQ_RNDIS_PACKET = 123
    SEND_VMQ_RNDIS_PACKET_COMPLETE = 124
    SEND_NDIS_CONFIG = 125
    ALLOCATE_CHIMNEY_HANDLE = 126
    ALLOCATE_CHIMNEY_HANDLE_COMPLETE = 127
    SEND_VF_ASSOCIATION = 128
    SWITCH_DATA_PATH = 129
    UPLINK_CONNECT_STATE = 130
    OID_QUERY_EX = 131
    OID_QUERY_EX_COMPLETE = 132
    SUBCHANNEL = 133
    SEND_INDIRECTION_TABLE = 134
    PD_API = 135
    PD_POST_BATCH = 136

    @property
    def since(self) -> NvspVersion:
        """The version that brought the message (the ``NVSP_MSGn_MAX`` constants)."""
        for version, last in _LAST_MESSAGE:
            if self <= last:
                return version
        return NvspVersion.V61


_LAST_MESSAGE: Final = (
    (NvspVersion.V1, NvspMessageType.SEND_RNDIS_PACKET_COMPLETE),
    (NvspVersion.V2, NvspMessageType.ALLOCATE_CHIMNEY_HANDLE_COMPLETE),
    (NvspVersion.V4, NvspMessageType.UPLINK_CONNECT_STATE),
    (NvspVersion.V5, NvspMessageType.SEND_INDIRECTION_TABLE),
)


class NvspStatus(OpenEnum):
    """How a request went."""

    NONE = 0
    SUCCESS = 1
    FAILURE = 2
    PROTOCOL_TOO_NEW = 3
    PROTOCOL_TOO_OLD = 4
    INVALID_RNDIS_PACKET = 5
    BUSY = 6
    PROTOCOL_UNSUPPORTED = 7


class ChannelType(OpenEnum):
    """Which of RNDIS's two channels a message belongs to."""

    DATA = 0
    CONTROL = 1


class DataPath(OpenEnum):
    """Where a card's traffic goes: through VMBus, or through a virtual function beside it."""

    SYNTHETIC = 0
    VF = 1


class SubchannelOperation(OpenEnum):
    """What is asked of the provider; subchannels go away with their primary channel."""

    NONE = 0
    ALLOCATE = 1


class NdisCapabilities(OpenFlags):
    """What a guest can do."""

    VMQ = 1 << 0
    CHIMNEY = 1 << 1
    SRIOV = 1 << 2
    IEEE_8021Q = 1 << 3
    CORRELATION_ID = 1 << 4
    TEAMING = 1 << 5
    VIRTUAL_SUBNET_ID = 1 << 6
    RSC_OVER_VMBUS = 1 << 7


class NvspInit(Format):
    """The guest offers one version, in both fields (they were a minimum and a maximum once)."""

    protocol_version: NvspVersion = u32(NvspVersion)
    protocol_version2: NvspVersion = u32(NvspVersion)


class NvspInitComplete(Format):
    """The answer to INIT."""

    deprecated: int = u32(default=0, doc="the negotiated version, once")
    maximum_mdl_chain_length: int = u32(doc="most pieces of a GPA-direct packet")
    status: NvspStatus = u32(NvspStatus)


class NvspSendNdisVersion(Format):
    """Which NDIS the guest speaks; it governs the OIDs."""

    ndis_major_version: int = u32()
    ndis_minor_version: int = u32()


class NvspSendReceiveBuffer(Format):
    """The guest lends memory in which the host puts what the guest is to receive."""

    gpadl_handle: int = u32()
    id: int = u16(doc="transfer page set of the packets that use it; Linux says 0xcafe")
    reserved: int = u16(default=0)


class ReceiveBufferSection(Format):
    """How the host divides the receive buffer."""

    offset: int = u32(unit="bytes")
    sub_allocation_size: int = u32(unit="bytes", doc="the longest RNDIS message that fits")
    num_sub_allocations: int = u32()
    end_offset: int = u32(unit="bytes")


class NvspSendReceiveBufferComplete(Format):
    """The answer to SEND_RECEIVE_BUFFER. No host ever sent more than one section, and Linux accepts no more."""

    status: NvspStatus = u32(NvspStatus)
    num_sections: int = u32(default=1)
    section: ReceiveBufferSection = nested(ReceiveBufferSection)


class NvspRevokeReceiveBuffer(Format):
    """The guest takes the receive buffer back."""

    id: int = u16()
    reserved: int = u16(default=0)


class NvspSendSendBuffer(Format):
    """The guest lends memory from which the host reads short messages, one section each."""

    gpadl_handle: int = u32()
    id: int = u16()
    reserved: int = u16(default=0)


class NvspSendSendBufferComplete(Format):
    """The answer to SEND_SEND_BUFFER."""

    status: NvspStatus = u32(NvspStatus)
    section_size: int = u32(unit="bytes")


class NvspRevokeSendBuffer(Format):
    """The guest takes the send buffer back."""

    id: int = u16()
    reserved: int = u16(default=0)


class NvspSendRndisPacket(Format):
    """RNDIS messages lie in a section of the send buffer, in the packet's page ranges, or first there and then here."""

    channel_type: ChannelType = u32(ChannelType)
    send_buffer_section_index: int = u32(default=NO_SECTION, doc="0xffffffff: the send buffer is not used")
    send_buffer_section_size: int = u32(default=0, unit="bytes", doc="used bytes of the section")


class NvspSendRndisPacketComplete(Format):
    """The receiver is done with an RNDIS packet, and its memory is the sender's again."""

    status: NvspStatus = u32(NvspStatus)


class NvspAllocateReceiveBuffer(Format):
    """Deprecated: a receive buffer of its own for a virtual machine queue."""

    allocation_id: int = u32()
    length: int = u32(unit="bytes")


class NvspAllocateReceiveBufferComplete(Format):
    """Deprecated, as its request."""

    status: NdisStatus = u32(NdisStatus)
    allocation_id: int = u32()
    gpadl_handle: int = u32()
    receive_buffer_id: int = u64()


class NvspFreeReceiveBuffer(Format):
    """Deprecated, as ALLOCATE_RECEIVE_BUFFER."""

    receive_buffer_id: int = u64()


class NvspSendNdisConfig(Format):
    """The guest's frame size and capabilities. It is not answered."""

    mtu: int = u32(unit="bytes", doc="longest frame, Ethernet header included")
    reserved: int = u32(default=0)
    capabilities: NdisCapabilities = u64(NdisCapabilities)


class NvspSendVfAssociation(Format):
    """The host says that a virtual function can stand in for the card, or no longer can."""

    vf_allocated: int = u32(doc="1: there is one, and its serial number follows")
    serial_number: int = u32(doc="tells the guest which PCI device it is")


class NvspSwitchDataPath(Format):
    """One end says which data path is used from now on."""

    active_data_path: DataPath = u32(DataPath)


class NvspOidQueryEx(Format):
    """A query outside RNDIS."""

    header: NdisObjectHeader = nested(NdisObjectHeader)
    oid: Oid = u32(Oid)


class NvspOidQueryExComplete(Format):
    """The answer to OID_QUERY_EX."""

    status: NdisStatus = u32(NdisStatus)
    bytes: int = u32(unit="bytes")


class NvspSubchannelRequest(Format):
    """The guest wants more channels."""

    operation: SubchannelOperation = u32(SubchannelOperation)
    num_sub_channels: int = u32()


class NvspSubchannelComplete(Format):
    """How many subchannels will be offered."""

    status: NvspStatus = u32(NvspStatus)
    num_sub_channels: int = u32()


class NvspSendIndirectionTable(Format):
    """Which channel the guest should send on, by a hash of the flow modulo the table's length."""

    table_entry_count: int = u32(default=SEND_TABLE_ENTRIES)
    table_offset: int = u32(default=12, unit="bytes", doc="from the start of the NVSP message")
    gap: bytes = blob(
        length="table_offset - 12", default=b"", doc="hosts up to version 6 pad the message's head to its usual size"
    )
    table: tuple[int, ...] = items(u32(doc="subchannel index"), count="table_entry_count")


class NvspNothing(Format):
    """A body that is empty, or that was never published."""


_UNPUBLISHED = (*range(109, 120), 123, 124, 126, 127, 130)

NVSP_BODIES: Final[dict[int, type[Format]]] = {
    **dict.fromkeys(_UNPUBLISHED, NvspNothing),
    NvspMessageType.INIT: NvspInit,
    NvspMessageType.INIT_COMPLETE: NvspInitComplete,
    NvspMessageType.SEND_NDIS_VERSION: NvspSendNdisVersion,
    NvspMessageType.SEND_RECEIVE_BUFFER: NvspSendReceiveBuffer,
    NvspMessageType.SEND_RECEIVE_BUFFER_COMPLETE: NvspSendReceiveBufferComplete,
    NvspMessageType.REVOKE_RECEIVE_BUFFER: NvspRevokeReceiveBuffer,
    NvspMessageType.SEND_SEND_BUFFER: NvspSendSendBuffer,
    NvspMessageType.SEND_SEND_BUFFER_COMPLETE: NvspSendSendBufferComplete,
    NvspMessageType.REVOKE_SEND_BUFFER: NvspRevokeSendBuffer,
    NvspMessageType.SEND_RNDIS_PACKET: NvspSendRndisPacket,
    NvspMessageType.SEND_RNDIS_PACKET_COMPLETE: NvspSendRndisPacketComplete,
    NvspMessageType.ALLOCATE_RECEIVE_BUFFER: NvspAllocateReceiveBuffer,
    NvspMessageType.ALLOCATE_RECEIVE_BUFFER_COMPLETE: NvspAllocateReceiveBufferComplete,
    NvspMessageType.FREE_RECEIVE_BUFFER: NvspFreeReceiveBuffer,
    NvspMessageType.SEND_NDIS_CONFIG: NvspSendNdisConfig,
    NvspMessageType.SEND_VF_ASSOCIATION: NvspSendVfAssociation,
    NvspMessageType.SWITCH_DATA_PATH: NvspSwitchDataPath,
    NvspMessageType.OID_QUERY_EX: NvspOidQueryEx,
    NvspMessageType.OID_QUERY_EX_COMPLETE: NvspOidQueryExComplete,
    NvspMessageType.SUBCHANNEL: NvspSubchannelRequest,
    NvspMessageType.SEND_INDIRECTION_TABLE: NvspSendIndirectionTable,
    NvspMessageType.PD_API: NvspPdRequest,
    NvspMessageType.PD_POST_BATCH: NvspPdPostBatch,
}
"""Body by message type, in any packet but a completion."""

NVSP_COMPLETION_BODIES: Final[dict[int, type[Format]]] = {
    **NVSP_BODIES,
    NvspMessageType.SUBCHANNEL: NvspSubchannelComplete,
    NvspMessageType.PD_API: NvspPdComplete,
}
"""Body by message type in a completion packet. A completion may also be empty (SWITCH_DATA_PATH is answered so)."""


class NvspMessage(Format):
    """The payload of an in-band, GPA-direct or transfer-page packet on a network channel."""

    message_type: NvspMessageType = u32(NvspMessageType)
    body: Format | bytes = variant(on="message_type", cases=NVSP_BODIES)
    padding: bytes = rest(default=b"", doc="up to the message size of the version, or of a ring packet")


class NvspCompletion(Format):
    """The payload of a completion packet on a network channel, unless it is empty."""

    message_type: NvspMessageType = u32(NvspMessageType)
    body: Format | bytes = variant(on="message_type", cases=NVSP_COMPLETION_BODIES)
    padding: bytes = rest(default=b"", doc="up to the message size of the version, or of a ring packet")


MESSAGE_SIZE_V1: Final = 28
MESSAGE_SIZE_V61: Final = 40


def message_size(version: int) -> int:
    """The bytes that a message of this version has, its padding included."""
    return MESSAGE_SIZE_V61 if version >= NvspVersion.V61 else MESSAGE_SIZE_V1


def build_message(message_type: NvspMessageType, body: Format, version: int = NvspVersion.V1) -> bytes:
    """A message as it is sent: type, body, zeros up to the size of the version."""
    return (int(message_type).to_bytes(4, "little") + body.build()).ljust(message_size(version), b"\0")
