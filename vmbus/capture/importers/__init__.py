"""Other people's evidence as captures: kernel traces, a snapshot of sysfs, memory images.

Each importer yields packet blocks as ``vmbus.capture.encode`` makes them (the channel id in the interface field), and
:func:`write_capture` makes a capture of them. What the evidence does not say stays 0, or is cut off with the original
length kept; a comment on each record says where it comes from.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from vmbus.capture import blocks
from vmbus.capture.assembly import Assembler
from vmbus.capture.outputs import create_capture, write_all
from vmbus.errors import VmbusError
from vmbus.wire.capture import RecordHeader

__all__ = ["CannotImport", "imported", "write_capture"]


_LAST_TIME = 2**64 - 1


class CannotImport(VmbusError):
    """The evidence is not what it should be."""


def imported(time_ns: int, header: RecordHeader, body: bytes = b"", *, missing: int = 0, comment: str = "") -> bytes:
    """A packet block of one record; ``missing`` bytes of the body are known to have been there.

    A time that a capture cannot hold, before 1970 or after 2554, becomes the nearest that it can.
    """
    data = header.build() + body
    comments = [comment] if comment else []
    return blocks.enhanced_packet(
        header.channel_id, max(0, min(time_ns, _LAST_TIME)), data, len(data) + missing, int(header.direction), comments
    )  # fmt: skip


def write_capture(path: Path, records: Iterable[bytes], comments: Iterable[str] = ()) -> int:
    """Write a capture of imported records, in their order, and return how many there were."""
    assembler = Assembler()
    count = 0
    fd = create_capture(path)
    try:
        write_all(fd, assembler.prologue(comments))
        for record in records:
            assembled = assembler.assemble(bytearray(record))
            write_all(fd, assembled.interfaces + assembled.packets)
            count += 1
        write_all(fd, assembler.epilogue(0))
    finally:
        os.close(fd)
    return count
