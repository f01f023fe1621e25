"""One host at a time keeps its guest's state at a place.

The state itself is replaced as a whole whenever it changes, so the lock is on a file beside it, ``FILE.lock``, which
holds the number of the process. A host that ends removes it. One that was killed leaves the file and no lock.
"""

from __future__ import annotations

import os
from pathlib import Path

from vmbus.file_lock import lock_file
from vmbus.host.state_document import BadHostState

PATIENCE_SECONDS = 3.0
"""So long a host waits for one that is about to end."""


class StateInUse(BadHostState):
    """Another host keeps its guest's state there."""


class StateLock:
    """Held until it is closed, or until the process ends."""

    def __init__(self, state: Path) -> None:
        """Raises ``StateInUse``, and ``BadHostState`` if there can be no such file."""
        self._path = state.with_name(state.name + ".lock")
        try:
            while not self._take(state):
                pass
        except OSError as error:
            raise BadHostState(f"cannot write the state {state}: {error.strerror}") from None

    def _take(self, state: Path) -> bool:
        """Lock the file; False if the one that was locked has been removed meanwhile by its last holder."""
        self._file = file = open(self._path, "a+", opener=_private)  # noqa: SIM115 - it is held
        try:
            if not lock_file(file.fileno(), patience=PATIENCE_SECONDS):
                file.seek(0)
                holder = file.read(20).strip()
                raise StateInUse(
                    f"the state {state} is in use by another host{f' (process {holder})' if holder else ''}:"
                    " each needs a file of its own"
                )
            if not self._is_there(file.fileno()):
                file.close()
                return False
            file.truncate(0)
            file.write(f"{os.getpid()}\n")
            file.flush()
        except BaseException:
            file.close()
            raise
        return True

    def _is_there(self, fd: int) -> bool:
        try:
            return os.path.samestat(os.fstat(fd), os.stat(self._path))
        except FileNotFoundError:
            return False

    def close(self) -> None:
        """Let the next host have the place."""
        if not self._file.closed:
            if self._is_there(self._file.fileno()):
                self._path.unlink(missing_ok=True)
            self._file.close()


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)
