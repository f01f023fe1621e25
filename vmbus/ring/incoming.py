"""The receiving end of a ring."""

from __future__ import annotations

from typing import Protocol

from vmbus import native
from vmbus.atomics import full_fence
from vmbus.ring.errors import InterruptsExternallyMasked, UncommittedPackets
from vmbus.ring.memory import (
    FEATURE_BITS,
    INTERRUPT_MASK,
    PENDING_SEND_SIZE,
    READ_INDEX,
    WRITE_INDEX,
    RingMemory,
)
from vmbus.ring.packet import MAX_BATCH, RingPacket
from vmbus.ring.reference import ReferencePort
from vmbus.wire.ring import RingFeatures


class ReadPort(Protocol):
    """What reads fast; ``read`` returns None for whatever the reference had better look at."""

    def read(self, position: int, limit: int, /) -> tuple[list[RingPacket], int] | None: ...
    def commit_read(self, old: int, new: int, /) -> bool: ...
    def spin(self, position: int, nanoseconds: int, /) -> bool: ...
    def release(self) -> None: ...


class IncomingRing:
    """Takes packets out of a ring. One thread at a time.

    The loop of a receiver that sleeps on a signal, and misses none::

        ring.mask_interrupts()
        while True:
            while packets := ring.read_batch():
                ...
                if ring.commit():
                    signal()
            if not ring.unmask_interrupts():
                break  # empty, and the next packet comes with a signal: sleep
            ring.mask_interrupts()

    Reading moves a private position. :meth:`commit` publishes it, :meth:`revert` takes it back. A
    :class:`~vmbus.ring.RingError` means that the peer broke the ring; the position stays where it was.
    """

    __slots__ = (
        "_committed",
        "_count",
        "_first",
        "_laps",
        "_masked",
        "_port",
        "_position",
        "_reference",
        "memory",
        "packets",
        "signals",
    )

    def __init__(self, memory: RingMemory, *, pure: bool = False) -> None:
        """Start at the read index that stands in the control page, with interrupts masked.

        ``pure`` forces the Python version even where the C extension is there.
        """
        self.memory = memory
        self._reference = ReferencePort(memory)
        self._port: ReadPort = self._reference
        self._first = self._committed = self._position = memory.index(READ_INDEX)
        self._laps = 0
        self._count = 0
        self.packets = 0
        """Packets committed."""
        self.signals = 0
        """Commits after which the peer had to be signalled."""
        self.mask_interrupts()
        if native.extension is not None and not pure:
            self._port = native.extension.RingPort(memory.control, memory.data, memory.size)

    @property
    def position(self) -> int:
        """Where the next packet will be read, in bytes into the ring."""
        return self._position

    @property
    def available(self) -> int:
        """The bytes that are waiting to be read."""
        return (self.memory.index(WRITE_INDEX) - self._position) % self.memory.size

    @property
    def uncommitted(self) -> int:
        """The packets that were read and not committed yet."""
        return self._count

    @property
    def bytes(self) -> int:
        """Bytes of the ring given back."""
        return self._laps * self.memory.size + self._committed - self._first

    @property
    def peer_waits_for_room(self) -> bool:
        """Whether the sender says it uses ``pending_send_size``, and so is to be signalled when room appears."""
        return bool(self.memory.words[FEATURE_BITS] & RingFeatures.PENDING_SEND_SIZE)

    @property
    def sender_may_be_asleep(self) -> bool:
        """Whether the sender waits for room that is there: its signal may have been lost with a process that stood here
        before. Signal it then; for an end that was taken over, as openvmm's ``writer_needs_signal``.
        """
        pending = self.memory.words[PENDING_SEND_SIZE]
        return pending != 0 and self.memory.size - self.available > pending

    def read_batch(self, max_packets: int = MAX_BATCH) -> list[RingPacket]:
        """Take up to ``max_packets`` (at most 64) packets; an empty list means that there are none now."""
        limit = max_packets if max_packets < MAX_BATCH else MAX_BATCH
        taken = self._port.read(self._position, limit)
        if taken is None:
            taken = self._reference.read(self._position, limit)
        packets, self._position = taken
        self._count += len(packets)
        return packets

    def read(self) -> RingPacket | None:
        """Take one packet, or return None when there is none."""
        packets = self.read_batch(1)
        return packets[0] if packets else None

    def peek(self) -> RingPacket | None:
        """Return the next packet and leave it in the ring."""
        packets, _ = self._reference.read(self._position, 1)
        return packets[0] if packets else None

    def revert(self) -> None:
        """Put every packet back that was not committed."""
        self._position = self._committed
        self._count = 0

    def commit(self) -> bool:
        """Give the room of the packets that were read back to the sender; True means: signal it now."""
        if not self._count:
            return False
        old, new = self._committed, self._position
        signal = self._port.commit_read(old, new)
        self._committed = new
        self.packets += self._count
        self._count = 0
        if new < old:
            self._laps += 1
        if signal:
            self.signals += 1
        return signal

    def spin(self, nanoseconds: int) -> bool:
        """Watch the ring for so long at most, without sleeping; return whether there is something to read.

        The sender need not signal meanwhile: mask interrupts before.
        """
        return self._port.spin(self._position, nanoseconds)

    def mask_interrupts(self) -> None:
        """Tell the sender that no signals are needed: this end is reading anyway."""
        self.memory.words[INTERRUPT_MASK] = 1
        self._masked = True

    def unmask_interrupts(self) -> bool:
        """Ask for a signal with the next packet; True means: packets came in the meantime, read on instead of
        sleeping.

        Everything must be committed before: the sender signals only when it sees an empty ring.
        """
        if self._count:
            raise UncommittedPackets(f"{self._count} packets are not committed: the next signal would be lost")
        self.memory.words[INTERRUPT_MASK] = 0
        self._masked = False
        full_fence()  # the sender sees the mask before the write index is looked at again
        return self.memory.index(WRITE_INDEX) != self._position

    def verify_unmasked(self) -> None:
        """Raise :class:`InterruptsExternallyMasked` if the mask was cleared here and is set now."""
        if not self._masked and self.memory.words[INTERRUPT_MASK]:
            raise InterruptsExternallyMasked

    def release(self) -> None:
        """Let the memory go, so that it can be unmapped. The ring is of no use afterwards."""
        self._port.release()
        self.memory.release()
