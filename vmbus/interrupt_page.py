"""The shared interrupt page of VMBus before 2.4: one bit for each channel, and one event for all of them.

Before 2.4 a SINT's event flags do not stand for channels. Whoever signals a channel sets its bit in this page, and then
the one event that both ends share: event flag 0 of processor 0 towards the guest, connection 2 towards the host. The
first half of the page is the host's to set, the second the guest's. From 1.1 on a channel can have a connection of its
own, and needs no bit towards the host.

Sources: openvmm ``vmbus_server/src/channel_bitmap.rs`` and ``lib.rs`` (``map_interrupt_page``); Linux 6.1
``drivers/hv/connection.c`` (``vmbus_connect``, ``vmbus_set_event``).
"""

from __future__ import annotations

from typing import Self

from vmbus.atomics import AtomicView, CtypesAtomicView
from vmbus.memory import PAGE_SIZE, GuestMemory
from vmbus.synic import take_flags

SHARED_EVENT_FLAG = 0
"""What interrupts the guest, for whichever channel."""
_HALF = PAGE_SIZE // 2


class SharedFlags:
    """One half of the page: set at one end, taken at the other."""

    def __init__(self, atomics: CtypesAtomicView, start: int) -> None:
        self._atomics = atomics
        self._start = start

    def set(self, flag: int) -> None:
        """Set the bit of a channel."""
        self._atomics.fetch_or32(self._start + flag // 32 * 4, 1 << flag % 32)

    def take(self) -> list[int]:
        """Clear all bits and return the numbers of those that were set."""
        return take_flags(self._atomics, self._start)


class InterruptPageView:
    """The page of one connection; held until :meth:`release`."""

    def __init__(self, page: memoryview) -> None:
        """``page`` is this object's from now on."""
        self._page = page
        self._atomics = AtomicView(page)
        self.to_guest = SharedFlags(self._atomics, 0)
        self.to_host = SharedFlags(self._atomics, _HALF)

    @classmethod
    def at(cls, memory: GuestMemory, gpa: int) -> Self:
        """The one at ``gpa`` in the guest's memory; raises ``OutsideGuestMemory``."""
        return cls(memory.view(gpa & ~(PAGE_SIZE - 1), PAGE_SIZE))

    def release(self) -> None:
        """Let the guest's memory go."""
        self._atomics.release()
        self._page.release()
