"""Parts of a capture in several processes, and what they make of them in order.

A process is forked for each part while the part is the newest of its passage, and so begins with all that is known
there. What it writes goes to an unnamed temporary file; the files come out in the order of the parts, a few of them
ahead at most, so that neither memory nor disk holds more than some megabytes whatever the capture's size.

Where there is little to do with a part, as when a filter leaves nothing of it, that is done here: a fork costs more.

A process ignores Ctrl-C, which is its parent's to deal with, and is ended when the parent stops for whatever reason.
"""

from __future__ import annotations

import io
import multiprocessing
import multiprocessing.process
import os
import signal
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import wait
from typing import BinaryIO

from dissectors.engine.parts import Part
from vmbus.capture.store import is_file
from vmbus.errors import VmbusError

LARGE = 4 << 20
"""Bytes of a capture from which on it is worth while to decode in several processes: two seconds' work."""
_AHEAD = 3
"""Parts for each process that may be finished or under way at once."""
_FAILED = 3

WORTH_A_PROCESS = 400
"""Records to decode from which on a part gets a process of its own: about as long as a fork and all that belongs to it
takes."""

Work = Callable[[Part, BinaryIO], None]
"""What is done with a part; it writes to the file."""
Effort = Callable[[Part], int]
"""How many records of a part are to be decoded."""


class WorkerDied(VmbusError):
    """A process that decoded a part of the capture did not end well."""


def job_count(asked: int, source: str) -> int:
    """How many processes to use: as many as ``asked`` for, if that is not 0; else one, or all processors if the
    capture is large. What is no file is decoded as it comes, by one."""
    if not is_file(source):
        return 1
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return asked or (processors if os.stat(source).st_size >= LARGE else 1)


class _Job:
    """The work on one part: by a process of its own, or done here at once."""

    def __init__(self, part: Part, work: Work, *, is_forked: bool) -> None:
        self.part = part
        self.process: multiprocessing.process.BaseProcess | None = None
        self.output: BinaryIO
        if is_forked:
            self.output = tempfile.TemporaryFile(prefix="vmbus-part-")  # noqa: SIM115 - closed when it was read
            self.process = start_process(_work, part, work, self.output)
        else:
            self.output = io.BytesIO()
            work(part, self.output)

    @property
    def is_done(self) -> bool:
        return self.process is None or not self.process.is_alive()

    def wait(self) -> None:
        if self.process is not None:
            self.process.join()

    def finish(self) -> BinaryIO:
        """What was written; raises :class:`WorkerDied`."""
        self.wait()
        status = self.process.exitcode if self.process is not None else 0
        self.output.seek(0)
        if status == 0:
            return self.output
        where = f"records {self.part.first + 1} to {self.part.first + len(self.part)}"
        if status == _FAILED:
            raise WorkerDied(f"{where} could not be decoded: {self.output.read().decode()}")
        reason = f"signal {-status}" if status is not None and status < 0 else f"status {status}"
        raise WorkerDied(f"the process that decoded {where} died ({reason}); --jobs 1 does without")

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.join()
        self.output.close()


def start_process(target: Callable[..., None], *arguments: object) -> multiprocessing.process.BaseProcess:
    """Fork a process that leaves interrupts to its parent, and ends with it."""

    def run() -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        target(*arguments)

    process = multiprocessing.get_context("fork").Process(target=run, daemon=True)
    # An interrupt is held until the process is one that ignores it.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    return process


def _work(part: Part, work: Work, output: BinaryIO) -> None:
    try:
        work(part, output)
        output.flush()
    except Exception as error:  # told in one line by the parent
        output.seek(0)
        output.truncate()
        output.write(f"{type(error).__name__}: {error}".replace("\n", " ").encode())
        output.flush()
        sys.exit(_FAILED)


def run_parts(parts: Iterable[Part], work: Work, jobs: int, effort: Effort = len) -> Iterator[tuple[Part, BinaryIO]]:
    """Each part with the file that holds what ``work`` wrote for it, in order; the file is closed afterwards.

    Of the parts only the columns may still be asked for. Raises :class:`WorkerDied`.
    """
    waiting: deque[_Job] = deque()
    try:
        for part in parts:
            is_forked = jobs > 1 and effort(part) >= WORTH_A_PROCESS
            while (busy := _sentinels(waiting)) and (
                (is_forked and len(busy) >= jobs) or len(waiting) >= jobs * _AHEAD
            ):  # fmt: skip
                wait(busy)
                yield from _finished(waiting)
            waiting.append(_Job(part, work, is_forked=is_forked))
            yield from _finished(waiting)
        while waiting:
            waiting[0].wait()
            yield from _finished(waiting)
    finally:
        for job in waiting:
            job.stop()


def _sentinels(waiting: Iterable[_Job]) -> list[int]:
    """What to wait for: the processes that are still at work."""
    return [job.process.sentinel for job in waiting if job.process is not None and not job.is_done]


def _finished(waiting: deque[_Job]) -> Iterator[tuple[Part, BinaryIO]]:
    while waiting and waiting[0].is_done:
        with waiting[0].finish() as output:
            yield waiting[0].part, output
        waiting.popleft()
