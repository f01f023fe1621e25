"""Hosts in this process that follow each other under one guest of ours: one ends, the next takes its guest over.

Our guest does not reconnect by itself: it is made to say hello again, as Linux does with ``vmbus_reconnect``.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from vmbus.devices.catalog import stand_in
from vmbus.devices.device import Device
from vmbus.drivers.disk import Disk
from vmbus.drivers.network import NetworkCard, NetworkDriver
from vmbus.drivers.storage import FIRST_UNIT, StorageDriver
from vmbus.guest import Guest
from vmbus.host import Host
from vmbus.host.servicing import Servicing
from vmbus.loop import LoopThread
from vmbus.transport.client import HostConnection
from vmbus.wire.control_values import VMBUS_SINT


class FourQueues(NetworkDriver):
    def __init__(self) -> None:
        super().__init__(queues=4)


class FourChannels(StorageDriver):
    def __init__(self) -> None:
        super().__init__(subchannels=3)


class Restarts:
    """Hosts that follow each other, with devices from ``make``, and one guest with four processors."""

    def __init__(self, state: Path, make: Callable[[], Sequence[Device]]) -> None:
        self.state = state
        self.make = make
        self._is_running = False
        self._start()
        self.guest = Guest(self._connect(), drivers=[FourChannels, FourQueues], vp_count=4)
        self.guest.boot()

    def _start(self) -> None:
        servicing = Servicing(self.state, stand_in)
        self.host = Host(self.make(), servicing=servicing)
        self._thread = LoopThread(self.host.loop, "vmbus-host")
        self._thread.start()
        self._is_running = True

    def _connect(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        self._thread.call(lambda: self.host.accept(theirs))
        return ours

    def in_host(self, work: Callable[[], Any]) -> Any:
        return self._thread.call(work)

    def end(self, *, kill: bool) -> None:
        """Stop the host in good order, or leave everything as it is at this moment."""
        self._thread.stop()
        host, servicing = self.host, self.host.servicing
        devices = [slot.device for slot in host.slots] if kill else []
        if kill:
            host.servicing = None
            host.slots.clear()
        self.guest.loop.unwatch(self.guest._connection.fileno())
        host.close()
        # What the kernel does for a process that was killed; the guest hears nothing of it any more.
        for device in devices:
            device.close()
        if kill and servicing is not None:
            servicing.close()
        self._is_running = False

    def start(self) -> None:
        """Start the next host, and have the guest say hello to it, as one that was started with ``--reconnect``."""
        self._start()
        connection = HostConnection(self._connect())
        connection._sequence = self.guest._connection._sequence
        self.guest._connection.close()
        self.guest._connection = connection
        connection.hello(self.guest.memory, self.guest._interrupts, self.guest._guest_id)
        for vp in self.guest._vps:
            vp.enable(VMBUS_SINT)
        self.guest.loop.watch(connection.fileno(), self.guest._host_spoke)

    def restart(self, *, kill: bool) -> None:
        self.end(kill=kill)
        self.start()

    def disk(self, number: int = 0) -> Disk:
        link = self.guest.bus.wait(self.guest.driver(FourChannels, number).ready, 10)
        return Disk(link, self.guest.pages, self.guest.bus.wait, FIRST_UNIT).open()

    def card(self) -> NetworkCard:
        driver = self.guest.driver(FourQueues)
        self.guest.bus.wait(driver.ready, 10)
        return NetworkCard(self.guest.bus, driver, "10.7.0.2")

    def close(self) -> None:
        self.guest.close()
        if self._is_running:
            self._thread.stop()
            self.host.close()
