"""A monitor page (MNF): 128 notifications that cost their sender no hypercall.

Instead of a hypercall a sender sets its notification's pending bit; whoever serves the page looks at it so often that
no bit waits longer than its latency. A connection has two pages, one for each direction; both lie in the guest's
memory and are laid out as ``vmbus.wire.hypervisor.MonitorPage``. Guest and host change the bits at the same time, with
atomic operations.

Sources: Linux 6.12 ``drivers/hv/channel.c`` (``vmbus_setevent``), ``include/asm-generic/hyperv-tlfs.h``
(``struct hv_monitor_page``); openvmm ``vm/vmcore/src/monitor.rs``.
"""

from __future__ import annotations

import struct
from typing import Self

from vmbus.atomics import AtomicView
from vmbus.memory import PAGE_SIZE, GuestMemory
from vmbus.wire.hypervisor import (
    MONITOR_GROUPS,
    MONITOR_LATENCY_OFFSET,
    MONITOR_PARAMETER_OFFSET,
    MONITOR_PENDING_OFFSET,
    MONITORS_PER_GROUP,
)

MAX_LATENCY = 0xFFFF
"""In units of 100 ns: what fits the page, 6.5 ms."""

_GROUP_SIZE = 8
_LATENCY = struct.Struct("<H")
_PARAMETER = struct.Struct("<IHH")


class MonitorPageView:
    """One monitor page; held until :meth:`release`."""

    def __init__(self, page: memoryview) -> None:
        """``page`` is this object's from now on."""
        self._page = page
        self._atomics = AtomicView(self._page)
        self._words = self._page.cast("I")
        self._pending_words = tuple(_pending_offset(group) // 4 for group in range(MONITOR_GROUPS))

    @classmethod
    def at(cls, memory: GuestMemory, gpa: int) -> Self:
        """The one at ``gpa`` in the guest's memory; raises ``OutsideGuestMemory``."""
        return cls(memory.view(gpa & ~(PAGE_SIZE - 1), PAGE_SIZE))

    def set(self, monitor_id: int) -> bool:
        """Make a notification pending; whether it was not yet."""
        bit = 1 << monitor_id % MONITORS_PER_GROUP
        return not self._atomics.fetch_or32(_pending_offset(monitor_id // MONITORS_PER_GROUP), bit) & bit

    def take(self) -> int:
        """Clear what is pending, and return it: bit n for notification n."""
        found = 0
        for group, word in enumerate(self._pending_words):
            if self._words[word]:
                pending = self._atomics.exchange32(_pending_offset(group), 0)
                found |= pending << group * MONITORS_PER_GROUP
        return found

    def describe(self, monitor_id: int, latency: int, connection_id: int) -> None:
        """Write down, for the guest to look at, how late a notification may be and what it signals."""
        _LATENCY.pack_into(self._page, MONITOR_LATENCY_OFFSET + 2 * monitor_id, min(latency, MAX_LATENCY))
        _PARAMETER.pack_into(self._page, MONITOR_PARAMETER_OFFSET + _PARAMETER.size * monitor_id, connection_id, 0, 0)
        self._atomics.fetch_or32(0, 1 << monitor_id // MONITORS_PER_GROUP)

    def release(self) -> None:
        """Let the guest's memory go."""
        self._words.release()
        self._atomics.release()
        self._page.release()


def _pending_offset(group: int) -> int:
    return MONITOR_PENDING_OFFSET + _GROUP_SIZE * group
