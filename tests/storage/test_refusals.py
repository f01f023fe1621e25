"""Every check of a command, with the command that fails it and the sense data that says so."""

from __future__ import annotations

import pytest

from vmbus.devices.storage.disk import ScsiDisk
from vmbus.devices.storage.dvd import ScsiDvd
from vmbus.devices.storage.faulty import Fault, FaultyBackend
from vmbus.devices.storage.identity import Identity
from vmbus.devices.storage.memory import MemoryBackend
from vmbus.testing.scsi import Initiator
from vmbus.wire.scsi.opcodes import Opcode
from vmbus.wire.scsi.sense import AdditionalSense, FixedSense, SenseKey
from vmbus.wire.vstor import ScsiStatus

FIELD = AdditionalSense.INVALID_FIELD_IN_CDB
PARAMETER = AdditionalSense.INVALID_FIELD_IN_PARAMETER_LIST
RANGE = AdditionalSense.LBA_OUT_OF_RANGE
LENGTH = AdditionalSense.PARAMETER_LIST_LENGTH_ERROR
SAVING = AdditionalSense.SAVING_PARAMETERS_NOT_SUPPORTED
OPCODE = AdditionalSense.INVALID_OPERATION_CODE


def cdb(opcode: Opcode, *fields: tuple[int, int, int]) -> bytes:
    """A command block of 16 bytes; each field is its offset, its size and its value."""
    block = bytearray(16)
    block[0] = opcode
    for offset, size, value in fields:
        block[offset : offset + size] = value.to_bytes(size, "big")
    return bytes(block)


def unmap_list(*ranges: tuple[int, int]) -> bytes:
    body = b"".join(lba.to_bytes(8, "big") + length.to_bytes(4, "big") + bytes(4) for lba, length in ranges)
    return (len(body) + 6).to_bytes(2, "big") + len(body).to_bytes(2, "big") + bytes(4) + body


CACHING = bytes((0x08, 18)) + bytes((0x04,)) + bytes(17)
RESERVE = cdb(Opcode.PERSISTENT_RESERVE_OUT, (5, 4, 24))

