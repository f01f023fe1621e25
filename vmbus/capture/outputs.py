"""Where a recording goes: a file, rotated files, or memory until somebody wants it (a flight recorder).

An output is handed assembled blocks and begins each section of its own with a prologue. Files are written with plain
``write`` calls of whole blocks, so that a reader that follows a growing file never waits for a buffer.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections import deque
from pathlib import Path
from typing import Protocol

from vmbus.capture.assembly import Assembled, Assembler, split
from vmbus.capture.state import StateKeeper
from vmbus.file_lock import lock_file

PATIENCE_SECONDS = 2.0
"""So long a recording waits for one that is about to end: of the host before, which has been stopped."""
DUMP_INTERVAL = 1.0
MOST_DUMPS = 100
"""Bounds on what a guest that causes problems can make a flight recorder write."""


class Output(Protocol):
    """What the writer hands its blocks to."""

    def write(self, assembled: Assembled) -> None:
        """Take blocks; raises OSError when they cannot be stored."""

    def finish(self, lost: int) -> None:
        """The recording ends; ``lost`` records never came."""


def write_all(fd: int, data: bytes | bytearray | memoryview) -> None:
    """Write all of it, however often the kernel takes only a part."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def create_capture(path: Path) -> int:
    """Open a capture for writing, from nothing; the descriptor.

    A file that another recording writes, or that is a disk of a host, keeps what is in it: ``OSError``. Pipes and
    terminals are nobody's own.
    """
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if stat.S_ISREG(os.fstat(fd).st_mode):
            if not lock_file(fd, patience=PATIENCE_SECONDS):
                raise OSError(errno.EBUSY, "in use by another recording or host", str(path))
            os.ftruncate(fd, 0)
    except OSError:
        os.close(fd)
        raise
    return fd


class FileOutput:
    """A capture file; with limits, a series of files of which the last ``keep`` stay.

    Without limits the file is ``path``. With them the files are called as dumpcap calls them:
    ``NAME_00001_20261124101500.pcapng``.
    """

    def __init__(
        self, assembler: Assembler, path: Path, *, max_bytes: int = 0, max_seconds: float = 0.0, keep: int = 0
    ) -> None:
        self._assembler = assembler
        self._path = path
        self._max_bytes = max_bytes
        self._max_seconds = max_seconds
        self._keep = keep
        self._number = 0
        self._written: deque[Path] = deque()
        self._begin()

    def write(self, assembled: Assembled) -> None:
        write_all(self._fd, assembled.interfaces + assembled.packets)
        self._size += len(assembled.interfaces) + len(assembled.packets)
        full = 0 < self._max_bytes <= self._size
        old = 0 < self._max_seconds <= time.monotonic() - self._begun
        if full or old:
            self.finish(0)
            self._begin()

    def finish(self, lost: int) -> None:
        try:
            write_all(self._fd, self._assembler.epilogue(lost))
        finally:
            os.close(self._fd)

    def _begin(self) -> None:
        path = self._path
        if self._max_bytes or self._max_seconds:
            self._number += 1
            stamp = time.strftime("%Y%m%d%H%M%S")
            path = path.with_name(f"{path.stem}_{self._number:05}_{stamp}{path.suffix}")
        self._fd = create_capture(path)
        self._begun = time.monotonic()
        prologue = self._assembler.prologue()
        self._size = len(prologue)
        write_all(self._fd, prologue)
        self._written.append(path)
        while self._keep and len(self._written) > self._keep:
            self._written.popleft().unlink(missing_ok=True)


class FlightOutput:
    """The last ``max_bytes`` of a recording, in memory, to be written when somebody asks.

    What leaves the window is followed on its way out, so that a dump begins with the state at the window's start. With
    ``problem_path`` a note of a problem writes the window as well, to ``NAME_00001.pcapng`` and so on; not more often
    than every :data:`DUMP_INTERVAL` seconds, and :data:`MOST_DUMPS` times at most.
    """

    def __init__(self, assembler: Assembler, max_bytes: int, problem_path: Path | None = None) -> None:
        self._assembler = assembler
        self._max_bytes = max_bytes
        self._window: deque[bytearray] = deque()
        self._size = 0
        self._state_at_start = StateKeeper()
        self._problem_path = problem_path
        self._dumps = 0
        self._next_dump = 0.0

    def write(self, assembled: Assembled) -> None:
        self._window.append(assembled.packets)
        self._size += len(assembled.packets)
        while self._size > self._max_bytes and len(self._window) > 1:
            leaving = self._window.popleft()
            self._size -= len(leaving)
            for start, end in split(leaving):
                self._state_at_start.follow(bytes(leaving[start:end]))
        if assembled.has_problem and self._problem_path is not None:
            self._dump_for_problem(self._problem_path)

    def _dump_for_problem(self, path: Path) -> None:
        now = time.monotonic()
        if self._dumps < MOST_DUMPS and now >= self._next_dump:
            self._dumps += 1
            self._next_dump = now + DUMP_INTERVAL
            self.dump(path.with_name(f"{path.stem}_{self._dumps:05}{path.suffix}"), "a problem was noticed")

    def dump(self, path: Path, why: str, lost: int = 0) -> None:
        """Write what is there into a new file; ``why`` becomes a comment in it."""
        fd = create_capture(path)
        try:
            write_all(fd, self._assembler.prologue([why] if why else [], self._state_at_start))
            for chunk in self._window:
                write_all(fd, chunk)
            write_all(fd, self._assembler.epilogue(lost))
        finally:
            os.close(fd)

    def finish(self, lost: int) -> None:
        self._window.clear()
