"""Frames on their way to the guest: into free suballocations, and in packets to the queue of their flow.

A frame is put where the guest will look for it, by the backend itself if it can; only then its RNDIS header is written
in front of it. A coalesced frame may be longer than a suballocation: then it goes into several, each with an RNDIS
packet message that says which piece it is (Linux 6.12 ``drivers/net/hyperv/rndis_filter.c``,
``rndis_filter_receive_data``).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from struct import Struct
from typing import TYPE_CHECKING, Final
from zlib import crc32

from vmbus.devices.network.backend import LARGEST_FRAME, NONE_CHECKED, Buffer
from vmbus.devices.network.buffers import HEADROOM, TAG, ReceiveBuffer
from vmbus.wire.inet import BROADCAST
from vmbus.wire.rndis import RndisMessageType
from vmbus.wire.rndis_oid import PacketFilter
from vmbus.wire.rndis_ppi import ChecksumResult, PacketId, PacketIdFlags, PerPacketInfo, PpiType

if TYPE_CHECKING:
    from vmbus.devices.network.session import Session

FRAMES_PER_PACKET: Final = 64
"""Suballocations in one transfer-page packet, and a few more for the rest of a frame; hosts use up to 375, and Linux
handles 64 at a time.
"""

MOST_PIECES: Final = 128
"""Of a coalesced frame; they travel in one packet, and Linux takes 562 ranges in one (``NVSP_RSC_MAX``)."""

BACKLOG_LIMIT: Final = 1024
"""Ring packets that may wait before frames are no longer taken. It must be more than one batch of packets can leave
behind before they are put into the ring: only a ring that was full tells when there is room again.
"""

_HEAD: Final = Struct("<11I")  # wire.rndis.RndisReceivedMessage with a RndisReceivedPacket
_PACKET: Final = int(RndisMessageType.PACKET)
_BODY: Final = 36
_FRAME_AT: Final = HEADROOM - TAG
"""Where in its suballocation a frame begins, or a piece of one; its RNDIS header ends there."""

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

Batch = tuple[list[tuple[int, int]], list[int]]
"""Where messages lie in the receive buffer (offset, length), and in which suballocations."""


class Delivery:
    """The way to the guest of one session, as the backend's :class:`~vmbus.devices.network.backend.Deliver`."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.card = session.card
        self.is_open = False
        """Whether the guest wants frames."""
        self.longest = self.card.frame_size + TAG
        """Bytes of the longest frame that it takes."""
        self._pieces = 1
        """Suballocations that such a frame takes."""
        self._is_starved = False
        self._wanted = (False, False, False, False)
        """Whether frames to this card, to a group, to everybody and to anybody are wanted."""
        self._batches: dict[int, Batch] = {}
        self._flows: dict[bytes, int] = {}

    def apply(self, coalescing: bool) -> None:
        """Deliver what the card's state says, and frames of any length if it is ``coalescing``."""
        self.longest = (LARGEST_FRAME if coalescing else self.card.frame_size) + TAG
        buffer = self.session.receive_buffer
        self._pieces = pieces(self.longest, buffer) if buffer is not None else 1
        # Plain truth values: flags are slow to combine, and these are looked at for every frame.
        chosen = int(self.card.filter)
        self._wanted = (
            bool(chosen & PacketFilter.DIRECTED.value),
            bool(chosen & (PacketFilter.MULTICAST.value | PacketFilter.ALL_MULTICAST.value)),
            bool(chosen & PacketFilter.BROADCAST.value),
            bool(chosen & PacketFilter.PROMISCUOUS.value),
        )

    # What a backend calls

    def __call__(self, frames: Sequence[Buffer], checked: Iterable[bool] = NONE_CHECKED) -> int:
        if not self.is_open:
            return len(frames)
        taken = 0
        for frame, is_checked in zip(frames, checked, strict=False):
            places = self.place()
            if not places:
                break
            taken += 1
            self.placed(_copied(frame, places), is_checked)
        self.send()
        return taken

    def place(self) -> Sequence[memoryview]:
        buffer = self.session.receive_buffer
        if buffer is None or not self.is_open:
            return ()
        free, count = buffer.free, self._pieces
        if len(free) < buffer.reserved + count or (not self._batches and self._is_backed_up):
            self._is_starved = True
            return ()
        view, size, step = buffer.view, buffer.size, buffer.longest_piece
        at = free[-1] * size + _FRAME_AT
        if count == 1:
            return (view[at : at + step],)
        places = [view[at : at + step]]
        for index in free[-2 : -1 - count : -1]:
            at = index * size + _FRAME_AT
            places.append(view[at : at + step])
        return places

    def placed(self, length: int, is_checked: bool) -> None:
        buffer, card = self.session.receive_buffer, self.card
        assert buffer is not None
        at = buffer.free[-1] * buffer.size + _FRAME_AT
        frame = buffer.view[at : at + length]
        if not self._wants(frame, length):
            return
        card.frames_received += 1
        card.bytes_received += length
        queue = self._queue_of(frame) if card.receive_table else 0
        batch = self._batches.get(queue)
        if batch is None:
            batch = self._batches[queue] = ([], [])
        info = _CHECKED if is_checked else b""
        step = buffer.longest_piece
        if length <= step:
            _add(buffer, batch, length, info)
        else:
            last = (length - 1) // step
            _add(buffer, batch, step, _FIRST + info)
            for _ in range(1, last):
                _add(buffer, batch, step, _MIDDLE)
            _add(buffer, batch, length - last * step, _LAST)
        if len(batch[1]) >= FRAMES_PER_PACKET:
            del self._batches[queue]
            self._send(queue, batch)

    def send(self) -> None:
        while self._batches:
            self._send(*self._batches.popitem())

    # How it goes

    def _send(self, queue: int, batch: Batch) -> None:
        session, buffer = self.session, self.session.receive_buffer
        assert buffer is not None
        session.queues[queue].send_messages(session.data_message, buffer, *batch)

    @property
    def _is_backed_up(self) -> bool:
        return any(queue.channel.backlog > BACKLOG_LIMIT for queue in self.session.queues.values())

    def _wants(self, frame: memoryview, length: int) -> bool:
        """Whether a frame is for this card: the packet filter, and its length."""
        if not 14 <= length <= self.longest:
            self.card.dropped += 1
            return False
        directed, multicast, broadcast, promiscuous = self._wanted
        if promiscuous:
            return True
        destination = bytes(frame[:6])
        if not destination[0] & 1:
            return directed and destination == self.card.mac
        return broadcast if destination == BROADCAST else multicast

    def _queue_of(self, frame: memoryview) -> int:
        """The queue of a frame's flow, by the guest's receive table; what is no IPv4 goes to the primary channel."""
        if bytes(frame[12:14]) != b"\x08\x00" or len(frame) < 38:
            return 0
        flow = bytes(frame[26:38])  # addresses and ports
        queue = self._flows.get(flow)
        if queue is None:
            if len(self._flows) >= 4096:
                self._flows.clear()
            table = self.card.receive_table
            queue = self._flows[flow] = table[crc32(flow) % len(table)]
        return queue if queue in self.session.queues else 0

    def resume(self) -> None:
        """Let the backend go on if it was stopped and there is room for a batch, or nothing else will make room."""
        buffer = self.session.receive_buffer
        if self._is_starved and buffer is not None:
            room = buffer.room_for_frames
            if room > 0 and (room >= FRAMES_PER_PACKET or not buffer.outstanding or room * 4 >= buffer.count):
                self._is_starved = False
                self.session.backend.resume()


def pieces(length: int, buffer: ReceiveBuffer) -> int:
    """How many suballocations a frame takes."""
    return -(-length // buffer.longest_piece)


def _copied(frame: Buffer, places: Sequence[memoryview]) -> int:
    """Copy a frame to where it belongs, as far as there is room; return how long it is."""
    length = len(frame)
    if length <= len(places[0]):
        places[0][:length] = frame
        return length
    left = memoryview(frame)
    for place in places:
        size = min(len(place), len(left))
        place[:size] = left[:size]
        left = left[size:]
    return length


def _add(buffer: ReceiveBuffer, batch: Batch, length: int, info: bytes) -> None:
    """Write the header of the frame, or the piece, that lies in the next free suballocation, and add it to a batch."""
    index = buffer.free.pop()
    frame_at = index * buffer.size + _FRAME_AT
    info_at = frame_at - len(info)
    start, size = info_at - _HEAD.size, _HEAD.size + len(info) + length
    where = _BODY if info else 0
    _HEAD.pack_into(buffer.view, start, _PACKET, size, _BODY + len(info), length, 0, 0, 0, where, len(info), 0, 0)
    buffer.view[info_at:frame_at] = info
    batch[0].append((start, size))
    batch[1].append(index)