DISK = {
    "protection information": (cdb(Opcode.READ_10, (1, 1, 0x20), (7, 2, 1)), b"", 512, FIELD, 1),
    "relative address": (cdb(Opcode.READ_10, (1, 1, 0x01), (7, 2, 1)), b"", 512, FIELD, 1),
    "write in the wrong direction": (cdb(Opcode.WRITE_10, (7, 2, 1)), b"", 512, FIELD, None),
    "inquiry with command support": (cdb(Opcode.INQUIRY, (1, 1, 2), (3, 2, 96)), b"", 96, FIELD, 1),
    "inquiry page without VPD": (cdb(Opcode.INQUIRY, (2, 1, 0x83), (3, 2, 96)), b"", 96, FIELD, 2),
    "saved mode pages": (cdb(Opcode.MODE_SENSE_6, (2, 1, 0xFF), (4, 1, 99)), b"", 99, SAVING, None),
    "mode subpage": (cdb(Opcode.MODE_SENSE_6, (2, 1, 8), (3, 1, 1), (4, 1, 99)), b"", 99, FIELD, 3),
    "mode page that is not there": (cdb(Opcode.MODE_SENSE_6, (2, 1, 3), (4, 1, 99)), b"", 99, FIELD, 2),
    "mode select that saves": (cdb(Opcode.MODE_SELECT_6, (1, 1, 0x11), (4, 1, 4)), bytes(4), 0, FIELD, 1),
    "mode select of vendor pages": (cdb(Opcode.MODE_SELECT_6, (4, 1, 4)), bytes(4), 0, FIELD, 1),
    "mode select with too little data": (cdb(Opcode.MODE_SELECT_6, (1, 1, 0x10), (4, 1, 9)), bytes(4), 0, LENGTH, None),
    "mode select of half a header": (cdb(Opcode.MODE_SELECT_6, (1, 1, 0x10), (4, 1, 3)), bytes(3), 0, LENGTH, None),
    "mode select whose descriptors are missing": (
        cdb(Opcode.MODE_SELECT_6, (1, 1, 0x10), (4, 1, 4)), bytes((0, 0, 0, 8)), 0, LENGTH, None,
    ),
    "mode select of half a page": (
        cdb(Opcode.MODE_SELECT_6, (1, 1, 0x10), (4, 1, 8)), bytes(4) + CACHING[:4], 0, LENGTH, None,
    ),
    "mode select of a page with another length": (
        cdb(Opcode.MODE_SELECT_6, (1, 1, 0x10), (4, 1, 9)), bytes(4) + bytes((8, 3, 4, 0, 0)), 0, PARAMETER, 4,
    ),
    "mode select of a subpage": (
        cdb(Opcode.MODE_SELECT_6, (1, 1, 0x10), (4, 1, 9)), bytes(4) + bytes((0x48, 3, 0, 0, 0)), 0, PARAMETER, 4,
    ),
    "self-test": (cdb(Opcode.SEND_DIAGNOSTIC, (1, 1, 0x40)), b"", 0, FIELD, 1),
    "another maintenance action": (cdb(Opcode.MAINTENANCE_IN, (1, 1, 0x0A), (6, 4, 99)), b"", 99, FIELD, 1),
    "another reporting option": (cdb(Opcode.MAINTENANCE_IN, (1, 1, 0x0C), (2, 1, 7), (6, 4, 99)), b"", 99, FIELD, 2),
    "reserve of an extent": (cdb(Opcode.RESERVE_6, (1, 1, 1)), b"", 0, FIELD, 1),
    "another reserve-in action": (cdb(Opcode.PERSISTENT_RESERVE_IN, (1, 1, 9), (7, 2, 99)), b"", 99, FIELD, 1),
    "reserve-out list of another length": (cdb(Opcode.PERSISTENT_RESERVE_OUT, (5, 4, 20)), bytes(20), 0, LENGTH, None),
    "reserve-out list that is missing": (RESERVE, bytes(20), 0, LENGTH, None),
    "reserve-out of an element": (RESERVE[:2] + b"\x23" + RESERVE[3:], bytes(24), 0, FIELD, 2),
    "reserve-out for other initiators": (RESERVE, bytes(20) + b"\x08\0\0\0", 0, PARAMETER, 20),
    "verify with an unknown byte check": (cdb(Opcode.VERIFY_10, (1, 1, 4), (7, 2, 1)), b"", 0, FIELD, 1),
    "verify without the data": (cdb(Opcode.VERIFY_10, (1, 1, 2), (7, 2, 2)), bytes(512), 0, FIELD, 1),
    "verify beyond the end": (cdb(Opcode.VERIFY_16, (2, 8, 2047), (10, 4, 2)), b"", 0, RANGE, None),
    "compare and write of too much": (cdb(Opcode.COMPARE_AND_WRITE, (13, 1, 9)), bytes(9216), 0, FIELD, 13),
    "compare and write with half the data": (cdb(Opcode.COMPARE_AND_WRITE, (13, 1, 1)), bytes(512), 0, FIELD, None),
    "prefetch beyond the end": (cdb(Opcode.PRE_FETCH_10, (2, 4, 2048), (7, 2, 1)), b"", 0, RANGE, None),
    "seek beyond the end": (cdb(Opcode.SEEK_10, (2, 4, 2048)), b"", 0, RANGE, None),
    "eject": (cdb(Opcode.START_STOP_UNIT, (4, 1, 2)), b"", 0, FIELD, 4),
    "capacity of another block": (cdb(Opcode.READ_CAPACITY_10, (2, 4, 1)), b"", 8, FIELD, 2),
    "capacity 16 of another block": (
        cdb(Opcode.SERVICE_ACTION_IN_16, (1, 1, 0x10), (2, 8, 1), (10, 4, 32)), b"", 32, FIELD, 2,
    ),
    "status of a block beyond the end": (
        cdb(Opcode.SERVICE_ACTION_IN_16, (1, 1, 0x12), (2, 8, 2048), (10, 4, 99)), b"", 99, RANGE, None,
    ),
    "another service action": (cdb(Opcode.SERVICE_ACTION_IN_16, (1, 1, 0x17), (10, 4, 99)), b"", 99, FIELD, 1),
    "anchored unmap": (cdb(Opcode.UNMAP, (1, 1, 1), (7, 2, 24)), unmap_list((0, 1)), 0, FIELD, 1),
    "unmap of half a header": (cdb(Opcode.UNMAP, (7, 2, 4)), bytes(4), 0, LENGTH, None),
    "unmap with too little data": (cdb(Opcode.UNMAP, (7, 2, 40)), unmap_list((0, 1)), 0, LENGTH, None),
    "unmap of too many ranges": (
        cdb(Opcode.UNMAP, (7, 2, 8 + 16 * 257)), unmap_list(*[(0, 1)] * 257), 0, PARAMETER, 2,
    ),
    "write same, anchored": (cdb(Opcode.WRITE_SAME_16, (1, 1, 0x10), (10, 4, 1)), bytes(512), 0, FIELD, 1),
    "write same (10) without data": (cdb(Opcode.WRITE_SAME_10, (1, 1, 1), (7, 2, 1)), b"", 0, FIELD, 1),
    "write same with half a block": (cdb(Opcode.WRITE_SAME_16, (10, 4, 1)), bytes(256), 0, FIELD, None),
    "write same beyond the end": (cdb(Opcode.WRITE_SAME_16, (2, 8, 2048), (10, 4, 1)), bytes(512), 0, RANGE, None),
    "an ATA command": (cdb(Opcode.ATA_PASS_THROUGH_16), b"", 512, OPCODE, None),
}  # fmt: skip

