"""SCSI commands that discard blocks or write one block over many: UNMAP and WRITE SAME.

A discard reaches the backend as holes; a WRITE SAME of zeros is one too where discarded blocks read as zeros.

Sources: T10's SBC-3 5.28, 5.45; openvmm ``scsidisk/src/unmap.rs``; Linux 6.12 ``drivers/scsi/sd.c``
(``sd_setup_unmap_cmnd``, ``sd_setup_write_same16_cmnd``).
"""

from __future__ import annotations

from collections.abc import Mapping

from vmbus.devices.storage.backend import Backend
from vmbus.devices.storage.block_commands import span
from vmbus.devices.storage.media import MediaUnit
from vmbus.devices.storage.result import (
    Result,
    backend_failure,
    illegal_request,
    invalid_field,
    invalid_parameter,
)  # fmt: skip
from vmbus.devices.storage.task import Task
from vmbus.wire.scsi.block import UnmapDescriptor, UnmapList
from vmbus.wire.scsi.opcodes import Opcode
from vmbus.wire.scsi.sense import AdditionalSense

MAX_UNMAP_DESCRIPTORS = 256
MAX_WRITE_SAME = 1 << 30
"""Bytes of one WRITE SAME."""

_UNMAP = 0x08
_ANCHOR = 0x10
_NO_DATA = 0x01


def unmap(unit: MediaUnit, task: Task) -> Result | None:
    """UNMAP: every range is checked before the first one is discarded."""
    backend = unit.check_writable()
    if not backend.can_discard:
        raise illegal_request(AdditionalSense.INVALID_OPERATION_CODE)
    if task.cdb[1] & 1:
        raise invalid_field(1)
    length = int.from_bytes(task.cdb[7:9], "big")
    if not length:
        return Result()
    if length < UnmapList.SIZE:
        raise illegal_request(AdditionalSense.PARAMETER_LIST_LENGTH_ERROR)
    data = task.take(length)
    if len(data) < length:
        raise illegal_request(AdditionalSense.PARAMETER_LIST_LENGTH_ERROR)
    described = min(int.from_bytes(data[2:4], "big"), length - UnmapList.SIZE) // UnmapDescriptor.SIZE
    if described > MAX_UNMAP_DESCRIPTORS:
        raise invalid_parameter(2)
    ranges: list[tuple[int, int]] = []
    for index in range(described):
        one = UnmapDescriptor.parse(data, UnmapList.SIZE + index * UnmapDescriptor.SIZE)
        if one.lba + one.length > unit.blocks:
            raise illegal_request(AdditionalSense.LBA_OUT_OF_RANGE, information=one.lba)
        if one.length:
            ranges.append((one.lba << unit.shift, one.length << unit.shift))

    def work() -> None:
        for offset, size in ranges:
            _on_medium(backend.discard, offset, size, offset >> unit.shift)

    return unit.run(task, work, lambda _: Result(transferred=length))


def write_same(unit: MediaUnit, task: Task) -> Result | None:
    """WRITE SAME (10), (16): one block of data, no less and no more, unless the command says that there is none.

    A length of 0 would mean up to the end; the block limits page says that it is refused.
    """
    backend = unit.check_writable()
    cdb = task.cdb
    wide = cdb[0] == Opcode.WRITE_SAME_16
    flags = cdb[1]
    if flags & 0xE0 or flags & _ANCHOR or flags & 0x06 or (flags & _NO_DATA and not wide):
        raise invalid_field(1)
    if flags & _UNMAP and not backend.can_discard:
        raise invalid_field(1)
    lba, blocks = span(cdb)
    if not blocks:
        raise invalid_field(10 if wide else 7)
    unit.check_range(lba, blocks, largest=MAX_WRITE_SAME)
    sent = 0 if flags & _NO_DATA else unit.block_size
    if task.length != sent or len(block := task.take(sent)) != sent:
        raise illegal_request(AdditionalSense.INVALID_FIELD_IN_CDB)
    offset, size = lba << unit.shift, blocks << unit.shift
    zeros = not any(block)

    def work() -> None:
        if zeros and flags & _UNMAP and backend.discarded_reads_zero:
            _on_medium(backend.discard, offset, size, lba)
        elif zeros:
            _on_medium(backend.write_zeroes, offset, size, lba)
        else:
            _fill(backend, block, offset, size, lba)

    return unit.run(task, work, lambda _: Result(transferred=sent))


def _fill(backend: Backend, block: bytes, offset: int, size: int, lba: int) -> None:
    pattern = memoryview(block * max(1, min(size, 1 << 20) // len(block)))
    end = offset + size
    while offset < end:
        piece = pattern[: end - offset]
        _on_medium(lambda at, _, piece=piece: backend.write_from([piece], at), offset, len(piece), lba)
        offset += len(piece)


def _on_medium(change: object, offset: int, size: int, lba: int) -> None:
    """Do ``change(offset, size)``; an error of the backend becomes sense data that names the block."""
    assert callable(change)
    try:
        change(offset, size)
    except OSError as error:
        raise backend_failure(error, writing=True, lba=lba) from error


COMMANDS: Mapping[int, object] = {
    Opcode.UNMAP: unmap,
    Opcode.WRITE_SAME_10: write_same,
    Opcode.WRITE_SAME_16: write_same,
}
