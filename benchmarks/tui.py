"""The terminal UI: how soon a large capture shows, what it takes in memory, and how much traffic it shows live.

A capture of a million records (real Linux guest traffic, repeated) is opened by ``vmbus tui`` in a pseudo-terminal.
Nothing else shows VMBus, so most rows have no peer; "all records" is beside tshark printing one line for each, which is
what termshark waits for. A "pause" is how long the event loop was kept from running while the capture was read in, or a
filter ran over it, in the background: what a user would feel as a stutter.
"""

from __future__ import annotations

import asyncio
import os
import pty
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from benchmarks.harness import Row, quick, row
from benchmarks.traffic import capture_of
from tui.app import VmbusApp
from tui.feed import Feed
from vmbus.capture.store import CaptureStore
from vmbus.errors import VmbusError
from vmbus.linux.cache import cache_directory

RECORDS = 1_000_000
REPETITIONS = 3
_BEAT = 0.005


class NoAnswer(VmbusError):
    """The user interface did not show what was waited for."""


def rows() -> Iterator[Row]:
    """All measurements."""
    path = _large_capture(100_000 if quick() else RECORDS)
    count = _count(path)
    repetitions = 1 if quick() else REPETITIONS
    first, everything, peer, memory = [], [], [], []
    for _ in range(repetitions):
        shown, read, resident = _open(path)
        first.append(shown)
        everything.append(read)
        memory.append(resident)
        if shutil.which("tshark"):
            peer.append(_seconds_of_tshark(path))
    yield row(f"first screen of {count:,} records", "s", first, [], higher_is_better=False)
    yield row("all records, against tshark's lines", "s", everything, peer, higher_is_better=False)
    yield row("memory of the process when all is read", "MiB", memory, [], higher_is_better=False)
    reading, filtering = zip(*(asyncio.run(_pauses(path)) for _ in range(repetitions)), strict=True)
    yield row("pauses while reading, 99th percentile", "ms", list(reading), [], higher_is_better=False)
    yield row("pauses while filtering, 99th percentile", "ms", list(filtering), [], higher_is_better=False)
    live = [_live(path, count) for _ in range(repetitions)]
    yield row("live stream, shown without a drop", "records/s", live, [])


def _large_capture(records: int) -> Path:
    """Sections of one capture, one after the other, until there are enough records."""
    piece = capture_of(50_000)
    path = cache_directory("benchmarks") / f"repeated-{records}.pcapng"
    if not path.exists():
        unfinished = path.with_suffix(f".{os.getpid()}")
        content = piece.read_bytes()
        with unfinished.open("wb") as file:
            for _ in range(-(-records // _count(piece))):
                file.write(content)
        unfinished.rename(path)
    return path


def _count(path: Path) -> int:
    store = CaptureStore.open(path)
    store.update(final=True)
    store.close()
    return len(store)


class _Terminal:
    """``vmbus tui SOURCE`` in a pseudo-terminal."""

    def __init__(self, source: str) -> None:
        self._text = ""
        self.pid, self._fd = pty.fork()
        if not self.pid:
            os.environ |= {"TERM": "xterm-256color", "COLUMNS": "120", "LINES": "40"}
            os.execv(sys.executable, [sys.executable, "-m", "vmbus", "tui", source])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self._fd)

    def wait_for(self, pattern: str, seconds: float = 120) -> None:
        """Until what was written holds the pattern; what stands before it is forgotten."""
        deadline = time.monotonic() + seconds
        while True:
            match = re.search(pattern, self._text)
            if match is not None:
                self._text = self._text[match.end() :]
                return
            if time.monotonic() > deadline:
                raise NoAnswer(f"{pattern} did not show within {seconds:g} s")
            if select.select([self._fd], [], [], 0.1)[0]:
                piece = os.read(self._fd, 1 << 16).decode("utf-8", "replace")
                self._text = (self._text + re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", piece))[-20_000:]

    @property
    def resident_mebibytes(self) -> float:
        """Memory of its own: the mapped capture is the page cache's, whoever reads it."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(re.findall(r"RssAnon:\s+(\d+)", status)[0]) / 1024


def _open(path: Path) -> tuple[float, float, float]:
    """Seconds until the first records show, and until all are read; memory then, in MiB."""
    began = time.perf_counter()
    with _Terminal(str(path)) as terminal:
        terminal.wait_for("VP 0 writes")
        shown = time.perf_counter() - began
        terminal.wait_for("all read")
        return shown, time.perf_counter() - began, terminal.resident_mebibytes


def _seconds_of_tshark(path: Path) -> float:
    began = time.perf_counter()
    subprocess.run(["tshark", "-r", str(path)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began


async def _pauses(path: Path) -> tuple[float, float]:
    """Pauses of the event loop in milliseconds, 99th percentiles: while reading, and while filtering."""
    feed = Feed(str(path))
    app = VmbusApp(feed)
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.pause()
        gaps: list[float] = []
        reading = asyncio.create_task(_beat(gaps))
        while not feed.ended:
            await asyncio.sleep(0.05)
        reading.cancel()
        while_reading = _high(gaps)
        gaps.clear()
        app.show_only(text="vstor.cdb.lba == 41 && latency > 5ms")
        filtering = asyncio.create_task(_beat(gaps))
        await asyncio.sleep(1 if quick() else 5)
        filtering.cancel()
        return while_reading * 1000, _high(gaps) * 1000


def _high(gaps: list[float]) -> float:
    return sorted(gaps)[len(gaps) * 99 // 100] if gaps else 0.0


async def _beat(gaps: list[float]) -> None:
    last = time.perf_counter()
    while True:
        await asyncio.sleep(_BEAT)
        now = time.perf_counter()
        gaps.append(now - last - _BEAT)
        last = now


def _live(path: Path, count: int) -> float:
    """Records a second from a stream that is sent as fast as it is taken, until the last of them is on the screen."""
    with tempfile.TemporaryDirectory(prefix="vmbus-bench-") as directory, socket.socket(socket.AF_UNIX) as listener:
        address = f"{directory}/stream"
        listener.bind(address)
        listener.listen()
        threading.Thread(target=_send, args=(listener, path), daemon=True).start()
        with _Terminal(f"unix:{address}") as terminal:
            terminal.wait_for("records")
            began = time.perf_counter()
            terminal.wait_for("end of the stream", 300)
            return count / (time.perf_counter() - began)


def _send(listener: socket.socket, path: Path) -> None:
    connection, _ = listener.accept()
    with connection, path.open("rb") as file:
        connection.sendfile(file)
