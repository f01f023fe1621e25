"""An allocator of guest pages, for the guests that we write ourselves: they put rings and buffers somewhere.

It hands out page frame numbers (PFNs) and knows nothing else. Runs of consecutive pages are the rule;
``scattered=True`` gives pages of which no two are neighbours, because a real guest's buffers look like that and
code that only ever saw consecutive pages is not tested.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from itertools import pairwise

from vmbus.memory import PAGE_SHIFT, GuestMemory, GuestMemoryError, merge_ranges


class OutOfGuestPages(GuestMemoryError):
    """No free pages are left, or not enough of them side by side."""


class PageAllocator:
    """Hands out the pages of ``memory`` from ``first_pfn`` on. One thread at a time."""

    __slots__ = ("_free", "memory")

    def __init__(self, memory: GuestMemory, first_pfn: int = 1, *, spared: int = 0) -> None:
        """Page 0 is left out by default: an address of 0 means "none" in several messages.

        ``spared`` pages at the end of the memory are left alone.
        """
        self.memory = memory
        first = max(first_pfn, memory.first_gpa >> PAGE_SHIFT)
        # Free runs as (first pfn, count), sorted, never touching each other.
        self._free: list[tuple[int, int]] = [(first, (memory.size >> PAGE_SHIFT) - spared - first)]

    @property
    def free_pages(self) -> int:
        return sum(count for _, count in self._free)

    def allocate(self, count: int, *, scattered: bool = False, zero: bool = True) -> tuple[int, ...]:
        """Take ``count`` pages and return their PFNs; ``zero`` clears their bytes."""
        if count < 1:
            raise OutOfGuestPages(f"cannot allocate {count} pages")
        pfns = self._take_scattered(count) if scattered else self._take_run(count)
        if zero:
            empty = bytes(1 << PAGE_SHIFT)
            for pfn in pfns:
                self.memory.write(pfn << PAGE_SHIFT, empty)
        return pfns

    def _take_run(self, count: int) -> tuple[int, ...]:
        for index, (first, available) in enumerate(self._free):
            if available >= count:
                rest = [(first + count, available - count)] if available > count else []
                self._free[index : index + 1] = rest
                return tuple(range(first, first + count))
        raise OutOfGuestPages(f"no {count} consecutive pages are free ({self.free_pages} pages are)")

    def _take_scattered(self, count: int) -> tuple[int, ...]:
        # Every other page, from the top of memory downwards, so that not even the order is increasing.
        picked: list[int] = []
        for first, available in reversed(self._free):
            picked += range(first + available - 1, first - 1, -2)[: count - len(picked)]
            if len(picked) == count:
                break
        else:
            raise OutOfGuestPages(f"no {count} separate pages are free ({self.free_pages} pages are)")
        for pfn in picked:
            self._remove(pfn)
        return tuple(picked)

    def _remove(self, pfn: int) -> None:
        index = bisect_left(self._free, (pfn + 1, 0)) - 1
        first, count = self._free[index]
        before, after = (first, pfn - first), (pfn + 1, first + count - pfn - 1)
        self._free[index : index + 1] = [run for run in (before, after) if run[1]]

    def free(self, pfns: Iterable[int]) -> None:
        """Give pages back. Pages that are free already are an error of the caller's, and nothing is freed."""
        ordered = sorted(pfns)
        runs = sorted([*self._free, *((pfn, 1) for pfn in ordered)])
        for (first, count), (following, _) in pairwise(runs):
            if first + count > following:
                raise GuestMemoryError(f"page {following:#x} is freed twice")
        self._free = merge_ranges(runs)
