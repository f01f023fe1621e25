"""``vmbus demo``: a host with a disk and a network card, a guest that uses both, and the traffic between them, live.

Host and guest are the ordinary commands, in processes of their own; this one attaches to the host's stream like any
other viewer.  Without a terminal, or with ``--headless``, it watches for a few seconds and prints a summary.

The processes are forked from this one, which has imported what both need: each would take half a second to do so.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from multiprocessing import connection
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from vmbus.errors import VmbusError

_START_SECONDS = 60.0
_BOOT_SECONDS = 30.0
"""So long the first packet may take."""
_STOP_SECONDS = 15.0
_PR_SET_PDEATHSIG = 1
_INTERRUPTS = {signal.SIGINT, signal.SIGTERM}


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
        self._failure = ""
        """What had failed when the demo was stopped."""
        self._processes: dict[str, ForkProcess] = {}

    def start(self, seconds: float | None) -> None:
        """Start the host and wait until it listens, then the guest."""
        host = ["host", self.address, "--scsi", "memory:64M", "--nic", "embedded", "--stream", self.stream]
        if self._capture:
            host += ["--capture", self._capture]
        process = self._run("host", host)
        deadline = time.monotonic() + _START_SECONDS
        while not ((self.directory / "stream").is_socket() and (self.directory / "host").is_socket()):
            if not process.is_alive() or time.monotonic() > deadline:
                raise DemoFailed(f"the host did not start: {self._last_words('host')}")
            time.sleep(0.01)
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

    def _run(self, name: str, arguments: list[str]) -> ForkProcess:
        target = multiprocessing.get_context("fork").Process
        process = target(target=_command, args=(arguments, self.directory / f"{name}.log"), name=f"vmbus-{name}")
        held = signal.pthread_sigmask(signal.SIG_BLOCK, _INTERRUPTS)  # an interrupt within a fork would be lost
        try:
            process.start()
            self._processes[name] = process
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, held)
        return process

    def _last_words(self, name: str) -> str:
        """The last line of a process, without the name that begins it."""
        log = self.directory / f"{name}.log"
        lines = log.read_text().splitlines() if log.exists() else []
        return lines[-1].removeprefix("vmbus: ") if lines else "it said nothing"

    def _look(self) -> str:
        """Which of both has failed, and what it said; empty if none has."""
        for name, process in self._processes.items():
            if process.exitcode not in (None, 0):
                return f"the {name} ended with status {process.exitcode}: {self._last_words(name)}"
        return ""

    def check(self) -> None:
        """Raise ``DemoFailed`` if the host or the guest has failed by itself."""
        if not self._stopping:
            self._failure = self._look()
        if self._failure:
            raise DemoFailed(self._failure)

    def wait(self) -> None:
        """Until the host or the guest has ended."""
        processes = list(self._processes.values())
        ended = connection.wait([process.sentinel for process in processes])
        for process in processes:
            if process.sentinel in ended:  # which comes before its status is there
                process.join(_STOP_SECONDS)

    def stop(self) -> None:
        """End the guest, then the host; the host completes its capture."""
        if not self._stopping:
            self._failure = self._look()
        self._stopping = True
        for process in reversed(self._processes.values()):
            process.terminate()
            process.join(_STOP_SECONDS)
            if process.is_alive():
                process.kill()
                process.join()

    def abandon(self) -> None:
        """Tell both to end and wait for neither: this process has no time left.  The host completes its capture."""
        for process in reversed(self._processes.values()):
            process.terminate()
        shutil.rmtree(self.directory, ignore_errors=True)


def _command(arguments: list[str], log: Path) -> None:
    """In a forked process: become the ``vmbus`` command, with its output in a file, for as long as the demo lives."""
    from vmbus.cli import main

    os.setsid()  # an interrupt of the terminal is for the demo, which ends this in good order
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _INTERRUPTS)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    nothing = os.open(os.devnull, os.O_RDONLY)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for number, descriptor in enumerate((nothing, output, output)):
        os.dup2(descriptor, number)
    sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115 - it lives as long as the process
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    sys.exit(main(arguments))


def _import_commands() -> None:
    """What host and guest are made of, before they are forked."""
    import vmbus.cli.guest
    import vmbus.cli.host
    import vmbus.guest.program  # noqa: F401


@contextlib.contextmanager
def staged(guest: str, capture: str, seconds: float | None) -> Iterator[Stage]:
    """A running host and guest."""
    if guest == "linux":
        _build_linux_kernel()
    _import_commands()
    with tempfile.TemporaryDirectory(prefix="vmbus-demo-") as directory:
        stage = Stage(Path(directory), guest, capture)
        try:
            stage.start(seconds)
            yield stage
        finally:
            stage.stop()


def _build_linux_kernel() -> None:
    """Build it where its progress can be seen, if it is not built already; what is wrong is one line, the build's."""
    status = subprocess.run([sys.executable, "-m", "vmbus", "guest", "build"], stdout=subprocess.DEVNULL).returncode
    if status:
        raise typer.Exit(status)


def _end_after(stage: Stage, seconds: float) -> threading.Timer:
    """End the host then, which is the end of its stream."""
    timer = threading.Timer(seconds, stage.stop)
    timer.daemon = True
    timer.start()
    return timer


def _end_with_guest(stage: Stage) -> None:
    """End the host when the guest has ended: nothing more will happen."""
    stage.wait()
    stage.stop()


def watch(stage: Stage, seconds: float) -> dict[str, Any]:
    """Decode the stream until so many seconds after its first packet; the summary as JSON shows it, and ``lines``."""
    from dissectors.engine.session import Session
    from dissectors.engine.summary import Summary
    from vmbus.capture.reader import CaptureReader
    from vmbus.wire.capture import RecordKind

    summary, session = Summary(), Session()
    reader = CaptureReader(stage.stream)
    timer, is_under_way = _end_after(stage, _BOOT_SECONDS), False
    threading.Thread(target=_end_with_guest, args=(stage,), daemon=True).start()
    try:
        for record in reader:
            if record.kind is RecordKind.PACKET and not is_under_way:
                timer.cancel()
                timer, is_under_way = _end_after(stage, seconds), True
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
    seconds: Annotated[
        float, typer.Option(min=0.5, max=3600, metavar="SECONDS", help="How long to run without user interface.")
    ] = 5.0,
    capture: Annotated[str, typer.Option("--capture", "-w", metavar="FILE", help="Keep the capture.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON (implies --headless).")] = False,
) -> None:
    """Run a host and a guest, and show their traffic live."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)
    if headless or as_json or not sys.stdout.isatty():
        if not as_json:
            print(f"a host, a {guest.capitalize()} guest, a disk and a network card, for {seconds:g} s")
            sys.stdout.flush()
        with staged(guest, capture, seconds) as stage:
            result = watch(stage, seconds)
        lines = result.pop("lines")
        print(json.dumps(result) if as_json else "\n".join(lines))
        if capture and not as_json:
            print(f"capture: {capture} (look at it with: vmbus tui {capture})")
        return
    from tui.command import show
    from tui.feed import Feed

    with staged(guest, capture, None) as stage:
        show(Feed(stage.stream), f"demo: a host and a {guest.capitalize()} guest", abandon=stage.abandon)
        stage.check()
