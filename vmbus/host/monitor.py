"""Serves a connection's two monitor pages: the part of a hypervisor that turns pending bits into signals in time.

On Hyper-V the hypervisor does this, and openvmm traps the guest's writes (``vmm_core/virt_whp``). We can neither trap
nor be interrupted by a store to memory, so we look: as often as the smallest latency of an open monitored channel asks
for, in both pages, and not at all while there is none. A bit in the guest's page signals the channel here; a bit that
we set in our own page becomes the channel's event flag in the guest. Signals that fall between two looks are one.

Looking costs about ten microseconds. After :data:`PATIENCE` looks in vain it is done less and less often, down to once
in :data:`IDLE_NANOSECONDS`, so that an idle guest costs next to nothing; the first signal after such a silence can
be that late, and from then on the latency is kept again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from vmbus.control.events import MonitorPages
from vmbus.host.timerfd import PeriodicTimer
from vmbus.loop import Loop
from vmbus.memory import GuestMemory
from vmbus.monitor_page import MonitorPageView

SHORTEST_NANOSECONDS = 50_000
"""A smaller latency is not kept: looking that often would leave no time for anything else."""
IDLE_NANOSECONDS = 5_000_000
PATIENCE = 100
"""So many looks in vain before the interval grows."""


class Monitored(NamedTuple):
    """An open channel that is signalled through the pages."""

    latency: int
    """In units of 100 ns."""
    connection_id: int
    signal_host: Callable[[], object]
    signal_guest: Callable[[], object]


class PageMonitor:
    """The pages of one connection and the channels that use them.  Belongs to the loop's thread."""

    def __init__(self, loop: Loop) -> None:
        self.looks = 0
        """How often the pages were looked at."""
        self.signals_to_host = 0
        self.signals_to_guest = 0
        self._loop = loop
        self._pages: tuple[MonitorPageView, MonitorPageView] | None = None
        self._monitored: dict[int, Monitored] = {}
        self._timer: PeriodicTimer | None = None
        self._interval = 0
        self._in_vain = 0

    # Pages

    @property
    def has_pages(self) -> bool:
        return self._pages is not None

    def use(self, memory: GuestMemory, pages: MonitorPages | None) -> None:
        """Serve these pages from now on, or none.  Raises ``OutsideGuestMemory``, and serves none then."""
        self._look()
        self._drop_pages()
        if pages is not None:
            to_guest = MonitorPageView.at(memory, pages.parent_to_child)
            try:
                self._pages = (to_guest, MonitorPageView.at(memory, pages.child_to_parent))
            except BaseException:
                to_guest.release()
                raise
            for monitor_id, monitored in self._monitored.items():
                self._describe(monitor_id, monitored)
        self._set_interval()

    def _drop_pages(self) -> None:
        if self._pages is not None:
            for page in self._pages:
                page.release()
            self._pages = None

    def _describe(self, monitor_id: int, monitored: Monitored) -> None:
        assert self._pages is not None
        for page in self._pages:
            page.describe(monitor_id, monitored.latency, monitored.connection_id)

    # Channels

    def watch(self, monitor_id: int, monitored: Monitored) -> None:
        """A channel that uses notification ``monitor_id`` is open."""
        self._monitored[monitor_id] = monitored
        if self._pages is not None:
            self._describe(monitor_id, monitored)
        self._set_interval()

    def unwatch(self, monitor_id: int) -> None:
        """The channel is closed; what is still pending for it is nobody's."""
        self._monitored.pop(monitor_id, None)
        self._set_interval()

    def signal_guest(self, monitor_id: int) -> None:
        """Signal the guest within the channel's latency; at once when the connection has no pages."""
        if self._pages is None:
            self._monitored[monitor_id].signal_guest()
        elif self._pages[0].set(monitor_id) and self._in_vain > PATIENCE:
            self._in_vain = 0
            self._set_interval()

    # Looking

    def _set_interval(self) -> None:
        """As often as the shortest latency asks for; not at all without pages or channels."""
        if self._pages is None or not self._monitored:
            interval = 0
        else:
            shortest = min(monitored.latency for monitored in self._monitored.values())
            interval = max(shortest * 100, SHORTEST_NANOSECONDS)
        self._set_timer(interval)

    def _set_timer(self, interval: int) -> None:
        if interval == self._interval:
            return
        if self._timer is None:
            self._timer = PeriodicTimer()
            self._loop.watch(self._timer.fileno(), self._expired)
        self._interval = interval
        self._timer.every(interval)

    def _expired(self) -> None:
        if self._timer is None or not self._timer.expired():
            return
        if self._look():
            if self._in_vain > PATIENCE:
                self._set_interval()
            self._in_vain = 0
            return
        self._in_vain += 1
        if self._in_vain > PATIENCE and 0 < self._interval < IDLE_NANOSECONDS:
            self._set_timer(min(self._interval * 2, IDLE_NANOSECONDS))

    def _look(self) -> bool:
        """Deliver what is pending in both pages; whether there was anything.

        The guest's page comes first: what a channel answers at once to a signal reaches the guest in the same look.
        """
        if self._pages is None:
            return False
        self.looks += 1
        page_to_guest, page_to_host = self._pages
        to_host = page_to_host.take()
        for monitored in self._those_of(to_host):
            self.signals_to_host += 1
            monitored.signal_host()
        to_guest = page_to_guest.take()
        for monitored in self._those_of(to_guest):
            self.signals_to_guest += 1
            monitored.signal_guest()
        return bool(to_guest or to_host)

    def _those_of(self, pending: int) -> list[Monitored]:
        """The open channels of pending bits; other bits are a guest's nonsense, or of a channel just closed."""
        found: list[Monitored] = []
        while pending:
            lowest = pending & -pending
            pending ^= lowest
            monitored = self._monitored.get(lowest.bit_length() - 1)
            if monitored is not None:
                found.append(monitored)
        return found

    def inspect(self) -> dict[str, Any]:
        """Live state for ``vmbus ctl inspect``."""
        return {
            "interval_us": self._interval / 1000,
            "looks": self.looks,
            "signals_to_host": self.signals_to_host,
            "signals_to_guest": self.signals_to_guest,
        }

    def close(self) -> None:
        """Let the pages and the timer go."""
        self._monitored.clear()
        self._drop_pages()
        if self._timer is not None:
            self._loop.unwatch(self._timer.fileno())
            self._timer.close()
            self._timer = None
        self._interval = 0
