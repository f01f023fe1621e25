"""The host's life: devices are plugged in, guests come and go one at a time, and it is told to stop."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Iterable
from itertools import chain, count
from uuid import UUID

from vmbus.channel.spinning import SPIN_MICROSECONDS, spinner_for
from vmbus.devices.device import Device, DeviceError
from vmbus.errors import VmbusError
from vmbus.host.bus import DeviceSlot
from vmbus.host.inventory import Inventory
from vmbus.host.partition import HostPartition, SocketService
from vmbus.host.servicing import Servicing
from vmbus.loop import Loop
from vmbus.tap import NoteKind, Tap
from vmbus.transport import Address
from vmbus.transport.listening import Listener
from vmbus.transport.server import GuestConnection, HelloRefused
from vmbus.wire.control_values import ALL_VERSIONS, Version
from vmbus.wire.partition import FrameStatus

log = logging.getLogger("vmbus.host")


MAX_WAITING = 16
"""Connections that have not said hello; when one more comes, the first of them is closed."""


REST_SECONDS = 1.0
"""So long a host that ends waits for workers that were away; one that is stuck ends with the process."""

_UNPRINTABLE = dict.fromkeys((*range(9), *range(10, 32), *range(127, 160)), "\N{REPLACEMENT CHARACTER}")
"""What a guest says is shown on somebody's terminal, which obeys some of these."""


def _ids(device: Device) -> tuple[UUID, UUID]:
    """What tells a device from every other of a host."""
    return device.interface_id, device.instance_id


