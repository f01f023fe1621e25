"""``vmbus tui``: look at a capture or a live stream."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from vmbus.devices.storage.backend import parse_size
from vmbus.errors import VmbusError

if TYPE_CHECKING:
    from tui.app import VmbusApp
    from tui.feed import Feed

_PATIENCE_SECONDS = 1.0


class NoTerminal(VmbusError):
    """The user interface needs a terminal."""


def command(
    source: Annotated[
        str,
        typer.Argument(metavar="SOURCE", help="A capture, a FIFO, - for standard input, unix:PATH for a live stream."),
    ],
    follow: Annotated[bool, typer.Option("--follow", help="Wait for more at the end of a file.")] = False,
    spool: Annotated[
        str, typer.Option("--spool", metavar="SIZE", help="Take no more of a stream than this, e.g. 2G; default: all.")
    ] = "",
) -> None:
    """Show a capture or a live stream in the terminal."""
    limit = parse_size(spool) if spool else 0
    if not _is_served() and not sys.stdout.isatty():
        raise NoTerminal("this is not a terminal; 'vmbus read' prints the same records as text")
    from tui.feed import Feed

    show(Feed(source, follow=follow, spool_limit=limit))


def show(feed: Feed, title: str = "", *, abandon: Callable[[], None] = lambda: None) -> None:
    """Run the application until the user leaves it; ``typer.Exit`` if there was nothing to show.

    ``abandon`` is called, from a thread, when this process is about to end with no time to do anything else.
    """
    if not feed.store.is_live:
        check(feed.source)
    if not _is_served() and not sys.stdin.isatty():
        _keys_from_terminal()
    from tui.app import VmbusApp

    application = VmbusApp(feed, title=title)
    with _ended_by_signals(application, abandon):
        status = application.run()
    if status:
        raise typer.Exit(status)


@contextlib.contextmanager
def _ended_by_signals(application: VmbusApp, abandon: Callable[[], None]) -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the application in good order, or within a second without any.

    Textual hands what it draws to a thread through a short queue. When the terminal is gone that thread has died, and
    when the terminal takes nothing it waits; in either case the application waits for it for ever once the queue is
    full, also when it is told to end.
    """
    has_ended = threading.Event()

    def end_hard(number: int) -> None:
        if not has_ended.wait(_PATIENCE_SECONDS):
            abandon()
            os._exit(128 + number)

    def told(number: int, _: object) -> None:
        threading.Thread(target=end_hard, args=(number,), name="vmbus-end", daemon=True).start()
        application.exit()

    numbers = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, told) for number in numbers}
    try:
        yield
    finally:
        has_ended.set()
        for number, handler in before.items():
            signal.signal(number, handler)


def check(source: str) -> None:
    """Raises what is wrong with a file that is no capture, before the screen is taken over."""
    from vmbus.capture.reader import CaptureReader

    next(iter(CaptureReader(source)), None)


def _is_served() -> bool:
    """Whether another program draws and hands over the keys: textual-serve, in a browser."""
    return "TEXTUAL_DRIVER" in os.environ


def _keys_from_terminal() -> None:
    """Standard input is the capture, or nothing: keys come from the terminal itself."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY)
    except OSError as error:
        raise NoTerminal(f"there is no terminal to read keys from: {error.strerror}") from error
    os.dup2(terminal, 0)
    os.close(terminal)
