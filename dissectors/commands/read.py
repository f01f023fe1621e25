"""``vmbus read``: the records of a capture as lines, trees or JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, TextIO

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
)
from dissectors.engine.decoded import Decoded
from dissectors.engine.parts import Part
from dissectors.engine.render import hex_lines, record_json, record_line, tree_lines
from dissectors.engine.source import decode_capture
from dissectors.reading import Reading
from vmbus.capture.store import is_file
from vmbus.wire.protocols import Protocol

if TYPE_CHECKING:
    from dissectors.filters import Filter


def command(
    source: Source,
    verbose: Annotated[bool, typer.Option("-V", "--tree", help="Show every field of each record.")] = False,
    hexdump: Annotated[bool, typer.Option("-x", "--hex", help="Show the bytes of each record.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line, with every field.")] = False,
    decode_as: DecodeAs = None,
    display_filter: Wanted = "",
    count: Annotated[
        int, typer.Option("-c", "--count", min=0, metavar="N", help="Stop after this many records; 0: never.")
    ] = 0,
    jobs: Jobs = 0,
    progress: ShowProgress = True,
) -> None:
    """Print the records of a capture, one line each."""
    printer = _Printer(verbose, hexdump, as_json)
    wanted, protocols = compiled(display_filter), channels(decode_as)
    if not is_file(source):
        _follow(source, printer, wanted, protocols, count)
        return
    # Lines on a terminal say themselves how far it is.
    reading = Reading(
        source, protocols, wanted=wanted, jobs=1 if count else jobs, progress=progress and not sys.stdout.isatty(),
        on_damage=tell_damage,
    )  # fmt: skip
    left = count

    def show(part: Part, out: TextIO) -> None:
        nonlocal left
        for item in reading.items(part):
            printer.show(item, part.start_ns, out)
            left -= 1
            if not left:
                raise _Enough

    try:
        reading.show(show, sys.stdout)
    except _Enough:
        pass


class _Enough(Exception):
    """As many records as were wanted have been shown."""


def _follow(source: str, printer: _Printer, wanted: Filter | None, protocols: dict[int, Protocol], count: int) -> None:
    """Show records as they come, each at once."""
    items: Iterator[Decoded] = decode_capture(source, decode_as=protocols, on_damage=tell_damage)
    start_ns: int | None = None
    for item in items:
        start_ns = item.time_ns if start_ns is None else start_ns
        if wanted is not None and not wanted(item):
            continue
        printer.show(item, start_ns, sys.stdout)
        sys.stdout.flush()
        count -= 1
        if not count:
            break


@dataclass
class _Printer:
    """How a record is shown."""

    verbose: bool
    hexdump: bool
    as_json: bool

    def show(self, item: Decoded, start_ns: int, out: TextIO) -> None:
        if self.as_json:
            print(json.dumps(record_json(item)), file=out)
            return
        print(record_line(item, start_ns), file=out)
        for problem in item.problems:
            print(f"       ! {problem}", file=out)
        if self.verbose:
            print("\n".join(tree_lines(item.tree)), file=out)
        if self.hexdump:
            print("\n".join(hex_lines(item.data)), file=out)
