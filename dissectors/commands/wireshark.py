"""``vmbus wireshark``: install the dissector and the extcap, print the dissector, compare its decoding with ours."""

from __future__ import annotations

from typing import Annotated

import typer

from dissectors.commands.options import tell_unknown
from dissectors.engine import Session

application = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    no_args_is_help=True,
    help="Wireshark and tshark: dissector and extcap.",
)


@application.command()
def install() -> None:
    """Put the dissector and the extcap into your Wireshark folders."""
    from dissectors.wireshark.install import install as put

    for path in put():
        print(path)


@application.command()
def uninstall() -> None:
    """Take them out again."""
    from dissectors.wireshark.install import uninstall as take

    for path in take():
        print(path)


@application.command("lua")
def show_lua() -> None:
    """Print the dissector."""
    from dissectors.wireshark.lua import dissector

    print(dissector())


@application.command()
def compare(capture: Annotated[str, typer.Argument(metavar="FILE", help="A capture.")]) -> None:
    """Compare what tshark and we decode; exit status 1 if it differs."""
    from dissectors.wireshark.compare import differences

    if capture == "-" or capture.startswith("unix:"):
        raise typer.BadParameter(f"{capture} is no file, and it has to be read twice")
    session = Session()
    count = 0
    for difference in differences(capture, session):
        print(difference)
        count += 1
    tell_unknown(capture, session.unknown, session.count)
    if count:
        raise typer.Exit(1)
    print("no difference")
