"""Ring packets as Python sees them: a named tuple to read, a plain tuple to write, and their sizes."""

from __future__ import annotations

from typing import Final, NamedTuple

from vmbus.wire.ring import PacketDescriptor, PacketFlags, PacketFooter, PacketType

# Plain integers: an IntEnum member costs several times more to compare, and these are compared for every packet.
IN_BAND: Final = int(PacketType.IN_BAND)
TRANSFER_PAGES: Final = int(PacketType.TRANSFER_PAGES)
GPA_DIRECT: Final = int(PacketType.GPA_DIRECT)
COMPLETION: Final = int(PacketType.COMPLETION)

COMPLETION_REQUESTED: Final = int(PacketFlags.COMPLETION_REQUESTED)

DESCRIPTOR_SIZE: Final = PacketDescriptor.SIZE
FOOTER_SIZE: Final = PacketFooter.SIZE

MAX_BATCH: Final = 64
"""The most packets handed over at once: more of them at a time leave the processor's cache and malloc's pools."""

PORTION: Final = 16384
"""Bytes after which a sender had better commit: the receiver then works on the first packets, on a processor of its
own, while the next ones are copied.
"""

Payload = bytes | bytearray | memoryview

OutgoingPacket = tuple[int, int, int, Payload, Payload]
"""``(packet_type, flags, transaction_id, extension, payload)``; the extension's length is a multiple of 8."""


class RingPacket(NamedTuple):
    """A packet that was taken out of a ring: a copy, checked as a copy."""

    packet_type: int
    flags: int
    transaction_id: int
    extension: bytes
    """What lies between the 16-byte descriptor and the payload: a transfer-page or GPA-direct header with its
    ranges.
    """
    payload: bytes
    """Padded by the sender to a multiple of 8 bytes."""
    offset: int
    """Where in the ring it started, in bytes."""

    @property
    def wants_completion(self) -> bool:
        return bool(self.flags & COMPLETION_REQUESTED)

    @property
    def ring_size(self) -> int:
        """The bytes that it took up in the ring."""
        return DESCRIPTOR_SIZE + len(self.extension) + len(self.payload) + FOOTER_SIZE


def packet_size(payload_length: int, extension_length: int = 0) -> int:
    """Return the bytes that a packet takes up in a ring, footer included; compare with ``OutgoingRing.free``."""
    return ((DESCRIPTOR_SIZE + extension_length + payload_length + 7) & ~7) + FOOTER_SIZE
