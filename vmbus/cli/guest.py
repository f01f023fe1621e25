"""``vmbus guest``: build the Linux guest's kernel, and boot it (or start the Python guest) against a listening host."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

from vmbus.cli.console_notes import ConsoleNotes
from vmbus.cli.files import check_output
from vmbus.devices.storage.backend import parse_size
from vmbus.linux.build import Progress, Variant, build_kernel
from vmbus.linux.errors import GuestNotStarted
from vmbus.linux.launch import ExitStatus, GuestOptions, GuestStillRunning, LinuxGuest, run_under_gdb
from vmbus.linux.source import DEFAULT_VERSION
from vmbus.transport import parse_address

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="Build the Linux guest; run it or the Python guest.",
)

LEAST_MEMORY = 48 << 20
"""With less, the kernel runs out of it while it boots."""

HOST_SECONDS = 2.0
"""So long a guest waits for the socket of a host that is still starting."""

TIMED_OUT = 124
"""The exit status of a run that ``--timeout`` ended, as of timeout(1)."""

Kernel = Annotated[
    str,
    typer.Option("--kernel", metavar="VERSION|PATH", help="6.12, 6.1, or the path of a kernel tree or tarball."),
]
Debug = Annotated[bool, typer.Option("--debug", help="A kernel with KASAN and lockdep.")]
Jobs = Annotated[
    int | None, typer.Option("--jobs", "-j", min=1, metavar="N", help="Compilers at a time; by default one per CPU.")
]


@app.command()
def build(kernel: Kernel = DEFAULT_VERSION, debug: Debug = False, jobs: Jobs = None) -> None:
    """Build the guest's kernel and print where it is. Nothing is done if it is built already."""
    print(_kernel(kernel, Variant.DEBUG if debug else Variant.PLAIN, jobs))


@app.command()
def run(
    host: Annotated[str, typer.Argument(metavar="unix:PATH", help="Where the host listens.")] = "",
    kernel: Kernel = DEFAULT_VERSION,
    debug: Debug = False,
    memory: Annotated[str, typer.Option("--memory", "-m", metavar="SIZE", help="The guest's memory.")] = "256M",
    append: Annotated[
        list[str] | None, typer.Option("--append", metavar="TEXT", help="Add to the kernel's command line; repeatable.")
    ] = None,
    initramfs: Annotated[
        Path | None,
        typer.Option("--initramfs", metavar="DIR", file_okay=False, exists=True, help="Boot this directory's /init."),
    ] = None,
    root: Annotated[
        Path | None,
        typer.Option(
            "--root", metavar="IMAGE", exists=True, dir_okay=False, help="Boot this disk image, on a host of its own."
        ),
    ] = None,
    script: Annotated[
        Path | None,
        typer.Option(
            "--script", metavar="FILE", exists=True, dir_okay=False, allow_dash=True, help="Run these commands."
        ),
    ] = None,
    command: Annotated[
        list[str] | None, typer.Option("--command", "-c", metavar="COMMAND", help="Run this command; repeatable.")
    ] = None,
    console: Annotated[
        Path | None, typer.Option("--console", metavar="FILE", dir_okay=False, help="Write the console there.")
    ] = None,
    reconnect: Annotated[
        int | None, typer.Option("--reconnect", min=1, metavar="SECONDS", help="Wait this long for a lost host.")
    ] = None,
    timeout: Annotated[
        float | None, typer.Option("--timeout", min=0, metavar="SECONDS", help="End the guest then, with status 124.")
    ] = None,
    gdb: Annotated[bool, typer.Option("--gdb", help="Run the kernel under gdb, with line numbers.")] = False,
    python: Annotated[bool, typer.Option("--python", help="The Python guest instead, with no kernel at all.")] = False,
    processors: Annotated[
        int,
        typer.Option(min=1, max=64, metavar="N", help="Of the Python guest; it uses as many channels of each device."),
    ] = 1,
    pause: Annotated[
        float, typer.Option("--pause", min=0, metavar="SECONDS", help="Between two rounds of the Python guest.")
    ] = 0.0,
) -> None:
    """Boot the Linux guest against a host; its exit status is ours.

    Without --script, --command or --initramfs there is a shell, on this terminal or for what is piped in.
    docs/linux-guest.md lists the commands of scripts.
    With --root a host is started for the guest, with the image as its disk and a network card.
    """
    if bool(host) == (root is not None):
        raise typer.BadParameter("give the address of a host, unix:PATH, or --root IMAGE, and not both")
    if python:
        if command or script or initramfs or root or append or console or reconnect or gdb or debug:
            raise typer.BadParameter("--python takes --timeout, --processors and --pause; the others are Linux's")
        from vmbus.guest import program

        _await_host(host)
        seconds = float("inf") if timeout is None else timeout
        raise typer.Exit(program.run(host, seconds=seconds, pause=pause, processors=processors))
    if processors > 1 or pause:
        raise typer.BadParameter("--processors and --pause are about the guest of --python")
    device = _root_device(append or [], root)
    if device is not None and (command or script or initramfs):
        raise typer.BadParameter("a root device has its own init: no --command, --script or --initramfs")
    if initramfs is not None and (command or script):
        raise typer.BadParameter("--initramfs runs the folder's own /init: no --command or --script")
    if parse_size(memory) < LEAST_MEMORY:
        raise typer.BadParameter(f"--memory {memory}: Linux needs at least {LEAST_MEMORY >> 20}M")
    if console is not None:
        check_output(console, Path(kernel), *(file for file in (script, root) if file is not None))
    variant = Variant.DEBUG if debug else Variant.GDB if gdb else Variant.PLAIN
    commands = _commands(script, command)
    is_shell = commands is None and initramfs is None and device is None and not gdb
    piped = _standard_input() if is_shell and not _has_terminal() else None
    binary = _kernel(kernel, variant, None)
    if host:
        _await_host(host)
    with _host_for(root) if root is not None else contextlib.nullcontext(host) as address:
        options = GuestOptions(
            address,
            binary,
            memory=memory,
            append=append or [],
            script=commands,
            shell_input=piped,
            initramfs=initramfs,
            root=device,
            reconnect=reconnect,
            has_input=gdb or (commands is None and _has_terminal()),
        )
        status = run_under_gdb(options) if gdb else _run(options, console, timeout)
    raise typer.Exit(status)


