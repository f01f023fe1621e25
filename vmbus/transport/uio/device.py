"""``/dev/uioN`` of ``uio_hv_generic``: the memory of a channel, its interrupts, and a way to signal the host.

Opening the file opens the channel, closing the last descriptor and mapping of it closes the channel again. Its maps are
chosen by the offset given to ``mmap``, in pages, and each can only be mapped from its start:

=== ============== ==========================================================================
0   txrx_rings     both rings one after the other, ours first; each its control page, then data
1   int_page       the interrupt page of the whole bus, of old hosts; not used here
2   monitor_page   pending bits that signal the host, of all channels of the bus
3   recv:GPADL     31 MiB that the host can write to
4   send:GPADL     16 MiB that the host can read
=== ============== ==========================================================================

``read`` gives the count of interrupts so far, and EIO once the device is gone; ``write`` of a 1 lets the kernel signal
the host, but only for a channel without a monitor id (and clears the interrupt mask). Once the device is gone the
kernel has freed the rings: they must not be touched, and are unmapped at once. A page of the other maps would be a
SIGBUS if it were touched for the first time then; so all are brought in when they are mapped.

Sources: Linux 6.12 ``drivers/uio/uio_hv_generic.c`` (``enum hv_uio_map``, ``hv_uio_probe``, ``hv_uio_irqcontrol``,
``hv_uio_rescind``), ``drivers/uio/uio.c`` (``uio_read``, ``uio_write``, ``uio_vma_fault``, ``uio_mmap_physical``),
``drivers/hv/channel.c`` (``hv_ring_gpadl_send_hvpgoffset``: a control page takes one page of the kernel's size).
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import struct
from enum import IntEnum
from pathlib import Path
from typing import Protocol

from vmbus.memory import Mapping, MappingFailed
from vmbus.transport.uio.binding import require_bound
from vmbus.transport.uio.errors import ChannelInUse, DeviceGone, UioError
from vmbus.transport.uio.sysfs import SysfsDevice, read_number, read_text

_COUNT = struct.Struct("=i")
_SIGNAL = _COUNT.pack(1)
LARGEST_MAP = 1 << 28


class UioMap(IntEnum):
    """The maps by number."""

    RINGS = 0
    INTERRUPT_PAGE = 1
    MONITOR_PAGE = 2
    RECEIVE_BUFFER = 3
    SEND_BUFFER = 4


class ChannelFile(Protocol):
    """What a bus needs of an opened device; tests give it one over ordinary shared memory."""

    def fileno(self) -> int:
        """Readable when the host has interrupted, or when the device is gone."""
        ...

    def map(self, which: UioMap) -> Mapping:
        """Map one of the device's pieces of memory, from its start; whoever asked closes it."""
        ...

    def map_subchannel(self, subchannel: SysfsDevice) -> Mapping:
        """Map both rings of a subchannel."""
        ...

    def gpadl(self, which: UioMap) -> int:
        """The GPADL by which the host knows a buffer."""
        ...

    def take_interrupts(self) -> None:
        """Make :meth:`fileno` unreadable until the next interrupt; :class:`DeviceGone` when there will be none."""
        ...

    def signal(self) -> None:
        """Let the kernel signal the host; :class:`DeviceGone` when it cannot any more."""
        ...

    def close(self) -> None: ...


class UioFile:
    """The real one."""

    def __init__(self, device: SysfsDevice, devices: Path = Path("/dev")) -> None:
        """Open the device and with it the channel, for this process alone.

        Raises :class:`NotBound`, :class:`ChannelInUse` and :class:`UioError`.
        """
        require_bound(device)
        self._maps = device.directory / "uio" / device.uio / "maps"
        self._what = f"{device} ({device.uio})"
        path = devices / device.uio
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            hint = ": only root may, or whom its owner and mode let" if error.errno == errno.EACCES else ""
            raise UioError(f"cannot open {path} and the channel of {device}: {error.strerror}{hint}") from None
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._fd)
            raise ChannelInUse(f"{self._what} is driven by another process") from None

    def fileno(self) -> int:
        return self._fd

    def map(self, which: UioMap) -> Mapping:
        size = read_number(self._maps / f"map{which}" / "size")
        if size is None or not mmap.PAGESIZE <= size <= LARGEST_MAP:
            raise UioError(f"{self._what} has no map {which} ({which.name.lower().replace('_', ' ')})")
        return _map(self._fd, size, which * mmap.PAGESIZE, f"map {which} of {self._what}")

    def map_subchannel(self, subchannel: SysfsDevice) -> Mapping:
        path = subchannel.channel_directory / "ring"
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise UioError(f"cannot open {path}: {error.strerror}") from None
        try:
            size = os.fstat(fd).st_size
            return _map(fd, size, 0, str(path))
        finally:
            os.close(fd)

    def gpadl(self, which: UioMap) -> int:
        name = read_text(self._maps / f"map{which}" / "name")
        _, _, number = name.partition(":")
        if not number.isdecimal():
            raise UioError(f"map {which} of {self._what} is called {name!r}, which names no GPADL")
        return int(number)

    def take_interrupts(self) -> None:
        try:
            os.read(self._fd, _COUNT.size)
        except BlockingIOError:
            pass
        except OSError:
            raise self._gone() from None

    def signal(self) -> None:
        try:
            os.write(self._fd, _SIGNAL)
        except OSError:
            raise self._gone() from None

    def _gone(self) -> DeviceGone:
        return DeviceGone(f"{self._what} is gone: the host took it back, or it was unbound")

    def close(self) -> None:
        os.close(self._fd)


def _map(fd: int, size: int, offset: int, what: str) -> Mapping:
    try:
        area = mmap.mmap(
            fd, size, mmap.MAP_SHARED | mmap.MAP_POPULATE, mmap.PROT_READ | mmap.PROT_WRITE, offset=offset
        )  # fmt: skip
    except (OSError, ValueError) as error:
        raise MappingFailed(f"cannot map {what}, {size} bytes: {error}") from None
    return Mapping(area)
