"""One device on the host's bus: its offers to the guest that is there, and its open channels."""

from __future__ import annotations

import time
from typing import Protocol

from vmbus.channel import Channel
from vmbus.devices.device import Device
from vmbus.loop import Loop
from vmbus.memory import GuestMemory

RETIRE_SECONDS = 3.0
"""How long a device may take to come to rest before its offer is taken back anyway."""


class OfferedTo(Protocol):
    """The guest that is connected, as far as offers are concerned (``vmbus.host.partition.HostPartition``)."""

    @property
    def memory(self) -> GuestMemory | None: ...

    def offer(self, slot: DeviceSlot) -> None: ...

    def rescind(self, slot: DeviceSlot) -> None: ...

    def save(self) -> None: ...


class SlotHost(Protocol):
    """What a slot needs of its host (``vmbus.host.server.Host``)."""

    @property
    def loop(self) -> Loop: ...

    @property
    def partition(self) -> OfferedTo | None: ...

    @property
    def leaving(self) -> list[DeviceSlot]: ...

    def note(self, text: str) -> None: ...


class DeviceSlot:
    """Where a device is plugged in: its ``DeviceBus``.  ``channel_ids`` are its offers, by subchannel index."""

    def __init__(self, host: SlotHost, device: Device) -> None:
        self._host = host
        self.device = device
        self.label = device.name
        """The device's name, with a number if another one is called so too."""
        self.is_offered = True
        """Whether the device is to be offered to guests; a rescinded one is not."""
        self.subchannels = 0
        self._is_removed = False
        self._retiring = False
        self.channel_ids: dict[int, int] = {}
        self.channels: dict[int, Channel] = {}

    @property
    def loop(self) -> Loop:
        return self._host.loop

    @property
    def memory(self) -> GuestMemory | None:
        return self._host.partition.memory if self._host.partition is not None else None

    def offer_subchannels(self, count: int) -> None:
        self.subchannels = max(self.subchannels, count)
        if self._host.partition is not None:
            self._host.partition.offer(self)

    def rescind(self) -> None:
        """Let the device come to rest, then take the offer back.

        A Linux driver that hears of a rescind takes no further packet out of its ring, and yet waits for the answers
        that are due (``vmbus_reset_channel_cb``, ``rndis_filter_halt_device``): what it is owed must be there before.
        """
        self.is_offered = False
        partition = self._host.partition
        if partition is None or self._retiring:
            return
        self._retiring = True
        self.loop.call_soon(partition.save)
        deadline = time.monotonic() + RETIRE_SECONDS

        def take_back() -> None:
            if self._host.partition is not partition or not self._retiring:
                return
            settled = all(self.device.has_settled(channel) for channel in self.channels.values())
            if not settled and time.monotonic() < deadline:
                self.loop.call_later(0.001, take_back)
                return
            self._retiring = False
            partition.rescind(self)
            self.subchannels = 0  # the driver asks for them again
            if self.is_offered:
                partition.offer(self)

        if not self.channels:
            take_back()
            return
        self.device.retire(take_back)
        self.loop.call_later(RETIRE_SECONDS, take_back)

    def reoffer(self) -> None:
        """Offer the device again; if it is still being taken back, as soon as that is done."""
        self.is_offered = True
        if self._host.partition is not None and not self._retiring:
            self._host.partition.offer(self)
            self.loop.call_soon(self._host.partition.save)

    def note(self, text: str) -> None:
        self._host.note(f"{self.device.name}: {text}")

    def remove(self) -> None:
        """Take the offer back for good; the device is released when the guest has let go of its channels."""
        self.rescind()
        self._is_removed = True
        self._release_if_unused()

    def channel_closed(self, index: int, channel: Channel) -> None:
        """The guest has let go of a channel."""
        if self.channels.get(index) is channel:
            del self.channels[index]
        self._release_if_unused()

    def _release_if_unused(self) -> None:
        if self._is_removed and not self.channels:
            self._is_removed = False
            self._host.leaving.remove(self)
            self.device.close()

    def guest_left(self) -> None:
        """No offer and no channel of the last guest counts any more."""
        self.subchannels = 0
        self._retiring = False
        self.channel_ids.clear()
        self.channels.clear()
