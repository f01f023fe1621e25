"""The options that several commands share, and what their values mean."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dissectors.engine.source import UnknownProtocol, decode_as_option
from vmbus.capture.walk import Damage
from vmbus.errors import VmbusError
from vmbus.wire.protocols import Protocol

if TYPE_CHECKING:
    from dissectors.filters import Filter

Source = Annotated[str, typer.Argument(metavar="FILE", help="A capture, a FIFO, - for standard input, or unix:PATH.")]
Wanted = Annotated[
    str, typer.Option("-Y", "--filter", metavar="FILTER", help="Only records that fit, e.g. 'latency > 5ms'.")
]
DecodeAs = Annotated[
    list[str] | None,
    typer.Option("-d", "--decode-as", metavar="CHANNEL=PROTOCOL", help="What a channel speaks, e.g. 3=scsi."),
]
Jobs = Annotated[
    int,
    typer.Option(
        "-j", "--jobs", metavar="N", min=0,
        help="Decode a file in N processes; 0: one, or of a large file one for each processor.",
    ),
]  # fmt: skip
ShowProgress = Annotated[
    bool, typer.Option("--progress/--no-progress", help="A progress bar on stderr, if that is a terminal.")
]


class CannotWrite(VmbusError):
    """What a command makes cannot be written."""


@contextlib.contextmanager
def writing(target: Path) -> Iterator[None]:
    """Errors of the system that name no file, as a full disk's do not, are about ``target``."""
    try:
        yield
    except BrokenPipeError:
        raise  # whoever reads the target has enough of it
    except OSError as error:
        if error.filename is not None:
            raise
        raise CannotWrite(f"cannot write {target}: {error.strerror or error}") from error


def tell_damage(damage: Damage) -> None:
    """Bytes of a capture that could not be read: one line on stderr."""
    print(f"vmbus: {damage}", file=sys.stderr)


class NoVmbusRecords(VmbusError):
    """A capture of something else."""


def tell_unknown(source: str, unknown: int, records: int) -> None:
    """Say how many records of a capture are none of VMBus; raise :class:`NoVmbusRecords` if all are."""
    if unknown and unknown == records:
        raise NoVmbusRecords(f"{source} has no VMBus records: its {records:,} are of something else")
    if unknown:
        print(f"vmbus: {unknown:,} of {records:,} records are not VMBus records", file=sys.stderr)


def compiled(text: str) -> Filter | None:
    """The value of ``-Y``; a wrong filter is a wrong command line, shown with a mark under the place."""
    if not text:
        return None
    from dissectors.filters import Filter, FilterError  # lark is imported only when there is a filter

    try:
        return Filter(text)
    except FilterError as error:
        print(error.pointer(), file=sys.stderr)
        raise typer.BadParameter(str(error)) from error


def channels(decode_as: list[str] | None) -> dict[int, Protocol]:
    """The value of ``--decode-as``; a wrong one is a wrong command line."""
    try:
        return decode_as_option(decode_as or [])
    except UnknownProtocol as error:
        raise typer.BadParameter(str(error)) from error
