"""The receiving half of a channel, its data outside the ring, and its life.

:meth:`Channel.service` is the heart: it masks the peer's interrupts, takes batches of validated copies out of the
ring, lets the handler act on them, gives the room back, sends the answers, and unmasks in the order in which no
wake-up can be lost (``vmbus.ring.IncomingRing``).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from uuid import UUID

from vmbus.channel.errors import NoSuchRanges, UnknownGpadl
from vmbus.channel.identity import ChannelIdentity
from vmbus.channel.recording import ChannelRecorder
from vmbus.channel.sending import SendingChannel
from vmbus.channel.spinning import Spinner
from vmbus.errors import VmbusError
from vmbus.gpadl import Gpadl
from vmbus.loop import Loop
from vmbus.memory import GuestMemory, PageViews
from vmbus.ring import RingPacket
from vmbus.ring.memory import READ_INDEX, WRITE_INDEX
from vmbus.ring.packet import GPA_DIRECT, MAX_BATCH, OutgoingPacket
from vmbus.ring.pair import RingPair
from vmbus.ring.ranges import gpa_direct_views
from vmbus.tap import Direction, Tap

BATCHES_PER_SERVICE = 8
"""Batches handled before other channels of the same loop get their turn."""


class Channel(SendingChannel):
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
        spinner: Spinner | None = None,
    ) -> None:
        """``receives`` is the direction of the packets that come in; ``signal`` wakes the peer."""
        recorder = None if tap is None else ChannelRecorder(tap, identity.channel_id, rings, receives)
        super().__init__(identity, rings.outgoing, loop, signal, recorder)
        self.incoming = rings.incoming
        self.memory = memory
        self.target_vp: int | None = 0
        self.error: VmbusError | None = None
        self._rings = rings
        self._gpadls = gpadls if gpadls is not None else {}
        self._on_failure = on_failure
        self._is_paused = False
        self._spinner = spinner
        self.busy_at = -(1 << 62)
        """When packets were last handled, in nanoseconds (``time.monotonic_ns``)."""

    # What the channel is

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

    # Receiving

    def on_signal(self) -> None:
        """The peer has signalled: there are packets, or there is room."""
        self.counters.signals_in += 1
        self.service()

    def service(self) -> None:
        """Handle what is in the incoming ring and send what can be sent; then be watched, or wait for a signal."""
        if not self.is_open or self._in_service:
            return
        if self._is_paused:
            self.flush()
            return
        ring = self.incoming
        self._in_service = True
        signal = False
        batches = 0
        gap = time.monotonic_ns() - self.busy_at
        try:
            ring.mask_interrupts()
            while self.is_open and not self._is_paused:
                before = ring.position
                packets = ring.read_batch()
                if packets:
                    if self.journal is not None:
                        self.journal.taken(before, ring.position, packets)
                    if self._recorder is not None:
                        self._recorder.received(packets)
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
                elif self._comes_to_rest(gap):
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
            if batches:
                self.busy_at = time.monotonic_ns()

    def _comes_to_rest(self, gap: int) -> bool:
        """The ring is empty: let it be watched, or ask for a signal; False if packets came meanwhile."""
        if self._spinner is not None and self._spinner.takes(self, gap):
            return True
        self.handler.on_rest()
        return not self.incoming.unmask_interrupts()

    def has_packets(self, nanoseconds: int) -> bool:
        """Whether there is something to read, or comes within so long (``vmbus.channel.spinning``)."""
        return self.incoming.spin(nanoseconds)

    def rest(self) -> None:
        """Ask for a signal with the next packet, after a time of watching the ring."""
        try:
            self.handler.on_rest()
            if self.incoming.unmask_interrupts():
                self.loop.call_soon(self.service)
        except VmbusError as error:
            self.fail(error)

    def pause(self) -> None:
        """Take nothing more out of the ring until :meth:`resume`: the handler has no room for what the peer sends.

        The peer fills its ring and then waits, as it does for any busy receiver.
        """
        self._is_paused = True
        if self._spinner is not None:
            self._spinner.drop(self)

    def resume(self) -> None:
        """Go on after :meth:`pause`; harmless if the channel is not paused."""
        if self._is_paused:
            self._is_paused = False
            self.loop.call_soon(self.service)

    def data_from_guest(self, packet: RingPacket, *, after: int = 0) -> PageViews:
        """The guest's pages that a GPA-direct packet wants us to read, adjacent ones merged; not copied.

        ``after`` bytes of the packet's data stand before them, in a buffer that both ends know. Raises
        ``OutsideGuestMemory``, a ``RingError`` or ``NoSuchRanges`` if the packet's ranges are bad.
        """
        views = self._views(packet)
        if self._recorder is not None:
            self._recorder.external(self._recorder.receives, packet.transaction_id, views, after)
        return views

    def data_in_buffer(self, packet: RingPacket, messages: Sequence[memoryview], *, before: int = 0) -> None:
        """Tell what of a buffer that both ends know came with a packet, before it is used.

        The messages follow each other, and ``before`` more bytes of the packet's data come after them.
        """
        if self._recorder is not None:
            total = sum(len(message) for message in messages) + before
            self._recorder.pieces(self._recorder.receives, packet.transaction_id, messages, total)

    def data_to_guest(self, packet: RingPacket) -> PageViews:
        """The guest's pages that we shall fill before we complete the packet's transaction."""
        views = self._views(packet)
        if self._recorder is not None:
            self._recorder.to_fill[packet.transaction_id] = views
        return views

    def _views(self, packet: RingPacket) -> PageViews:
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
        if self._recorder is not None:
            self._recorder.problem(f"channel {self.channel_id} fails: {error}")
        self.close()
        if self._on_failure is not None:
            self._on_failure(self, error)

    def close(self) -> None:
        """Stop: the handler drops its requests, the rings let their memory go."""
        if not self.is_open:
            return
        self.is_open = False
        if self._spinner is not None:
            self._spinner.drop(self)
        self._outbox.clear()
        if self._recorder is not None:
            self._recorder.to_fill.clear()
        self.handler.on_close()
        self._rings.close()
