"""What the channels of one opened card share: version, buffers, the state of the card, and the way to its backend.

A session begins when a guest opens the primary channel and ends when that closes. Frames from the guest come in
through any queue and leave through the backend in one list; frames for the guest are put into suballocations and
spread over the queues by flow.

A coalesced frame is longer than a suballocation and goes into several, each with an RNDIS packet message that says
which piece it is (Linux 6.12 ``drivers/net/hyperv/rndis_filter.c``, ``rndis_filter_receive_data``).

Frames are held back until the guest has set a packet filter: a Linux guest that gets one before has not yet made
what it needs to answer, and panics (``send_recv_completions``).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from struct import Struct
from typing import TYPE_CHECKING, Any, Final
from zlib import crc32

from vmbus.devices.network.backend import LARGEST_FRAME, NONE_CHECKED, Backend, Buffer, GuestFrame
from vmbus.devices.network.buffers import ReceiveBuffer, SendBuffer
from vmbus.devices.network.errors import TooMuchWaits, UnexpectedMessage
from vmbus.devices.network.oids import CardState, Offloads
from vmbus.devices.network.rndis import RndisResponder
from vmbus.memory import MemoryInUse
from vmbus.wire.inet import BROADCAST
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
from vmbus.wire.rndis import RndisMessageType
from vmbus.wire.rndis_oid import PacketFilter
from vmbus.wire.rndis_ppi import ChecksumResult, PacketId, PacketIdFlags, PerPacketInfo, PpiType

if TYPE_CHECKING:
    from vmbus.devices.network.queue import Queue
    from vmbus.loop import Loop

FRAMES_PER_PACKET: Final = 64
"""Frames in one transfer-page packet; hosts use up to 375, and Linux handles 64 at a time."""

MOST_WAITING: Final = 100 << 10
"""Bytes of control messages that wait for a free suballocation (openvmm ``CONTROL_MESSAGE_MAX_QUEUED_BYTES``)."""

BACKLOG_LIMIT: Final = 1024
"""Ring packets that may wait before frames are no longer taken. It must be more than one batch of packets can leave
behind before they are put into the ring: only a ring that was full tells when there is room again.
"""

_HEAD: Final = Struct("<11I")  # wire.rndis.RndisReceivedMessage with a RndisReceivedPacket
MOST_PIECES: Final = 128
"""Of a coalesced frame; they travel in one packet, and Linux takes 562 ranges in one (``NVSP_RSC_MAX``)."""

_CHECKED: Final = (
    PerPacketInfo(
        info_type=PpiType.TCP_IP_CHECKSUM,
        value=ChecksumResult(tcp_checksum_succeeded=1, udp_checksum_succeeded=1, ip_checksum_succeeded=1),
    ).build()
)  # fmt: skip
_FIRST, _MIDDLE, _LAST = (
    PerPacketInfo(info_type=PpiType.PACKET_ID, value=PacketId(flags=PacketIdFlags.MULTI_SUBALLOCATION | place)).build()
    for place in (PacketIdFlags.FIRST_FRAGMENT, PacketIdFlags(0), PacketIdFlags.LAST_FRAGMENT)
)
_PACKET: Final = int(RndisMessageType.PACKET)
_BODY: Final = 36
_TAG: Final = 4
"""Bytes by which an 802.1Q tag may lengthen a frame."""

Batch = tuple[list[tuple[int, int]], list[int]]
"""Where messages lie in the receive buffer (offset, length), and in which suballocations."""


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
        self.completion = self.data_message = self.control_message = b""
        self._is_up = False
        self._wanted = (False, False, False, False)
        """Whether frames to this card, to a group, to everybody and to anybody are wanted."""
        self._coalescing = (False, False)
        """Whether the backend may coalesce segments over IPv4 and over IPv6."""
        self._starved = False
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._flows: dict[bytes, int] = {}

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
        # Plain truth values: flags are slow to combine, and these are looked at for every frame.
        chosen = int(self.card.filter)
        self._wanted = (
            bool(chosen & PacketFilter.DIRECTED.value),
            bool(chosen & (PacketFilter.MULTICAST.value | PacketFilter.ALL_MULTICAST.value)),
            bool(chosen & PacketFilter.BROADCAST.value),
            bool(chosen & PacketFilter.PROMISCUOUS.value),
        )
        wanted = bool(chosen) and self.card.link_up
        if wanted and not self._is_up:
            self._is_up = True
            self.backend.start(self.loop, self.deliver)
        elif not wanted and self._is_up:
            self._is_up = False
            self.backend.stop()

    def _coalesce(self) -> None:
        """Let the backend coalesce what the guest wants coalesced, if its buffer can take the pieces."""
        enabled, buffer = self.card.enabled, self.receive_buffer
        pieces = self._pieces(LARGEST_FRAME + _TAG)
        able = (
            NdisCapabilities.RSC_OVER_VMBUS in self.capabilities
            and buffer is not None
            and pieces <= min(MOST_PIECES, buffer.most_for_frames)
        )
        wanted = (able and enabled.coalescing_ipv4, able and enabled.coalescing_ipv6)
        if wanted != self._coalescing:
            self._coalescing = wanted
            self.backend.coalesce(*wanted)

    def _pieces(self, length: int) -> int:
        """How many suballocations a frame takes."""
        return -(-length // self.card.frame_size) if length > self.card.frame_size + _TAG else 1

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

    def deliver(self, frames: Sequence[Buffer], checked: Iterable[bool] = NONE_CHECKED) -> int:
        """Take frames for the guest, as the backend's :class:`~vmbus.devices.network.backend.Deliver`."""
        buffer = self.receive_buffer
        if buffer is None or not self._is_up:
            return len(frames)
        room = buffer.room_for_frames
        full = any(queue.channel.backlog > BACKLOG_LIMIT for queue in self.queues.values())
        if full or room <= 0:
            self._starved = True
            return 0
        card = self.card
        batches: dict[int, Batch] = {}
        taken = total = 0
        for frame, is_checked in zip(frames, checked, strict=False):
            length = len(frame)
            if not self._wants(frame, length):
                taken += 1
                continue
            needed = self._pieces(length)
            if room < needed:
                self._starved = True
                break
            room -= needed
            taken += 1
            total += length
            queue = self._queue_of(frame) if card.receive_table else 0
            batch = batches.setdefault(queue, ([], []))
            info = _CHECKED if is_checked else b""
            if needed == 1:
                _put(buffer, batch, frame, info)
            else:
                self._put_pieces(buffer, batch, memoryview(frame), info)
            if len(batch[1]) >= FRAMES_PER_PACKET:
                del batches[queue]
                self.queues[queue].send_messages(self.data_message, buffer, *batch)
        for queue, batch in batches.items():
            self.queues[queue].send_messages(self.data_message, buffer, *batch)
        card.frames_received += taken
        card.bytes_received += total
        return taken

    def _put_pieces(self, buffer: ReceiveBuffer, batch: Batch, frame: memoryview, info: bytes) -> None:
        """Put a coalesced frame into as many suballocations as it takes."""
        step = self.card.frame_size
        last = (len(frame) - 1) // step * step
        _put(buffer, batch, frame[:step], _FIRST + info)
        for at in range(step, last, step):
            _put(buffer, batch, frame[at : at + step], _MIDDLE)
        _put(buffer, batch, frame[last:], _LAST)

    def _wants(self, frame: Buffer, length: int) -> bool:
        """Whether a frame is for this card: the packet filter, and its length."""
        longest = LARGEST_FRAME if True in self._coalescing else self.card.frame_size
        if not 14 <= length <= longest + _TAG:
            self.card.dropped += 1
            return False
        directed, multicast, broadcast, promiscuous = self._wanted
        if promiscuous:
            return True
        if not frame[0] & 1:
            return directed and frame[:6] == self.card.mac
        return broadcast if frame[:6] == BROADCAST else multicast

    def _queue_of(self, frame: Buffer) -> int:
        """The queue of a frame's flow, by the guest's receive table; what is no IPv4 goes to the primary channel."""
        if frame[12:14] != b"\x08\x00" or len(frame) < 38:
            return 0
        flow = bytes(frame[26:38])  # addresses and ports
        queue = self._flows.get(flow)
        if queue is None:
            if len(self._flows) >= 4096:
                self._flows.clear()
            table = self.card.receive_table
            queue = self._flows[flow] = table[crc32(flow) % len(table)]
        return queue if queue in self.queues else 0

    def suballocations_freed(self) -> None:
        """The guest completed receive packets: what waited can go on."""
        if self._waiting:
            self._send_waiting()
        self.resume_backend()

    def resume_backend(self) -> None:
        """Let the backend go on if it was stopped and there is room for a batch, or nothing else will make room."""
        buffer = self.receive_buffer
        if self._starved and buffer is not None:
            room = buffer.room_for_frames
            if room > 0 and (room >= FRAMES_PER_PACKET or not buffer.outstanding or room * 4 >= buffer.count):
                self._starved = False
                self.backend.resume()

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
        if self._is_up:
            self._is_up = False
            self.backend.stop()
        buffer, self.receive_buffer = self.receive_buffer, None
        self._coalesce()
        self._waiting.clear()
        self._waiting_bytes = 0
        if buffer is not None:
            _unmap(buffer, self.loop)

    def revoke_send_buffer(self) -> None:
        """The guest takes its send buffer back."""
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


def _put(buffer: ReceiveBuffer, batch: Batch, frame: Buffer, info: bytes) -> None:
    """Put an RNDIS packet message with a frame, or a piece of one, into a free suballocation."""
    index = buffer.free.pop()
    start, length, at = index * buffer.size, len(frame), _HEAD.size + len(info)
    end, view = at + length, buffer.view
    where = _BODY if info else 0
    _HEAD.pack_into(view, start, _PACKET, end, at - 8, length, 0, 0, 0, where, len(info), 0, 0)
    view[start + _HEAD.size : start + at] = info
    view[start + at : start + end] = frame
    batch[0].append((start, end))
    batch[1].append(index)


def _unmap(buffer: ReceiveBuffer | SendBuffer, loop: Loop) -> None:
    """Unmap a buffer as soon as nobody holds a slice of it: an error on its way out may, for a moment."""
    try:
        buffer.close()
    except MemoryInUse:
        loop.call_later(0.05, lambda: _unmap(buffer, loop))
