"""One device on the host's bus: its offers to the guest that is there, and its open channels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmbus.channel import Channel
from vmbus.devices.device import Device
from vmbus.loop import Loop
from vmbus.memory import GuestMemory

if TYPE_CHECKING:
    from vmbus.host.server import Host


class DeviceSlot:
    """Where a device is plugged in: its ``DeviceBus``.  ``channel_ids`` are its offers, by subchannel index."""

    def __init__(self, host: Host, device: Device) -> None:
        self._host = host
        self.device = device
        self.is_offered = True
        """Whether the device is to be offered to guests; a rescinded one is not."""
        self.subchannels = 0
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
        self.is_offered = False
        if self._host.partition is not None:
            self._host.partition.rescind(self)

    def reoffer(self) -> None:
        self.is_offered = True
        if self._host.partition is not None:
            self._host.partition.offer(self)

    def note(self, text: str) -> None:
        self._host.note(f"{self.device.name}: {text}")

    def guest_left(self) -> None:
        """No offer and no channel of the last guest counts any more."""
        self.subchannels = 0
        self.channel_ids.clear()
        self.channels.clear()
