"""A device that answers every packet with its own bytes: the smallest real one, and the example of
docs/writing-a-device.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from vmbus.channel import Channel, ChannelHandler
from vmbus.devices.device import Device, NoSuchDevice
from vmbus.ring import RingPacket

ECHO_INTERFACE = UUID("6f1c7d1e-94a3-4c1c-9f0e-2b8c0c5d1a10")
"""Our own: no driver of any system binds to it by itself."""


class Echo(Device):
    """Completes packets that ask for a completion, and sends the others back in band."""

    interface_id = ECHO_INTERFACE
    instance_id = UUID("6f1c7d1e-94a3-4c1c-9f0e-2b8c0c5d1a11")
    name = "echo"

    def open(self, channel: Channel) -> ChannelHandler:
        return _Echoing(channel)


class _Echoing(ChannelHandler):
    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def on_packets(self, packets: Sequence[RingPacket]) -> None:
        for packet in packets:
            if packet.wants_completion:
                self._channel.complete(packet.transaction_id, packet.payload)
            else:
                self._channel.send_in_band(packet.payload)


def device_from(params: str) -> Echo:
    """``--device echo``; it takes no parameters."""
    if params:
        raise NoSuchDevice("the echo device takes no parameters")
    return Echo()
