"""``vmbus export``: what other programs can read of a capture."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from dissectors.commands.options import channels, compiled, tell_damage
from dissectors.engine import Decoded
from dissectors.engine.source import decode_capture

application = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    no_args_is_help=True,
    help="Take frames, disk contents, streams or tables out of a capture.",
)

Source = Annotated[str, typer.Argument(metavar="FILE", help="A capture, - for standard input, or unix:PATH.")]
Target = Annotated[Path, typer.Argument(metavar="TARGET", help="What to write.")]
Wanted = Annotated[str, typer.Option("-Y", "--filter", metavar="FILTER", help="Only records that fit.")]
DecodeAs = Annotated[
    list[str] | None, typer.Option("-d", "--decode-as", metavar="CHANNEL=PROTOCOL", help="What a channel speaks.")
]


def _items(source: str, display_filter: str, decode_as: list[str] | None) -> Iterator[Decoded]:
    wanted = compiled(display_filter)
    for item in decode_capture(source, decode_as=channels(decode_as), on_damage=tell_damage):
        if wanted is None or wanted(item):
            yield item


@application.command("ethernet")
def ethernet(source: Source, target: Target, display_filter: Wanted = "", decode_as: DecodeAs = None) -> None:
    """Ethernet frames, as an ordinary pcapng."""
    from dissectors.exports.ethernet import export_frames

    with target.open("wb") as file:
        print(f"{export_frames(_items(source, display_filter, decode_as), file)} frames")


@application.command("disk")
def disk(
    source: Source,
    target: Target,
    channel: Annotated[int | None, typer.Option(help="The controller's channel; by default the first.")] = None,
    lun: Annotated[int, typer.Option(help="Which of its disks.")] = 0,
    block_size: Annotated[int, typer.Option(help="Bytes of a block.")] = 512,
    decode_as: DecodeAs = None,
) -> None:
    """The blocks of a disk that were read or written, as a sparse image."""
    from dissectors.exports.disk import export_disk

    with target.open("wb") as file:
        items = _items(source, "", decode_as)
        print(f"{export_disk(items, file, channel=channel, lun=lun, block_size=block_size)} bytes")


@application.command("sockets")
def sockets(source: Source, target: Target, decode_as: DecodeAs = None) -> None:
    """The streams of Hyper-V sockets, each in a file of the folder TARGET."""
    from dissectors.exports.sockets import export_sockets

    for path in export_sockets(_items(source, "", decode_as), target):
        print(path)


@application.command("json")
def json_lines(
    source: Source,
    target: Annotated[Path | None, typer.Argument(metavar="TARGET", help="By default, standard output.")] = None,
    display_filter: Wanted = "",
    decode_as: DecodeAs = None,
) -> None:
    """Every record as a line of JSON."""
    from dissectors.exports.tables import export_json

    items = _items(source, display_filter, decode_as)
    if target is None:
        export_json(items, sys.stdout)
        return
    with target.open("w") as file:
        print(f"{export_json(items, file)} records")


@application.command("parquet")
def parquet(source: Source, target: Target, display_filter: Wanted = "", decode_as: DecodeAs = None) -> None:
    """Every record as a row of a Parquet file; needs the analysis extra."""
    from dissectors.exports.tables import export_parquet

    print(f"{export_parquet(_items(source, display_filter, decode_as), target)} records")
