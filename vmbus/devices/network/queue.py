"""One channel of a card: RNDIS packets in and out at speed, and everything else handed on to ``control.py``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from struct import Struct
from typing import TYPE_CHECKING, Final

from vmbus.channel import Channel, ChannelHandler
from vmbus.devices.network.backend import LARGEST_FRAME, GuestFrame
from vmbus.devices.network.buffers import ReceiveBuffer
from vmbus.devices.network.control import NvspControl
from vmbus.devices.network.errors import BadSection, MalformedMessage, UnexpectedMessage, UnknownTransaction
from vmbus.devices.network.rndis import LARGEST_CONTROL, PACKETS_PER_MESSAGE
from vmbus.devices.network.session import Session
from vmbus.devices.network.transmit import PacketParser
from vmbus.errors import VmbusError
from vmbus.ring import RingPacket
from vmbus.ring.packet import COMPLETION, GPA_DIRECT
from vmbus.wire.nvsp import NO_SECTION, NvspMessageType
from vmbus.wire.rndis import RndisMessageType

if TYPE_CHECKING:
    from collections.abc import Callable

_MESSAGE: Final = Struct("<IIII")  # wire.nvsp.NvspMessage with a NvspSendRndisPacket
_SEND_RNDIS: Final = int(NvspMessageType.SEND_RNDIS_PACKET)
_COMPLETE: Final = int(NvspMessageType.SEND_RNDIS_PACKET_COMPLETE).to_bytes(4, "little")
_PACKET: Final = int(RndisMessageType.PACKET).to_bytes(4, "little")

MOST_HELD: Final = 32
"""Completions that wait for each other; the guest's socket buffers hold hundreds of such frames."""

LARGEST_MESSAGE: Final = LARGEST_FRAME + PACKETS_PER_MESSAGE * 4096
"""Bytes that one packet may point at; more is refused before it is copied."""


