"""Messages on their way out of the host: in order, held back while the guest has asked for silence.

Source: openvmm ``vmbus_server/src/channels.rs`` (``PendingMessages``, ``MessageSender``).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

from vmbus.wire.control_values import VMBUS_SINT


class Target(NamedTuple):
    """A message slot of the guest."""

    vp: int = 0
    sint: int = VMBUS_SINT


class OutgoingMessage(NamedTuple):
    """A control message for the guest and the slot that it goes to."""

    payload: bytes
    vp: int
    sint: int
    vtl: int


class Outbox:
    """A queue of messages.  Those to the connection's own slot keep their order and can be paused.

    Messages to another slot (answers about reserved channels, refusals to another SINT) are not part of the
    connection's conversation and are never held.
    """

    def __init__(self, vtl: int) -> None:
        self.target = Target()
        self._vtl = vtl
        self._ready: deque[OutgoingMessage] = deque()
        self._held: deque[OutgoingMessage] = deque()
        self.paused = False

    def post(self, payload: bytes, target: Target | None = None) -> None:
        vp, sint = self.target if target is None else target
        queue = self._held if self.paused and target is None else self._ready
        queue.append(OutgoingMessage(payload, vp, sint, self._vtl))

    def resume(self) -> None:
        """End a pause: what was held goes out, in order."""
        self.paused = False
        self._ready.extend(self._held)
        self._held.clear()

    def take(self) -> list[OutgoingMessage]:
        """Remove and return everything that may go out now."""
        taken = list(self._ready)
        self._ready.clear()
        return taken

    def put_back(self, messages: Iterable[OutgoingMessage]) -> None:
        """Return messages that could not be delivered yet; they go first, in the order given."""
        self._ready.extendleft(reversed(list(messages)))

    def clear(self) -> None:
        """Forget everything, and any pause."""
        self._ready.clear()
        self._held.clear()
        self.paused = False

    def pending(self) -> list[OutgoingMessage]:
        """What is queued, held or not, without taking it."""
        return [*self._ready, *self._held]

    def load(self, ready: Iterable[OutgoingMessage], held: Iterable[OutgoingMessage]) -> None:
        """Take over the queues of a saved outbox."""
        self._ready = deque(ready)
        self._held = deque(held)

    def queues(self) -> tuple[list[OutgoingMessage], list[OutgoingMessage]]:
        """What is ready and what is held, for saving."""
        return list(self._ready), list(self._held)
