"""A tap: the hook through which a channel and the synic tell what crosses, to whoever records or shows it.

The runtimes (``vmbus.channel``, ``vmbus.synic``, ``vmbus.host``, ``vmbus.guest``) call a tap; devices and drivers never
do. What a tap is given is what the receiver acted on: copies that were already validated, never shared memory that the
peer can still change. A tap must not block, must not raise, and keeps nothing that it is given without copying it.

``vmbus.capture`` has the tap that records. Where nobody listens, hold ``None`` or a :class:`NullTap`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from vmbus.ring.packet import OutgoingPacket, RingPacket
from vmbus.wire.capture import Direction, NoteKind

__all__ = ["Bytes", "Direction", "NoteKind", "NullTap", "Tap", "TeeTap"]

Bytes = bytes | bytearray | memoryview


class Tap(Protocol):
    """What a runtime calls. All integers are as on the wire, all lengths and offsets are bytes."""

    @property
    def snap_length(self) -> int:
        """How many bytes of each piece of external data this tap wants at most; 0 means none (do not even look)."""
        ...

    def message(
        self, direction: Direction, vp: int, sint: int, connection_id: int, message_type: int, payload: Bytes
    ) -> None:
        """A hypervisor message: posted by the guest on ``connection_id``, or put into the slot of ``sint`` on ``vp``.

        What does not apply to the direction is 0. ``payload`` is the message without its 16-byte header.
        """

    def in_force(self, direction: Direction, payload: Bytes) -> None:
        """A control message that crossed before anybody listened, and that still holds: part of a state.

        A runtime that takes up a connection from an earlier process tells its tap all of them before anything else.
        """

    def signal(self, direction: Direction, channel_id: int, connection_id: int, flag: int) -> None:
        """An event: signalled by the guest on ``connection_id``, or an event flag set for the guest."""

    def packets(
        self,
        channel_id: int,
        direction: Direction,
        batch: Sequence[RingPacket] | Sequence[OutgoingPacket],
        offset: int,
        read_index: int,
        write_index: int,
        ring_size: int,
    ) -> None:
        """Packets that follow each other in a ring, taken out or put in at one go.

        ``offset`` is where the first one starts. The indices are the ring's as its control page had them then: before a
        batch is taken out, after one is put in.
        """

    def external(
        self,
        channel_id: int,
        direction: Direction,
        transaction_id: int,
        total_length: int,
        data: Iterable[Bytes],
        offset: int = 0,
    ) -> None:
        """Data that lies outside the ring: pages that a GPA-direct or transfer-page packet points at.

        Called when the data means something: for data from the guest before it is used, for data to the guest before
        the completion is signalled. ``total_length`` is that of all the packet's ranges together; ``data`` is the bytes
        from ``offset`` on, cut to ``snap_length``. Where each range is a message of its own (RNDIS), call it for each.
        """

    def register(self, vp: int, number: int, value: int) -> None:
        """The guest wrote a synthetic register; ``number`` is the MSR's, as in the TLFS."""

    def note(self, kind: NoteKind, text: str) -> None:
        """Something said that belongs on the time line: a console line, a kernel log line, a problem."""


class NullTap:
    """Listens to nothing."""

    snap_length = 0

    def message(
        self, direction: Direction, vp: int, sint: int, connection_id: int, message_type: int, payload: Bytes
    ) -> None:
        pass

    def in_force(self, direction: Direction, payload: Bytes) -> None:
        pass

    def signal(self, direction: Direction, channel_id: int, connection_id: int, flag: int) -> None:
        pass

    def packets(
        self,
        channel_id: int,
        direction: Direction,
        batch: Sequence[RingPacket] | Sequence[OutgoingPacket],
        offset: int,
        read_index: int,
        write_index: int,
        ring_size: int,
    ) -> None:
        pass

    def external(
        self,
        channel_id: int,
        direction: Direction,
        transaction_id: int,
        total_length: int,
        data: Iterable[Bytes],
        offset: int = 0,
    ) -> None:
        pass

    def register(self, vp: int, number: int, value: int) -> None:
        pass

    def note(self, kind: NoteKind, text: str) -> None:
        pass


class TeeTap:
    """Several taps as one; each gets everything, in the order given."""

    def __init__(self, *taps: Tap) -> None:
        self._taps = taps

    @property
    def snap_length(self) -> int:
        return max((tap.snap_length for tap in self._taps), default=0)

    def message(
        self, direction: Direction, vp: int, sint: int, connection_id: int, message_type: int, payload: Bytes
    ) -> None:
        for tap in self._taps:
            tap.message(direction, vp, sint, connection_id, message_type, payload)

    def in_force(self, direction: Direction, payload: Bytes) -> None:
        for tap in self._taps:
            tap.in_force(direction, payload)

    def signal(self, direction: Direction, channel_id: int, connection_id: int, flag: int) -> None:
        for tap in self._taps:
            tap.signal(direction, channel_id, connection_id, flag)

    def packets(
        self,
        channel_id: int,
        direction: Direction,
        batch: Sequence[RingPacket] | Sequence[OutgoingPacket],
        offset: int,
        read_index: int,
        write_index: int,
        ring_size: int,
    ) -> None:
        for tap in self._taps:
            tap.packets(channel_id, direction, batch, offset, read_index, write_index, ring_size)

    def external(
        self,
        channel_id: int,
        direction: Direction,
        transaction_id: int,
        total_length: int,
        data: Iterable[Bytes],
        offset: int = 0,
    ) -> None:
        pieces = list(data)
        for tap in self._taps:
            tap.external(channel_id, direction, transaction_id, total_length, pieces, offset)

    def register(self, vp: int, number: int, value: int) -> None:
        for tap in self._taps:
            tap.register(vp, number, value)

    def note(self, kind: NoteKind, text: str) -> None:
        for tap in self._taps:
            tap.note(kind, text)
