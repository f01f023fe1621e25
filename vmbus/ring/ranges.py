"""The extension of a ring packet: the ranges of guest memory that come with it.

A GPA-direct packet lists pages; a transfer-page packet lists pieces of a buffer that both ends know. Both parsers
work on the copy that :class:`~vmbus.ring.RingPacket` holds, and find the list complete or raise. Sources: openvmm
``vmbus_ring/src/lib.rs`` (``GpaDirectHeader``, ``TransferPageHeader``) and ``gparange.rs``.
"""

from __future__ import annotations

from collections.abc import Iterable
from struct import Struct
from typing import NamedTuple

from vmbus.gpadl import GpaRange, build_ranges, parse_ranges
from vmbus.memory import PAGE_SHIFT, PAGE_SIZE, GuestMemory, PageViews
from vmbus.ring.errors import RingError
from vmbus.wire.ring import GpaDirectHeader, TransferPageHeader, TransferPageRange

_GPA_DIRECT = GpaDirectHeader.STRUCT
_TRANSFER_PAGES = TransferPageHeader.STRUCT
_TRANSFER_RANGE = TransferPageRange.STRUCT
_ONE_RANGE = Struct("<IIII")
"""A GPA-direct header and the head of its only range: reserved, number of ranges, bytes, offset."""
_PFNS = [Struct(f"<{pages}Q") for pages in range(514)]
"""Up to 2 MiB with an offset; as many pieces as ``preadv`` takes at once are more than that."""


class InvalidTransferPageRange(RingError):
    """A transfer-page packet announces more ranges than it has, or a range outside the buffer."""


class TransferPages(NamedTuple):
    """The extension of a transfer-page packet: pieces ``(byte_count, byte_offset)`` of the buffer with this id."""

    set_id: int
    ranges: tuple[tuple[int, int], ...]


def parse_gpa_direct(extension: bytes) -> list[GpaRange]:
    """Read the page ranges of a GPA-direct packet; :class:`vmbus.gpadl.GpadlError` says what is wrong with them."""
    _, count = _GPA_DIRECT.unpack_from(extension)
    return parse_ranges(extension, count, _GPA_DIRECT.size)[0]


def gpa_direct_views(memory: GuestMemory, extension: bytes) -> PageViews:
    """The guest's pages that a GPA-direct packet names, in order, as one buffer; errors as :func:`parse_gpa_direct`.

    A guest uses the same buffers again and again, so what was found is remembered. Nearly every packet has one range
    of a few pages, and that is resolved without anything in between.
    """
    known = memory.resolved(extension)
    if known is not None:
        return known
    _, count = _GPA_DIRECT.unpack_from(extension)
    if count == 1 and len(extension) >= _ONE_RANGE.size:
        _, _, length, offset = _ONE_RANGE.unpack_from(extension)
        pages = (offset + length + PAGE_SIZE - 1) >> PAGE_SHIFT
        if length and offset < PAGE_SIZE and pages < len(_PFNS) and _ONE_RANGE.size + 8 * pages <= len(extension):
            pfns = _PFNS[pages].unpack_from(extension, _ONE_RANGE.size)
            return memory.remember(extension, memory.page_views(pfns, offset, length))
    segments: list[tuple[int, int]] = []
    for one in parse_gpa_direct(extension):
        segments += one.segments()
    return memory.remember(extension, memory.ranges(segments))


def build_gpa_direct(ranges: Iterable[GpaRange]) -> bytes:
    """Make the extension of a GPA-direct packet."""
    listed = list(ranges)
    return _GPA_DIRECT.pack(0, len(listed)) + build_ranges(listed)


def parse_transfer_pages(extension: bytes, buffer_size: int | None = None) -> TransferPages:
    """Read the ranges of a transfer-page packet; with ``buffer_size`` each must lie in the buffer, and none be
    empty.
    """
    set_id, _, _, count = _TRANSFER_PAGES.unpack_from(extension)
    if count * 8 > len(extension) - _TRANSFER_PAGES.size:
        raise InvalidTransferPageRange(
            f"a transfer-page packet announces {count} ranges in {len(extension) - _TRANSFER_PAGES.size} bytes"
        )
    words = Struct(f"<{2 * count}I").unpack_from(extension, _TRANSFER_PAGES.size)
    ranges = tuple(zip(words[::2], words[1::2], strict=True))
    if buffer_size is not None:
        for byte_count, byte_offset in ranges:
            if not byte_count or byte_offset + byte_count > buffer_size:
                raise InvalidTransferPageRange(
                    f"{byte_count} bytes at {byte_offset} are not in a transfer buffer of {buffer_size} bytes"
                )
    return TransferPages(set_id, ranges)


def build_transfer_pages(set_id: int, ranges: Iterable[tuple[int, int]]) -> bytes:
    """Make the extension of a transfer-page packet from ``(byte_count, byte_offset)`` pairs."""
    listed = list(ranges)
    head = _TRANSFER_PAGES.pack(set_id, 0, 0, len(listed))
    return head + b"".join(_TRANSFER_RANGE.pack(*one) for one in listed)
