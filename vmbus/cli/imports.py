"""``vmbus import``: make a capture of other people's evidence: kernel traces, sysfs, memory images."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Annotated

import typer

from vmbus.capture.importers import CannotImport, write_capture
from vmbus.capture.importers.trace_events import TraceEvent, records_of_events
from vmbus.cli.files import check_output, records_written

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="Make a capture of a kernel trace, sysfs or a memory image.",
)

Output = Annotated[Path, typer.Option("--write", "-w", metavar="FILE", help="The capture to write.")]


@app.command()
def trace(
    source: Annotated[
        str, typer.Argument(metavar="FILE", help="trace.dat, or text of trace_pipe or trace-cmd report; - for stdin.")
    ],
    write: Output,
    epoch: Annotated[
        float,
        typer.Option(
            min=-1e10, max=1e10, metavar="SECONDS", help="Add this to the trace's times, which count from the boot."
        ),
    ] = 0.0,
) -> None:
    """Import the hyperv and netvsc events of a Linux kernel trace."""
    check_output(write, Path(source))
    records = records_of_events(_events(source), int(epoch * 1_000_000_000))
    _write(write, records, f"{source} has no event of hyperv or netvsc: is it a kernel trace?")


@app.command()
def sysfs(
    source: Annotated[
        Path,
        typer.Argument(metavar="PATH", help="/sys/bus/vmbus, or the text of `grep -r . /sys/bus/vmbus/devices/*/`."),
    ],
    write: Output,
) -> None:
    """Import a snapshot of /sys/bus/vmbus: channels and their rings."""
    from vmbus.capture.importers.sysfs import read_snapshot, records_of_sysfs

    check_output(write, source)
    _write(write, records_of_sysfs(read_snapshot(source), time.time_ns()), f"{source} has no channel of VMBus")


@app.command()
def memory(
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="A raw memory image, an ELF core, or a kdump.")],
    write: Output,
    capture: Annotated[
        str, typer.Option("--capture", metavar="FILE", help="A capture of the same guest: it says where the rings are.")
    ] = "",
) -> None:
    """Import the packets that lie in the rings of a memory image.

    Those that wait, and past ones that nobody has written over yet.
    """
    from vmbus.capture.importers.memory_image import import_image

    check_output(write, image, Path(capture))
    _write(write, import_image(image, capture), f"{image} has no ring of VMBus that could be found")


def _write(path: Path, records: Iterable[bytes], nothing: str) -> None:
    """Write a capture, but none of nothing: what was at ``path`` stays, and the error says what was missing."""
    records = iter(records)
    first = next(records, None)
    if first is None:
        raise CannotImport(nothing)
    try:
        count = write_capture(path, chain([first], records))
    except OSError as error:
        raise CannotImport(f"cannot write {path}: {error.strerror}") from error
    print(records_written(count, path))


def _events(source: str) -> Iterator[TraceEvent]:
    from vmbus.capture.importers.trace_dat import MAGIC, events_of_dat
    from vmbus.capture.importers.trace_text import events_of_text

    def on_lost(count: int) -> None:
        print(f"vmbus: the kernel lost {count} events there", file=sys.stderr)

    if source == "-":
        yield from events_of_text(sys.stdin, on_lost)
        return
    path = Path(source)
    try:
        with path.open("rb") as file:
            is_binary = file.read(len(MAGIC)) == MAGIC
        if is_binary:
            yield from events_of_dat(path)
            return
        with path.open(encoding="utf-8", errors="replace") as lines:
            yield from events_of_text(lines, on_lost)
    except OSError as error:
        raise CannotImport(f"cannot read {source}: {error.strerror}") from error
