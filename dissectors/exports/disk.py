"""The contents of a disk as far as a capture saw them: a sparse image of every block that was read or written.

Blocks that were recorded only in part are written as far as they go; record with ``--snap`` as large as the largest
request to get them whole.
"""

from __future__ import annotations

from collections.abc import Iterable
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
_EXTERNAL_OFFSET_AT = 28


def export_disk(
    items: Iterable[Decoded], target: BinaryIO, *, channel: int | None = None, lun: int = 0, block_size: int = 512
) -> int:
    """Write the blocks of one disk to their places; returns how many bytes.

    Of ``channel`` None, the first storage channel and its subchannels are meant.
    """
    instance = None
    written = 0
    for item in items:
        if item.kind != RecordKind.EXTERNAL or item.request is None or not isinstance(item.dialect, Storage):
            continue
        life = item.channel
        assert life is not None
        instance = instance or life.instance_id
        if (channel is None and life.instance_id != instance) or (channel is not None and item.channel_id != channel):
            continue
        cdb = cdb_of(item.request)
        place = blocks_of(cdb)
        if not cdb or cdb[0] not in MOVES_BLOCKS or place is None or _lun(item.request) != lun:
            continue
        offset = int.from_bytes(item.data[_EXTERNAL_OFFSET_AT : _EXTERNAL_OFFSET_AT + 4], "little")
        data = bytes(item.data[item.body_at :])
        target.seek(place[0] * block_size + offset)
        target.write(data)
        written += len(data)
    return written


def _lun(request: Decoded) -> int:
    at = request.payload_at + _LUN_AT
    return int(request.data[at]) if len(request.data) > at else 0
