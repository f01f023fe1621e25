"""Records into the UI: a thread reads a capture or a stream, and the UI drains what has come, twenty times a second.

Passing each record on by itself (``call_from_thread``) tops out at a few thousand a second; a deque that is drained on
a timer repaints once for however many records came.
"""

from __future__ import annotations

import threading
from collections import deque

from vmbus.capture.reader import CaptureReader, Record
from vmbus.capture.walk import Damage
from vmbus.errors import VmbusError

MAX_WAITING = 200_000
"""Records that wait to be drained; more are dropped and counted."""


class Feed:
    """Reads ``source`` in a thread of its own.  ``ended`` says why there is nothing more to come, once there is not."""

    def __init__(self, source: str, *, follow: bool = False) -> None:
        self.source = source
        self.dropped = 0
        self.damage: list[str] = []
        self.ended: str | None = None
        self._waiting: deque[Record] = deque()
        self._reader = CaptureReader(source, follow=follow, on_damage=self._damaged)
        self._is_live = source.startswith("unix:") or follow
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="vmbus-feed", daemon=True)

    @property
    def is_live(self) -> bool:
        """Whether more records may come."""
        return self._is_live and self.ended is None

    def start(self) -> None:
        self._thread.start()

    def _damaged(self, damage: Damage) -> None:
        self.damage.append(str(damage))

    def _run(self) -> None:
        try:
            for record in self._reader:
                if self._stopped.is_set():
                    break
                if len(self._waiting) >= MAX_WAITING:
                    if self._is_live:
                        self.dropped += 1
                        continue
                    while len(self._waiting) >= MAX_WAITING and not self._stopped.wait(0.01):
                        pass
                self._waiting.append(record)
            self.ended = "end of the stream" if self._is_live else "end of the capture"
        except VmbusError as error:
            self.ended = str(error)

    def drain(self, limit: int) -> list[Record]:
        """Up to ``limit`` records that have come since."""
        waiting = self._waiting
        return [waiting.popleft() for _ in range(min(limit, len(waiting)))]

    def stop(self) -> None:
        """Let the thread end; it may be in the middle of a read."""
        self._stopped.set()
        self._reader.stop()
