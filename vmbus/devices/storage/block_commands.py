"""SCSI commands that move, check and flush the blocks of a disk, or say how many there are.

Sources: T10's SBC-3; openvmm ``scsidisk/src/lib.rs`` (``handle_data_cdb``, ``handle_read_capacity``); Linux 6.12
``drivers/scsi/sd.c`` for what it asks.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

from vmbus.devices.storage.disk_unit import DiskUnit
from vmbus.devices.storage.media import MediaUnit
from vmbus.devices.storage.result import (
    GOOD,
    CheckCondition,
    Result,
    backend_failure,
    illegal_request,
    invalid_field,
)  # fmt: skip
from vmbus.devices.storage.task import Task
from vmbus.wire.scsi.capacity import (
    Capacity10,
    Capacity16,
    LbaStatus,
    LbaStatusList,
    ProvisioningStatus,
    ServiceActionIn16,
)
from vmbus.wire.scsi.opcodes import Opcode, ServiceActionIn
from vmbus.wire.scsi.primary import StartStopUnit
from vmbus.wire.scsi.sense import AdditionalSense, SenseKey

_FUA = 0x08
_RELATIVE = 0x01
_PROTECT = 0xE0

_LBA_LENGTH_10 = struct.Struct(">IxH")
_LBA_LENGTH_12 = struct.Struct(">II")
_LBA_LENGTH_16 = struct.Struct(">QI")


def span(cdb: bytes) -> tuple[int, int]:
    """First block and number of blocks of any block command, by its group code."""
    match cdb[0] >> 5:
        case 0:
            return int.from_bytes(cdb[1:4], "big") & 0x1F_FFFF, cdb[4] or 256
        case 1 | 2:
            return _LBA_LENGTH_10.unpack_from(cdb, 2)
        case 5:
            return _LBA_LENGTH_12.unpack_from(cdb, 2)
        case _:
            return _LBA_LENGTH_16.unpack_from(cdb, 2)


def _check_flags(cdb: bytes) -> None:
    """No protection information and no relative addresses; the six-byte commands have neither."""
    if cdb[0] >= 0x20 and cdb[1] & (_PROTECT | (_RELATIVE if cdb[0] < 0x80 or cdb[0] >= 0xA0 else 0)):
        raise invalid_field(1)


def read(unit: MediaUnit, task: Task) -> Result | None:
    """READ (6), (10), (12), (16)."""
    _check_flags(task.cdb)
    return unit.read(task, *span(task.cdb))


def write(unit: DiskUnit, task: Task) -> Result | None:
    """WRITE (6), (10), (12), (16); with FUA, or with the write cache off, it waits for the medium."""
    cdb = task.cdb
    _check_flags(cdb)
    durable = not unit.write_cache or (cdb[0] >= 0x20 and bool(cdb[1] & _FUA))
    return unit.write(task, *span(cdb), durable=durable)


def write_and_verify(unit: DiskUnit, task: Task) -> Result | None:
    """WRITE AND VERIFY (10), (12), (16): written durably; the host's own storage verifies."""
    _check_flags(task.cdb)
    return unit.write(task, *span(task.cdb), durable=True)


def first_difference(one: bytes, other: bytes) -> int:
    """The first byte in which two byte strings of one length differ; -1 if none does."""
    if one == other:
        return -1
    low, high = 0, len(one)
    while high - low > 1:
        middle = (low + high) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle
    return low


def miscompare(position: int) -> CheckCondition:
    """The medium and the guest's data differ, first at that byte."""
    return CheckCondition(SenseKey.MISCOMPARE, AdditionalSense.MISCOMPARE_DURING_VERIFY, information=position)


