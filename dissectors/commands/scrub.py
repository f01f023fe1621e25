"""``vmbus scrub``: a copy of a capture without people's data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dissectors.commands.options import DecodeAs, Source, channels, tell_damage, writing
from dissectors.engine import Session
from dissectors.exports.scrub import scrub
from vmbus.cli.files import check_output


def command(
    source: Source,
    target: Annotated[Path, typer.Argument(metavar="TARGET", help="Where the copy goes.")],
    decode_as: DecodeAs = None,
) -> None:
    """Copy a capture with its payloads blanked, to be shared."""
    check_output(target, Path(source))
    with writing(target):
        blanked = scrub(source, target, Session(channels(decode_as)), tell_damage)
    print(f"{blanked} bytes blanked")
