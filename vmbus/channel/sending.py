"""The sending half of a channel: packets of every kind, in order, into a ring that may be full.

Sends are collected and put into the ring together, at the latest when the loop gets its turn, so that a burst costs
one signal.  What finds no room waits in a bounded backlog, and the peer is asked for a signal when there is room
(``pending_send_size``).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from vmbus.channel.errors import BacklogFull
from vmbus.channel.handler import ChannelHandler, ChannelJournal
from vmbus.channel.identity import ChannelCounters, ChannelIdentity
from vmbus.channel.recording import ChannelRecorder
from vmbus.errors import VmbusError
from vmbus.gpadl import GpaRange
from vmbus.loop import Loop
from vmbus.ring.outgoing import OutgoingRing
from vmbus.ring.packet import (
    COMPLETION,
    COMPLETION_REQUESTED,
    GPA_DIRECT,
    IN_BAND,
    MAX_BATCH,
    PORTION,
    TRANSFER_PAGES,
    OutgoingPacket,
)
from vmbus.ring.ranges import build_gpa_direct, build_transfer_pages

MAX_BACKLOG = 4096
"""Packets that wait for room in the ring before the channel gives its peer up."""
MAX_BACKLOG_BYTES = 64 << 20
"""Bytes of them; they are counted whenever the ring is full."""


class SendingChannel:
    """What a channel sends.  :class:`~vmbus.channel.Channel` adds what it receives, and its end."""

    def __init__(
        self,
        identity: ChannelIdentity,
        outgoing: OutgoingRing,
        loop: Loop,
        signal: Callable[[], None],
        recorder: ChannelRecorder | None,
    ) -> None:
        self.identity = identity
        self.outgoing = outgoing
        self.loop = loop
        self.handler = ChannelHandler()
        self.counters = ChannelCounters()
        self.journal: ChannelJournal | None = None
        self.is_open = True
        self._signal_peer = signal
        self._recorder = recorder
        self._outbox: deque[OutgoingPacket] = deque()
        self._flush_is_due = False
        self._in_service = False
        self._ring_was_full = False

    @property
    def channel_id(self) -> int:
        return self.identity.channel_id

    @property
    def is_recorded(self) -> bool:
        """Whether somebody wants to be told of data outside the ring."""
        return self._recorder is not None

    @property
    def backlog(self) -> int:
        """Packets that wait for room in the ring."""
        return len(self._outbox)

    @property
    def unsent(self) -> list[OutgoingPacket]:
        """What waits to be put into the ring."""
        return list(self._outbox)

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
        if self._recorder is not None:
            self._recorder.completes(transaction_id, filled)
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
        if self._recorder is not None:
            pieces = [buffer[offset : offset + length] for offset, length in ranges]
            self._recorder.pieces(self._recorder.sends, transaction_id, pieces, sum(len(piece) for piece in pieces))
        self.send(
            TRANSFER_PAGES,
            payload,
            transaction_id=transaction_id,
            extension=build_transfer_pages(set_id, ((length, offset) for offset, length in ranges)),
            completion_requested=completion_requested,
        )

    def data_out_of_buffer(self, transaction_id: int, messages: Sequence[memoryview]) -> None:
        """Tell what goes with a packet that is about to be sent, from a buffer that both ends know or our own pages."""
        if self._recorder is not None:
            total = sum(len(message) for message in messages)
            self._recorder.pieces(self._recorder.sends, transaction_id, messages, total)

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
                batch = list(outbox) if len(outbox) <= MAX_BATCH else [outbox[index] for index in range(MAX_BATCH)]
                before = ring.position
                written = ring.write_batch(batch, PORTION)
                if written:
                    if self._recorder is not None:
                        self._recorder.sent(batch[:written], before)
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
            waiting = sum(len(extension) + len(payload) for *_, extension, payload in outbox)
            if waiting > MAX_BACKLOG_BYTES:
                self.fail(BacklogFull(f"channel {self.channel_id}: {waiting} bytes wait for room in the ring"))
                return
            self.counters.backlog_peak = max(self.counters.backlog_peak, had_backlog)
        elif self._ring_was_full:
            self._ring_was_full = False
            self.handler.on_writable()

    def fail(self, error: VmbusError) -> None:
        """Close this channel because of what the peer did; others go on."""
        raise NotImplementedError
