"""What interrupts a virtual processor: a pipe or an eventfd that the guest has handed over.

The guest's process can do with its end what it likes, at any moment: fill it, and make it block whoever writes (the
flag O_NONBLOCK is of the open file, which is one for all who have it). So a pipe is opened anew, which makes a file of
our own with flags of our own. An eventfd cannot be: it is asked whether it takes a write before each one. A process
that fills it between the question and the write can still stop its host, and no other guest's.

Anything else is refused: a write to a file, a terminal or a socket may wait for whatever is behind it.

Sources: pipe(7), eventfd(2); Linux ``fs/pipe.c`` (``fifo_open``), ``fs/eventfd.c`` (``eventfd_write``).
"""

from __future__ import annotations

import os
import select
import stat

from vmbus.errors import VmbusError


class BadInterrupt(VmbusError):
    """A guest handed something over that cannot interrupt its processor."""


class Interrupt:
    """One processor's; owns its descriptor."""

    def __init__(self, fd: int) -> None:
        """``fd`` stays the caller's.  Raises ``BadInterrupt``."""
        self._asked: select.poll | None = None
        try:
            self._fd = self._own(fd)
        except OSError as error:
            raise BadInterrupt(f"a processor's interrupt cannot be had: {error.strerror}") from None
        if self._asked is not None:
            self._asked.register(self._fd, select.POLLOUT)

    def _own(self, fd: int) -> int:
        path = f"/proc/self/fd/{fd}"
        is_pipe = stat.S_ISFIFO(os.fstat(fd).st_mode)
        if is_pipe:
            try:
                return os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            except PermissionError:
                pass  # a process of another user made it
        elif os.readlink(path) != "anon_inode:[eventfd]":
            raise BadInterrupt("a processor's interrupt is neither a pipe nor an eventfd")
        own = os.dup(fd)
        os.set_blocking(own, False)
        self._asked = select.poll()
        return own

    def raise_(self) -> None:
        """Interrupt the processor, unless enough is pending already, or nobody is there any more."""
        if self._asked is not None and not self._asked.poll(0):
            return
        try:
            os.eventfd_write(self._fd, 1)
        except (OSError, ValueError):
            pass

    def close(self) -> None:
        """Let it go; a second time does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
