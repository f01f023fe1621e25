"""One thread, one epoll: the loop that serves a partition's synic and rings, and the workers for what is slow.

Callbacks run one at a time in the loop's thread and must be quick.  Whatever may block goes through
``run_in_worker``; its result comes back into the loop.  There is no asyncio on the data path: a wake-up costs one
``epoll_wait`` and one call.
"""

from __future__ import annotations

import heapq
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any, Protocol, TypeVar

from vmbus.errors import VmbusError

Callback = Callable[[], object]
T = TypeVar("T")


class HasFileno(Protocol):
    """What has a descriptor."""

    def fileno(self) -> int: ...


def is_readable(source: int | HasFileno, seconds: float | None = 0) -> bool:
    """Whether something can be read, or the end is there; waits so long for it, with None without limit.

    Unlike ``select`` this takes descriptors of any number.
    """
    poll = select.poll()
    poll.register(source, select.POLLIN)
    return bool(poll.poll(None if seconds is None else seconds * 1000))


class Timer:
    """A callback that runs once, later, unless cancelled."""

    __slots__ = ("callback",)

    def __init__(self, callback: Callback) -> None:
        self.callback: Callback | None = callback

    def cancel(self) -> None:
        self.callback = None


class Lookout(Protocol):
    """Something that is watched without a descriptor, before the loop sleeps (``vmbus.channel.spinning``)."""

    def look(self, *, may_wait: bool) -> None:
        """Queue calls for what has happened; with ``may_wait``, watch for some microseconds if that looks worth it."""


