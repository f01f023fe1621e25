"""A storage controller and the guest's driver over a real pair of rings."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from vmbus.devices.storage.controller import StorageController, UnitAddress
from vmbus.devices.storage.disk import ScsiDisk
from vmbus.devices.storage.dvd import ScsiDvd
from vmbus.devices.storage.identity import Identity
from vmbus.devices.storage.memory import MemoryBackend
from vmbus.drivers.errors import DriverError
from vmbus.drivers.storage import Address, GuestBuffer, ScsiError
from vmbus.gpadl import GpaRange
from vmbus.memory import PAGE_SIZE
from vmbus.ring.packet import COMPLETION, IN_BAND
from vmbus.testing.storage import StorageBench
from vmbus.wire.scsi.block import Transfer10
from vmbus.wire.scsi.inquiry import PeripheralQualifier
from vmbus.wire.scsi.opcodes import Opcode
from vmbus.wire.scsi.primary import PreventAllow, TestUnitReady
from vmbus.wire.scsi.sense import AdditionalSense, SenseKey
from vmbus.wire.vstor import (
    DataDirection,
    NoBody,
    ScsiRequest,
    SrbStatus,
    VstorHeader,
    VstorOperation,
    VstorRequest,
    VstorStatus,
    VstorVersion,
)  # fmt: skip

PREVENT = PreventAllow(opcode=Opcode.PREVENT_ALLOW, prevent=1)


@pytest.fixture
def unit() -> ScsiDisk:
    return ScsiDisk(MemoryBackend(4 << 20), Identity.of("bench"))


@pytest.fixture
def raw_bench(unit: ScsiDisk) -> Iterator[StorageBench]:
    controller = StorageController()
    controller.add(UnitAddress(0, 0, 0), unit)
    with StorageBench(controller) as bench:
        yield bench


@pytest.fixture
def bench(raw_bench: StorageBench) -> StorageBench:
    raw_bench.wait(raw_bench.link.negotiate())
    return raw_bench


@pytest.mark.parametrize("version", list(VstorVersion))
def test_every_version_can_be_negotiated_and_used(raw_bench: StorageBench, version: VstorVersion) -> None:
    properties = raw_bench.wait(raw_bench.link.negotiate([version]))
    assert properties.max_transfer == 1 << 20
    assert (properties.max_subchannels > 0) == (version >= VstorVersion.WIN8)
    disk = raw_bench.disk().open()
    disk.write(1, b"v" * 512)
    assert disk.read(1, 1) == b"v" * 512


def test_an_unknown_version_is_refused_and_the_next_one_taken(raw_bench: StorageBench) -> None:
    raw_bench.wait(raw_bench.link.negotiate([VstorVersion(0x0900), VstorVersion.WIN8]))
    assert raw_bench.controller.inspect()["version"] == "5.1"


def test_operations_out_of_order_change_nothing(raw_bench: StorageBench) -> None:
    for operation in (VstorOperation.QUERY_PROPERTIES, VstorOperation.END_INITIALIZATION, VstorOperation.EXECUTE_SRB):
        assert raw_bench.wait(raw_bench.link.operate(operation))[0] == VstorStatus.INVALID_DEVICE_STATE
    raw_bench.wait(raw_bench.link.negotiate())


@pytest.mark.parametrize("operation", [1, 2, 11, 12, 14, 0, 15, 0xFFFFFFFF])
def test_operations_that_are_the_hosts_own_or_none_are_refused(bench: StorageBench, operation: int) -> None:
    status, answer = bench.wait(bench.link.operate(VstorOperation(operation)))
    assert status == VstorStatus.INVALID_DEVICE_REQUEST
    assert len(answer) == 64


def test_subchannels_are_offered_up_to_the_maximum(bench: StorageBench) -> None:
    assert bench.wait(bench.link.create_subchannels(4))[0] == VstorStatus.SUCCESS
    assert bench.subchannels == 4
    assert bench.wait(bench.link.create_subchannels(17))[0] == VstorStatus.INVALID_PARAMETER


def test_a_large_write_on_scattered_pages_comes_back(bench: StorageBench) -> None:
    disk = bench.disk().open()
    data = bytes(i * 7 & 0xFF for i in range(3 << 20))
    disk.write(16, data)
    assert disk.read(16, len(data) // 512) == data


def test_reads_fill_an_unaligned_buffer_and_not_one_byte_more(bench: StorageBench) -> None:
    disk = bench.disk().open()
    disk.write(0, b"x" * 1024)
    buffer = GuestBuffer(bench.pair.pages, 1024, offset=3333, scattered=True)
    around = [bench.pair.memory.view(pfn * PAGE_SIZE, PAGE_SIZE) for pfn in buffer.range.pfns]
    for page in around:
        page[:] = b"." * PAGE_SIZE
    command = Transfer10(opcode=Opcode.READ_10, lba=0, length=2)
    assert bench.wait(bench.link.execute(Address(), command, buffer, DataDirection.IN)).is_good
    assert b"".join(around) == b"." * 3333 + b"x" * 1024 + b"." * (8192 - 3333 - 1024)


def test_a_buffer_in_many_ranges_is_one_buffer(bench: StorageBench) -> None:
    disk = bench.disk().open()
    disk.write(0, bytes(range(256)) * 4)
    first, second = (GuestBuffer(bench.pair.pages, size, offset=8) for size in (300, 724))
    srb = ScsiRequest(
        direction=DataDirection.IN, data_length=1024, cdb=Transfer10(opcode=Opcode.READ_10, lba=0, length=2).build()
    )
    payload = VstorHeader(operation=VstorOperation.EXECUTE_SRB).build() + srb.build()
    bench.pair.guest.send_gpa_direct([first.range, second.range], payload, transaction_id=77)
    bench.pair.pump()
    assert first.read() + second.read() == bytes(range(256)) * 4


def test_a_transfer_above_the_advertised_maximum_is_refused_with_sense(bench: StorageBench) -> None:
    buffer = GuestBuffer(bench.pair.pages, (1 << 20) + 512)
    command = Transfer10(opcode=Opcode.READ_10, lba=0, length=2049)
    completion = bench.wait(bench.link.execute(Address(), command, buffer, DataDirection.IN))
    assert completion.srb_status == SrbStatus.INVALID_REQUEST
    assert completion.sense_data.additional == AdditionalSense.INVALID_FIELD_IN_CDB


def test_pages_outside_memory_fail_the_request_and_not_the_channel(bench: StorageBench) -> None:
    disk = bench.disk().open()
    buffer = GuestBuffer(bench.pair.pages, 512)
    good, buffer.range = buffer.range, GpaRange(512, 0, (1 << 40,))
    completion = bench.wait(
        bench.link.execute(Address(), Transfer10(opcode=Opcode.READ_10, lba=0, length=1), buffer, DataDirection.IN)
    )
    assert completion.srb_status == SrbStatus.INVALID_REQUEST
    assert disk.read(0, 1) == bytes(512)
    assert good and not bench.pair.failures


def test_an_absent_unit_is_told_in_inquiry_data_and_by_invalid_lun(bench: StorageBench) -> None:
    absent = bench.disk(3)
    assert absent.inquiry().qualifier == PeripheralQualifier.NOT_CAPABLE
    with pytest.raises(ScsiError) as caught:
        absent.run(TestUnitReady(opcode=0))
    assert caught.value.completion.srb_status == SrbStatus.INVALID_LUN


def test_an_absent_unit_on_another_path_never_gives_invalid_lun(bench: StorageBench) -> None:
    with pytest.raises(ScsiError) as caught:
        bench.disk(0, path=2).run(TestUnitReady(opcode=0))
    assert caught.value.completion.srb_status != SrbStatus.INVALID_LUN
    assert caught.value.completion.sense_data.additional == AdditionalSense.LOGICAL_UNIT_NOT_SUPPORTED


def test_report_luns_lists_the_units_of_one_target(bench: StorageBench) -> None:
    for lun in (5, 2):
        bench.controller.add(UnitAddress(0, 0, lun), ScsiDisk(MemoryBackend(1 << 20), Identity.of(str(lun))))
    assert bench.disk().luns() == [0, 2, 5]
    assert bench.disk(0, target=1).luns() == []


def test_added_removed_and_resized_units_make_the_guest_look_again(bench: StorageBench, unit: ScsiDisk) -> None:
    looked: list[int] = []
    bench.link.on_rescan = lambda: looked.append(1)
    bench.controller.add(UnitAddress(0, 0, 1), ScsiDisk(MemoryBackend(1 << 20), Identity.of("more")))
    bench.controller.remove(UnitAddress(0, 0, 1)).close()
    assert isinstance(unit.backend, MemoryBackend)
    unit.backend.resize(8 << 20)
    bench.pair.loop.run(until=lambda: len(looked) == 3, timeout=60)
    assert len(looked) == 3
    disk = bench.disk()
    with pytest.raises(ScsiError, match="CAPACITY_DATA_CHANGED"):
        disk.run(TestUnitReady(opcode=0))
    assert disk.open().blocks == 16384


@pytest.mark.parametrize(
    "operation", [VstorOperation.RESET_LUN, VstorOperation.RESET_BUS, VstorOperation.RESET_ADAPTER]
)
def test_a_reset_is_answered_and_then_a_unit_attention(bench: StorageBench, operation: VstorOperation) -> None:
    assert bench.wait(bench.link.reset(operation))[0] == VstorStatus.SUCCESS
    with pytest.raises(ScsiError) as caught:
        bench.disk().run(TestUnitReady(opcode=0))
    assert caught.value.completion.sense_data.key == SenseKey.UNIT_ATTENTION
    assert bench.disk().open().blocks == 8192


def test_an_ide_disk_is_found_whatever_path_the_guest_says(unit: ScsiDisk) -> None:
    controller = StorageController.ide(1, 0, unit)
    assert str(controller.instance_id) == "00000001-0000-8899-0000-000000000000"
    with StorageBench(controller) as bench:
        assert bench.wait(bench.link.negotiate()).max_subchannels == 0
        for path in (0, 1):
            assert bench.disk(0, path=path).open().blocks == 8192


def test_packets_that_cannot_be_answered_are_counted_and_noted_once(bench: StorageBench) -> None:
    request = VstorRequest(operation=VstorOperation.QUERY_PROPERTIES, body=NoBody()).build()
    for _ in range(3):
        bench.pair.guest.send(IN_BAND, request)
        bench.pair.guest.send(COMPLETION, request)
    bench.pair.pump()
    assert bench.controller.inspect()["channels"]["0"]["refused"] == {"packet that cannot be answered": 6}
    assert len(bench.notes) == 1
    assert bench.disk().open().blocks == 8192


def test_transaction_ids_used_twice_are_answered_twice(bench: StorageBench) -> None:
    answers: list[int] = []
    bench.link.completed = lambda packet: answers.append(packet.transaction_id)  # type: ignore[method-assign]
    request = VstorRequest(operation=VstorOperation.RESET_LUN, body=NoBody()).build()
    for _ in range(5):
        bench.pair.guest.send_in_band(request, transaction_id=9, completion_requested=True)
    bench.pair.pump()
    assert answers == [9] * 5


def test_a_closed_channel_fails_what_is_under_way_and_starts_anew(bench: StorageBench) -> None:
    promise = bench.link.execute(Address(), TestUnitReady(opcode=0), None, DataDirection.NONE)
    bench.pair.guest.close()
    with pytest.raises(DriverError, match="closed"):
        promise.result()
    bench.pair.host.close()
    assert bench.controller.inspect()["stage"] == "begin"


def test_state_is_saved_and_taken_up_by_another_controller(bench: StorageBench, unit: ScsiDisk) -> None:
    unit.attend(AdditionalSense.CAPACITY_DATA_CHANGED)
    state = bench.controller.save()
    other = StorageController()
    other.add(UnitAddress(0, 0, 0), ScsiDisk(MemoryBackend(4 << 20), Identity.of("bench")))
    other.restore(state)
    with StorageBench(other) as again:
        again.link.version = VstorVersion.WIN10
        with pytest.raises(ScsiError, match="CAPACITY_DATA_CHANGED"):
            again.disk().run(TestUnitReady(opcode=0))
        assert again.disk().open().blocks == 8192


def test_a_guest_that_is_gone_has_no_tray_locked(bench: StorageBench) -> None:
    drive = ScsiDvd(MemoryBackend(1 << 20), Identity.of("drive"))
    bench.controller.add(UnitAddress(0, 0, 1), drive)
    bench.wait(bench.link.execute(Address(lun=1), PREVENT, None, DataDirection.NONE))
    assert drive.locked_by
    bench.pair.host.close()
    assert not drive.locked_by
