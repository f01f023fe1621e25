"""``vmbus demo``: a host with a disk and a network card, a guest that uses both, and the traffic between them, live.

Host and guest are the ordinary commands, in processes of their own; this one attaches to the host's stream like any
other viewer.  Without a terminal, or with ``--headless``, it watches for a few seconds and prints a summary.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Annotated, Any, Literal

import typer

from vmbus.errors import VmbusError

_START_TIMEOUT = 20.0


class DemoFailed(VmbusError):
    """The demo could not start, or ended by itself."""


class Stage:
    """The host and the guest of a demo, in a directory that goes away with them."""

    def __init__(self, directory: Path, guest: str, capture: str) -> None:
        self.directory = directory
        self.address = f"unix:{directory / 'host'}"
        self.stream = f"unix:{directory / 'stream'}"
        self._guest_kind = guest
        self._capture = capture
        self._stopping = False
        self._processes: list[subprocess.Popen[str]] = []
        self._logs: list[IO[str]] = []

    def start(self, seconds: float | None) -> None:
        """Start the host and wait until it listens, then the guest."""
        host = ["host", self.address, "--scsi", "memory:64M", "--nic", "embedded", "--stream", self.stream]
        if self._capture:
            host += ["--capture", self._capture]
        process = self._run("host", host)
        deadline = time.monotonic() + _START_TIMEOUT
        while not Path(self.stream.removeprefix("unix:")).is_socket() or not (self.directory / "host").is_socket():
            if process.poll() is not None or time.monotonic() > deadline:
                raise DemoFailed(f"the host did not start: {self._last_line('host')}")
            time.sleep(0.02)
        if self._guest_kind == "linux":
            self._run("guest", ["guest", "run", self.address, *self._linux_script(seconds)])
        else:
            pause = "0.02" if seconds is None else "0"
            self._run("guest", ["guest", "run", "--python", self.address, "--pause", pause])

    def _linux_script(self, seconds: float | None) -> list[str]:
        rounds = 1000 if seconds is None else max(int(seconds), 1)
        script = self.directory / "script"
        lines = ["wait-path /dev/sda", "ifup eth0 10.7.0.2/24"]
        for number in range(rounds):
            lines += [
                f"disk-load /dev/sda 1 4 {number}",
                "ping 10.7.0.1 5 56 50",
                "ping 10.7.0.1 5 1400 50",
                f"stream-echo tcp:10.7.0.1:7 1M {number}",
            ]
        script.write_text("\n".join(lines) + "\n")
        return ["--script", str(script), "--console", str(self.directory / "console")]

    def _run(self, name: str, arguments: list[str]) -> subprocess.Popen[str]:
        log = (self.directory / f"{name}.log").open("w")
        self._logs.append(log)
        process = subprocess.Popen(
            [sys.executable, "-m", "vmbus", *arguments],
            stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip
        self._processes.append(process)
        return process

    def _last_line(self, name: str) -> str:
        lines = (self.directory / f"{name}.log").read_text().splitlines()
        return lines[-1] if lines else "it said nothing"

    def check(self) -> None:
        """Raise ``DemoFailed`` if the host or the guest has failed."""
        if self._stopping:
            return
        for name, process in zip(("host", "guest"), self._processes, strict=False):
            if process.poll() not in (None, 0):
                raise DemoFailed(f"the {name} ended with status {process.returncode}: {self._last_line(name)}")

    def stop(self) -> None:
        """End the guest, then the host; the host completes its capture."""
        self._stopping = True
        for process in reversed(self._processes):
            if process.poll() is None:
                process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for log in self._logs:
            log.close()


@contextlib.contextmanager
def staged(guest: str, capture: str, seconds: float | None) -> Iterator[Stage]:
    """A running host and guest."""
    if guest == "linux":
        _build_linux_kernel()
    with tempfile.TemporaryDirectory(prefix="vmbus-demo-") as directory:
        stage = Stage(Path(directory), guest, capture)
        try:
            stage.start(seconds)
            yield stage
        finally:
            stage.stop()


def _build_linux_kernel() -> None:
    """Build it where its progress can be seen, if it is not built already."""
    status = subprocess.run([sys.executable, "-m", "vmbus", "guest", "build"], stdout=subprocess.DEVNULL).returncode
    if status:
        raise DemoFailed("the Linux guest's kernel could not be built")


def watch(stage: Stage, seconds: float) -> dict[str, Any]:
    """Decode the stream for so many seconds; the summary as JSON shows it, and ``lines`` of text."""
    from dissectors.engine.session import Session
    from dissectors.engine.summary import Summary
    from vmbus.capture.reader import CaptureReader

    summary, session = Summary(), Session()
    reader = CaptureReader(stage.stream)
    timer = threading.Timer(seconds, stage.stop)  # the host's end is the end of the stream
    timer.daemon = True
    timer.start()
    try:
        for record in reader:
            summary.add(session.feed(record))
        stage.check()
    finally:
        timer.cancel()
    if not any(row.requests for row in summary.rows):
        stage.check()
        raise DemoFailed("no requests crossed the bus")
    return {**summary.as_dict(), "lines": summary.lines()}


def command(
    guest: Annotated[
        Literal["python", "linux"], typer.Option(help="Our Python guest, or a real Linux kernel (built on first use).")
    ] = "python",
    headless: Annotated[bool, typer.Option("--headless", help="No user interface: print a summary.")] = False,
    seconds: Annotated[float, typer.Option(min=0.5, max=3600, help="How long to run without user interface.")] = 5.0,
    capture: Annotated[str, typer.Option("--capture", "-w", metavar="FILE", help="Keep the capture.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON (implies --headless).")] = False,
) -> None:
    """Boot a guest and a host, run disk and network traffic through them, and show it live."""
    if headless or as_json or not sys.stdout.isatty():
        if not as_json:
            print(f"a host, a {guest.capitalize()} guest, a disk and a network card: {seconds:g} seconds of traffic")
        with staged(guest, capture, seconds) as stage:
            result = watch(stage, seconds)
        lines = result.pop("lines")
        print(json.dumps(result) if as_json else "\n".join(lines))
        if capture and not as_json:
            print(f"capture: {capture} (look at it with: vmbus tui {capture})")
        return
    from tui.app import VmbusApp
    from tui.feed import Feed

    with staged(guest, capture, None) as stage:
        VmbusApp(Feed(stage.stream), title=f"demo: host and {guest.capitalize()} guest").run()
