"""One SCSI command on its way through a unit: its block, its data buffer, and who waits for its result.

The buffer lies in the guest, which can change it at any moment: parameter lists are copied once, and only the copy
is looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable

from vmbus.devices.storage.buffers import Views, total_length
from vmbus.devices.storage.result import GOOD, Result
from vmbus.wire.vstor import DataDirection

IN = int(DataDirection.IN)
OUT = int(DataDirection.OUT)


def _nobody(result: Result) -> None:
    """Takes the result of a task that nobody waits for."""


class Task:
    """A command. Made by the controller for one unit, and finished exactly once."""

    __slots__ = ("cdb", "direction", "finish", "initiator", "is_finished", "length", "views")

    def __init__(
        self,
        cdb: bytes,
        *,
        views: Views = (),
        direction: int = int(DataDirection.NONE),
        initiator: Hashable = None,
        finish: Callable[[Result], object] = _nobody,
    ) -> None:
        """``cdb`` is 16 bytes; ``finish`` is called with the result, perhaps long after."""
        self.cdb = cdb
        self.views = views
        self.length = total_length(views)
        self.direction = direction
        self.initiator = initiator
        self.finish = finish
        self.is_finished = False

    def end(self, result: Result) -> None:
        """Tell the one who waits how it ended, the first time, and let go of the guest's buffer."""
        if not self.is_finished:
            finish = self.finish
            self.abandon()
            finish(result)

    def abandon(self) -> None:
        """Nobody waits for the result any more."""
        self.is_finished = True
        self.finish = _nobody
        self.views = ()

    def give(self, data: bytes, allocation_length: int) -> Result:
        """Put what the command returns into the guest's buffer, cut to the allocation length and the buffer."""
        if self.direction != IN:
            return GOOD
        left = memoryview(data)[: min(allocation_length, self.length)]
        moved = len(left)
        for view in self.views:
            if not left:
                break
            piece = left[: len(view)]
            view[: len(piece)] = piece
            left = left[len(piece) :]
        return Result(transferred=moved)

    def take(self, length: int) -> bytes:
        """A copy of the first ``length`` bytes that the guest sent along; fewer if it sent fewer."""
        if self.direction != OUT:
            return b""
        data = bytearray()
        for view in self.views:
            if len(data) >= length:
                break
            data += view[: length - len(data)]
        return bytes(data)
