"""The ways a ring can be wrong, one class each; the names follow openvmm's ``vmbus_ring::Error``.

Every :class:`RingError` but the last three means that the peer broke a rule, and that the channel has to be closed.
"""

from __future__ import annotations

from vmbus.errors import VmbusError


class RingError(VmbusError):
    """A rule of the ring buffer is broken."""


class InvalidRingPointer(RingError):
    """A read or write index lies outside the ring or is not a multiple of 8."""

    def __init__(self, which: str, index: int, size: int) -> None:
        super().__init__(f"ring {which} index {index:#x} is not a multiple of 8 below the ring's size {size:#x}")


class InvalidDataAvailable(RingError):
    """The ring is not empty, and yet holds less than a packet descriptor."""

    def __init__(self, offset: int, available: int) -> None:
        super().__init__(f"the ring holds {available} bytes at {offset:#x}: less than a packet descriptor")


class InvalidDescriptorLengths(RingError):
    """A packet's length or payload offset contradicts itself, its type, or what the ring holds."""

    def __init__(self, offset: int, data_offset: int, length: int, available: int) -> None:
        super().__init__(
            f"ring packet at {offset:#x}: payload offset {data_offset} and length {length}"
            f" do not fit its type or the {available} bytes in the ring"
        )


class InvalidDescriptorFlags(RingError):
    """A packet has flags that do not exist."""

    def __init__(self, offset: int, flags: int) -> None:
        super().__init__(f"ring packet at {offset:#x}: unknown flags {flags:#x}")


class InvalidDescriptorType(RingError):
    """A packet is of a type that does not travel in rings."""

    def __init__(self, offset: int, packet_type: int) -> None:
        super().__init__(f"ring packet at {offset:#x}: unknown packet type {packet_type}")


class InvalidGpaDirectRangeCount(RingError):
    """A GPA-direct packet says that it has no ranges."""

    def __init__(self, offset: int) -> None:
        super().__init__(f"ring packet at {offset:#x}: a GPA-direct packet without ranges")


class InterruptsExternallyMasked(RingError):
    """We left the interrupt mask clear, and find it set: the peer overwrote it, and would never signal again."""

    def __init__(self) -> None:
        super().__init__("the ring's interrupt mask was clear and has been set by the other end")


class InvalidRingMemory(RingError):
    """Memory that cannot be a ring: wrong size or alignment."""


class InvalidMessageLength(RingError):
    """A packet that we were asked to send can never fit, or its extension is no multiple of 8 bytes."""


class UncommittedPackets(RingError):
    """The caller wants to sleep on a ring while it holds packets it has not committed: no signal might ever come."""


class RingFull(VmbusError):
    """There is no room for a packet now; nothing is broken. ``needed`` is its size in the ring, in bytes."""

    def __init__(self, needed: int) -> None:
        super().__init__(f"the ring has no room for a packet of {needed} bytes")
        self.needed = needed
