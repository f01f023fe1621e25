"""Guest memory: one shared memory file, seen by the guest that owns it or by the host that serves it.

A guest physical address (GPA) is an offset in the file, in bytes; a page frame number (PFN) is a GPA divided by 4096.
That is how the memory of User-Mode Linux looks to another process (``arch/um/kernel/physmem.c`` in Linux:
``phys_mapping``), and our own guests do the same. Pages are 4 KiB everywhere, as they are on VMBus whatever the guest's
own page size is.

Rings and buffers lie scattered over pages. :meth:`GuestMemory.map_pages` maps such pages side by side, without an
extension module: an anonymous ``mmap`` reserves the addresses and is the Python object that owns them, and the file's
pages are then mapped over it with ``MAP_FIXED``. So whoever holds a memoryview keeps the mapping alive, and closing
it too early is an exception and not a crash.

What this cannot protect from: a file that could not be sealed (User-Mode Linux's) and that its owner truncates.
Touching pages beyond the new end kills the process that touches them (SIGBUS). One host process serves one guest for
that reason.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import weakref
from collections.abc import Iterable, Sequence
from typing import Self

from vmbus.atomics import address_of
from vmbus.closing import Closing
from vmbus.errors import VmbusError

PAGE_SIZE = 4096
PAGE_SHIFT = 12

MAX_MAPPED_PAGES = 32768
"""The most pages that one mapping may have (128 MiB): a bound on what a peer can make us map."""

MAX_RUNS = 30_000
"""The most pieces, of neighbouring pages each, that all mappings of this process may have together. The kernel gives a
process 65,530 (``vm.max_map_count``), its own memory included, and a guest can scatter a ring's pages.
"""

MAX_REMEMBERED = 6 << 20
"""Bytes that resolved ranges take up, roughly, before all of them are forgotten."""

_ENTRY_SIZE, _VIEW_SIZE = 512, 192
"""What one of them takes up beside its ranges, roughly, and each of its views: a guest can scatter a buffer's pages."""

_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
_MAP_FIXED = 0x10  # the same on every Linux architecture but alpha, hppa, mips and xtensa


class GuestMemoryError(VmbusError):
    """Something is wrong with a guest's memory, or with how it was asked for."""


class OutsideGuestMemory(GuestMemoryError):
    """An address, a page or a range that is not in the guest's memory."""


class UnsealedMemory(GuestMemoryError):
    """The memory file could have been sealed against shrinking, and is not."""


class MemoryFileTooSmall(GuestMemoryError):
    """The memory file is smaller than the guest says it is."""


class MemoryInUse(GuestMemoryError):
    """Memory was to be unmapped while somebody still holds a view of it."""


class MappingFailed(GuestMemoryError):
    """The kernel refused to map pages, or too many were asked for."""


