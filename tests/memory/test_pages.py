"""The page allocator of our own guests."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vmbus.memory import GuestMemory, GuestMemoryError
from vmbus.pages import OutOfGuestPages, PageAllocator

memory = GuestMemory.create(64 * 4096)


def test_pages_come_in_a_row_and_cleared():
    memory.write(4096, b"left over")
    pages = PageAllocator(memory)
    assert pages.allocate(3) == (1, 2, 3)
    assert memory.read(4096, 9) == bytes(9)
    assert pages.allocate(1, zero=False) == (4,)


def test_scattered_pages_have_no_neighbours():
    pages = PageAllocator(memory)
    pfns = pages.allocate(20, scattered=True)
    assert len(set(pfns)) == 20
    assert not any(pfn + 1 in pfns for pfn in pfns)


def test_running_out_is_a_typed_error_and_takes_nothing():
    pages = PageAllocator(memory, first_pfn=60)
    for count, scattered in ((5, False), (3, True), (0, False)):
        with pytest.raises(OutOfGuestPages):
            pages.allocate(count, scattered=scattered)
    assert pages.free_pages == 4


def test_pages_cannot_be_freed_twice():
    pages = PageAllocator(memory)
    pfns = pages.allocate(4)
    pages.free(pfns[:2])
    for bad in (pfns, [pfns[3], pfns[3]], [40]):
        with pytest.raises(GuestMemoryError, match="freed twice"):
            pages.free(bad)
    assert pages.free_pages == 61


def test_pages_below_the_first_address_of_the_memory_are_not_handed_out():
    with GuestMemory.attach(memory.fd, memory.size, first_gpa=0x8000) as low:
        assert PageAllocator(low).allocate(1) == (8,)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 8), st.booleans(), st.booleans()), max_size=30))
def test_every_page_is_owned_by_exactly_one(steps):
    pages = PageAllocator(memory)
    held: list[tuple[int, ...]] = []
    for count, scattered, give_back in steps:
        try:
            held.append(pages.allocate(count, scattered=scattered, zero=False))
        except OutOfGuestPages:
            pass
        if give_back and held:
            pages.free(held.pop(0))
        owned = [pfn for pfns in held for pfn in pfns]
        assert len(owned) == len(set(owned)) == 63 - pages.free_pages
    for pfns in held:
        pages.free(pfns)
    assert pages.allocate(63)
