"""Records into the UI: a thread indexes a capture or a stream, and the UI looks at what is there twenty times a second.

Nothing is passed on record by record, and nothing is dropped: a stream is spooled to a temporary file, from which it is
read like a capture.  If that file may take no more, the view stops and says so.  The thread works in pieces of a few
megabytes, so that the first records show at once.
"""

from __future__ import annotations

import threading

from dissectors.engine.archive import Archive, ArchiveReader
from vmbus.capture.store import CaptureStore
from vmbus.errors import VmbusError

_PIECE = 2 << 20
_IDLE_SECONDS = 0.03


class Unreadable(VmbusError):
    """The capture cannot be read."""


class Feed:
    """Indexes ``source``: a path, ``-`` or ``unix:PATH``.  Raises ``CannotOpen`` if there is nothing to open.

    With ``follow`` a file may grow.  After ``spool_limit`` bytes (0: never) of a stream no more is taken.  ``ended``
    says why there is nothing more to come, once there is not; ``error`` is what went wrong, if anything did.
    """

    def __init__(self, source: str, *, follow: bool = False, spool_limit: int = 0) -> None:
        self.source = source
        self.store = CaptureStore.open(source, spool_limit=spool_limit)
        self.archive = Archive(self.store)
        self.reader = ArchiveReader(self.archive)
        """For the thread of the user interface."""
        self.ended = ""
        self.error: VmbusError | None = None
        self.is_live = follow or self.store.is_live
        """Whether more may come than what is there."""
        self.is_over = False
        """Whether a stream has ended: nothing that it showed is so any more."""
        self._follow = follow
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="vmbus-feed", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, seconds: float = 0.5) -> None:
        """Let the thread end; it is not waited for longer than ``seconds``."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(seconds)

    def wait(self, seconds: float) -> None:
        """Until all of a capture that does not grow is indexed, but no longer than ``seconds``."""
        self._thread.join(seconds)

    def _run(self) -> None:
        try:
            while not self._stopped.is_set():
                if self._step():
                    continue
                if not (self._follow or self.store.is_live):
                    break
                self._stopped.wait(_IDLE_SECONDS)
            if not self._stopped.is_set():
                self.store.update(final=True)
                self._take_in()
        except VmbusError as error:
            self.error = error
        except OSError as error:
            self.error = Unreadable(f"cannot read {self.source}: {error.strerror or error}")
        self.ended = str(self.error) if self.error else self._end()
        self.is_over, self.is_live = self.is_live, False

    def _end(self) -> str:
        if self.store.is_full:
            return f"stopped: {self.store.size >> 20:,} MiB are spooled"
        return "end of the stream" if self.is_live else "all read"

    def _step(self) -> bool:
        """Take in the next piece; False if there was nothing new."""
        before = self.store.size
        self.store.update(at_most=_PIECE)
        if self.store.size == before:
            self.store.update()  # a block may be longer than a piece
        self._take_in()
        return self.store.size != before

    def _take_in(self) -> None:
        while not self._stopped.is_set() and self.archive.update():
            pass