DVD = {
    "another track": (cdb(Opcode.READ_TOC, (6, 1, 2), (7, 2, 99)), b"", 99, FIELD, 6),
    "another format of contents": (cdb(Opcode.READ_TOC, (2, 1, 5), (7, 2, 99)), b"", 99, FIELD, 2),
    "another request type": (cdb(Opcode.GET_CONFIGURATION, (1, 1, 3), (7, 2, 99)), b"", 99, FIELD, 1),
    "events without polling": (cdb(Opcode.GET_EVENT_STATUS, (4, 1, 16), (7, 2, 8)), b"", 8, FIELD, 1),
    "a persistent lock": (cdb(Opcode.PREVENT_ALLOW, (4, 1, 3)), b"", 0, FIELD, 4),
    "another kind of disc information": (cdb(Opcode.READ_DISC_INFORMATION, (1, 1, 1), (7, 2, 99)), b"", 99, FIELD, 1),
    "another track's information": (
        cdb(Opcode.READ_TRACK_INFORMATION, (1, 1, 1), (2, 4, 7), (7, 2, 99)), b"", 99, FIELD, 2,
    ),
    "information of a block beyond the end": (
        cdb(Opcode.READ_TRACK_INFORMATION, (2, 4, 999), (7, 2, 99)), b"", 99, RANGE, None,
    ),
    "another layer": (cdb(Opcode.READ_DVD_STRUCTURE, (6, 1, 1), (8, 2, 99)), b"", 99, FIELD, 6),
    "another structure": (cdb(Opcode.READ_DVD_STRUCTURE, (7, 1, 9), (8, 2, 99)), b"", 99, FIELD, 7),
    "another kind of performance": (cdb(Opcode.GET_PERFORMANCE, (10, 1, 3)), b"", 99, FIELD, 10),
    "seek beyond the end": (cdb(Opcode.SEEK_10, (2, 4, 512)), b"", 0, RANGE, None),
    "a write": (cdb(Opcode.WRITE_10, (7, 2, 1)), bytes(2048), 0, OPCODE, None),
}  # fmt: skip

Refusal = tuple[bytes, bytes, int, AdditionalSense, int | None]


def check(tester: Initiator, refusal: Refusal) -> None:
    block, data, length, additional, field = refusal
    outcome = tester.run(block, data=data, length=length)
    assert outcome.sense == (SenseKey.ILLEGAL_REQUEST, additional)
    sense = FixedSense.parse(outcome.result.sense)
    assert (sense.field_pointer if sense.key_specific_valid else None) == field
    assert outcome.result.transferred == 0