class Host:
    """Serves the devices to one guest at a time.

    Everything but ``stop`` belongs to the loop's thread.  ``on_guest`` is called when a guest has come (True) or gone
    (False).
    """

    def __init__(
        self,
        devices: Iterable[Device],
        *,
        tap: Tap | None = None,
        loop: Loop | None = None,
        on_guest: Callable[[bool], None] | None = None,
        servicing: Servicing | None = None,
        max_version: Version = ALL_VERSIONS[-1],
        spin_microseconds: float = SPIN_MICROSECONDS,
    ) -> None:
        self.loop = loop or Loop()
        self.tap = tap
        self.spinner = spinner_for(self.loop, spin_microseconds)
        self.partition: HostPartition | None = None
        self.max_version = max_version
        """The newest version of VMBus that guests are given."""
        self.servicing = servicing
        """What keeps the guest's state for the next process, if this host is one that can be serviced."""
        self.sockets: SocketService | None = None
        """What answers the guest's wishes for sockets to this side; without it they are refused."""
        self.slots: list[DeviceSlot] = []
        self.guests_served = 0
        self._is_stopping = False
        self._on_guest = on_guest
        self._listener: Listener | None = None
        self._connection: GuestConnection | None = None
        self._waiting: list[GuestConnection] = []
        self.loop.on_error = self._internal_error
        self.leaving: list[DeviceSlot] = []
        """Devices that are not the host's any more, and that a guest has not let go of yet."""
        for device in devices:
            self.plug(device)
        self.inventory = Inventory(self, self._devices_changed)
        """What is changed about the devices from now on."""
        if servicing is not None:
            try:
                servicing.prepare(self)
            except VmbusError:
                self.close()
                raise

    # Devices

    def plug(self, device: Device) -> DeviceSlot:
        """Add a device; a guest that is connected is offered it at once.

        Raises ``DeviceError``, ``AlreadyOffered`` or ``TooManyChannels``; the device is the caller's to close then.
        """
        if any(_ids(other.device) == _ids(device) for other in self.slots):
            raise DeviceError(f"{device.name}: there is a device with its instance id, {device.instance_id}, already")
        slot = DeviceSlot(self, device)
        taken = {other.label for other in self.slots}
        numbered = (f"{device.name}{number}" for number in count(2))
        slot.label = next(label for label in chain([device.name], numbered) if label not in taken)
        device.attach(slot)
        self.slots.append(slot)
        if self.partition is not None:
            try:
                self.partition.offer(slot)
            except VmbusError:
                self.slots.remove(slot)
                raise
        return slot

    def unplug(self, slot: DeviceSlot) -> None:
        """Rescind a device's offers, and release it as soon as no guest uses it any more."""
        if slot in self.slots:
            self.slots.remove(slot)
            self.leaving.append(slot)
            slot.remove()

    def _devices_changed(self) -> None:
        """The next process must know before whoever asked for it does."""
        if self.partition is not None:
            self.partition.save()
        elif self.servicing is not None:
            self.servicing.devices_changed()

    # Guests

    @property
    def has_guest(self) -> bool:
        """Whether a guest's hello has been accepted."""
        return self.partition is not None and self.partition.memory is not None

    def listen(self, address: Address) -> None:
        """Wait for guests at ``address``.  Raises ``AddressError``."""
        self._listener = Listener(self.loop, address, self.accept)

    def accept(self, connection: socket.socket) -> None:
        """Take a connected socket as a guest's; the host owns it from now on."""
        if len(self._waiting) == MAX_WAITING:
            self._waiting[0].close("too many have connected and said no hello")
        self._waiting.append(GuestConnection(connection, self.loop, self))

    def admit(self, connection: GuestConnection) -> HostPartition:
        """A guest says hello: it gets the only place, unless another one has it."""
        if self._connection is not None:
            self._connection.catch_up()  # the last guest may be gone without our having seen it yet
        if self.partition is not None:
            raise HelloRefused(FrameStatus.BUSY, "another guest is connected")
        self._waiting.remove(connection)
        self.partition = HostPartition(self)
        self._connection = connection
        return self.partition

    def turned_away(self, connection: GuestConnection, reason: str) -> None:
        """Somebody who had connected is gone and was no guest."""
        self._waiting.remove(connection)
        self.note(reason)

    def guest_came(self) -> None:
        """A guest's hello was accepted."""
        self.guests_served += 1
        if self._on_guest is not None:
            self._on_guest(True)

    def guest_left(self, reason: str) -> None:
        """The guest's connection has ended and everything of it is closed: the next may come."""
        self.note(reason)
        served = self.partition is not None and self.partition.is_served
        if self.servicing is not None and served and not self._is_stopping:
            self.servicing.forget()
        self.partition = None
        self._connection = None
        for slot in (*self.slots, *self.leaving):
            slot.guest_left()
        if self.sockets is not None:
            self.sockets.guest_left()
        if self._on_guest is not None:
            self._on_guest(False)

    def disconnect_guest(self, reason: str) -> None:
        """End the guest's connection because of what it did; the host lives."""
        if self._connection is not None:
            self._connection.close(reason)

    def note(self, text: str, kind: NoteKind = NoteKind.TEXT) -> None:
        """One line for the log and for the capture."""
        log.info("%s", text.translate(_UNPRINTABLE))
        if self.tap is not None:
            self.tap.note(kind, text)

    def _internal_error(self, error: Exception) -> None:
        """A callback failed.  What a guest can cause is handled where it happens; this is the last line of defence."""
        if isinstance(error, VmbusError):
            self.note(str(error), NoteKind.PROBLEM)
        else:
            log.error("internal error", exc_info=error)
            self.note(f"internal error: {error!r}", NoteKind.PROBLEM)
        self.disconnect_guest(f"the guest's connection is closed after an error: {error}")

    # Life

    def serve(self, until: Callable[[], bool] | None = None, *, timeout: float | None = None) -> bool:
        """Run the loop until ``stop``, or until ``until`` holds."""
        return self.loop.run(until, timeout=timeout)

    def stop(self) -> None:
        """Let ``serve`` return; from any thread."""
        self.loop.stop()

    def close(self) -> None:
        """Disconnect the guest, release every device, remove the socket's file."""
        self._is_stopping = True
        if self.servicing is not None:
            self.servicing.suspend(self.partition)
        self.disconnect_guest("the host stops")
        for connection in tuple(self._waiting):
            connection.close("the host stops")
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        devices = [slot.device for slot in self.slots]
        for device in devices:
            device.close()
        self.slots.clear()
        self.loop.run_once(0.0)
        self.loop.run(lambda: all(device.is_at_rest for device in devices), timeout=REST_SECONDS)
        self.loop.close()
        if self.servicing is not None:
            self.servicing.close()
