"""The ranges in the extension of GPA-direct and transfer-page packets."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vmbus.gpadl import (
    EmptyByteCount,
    EmptyRange,
    GpadlError,
    GpaRange,
    OffsetTooLarge,
    RangeCountTooLarge,
    RangeTooSmall,
)
from vmbus.ring.ranges import (
    InvalidTransferPageRange,
    TransferPages,
    build_gpa_direct,
    build_transfer_pages,
    parse_gpa_direct,
    parse_transfer_pages,
)
from vmbus.wire.ring import GpaDirectHeader, TransferPageHeader


def test_many_ranges_survive_and_look_as_the_wire_format_says():
    ranges = [GpaRange(8192, 0, (5, 6)), GpaRange(1, 4095, (9,)), GpaRange(4096, 1, (3, 8))]
    extension = build_gpa_direct(ranges)
    assert parse_gpa_direct(extension) == ranges
    declared = GpaDirectHeader.parse(extension)
    assert [(one.byte_count, one.byte_offset, one.pfns) for one in declared.ranges] == ranges


@pytest.mark.parametrize(
    ("error", "count", "words"),
    [
        (RangeCountTooLarge, 2, [(4096, 0), 1]),
        (RangeCountTooLarge, 0xFFFFFFFF, [(4096, 0), 1]),
        (EmptyRange, 2, [(8192, 4095), 1, 2, 3]),
        (EmptyByteCount, 1, [(0, 0), 1]),
        (OffsetTooLarge, 1, [(1, 4096), 1]),
        (RangeTooSmall, 1, [(4097, 0), 1]),
        (RangeTooSmall, 1, [(0xFFFFFFFF, 4095), 1]),
        (RangeTooSmall, 1, [(2, 4095), 1]),
    ],
)
def test_each_bad_list_of_pages_has_its_error(error, count, words):
    packed = [struct.pack("<II", *word) if isinstance(word, tuple) else struct.pack("<Q", word) for word in words]
    with pytest.raises(error):
        parse_gpa_direct(struct.pack("<II", 0xDEAD, count) + b"".join(packed))


@settings(deadline=None)
@given(st.binary(min_size=8, max_size=200))
def test_random_extensions_parse_or_raise_the_typed_error(extension):
    try:
        ranges = parse_gpa_direct(extension)
    except GpadlError:
        return
    assert sum(len(one.pfns) for one in ranges) * 8 < len(extension)


def test_transfer_pages_survive_and_look_as_the_wire_format_says():
    extension = build_transfer_pages(0xCAFE, [(100, 0), (50, 4096)])
    assert parse_transfer_pages(extension, 8192) == TransferPages(0xCAFE, ((100, 0), (50, 4096)))
    declared = TransferPageHeader.parse(extension)
    assert [(one.byte_count, one.byte_offset) for one in declared.ranges] == [(100, 0), (50, 4096)]


@pytest.mark.parametrize("bad", [(0, 0), (1, 8192), (8193, 0), (0xFFFFFFFF, 0xFFFFFFFF)])
def test_a_transfer_range_outside_its_buffer_is_refused(bad):
    extension = build_transfer_pages(1, [(1, 1), bad])
    assert parse_transfer_pages(extension).ranges[1] == bad
    with pytest.raises(InvalidTransferPageRange):
        parse_transfer_pages(extension, 8192)


def test_a_transfer_page_count_beyond_the_extension_is_refused():
    with pytest.raises(InvalidTransferPageRange, match="announces 3 ranges in 8 bytes"):
        parse_transfer_pages(struct.pack("<HBBIII", 1, 0, 0, 3, 1, 1))
