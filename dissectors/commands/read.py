"""``vmbus read``: the records of a capture as lines, trees or JSON."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from dissectors.engine.decoded import Decoded
from dissectors.engine.render import hex_lines, record_json, record_line, tree_lines
from dissectors.engine.source import UnknownProtocol, decode_as_option, decode_capture
from vmbus.capture.walk import Damage
from vmbus.wire.protocols import Protocol

if TYPE_CHECKING:
    from dissectors.filters import Filter


def tell_damage(damage: Damage) -> None:
    """Bytes of a capture that could not be read: one line on stderr."""
    print(f"vmbus: {damage}", file=sys.stderr)


def command(
    source: Annotated[str, typer.Argument(metavar="FILE", help="A capture, - for standard input, or unix:PATH.")],
    verbose: Annotated[bool, typer.Option("-V", "--tree", help="Show every field of each record.")] = False,
    hexdump: Annotated[bool, typer.Option("-x", "--hex", help="Show the bytes of each record.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line, with every field.")] = False,
    decode_as: Annotated[
        list[str] | None,
        typer.Option("-d", "--decode-as", metavar="CHANNEL=PROTOCOL", help="What a channel speaks, e.g. 3=scsi."),
    ] = None,
    display_filter: Annotated[
        str, typer.Option("-Y", "--filter", metavar="FILTER", help="Only records that fit, e.g. 'latency > 5ms'.")
    ] = "",
    count: Annotated[int, typer.Option("-c", "--count", min=0, help="Stop after this many records; 0: never.")] = 0,
) -> None:
    """Print the records of a capture, one line each."""
    wanted = compiled(display_filter)
    is_live = source.startswith("unix:")
    start_ns: int | None = None
    shown = 0
    for item in decode_capture(source, decode_as=channels(decode_as), on_damage=tell_damage):
        start_ns = item.time_ns if start_ns is None else start_ns
        if wanted is not None and not wanted(item):
            continue
        shown += 1
        if as_json:
            print(json.dumps(record_json(item)), flush=is_live)
        else:
            _print_text(item, start_ns, verbose, hexdump)
            if is_live:
                sys.stdout.flush()
        if shown == count:
            break


def _print_text(item: Decoded, start_ns: int, verbose: bool, hexdump: bool) -> None:
    print(record_line(item, start_ns))
    for problem in item.problems:
        print(f"       ! {problem}")
    if verbose:
        print("\n".join(tree_lines(item.tree)))
    if hexdump:
        print("\n".join(hex_lines(item.data)))


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
