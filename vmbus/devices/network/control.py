"""The host end of NVSP, but for RNDIS packets: negotiation, buffers, subchannels, data path.

Sources: openvmm ``netvsp/src/lib.rs`` (``parse_packet``, ``initialize``, ``process_ring_buffer``); Linux 6.12
``drivers/net/hyperv/netvsc.c`` (``netvsc_connect_vsp``, ``netvsc_init_buf``, ``netvsc_send_completion``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from vmbus.channel import Channel
from vmbus.devices.network.buffers import SECTION_SIZE, ReceiveBuffer, SendBuffer
from vmbus.devices.network.errors import BadNetworkBuffer, MalformedMessage, UnexpectedMessage
from vmbus.devices.network.session import Session
from vmbus.gpadl import GpadlError
from vmbus.ring import RingPacket
from vmbus.wire.ndis import NdisStatus
from vmbus.wire.nvsp import (
    SEND_TABLE_ENTRIES,
    NvspInit,
    NvspInitComplete,
    NvspMessage,
    NvspMessageType,
    NvspOidQueryEx,
    NvspOidQueryExComplete,
    NvspRevokeReceiveBuffer,
    NvspRevokeSendBuffer,
    NvspSendIndirectionTable,
    NvspSendNdisConfig,
    NvspSendNdisVersion,
    NvspSendReceiveBuffer,
    NvspSendReceiveBufferComplete,
    NvspSendSendBuffer,
    NvspSendSendBufferComplete,
    NvspStatus,
    NvspSubchannelComplete,
    NvspSubchannelRequest,
    NvspSwitchDataPath,
    NvspVersion,
    ReceiveBufferSection,
    SubchannelOperation,
    build_message,
)
from vmbus.wire.nvsp_pd import NvspPdComplete, NvspPdRequest
from vmbus.wire.schema import Format, WireError

INVALID_VERSION: Final = 0xFFFFFFFF
MDL_CHAIN: Final = 34
MIN_FRAME_SIZE, MAX_FRAME_SIZE, DEFAULT_FRAME_SIZE = 1514, 9216, 1514


class NvspControl:
    """Handles the messages of the primary channel that are no RNDIS packets."""

    def __init__(self, session: Session, channel: Channel) -> None:
        self._session = session
        self._channel = channel
        self.newest = NvspVersion.V61
        """The newest version that is agreed to."""
        self.offer_subchannels: Callable[[int], None] = lambda count: None

    def handle(self, packet: RingPacket) -> None:
        """Act on one packet."""
        try:
            message = NvspMessage.parse(packet.payload)
        except WireError as error:
            raise MalformedMessage(f"an NVSP message: {error}") from None
        kind, version = message.message_type, self._session.version
        if kind == NvspMessageType.INIT:
            if version is not None:
                raise UnexpectedMessage("a second NVSP INIT")
        elif version is None:
            raise UnexpectedMessage(f"NVSP {kind} before INIT")
        elif kind.since > version:
            raise UnexpectedMessage(f"NVSP {kind} in version {version.name}, which does not have it")
        handler = _HANDLERS.get(type(message.body))
        if handler is None:
            if not isinstance(message.body, Format):
                raise MalformedMessage(f"NVSP {kind} in {len(packet.payload)} bytes")
            raise UnexpectedMessage(f"NVSP {kind} is not for a host")
        handler(self, packet, message.body)

    def _complete(self, packet: RingPacket, kind: NvspMessageType, body: Format) -> None:
        if packet.wants_completion:
            version = self._session.version or NvspVersion.V1
            self._channel.complete(packet.transaction_id, build_message(kind, body, version))

    def _acknowledge(self, packet: RingPacket) -> None:
        """UEFI asks for a completion where Linux does not; it may be empty."""
        if packet.wants_completion:
            self._channel.complete(packet.transaction_id)

    def _init(self, packet: RingPacket, body: NvspInit) -> None:
        accepted = body.protocol_version.is_known and body.protocol_version <= self.newest
        complete = NvspInitComplete(
            deprecated=body.protocol_version if body.protocol_version == NvspVersion.V1 else INVALID_VERSION,
            maximum_mdl_chain_length=MDL_CHAIN,
            status=NvspStatus.SUCCESS if accepted else NvspStatus.NONE,
        )
        if accepted:
            self._session.negotiated(body.protocol_version)
        self._complete(packet, NvspMessageType.INIT_COMPLETE, complete)

    def _ndis_version(self, packet: RingPacket, body: NvspSendNdisVersion) -> None:
        if self._session.ndis_version is not None:
            raise UnexpectedMessage("a second NVSP SEND_NDIS_VERSION")
        self._session.ndis_version = (body.ndis_major_version, body.ndis_minor_version)
        self._acknowledge(packet)

    def _ndis_config(self, packet: RingPacket, body: NvspSendNdisConfig) -> None:
        session = self._session
        if session.configured:
            raise UnexpectedMessage("a second NVSP SEND_NDIS_CONFIG")
        if session.receive_buffer is not None:  # it is divided for frames of another size
            raise UnexpectedMessage("an NVSP SEND_NDIS_CONFIG after SEND_RECEIVE_BUFFER")
        session.configured = True
        session.capabilities = body.capabilities
        # As vmswitch does, an impossible size is taken for the usual one.
        sound = MIN_FRAME_SIZE <= body.mtu <= MAX_FRAME_SIZE
        session.card.frame_size = min(body.mtu if sound else DEFAULT_FRAME_SIZE, session.backend.mtu + 14)
        self._acknowledge(packet)

    def _receive_buffer(self, packet: RingPacket, body: NvspSendReceiveBuffer) -> None:
        session = self._session
        if session.receive_buffer is not None:
            raise UnexpectedMessage("a second NVSP SEND_RECEIVE_BUFFER")
        try:
            gpadl = self._channel.gpadl(body.gpadl_handle)
            size = session.suballocation_size(gpadl.byte_count)
            buffer = ReceiveBuffer(gpadl, body.id, size, session.first_transaction)
        except GpadlError as error:
            raise BadNetworkBuffer(f"the receive buffer: {error}") from None
        session.receive_buffer = buffer
        section = ReceiveBufferSection(
            offset=0,
            sub_allocation_size=buffer.size,
            num_sub_allocations=buffer.count,
            end_offset=buffer.size * buffer.count,
        )
        complete = NvspSendReceiveBufferComplete(status=NvspStatus.SUCCESS, num_sections=1, section=section)
        self._complete(packet, NvspMessageType.SEND_RECEIVE_BUFFER_COMPLETE, complete)

    def _send_buffer(self, packet: RingPacket, body: NvspSendSendBuffer) -> None:
        session = self._session
        if session.send_buffer is not None:
            raise UnexpectedMessage("a second NVSP SEND_SEND_BUFFER")
        try:
            session.send_buffer = SendBuffer(self._channel.gpadl(body.gpadl_handle))
        except GpadlError as error:
            raise BadNetworkBuffer(f"the send buffer: {error}") from None
        complete = NvspSendSendBufferComplete(status=NvspStatus.SUCCESS, section_size=SECTION_SIZE)
        self._complete(packet, NvspMessageType.SEND_SEND_BUFFER_COMPLETE, complete)

    def _revoke_receive_buffer(self, packet: RingPacket, body: NvspRevokeReceiveBuffer) -> None:
        self._session.revoke_receive_buffer()
        self._acknowledge(packet)

    def _revoke_send_buffer(self, packet: RingPacket, body: NvspRevokeSendBuffer) -> None:
        self._session.revoke_send_buffer()
        self._acknowledge(packet)

    def _switch_data_path(self, packet: RingPacket, body: NvspSwitchDataPath) -> None:
        """There is no virtual function to switch to. Linux takes an empty completion, and no other, for the answer."""
        self._acknowledge(packet)

    def _oid_query(self, packet: RingPacket, body: NvspOidQueryEx) -> None:
        complete = NvspOidQueryExComplete(status=NdisStatus.NOT_SUPPORTED, bytes=0)
        self._complete(packet, NvspMessageType.OID_QUERY_EX_COMPLETE, complete)

    def _subchannels(self, packet: RingPacket, body: NvspSubchannelRequest) -> None:
        session, wanted = self._session, body.num_sub_channels
        granted = (
            wanted
            if body.operation == SubchannelOperation.ALLOCATE
            and 0 < wanted < session.card.queues
            and not session.subchannels
            else 0
        )
        status = NvspStatus.SUCCESS if granted else NvspStatus.FAILURE
        complete = NvspSubchannelComplete(status=status, num_sub_channels=granted)
        self._complete(packet, NvspMessageType.SUBCHANNEL, complete)
        if granted:
            session.subchannels = granted
            self.offer_subchannels(granted)

    def _packet_direct(self, packet: RingPacket, body: NvspPdRequest) -> None:
        complete = NvspPdComplete(operation=body.operation, status=int(NdisStatus.NOT_SUPPORTED), results=b"")
        self._complete(packet, NvspMessageType.PD_API, complete)

    def send_table(self) -> None:
        """Tell the guest to spread what it sends over the channels that are open."""
        session = self._session
        if session.version is not None and session.version >= NvspVersion.V5:
            queues = sorted(session.queues)
            table = tuple(queues[entry % len(queues)] for entry in range(SEND_TABLE_ENTRIES))
            body = NvspSendIndirectionTable(table=table)
            self._channel.send_in_band(build_message(NvspMessageType.SEND_INDIRECTION_TABLE, body))


_HANDLERS: Final[dict[type, Callable[..., None]]] = {
    NvspInit: NvspControl._init,
    NvspSendNdisVersion: NvspControl._ndis_version,
    NvspSendNdisConfig: NvspControl._ndis_config,
    NvspSendReceiveBuffer: NvspControl._receive_buffer,
    NvspSendSendBuffer: NvspControl._send_buffer,
    NvspRevokeReceiveBuffer: NvspControl._revoke_receive_buffer,
    NvspRevokeSendBuffer: NvspControl._revoke_send_buffer,
    NvspSwitchDataPath: NvspControl._switch_data_path,
    NvspOidQueryEx: NvspControl._oid_query,
    NvspSubchannelRequest: NvspControl._subchannels,
    NvspPdRequest: NvspControl._packet_direct,
}
