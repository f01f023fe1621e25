"""Pages that a program in user space may name to its host (GPA direct): those of a buffer that the kernel has made.

User space does not choose where its memory lies, and the kernel may move it. The buffers of ``uio_hv_generic`` are the
kernel's own (``vzalloc``), which stay where they are until the device is unbound, and ``/proc/self/pagemap`` tells root
where that is. In a guest the kernel's page frames are the hypervisor's, four KiB each on x86.

Sources: Linux 6.12 ``Documentation/admin-guide/mm/pagemap.rst``, ``drivers/uio/uio_hv_generic.c`` (``hv_uio_probe``).
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path

from vmbus.atomics import address_of
from vmbus.memory import PAGE_SHIFT, PAGE_SIZE, GuestMemory, Mapping, OutsideGuestMemory
from vmbus.pages import PageAllocator
from vmbus.transport.uio.errors import UioError

PAGEMAP = Path("/proc/self/pagemap")
_PRESENT = 1 << 63
_FRAME = (1 << 55) - 1


def frames_of(view: memoryview, pagemap: Path = PAGEMAP) -> tuple[int, ...]:
    """The hypervisor's page frame number of each 4-KiB page of a mapping; :class:`UioError` when nobody tells."""
    count = len(view) // mmap.PAGESIZE
    try:
        with pagemap.open("rb", buffering=0) as file:
            file.seek(address_of(view) // mmap.PAGESIZE * 8)
            entries = struct.unpack(f"={count}Q", file.read(8 * count))
    except (OSError, struct.error):
        raise UioError(f"cannot read {pagemap}: only with it can pages be named to the host") from None
    if not all(entry & _PRESENT and entry & _FRAME for entry in entries):
        raise UioError("the kernel tells only root where a page lies (CAP_SYS_ADMIN): no page can be named to the host")
    parts = mmap.PAGESIZE // PAGE_SIZE
    return tuple((entry & _FRAME) * parts + part for entry in entries for part in range(parts))


class BufferMemory(GuestMemory):
    """The machine's memory as far as one buffer of the kernel's goes: its pages, by their addresses in the machine.

    What lies beside each other in the buffer may be far apart in the machine; only a range that is one piece in both
    has a view.
    """

    __slots__ = ("_index", "_pages")

    def __init__(self, mapping: Mapping, pfns: Sequence[int]) -> None:
        """``pfns`` are the mapping's pages in order; the mapping stays the caller's."""
        self._pages = mapping.view
        self._index = {pfn: index for index, pfn in enumerate(pfns)}
        self.size = (max(pfns, default=0) + 1) << PAGE_SHIFT
        self.first_gpa = min(pfns, default=0) << PAGE_SHIFT
        self.fd = -1

    def view(self, gpa: int, length: int) -> memoryview:
        first, last = gpa >> PAGE_SHIFT, max(gpa + length - 1, gpa) >> PAGE_SHIFT
        at = self._index.get(first, -1)
        if at < 0 or any(self._index.get(pfn) != at + pfn - first for pfn in range(first, last + 1)):
            raise OutsideGuestMemory(f"{length} bytes at address {gpa:#x} are not in a buffer that the host may use")
        start = (at << PAGE_SHIFT) + (gpa & (PAGE_SIZE - 1))
        return self._pages[start : start + length]

    def read(self, gpa: int, length: int) -> bytes:
        return bytes(self.view(gpa, length))

    def write(self, gpa: int, data: bytes | bytearray | memoryview) -> None:
        self.view(gpa, len(data))[:] = data

    def ranges(self, ranges: Iterable[tuple[int, int]]) -> list[memoryview]:
        return [self.view(gpa, length) for gpa, length in ranges if length]

    def check_pages(self, pfns: Sequence[int]) -> None:
        for pfn in pfns:
            self.view(pfn << PAGE_SHIFT, PAGE_SIZE)

    def map_pages(self, pfns: Sequence[int], mirrored_from: int | None = None) -> Mapping:
        raise OutsideGuestMemory("the pages of a buffer that the kernel has mapped cannot be mapped again")

    @property
    def closed(self) -> bool:
        return not self._index

    def close(self) -> None:
        """Forget the pages; the mapping is the caller's to close."""
        self._index = {}
        self._pages = memoryview(b"")


class BufferPages(PageAllocator):
    """Hands out the pages of a :class:`BufferMemory`: side by side in the buffer, wherever in the machine."""

    __slots__ = ("_index", "_pfns")

    def __init__(self, memory: BufferMemory, pfns: Sequence[int]) -> None:
        self.memory = memory
        self._pfns = tuple(pfns)
        self._index = {pfn: index for index, pfn in enumerate(pfns)}
        self._free = [(0, len(pfns))]

    def allocate(self, count: int, *, scattered: bool = False, zero: bool = True) -> tuple[int, ...]:
        """Take ``count`` pages. They are as ``scattered`` as the machine's memory is."""
        pfns = tuple(self._pfns[index] for index in self._take_run(count))
        if zero:
            for pfn in pfns:
                self.memory.write(pfn << PAGE_SHIFT, bytes(PAGE_SIZE))
        return pfns

    def free(self, pfns: Iterable[int]) -> None:
        super().free(self._index[pfn] for pfn in pfns)
