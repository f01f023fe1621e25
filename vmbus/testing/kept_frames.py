"""A network backend for tests: keeps what the guest sends, and gives the guest what the test says."""

from __future__ import annotations

from collections.abc import Sequence

from vmbus.devices.network.backend import Backend, Deliver, GuestFrame, Offload
from vmbus.loop import Loop


class KeptFrames(Backend):
    """``frames`` are copies of what came, ``offloads`` what was to be done; ``deliver`` is set while it runs."""

    takes_offloads = True

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.offloads: list[Offload | None] = []
        self.deliver: Deliver | None = None
        self.resumed = 0

    def start(self, loop: Loop, deliver: Deliver) -> None:
        self.deliver = deliver

    def stop(self) -> None:
        self.deliver = None

    def transmit(self, frames: Sequence[GuestFrame]) -> None:
        for frame, offload in frames:
            self.frames.append(bytes(frame))
            self.offloads.append(offload)

    def resume(self) -> None:
        self.resumed += 1
