"""What a channel tells a tap: packets with the state of their ring, and the data outside it that they point at."""

from __future__ import annotations

from collections.abc import Sequence

from vmbus.ring import RingPacket
from vmbus.ring.packet import OutgoingPacket
from vmbus.ring.pair import RingPair
from vmbus.tap import Direction, NoteKind, Tap


class ChannelRecorder:
    """The tap of one channel. What it is given is what the receiver acts on, never memory that can still change."""

    __slots__ = ("_channel_id", "_incoming", "_outgoing", "_tap", "receives", "sends", "to_fill")

    def __init__(self, tap: Tap, channel_id: int, rings: RingPair, receives: Direction) -> None:
        self._tap = tap
        self._channel_id = channel_id
        self._incoming = rings.incoming
        self._outgoing = rings.outgoing
        self.receives = receives
        self.sends = Direction.HOST_TO_GUEST if receives is Direction.GUEST_TO_HOST else Direction.GUEST_TO_HOST
        self.to_fill: dict[int, Sequence[memoryview]] = {}
        """The pages that are filled before a transaction is completed, by its id: looked at when it is."""

    def received(self, packets: Sequence[RingPacket]) -> None:
        """A batch was taken out of the ring, and not committed yet."""
        state = self._incoming.memory.state()
        self._tap.packets(
            self._channel_id,
            self.receives,
            packets,
            packets[0].offset,
            state.read_index,
            state.write_index,
            state.size,
        )

    def sent(self, packets: Sequence[OutgoingPacket], position: int) -> None:
        """A batch was put into the ring at ``position``, and not committed yet."""
        state = self._outgoing.memory.state()
        self._tap.packets(
            self._channel_id, self.sends, packets, position, state.read_index, self._outgoing.position, state.size
        )

    def completes(self, transaction_id: int, filled: int | None) -> None:
        """A transaction is about to be completed, ``filled`` bytes of its pages filled (all, if None)."""
        views = self.to_fill.pop(transaction_id, None)
        if views is not None and filled != 0:
            self.external(self.sends, transaction_id, views if filled is None else _cut(views, filled))

    def pieces(self, direction: Direction, transaction_id: int, pieces: Sequence[memoryview], total: int) -> None:
        """Data outside the ring, each piece of which is a message of its own, of ``total`` bytes."""
        snap = self._tap.snap_length
        offset = 0
        for piece in pieces:
            self._tap.external(self._channel_id, direction, transaction_id, total, [piece[:snap]], offset)
            offset += len(piece)

    def external(self, direction: Direction, transaction_id: int, views: Sequence[memoryview], offset: int = 0) -> None:
        """Data outside the ring, in pieces that follow each other from byte ``offset`` on."""
        left = self._tap.snap_length
        if len(views) == 1:  # nearly always: the guest's pages lie side by side
            (view,) = views
            self._tap.external(self._channel_id, direction, transaction_id, offset + len(view), [view[:left]], offset)
            return
        length = offset + sum(map(len, views))
        data: list[memoryview] = []
        for view in views:
            if left <= 0:
                break
            data.append(view[:left])
            left -= len(view)
        self._tap.external(self._channel_id, direction, transaction_id, length, data, offset)

    def problem(self, text: str) -> None:
        """A line that belongs on the time line."""
        self._tap.note(NoteKind.PROBLEM, text)


def _cut(views: Sequence[memoryview], size: int) -> list[memoryview]:
    """The first ``size`` bytes of a buffer in pieces."""
    found: list[memoryview] = []
    for view in views:
        if size <= 0:
            break
        found.append(view[:size])
        size -= len(view)
    return found
