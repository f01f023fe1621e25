"""GPADLs and page ranges: how a guest names its own memory to the host.

A *range* is a byte count, a byte offset into the first page, and the page frame numbers. A *GPADL* is a list of
ranges that the guest announces once, in a header message and as many body messages as it takes, and then names by
an id. The same ranges head every GPA-direct packet.

Sources: openvmm ``vmbus_ring/src/gparange.rs`` (``parse``, ``MultiPagedRangeBuf``),
``vmbus_server/src/channels.rs`` (``Gpadl::append``, ``handle_gpadl_header_core``); Linux 6.12
``drivers/hv/channel.c`` (``create_gpadl_header``). This module knows no messages and no channel: ``vmbus.control``
does.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from struct import Struct, error, unpack_from
from typing import NamedTuple

from vmbus.errors import VmbusError
from vmbus.memory import PAGE_SHIFT, PAGE_SIZE, GuestMemory, Mapping
from vmbus.wire import ring as wire

MAX_GPADL_BYTES = 0xFFF8
"""The most bytes of ranges in one GPADL: the header's ``range_buflen`` has 16 bits, and words have 8 bytes."""

_RANGE_HEAD = wire.GpaRange.STRUCT


class GpadlError(VmbusError):
    """A rule about page ranges or GPADLs is broken."""


class EmptyRange(GpadlError):
    """The list of ranges ends before the number of ranges that it should have."""


class EmptyByteCount(GpadlError):
    """A range of 0 bytes."""


class OffsetTooLarge(GpadlError):
    """A range whose offset is not inside its first page."""


class RangeTooSmall(GpadlError):
    """A range with fewer page numbers than its bytes need."""


class RangeCountTooLarge(GpadlError):
    """More ranges than the bytes could hold."""


class GpadlIncomplete(GpadlError):
    """A GPADL is used although parts of it are still missing."""


class GpadlAlreadyComplete(GpadlError):
    """A body message for a GPADL that already has everything its header announced."""


class NotContiguous(GpadlError):
    """A GPADL that must be exactly one range of whole pages, as for a ring, and is something else."""


class GpaRange(NamedTuple):
    """``byte_count`` bytes that start ``byte_offset`` bytes into the first of the pages ``pfns``."""

    byte_count: int
    byte_offset: int
    pfns: tuple[int, ...]

    def segments(self) -> list[tuple[int, int]]:
        """Return the range as ``(gpa, length)`` pieces, neighbouring pages joined."""
        pfns = self.pfns
        first = pfns[0]
        if pfns == tuple(range(first, first + len(pfns))):
            return [((first << PAGE_SHIFT) + self.byte_offset, self.byte_count)]
        pieces: list[tuple[int, int]] = []
        start = (first << PAGE_SHIFT) + self.byte_offset
        end = (first + 1) << PAGE_SHIFT
        for pfn in pfns[1:]:
            gpa = pfn << PAGE_SHIFT
            if gpa != end:
                pieces.append((start, end - start))
                start = gpa
            end = gpa + PAGE_SIZE
        end -= len(pfns) * PAGE_SIZE - self.byte_offset - self.byte_count  # what the last page has too much
        pieces.append((start, end - start))
        return pieces

    def views(self, memory: GuestMemory) -> list[memoryview]:
        """Return writable views of the bytes in the guest's memory, as ``preadv`` takes them."""
        return [memory.view(gpa, length) for gpa, length in self.segments()]

    def build(self) -> bytes:
        """The range as it lies in a message or packet."""
        return _RANGE_HEAD.pack(self.byte_count, self.byte_offset) + Struct(f"<{len(self.pfns)}Q").pack(*self.pfns)


def parse_ranges(data: bytes, count: int, offset: int = 0) -> tuple[list[GpaRange], int]:
    """Read ``count`` ranges from ``data[offset:]``; return them and where they end.

    ``data`` is a copy that nobody changes. Nothing is allocated beyond what ``data`` really holds.
    """
    if count * (_RANGE_HEAD.size + 8) > len(data) - offset:
        raise RangeCountTooLarge(f"{count} page ranges do not fit into {len(data) - offset} bytes")
    ranges: list[GpaRange] = []
    for _ in range(count):
        try:
            byte_count, byte_offset = _RANGE_HEAD.unpack_from(data, offset)
        except error:
            raise EmptyRange(f"the list of page ranges ends after {len(ranges)} of {count} ranges") from None
        if not byte_count:
            raise EmptyByteCount(f"page range {len(ranges)} has no bytes")
        if byte_offset >= PAGE_SIZE:
            raise OffsetTooLarge(f"page range {len(ranges)} starts at byte {byte_offset} of a page of {PAGE_SIZE}")
        offset += _RANGE_HEAD.size
        pages = (byte_offset + byte_count + PAGE_SIZE - 1) >> PAGE_SHIFT
        if pages * 8 > len(data) - offset:
            raise RangeTooSmall(
                f"page range {len(ranges)} needs {pages} page numbers, {max(0, len(data) - offset) // 8} are there"
            )
        ranges.append(GpaRange(byte_count, byte_offset, unpack_from(f"<{pages}Q", data, offset)))
        offset += pages * 8
    return ranges, offset


