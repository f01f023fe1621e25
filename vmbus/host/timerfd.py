"""A periodic timer in nanoseconds: the epoll loop's own timers are as coarse as ``epoll_wait``, a millisecond.

Python has ``os.timerfd_create`` from 3.13 on; this calls the C library, and needs nothing newer than 3.11.
Source: timerfd_create(2).
"""

from __future__ import annotations

import ctypes
import os
import time

_NONBLOCK, _CLOEXEC = os.O_NONBLOCK, os.O_CLOEXEC
_library = ctypes.CDLL(None, use_errno=True)


class _Interval(ctypes.Structure):
    """``struct itimerspec``: the period, then the time until it first expires; each in seconds and nanoseconds."""

    _fields_ = (
        ("period_seconds", ctypes.c_long),
        ("period_nanoseconds", ctypes.c_long),
        ("first_seconds", ctypes.c_long),
        ("first_nanoseconds", ctypes.c_long),
    )


class PeriodicTimer:
    """A descriptor that becomes readable again and again; :meth:`expired` makes it wait for the next time."""

    def __init__(self) -> None:
        self._fd: int = _library.timerfd_create(time.CLOCK_MONOTONIC, _NONBLOCK | _CLOEXEC)
        if self._fd < 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error))

    def fileno(self) -> int:
        return self._fd

    def every(self, nanoseconds: int) -> None:
        """Expire every so often from now on; 0 stops the timer."""
        seconds, rest = divmod(nanoseconds, 1_000_000_000)
        interval = _Interval(seconds, rest, seconds, rest)
        if _library.timerfd_settime(self._fd, 0, ctypes.byref(interval), None) < 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error))

    def expired(self) -> bool:
        """Take note of an expiry (the kernel starts the next period only now); whether there was one."""
        try:
            return bool(os.read(self._fd, 8))
        except BlockingIOError:
            return False  # it was set anew meanwhile

    def close(self) -> None:
        os.close(self._fd)
