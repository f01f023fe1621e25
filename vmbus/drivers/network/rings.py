"""The guest's two buffers for the host: sections and large slots to send from, suballocations to receive in.

The guest owns the memory; the host says how it is divided. What the host names in a transfer-page packet is copied
out before it is looked at: the host may change it at any moment.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from typing import Final

from vmbus.drivers.buffers import PageBuffer, SharedBuffer
from vmbus.drivers.errors import DriverError
from vmbus.gpadl import GpaRange
from vmbus.inet.frame import OutgoingFrame
from vmbus.memory import PAGE_SIZE, GuestMemory
from vmbus.pages import PageAllocator
from vmbus.wire.rndis import HEADER_SIZE, PACKET_SIZE, RndisMessageType
from vmbus.wire.rndis_ppi import LargeSend, PerPacketInfo, PpiType

_HEAD: Final = Struct("<11I")  # wire.rndis.RndisMessage with a RndisPacket
_LENGTH: Final = Struct("<I")
_PACKET: Final = int(RndisMessageType.PACKET)
SLOT_PAGES: Final = 17
"""Pages of a slot for a frame of up to 64 KiB with its RNDIS header."""


class SendArea:
    """Sections for short messages, slots for long ones; each is taken, and given back when the host is done with it."""

    def __init__(self, sections: SharedBuffer, section_size: int) -> None:
        if not 1500 <= section_size <= len(sections.view):
            raise DriverError(f"the host divides the send buffer into sections of {section_size} bytes")
        self.section_size = section_size
        self.sections = sections
        self.free_sections = list(range(len(sections.view) // section_size))
        self._slots: list[PageBuffer] = []
        self.free_slots: list[int] = []

    def add_slots(self, memory: GuestMemory, pages: PageAllocator, count: int) -> None:
        """Make slots for frames that the host is to cut."""
        for _ in range(count):
            self.free_slots.append(len(self._slots))
            self._slots.append(PageBuffer(memory, pages, SLOT_PAGES))

    def put_message(self, section: int, message: bytes) -> None:
        """Put a control message into a section."""
        if len(message) > self.section_size:
            raise DriverError(f"a control message of {len(message)} bytes is longer than a section")
        start = section * self.section_size
        self.sections.view[start : start + len(message)] = message

    def put_frames(self, section: int, frames: Sequence[OutgoingFrame], first: int, most: int) -> tuple[int, int]:
        """Put frames from ``frames[first]`` on behind each other into a section; return how many and how many bytes."""
        view, at = self.sections.view, section * self.section_size
        start, end = at, at + self.section_size
        index = first
        while index < len(frames) and index - first < most and not frames[index].segment_size:
            frame = frames[index].frame
            size = len(frame)
            length = (HEADER_SIZE + PACKET_SIZE + size + 7) & ~7
            if at + length > end:
                break
            _HEAD.pack_into(view, at, _PACKET, length, PACKET_SIZE, size, 0, 0, 0, 0, 0, 0, 0)
            view[at + 44 : at + 44 + size] = frame
            at += length
            index += 1
        return index - first, at - start

    def messages(self, section: int, size: int) -> list[memoryview]:
        """The RNDIS messages that stand in the first ``size`` bytes of a section, for a recording."""
        found, at = [], section * self.section_size
        end = at + size
        while at < end:
            (length,) = _LENGTH.unpack_from(self.sections.view, at + 4)
            found.append(self.sections.view[at : min(at + max(length, HEADER_SIZE), end)])
            at += len(found[-1])
        return found

    def slot(self, slot: int, size: int) -> memoryview:
        """The first ``size`` bytes of a slot, for a recording."""
        return self._slots[slot].view[:size]

    def put_large(self, slot: int, frame: OutgoingFrame) -> list[GpaRange]:
        """Put a frame to be cut into a slot; return its pages."""
        head = 44 + 16
        size = len(frame.frame)
        view = self._slots[slot].view
        if head + size > len(view):
            raise DriverError(f"a frame of {size} bytes is longer than a slot")
        # 14 bytes of Ethernet and 20 of IPv4 stand before the TCP header.
        info = PerPacketInfo(
            info_type=PpiType.LARGE_SEND, value=LargeSend(mss=frame.segment_size, tcp_header_offset=34)
        )
        _HEAD.pack_into(view, 0, _PACKET, head + size, PACKET_SIZE + 16, size, 0, 0, 0, PACKET_SIZE, 16, 0, 0)
        view[44:60] = info.build()
        view[60 : 60 + size] = frame.frame
        count = (head + size + PAGE_SIZE - 1) // PAGE_SIZE
        return [GpaRange(head + size, 0, self._slots[slot].pfns[:count])]

    def free(self) -> None:
        """Give all pages back."""
        for slot in self._slots:
            slot.free()
        self.sections.free()
