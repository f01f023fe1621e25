"""What the channels of one opened card share: version, buffers, the state of the card, and the way to its backend.

A session begins when a guest opens the primary channel and ends when that closes. Frames from the guest come in
through any queue and leave through the backend in one list; frames for the guest go the way of ``delivery.py``.

Frames are held back until the guest has set a packet filter: a Linux guest that gets one before has not yet made
what it needs to answer, and panics (``send_recv_completions``).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from vmbus.devices.network.backend import LARGEST_FRAME, Backend, GuestFrame
from vmbus.devices.network.buffers import (
    TAG,
    ReceiveBuffer,
    SendBuffer,
    large_suballocation_size,
    suballocation_size,
)
from vmbus.devices.network.delivery import MOST_PIECES, Delivery, pieces
from vmbus.devices.network.errors import TooMuchWaits, UnexpectedMessage
from vmbus.devices.network.oids import CardState, Offloads
from vmbus.devices.network.rndis import RndisResponder
from vmbus.memory import MemoryInUse
from vmbus.wire.nvsp import (
    ChannelType,
    NdisCapabilities,
    NvspMessageType,
    NvspSendRndisPacket,
    NvspSendRndisPacketComplete,
    NvspStatus,
    NvspVersion,
    build_message,
)
from vmbus.wire.rndis_oid import PacketFilter

if TYPE_CHECKING:
    from vmbus.devices.network.queue import Queue
    from vmbus.loop import Loop

MOST_WAITING: Final = 100 << 10
"""Bytes of control messages that wait for a free suballocation (openvmm ``CONTROL_MESSAGE_MAX_QUEUED_BYTES``)."""


class Session:
    """An opened card."""

    def __init__(self, card: CardState, backend: Backend, loop: Loop, note: Callable[[str], None]) -> None:
        self.card = card
        self.backend = backend
        self.loop = loop
        self.note = note
        self.version: NvspVersion | None = None
        self.capabilities = NdisCapabilities(0)
        self.ndis_version: tuple[int, int] | None = None
        self.configured = False
        self.rndis = RndisResponder(card)
        self.queues: dict[int, Queue] = {}
        """Open channels by subchannel index."""
        self.subchannels = 0
        """Subchannels that the guest was offered."""
        self.send_buffer: SendBuffer | None = None
        self.receive_buffer: ReceiveBuffer | None = None
        self.has_revoked = False
        """Whether the guest has taken a buffer back."""
        self.first_transaction = 1
        """Id of the next buffer's first packet: completions of an earlier buffer's packets may still be under way."""
        self.completion = self.data_message = self.control_message = b""
        self.delivery = Delivery(self)
        self._coalescing = (False, False)
        """Whether the backend may coalesce segments over IPv4 and over IPv6."""
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0

    # Bring-up

    def negotiated(self, version: NvspVersion) -> None:
        """Both ends agreed on a version; the messages that are sent for every frame are made once."""
        self.version = version
        complete = NvspSendRndisPacketComplete(status=NvspStatus.SUCCESS)
        self.completion = build_message(NvspMessageType.SEND_RNDIS_PACKET_COMPLETE, complete, version)
        data = NvspSendRndisPacket(channel_type=ChannelType.DATA)
        self.data_message = build_message(NvspMessageType.SEND_RNDIS_PACKET, data, version)
        control = NvspSendRndisPacket(channel_type=ChannelType.CONTROL)
        self.control_message = build_message(NvspMessageType.SEND_RNDIS_PACKET, control, version)

    def control(self, data: bytes) -> None:
        """Act on an RNDIS control message and send what it is answered with."""
        if self.receive_buffer is None:
            raise UnexpectedMessage("an RNDIS message before the guest lent a receive buffer")
        for answer in self.rndis.respond(data):
            self.send_control(answer)
        self.apply_card()

    def apply_card(self) -> None:
        """Frames are coalesced, and flow or stop, as the card's state says: its offloads, packet filter and link."""
        self._coalesce()
        self.delivery.apply(True in self._coalescing)
        wanted = bool(self.card.filter) and self.card.link_up and self.receive_buffer is not None
        if wanted != self.delivery.is_open:
            self.delivery.is_open = wanted
            if wanted:
                self.backend.start(self.loop, self.delivery)
            else:
                self.backend.stop()

    @property
    def _can_coalesce(self) -> bool:
        """Whether both ends say that they can."""
        supported = self.card.supported
        return NdisCapabilities.RSC_OVER_VMBUS in self.capabilities and (
            supported.coalescing_ipv4 or supported.coalescing_ipv6
        )

    def suballocation_size(self, buffer_size: int) -> int:
        """The bytes of a suballocation in a receive buffer of ``buffer_size`` bytes."""
        frame_size = self.card.frame_size
        if self._can_coalesce:
            return large_suballocation_size(frame_size, buffer_size)
        return suballocation_size(frame_size)

    def _coalesce(self) -> None:
        """Let the backend coalesce what the guest wants coalesced, if its buffer can take the pieces.

        What is coalesced has no checksum yet, nor has any other frame of the host's own: the guest must take our word.
        """
        enabled, buffer = self.card.enabled, self.receive_buffer
        able = (
            self._can_coalesce
            and all(enabled.receive_checksums)
            and buffer is not None
            and pieces(LARGEST_FRAME + TAG, buffer) <= min(MOST_PIECES, buffer.most_for_frames)
        )
        wanted = (able and enabled.coalescing_ipv4, able and enabled.coalescing_ipv6)
        if wanted != self._coalescing:
            self._coalescing = wanted
            self.backend.coalesce(*wanted)

    def set_link(self, up: bool) -> None:
        """Plug the cable in or out, and tell the guest."""
        if up != self.card.link_up:
            self.card.link_up = up
            for message in self.rndis.link_changed():
                self.send_control(message)
            self.apply_card()

    # To the guest

    def send_control(self, message: bytes) -> None:
        """Send a control message, at once or when a suballocation is free."""
        if self._waiting_bytes + len(message) > MOST_WAITING:
            raise TooMuchWaits(f"{self._waiting_bytes} bytes of RNDIS control messages wait for the guest to take them")
        self._waiting.append(message)
        self._waiting_bytes += len(message)
        self._send_waiting()

    def _send_waiting(self) -> None:
        buffer, primary = self.receive_buffer, self.queues.get(0)
        while self._waiting and buffer is not None and primary is not None and buffer.free:
            message = self._waiting.popleft()
            self._waiting_bytes -= len(message)
            index = buffer.free.pop()
            start = index * buffer.size
            buffer.view[start : start + len(message)] = message
            primary.send_messages(self.control_message, buffer, [(start, len(message))], [index])

    def suballocations_freed(self) -> None:
        """The guest completed receive packets: what waited can go on."""
        if self._waiting:
            self._send_waiting()
        self.delivery.resume()

    # From the guest

    def transmit(self, frames: list[GuestFrame]) -> None:
        """Hand the guest's frames to the backend."""
        card = self.card
        card.frames_sent += len(frames)
        card.bytes_sent += sum(len(frame) for frame, _ in frames)
        if card.link_up:
            self.backend.transmit(frames)

    # The end

    def revoke_receive_buffer(self) -> None:
        """The guest takes its receive buffer back."""
        if self.delivery.is_open:
            self.delivery.is_open = False
            self.backend.stop()
        buffer, self.receive_buffer = self.receive_buffer, None
        self._coalesce()
        self._waiting.clear()
        self._waiting_bytes = 0
        if buffer is not None:
            self.has_revoked = True
            self.first_transaction = buffer.next_transaction
            _unmap(buffer, self.loop)

    def revoke_send_buffer(self) -> None:
        """The guest takes its send buffer back."""
        self.has_revoked = self.has_revoked or self.send_buffer is not None
        buffer, self.send_buffer = self.send_buffer, None
        if buffer is not None:
            _unmap(buffer, self.loop)

    def close(self) -> None:
        """The primary channel is closed."""
        self.revoke_receive_buffer()
        self.revoke_send_buffer()
        self.card.filter = PacketFilter(0)
        self.card.enabled = Offloads()
        self.card.receive_table = ()

    def inspect(self) -> dict[str, Any]:
        """Live state for people."""
        buffer = self.receive_buffer
        return {
            "nvsp_version": None if self.version is None else self.version.name,
            "ndis_version": self.ndis_version,
            "capabilities": str(self.capabilities),
            "rndis": self.rndis.state.value,
            "receive_buffer": None if buffer is None else buffer.inspect(),
            "coalescing": {"ipv4": self._coalescing[0], "ipv6": self._coalescing[1]},
            "waiting_control_bytes": self._waiting_bytes,
            "queues": {str(index): queue.channel.channel_id for index, queue in self.queues.items()},
        }


def _unmap(buffer: ReceiveBuffer | SendBuffer, loop: Loop) -> None:
    """Unmap a buffer as soon as nobody holds a slice of it: an error on its way out may, for a moment."""
    try:
        buffer.close()
    except MemoryInUse:
        loop.call_later(0.05, lambda: _unmap(buffer, loop))
