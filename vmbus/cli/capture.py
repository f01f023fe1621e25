"""``vmbus capture``: attach to the live stream of a running host, and write a capture of it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from vmbus.capture import blocks
from vmbus.capture.outputs import create_capture, write_all
from vmbus.capture.reader import PACKET_BLOCKS, CannotOpen
from vmbus.capture.walk import Block, BlockWalker, Damage, open_source
from vmbus.cli.files import check_output, records_written
from vmbus.errors import VmbusError


class CannotWrite(VmbusError):
    """The capture cannot be written."""


def command(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="unix:PATH, the --stream of a host; a file or - is copied.")
    ],
    write: Annotated[str, typer.Option("--write", "-w", metavar="FILE", help="The capture to write; - for stdout.")],
    count: Annotated[
        int, typer.Option("--count", "-c", min=0, metavar="N", help="Stop after this many records; 0: never.")
    ] = 0,
    seconds: Annotated[float, typer.Option(min=0, metavar="SECONDS", help="Stop after this time; 0: never.")] = 0.0,
) -> None:
    """Record the live stream of a host, until it ends or Ctrl-C.

    To look at it in Wireshark's tshark: `vmbus capture unix:PATH -w - | tshark -r -`.
    """
    check_output(Path(write), Path(source))
    try:
        opened = open_source(source)
    except OSError as error:
        raise CannotOpen(f"cannot open {source}: {error.strerror or error}") from error
    records = 0
    with contextlib.closing(opened), _output(write) as fd, _until_told(opened.fileno(), seconds) as told:
        for item in BlockWalker(opened, source):
            if isinstance(item, Block):
                records += item.block_type in PACKET_BLOCKS
                _copy(item, fd, write)
                if records == count > 0:
                    break
            elif not told:
                _report(item)
    if write != "-":
        print(records_written(records, write))


def _report(damage: Damage) -> None:
    print(f"vmbus: {damage}", file=sys.stderr)


@contextlib.contextmanager
def _until_told(fd: int, seconds: float) -> Iterator[list[int]]:
    """Let signals and the time limit end the stream, so that nothing stops in the middle of a block.

    The list has the signal that came.
    """
    told: list[int] = []

    def stop(number: int, _: object) -> None:
        told.append(number)
        try:
            with socket.socket(fileno=os.dup(fd)) as connection:
                connection.shutdown(socket.SHUT_RD)
        except OSError:
            raise KeyboardInterrupt from None  # a file or pipe

    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)
    before = {number: signal.signal(number, stop) for number in signals}
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield told
    except KeyboardInterrupt:
        pass
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _output(path: str) -> Iterator[int]:
    if path == "-":
        yield 1
        return
    try:
        fd = create_capture(Path(path))
    except OSError as error:
        raise CannotWrite(f"cannot write {path}: {error.strerror}") from error
    try:
        yield fd
    finally:
        os.close(fd)


def _copy(block: Block, fd: int, path: str) -> None:
    """Write a block as it was; one of a big-endian section stays big-endian."""
    try:
        write_all(fd, blocks.block(block.block_type, block.body, "little" if block.order == "<" else "big"))
    except BrokenPipeError:
        raise
    except OSError as error:
        name = "standard output" if path == "-" else path
        raise CannotWrite(f"cannot write {name}: {error.strerror}") from error
