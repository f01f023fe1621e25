"""A disk in the host's memory, gone when the host ends: ``memory:64M``. Pages never written to take no memory."""

from __future__ import annotations

import mmap

from vmbus.devices.storage.backend import Backend, BackendError, parse_size
from vmbus.devices.storage.buffers import Views

_MAP_NORESERVE = 0x4000


class MemoryBackend(Backend):
    """Zeros at first."""

    is_quick = True
    quick_writes = True
    can_discard = True
    discarded_reads_zero = True

    def __init__(self, size: int) -> None:
        if size % self.block_size:
            raise BackendError(f"a disk of {size} bytes is not a whole number of {self.block_size}-byte blocks")
        self._allocate(size)

    def _allocate(self, size: int) -> None:
        self.size = size
        self._area = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE)
        self._bytes = memoryview(self._area)

    def read_into(self, views: Views, offset: int) -> None:
        for view in views:
            view[:] = self._bytes[offset : offset + len(view)]
            offset += len(view)

    def write_from(self, views: Views, offset: int) -> None:
        for view in views:
            self._bytes[offset : offset + len(view)] = view
            offset += len(view)

    def flush(self) -> None:
        return None

    def discard(self, offset: int, length: int) -> None:
        page = mmap.PAGESIZE
        first, last = -(-offset // page) * page, (offset + length) // page * page
        if first < last:
            self._area.madvise(mmap.MADV_DONTNEED, first, last - first)
            super().write_zeroes(offset, first - offset)
            super().write_zeroes(last, offset + length - last)
        else:
            super().write_zeroes(offset, length)

    write_zeroes = discard

    def resize(self, size: int) -> None:
        """Grow or shrink, keeping what fits."""
        kept = bytes(self._bytes[: min(size, self.size)])
        self.close()
        self._allocate(size)
        self._bytes[: len(kept)] = kept
        if self.on_resize is not None:
            self.on_resize()

    def close(self) -> None:
        self._bytes.release()
        self._area.close()


def open_params(params: str, read_only: bool) -> MemoryBackend:
    """``SIZE``, for example ``64M``."""
    backend = MemoryBackend(parse_size(params))
    backend.read_only = read_only
    return backend
