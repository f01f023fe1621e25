"""The ring buffer: packets between two partitions through memory that both can change at any time.

:class:`IncomingRing` and :class:`OutgoingRing` are the two ends of one ring; a channel has two rings, see
:func:`~vmbus.ring.pair.map_ring_pair`. Either end may be the guest's. The work is done by a port: ``reference`` in
Python, or the C extension ``vmbus._native`` with the same behaviour.
"""

from vmbus.ring.errors import (
    InterruptsExternallyMasked,
    InvalidDataAvailable,
    InvalidDescriptorFlags,
    InvalidDescriptorLengths,
    InvalidDescriptorType,
    InvalidGpaDirectRangeCount,
    InvalidMessageLength,
    InvalidRingMemory,
    InvalidRingPointer,
    RingError,
    RingFull,
    UncommittedPackets,
)
from vmbus.ring.incoming import IncomingRing
from vmbus.ring.memory import RingMemory, RingState
from vmbus.ring.outgoing import OutgoingRing
from vmbus.ring.packet import (
    COMPLETION,
    COMPLETION_REQUESTED,
    GPA_DIRECT,
    IN_BAND,
    MAX_BATCH,
    TRANSFER_PAGES,
    OutgoingPacket,
    RingPacket,
    packet_size,
)

__all__ = [
    "COMPLETION",
    "COMPLETION_REQUESTED",
    "GPA_DIRECT",
    "IN_BAND",
    "MAX_BATCH",
    "TRANSFER_PAGES",
    "IncomingRing",
    "InterruptsExternallyMasked",
    "InvalidDataAvailable",
    "InvalidDescriptorFlags",
    "InvalidDescriptorLengths",
    "InvalidDescriptorType",
    "InvalidGpaDirectRangeCount",
    "InvalidMessageLength",
    "InvalidRingMemory",
    "InvalidRingPointer",
    "OutgoingPacket",
    "OutgoingRing",
    "RingError",
    "RingFull",
    "RingMemory",
    "RingPacket",
    "RingState",
    "UncommittedPackets",
    "packet_size",
]
