"""A guest's physical memory as it lies in a file: a raw image, an ELF core, a kdump.

In a raw image the offset is the address: so is the memory file of a User-Mode Linux guest, and what QEMU's
``pmemsave`` writes. An ELF core (``virsh dump --memory-only``, ``/proc/vmcore``, ``makedumpfile -E``) has the
addresses in its program headers. The pages of a compressed kdump are read through ``drgn``, which is an optional extra
(``pip install vmbus[memory]``); which pages there are it does not tell, so the dump's bitmap is read here. Source:
makedumpfile ``diskdump_mod.h`` (``disk_dump_header``).
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from vmbus.capture.importers import CannotImport
from vmbus.memory import PAGE_SIZE

_PROGRAM_HEADER = struct.Struct("<IIQQQQQQ")
_LOAD = 1
_DISK_DUMP_HEADER = struct.Struct("<428xiiII")
"""Of a kdump: bytes of a block (a page), blocks of the second header, blocks of both bitmaps, pages of the machine.

Before them are signature, version, the kernel's names, the time and a status.
"""


class Extent(NamedTuple):
    """Memory that the file has, from ``gpa`` on."""

    gpa: int
    size: int


class PhysicalMemory(Protocol):
    """What the importer reads."""

    def extents(self) -> list[Extent]:
        """What there is, by address."""

    def read(self, gpa: int, size: int) -> bytes:
        """The bytes at an address; fewer where the file has no more."""

    def close(self) -> None:
        """Let the file go."""


class FileImage:
    """Memory whose pieces lie in a file that can be mapped: a raw image or an ELF core."""

    def __init__(self, path: Path, segments: list[tuple[Extent, int]] | None = None) -> None:
        """``segments`` are extents and where in the file each lies; the whole file at address 0, if not given."""
        with path.open("rb") as file:
            size = path.stat().st_size
            if not size:
                raise CannotImport(f"{path} is empty")
            self._map = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
        self._segments = segments or [(Extent(0, size), 0)]

    def extents(self) -> list[Extent]:
        return [extent for extent, _ in self._segments]

    def read(self, gpa: int, size: int) -> bytes:
        for extent, offset in self._segments:
            if extent.gpa <= gpa < extent.gpa + extent.size:
                at = offset + gpa - extent.gpa
                return self._map[at : at + min(size, extent.gpa + extent.size - gpa)]
        return b""

    def close(self) -> None:
        self._map.close()


class KdumpImage:
    """Memory in a dump that only drgn can read."""

    def __init__(self, path: Path, head: bytes) -> None:
        """``head`` is the file's beginning, as much as ``_DISK_DUMP_HEADER`` has."""
        try:
            import drgn
        except ImportError as error:
            raise CannotImport(
                f"{path} is a compressed kdump: install drgn to read it (pip install vmbus[memory])"
            ) from error
        self._program: Any = drgn.Program()
        self._fault: type[Exception] = drgn.FaultError
        try:
            self._program.set_core_dump(str(path))
        except Exception as error:
            raise CannotImport(f"drgn cannot read {path}: {error}") from error
        self._extents = list(_runs_of_pages(path, head))
        block_size, _, _, page_count = _DISK_DUMP_HEADER.unpack_from(head)
        self._end = block_size * page_count

    def extents(self) -> list[Extent]:
        return self._extents

    def read(self, gpa: int, size: int) -> bytes:
        size = max(0, min(size, self._end - gpa))
        try:
            return bytes(self._program.read(gpa, size, physical=True)) if size else b""
        except self._fault:
            if size > PAGE_SIZE:
                return b"".join(
                    self.read(at, min(PAGE_SIZE, gpa + size - at)) for at in range(gpa, gpa + size, PAGE_SIZE)
                )
            return bytes(size)  # a page that was left out because it is zero

    def close(self) -> None:
        self._program = None


def _runs_of_pages(path: Path, head: bytes) -> Iterator[Extent]:
    """The memory that a kdump holds, from the second of its two bitmaps."""
    block_size, sub_header_blocks, bitmap_blocks, page_count = _DISK_DUMP_HEADER.unpack_from(head)
    half = bitmap_blocks // 2 * block_size
    with path.open("rb") as file:
        file.seek((1 + sub_header_blocks) * block_size + half)
        bitmap = np.frombuffer(file.read(half), np.uint8)
    present = np.unpackbits(bitmap, count=min(page_count, 8 * len(bitmap)), bitorder="little")
    edges = np.flatnonzero(np.diff(present, prepend=0, append=0)).tolist()
    for first, last in zip(edges[::2], edges[1::2], strict=True):
        yield Extent(first * block_size, (last - first) * block_size)


def open_image(path: Path) -> PhysicalMemory:
    """Open a memory image of any kind that is known here; raises :class:`CannotImport`."""
    try:
        with path.open("rb") as file:
            head = file.read(_DISK_DUMP_HEADER.size)
            if head.startswith(b"\x7fELF"):
                return FileImage(path, list(_load_segments(path, head + file.read(1 << 20))))
    except OSError as error:
        raise CannotImport(f"cannot read {path}: {error.strerror}") from error
    if head.startswith(b"makedumpfile"):
        raise CannotImport(f"{path} is a flattened kdump: makedumpfile -R makes a file of it that can be read")
    if head.startswith(b"KDUMP   ") and len(head) == _DISK_DUMP_HEADER.size:
        return KdumpImage(path, head)
    return FileImage(path)


def _load_segments(path: Path, data: bytes) -> Iterator[tuple[Extent, int]]:
    """The memory that an ELF core's program headers describe: extent, and offset in the file."""
    if len(data) < 64 or data[4:6] != b"\2\1":
        raise CannotImport(f"{path} is an ELF file, but not of 64 bits and little-endian")
    start, entry_size, count = struct.unpack_from("<Q", data, 32)[0], *struct.unpack_from("<HH", data, 54)
    size = path.stat().st_size
    found = False
    for number in range(count):
        at = start + number * entry_size
        if entry_size < _PROGRAM_HEADER.size or at + _PROGRAM_HEADER.size > len(data):
            raise CannotImport(f"{path} is an ELF file whose program headers are not where they should be")
        kind, _, offset, _, physical, in_file, _, _ = _PROGRAM_HEADER.unpack_from(data, at)
        if kind == _LOAD and in_file and offset < size:
            found = True
            yield Extent(physical, min(in_file, size - offset)), offset
    if not found:
        raise CannotImport(f"{path} is an ELF file without memory: not a core of a machine")


def pages(memory: PhysicalMemory, size: int = 1 << 22) -> Iterator[tuple[int, bytes]]:
    """All memory in pieces of whole pages: address and bytes."""
    for extent in memory.extents():
        gpa = (extent.gpa + PAGE_SIZE - 1) & -PAGE_SIZE
        while gpa < extent.gpa + extent.size:
            piece = memory.read(gpa, min(size, extent.gpa + extent.size - gpa))
            whole = len(piece) & -PAGE_SIZE
            if not whole:
                break
            yield gpa, piece[:whole]
            gpa += whole