def build_ranges(ranges: Iterable[GpaRange]) -> bytes:
    """The ranges as they lie behind each other in a message or packet."""
    return b"".join(one.build() for one in ranges)


class Gpadl:
    """A complete GPADL: its id and its ranges, every page of which lies in the guest's memory."""

    __slots__ = ("gpadl_id", "memory", "ranges")

    def __init__(self, gpadl_id: int, ranges: Sequence[GpaRange], memory: GuestMemory) -> None:
        for one in ranges:
            memory.check_pages(one.pfns)
        self.gpadl_id = gpadl_id
        self.ranges = tuple(ranges)
        self.memory = memory

    def __repr__(self) -> str:
        return f"Gpadl({self.gpadl_id:#x}, {len(self.ranges)} ranges, {self.byte_count} bytes)"

    @property
    def byte_count(self) -> int:
        return sum(one.byte_count for one in self.ranges)

    def page_run(self) -> tuple[int, ...]:
        """Return the pages of a GPADL that is one range of whole pages, as a ring or a network buffer must be."""
        if len(self.ranges) != 1 or self.ranges[0].byte_offset or self.ranges[0].byte_count % PAGE_SIZE:
            raise NotContiguous(f"GPADL {self.gpadl_id:#x} is not one range of whole pages")
        return self.ranges[0].pfns

    def map(self) -> Mapping:
        """Map the pages of such a GPADL side by side. The caller closes the mapping."""
        return self.memory.map_pages(self.page_run())


class GpadlAssembler:
    """Collects the ranges of one GPADL from its header and body messages.

    It never holds more than the header announced, and that is bounded by :data:`MAX_GPADL_BYTES`. Bodies carry no
    usable number (Linux leaves it 0, openvmm calls it reserved), so they count in the order in which they come.
    """

    __slots__ = ("_data", "_expected", "gpadl_id", "range_count")

    def __init__(self, gpadl_id: int, range_count: int, range_bytes: int, content: bytes) -> None:
        """Take what the header says (``rangecount``, ``range_buflen``) and the bytes that came behind it."""
        expected = range_bytes & ~7
        if not 0 < expected <= MAX_GPADL_BYTES or not range_count:
            raise GpadlError(f"GPADL {gpadl_id:#x} announces {range_count} ranges in {range_bytes} bytes")
        if range_count * 16 > expected:
            raise RangeCountTooLarge(f"GPADL {gpadl_id:#x}: {range_count} ranges do not fit into {range_bytes} bytes")
        self.gpadl_id = gpadl_id
        self.range_count = range_count
        self._expected = expected
        self._data = bytearray()
        self._append(content)

    def _append(self, content: bytes) -> None:
        # A message may be longer than what is left to say: UEFI always sends messages of the largest size.
        self._data += content[: min(len(content) & ~7, self._expected - len(self._data))]

    def add_body(self, content: bytes) -> bool:
        """Take the page numbers of a body message; return whether the GPADL is complete now."""
        if self.is_complete:
            raise GpadlAlreadyComplete(f"GPADL {self.gpadl_id:#x} is complete, and another body message came for it")
        self._append(content)
        return self.is_complete

    @property
    def collected(self) -> bytes:
        """The bytes that have come so far."""
        return bytes(self._data)

    @property
    def is_complete(self) -> bool:
        return len(self._data) == self._expected

    def ranges(self) -> list[GpaRange]:
        """Parse the complete ranges. Bytes behind the last one are ignored, as openvmm does."""
        if not self.is_complete:
            raise GpadlIncomplete(
                f"GPADL {self.gpadl_id:#x}: {len(self._data)} of {self._expected} bytes of page ranges came"
            )
        return parse_ranges(bytes(self._data), self.range_count)[0]

    def finish(self, memory: GuestMemory) -> Gpadl:
        """Return the GPADL, with every page checked against the guest's memory."""
        return Gpadl(self.gpadl_id, self.ranges(), memory)
