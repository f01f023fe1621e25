"""Page ranges and GPADLs: assembling, limits, and what a hostile guest can announce."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vmbus.gpadl import (
    MAX_GPADL_BYTES,
    Gpadl,
    GpadlAlreadyComplete,
    GpadlAssembler,
    GpadlError,
    GpadlIncomplete,
    GpaRange,
    NotContiguous,
    RangeCountTooLarge,
    RangeTooSmall,
    build_ranges,
    parse_ranges,
)
from vmbus.memory import GuestMemory, OutsideGuestMemory

memory = GuestMemory.create(1 << 20)

HEADER_ROOM, BODY_ROOM = 27 * 8, 28 * 8  # 26 and 28 page numbers, as in messages of 240 bytes


@st.composite
def gpa_ranges(draw):
    offset = draw(st.integers(0, 4095))
    count = draw(st.integers(1, 20000))
    pages = (offset + count + 4095) // 4096
    pfns = draw(st.lists(st.integers(0, 255), min_size=pages, max_size=pages))
    return GpaRange(count, offset, tuple(pfns))


@settings(deadline=None)
@given(st.lists(gpa_ranges(), min_size=1, max_size=6))
def test_a_gpadl_split_over_messages_comes_together_again(ranges):
    content = build_ranges(ranges)
    bodies = [content[at : at + BODY_ROOM] for at in range(HEADER_ROOM, len(content), BODY_ROOM)]
    assembler = GpadlAssembler(5, len(ranges), len(content), content[:HEADER_ROOM])
    complete = [assembler.add_body(body) for body in bodies]
    assert complete == [False] * (len(bodies) - 1) + [True] * bool(bodies)
    gpadl = assembler.finish(memory)
    assert list(gpadl.ranges) == ranges
    assert gpadl.byte_count == sum(one.byte_count for one in ranges)


@settings(deadline=None)
@given(gpa_ranges())
def test_the_segments_of_a_range_are_its_bytes_in_order(one):
    expected = []
    for index in range(one.byte_count):
        page, byte = divmod(one.byte_offset + index, 4096)
        if index in (0, 1, one.byte_count // 2, one.byte_count - 1):
            expected.append((index, one.pfns[page] * 4096 + byte))
    found, position = dict(expected), 0
    for gpa, length in one.segments():
        for index in list(found):
            if position <= index < position + length:
                assert gpa + index - position == found.pop(index)
        position += length
    assert position == one.byte_count and not found


def test_consecutive_pages_are_one_segment_and_one_view():
    assert GpaRange(8000, 96, (4, 5)).segments() == [(4 * 4096 + 96, 8000)]
    assert GpaRange(12288, 0, (4, 5, 9)).segments() == [(4 * 4096, 8192), (9 * 4096, 4096)]
    memory.write(5 * 4096, b"second page")
    (view,) = GpaRange(4096 + 11, 0, (4, 5)).views(memory)
    assert view[4096:] == b"second page"
    view.release()


def test_a_message_longer_than_what_is_left_is_cut_as_uefi_needs():
    content = build_ranges([GpaRange(4096, 0, (3,))])
    assembler = GpadlAssembler(1, 1, len(content), content + b"the rest of a message of the largest size")
    assert assembler.is_complete
    assert assembler.ranges() == [GpaRange(4096, 0, (3,))]
    with pytest.raises(GpadlAlreadyComplete):
        assembler.add_body(bytes(8))


def test_an_incomplete_gpadl_cannot_be_used():
    assembler = GpadlAssembler(1, 1, 32, build_ranges([GpaRange(8192, 0, (1, 2))])[:16])
    assert not assembler.is_complete
    with pytest.raises(GpadlIncomplete, match="16 of 32 bytes"):
        assembler.finish(memory)


@pytest.mark.parametrize(
    ("count", "size"), [(0, 16), (1, 0), (1, 7), (2, 24), (0xFFFF, 0xFFFF), (1, MAX_GPADL_BYTES + 8)]
)
def test_impossible_headers_are_refused_before_anything_is_kept(count, size):
    with pytest.raises(GpadlError):
        GpadlAssembler(1, count, size, bytes(16))


def test_counts_that_the_bytes_do_not_bear_out_are_refused():
    with pytest.raises(RangeTooSmall):
        GpadlAssembler(1, 1, 16, GpaRange(1 << 30, 0, (1,)).build()).ranges()
    with pytest.raises(RangeCountTooLarge):
        parse_ranges(bytes(16), 2)


def test_pages_outside_the_guest_are_refused():
    content = build_ranges([GpaRange(4096, 0, (1 << 51,))])
    with pytest.raises(OutsideGuestMemory):
        GpadlAssembler(1, 1, len(content), content).finish(memory)


def test_only_one_range_of_whole_pages_can_be_a_ring():
    good = Gpadl(9, [GpaRange(8192, 0, (3, 200))], memory)
    assert good.page_run() == (3, 200) and "0x9" in repr(good)
    with good.map() as mapping:
        assert len(mapping.view) == 8192
    for bad in ([GpaRange(4096, 0, (3,))] * 2, [GpaRange(4096, 1, (3, 4))], [GpaRange(4000, 0, (3,))], []):
        with pytest.raises(NotContiguous):
            Gpadl(9, bad, memory).page_run()


@settings(deadline=None)
@given(st.integers(0, 8), st.integers(0, 400), st.lists(st.binary(max_size=100), min_size=1, max_size=5))
def test_random_gpadls_end_in_a_gpadl_or_a_typed_error(count, size, messages):
    try:
        assembler = GpadlAssembler(1, count, size, messages[0])
        for body in messages[1:]:
            assembler.add_body(body)
        assembler.finish(memory)
    except (GpadlError, OutsideGuestMemory):
        pass
