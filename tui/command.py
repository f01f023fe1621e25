"""``vmbus tui``: look at a capture or a live stream."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from vmbus.errors import VmbusError


class NoTerminal(VmbusError):
    """The user interface needs a terminal."""


def command(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="A capture, or unix:PATH of a host's --stream.")],
    follow: Annotated[bool, typer.Option("--follow", help="Wait for more at the end of a file.")] = False,
) -> None:
    """Show a capture or a live stream in the terminal."""
    if not sys.stdout.isatty():
        raise NoTerminal("this is not a terminal; 'vmbus read' prints the same records as text")
    from tui.app import VmbusApp
    from tui.feed import Feed

    VmbusApp(Feed(source, follow=follow)).run()
