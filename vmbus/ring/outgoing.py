"""The sending end of a ring."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from vmbus import native
from vmbus.atomics import full_fence
from vmbus.ring.errors import InvalidMessageLength, RingFull, UncommittedPackets
from vmbus.ring.memory import (
    FEATURE_BITS,
    INTERRUPT_MASK,
    MAX_RING_SIZE,
    PENDING_SEND_SIZE,
    READ_INDEX,
    WRITE_INDEX,
    RingMemory,
)
from vmbus.ring.packet import OutgoingPacket, Payload
from vmbus.ring.reference import ReferencePort, needed_for
from vmbus.wire.ring import RingFeatures


class WritePort(Protocol):
    """What writes fast; ``write`` stops at whatever the reference had better look at."""

    def write(self, position: int, limit: int, packets: Sequence[OutgoingPacket], /) -> tuple[int, int]: ...
    def commit_write(self, old: int, new: int, /) -> bool: ...
    def release(self) -> None: ...


class OutgoingRing:
    """Puts packets into a ring. One thread at a time.

    The loop of a sender that sleeps while the ring is full, and misses no signal::

        while packets:
            written = ring.write_batch(packets)
            if ring.commit():
                signal()
            packets = packets[written:]
            if ring.waiting:
                ...  # sleep: the ring is full, and the peer signals when there is room

    Writing moves a private position. :meth:`commit` publishes it, :meth:`revert` takes it back. When a call could
    write nothing, and nothing is uncommitted, it has asked the peer for a signal (``pending_send_size``); a later
    write takes that back.
    """

    __slots__ = (
        "_committed", "_count", "_first", "_laps", "_pending", "_port", "_position", "_reference",
        "full", "memory", "packets", "signals",
    )  # fmt: skip

    def __init__(self, memory: RingMemory, *, pure: bool = False) -> None:
        """Start at the write index that stands in the control page, and announce ``pending_send_size``.

        ``pure`` forces the Python version even where the C extension is there.
        """
        self.memory = memory
        self._reference = ReferencePort(memory)
        self._port: WritePort = self._reference
        self._first = self._committed = self._position = memory.index(WRITE_INDEX)
        self._laps = 0
        self._count = 0
        self._pending = 0
        self.packets = 0
        """Packets committed."""
        self.signals = 0
        """Commits after which the peer had to be signalled."""
        self.full = 0
        """Times that the ring was found full and a signal asked for."""
        memory.words[FEATURE_BITS] = int(RingFeatures.PENDING_SEND_SIZE)
        memory.words[PENDING_SEND_SIZE] = 0
        if native.extension is not None and not pure:
            self._port = native.extension.RingPort(memory.control, memory.data, memory.size)

    @property
    def position(self) -> int:
        """Where the next packet will be written, in bytes into the ring."""
        return self._position

    @property
    def free(self) -> int:
        """The bytes that can be written now; :func:`~vmbus.ring.packet_size` says what a packet takes."""
        return self._reference.free(self._position)

    @property
    def bytes(self) -> int:
        """Bytes of the ring filled."""
        return self._laps * self.memory.size + self._committed - self._first

    @property
    def largest_packet(self) -> int:
        """The bytes of the largest packet that ever fits, footer included."""
        return self.memory.size - 8

    @property
    def waiting(self) -> bool:
        """Whether the ring was full and the receiver has been asked for a signal when there is room."""
        return self._pending != 0

    @property
    def receiver_may_be_asleep(self) -> bool:
        """Whether packets lie in the ring and the receiver is not at work: its signal may have been lost with a process
        that stood here before. Signal it then; for an end that was taken over, as openvmm's ``reader_needs_signal``.
        """
        words = self.memory.words
        return not words[INTERRUPT_MASK] and words[WRITE_INDEX] != words[READ_INDEX]

    def write_batch(self, packets: Sequence[OutgoingPacket], limit: int = MAX_RING_SIZE) -> int:
        """Write packets while there is room and return how many were written.

        None but the first is begun after ``limit`` bytes: a sender of large packets that commits after each
        :data:`~vmbus.ring.packet.PORTION` keeps the receiver at work meanwhile.

        Less than all: commit, and call again with the rest, unless :attr:`waiting` says that a signal will come.
        """
        written, position = self._port.write(self._position, limit, packets)
        if not written:
            if not packets:
                return 0
            written, position = self._reference.write(self._position, limit, packets)
            while not written:
                if self._count or not self.request_room(needed_for(packets[0])):
                    return 0
                written, position = self._reference.write(self._position, limit, packets)
        self._position = position
        self._count += written
        if self._pending:
            self._clear_pending()
        return written

    def write(
        self, packet_type: int, flags: int, transaction_id: int, extension: Payload = b"", payload: Payload = b""
    ) -> None:
        """Write one packet, or raise :class:`RingFull`: the same rules as for :meth:`write_batch`."""
        packet = (packet_type, flags, transaction_id, extension, payload)
        if not self.write_batch((packet,)):
            raise RingFull(needed_for(packet))

    def revert(self) -> None:
        """Forget every packet that was not committed."""
        self._position = self._committed
        self._count = 0

    def commit(self) -> bool:
        """Show the packets that were written to the receiver; True means: signal it now."""
        if not self._count:
            return False
        old, new = self._committed, self._position
        signal = self._port.commit_write(old, new)
        self._committed = new
        self.packets += self._count
        self._count = 0
        if new < old:
            self._laps += 1
        if signal:
            self.signals += 1
        return signal

    def request_room(self, needed: int) -> bool:
        """Ask for a signal when ``needed`` bytes are free. True: they are free by now, and no signal is coming.

        Everything must be committed before, or the receiver computes with a write index that is too old. The size
        asked for is at least a quarter of the ring: a signal for each small packet would make the two ends take
        turns.
        """
        if self._count:
            raise UncommittedPackets(f"{self._count} packets are not committed: the signal for room would be lost")
        if needed > self.largest_packet:
            raise InvalidMessageLength(f"a packet of {needed} bytes never fits into a ring of {self.memory.size} bytes")
        self._pending = max((needed + 7) & ~7, self.largest_packet // 4 & ~7)
        self.memory.words[PENDING_SEND_SIZE] = self._pending
        full_fence()  # the receiver sees the size before its read index is looked at again
        if self.free >= needed:
            self._clear_pending()
            return True
        self.full += 1
        return False

    def _clear_pending(self) -> None:
        self._pending = 0
        self.memory.words[PENDING_SEND_SIZE] = 0

    def release(self) -> None:
        """Let the memory go, so that it can be unmapped. The ring is of no use afterwards."""
        self._port.release()
        self.memory.release()
