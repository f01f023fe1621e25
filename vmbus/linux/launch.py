"""Start the Linux guest as a process, follow its console, and end it without leaving anything behind.

User-Mode Linux is a session of its own: the kernel, a process for each address space, and helpers, all in one process
group. What the launcher ends, it ends as that group, and only after the kernel's own process is known not to be reaped.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import BinaryIO

from vmbus.linux.errors import GuestNotStarted, LinuxGuestError
from vmbus.linux.initramfs import directory_initramfs, script_archive, shell_archive, standard_initramfs
from vmbus.linux.tools import require
from vmbus.loop import is_readable
from vmbus.transport.address import parse_address

KERNEL_TOOLS = {"setarch": "util-linux"}
_LONGEST_LINE = 65536
_LINE_FEED = re.compile(rb"(?<!\r)\n")


class ExitStatus(IntEnum):
    """Exit statuses that the kernel itself gives; others come from the script or from the user's own init."""

    DONE = 0
    FAILED = 1
    """A command of the script failed."""
    HOST_GONE = 75
    """Nobody listens at the socket, or the host closed the connection."""
    HOST_REFUSED = 76
    """The host refused the hello, or does not speak the protocol."""
    PANICKED = 134
    """The kernel panicked (the process aborts itself)."""


class GuestStillRunning(LinuxGuestError):
    """The guest did not end in time; it goes on running."""


@dataclass
class GuestOptions:
    """How to start a guest. ``host`` is the address it connects to, ``unix:PATH``.

    ``script`` is what the standard initramfs' init runs (docs/linux-guest.md); without one it is a shell.
    ``initramfs`` is a directory of the user's own instead; with ``root`` (``/dev/sda``) there is none, and the kernel
    mounts that device and runs its init. ``append`` is added to the kernel's command line. ``reconnect`` is how many
    seconds the guest waits for a host that went away; by default it stops at once.
    """

    host: str
    kernel: Path
    memory: str = "256M"
    append: Sequence[str] = ()
    script: Sequence[str] | None = None
    shell_input: bytes | None = None
    """What a shell is to read instead of a script; the guest ends when the shell does, with its exit status."""
    initramfs: Path | None = None
    root: str | None = None
    reconnect: int | None = None
    has_input: bool = False
    """Whether the console reads our standard input; otherwise it reads what ``write_line`` writes."""
    extra_arguments: dict[str, str] = field(default_factory=dict)
    """Further ``name=value`` arguments of the kernel, replacing those made here."""

    def command_line(self, directory: Path) -> list[str]:
        """The kernel and its arguments; files that it needs are put into ``directory``."""
        socket_path = os.path.abspath(parse_address(self.host, ("unix",)).params)
        if any(character.isspace() for character in f"{socket_path}{directory}"):
            raise GuestNotStarted(f"{socket_path}: a kernel command line cannot hold a path with white space")
        arguments = {
            "mem": self.memory,
            "con": "null",
            "con0": "fd:0,fd:1",
            "uml_dir": str(directory),
            "vmbus": socket_path,
        }
        if self.root is not None:
            arguments["root"] = self.root
            flags = ["rw", "rootwait"]
        else:
            arguments["initrd"] = str(self._write_initramfs(directory))
            flags = []
        if self.reconnect is not None:
            arguments["vmbus_reconnect"] = str(self.reconnect)
        arguments |= self.extra_arguments
        return [str(self.kernel), *(f"{name}={value}" for name, value in arguments.items()), *flags, *self.append]

    def _write_initramfs(self, directory: Path) -> Path:
        initrd = directory / "initramfs.cpio"
        with initrd.open("wb") as file:
            if self.initramfs is not None:
                file.write(directory_initramfs(self.initramfs))
            else:
                file.write(standard_initramfs().read_bytes())
            if self.script is not None:
                file.write(script_archive(self.script))
            elif self.shell_input is not None:
                file.write(shell_archive(self.shell_input))
        return initrd


