"""``none``: a card whose cable leads nowhere. Every frame is lost."""

from __future__ import annotations

from collections.abc import Sequence

from vmbus.devices.device import DeviceError
from vmbus.devices.network.backend import Backend, Deliver, GuestFrame
from vmbus.loop import Loop


class NoNetwork(Backend):
    """Takes everything, gives nothing."""

    takes_offloads = True

    def start(self, loop: Loop, deliver: Deliver) -> None:
        pass

    def stop(self) -> None:
        pass

    def transmit(self, frames: Sequence[GuestFrame]) -> None:
        pass


def backend_from(params: str) -> Backend:
    """``none`` has no parameters."""
    if params:
        raise DeviceError(f"the network backend 'none' has no parameters, and {params!r} was given")
    return NoNetwork()
