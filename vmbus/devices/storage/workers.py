"""A few threads for one slow disk. Each disk has its own, so that one that hangs takes no other disk's threads.

The threads are daemons: a backend that never answers does not keep the process from ending.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Protocol

Work = Callable[[], Any]
Done = Callable[[Any], object]


class Runner(Protocol):
    """Runs blocking work somewhere, and hands the result, or the exception it raised, back in the unit's thread."""

    @property
    def limit(self) -> int:
        """How many pieces of work it does at the same time."""
        ...

    def submit(self, work: Work, done: Done) -> None: ...

    def close(self) -> None:
        """No more work comes."""
        ...


class InlineRunner:
    """Runs work on the spot: for tests, and for units that no loop serves."""

    limit = 1

    def submit(self, work: Work, done: Done) -> None:
        try:
            result = work()
        except Exception as error:
            result = error
        done(result)

    def close(self) -> None:
        pass


class Workers:
    """At most ``limit`` threads, started when there is work for them."""

    def __init__(self, call_in_loop: Callable[[Callable[[], object]], bool], limit: int, name: str) -> None:
        """``call_in_loop`` has a callback run in the unit's thread and may be called from any other; false when that
        thread runs nothing any more.
        """
        self._call_in_loop = call_in_loop
        self._orphaned = threading.Lock()
        """Held by the worker that acts for the unit's thread, when there is none."""
        self.limit = limit
        self._name = name
        self._queue: SimpleQueue[tuple[Work, Done] | None] = SimpleQueue()
        self._threads = 0
        self._idle = threading.Semaphore(0)
        self._closed = False

    def submit(self, work: Work, done: Done) -> None:
        self._queue.put((work, done))
        if not self._idle.acquire(blocking=False) and self._threads < self.limit:
            self._threads += 1
            threading.Thread(target=self._run, name=f"{self._name}-{self._threads}", daemon=True).start()

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            work, done = item
            try:
                result = work()
            except Exception as error:
                result = error
            del work, item
            if self._closed:
                return
            self._idle.release()
            if not self._call_in_loop(lambda done=done, result=result: done(result)):  # type: ignore[misc]
                # A host that is closed waits for no worker: what is left to release is released here.
                with self._orphaned:
                    done(result)

    def close(self) -> None:
        """Let the threads go; what they are doing ends unseen."""
        self._closed = True
        for _ in range(self._threads):
            self._queue.put(None)
