"""Where a disk's blocks live: the interface that every backend has, and how one is opened by its name.

A backend of one's own is one file with one class, see docs/storage.md. The commands above it have checked every
range against ``size``, so ``offset`` and lengths are multiples of the block size and inside the disk.

A backend whose reads and writes never wait long (``is_quick``) works in the loop's thread, straight on the guest's
pages. Any other works in a few threads of its own, on copies, so that a request that hangs stops no other disk.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from vmbus.devices.device import DeviceError, NoSuchDevice
from vmbus.devices.storage.buffers import Views
from vmbus.errors import OptionError

_ZEROS = memoryview(bytes(1 << 20))


class BackendError(DeviceError):
    """A disk's file or server cannot be used."""


class BadBackendName(BackendError, OptionError):
    """What follows a backend's scheme makes no sense."""


class Backend(ABC):
    """Base of every backend. A method that fails raises ``OSError``; its ``errno`` becomes the guest's sense data."""

    size: int
    """Bytes, a multiple of ``block_size``."""
    block_size: int = 512
    """The smallest piece that can be read or written, in bytes; a guest's sectors are never smaller."""
    read_only: bool = False
    is_quick: bool = False
    """Whether reads and flushes are as quick as memory, so that they may run in the loop."""
    quick_writes: bool = False
    """Whether writes are, as they are into the host's page cache."""
    can_discard: bool = False
    discarded_reads_zero: bool = False
    """Whether discarded blocks read as zeros."""
    parallel: int = 4
    """How many requests of a slow backend may be under way at once, each in a thread."""
    files: tuple[Path, ...] = ()
    """What the blocks live in, as far as that is files of ours: nobody else may write over them."""
    on_resize: Callable[[], None] | None = None
    """Called, from any thread, after ``size`` has changed."""

    @abstractmethod
    def read_into(self, views: Views, offset: int) -> None:
        """Fill all of ``views`` from ``offset`` on."""

    @abstractmethod
    def write_from(self, views: Views, offset: int) -> None:
        """Write all of ``views`` from ``offset`` on. It may stay in a cache until :meth:`flush`."""

    @abstractmethod
    def flush(self) -> None:
        """Return when everything written so far would survive a power cut."""

    def read_at_once(self, views: Views, offset: int) -> bool:
        """Read like :meth:`read_into` if that needs no waiting; say whether it was done. Runs in the loop."""
        if self.is_quick:
            self.read_into(views, offset)
        return self.is_quick

    def write_durably(self, views: Views, offset: int) -> None:
        """Write and return when the data would survive a power cut (force unit access)."""
        self.write_from(views, offset)
        self.flush()

    def discard(self, offset: int, length: int) -> None:
        """Forget these bytes; only called when ``can_discard``."""
        raise NotImplementedError

    def write_zeroes(self, offset: int, length: int) -> None:
        """Make these bytes zero."""
        end = offset + length
        while offset < end:
            size = min(end - offset, len(_ZEROS))
            self.write_from([_ZEROS[:size]], offset)
            offset += size

    def mapped_ranges(self, offset: int, length: int, limit: int) -> list[tuple[int, int]]:
        """The first ``limit`` ``(offset, length)`` pieces of a range that hold data; all where that is unknown."""
        return [(offset, length)]

    def inspect(self) -> dict[str, Any]:
        """What to show of this backend."""
        return {"kind": type(self).__name__, "size": self.size, "read_only": self.read_only}

    def interrupt(self) -> None:  # noqa: B027 - most requests end by themselves
        """The backend is about to be closed: requests that hang are to fail with ``OSError``. From the loop."""

    def close(self) -> None:  # noqa: B027 - memory has nothing to release
        """Release files and connections. No request is under way, and none comes after this."""


IMAGE_SUFFIXES = {".vhdx": "vhdx", ".vhd": "vpc", ".qcow2": "qcow2", ".vmdk": "vmdk", ".vdi": "vdi"}
"""File names that mean an image format, and qemu's name for it; ``qemu-nbd`` reads and writes them for us."""


def open_backend(text: str, *, read_only: bool = False) -> Backend:
    """Open what ``scheme:params`` or a bare path names.

    A scheme is a module of this folder with a function ``open_params(params, read_only)``, or an entry point in the
    group ``vmbus.storage_backends``. A bare path is a raw file or block device, or an image by its suffix.
    Raises :class:`BackendError`.
    """
    scheme, colon, params = text.partition(":")
    scheme, plus, variant = scheme.partition("+")
    if not colon or not scheme.isidentifier() or Path(text).exists():
        scheme, params = ("qemu" if Path(text).suffix.lower() in IMAGE_SUFFIXES else "file"), text
    elif plus:
        params = f"+{variant}:{params}"
    opener: Callable[[str, bool], Backend]
    module = f"{__package__}.{scheme}"
    if find_spec(module) is not None and hasattr(found := import_module(module), "open_params"):
        opener = found.open_params
    elif plugins := tuple(entry_points(group="vmbus.storage_backends", name=scheme)):
        opener = plugins[0].load()
    else:
        raise NoSuchDevice(f"no storage backend is called {scheme!r} (in {text!r})")
    try:
        return opener(params, read_only)
    except OSError as error:
        raise BackendError(f"cannot open {text!r}: {error.strerror or error}") from error


def parse_size(text: str) -> int:
    """Bytes from ``64M``, ``1T``, ``4096``; :class:`BackendError` if it is no size."""
    units = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
    digits = text.rstrip("KMGTkmgt")
    unit = text[len(digits) :].upper()
    if not digits.isascii() or not digits.isdigit() or unit not in units or not int(digits):
        raise BadBackendName(f"{text!r} is not a size: write bytes, or a number with K, M, G or T")
    return int(digits) * units[unit]


def errno_error(code: int, what: str) -> OSError:
    """An ``OSError`` of that number which says what could not be done."""
    return OSError(code, f"{what}: {os.strerror(code)}")
