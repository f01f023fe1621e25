"""A network backend for tests: keeps what the guest sends, and gives the guest what the test says."""

from __future__ import annotations

from collections.abc import Sequence

from vmbus.devices.network.backend import Backend, Deliver, GuestFrame, Offload
from vmbus.loop import Loop


class KeptFrames(Backend):
    """``frames`` are copies of what came, ``offloads`` what was to be done; ``deliver`` is set while it runs.

    ``coalescing`` is what the card last said of IPv4 and IPv6.
    """

    takes_offloads = coalesces = True

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.offloads: list[Offload | None] = []
        self.deliver: Deliver | None = None
        self.resumed = 0
        self.coalescing = (False, False)

    def start(self, loop: Loop, deliver: Deliver) -> None:
        self.deliver = deliver

    def stop(self) -> None:
        self.deliver = None

    def coalesce(self, ipv4: bool, ipv6: bool) -> None:
        self.coalescing = (ipv4, ipv6)

    def transmit(self, frames: Sequence[GuestFrame]) -> None:
        for frame, offload in frames:
            self.frames.append(bytes(frame))
            self.offloads.append(offload)

    def resume(self) -> None:
        self.resumed += 1
