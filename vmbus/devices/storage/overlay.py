"""A copy-on-write overlay over any backend: ``overlay:BASE``, or ``overlay:BASE,file=PATH`` to keep what is written.

The base is opened read-only and never changes. What is written goes, in clusters of 64 KiB, into a sparse file of the
same size; behind its data lies a bitmap with a bit for each cluster that is there. Without a file of one's own it is a
temporary one without a name, and what is written is gone with the host.

A flush makes the data durable before the bits that point to it.
"""

from __future__ import annotations

import errno
import mmap
import os
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vmbus.devices.storage.backend import Backend, BackendError, open_backend
from vmbus.devices.storage.buffers import Views, advance, cut, total_length
from vmbus.devices.storage.file import lock_image

CLUSTER = 64 << 10
RWF_NOWAIT: int = getattr(os, "RWF_NOWAIT", 0)


class OverlayBackend(Backend):
    """Reads fall through to ``base`` where nothing was written; owns ``base``."""

    parallel = 4

    def __init__(self, base: Backend, path: str | None = None) -> None:
        """``path`` is made if it does not exist; :class:`BackendError` if it belongs to a base of another size."""
        self.base = base
        self.size = base.size
        self.block_size = base.block_size
        self.path = path
        self.files = (*base.files, Path(path)) if path else base.files
        clusters = -(-self.size // CLUSTER)
        self._data_end = clusters * CLUSTER
        whole = self._data_end + -(-(clusters + 7) // 8 // mmap.PAGESIZE) * mmap.PAGESIZE + mmap.PAGESIZE
        self._file = open(path, "a+b") if path else tempfile.TemporaryFile(prefix="vmbus-overlay-")  # noqa: SIM115
        try:
            self.fd = os.open(f"/proc/self/fd/{self._file.fileno()}", os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            self._file.close()
            raise
        try:
            lock_image(self.fd, str(path), shared=False)
        except BackendError:
            self._release_files()
            raise
        found = os.fstat(self.fd).st_size
        if found not in (0, whole):
            self._release_files()
            raise BackendError(f"{path} is no overlay of a disk of {self.size} bytes")
        os.ftruncate(self.fd, whole)
        self._bitmap = mmap.mmap(self.fd, whole - self._data_end, offset=self._data_end)
        self._writing = threading.Lock()

    def _has(self, cluster: int) -> bool:
        return bool(self._bitmap[cluster >> 3] >> (cluster & 7) & 1)

    def _runs(self, offset: int, length: int) -> Iterator[tuple[bool, int, int]]:
        """``(is in the overlay, offset, length)`` pieces of a range, neighbours of one kind joined."""
        end = offset + length
        while offset < end:
            here = self._has(offset // CLUSTER)
            stop = offset
            while stop < end and self._has(stop // CLUSTER) == here:
                stop = min((stop // CLUSTER + 1) * CLUSTER, end)
            yield here, offset, stop - offset
            offset = stop

    def read_into(self, views: Views, offset: int) -> None:
        rest: Views = views
        for here, start, length in self._runs(offset, total_length(views)):
            piece = cut(rest, length)
            if here:
                self._pread(piece, start)
            else:
                self.base.read_into(piece, start)
            rest = advance(rest, length)

    def read_at_once(self, views: Views, offset: int) -> bool:
        """What lies in one place only is read at once if that place can: the page cache, or the base."""
        length = total_length(views)
        here, _, run = next(self._runs(offset, length))
        if run != length:
            return False
        if not here:
            return self.base.read_at_once(views, offset)
        try:
            return os.preadv(self.fd, views, offset, RWF_NOWAIT) == length
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EOPNOTSUPP):
                return False
            raise

    def write_from(self, views: Views, offset: int) -> None:
        length = total_length(views)
        first, last = offset // CLUSTER, (offset + length - 1) // CLUSTER
        with self._writing:
            for cluster in {first, last}:
                start = cluster * CLUSTER
                is_whole = offset <= start and offset + length >= min(start + CLUSTER, self.size)
                if not self._has(cluster) and not is_whole:
                    self._copy_up(cluster)
            self._pwrite(views, offset)
            for cluster in range(first, last + 1):
                self._bitmap[cluster >> 3] |= 1 << (cluster & 7)

    def _copy_up(self, cluster: int) -> None:
        start = cluster * CLUSTER
        data = bytearray(min(CLUSTER, self.size - start))
        self.base.read_into([memoryview(data)], start)
        self._pwrite([memoryview(data)], start)

    def _pread(self, views: Views, offset: int) -> None:
        while views:
            count = os.preadv(self.fd, views, offset)
            if not count:
                raise OSError(5, "the overlay's file ends too early")
            views, offset = advance(views, count), offset + count

    def _pwrite(self, views: Views, offset: int) -> None:
        while views:
            count = os.pwritev(self.fd, views, offset)
            views, offset = advance(views, count), offset + count

    def flush(self) -> None:
        if self.path:
            os.fdatasync(self.fd)
            self._bitmap.flush()
            os.fdatasync(self.fd)

    def inspect(self) -> dict[str, Any]:
        kept = sum(byte.bit_count() for byte in self._bitmap[:])
        return {**super().inspect(), "path": self.path, "clusters_written": kept, "base": self.base.inspect()}

    def interrupt(self) -> None:
        self.base.interrupt()

    def _release_files(self) -> None:
        os.close(self.fd)
        self._file.close()

    def close(self) -> None:
        if not self._bitmap.closed:
            self._bitmap.close()
            self._release_files()
            self.base.close()


def open_params(params: str, read_only: bool) -> Backend:
    """``BASE[,file=PATH]``; a read-only disk needs no overlay, and yet may have one with what was kept in it."""
    base_text, _, path = params.partition(",file=")
    base = open_backend(base_text, read_only=True)
    try:
        overlay = OverlayBackend(base, path or None)
    except BaseException:
        base.close()
        raise
    overlay.read_only = read_only
    return overlay
