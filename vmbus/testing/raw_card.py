"""A guest end of a network channel that sends what a test tells it to, sound or not, and keeps what comes back."""

from __future__ import annotations

from collections.abc import Sequence

from vmbus.channel import ChannelHandler
from vmbus.gpadl import GpaRange
from vmbus.ring import RingPacket
from vmbus.ring.packet import COMPLETION, TRANSFER_PAGES
from vmbus.ring.ranges import parse_transfer_pages
from vmbus.testing.network import Wire
from vmbus.wire.nvsp import (
    NO_SECTION,
    ChannelType,
    NdisCapabilities,
    NvspCompletion,
    NvspInit,
    NvspMessageType,
    NvspSendNdisConfig,
    NvspSendNdisVersion,
    NvspSendReceiveBuffer,
    NvspSendRndisPacket,
    NvspSendRndisPacketComplete,
    NvspSendSendBuffer,
    NvspStatus,
    NvspVersion,
    build_message,
)
from vmbus.wire.rndis import RndisInitialize, RndisMessageType, RndisPacket, RndisReceivedMessage, RndisSet
from vmbus.wire.rndis import build_message as build_rndis
from vmbus.wire.rndis_oid import Oid
from vmbus.wire.schema import Format


class RawCard(ChannelHandler):
    """``completions`` and ``messages`` (RNDIS, as bytes) are what came; ``auto_complete`` returns suballocations."""

    RECEIVE_GPADL, SEND_GPADL = 0xE1, 0xE2

    def __init__(self, wire: Wire, *, receive_pages: int = 64, send_pages: int = 32) -> None:
        self.wire, self.pair = wire, wire.pair
        self.channel = wire.pair.guest
        self.channel.handler = self
        self.version = NvspVersion.V61
        self.capabilities = NdisCapabilities(0)
        self.frame_size = 1514
        self.receive_pages = self.pair.pages.allocate(receive_pages)
        self.send_pages = self.pair.pages.allocate(send_pages)
        self.completions: dict[int, bytes] = {}
        self.messages: list[bytes] = []
        self.received: list[RingPacket] = []
        self.auto_complete = True
        self._next = 1

    # What happens to the channel

    @property
    def failure(self) -> Exception | None:
        """The error that the host closed the channel with."""
        return self.pair.failures[0] if self.pair.failures else None

    def on_packets(self, packets: Sequence[RingPacket]) -> None:
        for packet in packets:
            if packet.packet_type == COMPLETION:
                self.completions[packet.transaction_id] = packet.payload
            elif packet.packet_type == TRANSFER_PAGES:
                self.received.append(packet)
                for length, offset in parse_transfer_pages(packet.extension).ranges:
                    self.messages.append(self.read_receive_buffer(offset, length))
                if self.auto_complete:
                    self.complete(packet.transaction_id)

    def complete(self, transaction_id: int, payload: bytes | None = None) -> None:
        """Give the suballocations of a received packet back."""
        done = NvspSendRndisPacketComplete(status=NvspStatus.SUCCESS)
        sound = build_message(NvspMessageType.SEND_RNDIS_PACKET_COMPLETE, done, self.version)
        self.channel.complete(transaction_id, sound if payload is None else payload)

    def read_receive_buffer(self, offset: int, length: int) -> bytes:
        """Bytes of the receive buffer."""
        return self._copy(self.receive_pages, offset, length)

    def _copy(self, pfns: Sequence[int], offset: int, length: int) -> bytes:
        pages = pfns[offset >> 12 : (offset + length + 4095) >> 12]
        whole = b"".join(self.pair.memory.read(pfn << 12, 4096) for pfn in pages)
        return whole[offset & 4095 :][:length]

    def write_section(self, section: int, data: bytes) -> None:
        """Put bytes into a send section."""
        at = section * 6144
        while data:
            room = 4096 - (at & 4095)
            self.pair.memory.write((self.send_pages[at >> 12] << 12) + (at & 4095), data[:room])
            at, data = at + room, data[room:]

    # Sending

    def send(self, payload: bytes) -> int:
        """Send any bytes in-band, pump, and return the transaction id."""
        transaction, self._next = self._next, self._next + 1
        self.channel.send_in_band(payload, transaction_id=transaction, completion_requested=True)
        self.pair.pump()
        return transaction

    def ask(self, kind: NvspMessageType, body: Format) -> Format | bytes:
        """Send an NVSP message; return the body of its completion."""
        transaction = self.send(build_message(kind, body, self.version))
        answer = self.completions.get(transaction, b"")
        return NvspCompletion.parse(answer).body if answer else answer

    def negotiate(self, version: NvspVersion = NvspVersion.V61) -> None:
        """INIT, NDIS config and version."""
        self.version = version
        self.ask(NvspMessageType.INIT, NvspInit(protocol_version=version, protocol_version2=version))
        if version >= NvspVersion.V2:
            config = NvspSendNdisConfig(mtu=self.frame_size, capabilities=self.capabilities)
            self.ask(NvspMessageType.SEND_NDIS_CONFIG, config)
        self.ask(NvspMessageType.SEND_NDIS_VERSION, NvspSendNdisVersion(ndis_major_version=6, ndis_minor_version=30))

    def lend_buffers(self) -> None:
        """Both buffers."""
        self.pair.add_gpadl(self.RECEIVE_GPADL, self.receive_pages)
        self.pair.add_gpadl(self.SEND_GPADL, self.send_pages)
        receive = NvspSendReceiveBuffer(gpadl_handle=self.RECEIVE_GPADL, id=0xCAFE)
        self.ask(NvspMessageType.SEND_RECEIVE_BUFFER, receive)
        self.ask(NvspMessageType.SEND_SEND_BUFFER, NvspSendSendBuffer(gpadl_handle=self.SEND_GPADL, id=0))

    def initialize(self, filter_: int = 0x0D) -> None:
        """RNDIS up, with a packet filter: frames flow."""
        self.rndis(build_rndis(RndisMessageType.INITIALIZE, RndisInitialize(request_id=1, max_transfer_size=0x4000)))
        if filter_:
            self.set_filter(filter_)

    def set_filter(self, filter_: int) -> None:
        """Set the packet filter."""
        self.set(Oid.GEN_CURRENT_PACKET_FILTER, filter_.to_bytes(4, "little"))

    def set(self, oid: Oid, value: bytes) -> None:
        """Set an OID."""
        body = RndisSet(request_id=2, oid=oid, information_buffer_length=len(value), information=value)
        self.rndis(build_rndis(RndisMessageType.SET, body))

    def bring_up(self) -> RawCard:
        """Everything above."""
        self.negotiate()
        self.lend_buffers()
        self.initialize()
        return self

    def rndis(self, message: bytes, *, section: int = 0, channel_type: ChannelType = ChannelType.CONTROL) -> int:
        """Send RNDIS bytes from a section."""
        self.write_section(section, message)
        return self.packet(section, len(message), channel_type)

    def packet(self, section: int, size: int, channel_type: ChannelType = ChannelType.CONTROL) -> int:
        """Send a SEND_RNDIS_PACKET that names any section and size."""
        body = NvspSendRndisPacket(
            channel_type=channel_type, send_buffer_section_index=section, send_buffer_section_size=size
        )
        return self.send(build_message(NvspMessageType.SEND_RNDIS_PACKET, body, self.version))

    def direct(self, ranges: Sequence[GpaRange], *, section: int = NO_SECTION, size: int = 0) -> int:
        """Send a SEND_RNDIS_PACKET with page ranges."""
        body = NvspSendRndisPacket(
            channel_type=ChannelType.DATA, send_buffer_section_index=section, send_buffer_section_size=size
        )
        transaction, self._next = self._next, self._next + 1
        message = build_message(NvspMessageType.SEND_RNDIS_PACKET, body, self.version)
        self.channel.send_gpa_direct(ranges, message, transaction_id=transaction)
        self.pair.pump()
        return transaction

    def answers(self) -> list[RndisReceivedMessage]:
        """The RNDIS messages that came, parsed."""
        return [RndisReceivedMessage.parse(message) for message in self.messages]


def frame_message(frame: bytes) -> bytes:
    """An RNDIS packet message with a frame."""
    return build_rndis(RndisMessageType.PACKET, RndisPacket(data_length=len(frame), frame=frame))