def _await_host(text: str) -> None:
    """A host that was started just before has a moment to listen. If none does, whoever connects says so."""
    address = parse_address(text)
    deadline = time.monotonic() + HOST_SECONDS
    while address.scheme == "unix" and not address.path.exists() and time.monotonic() < deadline:
        time.sleep(0.05)


def _root_device(append: list[str], image: Path | None) -> str | None:
    """The guest's root, if it is to boot from a disk: what the kernel is told, or the disk of ``image``."""
    named = [text.removeprefix("root=") for text in append if text.startswith("root=")]
    return named[-1] if named else None if image is None else "/dev/sda"


def _has_terminal() -> bool:
    return sys.stdin is not None and sys.stdin.isatty()


def _standard_input() -> bytes:
    """All of it; nothing if it is closed."""
    return b"" if sys.stdin is None else sys.stdin.buffer.read()


@contextlib.contextmanager
def _host_for(image: Path) -> Iterator[str]:
    """A host in a process of its own that serves ``image``, for as long as the context lasts; its address."""
    with tempfile.TemporaryDirectory(prefix="vmbus-host-") as directory:
        address = f"unix:{directory}/socket"
        command = [sys.executable, "-m", "vmbus", "host", address, "--scsi", str(image.resolve()), "--nic", "embedded"]
        nothing = subprocess.DEVNULL
        with subprocess.Popen(command, stdin=nothing, stdout=nothing, start_new_session=True) as process:
            try:
                while not Path(directory, "socket").exists():
                    status = process.poll()
                    if status is not None and status > 0:
                        raise typer.Exit(status)  # it has said why
                    if status is not None:
                        raise GuestNotStarted(f"the host for {image} ended with status {status}")
                    time.sleep(0.02)
                yield address
            finally:
                process.terminate()


def _commands(script: Path | None, commands: list[str] | None) -> list[str] | None:
    if script is None and not commands:
        return None
    text = "" if script is None else sys.stdin.read() if str(script) == "-" else script.read_text()
    return [*text.splitlines(), *(commands or [])]


def _run(options: GuestOptions, console: Path | None, timeout: float | None) -> int:
    with (
        _console_file(console) as output,
        _terminal_restored(),
        _ended_by_sigterm(),
        ConsoleNotes(options.host) as notes,
        LinuxGuest(options, on_console_line=notes.tell, console=output) as guest,
    ):
        try:
            status = guest.wait(timeout)
        except GuestStillRunning as error:
            print(f"vmbus: {error}: ended", file=sys.stderr)
            return TIMED_OUT
    if status == ExitStatus.PANICKED:
        print("vmbus: the guest's kernel panicked", file=sys.stderr)
    return status


@contextlib.contextmanager
def _console_file(path: Path | None) -> Iterator[BinaryIO]:
    if path is None:
        yield sys.stdout.buffer
        return
    try:
        file = path.open("wb")
    except OSError as error:
        raise GuestNotStarted(f"the console cannot be written to {path}: {error.strerror}") from None
    with file:
        yield file


@contextlib.contextmanager
def _terminal_restored() -> Iterator[None]:
    """The guest puts its terminal into raw mode, and a guest that is killed does not put it back."""
    try:
        before = termios.tcgetattr(0)
    except (termios.error, OSError):
        yield
        return
    try:
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Leave by an exception on SIGTERM, so that the guest does not outlive its launcher."""

    def leave(*unused: object) -> None:
        raise SystemExit(128 + signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _kernel(spec: str, variant: Variant, jobs: int | None) -> Path:
    progress = _ProgressLine()
    try:
        return build_kernel(spec, variant, jobs=jobs, report=progress.show)
    finally:
        progress.finish()


class _ProgressLine:
    """A build's progress on stderr: one line that changes on a terminal, else a line every ten seconds."""

    def __init__(self) -> None:
        self._is_terminal = sys.stderr.isatty()
        self._shown = False
        self._next = 0.0

    def show(self, progress: Progress) -> None:
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + (0.1 if self._is_terminal else 10)
        text = f"building the guest's kernel: {100 * progress.done // progress.expected:3d} %  {progress.what}"
        if self._is_terminal:
            text = f"\r{text[: shutil.get_terminal_size().columns - 1]}\x1b[K"
        print(text, end="" if self._is_terminal else "\n", file=sys.stderr, flush=True)
        self._shown = True

    def finish(self) -> None:
        if self._shown and self._is_terminal:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
