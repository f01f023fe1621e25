"""SCSI commands as people name them, and the format of the data that a command moves."""

from __future__ import annotations

from vmbus.wire.schema import Format
from vmbus.wire.scsi import parameter_format, response_format
from vmbus.wire.scsi.opcodes import Opcode, ServiceActionIn

_SERVICE_ACTION_IN = int(Opcode.SERVICE_ACTION_IN_16)
_LONG_LBA = frozenset({0x88, 0x89, 0x8A, 0x8E, 0x8F, 0x90, 0x91, 0x93, 0x9C})
_SHORT_LBA = frozenset({0x28, 0x2A, 0x2E, 0x2F, 0x34, 0x35, 0x41, 0xA8, 0xAA, 0xAE, 0xAF})


def command_name(cdb: bytes) -> str:
    """``READ_10 lba 2048 +8``: what a command is and which blocks it is about."""
    if not cdb:
        return "no command"
    code = cdb[0]
    if code == _SERVICE_ACTION_IN and len(cdb) > 1:
        return str(ServiceActionIn(cdb[1] & 0x1F))
    name = str(Opcode(code))
    blocks = blocks_of(cdb)
    return name if blocks is None else f"{name} lba {blocks[0]} +{blocks[1]}"


def blocks_of(cdb: bytes) -> tuple[int, int] | None:
    """The first block and the number of blocks of a command that names some."""
    code = cdb[0] if cdb else 0
    if code in _SHORT_LBA and len(cdb) >= 10:
        start = int.from_bytes(cdb[2:6], "big")
        return start, int.from_bytes(cdb[6:10] if code >= 0xA0 else cdb[7:9], "big")
    if code in _LONG_LBA and len(cdb) >= 16:
        return int.from_bytes(cdb[2:10], "big"), int.from_bytes(cdb[10:14], "big")
    if code in (Opcode.READ_6, Opcode.WRITE_6) and len(cdb) >= 6:
        return int.from_bytes(cdb[1:4], "big") & 0x1FFFFF, cdb[4] or 256
    return None


def data_format(cdb: bytes, *, to_guest: bool) -> type[Format] | None:
    """The format of the data that a command returns or sends; None for blocks of the medium."""
    return response_format(cdb) if to_guest else parameter_format(cdb)
