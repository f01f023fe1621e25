"""Pages of a kernel's buffer that can be named to the host: views by their addresses, and who tells the addresses."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from vmbus.atomics import address_of
from vmbus.gpadl import GpaRange
from vmbus.memory import PAGE_SIZE, Mapping, OutsideGuestMemory
from vmbus.pages import OutOfGuestPages
from vmbus.transport.uio import UioError
from vmbus.transport.uio.pages import BufferMemory, BufferPages, frames_of

PFNS = (70, 71, 9, 10, 11, 300)
"""Where six pages that follow each other in the buffer lie in the machine."""


@pytest.fixture
def pages() -> Iterator[BufferPages]:
    mapping = Mapping(mmap.mmap(-1, len(PFNS) * PAGE_SIZE))
    memory = BufferMemory(mapping, PFNS)
    yield BufferPages(memory, PFNS)
    memory.close()
    mapping.close()


def test_pages_beside_each_other_in_the_buffer_are_handed_out_together(pages: BufferPages) -> None:
    first, second = pages.allocate(4), pages.allocate(2)
    assert first + second == PFNS
    with pytest.raises(OutOfGuestPages):
        pages.allocate(1)
    pages.free(first)
    assert pages.free_pages == 4 and pages.allocate(3) == PFNS[:3]


def test_a_range_over_scattered_pages_is_as_many_views_as_the_machine_has_pieces(pages: BufferPages) -> None:
    one = GpaRange(5 * PAGE_SIZE, 100, pages.allocate(6))
    views = one.views(pages.memory)
    assert [len(view) for view in views] == [2 * PAGE_SIZE - 100, 3 * PAGE_SIZE, 100]
    for number, view in enumerate(views):
        view[:1] = bytes([number + 1])
    assert pages.memory.read(9 * PAGE_SIZE, 1) == b"\2"
    for view in views:
        view.release()


def test_what_is_not_in_the_buffer_has_no_view(pages: BufferPages) -> None:
    for gpa, length in ((0, 1), (72 * PAGE_SIZE, 1), (71 * PAGE_SIZE, 2 * PAGE_SIZE), (11 * PAGE_SIZE, PAGE_SIZE + 1)):
        with pytest.raises(OutsideGuestMemory):
            pages.memory.view(gpa, length)


def test_the_kernel_tells_root_where_pages_lie_and_others_nothing(tmp_path: Path) -> None:
    pagemap = tmp_path / "pagemap"
    with Mapping(mmap.mmap(-1, 2 * mmap.PAGESIZE)) as mapping:
        at = address_of(mapping.view) // mmap.PAGESIZE * 8
        with pagemap.open("wb") as file:
            file.seek(at)
            file.write(struct.pack("=2Q", 1 << 63 | 5, 1 << 63 | 1 << 55 | 77))
        assert frames_of(mapping.view, pagemap)[0 :: mmap.PAGESIZE // PAGE_SIZE] == (5, 77)
        with pagemap.open("r+b") as file:
            file.seek(at)
            file.write(struct.pack("=2Q", 1 << 63, 1 << 63))
        with pytest.raises(UioError, match="only root"):
            frames_of(mapping.view, pagemap)
        with pytest.raises(UioError, match="cannot read"):
            frames_of(mapping.view, tmp_path / "none")