def verify(unit: DiskUnit, task: Task) -> Result | None:
    """VERIFY (10), (12), (16): read the blocks, and compare them with the guest's data when asked to."""
    backend = unit.check_ready()
    cdb = task.cdb
    _check_flags(cdb)
    lba, blocks = span(cdb)
    byte_check = cdb[1] >> 1 & 3
    if byte_check == 2:
        raise invalid_field(1)
    # Without data to compare there is no transfer, and so no limit on it.
    unit.check_range(lba, blocks, **({} if byte_check else {"largest": unit.blocks << unit.shift}))
    if not blocks:
        return GOOD
    size = blocks << unit.shift
    sent = size if byte_check == 1 else unit.block_size if byte_check else 0
    expected = task.take(sent)
    if len(expected) < sent:
        raise invalid_field(1)
    if byte_check == 3:
        expected *= blocks
    step = 1 << 20

    def work() -> int:
        """The first byte that differs; -1 if none does."""
        buffer = bytearray(min(size, step))
        for position in range(0, size, step):
            view = memoryview(buffer)[: min(step, size - position)]
            try:
                backend.read_into([view], (lba << unit.shift) + position)
            except OSError as error:
                raise backend_failure(error, writing=False, lba=lba) from error
            piece = expected[position : position + len(view)]
            if piece and (difference := first_difference(bytes(view), piece)) >= 0:
                return position + difference
        return -1

    def done(difference: int) -> Result:
        if difference >= 0:
            raise miscompare(difference)
        return Result(transferred=sent)

    return unit.run(task, work, done, size=len(expected))


def compare_and_write(unit: DiskUnit, task: Task) -> Result | None:
    """COMPARE AND WRITE: one step among its kind, and among all writes where writes are done in the loop."""
    backend = unit.check_writable()
    _check_flags(task.cdb)
    lba, blocks = int.from_bytes(task.cdb[2:10], "big"), task.cdb[13]
    unit.check_range(lba, blocks)
    if blocks > unit.max_compare_blocks:
        raise invalid_field(13)
    if not blocks:
        return GOOD
    size = blocks << unit.shift
    data = task.take(2 * size)
    if len(data) < 2 * size:
        raise illegal_request(AdditionalSense.INVALID_FIELD_IN_CDB)
    offset = lba << unit.shift

    def work() -> int:
        found = bytearray(size)
        with unit.comparing:
            backend.read_into([memoryview(found)], offset)
            if (difference := first_difference(bytes(found), data[:size])) >= 0:
                return difference
            backend.write_from([memoryview(data)[size:]], offset)
        return -1

    def done(difference: int) -> Result:
        if difference >= 0:
            raise miscompare(difference)
        return Result(transferred=2 * size)

    if backend.quick_writes:
        return done(work())
    return unit.run(task, work, done, size=2 * size)


def synchronize_cache(unit: DiskUnit, task: Task) -> Result | None:
    """SYNCHRONIZE CACHE (10), (16): the whole cache, whatever range was asked for."""
    backend = unit.check_ready()
    lba, blocks = span(task.cdb)
    unit.check_range(lba, blocks, largest=unit.blocks << unit.shift)
    if backend.is_quick:
        backend.flush()
        return GOOD
    return unit.run(task, backend.flush, lambda _: GOOD)


def prefetch(unit: DiskUnit, task: Task) -> Result:
    """PRE-FETCH (10), (16): not met, as when the cache has no room: the host's page cache does what it wants."""
    unit.check_ready()
    unit.check_range(*span(task.cdb), largest=unit.blocks << unit.shift)
    return GOOD


def seek(unit: DiskUnit, task: Task) -> Result:
    """SEEK (6), (10): nothing to move."""
    unit.check_ready()
    cdb = task.cdb
    lba = span(cdb)[0] if cdb[0] == Opcode.SEEK_6 else int.from_bytes(cdb[2:6], "big")
    unit.check_range(lba, 1)
    return GOOD


def start_stop(unit: DiskUnit, task: Task) -> Result | None:
    """START STOP UNIT: stopping flushes; a disk has nothing to load or eject."""
    command = StartStopUnit.parse(task.cdb)
    backend = unit.check_ready()
    if command.load_eject:
        raise invalid_field(4)
    if command.power_condition or command.start or command.no_flush:
        return GOOD
    return unit.run(task, backend.flush, lambda _: GOOD)


