"""A host and a Python guest in one process, joined by a socket pair: the whole stack, without another process.

The host runs in a thread of its own, the guest in the thread of the test.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Self, TypeVar

from vmbus.devices.device import Device
from vmbus.drivers.driver import Driver
from vmbus.guest import Guest
from vmbus.host import Host
from vmbus.loop import LoopThread
from vmbus.tap import Tap

T = TypeVar("T")


class PartitionPair:
    """``host`` serves ``devices`` to ``guest``, which has booted when the pair is entered.

    What concerns the host is done in its thread: ``pair.in_host(lambda: ...)``.  More guests, one after the other,
    come from ``new_guest()``.
    """

    def __init__(
        self,
        devices: Iterable[Device] = (),
        drivers: Iterable[type[Driver]] = (),
        *,
        tap: Tap | None = None,
        **guest_options: Any,
    ) -> None:
        self.host = Host(devices, tap=tap)
        self._drivers = tuple(drivers)
        self._options = guest_options
        self._thread = LoopThread(self.host.loop, "vmbus-host")
        self._guests: list[Guest] = []

    @property
    def guest(self) -> Guest:
        return self._guests[-1]

    def connect(self) -> socket.socket:
        """A socket whose other end the host has just accepted."""
        ours, theirs = socket.socketpair()
        self.in_host(lambda: self.host.accept(theirs))
        return ours

    def new_guest(self, **options: Any) -> Guest:
        """Another guest, not booted yet; close the last one first."""
        guest = Guest(self.connect(), drivers=self._drivers, **{**self._options, **options})
        self._guests.append(guest)
        return guest

    def in_host(self, work: Callable[[], T]) -> T:
        """Do something in the host's thread, and wait for it."""
        return self._thread.call(work)

    def start(self) -> Self:
        """Start the host; no guest yet."""
        self._thread.start()
        return self

    def __enter__(self) -> Self:
        self.start()
        try:
            self.new_guest().boot()
        except BaseException:
            self.close()
            raise
        return self

    def close(self) -> None:
        """Close every guest and the host."""
        for guest in self._guests:
            guest.close()
        self._thread.stop()
        self.host.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
