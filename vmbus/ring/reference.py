"""The ring in pure Python: moving packets, committing, deciding whether to signal. The reference for the C extension.

A port works on a :class:`~vmbus.ring.memory.RingMemory` and keeps no position: positions come in and go out. The C
extension has the same port; it takes the plain cases only and hands whatever looks odd back to this one, so that
all judging of a hostile peer is done here.

Sources: openvmm ``vmbus_ring/src/lib.rs`` (``parse_packet``, ``commit_read``, ``commit_write``); Linux 6.12
``drivers/hv/ring_buffer.c`` (``hv_ringbuffer_write``, ``hv_signal_on_write``, ``hv_pkt_iter_close``), whose fences
stand at the same places.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from vmbus.atomics import acquire_fence, full_fence, release_fence
from vmbus.ring.errors import (
    InvalidDataAvailable,
    InvalidDescriptorFlags,
    InvalidDescriptorLengths,
    InvalidDescriptorType,
    InvalidGpaDirectRangeCount,
    InvalidMessageLength,
    RingError,
)
from vmbus.ring.memory import (
    FEATURE_BITS,
    INTERRUPT_MASK,
    PENDING_SEND_SIZE,
    READ_INDEX,
    WRITE_INDEX,
    RingMemory,
)
from vmbus.ring.packet import (
    COMPLETION,
    COMPLETION_REQUESTED,
    DESCRIPTOR_SIZE,
    FOOTER_SIZE,
    GPA_DIRECT,
    IN_BAND,
    TRANSFER_PAGES,
    OutgoingPacket,
    RingPacket,
    packet_size,
)
from vmbus.wire.ring import PacketDescriptor, PacketFooter, RingFeatures

_DESCRIPTOR = PacketDescriptor.STRUCT
_FOOTER = PacketFooter.STRUCT
_LONGEST = 0xFFFF * 8  # length8 has 16 bits
_PADDING = tuple(bytes(count) for count in range(8))
_PENDING_SEND_SIZE_SUPPORTED = int(RingFeatures.PENDING_SEND_SIZE)
_new_packet = tuple.__new__


class ReferencePort:
    """Either end of a ring, stateless."""

    __slots__ = ("_memory",)

    def __init__(self, memory: RingMemory) -> None:
        self._memory = memory

    def release(self) -> None:
        """Nothing is held beside the memory itself."""

    def read(self, position: int, limit: int) -> tuple[list[RingPacket], int]:
        """Copy up to ``limit`` packets out from ``position`` on; return them and the new position.

        Sound packets in front of a bad one are returned; the call that starts at the bad one raises.
        """
        memory = self._memory
        data, size = memory.data, memory.size
        reach = len(data)
        write_index = memory.index(WRITE_INDEX)
        acquire_fence()  # the packets are read after the index that announced them
        available = (write_index - position) % size
        packets: list[RingPacket] = []
        while available and len(packets) < limit:
            if available < DESCRIPTOR_SIZE:
                return self._stop(packets, position, InvalidDataAvailable(position, available))
            if position + DESCRIPTOR_SIZE <= reach:
                packet_type, offset8, length8, flags, transaction_id = _DESCRIPTOR.unpack_from(data, position)
            else:
                packet_type, offset8, length8, flags, transaction_id = _DESCRIPTOR.unpack(
                    memory.read(position, DESCRIPTOR_SIZE)
                )
            # From here on only the copy counts: the peer may be changing the original.
            length = length8 << 3
            start = offset8 << 3
            if start < DESCRIPTOR_SIZE or length < start or length + FOOTER_SIZE > available:
                return self._stop(packets, position, InvalidDescriptorLengths(position, start, length, available))
            if flags & ~COMPLETION_REQUESTED:
                return self._stop(packets, position, InvalidDescriptorFlags(position, flags))
            if start == DESCRIPTOR_SIZE:
                extension = b""
            else:
                extension = memory.read(position + DESCRIPTOR_SIZE, start - DESCRIPTOR_SIZE)
            if packet_type not in (IN_BAND, COMPLETION):
                if packet_type not in (TRANSFER_PAGES, GPA_DIRECT):
                    return self._stop(packets, position, InvalidDescriptorType(position, packet_type))
                if not extension:
                    return self._stop(packets, position, InvalidDescriptorLengths(position, start, length, available))
                if packet_type == GPA_DIRECT and extension[4:8] == b"\0\0\0\0":
                    return self._stop(packets, position, InvalidGpaDirectRangeCount(position))
            end = position + length
            payload = (
                bytes(data[position + start : end]) if end <= reach else memory.read(position + start, length - start)
            )
            packets.append(_new_packet(RingPacket, (packet_type, flags, transaction_id, extension, payload, position)))
            taken = length + FOOTER_SIZE
            available -= taken
            position += taken
            if position >= size:
                position -= size
        return packets, position

    @staticmethod
    def _stop(packets: list[RingPacket], position: int, error: RingError) -> tuple[list[RingPacket], int]:
        if packets:
            return packets, position
        raise error

    def write(self, position: int, limit: int, packets: Sequence[OutgoingPacket]) -> tuple[int, int]:
        """Copy packets in from ``position`` on while there is room; return how many, and the new position.

        None but the first is begun after ``limit`` bytes of the ring.

        Nothing is announced to the peer yet. A packet that can never be sent raises :class:`InvalidMessageLength`,
        when it is the first; otherwise those in front of it are written.
        """
        memory = self._memory
        data, size = memory.data, memory.size
        reach = len(data)
        free = self.free(position)
        written = used = 0
        for packet_type, flags, transaction_id, extension, payload in packets:
            payload_length = len(payload)
            start = DESCRIPTOR_SIZE + len(extension)
            end = start + payload_length
            length = (end + 7) & ~7
            taken = length + FOOTER_SIZE
            if used >= limit and written:
                break
            if taken > free or start & 7 or length > _LONGEST:
                if start & 7 or length > _LONGEST or taken > size - 8:
                    if written:
                        break
                    raise InvalidMessageLength(
                        f"a packet of {taken} bytes with an extension of {len(extension)} bytes does not fit:"
                        f" {min(size - 8, _LONGEST + FOOTER_SIZE)} bytes at most, the extension a multiple of 8"
                    )
                free = self.free(position)  # the peer may have read on since
                if taken > free:
                    break
            if position + taken <= reach:
                _DESCRIPTOR.pack_into(data, position, packet_type, start >> 3, length >> 3, flags, transaction_id)
                if extension:
                    data[position + DESCRIPTOR_SIZE : position + start] = extension
                data[position + start : position + end] = payload
                if end != length:
                    data[position + end : position + length] = _PADDING[length - end]
                _FOOTER.pack_into(data, position + length, 0, position)
            else:
                memory.write(position, b"".join((
                    _DESCRIPTOR.pack(packet_type, start >> 3, length >> 3, flags, transaction_id),
                    extension, payload, _PADDING[length - end], _FOOTER.pack(0, position),
                )))  # fmt: skip
            written += 1
            used += taken
            free -= taken
            position += taken
            if position >= size:
                position -= size
        return written, position

    def free(self, position: int) -> int:
        """Return the bytes that may be written at ``position``. The last 8 never are: full must not look like
        empty.
        """
        memory = self._memory
        size = memory.size
        return size - (position - memory.index(READ_INDEX)) % size - 8

    def spin(self, position: int, nanoseconds: int) -> bool:
        """Look at the write index until it is not ``position``, or for so long; return whether it is not."""
        words = self._memory.words
        end = time.monotonic_ns() + nanoseconds
        while words[WRITE_INDEX] == position:
            if time.monotonic_ns() >= end:
                return False
        return True

    def commit_write(self, old: int, new: int) -> bool:
        """Announce what was written from ``old`` to ``new``; return whether the peer wants a signal.

        It wants one when it has not masked interrupts and the ring was empty before: then it may be asleep.
        """
        words = self._memory.words
        release_fence()  # the packets are there before the index that announces them
        words[WRITE_INDEX] = new
        full_fence()  # the mask and the read index are looked at after the peer can see the new index
        return not words[INTERRUPT_MASK] and words[READ_INDEX] == old

    def commit_read(self, old: int, new: int) -> bool:
        """Give the room from ``old`` to ``new`` back; return whether the peer, waiting for room, wants a signal.

        It wants one exactly when this commit takes the free bytes over the size that it waits for. The order
        matters: the read index, then the size, then the write index afresh; with an older write index a wake-up can
        be lost.
        """
        words = self._memory.words
        release_fence()  # the packets have been read before their room is given back
        words[READ_INDEX] = new
        full_fence()
        pending = words[PENDING_SEND_SIZE]
        if not pending or not words[FEATURE_BITS] & _PENDING_SEND_SIZE_SUPPORTED:
            return False
        acquire_fence()
        size = self._memory.size
        write_index = words[WRITE_INDEX]
        if write_index >= size:
            return False  # the next read will say so
        # Here, as in Linux, the whole ring counts as free when it is empty: more than ``pending`` must be free.
        return size - (write_index - old) % size <= pending < size - (write_index - new) % size


def needed_for(packet: OutgoingPacket) -> int:
    """Return the bytes that a packet takes up in the ring."""
    return packet_size(len(packet[4]), len(packet[3]))
