"""Atomic operations on memory that is shared with another process.

Plain Python cannot do them: a read, an ``|=`` and a write of a memoryview lose what the other side did in between,
and ``struct.pack_into("<I")`` even writes byte by byte. What needs more than that: event flags (the guest clears
SIEFP bits with locked operations while the host sets others), ``message_type`` and ``message_pending`` of message
slots, and the decision whether to signal, which wants a full fence between the store of one index and the load of
the other.

:class:`AtomicView` and :func:`full_fence` come from the C extension where it is there (about 0.05 us each), otherwise
from ``libatomic.so.1`` through ctypes (about 0.5 us). Without either, they raise :class:`AtomicsUnavailable` when they
are used; there is no version that only pretends. Words are in the machine's byte order; VMBus knows little-endian
machines only.
"""

from __future__ import annotations

import ctypes
import mmap
import platform
from typing import Any

from vmbus import native
from vmbus.errors import VmbusError

_ACQUIRE, _RELEASE, _SEQUENTIAL = 2, 3, 5  # __ATOMIC_ACQUIRE and so on, as gcc numbers them
_OPERANDS = {"load": 0, "store": 1, "exchange": 1, "fetch_or": 1, "fetch_and": 1}


class AtomicsUnavailable(VmbusError):
    """Neither the C extension nor libatomic.so.1 is there."""


def address_of(buffer: memoryview | mmap.mmap) -> int:
    """Return the address of the first byte of a writable, contiguous buffer, as a number for C functions."""
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))


class _Library:
    """libatomic, loaded when the first of its functions is wanted."""

    def __init__(self, name: str = "libatomic.so.1") -> None:
        self._name = name
        self._functions: dict[str, Any] = {}

    def function(self, name: str, result: Any, *arguments: Any) -> Any:
        found = self._functions.get(name)
        if found is None:
            try:
                found = getattr(ctypes.CDLL(self._name), name)
            except (OSError, AttributeError) as error:
                raise AtomicsUnavailable(
                    "atomic operations on shared memory need the C extension vmbus._native or libatomic.so.1"
                    " (Debian package libatomic1)"
                ) from error
            found.restype, found.argtypes = result, arguments
            self._functions[name] = found
        return found


_library = _Library()


class CtypesAtomicView:
    """Atomic 32-bit and 64-bit operations on a writable buffer, by byte offset.

    The view is held until :meth:`release`, so the memory cannot be unmapped under it. An offset outside the buffer or
    not aligned to the word is a ValueError: offsets are our own, never a peer's.
    """

    __slots__ = ("_address", "_held", "_length", "_operations")

    def __init__(self, view: memoryview) -> None:
        self._operations = {
            (operation, width): _library.function(
                f"__atomic_{operation}_{width}", word, ctypes.c_void_p, *(word,) * operands, ctypes.c_int
            )
            for width, word in ((4, ctypes.c_uint32), (8, ctypes.c_uint64))
            for operation, operands in _OPERANDS.items()
        }
        self._held: ctypes.c_char | None = ctypes.c_char.from_buffer(view)
        self._address = address_of(view)
        self._length = len(view)

    def _at(self, offset: int, width: int) -> int:
        address = self._address + offset
        if self._held is None:
            raise ValueError("this atomic view has been released")
        if offset < 0 or offset + width > self._length or address % width:
            raise ValueError(f"no aligned {8 * width}-bit word at offset {offset} of {self._length} bytes")
        return address

    def release(self) -> None:
        """Let the memory go; every later operation is a ValueError."""
        self._held = None

    def load32(self, offset: int) -> int:
        """Load with acquire semantics."""
        return int(self._operations["load", 4](self._at(offset, 4), _ACQUIRE))

    def load64(self, offset: int) -> int:
        return int(self._operations["load", 8](self._at(offset, 8), _ACQUIRE))

    def store32(self, offset: int, value: int) -> None:
        """Store with release semantics."""
        self._operations["store", 4](self._at(offset, 4), value, _RELEASE)

    def store64(self, offset: int, value: int) -> None:
        self._operations["store", 8](self._at(offset, 8), value, _RELEASE)

    def exchange32(self, offset: int, value: int) -> int:
        """Store and return what was there; a full fence, as all operations below."""
        return int(self._operations["exchange", 4](self._at(offset, 4), value, _SEQUENTIAL))

    def exchange64(self, offset: int, value: int) -> int:
        return int(self._operations["exchange", 8](self._at(offset, 8), value, _SEQUENTIAL))

    def fetch_or32(self, offset: int, bits: int) -> int:
        """Set bits and return what was there before."""
        return int(self._operations["fetch_or", 4](self._at(offset, 4), bits, _SEQUENTIAL))

    def fetch_or64(self, offset: int, bits: int) -> int:
        return int(self._operations["fetch_or", 8](self._at(offset, 8), bits, _SEQUENTIAL))

    def fetch_and32(self, offset: int, bits: int) -> int:
        """Keep only ``bits`` and return what was there before."""
        return int(self._operations["fetch_and", 4](self._at(offset, 4), bits, _SEQUENTIAL))

    def fetch_and64(self, offset: int, bits: int) -> int:
        return int(self._operations["fetch_and", 8](self._at(offset, 8), bits, _SEQUENTIAL))


def ctypes_full_fence() -> None:
    """Let no load or store pass this point in either direction."""
    _library.function("atomic_thread_fence", None, ctypes.c_int)(_SEQUENTIAL)


def no_fence() -> None:
    """Stand where the processor keeps loads and stores in order by itself."""


AtomicView: type[CtypesAtomicView] = native.extension.AtomicView if native.extension else CtypesAtomicView
full_fence = native.extension.full_fence if native.extension else ctypes_full_fence

#: After the load of an index and before the loads of what it guards; and before the store of an index. x86 needs none.
KEEPS_ORDER = platform.machine() in ("x86_64", "AMD64", "i686")
acquire_fence = release_fence = no_fence if KEEPS_ORDER else full_fence
