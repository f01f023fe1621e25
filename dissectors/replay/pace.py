"""When a replayed host says what it says of its own accord: in order, and once the guest has got as far as it had."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from dissectors.replay.script import Request, Said
from vmbus.loop import Loop

PATIENCE = 2.0
"""Seconds of silence, beyond those of the capture, after which the guest will not get any further by itself."""
SHORTEST_PAUSE = 0.0005
"""Seconds: shorter ones are not waited for, since the loop's own turn takes as long."""


class Pace:
    """The time of a replay: pauses as in the capture, shorter or longer by a factor, or none."""

    def __init__(self, loop: Loop, speed: float) -> None:
        """``speed`` 2.0 halves all pauses; 0 leaves them out."""
        self._loop = loop
        self._speed = speed

    def after(self, pause_ns: int, step: Callable[[], None]) -> bool:
        """Do something after a pause of the capture; True if there is none and it was done at once."""
        seconds = pause_ns / 1e9 / self._speed if self._speed else 0.0
        if seconds < SHORTEST_PAUSE:
            step()
            return True
        self._loop.call_later(seconds, step)
        return False


class Unasked:
    """What a host says of its own accord, on one channel or on the control plane."""

    def __init__(self, said: list[Said], pace: Pace, say: Callable[[Said], None]) -> None:
        self._queue = deque(said)
        self._pace = pace
        self._say = say
        self._is_pausing = False
        self._got_to = said[0].item.time_ns if said else 0
        """How far the guest has got, as a time of the capture."""

    def guest_did(self, request: Request | None) -> None:
        """The guest did something; ``request`` is that in the recording."""
        if request is not None:
            request.is_done = True
            self._got_to = max(self._got_to, request.item.time_ns)
        self.go_on()

    def go_on(self) -> None:
        """Say what is due."""
        while self._queue and not self._is_pausing and self._is_due(self._queue[0]):
            said = self._queue.popleft()
            self._is_pausing = True
            if not self._pace.after(said.pause_ns, lambda said=said: self._speak(said)):  # type: ignore[misc]
                return

    @staticmethod
    def _is_due(said: Said) -> bool:
        return said.follows is None or said.follows.is_done

    def _speak(self, said: Said) -> None:
        self._is_pausing = False
        self._say(said)
        self.go_on()

    def overdue(self, silence: float) -> Said | None:
        """What should have been said by now, had the guest done what it follows; it is due from now on."""
        if not self._queue or self._is_pausing:
            return None
        said = self._queue[0]
        gap = max(said.item.time_ns - self._got_to, 0) / 1e9
        if self._is_due(said) or silence < PATIENCE + gap:
            return None
        said.follows = None
        return said
