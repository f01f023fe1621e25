"""``vmbus tui``: look at a capture or a live stream."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from vmbus.devices.storage.backend import parse_size
from vmbus.errors import VmbusError

if TYPE_CHECKING:
    from tui.feed import Feed


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
    if not sys.stdout.isatty():
        raise NoTerminal("this is not a terminal; 'vmbus read' prints the same records as text")
    from tui.feed import Feed

    show(Feed(source, follow=follow, spool_limit=limit))


def show(feed: Feed, title: str = "") -> None:
    """Run the application until the user leaves it; ``typer.Exit`` if there was nothing to show."""
    if not feed.store.is_live:
        check(feed.source)
    if not sys.stdin.isatty():
        _keys_from_terminal()
    from tui.app import VmbusApp

    status = VmbusApp(feed, title=title).run()
    if status:
        raise typer.Exit(status)


def check(source: str) -> None:
    """Raises what is wrong with a file that is no capture, before the screen is taken over."""
    from vmbus.capture.reader import CaptureReader

    next(iter(CaptureReader(source)), None)


def _keys_from_terminal() -> None:
    """Standard input is the capture, or nothing: keys come from the terminal itself."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY)
    except OSError as error:
        raise NoTerminal(f"there is no terminal to read keys from: {error.strerror}") from error
    os.dup2(terminal, 0)
    os.close(terminal)