def merge_ranges(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Join ``(gpa, length)`` ranges that touch each other, in their order; empty ones disappear."""
    merged: list[tuple[int, int]] = []
    end = -1
    for gpa, length in ranges:
        if not length:
            continue
        if gpa == end:
            start, before = merged[-1]
            merged[-1] = (start, before + length)
        else:
            merged.append((gpa, length))
        end = gpa + length
    return merged


class PageViews(tuple[memoryview, ...]):
    """Pieces of guest memory that are together one buffer, in order; ``length`` is the bytes of all of them."""

    length: int

    def __new__(cls, views: Iterable[memoryview]) -> Self:
        made = super().__new__(cls, views)
        made.length = sum(map(len, made))
        return made


class _Runs:
    """The pieces of all mappings: counted when they are made, and when they are gone in whatever way."""

    def __init__(self) -> None:
        self.mapped = 0

    def take(self, count: int) -> None:
        if self.mapped + count > MAX_RUNS:
            raise MappingFailed(f"cannot map {count} pieces of guest memory beside {self.mapped} (at most {MAX_RUNS})")
        self.mapped += count

    def give_back(self, count: int) -> None:
        self.mapped -= count


_runs_of_all = _Runs()


class Mapping(Closing):
    """Pages of guest memory mapped side by side; made by :meth:`GuestMemory.map_pages`.

    ``view`` is a writable memoryview of all of it. :meth:`close` unmaps the pages; it raises :class:`MemoryInUse`
    while slices of the view are still held, and the mapping then stays as it is.
    """

    __slots__ = ("_area", "_give_back", "view")

    def __init__(self, area: mmap.mmap, runs: int = 0) -> None:
        """``runs`` is how many pieces of those that a process may have it consists of."""
        self._area = area
        self._give_back = weakref.finalize(area, _runs_of_all.give_back, runs)
        self._give_back.atexit = False
        self.view = memoryview(area)

    @property
    def closed(self) -> bool:
        return self._area.closed

    def close(self) -> None:
        """Unmap the pages. A second call does nothing."""
        if self._area.closed:
            return
        try:
            self.view.release()
        except BufferError as error:
            raise MemoryInUse("a mapping of guest pages is still in use: a view of it is held") from error
        try:
            self._area.close()
        except BufferError as error:
            self.view = memoryview(self._area)
            raise MemoryInUse("a mapping of guest pages is still in use: a view of it is held") from error
        self._give_back()


class GuestMemory(Closing):
    """A guest's memory of ``size`` bytes, mapped read-write. When it is nobody's any more it is gone, closed or not.

    ``first_gpa`` is the first address that really lies in the file: User-Mode Linux keeps its kernel image elsewhere,
    and an address below is refused like one beyond the end.
    """

    __slots__ = (
        "__weakref__",
        "_area",
        "_close_file",
        "_resolved",
        "_resolved_bytes",
        "_view",
        "fd",
        "first_gpa",
        "size",
    )

    def __init__(self, fd: int, size: int, first_gpa: int) -> None:
        """Map ``size`` bytes of the file ``fd``, which is this object's from now on. Use create() or attach()."""
        self.fd = fd
        self._close_file = weakref.finalize(self, os.close, fd)
        self._close_file.atexit = False
        self.size = size
        self.first_gpa = first_gpa
        try:
            self._area = mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        except (OSError, ValueError, OverflowError) as error:
            self._close_file()
            raise MappingFailed(f"cannot map {size} bytes of guest memory: {error}") from error
        self._view = memoryview(self._area)
        self._resolved: dict[bytes, PageViews] = {}
        self._resolved_bytes = 0

    @classmethod
    def create(cls, size: int, name: str = "vmbus-guest") -> GuestMemory:
        """Make new memory of ``size`` bytes (a multiple of 4096), sealed against shrinking and growing."""
        if size <= 0 or size % PAGE_SIZE:
            raise GuestMemoryError(f"guest memory of {size} bytes is not a whole number of 4096-byte pages")
        fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(fd, size)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
        except (OSError, OverflowError) as error:
            os.close(fd)
            raise GuestMemoryError(f"cannot make {size} bytes of guest memory: {error}") from error
        return cls(fd, size, 0)

    @classmethod
    def attach(cls, fd: int, size: int, first_gpa: int = 0) -> GuestMemory:
        """Map the memory file that a guest handed over. ``fd`` is duplicated and stays the caller's.

        A file that can still be sealed but is not sealed against shrinking is refused (:class:`UnsealedMemory`): its
        owner could truncate it under us. A file that cannot be sealed at all (User-Mode Linux's) is accepted.
        """
        if size <= 0 or size % PAGE_SIZE or not 0 <= first_gpa < size:
            raise GuestMemoryError(f"guest memory of {size} bytes from address {first_gpa:#x} makes no sense")
        actual = os.fstat(fd).st_size
        if actual < size:
            raise MemoryFileTooSmall(f"the guest's memory file has {actual} bytes, the guest says {size}")
        if not _is_safe_from_shrinking(fd):
            raise UnsealedMemory(
                "the guest's memory file could be sealed against shrinking (F_SEAL_SHRINK), and is not"
            )
        try:
            own = os.dup(fd)
        except OSError as error:
            raise MappingFailed(f"cannot map {size} bytes of guest memory: {error.strerror}") from None
        return cls(own, size, first_gpa)

    def _check(self, gpa: int, length: int) -> None:
        if gpa < self.first_gpa or length < 0 or gpa + length > self.size:
            raise OutsideGuestMemory(
                f"{length} bytes at address {gpa:#x} are outside the guest's memory"
                f" ({self.first_gpa:#x} to {self.size:#x})"
            )

    def view(self, gpa: int, length: int) -> memoryview:
        """Return a writable view of ``length`` bytes of the guest's memory; no copy. Release it before close()."""
        self._check(gpa, length)
        return self._view[gpa : gpa + length]

    def read(self, gpa: int, length: int) -> bytes:
        """Return a copy of ``length`` bytes: what is to be validated must be copied first."""
        self._check(gpa, length)
        return bytes(self._view[gpa : gpa + length])

    def write(self, gpa: int, data: bytes | bytearray | memoryview) -> None:
        """Copy ``data`` into the guest's memory."""
        length = len(data)
        self._check(gpa, length)
        self._view[gpa : gpa + length] = data

    def ranges(self, ranges: Iterable[tuple[int, int]]) -> list[memoryview]:
        """Return a view for each ``(gpa, length)``; ranges that touch come as one, as preadv() likes them."""
        whole, first, size = self._view, self.first_gpa, self.size
        views = []
        for gpa, length in merge_ranges(ranges):
            if gpa < first or gpa + length > size:
                self._check(gpa, length)
            views.append(whole[gpa : gpa + length])
        return views

    def page_views(self, pfns: Sequence[int], offset: int, length: int) -> list[memoryview]:
        """Return views of ``length`` bytes that start ``offset`` bytes into the first of ``pfns``, page after page.

        Consecutive pages are one view.
        The caller has checked that ``length`` is not 0 and needs exactly these pages.
        """
        first, count = pfns[0], len(pfns)
        if count == 1 or (pfns[-1] - first == count - 1 and pfns == tuple(range(first, first + count))):
            gpa = (first << PAGE_SHIFT) + offset
            self._check(gpa, length)
            return [self._view[gpa : gpa + length]]
        self.check_pages(pfns)
        whole = self._view
        views = [whole[pfn << PAGE_SHIFT : (pfn + count) << PAGE_SHIFT] for _, pfn, count in _runs(pfns)]
        end = (offset + length) & (PAGE_SIZE - 1)
        if end:
            views[-1] = views[-1][: end - PAGE_SIZE]
        if offset:
            views[0] = views[0][offset:]
        return views

    def resolved(self, ranges: bytes) -> PageViews | None:
        """What :meth:`remember` was given for these ranges, if it is still known."""
        return self._resolved.get(ranges)

    def remember(self, ranges: bytes, views: Iterable[memoryview]) -> PageViews:
        """Keep the views that a list of ranges, as it came from the guest, stands for: a guest's buffers come again."""
        if self._resolved_bytes > MAX_REMEMBERED:
            self._forget()
        made = self._resolved[ranges] = PageViews(views)
        self._resolved_bytes += len(ranges) + _ENTRY_SIZE + _VIEW_SIZE * len(made)
        return made

    def _forget(self) -> None:
        self._resolved.clear()
        self._resolved_bytes = 0

    def check_pages(self, pfns: Sequence[int]) -> None:
        """Raise :class:`OutsideGuestMemory` unless every page lies in the guest's memory."""
        if pfns:
            self._check(min(pfns) << PAGE_SHIFT, 0)
            self._check(max(pfns) << PAGE_SHIFT, PAGE_SIZE)

    def map_pages(self, pfns: Sequence[int], mirrored_from: int | None = None) -> Mapping:
        """Map pages side by side, wherever in the guest's memory they are.

        With ``mirrored_from=n`` the pages from the n-th on are mapped a second time behind the last one. A ring is
        mapped with ``mirrored_from=1``: its data then follows itself, and a packet that wraps is one slice.
        """
        self.check_pages(pfns)
        layout = list(pfns)
        if mirrored_from is not None:
            layout += layout[mirrored_from:]
        if not 0 < len(layout) <= MAX_MAPPED_PAGES:
            raise MappingFailed(f"cannot map {len(layout)} pages at once (1 to {MAX_MAPPED_PAGES})")
        runs = list(_runs(layout))
        _runs_of_all.take(len(runs))
        try:
            area = mmap.mmap(-1, len(layout) * PAGE_SIZE, mmap.MAP_SHARED)
        except OSError as error:
            _runs_of_all.give_back(len(runs))
            raise MappingFailed(f"cannot map {len(layout)} pages of guest memory: {error.strerror}") from None
        mapping = Mapping(area, len(runs))
        address = address_of(area)
        for index, pfn, count in runs:
            _map_fixed(address + index * PAGE_SIZE, count * PAGE_SIZE, self.fd, pfn << PAGE_SHIFT)
        return mapping

    @property
    def closed(self) -> bool:
        return self._area.closed

    def close(self) -> None:
        """Unmap the memory and close its file. Raises :class:`MemoryInUse` while views are held; nothing happens then.

        Mappings from :meth:`map_pages` are their own and live on until they are closed.
        """
        if self._area.closed:
            return
        self._forget()
        self._view.release()
        try:
            self._area.close()
        except BufferError as error:
            self._view = memoryview(self._area)
            raise MemoryInUse("the guest's memory is still in use: a view of it is held") from error
        self._close_file()


def _is_safe_from_shrinking(fd: int) -> bool:
    try:
        seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    except OSError:
        return True  # this kind of file has no seals
    return bool(seals & (fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL))


def _runs(pfns: Sequence[int]) -> Iterable[tuple[int, int, int]]:
    """Yield ``(index in pfns, first pfn, count)`` for each run of consecutive pages."""
    start = 0
    for index in range(1, len(pfns) + 1):
        if index == len(pfns) or pfns[index] != pfns[index - 1] + 1:
            yield start, pfns[start], index - start
            start = index


_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [
    ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64
]  # fmt: skip


def _map_fixed(address: int, length: int, fd: int, offset: int) -> None:
    flags = mmap.MAP_SHARED | _MAP_FIXED
    result = _libc.mmap(address, length, mmap.PROT_READ | mmap.PROT_WRITE, flags, fd, offset)
    if result != address:
        code = ctypes.get_errno()
        raise MappingFailed(f"cannot map {length} bytes of guest memory at {offset:#x}: {os.strerror(code)}")
