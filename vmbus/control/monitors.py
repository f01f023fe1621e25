"""Which of the 128 monitored notifications of a connection are given to channels.

Source: openvmm ``vmbus_server/src/monitor.rs`` (``AssignedMonitors``).
"""

from __future__ import annotations

from vmbus.wire.hypervisor import MONITOR_COUNT


class MonitorIds:
    """A bitmap of notifications in use."""

    def __init__(self) -> None:
        self.in_use = 0

    def assign(self) -> int | None:
        """The lowest free id; None if there is none, and the channel is signalled by hypercall then."""
        free = ~self.in_use
        index = (free & -free).bit_length() - 1
        if index >= MONITOR_COUNT:
            return None
        self.in_use |= 1 << index
        return index

    def claim(self, monitor_id: int) -> bool:
        """Take a certain id; whether it was free."""
        if self.in_use >> monitor_id & 1:
            return False
        self.in_use |= 1 << monitor_id
        return True

    def release(self, monitor_id: int) -> None:
        self.in_use &= ~(1 << monitor_id)
