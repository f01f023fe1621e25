"""``vmbus export``: what other programs can read of a capture."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Annotated, TextIO

import typer

from dissectors.commands.options import (
    DecodeAs,
    Jobs,
    ShowProgress,
    Source,
    Wanted,
    channels,
    compiled,
    tell_damage,
    writing,
)
from dissectors.engine import Decoded
from dissectors.engine.parts import Part
from dissectors.engine.source import decode_capture
from dissectors.reading import Reading
from vmbus.capture.store import is_file
from vmbus.cli.files import check_output
from vmbus.errors import VmbusError

application = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    no_args_is_help=True,
    help="Take frames, disk contents, streams or tables out of a capture.",
)


class NothingToExport(VmbusError):
    """The capture has nothing of what was asked for."""


Target = Annotated[Path, typer.Argument(metavar="TARGET", help="What to write.")]


def _items(
    source: str, display_filter: str, decode_as: list[str] | None, *, of: str = "", progress: bool = True
) -> Iterator[Decoded]:
    """The decoded records of a capture that pass a filter of the user's, and one of our own."""
    wanted, protocols = compiled(display_filter), channels(decode_as)
    if of:
        wanted = compiled(f"({display_filter}) && {of}" if display_filter else of)
    if is_file(source):
        reading = Reading(source, protocols, wanted=wanted, progress=progress, on_damage=tell_damage)
        for part in reading.parts():
            yield from reading.items(part)
        return
    for item in decode_capture(source, decode_as=protocols, on_damage=tell_damage):
        if wanted is None or wanted(item):
            yield item


def _begun(source: str, target: Path, items: Iterator[Decoded]) -> Iterable[Decoded]:
    """The same items, of which one has been read: a source that cannot be read must not cost a file that is there."""
    check_output(target, Path(source))
    first = next(items, None)
    return () if first is None else chain((first,), items)


@application.command("ethernet")
def ethernet(
    source: Source,
    target: Target,
    display_filter: Wanted = "",
    decode_as: DecodeAs = None,
    progress: ShowProgress = True,
) -> None:
    """Ethernet frames, as an ordinary pcapng."""
    from dissectors.exports.ethernet import export_frames

    items = _items(source, display_filter, decode_as, of="kind == external && protocol == nvsp", progress=progress)
    begun = _begun(source, target, items)
    with writing(target), target.open("wb") as file:
        frames = export_frames(begun, file)
    if not frames:
        raise NothingToExport("no frame of a network card was recorded")
    print(f"{frames} frame{'' if frames == 1 else 's'}")


@application.command("disk")
def disk(
    source: Source,
    target: Target,
    channel: Annotated[
        int | None, typer.Option(metavar="ID", help="A channel of its controller; by default the first.")
    ] = None,
    lun: Annotated[int, typer.Option(min=0, max=255, metavar="N", help="Which of its disks.")] = 0,
    block_size: Annotated[int, typer.Option(min=1, max=1 << 20, metavar="BYTES", help="Of a block.")] = 512,
    display_filter: Wanted = "",
    decode_as: DecodeAs = None,
    progress: ShowProgress = True,
) -> None:
    """The blocks of a disk that were read or written, in an image."""
    from dissectors.exports.disk import export_disk

    items = _items(source, display_filter, decode_as, of="kind == external && protocol == vstor", progress=progress)
    begun = _begun(source, target, items)
    with writing(target), target.open("wb") as file:
        found = export_disk(begun, file, channel=channel, lun=lun, block_size=block_size)
    if not found.requests:
        controller = "the first controller" if channel is None else f"the controller of channel {channel}"
        raise NothingToExport(f"nothing that {controller} read or wrote on LUN {lun} was recorded")
    print(f"{found.size} bytes of {found.requests} requests")
    if found.cut:
        print(
            f"vmbus: of {found.cut} requests the data was recorded only in part (see --snap of vmbus host): "
            "the image has holes where it is missing",
            file=sys.stderr,
        )
    if found.beyond:
        print(f"vmbus: {found.beyond} requests are of blocks beyond the end of any file: left out", file=sys.stderr)


@application.command("sockets")
def sockets(
    source: Source,
    target: Target,
    display_filter: Wanted = "",
    decode_as: DecodeAs = None,
    progress: ShowProgress = True,
) -> None:
    """The streams of Hyper-V sockets, as files in folder TARGET."""
    from dissectors.exports.sockets import export_sockets

    items = _items(source, display_filter, decode_as, of="kind == packet && protocol == hvsocket", progress=progress)
    written = export_sockets(items, target)
    if not written:
        raise NothingToExport("nothing that a Hyper-V socket sent was recorded")
    for path in written:
        print(path)


@application.command("json")
def json_lines(
    source: Source,
    target: Annotated[Path | None, typer.Argument(metavar="TARGET", help="By default, standard output.")] = None,
    display_filter: Wanted = "",
    decode_as: DecodeAs = None,
    jobs: Jobs = 0,
    progress: ShowProgress = True,
) -> None:
    """Every record as a line of JSON."""
    from dissectors.exports.tables import export_json

    if target is None:
        shown = progress and not sys.stdout.isatty()
        _writer(export_json, source, display_filter, decode_as, jobs, progress=shown)(sys.stdout)
        return
    check_output(target, Path(source))
    write = _writer(export_json, source, display_filter, decode_as, jobs, progress=progress)
    with writing(target), target.open("w", encoding="utf-8") as file:
        write(file)
    if target.is_file():
        with target.open("rb") as written:
            print(f"{sum(1 for _ in written)} records")


def _writer(
    lines: Callable[[Iterable[Decoded], TextIO], object],
    source: str,
    display_filter: str,
    decode_as: list[str] | None,
    jobs: int,
    *,
    progress: bool,
) -> Callable[[TextIO], object]:
    """What writes ``lines`` of all records to a file, in as many processes as are wanted.

    The source has been looked at then: one that cannot be read must not cost a file that is there.
    """
    if not is_file(source):
        items = _items(source, display_filter, decode_as)
        first = next(items, None)
        return lambda out: lines(() if first is None else chain((first,), items), out)
    reading = Reading(
        source, channels(decode_as), wanted=compiled(display_filter), jobs=jobs, progress=progress,
        on_damage=tell_damage,
    )  # fmt: skip
    next(decode_capture(source), None)  # what is no capture is noticed when it is read

    def show(part: Part, out: TextIO) -> None:
        lines(reading.items(part), out)

    return lambda out: reading.show(show, out)


@application.command("parquet")
def parquet(
    source: Source,
    target: Target,
    display_filter: Wanted = "",
    decode_as: DecodeAs = None,
    jobs: Jobs = 0,
    progress: ShowProgress = True,
) -> None:
    """Every record as a row of Parquet; needs the analysis extra."""
    from dissectors.exports.tables import write_rows, write_table

    check_output(target, Path(source))
    write = _writer(write_rows, source, display_filter, decode_as, jobs, progress=progress)
    with target.open("ab"):  # what cannot be written is said before all is read
        pass
    print(f"{write_table(write, target)} records")