def read_capacity_10(unit: MediaUnit, task: Task) -> Result:
    unit.check_ready()
    if int.from_bytes(task.cdb[2:6], "big") and not task.cdb[8] & 1:
        raise invalid_field(2)
    last = min(unit.blocks - 1, 0xFFFFFFFF)
    return task.give(Capacity10(last_lba=last, block_size=unit.block_size).build(), Capacity10.SIZE)


def service_action_in_16(unit: DiskUnit, task: Task) -> Result | None:
    """READ CAPACITY (16) and GET LBA STATUS."""
    command = ServiceActionIn16.parse(task.cdb)
    backend = unit.check_ready()
    if command.service_action == ServiceActionIn.READ_CAPACITY_16:
        if command.lba and not command.partial:
            raise invalid_field(2)
        capacity = Capacity16(
            last_lba=unit.blocks - 1,
            block_size=unit.block_size,
            physical_block_exponent=unit.physical_exponent,
            provisioned=int(backend.can_discard),
            read_zeros=int(backend.can_discard and backend.discarded_reads_zero),
        )
        return task.give(capacity.build(), command.allocation_length)
    if command.service_action == ServiceActionIn.GET_LBA_STATUS:
        return _lba_status(unit, task, command)
    raise invalid_field(1)


def _lba_status(unit: DiskUnit, task: Task, command: ServiceActionIn16) -> Result | None:
    """Which blocks are there, from the first one asked for on, as far as the answer has room."""
    if command.lba >= unit.blocks:
        raise illegal_request(AdditionalSense.LBA_OUT_OF_RANGE)
    backend = unit.check_ready()
    room = min(max((min(command.allocation_length, task.length) - 8) // 16, 1), 64)
    start = command.lba << unit.shift

    def done(mapped: list[tuple[int, int]]) -> Result:
        pieces: list[LbaStatus] = []
        position = start
        for offset, length in [*mapped, (unit.blocks << unit.shift, 0)]:
            offset, end = offset & -unit.block_size, -(-(offset + length) & -unit.block_size)
            for stop, status in ((offset, ProvisioningStatus.DEALLOCATED), (end, ProvisioningStatus.MAPPED)):
                if stop > position and len(pieces) < room:
                    blocks = min((stop - position) >> unit.shift, 0xFFFFFFFF)
                    pieces.append(LbaStatus(lba=position >> unit.shift, length=blocks, status=status))
                    position = stop
        data = LbaStatusList(length=4 + 16 * len(pieces), descriptors=tuple(pieces))
        return task.give(data.build(), command.allocation_length)

    length = (unit.blocks << unit.shift) - start
    return unit.run(task, lambda: backend.mapped_ranges(start, length, room), done)


COMMANDS: Mapping[int, object] = {
    **dict.fromkeys((Opcode.READ_6, Opcode.READ_10, Opcode.READ_12, Opcode.READ_16), read),
    **dict.fromkeys((Opcode.WRITE_6, Opcode.WRITE_10, Opcode.WRITE_12, Opcode.WRITE_16), write),
    **dict.fromkeys(
        (Opcode.WRITE_AND_VERIFY_10, Opcode.WRITE_AND_VERIFY_12, Opcode.WRITE_AND_VERIFY_16), write_and_verify
    ),
    **dict.fromkeys((Opcode.VERIFY_10, Opcode.VERIFY_12, Opcode.VERIFY_16), verify),
    Opcode.COMPARE_AND_WRITE: compare_and_write,
    **dict.fromkeys((Opcode.SYNCHRONIZE_CACHE_10, Opcode.SYNCHRONIZE_CACHE_16), synchronize_cache),
    **dict.fromkeys((Opcode.PRE_FETCH_10, Opcode.PRE_FETCH_16), prefetch),
    **dict.fromkeys((Opcode.SEEK_6, Opcode.SEEK_10), seek),
    Opcode.START_STOP_UNIT: start_stop,
    Opcode.READ_CAPACITY_10: read_capacity_10,
    Opcode.SERVICE_ACTION_IN_16: service_action_in_16,
}
