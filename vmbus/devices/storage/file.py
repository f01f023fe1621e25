"""A raw image file or a block device as a disk.

Reads try the page cache first (``RWF_NOWAIT``) and go to a thread when the data is not there; writes go to the page
cache. Discarded ranges become holes (``fallocate`` with ``PUNCH_HOLE``), so a sparse image stays sparse.

Sources: ``preadv2(2)``, ``fallocate(2)``; openvmm ``vm/devices/storage/disk_blockdevice``, ``disk_file``.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import stat
import struct
import weakref
from pathlib import Path
from typing import Any

from vmbus.devices.storage.backend import Backend, BackendError, errno_error, parse_size
from vmbus.devices.storage.buffers import Views, advance, total_length
from vmbus.file_lock import lock_file

_KEEP_SIZE = 1
_PUNCH_HOLE = 2
_ZERO_RANGE = 16
_BLKGETSIZE64 = 0x80081272
_BLKZEROOUT = 0x127F
_RWF_NOWAIT = getattr(os, "RWF_NOWAIT", 0)
_RWF_DSYNC = getattr(os, "RWF_DSYNC", 0)

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


class FileBackend(Backend):
    """A file or block device, opened by path; the whole of it is the disk."""

    discarded_reads_zero = True
    quick_writes = True
    parallel = 8

    def __init__(self, path: str, *, read_only: bool = False) -> None:
        """Raises ``OSError`` if it cannot be opened and :class:`BackendError` if it is no possible disk."""
        self.path = path
        self.files = (Path(path),)
        self.read_only = read_only
        self.fd = os.open(path, (os.O_RDONLY if read_only else os.O_RDWR) | os.O_CLOEXEC)
        self._close_file = weakref.finalize(self, os.close, self.fd)
        try:
            mode = os.fstat(self.fd).st_mode
            self._is_device = stat.S_ISBLK(mode)
            if not self._is_device and not stat.S_ISREG(mode):
                raise BackendError(f"{path} is neither a file nor a block device")
            lock_image(self.fd, path, shared=read_only)
            self.size = self._measure()
            if not self.size:
                raise BackendError(f"{path} is too small for a disk: it has less than {self.block_size} bytes")
        except BaseException:
            self._close_file()
            raise
        self.can_discard = not read_only and (self._is_device or self._can_punch())
        self._nowait = self._probe_nowait()
        self.reads_that_waited = 0
        """Reads whose data was not in the page cache, and that a worker did."""

    def _measure(self) -> int:
        if self._is_device:
            (size,) = struct.unpack("=Q", fcntl.ioctl(self.fd, _BLKGETSIZE64, bytes(8)))
        else:
            size = os.fstat(self.fd).st_size
        return int(size) & ~(self.block_size - 1)

    def _probe_nowait(self) -> int:
        """The flag that makes reads leave out what is not cached; 0 where the file system cannot say."""
        try:
            os.preadv(self.fd, [bytearray(self.block_size)], 0, _RWF_NOWAIT)
        except BlockingIOError:
            return _RWF_NOWAIT
        except OSError:
            return 0
        return _RWF_NOWAIT

    def _can_punch(self) -> bool:
        """Whether the file system makes holes; tried behind the end, where there is nothing to lose.

        Where it does not, a guest that discards a whole disk would fill it with zeros.
        """
        return self._fallocate(_PUNCH_HOLE | _KEEP_SIZE, self.size + self.block_size, self.block_size)

    def refresh_size(self) -> None:
        """Look whether the file was made larger or smaller, and tell the disk."""
        size = self._measure()
        if size and size != self.size:
            self.size = size
            if self.on_resize is not None:
                self.on_resize()

    def resize(self, size: int) -> None:
        """Make the file ``size`` bytes long and tell the disk."""
        if self._is_device:
            raise BackendError(f"{self.path} is a block device: resize it where it comes from")
        os.ftruncate(self.fd, size)
        self.refresh_size()

    def read_at_once(self, views: Views, offset: int) -> bool:
        try:
            if os.preadv(self.fd, views, offset, self._nowait) == total_length(views):
                return True
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EOPNOTSUPP):
                raise
        self.reads_that_waited += 1
        return False

    def read_into(self, views: Views, offset: int) -> None:
        wanted = total_length(views)
        while wanted:
            count = os.preadv(self.fd, views, offset)
            if not count:
                raise errno_error(errno.EIO, f"{self.path} ends at byte {offset}")
            wanted -= count
            if wanted:
                views = advance(views, count)
                offset += count

    def write_from(self, views: Views, offset: int) -> None:
        self._write(views, offset, 0)

    def write_durably(self, views: Views, offset: int) -> None:
        self._write(views, offset, _RWF_DSYNC)

    def _write(self, views: Views, offset: int, flags: int) -> None:
        wanted = total_length(views)
        while wanted:
            count = os.pwritev(self.fd, views, offset, flags)
            if not count:
                raise errno_error(errno.EIO, f"{self.path} takes no data at byte {offset}")
            wanted -= count
            if wanted:
                views = advance(views, count)
                offset += count

    def flush(self) -> None:
        os.fdatasync(self.fd)

    def discard(self, offset: int, length: int) -> None:
        if self._is_device:
            self._range_ioctl(_BLKZEROOUT, offset, length)
        elif not self._fallocate(_PUNCH_HOLE | _KEEP_SIZE, offset, length):
            raise errno_error(errno.EOPNOTSUPP, f"{self.path}: cannot deallocate {length} bytes at {offset}")

    def write_zeroes(self, offset: int, length: int) -> None:
        if self._is_device:
            self._range_ioctl(_BLKZEROOUT, offset, length)
        elif not self._fallocate(_ZERO_RANGE | _KEEP_SIZE, offset, length):
            super().write_zeroes(offset, length)

    def _fallocate(self, mode: int, offset: int, length: int) -> bool:
        """Whether the file system could do it; it raises if it could in principle and failed."""
        if _libc.fallocate(self.fd, mode, offset, length) == 0:
            return True
        code = ctypes.get_errno()
        if code in (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL):
            return False
        raise errno_error(code, f"{self.path}: cannot deallocate {length} bytes at {offset}")

    def _range_ioctl(self, request: int, offset: int, length: int) -> None:
        fcntl.ioctl(self.fd, request, struct.pack("=QQ", offset, length))

    def mapped_ranges(self, offset: int, length: int, limit: int) -> list[tuple[int, int]]:
        end = offset + length
        found: list[tuple[int, int]] = []
        while offset < end and len(found) < limit:
            try:
                start = os.lseek(self.fd, offset, os.SEEK_DATA)
                stop = min(os.lseek(self.fd, start, os.SEEK_HOLE), end)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    break
                raise
            if start >= end:
                break
            found.append((start, stop - start))
            offset = stop
        return found

    def inspect(self) -> dict[str, Any]:
        allocated = os.fstat(self.fd).st_blocks * 512
        return {
            **super().inspect(),
            "path": self.path,
            "allocated": allocated,
            "reads_that_waited": self.reads_that_waited,
        }

    def close(self) -> None:
        self._close_file()
        self.fd = -1


def lock_image(fd: int, path: str, *, shared: bool) -> None:
    """Keep every other host, and every other disk of this one, from writing an image that is in use.

    Readers share theirs. Raises :class:`BackendError`.
    """
    if not lock_file(fd, shared=shared):
        use = "is written" if shared else "is in use"
        raise BackendError(f"{path} {use} by another disk, of this host or of another one")


def open_params(params: str, read_only: bool) -> FileBackend:
    """``PATH``, or ``PATH,create=SIZE`` to make a sparse file where there is none."""
    path, comma, option = params.partition(",create=")
    if comma:
        size = parse_size(option)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if not os.fstat(fd).st_size:
                os.ftruncate(fd, size)
        finally:
            os.close(fd)
    return FileBackend(path, read_only=read_only)
