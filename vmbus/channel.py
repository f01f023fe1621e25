"""An open channel: two rings, a signal and the transactions between them; the same object at either end.

A runtime (``vmbus.host``, ``vmbus.guest``) makes the channel when it is opened, and calls :meth:`Channel.service`
when the peer has signalled.  The channel takes packets out of the ring as validated copies, hands them to its handler
in batches of at most 64, and puts what the handler sends into the other ring, in order.  Sends made while packets
are handled are committed and signalled once, after the batch; a full ring fills a bounded backlog and asks the
peer for a signal when there is room (``pending_send_size``).

A peer that breaks a rule fails its own channel with a typed error and nothing else.  The tap sits here: it sees the
copies that the handler acts on, a write's data before it is used, and a read's before its completion is sent.

Sources: Linux ``drivers/hv/channel.c``, ``ring_buffer.c``; openvmm ``vmbus_async/src/queue.rs``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID

from vmbus.errors import VmbusError
from vmbus.gpadl import Gpadl, GpaRange
from vmbus.loop import Loop
from vmbus.memory import GuestMemory
from vmbus.ring import RingPacket
from vmbus.ring.memory import READ_INDEX, WRITE_INDEX
from vmbus.ring.packet import (
    COMPLETION,
    COMPLETION_REQUESTED,
    GPA_DIRECT,
    IN_BAND,
    MAX_BATCH,
    TRANSFER_PAGES,
    OutgoingPacket,
)
from vmbus.ring.pair import RingPair
from vmbus.ring.ranges import build_gpa_direct, build_transfer_pages, gpa_direct_views
from vmbus.tap import Direction, NoteKind, Tap

MAX_BACKLOG = 4096
"""Packets that wait for room in the ring before the channel gives its peer up."""

BATCHES_PER_SERVICE = 8
"""Batches handled before other channels of the same loop get their turn."""


def _cut(views: Sequence[memoryview], size: int) -> list[memoryview]:
    """The first ``size`` bytes of a buffer in pieces."""
    found: list[memoryview] = []
    for view in views:
        if size <= 0:
            break
        found.append(view[:size])
        size -= len(view)
    return found


class ChannelError(VmbusError):
    """Something that ends one channel."""


class BacklogFull(ChannelError):
    """The peer does not take its packets out of the ring: too many are waiting."""


class UnknownGpadl(ChannelError):
    """The peer named a GPADL that is not there."""


class NoSuchRanges(ChannelError):
    """A packet without page ranges came where one with ranges was needed."""


@dataclass(frozen=True, slots=True)
class ChannelIdentity:
    """Which channel this is: what its offer said and how it was opened."""

    channel_id: int
    interface_id: UUID
    instance_id: UUID
    subchannel_index: int = 0
    user_defined: bytes = b""
    open_data: bytes = b""
    """The 120 bytes that the guest gave when it opened the channel."""


class ChannelHandler:
    """What acts on a channel's packets; a device or a driver derives from it and overrides what it needs."""

    def on_packets(self, packets: Sequence[RingPacket]) -> None:
        """Act on up to 64 packets, in the order in which they were sent."""

    def on_writable(self) -> None:
        """The ring had no room for all that was sent, and now the backlog is empty again."""

    def on_loans(self, loans: Mapping[int, bytes]) -> None:
        """The channel was another process's before: what that one lent to the peer by transfer-page packets, and has
        not back; the packets' ranges (``parse_transfer_pages``) by transaction id.
        """

    def on_close(self) -> None:
        """The channel ends: drop requests in flight, and release every view of the guest's memory."""

    def inspect(self) -> dict[str, Any]:
        """Live state for ``vmbus ctl inspect``: requests under way and their ages, above all."""
        return {}


class ChannelJournal(Protocol):
    """Remembers, in a place that outlives the process, what was taken out of the ring and not answered yet."""

    def taken(self, before: int, after: int, packets: Sequence[RingPacket]) -> None:
        """A batch is about to be handled; the read index goes from ``before`` to ``after`` when it has been."""

    def handled(self) -> None:
        """The batch has been handled; its answers wait to be sent."""

    def sent(self, before: int, after: int, packets: Sequence[OutgoingPacket]) -> None:
        """Packets are in the ring, and about to be shown to the peer: the write index goes to ``after``."""


@dataclass(slots=True)
class ChannelCounters:
    """What went through a channel, for people to look at."""

    packets_in: int = 0
    packets_out: int = 0
    signals_in: int = 0
    signals_out: int = 0
    backlog_peak: int = 0


