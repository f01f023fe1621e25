"""The contents of a disk as far as a capture saw them: a sparse image of every block that was read or written.

Blocks that were recorded only in part are written as far as they go; record with ``--snap`` as large as the largest
request to get them whole.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from dataclasses import dataclass
from typing import BinaryIO

from dissectors.engine import Decoded
from dissectors.engine.commands import blocks_of
from dissectors.engine.dialects.storage import SRB_AT, Storage, cdb_of
from vmbus.wire.capture import RecordKind
from vmbus.wire.scsi import Opcode

MOVES_BLOCKS = frozenset(
    {
        Opcode.READ_6, Opcode.READ_10, Opcode.READ_12, Opcode.READ_16,
        Opcode.WRITE_6, Opcode.WRITE_10, Opcode.WRITE_12, Opcode.WRITE_16,
    }
)  # fmt: skip
_LUN_AT = SRB_AT + 7


@dataclass(slots=True)
class Exported:
    """What of a disk was in the capture."""

    requests: int = 0
    """Reads and writes with data."""
    size: int = 0
    """Bytes written to the image; blocks that were seen twice count twice."""
    cut: int = 0
    """Requests of which a part of the data was not recorded."""
    beyond: int = 0
    """Requests of blocks so far out that no file has a place for them: of a hostile guest, or in a damaged capture."""


def export_disk(
    items: Iterable[Decoded], target: BinaryIO, *, channel: int | None = None, lun: int = 0, block_size: int = 512
) -> Exported:
    """Write the blocks of one disk to their places.

    ``channel`` is any channel of its controller, whose other channels count too; None is the first controller.
    """
    instance = None
    found = Exported()
    for item in items:
        if item.kind != RecordKind.EXTERNAL or item.request is None or not isinstance(item.dialect, Storage):
            continue
        life = item.channel
        assert life is not None
        if instance is None and channel in (None, item.channel_id):
            instance = life.instance_id
        if life.instance_id != instance:
            continue
        cdb = cdb_of(item.request)
        place = blocks_of(cdb)
        if not cdb or cdb[0] not in MOVES_BLOCKS or place is None or _lun(item.request) != lun:
            continue
        data = bytes(item.data[item.body_at :])
        if not _reach(target, place[0] * block_size + item.data_offset):
            found.beyond += 1
            continue
        target.write(data)
        found.requests += 1
        found.size += len(data)
        found.cut += item.is_cut
    return found


def _reach(target: BinaryIO, place: int) -> bool:
    """Go to a place in a file, if there can be one."""
    try:
        target.seek(place)
    except OverflowError:
        return False
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return False
    return True


def _lun(request: Decoded) -> int:
    at = request.payload_at + _LUN_AT
    return int(request.data[at]) if len(request.data) > at else 0
