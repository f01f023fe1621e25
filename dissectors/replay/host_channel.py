"""One channel of a replayed host: each packet of the guest is found in the recording and answered as it was then."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Sequence

from dissectors.engine import Decoded, Session
from dissectors.engine.dialects.network import COMPLETE, REQUESTS, Network
from dissectors.replay.pace import Pace, Unasked
from dissectors.replay.scatter import scatter
from dissectors.replay.script import OUTSIDE, ChannelScript, Request, Said, packet_identity
from vmbus.channel import Channel, ChannelHandler
from vmbus.errors import VmbusError
from vmbus.memory import Mapping
from vmbus.ring.packet import COMPLETION, GPA_DIRECT, TRANSFER_PAGES, RingPacket
from vmbus.ring.ranges import parse_transfer_pages
from vmbus.wire import nvsp
from vmbus.wire.capture import Direction, PacketRecord, RecordKind
from vmbus.wire.ring import PacketDescriptor, PacketFlags, PacketType
from vmbus.wire.schema import WireError


class ReplayedChannel(ChannelHandler):
    """The host's end of an open channel, spoken for by a recording."""

    def __init__(
        self,
        channel: Channel,
        script: ChannelScript,
        session: Session,
        pace: Pace,
        depart: Callable[[str], None],
        on_packet: Callable[[Request | None], None],
    ) -> None:
        """``session`` decodes what the guest says; ``depart`` gets one line for each departure from the recording."""
        self._channel = channel
        self._script = script
        self._session = session
        self._pace = pace
        self._depart = depart
        self._on_packet = on_packet
        self._left: dict[Hashable, deque[Request]] = {}
        self._answered: dict[Hashable, Request] = {}
        self._buffers: dict[int, Mapping] = {}
        self._receive_buffer = self._send_buffer = 0
        self._rndis_ids: dict[int, int] = {}
        self.unasked = Unasked(script.unasked, pace, self._say)
        self.received = self.sent = 0
        self.unanswered: dict[int, Decoded] = {}
        """Requests for which the recording has no answer, by transaction id: the guest may wait for them for ever."""
        for request in script.requests:
            identity = packet_identity(request.item, script.dialect, request.outside)
            self._left.setdefault(identity, deque()).append(request)

    @property
    def is_open(self) -> bool:
        return self._channel.is_open

    @property
    def missing(self) -> list[Request]:
        """Packets of the recording that the guest has not sent."""
        left = [request for queue in self._left.values() for request in queue]
        return sorted(left, key=lambda request: request.item.number)

    def on_packets(self, packets: Sequence[RingPacket]) -> None:
        for packet in packets:
            self.received += 1
            request = self._take(packet)
            self._on_packet(request)
            self.unasked.guest_did(request)

    def on_close(self) -> None:
        for buffer in self._buffers.values():
            buffer.close()
        self._buffers.clear()

    # What the guest sends

    def _take(self, packet: RingPacket) -> Request | None:
        """Find a packet in the recording and answer it."""
        item = self._decode(packet)
        outside = self._outside(packet, item) if isinstance(self._script.dialect, Network) else b""
        identity = packet_identity(item, self._script.dialect, outside)
        request = self._find(identity, item)
        if request is None:
            return None
        if int.from_bytes(outside[:4], "little") in REQUESTS:
            self._rndis_ids[int.from_bytes(request.outside[8:12], "little")] = int.from_bytes(outside[8:12], "little")
        for said in request.answers:
            self._pace.after(said.pause_ns, lambda said=said: self._answer(packet, said))  # type: ignore[misc]
        return request

    def _find(self, identity: Hashable, item: Decoded) -> Request | None:
        """The packet of the recording that this one is."""
        name = self._script.name
        left = self._left.get(identity)
        if left:
            request = self._answered[identity] = left.popleft()
            return request
        again = self._answered.get(identity)
        if again is not None:
            self._depart(
                f"channel {name}: once more than in the recording, as record {again.item.number}: {item.summary}"
            )
            return again
        awaits = ""
        if item.wants_completion:
            self.unanswered[item.transaction_id] = item
            awaits = "; it gets no answer"
        self._depart(f"channel {name}: not in the recording: {item.summary}{awaits}")
        return None

    def _decode(self, packet: RingPacket) -> Decoded:
        descriptor = PacketDescriptor(
            packet_type=PacketType(packet.packet_type),
            data_offset8=(PacketDescriptor.SIZE + len(packet.extension)) // 8,
            length8=(PacketDescriptor.SIZE + len(packet.extension) + len(packet.payload)) // 8,
            flags=PacketFlags(packet.flags),
            transaction_id=packet.transaction_id,
        )
        return self._feed(Direction.GUEST_TO_HOST, descriptor.build() + packet.extension + packet.payload)

    def _feed(self, direction: Direction, body: bytes) -> Decoded:
        return self._session.feed_bytes(
            PacketRecord(kind=RecordKind.PACKET, direction=direction, channel_id=self._channel.channel_id).build()
            + body,
            0,
        )

    def _outside(self, packet: RingPacket, item: Decoded) -> bytes:
        """The first bytes of the RNDIS message that a network card's packet points at; takes note of its buffers."""
        if packet.packet_type == COMPLETION:
            return b""
        try:
            body = nvsp.NvspMessage.parse(item.data, item.payload_at).body
        except WireError:
            return b""
        if isinstance(body, nvsp.NvspSendReceiveBuffer):
            self._receive_buffer = body.gpadl_handle
        elif isinstance(body, nvsp.NvspSendSendBuffer):
            self._send_buffer = body.gpadl_handle
        elif isinstance(body, nvsp.NvspSendRndisPacket):
            if body.send_buffer_section_index != nvsp.NO_SECTION:
                start = body.send_buffer_section_index * self._script.section_size
                return bytes(self._buffer(self._send_buffer)[start : start + OUTSIDE])
            if packet.packet_type == GPA_DIRECT:
                views = self._channel.data_from_guest(packet)
                return b"".join(bytes(view[:OUTSIDE]) for view in views[:OUTSIDE])[:OUTSIDE]
        return b""

    # What the host says

    def _answer(self, packet: RingPacket, said: Said) -> None:
        if not self._channel.is_open:
            return
        if said.data:
            _fill(self._channel.data_to_guest(packet), said, self._renumbered)
        self._channel.complete(packet.transaction_id, bytes(said.item.data[said.item.payload_at :]))
        self._feed(Direction.HOST_TO_GUEST, _completion(packet.transaction_id))
        self.sent += 1

    def _say(self, said: Said) -> None:
        if not self._channel.is_open:
            return
        item = said.item
        extension = bytes(item.data[item.body_at + PacketDescriptor.SIZE : item.payload_at])
        try:
            if said.data and item.packet_type == TRANSFER_PAGES:
                buffer = self._buffer(self._receive_buffer)
                ranges = parse_transfer_pages(extension, len(buffer)).ranges
                _fill([buffer[start : start + size] for size, start in ranges], said, self._renumbered)
            self._channel.send(
                item.packet_type,
                bytes(item.data[item.payload_at :]),
                transaction_id=item.transaction_id,
                extension=extension,
                completion_requested=item.wants_completion,
            )
        except VmbusError as error:
            self._depart(f"channel {self._script.name}: record {item.number} cannot be said: {error}")
            return
        self.sent += 1

    def _buffer(self, gpadl_id: int) -> memoryview:
        if gpadl_id not in self._buffers:
            self._buffers[gpadl_id] = self._channel.gpadl(gpadl_id).map()
        return self._buffers[gpadl_id].view

    def _renumbered(self, piece: bytes) -> bytes:
        """An RNDIS answer carries the number of its request, which is the guest's to choose."""
        kind = int.from_bytes(piece[:4], "little")
        if not isinstance(self._script.dialect, Network) or not kind & COMPLETE:
            return piece
        recorded = int.from_bytes(piece[8:12], "little")
        return piece[:8] + self._rndis_ids.get(recorded, recorded).to_bytes(4, "little") + piece[12:]


def _completion(transaction_id: int) -> bytes:
    """Enough of a completion for the session to pair it."""
    return PacketDescriptor(
        packet_type=PacketType.COMPLETION,
        data_offset8=2,
        length8=2,
        flags=PacketFlags(0),
        transaction_id=transaction_id,
    ).build()


def _fill(views: Sequence[memoryview], said: Said, changed: Callable[[bytes], bytes]) -> None:
    """Write the data of an answer into the guest's pages; what was not recorded of it is zeros."""
    if said.is_cut:
        for view in views:
            view[:] = bytes(len(view))
    for piece in said.data:
        scatter(views, piece.data_offset, changed(bytes(piece.data[piece.body_at :])))