class Channel:
    """An open channel.  Used by one thread: the one that runs ``loop``."""

    def __init__(
        self,
        identity: ChannelIdentity,
        *,
        rings: RingPair,
        memory: GuestMemory,
        loop: Loop,
        signal: Callable[[], None],
        receives: Direction,
        gpadls: Mapping[int, Gpadl] | None = None,
        tap: Tap | None = None,
        on_failure: Callable[[Channel, VmbusError], None] | None = None,
    ) -> None:
        """``receives`` is the direction of the packets that come in; ``signal`` wakes the peer."""
        self.identity = identity
        self.incoming = rings.incoming
        self.outgoing = rings.outgoing
        self._rings = rings
        self.memory = memory
        self.loop = loop
        self.handler = ChannelHandler()
        self.counters = ChannelCounters()
        self.tap = tap
        self.target_vp: int | None = 0
        self.error: VmbusError | None = None
        self.is_open = True
        self.journal: ChannelJournal | None = None
        self._signal_peer = signal
        self._receives = receives
        self._sends = Direction.HOST_TO_GUEST if receives is Direction.GUEST_TO_HOST else Direction.GUEST_TO_HOST
        self._gpadls = gpadls if gpadls is not None else {}
        self._on_failure = on_failure
        self._outbox: deque[OutgoingPacket] = deque()
        self._flush_is_due = False
        self._in_service = False
        self._is_paused = False
        self._ring_was_full = False
        self._to_fill: dict[int, list[memoryview]] = {}

    # What the channel is

    @property
    def channel_id(self) -> int:
        return self.identity.channel_id

    @property
    def interface_id(self) -> UUID:
        return self.identity.interface_id

    @property
    def instance_id(self) -> UUID:
        return self.identity.instance_id

    @property
    def subchannel_index(self) -> int:
        return self.identity.subchannel_index

    @property
    def user_defined(self) -> bytes:
        return self.identity.user_defined

    @property
    def backlog(self) -> int:
        """Packets that wait for room in the ring."""
        return len(self._outbox)

    @property
    def is_at_rest(self) -> bool:
        """Whether both rings are empty and nothing waits to be sent; a closed channel is."""
        if not self.is_open:
            return True
        try:
            rings = (self.incoming.memory, self.outgoing.memory)
            return not self._outbox and all(ring.index(WRITE_INDEX) == ring.index(READ_INDEX) for ring in rings)
        except VmbusError:
            return True  # it is broken: there is nothing to wait for

    def __repr__(self) -> str:
        return f"<Channel {self.channel_id} of {self.instance_id}{'' if self.is_open else ', closed'}>"

    # Sending

    def send(
        self,
        packet_type: int,
        payload: bytes | memoryview,
        *,
        transaction_id: int = 0,
        extension: bytes = b"",
        completion_requested: bool = False,
    ) -> None:
        """Send one packet after those before it; never blocks.

        Raises ``BacklogFull`` when the peer has let too many packets wait.
        """
        if len(self._outbox) >= MAX_BACKLOG:
            raise BacklogFull(f"channel {self.channel_id}: {MAX_BACKLOG} packets wait for room in the ring")
        flags = COMPLETION_REQUESTED if completion_requested else 0
        self._outbox.append((packet_type, flags, transaction_id, extension, payload))
        if not self._in_service and not self._flush_is_due:
            self._flush_is_due = True
            self.loop.call_soon(self.flush)

    def send_in_band(
        self, payload: bytes | memoryview, *, transaction_id: int = 0, completion_requested: bool = False
    ) -> None:
        """Send bytes that are all in the packet."""
        self.send(IN_BAND, payload, transaction_id=transaction_id, completion_requested=completion_requested)

    def complete(self, transaction_id: int, payload: bytes | memoryview = b"", *, filled: int | None = None) -> None:
        """Answer the peer's packet of that transaction id.

        ``filled`` says how many bytes of the pages that it named were filled, if not all: only those are recorded.
        """
        if self._to_fill:
            views = self._to_fill.pop(transaction_id, None)
            if views is not None and self.tap is not None and filled != 0:
                self._record_external(self._sends, transaction_id, views if filled is None else _cut(views, filled))
        self.send(COMPLETION, payload, transaction_id=transaction_id)

    def send_gpa_direct(
        self,
        ranges: Sequence[GpaRange],
        payload: bytes | memoryview,
        *,
        transaction_id: int,
        completion_requested: bool = True,
    ) -> None:
        """Send bytes and name guest pages that the peer is to read or fill (guest end)."""
        self.send(
            GPA_DIRECT,
            payload,
            transaction_id=transaction_id,
            extension=build_gpa_direct(ranges),
            completion_requested=completion_requested,
        )

    def send_transfer_pages(
        self,
        set_id: int,
        ranges: Sequence[tuple[int, int]],
        payload: bytes | memoryview,
        *,
        transaction_id: int,
        buffer: memoryview,
        completion_requested: bool = True,
    ) -> None:
        """Send bytes and name ``(offset, length)`` ranges of a buffer that both ends know, already filled.

        Each range is a message of its own.
        """
        if self.tap is not None:
            pieces = [buffer[offset : offset + length] for offset, length in ranges]
            self._record_pieces(self._sends, transaction_id, pieces, sum(len(piece) for piece in pieces))
        self.send(
            TRANSFER_PAGES,
            payload,
            transaction_id=transaction_id,
            extension=build_transfer_pages(set_id, ((length, offset) for offset, length in ranges)),
            completion_requested=completion_requested,
        )

    def flush(self) -> None:
        """Put what waits into the ring as far as there is room, and signal once if the peer sleeps."""
        self._flush_is_due = False
        outbox = self._outbox
        if not outbox or not self.is_open:
            return
        had_backlog = len(outbox)
        ring = self.outgoing
        signal = False
        try:
            while outbox:
                batch = list(outbox) if len(outbox) <= 64 else [outbox[index] for index in range(64)]
                before = ring.position
                written = ring.write_batch(batch)
                if written:
                    if self.tap is not None:
                        self._record_sent(batch[:written], before)
                    if self.journal is not None:
                        self.journal.sent(before, ring.position, batch[:written])
                if ring.commit():
                    signal = True
                for _ in range(written):
                    outbox.popleft()
                self.counters.packets_out += written
                if not written:
                    break
        except VmbusError as error:
            self.fail(error)
            return
        if signal:
            self.counters.signals_out += 1
            self._signal_peer()
        if outbox:
            self._ring_was_full = True
            self.counters.backlog_peak = max(self.counters.backlog_peak, had_backlog)
        elif self._ring_was_full:
            self._ring_was_full = False
            self.handler.on_writable()

    # Receiving

    def on_signal(self) -> None:
        """The peer has signalled: there are packets, or there is room."""
        self.counters.signals_in += 1
        self.service()

    def service(self) -> None:
        """Handle what is in the incoming ring and send what can be sent; ends with interrupts unmasked."""
        if not self.is_open or self._in_service:
            return
        if self._is_paused:
            self.flush()
            return
        ring = self.incoming
        self._in_service = True
        signal = False
        try:
            ring.mask_interrupts()
            batches = 0
            while self.is_open and not self._is_paused:
                before = ring.position
                packets = ring.read_batch()
                if packets:
                    if self.journal is not None:
                        self.journal.taken(before, ring.position, packets)
                    if self.tap is not None:
                        self._record_received(packets)
                    self.counters.packets_in += len(packets)
                    self.handler.on_packets(packets)
                    if not self.is_open:
                        break
                    if self.journal is not None:
                        self.journal.handled()
                    if ring.commit():
                        signal = True
                    batches += 1
                    if batches >= BATCHES_PER_SERVICE:
                        self.loop.call_soon(self.service)
                        break
                elif not ring.unmask_interrupts():
                    break
                else:
                    ring.mask_interrupts()
        except VmbusError as error:
            self.fail(error)
        finally:
            self._in_service = False
        if self.is_open:
            if signal:
                self.counters.signals_out += 1
                self._signal_peer()
            self.flush()

    def pause(self) -> None:
        """Take nothing more out of the ring until :meth:`resume`: the handler has no room for what the peer sends.

        The peer fills its ring and then waits, as it does for any busy receiver.
        """
        self._is_paused = True

    def resume(self) -> None:
        """Go on after :meth:`pause`; harmless if the channel is not paused."""
        if self._is_paused:
            self._is_paused = False
            self.loop.call_soon(self.service)

    def data_from_guest(self, packet: RingPacket, *, after: int = 0) -> list[memoryview]:
        """The guest's pages that a GPA-direct packet wants us to read, adjacent ones merged; not copied.

        ``after`` bytes of the packet's data stand before them, in a buffer that both ends know. Raises
        ``OutsideGuestMemory``, a ``RingError`` or ``NoSuchRanges`` if the packet's ranges are bad.
        """
        views = self._views(packet)
        if self.tap is not None:
            self._record_external(self._receives, packet.transaction_id, views, after)
        return views

    def data_in_buffer(self, packet: RingPacket, messages: Sequence[memoryview], *, before: int = 0) -> None:
        """Tell what of a buffer that both ends know came with a packet, before it is used.

        The messages follow each other, and ``before`` more bytes of the packet's data come after them.
        """
        if self.tap is not None:
            total = sum(len(message) for message in messages) + before
            self._record_pieces(self._receives, packet.transaction_id, messages, total)

    def data_to_guest(self, packet: RingPacket) -> list[memoryview]:
        """The guest's pages that we shall fill before we complete the packet's transaction."""
        views = self._views(packet)
        if self.tap is not None:
            self._to_fill[packet.transaction_id] = views
        return views

    def _views(self, packet: RingPacket) -> list[memoryview]:
        if packet.packet_type != GPA_DIRECT:
            raise NoSuchRanges(f"channel {self.channel_id}: packet type {packet.packet_type} names no guest pages")
        return gpa_direct_views(self.memory, packet.extension)

    def gpadl(self, gpadl_id: int) -> Gpadl:
        """The GPADL of that id, which the guest made on this channel."""
        try:
            return self._gpadls[gpadl_id]
        except KeyError:
            raise UnknownGpadl(f"channel {self.channel_id} has no GPADL {gpadl_id:#x}") from None

    # Going on where another process stopped

    @property
    def unsent(self) -> list[OutgoingPacket]:
        """What waits to be put into the ring."""
        return list(self._outbox)

    def adopt(self, unsent: Sequence[OutgoingPacket], loans: Mapping[int, bytes], to_skip: int) -> None:
        """Begin with what an earlier process left unsent, what it had lent, and the packets that it had handled, and
        whose room in the ring it had not given back.
        """
        if to_skip:
            self.incoming.read_batch(to_skip)
            self.incoming.commit()
        self._outbox.extend(unsent)
        if loans:
            self.handler.on_loans(loans)

    def take_over(self, owed: Sequence[RingPacket]) -> None:
        """Handle again what an earlier process had taken and not answered, and send what waits."""
        self._in_service = True
        try:
            for start in range(0, len(owed), MAX_BATCH):
                if self.is_open:
                    self.handler.on_packets(owed[start : start + MAX_BATCH])
        except VmbusError as error:
            self.fail(error)
        finally:
            self._in_service = False
        self.flush()

    # Ending

    def fail(self, error: VmbusError) -> None:
        """Close this channel because of what the peer did; others go on."""
        if not self.is_open:
            return
        self.error = error
        if self.tap is not None:
            self.tap.note(NoteKind.PROBLEM, f"channel {self.channel_id} fails: {error}")
        self.close()
        if self._on_failure is not None:
            self._on_failure(self, error)

    def close(self) -> None:
        """Stop: the handler drops its requests, the rings let their memory go."""
        if not self.is_open:
            return
        self.is_open = False
        self._outbox.clear()
        self._to_fill.clear()
        self.handler.on_close()
        self._rings.close()

    # Recording

    def _record_received(self, packets: Sequence[RingPacket]) -> None:
        assert self.tap is not None
        state = self.incoming.memory.state()
        self.tap.packets(
            self.channel_id,
            self._receives,
            packets,
            packets[0].offset,
            state.read_index,
            state.write_index,
            state.size,
        )

    def _record_sent(self, packets: Sequence[OutgoingPacket], position: int) -> None:
        assert self.tap is not None
        state = self.outgoing.memory.state()
        self.tap.packets(
            self.channel_id, self._sends, packets, position, state.read_index, self.outgoing.position, state.size
        )

    def _record_pieces(
        self, direction: Direction, transaction_id: int, pieces: Sequence[memoryview], total: int
    ) -> None:
        assert self.tap is not None
        snap = self.tap.snap_length
        offset = 0
        for piece in pieces:
            self.tap.external(self.channel_id, direction, transaction_id, total, [piece[:snap]], offset)
            offset += len(piece)

    def _record_external(
        self, direction: Direction, transaction_id: int, views: Sequence[memoryview], offset: int = 0
    ) -> None:
        assert self.tap is not None
        left = self.tap.snap_length
        if len(views) == 1:  # nearly always: the guest's pages lie side by side
            (view,) = views
            self.tap.external(self.channel_id, direction, transaction_id, offset + len(view), [view[:left]], offset)
            return
        length = offset + sum(map(len, views))
        data: list[memoryview] = []
        for view in views:
            if left <= 0:
                break
            data.append(view[:left])
            left -= len(view)
        self.tap.external(self.channel_id, direction, transaction_id, length, data, offset)