class LinuxGuest:
    """One run of the guest.

    ``lines`` holds the console so far; ``on_console_line`` is called with each line as it comes, from the thread that
    reads the console. ``console`` is a binary file that gets the console's bytes as they are, or a terminal.
    ``start`` and then ``wait`` or ``kill``; as a context manager it starts, and kills what still runs.
    """

    def __init__(
        self,
        options: GuestOptions,
        *,
        on_console_line: Callable[[str], None] = lambda line: None,
        console: BinaryIO | None = None,
    ) -> None:
        self.options = options
        self.lines: list[str] = []
        self._on_console_line = on_console_line
        self._console = console
        self._is_terminal = console is not None and console.isatty()
        self._process: subprocess.Popen[bytes] | None = None
        self._directory: tempfile.TemporaryDirectory[str] | None = None
        self._reader: threading.Thread | None = None
        self._grew = threading.Condition()
        self._unfinished = b""

    def __enter__(self) -> LinuxGuest:
        self.start()
        return self

    def __exit__(self, *unused: object) -> None:
        self.kill()

    @property
    def pid(self) -> int:
        """The kernel's process, which also is its process group and session."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start the kernel. Raises a ``LinuxGuestError`` if that cannot be."""
        require(KERNEL_TOOLS, "starting the guest")
        self._directory = tempfile.TemporaryDirectory(prefix="vmbus-guest-")
        try:
            # A random start of the heap would be counted as memory, move every guest address and double the boot time.
            command = ["setarch", "-R", *self.options.command_line(Path(self._directory.name))]
            self._process = subprocess.Popen(
                command,
                stdin=None if self.options.has_input else subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            self._directory.cleanup()
            raise GuestNotStarted(f"the guest cannot be started: {error}") from None
        except LinuxGuestError:
            self._directory.cleanup()
            raise
        self._reader = threading.Thread(target=self._read_console, name="guest console", daemon=True)
        self._reader.start()

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the guest to end; its exit status, see ``ExitStatus``. ``timeout`` is in seconds.

        Raises ``GuestStillRunning`` when the time is over; the guest goes on.
        """
        assert self._process is not None
        if self._process.returncode is None:
            descriptor = os.pidfd_open(self._process.pid)
            try:
                if not is_readable(descriptor, timeout):
                    raise GuestStillRunning(f"the guest is still running after {timeout:.0f} s")
            finally:
                os.close(descriptor)
            self._clean_up()
        status = self._process.returncode
        return status if status >= 0 else 128 - status

    def kill(self) -> None:
        """End the guest at once, as a power cut would; harmless if it has ended."""
        if self._process is not None and self._process.returncode is None:
            self._clean_up()

    def write_line(self, text: str) -> None:
        """Type a line on the console."""
        assert self._process is not None and self._process.stdin is not None
        self._process.stdin.write(f"{text}\n".encode())
        self._process.stdin.flush()

    def wait_for_line(self, text: str, timeout: float, *, after: int = 0) -> int:
        """Wait for a console line that contains ``text``, from line number ``after`` on; its number.

        Raises ``GuestStillRunning`` when the time is over, or when the guest ended without it.
        """
        deadline = time.monotonic() + timeout
        with self._grew:
            while True:
                for number in range(after, len(self.lines)):
                    if text in self.lines[number]:
                        return number
                after = len(self.lines)
                left = deadline - time.monotonic()
                if left <= 0 or (self._reader is not None and not self._reader.is_alive()):
                    raise GuestStillRunning(f"the guest did not print {text!r} within {timeout:.0f} s")
                self._grew.wait(min(left, 0.5))

    def wait_for_prompt(self, text: str, timeout: float) -> None:
        """Wait until the console's last line, not ended yet, contains ``text``.

        Raises ``GuestStillRunning`` when the time is over, or when the guest ended without it.
        """
        deadline = time.monotonic() + timeout
        with self._grew:
            while text.encode() not in self._unfinished:
                left = deadline - time.monotonic()
                if left <= 0 or (self._reader is not None and not self._reader.is_alive()):
                    raise GuestStillRunning(f"the guest did not ask {text!r} within {timeout:.0f} s")
                self._grew.wait(min(left, 0.5))

    def _clean_up(self) -> None:
        """Kill whatever is left of the process group, reap the kernel, and remove its files."""
        assert self._process is not None and self._directory is not None and self._reader is not None
        # The kernel's process is not reaped yet, so its number cannot be anybody else's group.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        self._reader.join(timeout=5)
        self._directory.cleanup()

    def _read_console(self) -> None:
        assert self._process is not None and self._process.stdout is not None
        with self._process.stdout as stream:
            while data := os.read(stream.fileno(), 65536):
                if self._console is not None:
                    # The guest has made the terminal raw, and its kernel's own lines have no carriage return.
                    self._console.write(_LINE_FEED.sub(b"\r\n", data) if self._is_terminal else data)
                    self._console.flush()
                *complete, pending = (self._unfinished + data).split(b"\n")
                if len(pending) > _LONGEST_LINE:
                    complete, pending = [*complete, pending], b""
                for line in complete:
                    self._add_line(line)
                with self._grew:
                    self._unfinished = pending
                    self._grew.notify_all()
        if self._unfinished:
            self._add_line(self._unfinished)
        with self._grew:
            self._grew.notify_all()

    def _add_line(self, line: bytes) -> None:
        text = line.decode(errors="replace").rstrip("\r")
        with self._grew:
            self.lines.append(text)
            self._grew.notify_all()
        self._on_console_line(text)


def run_under_gdb(options: GuestOptions) -> int:
    """Run the guest under gdb on this terminal; gdb's exit status.

    User-Mode Linux uses SIGSEGV, SIGUSR1, SIGIO and SIGALRM as its page faults and interrupts: gdb passes them on.
    """
    require({"gdb": "gdb"}, "guest run --gdb")
    quiet = [f"handle {name} nostop noprint pass" for name in ("SIGSEGV", "SIGUSR1", "SIGIO", "SIGALRM")]
    commands = [argument for command in quiet for argument in ("-ex", command)]
    with tempfile.TemporaryDirectory(prefix="vmbus-guest-") as directory:
        arguments = options.command_line(Path(directory))
        debugger = shutil.which("gdb") or "gdb"
        return subprocess.run([debugger, "-q", *commands, "--args", *arguments], check=False).returncode