@pytest.mark.parametrize("refusal", DISK.values(), ids=DISK.keys())
def test_a_disk_refuses(tester: Initiator, refusal: Refusal) -> None:
    check(tester, refusal)


@pytest.mark.parametrize("refusal", DVD.values(), ids=DVD.keys())
def test_a_drive_refuses(refusal: Refusal) -> None:
    check(Initiator(ScsiDvd(MemoryBackend(1 << 20), Identity.of("dvd"))), refusal)


NO_DISCARD = {
    "unmap": (cdb(Opcode.UNMAP, (7, 2, 24)), unmap_list((0, 1)), 0, OPCODE, None),
    "write same that discards": (cdb(Opcode.WRITE_SAME_16, (1, 1, 8), (10, 4, 1)), bytes(512), 0, FIELD, 1),
}


@pytest.mark.parametrize("refusal", NO_DISCARD.values(), ids=NO_DISCARD.keys())
def test_a_disk_that_cannot_discard_refuses(refusal: Refusal) -> None:
    backend = MemoryBackend(1 << 20)
    backend.can_discard = False
    check(Initiator(ScsiDisk(backend, Identity.of("plain"))), refusal)


@pytest.mark.parametrize(
    "block",
    [
        cdb(Opcode.FORMAT_UNIT),
        cdb(Opcode.PREVENT_ALLOW, (4, 1, 1)),
        cdb(Opcode.START_STOP_UNIT, (4, 1, 1)),
        cdb(Opcode.START_STOP_UNIT),
        cdb(Opcode.SEND_DIAGNOSTIC, (1, 1, 4)),
        cdb(Opcode.SEEK_6, (1, 3, 2047)),
        cdb(Opcode.UNMAP),
        cdb(Opcode.COMPARE_AND_WRITE),
        cdb(Opcode.MODE_SELECT_10, (1, 1, 0x10)),
        cdb(Opcode.VERIFY_16),
        cdb(Opcode.VERIFY_12, (6, 4, 2048)),
    ],
)
def test_a_disk_accepts(tester: Initiator, block: bytes) -> None:
    assert tester.run(block).status == ScsiStatus.GOOD


@pytest.mark.parametrize("byte_check", [1, 3])
def test_verify_finds_an_error_of_the_medium(byte_check: int) -> None:
    backend = FaultyBackend(MemoryBackend(1 << 20), Fault(error=5, operations=frozenset({"read"})))
    tester = Initiator(ScsiDisk(backend, Identity.of("bad")))
    outcome = tester.run(cdb(Opcode.VERIFY_10, (1, 1, byte_check << 1), (7, 2, 1)), data=bytes(512))
    assert outcome.sense == (SenseKey.MEDIUM_ERROR, AdditionalSense.UNRECOVERED_READ_ERROR)


def test_verify_against_one_block_compares_every_block_with_it(tester: Initiator) -> None:
    block = cdb(Opcode.VERIFY_10, (1, 1, 6), (7, 2, 8))
    assert tester.run(block, data=bytes(512)).status == ScsiStatus.GOOD
    tester.run(cdb(Opcode.WRITE_10, (2, 4, 5), (7, 2, 1)), data=b"\1" * 512)
    assert tester.run(block, data=bytes(512)).sense[0] == SenseKey.MISCOMPARE


def test_compare_and_write_on_a_slow_backend_is_done_by_a_worker() -> None:
    tester = Initiator(ScsiDisk(FaultyBackend(MemoryBackend(1 << 20)), Identity.of("slow")))
    block = cdb(Opcode.COMPARE_AND_WRITE, (13, 1, 1))
    assert tester.run(block, data=bytes(512) + b"n" * 512).result.transferred == 1024
    assert tester.run(block, data=bytes(1024)).sense[0] == SenseKey.MISCOMPARE


def test_mode_select_skips_block_descriptors(disk: ScsiDisk, tester: Initiator) -> None:
    data = bytes((0, 0, 0, 8)) + bytes(8) + bytes((0x08, 18)) + bytes(18)
    assert tester.run(cdb(Opcode.MODE_SELECT_6, (1, 1, 0x10), (4, 1, len(data))), data=data).status == ScsiStatus.GOOD
    assert not disk.write_cache