class Queue(ChannelHandler):
    """The host end of the primary channel or of a subchannel."""

    def __init__(self, session: Session, channel: Channel, on_end: Callable[[Queue], None]) -> None:
        self.session = session
        self.channel = channel
        self.index = channel.subchannel_index
        self.control = NvspControl(session, channel) if self.index == 0 else None
        self._parser = PacketParser()
        self._held: list[int] = []
        """Transactions that are done with, and whose completions wait."""
        self._on_end = on_end

    def on_packets(self, packets: Sequence[RingPacket]) -> None:
        """Act on a batch: its frames go to the backend in one list, its completions come back in one commit."""
        frames: list[GuestFrame] = []
        freed = False
        try:
            for packet in packets:
                if packet.packet_type == COMPLETION:
                    self._completed(packet)
                    freed = True
                    continue
                payload = packet.payload
                if len(payload) < _MESSAGE.size:
                    raise MalformedMessage(f"an NVSP message of {len(payload)} bytes")
                kind, _, section, size = _MESSAGE.unpack_from(payload)
                if kind == _SEND_RNDIS:
                    can_wait = self._rndis(packet, section, size, frames)
                    if packet.flags & 1:
                        self._held.append(packet.transaction_id)
                        if not can_wait or len(self._held) >= MOST_HELD:
                            self.complete_held()
                    continue
                if frames:
                    # What follows may take the send buffer away that these lie in.
                    self.session.transmit(frames)
                    frames = []
                if self.control is None:
                    raise UnexpectedMessage(f"NVSP {NvspMessageType(kind)} on subchannel {self.index}")
                self.control.handle(packet)
            if frames:
                self.session.transmit(frames)
        except VmbusError as error:
            # The error outlives the channel. Its traceback, and that of what caused it, would hold slices of the
            # guest's buffers, which are about to be unmapped.
            frames.clear()
            error.__context__ = error.__cause__ = None
            raise error.with_traceback(None) from None
        if freed:
            self.session.suballocations_freed()

    def on_rest(self) -> None:
        self.complete_held()

    def complete_held(self) -> None:
        """Complete what was held back. Done together, many sends cost the guest one interrupt."""
        held, self._held = self._held, []
        for transaction_id in held:
            self.channel.complete(transaction_id, self.session.completion)

    def on_loans(self, loans: Mapping[int, bytes]) -> None:
        """Sections of the receive buffer that the guest has from a host before."""
        if self.session.receive_buffer is not None:
            self.session.receive_buffer.adopt(loans)

    @property
    def _is_late(self) -> bool:
        """Whether this may have lain in the ring since before the guest took its buffers back.

        It says that on the primary channel, and nothing orders what lies in two rings. Linux revokes while its NAPI
        threads still complete what came on subchannels (``netvsc_device_remove`` in Linux 6.12
        ``drivers/net/hyperv/netvsc.c``).
        """
        return self.control is None and self.session.has_revoked

    def _completed(self, packet: RingPacket) -> None:
        buffer = self.session.receive_buffer
        if packet.payload[:4] != _COMPLETE:
            if self.control is not None and not packet.payload:
                return  # of an in-band message of ours: an indirection table is not answered by every guest
            raise MalformedMessage(f"a completion of {len(packet.payload)} bytes that completes no RNDIS packet")
        if buffer is None and self._is_late:
            return
        if buffer is None:
            raise UnknownTransaction("a receive packet is completed, and there is no receive buffer")
        buffer.take_back(packet.transaction_id)

    def _rndis(self, packet: RingPacket, section: int, size: int, frames: list[GuestFrame]) -> bool:
        """Take the frames of a packet; return whether its completion can wait, because it gives back a section only."""
        session, channel = self.session, self.channel
        if (session.receive_buffer is None or session.send_buffer is None) and self._is_late:
            return True
        if session.receive_buffer is None:
            raise UnexpectedMessage("an RNDIS packet before the guest lent a receive buffer")
        is_direct = packet.packet_type == GPA_DIRECT
        if section == NO_SECTION:
            if not is_direct:
                raise BadSection("an RNDIS packet that names neither a send section nor pages")
            data = _gathered(channel.data_from_guest(packet))
        else:
            if session.send_buffer is None:
                raise BadSection(f"section {section} of a send buffer that the guest never lent")
            data = session.send_buffer.section(section, size)
            if is_direct:
                views = channel.data_from_guest(packet, after=size)
                channel.data_in_buffer(packet, [data], before=sum(len(view) for view in views))
                data = _gathered([data, *views])
        if data[:4] == _PACKET:
            messages = self._parser.parse(data, frames)
            if not is_direct:
                channel.data_in_buffer(packet, messages)
            return not is_direct
        if not is_direct:
            channel.data_in_buffer(packet, [data])
        if self.control is None:
            raise UnexpectedMessage(f"an RNDIS control message on subchannel {self.index}")
        session.control(bytes(data[:LARGEST_CONTROL]))
        return False

    def send_messages(
        self, message: bytes, buffer: ReceiveBuffer, ranges: list[tuple[int, int]], indices: list[int]
    ) -> None:
        """Send RNDIS messages that lie in the receive buffer, in one transfer-page packet."""
        self.complete_held()
        self.channel.send_transfer_pages(
            buffer.set_id, ranges, message, transaction_id=buffer.lend(indices), buffer=buffer.view
        )

    def on_writable(self) -> None:
        self.session.delivery.resume()

    def on_close(self) -> None:
        self._held.clear()
        self._on_end(self)


def _gathered(views: Sequence[memoryview]) -> memoryview:
    """Pieces of an RNDIS message in one: its headers may cross pages, and each piece may be changed by the guest."""
    total = sum(len(view) for view in views)
    if total > LARGEST_MESSAGE:
        raise MalformedMessage(f"an RNDIS packet of {total} bytes")
    return memoryview(b"".join(views))
