"""What a SCSI disk answers to each command, and to each mistake."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from vmbus.devices.storage.disk import ScsiDisk
from vmbus.devices.storage.file import FileBackend
from vmbus.devices.storage.identity import Identity
from vmbus.devices.storage.memory import MemoryBackend
from vmbus.testing.scsi import Initiator
from vmbus.wire.scsi import response_format
from vmbus.wire.scsi.block import (
    Cache10,
    CompareAndWrite,
    Transfer6,
    Transfer10,
    Transfer12,
    Transfer16,
    Unmap,
    UnmapDescriptor,
    UnmapList,
    Verify10,
    WriteSame10,
    WriteSame16,
)  # fmt: skip
from vmbus.wire.scsi.capacity import Capacity10, Capacity16, LbaStatusList, ReadCapacity10, ServiceActionIn16
from vmbus.wire.scsi.inquiry import (
    VPD_FORMATS,
    BlockLimits,
    DeviceIdentification,
    Inquiry,
    LogicalBlockProvisioning,
    StandardInquiry,
    SupportedPages,
    VpdPage,
)  # fmt: skip
from vmbus.wire.scsi.mode import (
    LongCachingPage,
    ModeParameters6,
    ModeParameters10,
    ModeSelect6,
    ModeSense6,
    ModeSense10,
)
from vmbus.wire.scsi.opcodes import MaintenanceAction, Opcode, ServiceActionIn
from vmbus.wire.scsi.primary import MaintenanceIn, OneSupportedCommand, RequestSense, SupportedCommands, TestUnitReady
from vmbus.wire.scsi.sense import AdditionalSense, FixedSense, SenseKey
from vmbus.wire.vstor import ScsiStatus

ILLEGAL = SenseKey.ILLEGAL_REQUEST


@pytest.mark.parametrize(
    ("write", "read"),
    [
        (Transfer6(opcode=Opcode.WRITE_6, lba_low=5, length=2), Transfer6(opcode=Opcode.READ_6, lba_low=5, length=2)),
        (Transfer10(opcode=Opcode.WRITE_10, lba=5, length=2), Transfer10(opcode=Opcode.READ_10, lba=5, length=2)),
        (Transfer12(opcode=Opcode.WRITE_12, lba=5, length=2), Transfer12(opcode=Opcode.READ_12, lba=5, length=2)),
        (
            Transfer16(opcode=Opcode.WRITE_16, lba=5, length=2, fua=1),
            Transfer16(opcode=Opcode.READ_16, lba=5, length=2),
        ),
    ],
)
def test_blocks_written_with_any_command_length_are_read_back(
    tester: Initiator, write: Transfer10, read: Transfer10
) -> None:
    data = bytes(range(256)) * 4
    assert tester.run(write, data=data).result.transferred == 1024
    assert tester.run(read, length=1024).data == data


def test_a_six_byte_read_of_length_zero_means_256_blocks(tester: Initiator) -> None:
    outcome = tester.run(Transfer6(opcode=Opcode.READ_6, lba_low=0, length=0), length=256 * 512)
    assert outcome.result.transferred == 256 * 512


def test_a_ten_byte_read_of_length_zero_moves_nothing(tester: Initiator) -> None:
    assert tester.run(Transfer10(opcode=Opcode.READ_10, lba=0, length=0)).result.transferred == 0


@pytest.mark.parametrize("lba", [2047, 2048, 0xFFFFFFFF])
def test_blocks_beyond_the_end_are_out_of_range(tester: Initiator, lba: int) -> None:
    outcome = tester.run(Transfer10(opcode=Opcode.READ_10, lba=lba, length=2), length=1024)
    assert outcome.sense == (ILLEGAL, AdditionalSense.LBA_OUT_OF_RANGE)


def test_a_transfer_above_the_maximum_is_refused(tester: Initiator) -> None:
    disk = Initiator(ScsiDisk(MemoryBackend(8 << 20), Identity.of("big")))
    outcome = disk.run(Transfer10(opcode=Opcode.READ_10, lba=0, length=2049), length=2049 * 512)
    assert outcome.sense == (ILLEGAL, AdditionalSense.INVALID_FIELD_IN_CDB)


def test_a_buffer_smaller_than_the_transfer_is_refused(tester: Initiator) -> None:
    outcome = tester.run(Transfer10(opcode=Opcode.READ_10, lba=0, length=2), length=512)
    assert outcome.sense[0] == ILLEGAL


def test_an_unknown_command_is_an_invalid_operation_code(tester: Initiator) -> None:
    assert tester.run(b"\xc5").sense == (ILLEGAL, AdditionalSense.INVALID_OPERATION_CODE)


def test_standard_inquiry_says_msft_virtual_disk_of_spc_3(tester: Initiator) -> None:
    answer = tester.run(Inquiry(opcode=Opcode.INQUIRY, allocation_length=255), length=255).parse(StandardInquiry)
    assert (answer.vendor, answer.product, answer.version) == (b"Msft    ", b"Virtual Disk    ", 5)


def test_inquiry_is_cut_to_the_allocation_length(tester: Initiator) -> None:
    assert len(tester.run(Inquiry(opcode=Opcode.INQUIRY, allocation_length=36), length=36).data) == 36


def test_every_vpd_page_that_is_listed_is_there_and_decodes(tester: Initiator) -> None:
    def page(code: int) -> Inquiry:
        return Inquiry(opcode=Opcode.INQUIRY, vpd=1, page=VpdPage(code), allocation_length=255)

    listed = tester.run(page(0), length=255).parse(SupportedPages).pages
    assert {0x00, 0x80, 0x83, 0xB0, 0xB1, 0xB2} <= set(listed)
    for code in listed:
        data = tester.run(page(code), length=255).data
        assert VPD_FORMATS[code].parse(data).build() == data
        assert response_format(page(code).build()) is VPD_FORMATS[code]


def test_a_vpd_page_that_is_not_there_is_an_invalid_field(tester: Initiator) -> None:
    command = Inquiry(opcode=Opcode.INQUIRY, vpd=1, page=VpdPage.ATA_INFORMATION, allocation_length=255)
    assert tester.run(command, length=255).sense == (ILLEGAL, AdditionalSense.INVALID_FIELD_IN_CDB)


def test_a_disk_is_identified_by_the_name_it_was_given(disk: ScsiDisk) -> None:
    again = ScsiDisk(MemoryBackend(1 << 20), Identity.of("test"))
    command = Inquiry(opcode=Opcode.INQUIRY, vpd=1, page=VpdPage.DEVICE_IDENTIFICATION, allocation_length=255)
    first, second = (Initiator(one).run(command, length=255) for one in (disk, again))
    assert first.data == second.data
    names = first.parse(DeviceIdentification).names
    assert [name.designator_type for name in names] == [1, 3]
    assert names[1].designator[:4] == b"\x60\x02\x24\x80"


@pytest.mark.parametrize(("sector", "physical", "exponent"), [(512, 512, 0), (512, 4096, 3), (4096, 4096, 0)])
def test_capacity_says_sectors_and_physical_blocks(sector: int, physical: int, exponent: int) -> None:
    tester = Initiator(ScsiDisk(MemoryBackend(1 << 20), Identity.of("c"), sector=sector, physical=physical))
    small = tester.run(ReadCapacity10(opcode=Opcode.READ_CAPACITY_10), length=8).parse(Capacity10)
    assert (small.last_lba + 1) * small.block_size == 1 << 20
    command = ServiceActionIn16(
        opcode=Opcode.SERVICE_ACTION_IN_16, service_action=ServiceActionIn.READ_CAPACITY_16, allocation_length=32
    )
    large = tester.run(command, length=32).parse(Capacity16)
    assert (large.last_lba, large.block_size) == (small.last_lba, sector)
    assert (large.physical_block_exponent, large.provisioned, large.read_zeros) == (exponent, 1, 1)


def test_a_disk_too_large_for_ten_bytes_says_so_in_its_capacity(image: Callable[[int], FileBackend]) -> None:
    tester = Initiator(ScsiDisk(image(3 << 40), Identity.of("huge")))
    answer = tester.run(ReadCapacity10(opcode=Opcode.READ_CAPACITY_10), length=8).parse(Capacity10)
    assert answer.last_lba == 0xFFFFFFFF


def test_mode_sense_returns_every_page_in_both_lengths(tester: Initiator) -> None:
    six = tester.run(ModeSense6(opcode=Opcode.MODE_SENSE_6, page=0x3F, allocation_length=255), length=255)
    ten = tester.run(ModeSense10(opcode=Opcode.MODE_SENSE_10, page=0x3F, allocation_length=255), length=255)
    short, long = six.parse(ModeParameters6), ten.parse(ModeParameters10)
    assert short.pages == long.pages
    assert [page.code for page in short.pages] == [0x01, 0x08, 0x0A, 0x1C]
    assert (short.data_length, long.data_length) == (len(six.data) - 1, len(ten.data) - 2)
    assert short.fua == long.fua == 1


def test_the_write_cache_can_be_switched_off_and_the_guest_hears_of_it(disk: ScsiDisk, tester: Initiator) -> None:
    other = Initiator(disk, "other")
    page = bytes((0x08, 18)) + LongCachingPage(write_cache=0).build()
    data = bytes(4) + page
    select = ModeSelect6(opcode=Opcode.MODE_SELECT_6, list_length=len(data))
    assert tester.run(select, data=data).status == ScsiStatus.GOOD
    assert not disk.write_cache
    assert other.run(TestUnitReady(opcode=0)).sense == (
        SenseKey.UNIT_ATTENTION,
        AdditionalSense.MODE_PARAMETERS_CHANGED,
    )


def test_mode_select_of_a_bit_that_cannot_change_names_the_byte(tester: Initiator) -> None:
    data = bytes(4) + bytes((0x08, 18)) + LongCachingPage(write_cache=1, max_prefetch=7).build()
    outcome = tester.run(ModeSelect6(opcode=Opcode.MODE_SELECT_6, list_length=len(data)), data=data)
    assert outcome.sense == (ILLEGAL, AdditionalSense.INVALID_FIELD_IN_PARAMETER_LIST)
    assert FixedSense.parse(outcome.result.sense).field_pointer == 4 + 2 + 7


def test_write_same_fills_blocks_and_zeros_become_holes(image: Callable[[int], FileBackend]) -> None:
    backend = image(4 << 20)
    tester = Initiator(ScsiDisk(backend, Identity.of("ws")))
    tester.run(WriteSame16(opcode=Opcode.WRITE_SAME_16, lba=0, length=8192), data=b"\xaa" * 512)
    assert tester.run(Transfer10(opcode=Opcode.READ_10, lba=8190, length=2), length=1024).data == b"\xaa" * 1024
    full = backend.inspect()["allocated"]
    outcome = tester.run(WriteSame10(opcode=Opcode.WRITE_SAME_10, lba=0, length=4096, unmap=1), data=bytes(512))
    assert outcome.status == ScsiStatus.GOOD
    assert backend.inspect()["allocated"] == full // 2


@pytest.mark.parametrize("size", [256, 1024])
def test_write_same_takes_one_block_of_data(tester: Initiator, size: int) -> None:
    outcome = tester.run(WriteSame10(opcode=Opcode.WRITE_SAME_10, lba=0, length=9), data=bytes(size))
    assert outcome.sense == (ILLEGAL, AdditionalSense.INVALID_FIELD_IN_CDB)


def test_write_same_without_a_length_is_refused(tester: Initiator) -> None:
    outcome = tester.run(WriteSame16(opcode=Opcode.WRITE_SAME_16, lba=0, length=0, no_data=1))
    assert outcome.sense == (ILLEGAL, AdditionalSense.INVALID_FIELD_IN_CDB)


def unmap(*ranges: tuple[int, int]) -> tuple[Unmap, bytes]:
    listed = tuple(UnmapDescriptor(lba=lba, length=length) for lba, length in ranges)
    data = UnmapList(data_length=6 + 16 * len(listed), descriptors_length=16 * len(listed), descriptors=listed).build()
    return Unmap(opcode=Opcode.UNMAP, list_length=len(data)), data


def test_unmap_makes_holes_that_read_as_zeros(image: Callable[[int], FileBackend]) -> None:
    backend = image(1 << 20)
    tester = Initiator(ScsiDisk(backend, Identity.of("u")))
    tester.run(WriteSame16(opcode=Opcode.WRITE_SAME_16, lba=0, length=2048), data=b"\xaa" * 512)
    command, data = unmap((0, 1024), (1536, 512))
    assert tester.run(command, data=data).status == ScsiStatus.GOOD
    assert backend.inspect()["allocated"] == 256 << 10
    assert (
        tester.run(Transfer10(opcode=Opcode.READ_10, lba=1023, length=2), length=1024).data
        == bytes(512) + b"\xaa" * 512
    )


def test_unmap_checks_every_range_before_it_discards_any(tester: Initiator) -> None:
    tester.run(Transfer10(opcode=Opcode.WRITE_10, lba=0, length=1), data=b"\xaa" * 512)
    command, data = unmap((0, 1), (2047, 2))
    assert tester.run(command, data=data).sense == (ILLEGAL, AdditionalSense.LBA_OUT_OF_RANGE)
    assert tester.run(Transfer10(opcode=Opcode.READ_10, lba=0, length=1), length=512).data == b"\xaa" * 512


def test_lba_status_tells_data_from_holes(image: Callable[[int], FileBackend]) -> None:
    tester = Initiator(ScsiDisk(image(1 << 20), Identity.of("l")))
    tester.run(Transfer10(opcode=Opcode.WRITE_10, lba=256, length=256), data=b"\xaa" * 131072)
    command = ServiceActionIn16(
        opcode=Opcode.SERVICE_ACTION_IN_16, service_action=ServiceActionIn.GET_LBA_STATUS, allocation_length=512
    )
    pieces = tester.run(command, length=512).parse(LbaStatusList).descriptors
    assert [(piece.lba, piece.length, int(piece.status)) for piece in pieces] == [
        (0, 256, 1),
        (256, 256, 0),
        (512, 1536, 1),
    ]


def test_verify_compares_with_the_guests_data(tester: Initiator) -> None:
    tester.run(Transfer10(opcode=Opcode.WRITE_10, lba=3, length=1), data=b"\x11" * 512)
    command = Verify10(opcode=Opcode.VERIFY_10, lba=3, length=1, byte_check=1)
    assert tester.run(command, data=b"\x11" * 512).status == ScsiStatus.GOOD
    outcome = tester.run(command, data=b"\x11" * 100 + b"\x12" + b"\x11" * 411)
    assert outcome.sense == (SenseKey.MISCOMPARE, AdditionalSense.MISCOMPARE_DURING_VERIFY)
    assert FixedSense.parse(outcome.result.sense).information == 100


def test_compare_and_write_writes_only_where_the_old_data_is_as_expected(tester: Initiator) -> None:
    command = CompareAndWrite(opcode=Opcode.COMPARE_AND_WRITE, lba=9, length=1)
    assert tester.run(command, data=bytes(512) + b"n" * 512).status == ScsiStatus.GOOD
    assert tester.run(command, data=bytes(512) + b"m" * 512).sense[0] == SenseKey.MISCOMPARE
    assert tester.run(Transfer10(opcode=Opcode.READ_10, lba=9, length=1), length=512).data == b"n" * 512


def test_a_read_only_disk_says_so_and_refuses_writes() -> None:
    backend = MemoryBackend(1 << 20)
    backend.read_only = True
    tester = Initiator(ScsiDisk(backend, Identity.of("ro")))
    answer = tester.run(ModeSense6(opcode=Opcode.MODE_SENSE_6, page=0x3F, allocation_length=192), length=192)
    assert answer.parse(ModeParameters6).write_protected
    outcome = tester.run(Transfer10(opcode=Opcode.WRITE_10, lba=0, length=1), data=bytes(512))
    assert outcome.sense == (SenseKey.DATA_PROTECT, AdditionalSense.WRITE_PROTECTED)


def test_a_resize_is_a_unit_attention_once_and_then_a_new_capacity(disk: ScsiDisk, tester: Initiator) -> None:
    told: list[str] = []
    disk.on_change = lambda: told.append("look again")
    assert isinstance(disk.backend, MemoryBackend)
    disk.backend.resize(2 << 20)
    assert told == ["look again"]
    assert tester.run(TestUnitReady(opcode=0)).sense == (SenseKey.UNIT_ATTENTION, AdditionalSense.CAPACITY_DATA_CHANGED)
    assert tester.run(TestUnitReady(opcode=0)).status == ScsiStatus.GOOD
    answer = tester.run(ReadCapacity10(opcode=Opcode.READ_CAPACITY_10), length=8).parse(Capacity10)
    assert answer.last_lba == 4095


def test_request_sense_takes_the_unit_attention_away(disk: ScsiDisk, tester: Initiator) -> None:
    disk.attend(AdditionalSense.DEVICE_RESET_OCCURRED)
    answer = tester.run(RequestSense(opcode=Opcode.REQUEST_SENSE, allocation_length=252), length=252).parse(FixedSense)
    assert (answer.key, answer.additional) == (SenseKey.UNIT_ATTENTION, AdditionalSense.DEVICE_RESET_OCCURRED)
    assert tester.run(TestUnitReady(opcode=0)).status == ScsiStatus.GOOD


def test_inquiry_passes_a_unit_attention_by(disk: ScsiDisk, tester: Initiator) -> None:
    disk.attend(AdditionalSense.DEVICE_RESET_OCCURRED)
    assert tester.run(Inquiry(opcode=Opcode.INQUIRY, allocation_length=36), length=36).status == ScsiStatus.GOOD
    assert tester.run(TestUnitReady(opcode=0)).status == ScsiStatus.CHECK_CONDITION


def test_synchronize_cache_checks_its_range(tester: Initiator) -> None:
    assert tester.run(Cache10(opcode=Opcode.SYNCHRONIZE_CACHE_10)).status == ScsiStatus.GOOD
    outcome = tester.run(Cache10(opcode=Opcode.SYNCHRONIZE_CACHE_10, lba=2000, length=100))
    assert outcome.sense == (ILLEGAL, AdditionalSense.LBA_OUT_OF_RANGE)


def supported(options: int, opcode: int = 0, action: int = 0, timeouts: int = 0) -> MaintenanceIn:
    return MaintenanceIn(
        opcode=Opcode.MAINTENANCE_IN,
        service_action=MaintenanceAction.REPORT_SUPPORTED_OPERATION_CODES,
        timeouts=timeouts,
        reporting_options=options,
        requested_opcode=Opcode(opcode),
        requested_service_action=action,
        allocation_length=4096,
    )


@pytest.mark.parametrize("timeouts", [0, 1])
def test_supported_commands_are_listed_once_for_each_service_action(
    disk: ScsiDisk, tester: Initiator, timeouts: int
) -> None:
    data = tester.run(supported(0, timeouts=timeouts), length=4096).data
    listed = SupportedCommands.parse(data)
    assert listed.length == len(data) - 4
    assert {command.opcode for command in listed.commands} == set(disk.commands)
    actions = [one.service_action for one in listed.commands if one.opcode == Opcode.SERVICE_ACTION_IN_16]
    assert actions == [ServiceActionIn.READ_CAPACITY_16, ServiceActionIn.GET_LBA_STATUS]
    assert {len(command.timeouts) for command in listed.commands} == {timeouts}


def test_a_command_can_be_asked_for_with_the_bits_that_matter(tester: Initiator) -> None:
    one = tester.run(supported(1, Opcode.WRITE_SAME_16, timeouts=1), length=4096).parse(OneSupportedCommand)
    assert one.support == 3 and bytes(one.usage).hex(" ") == "93 ff ff ff ff ff ff ff ff ff ff ff ff ff 1f 00"
    assert len(one.timeouts) == 1
    capacity = Opcode.SERVICE_ACTION_IN_16, ServiceActionIn.READ_CAPACITY_16
    one = tester.run(supported(2, *capacity), length=4096).parse(OneSupportedCommand)
    assert one.support == 3 and one.usage[:2] == capacity
    for unknown in supported(1, 0xD1), supported(3, Opcode.SERVICE_ACTION_IN_16, 0x1F), supported(2, 0xD1, 1):
        assert tester.run(unknown, length=4096).parse(OneSupportedCommand).support == 1


@pytest.mark.parametrize("ask", [supported(1, Opcode.MAINTENANCE_IN), supported(2, Opcode.READ_10), supported(4)])
def test_service_actions_are_asked_for_where_there_are_some(tester: Initiator, ask: MaintenanceIn) -> None:
    assert tester.run(ask, length=4096).sense == (ILLEGAL, AdditionalSense.INVALID_FIELD_IN_CDB)


def test_a_pre_fetch_promises_nothing(tester: Initiator) -> None:
    assert tester.run(Cache10(opcode=Opcode.PRE_FETCH_10, lba=5, length=9)).status == ScsiStatus.GOOD
    outcome = tester.run(Cache10(opcode=Opcode.PRE_FETCH_10, lba=2048, length=1))
    assert outcome.sense == (ILLEGAL, AdditionalSense.LBA_OUT_OF_RANGE)


def test_block_limits_and_provisioning_follow_the_backend(tester: Initiator) -> None:
    def page(code: VpdPage) -> Inquiry:
        return Inquiry(opcode=Opcode.INQUIRY, vpd=1, page=code, allocation_length=64)

    limits = tester.run(page(VpdPage.BLOCK_LIMITS), length=64).parse(BlockLimits)
    assert (limits.max_transfer, limits.max_unmap_descriptors, limits.unmap_granularity) == (2048, 256, 8)
    provisioning = tester.run(page(VpdPage.LOGICAL_BLOCK_PROVISIONING), length=64).parse(LogicalBlockProvisioning)
    assert (provisioning.unmap, provisioning.write_same_16, provisioning.read_zeros) == (1, 1, 1)
