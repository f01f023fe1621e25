"""The quick way from a GPA-direct packet to views of the guest's pages finds the same bytes as the thorough one."""

from __future__ import annotations

import random
import tracemalloc

import pytest

from vmbus.errors import VmbusError
from vmbus.gpadl import GpaRange
from vmbus.memory import PAGE_SIZE, GuestMemory
from vmbus.ring.ranges import build_gpa_direct, gpa_direct_views, parse_gpa_direct

PAGES = 64


def both_ways(memory: GuestMemory, extension: bytes) -> list[bytes | str]:
    """What either way makes of it: the bytes, or the name of the error."""

    def thorough() -> list[memoryview]:
        return memory.ranges(piece for one in parse_gpa_direct(extension) for piece in one.segments())

    found: list[bytes | str] = []
    for way in (lambda: gpa_direct_views(memory, extension), thorough):
        try:
            found.append(b"".join(way()))
        except VmbusError as error:
            found.append(type(error).__name__)
    return found


@pytest.mark.parametrize("seed", range(4))
def test_any_range_is_the_same_bytes_either_way(seed: int) -> None:
    chance = random.Random(seed)
    with GuestMemory.create(PAGES * PAGE_SIZE) as memory:
        memory.write(0, chance.randbytes(PAGES * PAGE_SIZE))
        for _ in range(500):
            count = chance.randrange(1, 9)
            pfns = [chance.randrange(PAGES + 1) for _ in range(count)]
            if chance.random() < 0.5:
                pfns = list(range(pfns[0], pfns[0] + count))
            offset = chance.choice((0, 0, 8, 511, 4095, 4096, 9999))
            length = chance.choice((0, 1, 512, 4096 * count - offset, 4096 * count - 1, 4096 * count + 1))
            extension = build_gpa_direct([GpaRange(max(length, 0), offset, tuple(pfns))])
            quick, thorough = both_ways(memory, extension[: chance.choice((len(extension), len(extension) - 8, 16))])
            assert quick == thorough


def test_pages_outside_memory_are_refused_wherever_they_stand() -> None:
    with GuestMemory.create(PAGES * PAGE_SIZE) as memory:
        for pfns in ((PAGES,), (0, PAGES), (PAGES, 0), (PAGES - 1, PAGES), (1 << 52, 3), ((1 << 64) - 1, 0)):
            extension = build_gpa_direct([GpaRange(PAGE_SIZE * len(pfns), 0, pfns)])
            assert both_ways(memory, extension) == ["OutsideGuestMemory"] * 2


def test_ranges_that_come_again_are_the_same_views() -> None:
    with GuestMemory.create(PAGES * PAGE_SIZE) as memory:
        extension = build_gpa_direct([GpaRange(3 * PAGE_SIZE, 0, (5, 4, 9))])
        views = gpa_direct_views(memory, extension)
        assert gpa_direct_views(memory, bytes(bytearray(extension))) is views
        assert views.length == 3 * PAGE_SIZE
        memory.write(4 * PAGE_SIZE, b"new")
        assert bytes(views[1][:3]) == b"new"
        del views


def test_what_is_remembered_of_ranges_is_bounded() -> None:
    with GuestMemory.create(PAGES * PAGE_SIZE) as memory:
        tracemalloc.start()
        for length in range(1, 40_000):
            extension = build_gpa_direct([GpaRange(length % PAGE_SIZE + 1, 0, (length // PAGE_SIZE,))])
            gpa_direct_views(memory, extension)
        assert tracemalloc.get_traced_memory()[0] < 8 << 20
        tracemalloc.stop()


def test_what_is_remembered_of_scattered_pages_is_bounded_too() -> None:
    with GuestMemory.create(PAGES * PAGE_SIZE) as memory:
        tracemalloc.start()
        for less in range(1, 500):
            pfns = tuple((2 * index + less) % PAGES for index in range(1000))
            gpa_direct_views(memory, build_gpa_direct([GpaRange(1000 * PAGE_SIZE - less, 0, pfns)]))
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
        tracemalloc.stop()


def test_ranges_that_are_remembered_do_not_keep_memory_mapped() -> None:
    memory = GuestMemory.create(PAGES * PAGE_SIZE)
    gpa_direct_views(memory, build_gpa_direct([GpaRange(PAGE_SIZE, 0, (5,))]))
    memory.close()
    assert memory.closed


def test_several_ranges_are_one_buffer() -> None:
    with GuestMemory.create(PAGES * PAGE_SIZE) as memory:
        memory.write(0, random.Random(1).randbytes(PAGES * PAGE_SIZE))
        ranges = [GpaRange(100, 8, (3,)), GpaRange(2 * PAGE_SIZE, 0, (9, 7)), GpaRange(5, 4000, (1,))]
        quick, thorough = both_ways(memory, build_gpa_direct(ranges))
        assert quick == thorough and len(quick) == 100 + 2 * PAGE_SIZE + 5
