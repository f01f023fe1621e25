"""The packets that lie in a copy of a ring: those that wait, and past ones that were not yet written over.

Packets that wait are found forwards from the read index, as a receiver finds them. Past ones are found backwards:
every packet ends with a footer that says where it starts (openvmm ``vmbus_ring/src/lib.rs`` ``Footer``; Linux
``ring_buffer.c``, ``hv_get_ring_bufferindices``), and before it ends the packet before. The walk stops at the first
that makes no sense, or where the ring has been written over since. Nothing is believed: the ring was copied while
both ends may have been writing.
"""

from __future__ import annotations

from typing import NamedTuple

from vmbus.ring.packet import COMPLETION, DESCRIPTOR_SIZE, FOOTER_SIZE, GPA_DIRECT, IN_BAND, TRANSFER_PAGES
from vmbus.wire.ring import ControlPage, PacketDescriptor, PacketFooter

_TYPES = frozenset({IN_BAND, TRANSFER_PAGES, GPA_DIRECT, COMPLETION})


class FoundPacket(NamedTuple):
    """A packet in a ring's image."""

    offset: int
    content: bytes
    """Descriptor, extension and payload, unwrapped."""
    is_past: bool
    """It was taken out already; if not, it waits."""


class RingImage:
    """A copy of a ring: its control page and its data."""

    def __init__(self, control: bytes, data: bytes) -> None:
        self.control = ControlPage.parse(control)
        self.data = data
        self.size = len(data)

    @property
    def is_sound(self) -> bool:
        """Whether both indices can be indices of a ring of this size."""
        indices = (self.control.write_index, self.control.read_index)
        return self.size > 0 and all(index < self.size and not index & 7 for index in indices)

    def packets(self) -> list[FoundPacket]:
        """All packets that can be found, the oldest first; none in a ring that is not sound."""
        if not self.is_sound:
            return []
        return [*self.past(), *self.waiting()]

    def waiting(self) -> list[FoundPacket]:
        """The packets between the read index and the write index."""
        found: list[FoundPacket] = []
        at = self.control.read_index
        left = (self.control.write_index - at) % self.size
        while left >= DESCRIPTOR_SIZE + FOOTER_SIZE:
            length = self._length_at(at)
            if not length or length + FOOTER_SIZE > left:
                break
            found.append(FoundPacket(at, self._read(at, length), False))
            at = (at + length + FOOTER_SIZE) % self.size
            left -= length + FOOTER_SIZE
        return found

    def past(self) -> list[FoundPacket]:
        """The packets before the read index, as far back as they were not written over."""
        found: list[FoundPacket] = []
        end = self.control.read_index
        # Behind the write index comes the oldest content; what lies before it belongs to packets that still wait.
        left = self.size - (self.control.write_index - end) % self.size
        while left >= DESCRIPTOR_SIZE + FOOTER_SIZE:
            footer = PacketFooter.parse(self._read((end - FOOTER_SIZE) % self.size, FOOTER_SIZE))
            start = footer.offset
            length = (end - start) % self.size or self.size
            if footer.reserved or start >= self.size or start & 7 or length > left:
                break
            if self._length_at(start) != length - FOOTER_SIZE:
                break
            found.append(FoundPacket(start, self._read(start, length - FOOTER_SIZE), True))
            end = start
            left -= length
        return found[::-1]

    def _length_at(self, offset: int) -> int:
        """What a sound descriptor says the packet's length is; 0 if it is none."""
        descriptor = PacketDescriptor.parse(self._read(offset, DESCRIPTOR_SIZE))
        length, data_offset = descriptor.length8 * 8, descriptor.data_offset8 * 8
        is_sound = (
            descriptor.packet_type in _TYPES
            and descriptor.flags <= 1
            and DESCRIPTOR_SIZE <= data_offset <= length
            and length + FOOTER_SIZE <= self.size
        )
        return length if is_sound else 0

    def _read(self, offset: int, length: int) -> bytes:
        end = offset + length
        if end <= self.size:
            return self.data[offset:end]
        return self.data[offset:] + self.data[: end - self.size]