class Loop:
    """An epoll loop with timers, calls from other threads and a small pool of workers.

    ``on_error`` gets every exception that a callback raises; without it the exception leaves ``run``.
    """

    def __init__(self, *, workers: int = 8) -> None:
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callback] = {}
        self._soon: deque[Callback] = deque()
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = count()
        self._wakeup = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._wakeup, select.EPOLLIN)
        self._callbacks[self._wakeup] = self._drain_wakeup
        self._workers: ThreadPoolExecutor | None = None
        self._worker_count = workers
        self._in_workers = 0
        self._stopping = False
        self._thread: int | None = None
        self._closed = False
        self._closing = threading.RLock()
        """Held while the loop is woken up, so that its descriptor is nobody else's by then."""
        self.on_error: Callable[[Exception], None] | None = None
        self.lookout: Lookout | None = None
        """What is looked at in every round, and may keep the loop awake for a moment."""

    @property
    def is_idle(self) -> bool:
        """Whether no call is queued and no work is with the workers."""
        return not self._soon and not self._in_workers

    @property
    def has_calls(self) -> bool:
        """Whether calls are queued; another thread may queue one at any moment."""
        return bool(self._soon)

    def watch(self, fd: int, callback: Callback, *, events: int = select.EPOLLIN) -> None:
        """Call ``callback`` whenever ``fd`` is readable (level-triggered; a hang-up counts as readable)."""
        self._callbacks[fd] = callback
        self._epoll.register(fd, events)

    def rewatch(self, fd: int, events: int) -> None:
        """Change what a watched ``fd`` is watched for."""
        self._epoll.modify(fd, events)

    def unwatch(self, fd: int) -> None:
        """Stop watching ``fd``; harmless if it is not watched."""
        if self._callbacks.pop(fd, None) is not None:
            try:
                self._epoll.unregister(fd)
            except OSError:
                pass  # it was closed first, and left the epoll set with that

    def call_soon(self, callback: Callback) -> None:
        """Run ``callback`` in this loop after the current one; only from the loop's own thread."""
        self._soon.append(callback)

    def call_soon_threadsafe(self, callback: Callback) -> bool:
        """Run ``callback`` in this loop; from any thread.  False when the loop is closed, and it never will."""
        with self._closing:
            if self._closed:
                return False
            self._soon.append(callback)
            if threading.get_ident() != self._thread:
                os.eventfd_write(self._wakeup, 1)
            return True

    def call_later(self, seconds: float, callback: Callback) -> Timer:
        """Run ``callback`` once after ``seconds``; only from the loop's own thread."""
        timer = Timer(callback)
        heapq.heappush(self._timers, (time.monotonic() + seconds, next(self._order), timer))
        return timer

    def run_in_worker(self, work: Callable[[], Any], done: Callable[[Any], object]) -> None:
        """Run ``work`` in a worker thread; ``done`` gets its result, or the exception it raised, in the loop."""
        if self._workers is None:
            self._workers = ThreadPoolExecutor(self._worker_count, thread_name_prefix="vmbus-worker")

        def in_worker() -> None:
            try:
                result = work()
            except Exception as error:
                result = error
            self.call_soon_threadsafe(lambda: finish(result))

        def finish(result: Any) -> None:
            self._in_workers -= 1
            done(result)

        self._in_workers += 1
        self._workers.submit(in_worker)

    def stop(self) -> None:
        """Let ``run`` return after the current callback; from any thread."""
        self._stopping = True
        with self._closing:
            if not self._closed:
                os.eventfd_write(self._wakeup, 1)

    def run(self, until: Callable[[], bool] | None = None, *, timeout: float | None = None) -> bool:
        """Serve until ``stop`` is called, ``until`` holds (checked after every round) or ``timeout`` seconds passed.

        Returns whether ``until`` held; without ``until``, whether it was stopped.
        """
        self._thread = threading.get_ident()
        self._stopping = False
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            if until is not None and until():
                return True
            if self._stopping:
                return until is None
            wait = self._time_to_wait(deadline)
            if deadline is not None and time.monotonic() >= deadline:
                return False
            self.run_once(wait)

    def _time_to_wait(self, deadline: float | None) -> float:
        if self._soon:
            return 0.0
        until = [moment for moment in (deadline, self._timers[0][0] if self._timers else None) if moment is not None]
        return max(min(until) - time.monotonic(), 0.0) if until else -1.0

    def run_once(self, wait: float = 0.0) -> None:
        """One round: what is ready within ``wait`` seconds (negative: however long), due timers, then queued calls."""
        if self.lookout is not None:
            self._look(self.lookout, wait)
        if self._soon:
            wait = 0.0
        try:
            ready = self._epoll.poll(wait)
        except InterruptedError:  # pragma: no cover - PEP 475 retries, but a signal handler may raise it
            return
        for fd, _ in ready:
            callback = self._callbacks.get(fd)
            if callback is not None:
                self._call(callback)
        while self._timers and self._timers[0][0] <= time.monotonic():
            timer = heapq.heappop(self._timers)[2]
            if timer.callback is not None:
                self._call(timer.callback)
        for _ in range(len(self._soon)):
            self._call(self._soon.popleft())

    def _look(self, lookout: Lookout, wait: float) -> None:
        try:
            lookout.look(may_wait=wait != 0.0 and not self._soon)
        except Exception as error:
            if self.on_error is None:
                raise
            self.on_error(error)

    def _call(self, callback: Callback) -> None:
        if self.on_error is None:
            callback()
            return
        try:
            callback()
        except Exception as error:
            self.on_error(error)

    def _drain_wakeup(self) -> None:
        try:
            os.eventfd_read(self._wakeup)
        except BlockingIOError:
            pass

    def close(self) -> None:
        """Release the descriptors and let the workers go; work that has begun ends unseen."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
        if self._workers is not None:
            self._workers.shutdown(wait=False, cancel_futures=True)
        self._callbacks.clear()
        self._soon.clear()
        self._timers.clear()
        self._epoll.close()
        os.close(self._wakeup)


class LoopThread:
    """A loop in a thread of its own, for tests and demos in which host and guest share a process."""

    def __init__(self, loop: Loop, name: str) -> None:
        self.loop = loop
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def _run(self) -> None:
        try:
            self.loop.run()
        except BaseException as error:
            self.error = error

    def start(self) -> None:
        self._thread.start()

    def call(self, work: Callable[[], T], timeout: float = 60.0) -> T:
        """Run ``work`` in the loop and wait for what it returns or raises; from any other thread."""
        finished = threading.Event()
        outcome: list[T] = []
        failure: list[BaseException] = []

        def run() -> None:
            try:
                outcome.append(work())
            except BaseException as error:
                failure.append(error)
            finished.set()

        self.loop.call_soon_threadsafe(run)
        if not finished.wait(timeout):
            raise VmbusError(f"the {self._thread.name} thread did not answer within {timeout:g} seconds")
        if failure:
            raise failure[0]
        return outcome[0]

    def stop(self, timeout: float = 60.0) -> None:
        self.loop.stop()
        self._thread.join(timeout)
        if self._thread.is_alive():
            raise VmbusError(f"the {self._thread.name} thread did not stop within {timeout:g} seconds")
        if self.error is not None:
            raise self.error
